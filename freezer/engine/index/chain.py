"""The indexes of a chain's levels, and archives of a few members of a level."""

import contextlib
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

from freezer.engine.index.file import IndexFile, Part, Readable, memory_copy
from freezer.engine.index.record import Record, merge_ranges, sort_key
from freezer.engine.index.state import merged_parts
from freezer.stream.points import Points
from freezer.utils.blocks import Block

# Bytes: what ends an archive of any engine that keeps an index.
_END: Final = bytes(1024)
_SPOOLED: Final = 8 << 20
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

    def archives(
        self, members: dict[int, list[Record]]
    ) -> Iterator['_Directories | _Sparse']:
        """Archives of these members only: one of the directories, parents first; then
        of each level the rest, the newest level first.

        An unchanged directory has a record in an old level only, and has to be there
        before what is in it.
        """
        directories: dict[int, list[Record]] = {}
        rest: dict[int, list[Record]] = {}
        for level, records in members.items():
            for record in records:
                kind = directories if record.kind == 'directory' else rest
                kind.setdefault(level, []).append(record)
        if directories:
            yield _Directories(
                {each: self._sparse(each, directories[each]) for each in directories}
            )
        for level in sorted(rest, reverse=True):
            yield self._sparse(level, rest[level])

    def _sparse(self, level: int, members: list[Record]) -> '_Sparse':
        stream = self.indexes[level].properties.get('stream')
        return _Sparse(self.levels[level], members, stream)


class _Sparse:
    """An archive of some of a level's members; a
    :class:`freezer.engine.engine.LevelArchive`."""

    def __init__(
        self, opened: IndexedLevel, members: Sequence[Record], stream: Any
    ) -> None:
        self.level = opened.level
        self.members = sorted(members, key=lambda each: each.offset)
        self._opened = opened
        self._points = Points.load(stream, f'the index of level {opened.level}')

    def data(self) -> Generator[Block, None, None]:
        yield from self.blocks()
        yield _END

    def blocks(self) -> Generator[Block, None, None]:
        """The members, without an end."""
        return self._opened.archive_ranges(merge_ranges(self.members), self._points)


class _Directories:
    """An archive of directories of several levels, sorted by path; also a
    :class:`freezer.engine.engine.LevelArchive`.

    :param levels: level -> the directories that it has
    """

    def __init__(self, levels: dict[int, _Sparse]) -> None:
        self.level = max(levels)
        self._levels = levels

    def data(self) -> Generator[Block, None, None]:
        places: dict[bytes, tuple[int, int]] = {}
        with tempfile.SpooledTemporaryFile(_SPOOLED) as file:
            end = 0
            for sparse in self._levels.values():
                with contextlib.closing(sparse.blocks()) as blocks:
                    for block in blocks:
                        file.write(block)
                for record in sparse.members:
                    places[sort_key(record.path)] = end, record.length
                    end += record.length
            for _key, (start, length) in sorted(places.items()):
                file.seek(start)
                yield file.read(length)
        yield _END


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
