"""The only loop that repeats requests to a store.

An operation has a budget of time, not of attempts. The class of an error says whether
it may be repeated (``temporary``, in :mod:`freezer.storage.exceptions`), its
``retry_after`` how long the store asked to wait.

botocore's own retries are off: its five attempts are over in 7.5 s, it does not repeat
429, 409 or ``BadDigest``, and its quota makes a client give up for good after a bad
minute.
"""

import copy
import logging
import math
import random
import threading
import time
from collections.abc import Callable
from typing import Self, TypeVar

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
# Possible whatever the limit of :meth:`Retry.limited`: one attempt may take longer.
_REPETITIONS = 2


class Retry:
    """Runs calls until they succeed, fail for good, or their time is up.

    Safe to share between threads.

    :param budget: seconds an operation may take with all its attempts
    :param clock: seconds, monotonic
    :param progress: counts the repetitions
    :param store: its name for the user, who is told that it does not answer
    """

    def __init__(
        self,
        budget: float,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        progress: Progress | None = None,
        store: str = '',
    ) -> None:
        self._store = store
        self._budget = budget
        self._limit: Callable[[], float] = lambda: math.inf
        self._clock = clock
        self._jitter = jitter
        self._progress = progress or Progress()
        self._answered = False
        self._noticed = clock()

    def within(self, seconds: float) -> Self:
        """The same with a smaller budget; this one keeps its own."""
        shorter = copy.copy(self)
        shorter._budget = min(self._budget, seconds)
        return shorter

    def limited(self, seconds: float, when: Callable[[], bool]) -> Self:
        """The same, but after two repetitions it gives up sooner.

        :param seconds: that an operation may take then
        :param when: whether this is the case at the moment
        """
        limited = copy.copy(self)
        limited._limit = lambda: seconds if when() else math.inf
        return limited

    def _notice(self, failure: StorageException, elapsed: float) -> None:
        """Report a long wait on the terminal, every 30 seconds at most."""
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
        """The call's result, repeated as long as the budget allows.

        :param cancelled: once set, the last error is raised at once
        :raises StorageException: the last error, once it is final or time is up
        """
        cancelled = cancelled or threading.Event()
        if self._answered:
            return self._run(call, cancelled)
        with self._progress.waiting_for(self._store):
            return self._run(call, cancelled)

    def _run(self, call: Callable[[], T], cancelled: threading.Event) -> T:
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
            limit = min(allowed, self._limit())
            # Full jitter: clients that were refused together return at different times.
            delay = self._jitter() * min(_LONGEST_DELAY, _FIRST_DELAY * 2**attempt)
            elapsed = self._clock() - start
            if failure.retry_after is not None:
                # If it asks for more time than there is left, wait for what is left.
                delay = max(delay, min(failure.retry_after, limit - elapsed))
            if attempt > _REPETITIONS:
                allowed = limit
            if elapsed + delay > allowed:
                raise type(failure)(
                    f'{failure.message}; gave up after {attempt} '
                    f'attempt{"s" * (attempt > 1)} in {elapsed:.0f} s'
                ) from failure
            line = 'attempt %d: %s; again in %.1f s'
            LOG.warning(line, attempt, failure.message, delay)
            self._notice(failure, elapsed)
            if cancelled.wait(delay):
                raise failure
            self._progress.retry()
