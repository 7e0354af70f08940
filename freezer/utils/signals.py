"""SIGTERM, SIGINT and SIGHUP as an exception, so that unfinished work is undone.

Undoing talks to a store that may no longer answer, and the sender of the signal does
not wait for long: systemd kills after 90 s, an operator sooner. So its time is limited.
"""

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: seconds from the signal until the process exits, even if it has not undone everything
GRACE_SECONDS = 4.0
_REDELIVERY_SECONDS = 0.05

_ON_FORCED_EXIT: list[Callable[[], object]] = []


class Interrupted(BaseException):
    """A signal arrived. Not an Exception, so that no error handler catches it."""

    def __init__(self, number: int) -> None:
        self.number = signal.Signals(number)
        super().__init__(self.name)

    @property
    def name(self) -> str:
        return self.number.name

    def pass_on(self) -> None:
        """Die of the signal, as if it was not handled: callers check for that."""
        signal.signal(self.number, signal.SIG_DFL)
        os.kill(os.getpid(), self.number)


@contextlib.contextmanager
def on_forced_exit(callback: Callable[[], object]) -> Iterator[None]:
    """While in the block, call this if the process exits because the grace period after
    a signal is over. The callback must neither wait nor fail."""
    _ON_FORCED_EXIT.append(callback)
    try:
        yield
    finally:
        _ON_FORCED_EXIT.remove(callback)


class _Deferral:
    """A block that signals do not interrupt.

    :ivar interruption: the one to raise at its end
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.interruption: Interrupted | None = None


_DEFERRALS: list[_Deferral] = []


@contextlib.contextmanager
def deferred(seconds: float) -> Iterator[None]:
    """A block that a signal does not interrupt: :class:`Interrupted` is raised at its
    end.

    :param seconds: how long the block may take after a signal, also after one that
        arrived before the block
    """
    deferral = _Deferral(max(seconds, GRACE_SECONDS))
    _DEFERRALS.append(deferral)
    _limit(deferral.seconds)
    try:
        yield
    finally:
        _DEFERRALS.remove(deferral)
        _limit(GRACE_SECONDS)
        if deferral.interruption is not None:
            raise deferral.interruption


def _limit(seconds: float) -> None:
    """After a signal, let the process have this many seconds from now on."""
    left, _interval = signal.getitimer(signal.ITIMER_REAL)
    if left:
        signal.setitimer(signal.ITIMER_REAL, seconds)


@contextlib.contextmanager
def as_exceptions(on_timeout: Callable[[Interrupted], None]) -> Iterator[None]:
    """Raise :class:`Interrupted` in the main thread when the first signal arrives.

    Later signals are ignored: undoing must not be interrupted. If the block has not
    ended after :data:`GRACE_SECONDS`, the process dies of the signal where it is. See
    :func:`deferred` for blocks that a signal does not interrupt.

    :param on_timeout: called before it dies
    """

    handled: set[int] = set()

    def handle(number: int, _frame: FrameType | None) -> None:
        handled.update(_SIGNALS)
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        interruption = Interrupted(number)

        def give_up(number: int, _frame: FrameType | None) -> None:
            # Mark SIGALRM handled so the redelivery thread does not re-enter this
            # handler.
            handled.add(number)
            report = functools.partial(on_timeout, interruption)
            callbacks: list[Callable[[], object]] = [*_ON_FORCED_EXIT, report]
            for callback in callbacks:
                # The signal may have arrived while a line was being written.
                with contextlib.suppress(OSError, RuntimeError):
                    callback()
            interruption.pass_on()

        signal.signal(signal.SIGALRM, give_up)
        if _DEFERRALS:
            deferral = _DEFERRALS[-1]
            deferral.interruption = interruption
            signal.setitimer(signal.ITIMER_REAL, deferral.seconds)
            return
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)
        raise interruption

    before = {each: signal.signal(each, handle) for each in _SIGNALS}
    try:
        with _redelivering(handled):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _redelivering(handled: set[int]) -> Iterator[None]:
    """Make sure that Python handles a signal at once.

    A signal that arrives after Python has checked for signals, and before it waits for
    a lock, is handled only when the lock is free: after minutes, if a store does not
    answer. So it is sent to the main thread again, until it has been handled.
    """
    here, there = os.pipe()
    os.set_blocking(there, False)
    before = signal.set_wakeup_fd(there, warn_on_full_buffer=False)
    main = threading.get_ident()

    def redeliver() -> None:
        with open(here, 'rb', buffering=0) as arrivals:
            while arrived := arrivals.read(1):
                (number,) = arrived
                while not ended.wait(_REDELIVERY_SECONDS) and number not in handled:
                    signal.pthread_kill(main, number)

    ended = threading.Event()
    thread = threading.Thread(target=redeliver, name='signals', daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        ended.set()
        os.close(there)
        thread.join()
