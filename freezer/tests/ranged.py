"""Streams in memory that are read by ranges, and ranges to read."""

from collections.abc import Generator, Sequence

from hypothesis import strategies as st

from freezer.tests.archives import cut
from freezer.utils.blocks import Block
from freezer.utils.ranges import Range, RangedStream


class MemoryStream(RangedStream):
    """:ivar fetched: the ranges of each call"""

    def __init__(self, content: bytes, block: int = 1000) -> None:
        self.content = content
        self.size = len(content)
        self.fetched: list[list[Range]] = []
        self.closed = 0
        self._block = block

    def ranges(self, ranges: Sequence[Range]) -> Generator[Block, None, None]:
        self.fetched.append(list(ranges))
        check(ranges, self.size)
        try:
            # Blocks do not end where ranges do.
            yield from cut(joined(self.content, ranges), self._block)
        finally:
            self.closed += 1


def check(ranges: Sequence[Range], size: int) -> None:
    """Check that ranges are what callers promise: sorted, disjoint, and inside."""
    last = 0
    for start, end in ranges:
        assert last <= start <= end <= size
        last = end


def joined(content: bytes, ranges: Sequence[Range]) -> bytes:
    return b''.join(content[start:end] for start, end in ranges)


@st.composite
def ranges_of(draw: st.DrawFn, size: int) -> list[Range]:
    """Up to six ranges of a stream, some of them empty, or next to each other."""
    place = st.integers(0, size)
    count = draw(st.integers(0, 6))
    places = draw(st.lists(place, min_size=2 * count, max_size=2 * count))
    places.sort()
    return list(zip(places[::2], places[1::2], strict=True))
