"""Volumes -> verified ranges, in parallel, handed on in order.

A range is one piece of the manifest: what one digest covers. Its bytes go on when they
are right, and not before.

Memory: ``concurrency`` pieces of at most 32 MiB, and the one being handed on.
"""

import collections
import io
import logging
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import IO, Any

from freezer.storage import manifest
from freezer.storage._s3.bucket import Bucket
from freezer.storage._s3.objects import Head
from freezer.storage.exceptions import (
    Conflict,
    IntegrityError,
    NotFound,
    StorageException,
)
from freezer.utils.blocks import Block

LOG = logging.getLogger(__name__)

# Wrong bytes may have been hurt on the way; wrong so often, they are stored so.
_READS = 3


def read_stream(
    bucket: Bucket, folder: str, found: manifest.Manifest, concurrency: int
) -> Iterator[Block]:
    """The bytes of a backup that has a manifest.

    :param folder: the key of the level's folder, without a slash at its end
    :raises IntegrityError: bytes are wrong or missing; names volume and byte range
    """
    for volume in found.volumes:
        key = f'{folder}/{volume.name}'
        digests = f'{folder}/{volume.digests}'
        try:
            lines = bucket.get(digests, volume.digests_size)
        except NotFound as error:
            raise _missing(bucket, digests) from error
        pieces = volume.pieces(lines)
        yield from manifest.unwrap(
            read_pieces(bucket, key, volume.etag, pieces, concurrency)
        )


def read_object(
    bucket: Bucket, key: str, head: Head, concurrency: int
) -> Iterator[Block]:
    """The bytes of an object nobody wrote a manifest for; only their number is known.

    :raises Conflict: it is not the object of this ``head`` any more
    """
    pieces = manifest.plain_pieces(head.size)
    yield from manifest.unwrap(read_pieces(bucket, key, head.etag, pieces, concurrency))


def as_file(blocks: Iterator[Block]) -> IO[bytes]:
    """A file to read the blocks from; closing it gives up the rest."""
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
    bucket: Bucket,
    key: str,
    etag: str | None,
    pieces: Iterable[manifest.Piece],
    concurrency: int,
) -> Generator[manifest.Read, None, None]:
    """Pieces of an object, in order, each checked; one that is wrong ends nothing.

    :param etag: of the object to be read; None for whichever is there
    """
    cancelled = threading.Event()
    waiting: collections.deque[tuple[manifest.Piece, Future[bytearray]]]
    waiting = collections.deque()
    remaining = iter(pieces)

    def fetch(piece: manifest.Piece) -> bytearray:
        return _fetch(bucket, key, etag, piece, cancelled)

    with ThreadPoolExecutor(concurrency, 's3-download') as pool:
        try:
            for piece in islice(remaining, concurrency):
                waiting.append((piece, pool.submit(fetch, piece)))
            while waiting:
                piece, future = waiting.popleft()
                data: bytearray | StorageException
                try:
                    data = future.result()
                except StorageException as error:
                    data = error
                for following in islice(remaining, 1):
                    waiting.append((following, pool.submit(fetch, following)))
                yield manifest.Read(piece, data)
                del data, future
        finally:
            cancelled.set()
            for _piece, future in waiting:
                future.cancel()
            wait([future for _piece, future in waiting])


def _fetch(
    bucket: Bucket,
    key: str,
    etag: str | None,
    piece: manifest.Piece,
    cancelled: threading.Event,
) -> bytearray:
    for attempt in range(1, _READS + 1):
        try:
            data = bucket.get_range(key, piece.start, piece.end, etag, cancelled)
        except NotFound as error:
            raise _missing(bucket, key) from error
        except Conflict as error:
            if piece.digest is None:
                raise
            # A bucket that was copied has other ETags; whether the bytes are the same
            # is for the digests to say.
            LOG.warning('%s', error.message)
            etag = None
            continue
        if manifest.check_piece(data, piece):
            return data
        LOG.warning(
            '%s: bytes %d to %d came wrong (attempt %d of %d)',
            bucket.url(key),
            piece.start,
            piece.end - 1,
            attempt,
            _READS,
        )
    raise manifest.damaged(f'{bucket.url(key)} at {bucket.endpoint}', piece)


def _missing(bucket: Bucket, key: str) -> IntegrityError:
    return IntegrityError(
        f'{bucket.url(key)} at {bucket.endpoint} is missing: the backup is damaged'
    )
