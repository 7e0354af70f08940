"""Stream -> parts -> volumes, in bounded memory.

Every part of an object has the same size but the last, because some stores insist (R2),
and part sizes never grow, because memory must not. Before a store's part limit is
reached the object is completed and the next volume begins. A volume that fits into one
part is a plain put.

Memory: ``concurrency`` parts under way and one being filled.
"""

import collections
import functools
import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import NamedTuple

from freezer.storage import layout, manifest
from freezer.storage._s3.read_probe import ReadProbe
from freezer.storage._s3.threads import threads
from freezer.storage._s3.transport.bucket import Bucket
from freezer.storage._s3.transport.multipart import Sent, UncertainComplete
from freezer.storage.exceptions import IntegrityError, NotFound, StorageException
from freezer.storage.objects import ObjectKind, Upload
from freezer.utils.blocks import Block, Buffer, Buffers, cut

LOG = logging.getLogger(__name__)

_STOP_SECONDS = 1.0


@dataclass(frozen=True)
class UploadPlan:
    """How a stream is cut.

    :param part_size: bytes of every part but the last
    :param parts_per_volume: after so many the next volume begins
    :param concurrency: parts under way at once
    """

    part_size: int
    parts_per_volume: int
    concurrency: int


class _Part(NamedTuple):
    number: int
    size: int
    sent: Sent
    digests: list[bytes]


class _Stored(NamedTuple):
    """A volume that is an object: its ETag, and its digests, which may be on their way
    still."""

    etag: str | None
    lines: bytes
    written: Future[None]


class _Blocks:
    """The blocks of a stream, of which some can be put back."""

    def __init__(self, blocks: Iterator[Buffer]) -> None:
        self._blocks = blocks
        self._ahead: collections.deque[Buffer] = collections.deque()

    def take(self) -> Buffer | None:
        """The next one; None at the end."""
        return self._ahead.popleft() if self._ahead else next(self._blocks, None)

    def put_back(self, *blocks: Buffer) -> None:
        """The first of these is the next to be taken."""
        self._ahead.extendleft(reversed(blocks))


class StreamUpload:
    """Writes one stream below one level's folder.

    :param folder: the folder's key, without a slash at its end
    :param token: random, marks what this upload wrote
    :param opened: told of every multipart upload before a part of it is sent
    :param cancelled: ends what is being sent; is set, too, when something fails
    """

    def __init__(
        self,
        bucket: Bucket,
        folder: str,
        plan: UploadPlan,
        token: str,
        opened: Callable[[Upload], None],
        cancelled: threading.Event | None = None,
    ) -> None:
        self._bucket = bucket
        self._folder = folder
        self._plan = plan
        self._token = token
        self._opened = opened
        self.left_behind = False
        """Whether an upload may still be open, or something become an object yet."""
        self._cancelled = cancelled or threading.Event()
        self._manifest = manifest.ManifestBuilder(token)
        self._buffers = Buffers()
        self._digests: Future[None] | None = None

    def write(self, chunks: Iterable[Block | str]) -> manifest.Manifest:
        """Store the stream, then its manifest.

        Not atomic: on failure the open upload is aborted, and what was completed
        before is the caller's to remove.

        :raises UncertainComplete: an upload was left as it is
        """
        blocks = self._blocks(chunks)
        try:
            with threads(self._plan.concurrency, 's3-upload') as pool:
                for number in itertools.count():
                    if not self._write_volume(number, blocks, pool):
                        break
        finally:
            # A signal does not wait for them: they may be written yet.
            self.left_behind |= self._digests is not None and not self._digests.done()
        result = self._manifest.finish()
        self._bucket.put(self._key(layout.MANIFEST), result.dump(), ObjectKind.RECORD)
        return result

    def _blocks(self, chunks: Iterable[Block | str]) -> '_Blocks':
        return _Blocks(cut(chunks, self._plan.part_size, self._buffers))

    def _key(self, name: str) -> str:
        return f'{self._folder}/{name}'

    def _write_volume(
        self, number: int, blocks: '_Blocks', pool: ThreadPoolExecutor
    ) -> bool:
        """One volume; whether the stream may go on after it."""
        key = self._key(layout.volume_name(number))
        first, second = blocks.take(), blocks.take()
        if second is not None and first is not None:
            # Handed over, so that nothing here keeps two parts in memory.
            blocks.put_back(first, second)
            del first, second
            self._write_multipart(number, key, blocks, pool)
            return True
        if first is not None or number == 0:
            body = first if first is not None else Buffer()

            def put() -> str | None:
                with self._bucket.progress.part():
                    return self._bucket.put(
                        key, body, ObjectKind.VOLUME, self._token, self._cancelled
                    )

            stored = self._store(number, _digest(body), put, pool)
            self._finish(number, len(body), stored)
        return False

    def _write_multipart(
        self, number: int, key: str, blocks: '_Blocks', pool: ThreadPoolExecutor
    ) -> None:
        upload = self._bucket.create_upload(key, self._token)
        try:
            self._opened(upload)
            parts = self._send_parts(upload, blocks, pool)
            size = sum(part.size for part in parts)
            sent = [part.sent for part in parts]
            stored = self._store(
                number,
                itertools.chain(*(part.digests for part in parts)),
                lambda: self._bucket.complete(upload, sent, size, self._token),
                pool,
            )
        except UncertainComplete:
            self.left_behind = True
            raise
        except BaseException:
            self._abort(upload)
            raise
        self._bucket.apply_lock_and_tags(key)
        self._finish(number, size, stored)

    def _store(
        self,
        number: int,
        digests: Iterable[bytes],
        store: Callable[[], str | None],
        pool: ThreadPoolExecutor,
    ) -> _Stored:
        """Make a volume an object; its digests are written beside that.

        :param store: does it; the object's ETag
        """
        lines = manifest.dump_digests(digests)
        self._digests = written = pool.submit(self._put_digests, number, lines)
        try:
            etag = store()
        except BaseException as error:
            # Nothing may be written any more when what is there is removed.
            self._cancelled.set()
            wait([written], _shutdown_timeout(error))
            raise
        return _Stored(etag, lines, written)

    def _send_parts(
        self, upload: Upload, blocks: '_Blocks', pool: ThreadPoolExecutor
    ) -> list[_Part]:
        under_way: set[Future[_Part]] = set()
        parts: list[_Part] = []
        try:
            for number in range(1, self._plan.parts_per_volume + 1):
                block = blocks.take()
                if block is None:
                    break
                if len(under_way) == self._plan.concurrency:
                    done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                    parts += [future.result() for future in done]
                under_way.add(pool.submit(self._send_part, upload, number, block))
                del block
            parts += [future.result() for future in under_way]
        except BaseException as error:
            # Nothing may be sent any more when the upload is aborted. Only a store that
            # does not answer keeps what is cancelled from ending; one who has sent a
            # signal is not kept waiting for it.
            self._cancelled.set()
            for future in under_way:
                future.cancel()
            wait(under_way, _shutdown_timeout(error))
            raise
        return sorted(parts)

    def _send_part(self, upload: Upload, number: int, body: Buffer) -> _Part:
        digests = _digest(body)
        size = len(body)
        with self._bucket.progress.part():
            sent = self._bucket.upload_part(upload, number, body, self._cancelled)
        # There is no attempt at it any more.
        if size == self._plan.part_size:
            self._buffers.give_back(body)
        return _Part(number, size, sent, digests)

    def _put_digests(self, number: int, lines: bytes) -> None:
        key = self._key(layout.digests_name(number))
        self._bucket.put(key, lines, ObjectKind.RECORD, None, self._cancelled)

    def _finish(self, number: int, size: int, stored: _Stored) -> None:
        stored.written.result()
        self._manifest.add(
            layout.volume_name(number),
            size,
            self._plan.part_size,
            layout.digests_name(number),
            stored.lines,
            stored.etag,
        )

    def _abort(self, upload: Upload) -> None:
        """The first error is the one to tell; this one goes to the log."""
        try:
            with self._bucket.cleaning_up():
                self._bucket.abort(upload)
        except StorageException as error:
            self.left_behind = True
            LOG.error(
                'upload %s of %s could not be aborted and still takes space: %s',
                upload.upload_id,
                self._bucket.url(upload.key),
                error.message,
            )


