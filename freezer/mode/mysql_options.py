"""The options of mode mysql, apart from it, so that ``--help`` does not import it."""

import configparser
import dataclasses
import getpass
import os
import ssl
from collections.abc import Mapping
from typing import Any, Self

from oslo_config import cfg

from freezer.exceptions import ConfigError
from freezer.utils.plugin_options import PluginOptions

DEFAULT_PORT = 3306
# Of Debian and its relatives, of Red Hat and its, and of MySQL itself.
_SOCKETS = (
    '/run/mysqld/mysqld.sock',
    '/var/lib/mysql/mysql.sock',
    '/tmp/mysql.sock',  # noqa: S108 - where the server may have it
)
# Freezer 19's section, and those that clients of MySQL and MariaDB read.
_SECTIONS = ('default', 'client', 'client-server', 'client-mariadb')
_TLS_KEYS = {
    *('ssl', 'skip-ssl', 'disable-ssl', 'ssl-mode', 'ssl-verify-server-cert'),
    *('ssl-ca', 'ssl-capath', 'ssl-cert', 'ssl-key'),
}
_TLS_MODES = ('DISABLED', 'PREFERRED', 'REQUIRED', 'VERIFY_CA', 'VERIFY_IDENTITY')
_FALSE = ('0', 'off', 'false', 'no')

OPTIONS = PluginOptions(
    groups={
        None: (
            cfg.StrOpt(
                'mysql-conf',
                metavar='FILE',
                help='File with the login of the server: host, port, user, password, '
                'socket and the ssl options of a section [client] or [default]. An '
                'option file of the MySQL client is one.',
            ),
        ),
        'mysql': (
            cfg.StrOpt(
                'socket',
                metavar='PATH',
                help='Socket of the server. Default: the one of --mysql-conf, or the '
                'usual place.',
            ),
            cfg.StrOpt(
                'host',
                metavar='HOST',
                help='Name or address of this machine for a connection by TCP.',
            ),
            cfg.PortOpt(
                'port', metavar='PORT', min=1, help='Port of the server. Default: 3306.'
            ),
            cfg.StrOpt(
                'user',
                metavar='USER',
                help='User on the server. Default: the user who runs the agent.',
            ),
            cfg.StrOpt(
                'password',
                default='',
                secret=True,
                help='Password of the user. Also from MYSQL_PWD in the environment, '
                'where, unlike on the command line, other users of the machine cannot '
                'see it.',
            ),
            cfg.BoolOpt(
                'lock-during-backup',
                default=False,
                help='Without --snapshot: block all writes until the backup has been '
                'read.',
            ),
            cfg.IntOpt(
                'lock-timeout',
                metavar='SECONDS',
                default=10,
                min=1,
                help='Seconds to wait for the lock. Writes of the application wait '
                'meanwhile. Then the backup fails.',
            ),
            cfg.IntOpt(
                'rest-timeout',
                metavar='SECONDS',
                default=300,
                min=1,
                help='With --mysql-lock-during-backup: seconds to wait, with the lock, '
                'until InnoDB writes nothing more into its files. Then the backup '
                'fails.',
            ),
            cfg.FloatOpt(
                'connect-timeout',
                metavar='SECONDS',
                default=10.0,
                min=0.1,
                help='Seconds to wait for a connection and the login.',
            ),
        ),
    },
    environment={'mysql_password': 'MYSQL_PWD'},
    secret_files=('mysql_conf',),
)


@dataclasses.dataclass(frozen=True)
class MysqlOptions:
    """The options, checked. Times in seconds.

    :ivar socket: None for TCP
    :ivar tls: a context that requires TLS
    :ivar plain: never to use TLS; else it is used where the server has it
    """

    user: str
    socket: str | None = None
    host: str = '127.0.0.1'
    port: int = DEFAULT_PORT
    password: str = dataclasses.field(default='', repr=False)
    tls: ssl.SSLContext | None = None
    plain: bool = False
    lock_during_backup: bool = False
    lock_timeout: int = 10
    rest_timeout: int = 300
    connect_timeout: float = 10.0

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Self:
        """:raises ConfigError: an option is malformed, or names no file"""
        if given['mysql_socket'] and (given['mysql_host'] or given['mysql_port']):
            raise ConfigError(
                'mysql-socket and mysql-host or mysql-port: pass one of them'
            )
        path = given['mysql_conf']
        filed = _read(os.path.expanduser(path)) if path else {}
        socket = given['mysql_socket'] or _socket(given, filed)
        tls, plain = (None, True) if socket else _tls(path, filed)
        return cls(
            given['mysql_user'] or filed.get('user') or _own_name(),
            socket,
            given['mysql_host'] or filed.get('host') or '127.0.0.1',
            given['mysql_port'] or _port(path, filed),
            given['mysql_password'] or filed.get('password', ''),
            tls,
            plain,
            given['mysql_lock_during_backup'],
            given['mysql_lock_timeout'],
            given['mysql_rest_timeout'],
            given['mysql_connect_timeout'],
        )

    def __str__(self) -> str:
        """The server, for messages."""
        if self.socket:
            return f'the server at {self.socket}'
        host = f'[{self.host}]' if ':' in self.host else self.host
        return f'the server at {host}:{self.port}'


