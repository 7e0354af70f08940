"""The options of storage ssh, and checks of them. Pure: ``--help`` imports this."""

import contextlib
import dataclasses
import getpass
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
    is_host,
    login_name,
)
from freezer.utils.plugin_options import PluginOptions

DEFAULT_PORT = 22
# Dashboards write Freezer 19's default into each job: it names no particular key.
_FREEZER19_KEY = '~/.ssh/id_rsa'
_FINGERPRINT = re.compile(r'SHA256:[A-Za-z0-9+/]{43}=?\Z')
_JUMP = re.compile(
    r'(?:(?P<user>[^@]+)@)?(?:\[(?P<address>[^]]+)\]|(?P<host>[^:@]+))(?::(?P<port>\d+))?\Z'
)

#: the options of Freezer 19
MAIN_OPTS = (
    cfg.StrOpt(
        'ssh-host',
        metavar='HOST',
        default='',
        help='Name or address of the SSH server.',
    ),
    cfg.PortOpt(
        'ssh-port', metavar='PORT', default=DEFAULT_PORT, min=1, help='Its port.'
    ),
    cfg.StrOpt(
        'ssh-username',
        metavar='USER',
        default='',
        help='User on the SSH server. Default: the user who runs the agent.',
    ),
    cfg.StrOpt(
        'ssh-key',
        metavar='FILE',
        default=_FREEZER19_KEY,
        help='Private key to log in with. With the default, those of the SSH agent '
        'are tried, then ~/.ssh/id_ed25519, ~/.ssh/id_ecdsa and ~/.ssh/id_rsa.',
    ),
    cfg.StrOpt(
        'ssh-password',
        default='',
        secret=True,
        help='Password of the user, for a server that accepts no key. Also from '
        'SSH_PASSWORD in the environment, where, unlike on the command line, other '
        'users of the machine cannot see it.',
    ),
)

#: in group ssh
SSH_OPTS = (
    cfg.StrOpt(
        'key-passphrase',
        default='',
        secret=True,
        help='Passphrase of the private key. Also from SSH_KEY_PASSPHRASE in the '
        'environment.',
    ),
    cfg.StrOpt(
        'known-hosts',
        metavar='FILE',
        help='File with the host keys of servers, as ssh-keyscan prints them. Default: '
        '~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts.',
    ),
    cfg.ListOpt(
        'host-key',
        metavar='FINGERPRINT',
        default=[],
        help='Fingerprint of the host key that the server must have: SHA256:…, as '
        'ssh-keygen -l prints it; several with commas. The files with known hosts '
        'are not read then.',
    ),
    cfg.StrOpt(
        'jump-host',
        metavar='[USER@]HOST[:PORT]',
        default='',
        help='SSH server through which the connection goes. It gets the same key or '
        'password; its host key must be in the files with known hosts.',
    ),
    cfg.FloatOpt(
        'connect-timeout',
        metavar='SECONDS',
        default=10.0,
        min=0.1,
        help='Seconds to wait for a connection and the login.',
    ),
    cfg.FloatOpt(
        'timeout',
        metavar='SECONDS',
        default=60.0,
        min=0.1,
        help='Seconds without an answer after which a connection is considered broken.',
    ),
    RETRY_BUDGET,
)


@dataclasses.dataclass(frozen=True)
class Server:
    """Where to log in."""

    host: str
    port: int
    user: str

    def __str__(self) -> str:
        return login_name(self.user, self.host, self.port, DEFAULT_PORT)

    @property
    def known_hosts_name(self) -> str:
        """Its name in a file with known hosts."""
        if self.port == DEFAULT_PORT:
            return self.host
        return f'[{self.host}]:{self.port}'


@dataclasses.dataclass(frozen=True)
class SshOptions:
    """The options, checked. Times in seconds.

    :ivar key: a private key; None for those of the agent and the usual files
    :ivar host_key: fingerprints, of which the server must have one; empty for known
        hosts
    """

    server: Server
    jump: Server | None = None
    key: str | None = None
    password: str = dataclasses.field(default='', repr=False)
    key_passphrase: str = dataclasses.field(default='', repr=False)
    known_hosts: str | None = None
    host_key: tuple[str, ...] = ()
    connect_timeout: float = 10.0
    timeout: float = 60.0
    retry_budget: float = 900.0

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Self:
        """:raises StorageConfigError: an option is malformed, or names no file"""
        user = _user(given)
        if not user:
            raise StorageConfigError(
                'ssh-username is not set, and this process has no user name: set it'
            )
        check_host('ssh-host', given['ssh_host'])
        server = Server(given['ssh_host'], given['ssh_port'], user)
        key = given['ssh_key']
        named = None if key in (None, '', _FREEZER19_KEY) else os.path.expanduser(key)
        check_file('ssh-key', named)
        known_hosts = given['ssh_known_hosts']
        known_hosts = os.path.expanduser(known_hosts) if known_hosts else None
        check_file('ssh-known-hosts', known_hosts)
        for text in given['ssh_host_key']:
            if not _FINGERPRINT.match(text):
                raise StorageConfigError(
                    f'ssh-host-key {text!r}: not a fingerprint: write SHA256: and 43 '
                    f'characters, as ssh-keygen -l prints them'
                )
        if given['ssh_host_key'] and known_hosts:
            raise StorageConfigError(
                'ssh-host-key and ssh-known-hosts: pass one of them'
            )
        jump = given['ssh_jump_host']
        return cls(
            server,
            _parse_jump(jump, user) if jump else None,
            named,
            given['ssh_password'] or '',
            given['ssh_key_passphrase'] or '',
            known_hosts,
            tuple(text.rstrip('=') for text in given['ssh_host_key']),
            given['ssh_connect_timeout'],
            given['ssh_timeout'],
            given['ssh_retry_budget'],
        )


def _user(given: Mapping[str, Any]) -> str:
    """The user on the server; empty if it is not set and cannot be found."""
    name: str = given['ssh_username']
    if name:
        return name
    # A container may run as a number that has no name.
    with contextlib.suppress(KeyError, OSError, ImportError):
        return getpass.getuser()
    return ''


def _parse_jump(text: str, user: str) -> Server:
    found = _JUMP.match(text)
    host = (found['address'] or found['host']) if found else ''
    port = int(found['port'] or DEFAULT_PORT) if found else 0
    if found is None or not is_host(host) or not 0 < port < 65536:
        raise StorageConfigError(
            f'ssh-jump-host {text!r}: write it as user@host:port; user and port may be '
            f'left out'
        )
    return Server(host, port, found['user'] or user)


def _place(container: str, options: Mapping[str, Any]) -> Hashable:
    # The driver refuses malformed values.
    with contextlib.suppress(StorageConfigError):
        container = directory(container)
    return options['ssh_host'].lower(), options['ssh_port'], _user(options), container


OPTIONS = PluginOptions(
    groups={None: MAIN_OPTS, 'ssh': SSH_OPTS},
    environment={
        'ssh_password': 'SSH_PASSWORD',
        'ssh_key_passphrase': 'SSH_KEY_PASSPHRASE',
    },
    secret_files=('ssh_key',),
    # With ssh_host_key a job can name its own server as a known one.
    secret_receivers=('ssh_host', 'ssh_jump_host'),
    place=_place,
)
