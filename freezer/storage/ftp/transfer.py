"""Files as streams, which go on after a broken connection.

FTP confirms a file only as a whole. Of an interrupted upload the server says how much
it has (SIZE); the rest is sent from memory, and goes on from there (REST).
"""

import collections
import contextlib
import ftplib
import threading
import time
import zlib
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from freezer.storage.exceptions import (
    IncompleteAnswer,
    IntegrityError,
    NotFound,
    Rejected,
    StorageException,
)
from freezer.storage.ftp import errors
from freezer.storage.ftp.client import Client, Data
from freezer.storage.ftp.server import FtpServer
from freezer.storage.paths import NEVER
from freezer.storage.retry import Retry
from freezer.utils.blocks import Block
from freezer.utils.ranges import Range

T = TypeVar('T')

# Bytes that may be under way, in the memory of both machines, at most: Linux has 4 MiB
# for sending and 6 MiB for receiving. They are kept until they must have arrived.
_REPLAY_BYTES = 16 * 2**20
# What a server received in the last seconds, and it may lose if its machine fails: it
# is read again when a connection broke, because the server may have been restarted.
_UNSURE_SECONDS = 60.0
_UNSURE_BYTES = 64 * 2**20
_CHECKED_BYTES = 4 * 2**20
# Bytes that are read and dropped rather than requested anew from behind them.
_SKIPPED_BYTES = 2**20
# Attempts that bring a file no further, on a server that answers: its disk is full, or
# it cannot read it.
_REPETITIONS = 4


class _Transfer:
    """A file that is open by a data connection, or opened again.

    :param where: the file, for people
    """

    def __init__(
        self,
        server: FtpServer,
        retry: Retry,
        path: str,
        where: str,
        cancelled: threading.Event = NEVER,
    ) -> None:
        self._server = server
        self._connections = server.connections
        self._retry = retry
        self._path = path
        self._where = where
        self._cancelled = cancelled
        self._data: Data | None = None
        #: the next byte that is sent or received
        self._position = 0
        # The byte where the file was opened last, and how often there.
        self._reached = -1
        self._repetitions = 0
        self._failure: StorageException | None = None

    def _run(self, call: Callable[[], T]) -> T:
        """The result of a call with the file, repeated after a broken connection.

        :raises StorageException: it is final, or the time is up
        """

        def attempt() -> T:
            try:
                with self._connections.translated(self._where):
                    return call()
            except BaseException as error:
                self._close()
                if isinstance(error, StorageException):
                    self._failure = error
                raise

        return self._retry.run(attempt, self._cancelled)

    def _opened_at(self, position: int) -> None:
        """Count how often the file is opened without progress.

        :raises Rejected: too often: the server answers, so it is not the connection
        """
        if position != self._reached:
            self._reached, self._repetitions = position, 0
            return
        self._repetitions += 1
        if self._failure is not None and self._repetitions > _REPETITIONS:
            raise Rejected(
                f'{self._where}: {_REPETITIONS} attempts failed at byte {position}: '
                f'{self._failure.message}: check the disk and the log of the server, '
                f'and the quota of {self._connections.server}'
            ) from self._failure

    @contextlib.contextmanager
    def _client(self) -> Generator[Client, None, None]:
        """A connection for a data connection, which keeps it; given back after an
        error."""
        client = self._connections.take(self._where, self._cancelled)
        try:
            yield client
        except BaseException:
            self._connections.give_back(client)
            raise

    def _close(self) -> None:
        """End a transfer early, if one is open."""
        data, self._data = self._data, None
        if data is not None:
            self._end(data)

    def _end(self, data: Data) -> None:
        try:
            data.abort()
        finally:
            self._connections.give_back(data.client)


