"""Exceptions of asyncssh as those of storages."""

import asyncio
import os
import socket

import asyncssh

from freezer.storage import exceptions as e

# Another attempt may succeed: the connection is gone, or could not be made.
_BROKEN = (
    OSError,
    EOFError,
    asyncio.TimeoutError,
    asyncio.IncompleteReadError,
    asyncssh.ConnectionLost,
    asyncssh.CompressionError,
    asyncssh.MACError,
    asyncssh.ServiceNotAvailable,
    asyncssh.SFTPConnectionLost,
    asyncssh.SFTPNoConnection,
)
_FULL = (asyncssh.SFTPNoSpaceOnFilesystem, asyncssh.SFTPQuotaExceeded)


def translate(error: BaseException, where: str, server: str) -> e.StorageException:
    """The exception for a failed call; the caller chains it.

    :param where: the file, for people
    :param server: user, host and port, for people
    """
    if isinstance(error, e.StorageException):
        return error
    if isinstance(error, (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath)):
        return e.NotFound(f'{where}: not found')
    if isinstance(error, (asyncssh.SFTPPermissionDenied, asyncssh.SFTPWriteProtect)):
        return e.AccessDenied(f'{where}: {server} may not do this: permission denied')
    if isinstance(error, asyncssh.SFTPOpUnsupported):
        return e.Rejected(f'{where}: the server does not support this operation')
    if isinstance(error, _FULL):
        return no_space(where)
    if isinstance(error, asyncssh.SFTPError) and not isinstance(error, _BROKEN):
        return e.Rejected(f'{where}: the server reports: {error.reason}')
    if isinstance(error, asyncssh.PermissionDenied):
        return e.BadCredentials(
            f'{server} does not accept the login: {error.reason}; check ssh-username, '
            f'and ssh-key or ssh-password'
        )
    if isinstance(error, _BROKEN):
        return e.Unreachable(f'{server}: {_reason(error)}')
    if isinstance(error, asyncssh.DisconnectError):
        return e.Rejected(f'{server} ended the connection: {error.reason}')
    if isinstance(error, asyncssh.ChannelOpenError):
        if 'connection closed' in error.reason:
            # What asyncssh reports if it was lost meanwhile.
            return e.Unreachable(f'{server}: the connection ended')
        return e.Rejected(
            f'{server} starts no SFTP session: {error.reason}; its sshd_config needs '
            f'Subsystem sftp internal-sftp'
        )
    if isinstance(error, (asyncssh.Error, ValueError)):
        return e.Rejected(f'{server}: {error}')
    raise error


def no_space(where: str) -> e.StorageException:
    return e.Rejected(
        f'{where}: no space is left on the server: free some, or use another container'
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
        return 'no answer in time'
    if isinstance(error, socket.gaierror):
        # Many know the server by a name that only ssh understands.
        return (
            f'{error.strerror}; ssh-host must be a name or an address that this '
            f'machine can look up: Host lines of ~/.ssh/config are not read'
        )
    if isinstance(error, OSError):
        # asyncio puts a tuple of Python into strerror.
        return os.strerror(error.errno) if error.errno else str(error)
    if isinstance(error, (EOFError, asyncio.IncompleteReadError)):
        return 'the connection ended'
    return str(error) or 'the connection ended'
