"""The indexes of a chain's levels, and archives of a few members of a level."""

import contextlib
import functools
import itertools
import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Final, Protocol, TypeVar

from freezer.engine.index.file import IndexFile, Part, Readable, memory_copy
from freezer.engine.index.record import UNSTORED, Record, merge_ranges, sort_key
from freezer.engine.index.state import merged_parts
from freezer.exceptions import EngineError
from freezer.stream.points import Points
from freezer.utils.blocks import Block

# Bytes: what ends an archive of any engine that keeps an index.
_END: Final = bytes(1024)
_SPOOLED: Final = 8 << 20
# Bytes of a level that are read together with its directories.
_MAX_KEPT: Final = 64 << 20
_COPY_BLOCK: Final = 1 << 20
# Indexes that are fetched at the same time.
_AT_ONCE: Final = 8

T = TypeVar('T')


class IndexedLevel(Protocol):
    """An opened level; see :class:`freezer.engine.opened.OpenedLevel`."""

    level: int

    def index(self) -> Readable | None: ...

    def archive_ranges(
        self, ranges: Sequence[tuple[int, int]], points: Points
    ) -> Generator[Block, None, None]: ...


class ChainIndex:
    """The members of a chain's archives, and their places.

    :param levels: from level 0 up
    """

    def __init__(self, levels: Sequence[tuple[IndexedLevel, IndexFile]]) -> None:
        self.levels = [level for level, _index in levels]
        self.indexes = [index for _level, index in levels]

    def state(self, roots: Sequence[bytes] = ()) -> Iterator[tuple[int, Part]]:
        """All that the newest level holds, sorted by path: parts of blocks, each with
        the level that has it.

        :param roots: only these paths, what is below them, and the directories above;
            none of them is below another
        """
        return merged_parts([index.parts(roots) for index in self.indexes])

    def unstored(self) -> set[bytes] | None:
        """The paths that were in the source when the newest level was made, and that
        the level does not have; None if that is not known.

        Below such a path, those that older levels did not have either.
        """
        newest, *older = map(_unstored, reversed(self.indexes))
        if newest is None:
            return None
        found = set(newest)
        for path in itertools.chain.from_iterable(filter(None, older)):
            names = path.split(b'/')
            above = (b'/'.join(names[:depth]) for depth in range(1, len(names)))
            if not found.isdisjoint(above):
                found.add(path)
        return found

    def with_targets(
        self, chosen: Iterable[tuple[int, Record]]
    ) -> dict[int, list[Record]]:
        """The members to read, by level: those of the records, and those that have the
        contents of hard links.

        :raises EngineError: an index is damaged
        """
        found: dict[int, dict[bytes, Record]] = {}
        for level, record in chosen:
            wanted = found.setdefault(level, {})
            wanted[record.path] = record
            if record.kind == 'link':
                target = self.indexes[level].find(record.target)
                if target is not None:
                    wanted[target.path] = target
        return {level: list(wanted.values()) for level, wanted in found.items()}

    def archives(self, members: dict[int, list[Record]]) -> Iterator['PartArchive']:
        """Archives of these members only: one of the directories, parents first; then
        of each level the rest, the newest level first.

        An unchanged directory has a record in an old level only, and has to be there
        before what is in it. Both may be in the same pieces of the stream, so they are
        read together if the rest is small, which then waits in a temporary file. If
        there is one level, its members are one archive.
        """
        levels = {level: self._sparse(level, each) for level, each in members.items()}
        if len(levels) == 1:
            (only,) = levels.values()
            if only.is_ordered:
                yield only
                return
        with tempfile.SpooledTemporaryFile(_SPOOLED) as file:
            first: list[_Kept] = []
            rest: dict[int, PartArchive] = {}
            for level, sparse in levels.items():
                directories, others = sparse.split()
                together = 0 < others.length <= _MAX_KEPT and directories.length > 0
                if directories.length:
                    first.append(_Kept(sparse if together else directories, file))
                if others.length:
                    rest[level] = first[-1] if together else others
            if first:
                yield _Directories(first)
            for level in sorted(rest, reverse=True):
                yield rest[level]

    def _sparse(self, level: int, members: list[Record]) -> '_Sparse':
        stream = self.indexes[level].properties.get('stream')
        points = Points.load(stream, f'the index of level {level}')
        return _Sparse(self.levels[level], members, points)


class PartArchive(Protocol):
    """A :class:`freezer.engine.engine.LevelArchive`, of some of a level's members."""

    level: int

    def data(self) -> Generator[Block, None, None]: ...


