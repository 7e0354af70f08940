"""One connection to an FTP server: commands, and data connections.

The protocol is that of :mod:`ftplib`. Added are waits that can be cancelled, TLS
sessions that data connections resume, and EPSV where PASV is refused.
"""

# FTP without TLS is a storage of its own, with a warning.
# ruff: noqa: S321

import contextlib
import ftplib
import re
import select
import socket
import ssl
import threading
import time
from dataclasses import dataclass

from freezer.storage.exceptions import Cancelled, Rejected, StorageException
from freezer.storage.ftp import errors
from freezer.storage.ftp.options import UNSENDABLE, FtpOptions
from freezer.storage.paths import NEVER

# Of bytes in commands and replies: each is one character.
_BYTES = 'latin-1'
_RECEIVE = 8192
_SIZE = re.compile('213 +([0-9]{1,19})')
# Seconds between two looks at whether a wait was cancelled.
_POLL_SECONDS = 0.2
# Seconds for the reason why a transfer ended, and for the end of TLS.
_END_SECONDS = 5.0
# A router forgets a connection that is silent: the one with commands is, as long as a
# transfer takes. Packets of TCP keep both; many servers read no command meanwhile.
_KEEPALIVE_SECONDS = 30
_KEEPALIVES = 4


@dataclass(frozen=True)
class Features:
    """Of a server.

    :ivar home: the directory in which a login begins
    :ivar machine_lists: it has MLSD and MLST
    """

    home: str
    machine_lists: bool


