"""The options of storages ftp and ftps, and checks of them. Pure: ``--help`` imports
this."""

import contextlib
import dataclasses
import os
import posixpath
import re
from collections.abc import Hashable, Mapping
from typing import Any, Self

from oslo_config import cfg

from freezer.storage.exceptions import StorageConfigError
from freezer.utils.plugin_options import PluginOptions

DEFAULT_PORT = 21
ANONYMOUS = 'anonymous'
_ANONYMOUS_PASSWORD = 'freezer@'  # noqa: S105 - what servers expect of nobody
# A host name, an IPv4 or an IPv6 address.
_HOST = re.compile(r'[A-Za-z0-9_]([A-Za-z0-9._:%-]*[A-Za-z0-9_.:])?\Z|::1?\Z')
#: what cannot be sent in a command
UNSENDABLE = re.compile('[\r\n\0]')
_MAX_PASSWORD_FILE = 4096

#: the options of Freezer 19
MAIN_OPTS = (
    cfg.StrOpt(
        'ftp-host',
        metavar='HOST',
        default='',
        help='Name or address of the FTP server. With storage ftps its certificate '
        'must be for this name.',
    ),
    cfg.PortOpt(
        'ftp-port', metavar='PORT', default=DEFAULT_PORT, min=1, help='Its port.'
    ),
    cfg.StrOpt(
        'ftp-username',
        metavar='USER',
        default='',
        help='User on the FTP server; anonymous if the server has no users.',
    ),
    cfg.StrOpt(
        'ftp-password',
        default='',
        secret=True,
        help='Password of the user. Also from FTP_PASSWORD in the environment, where, '
        'unlike on the command line, other users of the machine cannot see it.',
    ),
    cfg.StrOpt(
        'ftp-keyfile',
        metavar='FILE',
        default='',
        help='Private key of the client certificate, without a passphrase, for storage '
        'ftps. Default: it is in the file of --ftp-certfile.',
    ),
    cfg.StrOpt(
        'ftp-certfile',
        metavar='FILE',
        default='',
        help='Client certificate in PEM format, for a server of storage ftps that asks '
        'for one.',
    ),
)

#: in group ftp
FTP_OPTS = (
    cfg.StrOpt(
        'password-file',
        metavar='FILE',
        help='File whose first line is the password, in place of --ftp-password.',
    ),
    cfg.StrOpt(
        'ca-bundle',
        metavar='FILE',
        help='Certificates (PEM) of the authorities that storage ftps trusts. Default: '
        'those of this machine.',
    ),
    cfg.IntOpt(
        'connections',
        metavar='N',
        default=4,
        min=1,
        max=64,
        help='Connections for listing and deleting at the same time. If the server '
        'accepts fewer, fewer are used.',
    ),
    cfg.FloatOpt(
        'connect-timeout',
        metavar='SECONDS',
        default=10.0,
        min=0.1,
        help='Seconds to wait for a connection, and for each answer of the login.',
    ),
    cfg.FloatOpt(
        'timeout',
        metavar='SECONDS',
        default=60.0,
        min=0.1,
        help='Seconds without an answer, or without progress of a transfer, after '
        'which a connection is considered broken.',
    ),
    cfg.FloatOpt(
        'retry-budget',
        metavar='SECONDS',
        default=900.0,
        min=0.0,
        help='Total seconds for one operation including reconnections and retries. '
        'Until the server has answered for the first time, at most 20 seconds.',
    ),
)


