"""Action check: what every storage on a file server is tested for."""

import posixpath
import secrets
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic

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
from freezer.storage.path_probes import PathScratch, write_rows
from freezer.storage.paths import NEVER
from freezer.storage.remote_paths import RemotePathStorage, ServerT
from freezer.utils import human

# Slower ones are noted.
_LONG_LATENCY_SECONDS = 0.5
_SPEED_BYTES = 4 * 2**20


@dataclass(frozen=True)
class RemoteScratch(PathScratch, Generic[ServerT]):
    storage: RemotePathStorage[ServerT]

    @property
    def server(self) -> ServerT:
        return self.storage.server


def check(
    storage: RemotePathStorage[ServerT],
    connection: Callable[[RemoteScratch[ServerT]], CheckRow],
    probes: Iterable[Probe[RemoteScratch[ServerT]]],
) -> CheckReport:
    """
    :param connection: connects, and returns the row about the connection
    :param probes: they need the file of PathScratch.write
    :raises StorageException: there is no login, or nothing can be written
    """
    container = storage.storage_path
    missing = _missing(storage)
    folder = layout.join(container, layout.CHECK, secrets.token_hex(16))
    scratch = RemoteScratch(storage, folder)

    def rows() -> Iterator[CheckRow]:
        yield storage.retry.run(lambda: connection(scratch))
        yield from write_rows(scratch, bool(missing))
        yield from try_out(probes, scratch)

    where = storage.location(container)
    return run_check(where, rows(), lambda: _clean_up(scratch, missing))


def _missing(storage: RemotePathStorage[Any]) -> list[str]:
    """The directories that have to be created, innermost first."""
    missing = []
    path = storage.storage_path
    while path not in ('', '/'):
        if storage.retry.run(lambda path=path: storage.server.exists(path)):  # type: ignore[misc]
            break
        missing.append(path)
        path = posixpath.dirname(path)
    return missing


def _clean_up(scratch: RemoteScratch[Any], made: list[str]) -> Finding:
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


def _latency(scratch: RemoteScratch[Any]) -> Finding:
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


def _speed(scratch: RemoteScratch[Any]) -> Finding:
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


def _rename(scratch: RemoteScratch[Any]) -> Finding:
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


RENAME = Probe('rename', _rename)
LATENCY = Probe('latency', _latency, needed=False)
SPEED = Probe('speed', _speed, needed=False)
