"""Sends prepared requests, over connections that urllib3 keeps.

It takes the place of botocore's own sender, for three reasons. A body goes to the
socket piece by piece (``http/pools.py``). An answer that is read as a whole has a
bound. And the certificates of the authorities are read once, not for each connection:
that takes 15 ms.
"""

import contextlib
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

import botocore.awsrequest
import botocore.httpsession
import urllib3
import urllib3.exceptions
from botocore import exceptions as b

from freezer.storage._s3.options import S3Options
from freezer.storage._s3.transport.route import proxy_of
from freezer.storage.exceptions import Rejected
from freezer.storage.http import pools
from freezer.storage.http.wire import Wire
from freezer.storage.object_backups.plan import MOST_AT_ONCE

#: bytes of an answer that is read as a whole: a page of a listing with 1,000 keys of
#: 1,024 bytes, each escaped, has about 4 MB
MAX_ANSWER = 16 * 1024 * 1024
_READ_BLOCK = 256 * 1024
# Complete on a large upload may take the store minutes. Repeated too early, it is
# answered with errors that look like failures (Swift's heartbeats, Ceph).
_PATIENCE = 600


class Sender:
    """Sends requests to one store. Safe to share between threads."""

    def __init__(self, wire: Wire, endpoint: str, options: S3Options) -> None:
        self._wire = wire
        self._endpoint = endpoint
        self._options = options
        self._proxy = proxy_of(endpoint, options.proxy)
        self._pools: urllib3.PoolManager | None = None
        self._lock = threading.Lock()
        self._thread = threading.local()

    def attach(self, client: Any) -> None:
        """Send the requests of a botocore client."""
        client.meta.events.register('before-send.s3', self._send_of_client)

    def close(self) -> None:
        if self._pools is not None:
            self._pools.clear()

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """A block in which this thread waits longer for answers."""
        self._thread.patient = True
        try:
            yield
        finally:
            self._thread.patient = False

    def _send_of_client(self, request: Any, **_rest: Any) -> Any:
        return self.send(request)

    def send(self, request: Any) -> Any:
        """Send one request, and return the answer as botocore has it.

        It is read to its end, unless it is a stream that the request asked for.

        :param request: a botocore AWSPreparedRequest
        :raises HTTPClientError, ConnectionError: botocore's errors
        """
        # botocore would ask first, with small bodies. It costs a round trip, or a
        # second where a store ignores it. The header is not signed.
        request.headers.pop('Expect', None)
        try:
            raw = (
                self._opened()
                .connection_from_url(request.url)
                .urlopen(
                    request.method,
                    pools.target(request.url, self._proxy),
                    body=_body(request.body),
                    headers=request.headers,
                    timeout=self._timeout(),
                    retries=urllib3.Retry(False),
                    assert_same_host=False,
                    preload_content=False,
                    decode_content=False,
                    enforce_content_length=False,
                )
            )
            answer = botocore.awsrequest.AWSResponse(
                request.url, raw.status, raw.headers, raw
            )
            if not request.stream_output or raw.status >= 300:
                # What the property "content" returns from now on.
                answer._content = _read(raw, request.url)
            return answer
        except b.HTTPClientError:
            raise
        except Exception as error:
            raise self._as_of_botocore(error, request) from error

    def _as_of_botocore(self, error: Exception, request: Any) -> Exception:
        """The error that botocore's sender raises for one of urllib3."""
        url, u = request.url, urllib3.exceptions
        made: Exception
        # The order matters: some are kinds of others.
        if isinstance(error, u.SSLError):
            made = b.SSLError(endpoint_url=url, error=error)
        elif isinstance(error, u.NewConnectionError | socket.gaierror):
            made = b.EndpointConnectionError(endpoint_url=url, error=error)
        elif isinstance(error, u.ProxyError):
            shown = botocore.httpsession.mask_proxy_url(self._proxy)
            made = b.ProxyConnectionError(proxy_url=shown, error=error)
        elif isinstance(error, u.ConnectTimeoutError):
            made = b.ConnectTimeoutError(endpoint_url=url, error=error)
        elif isinstance(error, u.ReadTimeoutError):
            made = b.ReadTimeoutError(endpoint_url=url, error=error)
        elif isinstance(error, u.ProtocolError):
            made = b.ConnectionClosedError(
                error=error, request=request, endpoint_url=url
            )
        else:
            made = b.HTTPClientError(error=error)
        return made

    def _timeout(self) -> urllib3.Timeout:
        read = self._options.read_timeout
        if getattr(self._thread, 'patient', False):
            read = max(read, _PATIENCE)
        return urllib3.Timeout(connect=self._options.connect_timeout, read=read)

    def _opened(self) -> urllib3.PoolManager:
        with self._lock:
            if self._pools is None:
                self._pools = self._make_pools()
            return self._pools

    def _make_pools(self) -> urllib3.PoolManager:
        options = self._options
        tls = 'https' in (self._endpoint[:5], self._proxy[:5])
        return pools.open_pools(
            self._wire,
            (options.concurrency or MOST_AT_ONCE) + 2,
            options.read_timeout,
            self._context() if tls else None,
            self._proxy,
        )

    def _context(self) -> ssl.SSLContext:
        if self._options.insecure:
            return pools.tls_context(False)
        bundle = botocore.httpsession.get_cert_path(self._options.ca_bundle or True)
        return pools.tls_context(True, str(bundle))


def _body(content: Any) -> Any:
    """A body as a buffer; None for none.

    :param content: botocore makes a file of some small bodies
    """
    if hasattr(content, 'read'):
        content = content.read()
    return memoryview(content) if content else None


def _read(raw: Any, url: str) -> bytes:
    """An answer as a whole.

    :raises Rejected: it is longer than any of S3
    """
    content = bytearray()
    try:
        for block in raw.stream(_READ_BLOCK):
            content += block
            if len(content) > MAX_ANSWER:
                raw.close()
                raise Rejected(
                    f'{urllib.parse.urlsplit(url).netloc}: an answer has more than '
                    f'{MAX_ANSWER} bytes, and S3 has none of that size: check '
                    f'--endpoint and --proxy'
                )
    except urllib3.exceptions.ReadTimeoutError:
        raise
    except urllib3.exceptions.HTTPError as error:
        raise b.ResponseStreamingError(error=error) from error
    return bytes(content)


def receive(body: Any, view: memoryview) -> int:
    """:func:`pools.receive`, with the errors of botocore."""
    try:
        return pools.receive(body, view)
    except TimeoutError as error:
        raise b.ReadTimeoutError(endpoint_url='', error=error) from error
    except OSError as error:
        raise b.ResponseStreamingError(error=error) from error
