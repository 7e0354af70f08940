"""Pieces of a stream, and the memory they are in."""

import collections
from collections.abc import Iterable, Iterator

import six

#: a piece of a stream: any size, not changed once handed on
Block = bytes | bytearray


class Buffer(bytearray):
    """Memory to be used again, which may carry the digest of what is in it.

    :ivar sha256: hexadecimal, of the bytes as they are now; None if nobody knows
    """

    sha256: str | None = None


class Buffers:
    """Buffers that nobody uses now. Safe to share between threads.

    Memory that is new costs more than all that is done with it: the kernel's handing
    it out takes 0.7 s for a GiB, a copy 0.13 s, a SHA-256 0.6 s.
    """

    def __init__(self) -> None:
        self._free: collections.deque[Buffer] = collections.deque()

    def take(self, size: int = 0) -> Buffer:
        """A buffer of at least that size, with anything in it."""
        try:
            buffer = self._free.pop()
        except IndexError:
            return Buffer(size)
        return buffer if len(buffer) >= size else Buffer(size)

    def give_back(self, buffer: Buffer) -> None:
        """The caller, and whoever it gave the buffer to, will not look at it again."""
        buffer.sha256 = None
        self._free.append(buffer)


def cut(
    chunks: Iterable[Block | memoryview | str],
    size: int,
    buffers: Buffers | None = None,
) -> Iterator[Buffer]:
    """The same bytes in blocks of exactly ``size``, the last one shorter.

    Every block is a buffer of its own that nobody else holds. An empty stream gives
    no block.

    :param buffers: all of ``size``; to be given back there, if at all
    """
    buffers = buffers or Buffers()
    block, filled = buffers.take(), 0
    for chunk in chunks:
        # Freezer 19's queue may carry text.
        view = memoryview(six.ensure_binary(chunk) if isinstance(chunk, str) else chunk)
        while view:
            room = size - filled
            part, view = view[:room], view[room:]
            if filled < len(block):
                with memoryview(block) as whole:
                    whole[filled : filled + len(part)] = part
            else:
                # A new one grows: a stream may be much shorter than a block.
                block += part
            filled += len(part)
            if filled == size:
                yield block
                block, filled = buffers.take(), 0
    if filled:
        yield _shortened(block, filled)


def _shortened(block: Buffer, size: int) -> Buffer:
    try:
        del block[size:]
    except BufferError:
        # Something that is garbage already still points into it.
        with memoryview(block) as whole:
            return Buffer(whole[:size])
    return block
