"""Host keys are always checked: an unknown or another key ends the connection."""

import os
from pathlib import Path
from typing import Any

import asyncssh

from freezer.storage.exceptions import HostKeyError, StorageConfigError
from freezer.storage.ssh.options import Server, SshOptions

_KNOWN_HOSTS = ('~/.ssh/known_hosts', '/etc/ssh/ssh_known_hosts')


class HostKeys(asyncssh.SSHClient):
    """Checks the key of one server during the handshake.

    :ivar presented: the key that the server has shown, if it is not a known one
    """

    def __init__(self, server: Server, pinned: tuple[str, ...]) -> None:
        self._server = server
        self._pinned = pinned
        self.presented: Any = None

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        """asyncssh asks only for keys that no file with known hosts has."""
        self.presented = key
        return key.get_fingerprint() in self._pinned


def known_hosts(options: SshOptions, server: Server) -> Any:
    """What asyncssh takes for ``known_hosts``; nothing where fingerprints are given.

    :raises StorageConfigError: a file is malformed
    """
    if options.host_key and server == options.server:
        return [], [], []
    files = [Path(name).expanduser() for name in _KNOWN_HOSTS]
    if options.known_hosts is not None:
        files = [Path(options.known_hosts)]
    present = [str(path) for path in files if os.path.exists(path)]
    try:
        return asyncssh.read_known_hosts(present)
    except (OSError, ValueError) as error:
        raise StorageConfigError(f'{", ".join(present)}: {error}') from error


def untrusted(
    options: SshOptions, server: Server, keys: HostKeys, known: Any, reason: str
) -> HostKeyError:
    """The error for a server whose key was refused.

    :param known: of :func:`known_hosts`
    :param reason: of asyncssh
    """
    key = keys.presented
    if key is None:
        # Revoked, or a certificate that is not valid.
        return HostKeyError(f'{server}: {reason}: ask the administrator of the server')
    found = f'{key.get_algorithm()} {key.get_fingerprint()}'
    file = options.known_hosts or _KNOWN_HOSTS[0]
    name = server.known_hosts_name
    if options.host_key and server == options.server:
        return HostKeyError(
            f'the host key of {server} is not the one of ssh-host-key: the server has '
            f'{found}. Do not go on unless you know why'
        )
    if _is_known(known, server):
        return HostKeyError(
            f'the host key of {server} has CHANGED: it is now {found}, and {file} has '
            f'another. Somebody may be intercepting the connection. If the server was '
            f"set up anew, remove the old key: ssh-keygen -R '{name}' -f {file}"
        )
    return HostKeyError(
        f'the host key of {server} is unknown: {found}. Compare it with ssh-keygen -lf '
        f'/etc/ssh/ssh_host_…_key.pub on the server. If it is the same, accept it: '
        f'ssh-keyscan -p {server.port} {server.host} >>{file}, or --ssh-host-key '
        f'{key.get_fingerprint()}'
    )


def _is_known(known: Any, server: Server) -> bool:
    if isinstance(known, tuple):
        return False
    keys = known.match(server.host, '', server.port)[0]
    return bool(keys)
