"""SIGTERM, SIGINT and SIGHUP as an exception, so that what was begun is undone."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


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
def raised() -> Iterator[None]:
    """Raise :class:`Interrupted` in the main thread when the first signal comes.

    Later ones are ignored: undoing must not be interrupted.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    before = {each: signal.signal(each, handle) for each in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
