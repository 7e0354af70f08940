"""Progress for the person who watches: one live line on a terminal, else one line now
and then.

A thread looks at the numbers. What is done is done by others, and never waits for it.
"""

import collections
import contextlib
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TextIO

from freezer.utils import human
from freezer.utils.progress import Progress

if TYPE_CHECKING:
    from tqdm import tqdm

#: seconds from one line to the next where there is no terminal
LINE_SECONDS = 30.0
#: seconds from one look to the next where there is one; what takes less shows nothing
LIVE_SECONDS = 0.25
#: columns that are assumed where a terminal does not say
WIDTH = 80

_FIRST_SECONDS = 0.5
# The rate is that of the last seconds: what a line does now.
_RATE_SECONDS = 15.0
_SHORTEST_BAR = 10
# A thread that cannot write any more is not waited for.
_PATIENCE_SECONDS = 1.0
# What writing raises when the terminal is gone, or the stream is closed.
_GONE = (OSError, ValueError)


class _Piece(NamedTuple):
    """A part of a line; where all do not fit, those with the highest rank go first.

    :param shorter: what stands in its place then
    """

    text: str
    rank: int
    shorter: '_Piece | None' = None


class Watch:
    """Tells how far a run is, in the block.

    :param stream: where it is told, and where others write in between
    """

    def __init__(self, progress: Progress, stream: TextIO) -> None:
        self._progress = progress
        self._stream = stream
        # One that has it may be interrupted, and then say why.
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._rate = _RateOf(lambda: self._done or progress.moved)
        self._doing = ''
        self._bar: tqdm[None] | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """A block in which it is told."""
        live = _is_terminal(self._stream)
        tell = self._tell_live if live else self._tell_lines
        thread = threading.Thread(target=tell, name='watch', daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.end()
            thread.join(_PATIENCE_SECONDS)

    def end(self) -> None:
        """Nothing more is told; the live line is taken away."""
        self._ended.set()
        with self._held() as held:
            if held and self._bar is not None:
                # What comes of the run does not depend on a terminal.
                with contextlib.suppress(*_GONE):
                    self._bar.clear()
                self._forget()

    @contextlib.contextmanager
    def interrupted(self) -> Iterator[None]:
        """A block in which something else is written: the live line is not there."""
        with self._held() as held:
            if held and self._bar is not None:
                self._bar.clear()
            yield

    @contextlib.contextmanager
    def _held(self) -> Iterator[bool]:
        """The lock, if it is to be had: a terminal that is stopped stops who draws."""
        held = self._lock.acquire(timeout=_PATIENCE_SECONDS)
        try:
            yield held
        finally:
            if held:
                self._lock.release()

    def _tell_lines(self) -> None:
        while not self._ended.wait(LINE_SECONDS):
            if self._progress.phase:
                self._attempt(self._print)

    def _tell_live(self) -> None:
        if self._ended.wait(_FIRST_SECONDS):
            return
        while not self._ended.wait(LIVE_SECONDS):
            if self._progress.phase:
                self._attempt(functools.partial(self._draw, _line()))

    def _attempt(self, tell: Callable[[], None]) -> None:
        try:
            with self._lock:
                # It may have ended while this waited.
                if not self._ended.is_set():
                    tell()
        except _GONE:
            self._ended.set()
            self._forget()

    def _forget(self) -> None:
        if self._bar is not None:
            # Else it writes once more, when it is collected.
            self._bar.disable = True
            self._bar = None

    def _print(self) -> None:
        text = ', '.join(piece.text for piece in self._pieces())
        print(f'{self._progress.phase}: {text}', file=self._stream, flush=True)

    def _draw(self, line: 'Callable[..., tqdm[None]]') -> None:
        doing = self._progress.phase.split()[0]
        if doing != self._doing:
            # What it waited for before says nothing of how fast this is.
            self._doing = doing
            self._rate.begin()
        width = _width(self._stream)
        text = _fit(self._progress.phase, self._pieces(), width)
        done = self._done
        shape = '{desc}'
        if done is not None and width - len(text) - 3 >= _SHORTEST_BAR:
            shape = '{desc} |{bar}|'
        bar = self._bar
        if bar is None:
            # By itself it would be drawn at once, before it is set up.
            bar = line(file=self._stream, bar_format='{desc}', nrows=3, delay=1)
            self._bar = bar
        bar.ncols, bar.bar_format = width, shape
        bar.n, bar.total = done or 0, self._progress.total
        bar.set_description_str(text, refresh=False)
        bar.refresh()

    @property
    def _done(self) -> int | None:
        """Bytes of the total that are behind us; None where there is no total."""
        progress = self._progress
        total = progress.total
        if not total:
            return None
        # A byte that is received has half its way behind it, and all of it when it is
        # extracted: so the number grows, whichever of the two is the slower one. Some
        # bytes are received more than once.
        extracted = progress.stored_bytes
        return (extracted + max(extracted, min(total, progress.moved))) // 2

    def _pieces(self) -> list[_Piece]:
        progress = self._progress
        pieces = []
        rate = self._rate.look()
        done, total = self._done, progress.total
        moved = progress.moved
        if done is not None and total:
            pieces.append(_Piece(f'{done * 100 // total}%', 0))
            size = human.size(done)
            short = _Piece(size, 3)
            pieces.append(_Piece(f'{size} of {human.size(total)}', 6, short))
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


class _RateOf:
    """Per second, over the last seconds, of a number that grows."""

    def __init__(
        self,
        number: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._number = number
        self._clock = clock
        self._seen: collections.deque[tuple[float, int]] = collections.deque()
        self.begin()

    def begin(self) -> None:
        """Forget what was before."""
        self._seen.clear()
        self._seen.append((self._clock(), self._number()))

    def look(self) -> float:
        """The rate, since a look that was long enough ago."""
        now, number = self._clock(), self._number()
        self._seen.append((now, number))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _RATE_SECONDS:
            self._seen.popleft()
        then, before = self._seen[0]
        return max(0.0, (number - before) / (now - then)) if now > then else 0.0


def _fit(phase: str, pieces: Sequence[_Piece], width: int) -> str:
    """As many of the pieces as fit."""
    pieces = list(pieces)
    while True:
        text = f'{phase}: {", ".join(piece.text for piece in pieces)}'
        if len(text) <= width or len(pieces) == 1:
            return text[:width]
        last = max(pieces, key=lambda piece: piece.rank)
        at = pieces.index(last)
        pieces[at : at + 1] = [last.shorter] if last.shorter else []


def _is_terminal(stream: TextIO) -> bool:
    """Whether a line can be drawn again and again there."""
    logs_there = any(
        isinstance(handler, logging.StreamHandler) and handler.stream is stream
        for handler in logging.getLogger().handlers
    )
    # The log would be written over the line.
    return stream.isatty() and not logs_there


def _width(stream: TextIO) -> int:
    """Columns that may be written to; in the last one some terminals begin a line."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except OSError:
        columns = 0
    return (columns or WIDTH) - 1


@functools.cache
def _line() -> 'Callable[..., tqdm[None]]':
    """What draws a line, and takes it away."""
    # Not before: it takes as long to import as a small backup to a near store.
    from tqdm import tqdm

    # No thread that watches the one that draws.
    tqdm.monitor_interval = 0
    # Its own is one between processes, takes a semaphore of the system, and stays taken
    # for ever if a terminal is gone while a line is drawn.
    tqdm.set_lock(_NoLock())
    return tqdm


class _NoLock:
    """In place of a lock, for what has one already."""

    def acquire(self, *_arguments: object) -> bool:
        return True

    def release(self) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_exc_info: object) -> None:
        pass
