"""The calls of an FTP server."""

import concurrent.futures
import ftplib
import logging
import posixpath
import re
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from freezer.storage.exceptions import (
    AccessDenied,
    Conflict,
    IncompleteAnswer,
    IntegrityError,
    MalformedAnswer,
    NotFound,
    Rejected,
    StorageException,
)
from freezer.storage.file_server import FileServer, Kind, Listed
from freezer.storage.ftp import errors, listing
from freezer.storage.ftp.client import Client, from_wire, to_wire
from freezer.storage.ftp.connection import Connections
from freezer.utils.text import printable

LOG = logging.getLogger(__name__)
T = TypeVar('T')

_LISTING_ENCODING = 'latin-1'
# Pure-FTPd lists 10,000 entries, and reports success.
_CUT = re.compile('truncated', re.I)
# A login takes as long as this many small calls.
_CALLS_PER_LOGIN = 4


class FtpServer(FileServer):
    """:param name: how messages name a path"""

    def __init__(self, connections: Connections, name: Callable[[str], str]) -> None:
        self.connections = connections
        self._name = name
        # Whether a listing has an entry for the folder itself; None if nobody knows.
        self._lists_dot: bool | None = None

    def close(self) -> None:
        self.connections.close()

    def wire(self, path: str) -> str:
        """A path as it is sent: absolute, because each connection has a folder of its
        own.

        :raises Rejected: it has a line break
        """
        return to_wire(self._absolute(path))

    def _absolute(self, path: str) -> str:
        if path.startswith('/'):
            return path
        home = self.connections.features().home
        return home if path == '.' else posixpath.join(home, path)

    def make_folder(self, path: str) -> None:
        with self.connections.use(self._name(path)) as client:
            try:
                self._make_folder(client, path)
            except AccessDenied:
                # Or there was no parent, and another agent made it before it was looked
                # for.
                self._make_folder(client, path)

    def _make_folder(self, client: Client, path: str) -> None:
        """:raises AccessDenied: nothing is there, in a folder that is"""
        try:
            client.voidcmd(f'MKD {self.wire(path)}')
        except (ftplib.error_perm, ftplib.error_temp) as error:
            failure = self.why(client, path, error)
            if isinstance(failure, NotFound) and self._parent(client, path):
                failure = errors.denied(
                    error, self._name(path), self.connections.server
                )
            elif isinstance(failure, AccessDenied):
                failure = Conflict(f'{self._name(path)} exists already')
            raise failure from error

    def _parent(self, client: Client, path: str) -> Listed | None:
        return self.entry(client, posixpath.dirname(self._absolute(path)))

    def is_folder(self, path: str) -> bool:
        with self.connections.use(self._name(path)) as client:
            if self._enters(client, path):
                return True
            found = self.entry(client, path)
            if found is None:
                raise NotFound(f'{self._name(path)}: not found')
            return found.kind is Kind.FOLDER

    def exists(self, path: str) -> bool:
        with self.connections.use(self._name(path)) as client:
            return self.entry(client, path) is not None

    def size(self, path: str) -> int:
        with self.connections.use(self._name(path)) as client:
            return self.size_by(client, path)

    def size_by(self, client: Client, path: str) -> int:
        """The same by a connection that the caller has."""
        try:
            return client.size(self.wire(path))
        except (ftplib.error_perm, ftplib.error_temp) as error:
            found = self.entry(client, path)
            if found is None:
                raise NotFound(f'{self._name(path)}: not found') from error
            if found.kind is Kind.FOLDER:
                raise Rejected(f'{self._name(path)} is a directory') from error
            return found.size

    def list_folders(
        self, paths: Sequence[str]
    ) -> list[list[Listed] | StorageException]:
        return self._each(paths, self._list)

    def remove_files(self, paths: Sequence[str]) -> list[StorageException | None]:
        def remove(client: Client, path: str) -> None:
            try:
                client.voidcmd(f'DELE {self.wire(path)}')
            except (ftplib.error_perm, ftplib.error_temp) as error:
                failure = self.why(client, path, error)
                if not isinstance(failure, NotFound):
                    raise failure from error

        return self._each(paths, remove)

    def _each(
        self, paths: Sequence[str], call: Callable[[Client, str], T]
    ) -> list[T | StorageException]:
        """The result for each path, or its error; some at the same time.

        :raises StorageException: the error of one is temporary
        """
        results: list[T | StorageException | None] = [None] * len(paths)
        waiting = iter(range(len(paths)))
        lock = threading.Lock()

        def work(client: Client) -> None:
            while True:
                with lock:
                    number = next(waiting, None)
                if number is None:
                    return
                path = paths[number]
                try:
                    with self.connections.translated(self._name(path)):
                        results[number] = call(client, path)
                except StorageException as error:
                    if error.temporary or not client.in_sync:
                        raise
                    results[number] = error

        def work_beside() -> bool:
            try:
                client = self.connections.take(self._name(paths[0]))
            except StorageException as error:
                # Servers refuse one connection too many in many ways.
                LOG.debug('one connection fewer is used: %s', error.message)
                return False
            try:
                work(client)
            finally:
                self.connections.give_back(client)
            return True

        more = min(self.connections.limit, len(paths) // _CALLS_PER_LOGIN) - 1
        # One connection is certain before others are tried.
        with self.connections.use(self._name(paths[0])) as client:
            if more <= 0:
                work(client)
            else:
                with concurrent.futures.ThreadPoolExecutor(more) as pool:
                    others = [pool.submit(work_beside) for _ in range(more)]
                    work(client)
                refused = sum(not other.result() for other in others)
                self.connections.limit = max(self.connections.limit - refused, 1)
        return results  # type: ignore[return-value]

    def _list(self, client: Client, path: str) -> list[Listed]:
        try:
            if self.connections.features().machine_lists:
                return self._machine_list(client, path)
            return self._human_list(client, path)
        except (ftplib.error_perm, ftplib.error_temp) as error:
            raise self.why(client, path, error) from error

    def _machine_list(self, client: Client, path: str) -> list[Listed]:
        lines = self._lines(client, path, f'MLSD {self.wire(path)}')
        return listing.names(map(listing.machine, lines))

    def _human_list(self, client: Client, path: str) -> list[Listed]:
        # LIST with a path would take it for a pattern, or for options.
        client.voidcmd(f'CWD {self.wire(path)}')
        try:
            lines = self._lines(client, path, 'LIST -a')
        except ftplib.error_perm:
            lines = []
        # Servers without options look for a file named -a.
        lines = lines or self._lines(client, path, 'LIST')
        found = listing.names(map(listing.human, lines))
        if lines:
            self._lists_dot = any(line.endswith(' .') for line in lines)
        elif self._has_dot(client, path):
            # vsftpd reports success where it may not read a folder.
            raise AccessDenied(
                f'{self._name(path)}: {self.connections.server} may not list it'
            )
        return found

    def _lines(self, client: Client, path: str, command: str) -> list[str]:
        """:raises Rejected: the server does not list all"""
        lines, reply = _received(client, command)
        if _CUT.search(reply):
            raise Rejected(
                f'{self._name(path)}: {self.connections.server} lists only a part of '
                f'it: {printable(reply)}; raise the limit of the server'
            )
        return lines

    def _has_dot(self, client: Client, path: str) -> bool:
        if self._lists_dot is None and self._absolute(path) != '/':
            client.voidcmd('CWD /')
            root, _reply = _received(client, 'LIST -a')
            self._lists_dot = any(line.endswith(' .') for line in root)
        return bool(self._lists_dot)

    def remove_folder(self, path: str) -> None:
        with self.connections.use(self._name(path)) as client:
            try:
                client.voidcmd(f'RMD {self.wire(path)}')
            except (ftplib.error_perm, ftplib.error_temp) as error:
                failure = self.why(client, path, error)
                if isinstance(failure, AccessDenied):
                    where = self._name(path)
                    failure = Rejected(f'{where} is not removed: {errors.reply(error)}')
                raise failure from error

    def rename(self, old: str, new: str) -> None:
        with self.connections.use(self._name(new)) as client:
            try:
                client.sendcmd(f'RNFR {self.wire(old)}')
            except (ftplib.error_perm, ftplib.error_temp) as error:
                raise self.why(client, old, error) from error
            try:
                client.voidcmd(f'RNTO {self.wire(new)}')
            except (ftplib.error_perm, ftplib.error_temp) as error:
                raise self._not_renamed(client, new, error) from error

    def _not_renamed(
        self, client: Client, new: str, error: ftplib.Error
    ) -> StorageException:
        if errors.code(error) not in errors.UNAVAILABLE_CODES:
            return errors.translate(error, self._name(new), self.connections.server)
        if self.entry(client, new) is not None:
            return Rejected(
                f'{self._name(new)}: the server cannot replace a file as a whole: '
                f'{errors.reply(error)}'
            )
        if self._parent(client, new) is None:
            return NotFound(f'{self._name(new)}: not found')
        return errors.denied(error, self._name(new), self.connections.server)

    def read(self, path: str, limit: int | None) -> bytes:
        where = self._name(path)
        with self.connections.use(where) as client:
            try:
                data = client.transfer(f'RETR {self.wire(path)}')
            except (ftplib.error_perm, ftplib.error_temp) as error:
                raise self.why(client, path, error) from error
            content = data.everything(limit)
            if content is None:
                raise IntegrityError(f'{where}: larger than {limit} bytes')
            # Without TLS, a connection that was cut looks like the end of the file.
            size = self.size_by(client, path)
        if size != len(content):
            raise IncompleteAnswer(
                f'{where}: it ended after {len(content)} of {size} bytes'
            )
        return content

    # What an error means

    def why(self, client: Client, path: str, error: ftplib.Error) -> StorageException:
        """The exception for a path that the server refuses: often it does not say
        whether something is there."""
        where, server = self._name(path), self.connections.server
        if errors.code(error) not in errors.UNAVAILABLE_CODES or errors.is_full(error):
            return errors.translate(error, where, server)
        if self.entry(client, path) is None:
            return NotFound(f'{where}: not found')
        if errors.code(error) == '450':
            return errors.translate(error, where, server)
        return errors.denied(error, where, server)

    def not_opened(
        self, client: Client, path: str, error: ftplib.Error
    ) -> StorageException:
        """The exception for a new file that cannot be written.

        :returns: NotFound if there is no such folder
        """
        where, server = self._name(path), self.connections.server
        if errors.code(error) not in errors.UNAVAILABLE_CODES or errors.is_full(error):
            return errors.translate(error, where, server)
        if self._parent(client, path) is None:
            return NotFound(f'{where}: not found')
        return errors.denied(error, where, server)

    def entry(self, client: Client, path: str) -> Listed | None:
        """What is at a path; a link that leads to a folder may count as one.

        :raises AccessDenied: the folder that it is in cannot be listed
        """
        path = self._absolute(path)
        if path == '/':
            return Listed('/', Kind.FOLDER, 0)
        if self.connections.features().machine_lists:
            try:
                found = self._machine_entry(client, path)
            except (ftplib.error_perm, ftplib.error_temp):
                found = None
            if found is not None:
                return found
        elif self._enters(client, path):
            return Listed(posixpath.basename(path), Kind.FOLDER, 0)
        parent, name = posixpath.split(path)
        try:
            entries = self._list(client, parent)
        except NotFound:
            return None
        return next((each for each in entries if each.name == name), None)

    def _machine_entry(self, client: Client, path: str) -> Listed | None:
        for line in client.sendcmd(f'MLST {self.wire(path)}').split('\n'):
            if line.startswith(' '):
                found = listing.machine(line[1:])
                # The name is the whole path, of a folder itself perhaps.
                if found is None:
                    return Listed(posixpath.basename(path), Kind.FOLDER, 0)
                return found._replace(name=posixpath.basename(path))
        raise MalformedAnswer(f'{self._name(path)}: the reply to MLST has no entry')

    def _enters(self, client: Client, path: str) -> bool:
        """Whether it is a folder, or leads to one."""
        try:
            client.voidcmd(f'CWD {self.wire(path)}')
        except ftplib.error_perm:
            return False
        return True


def _received(client: Client, command: str) -> tuple[list[str], str]:
    """The lines that a command sends by a data connection, and the final reply."""
    data = client.transfer(command)
    content = data.everything() or b''
    if content and not content.endswith(b'\n'):
        raise IncompleteAnswer(f'the reply to {command[:4]} ended within a line')
    text = from_wire(content.decode(_LISTING_ENCODING))
    lines = (line.rstrip('\r') for line in text.split('\n'))
    return [line for line in lines if line], data.reply
