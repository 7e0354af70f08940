"""Objects, whole and in ranges."""

import threading
from typing import Any, NamedTuple

from freezer.storage import exceptions as e
from freezer.storage._s3.calls import Calls
from freezer.storage._s3.parameters import Kind

# How the object of our upload is told from anybody else's.
TOKEN_KEY = 'freezer-token'  # noqa: S105 - a metadata key, no secret


class Head(NamedTuple):
    """Size in bytes, the ETag as given, and the token if the object has one."""

    size: int
    etag: str
    token: str | None


class Objects(Calls):
    """What is done with one object."""

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