def _own_name() -> str:
    # A container may run as a number that has no name.
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return 'root'


def _socket(given: Mapping[str, Any], filed: Mapping[str, str]) -> str | None:
    """As the client of MySQL does, host localhost means the socket, if there is one."""
    if given['mysql_host'] or given['mysql_port']:
        return None
    if filed.get('host', 'localhost') != 'localhost':
        return None
    if filed.get('socket'):
        return filed['socket']
    # In files of Freezer 19 it means TCP.
    if filed.get('host') or filed.get('port'):
        return None
    return next((path for path in _SOCKETS if os.path.exists(path)), None)


def _port(path: str, filed: Mapping[str, str]) -> int:
    text = filed.get('port', str(DEFAULT_PORT))
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ConfigError(f'mysql-conf {path}: port {text!r} is not a port number')
    return int(text)


def _read(path: str) -> dict[str, str]:
    """The settings of an option file; a later section overrides an earlier one.

    Freezer 19 required a section [default], and its help showed a file without one.

    :raises ConfigError: it cannot be read, or has no such section
    """
    try:
        with open(path, encoding='utf-8') as file:
            text = file.read()
    except OSError as error:
        raise ConfigError(f'mysql-conf {path}: {error.strerror}') from error
    except UnicodeDecodeError as error:
        raise ConfigError(f'mysql-conf {path}: not a text in UTF-8') from error
    parser = configparser.RawConfigParser(
        allow_no_value=True,
        strict=False,
        delimiters=('=',),
        empty_lines_in_values=False,
        default_section='',
    )
    try:
        try:
            parser.read_string(text)
        except configparser.MissingSectionHeaderError:
            parser.read_string(f'[default]\n{text}')
    except configparser.Error as error:
        # Neither the line nor the reason: they may contain the password.
        raise ConfigError(f'mysql-conf {path}: not a file of KEY = VALUE') from error
    found: dict[str, str] = {}
    sections = [name for name in parser.sections() if name in _SECTIONS]
    if not sections:
        raise ConfigError(f'mysql-conf {path}: no section [client] or [default]')
    for section in sections:
        for key, value in parser.items(section):
            key = key.strip().replace('_', '-').removeprefix('loose-')
            found[key] = _value(value or '', freezers=section == 'default')
    return found


def _value(text: str, *, freezers: bool) -> str:
    if freezers:
        # A percent sign is doubled in files of Freezer 19.
        return text.replace('%%', '%')
    if len(text) > 1 and text[0] in '"\'':
        end = text.find(text[0], 1)
        return text[1:end] if end > 0 else text
    # A comment may follow.
    return text.partition('#')[0].strip()


def _tls(path: str, filed: Mapping[str, str]) -> tuple[ssl.SSLContext | None, bool]:
    """A context that requires TLS, if it is required; and whether it is switched off.

    :raises ConfigError: an option is unknown, or has no effect without another"""

    def problem(text: str) -> ConfigError:
        return ConfigError(f'mysql-conf {path}: {text}')

    for key in filed:
        if key.startswith('ssl') and key not in _TLS_KEYS:
            raise problem(f'{key} is not supported: remove it')
    mode = filed.get('ssl-mode', '').upper()
    if mode and mode not in _TLS_MODES:
        raise problem(f'ssl-mode {mode!r}: must be one of {", ".join(_TLS_MODES)}')
    authority = filed.get('ssl-ca'), filed.get('ssl-capath')
    verify = filed.get('ssl-verify-server-cert')
    verifies = verify is not None and verify.lower() not in _FALSE
    demanded = verifies or mode not in ('', 'PREFERRED', 'DISABLED')
    if 'skip-ssl' in filed or 'disable-ssl' in filed:
        mode = 'DISABLED'
    elif not mode and 'ssl' in filed:
        mode = 'DISABLED' if filed['ssl'].lower() in _FALSE else 'REQUIRED'
    if verifies and mode != 'DISABLED':
        mode = 'VERIFY_IDENTITY'
    elif any(authority) and mode in ('', 'PREFERRED', 'REQUIRED'):
        mode = 'VERIFY_CA'
    certificate, private = filed.get('ssl-cert'), filed.get('ssl-key')
    if private and not certificate:
        raise problem('ssl-key needs ssl-cert')
    if certificate and mode in ('', 'PREFERRED'):
        mode = 'REQUIRED'
    if mode == 'DISABLED':
        if any(authority) or certificate:
            raise problem('ssl is switched off, and has a certificate: remove one')
        if demanded:
            raise problem('ssl is both demanded and switched off: remove one')
        return None, True
    if mode in ('', 'PREFERRED'):
        return None, False
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = mode == 'VERIFY_IDENTITY'
    if not mode.startswith('VERIFY'):
        context.verify_mode = ssl.CERT_NONE
    try:
        if any(authority):
            context.load_verify_locations(*(name or None for name in authority))
        elif mode.startswith('VERIFY'):
            context.load_default_certs()
        if certificate:
            context.load_cert_chain(certificate, private or None)
    except (OSError, ssl.SSLError) as error:
        files = ', '.join(filter(None, (*authority, certificate, private)))
        raise problem(f'{files}: {error.strerror or "not a certificate"}') from error
    return context, False
