"""The options of engine nova, apart from it, so that ``--help`` does not import it."""

from collections.abc import Sequence
from typing import Final

from oslo_config import cfg

from freezer.engine.openstack.options import CINDER, CLOUD, TRANSFER
from freezer.exceptions import ConfigError
from freezer.utils.plugin_options import PluginOptions

#: values of ``--nova-leave-out``
ADDRESSES: Final = 'addresses'
KEYPAIR: Final = 'keypair'
SECURITY_GROUPS: Final = 'security-groups'
GROUP: Final = 'server-group'
ZONE: Final = 'zone'
_CHOICES: Final = (ADDRESSES, KEYPAIR, SECURITY_GROUPS, GROUP, ZONE)

NOVA = PluginOptions(
    groups={
        None: (
            cfg.StrOpt(
                'nova-inst-id',
                metavar='ID',
                help='Back up this server with all its disks, or restore the backup '
                'of it.',
            ),
            cfg.StrOpt(
                'nova-inst-name',
                metavar='NAME',
                help='The same by the name of the server. If several servers have the '
                'name, the agent lists their IDs and exits.',
            ),
            cfg.StrOpt(
                'nova-restore-name',
                metavar='NAME',
                help='Name of the server that a restore creates. Default: the name of '
                'the server that was backed up.',
            ),
            cfg.StrOpt(
                'nova-restore-flavor',
                metavar='NAME',
                help='Its flavor, by name or ID. Default: one with the same '
                'processors, memory, disks and extra specs.',
            ),
            cfg.StrOpt(
                'nova-restore-az',
                metavar='NAME',
                help='Its availability zone. Default: the zone of the server that was '
                'backed up. Volumes are restored into their own zones.',
            ),
            cfg.MultiStrOpt(
                'nova-restore-network',
                metavar='[OLD=]NEW',
                default=[],
                help='The network for ports of network OLD, or for all other ports; '
                'each by name or ID. Can be repeated. Default: the network with the '
                'same ID, or else with the same name.',
            ),
            cfg.MultiStrOpt(
                'nova-leave-out',
                metavar='WHAT',
                default=[],
                help='Restore without this: addresses (fixed and MAC addresses), '
                'keypair, security-groups, server-group or zone. Can be repeated.',
            ),
            TRANSFER,
            *CLOUD,
        ),
        **{group: found for group, found in CINDER.groups.items() if group},
    },
    environment={'os_cloud': 'OS_CLOUD'},
    selectors=('nova_inst_id', 'nova_inst_name'),
    media='nova',
)


def left_out(values: Sequence[str]) -> frozenset[str]:
    """:param values: of ``--nova-leave-out``

    :raises ConfigError: one is not known
    """
    for each in values:
        if each not in _CHOICES:
            raise ConfigError(
                f'nova-leave-out {each}: must be one of {", ".join(_CHOICES)}'
            )
    return frozenset(values)


def network_map(values: Sequence[str]) -> dict[str, str]:
    """Old network -> new one; the key '' is for all others.

    :param values: of ``--nova-restore-network``
    :raises ConfigError: one is malformed, or two are for the same network
    """
    found: dict[str, str] = {}
    for each in values:
        old, _equals, new = each.rpartition('=')
        if not new or (_equals and not old):
            raise ConfigError(f'nova-restore-network {each}: must be OLD=NEW, or NEW')
        if old in found:
            which = f'network {old}' if old else 'all other networks'
            raise ConfigError(f'nova-restore-network: two values for {which}')
        found[old] = new
    return found
