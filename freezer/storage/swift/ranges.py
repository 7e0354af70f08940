"""Ranges of objects, read from the segments that have them."""

import logging
import threading
from collections.abc import Mapping

from freezer.storage import exceptions as e
from freezer.storage.swift.container_requests import ContainerRequests
from freezer.storage.swift.large import Span
from freezer.storage.swift.objects import Objects, md5_of
from freezer.storage.swift.requests import Into

LOG = logging.getLogger(__name__)

# Bytes may be damaged in transit; after so many tries, they are stored like that.
_READS = 3


class Ranges:
    def __init__(self, http: ContainerRequests, objects: Objects) -> None:
        self._http = http
        self._objects = objects

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
        found = self._http.shared.objects.get(key)
        if found is None or (etag and found.etag != etag):
            found = self._objects.look_up(key)
        if etag and found.etag != etag:
            raise e.Conflict(
                f'{self._http.url(key)}: was replaced while it was read: run it again'
            )
        if found.size < end:
            raise e.IntegrityError(
                f'{self._http.where(key)}: has {found.size} bytes, and {end} were '
                f'written: the backup is damaged'
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
                if span.path == self._http.path(key):
                    raise
                raise self._http.missing(span.path) from error
            if span.md5 is None or md5_of(view) == span.md5:
                return
            LOG.warning('swift://%s: other bytes than its ETag says', span.path)
        raise e.IntegrityError(
            f'swift://{span.path} at {self._http.endpoint}: its bytes are not those of '
            f'its ETag: the backup is damaged'
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
            self._http.requests.send(what, 'GET', span.path, headers=headers, into=into)
            if filled != span.size:
                raise e.IncompleteAnswer(
                    f'{what} at {self._http.endpoint}: the answer ended after {filled} '
                    f'of {span.size} bytes'
                )

        self._http.requests.run(call, cancelled)


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
