"""The state of a chain at a level: the indexes of its levels, merged.

The index of a level has what differs from the level below. The newest record of a name
counts; and a record that is not a directory's ends everything that older levels have
below its path.
"""

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from freezer.engine.index.file import Part
from freezer.engine.index.record import REMOVED, Record


def merged(levels: Sequence[Iterable[Part]]) -> Iterator[tuple[int, Record]]:
    """The records of a state, in order, each with the level that has it.

    Memory is that of one block for each level.

    :param levels: the parts of each level's index, from level 0 up
    """
    for level, (block, start, end) in merged_parts(levels):
        for record in block.records[start:end]:
            yield level, record


def merged_parts(levels: Sequence[Iterable[Part]]) -> Iterator[tuple[int, Part]]:
    """The same, in parts of blocks: between changes, level 0 has long runs of records,
    which are not looked at one by one."""
    if len(levels) == 1:
        for part in levels[0]:
            yield 0, part
        return
    cursors = [_Cursor(level, parts) for level, parts in enumerate(levels)]
    heap = [(each.key, -each.level, each) for each in cursors if each.is_open]
    heapq.heapify(heap)
    # The path that was passed on last, and the oldest level that counts there.
    last: bytes | None = None
    since = -1
    # Below these paths nothing older than the level counts, the innermost path last.
    ended: list[tuple[bytes, int]] = []
    while heap:
        key, _age, cursor = heap[0]
        level = cursor.level
        if key == last:
            # An older record of the same path.
            run = Part(cursor.block, cursor.position, cursor.position + 1)
            if cursor.ends_below(run) and not (ended and ended[-1][0] == key + b'\0'):
                ended.append((key + b'\0', max(level, since)))
        elif level < _since(ended, key):
            run = cursor.below(ended[-1][0])
        else:
            run = cursor.run(min(heap[1:3], default=None))
            for part in _without_removed(run) if level else (run,):
                yield level, part
            last = run.block.keys[run.end - 1]
            since = _since(ended, last)
            if cursor.ends_below(run):
                # It has nothing below it, so it is the last of the run if older levels
                # have.
                ended.append((last + b'\0', max(level, since)))
        if cursor.move_to(run.end):
            heapq.heapreplace(heap, (cursor.key, -level, cursor))
        else:
            heapq.heappop(heap)


def _since(ended: list[tuple[bytes, int]], key: bytes) -> int:
    """The oldest level that counts at a path; forgets the paths that are passed."""
    while ended and not key.startswith(ended[-1][0]):
        ended.pop()
    return ended[-1][1] if ended else -1


def _without_removed(run: Part) -> Iterator[Part]:
    """The parts of a run between the records of removals."""
    block, start, end = run
    kinds = block.kinds
    while REMOVED in kinds[start:end]:
        at = kinds.index(REMOVED, start)
        if start < at:
            yield Part(block, start, at)
        start = at + 1
    if start < end:
        yield Part(block, start, end)


class _Cursor:
    """A place in the index of one level."""

    def __init__(self, level: int, parts: Iterable[Part]) -> None:
        self.level = level
        self._parts = iter(parts)
        self.is_open = self._next()

    @property
    def key(self) -> bytes:
        return self.block.keys[self.position]

    def run(self, limit: 'tuple[bytes, int, _Cursor] | None') -> Part:
        """The records up to those that another level has next."""
        end = self._end
        if limit is not None:
            keys = self.block.keys
            end = bisect_left(keys, limit[0], self.position, end)
            # Of one path, the newest record comes first.
            newer = self.level > limit[2].level
            end += newer and end < self._end and keys[end] == limit[0]
        return Part(self.block, self.position, end)

    def below(self, prefix: bytes) -> Part:
        """The records whose keys begin like that; the next one does."""
        after = prefix[:-1] + b'\1'
        end = bisect_left(self.block.keys, after, self.position, self._end)
        return Part(self.block, self.position, end)

    def ends_below(self, run: Part) -> bool:
        """Whether the last record of a run is not a directory's."""
        return self.block.kinds[run.end - 1] != 'directory'

    def move_to(self, position: int) -> bool:
        """Whether there are further records."""
        self.position = position
        return position < self._end or self._next()

    def _next(self) -> bool:
        part = next(self._parts, None)
        if part is None:
            return False
        self.block, self.position, self._end = part
        return True
