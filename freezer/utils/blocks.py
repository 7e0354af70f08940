"""Blocks of a stream, and reusable memory for them."""

import collections
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import six

#: a piece of a stream, of any size; not changed after it is passed on
Block = bytes | bytearray


class PartStart(NamedTuple):
    """Begins a part of a level among the blocks of a stream. The part ends where the
    next one begins, or with the stream.

    :ivar name: see :data:`freezer.storage.layout.PART_NAME`
    """

    name: str


class Buffer(bytearray):
    """Reusable memory, which may carry what the signature of a request has of it.

    :ivar payload: the SHA-256 of the current content, hexadecimal, or
        ``UNSIGNED-PAYLOAD``; None if it is to be computed
    """

    payload: str | None = None


class Buffers:
    """A pool of unused buffers. Threads may share it.

    New memory costs more than any work on it: the kernel takes 0.7 s to provide a GiB,
    a copy takes 0.13 s, a SHA-256 0.6 s.
    """

    def __init__(self) -> None:
        self._free: collections.deque[Buffer] = collections.deque()

    def take(self, size: int = 0) -> Buffer:
        """A buffer of at least that size, with arbitrary content."""
        try:
            buffer = self._free.pop()
        except IndexError:
            return Buffer(size)
        return buffer if len(buffer) >= size else Buffer(size)

    def give_back(self, buffer: Buffer) -> None:
        """Return a buffer; nobody may use it any more."""
        buffer.payload = None
        self._free.append(buffer)


def cut(
    chunks: Iterable[Block | memoryview | str],
    size: int,
    buffers: Buffers | None = None,
) -> Iterator[Buffer]:
    """Cut a stream into blocks of exactly ``size``; the last one may be shorter.

    Each block is a separate buffer, which the caller owns. An empty stream has none.

    :param buffers: a pool of buffers of ``size``, to which the caller may return them
    """
    buffers = buffers or Buffers()
    block, filled = buffers.take(), 0
    for chunk in chunks:
        # The queue of Freezer 19 may contain text.
        view = memoryview(six.ensure_binary(chunk) if isinstance(chunk, str) else chunk)
        while view:
            room = size - filled
            part, view = view[:room], view[room:]
            if filled < len(block):
                with memoryview(block) as whole:
                    whole[filled : filled + len(part)] = part
            else:
                # A new buffer grows: a stream may be much shorter than a block.
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
        # A memoryview that was not collected yet still points into it.
        with memoryview(block) as whole:
            return Buffer(whole[:size])
    return block