def _shutdown_timeout(error: BaseException) -> float | None:
    """Seconds to wait for what is under way when something fails: as many as it takes,
    or few, if a signal ends it."""
    return None if isinstance(error, Exception) else _STOP_SECONDS


def _digest(part: Buffer) -> list[bytes]:
    """The digests of a part's pieces; of one piece, for the signature as well."""
    digests = manifest.digest_part(part)
    if len(digests) == 1:
        part.sha256 = digests[0].hex()
    return digests


class ObjectUpload(StreamUpload):
    """Writes one stream as one object, for readers who know no manifest.

    :param folder: the object's key
    """

    def write_object(self, chunks: Iterable[Block | str]) -> None:
        """Store the stream.

        Atomic but for a stream that is longer than an object may be: then the object
        has been there for a moment.

        :raises StorageException: the stream is too long for one object
        :raises UncertainComplete: an upload was left as it is
        """
        blocks = self._blocks(chunks)
        with threads(self._plan.concurrency, 's3-upload') as pool:
            more = self._write_volume(0, blocks, pool)
        if more and blocks.take() is not None:
            self._bucket.delete([self._folder])
            raise StorageException(
                f'{self._bucket.url(self._folder)}: is longer than '
                f'{self._plan.parts_per_volume} parts of {self._plan.part_size} bytes, '
                f'and has to be one object: raise --max-segment-size'
            )

    def _key(self, name: str) -> str:
        return self._folder

    def _put_digests(self, number: int, lines: bytes) -> None:
        """None."""

    def _finish(self, number: int, size: int, stored: _Stored) -> None:
        """No manifest."""


def confirm(
    bucket: Bucket, folder: str, written: manifest.Manifest, probe: ReadProbe
) -> None:
    """See that every volume is there, and is the one that was written.

    :param folder: the key of the level's folder, without a slash at its end
    :param probe: through which it is looked at
    :raises IntegrityError: names the volume that is not
    """
    for volume in written.volumes:
        key = f'{folder}/{volume.name}'
        where = f'{bucket.url(key)} at {bucket.endpoint}'
        try:
            head = probe.attempt(functools.partial(bucket.head, key))
        except NotFound as error:
            raise IntegrityError(
                f'{where} is missing: the store confirmed it, and does not have it; '
                f'run the backup again, and --action check'
            ) from error
        if head is None:
            continue
        # Some stores drop metadata of multipart uploads (GCS): then the ETag tells.
        ours = (
            head.token == written.token
            if head.token is not None
            else head.etag == volume.etag
        )
        if head.size != volume.size or not ours:
            raise IntegrityError(
                f'{where} is not what was written: {head.size} bytes, where '
                f'{volume.size} were confirmed; run the backup again, and --action '
                f'check'
            )
