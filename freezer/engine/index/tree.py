"""The state of a chain at a level, path by path, as a file system needs it."""

import collections
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from freezer.engine.index.file import IndexFile, Part
from freezer.engine.index.record import REMOVED
from freezer.engine.index.state import merged_parts

# Directories whose levels are remembered. The deepest paths are looked up most.
_KEPT: Final = 4096


class Found(NamedTuple):
    """A name of the state.

    :ivar level: the level that has it
    :ivar part: its record
    """

    level: int
    part: Part

    @property
    def kind(self) -> str:
        return self.part.block.kinds[self.part.start]


class StateTree:
    """Finds names and lists directories. For one thread at a time.

    Memory does not depend on the number of files: that of the blocks that the indexes
    keep, and of 4096 paths.

    :param indexes: of the levels, from level 0 up
    """

    def __init__(self, indexes: Sequence[IndexFile]) -> None:
        self._indexes = indexes
        # Directory -> the oldest level that counts below it; -1 if it is none.
        self._since: collections.OrderedDict[bytes, int] = collections.OrderedDict()

    def find(self, path: bytes) -> Found | None:
        """The record of a path; None if the state does not have it. A backup of one
        file has no record of the top, whose path is empty.

        :raises EngineError: an index is damaged
        """
        since = self._since_of(path.rpartition(b'/')[0]) if path else 0
        return None if since < 0 else self._newest(path, since)[0]

    def children(self, path: bytes) -> Iterator[tuple[int, Part]]:
        """The names in a directory, sorted: parts of blocks, each with the level that
        has it; nothing if it is no directory.

        :raises EngineError: an index is damaged
        """
        since = self._since_of(path)
        if since >= 0:
            yield from merged_parts(
                [
                    () if level < since else index.children(path)
                    for level, index in enumerate(self._indexes)
                ]
            )

    def _since_of(self, path: bytes) -> int:
        below = [path]
        while below[-1] and below[-1] not in self._since:
            below.append(below[-1].rpartition(b'/')[0])
        nearest = below.pop()
        since = self._since[nearest] if nearest else self._newest(b'', 0)[1]
        for each in reversed(below):
            if since >= 0:
                found, since = self._newest(each, since)
                if found is None or found.kind != 'directory':
                    since = -1
            self._since[each] = since
        if path:
            self._since.move_to_end(path)
        while len(self._since) > _KEPT:
            self._since.popitem(last=False)
        return since

    def _newest(self, path: bytes, since: int) -> tuple[Found | None, int]:
        """The newest record of a path, if that is no removal, and the oldest level that
        counts below the path.

        :param since: the oldest level that counts at the path
        """
        found: Found | None = None
        for level in range(len(self._indexes) - 1, since - 1, -1):
            part = self._indexes[level].locate(path)
            if part is None:
                continue
            kind = part.block.kinds[part.start]
            if found is None and kind == REMOVED:
                return None, level
            found = found or Found(level, part)
            if kind != 'directory':
                return found, level
        return found, since
