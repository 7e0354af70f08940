"""Objects of a container, each with a request of its own."""

import contextlib
import functools
import hashlib
import itertools
import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from freezer.storage import exceptions as e
from freezer.storage.objects import Head, ObjectKind
from freezer.storage.swift import large
from freezer.storage.swift.container_requests import ContainerRequests
from freezer.storage.swift.large import StoredObject
from freezer.storage.swift.listings import Listings

_DELETES_AT_ONCE = 8
_KNOWN_OBJECTS = 1024
#: asks for an object itself: with segments, Swift would list them to count
ITSELF = {'multipart-manifest': 'get'}
# Asks every replica, as claims and markers decide what is deleted.
_NEWEST = {'x-newest': 'true'}


class Objects:
    def __init__(self, http: ContainerRequests, listings: Listings) -> None:
        self._http = http
        self._listings = listings

    def put(
        self,
        key: str,
        body: bytes | bytearray,
        kind: ObjectKind,
        token: str | None = None,
        cancelled: threading.Event | None = None,
    ) -> str:
        headers = {large.TOKEN: token} if token else {}
        return self.put_checked(key, body, headers, cancelled)

    def put_checked(
        self,
        key: str,
        body: bytes | bytearray,
        headers: Mapping[str, str],
        cancelled: threading.Event | None = None,
    ) -> str:
        """Write an object whose MD5 Swift compares, and return that.

        :raises NotFound: there is no container
        """
        once = functools.partial(self.put_once, key, body, headers)
        found = self._http.requests.run(once, cancelled)
        self._http.shared.objects.pop(key, None)
        return found

    def put_once(
        self, key: str, body: bytes | bytearray, headers: Mapping[str, str]
    ) -> str:
        md5, what = md5_of(body), f'put {self._http.url(key)}'
        headers = {'content-type': 'application/octet-stream', **headers, 'etag': md5}
        try:
            answer = self._http.requests.send(
                what, 'PUT', self._http.path(key), headers=headers, body=body
            )
        except e.NotFound as error:
            raise self._http.no_container(error) from error
        found = answer.headers.get('etag', '').strip('"')
        if found != md5:
            raise e.IncompleteAnswer(
                f'{what} at {self._http.endpoint}: the ETag of the answer is '
                f'{found or "missing"}, and {md5} was sent'
            )
        return md5

    def put_if_absent(self, key: str, body: bytes, kind: ObjectKind) -> bool:
        attempts = 0

        def call() -> None:
            nonlocal attempts
            attempts += 1
            self.put_once(key, body, {'if-none-match': '*'})

        try:
            self._http.requests.run(call)
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
            raise e.Conflict(
                f'{self._http.where(key)}: the object was replaced meanwhile'
            )
        self.put(key, body, kind)

    def get(self, key: str, limit: int | None = None) -> bytes:
        what = f'get {self._http.url(key)}'

        def call() -> bytes:
            most = math.inf if limit is None else limit
            answer = self._http.requests.send(
                what, 'GET', self._http.path(key), headers=_NEWEST, most=most
            )
            size = len(answer.body)
            if size > most:
                size = large.number(answer.headers.get('content-length')) or size
                raise e.IntegrityError(
                    f'{self._http.url(key)}: {size} bytes where at most {limit} were '
                    f'expected'
                )
            md5 = answer.headers.get('etag', '').strip('"')
            whole = not {large.MANIFEST, large.STATIC} & set(answer.headers)
            if whole and md5 and md5 != md5_of(answer.body):
                raise e.IncompleteAnswer(
                    f'{what} at {self._http.endpoint}: other bytes arrived than its '
                    f'ETag says'
                )
            return answer.body

        return self._http.requests.run(call)

    def head(self, key: str) -> Head:
        found = self.look_up(key)
        return Head(found.size, found.etag, found.token)

    def has(self, key: str) -> bool:
        try:
            path = self._http.path(key)
            self._http.run('look up', 'HEAD', path, query=ITSELF, headers=_NEWEST)
        except e.NotFound:
            return False
        return True

    def forget(self, key: str) -> None:
        """Look an object up again before the next range of it is read."""
        self._http.shared.objects.pop(key, None)

    def look_up(self, key: str) -> StoredObject:
        path = self._http.path(key)
        answer = self._http.run('look up', 'HEAD', path, query=ITSELF)
        found = large.from_headers(path, answer.headers)
        if large.STATIC in answer.headers:
            answer = self._http.run('look up', 'HEAD', path)
            found = large.from_headers(path, answer.headers)
        elif found.prefix and not found.segment_size:
            container, _, prefix = found.prefix.partition('/')
            listed = list(self._listings.list_with_md5(container, prefix))
            found = large.with_segments(found, container, listed)
        with self._http.shared.lock:
            if len(self._http.shared.objects) >= _KNOWN_OBJECTS:
                self._http.shared.objects.clear()
            self._http.shared.objects[key] = found
        return found

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
                f'{self._http.where()}, first {key}: {reason}; --action admin tries '
                f'again'
            )

    def _delete(self, key: str) -> str | None:
        """Why an object was not deleted; None if it is gone."""
        self._http.shared.objects.pop(key, None)
        with contextlib.suppress(e.NotFound):
            try:
                self._http.run('delete', 'DELETE', self._http.path(key))
            except e.AccessDenied as error:
                return error.message
        return None


def md5_of(data: bytes | bytearray | memoryview) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _folder_of(key: str) -> str:
    return key.rpartition('/')[0]
