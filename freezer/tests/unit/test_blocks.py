"""Pieces of a stream."""

from collections.abc import Iterator

from hypothesis import example, given
from hypothesis import strategies as st

from freezer.utils.blocks import Buffer, Buffers, cut


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
    assert [bytes(block) for block in blocks] == [b'abc', b'def']
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
    blocks = cut(['gr', 'ün'], 4)
    assert [bytes(block) for block in blocks] == ['grü'.encode(), b'n']


@given(st.lists(st.binary(max_size=50)), st.integers(1, 20), st.integers(0, 3))
def test_memory_is_used_again(chunks: list[bytes], size: int, held: int) -> None:
    buffers = Buffers()
    seen: list[bytes] = []
    under_way: list[Buffer] = []
    used = set()
    for block in cut(chunks, size, buffers):
        used.add(id(block))
        under_way.append(block)
        block.payload = 'of this content'
        if len(under_way) > held:
            done = under_way.pop(0)
            seen.append(bytes(done))
            if len(done) == size:
                buffers.give_back(done)
    seen += [bytes(block) for block in under_way]
    assert b''.join(seen) == b''.join(chunks)
    # Those that are held, and the one that is filled; the last may be another.
    assert len(used) <= held + 2


def test_a_digest_is_not_that_of_what_was_there_before() -> None:
    buffers = Buffers()
    block = Buffer(b'abc')
    block.payload = 'of abc'
    buffers.give_back(block)
    assert buffers.take() is block
    assert block.payload is None


def test_memory_that_something_still_points_into() -> None:
    buffers = Buffers()
    blocks = cut([b'abcd', b'ef'], 4, buffers)
    first = next(blocks)
    lingering = memoryview(first)
    buffers.give_back(first)
    (last,) = blocks
    assert last == b'ef'
    assert len(lingering) == 4


def test_a_buffer_is_large_enough() -> None:
    buffers = Buffers()
    buffers.give_back(Buffer(3))
    assert len(buffers.take(4)) == 4
