"""A limit in bytes per second on all data that a process sends, or receives."""

import threading
import time
from collections.abc import Callable

# Unused budget of this much time may be used later: a wait that took slightly too long
# does not lower the rate, and after a slow source there is no burst.
_CATCH_UP_SECONDS = 0.1
# Small steps keep a slow stream steady, and among many connections none waits so long
# for its turn that the server closes it.
_STEPS_PER_SECOND = 20
_LARGEST_STEP = 64 * 1024

_NEVER = threading.Event()


class Rate:
    """A budget of bytes per second, shared between threads.

    Threads are served in the order of their calls, so none starves.

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
        """Bytes taken so far; for display only, because concurrent threads may lose
        updates."""
        self._clock = clock
        self._wait = wait
        self._lock = threading.Lock()
        self._due = clock()

    @property
    def step(self) -> int:
        """The largest number of bytes to take at once."""
        if not self.per_second:
            return _LARGEST_STEP
        return min(_LARGEST_STEP, max(1, self.per_second // _STEPS_PER_SECOND))

    def take(self, size: int, cancelled: threading.Event | None = None) -> float:
        """Wait until ``size`` more bytes may pass; returns the seconds waited.

        :param cancelled: once set, the wait ends
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


class Share(Rate):
    """A rate that counts its own bytes, and is limited by another with all others."""

    def __init__(self, whole: Rate) -> None:
        super().__init__(whole.per_second)
        self._whole = whole

    def take(self, size: int, cancelled: threading.Event | None = None) -> float:
        self.passed += size
        return self._whole.take(size, cancelled)


UNLIMITED = Rate(0)
