"""Shows progress: a live line on a terminal, else a line every 30 seconds.

A separate thread reads the counters; the threads that work never wait for it.
"""

import collections
import contextlib
import functools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TextIO

from freezer.utils import human
from freezer.utils.progress import Progress
from freezer.utils.text import columns_of, cut_middle, printable

if TYPE_CHECKING:
    from tqdm import tqdm

#: seconds between lines without a terminal
LINE_SECONDS = 30.0
#: seconds between updates of the live line
LIVE_SECONDS = 0.25
#: seconds after which a store that has not answered is named, on a terminal
UNANSWERED_SECONDS = 2.0
#: columns, if the terminal does not report them
WIDTH = 80

_FIRST_SECONDS = 0.5
# The rate is an average over this time.
_RATE_SECONDS = 15.0
_SHORTEST_BAR = 10
# On a terminal with fewer columns, the numbers have the place of the current file.
_NARROW = 60
# How long to wait for a thread that may be blocked by a stopped terminal.
_PATIENCE_SECONDS = 1.0
# Raised by writes when the terminal is gone or the stream is closed.
_GONE = (OSError, ValueError)


class _Piece(NamedTuple):
    """A part of a line; if the line is too long, the highest rank is dropped first.

    :param shorter: used instead of dropping it
    """

    text: str
    rank: int
    shorter: '_Piece | None' = None


