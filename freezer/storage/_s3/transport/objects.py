"""Single objects: read, written, looked up, deleted in batches where possible."""

import contextlib
import functools
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from freezer.storage import exceptions as e
from freezer.storage._s3.transport.listings import Version
from freezer.storage._s3.transport.requests import Requests
from freezer.storage._s3.transport.sender import receive
from freezer.storage._s3.transport.transfers import Answer
from freezer.storage.http.pools import close
from freezer.storage.objects import Head, ObjectKind

LOG = logging.getLogger(__name__)

DELETE_BATCH = 1000
# Metadata that identifies the object of our upload.
TOKEN_KEY = 'freezer-token'  # noqa: S105 - a metadata key, no secret


class Objects:
    """Reads, writes and deletes single objects."""

    def __init__(self, requests: Requests) -> None:
        self._http = requests
        self._batches_refused = False

    def put(
        self,
        key: str,
        body: bytes | bytearray,
        kind: ObjectKind,
        token: str | None = None,
        cancelled: threading.Event | None = None,
    ) -> str:
        """Write an object, and return its ETag. Atomic."""
        metadata = {TOKEN_KEY: token} if token else {}

        def call() -> str:
            answer = self._put(key, body, kind, Metadata=metadata)
            return self._http.etag(answer.get('ETag'), 'put', key)

        return self._http.run('put', key, call, cancelled, kind)

    def put_if_absent(self, key: str, body: bytes, kind: ObjectKind) -> bool:
        """A store that does not know If-None-Match may ignore it: see ``claims.py``.

        :raises Rejected: the store, or botocore before 1.35, refuses the condition
        :raises Conflict: the key exists, and we may not read whether it is ours
        """
        if 'IfNoneMatch' not in self._http.arguments('put_object'):
            raise e.Rejected('this botocore has no conditional put')
        attempts = 0

        def call() -> bool:
            nonlocal attempts
            attempts += 1
            self._put(key, body, kind, IfNoneMatch='*')
            return True

        try:
            return self._http.run('put', key, call, kind=kind)
        except e.Conflict as conflict:
            if attempts == 1:
                return False
            # The attempt whose answer was lost may have written it.
            try:
                return self.get(key) == body
            except e.NotFound:
                return False
            except e.AccessDenied as error:
                raise conflict from error

    def replace(self, key: str, body: bytes, kind: ObjectKind, etag: str) -> None:
        """Write an object in place of the one with this ETag. Atomic.

        Where the store does not know If-Match, or ignores it, an agent that deletes
        the object at the same moment is not noticed.

        :raises NotFound: it was deleted
        :raises Conflict: it was replaced
        """
        known = 'IfMatch' in self._http.arguments('put_object')
        # Ceph finds that the condition is met only without the quotes.
        for condition in (etag, etag.strip('"')) if known else ():
            call = functools.partial(self._put, key, body, kind, IfMatch=condition)
            try:
                self._http.run('replace', key, call, kind=kind)
                return
            except (e.Conflict, e.Rejected) as error:
                LOG.debug('not replaced: %s', error)
                # An attempt whose answer was lost may have written it.
                if self.get(key) == body:
                    return
                self._check_etag(key, etag)
        LOG.info('the store has no conditional replacement')
        self._check_etag(key, etag)
        self.put(key, body, kind)

    def _check_etag(self, key: str, etag: str) -> None:
        if self.head(key).etag != etag:
            raise e.Conflict(
                f'{self._http.where(key)}: the object was replaced meanwhile'
            )

    def _put(
        self, key: str, body: bytes | bytearray, kind: ObjectKind, **arguments: Any
    ) -> Any:
        arguments |= self._http.parameters.of_body(body, kind)
        return self._http.send('put_object', kind, Key=key, Body=body, **arguments)

    def get(self, key: str, limit: int | None = None) -> bytes:
        def call() -> bytes:
            answer = self._http.send('get_object', Key=key)
            size = self._length(answer, f'get {self._http.url(key)}')
            if limit is not None and size > limit:
                raise e.IntegrityError(
                    f'{self._http.url(key)}: {size} bytes where at most {limit} were '
                    f'expected'
                )
            # Memory for what arrives, not for what the store announces.
            content = bytearray()
            with contextlib.closing(answer['Body']) as body:
                while block := body.read(self._http.wire.read_size):
                    content += block
                    self._http.wire.received(len(block))
            self._check_whole(key, len(content), size)
            return bytes(content)

        return self._http.run('get', key, call)

    def head(self, key: str) -> Head:
        """:raises NotFound: there is no such object"""

        def call() -> Head:
            answer = self._http.send('head_object', Key=key)
            # Stores differ in the case of metadata keys (rclone serve s3).
            metadata = {k.lower(): v for k, v in answer.get('Metadata', {}).items()}
            size = self._length(answer, f'look up {self._http.url(key)}')
            until = answer.get('ObjectLockRetainUntilDate')
            return Head(
                size,
                answer.get('ETag', ''),
                metadata.get(TOKEN_KEY),
                answer.get('StorageClass') or None,
                answer.get('ObjectLockMode') or None,
                None if until is None else int(until.timestamp()),
                answer.get('ObjectLockLegalHoldStatus') == 'ON',
            )

        return self._http.run('look up', key, call)

    def _length(self, answer: Any, doing: str) -> int:
        size = answer.get('ContentLength')
        if size is None:
            raise e.IncompleteAnswer(
                f'{doing} at {self._http.endpoint}: the answer does not say how long '
                f'it is'
            )
        return int(size)

    def has(self, key: str) -> bool:
        try:
            self.head(key)
        except e.BucketNotFound:
            raise
        except e.NotFound:
            return False
        return True

    def get_range(
        self,
        key: str,
        start: int,
        end: int,
        etag: str | None,
        cancelled: threading.Event | None = None,
        buffer: bytearray | None = None,
    ) -> memoryview:
        """Bytes ``start`` to ``end`` (exclusive) of the object with this ETag.

        After a broken connection the next attempt continues where it broke.

        :param buffer: filled with them; at least that large
        :raises Conflict: the object has been replaced
        :raises IntegrityError: the object is shorter
        """
        size = end - start
        view = memoryview(bytearray(size) if buffer is None else buffer)[:size]
        filled = 0

        def call() -> None:
            nonlocal filled
            if filled == size:
                return
            condition: dict[str, Any] = {'IfMatch': etag} if etag else {}
            first = start + filled
            answer = self._http.transfer(
                'get_object', Key=key, Range=f'bytes={first}-{end - 1}', **condition
            )
            self._check_range(answer, key, first, end, etag)
            for count in self._receive(answer.body, view[filled:]):
                filled += count
            self._check_whole(key, filled, size)

        self._http.run(f'get bytes {start}-{end - 1} of', key, call, cancelled)
        return view

    def _check_range(
        self, answer: Answer, key: str, first: int, end: int, etag: str | None
    ) -> None:
        """Check that the answer is the requested range of the requested object.

        A 200 passes if its Content-Range says so (``rclone serve s3``).
        """
        given, _, whole = answer.content_range.partition('/')
        if whole.isdecimal() and int(whole) < end:
            answer.body.close()
            raise e.IntegrityError(
                f'{self._http.where(key)}: has {whole} bytes, and {end} were written: '
                f'the backup is damaged'
            )
        if given != f'bytes {first}-{end - 1}' or answer.length != end - first:
            answer.body.close()
            raise e.IncompleteAnswer(
                f'{self._http.url(key)}: asked {self._http.endpoint} for bytes '
                f'{first}-{end - 1}, and it sent {given or "something else"}'
            )
        if etag and (answer.etag or etag) != etag:
            answer.body.close()
            raise e.Conflict(
                f'{self._http.url(key)}: was replaced while it was read: run it again'
            )

    def _receive(self, body: Any, view: memoryview) -> Iterator[int]:
        """Read the body into memory, and yield the size of each block.

        Ends early if the body broke off, which older botocore does not report.
        """
        filled = 0
        try:
            while filled < len(view):
                count = receive(body, view[filled : filled + self._http.wire.read_size])
                if not count:
                    break
                filled += count
                self._http.wire.received(count)
                yield count
        finally:
            close(body)

    def _check_whole(self, key: str, filled: int, size: int) -> None:
        if filled != size:
            raise e.IncompleteAnswer(
                f'get {self._http.where(key)}: the answer ended after '
                f'{filled} of {size} bytes'
            )

    def delete(self, keys: Sequence[str]) -> None:
        self._delete([{'Key': key} for key in keys])

    def delete_versions(self, versions: Sequence[Version]) -> None:
        """Delete for good, in this order.

        :raises PartialDelete: some still exist
        """
        self._delete([{'Key': v.key, 'VersionId': v.version_id} for v in versions])

    def _delete(self, objects: Sequence[dict[str, Any]]) -> None:
        failed: dict[str, str] = {}
        for start in range(0, len(objects), DELETE_BATCH):
            batch = objects[start : start + DELETE_BATCH]
            if len(batch) == 1 or self._batches_refused:
                failed |= self._delete_singly(batch)
                continue
            try:
                failed |= self._delete_batch(batch)
            except e.Rejected as error:
                LOG.info('the store refuses batches, deleting one by one: %s', error)
                self._batches_refused = True
                failed |= self._delete_singly(batch)
        if failed:
            key, reason = next(iter(failed.items()))
            right = 's3:DeleteObject' + ('Version' if 'VersionId' in objects[0] else '')
            if 'AccessDenied' in reason and right not in reason:
                reason += f': it needs {right}'
            raise e.PartialDelete(
                f'{len(failed)} of {len(objects)} objects could not be deleted from '
                f'{self._http.where()}, first {key}: {reason}; --action admin tries '
                f'again'
            )

    def _delete_batch(self, objects: Sequence[dict[str, Any]]) -> dict[str, str]:
        request = {'Objects': list(objects), 'Quiet': False}

        def call() -> dict[str, str]:
            answer = self._http.send('delete_objects', Delete=request)
            errors = {
                item.get('Key', '?'): f'{item.get("Code")} {item.get("Message", "")}'
                for item in answer.get('Errors', ())
                if item.get('Code') != 'NoSuchKey'
            }
            reported = len(answer.get('Deleted', ())) + len(answer.get('Errors', ()))
            if reported < len(objects):
                raise e.IncompleteAnswer(
                    f'deleting, {self._http.where()}: the answer does not list every '
                    f'object'
                )
            return errors

        what = f'{objects[0]["Key"]} and {len(objects) - 1} more'
        return self._http.run('delete', what, call)

    def _delete_singly(self, objects: Sequence[dict[str, Any]]) -> dict[str, str]:
        failed = {}
        for one in objects:
            call = functools.partial(self._http.send, 'delete_object', **one)
            try:
                self._http.run('delete', one['Key'], call)
            except e.BucketNotFound:
                raise
            except e.NotFound:
                continue
            except e.AccessDenied as error:
                failed[one['Key']] = error.message
        return failed
