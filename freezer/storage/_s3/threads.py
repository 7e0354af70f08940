"""What goes to a store at the same time."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar('T')


@contextlib.contextmanager
def threads(number: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads that are waited for, but for what a signal ends."""
    pool = ThreadPoolExecutor(number, name)
    patient = True
    try:
        yield pool
    except BaseException as error:
        patient = isinstance(error, Exception)
        raise
    finally:
        pool.shutdown(patient)


@contextlib.contextmanager
def in_background(read: Callable[[], T]) -> Iterator[Future[T]]:
    """A block, and something that is looked at meanwhile.

    Something that only reads: a signal that ends the block does not wait for it.
    """
    with threads(1, 's3-background') as pool:
        yield pool.submit(read)
