"""Requests at the same time."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar('T')


@contextlib.contextmanager
def threads(number: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads are waited for, except after a signal."""
    pool = ThreadPoolExecutor(number, name)
    wait = True
    try:
        yield pool
    except BaseException as error:
        wait = isinstance(error, Exception)
        raise
    finally:
        pool.shutdown(wait)


@contextlib.contextmanager
def in_background(read: Callable[[], T]) -> Iterator[Future[T]]:
    """Read something while the block runs.

    Only read: if a signal ends the block, the thread is not waited for.
    """
    with threads(1, 's3-background') as pool:
        yield pool.submit(read)