class Client(ftplib.FTP_TLS):
    """A connection that is logged in.

    :param context: of TLS; None for none
    :ivar in_sync: no reply is outstanding
    :ivar cancelled: ends a wait for the server
    """

    def __init__(self, options: FtpOptions, context: ssl.SSLContext | None) -> None:
        super().__init__(timeout=options.connect_timeout, encoding=_BYTES)
        self.in_sync = False
        self.cancelled: threading.Event = NEVER
        self._options = options
        self._tls = context
        self._patience = options.connect_timeout
        self._received = bytearray()

    def log_in(self) -> None:
        """:raises StorageException: the login is refused"""
        options = self._options
        self.connect(options.host, options.port)
        _keep_alive(self._socket)
        if self._tls is not None:
            self._start_tls(self._tls)
        user, password = to_wire(options.user), to_wire(options.password)
        try:
            # Not FTP_TLS.login, which has TLS of its own.
            ftplib.FTP.login(self, user, password)
        except ftplib.Error as error:
            # Servers that do not know a command repeat it.
            found = type(error)(str(error).replace(password, '…'))
            if not isinstance(error, ftplib.error_perm):
                raise found from None
            raise errors.bad_login(
                found, options.server, self._tls is not None
            ) from None
        if self._tls is not None:
            self.voidcmd('PBSZ 0')
            self.voidcmd('PROT P')
        self.voidcmd('TYPE I')
        self._patience = options.timeout
        self._socket.settimeout(options.timeout)

    def _start_tls(self, context: ssl.SSLContext) -> None:
        server = self._options.server
        try:
            self.voidcmd('AUTH TLS')
        except ftplib.error_perm as error:
            raise Rejected(
                f'{server} offers no TLS: {errors.reply(error)}; storage ftp would '
                f'send password and backups unencrypted'
            ) from error
        if self._received:
            # Somebody in between has put them there.
            raise Rejected(f'{server} sent bytes before TLS began')
        self.sock = context.wrap_socket(self._socket, server_hostname=self.host)

    @property
    def _socket(self) -> socket.socket:
        assert self.sock is not None
        return self.sock

    @property
    def tls_version(self) -> str:
        version = self.sock.version() if isinstance(self.sock, ssl.SSLSocket) else None
        return version or ''

    @property
    def tls_session(self) -> ssl.SSLSession | None:
        return self.sock.session if isinstance(self.sock, ssl.SSLSocket) else None

    def features(self) -> Features:
        lines: list[str] = []
        with contextlib.suppress(ftplib.error_perm):
            lines = self.sendcmd('FEAT').upper().split('\n')
        known = [
            line.split()[0] for line in lines if line.startswith(' ') and line.strip()
        ]
        if 'UTF8' in known:
            # Some send names in another encoding otherwise.
            with contextlib.suppress(ftplib.error_perm):
                self.sendcmd('OPTS UTF8 ON')
        home = from_wire(self.pwd()) or '/'
        return Features(home, 'MLST' in known or 'MLSD' in known)

    # Commands

    def putline(self, line: str) -> None:
        self.in_sync = False
        self._expect_nothing()
        super().putline(line)

    def _expect_nothing(self) -> None:
        """Before a command: a reply that is there already would count as its own.

        :raises ftplib.error_proto: there is one
        """
        sock = self._socket
        timeout = sock.gettimeout()
        sock.settimeout(0)
        try:
            data = sock.recv(_RECEIVE)
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        else:
            if not data:
                raise EOFError
            self._received += data
        finally:
            sock.settimeout(timeout)
        if self._received:
            raise ftplib.error_proto(f'no command has this reply: {self.getline()}')

    def getresp(self) -> str:
        self.in_sync = False
        try:
            answer = super().getresp()
        except (ftplib.error_perm, ftplib.error_temp) as error:
            self.in_sync = errors.code(error) != '421'
            raise
        self.in_sync = not answer.startswith('1')
        return answer

    def getline(self) -> str:
        while (end := self._received.find(b'\n')) < 0:
            if len(self._received) > self.maxline:
                raise ftplib.error_proto('a line of a reply does not end')
            self._await_input()
            data = self._socket.recv(_RECEIVE)
            if not data:
                raise EOFError
            self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line.rstrip(b'\r').decode(_BYTES)

    def _await_input(self) -> None:
        ends = time.monotonic() + self._patience
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while True:
            if isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
                return
            left = ends - time.monotonic()
            if poll.poll(1000 * min(_POLL_SECONDS, max(left, 0))):
                return
            check_cancelled(self.cancelled)
            if left <= 0:
                raise TimeoutError

    def final_reply(self, seconds: float = _END_SECONDS) -> str:
        """The reply that ends a transfer.

        :raises ftplib.Error: it is an error
        """
        patience, self._patience = self._patience, min(seconds, self._patience)
        try:
            return self.voidresp()
        finally:
            self._patience = patience

    def size(self, filename: str) -> int:
        answer = self.sendcmd(f'SIZE {filename}')
        if not (found := _SIZE.fullmatch(answer.rstrip())):
            raise ftplib.error_reply(answer)
        return int(found[1])

    # Data

    def makepasv(self) -> tuple[str, int]:
        try:
            host, port = self._passive()
        except ValueError:
            port = 0
        if not 0 < port < 65536:
            raise ftplib.error_proto('the port for data is none')
        return host, port

    def _passive(self) -> tuple[str, int]:
        try:
            # EPSV, if the address is one of IPv6. Of the reply to PASV only the port
            # counts, never the address.
            return super().makepasv()
        except ftplib.error_perm:
            if self.af != socket.AF_INET:
                raise
            answer = self.sendcmd('EPSV')
            return ftplib.parse229(answer, self._socket.getpeername())

    def transfer(self, command: str, start: int = 0) -> 'Data':
        """Open a data connection for a command that sends or receives.

        :param start: the first byte that is wanted, or sent
        """
        host, port = self.makepasv()
        data = socket.create_connection((host, port), self._options.connect_timeout)
        try:
            _keep_alive(data)
            if start:
                self.sendcmd(f'REST {start}')
            answer = self.sendcmd(command)
            if not answer.startswith('1'):
                raise ftplib.error_reply(answer)
            if self._tls is not None:
                # Some accept no other session, so that nobody else can connect.
                data = self._tls.wrap_socket(
                    data,
                    server_hostname=self.host,
                    session=self.tls_session,
                    suppress_ragged_eofs=False,
                )
        except BaseException as error:
            data.close()
            if isinstance(error, OSError) and not self.in_sync:
                raise self.reason(error) from error
            raise
        return Data(self, data, self._options.timeout)

    def reason(self, error: Exception) -> Exception:
        """Why a data connection broke: the server's reply, if there is one."""
        if isinstance(error, (TimeoutError, ssl.SSLCertVerificationError)):
            return error
        try:
            self.final_reply()
        except (ftplib.error_temp, ftplib.error_perm) as found:
            return found
        except StorageException as found:
            return found
        except (ftplib.Error, OSError, EOFError):
            return error
        return error

    def leave(self) -> None:
        """Close the connection without waiting."""
        with contextlib.suppress(ftplib.Error, OSError, EOFError, ValueError):
            if self.in_sync:
                self.putcmd('QUIT')
        with contextlib.suppress(OSError):
            self.close()


