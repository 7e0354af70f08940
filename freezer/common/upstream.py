"""Options of Freezer 19 that this agent does not have yet.

A job that sets one of them is refused with its name; a job that only carries its
default (dashboards write whole forms) runs. An option that the agent or a plugin
declares takes the place of the one of its name here.
"""

import argparse

from oslo_config import cfg

_WITHOUT_DEFAULT = (
    *('lvm-srcvol', 'lvm-snapname', 'lvm-dirmount', 'lvm-volgroup'),
    *('mysql-conf', 'sql-server-conf', 'project-id', 'os-trust-id', 'backup-id'),
    *('ssh-password', 'ssh-username', 'ssh-host'),
    *('ftp-username', 'ftp-password', 'ftp-host', 'ftp-keyfile', 'ftp-certfile'),
    *('cinder-vol-id', 'cinder-vol-name', 'cinderbrick-vol-id'),
    *('cindernative-vol-id', 'cindernative-backup-id', 'cindernative-backup-az'),
    *('nova-inst-id', 'nova-inst-name', 'nova-restore-network'),
    *('glance-image-id', 'glance-image-name', 'glance-image-name-filter'),
)
_DEFAULTS: dict[str, str | None] = {
    **dict.fromkeys(_WITHOUT_DEFAULT),
    'rsync-block-size': '4096',
    'lvm-snap-perm': 'ro',
    'lvm-snapsize': '1G',
    'timeout': '120',
    'ssh-key': '~/.ssh/id_rsa',
    'ssh-port': '22',
    'ftp-port': '21',
    'cindernative-backup-container': '$container',
    'cindernative-freezer-only': 'True',
    'fullbackup-rotation': '1',
    'os-identity-api-version': '3',
    'temp-resource-prefix': 'freezer_',
}
_DEST = {'lvm-snap-perm': 'lvm_snapperm'}
_SECRET = ('ssh-password', 'ftp-password')
#: keys of the dashboard, and of older versions of Freezer -> the key of today
RENAMED = {
    'restore_from_host': 'hostname',
    'src_file': 'path_to_backup',
    'encryption_password': 'encrypt_pass_file',
    'nova_network_id': 'nova_restore_network',
    'os_auth_ver': 'os_identity_api_version',
}
#: keys that, if they are true, switch a flag off
INVERTED = {'no_incremental': 'incremental'}
# A job file writes these for "not set", on any option that is not a flag.
UNSET = ('', 'None', 'False', 'false')

OPTIONS = tuple(
    cfg.StrOpt(
        name,
        dest=_DEST.get(name),
        help=argparse.SUPPRESS,  # nothing to use yet
        secret=name in _SECRET,
    )
    for name in _DEFAULTS
)


def is_unset(flag: bool, value: str) -> bool:
    """Whether a job file does not set an option with this value.

    False and None on an option that is not a flag once became the number 0, or the text
    'False' (and a backup of nothing, or the deletion of everything).
    """
    return value in ('', 'None') if flag else value in UNSET


def is_set(option: cfg.Opt, value: str | None, container: str) -> bool:
    """Whether a value differs from the option's default in Freezer 19.

    :param container: what oslo.config replaces $container with, which is a default
    """
    text = str(value).strip() if value is not None else ''
    default = _DEFAULTS[option.name]
    if default == '$container' and text == container:
        return False
    return text not in UNSET and (default is None or text != default)
