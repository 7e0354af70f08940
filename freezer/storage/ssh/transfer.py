"""Files as streams: many requests at the same time, which go on after a broken
connection."""

import abc
import collections
import threading
import zlib
from collections.abc import Awaitable, Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncssh
from asyncssh import SFTPClient

from freezer.storage.exceptions import IntegrityError, StorageException
from freezer.storage.paths import NEVER
from freezer.storage.retry import Retry
from freezer.storage.ssh.connection import Session, Submitted
from freezer.storage.ssh.server import SftpServer
from freezer.utils.blocks import Block
from freezer.utils.ranges import Range

T = TypeVar('T')

# Bytes on their way: 100 MB/s at a distance of 40 ms.
_WINDOW = 4 * 2**20
# Bytes after which a file is synchronized; what came since then is read again when a
# connection broke, because the server may have been restarted.
_SYNC_BYTES = 64 * 2**20
_FILE_MODE = 0o600

_NEW = asyncssh.FXF_WRITE | asyncssh.FXF_READ | asyncssh.FXF_CREAT | asyncssh.FXF_TRUNC
_AGAIN = asyncssh.FXF_WRITE | asyncssh.FXF_READ
_NOTHING = memoryview(b'')


@dataclass
class _Request:
    """Bytes under way, or a range that was requested."""

    start: int
    end: int
    submitted: Submitted[Any]
    data: memoryview = _NOTHING

    @property
    def size(self) -> int:
        return self.end - self.start


class _Transfer(abc.ABC):
    """An open file, and requests that are not answered yet.

    :param where: the file, for people
    """

    def __init__(
        self,
        server: SftpServer,
        retry: Retry,
        path: str,
        where: str,
        cancelled: threading.Event = NEVER,
    ) -> None:
        self._connection = server.connection
        self._server = server
        self._retry = retry
        self._path = path
        self._where = where
        self._cancelled = cancelled
        self._session: Session | None = None
        self._file: Any = None
        self._requests: collections.deque[_Request] = collections.deque()
        self._under_way = 0

    def _open(self) -> None:
        """Open the file in a session that is open, and request anew what was not
        answered in another."""
        session = self._connection.session(self._cancelled)
        self._file = self._wait(session, self._opened)
        self._session = session
        self._resume()
        for request in self._requests:
            request.submitted = self._submit(request)

    @abc.abstractmethod
    async def _opened(self, sftp: SFTPClient) -> Any:
        """Open the file in a new session."""

    def _resume(self) -> None:
        """Before requests are repeated in a new session."""

    @abc.abstractmethod
    def _submit(self, request: _Request) -> Submitted[Any]:
        """Send one request in the current session."""

    def _wait(self, session: Session, call: Callable[[SFTPClient], Awaitable[T]]) -> T:
        submitted = self._connection.submit(session, call)
        return self._connection.wait(session, submitted, self._where, self._cancelled)

    def _run(self, call: Callable[[Session], T]) -> T:
        """The result of a call with the open file, repeated after a broken connection.

        :raises StorageException: it is final, or the time is up
        """

        def attempt() -> T:
            if self._session is None or not self._session.is_open:
                self._open()
            assert self._session is not None
            return call(self._session)

        return self._retry.run(attempt, self._cancelled)

    def _add(self, start: int, end: int, data: memoryview = _NOTHING) -> None:
        request = _Request(start, end, Submitted(), data)
        request.submitted = self._submit(request)
        self._requests.append(request)
        self._under_way += request.size

    def _answer(self) -> Any:
        """The answer to the oldest request; it is taken off, but for errors that are
        temporary."""
        request = self._requests[0]
        try:
            return self._run(
                lambda session: self._connection.wait(
                    session, request.submitted, self._where, self._cancelled
                )
            )
        finally:
            self._requests.popleft()
            self._under_way -= request.size

    def _close(self) -> None:
        """The server closes files that are left open when the session ends."""
        if self._session is not None and self._session.is_open:
            for request in self._requests:
                request.submitted.cancel()
            file = self._file
            self._connection.submit(self._session, lambda _sftp: file.close())


