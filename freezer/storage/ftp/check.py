"""Action check of an FTP server."""

import ftplib
import posixpath
import secrets
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

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
from freezer.storage.ftp import errors
from freezer.storage.ftp.client import Client
from freezer.storage.ftp.server import FtpServer
from freezer.storage.path_probes import PATH_PROBES, PathScratch
from freezer.storage.paths import NEVER
from freezer.storage.remote_paths import RemotePathStorage
from freezer.utils import human

# Slower ones are noted.
_LONG_LATENCY_SECONDS = 0.5
_SPEED_BYTES = 4 * 2**20
# FTP has nothing to synchronize with.
_NOT_HERE = ('sync',)


@dataclass(frozen=True)
class FtpScratch(PathScratch):
    storage: RemotePathStorage
    server: FtpServer


def check(storage: RemotePathStorage, server: FtpServer) -> CheckReport:
    """:raises StorageException: there is no login, or nothing can be written"""
    container = storage.storage_path
    missing = _missing(storage)
    folder = layout.join(container, layout.CHECK, secrets.token_hex(16))
    scratch = FtpScratch(storage, folder, server)
    rows = _rows(scratch, bool(missing))
    where = storage.location(container)
    return run_check(where, rows, lambda: _clean_up(scratch, missing))


def _rows(scratch: FtpScratch, creates: bool) -> Iterator[CheckRow]:
    storage = scratch.storage
    yield CheckRow('encryption', storage.retry.run(lambda: _encryption(scratch)))
    storage.prepare()
    scratch.write()
    created = 'did not exist: created, as a backup creates it, and removed again'
    yield CheckRow('directory', ok(created if creates else 'exists'))
    yield CheckRow('write', ok('a file was written, its size compared, and renamed'))
    yield from try_out(PROBES, scratch)


def _encryption(scratch: FtpScratch) -> Finding:
    connections = scratch.server.connections
    with connections.use(scratch.storage.location(scratch.folder)) as client:
        if version := client.tls_version:
            return ok(f'{version} for commands and data', version)
    return note(
        'none: anyone between this machine and the server can read the password and '
        'the backups, and change them',
        '--storage ftps',
    )


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


def _clean_up(scratch: FtpScratch, made: list[str]) -> Finding:
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


def _rename(scratch: FtpScratch) -> Finding:
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


def _names(scratch: FtpScratch) -> Finding:
    """Hosts and backups are found by the names of folders."""
    names = 'A b', 'ü'
    for name in names:
        scratch.storage.write_file(scratch.path(f'names/{name}/file'), b'')
    tree = scratch.storage.list_tree(scratch.path('names'))
    found = [path.removesuffix('/file') for path, _size in tree]
    other = ', '.join(set(found).difference(names))
    if names[0] not in found:
        return problem(f'the server changes names: {", ".join(names)} became {other}')
    if names[1] not in found:
        return note(
            f'the server changes names that are not ASCII: {names[1]} became {other}',
            'names of hosts and backups in ASCII',
        )
    return ok('names are listed as they were written')


def _resume(scratch: FtpScratch) -> Finding:
    """An upload that is continued, as after a broken connection."""
    path = scratch.path('resumed')
    with scratch.server.connections.use(scratch.storage.location(path)) as client:
        wire = scratch.server.wire(path)
        _send(client, f'STOR {wire}', b'0123', 0)
        try:
            way = _continued(client, wire)
        except (ftplib.error_perm, ftplib.error_temp) as error:
            return note(
                f'the server cannot continue a file: {errors.reply(error)}; a backup '
                f'whose connection breaks fails',
            )
    if scratch.storage.read_file(path) != b'01234567':
        return problem('a continued file has the wrong content')
    return ok(f'a file is continued after a broken connection ({way})')


def _continued(client: Client, wire: str) -> str:
    try:
        _send(client, f'STOR {wire}', b'4567', 4)
    except ftplib.error_perm as error:
        if errors.code(error) not in errors.UNKNOWN_CODES:
            raise
        _send(client, f'APPE {wire}', b'4567', 0)
        return 'APPE'
    return 'REST'


def _send(client: Client, command: str, content: bytes, start: int) -> None:
    data = client.transfer(command, start)
    data.send(memoryview(content))
    data.finish()


def _listings(scratch: FtpScratch) -> Finding:
    if scratch.server.connections.features().machine_lists:
        return ok('MLSD')
    return ok('LIST: sizes and names are read from text for people')


def _latency(scratch: FtpScratch) -> Finding:
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


def _speed(scratch: FtpScratch) -> Finding:
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


def _durable(_scratch: FtpScratch) -> Finding:
    return note(
        'FTP cannot synchronize files to disk: what the server confirmed may be lost '
        'if its machine fails soon after the backup',
        '--action verify after such a failure',
    )


#: these need the file of PathScratch.write
PROBES: tuple[Probe[FtpScratch], ...] = (
    *(probe for probe in PATH_PROBES if probe.name not in _NOT_HERE),
    Probe('names', _names),
    Probe('rename', _rename),
    Probe('resume', _resume, needed=False),
    Probe('listings', _listings, needed=False),
    Probe('latency', _latency, needed=False),
    Probe('speed', _speed, needed=False),
    Probe('durable', _durable, needed=False),
)
