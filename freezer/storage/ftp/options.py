"""The options of storages ftp and ftps, and checks of them. Pure: ``--help`` imports
this."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Hashable, Mapping
from typing import Any, Self

from oslo_config import cfg

from freezer.storage.exceptions import StorageConfigError
from freezer.storage.remote_options import (
    RETRY_BUDGET,
    check_file,
    check_host,
    directory,
    login_name,
)
from freezer.utils.plugin_options import PluginOptions

DEFAULT_PORT = 21
ANONYMOUS = 'anonymous'
_ANONYMOUS_PASSWORD = 'freezer@'  # noqa: S105 - what servers expect of nobody
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
    RETRY_BUDGET,
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
        return login_name(self.user, self.host, self.port, DEFAULT_PORT)

    @classmethod
    def parse(cls, given: Mapping[str, Any], secure: bool, insecure: bool) -> Self:
        """:raises StorageConfigError: an option is malformed, or names no file"""
        check_host('ftp-host', given['ftp_host'])
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
        check_file('ftp-certfile', certfile)
        check_file('ftp-keyfile', keyfile)
        check_file('ftp-ca-bundle', bundle)
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
