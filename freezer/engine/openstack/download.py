"""An image of Glance, as a source of blocks."""

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from freezer.engine.blocks.source import Image
from freezer.engine.openstack.record import Digests, Record
from freezer.exceptions import CloudError, EngineError

if TYPE_CHECKING:
    from freezer.engine.openstack.images import Images


class DownloadedImage(Image):
    """Reads a raw image once, from its start to its end, and compares its hash.

    Several threads may read; each waits for its turn.

    :param record: of an active image
    :param cancelled: set when nobody reads the rest
    """

    def __init__(
        self, images: 'Images', record: Record, cancelled: threading.Event
    ) -> None:
        self.size = int(record['size'])
        self._record = record
        self._cancelled = cancelled
        self._digests = Digests(record)
        self._blocks = images.blocks(record['id'], self.size)
        self._rest = memoryview(b'')
        self._position = 0
        self._failure: BaseException | None = None
        self._turn = threading.Condition()

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        # Glance reports no holes.
        if self.size:
            yield 0, self.size

    def read(self, offset: int, buffer: memoryview) -> None:
        with self._turn:
            while self._position != offset and self._failure is None:
                self._turn.wait()
            if self._failure is not None:
                raise EngineError('the download of the image failed') from self._failure
            try:
                self._fill(buffer)
            except BaseException as error:
                self._failure = error
                raise
            finally:
                self._turn.notify_all()

    def _fill(self, buffer: memoryview) -> None:
        filled = 0
        while filled < len(buffer):
            if not self._rest:
                if self._cancelled.is_set():
                    raise CloudError(
                        'cancelled because another part of the backup failed'
                    )
                # There is one: blocks() raises if the image is shorter.
                block = next(self._blocks)
                self._digests.update(block)
                self._rest = memoryview(block)
            part = self._rest[: len(buffer) - filled]
            buffer[filled : filled + len(part)] = part
            self._rest = self._rest[len(part) :]
            filled += len(part)
        self._position += filled

    def change(self) -> None:
        """Nothing changes in an image.

        :raises EngineError: it was not read as Glance has it
        """
        with contextlib.suppress(StopIteration):
            # Checks that nothing follows.
            next(self._blocks)
        if problem := self._digests.problem(self._record):
            raise EngineError(
                f'image {self._record["id"]} was not read as Glance has it: {problem}'
            )

    def close(self) -> None:
        self._blocks.close()
