"""Options of Freezer 19 that this agent does not have yet.

A job that sets one of them is refused with its name; a job that only carries its
default (dashboards write whole forms) runs. An option that the agent or a plugin
declares takes the place of the one of its name here.
"""

import argparse

from oslo_config import cfg

_WITHOUT_DEFAULT = (
    *('mysql-conf', 'sql-server-conf', 'project-id', 'os-trust-id', 'backup-id'),
    'vssadmin',
    *('glance-image-id', 'glance-image-name', 'glance-image-name-filter'),
)
_DEFAULTS: dict[str, str | None] = {
    **dict.fromkeys(_WITHOUT_DEFAULT),
    'rsync-block-size': '4096',
    'timeout': '120',
    'os-identity-api-version': '3',
    'temp-resource-prefix': 'freezer_',
}
#: keys of the dashboard, and of older versions of Freezer -> the key of today
RENAMED = {
    'restore_from_host': 'hostname',
    'src_file': 'path_to_backup',
    'encryption_password': 'encrypt_pass_file',
    'nova_network_id': 'nova_restore_network',
    'cinderbrick_vol_id': 'cinder_vol_id',
    'os_auth_ver': 'os_identity_api_version',
}
#: keys that, if they are true, switch a flag off
INVERTED = {'no_incremental': 'incremental'}
#: an engine for volumes; here they are backed up by engine cinder
OSBRICK = 'osbrick'
#: ``--snapshot``: the plugin that fits the path; and none
AUTO = 'auto'
NONE = 'none'
_WINDOWS = 'needs Windows, and this agent runs on Linux only'
#: (option, value) of Freezer 19 that this agent will not have -> why
REFUSED = {('mode', 'sqlserver'): _WINDOWS, ('snapshot', 'vss'): _WINDOWS}
#: the same for options
_NEVER = {'vssadmin': _WINDOWS, 'sql-server-conf': _WINDOWS}
# A job file writes these for "not set", on any option that is not a flag.
UNSET = ('', 'None', 'False', 'false')

OPTIONS = tuple(
    cfg.StrOpt(
        name,
        help=argparse.SUPPRESS,  # nothing to use yet
    )
    for name in _DEFAULTS
)


def absence(name: str) -> str:
    """A message: an option is set, and this agent does not have it."""
    reason = f', which {_NEVER[name]}' if name in _NEVER else ' yet'
    return (
        f'--{name} is set, and this agent does not have this option of Freezer 19'
        f'{reason}'
    )


def is_unset(flag: bool, value: str) -> bool:
    """Whether a job file does not set an option with this value.

    False and None on an option that is not a flag once became the number 0, or the text
    'False' (and a backup of nothing, or the deletion of everything).
    """
    return value in ('', 'None') if flag else value in UNSET


def is_set(option: cfg.Opt, value: str | None) -> bool:
    """Whether a value differs from the option's default in Freezer 19."""
    text = str(value).strip() if value is not None else ''
    default = _DEFAULTS[option.name]
    return text not in UNSET and (default is None or text != default)
