"""Images that can be backed up: files and block devices."""

import abc
import dataclasses
import errno
import os
import stat
from collections.abc import Iterator
from typing import Self

from freezer.engine.engine import Source
from freezer.exceptions import ConfigError, EngineError


class Image(abc.ABC):
    """An image that is open for reading. A context manager.

    :ivar size: bytes
    """

    size: int

    @abc.abstractmethod
    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Start and end of the ranges that may have other bytes than zeros, sorted."""

    @abc.abstractmethod
    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer. Threads call it at the same time.

        :raises EngineError: the bytes cannot be read, or are not there any more
        """

    @abc.abstractmethod
    def change(self) -> str | None:
        """What changed since it was opened, as far as that can be detected; None if
        nothing did.

        :raises EngineError: the image could not be read to its end
        """

    @abc.abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


@dataclasses.dataclass(frozen=True)
class FileSource(Source):
    """A file or a block device.

    :param path: of it; links are followed
    """

    path: str

    def open(self) -> 'FileImage':
        return FileImage(self.path)


class FileImage(Image):
    """:raises EngineError: it cannot be opened, or is something else"""

    def __init__(self, path: str) -> None:
        self._path = path
        # Not to wait for the other end of a FIFO.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            self._file = os.open(path, flags)
        except OSError as error:
            raise self._failed(error) from error
        try:
            self._status = os.fstat(self._file)
            mode = self._status.st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                raise EngineError(
                    f'{path}: neither a regular file nor a block device: engine '
                    f'blocks can back up only these'
                )
            self.size = os.lseek(self._file, 0, os.SEEK_END)
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        except OSError as error:
            self.close()
            raise self._failed(error) from error
        except EngineError:
            self.close()
            raise

    @property
    def is_device(self) -> bool:
        return stat.S_ISBLK(self._status.st_mode)

    @property
    def is_in_use(self) -> bool:
        """Whether a device, or a part of it, is mounted, or used by LVM and the like.
        That a virtual machine uses it cannot be detected."""
        if not self.is_device:
            return False
        try:
            os.close(os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_EXCL))
        except OSError as error:
            return error.errno == errno.EBUSY
        return False

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        if self.is_device:
            # It reports no holes.
            yield 0, self.size
            return
        end = 0
        while end < self.size:
            try:
                start = os.lseek(self._file, end, os.SEEK_DATA)
                end = os.lseek(self._file, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    # Only a hole follows.
                    return
                raise self._failed(error) from error
            end = min(end, self.size)
            if start < end:
                yield start, end

    def read(self, offset: int, buffer: memoryview) -> None:
        filled = 0
        while filled < len(buffer):
            try:
                count = os.preadv(self._file, [buffer[filled:]], offset + filled)
            except OSError as error:
                raise EngineError(
                    f'{self._path}: cannot read byte {offset + filled}: '
                    f'{error.strerror}'
                ) from error
            if not count:
                raise self._shrank()
            filled += count

    def change(self) -> str | None:
        try:
            now = os.fstat(self._file)
            size = os.lseek(self._file, 0, os.SEEK_END)
        except OSError as error:
            raise self._failed(error) from error
        if size < self.size:
            raise self._shrank()
        if size > self.size:
            return (
                f'{self._path}: grew while it was read: the rest is not in the backup'
            )
        before = self._status
        if not self.is_device and (before.st_mtime_ns, before.st_ctime_ns) != (
            now.st_mtime_ns,
            now.st_ctime_ns,
        ):
            return (
                f'{self._path}: changed while it was read: the backup may have the old '
                f'state in one place and the new one in another; back up a snapshot'
            )
        return None

    def close(self) -> None:
        os.close(self._file)

    def _shrank(self) -> EngineError:
        return EngineError(
            f'{self._path}: shrank while it was read: run the backup again, or back up '
            f'a snapshot'
        )

    def _failed(self, error: OSError) -> EngineError:
        return EngineError(f'{self._path}: {error.strerror}')


def file_source(path: str | None) -> FileSource:
    """
    :raises ConfigError: there is no path
    :raises EngineError: it cannot be read, or is something else
    """
    if not path:
        raise ConfigError(
            'engine blocks needs --path-to-backup: a file with an image, or a block '
            'device'
        )
    path = os.path.abspath(path)
    with FileImage(path) as image:
        is_in_use = image.is_in_use
    note = (
        f'{path} is mounted or in use, and may change while it is read: back up a '
        f'snapshot of it'
    )
    return FileSource(path, path, notes=(note,) if is_in_use else ())
