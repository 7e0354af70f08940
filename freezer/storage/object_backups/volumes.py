"""Volumes: the objects that hold the bytes of a stream, written in bounded memory.

Every part of an object has the same size but the last, because some stores insist (R2),
and part sizes never grow, because memory must not. Before a store's part limit is
reached the object is completed and the next volume begins. A volume of one part is a
plain put.

Memory: ``concurrency`` parts under way and one being filled.
"""

import collections
import contextlib
import functools
import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from freezer.storage import digests, manifest
from freezer.storage.exceptions import StorageException
from freezer.storage.object_backups.threads import begin, have_ended
from freezer.storage.objects import (
    BackupStore,
    ObjectKind,
    Sent,
    UncertainComplete,
    Upload,
)
from freezer.utils.blocks import Block, Buffer, Buffers, cut

LOG = logging.getLogger(__name__)

T = TypeVar('T')

# In place of the SHA-256 of a request's body.
_UNSIGNED = 'UNSIGNED-PAYLOAD'


@dataclass(frozen=True)
class UploadPlan:
    """How a stream is cut.

    :param part_size: bytes of every part but the last
    :param parts_per_volume: the next volume begins after so many
    :param concurrency: parts under way at once
    :param digest: name of the digest of its pieces
    """

    part_size: int
    parts_per_volume: int
    concurrency: int
    digest: str = digests.SHA256


class SentVolume(NamedTuple):
    """A volume whose bytes are sent, or at hand if they are one part.

    :ivar digests: of its pieces
    :ivar store: makes it an object, and returns its ETag if the store gives one
    :ivar is_last: whether the stream is known to end with it
    """

    size: int
    digests: Iterable[bytes]
    store: Callable[[], str | None]
    is_last: bool


class _Part(NamedTuple):
    number: int
    size: int
    sent: Sent
    digests: list[bytes]


