"""Targets of restores: a file, or an existing block device."""

import abc
import ctypes
import errno
import os
import stat
from collections.abc import Callable
from typing import Final, Self

from freezer.exceptions import ConfigError, EngineError, RestoreError
from freezer.utils.blocks import Block
from freezer.utils.tree import is_within

# linux/falloc.h
_KEEP_SIZE: Final = 1
_PUNCH_HOLE: Final = 2
# What systems return that cannot punch holes, or not in such a place.
_NO_HOLES: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM)
# A signal interrupts a restore only between calls.
_PUNCH_STEP: Final = 1 << 30
_ZEROS: Final = bytes(1 << 20)


def _load() -> Callable[[int, int, ctypes.c_int64, ctypes.c_int64], int]:
    library = ctypes.CDLL(None, use_errno=True)
    # Only glibc has a function of this name with 64 bits on any processor; others have
    # 64 bits always.
    function: Callable[[int, int, ctypes.c_int64, ctypes.c_int64], int] = getattr(
        library, 'fallocate64', None
    ) or getattr(library, 'fallocate')  # noqa: B009
    return function


_fallocate: Final = _load()


def check_target(path: str | None, overwrite: bool) -> str:
    """Check that an image can be restored to a path. Writes nothing.

    :param path: ``--restore-abs-path``
    :param overwrite: whether something may be there already
    :raises ConfigError: there is no path
    :raises RestoreError: nothing can be restored there
    """
    if not path:
        raise ConfigError(
            'engine blocks needs --restore-abs-path: a file to restore to, or a block '
            'device'
        )
    path = os.path.abspath(path)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if is_within(path, '/dev'):
            # A file there would be in memory, and gone with the next boot.
            raise _refused(path, 'does not exist: there is no such device') from None
        return path
    except OSError as error:
        raise _refused(path, f'cannot be used: {error.strerror}') from error
    if stat.S_ISDIR(status.st_mode):
        raise _refused(
            path,
            'is a directory: give the path of a file, or of a block device',
        )
    if stat.S_ISBLK(status.st_mode):
        if not overwrite:
            raise _refused(path, 'is a device: --overwrite replaces its contents')
        try:
            # As a restore does: the kernel refuses a device that is mounted.
            Device(path).close()
        except EngineError as error:
            raise RestoreError(f'restore-abs-path {error}') from error
    elif not stat.S_ISREG(status.st_mode):
        raise _refused(path, 'is neither a regular file nor a block device')
    elif status.st_size and not overwrite:
        raise _refused(path, 'is not empty: --overwrite replaces its contents')
    return path


def _refused(path: str, why: str) -> RestoreError:
    return RestoreError(f'restore-abs-path {path} {why}')


