"""Action check of an SSH server."""

import asyncssh

from freezer.storage import remote_probes
from freezer.storage.check import CheckReport, CheckRow, Finding, Probe, note, ok
from freezer.storage.path_probes import PATH_PROBES, space
from freezer.storage.remote_paths import RemotePathStorage
from freezer.storage.remote_probes import LATENCY, RENAME, SPEED, RemoteScratch
from freezer.storage.ssh.server import SftpServer

Scratch = RemoteScratch[SftpServer]


def check(storage: RemotePathStorage[SftpServer]) -> CheckReport:
    """:raises StorageException: there is no login, or nothing can be written"""
    return remote_probes.check(storage, _host_key, PROBES)


def _host_key(scratch: Scratch) -> CheckRow:
    session = scratch.server.connection.session()
    return CheckRow('host key', ok(session.host_key, session.host_key))


def _durable(scratch: Scratch) -> Finding:
    async def synchronize(sftp: asyncssh.SFTPClient) -> bool:
        async with sftp.open(scratch.path('small'), 'rb+', encoding=None) as file:
            try:
                await file.fsync()
            except asyncssh.SFTPOpUnsupported:
                return False
            return True

    if scratch.server.call(scratch.path('small'), synchronize):
        return ok('files are synchronized to disk (fsync@openssh.com)')
    return note(
        'the server cannot synchronize files to disk: what it confirmed may be lost if '
        'its machine fails soon after the backup',
        '--action verify after such a failure',
    )


def _space(scratch: Scratch) -> Finding:
    folder = scratch.folder
    found = scratch.server.call(folder, lambda sftp: sftp.statvfs(folder))
    free = found.bavail * found.frsize
    return space(free, found.files, found.favail)


#: these need the file of PathScratch.write
PROBES = (
    *PATH_PROBES,
    RENAME,
    LATENCY,
    SPEED,
    Probe('durable', _durable, needed=False),
    Probe('space', _space, needed=False),
)