@dataclass
class VolumeWriter:
    """Writes a stream as volumes, each to a key of the caller's choice.

    :param token: random, marks the objects of this upload
    :param opened: called with every multipart upload before a part of it is sent
    :param cancelled: stops what is being sent; is also set if something fails
    :param kind: of the objects
    :ivar left_behind: whether an upload may still be open, or become an object later
    """

    bucket: BackupStore
    plan: UploadPlan
    token: str
    opened: Callable[[Upload], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    kind: ObjectKind = ObjectKind.VOLUME
    left_behind: bool = field(default=False, init=False)
    _buffers: Buffers = field(default_factory=Buffers, init=False)

    def blocks(self, chunks: Iterable[Block | str]) -> 'Blocks':
        """The stream in blocks of the part size."""
        return Blocks(cut(chunks, self.plan.part_size, self._buffers))

    @contextlib.contextmanager
    def volume(
        self,
        key: str,
        blocks: 'Blocks',
        pool: ThreadPoolExecutor,
        *,
        may_be_empty: bool,
    ) -> Iterator[SentVolume | None]:
        """Send the next volume; the block has to call ``store``.

        If the block fails, a multipart upload is aborted, unless its Complete is
        uncertain. What is an object already is the caller's to remove.

        :returns: None if the stream is at its end, and the volume must not be empty
        """
        first, second = blocks.take(), blocks.take()
        if first is None and not may_be_empty:
            yield None
            return
        if second is None:
            body = Buffer() if first is None else first
            put = functools.partial(self._put, pool, key, body)
            yield SentVolume(len(body), self._digest(body), put, True)
            return
        assert first is not None
        # Handed over, so that nothing here keeps two parts in memory.
        blocks.put_back(first, second)
        del first, second
        opening = Future[Upload]()
        try:
            create = functools.partial(
                self.bucket.create_upload, key, self.token, self.kind
            )
            upload = self.result(pool, opening, create)
            self.opened(upload)
            parts = self._send_parts(upload, blocks, pool)
            size = sum(part.size for part in parts)
            found = itertools.chain(*(part.digests for part in parts))
            sent = [part.sent for part in parts]
            complete = functools.partial(self._complete, pool, upload, sent, size)
            yield SentVolume(size, found, complete, False)
        except BaseException:
            if not self.left_behind and opening.exception() is None:
                self._abort(opening.result())
            raise
        self.bucket.apply_lock_and_tags(key)

    def _complete(
        self, pool: ThreadPoolExecutor, upload: Upload, sent: list[Sent], size: int
    ) -> str | None:
        completing = Future[str | None]()
        complete = functools.partial(
            self.bucket.complete, upload, sent, size, self.token
        )
        try:
            return self.result(pool, completing, complete)
        finally:
            if completing.done() and isinstance(
                completing.exception(), UncertainComplete
            ):
                self.left_behind = True

    def result(
        self, pool: ThreadPoolExecutor, request: Future[T], call: Callable[[], T]
    ) -> T:
        """The result of a request, for which we also wait after a signal."""
        try:
            begin(pool, request, call)
            return request.result()
        except BaseException as error:
            if not self.stop([request], error):
                self.left_behind = True
            raise

    def _put(self, pool: ThreadPoolExecutor, key: str, body: Buffer) -> str:
        put = functools.partial(
            self.bucket.put, key, body, self.kind, self.token, self.cancelled
        )
        with self.bucket.progress.part():
            return self.result(pool, Future(), put)

    def _send_parts(
        self, upload: Upload, blocks: 'Blocks', pool: ThreadPoolExecutor
    ) -> list[_Part]:
        under_way: set[Future[_Part]] = set()
        parts: list[_Part] = []
        try:
            for number in range(1, self.plan.parts_per_volume + 1):
                block = blocks.take()
                if block is None:
                    break
                if len(under_way) == self.plan.concurrency:
                    done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                    parts += [future.result() for future in done]
                future = Future[_Part]()
                under_way.add(future)
                begin(pool, future, self._send_part, upload, number, block)
                del block
            parts += [future.result() for future in under_way]
        except BaseException as error:
            # Nothing may be sent any more when the upload is aborted.
            for future in under_way:
                future.cancel()
            if not self.stop(under_way, error):
                # After a signal. The store may take a part after the abort: the next
                # run aborts once more.
                self._abort(upload)
                self.left_behind = True
            raise
        return sorted(parts)

    def _send_part(self, upload: Upload, number: int, body: Buffer) -> _Part:
        found = self._digest(body)
        size = len(body)
        with self.bucket.progress.part():
            sent = self.bucket.upload_part(upload, number, body, self.cancelled)
        # No attempt uses it any more.
        if size == self.plan.part_size:
            self._buffers.give_back(body)
        return _Part(number, size, sent, found)

    def _digest(self, part: Buffer) -> list[bytes]:
        """The digests of a part's pieces; no byte is digested twice.

        The SHA-256 of a single piece also signs the request. With another digest the
        signature leaves out the content, as over https it may.
        """
        found = manifest.digest_part(part, self.plan.digest)
        if self.plan.digest != digests.SHA256:
            part.payload = _UNSIGNED
        elif len(found) == 1:
            part.payload = found[0].hex()
        return found

    def stop(self, under_way: Iterable[Future[Any]], error: BaseException) -> bool:
        """Cancel requests that are under way, and wait as :func:`have_ended` does."""
        self.cancelled.set()
        return have_ended(under_way, error)

    def _abort(self, upload: Upload) -> None:
        """Abort after an error. If the abort fails too, that is only logged."""
        try:
            self.bucket.cleaning_up().abort(upload)
        except StorageException as error:
            self.left_behind = True
            LOG.error(
                'upload %s of %s could not be aborted and still takes space: %s',
                upload.upload_id,
                self.bucket.url(upload.key),
                error.message,
            )


class Blocks:
    """The blocks of a stream; blocks can be put back."""

    def __init__(self, blocks: Iterator[Buffer]) -> None:
        self._blocks = blocks
        self._ahead: collections.deque[Buffer] = collections.deque()

    def take(self) -> Buffer | None:
        """The next one; None at the end."""
        return self._ahead.popleft() if self._ahead else next(self._blocks, None)

    def put_back(self, *blocks: Buffer) -> None:
        """The first of these is the next to be taken."""
        self._ahead.extendleft(reversed(blocks))
