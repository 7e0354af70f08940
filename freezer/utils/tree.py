"""Walks directories by descriptor: paths of any length, and no link is followed.

Any user can make a path that is longer than the kernel accepts (PATH_MAX, 4096 bytes):
each component is short, and only its absolute path is too long. So directories are
opened one component at a time. At most :data:`KEPT` descriptors are open, however deep
the tree is, and nothing recurses.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Self, TypeVar

KEPT: Final = 64
"""Descriptors of the path that is open. To go back up further than that, the path is
opened again from the top."""

State = TypeVar('State')

# O_PATH needs no right to read the directory.
_OPEN: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Folders:
    """Opens directories below a top directory, one at a time.

    A context manager: closes all descriptors.

    :param top: may be, or be below, a symbolic link; or a descriptor, which is not
        closed
    :param follow: follow symbolic links below the top as well
    :param read: open them for reading as well, which needs the right to read them
    :raises OSError: the top cannot be opened
    """

    def __init__(
        self, top: str | bytes | int, *, follow: bool = False, read: bool = False
    ) -> None:
        self.names: list[bytes] = []
        """The path of the open directory; do not change it."""
        flags = _READ if read else _OPEN
        self._flags = flags if follow else flags | os.O_NOFOLLOW
        self._top = (
            os.open(b'.', flags, dir_fd=top)
            if isinstance(top, int)
            else os.open(top, flags)
        )
        # Descriptors of the last components of the path.
        self._open: collections.deque[int] = collections.deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_all()
        os.close(self._top)

    @property
    def fd(self) -> int:
        """The open directory: a descriptor for ``dir_fd``, valid until the next call.

        :raises OSError: a directory on the way is gone, or is another file
        """
        if self.names and not self._open:
            self.open(list(self.names))
        return self._open[-1] if self._open else self._top

    def open(self, path: Sequence[bytes]) -> int:
        """Open another directory; see :attr:`fd`.

        :param path: components, from the top
        :raises OSError: it does not exist, or is not a directory but for example a link
        """
        common = 0
        for one, other in zip(self.names, path, strict=False):
            if one != other:
                break
            common += 1
        while len(self.names) > common:
            self.leave()
        if self.names and not self._open:
            self.names.clear()
        for name in path[len(self.names) :]:
            self.enter(name)
        return self._open[-1] if self._open else self._top

    def enter(self, name: bytes) -> None:
        """Open a directory in the open one. Raises as :meth:`open`."""
        opened = os.open(name, self._flags, dir_fd=self.fd)
        self.names.append(name)
        self._open.append(opened)
        if len(self._open) > KEPT:
            os.close(self._open.popleft())

    def leave(self) -> None:
        """Go back to the parent of the open directory."""
        self.names.pop()
        if self._open:
            os.close(self._open.pop())

    def _close_all(self) -> None:
        while self._open:
            os.close(self._open.pop())


@dataclass
class Directory(Generic[State]):
    """A directory that :func:`walk` visits.

    :ivar names: its path; changes with the next step
    :ivar fd: as :attr:`Folders.fd`, until the next step
    :ivar state: what its parent passed to :meth:`enter`
    """

    names: list[bytes]
    fd: int
    state: State
    below: list[tuple[bytes, State]] = field(default_factory=list)

    @property
    def path(self) -> bytes:
        return b'/'.join(self.names)

    def enter(self, name: bytes, state: State) -> None:
        """Visit this directory, too."""
        self.below.append((name, state))


GONE: Final = (FileNotFoundError, NotADirectoryError)
"""Errors of a directory that was removed or replaced meanwhile."""


def walk(
    folders: Folders,
    state: State,
    skipped: tuple[type[OSError], ...] = GONE,
) -> Iterator[Directory[State]]:
    """Visit the open directory, and every directory for which a visit asks.

    Parents come before children.

    :param state: of the first directory
    :param skipped: errors for which a directory is skipped
    :raises OSError: a directory cannot be entered
    """
    first = Directory(folders.names, folders.fd, state)
    yield first
    pending = [first.below]
    while pending:
        if not pending[-1]:
            pending.pop()
            if pending:
                folders.leave()
            continue
        name, state = pending[-1].pop()
        try:
            folders.enter(name)
        except skipped:
            continue
        directory = Directory(folders.names, folders.fd, state)
        yield directory
        pending.append(directory.below)


@contextlib.contextmanager
def readable(fd: int) -> Iterator[int]:
    """A block with a descriptor of the same directory that can also be read.

    :param fd: as :attr:`Folders.fd`
    """
    opened = os.open(b'.', _READ, dir_fd=fd)
    try:
        yield opened
    finally:
        os.close(opened)


@contextlib.contextmanager
def entries(fd: int) -> Iterator[Iterator[tuple[bytes, os.DirEntry[str]]]]:
    """A block with the entries of a directory, and their names.

    :param fd: as :attr:`Folders.fd`
    """
    with readable(fd) as opened, os.scandir(opened) as found:
        yield ((os.fsencode(entry.name), entry) for entry in found)


def remove(folders: Folders, path: Sequence[bytes]) -> None:
    """Remove a file, or a directory with everything below it; not atomic.

    Never enters another file system. Something that is already gone is no error.

    :raises OSError: it could not be removed completely
    """
    *parents, name = path
    with contextlib.suppress(FileNotFoundError):
        parent = folders.open(parents)
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=parent)
            return
        folders.enter(name)
        pending = [_empty(folders.fd, status.st_dev)]
        while pending:
            if pending[-1]:
                folders.enter(pending[-1].pop())
                pending.append(_empty(folders.fd, status.st_dev))
                continue
            pending.pop()
            emptied = folders.names[-1]
            folders.leave()
            os.rmdir(emptied, dir_fd=folders.fd)


def _empty(fd: int, device: int) -> list[bytes]:
    """Remove the files of a directory; returns its directories."""
    if os.fstat(fd).st_dev != device:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    with entries(fd) as found:
        kinds = [(name, entry.is_dir(follow_symlinks=False)) for name, entry in found]
    for name, is_directory in kinds:
        if not is_directory:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=fd)
    return [name for name, is_directory in kinds if is_directory]


def mount_points(top: str) -> set[bytes]:
    """The paths below a directory on which something is mounted; see
    :func:`mount_types`."""
    return set(mount_types(top))


def mount_types(top: str) -> dict[bytes, bytes]:
    """The paths below a directory on which something is mounted, relative to it, and
    the type of each file system, such as ``ext4``.

    Bind mounts of the same device are among them, and files on which another file is
    mounted; subvolumes are not: those only have another ``st_dev``. Empty where there
    is no ``/proc``.
    """
    found: dict[bytes, bytes] = {}
    prefix = os.path.join(os.fsencode(os.path.realpath(top)), b'')
    with (
        contextlib.suppress(FileNotFoundError),
        open('/proc/self/mountinfo', 'rb') as f,
    ):
        for line in f:
            point = _unescaped(line.split(b' ', 5)[4])
            if point.startswith(prefix) and point != prefix:
                # The last one on a path hides those below it.
                kind = line.partition(b' - ')[2].split(b' ', 1)[0]
                found[point.removeprefix(prefix)] = kind
    return found


def _unescaped(text: bytes) -> bytes:
    """Of a field of mountinfo: the kernel writes space, tab, newline and backslash in
    octal."""
    head, *parts = text.split(b'\\')
    return head + b''.join(bytes([int(part[:3], 8)]) + part[3:] for part in parts)


def is_within(path: str, folder: str) -> bool:
    """Whether a path is a directory or below it, also under another name."""
    path, folder = os.path.realpath(path), os.path.realpath(folder)
    found = _status(folder)
    while True:
        here = _status(path)
        if path == folder or (found and here and os.path.samestat(found, here)):
            return True
        parent = os.path.dirname(path)
        if parent == path:
            return False
        path = parent


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
