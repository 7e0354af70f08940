"""The one loop that tries again.

botocore's own is off: its five attempts are over in 7.5 s, it does not repeat 429, 409
or ``BadDigest``, and its quota makes a client give up for good after a bad minute. Here
an operation has a budget of time. What may be repeated is said by the error's class
(``temporary``), in :mod:`freezer.storage.exceptions`; how long the store wants to be
left alone (Retry-After), by its ``retry_after``.
"""

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from freezer.storage.exceptions import StorageException, Unreachable
from freezer.utils.progress import Progress
from freezer.utils.text import NOTICES

LOG = logging.getLogger(__name__)
T = TypeVar('T')

# A store that has never answered is more likely mistyped than overloaded.
FIRST_ANSWER_SECONDS = 20.0
NOTICE_SECONDS = 30.0
_FIRST_DELAY = 0.2
_LONGEST_DELAY = 30.0


class Retry:
    """Runs calls until they succeed, fail for good, or their time is up.

    Safe to share between threads.

    :param budget: seconds an operation may take with all its attempts
    :param clock: seconds that count
    :param progress: is told of every repetition
    """

    def __init__(
        self,
        budget: float,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        progress: Progress | None = None,
    ) -> None:
        self._budget = budget
        self._clock = clock
        self._jitter = jitter
        self._progress = progress or Progress()
        self._answered = False
        self._noticed = clock()

    @contextlib.contextmanager
    def at_most(self, seconds: float) -> Iterator[None]:
        """Give every call in the block less time: for cleaning up after a failure."""
        before = self._budget
        self._budget = min(before, seconds)
        try:
            yield
        finally:
            self._budget = before

    def _notice(self, failure: StorageException, elapsed: float) -> None:
        """Now and then, a line for the person who wonders why nothing happens."""
        now = self._clock()
        if elapsed >= NOTICE_SECONDS and now - self._noticed >= NOTICE_SECONDS:
            self._noticed = now
            NOTICES.warning(
                'Still trying after %.0f s (of %.0f): %s',
                elapsed,
                self._budget,
                failure.message,
            )

    def run(
        self,
        call: Callable[[], T],
        cancelled: threading.Event | None = None,
    ) -> T:
        """The call's result.

        :param cancelled: once set, the error at hand is raised instead of waiting
        :raises StorageException: the last error, once it is final or time is up
        """
        cancelled = cancelled or threading.Event()
        start = self._clock()
        attempt = 0
        while True:
            attempt += 1
            try:
                result = call()
            except StorageException as error:
                failure = error
            else:
                self._answered = True
                return result
            self._answered |= not isinstance(failure, Unreachable)
            if not failure.temporary or cancelled.is_set():
                raise failure
            allowed = self._budget
            if not self._answered:
                allowed = min(allowed, FIRST_ANSWER_SECONDS)
            # Full jitter: clients that were refused together come back apart.
            delay = self._jitter() * min(_LONGEST_DELAY, _FIRST_DELAY * 2**attempt)
            elapsed = self._clock() - start
            if failure.retry_after is not None:
                # One that asks for more time than there is gets what there is.
                delay = max(delay, min(failure.retry_after, allowed - elapsed))
            if elapsed + delay > allowed:
                raise type(failure)(
                    f'{failure.message}; gave up after {attempt} '
                    f'attempt{"s" * (attempt > 1)} in {elapsed:.0f} s'
                ) from failure
            said = 'attempt %d: %s; again in %.1f s'
            LOG.warning(said, attempt, failure.message, delay)
            self._notice(failure, elapsed)
            if cancelled.wait(delay):
                raise failure
            self._progress.retry()