class Target(abc.ABC):
    """An image that is open for writing. A context manager."""

    @abc.abstractmethod
    def resize(self, before: int, size: int) -> None:
        """Give it the size of an image. What is cut off becomes zeros, or goes.

        :param before: of the image of the level below; 0 at level 0
        """

    @abc.abstractmethod
    def clear(self, start: int, end: int) -> None:
        """Make zeros of a range whose old bytes are not of the image; nothing if it
        ends before it starts."""

    @abc.abstractmethod
    def write(self, offset: int, content: Block | memoryview) -> None: ...

    @abc.abstractmethod
    def write_zeros(self, offset: int, length: int) -> None:
        """Zeros, as holes where they are possible."""

    @abc.abstractmethod
    def sync(self) -> None:
        """Write everything to the disk."""

    @abc.abstractmethod
    def close(self) -> None: ...

    def check_room(self, size: int) -> None:
        """:raises EngineError: an image of that many bytes cannot have room"""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class _SystemFile(Target):
    """A target that the kernel opens by its path.

    :raises EngineError: it cannot be opened
    """

    def __init__(self, path: str, flags: int) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o600)
        except OSError as error:
            raise self._failed(error) from error
        self._punches = True

    def write(self, offset: int, content: Block | memoryview) -> None:
        view = memoryview(content)
        try:
            while view:
                count = os.pwrite(self._file, view, offset)
                view = view[count:]
                offset += count
        except OSError as error:
            raise self._failed(error) from error

    def write_zeros(self, offset: int, length: int) -> None:
        while length:
            part = min(length, _PUNCH_STEP)
            if not (self._punches and self._punch(offset, part)):
                for start in range(0, part, len(_ZEROS)):
                    zeros = _ZEROS[: part - start]
                    self.write(offset + start, zeros)
            offset += part
            length -= part

    def _punch(self, offset: int, length: int) -> bool:
        # On a device the kernel also guarantees zeros (since Linux 4.9).
        mode = _PUNCH_HOLE | _KEEP_SIZE
        place = ctypes.c_int64(offset), ctypes.c_int64(length)
        if not _fallocate(self._file, mode, *place):
            return True
        number = ctypes.get_errno()
        if number not in _NO_HOLES:
            raise self._failed(OSError(number, os.strerror(number)))
        # EINVAL is of this place only: the end of an image may be no whole sector.
        self._punches = number == errno.EINVAL
        return False

    def sync(self) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        os.close(self._file)

    def _failed(self, error: OSError) -> EngineError:
        return EngineError(f'{self._path}: {error.strerror}')


class File(_SystemFile):
    """
    :param is_new: it is made, or emptied
    """

    def __init__(self, path: str, is_new: bool) -> None:
        super().__init__(path, os.O_CREAT | os.O_TRUNC if is_new else 0)

    def resize(self, before: int, size: int) -> None:
        try:
            os.ftruncate(self._file, size)
        except OSError as error:
            raise self._failed(error) from error

    def clear(self, start: int, end: int) -> None:
        """Nothing: a file that is new or becomes larger has zeros there."""

    def sync(self) -> None:
        super().sync()
        # Its name as well. The path may be a link.
        folder = os.path.dirname(os.path.realpath(self._path))
        try:
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)
        except OSError as error:
            raise EngineError(f'{folder}: {error.strerror}') from error


class Device(_SystemFile):
    """A block device. Nobody else can mount it meanwhile. What is written beyond its
    end is dropped: a level may be larger than the newest one, which has room."""

    def __init__(self, path: str) -> None:
        super().__init__(path, os.O_EXCL)
        self.size = os.lseek(self._file, 0, os.SEEK_END)

    def check_room(self, size: int) -> None:
        if size > self.size:
            raise EngineError(
                f'{self._path} has {self.size} bytes, and the image {size}: restore to '
                f'a larger device, or to a file'
            )

    def resize(self, before: int, size: int) -> None:
        self.clear(size, before)

    def write(self, offset: int, content: Block | memoryview) -> None:
        super().write(offset, memoryview(content)[: self._room(offset)])

    def write_zeros(self, offset: int, length: int) -> None:
        super().write_zeros(offset, min(length, self._room(offset)))

    def _room(self, offset: int) -> int:
        return max(self.size - offset, 0)

    def clear(self, start: int, end: int) -> None:
        if start < end:
            self.write_zeros(start, end - start)

    def _failed(self, error: OSError) -> EngineError:
        if error.errno == errno.EBUSY:
            return EngineError(
                f'{self._path} is mounted or in use: unmount it, or restore elsewhere'
            )
        return super()._failed(error)


def open_target(path: str, is_new: bool) -> Target:
    """Open a target.

    :param is_new: for level 0; the directory of a file is made if it is missing
    :raises EngineError: it cannot be opened
    """
    if is_new:
        _make_folder(os.path.dirname(path))
    try:
        is_device = stat.S_ISBLK(os.stat(path).st_mode)
    except FileNotFoundError:
        is_device = False
    except OSError as error:
        raise EngineError(f'{path}: {error.strerror}') from error
    return Device(path) if is_device else File(path, is_new)


def _make_folder(folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise EngineError(f'{folder}: {error.strerror}') from error
