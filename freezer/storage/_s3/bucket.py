"""The few verbs a backup needs of a bucket, translated, checked and retried."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from freezer.storage import exceptions as e
from freezer.storage._s3.clock import StoreClock
from freezer.storage._s3.errors import translate
from freezer.storage._s3.retry import Retry
from freezer.storage._s3.wire import Wire

LOG = logging.getLogger(__name__)
T = TypeVar('T')

DELETE_BATCH = 1000
CLEAN_UP_SECONDS = 20.0
# How the object of our upload is told from anybody else's.
TOKEN_KEY = 'freezer-token'  # noqa: S105 - a metadata key, no secret
_WIRE_ERRORS = (BotoCoreError, ClientError, ResponseParserError, HTTPError, OSError)


class Listed(NamedTuple):
    key: str
    size: int


class Head(NamedTuple):
    """Size in bytes, the ETag as given, and the token if the object has one."""

    size: int
    etag: str
    token: str | None


@dataclass(frozen=True)
class Upload:
    """An open multipart upload."""

    key: str
    upload_id: str


class UncertainComplete(e.StorageException):
    """Whether the upload became an object is not known: it must not be aborted.

    On Ceph an Abort that races a Complete leaves an object that lists and cannot be
    read (ceph #60771).
    """


class Bucket:
    """One bucket. Safe to share between threads.

    :param client: for all calls
    :param patient_client: makes a client that waits long enough for Complete
    :param secrets: what no error may repeat
    :param wire: what the clients are attached to
    :param clock: what the clients are attached to
    """

    def __init__(
        self,
        name: str,
        endpoint: str,
        client: Any,
        patient_client: Callable[[], Any],
        retry: Retry,
        secrets: Sequence[str] = (),
        wire: Wire | None = None,
        clock: StoreClock | None = None,
    ) -> None:
        self.name = name
        self.endpoint = endpoint
        self._client = client
        self._make_patient = patient_client
        self._retry = retry
        self._secrets = [secret for secret in secrets if secret]
        self._wire = wire or Wire()
        self._clock = clock or StoreClock(endpoint)
        self._patient: Any = None
        self._patient_lock = threading.Lock()
        self._batches_refused = False

    def url(self, key: str = '') -> str:
        return f's3://{self.name}/{key}' if key else f's3://{self.name}'

    def close(self) -> None:
        for client in (self._client, self._patient):
            if client is not None:
                client.close()

    def cleaning_up(self) -> contextlib.AbstractContextManager[None]:
        """A block whose calls give up soon: an error is waiting to be told."""
        return self._retry.at_most(CLEAN_UP_SECONDS)

    # The bucket itself

    def exists(self) -> bool:
        """Whether it is there; one that may not be looked at is taken to be."""
        try:
            self._run('look at', '', lambda: self._client.head_bucket(Bucket=self.name))
        except e.NotFound:
            return False
        except e.AccessDenied:
            # HeadBucket needs ListBucket; what is really needed will be asked for.
            LOG.info('%s may not be looked at; going on', self.url())
        return True

    def create(self) -> None:
        try:
            self._run(
                'create', '', lambda: self._client.create_bucket(Bucket=self.name)
            )
        except e.Conflict:
            if not self.exists():
                raise
        LOG.info('created bucket %s at %s', self.name, self.endpoint)

    # Small objects

    def put(
        self,
        key: str,
        body: bytes | bytearray,
        token: str | None = None,
        cancelled: threading.Event | None = None,
    ) -> str:
        """Write an object; its ETag. Atomic: whole or not at all."""
        metadata = {TOKEN_KEY: token} if token else {}

        def call() -> str:
            answer = self._client.put_object(
                Bucket=self.name, Key=key, Body=body, Metadata=metadata
            )
            return self._etag(answer, 'put', key)

        return self._run('put', key, call, cancelled)

    def put_if_absent(self, key: str, body: bytes) -> bool:
        """Write an object unless there is one; whether ours is there now.

        A store that does not know If-None-Match may ignore it: see ``claim.py``.

        :raises Rejected: the store, or botocore before 1.35, refuses the condition
        """
        operation = self._client.meta.service_model.operation_model('PutObject')
        if 'IfNoneMatch' not in operation.input_shape.members:
            raise e.Rejected('this botocore has no conditional put')

        def call() -> bool:
            self._client.put_object(
                Bucket=self.name, Key=key, Body=body, IfNoneMatch='*'
            )
            return True

        try:
            return self._run('put', key, call)
        except e.Conflict:
            # An attempt whose answer was lost may have written it.
            try:
                return self.get(key) == body
            except e.NotFound:
                return False

    def get(self, key: str, limit: int | None = None) -> bytes:
        """A small object's content.

        :raises IntegrityError: more bytes than ``limit``
        """

        def call() -> bytes:
            answer = self._client.get_object(Bucket=self.name, Key=key)
            size = answer['ContentLength']
            if limit is not None and size > limit:
                raise e.IntegrityError(
                    f'{self.url(key)}: {size} bytes where at most {limit} were expected'
                )
            content = bytearray()
            self._read_into(answer['Body'], content, size, key)
            return bytes(content)

        return self._run('get', key, call)

    def head(self, key: str) -> Head:
        def call() -> Head:
            answer = self._client.head_object(Bucket=self.name, Key=key)
            # Stores differ in the case of metadata keys (rclone serve s3).
            metadata = {k.lower(): v for k, v in answer.get('Metadata', {}).items()}
            return Head(
                answer['ContentLength'], answer.get('ETag', ''), metadata.get(TOKEN_KEY)
            )

        return self._run('look at', key, call)

    # Ranges

    def get_range(
        self,
        key: str,
        start: int,
        end: int,
        etag: str | None,
        cancelled: threading.Event | None = None,
    ) -> bytearray:
        """Bytes ``start`` to ``end`` (exclusive) of the object with this ETag.

        A connection that breaks is taken up again at the byte where it broke.

        :raises Conflict: the object has been replaced
        :raises IntegrityError: the object is shorter
        """
        data = bytearray()

        def call() -> None:
            first = start + len(data)
            if first == end:
                return
            condition = {'IfMatch': etag} if etag else {}
            answer = self._client.get_object(
                Bucket=self.name, Key=key, Range=f'bytes={first}-{end - 1}', **condition
            )
            self._check_range(answer, key, first, end, etag)
            self._read_into(answer['Body'], data, end - start, key)

        self._run(f'get bytes {start}-{end - 1} of', key, call, cancelled)
        return data

    def _check_range(
        self, answer: Any, key: str, first: int, end: int, etag: str | None
    ) -> None:
        """The answer is the range that was asked, of the object that was asked.

        A 200 passes where it says so in Content-Range (``rclone serve s3``).
        """
        given, _, whole = str(answer.get('ContentRange', '')).partition('/')
        if whole.isdecimal() and int(whole) < end:
            answer['Body'].close()
            raise e.IntegrityError(
                f'{self.url(key)} at {self.endpoint}: has {whole} bytes, and {end} '
                f'were written: the backup is damaged'
            )
        if (
            given != f'bytes {first}-{end - 1}'
            or answer['ContentLength'] != end - first
        ):
            answer['Body'].close()
            raise e.IncompleteAnswer(
                f'{self.url(key)}: asked {self.endpoint} for bytes {first}-{end - 1}, '
                f'and it sent {given or "something else"}'
            )
        if etag and answer.get('ETag', etag) != etag:
            answer['Body'].close()
            raise e.Conflict(f'{self.url(key)}: was replaced while it was read')

    def _read_into(self, body: Any, data: bytearray, size: int, key: str) -> None:
        """Append what comes until ``data`` has ``size`` bytes; it keeps what came.

        Counted here: older botocore ends a body that broke off without an error.
        """
        try:
            while block := body.read(self._wire.read_size):
                data += block
                self._wire.received(len(block))
        finally:
            body.close()
        if len(data) != size:
            if len(data) > size:
                data.clear()
            raise e.IncompleteAnswer(
                f'get {self.url(key)} at {self.endpoint}: the answer ended after '
                f'{len(data)} of {size} bytes'
            )

    # Listing and deleting

    def list(self, prefix: str) -> Iterator[Listed]:
        """Every object whose key starts with the prefix.

        :raises StorageException: a page could not be had, or is not a listing: never
            an end before the end
        """
        for page in self._pages(prefix, ''):
            for item in page.get('Contents', ()):
                yield Listed(item['Key'], item['Size'])

    def list_children(self, prefix: str) -> Iterator[str]:
        """The names below a prefix that ends with ``/``, up to the next slash."""
        for page in self._pages(prefix, '/'):
            for item in page.get('Contents', ()):
                if item['Key'] != prefix:
                    yield item['Key'][len(prefix) :]
            for item in page.get('CommonPrefixes', ()):
                yield item['Prefix'][len(prefix) :].rstrip('/')

    def _pages(self, prefix: str, delimiter: str) -> Iterator[Any]:
        where: dict[str, Any] = {'Bucket': self.name, 'Prefix': prefix}
        if delimiter:
            where['Delimiter'] = delimiter
        while True:
            page = self._run('list', prefix, lambda: self._page(where, prefix))
            yield page
            if not page.get('IsTruncated'):
                return
            where['ContinuationToken'] = page['NextContinuationToken']

    def _page(self, where: Mapping[str, Any], prefix: str) -> Any:
        page = self._client.list_objects_v2(**where)
        problem = ''
        # What a proxy in trouble answers passes; a store that lists wrongly stays so.
        kind: type[e.StorageException] = e.IncompleteAnswer
        keys = [item['Key'] for item in page.get('Contents', ())]
        keys += [item['Prefix'] for item in page.get('CommonPrefixes', ())]
        following = page.get('NextContinuationToken')
        if 'IsTruncated' not in page and 'Name' not in page:
            problem = 'the answer is not a listing'
        elif page.get('IsTruncated') and not following:
            problem = 'the listing is cut off and does not say where it goes on'
        elif page.get('IsTruncated') and following == where.get('ContinuationToken'):
            problem = 'the listing goes on where it began'
            kind = e.Rejected
        elif not all(key.startswith(prefix) for key in keys):
            problem = 'the listing names keys that were not asked for'
            kind = e.Rejected
        if problem:
            raise kind(f'list {self.url(prefix)} at {self.endpoint}: {problem}')
        return page

    def delete(self, keys: Sequence[str]) -> None:
        """Delete in this order; keys that are not there are no error.

        :raises PartialDelete: some are still there
        """
        failed: dict[str, str] = {}
        for start in range(0, len(keys), DELETE_BATCH):
            batch = keys[start : start + DELETE_BATCH]
            if len(batch) == 1 or self._batches_refused:
                failed |= self._delete_singly(batch)
                continue
            try:
                failed |= self._delete_batch(batch)
            except e.Rejected as error:
                LOG.info('deleting one by one, batches are refused: %s', error)
                self._batches_refused = True
                failed |= self._delete_singly(batch)
        if failed:
            key, reason = next(iter(failed.items()))
            raise e.PartialDelete(
                f'{len(failed)} of {len(keys)} objects could not be deleted from '
                f'{self.url()} at {self.endpoint}, first {key}: {reason}'
            )

    def _delete_batch(self, keys: Sequence[str]) -> dict[str, str]:
        request = {'Objects': [{'Key': key} for key in keys], 'Quiet': False}

        def call() -> dict[str, str]:
            answer = self._client.delete_objects(Bucket=self.name, Delete=request)
            errors = {
                item.get('Key', '?'): f'{item.get("Code")} {item.get("Message", "")}'
                for item in answer.get('Errors', ())
                if item.get('Code') != 'NoSuchKey'
            }
            if len(answer.get('Deleted', ())) + len(answer.get('Errors', ())) < len(
                keys
            ):
                raise e.IncompleteAnswer(
                    f'deleting, {self.url()} at {self.endpoint}: the answer does not '
                    f'say what became of every object'
                )
            return errors

        return self._run('delete', f'{keys[0]} and {len(keys) - 1} more', call)

    def _delete_singly(self, keys: Sequence[str]) -> dict[str, str]:
        failed = {}
        for key in keys:
            try:
                self._run(
                    'delete',
                    key,
                    lambda key=key: self._client.delete_object(  # type: ignore[misc]
                        Bucket=self.name, Key=key
                    ),
                )
            except e.BucketNotFound:
                raise
            except e.NotFound:
                continue
            except e.AccessDenied as error:
                failed[key] = error.message
        return failed

    # Multipart uploads

    def create_upload(self, key: str, token: str) -> Upload:
        """Open a multipart upload. If the answer is lost and it is asked again, the
        upload nobody has the id of is aborted."""
        attempts = 0

        def call() -> str:
            nonlocal attempts
            attempts += 1
            answer = self._client.create_multipart_upload(
                Bucket=self.name, Key=key, Metadata={TOKEN_KEY: token}
            )
            if not answer.get('UploadId'):
                raise e.IncompleteAnswer(
                    f'open upload of {self.url(key)} at {self.endpoint}: the answer '
                    f'has no upload id'
                )
            return str(answer['UploadId'])

        upload = Upload(key, self._run('open upload of', key, call))
        if attempts > 1:
            self._abort_others(upload)
        return upload

    def _abort_others(self, ours: Upload) -> None:
        """Nobody else writes to our key, so its other uploads are our lost ones."""
        try:
            for other in self.list_uploads(ours.key):
                if other.key == ours.key and other != ours:
                    self.abort(other)
        except e.StorageException as error:
            LOG.warning('an upload whose id was lost may remain: %s', error)

    def list_uploads(self, prefix: str) -> Iterator[Upload]:
        """Open uploads of keys that start with the prefix."""
        where: dict[str, Any] = {'Bucket': self.name, 'Prefix': prefix}
        while True:
            page = self._run(
                'list uploads of',
                prefix,
                lambda: self._client.list_multipart_uploads(**where),
            )
            for item in page.get('Uploads', ()):
                yield Upload(item['Key'], item['UploadId'])
            if not page.get('IsTruncated') or not page.get('NextKeyMarker'):
                return
            where['KeyMarker'] = page['NextKeyMarker']
            where['UploadIdMarker'] = page.get('NextUploadIdMarker', '')

    def upload_part(
        self,
        upload: Upload,
        number: int,
        body: bytes | bytearray,
        cancelled: threading.Event | None = None,
    ) -> str:
        """Send part ``number`` (from 1); its ETag. Attempts never overlap."""

        def call() -> str:
            answer = self._client.upload_part(
                Bucket=self.name,
                Key=upload.key,
                UploadId=upload.upload_id,
                PartNumber=number,
                Body=body,
            )
            return self._etag(answer, f'upload part {number} of', upload.key)

        return self._run(f'upload part {number} of', upload.key, call, cancelled)

    def complete(
        self, upload: Upload, etags: Sequence[str], size: int, token: str
    ) -> str:
        """Make the parts an object of ``size`` bytes; its ETag.

        An answer that is lost, odd or has no ETag is not believed either way: the
        object itself is looked at, and is ours only with our token and size.

        :raises UncertainComplete: it may have become an object, or become one later
        """
        parts = [
            {'PartNumber': number, 'ETag': etag} for number, etag in enumerate(etags, 1)
        ]
        uncertain = False

        def call() -> str:
            nonlocal uncertain
            try:
                client = self._patient_client()
                answer = self._clock.run(
                    lambda: client.complete_multipart_upload(
                        Bucket=self.name,
                        Key=upload.key,
                        UploadId=upload.upload_id,
                        MultipartUpload={'Parts': parts},
                    )
                )
                if answer.get('ETag'):
                    return str(answer['ETag'])
                error: e.StorageException = e.IncompleteAnswer(
                    f'complete {self.url(upload.key)} at {self.endpoint}: the answer '
                    f'has no ETag'
                )
                cause: Exception | None = None
            except _WIRE_ERRORS as failure:
                error = self._translate(failure, 'complete', upload.key)
                cause = failure
            final = not error.temporary and not isinstance(error, e.UploadNotFound)
            if final and not uncertain:
                raise error from cause
            uncertain = True
            etag = self._completed(upload.key, size, token)
            if etag is not None:
                return etag
            raise error from cause

        try:
            return self._retry.run(call)
        except e.StorageException as error:
            if uncertain and not isinstance(error, e.UploadNotFound):
                raise UncertainComplete(
                    f'{error.message}; whether {self.url(upload.key)} was completed is '
                    f'not known, so upload {upload.upload_id} was left as it is'
                ) from error
            raise

    def _completed(self, key: str, size: int, token: str) -> str | None:
        """The ETag of our object if it is there and can be read."""
        try:
            head = self.head(key)
            if head.token != token or head.size != size:
                return None
            # An object may list and HEAD, and not be readable (ceph #60771).
            self.get_range(key, 0, 1, head.etag)
        except (e.NotFound, e.Conflict, e.IntegrityError):
            return None
        return head.etag

    def abort(self, upload: Upload) -> None:
        """Give up an upload and what it holds; one that is gone is no error."""

        def call() -> None:
            self._client.abort_multipart_upload(
                Bucket=self.name, Key=upload.key, UploadId=upload.upload_id
            )

        try:
            self._run('abort upload of', upload.key, call)
        except e.UploadNotFound:
            LOG.debug('upload %s of %s is gone', upload.upload_id, upload.key)

    # The way to the store

    def _patient_client(self) -> Any:
        with self._patient_lock:
            if self._patient is None:
                self._patient = self._make_patient()
            return self._patient

    def _etag(self, answer: Any, doing: str, key: str) -> str:
        etag = answer.get('ETag')
        if not etag:
            raise e.IncompleteAnswer(
                f'{doing} {self.url(key)} at {self.endpoint}: the answer has no ETag'
            )
        return str(etag)

    def _translate(self, error: Exception, doing: str, key: str) -> e.StorageException:
        translated = translate(error, f'{doing} {self.url(key)}', self.endpoint)
        message = translated.message
        # Some stores repeat the access key, or what was signed.
        for secret in self._secrets:
            message = message.replace(secret, '***')
        if isinstance(translated, e.ClockSkew) and self._clock.offset:
            message += '; the time that the store itself tells is refused as well'
        made = type(translated)(message)
        made.retry_after = translated.retry_after
        return made

    def _run(
        self,
        doing: str,
        key: str,
        call: Callable[[], T],
        cancelled: threading.Event | None = None,
    ) -> T:
        def translated() -> T:
            try:
                with self._wire.cancelled_by(cancelled):
                    return self._clock.run(call)
            except _WIRE_ERRORS as error:
                raise self._translate(error, doing, key) from error

        return self._retry.run(translated, cancelled)