class Upload(_Transfer):
    """A new file. :meth:`write` it, then :meth:`finish`."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._size = 0
        self._is_new = True
        # Of the bytes that were confirmed, and not synchronized: start, end, CRC-32.
        self._unsynced: list[tuple[int, int, int]] = []

    def write(self, blocks: Iterable[memoryview]) -> None:
        """:raises NotFound: there is no such folder; no block was taken"""
        self._run(lambda _session: None)
        try:
            for block in blocks:
                while self._requests and self._under_way + len(block) > _WINDOW:
                    self._confirm()
                self._add(self._size, self._size + len(block), block)
                self._size += len(block)
            while self._requests:
                self._confirm()
            self._synchronize()
            self._run(self._finished)
        finally:
            self._close()

    async def _opened(self, sftp: SFTPClient) -> Any:
        flags = _NEW if self._is_new else _AGAIN
        try:
            return await sftp.open(
                self._path,
                flags,
                asyncssh.SFTPAttrs(permissions=_FILE_MODE),
                encoding=None,
            )
        except asyncssh.SFTPFailure as error:
            raise await self._server.explained(sftp, error, self._path) from error

    def _resume(self) -> None:
        if self._is_new:
            self._is_new = False
            return
        for start, end, checksum in self._unsynced:
            found = self._read_back(start, end)
            if zlib.crc32(found) != checksum:
                raise IntegrityError(
                    f'{self._where}: bytes {start} to {end - 1} were lost after the '
                    f'server had confirmed them: was it restarted? Run the backup again'
                )

    def _read_back(self, start: int, end: int) -> bytes:
        file = self._file
        assert self._session is not None
        return self._wait(self._session, lambda _sftp: _read(file, start, end))

    def _submit(self, request: _Request) -> Submitted[Any]:
        file = self._file
        assert self._session is not None

        async def write(sftp: SFTPClient) -> None:
            try:
                await file.write(request.data, request.start)
            except asyncssh.SFTPFailure as error:
                raise await self._server.explained(sftp, error, self._path) from error

        return self._connection.submit(self._session, write)

    def _confirm(self) -> None:
        request = self._requests[0]
        self._answer()
        checksum = zlib.crc32(request.data)
        self._unsynced.append((request.start, request.end, checksum))
        if request.end - self._unsynced[0][0] >= _SYNC_BYTES:
            self._synchronize()

    def _synchronize(self) -> None:
        """Make all that was confirmed durable, where the server can."""

        async def synchronize(sftp: SFTPClient) -> None:
            try:
                await self._file.fsync()
            except asyncssh.SFTPOpUnsupported:
                return
            except asyncssh.SFTPFailure as error:
                raise await self._server.explained(sftp, error, self._path) from error

        self._run(lambda session: self._wait(session, synchronize))
        self._unsynced.clear()

    def _finished(self, session: Session) -> None:
        async def size(_sftp: SFTPClient) -> int:
            return (await self._file.stat()).size or 0

        found = self._wait(session, size)
        if found != self._size:
            raise IntegrityError(
                f'{self._where}: {self._size} bytes were written, and the server has '
                f'{found}: run the backup again'
            )


class Download(_Transfer):
    """Ranges of a file, requested in advance."""

    def read(
        self, ranges: Iterable[Range]
    ) -> Generator[Block | StorageException, None, None]:
        """:raises NotFound: there is no such file"""
        self._run(lambda _session: None)
        try:
            for start, end in ranges:
                self._add(start, end)
                while self._under_way > _WINDOW or (
                    self._requests and self._requests[0].submitted.done()
                ):
                    yield self._data()
            while self._requests:
                yield self._data()
        finally:
            self._close()

    def _data(self) -> Block | StorageException:
        """:raises StorageException: no answer within the budget"""
        try:
            data: bytes = self._answer()
        except StorageException as error:
            if error.temporary:
                raise
            return error
        return data

    async def _opened(self, sftp: SFTPClient) -> Any:
        return await sftp.open(self._path, 'rb', encoding=None)

    def _submit(self, request: _Request) -> Submitted[Any]:
        file = self._file
        assert self._session is not None
        return self._connection.submit(
            self._session, lambda _sftp: _read(file, request.start, request.end)
        )


async def _read(file: Any, start: int, end: int) -> bytes:
    """Bytes of a file; fewer at its end. A server may send fewer than requested."""
    data: bytes = await file.read(end - start, start)
    while len(data) < end - start:
        more = await file.read(end - start - len(data), start + len(data))
        if not more:
            break
        data += more
    return data
