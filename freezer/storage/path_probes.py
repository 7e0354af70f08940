"""Action check: what every storage with files under paths is tested for."""

import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

from freezer.storage.check import CheckRow, Finding, Probe, note, ok, problem
from freezer.storage.exceptions import Conflict, NotFound, StorageException
from freezer.storage.paths import PathStorage

# A sync that takes longer is worth a note.
_SLOW_SYNC_SECONDS = 0.5
GIB = 1024**3
_LITTLE_SPACE = GIB
_FEW_FILES = 1000

CONTENT = bytes(range(256)) * 64


@dataclass(frozen=True)
class PathScratch:
    """:param folder: the check writes only there"""

    storage: PathStorage
    folder: str

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def write(self) -> None:
        """The file that the probes below read."""
        self.storage.write_file(self.path('small'), CONTENT)


def write_rows(scratch: PathScratch, creates: bool) -> Iterator[CheckRow]:
    """
    :param creates: whether the container does not exist
    :raises StorageException: nothing can be written
    """
    scratch.storage.prepare()
    scratch.write()
    created = 'did not exist: created, as a backup creates it, and removed again'
    yield CheckRow('directory', ok(created if creates else 'exists'))
    yield CheckRow('write', ok('a file was written'))


def _read(scratch: PathScratch) -> Finding:
    if scratch.storage.read_file(scratch.path('small')) != CONTENT:
        return problem('other bytes came back')
    return ok('the same bytes came back')


def _list(scratch: PathScratch) -> Finding:
    listed = dict(scratch.storage.list_tree(scratch.folder))
    if listed != {'small': len(CONTENT)}:
        return problem(f'the listing has {listed}')
    return ok('the written file is listed')


def _range(scratch: PathScratch) -> Finding:
    ranges = ((0, 1), (300, 5000), (len(CONTENT) - 1, len(CONTENT)))
    found = scratch.storage.read_ranges(scratch.path('small'), ranges)
    for (start, end), block in zip(ranges, found, strict=True):
        if isinstance(block, StorageException):
            raise block
        if block != CONTENT[start:end]:
            return problem(f'bytes {start} to {end - 1} are wrong')
    return ok('the requested bytes')


def _exclusive(scratch: PathScratch) -> Finding:
    """Only one of two agents may claim a folder."""
    scratch.storage.reserve(scratch.path('claimed'))
    try:
        scratch.storage.reserve(scratch.path('claimed'))
    except Conflict:
        return ok('a folder can be claimed only once')
    return problem('two agents could claim the same folder')


def _delete(scratch: PathScratch) -> Finding:
    path = scratch.path('deleted/file')
    scratch.storage.write_file(path, CONTENT)
    scratch.storage.delete_files([path])
    try:
        scratch.storage.stat(path)
    except NotFound:
        return ok('deleted')
    return problem('a deleted file still exists')


def _sync(scratch: PathScratch) -> Finding:
    """How long it takes until a small file is durable."""
    path = scratch.path('synced')
    times = []
    for _ in range(5):
        started = time.perf_counter()
        scratch.storage.write_file(path, b'x' * 4096)
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    message = f'{seconds * 1000:.1f} ms until a small file is on disk'
    if seconds > _SLOW_SYNC_SECONDS:
        return note(message, value=seconds)
    return ok(message, seconds)


def space(free: int, files: int, free_files: int) -> Finding:
    """What a file system has left.

    :param free: bytes for this user
    :param files: that it can have; 0 where it does not count them
    """
    message = f'{free / GIB:.1f} GiB free'
    if files and free_files < _FEW_FILES:
        message += f', for {free_files} files'
    elif free >= _LITTLE_SPACE:
        return ok(message, free)
    return note(message, 'another --container, or --remove-older-than', free)


PATH_PROBES = (
    Probe('read', _read),
    Probe('list', _list),
    Probe('range', _range),
    Probe('exclusive', _exclusive),
    Probe('delete', _delete),
    Probe('sync', _sync),
)
