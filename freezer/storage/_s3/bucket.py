"""The few verbs a backup needs of a bucket, translated, checked and retried."""

import contextlib
import copy
import functools
import logging
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from freezer.storage import exceptions as e
from freezer.storage._s3.clock import StoreClock, epoch
from freezer.storage._s3.errors import Refusal, refusal, translate
from freezer.storage._s3.options import DEFAULT_REGION, S3Options
from freezer.storage._s3.parameters import Kind, Parameters
from freezer.storage._s3.retry import Retry
from freezer.storage._s3.wire import Wire
from freezer.storage.manifest import Manifest

LOG = logging.getLogger(__name__)
T = TypeVar('T')

DELETE_BATCH = 1000
CLEAN_UP_SECONDS = 20.0
# How the object of our upload is told from anybody else's.
TOKEN_KEY = 'freezer-token'  # noqa: S105 - a metadata key, no secret
# No store is known that allows fewer; Swift and Scaleway allow that many.
_FEWEST_PARTS = 1000
_NO_SUCH_LOCATION = ('InvalidLocationConstraint', 'IllegalLocationConstraintException')
_WIRE_ERRORS = (BotoCoreError, ClientError, ResponseParserError, HTTPError, OSError)


class Listed(NamedTuple):
    """An object; when it was written in epoch seconds of the store's clock."""

    key: str
    size: int
    modified: float


class Head(NamedTuple):
    """Size in bytes, the ETag as given, and the token if the object has one."""

    size: int
    etag: str
    token: str | None


class Sent(NamedTuple):
    """A part as the store took it; its checksum as Complete wants it repeated."""

    etag: str
    checksum: Mapping[str, Any]


@dataclass(frozen=True)
class Upload:
    """An open multipart upload."""

    key: str
    upload_id: str


class Opened(NamedTuple):
    """An open upload, and when it was begun, in epoch seconds of the store's clock."""

    upload: Upload
    initiated: float


class Parts(NamedTuple):
    """What an open upload holds: bytes, and when the last part came; 0 for never."""

    size: int
    modified: float


class Version(NamedTuple):
    """One version of an object; a delete marker has no size."""

    key: str
    version_id: str
    size: int
    is_latest: bool
    is_marker: bool


class UncertainComplete(e.StorageException):
    """Whether the upload became an object is not known: it must not be aborted.

    On Ceph an Abort that races a Complete leaves an object that lists and cannot be
    read (ceph #60771).
    """


