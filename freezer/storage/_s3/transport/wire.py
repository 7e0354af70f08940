"""Sends and receives in small blocks, so that rate limits and cancellation work.

A request's body goes to the socket block by block. So a rate limit holds from second to
second, and a cancelled upload stops where it is. Without that, a part would be one call
to the socket, which has to end within the connect timeout over plain HTTP (urllib3 sets
that timeout for sending, and ``sendall`` counts it once).
"""

import contextlib
import functools
import http.client
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import botocore.awsrequest
import urllib3.exceptions
from botocore.exceptions import ReadTimeoutError, ResponseStreamingError

from freezer.storage.exceptions import Cancelled, Rejected
from freezer.utils.rate import UNLIMITED, Rate

_READ_BLOCK = 256 * 1024
#: bytes of an answer that is read as a whole: a page of a listing with 1,000 keys of
#: 1,024 bytes, each escaped, has about 4 MB
MAX_ANSWER = 16 * 1024 * 1024
# How many times a server may say that it will answer. Most say it once, or never.
_MAX_INTERIM = 20


class Wire:
    """Rate limits and cancellation for all traffic with one store.

    Safe to share between threads, clients and buckets.
    """

    def __init__(
        self,
        sending: Rate = UNLIMITED,
        receiving: Rate = UNLIMITED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sending = sending
        self._receiving = receiving
        self._clock = clock
        self._thread = threading.local()

    def attach(self, client: Any) -> None:
        """Make a botocore client send block by block, and read bounded answers."""
        # After signing: what is signed is the body as it is.
        client.meta.events.register('before-send.s3', self._wrap)
        session = client._endpoint.http_session
        session.send = functools.partial(_send_bounded, session.send)

    @contextlib.contextmanager
    def cancelled_by(self, event: threading.Event | None) -> Iterator[None]:
        """Once the event is set, this thread sends and receives no more in the block.

        :raises Cancelled: from the next read or write
        """
        before = self._event
        self._thread.event = event
        try:
            yield
        finally:
            self._thread.event = before

    def now(self) -> float:
        """Monotonic seconds, without those that this thread waited for a rate limit:
        they must not use up the retry budget."""
        return self._clock() - self._held

    @property
    def read_size(self) -> int:
        """Bytes to read at once: small with a limit, so that the store notices it."""
        limited = self._receiving.per_second
        return self._receiving.step if limited else _READ_BLOCK

    def received(self, size: int) -> None:
        """Account for bytes that were read; wait until more may be read."""
        self._take(self._receiving, size)

    def _wrap(self, request: Any, **_rest: Any) -> None:
        # botocore asks first with small bodies that are bytes, and not with parts. It
        # costs a round trip, or a second where a store ignores it; and in an older
        # botocore (1.29) a refusal is also taken for the answer to the next request
        # on that connection, as Ceph keeps it open. The header is not signed.
        request.headers.pop('Expect', None)
        if not request.body:
            return
        rate = self._sending
        request.body = _Body(
            request.body, rate.step, lambda size: self._take(rate, size)
        )

    def _take(self, rate: Rate, size: int) -> None:
        event = self._event
        self._thread.held = self._held + rate.take(size, event)
        if event is not None and event.is_set():
            raise Cancelled('cancelled because another part of the backup failed')

    @property
    def _event(self) -> threading.Event | None:
        event: threading.Event | None = getattr(self._thread, 'event', None)
        return event

    @property
    def _held(self) -> float:
        held: float = getattr(self._thread, 'held', 0.0)
        return held


def _send_bounded(send: Callable[[Any], Any], request: Any) -> Any:
    """Send a request as botocore does, which reads errors and listings to their end.

    :raises Rejected: the answer is longer than any of S3
    """
    streams = request.stream_output
    request.stream_output = True
    response = send(request)
    if streams and response.status_code < 300:
        return response
    content = bytearray()
    try:
        for block in response.raw.stream(_READ_BLOCK):
            content += block
            if len(content) > MAX_ANSWER:
                response.raw.close()
                raise Rejected(
                    f'{urllib.parse.urlsplit(request.url).netloc}: an answer has more '
                    f'than {MAX_ANSWER} bytes, and S3 has none of that size: check '
                    f'--endpoint and --proxy'
                )
    # As botocore does.
    except urllib3.exceptions.ReadTimeoutError as error:
        raise ReadTimeoutError(endpoint_url=request.url, error=error) from error
    except urllib3.exceptions.HTTPError as error:
        raise ResponseStreamingError(error=error) from error
    # What the property "content" returns from now on.
    response._content = bytes(content)
    return response


class _Response(http.client.HTTPResponse):
    """An answer, before which a server may only say a few times that it will come."""

    _interim = 0

    def _read_status(self) -> tuple[str, int, str]:
        found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
        if found[1] == http.client.CONTINUE:
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                raise Rejected(
                    'the server says 100 Continue again and again: check --endpoint '
                    'and --proxy'
                )
        return found


# botocore's connections take it from their class.
for _kind in (
    botocore.awsrequest.AWSHTTPConnection,
    botocore.awsrequest.AWSHTTPSConnection,
):
    _kind.response_class = _Response


def receive(body: Any, view: memoryview) -> int:
    """Read an answer's body into memory; the number of bytes, 0 at its end.

    urllib3 cannot read into existing memory: its own ``readinto`` allocates for each
    block and copies it. http.client below it can, and counts the bytes of the body as
    well.
    """
    source = _source(body)
    if source is None:
        block: bytes = body.read(len(view))
        view[: len(block)] = block
        return len(block)
    try:
        return source.readinto(view)
    except TimeoutError as error:
        raise ReadTimeoutError(endpoint_url='', error=error) from error
    except OSError as error:
        raise ResponseStreamingError(error=error) from error


def close(body: Any) -> None:
    """Close an answer's body; keep the connection if the body was read to its end."""
    source = _source(body)
    if source is not None and source.isclosed():
        body._raw_stream.release_conn()
    body.close()


def _source(body: Any) -> http.client.HTTPResponse | None:
    """The http.client response below botocore's body and urllib3's."""
    source = getattr(getattr(body, '_raw_stream', None), '_fp', None)
    return source if isinstance(source, http.client.HTTPResponse) else None


class _Body:
    """A request's body as a file, read in blocks, each when it is due.

    :param take: waits until so many bytes are due
    """

    def __init__(self, content: Any, step: int, take: Callable[[int], None]) -> None:
        self._file = content if hasattr(content, 'read') else _Buffer(content)
        self._step = step
        self._take = take

    def read(self, _size: int = -1) -> Any:
        block = self._file.read(self._step)
        if block:
            self._take(len(block))
        return block

    def __iter__(self) -> Iterator[Any]:
        while block := self.read():
            yield block

    def seek(self, position: int) -> None:
        """botocore rewinds what it sends again (to another region)."""
        self._file.seek(position)


class _Buffer:
    """A buffer read as a file, without a copy."""

    def __init__(self, content: bytes | bytearray) -> None:
        self._view = memoryview(content)
        self._position = 0

    def read(self, size: int) -> memoryview:
        block = self._view[self._position : self._position + size]
        self._position += len(block)
        return block

    def seek(self, position: int) -> None:
        self._position = position
