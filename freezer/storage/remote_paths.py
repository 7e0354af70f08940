"""What drivers share whose paths are on a file server: SFTP, FTP.

A driver provides the server's own calls, each a single attempt (:class:`FileServer`),
and how data is sent and received. Here is the rest of :class:`paths.PathStorage`:
settings, folders, names, retries, and what a repeated call means whose first answer was
lost.
"""

import abc
import contextlib
import copy
import logging
import posixpath
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar

from freezer.storage import layout
from freezer.storage.backup import (
    Backup,
    LevelPaths,
    PendingBackup,
    Stat,
    marker_replaced,
)
from freezer.storage.base import StorageSettings
from freezer.storage.exceptions import (
    Cancelled,
    Conflict,
    NotFound,
    PartialDelete,
    Rejected,
    StorageConfigError,
    StorageException,
)
from freezer.storage.file_server import FileServer, Kind, Listed
from freezer.storage.housekeeping import CleanUpReport, Leftover
from freezer.storage.journal import Journal, JournalEntry, Place
from freezer.storage.paths import NEVER, PathStorage
from freezer.storage.remote_options import ServerOptions, directory
from freezer.storage.retry import Retry
from freezer.utils.progress import Progress
from freezer.utils.rate import UNLIMITED, Rate

LOG = logging.getLogger(__name__)
T = TypeVar('T')
ServerT = TypeVar('ServerT', bound=FileServer)

#: seconds for a call of a clean-up
CLEAN_UP_SECONDS = 10.0
# What is being written, for the next run to clean up should this one be killed.
JOURNAL = '~/.freezer/uploads'
_PARTIAL = '.partial'
# To make a folder whose parent was just made: another agent may remove it as empty. In
# some file systems, such as /proc, no folder can be made.
_ATTEMPTS = 3
# Seconds for a request while other storages wait; but two repetitions are possible.
_PATIENCE = 60.0
# Folders that are listed at the same time.
_FOLDERS_AT_ONCE = 32
_FILES_AT_ONCE = 256


