"""The progress of a run: counters that the working threads write and others read.

They are for display and reports only: no thread waits here, and nothing depends on
them.
"""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from freezer.utils.blocks import Block
from freezer.utils.rate import UNLIMITED, Rate

Piece = TypeVar('Piece', bound=Block | memoryview)


class Progress:
    """The counters of one run.

    Counters that grow with each block are written by one thread, without a lock.
    Counters that several threads write have a lock, and change once per request.

    :param sending: limits and counts all bytes that the run sends
    :param receiving: the same for received bytes
    """

    def __init__(self, sending: Rate = UNLIMITED, receiving: Rate = UNLIMITED) -> None:
        self.sending = sending
        self.receiving = receiving
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self.phase = ''
        """The current activity, in a word or two; empty before the first one."""
        self.stores = False
        """Whether an archive is being written to the storage."""
        self.archive_bytes = 0
        """Uncompressed bytes of the archive, created or extracted."""
        self.stored_bytes = 0
        """The same, compressed and encrypted."""
        self.total: int | None = None
        """The final value of ``stored_bytes``, or of ``archive_bytes`` (about) while an
        archive is being written; None if it is not known."""
        self.files: int | None = None
        """Files of any kind except directories; None if the engine does not count."""
        self.current = b''
        """Path of the file that is being archived or extracted; empty if it is not
        known."""
        self.level: int | None = None
        """Level of the backup that was made or restored."""
        self.under_way = 0
        """Parts or ranges in flight."""
        self.retries = 0
        """Requests that were repeated."""
        self.warnings = 0
        """Number of problems that did not make the run fail."""
        self.incomplete = 0
        """Files, or attributes of files, that are missing from the backup because they
        could not be read."""
        self.unanswered: dict[str, float] = {}
        """Store -> since when it is waited for, in monotonic seconds: only those that
        have not answered yet."""
        self.notices: list[str] = []
        """Those of them that were shown to the user at once."""

    def notice(self, text: str) -> None:
        """Count a warning that is shown to the user at once."""
        self.warnings += 1
        self.notices.append(text)

    @property
    def seconds(self) -> float:
        """Since the beginning of the run."""
        return time.monotonic() - self._began

    @property
    def moved(self) -> int:
        """Bytes sent and received, with all attempts and small requests.

        It grows with each block; on a slow line ``stored_bytes`` grows by several parts
        at once.
        """
        return self.sending.passed + self.receiving.passed

    def start_over(self) -> None:
        """Another backup of the same run begins."""
        self._began = time.monotonic()
        self.archive_bytes = self.stored_bytes = 0
        self.retries = self.warnings = self.incomplete = 0
        self.notices.clear()

    def begin(self, stores: bool = False) -> None:
        """An archive begins; if it has to be created again, it is counted once."""
        self.stores = stores
        self.archive_bytes = self.stored_bytes = 0
        self.total = self.files = None
        self.current = b''

    def archived(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Count the blocks of an archive."""
        for block in blocks:
            self.archive_bytes += len(block)
            yield block

    def stored(self, blocks: Iterable[Piece]) -> Iterator[Piece]:
        """Count the blocks of a stored stream."""
        for block in blocks:
            self.stored_bytes += len(block)
            yield block

    def add_stored(self, count: int) -> None:
        """Count bytes of stored streams, several of which are under way."""
        with self._lock:
            self.stored_bytes += count

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        """While in the block, one more part is in flight."""
        with self._lock:
            self.under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self.under_way -= 1

    @contextlib.contextmanager
    def waiting_for(self, store: str) -> Iterator[None]:
        """While in the block, a store that has not answered yet is waited for."""
        with self._lock:
            self.unanswered.setdefault(store, time.monotonic())
        try:
            yield
        finally:
            with self._lock:
                self.unanswered.pop(store, None)

    def retry(self) -> None:
        """Count a request that is repeated."""
        with self._lock:
            self.retries += 1
