"""Action check of an SSH server."""

import posixpath
import secrets
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import asyncssh

from freezer.storage import layout
from freezer.storage.check import (
    CheckReport,
    CheckRow,
    Finding,
    Probe,
    note,
    ok,
    problem,
    run_check,
    try_out,
)
from freezer.storage.exceptions import NotFound, Rejected, StorageException
from freezer.storage.path_probes import PATH_PROBES, PathScratch, space
from freezer.storage.paths import NEVER
from freezer.storage.remote_paths import RemotePathStorage
from freezer.storage.ssh.server import SftpServer
from freezer.utils import human

# Slower ones are noted.
_LONG_LATENCY_SECONDS = 0.5
_SPEED_BYTES = 4 * 2**20


@dataclass(frozen=True)
class SshScratch(PathScratch):
    storage: RemotePathStorage
    server: SftpServer


def check(storage: RemotePathStorage, server: SftpServer) -> CheckReport:
    """:raises StorageException: there is no login, or nothing can be written"""
    container = storage.storage_path
    missing = _missing(storage)
    folder = layout.join(container, layout.CHECK, secrets.token_hex(16))
    scratch = SshScratch(storage, folder, server)
    rows = _rows(scratch, bool(missing))
    where = storage.location(container)
    return run_check(where, rows, lambda: _clean_up(scratch, missing))


def _rows(scratch: SshScratch, creates: bool) -> Iterator[CheckRow]:
    storage = scratch.storage
    session = storage.retry.run(scratch.server.connection.session)
    yield CheckRow('host key', ok(session.host_key, session.host_key))
    storage.prepare()
    scratch.write()
    created = 'did not exist: created, as a backup creates it, and removed again'
    yield CheckRow('directory', ok(created if creates else 'exists'))
    yield CheckRow('write', ok('a file was written'))
    yield from try_out(PROBES, scratch)


def _missing(storage: RemotePathStorage) -> list[str]:
    """The directories that have to be created, innermost first."""
    missing = []
    path = storage.storage_path
    while path not in ('', '/'):
        if storage.retry.run(lambda path=path: storage.server.exists(path)):  # type: ignore[misc]
            break
        missing.append(path)
        path = posixpath.dirname(path)
    return missing


def _clean_up(scratch: SshScratch, made: list[str]) -> Finding:
    """Remove everything; may be called again."""
    storage = scratch.storage
    try:
        storage.remove_tree(scratch.folder)
        for folder in made:
            try:
                storage.server.remove_folder(folder)
            except NotFound:
                continue
            except Rejected:
                # Another agent has begun to use it.
                break
    except StorageException as error:
        where = storage.location(scratch.folder)
        return problem(f'something remains in {where}: {error.message}')
    return ok('nothing remains')


def _latency(scratch: SshScratch) -> Finding:
    path = scratch.path('small')
    times = []
    for _ in range(5):
        started = time.perf_counter()
        scratch.server.size(path)
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    message = f'{seconds * 1000:.1f} ms for an answer'
    if seconds > _LONG_LATENCY_SECONDS:
        return note(message, value=seconds)
    return ok(message, seconds)


def _speed(scratch: SshScratch) -> Finding:
    path = scratch.path('speed')
    content = secrets.token_bytes(_SPEED_BYTES)
    started = time.perf_counter()
    step = scratch.storage.request_bytes
    view = memoryview(content)
    blocks = (view[start : start + step] for start in range(0, len(view), step))
    scratch.storage.upload(path, blocks, NEVER)
    written = time.perf_counter()
    if scratch.storage.read_file(path) != content:
        return problem('other bytes came back')
    read = time.perf_counter()
    up, down = _SPEED_BYTES / (written - started), _SPEED_BYTES / (read - written)
    return ok(f'{human.size(up)}/s written, {human.size(down)}/s read', up)


def _rename(scratch: SshScratch) -> Finding:
    path = scratch.path('replaced')
    scratch.storage.write_file(path, b'before')
    try:
        scratch.storage.write_file(path, b'after it')
    except Rejected as error:
        return note(
            f'a file cannot be replaced as a whole, which backups do not need: '
            f'{error.message}',
            'no --rebuild-index on this server',
        )
    if scratch.storage.read_file(path) != b'after it':
        return problem('a renamed file has the wrong content')
    return ok('a file is replaced as a whole')


def _durable(scratch: SshScratch) -> Finding:
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


def _space(scratch: SshScratch) -> Finding:
    folder = scratch.folder
    found = scratch.server.call(folder, lambda sftp: sftp.statvfs(folder))
    free = found.bavail * found.frsize
    return space(free, found.files, found.favail)


#: these need the file of PathScratch.write
PROBES = (
    *PATH_PROBES,
    Probe('rename', _rename),
    Probe('latency', _latency, needed=False),
    Probe('speed', _speed, needed=False),
    Probe('durable', _durable, needed=False),
    Probe('space', _space, needed=False),
)