class Data:
    """A data connection. End it with :meth:`finish` or :meth:`abort`."""

    def __init__(self, client: Client, sock: socket.socket, timeout: float) -> None:
        self.client = client
        self._sock = sock
        self._timeout = timeout
        #: that confirmed the transfer
        self.reply = ''
        sock.settimeout(_POLL_SECONDS)

    @property
    def is_resumed(self) -> bool:
        """Whether it has the TLS session of its client."""
        return isinstance(self._sock, ssl.SSLSocket) and bool(self._sock.session_reused)

    def send(self, block: memoryview) -> int:
        """How many bytes were taken; at least one."""
        ends = 0.0
        while True:
            try:
                return self._sock.send(block)
            except TimeoutError:
                ends = self._wait(ends)
            except (OSError, EOFError) as error:
                raise self.client.reason(error) from error

    def receive(self, buffer: memoryview) -> int:
        """How many bytes came; 0 at the end."""
        ends = 0.0
        while True:
            try:
                return self._sock.recv_into(buffer)
            except TimeoutError:
                ends = self._wait(ends)
            except (OSError, EOFError) as error:
                raise self.client.reason(error) from error

    def _wait(self, ends: float) -> float:
        check_cancelled(self.client.cancelled)
        now = time.monotonic()
        if ends and now > ends:
            raise TimeoutError
        return ends or now + self._timeout

    def everything(self, limit: int | None = None) -> bytes | None:
        """All that comes, and the reply; None if it has more bytes than the limit."""
        found = bytearray()
        buffer = memoryview(bytearray(64 * 1024))
        while size := self.receive(buffer):
            found += buffer[:size]
            if limit is not None and len(found) > limit:
                self.abort()
                return None
        self.finish()
        return bytes(found)

    def finish(self) -> None:
        """End the data, and wait until the server confirms the transfer.

        :raises ftplib.Error: it does not
        """
        self._end_tls()
        self._sock.close()
        self.reply = self.client.voidresp()

    def _end_tls(self) -> None:
        if not isinstance(self._sock, ssl.SSLSocket):
            return
        self._sock.settimeout(_END_SECONDS)
        # All that is lost is the answer of the server to our end of the data.
        with contextlib.suppress(OSError, ValueError):
            self._sock.unwrap()

    def abort(self) -> None:
        """End the data early."""
        self._sock.close()
        if self.client.in_sync:
            # The reply came already.
            return
        with contextlib.suppress(ftplib.Error, OSError, EOFError, StorageException):
            self.client.final_reply()


def check_cancelled(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise Cancelled('cancelled because another part of the backup failed')


def to_wire(text: str) -> str:
    """Text as ftplib sends it: a character for each byte of UTF-8."""
    if UNSENDABLE.search(text):
        raise Rejected(f'{text!r}: FTP cannot send names with line breaks')
    return text.encode('utf-8', 'surrogateescape').decode(_BYTES)


def from_wire(text: str) -> str:
    return text.encode(_BYTES).decode('utf-8', 'surrogateescape')


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ('TCP_KEEPIDLE', _KEEPALIVE_SECONDS),
        ('TCP_KEEPINTVL', _KEEPALIVE_SECONDS),
        ('TCP_KEEPCNT', _KEEPALIVES),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
