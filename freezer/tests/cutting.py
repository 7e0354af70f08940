"""A TCP proxy that cuts or silences connections, after so many bytes."""

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Self

_BLOCK = 64 * 1024


class CuttingProxy:
    """Stands before a server on this machine. Use it with ``with``.

    :ivar sent: bytes that clients have sent, all connections together
    :ivar received: bytes that they got
    :ivar cuts: connections that were cut
    :ivar connections: that were accepted
    """

    def __init__(
        self, port: int, also: Sequence[int] = (), host: str = '127.0.0.1'
    ) -> None:
        """
        :param also: further ports of the server, which are the same here: those of
            data connections of FTP
        :param host: of the server
        """
        self.sent = self.received = self.cuts = self.connections = 0
        #: is called after a cut, before the clients can connect again
        self.after_cut: Callable[[], object] = lambda: None
        self._host = host
        self._limits: dict[str, int] = {}
        self._silent = False
        self._down = False
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listening = [_listen(0), *(_listen(number) for number in also)]
        self.port: int = self._listening[0].getsockname()[1]
        self._threads = [
            threading.Thread(target=self._serve, args=pair, daemon=True)
            for pair in zip(self._listening, (port, *also), strict=True)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        # Wakes the accept.
        for listening in self._listening:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()
        for thread in self._threads:
            thread.join()
        self._close_all()

    def cut(self, *, sent: int | None = None, received: int | None = None) -> None:
        """Cut the connection once it has so many more bytes; the next one works."""
        with self._lock:
            if sent is not None:
                self._limits['sent'] = self.sent + sent
            if received is not None:
                self._limits['received'] = self.received + received

    def silence(self) -> None:
        """From now on nothing passes, and nothing is closed."""
        self._silent = True

    def speak(self) -> None:
        """End the silence, with the connections that it concerned."""
        self._silent = False
        self._close_all()

    def take_down(self) -> None:
        """Close all connections, and every new one at once."""
        self._down = True
        self._close_all()

    def _close_all(self) -> None:
        with self._lock:
            sockets = list(self._open)
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _serve(self, listening: socket.socket, to: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = listening.accept()
                self.connections += 1
                if self._down:
                    here.close()
                    continue
                threading.Thread(
                    target=self._connected, args=(here, to), daemon=True
                ).start()

    def _connected(self, here: socket.socket, to: int) -> None:
        try:
            there = socket.create_connection((self._host, to))
        except OSError:
            here.close()
            return
        with here, there:
            for one in (here, there):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            with self._lock:
                self._open |= {here, there}
            back = threading.Thread(
                target=self._carry, args=(there, here, 'received'), daemon=True
            )
            back.start()
            self._carry(here, there, 'sent')
            back.join()
            with self._lock:
                self._open -= {here, there}

    def _carry(
        self, source: socket.socket, target: socket.socket, direction: str
    ) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(_BLOCK):
                if self._silent:
                    continue
                allowed, is_cut = self._allowed(direction, len(block))
                target.sendall(block[:allowed])
                if is_cut:
                    self.after_cut()
                    break
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _allowed(self, direction: str, size: int) -> tuple[int, bool]:
        """How many of so many bytes pass, and whether the connection ends then."""
        with self._lock:
            passed = getattr(self, direction)
            limit = self._limits.get(direction)
            is_cut = limit is not None and passed + size >= limit
            if is_cut:
                assert limit is not None
                size = max(limit - passed, 0)
                del self._limits[direction]
                self.cuts += 1
            setattr(self, direction, passed + size)
            return size, is_cut


def _listen(port: int) -> socket.socket:
    return socket.create_server(('127.0.0.1', port), backlog=64)
