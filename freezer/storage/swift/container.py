"""One container: a store of objects (:class:`~freezer.storage.objects.BackupStore`)."""

import calendar
import contextlib
import copy
import functools
import hashlib
import itertools
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from freezer.storage import exceptions as e
from freezer.storage.claims import LISTING_DELAYS
from freezer.storage.objects import (
    Head,
    ListedObject,
    ObjectKind,
    OpenUpload,
    Sent,
    UncertainComplete,
    Upload,
    UploadedParts,
)
from freezer.storage.swift import large
from freezer.storage.swift.large import Span, StoredObject
from freezer.storage.swift.requests import Answer, Into, Requests
from freezer.utils.http_dates import epoch

LOG = logging.getLogger(__name__)

CLEAN_UP_SECONDS = 20.0
# A container that was just created may be unknown to a server for so long.
_CREATED_SECONDS = 60.0
# Bytes may be damaged in transit; after so many tries, they are stored like that.
_READS = 3
_DELETES_AT_ONCE = 8
_KNOWN_OBJECTS = 1024


class _Parts(NamedTuple):
    """Segments that were confirmed: number, from 1, -> size and MD5."""

    sizes: dict[int, int]
    md5s: dict[int, str]


_Listed = tuple[ListedObject, str]
_Page = list[_Listed]


