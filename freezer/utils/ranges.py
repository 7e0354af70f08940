"""Ranges of a stream: (start, end), the end exclusive, in bytes.

Wherever several are passed, they are sorted and do not overlap.
"""

import abc
from collections.abc import Generator, Iterable, Iterator, Sequence

from freezer.utils.blocks import Block

Range = tuple[int, int]


class RangedStream(abc.ABC):
    """A stream that can be read at any place.

    :ivar size: bytes
    """

    size: int

    @abc.abstractmethod
    def ranges(self, ranges: Sequence[Range]) -> Generator[Block, None, None]:
        """The bytes of all ranges, concatenated.

        What several ranges share (a piece, a chunk) is read once.

        :raises StorageException, EncryptionError, EngineError: some are damaged,
            missing, or beyond the end
        """

    def read(self, start: int, end: int) -> bytes:
        """The bytes of one range; raises like :meth:`ranges`."""
        return b''.join(self.ranges([(start, end)]))

    def head(self, size: int) -> bytes:
        """The first bytes, or all if there are fewer.

        They need not be checked yet: only for callers that verify them.
        """
        return self.read(0, min(size, self.size))


class Selection:
    """Finds the parts of ranges in a stream that is read from start to end."""

    def __init__(self, ranges: Iterable[Range]) -> None:
        self._rest = (one for one in ranges if one[0] < one[1])
        self._next = next(self._rest, None)

    def done(self) -> bool:
        """Whether all of the ranges has been found."""
        return self._next is None

    def within(self, start: int, end: int) -> Iterator[Range]:
        """The parts of the ranges between start and end.

        Each call begins where the previous one ended, or later. Iterate to the end.
        """
        while self._next is not None and self._next[0] < end:
            found = max(self._next[0], start), min(self._next[1], end)
            if found[0] < found[1]:
                yield found
            if self._next[1] > end:
                return
            self._next = next(self._rest, None)

    def touches(self, start: int, end: int) -> bool:
        """Whether a part of the ranges is between start and end."""
        return bool(list(self.within(start, end)))


class Portions:
    """Splits a stream into portions."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self._blocks = iter(blocks)
        self._rest: Block = b''

    def take(self, size: int) -> Iterator[Block]:
        """The next ``size`` bytes, fewer at the end of the stream."""
        while size:
            block = self._rest or next(self._blocks, None)
            if block is None:
                return
            part, self._rest = block[:size], block[size:]
            size -= len(part)
            yield part


def aligned(ranges: Iterable[Range], unit: int, size: int) -> list[Range]:
    """The whole units of a stream that hold the ranges; neighbours are joined.

    :param size: of the stream: its last unit may be shorter
    """
    found: list[Range] = []
    for start, end in ranges:
        if start == end:
            continue
        start, end = start // unit * unit, min(-(-end // unit) * unit, size)
        if found and start <= found[-1][1]:
            start = found.pop()[0]
        found.append((start, end))
    return found


def select(
    blocks: Iterable[Block], covered: Iterable[Range], wanted: Iterable[Range]
) -> Iterator[Block]:
    """The bytes of the wanted ranges. Stops reading after the last.

    :param blocks: the bytes of the covered ranges, concatenated
    :param covered: ranges that contain the wanted ones
    :raises EOFError: the blocks end before
    """
    selection = Selection(wanted)
    if selection.done():
        return
    portions = Portions(blocks)
    for position, end in covered:
        for block in portions.take(end - position):
            for start, stop in selection.within(position, position + len(block)):
                yield block[start - position : stop - position]
            position += len(block)
            if selection.done():
                return
    if not selection.done():
        raise EOFError
