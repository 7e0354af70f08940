"""Requests at the same time."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, ParamSpec, TypeVar

T = TypeVar('T')
P = ParamSpec('P')

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


def begin(
    pool: ThreadPoolExecutor,
    request: Future[T],
    call: Callable[P, T],
    *arguments: P.args,
    **named: P.kwargs,
) -> None:
    """Let a thread call something, with a future that the caller has made before.

    A signal may end ``submit`` while the thread is at work already. The caller has the
    future then as well, and can wait for it.
    """

    def run() -> None:
        if not request.set_running_or_notify_cancel():
            return
        try:
            result = call(*arguments, **named)
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            request.set_exception(error)
        else:
            request.set_result(result)

    try:
        pool.submit(run)
    except Exception as error:
        # No thread: there is nothing to wait for.
        request.set_exception(error)
        raise


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
