"""Pieces of a stream."""

from collections.abc import Iterator

from hypothesis import example, given
from hypothesis import strategies as st

from freezer.utils.blocks import cut


@given(st.lists(st.binary(max_size=50)), st.integers(1, 20))
@example([], 1)
@example([b''], 1)
@example([b'', b'abc', b''], 3)
def test_cut(chunks: list[bytes], size: int) -> None:
    blocks = list(cut(chunks, size))
    assert b''.join(blocks) == b''.join(chunks)
    assert all(len(block) == size for block in blocks[:-1])
    assert all(0 < len(block) <= size for block in blocks)


def test_blocks_are_nobody_elses() -> None:
    chunk = bytearray(b'abcdef')
    blocks = list(cut([chunk], 3))
    chunk[:] = b'xxxxxx'
    assert blocks == [b'abc', b'def']
    blocks[0][0] = 0
    assert blocks[1] == b'def'


def test_cut_takes_no_more_than_it_gives() -> None:
    """A block is out before the next chunk is asked for."""
    asked = 0

    def chunks() -> Iterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield b'abcd'

    blocks = cut(chunks(), 4)
    for number in range(1, 4):
        assert next(blocks) == b'abcd'
        assert asked == number


def test_text_is_cut_as_bytes() -> None:
    assert list(cut(['gr', 'ün'], 4)) == ['grü'.encode(), b'n']
