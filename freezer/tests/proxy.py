"""A scripted way to an S3 server: it passes requests on, and meddles where it is told.

The agent is given the proxy's address as its endpoint. Rules decide on each request
that they match: answer it in the server's place, or hold it until the test says so.
"""

import contextlib
import dataclasses
import http.client
import http.server
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit


@dataclasses.dataclass(frozen=True)
class Request:
    """One request. ``query`` has the first value of each parameter, and names of
    ``headers`` are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    connection: int
    headers: dict[str, str] = dataclasses.field(repr=False)
    body: bytes = dataclasses.field(repr=False)

    @property
    def host(self) -> str:
        """What it is for: a host, perhaps with a port."""
        return self.path if self.method == 'CONNECT' else self.headers['host']

    @property
    def key(self) -> str:
        """The object's, where the bucket is in the path; empty for the bucket."""
        return self.path.lstrip('/').partition('/')[2]

    @property
    def operation(self) -> str:
        """S3's name of it, where the bucket is in the path."""
        marked = [name for name in _MARKS if name in self.query]
        what = ('object' if self.key else 'bucket', self.method, *marked)
        return _OPERATIONS.get(what, ' '.join(what))

    @property
    def part(self) -> int:
        """The number of the part it uploads; 0 if it uploads none."""
        number = self.query.get('partNumber', '0') if self.method == 'PUT' else '0'
        return int(number)

    @property
    def lists(self) -> bool:
        """Whether it asks for a listing of objects."""
        return self.method == 'GET' and 'list-type' in self.query

    @property
    def completes(self) -> bool:
        return self.method == 'POST' and 'uploadId' in self.query


# What tells operations of one method apart.
_MARKS = (
    *('uploads', 'uploadId', 'partNumber', 'delete', 'list-type'),
    *('object-lock', 'retention', 'legal-hold', 'tagging'),
)
_OPERATIONS = {
    ('object', 'POST', 'uploads'): 'CreateMultipartUpload',
    ('object', 'PUT', 'uploadId', 'partNumber'): 'UploadPart',
    ('object', 'POST', 'uploadId'): 'CompleteMultipartUpload',
    ('object', 'DELETE', 'uploadId'): 'AbortMultipartUpload',
    ('object', 'PUT'): 'PutObject',
    ('object', 'GET'): 'GetObject',
    ('object', 'HEAD'): 'HeadObject',
    ('object', 'DELETE'): 'DeleteObject',
    ('bucket', 'PUT'): 'CreateBucket',
    ('bucket', 'HEAD'): 'HeadBucket',
    ('bucket', 'GET', 'list-type'): 'ListObjectsV2',
    ('bucket', 'GET'): 'ListObjects',
    ('bucket', 'GET', 'uploads'): 'ListMultipartUploads',
    ('bucket', 'POST', 'delete'): 'DeleteObjects',
    ('bucket', 'GET', 'object-lock'): 'GetObjectLockConfiguration',
    ('object', 'PUT', 'retention'): 'PutObjectRetention',
    ('object', 'PUT', 'legal-hold'): 'PutObjectLegalHold',
    ('object', 'PUT', 'tagging'): 'PutObjectTagging',
}


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is answered in the server's place."""

    status: int
    body: bytes = b''
    content_type: str = 'application/xml'


@dataclasses.dataclass(frozen=True)
class Reply:
    """What the server answered. Names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def but(
        self, status: int = 0, body: bytes | None = None, **headers: str
    ) -> 'Reply':
        """The same with changes; ``_`` in a header's name is a hyphen."""
        changed = {name.replace('_', '-'): value for name, value in headers.items()}
        return Reply(
            status or self.status,
            self.headers | changed,
            self.body if body is None else body,
        )


Matches = Callable[[Request], bool]
#: what the agent gets in place of the server's reply; None for nothing at all
Change = Callable[[Reply], Reply | None]


def error(status: int, code: str, message: str = 'so says the proxy') -> Answer:
    """An error as S3 servers send it."""
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    )
    return Answer(status, text.encode())


DENIED = error(403, 'AccessDenied')
BROKEN = error(500, 'InternalError')


class Held:
    """The requests of a rule, kept waiting."""

    def __init__(self) -> None:
        self._arrived = threading.Event()
        self._released = threading.Event()
        #: whether it was released, and did not just wait too long
        self.in_time = False

    def wait(self) -> None:
        """Until one has arrived."""
        assert self._arrived.wait(60), 'no such request came'

    def release(self) -> None:
        self._released.set()

    def _keep(self) -> None:
        self._arrived.set()
        self.in_time = self._released.wait(240)


