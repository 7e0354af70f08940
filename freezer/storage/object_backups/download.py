"""Volumes -> verified ranges, in parallel, yielded in order.

A range is one piece of the manifest: the bytes of one digest. It is yielded only after
its digest was verified.

Memory: one piece, of at most 32 MiB, for each that is under way, including the one that
is being yielded.
"""

import collections
import io
import itertools
import logging
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import IO, Any

from freezer.storage import manifest
from freezer.storage.exceptions import (
    Conflict,
    IntegrityError,
    NotFound,
    StorageException,
)
from freezer.storage.objects import BackupStore, Head
from freezer.utils.blocks import Block, Buffer, Buffers

LOG = logging.getLogger(__name__)

# Bytes may be damaged in transit; after so many tries, they are stored like that.
_READS = 3

#: bytes of a range -> how many such ranges to fetch at once
AtOnce = Callable[[int], int]


def read_object(
    bucket: BackupStore, key: str, head: Head, at_once: AtOnce
) -> Iterator[Block]:
    """The bytes of an object without a manifest; only its size can be checked.

    :raises Conflict: the object has been replaced since ``head``
    """
    pieces = manifest.plain_pieces(head.size)
    yield from manifest.unwrap(read_pieces(bucket, key, head.etag, pieces, at_once))


def as_file(blocks: Iterator[Block]) -> IO[bytes]:
    """A file to read the blocks from; closing it drops the rest."""
    return io.BufferedReader(_BlocksFile(blocks))


class _BlocksFile(io.RawIOBase):
    def __init__(self, blocks: Iterator[Block]) -> None:
        super().__init__()
        self._blocks = blocks
        self._block = memoryview(b'')

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._block:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._block = memoryview(block)
        size = min(len(buffer), len(self._block))
        buffer[:size] = self._block[:size]
        self._block = self._block[size:]
        return size

    def close(self) -> None:
        self._block = memoryview(b'')
        self._blocks = iter(())
        super().close()


def read_pieces(
    bucket: BackupStore,
    key: str,
    etag: str | None,
    pieces: Iterable[manifest.Piece],
    at_once: AtOnce,
) -> Generator[manifest.Read, None, None]:
    """Pieces of an object, in order, each checked.

    A corrupt piece is yielded as an error; iteration continues. The bytes of a piece
    are valid until the next one is requested.

    :param etag: of the object; None for any
    """
    cancelled = threading.Event()
    remaining = iter(pieces)
    first = next(remaining, None)
    if first is None:
        return
    # The others are not larger.
    workers = at_once(first.end - first.start)
    remaining = itertools.chain([first], remaining)
    waiting: collections.deque[tuple[manifest.Piece, Buffer, Future[memoryview]]]
    waiting = collections.deque()
    buffers = Buffers()

    def fetch_next(pool: ThreadPoolExecutor) -> None:
        for piece in itertools.islice(remaining, 1):
            buffer = buffers.take(piece.end - piece.start)
            future = pool.submit(_fetch, bucket, key, etag, piece, cancelled, buffer)
            waiting.append((piece, buffer, future))

    with ThreadPoolExecutor(workers, 'download') as pool:
        try:
            for _ in range(workers):
                fetch_next(pool)
            while waiting:
                piece, buffer, future = waiting.popleft()
                data: memoryview | StorageException
                try:
                    data = future.result()
                except StorageException as error:
                    data = error
                yield manifest.Read(piece, data)
                buffers.give_back(buffer)
                fetch_next(pool)
        finally:
            cancelled.set()
            for _piece, _buffer, future in waiting:
                future.cancel()
            wait([future for _piece, _buffer, future in waiting])


def _fetch(
    bucket: BackupStore,
    key: str,
    etag: str | None,
    piece: manifest.Piece,
    cancelled: threading.Event,
    buffer: Buffer,
) -> memoryview:
    for attempt in range(1, _READS + 1):
        try:
            with bucket.progress.part():
                data = bucket.get_range(
                    key, piece.start, piece.end, etag, cancelled, buffer
                )
        except NotFound as error:
            raise IntegrityError(
                f'{bucket.where(key)} is missing: the backup is damaged'
            ) from error
        except Conflict as error:
            if piece.digest is None:
                raise
            # In a copied bucket the ETags differ; the digests tell whether the bytes
            # are the same.
            LOG.warning('%s', error.message)
            etag = None
            continue
        if manifest.check_piece(data, piece):
            return data
        LOG.warning(
            '%s: bytes %d to %d are wrong (attempt %d of %d)',
            bucket.url(key),
            piece.start,
            piece.end - 1,
            attempt,
            _READS,
        )
    raise manifest.damaged(bucket.where(key), piece)
