"""SIGTERM, SIGINT and SIGHUP as an exception, so that what was begun is undone.

Undoing talks to a store that may not answer any more, and who sent the signal will not
wait for it: systemd kills after 90 s, an operator sooner. So there is a time for it.
"""

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: seconds from the signal to the end, whatever has been undone
GRACE_SECONDS = 4.0
_KNOCK_SECONDS = 0.05

_EVEN_THEN: list[Callable[[], object]] = []


class Interrupted(BaseException):
    """A signal came. Not an Exception: nothing that goes on after errors catches it."""

    def __init__(self, number: int) -> None:
        self.number = signal.Signals(number)
        super().__init__(self.name)

    @property
    def name(self) -> str:
        return self.number.name

    def pass_on(self) -> None:
        """Die of the signal, as one who did not handle it: callers look for that."""
        signal.signal(self.number, signal.SIG_DFL)
        os.kill(os.getpid(), self.number)


@contextlib.contextmanager
def even_then(act: Callable[[], object]) -> Iterator[None]:
    """A block; if the process dies in it of a signal that there was no more time for,
    it does this first. It must neither wait nor fail."""
    _EVEN_THEN.append(act)
    try:
        yield
    finally:
        _EVEN_THEN.remove(act)


@contextlib.contextmanager
def raised(last_words: Callable[[Interrupted], None]) -> Iterator[None]:
    """Raise :class:`Interrupted` in the main thread when the first signal comes.

    Later ones are ignored: undoing must not be interrupted. If it has not come to its
    end after :data:`GRACE_SECONDS`, the process dies of the signal where it is.

    :param last_words: what is to be said then
    """

    handled: set[int] = set()

    def handle(number: int, _frame: FrameType | None) -> None:
        handled.update(_SIGNALS)
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        interruption = Interrupted(number)

        def give_up(number: int, _frame: FrameType | None) -> None:
            # Else it would be knocked for, and begin again, while it is at it.
            handled.add(number)
            tell = functools.partial(last_words, interruption)
            acts: list[Callable[[], object]] = [*_EVEN_THEN, tell]
            for act in acts:
                # It may have come while a line was being written.
                with contextlib.suppress(OSError, RuntimeError):
                    act()
            interruption.pass_on()

        signal.signal(signal.SIGALRM, give_up)
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)
        raise interruption

    before = {each: signal.signal(each, handle) for each in _SIGNALS}
    try:
        with _knocking(handled):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _knocking(handled: set[int]) -> Iterator[None]:
    """Make sure that Python sees a signal.

    One that comes after Python has looked for signals, and before it waits for a lock,
    is seen when the lock is free: after minutes, if a store does not answer. So it is
    sent to the waiting thread again, until it has been handled.
    """
    here, there = os.pipe()
    os.set_blocking(there, False)
    before = signal.set_wakeup_fd(there, warn_on_full_buffer=False)
    main = threading.get_ident()

    def knock() -> None:
        with open(here, 'rb', buffering=0) as arrivals:
            while arrived := arrivals.read(1):
                (number,) = arrived
                while not ended.wait(_KNOCK_SECONDS) and number not in handled:
                    signal.pthread_kill(main, number)

    ended = threading.Event()
    knocker = threading.Thread(target=knock, name='signals', daemon=True)
    knocker.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        ended.set()
        os.close(there)
        knocker.join()
