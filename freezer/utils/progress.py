"""How far a run is: numbers that those who do the work write, and others read.

Nobody waits for anybody here, and no number decides anything: it is for people, and
for reports.
"""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator

from freezer.utils.blocks import Block
from freezer.utils.rate import UNLIMITED, Rate


class Progress:
    """The numbers of one run.

    What is added to block by block has one thread that adds, and no lock. What many
    threads change has one, and changes once a request.

    :param sending: all that the run sends passes through it
    :param receiving: all that it receives
    """

    def __init__(self, sending: Rate = UNLIMITED, receiving: Rate = UNLIMITED) -> None:
        self.sending = sending
        self.receiving = receiving
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self.phase = ''
        """What is done now, in a word or two; empty before there is anything to see."""
        self.stores = False
        """Whether an archive is on its way to the storage."""
        self.archive_bytes = 0
        """Of the archive: made by a backup, extracted by a restore; uncompressed."""
        self.stored_bytes = 0
        """The same as it is on the storage: compressed, encrypted."""
        self.total: int | None = None
        """What ``stored_bytes`` will come to, where that is known beforehand."""
        self.files: int | None = None
        """Files of any kind but directories; None where the engine does not count."""
        self.level: int | None = None
        """Of the backup that was made or restored."""
        self.under_way = 0
        """Parts or ranges that are being sent or received."""
        self.retries = 0
        """Requests that were made again."""
        self.warnings = 0
        """What was not quite right, and did not keep it from being done."""
        self.notices: list[str] = []
        """Of those, what the person who watches was told at once."""

    def notice(self, text: str) -> None:
        """A warning that is told at once."""
        self.warnings += 1
        self.notices.append(text)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    @property
    def moved(self) -> int:
        """Bytes sent and received, all attempts and small requests included.

        It grows by the block, where ``stored_bytes`` of a slow line grows by many parts
        at once.
        """
        return self.sending.passed + self.receiving.passed

    def begin(self, stores: bool = False) -> None:
        """An archive begins; one that has to be made again is counted once."""
        self.stores = stores
        self.archive_bytes = self.stored_bytes = 0
        self.files = None

    def archived(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The blocks of an archive, counted."""
        for block in blocks:
            self.archive_bytes += len(block)
            yield block

    def stored(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The blocks of a stream as it is stored, counted."""
        for block in blocks:
            self.stored_bytes += len(block)
            yield block

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        """A block in which one more part is under way."""
        with self._lock:
            self.under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self.under_way -= 1

    def retry(self) -> None:
        """A request is made again."""
        with self._lock:
            self.retries += 1