class Upload(_Transfer):
    """A new file, to :meth:`write`."""

    def __init__(
        self,
        server: FtpServer,
        retry: Retry,
        path: str,
        where: str,
        cancelled: threading.Event = NEVER,
    ) -> None:
        super().__init__(server, retry, path, where, cancelled)
        self._is_new = True
        self._size = 0
        # The last bytes: where each block begins, and the block.
        self._sent: collections.deque[tuple[int, memoryview]] = collections.deque()
        # Before them, and some of them: start, end, CRC-32, and when they were sent.
        self._checks: collections.deque[tuple[int, int, int, float]] = (
            collections.deque()
        )
        self._checked = 0
        self._checksum = 0

    def write(self, blocks: Iterable[memoryview]) -> None:
        """:raises NotFound: there is no such folder; no block was taken"""
        self._run(self._send)
        try:
            for block in blocks:
                self._keep(block)
                self._run(self._send)
            self._run(self._finish)
        finally:
            self._close()

    def _keep(self, block: memoryview) -> None:
        self._sent.append((self._size, block))
        self._size += len(block)
        while self._sent[0][0] + len(self._sent[0][1]) < self._size - _REPLAY_BYTES:
            self._sent.popleft()
        self._checksum = zlib.crc32(block, self._checksum)
        if self._size - self._checked < _CHECKED_BYTES:
            return
        now = time.monotonic()
        self._checks.append((self._checked, self._size, self._checksum, now))
        self._checked, self._checksum = self._size, 0
        while (
            self._checks[0][3] < now - _UNSURE_SECONDS
            and self._checks[0][1] < self._size - _UNSURE_BYTES
        ):
            self._checks.popleft()

    def _send(self) -> None:
        """Send what was not sent in the connection that is open."""
        data = self._data or self._open()
        later = []
        for start, block in reversed(self._sent):
            if start + len(block) <= self._position:
                break
            later.append((start, block))
        for start, block in reversed(later):
            while self._position < start + len(block):
                self._position += data.send(block[self._position - start :])

    def _open(self) -> Data:
        with self._client() as client:
            if self._is_new:
                data = self._start(client)
                self._position = 0
            else:
                self._position = self._resume(client)
                self._opened_at(self._position)
                data = self._continue(client)
        self._is_new = False
        self._data = data
        return data

    def _start(self, client: Client) -> Data:
        try:
            return client.transfer(f'STOR {self._server.wire(self._path)}')
        except (ftplib.error_perm, ftplib.error_temp) as error:
            raise self._server.not_opened(client, self._path, error) from error

    def _continue(self, client: Client) -> Data:
        wire = self._server.wire(self._path)
        try:
            return client.transfer(f'STOR {wire}', self._position)
        except ftplib.error_perm as error:
            if errors.code(error) not in errors.UNKNOWN_CODES:
                raise self._server.not_opened(client, self._path, error) from error
        try:
            return client.transfer(f'APPE {wire}')
        except ftplib.error_perm as error:
            raise Rejected(
                f'{self._where}: the connection broke, and the server cannot continue '
                f'a file: {errors.reply(error)}; run the backup again'
            ) from error

    def _resume(self, client: Client) -> int:
        """How much the server has, checked."""
        try:
            size = self._server.size_by(client, self._path)
        except NotFound:
            size = 0
        first = self._sent[0][0] if self._sent else self._size
        if not first <= size <= self._size:
            raise IntegrityError(
                f'{self._where}: {self._size} bytes were sent, and after the '
                f'connection broke the server has {size}: run the backup again'
            )
        checks = [check for check in self._checks if check[1] <= size]
        start = checks[0][0] if checks else first
        if start < size:
            # Bytes that were sent since the last check are in memory.
            self._compare(client, start, size, checks)
        return size

    def _compare(
        self,
        client: Client,
        start: int,
        size: int,
        checks: list[tuple[int, int, int, float]],
    ) -> None:
        data = client.transfer(f'RETR {self._server.wire(self._path)}', start)
        for check_start, end, checksum, _time in checks:
            found = _exactly(data, end - check_start)
            if zlib.crc32(found) != checksum:
                data.abort()
                raise self._lost(check_start, end)
            start = end
        for block_start, block in self._sent:
            begin, end = max(block_start, start), min(block_start + len(block), size)
            if begin >= end:
                continue
            if begin > start:
                _exactly(data, begin - start)
            expected = block[begin - block_start : end - block_start]
            if _exactly(data, end - begin) != expected:
                data.abort()
                raise self._lost(begin, end)
            start = end
        data.finish()

    def _lost(self, start: int, end: int) -> StorageException:
        return IntegrityError(
            f'{self._where}: bytes {start} to {end - 1} are other ones than were sent: '
            f'was the server restarted? Run the backup again'
        )

    def _finish(self) -> None:
        """The transfer is confirmed, and the size is right; after an error again."""
        self._send()
        data, self._data = self._data, None
        assert data is not None
        client = data.client
        try:
            data.finish()
            found = self._server.size_by(client, self._path)
        finally:
            self._connections.give_back(client)
        if found < self._size:
            # Without TLS, a connection that was cut looks like the end of the file.
            raise IncompleteAnswer(
                f'{self._where}: {self._size} bytes were sent, and the server has '
                f'{found}'
            )
        if found > self._size:
            raise IntegrityError(
                f'{self._where}: {self._size} bytes were sent, and the server has '
                f'{found}: run the backup again'
            )


class Download(_Transfer):
    """Ranges of a file."""

    def read(
        self, ranges: Iterable[Range]
    ) -> Generator[Block | StorageException, None, None]:
        """:raises NotFound: there is no such file"""
        self._size = self._run(lambda: self._server.size(self._path))
        try:
            for start, end in ranges:
                yield self._range(start, min(end, self._size))
        finally:
            self._leave()

    def _range(self, start: int, end: int) -> Block | StorageException:
        """:raises StorageException: no answer within the budget"""
        content = bytearray(max(end - start, 0))
        found = memoryview(content)
        done = 0

        def receive() -> None:
            nonlocal done
            while done < len(found):
                data = self._at(start + done)
                size = data.receive(found[done:])
                if not size:
                    data.finish()
                    raise IncompleteAnswer(
                        f'{self._where}: it ended after {self._position} of '
                        f'{self._size} bytes'
                    )
                done += size
                self._position += size

        try:
            self._run(receive)
        except StorageException as error:
            if error.temporary:
                raise
            return error
        return content

    def _at(self, position: int) -> Data:
        """The data connection whose next byte is this one."""
        if self._data is not None:
            distance = position - self._position
            if 0 <= distance <= _SKIPPED_BYTES:
                self._position += len(_exactly(self._data, distance))
                return self._data
            self._close()
        self._opened_at(position)
        with self._client() as client:
            wire = self._server.wire(self._path)
            try:
                self._data = client.transfer(f'RETR {wire}', position)
            except (ftplib.error_perm, ftplib.error_temp) as error:
                raise self._server.why(client, self._path, error) from error
        self._position = position
        return self._data

    def _leave(self) -> None:
        data = self._data
        if data is not None and self._position >= self._size:
            self._data = None
            # All bytes are here.
            with contextlib.suppress(ftplib.Error, OSError, EOFError, StorageException):
                if not data.receive(memoryview(bytearray(1))):
                    data.finish()
            self._connections.give_back(data.client)
        self._close()


def _exactly(data: Data, size: int) -> bytes:
    """So many bytes.

    :raises IncompleteAnswer: there are fewer
    """
    found = bytearray(size)
    view = memoryview(found)
    while view:
        more = data.receive(view)
        if not more:
            raise IncompleteAnswer('the data connection ended early')
        view = view[more:]
    return bytes(found)
