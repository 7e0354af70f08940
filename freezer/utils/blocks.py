"""Pieces of a stream."""

from collections.abc import Iterable, Iterator

import six

#: a piece of a stream: any size, not changed once handed on
Block = bytes | bytearray


def cut(chunks: Iterable[Block | str], size: int) -> Iterator[bytearray]:
    """The same bytes in blocks of exactly ``size``, the last one shorter.

    Every block is a buffer of its own that nobody else holds. An empty stream gives
    no block.
    """
    block = bytearray()
    for chunk in chunks:
        # Freezer 19's queue may carry text.
        view = memoryview(six.ensure_binary(chunk) if isinstance(chunk, str) else chunk)
        while len(block) + len(view) >= size:
            room = size - len(block)
            block += view[:room]
            view = view[room:]
            yield block
            block = bytearray()
        block += view
    if block:
        yield block
