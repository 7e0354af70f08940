"""Backups in a directory."""

import contextlib
import os
import shutil
import stat
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Self, TypeVar

from freezer.storage.backup import Stat, marker_replaced
from freezer.storage.base import StorageSettings
from freezer.storage.check import CheckReport
from freezer.storage.exceptions import (
    Conflict,
    IntegrityError,
    NotFound,
    PartialDelete,
    StorageConfigError,
    StorageException,
)
from freezer.storage.local.check import check
from freezer.storage.paths import NEVER, PathStorage
from freezer.utils import surroundings
from freezer.utils.blocks import Block
from freezer.utils.paths import absolute
from freezer.utils.ranges import Range

T = TypeVar('T')

# A file has this suffix until it is whole.
_PARTIAL = '.partial'
# To make a folder and something in it: other agents may remove the folder as empty.
_ATTEMPTS = 5
# Bytes after which a file is synchronized: one fsync of all at its end may take longer
# than other storages wait.
_SYNC_BYTES = 64 * 2**20


class LocalStorage(PathStorage):
    """A directory of this machine, or one mounted on it.

    Files appear under their name when they are whole and on disk (fsync, rename).
    """

    _type = 'local'

    @classmethod
    def from_settings(cls, settings: StorageSettings) -> Self:
        if not settings.container:
            raise StorageConfigError(
                f'{settings.section}: storage local needs container: the directory '
                f'that holds the backups'
            )
        (path,) = cls.local_paths(settings)
        if surroundings.is_checked():
            _check_container(path)
        return cls(
            path,
            settings.max_segment_size,
            skip_prepare=True,
            sending=settings.sending,
            receiving=settings.receiving,
        )

    @classmethod
    def local_paths(cls, settings: StorageSettings) -> Sequence[str]:
        return (absolute(settings.container),)

    def prepare(self) -> None:
        with _errors(self.storage_path):
            _make_folder(self.storage_path)

    def check(self) -> CheckReport:
        return check(self)

    def reserve(self, folder: str) -> None:
        with _errors(folder):
            try:
                _in_folder(folder, lambda: os.mkdir(folder, 0o700))
            except FileExistsError as error:
                raise Conflict(
                    f'{folder} is there already: another backup of this name started '
                    f'in the same second; run it again'
                ) from error

    def write_stream(
        self,
        path: str,
        blocks: Iterable[memoryview],
        cancelled: threading.Event = NEVER,
    ) -> None:
        with _errors(path):
            stream = _in_folder(path, lambda: _WholeFile(path))
        try:
            for block in blocks:
                with _errors(path):
                    stream.write(block)
            with _errors(path):
                stream.finish()
        except BaseException:
            stream.remove()
            raise

    def write_file(self, path: str, content: bytes) -> None:
        self.write_stream(path, [memoryview(content)])

    def replace_file(self, path: str, old: bytes, content: bytes) -> None:
        if self.read_file(path) != old:
            raise marker_replaced(path)
        folder = os.path.dirname(path)
        # Outside of the folder, which an agent that deletes the file removes as well:
        # then the new file has no place.
        with _errors(path):
            file = _WholeFile(path, folder + _PARTIAL)
        try:
            with _errors(path):
                file.write(content)
                file.finish()
        except BaseException:
            file.remove()
            self._prune(os.path.dirname(folder))
            raise

    def read_ranges(
        self, path: str, ranges: Iterable[Range]
    ) -> Generator[Block | StorageException, None, None]:
        with _errors(path):
            stream = open(path, 'rb')  # noqa: SIM115
        with stream:
            for start, end in ranges:
                try:
                    with _errors(path):
                        stream.seek(start)
                        block = stream.read(end - start)
                except StorageException as error:
                    yield error
                else:
                    yield block

    def list_tree(self, path: str) -> Iterator[tuple[str, int]]:
        def failed(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise error

        with _errors(path):
            # A disk that is not mounted is not a storage without backups.
            os.stat(self.storage_path)
            for folder, _folders, files in os.walk(path, onerror=failed):
                for name in files:
                    full = os.path.join(folder, name)
                    # A file that another agent has just removed is not listed.
                    with contextlib.suppress(FileNotFoundError):
                        yield os.path.relpath(full, path), os.lstat(full).st_size

    def read_file(self, path: str, limit: int | None = None) -> bytes:
        with _errors(path), open(path, 'rb') as stream:
            content = stream.read(-1 if limit is None else limit + 1)
        if limit is not None and len(content) > limit:
            raise IntegrityError(f'{path}: larger than {limit} bytes')
        return content

    def stat(self, path: str) -> Stat:
        with _errors(path):
            return Stat(os.stat(path).st_size, None)

    def delete_files(self, paths: Sequence[str]) -> None:
        failed = []
        for path in paths:
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                failed.append(error)
            else:
                self._prune(os.path.dirname(path))
        if failed:
            raise PartialDelete(
                f'{len(failed)} of {len(paths)} files could not be deleted, first '
                f'{failed[0].filename}: {failed[0].strerror}; --action admin tries '
                f'again'
            ) from failed[0]

    def remove_tree(self, path: str) -> None:
        with _errors(path), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
        self._prune(os.path.dirname(path))

    def _prune(self, folder: str) -> None:
        """Remove folders that have become empty, up to the container."""
        with contextlib.suppress(OSError):  # not empty, or gone: both are fine
            while folder.startswith(self.storage_path + os.sep):
                os.rmdir(folder)
                folder = os.path.dirname(folder)


def _check_container(path: str) -> None:
    """:raises StorageConfigError: it is no directory, and none can be made there"""
    nearest = path
    while not os.path.lexists(nearest):
        nearest = os.path.dirname(nearest)
    try:
        if stat.S_ISDIR(os.stat(nearest).st_mode):
            return
        problem = 'is not a directory'
    except FileNotFoundError:
        target = os.readlink(nearest)
        problem = f'is a symbolic link to {target}, which does not exist'
    except OSError as error:
        # A loop of links.
        problem = error.strerror or str(error)
    where = '' if nearest == path else f'{nearest} '
    raise StorageConfigError(
        f'container {path}: {where}{problem}; name a directory, or a place for a new '
        f'one'
    )


def _make_folder(path: str) -> None:
    os.makedirs(path, mode=0o700, exist_ok=True)


def _in_folder(path: str, make: Callable[[], T], attempts: int = _ATTEMPTS) -> T:
    """Make something at a path, and the folders above it."""
    try:
        _make_folder(os.path.dirname(path))
        return make()
    except FileNotFoundError:
        if attempts == 1:
            raise
        return _in_folder(path, make, attempts - 1)


class _WholeFile:
    """A file that appears at its path when it is whole and on disk, or not at all.

    :param partial: its name until then
    """

    def __init__(self, path: str, partial: str | None = None) -> None:
        self._path = path
        self._partial = Path(partial or path + _PARTIAL)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        descriptor = os.open(self._partial, flags, 0o600)
        self._stream: IO[bytes] = open(descriptor, 'wb')  # noqa: SIM115
        self._unsynced = 0

    def write(self, block: Block | memoryview) -> None:
        self._unsynced += self._stream.write(block)
        if self._unsynced >= _SYNC_BYTES:
            self._stream.flush()
            os.fdatasync(self._stream.fileno())
            self._unsynced = 0

    def finish(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        os.replace(self._partial, self._path)
        folder = os.open(os.path.dirname(self._path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def remove(self) -> None:
        # What is still buffered may not be writable.
        with contextlib.suppress(OSError):
            self._stream.close()
        self._partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _errors(path: str) -> Iterator[None]:
    """Translate what the file system says."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f'{error.filename or path}: not found') from error
    except OSError as error:
        raise StorageException(
            f'{error.filename or path}: {error.strerror or error}'
        ) from error
