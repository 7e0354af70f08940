"""Rate limits and cancellation for all traffic with one store."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from freezer.storage.exceptions import Cancelled
from freezer.utils.rate import UNLIMITED, Rate

# Bytes to send or receive at once where no rate is limited: a cancellation is noticed
# after so many.
_BLOCK = 1024 * 1024


class Wire:
    """Rate limits and cancellation for all traffic with one store.

    Safe to share between threads, clients and buckets.
    """

    def __init__(
        self,
        sending: Rate = UNLIMITED,
        receiving: Rate = UNLIMITED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sending = sending
        self._receiving = receiving
        self._clock = clock
        self._thread = threading.local()
        # Small with a limit, so that the store notices it.
        self.send_size = sending.step if sending.per_second else _BLOCK
        """Bytes to send at once."""
        self.read_size = receiving.step if receiving.per_second else _BLOCK
        """Bytes to read at once."""

    @contextlib.contextmanager
    def cancelled_by(self, event: threading.Event | None) -> Iterator[None]:
        """Once the event is set, this thread sends and receives no more in the block.

        :raises Cancelled: from the next read or write
        """
        before = self._event
        self._thread.event = event
        try:
            yield
        finally:
            self._thread.event = before

    def now(self) -> float:
        """Monotonic seconds, without those that this thread waited for a rate limit:
        they must not use up the retry budget."""
        return self._clock() - self._held

    def sending(self, size: int) -> None:
        """Account for bytes that are sent next; wait until they may be sent."""
        self._take(self._sending, size)

    def received(self, size: int) -> None:
        """Account for bytes that were read; wait until more may be read."""
        self._take(self._receiving, size)

    def _take(self, rate: Rate, size: int) -> None:
        event = self._event
        self._thread.held = self._held + rate.take(size, event)
        if event is not None and event.is_set():
            raise Cancelled('cancelled because another part of the backup failed')

    @property
    def _event(self) -> threading.Event | None:
        event: threading.Event | None = getattr(self._thread, 'event', None)
        return event

    @property
    def _held(self) -> float:
        held: float = getattr(self._thread, 'held', 0.0)
        return held
