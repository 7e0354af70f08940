"""A scripted way to an S3 server: it passes requests on, and meddles where it is told.

The agent is given the proxy's address as its endpoint. Rules decide on each request
that they match: end or stall its connection, answer it in the server's place, hold it
until the test says so, change it, or change what the server answers.
"""

import contextlib
import dataclasses
import enum
import http.client
import http.server
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
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
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Ending(enum.Enum):
    """What becomes of a connection."""

    CLOSE = 'closed in order (FIN)'
    RESET = 'reset (RST)'
    STALL = 'open, and nothing comes any more'


@dataclasses.dataclass(frozen=True)
class Reply:
    """What the server answered. Names of headers are in lower case.

    :ivar cut: so many bytes of the body are sent, and then the connection ends; None
        for all, and it goes on
    :ivar told_length: whether a Content-Length is sent; without, the connection ends
    """

    status: int
    headers: dict[str, str]
    body: bytes
    cut: int | None = None
    ending: Ending = Ending.CLOSE
    told_length: bool = True

    def but(
        self, status: int = 0, body: bytes | None = None, **headers: str
    ) -> 'Reply':
        """The same with changes; ``_`` in a header's name is a hyphen."""
        changed = {name.replace('_', '-'): value for name, value in headers.items()}
        return dataclasses.replace(
            self,
            status=status or self.status,
            headers=self.headers | changed,
            body=self.body if body is None else body,
        )


Matches = Callable[[Request], bool]
#: what the agent gets in place of the server's reply; None for nothing at all
Change = Callable[[Reply], Reply | None]


class Act:
    """What is done about a request; each of its ways may be left as it is here."""

    def request(self, _request: Request) -> Answer | bytes | None:
        """What is answered in the server's place, or another body for it to get."""
        return None

    def reply(self, reply: Reply) -> Reply | None:
        return reply


#: what becomes of a connection on which a request has begun to come
Interrupt = Callable[['Rest'], None]


@dataclasses.dataclass(frozen=True)
class Answered(Act):
    """It is answered in the server's place."""

    answer: Answer

    def request(self, _request: Request) -> Answer:
        return self.answer


@dataclasses.dataclass(frozen=True)
class Meanwhile(Act):
    """Something is done before the server gets it."""

    act: Callable[[Request], object]

    def request(self, request: Request) -> None:
        self.act(request)


@dataclasses.dataclass(frozen=True)
class Changed(Act):
    """The reply is another one; None for none."""

    change: Change

    def reply(self, reply: Reply) -> Reply | None:
        return self.change(reply)


def error(
    status: int, code: str, message: str = 'so says the proxy', **headers: str
) -> Answer:
    """An error as S3 servers send it; ``_`` in a header's name is a hyphen."""
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    )
    named = {name.replace('_', '-'): value for name, value in headers.items()}
    return Answer(status, text.encode(), headers=named)


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
        self._rules: list[tuple[Matches, Act]] = []
        self._interrupts: list[tuple[Matches, Interrupt]] = []
        self._holds: list[Held] = []
        self._left = threading.Event()
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
        self._left.set()
        for held in self._holds:
            held.release()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def act(self, matches: Matches, act: Act) -> None:
        """From now on, do this about these requests."""
        self._rules.append((matches, act))

    def interrupt(self, matches: Matches, interrupt: Interrupt) -> None:
        """From now on, neither take these requests whole nor answer them. They are
        matched before their body is read."""
        self._interrupts.append((matches, interrupt))

    def answer(self, matches: Matches, answer: Answer) -> None:
        """From now on, answer these requests in the server's place."""
        self.act(matches, Answered(answer))

    def hold(self, matches: Matches) -> Held:
        """From now on, keep these requests waiting, and pass them on when released."""
        held = Held()
        self._holds.append(held)
        self.before(matches, held._keep)
        return held

    def before(self, matches: Matches, act: Callable[[], object]) -> None:
        """From now on, do something before these requests are passed on."""
        self.act(matches, Meanwhile(lambda _request: act()))

    def change(self, matches: Matches, change: Change) -> None:
        """From now on, change what the server answers to these requests."""
        self.act(matches, Changed(change))

    def clear(self) -> None:
        """No rules any more, and no requests recorded."""
        self._rules.clear()
        self._interrupts.clear()
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
        request = Request(
            handler.command,
            unquote(path),
            {name: values[0] for name, values in query.items()},
            connection,
            {name.lower(): value for name, value in handler.headers.items()},
            b'',
        )
        rest = Rest(handler, self._left)
        for matches, interrupt in list(self._interrupts):
            if matches(request):
                with self._lock:
                    self.requests.append(request)
                interrupt(rest)
                return
        size = int(handler.headers.get('Content-Length') or 0)
        body = handler.rfile.read(size)
        if len(body) < size:
            # The agent gave it up while it was sent: no request.
            handler.close_connection = True
            return
        request = dataclasses.replace(request, body=body)
        with self._lock:
            self.requests.append(request)
        acts = [act for matches, act in list(self._rules) if matches(request)]
        for act in acts:
            instead = act.request(request)
            if isinstance(instead, Answer):
                headers = {'content-type': instead.content_type, **instead.headers}
                _send(handler, Reply(instead.status, headers, instead.body), rest)
                return
            if instead is not None:
                body = instead
        if request.method == 'CONNECT':
            self._tunnel(handler)
            return
        reply = self._ask(handler, body)
        for act in acts:
            if reply is not None:
                reply = act.reply(reply)
        if reply is None:
            handler.close_connection = True
        else:
            _send(handler, reply, rest)

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

    def _ask(
        self, handler: http.server.BaseHTTPRequestHandler, body: bytes
    ) -> Reply | None:
        """The server's reply; None if it is gone."""
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
            return None
        finally:
            server.close()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, headers, content)


class Rest:
    """What else may become of a connection than an answer."""

    def __init__(
        self, handler: http.server.BaseHTTPRequestHandler, left: threading.Event
    ) -> None:
        self._handler = handler
        self._left = left

    def read(self, size: int) -> bytes:
        """Bytes of the request's body."""
        return self._handler.rfile.read(size)

    def end(self, ending: Ending) -> None:
        """Answer no more, on this connection."""
        self._handler.close_connection = True
        sock = self._handler.connection
        if ending is Ending.RESET:
            # Closed with this, it is reset: the other end may still be sending.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        elif ending is Ending.STALL:
            # Until the other end has had enough; what it still sends is not read.
            poll = select.poll()
            poll.register(sock, select.POLLRDHUP)
            while not self._left.is_set() and not poll.poll(100):
                pass


_RESET = struct.pack('ii', 1, 0)


def _send(
    handler: http.server.BaseHTTPRequestHandler, reply: Reply, rest: Rest
) -> None:
    handler.send_response_only(reply.status)
    if handler.command != 'HEAD' or 'content-length' not in reply.headers:
        # Of the answer to a HEAD the length is that of what is not there.
        reply.headers['content-length'] = str(len(reply.body))
    left_out = {'transfer-encoding', 'connection'}
    if not reply.told_length:
        left_out.add('content-length')
        handler.send_header('Connection', 'close')
        handler.close_connection = True
    for name, value in reply.headers.items():
        if name not in left_out:
            handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(reply.body[: reply.cut])
    if reply.cut is not None:
        rest.end(reply.ending)


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

    def shutdown_request(self, request: Any) -> None:
        """Not with a FIN first, where it is to be reset."""
        if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == _RESET:
            self.close_request(request)
        else:
            super().shutdown_request(request)

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
        do_PATCH = handle_any  # noqa: N815
        do_CONNECT = handle_any  # noqa: N815

    return Handler