class Proxy:
    """In front of the server at ``endpoint``; with ``with``.

    It may be given as ``--proxy`` as well: whatever host is asked for, it goes there;
    https in a tunnel, of which there is no more to see than the request for it.

    :param tls: to be spoken to by https
    """

    def __init__(self, endpoint: str, tls: ssl.SSLContext | None = None) -> None:
        self._target = urlsplit(endpoint).netloc
        self._rules: list[tuple[Matches, Answer | Held | Callable[[], None]]] = []
        self._changes: list[tuple[Matches, Change]] = []
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._connections = 0
        self._server = _Server(('127.0.0.1', 0), _handler(self))
        scheme = 'http'
        if tls is not None:
            scheme = 'https'
            # Hands are shaken in the thread of the connection.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.endpoint = f'{scheme}://127.0.0.1:{self._server.server_address[1]}'

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for _matches, what in self._rules:
            if isinstance(what, Held):
                what.release()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, matches: Matches, answer: Answer) -> None:
        """From now on, answer these requests in the server's place."""
        self._rules.append((matches, answer))

    def hold(self, matches: Matches) -> Held:
        """From now on, keep these requests waiting, and pass them on when released."""
        held = Held()
        self._rules.append((matches, held))
        return held

    def before(self, matches: Matches, act: Callable[[], None]) -> None:
        """From now on, do something before these requests are passed on."""
        self._rules.append((matches, act))

    def change(self, matches: Matches, change: Change) -> None:
        """From now on, change what the server answers to these requests."""
        self._changes.append((matches, change))

    def clear(self) -> None:
        """No rules any more, and no requests recorded."""
        self._rules.clear()
        self._changes.clear()
        self.requests.clear()

    def _new_connection(self) -> int:
        with self._lock:
            self._connections += 1
            return self._connections

    def _handle(
        self, handler: http.server.BaseHTTPRequestHandler, connection: int
    ) -> None:
        path, _, parameters = _local(handler.path).partition('?')
        query = parse_qs(parameters, keep_blank_values=True)
        size = int(handler.headers.get('Content-Length') or 0)
        body = handler.rfile.read(size)
        if len(body) < size:
            # The agent gave it up while it was sent: no request.
            handler.close_connection = True
            return
        request = Request(
            handler.command,
            unquote(path),
            {name: values[0] for name, values in query.items()},
            connection,
            {name.lower(): value for name, value in handler.headers.items()},
            body,
        )
        with self._lock:
            self.requests.append(request)
            rules = list(self._rules)
        for matches, what in rules:
            if not matches(request):
                continue
            if isinstance(what, Answer):
                self._answer(handler, what)
                return
            if isinstance(what, Held):
                what._keep()
            else:
                what()
        if request.method == 'CONNECT':
            self._tunnel(handler)
        else:
            self._pass_on(handler, request, body)

    def _tunnel(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        host, port = self._target.split(':')
        with socket.create_connection((host, int(port)), timeout=60) as server:
            handler.send_response_only(200)
            handler.end_headers()
            ends = handler.connection, server
            back = threading.Thread(target=_pump, args=ends)
            back.start()
            _pump(*reversed(ends))
            back.join()

    def _answer(
        self, handler: http.server.BaseHTTPRequestHandler, answer: Answer
    ) -> None:
        handler.send_response(answer.status)
        handler.send_header('Content-Type', answer.content_type)
        handler.send_header('Content-Length', str(len(answer.body)))
        handler.end_headers()
        if handler.command != 'HEAD':
            handler.wfile.write(answer.body)

    def _pass_on(
        self,
        handler: http.server.BaseHTTPRequestHandler,
        request: Request,
        body: bytes,
    ) -> None:
        server = http.client.HTTPConnection(self._target, timeout=60)
        try:
            # Host as it was: it is part of what is signed.
            server.putrequest(
                handler.command,
                _local(handler.path),
                skip_host=True,
                skip_accept_encoding=True,
            )
            for name, value in handler.headers.items():
                if name.lower() not in ('expect', 'connection'):
                    server.putheader(name, value)
            server.endheaders(body or None)
            response = server.getresponse()
            content = response.read()
        except OSError:
            # The server is gone: so is the connection.
            handler.close_connection = True
            return
        finally:
            server.close()
        headers = {name.lower(): value for name, value in response.getheaders()}
        reply: Reply | None = Reply(response.status, headers, content)
        with self._lock:
            changes = [change for matches, change in self._changes if matches(request)]
        for change in changes:
            if reply is not None:
                reply = change(reply)
        if reply is None:
            handler.close_connection = True
            return
        handler.send_response_only(reply.status)
        if reply.body or 'content-length' not in reply.headers:
            # Of the answer to a HEAD the length is that of what is not there.
            reply.headers['content-length'] = str(len(reply.body))
        for name, value in reply.headers.items():
            if name not in ('transfer-encoding', 'connection'):
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(reply.body)


def _local(target: str) -> str:
    """Path and query; scheme and host come first where a proxy is asked."""
    if target.startswith('http://'):
        return target[target.find('/', len('http://')) :]
    return target


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Copy until one of them closes, and then close both."""
    with contextlib.suppress(OSError):
        while block := source.recv(65536):
            target.sendall(block)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """An agent that was killed closes its connections: no news."""


def _handler(proxy: Proxy) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'

        def setup(self) -> None:
            super().setup()
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.number = proxy._new_connection()

        def log_message(self, *_arguments: object) -> None:
            """Nothing on standard error."""

        def handle_any(self) -> None:
            proxy._handle(self, self.number)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815
        do_CONNECT = handle_any  # noqa: N815

    return Handler