class RemotePathStorage(PathStorage, Generic[ServerT]):
    """A directory of a server that is reached over a network.

    :param storage_path: absolute, or relative to the directory in which a login begins
    :param others_wait: whether other storages, with the same backup, wait for this one
    :ivar retry: of every call
    :cvar required: options that must be set
    """

    required: ClassVar[tuple[str, ...]]
    retry: Retry

    def __init__(
        self,
        storage_path: str,
        max_segment_size: int,
        skip_prepare: bool = False,
        *,
        options: ServerOptions,
        progress: Progress | None = None,
        others_wait: Callable[[], bool] = bool,
        sending: Rate = UNLIMITED,
        receiving: Rate = UNLIMITED,
    ) -> None:
        self.options = options
        self.retry = Retry(
            options.retry_budget, progress=progress, store=str(options.server)
        )
        self._others_wait = others_wait
        self._opened_server = _OpenedServer(self.connect)
        super().__init__(
            storage_path,
            max_segment_size,
            skip_prepare,
            sending=sending,
            receiving=receiving,
        )

    @classmethod
    def from_settings(cls, settings: StorageSettings) -> Self:
        missing = [
            name
            for name in cls.required
            if not settings.options[name.replace('-', '_')]
        ]
        if not settings.container:
            missing.append('container')
        where = f'{settings.section}: ' if settings.name else ''
        if missing:
            flags = ' '.join(f'--{name} …' for name in missing)
            keys = ', '.join(missing).replace('-', '_')
            raise StorageConfigError(
                f'{where}storage {cls._type} needs {", ".join(missing)}: give {flags} '
                f'on the command line, or {keys} in the job file (--config)'
            )
        try:
            return cls(
                directory(settings.container),
                settings.max_segment_size,
                skip_prepare=True,
                options=cls.parse_options(settings),
                progress=settings.progress,
                others_wait=settings.others_wait,
                sending=settings.sending,
                receiving=settings.receiving,
            )
        except StorageConfigError as error:
            raise StorageConfigError(f'{where}{error.message}') from error

    @classmethod
    @abc.abstractmethod
    def parse_options(cls, settings: StorageSettings) -> ServerOptions:
        """:raises StorageConfigError: one is malformed, or a package is missing"""

    @abc.abstractmethod
    def connect(self) -> ServerT:
        """The server; its first call connects."""

    @property
    def server(self) -> ServerT:
        """Opened at the first use."""
        return self._opened_server.get()

    @property
    def name(self) -> str:
        """The container, for the journal."""
        return self.storage_path

    @property
    def endpoint(self) -> str:
        """The server, for the journal."""
        return f'{self._type}://{self.options.server}'

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.storage_path} at {self.options.server}>'

    def location(self, path: str) -> str:
        return f'{self.options.server}:{path}'

    def begin(self, backup: Backup) -> PendingBackup:
        limited = self.limited(_PATIENCE, self._others_wait)
        return super(RemotePathStorage, limited).begin(backup)

    @abc.abstractmethod
    def upload(
        self, path: str, blocks: Iterable[memoryview], cancelled: threading.Event
    ) -> None:
        """Write a new file, completely and durably; its size is compared.

        Continues after a broken connection. If it fails, the caller removes what is
        left of the file.

        :raises NotFound: there is no such folder
        """

    def limited(self, seconds: float, when: Callable[[], bool]) -> Self:
        """The same storage, which gives up sooner while others wait for it."""
        other = copy.copy(self)
        other.retry = self.retry.limited(seconds, when)
        return other

    def cleaning_up(self) -> Self:
        other = copy.copy(self)
        other.retry = self.retry.within(CLEAN_UP_SECONDS)
        return other

    def _call(self, call: Callable[[], T], cancelled: threading.Event = NEVER) -> T:
        return self.retry.run(call, cancelled)

    def close(self) -> None:
        self._opened_server.close()

    def prepare(self) -> None:
        self._make_folders(self.storage_path)
        self._journal.undo(self, self._clear)

    # What a killed agent of this machine left

    @property
    def _journal(self) -> Journal:
        return Journal(Path(JOURNAL).expanduser())

    def journal_entry(self, paths: LevelPaths) -> JournalEntry:
        return self._journal.begin(
            Place(self.endpoint, self.name, paths.folder, paths.marker)
        )

    def clean_up(self, dry_run: bool = False) -> CleanUpReport:
        found = self._journal.undo(self, self._clear, dry_run=dry_run)
        return CleanUpReport(tuple(found))

    def _clear(self, place: Place, _uploads: object, dry_run: bool) -> Leftover:
        sizes: list[int] = []
        for tree in (posixpath.dirname(place.marker), place.folder):
            found = dict(self.list_tree(tree))
            if layout.METADATA in found and tree != place.folder:
                # It is committed.
                break
            sizes += found.values()
            if not dry_run:
                self.remove_tree(tree)
        return Leftover(self.location(place.folder), len(sizes), 0, sum(sizes))

    def _make_folders(self, path: str, attempts: int = _ATTEMPTS) -> None:
        try:
            self._call(lambda: self.server.make_folder(path))
        except NotFound:
            parent = posixpath.dirname(path)
            if parent in ('', path) or not attempts:
                raise
            self._make_folders(parent)
            self._make_folders(path, attempts - 1)
        except Conflict as error:
            # Another agent may have made it, and removed it.
            self._require_folder(path, error)

    def _require_folder(self, path: str, cause: Exception | None = None) -> None:
        """:raises NotFound: nothing is there

        :raises Rejected: it is not a folder, but perhaps a link that leads nowhere
        """
        try:
            is_folder = self._call(lambda: self.server.is_folder(path))
        except NotFound:
            if not self._call(lambda: self.server.exists(path)):
                raise
            is_folder = False
        if not is_folder:
            raise Rejected(
                f'{self.location(path)} is not a directory: name another container'
            ) from cause

    def reserve(self, folder: str) -> None:
        for _attempt in range(_ATTEMPTS):
            self._make_folders(posixpath.dirname(folder))
            # Another agent may have removed the parent as empty.
            with contextlib.suppress(NotFound):
                self._reserve(folder)
                return
        self._reserve(folder)

    def _reserve(self, folder: str) -> None:
        attempts = 0

        def attempt() -> None:
            nonlocal attempts
            attempts += 1
            self.server.make_folder(folder)

        try:
            self._call(attempt)
        except Conflict as error:
            where = self.location(folder)
            if attempts > 1:
                # It may be ours. Nothing on a server tells, and two agents must never
                # write to one folder.
                raise Conflict(
                    f'{where}: the connection broke while the folder was made, and now '
                    f'it exists, perhaps from another agent; run it again'
                ) from error
            raise Conflict(
                f'{where} is there already: another backup of this name started in '
                f'the same second; run it again'
            ) from error

    def write_stream(
        self,
        path: str,
        blocks: Iterable[memoryview],
        cancelled: threading.Event = NEVER,
    ) -> None:
        partial = _partial(path)
        is_taken = False

        def taken() -> Iterator[memoryview]:
            nonlocal is_taken
            for block in blocks:
                is_taken = True
                yield block

        try:
            try:
                self.upload(partial, taken(), cancelled)
            except NotFound:
                if is_taken:
                    raise
                self._make_folders(posixpath.dirname(path))
                self.upload(partial, taken(), cancelled)
            self._rename(partial, path)
        except Cancelled:
            # The whole level is discarded, when the server may answer again.
            raise
        except BaseException:
            self._remove_partial(partial)
            raise

    def write_file(self, path: str, content: bytes) -> None:
        self.write_stream(path, [memoryview(content)])

    def replace_file(self, path: str, old: bytes, content: bytes) -> None:
        if self.read_file(path) != old:
            raise marker_replaced(self.location(path))
        folder = posixpath.dirname(path)
        # Outside of the folder, which an agent that deletes the file removes as well:
        # then the new file has no place.
        partial = _partial(folder)
        try:
            self.upload(partial, [memoryview(content)], NEVER)
            self._rename(partial, path)
        except BaseException:
            self._remove_partial(partial)
            self._prune([posixpath.dirname(folder)])
            raise

    def _rename(self, partial: str, path: str) -> None:
        """Nobody else has a partial file of this name: if an attempt was lost, and the
        file is gone, that attempt succeeded."""
        attempts = 0

        def attempt() -> None:
            nonlocal attempts
            attempts += 1
            try:
                self.server.rename(partial, path)
            except NotFound:
                if attempts == 1 or self.server.exists(partial):
                    raise

        self._call(attempt)

    def _remove_partial(self, partial: str) -> None:
        """After an error, which counts; a folder that is discarded is removed with what
        is in it."""
        try:
            self.server.remove_files([partial])
        except StorageException as error:
            LOG.warning('%s may remain: %s', self.location(partial), error.message)

    def read_file(self, path: str, limit: int | None = None) -> bytes:
        return self._call(lambda: self.server.read(path, limit))

    def stat(self, path: str) -> Stat:
        return Stat(self._call(lambda: self.server.size(path)), None)

    def list_tree(self, path: str) -> Iterator[tuple[str, int]]:
        # A container that is missing is not a storage without backups.
        self._require_folder(self.storage_path)
        start = len(path) + 1
        for folder, entries in self._walk(path):
            for entry in entries:
                if entry.kind is not Kind.FOLDER:
                    yield f'{folder}/{entry.name}'[start:], entry.size

    def _walk(self, path: str) -> Iterator[tuple[str, list[Listed]]]:
        """Folders with their entries, from the top; one that is missing has none."""
        waiting = [path]
        while waiting:
            batch, waiting = waiting[:_FOLDERS_AT_ONCE], waiting[_FOLDERS_AT_ONCE:]
            for folder, entries in zip(batch, self._list_folders(batch), strict=True):
                if isinstance(entries, NotFound):
                    # An agent has just removed it.
                    continue
                if isinstance(entries, StorageException):
                    raise entries
                yield folder, entries
                waiting += [
                    f'{folder}/{entry.name}'
                    for entry in entries
                    if entry.kind is Kind.FOLDER
                ]

    def _list_folders(
        self, paths: Sequence[str]
    ) -> list[list[Listed] | StorageException]:
        return self._call(lambda: self.server.list_folders(paths))

    def delete_files(self, paths: Sequence[str]) -> None:
        failed = []
        # One after the other: markers go before the data.
        for path in paths:
            failed += self._remove([path])
        self._prune(posixpath.dirname(path) for path in paths)
        if failed:
            raise PartialDelete(
                f'{len(failed)} of {len(paths)} files could not be deleted, first '
                f'{failed[0].message}; --action admin tries again'
            ) from failed[0]

    def _remove(self, paths: Sequence[str]) -> list[StorageException]:
        errors = self._call(lambda: self.server.remove_files(paths))
        return [error for error in errors if error is not None]

    def remove_tree(self, path: str) -> None:
        found = list(self._walk_to_remove(path))
        files = [
            f'{folder}/{entry.name}'
            for folder, entries in found
            for entry in entries
            if entry.kind is not Kind.FOLDER
        ]
        for start in range(0, len(files), _FILES_AT_ONCE):
            for error in self._remove(files[start : start + _FILES_AT_ONCE]):
                raise error
        for folder, _entries in reversed(found):
            try:
                self._call(lambda folder=folder: self.server.remove_folder(folder))  # type: ignore[misc]
            except NotFound:
                continue
        self._prune([posixpath.dirname(path)])

    def _walk_to_remove(self, path: str) -> Iterator[tuple[str, list[Listed]]]:
        """As :meth:`_walk`, but a path that is a link is removed itself."""
        parent, name = posixpath.split(path)
        (siblings,) = self._list_folders([parent])
        if isinstance(siblings, NotFound):
            return
        if isinstance(siblings, StorageException):
            raise siblings
        for entry in siblings:
            if entry.name == name and entry.kind is Kind.FOLDER:
                yield from self._walk(path)
            elif entry.name == name:
                for error in self._remove([path]):
                    raise error

    def _prune(self, folders: Iterable[str]) -> None:
        """Remove folders that have become empty, up to the container."""
        above = {each for folder in folders for each in self._up(folder)}
        kept: set[str] = set()
        # Each after all that are below it.
        for folder in sorted(above, key=lambda each: each.count('/'), reverse=True):
            if folder in kept:
                continue
            try:
                self._call(lambda folder=folder: self.server.remove_folder(folder))  # type: ignore[misc]
            except NotFound:
                continue
            except StorageException:
                # Not empty.
                kept.update(self._up(folder))

    def _up(self, folder: str) -> Iterator[str]:
        """A folder, and those that it is in, below the container."""
        while folder.startswith(f'{self.storage_path}/'):
            yield folder
            folder = posixpath.dirname(folder)


def _partial(path: str) -> str:
    """A name that no other agent uses."""
    return f'{path}.{secrets.token_hex(8)}{_PARTIAL}'


class _OpenedServer(Generic[ServerT]):
    """A server, which is opened at the first use. Copies of a storage share it."""

    def __init__(self, connect: Callable[[], ServerT]) -> None:
        self._connect = connect
        self._server: ServerT | None = None
        self._lock = threading.Lock()

    def get(self) -> ServerT:
        with self._lock:
            if self._server is None:
                self._server = self._connect()
            return self._server

    def close(self) -> None:
        with self._lock:
            if self._server is not None:
                self._server.close()