class _Known:
    """What copies of a container share."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.uploads: dict[Upload, _Parts] = {}
        self.objects: dict[str, StoredObject] = {}
        self.created = float('-inf')


class Container:
    """The verbs of a container. Safe to share between threads.

    :class:`~freezer.storage.objects.BackupStore` describes most of them. A *path* is a
    key with its container.
    """

    def __init__(self, requests: Requests, name: str) -> None:
        self.name = name
        self.endpoint = requests.where
        self.progress = requests.progress
        self.requests = requests
        self._known = _Known()

    def within(self, seconds: float) -> 'Container':
        """The same, but no request takes longer than that, repetitions included."""
        return self._with(self.requests.within(seconds))

    def limited(self, seconds: float, when: Callable[[], bool]) -> 'Container':
        """See :meth:`Retry.limited`."""
        return self._with(self.requests.limited(seconds, when))

    def cleaning_up(self) -> 'Container':
        return self.within(CLEAN_UP_SECONDS)

    def _with(self, requests: Requests) -> 'Container':
        other = copy.copy(self)
        other.requests = requests
        return other

    def close(self) -> None:
        self.requests.close()

    def url(self, key: str = '') -> str:
        return f'swift://{self.name}/{key}' if key else f'swift://{self.name}'

    def where(self, key: str = '') -> str:
        """The same, with the account, for messages."""
        return f'{self.url(key)} at {self.endpoint}'

    def _run(
        self,
        doing: str,
        method: str,
        path: str,
        cancelled: threading.Event | None = None,
        **request: Any,
    ) -> Answer:
        """The answer to a request that is repeated as the budget allows.

        :param doing: a verb, for messages
        """
        what = f'{doing} swift://{path}'
        return self.requests.run(
            lambda: self.requests.send(what, method, path, **request), cancelled
        )

    def _path(self, key: str) -> str:
        return f'{self.name}/{key}'

    # -- The container ----------------------------------------------------------------

    def exists(self) -> bool:
        try:
            self._run('look up', 'HEAD', self.name)
        except e.NotFound:
            return False
        except e.AccessDenied as error:
            # A user may write objects, and not look up the container.
            LOG.info('cannot be looked up, going on: %s', error.message)
        return True

    def create(self) -> None:
        self._run('create', 'PUT', self.name)
        self._known.created = time.monotonic()
        LOG.info('created container %s', self.where())

    def remove(self) -> None:
        """Remove the container; it must be empty."""
        self._run('remove', 'DELETE', self.name)

    def store_time(self) -> float:
        try:
            answer = self._run('look up', 'HEAD', self.name)
        except (e.AccessDenied, e.NotFound) as error:
            LOG.info("the store's time is unknown: %s", error)
            return time.time()
        moment = epoch(answer.headers.get('date', ''))
        return time.time() if moment is None else moment

    # -- Listings ---------------------------------------------------------------------

    def list(self, prefix: str) -> Iterator[ListedObject]:
        for item, _md5 in self._list(self.name, prefix):
            yield item

    def _list(self, container: str, prefix: str) -> Iterator[_Listed]:
        """Objects with their MD5. Complete, or it raises.

        A page may be short before the end: only an empty one is the end.
        """
        marker = ''
        while True:
            query = {'format': 'json', 'prefix': prefix}
            if marker:
                query['marker'] = marker
            page = self._page(container, query)
            if not page:
                return
            yield from page
            last = page[-1][0].key
            if last.encode() <= marker.encode():
                raise e.MalformedAnswer(
                    f'list {self.where()}: the page after {marker!r} ends with '
                    f'{last!r}: the listing has no end'
                )
            marker = last

    def _page(self, container: str, query: Mapping[str, str]) -> _Page:
        what = f'list swift://{container}/{query["prefix"]}'

        def call() -> _Page:
            try:
                answer = self.requests.send(what, 'GET', container, query)
            except e.NotFound as error:
                raise self._no_container(error) from error
            try:
                items = json.loads(answer.body)
                return [_listed(item) for item in items if 'subdir' not in item]
            except (ValueError, KeyError, TypeError) as error:
                raise e.IncompleteAnswer(
                    f'{what} at {self.endpoint}: not a whole listing: {error}'
                ) from error

        return self.requests.run(call)

    def _no_container(self, error: e.StorageException) -> e.StorageException:
        """The error for a container that is not there, or not yet."""
        if time.monotonic() - self._known.created < _CREATED_SECONDS:
            return e.ServerError(f'{error.message}; the container was just created')
        return e.BucketNotFound(
            f'{error.message}; the container does not exist: check --container'
        )

    # -- Small objects ----------------------------------------------------------------

    def put(
        self,
        key: str,
        body: bytes | bytearray,
        kind: ObjectKind,
        token: str | None = None,
        cancelled: threading.Event | None = None,
    ) -> str:
        headers = {large.TOKEN: token} if token else {}
        return self._put(key, body, headers, cancelled)

    def _put(
        self,
        key: str,
        body: bytes | bytearray,
        headers: Mapping[str, str],
        cancelled: threading.Event | None = None,
    ) -> str:
        """Write an object whose MD5 Swift compares, and return that.

        :raises NotFound: there is no container
        """
        once = functools.partial(self._put_once, key, body, headers)
        found = self.requests.run(once, cancelled)
        self._known.objects.pop(key, None)
        return found

    def _put_once(
        self, key: str, body: bytes | bytearray, headers: Mapping[str, str]
    ) -> str:
        md5, what = _md5(body), f'put {self.url(key)}'
        headers = {'content-type': 'application/octet-stream', **headers, 'etag': md5}
        try:
            answer = self.requests.send(
                what, 'PUT', self._path(key), headers=headers, body=body
            )
        except e.NotFound as error:
            raise self._no_container(error) from error
        found = answer.headers.get('etag', '').strip('"')
        if found != md5:
            raise e.IncompleteAnswer(
                f'{what} at {self.endpoint}: the ETag of the answer is '
                f'{found or "missing"}, and {md5} was sent'
            )
        return md5

    def put_if_absent(self, key: str, body: bytes, kind: ObjectKind) -> bool:
        attempts = 0

        def call() -> None:
            nonlocal attempts
            attempts += 1
            self._put_once(key, body, {'if-none-match': '*'})

        try:
            self.requests.run(call)
        except e.Conflict:
            if attempts == 1:
                return False
            # The attempt whose answer was lost may have written it.
            try:
                return self.get(key) == body
            except e.NotFound:
                return False
        return True

    def replace(self, key: str, body: bytes, kind: ObjectKind, etag: str) -> None:
        """Swift has no condition for this: an agent that deletes the object at the same
        moment is not noticed."""
        if self.head(key).etag != etag:
            raise e.Conflict(f'{self.where(key)}: the object was replaced meanwhile')
        self.put(key, body, kind)

    def get(self, key: str, limit: int | None = None) -> bytes:
        what = f'get {self.url(key)}'

        def call() -> bytes:
            most = math.inf if limit is None else limit
            answer = self.requests.send(
                what, 'GET', self._path(key), headers=_NEWEST, most=most
            )
            size = len(answer.body)
            if size > most:
                size = large.number(answer.headers.get('content-length')) or size
                raise e.IntegrityError(
                    f'{self.url(key)}: {size} bytes where at most {limit} were expected'
                )
            md5 = answer.headers.get('etag', '').strip('"')
            whole = not {large.MANIFEST, large.STATIC} & set(answer.headers)
            if whole and md5 and md5 != _md5(answer.body):
                raise e.IncompleteAnswer(
                    f'{what} at {self.endpoint}: other bytes arrived than its ETag says'
                )
            return answer.body

        return self.requests.run(call)

    def head(self, key: str) -> Head:
        found = self._look_up(key)
        return Head(found.size, found.etag, found.token)

    def examine(self, key: str) -> Head:
        """The same, by the segments that are there.

        :raises IntegrityError: one is missing
        """
        found = self._look_up(key)
        if not found.segment_size:
            return Head(found.size, found.etag, found.token)
        container, _, prefix = found.prefix.partition('/')
        listed = {
            item.key: (item.size, md5)
            for item, md5 in self._list(container, f'{prefix}/')
        }
        segments = [
            listed.get(large.segment(prefix, number))
            or self._examine_segment(container, large.segment(prefix, number))
            for number in range(-(-found.size // found.segment_size))
        ]
        size = sum(size for size, _md5 in segments)
        return Head(size, large.etag_of([md5 for _, md5 in segments]), found.token)

    def _examine_segment(self, container: str, key: str) -> tuple[int, str]:
        """Size and MD5 of a segment that is not listed, or not yet."""
        path = f'{container}/{key}'
        try:
            answer = self._run('look up', 'HEAD', path, query=_ITSELF)
        except e.NotFound as error:
            raise self._missing(path) from error
        found = large.from_headers(path, answer.headers)
        return found.size, found.etag

    def _missing(self, path: str) -> e.IntegrityError:
        return e.IntegrityError(
            f'swift://{path} at {self.endpoint} is missing: the backup is damaged'
        )

    def has(self, key: str) -> bool:
        try:
            path = self._path(key)
            self._run('look up', 'HEAD', path, query=_ITSELF, headers=_NEWEST)
        except e.NotFound:
            return False
        return True

    def forget(self, key: str) -> None:
        """Look an object up again before the next range of it is read."""
        self._known.objects.pop(key, None)

    def _look_up(self, key: str) -> StoredObject:
        path = self._path(key)
        # Of the object itself: with segments, Swift would list them to count.
        answer = self._run('look up', 'HEAD', path, query=_ITSELF)
        found = large.from_headers(path, answer.headers)
        if large.STATIC in answer.headers:
            answer = self._run('look up', 'HEAD', path)
            found = large.from_headers(path, answer.headers)
        elif found.prefix and not found.segment_size:
            container, _, prefix = found.prefix.partition('/')
            listed = list(self._list(container, prefix))
            found = large.with_segments(found, container, listed)
        with self._known.lock:
            if len(self._known.objects) >= _KNOWN_OBJECTS:
                self._known.objects.clear()
            self._known.objects[key] = found
        return found

    # -- Ranges -----------------------------------------------------------------------

    def get_range(
        self,
        key: str,
        start: int,
        end: int,
        etag: str | None,
        cancelled: threading.Event | None = None,
        buffer: bytearray | None = None,
    ) -> memoryview:
        size = end - start
        view = memoryview(bytearray(size) if buffer is None else buffer)[:size]
        found = self._known.objects.get(key)
        if found is None or (etag and found.etag != etag):
            found = self._look_up(key)
        if etag and found.etag != etag:
            raise e.Conflict(
                f'{self.url(key)}: was replaced while it was read: run it again'
            )
        if found.size < end:
            raise e.IntegrityError(
                f'{self.where(key)}: has {found.size} bytes, and {end} were written: '
                f'the backup is damaged'
            )
        position = 0
        for span in found.spans(start, end):
            into = view[position : position + span.size]
            whole = None if found.prefix else etag
            self._read(key, span, into, whole, cancelled)
            position += span.size
        return view

    def _read(
        self,
        key: str,
        span: Span,
        view: memoryview,
        etag: str | None,
        cancelled: threading.Event | None,
    ) -> None:
        """Read bytes of one stored object.

        :param etag: that it must have
        """
        for _attempt in range(_READS):
            try:
                self._read_span(span, view, etag, cancelled)
            except e.NotFound as error:
                if span.path == self._path(key):
                    raise
                raise self._missing(span.path) from error
            if span.md5 is None or _md5(view) == span.md5:
                return
            LOG.warning('swift://%s: other bytes than its ETag says', span.path)
        raise e.IntegrityError(
            f'swift://{span.path} at {self.endpoint}: its bytes are not those of its '
            f'ETag: the backup is damaged'
        )

    def _read_span(
        self,
        span: Span,
        view: memoryview,
        etag: str | None,
        cancelled: threading.Event | None,
    ) -> None:
        """After a broken connection the next attempt continues where it broke."""
        filled = 0
        what = f'get bytes {span.start}-{span.end - 1} of swift://{span.path}'

        def check(headers: Mapping[str, str]) -> None:
            _check_range(headers, span.start + filled, span.end, what)

        def received(count: int) -> None:
            nonlocal filled
            filled += count

        def call() -> None:
            if filled == span.size:
                return
            headers = {'range': f'bytes={span.start + filled}-{span.end - 1}'}
            if etag:
                headers['if-match'] = etag
            into = Into(view[filled:], check, received)
            self.requests.send(what, 'GET', span.path, headers=headers, into=into)
            if filled != span.size:
                raise e.IncompleteAnswer(
                    f'{what} at {self.endpoint}: the answer ended after {filled} of '
                    f'{span.size} bytes'
                )

        self.requests.run(call, cancelled)

    # -- Deleting ---------------------------------------------------------------------

    def delete(self, keys: Sequence[str]) -> None:
        """Files of one folder are deleted at the same time, everything else in this
        order."""
        failed: dict[str, str] = {}
        with ThreadPoolExecutor(_DELETES_AT_ONCE, 'delete') as pool:
            for _folder, group in itertools.groupby(keys, _folder_of):
                some = list(group)
                for key, reason in zip(some, pool.map(self._delete, some), strict=True):
                    if reason is not None:
                        failed[key] = reason
        if failed:
            key, reason = next(iter(failed.items()))
            raise e.PartialDelete(
                f'{len(failed)} of {len(keys)} objects could not be deleted from '
                f'{self.where()}, first {key}: {reason}; --action admin tries again'
            )

    def _delete(self, key: str) -> str | None:
        """Why an object was not deleted; None if it is gone."""
        self._known.objects.pop(key, None)
        with contextlib.suppress(e.NotFound):
            try:
                self._run('delete', 'DELETE', self._path(key))
            except e.AccessDenied as error:
                return error.message
        return None

    # -- Objects of several segments --------------------------------------------------

    def list_uploads(self, prefix: str) -> Iterator[OpenUpload]:
        """None: segments are objects, and listed as such."""
        return iter(())

    def parts(self, upload: Upload) -> UploadedParts:
        raise e.NotFound(f'{self.url(upload.key)}: its segments are objects')

    def create_upload(
        self, key: str, token: str, kind: ObjectKind = ObjectKind.VOLUME
    ) -> Upload:
        upload = Upload(key, large.segments_of(key, token))
        self._known.uploads[upload] = _Parts({}, {})
        return upload

    def upload_part(
        self,
        upload: Upload,
        number: int,
        body: bytes | bytearray,
        cancelled: threading.Event | None = None,
    ) -> Sent:
        parts = self._known.uploads[upload]
        # Before it is sent: if that fails, it may be there.
        parts.sizes[number] = len(body)
        key = large.segment(upload.upload_id, number - 1)
        md5 = parts.md5s[number] = self._put(key, body, {}, cancelled)
        return Sent(md5, {})

    def complete(
        self, upload: Upload, sent: Sequence[Sent], size: int, token: str
    ) -> str:
        """Make the segments an object, once all of them were found.

        :raises IntegrityError: Swift confirmed a segment, and does not have it
        """
        parts = self._known.uploads[upload]
        self._verify_segments(upload, parts)
        etag = large.etag_of([part.etag for part in sent])
        prefix = self._path(upload.upload_id)
        headers = large.headers_of(prefix, size, parts.sizes[1], etag, token)
        try:
            self._put(upload.key, b'', headers)
        except e.StorageException as error:
            if not error.temporary:
                raise
            raise UncertainComplete(
                f'{error.message}; it is not known whether {self.url(upload.key)} was '
                f'written, so its segments were left as they are'
            ) from error
        del self._known.uploads[upload]
        self._delete_older(upload)
        return etag

    def _verify_segments(self, upload: Upload, parts: _Parts) -> None:
        """Check that all segments are there, with their sizes and MD5s.

        Swift may list them late. Freezer 19 reads those that are listed, so it is worth
        some seconds; in the end each that is not listed is looked up.
        """
        missing = {
            large.segment(upload.upload_id, number - 1): (size, parts.md5s[number])
            for number, size in parts.sizes.items()
        }
        try:
            for delay in LISTING_DELAYS:
                time.sleep(delay)
                for item, md5 in self._list(self.name, f'{upload.upload_id}/'):
                    if missing.get(item.key) == (item.size, md5):
                        del missing[item.key]
                if not missing:
                    return
        except e.AccessDenied as error:
            LOG.info('the segments cannot be listed: %s', error.message)
        LOG.warning('%d segments are not listed yet', len(missing))
        with contextlib.suppress(e.AccessDenied):
            for key, (size, md5) in missing.items():
                self._verify_segment(key, size, md5)

    def _verify_segment(self, key: str, size: int, md5: str) -> None:
        try:
            found = self._look_up(key)
        except e.NotFound as error:
            raise e.IntegrityError(
                f'{self.where(key)} is missing: the store confirmed it, and does not '
                f'have it; run the backup again, and --action check'
            ) from error
        if (found.size, found.etag) != (size, md5):
            raise e.IntegrityError(
                f'{self.where(key)} differs from what was written: run the backup '
                f'again, and --action check'
            )

    def _delete_older(self, upload: Upload) -> None:
        """Delete the segments that an object had before: of an index."""
        folder = upload.upload_id.rpartition('/')[0]
        if folder != f'{upload.key}.segments':
            return
        ours = f'{upload.upload_id}/'
        try:
            found = [item.key for item in self.list(f'{folder}/')]
        except e.AccessDenied as error:
            # They go with the level. Of a new backup there are none.
            LOG.info('older segments cannot be listed: %s', error.message)
            return
        self.delete([key for key in found if not key.startswith(ours)])

    def apply_lock_and_tags(self, key: str) -> None:
        """Swift has neither."""

    def abort(self, upload: Upload) -> None:
        """Delete the segments of an upload of this process that is not an object.

        Others may belong to an object by now. They are in the folder of their level,
        and go with it.
        """
        parts = self._known.uploads.pop(upload, None)
        if parts is not None:
            self.delete(
                [large.segment(upload.upload_id, n - 1) for n in sorted(parts.sizes)]
            )


_ITSELF = {'multipart-manifest': 'get'}
# Asks every replica, as claims and markers decide what is deleted.
_NEWEST = {'x-newest': 'true'}


def _md5(data: bytes | bytearray | memoryview) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _folder_of(key: str) -> str:
    return key.rpartition('/')[0]


def _listed(item: Mapping[str, Any]) -> tuple[ListedObject, str]:
    """:raises ValueError, KeyError: it is none of a listing"""
    moment = time.strptime(item['last_modified'][:19], '%Y-%m-%dT%H:%M:%S')
    name, size = str(item['name']), int(item['bytes'])
    return ListedObject(name, size, float(calendar.timegm(moment))), str(item['hash'])


def _check_range(headers: Mapping[str, str], first: int, end: int, what: str) -> None:
    """Check that the answer is the requested range.

    :raises IncompleteAnswer: it is another one
    """
    given = headers.get('content-range', '').partition('/')[0]
    if given != f'bytes {first}-{end - 1}':
        raise e.IncompleteAnswer(
            f'{what}: asked for bytes {first}-{end - 1}, and got '
            f'{given or "something else"}'
        )
