"""The server that a restore creates, checked before anything is created."""

import ipaddress
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from freezer.engine.openstack.networks import Networks
from freezer.engine.openstack.server_options import (
    ADDRESSES,
    GROUP,
    KEYPAIR,
    SECURITY_GROUPS,
    ZONE,
    left_out,
    network_map,
)
from freezer.engine.openstack.server_record import Record, ServerState
from freezer.engine.openstack.servers import Servers
from freezer.exceptions import RestoreError
from freezer.utils.text import NOTICES

LOG = logging.getLogger(__name__)

_USER_DATA: Final = 'OS-EXT-SRV-ATTR:user_data'
_ZONE: Final = 'OS-EXT-AZ:availability_zone'
# Of a flavor in the record of a server -> in a list of flavors.
_FLAVOR: Final = {
    'vcpus': 'vcpus',
    'ram': 'ram',
    'disk': 'disk',
    'ephemeral': 'OS-FLV-EXT-DATA:ephemeral',
    'swap': 'swap',
    'extra_specs': 'extra_specs',
}
_PORT: Final = ('name', 'admin_state_up', 'allowed_address_pairs', 'binding:vnic_type')


@dataclass(frozen=True)
class ServerPlan:
    """
    :ivar fields: of the server, without its disks and ports
    :ivar hints: for its scheduler
    :ivar ports: the fields of each
    :ivar descriptions: of the ports, in the same order
    """

    fields: Record
    hints: Record
    ports: Sequence[Record]
    descriptions: Sequence[str]


def plan(
    state: ServerState,
    servers: Servers,
    networks: Networks,
    options: Mapping[str, Any],
) -> ServerPlan:
    """:raises RestoreError: the cloud lacks something; the error lists all of it"""
    planner = _Planner(state, servers, networks, options)
    made = planner.plan()
    if planner.problems:
        raise RestoreError(
            f'the server cannot be restored here: {"; ".join(planner.problems)}'
        )
    return made