@dataclasses.dataclass(frozen=True)
class FtpOptions:
    """The options, checked. Times in seconds.

    :ivar secure: TLS, for commands and data
    :ivar insecure: no certificate is verified
    """

    host: str
    port: int
    user: str
    password: str = dataclasses.field(repr=False)
    secure: bool
    insecure: bool = False
    keyfile: str | None = None
    certfile: str | None = None
    ca_bundle: str | None = None
    connections: int = 4
    connect_timeout: float = 10.0
    timeout: float = 60.0
    retry_budget: float = 900.0

    @property
    def server(self) -> str:
        """User, host and port, for people."""
        host = f'[{self.host}]' if ':' in self.host else self.host
        port = f':{self.port}' if self.port != DEFAULT_PORT else ''
        return f'{self.user}@{host}{port}'

    @classmethod
    def parse(cls, given: Mapping[str, Any], secure: bool, insecure: bool) -> Self:
        """:raises StorageConfigError: an option is malformed, or names no file"""
        if not _is_host(given['ftp_host']):
            # Without a password that a URL has.
            shown = given['ftp_host'].rpartition('@')[2]
            raise StorageConfigError(
                f'ftp-host {shown!r}: not the name or address of a host; '
                f'user, port and path have options of their own'
            )
        certfile, keyfile, bundle = (
            os.path.expanduser(given[key]) if given[key] else None
            for key in ('ftp_certfile', 'ftp_keyfile', 'ftp_ca_bundle')
        )
        if not secure and (certfile or keyfile or bundle):
            raise StorageConfigError(
                'ftp-certfile, ftp-keyfile and ftp-ca-bundle are for TLS, which '
                'storage ftp does not use: set storage ftps'
            )
        if keyfile and not certfile:
            raise StorageConfigError('ftp-keyfile needs ftp-certfile: set both')
        if insecure and bundle:
            raise StorageConfigError(
                'ftp-ca-bundle cannot be combined with insecure: drop one of them'
            )
        _check_file('ftp-certfile', certfile)
        _check_file('ftp-keyfile', keyfile)
        _check_file('ftp-ca-bundle', bundle)
        return cls(
            given['ftp_host'],
            given['ftp_port'],
            given['ftp_username'],
            _password(given),
            secure,
            insecure,
            keyfile,
            certfile,
            bundle,
            given['ftp_connections'],
            given['ftp_connect_timeout'],
            given['ftp_timeout'],
            given['ftp_retry_budget'],
        )


def _is_host(text: str) -> bool:
    labels = text.removesuffix('.').split('.')
    return bool(_HOST.match(text)) and all(0 < len(each) < 64 for each in labels)


def _password(given: Mapping[str, Any]) -> str:
    password: str = given['ftp_password'] or ''
    path = given['ftp_password_file']
    if path and password:
        raise StorageConfigError(
            'ftp-password and ftp-password-file: pass one of them; FTP_PASSWORD in the '
            'environment is the first one as well'
        )
    if path:
        password = _first_line(os.path.expanduser(path))
    if not password and given['ftp_username'] == ANONYMOUS:
        return _ANONYMOUS_PASSWORD
    if not password:
        raise StorageConfigError(
            f'the password of {given["ftp_username"]} is missing: set FTP_PASSWORD in '
            f'the environment, or ftp-password-file'
        )
    if UNSENDABLE.search(password) or UNSENDABLE.search(given['ftp_username']):
        raise StorageConfigError(
            'ftp-username and ftp-password must not have line breaks'
        )
    return password


def _first_line(path: str) -> str:
    try:
        with open(path, encoding='utf-8') as file:
            return file.read(_MAX_PASSWORD_FILE).partition('\n')[0].rstrip('\r')
    except UnicodeDecodeError as error:
        raise StorageConfigError(f'ftp-password-file {path}: not UTF-8') from error
    except OSError as error:
        raise StorageConfigError(
            f'ftp-password-file {path}: {error.strerror}'
        ) from error


def _check_file(option: str, path: str | None) -> None:
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
    if UNSENDABLE.search(container):
        raise StorageConfigError(
            f'container {container!r}: FTP cannot send line breaks: name another one'
        )
    path = posixpath.normpath(container)
    # It keeps two slashes at the beginning.
    return '/' + path.lstrip('/') if path.startswith('/') else path


def _place(container: str, options: Mapping[str, Any]) -> Hashable:
    # The driver refuses malformed values.
    with contextlib.suppress(StorageConfigError):
        container = directory(container)
    host, port = options['ftp_host'].lower(), options['ftp_port']
    return host, port, options['ftp_username'], container


OPTIONS = PluginOptions(
    groups={None: MAIN_OPTS, 'ftp': FTP_OPTS},
    environment={'ftp_password': 'FTP_PASSWORD'},
    secret_files=('ftp_password_file', 'ftp_keyfile'),
    secret_receivers=('ftp_host',),
    place=_place,
)
