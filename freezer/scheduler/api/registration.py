"""How the scheduler registers as a client of freezer-api."""

import socket
from typing import Any

from freezer.common import plugins
from freezer.scheduler.config import Settings

# The names that freezer-api accepts.
_KNOWN = {
    'actions': ('backup', 'restore', 'info', 'admin', 'exec'),
    'modes': (
        *('fs', 'mongo', 'mysql', 'sqlserver'),
        *('cinder', 'glance', 'cindernative', 'nova'),
    ),
    'storages': ('local', 'swift', 'ssh', 's3', 'ftp', 'ftps'),
    'engines': ('tar', 'rsync', 'rsyncv2', 'nova', 'osbrick', 'glance'),
}
_PLUGINS = {
    'modes': plugins.MODES,
    'storages': plugins.STORAGES,
    'engines': plugins.ENGINES,
}


def client(settings: Settings, project_id: str) -> dict[str, Any]:
    """The client to register, with what its jobs may use."""
    host = socket.gethostname()
    return {
        'client_id': settings.client_id or f'{project_id}_{host}',
        'hostname': host,
        **{f'supported_{what}': _supported(settings, what) for what in _KNOWN},
        **({'is_central': True} if settings.centralized else {}),
    }


def _supported(settings: Settings, what: str) -> tuple[str, ...]:
    """What is installed, as far as the options allow it."""
    known = _KNOWN[what]
    installed = plugins.names(_PLUGINS[what]) if what in _PLUGINS else known
    allowed = settings.supported[what] or installed
    return tuple(
        name
        for name in known
        if name in installed
        and name in allowed
        and not (name == 'exec' and settings.disable_exec)
    )