class _Planner:
    def __init__(
        self,
        state: ServerState,
        servers: Servers,
        networks: Networks,
        options: Mapping[str, Any],
    ) -> None:
        self._server, self._ports = state.server, state.ports
        self._servers, self._networks = servers, networks
        self._options = options
        self._left_out = left_out(options['nova_leave_out'])
        self._maps = network_map(options['nova_restore_network'])
        self.problems: list[str] = []

    def plan(self) -> ServerPlan:
        server = self._server
        fields: dict[str, Any] = {
            'name': self._options['nova_restore_name'] or server['name'],
            'flavorRef': self._flavor(),
            'config_drive': bool(server.get('config_drive')),
        }
        for key in ('description', 'tags'):
            if server.get(key):
                fields[key] = server[key]
        if _USER_DATA not in server:
            NOTICES.warning(
                'the user data was not readable when the server was backed up: the '
                'new server gets none'
            )
        elif server[_USER_DATA]:
            fields['user_data'] = server[_USER_DATA]
        fields |= self._key() | self._zone()
        return ServerPlan(
            fields,
            self._hints(),
            [self._port(each) for each in self._ports],
            [str(each.get('description') or '') for each in self._ports],
        )

    def _flavor(self) -> str:
        flavors = list(self._servers.flavors())
        if wanted := self._options['nova_restore_flavor']:
            found = [each for each in flavors if wanted in (each['id'], each['name'])]
            if not found:
                self.problems.append(f'no flavor {wanted}')
        else:
            # Its name may be that of another flavor here, or today.
            name = self._server['flavor'].get('original_name')
            found = [each for each in flavors if self._is_same(each)]
            found.sort(key=lambda each: (each['name'] != name, each['name']))
            if not found:
                self.problems.append(
                    f'no flavor has {self._described()} (was {name}): pass '
                    f'--nova-restore-flavor'
                )
        return str(found[0]['id']) if found else ''

    def _is_same(self, flavor: Record) -> bool:
        recorded = self._server['flavor']
        return all(
            (flavor.get(key) or 0) == (recorded[own] or 0)
            for own, key in _FLAVOR.items()
            if own in recorded and key in flavor
        )

    def _described(self) -> str:
        recorded = self._server['flavor']
        return ', '.join(f'{key} {recorded[key]}' for key in _FLAVOR if key in recorded)

    def _key(self) -> dict[str, str]:
        name = self._server.get('key_name')
        if not name or KEYPAIR in self._left_out:
            return {}
        if not self._servers.has_keypair(name):
            self._miss(f'no key pair {name} of this user', KEYPAIR)
        return {'key_name': name}

    def _zone(self) -> dict[str, str]:
        name = self._options['nova_restore_az'] or self._server.get(_ZONE)
        if not name or ZONE in self._left_out:
            return {}
        if name not in self._servers.zones():
            self._miss(
                f'no availability zone {name}: pass --nova-restore-az, or', ZONE, ''
            )
        return {'availability_zone': name}

    def _hints(self) -> dict[str, str]:
        groups = self._server.get('server_groups') or ()
        if not groups or GROUP in self._left_out:
            return {}
        if not self._servers.has_group(groups[0]):
            self._miss(f'no server group {groups[0]}', GROUP)
        return {'group': groups[0]}

    def _miss(self, what: str, name: str, joint: str = ':') -> None:
        self.problems.append(f'{what}{joint} pass --nova-leave-out {name}')

    # Ports

    def _port(self, port: Record) -> dict[str, Any]:
        network = self._network(port)
        if network is None:
            return {}
        fields = {key: port[key] for key in _PORT if port.get(key) not in (None, '')}
        fields['network_id'] = network['id']
        if ADDRESSES not in self._left_out:
            fields['mac_address'] = port['mac_address']
            self._check_free(network, f'MAC address {port["mac_address"]}', port)
            fields['fixed_ips'] = list(self._addresses(port, network))
        if port.get('port_security_enabled') is False:
            fields['port_security_enabled'] = False
        elif SECURITY_GROUPS not in self._left_out:
            fields['security_groups'] = list(self._security_groups(port))
        return fields

    def _network(self, port: Record) -> Record | None:
        recorded, name = str(port['network_id']), str(port.get('network_name') or '')
        mapped = self._maps.get(recorded, self._maps.get(name, self._maps.get('')))
        found = self._networks.get('networks', mapped or recorded)
        if found is not None:
            return found
        wanted = mapped or name
        named = self._networks.find('networks', name=wanted) if wanted else []
        if len(named) == 1:
            return named[0]
        several = 'several networks have the name' if named else 'no network'
        self.problems.append(
            f'{several} {wanted or recorded}: pass --nova-restore-network'
        )
        return None

    def _addresses(self, port: Record, network: Record) -> Iterator[dict[str, str]]:
        subnets = self._networks.find('subnets', network_id=network['id'])
        for fixed in port['fixed_ips']:
            address = str(fixed['ip_address'])
            inside = [
                each
                for each in subnets
                if ipaddress.ip_address(address) in ipaddress.ip_network(each['cidr'])
            ]
            if not inside:
                self._miss(
                    f'network {network["name"]} has no subnet with {address}', ADDRESSES
                )
                continue
            self._check_free(network, address, fixed)
            yield {'subnet_id': inside[0]['id'], 'ip_address': address}

    def _check_free(self, network: Record, what: str, owner: Record) -> None:
        """:param owner: a port, or its fixed address"""
        query = {'network_id': network['id']}
        if 'mac_address' in owner:
            query['mac_address'] = owner['mac_address']
        else:
            query['fixed_ips'] = f'ip_address={owner["ip_address"]}'
        if found := self._networks.find('ports', **query):
            port = f'port {found[0]["id"]} of network {network["name"]}'
            if found[0].get('device_id'):
                self._miss(f'{what} belongs to {port}', ADDRESSES)
            else:
                idle = f'{what} belongs to {port}, which no server uses: delete it, or'
                self._miss(idle, ADDRESSES, '')

    def _security_groups(self, port: Record) -> Iterator[str]:
        project = self._servers.project
        names = port.get('security_group_names') or {}
        for group in port.get('security_groups') or ():
            found = self._networks.get('security-groups', group)
            if found is not None and found['project_id'] == project:
                yield group
                continue
            name = names.get(group, group)
            named = self._networks.find(
                'security-groups', name=name, project_id=project
            )
            if len(named) == 1:
                yield str(named[0]['id'])
                continue
            count = f'{len(named)} security groups' if named else 'no security group'
            self._miss(f'{count} {name}', SECURITY_GROUPS)