class _Sparse:
    """An archive of some members of a level, which is read from the storage.

    :ivar length: bytes of the members
    """

    def __init__(
        self, opened: IndexedLevel, members: Sequence[Record], points: Points
    ) -> None:
        self.level = opened.level
        self.members = sorted(members, key=lambda each: each.offset)
        self.length = sum(each.length for each in members)
        self._opened = opened
        self._points = points

    @property
    def is_ordered(self) -> bool:
        """Whether its directories come before all else, as tar writes them, and each
        before those in it."""
        directories, others = self.split()
        places = {each.path: at for at, each in enumerate(directories.members)}
        ordered = all(
            places.get(path.rpartition(b'/')[0], -1) < at
            for path, at in places.items()
            if path
        )
        return ordered and self.members == [*directories.members, *others.members]

    def split(self) -> tuple['_Sparse', '_Sparse']:
        """The directories, and the rest."""
        kinds: tuple[list[Record], list[Record]] = [], []
        for each in self.members:
            kinds[each.kind != 'directory'].append(each)
        first, rest = (_Sparse(self._opened, each, self._points) for each in kinds)
        return first, rest

    def data(self) -> Generator[Block, None, None]:
        yield from self.blocks()
        yield _END

    def blocks(self) -> Generator[Block, None, None]:
        """The members, without an end."""
        return self._opened.archive_ranges(merge_ranges(self.members), self._points)


class _Kept:
    """Members of a level that are read together; the archive is of those that are no
    directories.

    :param file: a temporary file, which several levels share
    """

    def __init__(self, sparse: _Sparse, file: IO[bytes]) -> None:
        self.level = sparse.level
        self._sparse = sparse
        self._file = file
        self._places: list[tuple[Record, int]] = []

    def fetch(self) -> None:
        """Read the members into the file."""
        end = self._file.seek(0, os.SEEK_END)
        with contextlib.closing(self._sparse.blocks()) as blocks:
            for block in blocks:
                self._file.write(block)
        for record in self._sparse.members:
            self._places.append((record, end))
            end += record.length

    def directories(self) -> Iterator[tuple[bytes, Callable[[], bytes]]]:
        """The key of the path of each, and a function that reads its member."""
        for record, start in self._places:
            if record.kind == 'directory':
                read = functools.partial(self._read, start, record.length)
                yield sort_key(record.path), read

    def data(self) -> Generator[Block, None, None]:
        for record, start in self._places:
            if record.kind != 'directory':
                for at in range(0, record.length, _COPY_BLOCK):
                    size = min(record.length - at, _COPY_BLOCK)
                    yield self._read(start + at, size)
        yield _END

    def _read(self, start: int, length: int) -> bytes:
        self._file.seek(start)
        return self._file.read(length)


class _Directories:
    """An archive of the directories of several levels, sorted by path.

    :param levels: fetched here
    """

    def __init__(self, levels: Sequence[_Kept]) -> None:
        self.level = max(each.level for each in levels)
        self._levels = levels

    def data(self) -> Generator[Block, None, None]:
        for each in self._levels:
            each.fetch()
        found = [each for level in self._levels for each in level.directories()]
        for _key, read in sorted(found, key=lambda each: each[0]):
            yield read()
        yield _END


def no_link_target(link: bytes, target: bytes, level: int) -> EngineError:
    """The error for a hard link to a name that its level does not have."""
    return EngineError(
        f'{os.fsdecode(link)!r} is a hard link to {os.fsdecode(target)!r}, and level '
        f'{level} has no such file: its index is damaged'
    )


def _unstored(index: IndexFile) -> list[bytes] | None:
    paths = index.properties.get(UNSTORED)
    if not isinstance(paths, list):
        return None
    return [os.fsencode(path) for path in paths if isinstance(path, str)]


def open_indexes(
    levels: Sequence[IndexedLevel], names: Sequence[str], copy: bool = False
) -> ChainIndex | None:
    """Open the indexes of a chain; None if a level has none.

    :param levels: from level 0 up
    :param names: of the indexes, in errors
    :param copy: fetch them as a whole, several at once: nothing that a storage does can
        then keep them from being read to their ends
    :raises EngineError, StorageException: one is damaged
    """
    opened = [
        open_index(level, where, copy)
        for level, where in zip(levels, names, strict=True)
    ]
    found = []
    indexes = at_once(opened, None if copy else 1)
    for level, index in zip(levels, indexes, strict=True):
        if index is None:
            return None
        found.append((level, index))
    return ChainIndex(found)


def open_index(
    level: IndexedLevel, where: str, copy: bool
) -> Callable[[], IndexFile | None]:
    """A function that opens the index of a level; see :func:`open_indexes`."""

    def opened() -> IndexFile | None:
        index = level.index()
        if index is None:
            return None
        if copy:
            return memory_copy(index, where)
        return IndexFile(index.read, index.size, where)

    return opened


def at_once(
    calls: Sequence[Callable[[], T]], workers: int | None = None
) -> Iterator[T]:
    """The results of calls, in order; some calls run at the same time, in threads.

    An exception is raised in its turn; calls that have not begun are then dropped.
    """
    workers = min(workers or _AT_ONCE, len(calls))
    if workers < 2:
        yield from (call() for call in calls)
        return
    pool = ThreadPoolExecutor(workers, 'index')
    try:
        yield from pool.map(lambda call: call(), calls)
    finally:
        # After a signal, nobody waits for a storage.
        pool.shutdown(wait=False, cancel_futures=True)