class Bucket:
    """One bucket. Safe to share between threads.

    :param client: for all calls
    :param patient_client: makes a client that waits long enough for Complete
    :param secrets: tells what no error may repeat
    :param parameters: what the options add to requests
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
        secrets: Callable[[], Sequence[str]] = tuple,
        parameters: Parameters | None = None,
        list_version: int = 2,
        wire: Wire | None = None,
        clock: StoreClock | None = None,
    ) -> None:
        self.name = name
        self.endpoint = endpoint
        self._client = client
        self._make_patient = patient_client
        self._retry = retry
        self._secrets = secrets
        self._parameters = parameters or Parameters(S3Options())
        self._list_page = self._list_v1 if list_version == 1 else self._list_v2
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
        return self.at_most(CLEAN_UP_SECONDS)

    def at_most(self, seconds: float) -> contextlib.AbstractContextManager[None]:
        """A block whose calls have no more time than that, with all repetitions."""
        return self._retry.at_most(seconds)

    # The bucket itself

    def exists(self) -> bool:
        """Whether it is there; one that may not be looked at is taken to be."""
        try:
            self._run('look at', '', lambda: self._ask('head_bucket'))
        except e.NotFound:
            return False
        except e.AccessDenied:
            # HeadBucket needs ListBucket; what is really needed will be asked for.
            LOG.info('%s may not be looked at; going on', self.url())
        return True

    def create(self, *, locks: bool = False) -> None:
        """Make it, in the region that requests are signed for.

        :param locks: with object lock, which cannot be had later everywhere
        """
        arguments: dict[str, Any] = {}
        if locks:
            arguments['ObjectLockEnabledForBucket'] = True
        region, constraint = self._client.meta.region_name, 'CreateBucketConfiguration'
        if region != DEFAULT_REGION:
            arguments[constraint] = {'LocationConstraint': region}

        def call() -> None:
            try:
                self._ask('create_bucket', **arguments)
            except ClientError as error:
                # The region is what requests are signed for; whether the store knows
                # a location of that name is another matter (Ceph's zone groups).
                code = error.response.get('Error', {}).get('Code')
                if code not in _NO_SUCH_LOCATION or constraint not in arguments:
                    raise
                del arguments[constraint]
                self._ask('create_bucket', **arguments)

        try:
            self._run('create', '', call)
        except e.Conflict:
            if not self.exists():
                raise
        LOG.info('created bucket %s at %s', self.name, self.endpoint)

    def locks_objects(self) -> bool:
        """Whether objects in it can be locked; if it may not be asked, they can."""

        def call() -> Any:
            return self._ask('get_object_lock_configuration')

        try:
            answer = self._run('look at object lock of', '', call)
        except e.BucketNotFound:
            raise
        except e.NotFound:
            return False
        except (e.AccessDenied, e.Rejected) as error:
            LOG.info('whether objects can be locked is not known: %s', error.message)
            return True
        found = answer.get('ObjectLockConfiguration', {})
        return bool(found.get('ObjectLockEnabled') == 'Enabled')

    def keeps_versions(self) -> bool:
        """Whether what is deleted or overwritten is kept as a version.

        A store that has no versions, or does not say, keeps none.
        """
        try:
            answer = self._run(
                'versioning of', '', lambda: self._ask('get_bucket_versioning')
            )
        except (e.AccessDenied, e.NotFound, e.Rejected) as error:
            LOG.info('whether versions are kept is not known: %s', error)
            return False
        return answer.get('Status') in ('Enabled', 'Suspended')

    def store_time(self) -> float:
        """The store's clock, epoch seconds; this machine's if it does not say."""
        try:
            answer = self._run('look at', '', lambda: self._ask('head_bucket'))
        except e.AccessDenied as error:
            LOG.info("the store's time is not known: %s", error)
            return time.time()
        headers = answer.get('ResponseMetadata', {}).get('HTTPHeaders', {})
        told = epoch(headers.get('date', ''))
        return time.time() if told is None else told

    # Small objects

    def put(
        self,
        key: str,
        body: bytes | bytearray,
        kind: Kind,
        token: str | None = None,
        cancelled: threading.Event | None = None,
    ) -> str:
        """Write an object; its ETag. Atomic: whole or not at all."""
        metadata = {TOKEN_KEY: token} if token else {}
        checksum = self._parameters.of_body(body)

        def call() -> str:
            answer = self._ask(
                'put_object', kind, Key=key, Body=body, Metadata=metadata, **checksum
            )
            return self._etag(answer, 'put', key)

        return self._run('put', key, call, cancelled, kind)

    def put_if_absent(self, key: str, body: bytes, kind: Kind) -> bool:
        """Write an object unless there is one; whether ours is there now.

        A store that does not know If-None-Match may ignore it: see ``claim.py``.

        :raises Rejected: the store, or botocore before 1.35, refuses the condition
        """
        if 'IfNoneMatch' not in self._members('put_object'):
            raise e.Rejected('this botocore has no conditional put')
        checksum = self._parameters.of_body(body)

        def call() -> bool:
            self._ask(
                'put_object', kind, Key=key, Body=body, IfNoneMatch='*', **checksum
            )
            return True

        try:
            return self._run('put', key, call, kind=kind)
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
            answer = self._ask('get_object', Key=key)
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
            answer = self._ask('head_object', Key=key)
            # Stores differ in the case of metadata keys (rclone serve s3).
            metadata = {k.lower(): v for k, v in answer.get('Metadata', {}).items()}
            return Head(
                answer['ContentLength'], answer.get('ETag', ''), metadata.get(TOKEN_KEY)
            )

        return self._run('look at', key, call)

    def has(self, key: str) -> bool:
        """Whether there is such an object."""
        try:
            self.head(key)
        except e.BucketNotFound:
            raise
        except e.NotFound:
            return False
        return True

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
            condition: dict[str, Any] = {'IfMatch': etag} if etag else {}
            answer = self._ask(
                'get_object', Key=key, Range=f'bytes={first}-{end - 1}', **condition
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
                yield Listed(item['Key'], item['Size'], _epoch(item, 'LastModified'))

    def list_children(self, prefix: str) -> Iterator[str]:
        """The names below a prefix that ends with ``/``, up to the next slash."""
        for page in self._pages(prefix, '/'):
            for item in page.get('Contents', ()):
                if item['Key'] != prefix:
                    yield item['Key'][len(prefix) :]
            for item in page.get('CommonPrefixes', ()):
                yield item['Prefix'][len(prefix) :].rstrip('/')

    def _pages(self, prefix: str, delimiter: str) -> Iterator[Any]:
        where: dict[str, Any] = {'Prefix': prefix}
        if delimiter:
            where['Delimiter'] = delimiter
        following: str | None = None
        while True:
            page, after = self._run(
                'list',
                prefix,
                lambda after=following: self._page(where, prefix, after),  # type: ignore[misc]
            )
            yield page
            if after is None:
                return
            following = after

    def _page(
        self, where: Mapping[str, Any], prefix: str, after: str | None
    ) -> tuple[Any, str | None]:
        """One page of a listing, and after what the next one begins if there is one."""
        page, following = self._list_page(where, after)
        problem = ''
        # What a proxy in trouble answers passes; a store that lists wrongly stays so.
        kind: type[e.StorageException] = e.IncompleteAnswer
        if 'IsTruncated' not in page and 'Name' not in page:
            problem = 'the answer is not a listing'
        elif page.get('IsTruncated') and not following:
            problem = 'the listing is cut off and does not say where it goes on'
        elif page.get('IsTruncated') and following == after:
            problem = 'the listing goes on where it began'
            kind = e.Rejected
        elif not all(key.startswith(prefix) for key in _listed(page)):
            problem = 'the listing names keys that were not asked for'
            kind = e.Rejected
        if problem:
            raise kind(f'list {self.url(prefix)} at {self.endpoint}: {problem}')
        return page, following if page.get('IsTruncated') else None

    def _list_v2(
        self, where: Mapping[str, Any], after: str | None
    ) -> tuple[Any, str | None]:
        token: dict[str, Any] = {}
        if after is not None:
            token['ContinuationToken'] = after
        page = self._ask('list_objects_v2', **where, **token)
        return page, page.get('NextContinuationToken')

    def _list_v1(
        self, where: Mapping[str, Any], after: str | None
    ) -> tuple[Any, str | None]:
        page = self._ask('list_objects', **where, Marker=after or '')
        # Not NextMarker where it can be had from the page: botocore decodes it, and
        # SeaweedFS and Ceph do not encode it, so a key with a plus would be another.
        if page.get('CommonPrefixes'):
            return page, max(_listed(page))
        # The last one, not the highest: SeaweedFS lists directory by directory.
        contents = page.get('Contents')
        return page, contents[-1]['Key'] if contents else page.get('NextMarker')

    def list_versions(self, prefix: str) -> Iterator[Version]:
        """Every version and delete marker of the keys that start with the prefix; those
        of one key together."""
        where: dict[str, Any] = {'Prefix': prefix}
        while True:
            page = self._run(
                'list versions of',
                prefix,
                lambda: self._ask('list_object_versions', **where),
            )
            found = [
                Version(
                    item['Key'],
                    item['VersionId'],
                    item.get('Size', 0),
                    item['IsLatest'],
                    kind == 'DeleteMarkers',
                )
                for kind in ('Versions', 'DeleteMarkers')
                for item in page.get(kind, ())
            ]
            yield from sorted(found, key=lambda version: version.key)
            if not page.get('IsTruncated') or not page.get('NextKeyMarker'):
                return
            # For the same reason as in _list_v1.
            last = max((version.key for version in found), default=None)
            where['KeyMarker'] = last or page['NextKeyMarker']
            where['VersionIdMarker'] = page.get('NextVersionIdMarker', '')

    def delete(self, keys: Sequence[str]) -> None:
        """Delete in this order; keys that are not there are no error.

        :raises PartialDelete: some are still there
        """
        self._delete([{'Key': key} for key in keys])

    def delete_versions(self, versions: Sequence[Version]) -> None:
        """Delete for good, in this order.

        :raises PartialDelete: some are still there
        """
        self._delete([{'Key': v.key, 'VersionId': v.version_id} for v in versions])

    def _delete(self, objects: Sequence[dict[str, str]]) -> None:
        failed: dict[str, str] = {}
        for start in range(0, len(objects), DELETE_BATCH):
            batch = objects[start : start + DELETE_BATCH]
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
                f'{len(failed)} of {len(objects)} objects could not be deleted from '
                f'{self.url()} at {self.endpoint}, first {key}: {reason}'
            )

    def _delete_batch(self, objects: Sequence[dict[str, str]]) -> dict[str, str]:
        request = {'Objects': list(objects), 'Quiet': False}

        def call() -> dict[str, str]:
            answer = self._ask('delete_objects', Delete=request)
            errors = {
                item.get('Key', '?'): f'{item.get("Code")} {item.get("Message", "")}'
                for item in answer.get('Errors', ())
                if item.get('Code') != 'NoSuchKey'
            }
            told = len(answer.get('Deleted', ())) + len(answer.get('Errors', ()))
            if told < len(objects):
                raise e.IncompleteAnswer(
                    f'deleting, {self.url()} at {self.endpoint}: the answer does not '
                    f'say what became of every object'
                )
            return errors

        what = f'{objects[0]["Key"]} and {len(objects) - 1} more'
        return self._run('delete', what, call)

    def _delete_singly(self, objects: Sequence[dict[str, str]]) -> dict[str, str]:
        failed = {}
        for one in objects:
            try:
                self._run(
                    'delete',
                    one['Key'],
                    lambda one=one: self._ask('delete_object', **one),  # type: ignore[misc]
                )
            except e.BucketNotFound:
                raise
            except e.NotFound:
                continue
            except e.AccessDenied as error:
                failed[one['Key']] = error.message
        return failed

    # Multipart uploads

    def create_upload(self, key: str, token: str) -> Upload:
        """Open a multipart upload. If the answer is lost and it is asked again, the
        upload nobody has the id of is aborted."""
        attempts = 0
        kind = Kind.VOLUME

        def call() -> str:
            nonlocal attempts
            attempts += 1
            answer = self._ask(
                'create_multipart_upload',
                kind,
                Key=key,
                Metadata={TOKEN_KEY: token},
                **self._parameters.of_upload(),
            )
            if not answer.get('UploadId'):
                raise e.IncompleteAnswer(
                    f'open upload of {self.url(key)} at {self.endpoint}: the answer '
                    f'has no upload id'
                )
            return str(answer['UploadId'])

        upload = Upload(key, self._run('open upload of', key, call, kind=kind))
        if attempts > 1:
            self._abort_others(upload)
        return upload

    def _abort_others(self, ours: Upload) -> None:
        """Nobody else writes to our key, so its other uploads are our lost ones."""
        try:
            for other, _initiated in self.list_uploads(ours.key):
                if other.key == ours.key and other != ours:
                    self.abort(other)
        except e.StorageException as error:
            LOG.warning('an upload whose id was lost may remain: %s', error)

    def list_uploads(self, prefix: str) -> Iterator[Opened]:
        """Open uploads of keys that start with the prefix."""
        where: dict[str, Any] = {'Prefix': prefix}
        while True:
            try:
                page = self._run(
                    'list uploads of',
                    prefix,
                    lambda: self._ask('list_multipart_uploads', **where),
                )
            except e.UploadNotFound:
                # rclone serve s3, of a bucket that has none.
                return
            for item in page.get('Uploads', ()):
                yield Opened(
                    Upload(item['Key'], item['UploadId']), _epoch(item, 'Initiated')
                )
            if not page.get('IsTruncated') or not page.get('NextKeyMarker'):
                return
            where['KeyMarker'] = page['NextKeyMarker']
            where['UploadIdMarker'] = page.get('NextUploadIdMarker', '')

    def parts(self, upload: Upload) -> Parts:
        """What an open upload holds.

        :raises NotFound: it is not open any more (NoSuchUpload; NoSuchKey on Ceph)
        """
        where: dict[str, Any] = {'Key': upload.key, 'UploadId': upload.upload_id}
        size, modified = 0, 0.0
        while True:
            page = self._run(
                'list parts of', upload.key, lambda: self._ask('list_parts', **where)
            )
            for item in page.get('Parts', ()):
                size += item['Size']
                modified = max(modified, _epoch(item, 'LastModified'))
            if not page.get('IsTruncated') or not page.get('NextPartNumberMarker'):
                return Parts(size, modified)
            where['PartNumberMarker'] = page['NextPartNumberMarker']

    def upload_part(
        self,
        upload: Upload,
        number: int,
        body: bytes | bytearray,
        cancelled: threading.Event | None = None,
    ) -> Sent:
        """Send part ``number`` (from 1). Attempts never overlap."""
        checksum = self._parameters.of_body(body)

        def call() -> Sent:
            answer = self._ask(
                'upload_part',
                Key=upload.key,
                UploadId=upload.upload_id,
                PartNumber=number,
                Body=body,
                **checksum,
            )
            etag = self._etag(answer, f'upload part {number} of', upload.key)
            checksum.pop('ContentMD5', None)
            return Sent(etag, checksum)

        try:
            return self._run(f'upload part {number} of', upload.key, call, cancelled)
        except e.Rejected as error:
            if number <= _FEWEST_PARTS:
                raise
            raise e.Rejected(
                f'{error.message}; if this store takes no more than {number - 1} parts '
                f'of an object, set --s3-max-parts to that'
            ) from error

    def complete(
        self, upload: Upload, sent: Sequence[Sent], size: int, token: str
    ) -> str:
        """Make the parts an object of ``size`` bytes; its ETag.

        An answer that is lost, odd or has no ETag is not believed either way: the
        object itself is looked at, and is ours only with our token and size. Its ETag
        comes from there in any case.

        :raises UncertainComplete: it may have become an object, or become one later
        """
        parts = [
            {'PartNumber': number, 'ETag': part.etag, **part.checksum}
            for number, part in enumerate(sent, 1)
        ]
        uncertain = False

        def call() -> str:
            nonlocal uncertain
            try:
                client = self._patient_client()
                answer = self._clock.run(
                    lambda: self._ask(
                        'complete_multipart_upload',
                        client=client,
                        Key=upload.key,
                        UploadId=upload.upload_id,
                        MultipartUpload={'Parts': parts},
                    )
                )
                if answer.get('ETag'):
                    # An Abort would be one after a Complete.
                    uncertain = True
                    # As a restore will see it: rclone serve s3 says another here.
                    return self.head(upload.key).etag
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

    def make_up_for(self, key: str) -> None:
        """Lock and tag a completed upload, where the store has not done so.

        Ceph 16.2 forgets what it was told when the upload was opened, and gives the
        object the bucket's own retention, if it has one. And an upload may have been
        open for long.
        """
        remedies = self._parameters.remedies()
        if not remedies:
            return
        found = self._run('look at', key, lambda: self._ask('head_object', Key=key))
        for is_there, operation, arguments in remedies:
            if not is_there(found):
                call = functools.partial(self._ask, operation, Key=key, **arguments)
                self._run(operation.replace('_', ' '), key, call, kind=Kind.VOLUME)

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
        except e.Archived:
            # Written to a class that is not read at once: it is there.
            LOG.debug('%s is archived', self.url(key))
        return head.etag

    def confirm(self, folder: str, written: Manifest) -> None:
        """See that every volume is there, and is the one that was written.

        :param folder: the key of the level's folder, without a slash at its end
        :raises IntegrityError: names the volume that is not
        """
        for volume in written.volumes:
            key = f'{folder}/{volume.name}'
            try:
                head = self.head(key)
            except e.NotFound as error:
                raise e.IntegrityError(
                    f'{self.url(key)} at {self.endpoint} is missing: the store '
                    f'confirmed it, and does not have it'
                ) from error
            # Some stores drop metadata of multipart uploads (GCS): then the ETag tells.
            ours = (
                head.token == written.token
                if head.token is not None
                else head.etag == volume.etag
            )
            if head.size != volume.size or not ours:
                raise e.IntegrityError(
                    f'{self.url(key)} at {self.endpoint} is not what was written: '
                    f'{head.size} bytes, where {volume.size} were confirmed'
                )

    def abort(self, upload: Upload) -> None:
        """Give up an upload and what it holds; one that is gone is no error."""

        def call() -> None:
            self._ask(
                'abort_multipart_upload', Key=upload.key, UploadId=upload.upload_id
            )

        try:
            self._run('abort upload of', upload.key, call)
        except e.NotFound:
            # NoSuchUpload; Swift says NoSuchKey of one that was completed.
            LOG.debug('upload %s of %s is gone', upload.upload_id, upload.key)

    # The way to the store

    def _members(self, operation: str) -> Container[str]:
        """The names of the arguments an operation knows."""
        name = self._client.meta.method_to_api_mapping[operation]
        shape = self._client.meta.service_model.operation_model(name).input_shape
        members: Container[str] = shape.members
        return members

    def _ask(
        self,
        operation: str,
        kind: Kind | None = None,
        client: Any = None,
        **arguments: Any,
    ) -> Any:
        """One request, with what the options add to it.

        :param kind: of the object it creates
        :param client: another one than usual
        """
        added = self._parameters.of(self._members(operation), kind)
        call = getattr(client or self._client, operation)
        return call(Bucket=self.name, **added, **arguments)

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

    def _translate(
        self, error: Exception, doing: str, key: str, kind: Kind | None = None
    ) -> e.StorageException:
        translated = translate(error, f'{doing} {self.url(key)}', self.endpoint)
        message = translated.message
        # Stores that do not know what was asked for often say no more than that.
        refused = isinstance(translated, e.Rejected | e.ServerError | e.AccessDenied)
        options = self._parameters.options(kind)
        if refused and options and '--s3-' not in message:
            message += f'; sent with {", ".join(options)}'
        # Some stores repeat the access key, or what was signed. In the error itself as
        # well: its text is in the log's traceback.
        error.args = tuple(map(self._without_secrets, error.args))
        if isinstance(translated, e.ClockSkew) and self._clock.offset:
            message += '; the time that the store itself tells is refused as well'
        made = type(translated)(self._without_secrets(message))
        made.retry_after = translated.retry_after
        return made

    def _without_secrets(self, text: Any) -> Any:
        if isinstance(text, str):
            # The longest first: one may be part of another.
            for secret in sorted(filter(None, self._secrets()), key=len, reverse=True):
                text = text.replace(secret, '***')
        return text

    def _run(
        self,
        doing: str,
        key: str,
        call: Callable[[], T],
        cancelled: threading.Event | None = None,
        kind: Kind | None = None,
    ) -> T:
        def translated() -> T:
            try:
                with self._wire.cancelled_by(cancelled):
                    return self._clock.run(call)
            except _WIRE_ERRORS as error:
                raise self._translate(error, doing, key, kind) from error

        return self._retry.run(translated, cancelled)

    # For probes (check.py): what is no verb of a backup

    def probe(
        self,
        operation: str,
        key: str = '',
        kind: Kind | None = None,
        **arguments: Any,
    ) -> Any:
        """The answer to any operation of the client; a :class:`Refusal` is one too.

        Only what may be granted at another time is asked again.

        :param kind: of the object it creates
        """
        members = self._members(operation)
        if not all(name in members for name in arguments):
            return Refusal('this botocore does not know it', 0)
        where = {'Key': key} if key else {}

        def call() -> Any:
            try:
                return self._ask(operation, kind, **where, **arguments)
            except ClientError as error:
                refused = refusal(error)
                if refused is None:
                    raise
                return refused

        return self._run(operation.replace('_', ' '), key, call)

    def listing_with(self, version: int) -> 'Bucket':
        """The same bucket, but for the version of ListObjects."""
        other = copy.copy(self)
        other._list_page = self._list_v1 if version == 1 else self._list_v2
        return other

    @contextlib.contextmanager
    def hook(self, event: str, act: Callable[..., None]) -> Iterator[None]:
        """A block in which botocore calls a function at one of its events."""
        events = self._client.meta.events
        events.register(event, act)
        try:
            yield
        finally:
            events.unregister(event, act)


def _listed(page: Any) -> list[str]:
    keys = [item['Key'] for item in page.get('Contents', ())]
    return keys + [item['Prefix'] for item in page.get('CommonPrefixes', ())]


def _epoch(item: Any, name: str) -> float:
    """A date in an answer; one that is missing counts as now, so as nothing old."""
    moment = item.get(name)
    return float(moment.timestamp()) if moment is not None else time.time()
