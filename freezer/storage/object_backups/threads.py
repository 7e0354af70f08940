"""Requests at the same time."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

T = TypeVar('T')

_STOP_SECONDS = 1.0


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
    with threads(1, 'background') as pool:
        yield pool.submit(read)


def have_ended(requests: Iterable[Future[Any]], error: BaseException) -> bool:
    """Wait after an error until requests have ended; whether they have.

    The store may carry out a request after we stopped waiting for its answer, and so
    after the clean-up that it makes necessary. Only a store that does not answer makes
    the wait long; after a signal it is a second at most.
    """
    seconds = None if isinstance(error, Exception) else _STOP_SECONDS
    return not wait(requests, seconds).not_done
