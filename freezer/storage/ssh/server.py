"""The calls of an SFTP server."""

import asyncio
import contextlib
import stat
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncssh
from asyncssh import SFTPClient

from freezer.storage.exceptions import (
    Conflict,
    IntegrityError,
    Rejected,
    StorageException,
)
from freezer.storage.file_server import FileServer, Kind, Listed
from freezer.storage.ssh.connection import Call, Connection
from freezer.storage.ssh.errors import no_space, translate

T = TypeVar('T')

_FOLDER_MODE = 0o700
_KINDS = {
    asyncssh.FILEXFER_TYPE_DIRECTORY: Kind.FOLDER,
    asyncssh.FILEXFER_TYPE_REGULAR: Kind.FILE,
}
# Bytes of a file that are read until an answer counts as one: a large file may take
# longer than the time-out.
_STEP = 2**20
# Bytes: less than one request is full.
_FULL = 256 * 1024
_ABSENT = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath)


class SftpServer(FileServer):
    """:param name: how messages name a path"""

    def __init__(self, connection: Connection, name: Callable[[str], str]) -> None:
        self.connection = connection
        self._name = name

    def close(self) -> None:
        self.connection.close()

    def call(self, path: str, call: Callable[[SFTPClient], Awaitable[T]]) -> T:
        """The result of requests about a path."""
        return self.connection.run(call, self._name(path))

    def make_folder(self, path: str) -> None:
        async def make(sftp: SFTPClient) -> None:
            try:
                await sftp.mkdir(path, asyncssh.SFTPAttrs(permissions=_FOLDER_MODE))
            except (asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists) as error:
                # OpenSSH has one code for all that can fail.
                if await sftp.lexists(path):
                    raise Conflict(f'{self._name(path)} exists already') from error
                raise await self.explained(sftp, error, path) from error

        self.call(path, make)

    def is_folder(self, path: str) -> bool:
        async def look(sftp: SFTPClient) -> bool:
            found = await sftp.stat(path)
            return _kind(found) is Kind.FOLDER

        return self.call(path, look)

    def exists(self, path: str) -> bool:
        return self.call(path, lambda sftp: sftp.lexists(path))

    def size(self, path: str) -> int:
        async def look(sftp: SFTPClient) -> int:
            return (await sftp.stat(path)).size or 0

        return self.call(path, look)

    def list_folders(
        self, paths: Sequence[str]
    ) -> list[list[Listed] | StorageException]:
        async def one(sftp: SFTPClient, path: str) -> list[Listed]:
            return [
                Listed(str(entry.filename), _kind(entry.attrs), entry.attrs.size or 0)
                async for entry in sftp.scandir(path)
                if entry.filename not in ('.', '..')
            ]

        return self._each(paths, one)

    def remove_files(self, paths: Sequence[str]) -> list[StorageException | None]:
        async def one(sftp: SFTPClient, path: str) -> None:
            try:
                await sftp.remove(path)
            except _ABSENT:
                return

        return self._each(paths, one)

    def _each(
        self, paths: Sequence[str], one: Callable[[SFTPClient, str], Awaitable[T]]
    ) -> list[T | StorageException]:
        """The result for each path, or its error; all at the same time.

        :raises Unreachable: for one of them
        """

        async def all_of_them(sftp: SFTPClient) -> list[T | StorageException]:
            calls = (one(sftp, path) for path in paths)
            results = await asyncio.gather(*calls, return_exceptions=True)
            return [
                self._translated(result, path)
                if isinstance(result, BaseException)
                else result
                for path, result in zip(paths, results, strict=True)
            ]

        return self.call(paths[0], all_of_them)

    def _translated(self, error: BaseException, path: str) -> StorageException:
        failure = translate(error, self._name(path), str(self.connection.server))
        failure.__cause__ = error
        if failure.temporary:
            raise failure
        return failure

    def remove_folder(self, path: str) -> None:
        self.call(path, lambda sftp: sftp.rmdir(path))

    def rename(self, old: str, new: str) -> None:
        async def rename(sftp: SFTPClient) -> None:
            try:
                await sftp.posix_rename(old, new)
            except asyncssh.SFTPOpUnsupported:
                await self._rename_to_new(sftp, old, new)
            await _synchronize(sftp, _parent(new))

        self.call(new, rename)

    async def _rename_to_new(self, sftp: SFTPClient, old: str, new: str) -> None:
        """Rename without posix-rename@openssh.com: never in place of another file."""
        try:
            await sftp.rename(old, new)
        except (asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists) as error:
            if await sftp.lexists(new):
                raise Rejected(
                    f'{self._name(new)}: the server cannot replace a file as a whole: '
                    f'it lacks posix-rename@openssh.com'
                ) from error
            raise

    def read(self, path: str, limit: int | None) -> bytes:
        where = self._name(path)
        connection = self.connection
        # A file is open in one session.
        session = connection.session()

        def step(call: Call[T]) -> T:
            return connection.wait(session, connection.submit(session, call), where)

        async def open_file(sftp: SFTPClient) -> Any:
            return await sftp.open(path, 'rb', encoding=None)

        file = step(open_file)
        try:
            size: int = step(lambda _sftp: file.stat()).size or 0
            if limit is not None and size > limit:
                raise IntegrityError(f'{where}: larger than {limit} bytes')
            content = bytearray()
            while len(content) < size:
                start = len(content)
                end = min(start + _STEP, size)
                more = step(lambda _sftp, at=start, n=end - start: file.read(n, at))  # type: ignore[misc]
                if not more:
                    raise IntegrityError(f'{where}: changed while it was read')
                content += more
        finally:
            connection.submit(session, lambda _sftp: file.close())
        return bytes(content)

    async def explained(
        self, sftp: SFTPClient, error: asyncssh.SFTPError, path: str
    ) -> StorageException:
        """What a failed write means: OpenSSH reports a full disk as "Failure"."""
        where = self._name(path)
        if isinstance(error, asyncssh.SFTPFailure):
            try:
                found = await sftp.statvfs(_parent(path))
            except asyncssh.SFTPError:
                return translate(error, where, str(self.connection.server))
            if found.bavail * found.frsize < _FULL or (
                found.files and not found.favail
            ):
                return no_space(where)
            return Rejected(
                f'{where}: the server reports "{error.reason}" while writing: check '
                f'the quota of {self.connection.server}, and the log of the server'
            )
        return translate(error, where, str(self.connection.server))


async def _synchronize(sftp: SFTPClient, folder: str) -> None:
    """Make the names in a folder durable, where the server can."""
    with contextlib.suppress(asyncssh.SFTPError):
        # OpenSSH opens a folder as it opens a file.
        async with sftp.open(folder, 'rb', encoding=None) as opened:
            await opened.fsync()


def _parent(path: str) -> str:
    return path.rpartition('/')[0] or '.'


def _kind(attributes: asyncssh.SFTPAttrs) -> Kind:
    kind = attributes.type
    if kind == asyncssh.FILEXFER_TYPE_UNKNOWN and attributes.permissions is not None:
        if stat.S_ISDIR(attributes.permissions):
            return Kind.FOLDER
        if stat.S_ISREG(attributes.permissions):
            return Kind.FILE
    return _KINDS.get(kind, Kind.OTHER)
