"""Bytes per second, for all that a process sends, or all that it receives."""

import threading
import time
from collections.abc import Callable

# What was not used may be caught up with for this long: a wait that took a little too
# long costs nothing, and a source that was slow makes no burst.
_CATCH_UP_SECONDS = 0.1
# A slow stream flows instead of jumping, and of many connections none waits so long
# for its turn that the other side gives up.
_STEPS_PER_SECOND = 20
_LARGEST_STEP = 64 * 1024

_NEVER = threading.Event()


class Rate:
    """A budget of bytes per second. Safe to share between threads: that is its use.

    Who comes first is served first, so nobody is left waiting.

    :param per_second: bytes; 0 and less is no limit
    :param wait: waits for an event, for some seconds at most
    """

    def __init__(
        self,
        per_second: int,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self.per_second = max(0, per_second)
        self.passed = 0
        """Bytes that were taken. Of many threads one may now and then overwrite what
        another has added: it is to be shown, not to be counted on."""
        self._clock = clock
        self._wait = wait
        self._lock = threading.Lock()
        self._due = clock()

    @property
    def step(self) -> int:
        """How many bytes to take at once, at most."""
        if not self.per_second:
            return _LARGEST_STEP
        return min(_LARGEST_STEP, max(1, self.per_second // _STEPS_PER_SECOND))

    def take(self, size: int, cancelled: threading.Event | None = None) -> float:
        """Wait until ``size`` bytes more are due; the seconds it took.

        :param cancelled: once set, nobody waits any more
        """
        self.passed += size
        if not self.per_second:
            return 0.0
        begun = self._clock()
        with self._lock:
            start = max(self._due, begun - _CATCH_UP_SECONDS)
            self._due = due = start + size / self.per_second
        if due > begun:
            self._wait(cancelled or _NEVER, due - begun)
        return self._clock() - begun


UNLIMITED = Rate(0)
