"""The options of a file server, and checks of them. Pure: ``--help`` imports this."""

import posixpath
import re
from typing import Protocol

from oslo_config import cfg

from freezer.storage.exceptions import StorageConfigError

# A host name, an IPv4 or an IPv6 address.
_HOST = re.compile(r'[A-Za-z0-9_]([A-Za-z0-9._:%-]*[A-Za-z0-9_.:])?\Z|::1?\Z')
_MAX_LABEL = 63

RETRY_BUDGET = cfg.FloatOpt(
    'retry-budget',
    metavar='SECONDS',
    default=900.0,
    min=0.0,
    help='Total seconds for one operation including reconnections and retries. '
    'Until the server has answered for the first time, at most 20 seconds.',
)


class ServerOptions(Protocol):
    @property
    def server(self) -> object:
        """As text: user, host and port, for people."""

    @property
    def retry_budget(self) -> float:
        """Seconds."""


def is_host(text: str) -> bool:
    labels = text.removesuffix('.').split('.')
    return bool(_HOST.match(text)) and all(
        0 < len(label) <= _MAX_LABEL for label in labels
    )


def login_name(user: str, host: str, port: int, default_port: int) -> str:
    host = f'[{host}]' if ':' in host else host
    return f'{user}@{host}' + (f':{port}' if port != default_port else '')


def check_host(option: str, text: str) -> None:
    """:raises StorageConfigError: it is a URL, or has a user or a port"""
    if not is_host(text):
        # Without a password that a URL has.
        raise StorageConfigError(
            f'{option} {text.rpartition("@")[2]!r}: not the name or address of a host; '
            f'user, port and path have options of their own'
        )


def check_file(option: str, path: str | None) -> None:
    """:raises StorageConfigError: it cannot be read"""
    if path is None:
        return
    try:
        with open(path, 'rb'):
            pass
    except OSError as error:
        raise StorageConfigError(f'{option} {path}: {error.strerror}') from error


def directory(container: str) -> str:
    """The container as the server has it: absolute, or relative to the directory in
    which a login begins, which ``~`` is too.

    :raises StorageConfigError: it names the home of another user
    """
    if container in ('~', '~/'):
        return '.'
    if container.startswith('~/'):
        container = container[2:].lstrip('/')
    elif container.startswith('~'):
        raise StorageConfigError(
            f"container {container}: another user's home is not looked up on the "
            f'server: write its path'
        )
    path = posixpath.normpath(container)
    # It keeps two slashes at the beginning.
    return '/' + path.lstrip('/') if path.startswith('/') else path