class Watch:
    """Shows the progress of a run on a stream that others write to as well."""

    def __init__(self, progress: Progress, stream: TextIO) -> None:
        self._progress = progress
        self._stream = stream
        # Reentrant: a signal may interrupt its holder, which then prints why.
        self._lock = threading.RLock()
        self._ended = threading.Event()
        # A total, and the most bytes of it that were done.
        self._reached = 0, 0
        self._rate = _RateMeter(lambda: self._done or progress.moved)
        self._doing = ''
        self._bar: tqdm[None] | None = None
        self._named: set[str] = set()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """A block whose progress is shown."""
        live = _is_terminal(self._stream)
        show = self._show_live if live else self._show_lines
        thread = threading.Thread(target=show, name='watch', daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.end()
            thread.join(_PATIENCE_SECONDS)

    def end(self) -> None:
        """Remove the live line; show nothing more."""
        self._ended.set()
        with self._held() as held:
            if held and self._bar is not None:
                # A terminal that is gone does not make the run fail.
                with contextlib.suppress(*_GONE):
                    self._bar.clear()
                self._forget()

    @contextlib.contextmanager
    def interrupted(self) -> Iterator[None]:
        """A block in which others write: the live line is removed meanwhile."""
        with self._held() as held:
            if held and self._bar is not None:
                self._bar.clear()
            yield

    @contextlib.contextmanager
    def _held(self) -> Iterator[bool]:
        """Take the lock, for a limited time: a stopped terminal blocks its holder."""
        held = self._lock.acquire(timeout=_PATIENCE_SECONDS)
        try:
            yield held
        finally:
            if held:
                self._lock.release()

    def _show_lines(self) -> None:
        while not self._ended.wait(LINE_SECONDS):
            if self._progress.phase:
                self._attempt(self._print)

    def _show_live(self) -> None:
        if self._ended.wait(_FIRST_SECONDS):
            return
        while not self._ended.wait(LIVE_SECONDS):
            if silent := self._silent():
                self._attempt(functools.partial(self._name, silent))
            if self._progress.phase:
                self._attempt(functools.partial(self._draw, _line()))

    def _silent(self) -> list[str]:
        """Stores that have not answered for some time, each once."""
        now = time.monotonic()
        return [
            store
            for store, since in self._progress.unanswered.copy().items()
            if now - since >= UNANSWERED_SECONDS and store not in self._named
        ]

    def _name(self, stores: Sequence[str]) -> None:
        if self._bar is not None:
            self._bar.clear()
        for store in stores:
            self._named.add(store)
            print(f'Waiting for an answer from {store}', file=self._stream, flush=True)

    def _attempt(self, show: Callable[[], None]) -> None:
        try:
            with self._lock:
                # The run may have ended during the wait.
                if not self._ended.is_set():
                    show()
        except _GONE:
            self._ended.set()
            self._forget()

    def _forget(self) -> None:
        if self._bar is not None:
            # Otherwise tqdm writes once more when it is garbage-collected.
            self._bar.disable = True
            self._bar = None

    def _print(self) -> None:
        text = ', '.join(piece.text for piece in self._pieces())
        print(f'{self._progress.phase}: {text}', file=self._stream, flush=True)

    def _draw(self, line: 'Callable[..., tqdm[None]]') -> None:
        doing = self._progress.phase.split()[0]
        if doing != self._doing:
            # A new activity has a rate of its own.
            self._doing = doing
            self._rate.begin()
        width = _width(self._stream)
        current = printable(os.fsdecode(self._progress.current))
        # A quarter of the line, whatever the name: the rest must not move.
        name_width = width // 4 if current and width >= _NARROW else 0
        text = _fit(self._progress.phase, self._pieces(), width - name_width)
        done = self._done
        left = width - len(text)
        shape = '{desc}'
        if done is not None and left - name_width - 3 >= _SHORTEST_BAR:
            shape = '{desc} |{bar}|'
            left = name_width
        if name_width:
            name = cut_middle(current, left - 2)
            padding = ' ' * (left - 2 - columns_of(name))
            text_after = f'  {name}{padding}'
            shape += text_after.replace('{', '{{').replace('}', '}}')
        bar = self._bar
        if bar is None:
            # With a delay: tqdm would draw it at once, before it is set up.
            bar = line(file=self._stream, bar_format='{desc}', nrows=3, delay=1)
            self._bar = bar
        bar.ncols, bar.bar_format = width, shape
        bar.n, bar.total = done or 0, self._progress.total
        bar.set_description_str(text, refresh=False)
        bar.refresh()

    @property
    def _done(self) -> int | None:
        """Bytes of the total that are done; None without a total."""
        total = self._progress.total
        if not total:
            return None
        if total != self._reached[0]:
            self._reached = total, 0
        # Its parts grow at different times.
        done = max(self._reached[1], self._measure_done(total))
        self._reached = total, done
        return done

    def _measure_done(self, total: int) -> int:
        progress = self._progress
        if progress.stores:
            # The archive is ahead of the bytes sent, by some parts.
            archived, stored = progress.archive_bytes, progress.stored_bytes
            sent = min(progress.moved, stored)
            return min(archived * sent // stored if stored else 0, total)
        # A received byte counts half, an extracted one fully: the number grows
        # whichever of the two is slower. Some bytes are received more than once.
        extracted = progress.stored_bytes
        return (extracted + max(extracted, min(total, progress.moved))) // 2

    def _pieces(self) -> list[_Piece]:
        progress = self._progress
        pieces = []
        rate = self._rate.measure()
        done, total = self._done, progress.total
        moved = progress.moved
        if done is not None and total:
            pieces.append(_Piece(f'{done * 100 // total}%', 0))
            size = human.size(done)
            short = _Piece(size, 3)
            pieces.append(_Piece(f'{size} of {human.size(total)}', 6, short))
            if progress.stores:
                pieces.append(_Piece(f'{human.size(moved)} sent', 2))
        elif progress.stores:
            pieces.append(_Piece(f'{human.size(progress.archive_bytes)} read', 1))
            pieces.append(_Piece(f'{human.size(moved)} sent', 2))
        elif moved:
            pieces.append(_Piece(human.size(moved), 1))
        if moved or done:
            pieces.append(_Piece(human.speed(rate, 1), 1))
        if progress.files:
            pieces.append(_Piece(human.number(progress.files, 'file'), 4))
        if progress.under_way:
            pieces.append(_Piece(human.number(progress.under_way, 'part'), 5))
        pieces.append(_Piece(human.clock(progress.seconds), 2))
        if done is not None and total and rate > 0:
            left = human.clock((total - done) / rate)
            pieces.append(_Piece(f'{left} left', 1))
        return pieces


class _RateMeter:
    """The average growth per second of a number over the last seconds."""

    def __init__(
        self,
        number: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._number = number
        self._clock = clock
        self._measured: collections.deque[tuple[float, int]] = collections.deque()
        self.begin()

    def begin(self) -> None:
        """Forget earlier measurements."""
        self._measured.clear()
        self._measured.append((self._clock(), self._number()))

    def measure(self) -> float:
        """Measure, and return the rate since a measurement about 15 s ago."""
        now, number = self._clock(), self._number()
        self._measured.append((now, number))
        while len(self._measured) > 2 and self._measured[1][0] <= now - _RATE_SECONDS:
            self._measured.popleft()
        then, before = self._measured[0]
        return max(0.0, (number - before) / (now - then)) if now > then else 0.0


def _fit(phase: str, pieces: Sequence[_Piece], width: int) -> str:
    """The line with as many pieces as fit."""
    pieces = list(pieces)
    while True:
        text = f'{phase}: {", ".join(piece.text for piece in pieces)}'
        if len(text) <= width or len(pieces) == 1:
            return text[:width]
        last = max(pieces, key=lambda piece: piece.rank)
        at = pieces.index(last)
        pieces[at : at + 1] = [last.shorter] if last.shorter else []


def _is_terminal(stream: TextIO) -> bool:
    """Whether a line can be redrawn there."""
    logs_there = any(
        isinstance(handler, logging.StreamHandler) and handler.stream is stream
        for handler in logging.getLogger().handlers
    )
    # Log records would overwrite the line.
    return stream.isatty() and not logs_there


def _width(stream: TextIO) -> int:
    """Usable columns: at the last one some terminals begin a new line."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except OSError:
        columns = 0
    return (columns or WIDTH) - 1


@functools.cache
def _line() -> 'Callable[..., tqdm[None]]':
    """tqdm, set up."""
    # Imported late: that takes as long as a small backup to a near store.
    from tqdm import tqdm

    # No monitor thread.
    tqdm.monitor_interval = 0
    # tqdm's own lock is shared between processes, needs a semaphore of the system, and
    # is never released if the terminal goes away while a line is drawn. Watch has a
    # lock, so this one never blocks.
    tqdm.set_lock(threading.Semaphore(sys.maxsize))
    return tqdm
