"""A stream no faster than it may be."""

import time
from collections.abc import Callable, Iterable, Iterator

from freezer.utils.blocks import Block

# Small enough that a slow stream flows instead of jumping.
_STEPS_PER_SECOND = 10


def limit(
    blocks: Iterable[Block],
    bytes_per_second: int,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Block]:
    """The same bytes, at most so many per second on average; 0 and less is no limit."""
    if bytes_per_second <= 0:
        yield from blocks
        return
    step = max(1, bytes_per_second // _STEPS_PER_SECOND)
    due = clock()
    for block in blocks:
        for start in range(0, len(block), step):
            part = block[start : start + step]
            # Time the source took is not made up for later: no bursts.
            due = max(due, clock()) + len(part) / bytes_per_second
            yield part
            sleep(max(0.0, due - clock()))
