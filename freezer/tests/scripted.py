"""A server that does what a test says, down to the byte.

For what a store does when it is ill, and for what only the other end of a connection
can see. It knows nothing of S3: the test's script is called with each request, and
reads the body and answers as it likes.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Self

_BLOCK = 16 * 1024


class Exchange:
    """One request, and what is answered.

    :ivar connection: numbered from 1 in the order they were made
    :ivar headers: names in lower case
    """

    def __init__(self, server: 'Scripted', sock: socket.socket, number: int) -> None:
        self._server = server
        self._socket = sock
        self.connection = number
        head = bytearray()
        while not head.endswith(b'\r\n\r\n'):
            byte = sock.recv(1)
            if not byte:
                raise ConnectionResetError
            head += byte
        first, *lines = head.decode().splitlines()
        self.method, self.path, _version = first.split()
        pairs = (line.partition(':') for line in lines if line)
        self.headers = {name.lower(): value.strip() for name, _, value in pairs}
        self._left = int(self.headers.get('content-length', 0))

    def read(self, size: int | None = None) -> bytes:
        """So many bytes of the body, or all that is left of it."""
        left = self._left if size is None else min(size, self._left)
        content = bytearray()
        while left:
            block = self._socket.recv(min(left, _BLOCK))
            if not block:
                raise ConnectionResetError
            content += block
            left -= len(block)
            self._left -= len(block)
            with self._server.lock:
                self._server.received += len(block)
        return bytes(content)

    def send(self, content: bytes) -> None:
        """As it is."""
        self._socket.sendall(content)

    def answer(
        self,
        status: int = 200,
        body: bytes = b'',
        headers: Mapping[str, str] | None = None,
    ) -> None:
        length = {'Content-Length': str(len(body))}
        lines = [
            f'{name}: {value}' for name, value in (length | {**(headers or {})}).items()
        ]
        self.send(f'HTTP/1.1 {status} So\r\n'.encode())
        self.send('\r\n'.join([*lines, '', '']).encode())
        if self.method != 'HEAD':
            self.send(body)

    def refuse(self, status: int, code: str, **headers: str) -> None:
        """An error as S3 servers send it."""
        named = {name.replace('_', '-'): value for name, value in headers.items()}
        self.answer(status, f'<Error><Code>{code}</Code></Error>'.encode(), named)

    @property
    def is_closed(self) -> bool:
        """Whether the other end has closed the connection, after all that was read."""
        self._socket.setblocking(False)
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True
        finally:
            self._socket.setblocking(True)

    def wait_until_closed(self) -> None:
        """Until the other end has closed the connection."""
        with contextlib.suppress(ConnectionResetError):
            while self._socket.recv(_BLOCK):
                pass


class Scripted:
    """It listens while it is entered; with ``with``.

    What a script raises, an assertion that failed above all, is raised at the end of
    the block.

    :param script: called with each request, in a thread of its connection
    :ivar received: bytes of bodies that have been read
    """

    def __init__(self, script: Callable[[Exchange], None]) -> None:
        self._script = script
        self._listener = socket.create_server(('127.0.0.1', 0))
        # What the system takes for a script that does not read, it takes for itself.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        self.endpoint = f'http://127.0.0.1:{self._listener.getsockname()[1]}'
        self.lock = threading.Lock()
        self.received = 0
        self.exchanges: list[Exchange] = []
        self._errors: list[BaseException] = []
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for sock in self._sockets:
            sock.close()
        if self._errors:
            raise self._errors[0]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: the end
            while True:
                sock, _address = self._listener.accept()
                self._sockets.append(sock)
                number = len(self._sockets)
                thread = threading.Thread(target=self._serve, args=(sock, number))
                self._threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            while True:
                exchange = Exchange(self, sock, number)
                with self.lock:
                    self.exchanges.append(exchange)
                self._script(exchange)
        except OSError:
            """One of the two ends has closed the connection."""
        except BaseException as error:  # noqa: BLE001 - raised by __exit__
            self._errors.append(error)
            sock.close()


@contextlib.contextmanager
def full() -> Iterator[str]:
    """The endpoint of a server that neither takes nor refuses a connection."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(
            socket.create_server(('127.0.0.1', 0), backlog=0)
        )
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f'http://127.0.0.1:{listener.getsockname()[1]}'
