"""Writes what levels have into a directory.

Every path is reached by descriptors, and no symbolic link is followed. What is in the
place of a file is removed before the file is made, so nothing is written through a hard
link either. Directories get their attributes at the end, for users other than root
cannot write into one that is read-only.
"""

from __future__ import annotations

import contextlib
import functools
import grp
import os
import pwd
import stat
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self

from freezer.engine.engine import TargetPlan, Warnings
from freezer.engine.rsync.entry import Entry
from freezer.engine.rsync.merge import Wanted
from freezer.exceptions import EngineError, RestoreError, UnsafeArchiveError
from freezer.utils import tree
from freezer.utils.blocks import Block

_ARMED: Final = stat.S_ISUID | stat.S_ISGID
_ZEROS: Final = bytes(1 << 20)
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_PATH: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Owners:
    """Finds the owners of files. Only root can set them.

    :param numeric: by their numbers
    """

    def __init__(self, numeric: bool, warnings: Warnings) -> None:
        self._numeric = numeric
        self._warnings = warnings
        self.are_set = os.geteuid() == 0

    def of(self, entry: Entry) -> tuple[int, int, bool]:
        """The numbers of user and group (-1: not to be changed), and whether both are
        those of the backup."""
        uid = self._number('user', entry.user, entry.uid)
        gid = self._number('group', entry.group, entry.gid)
        return uid, gid, -1 not in (uid, gid)

    @functools.cache  # noqa: B019 - lives as long as the restore
    def _number(self, what: str, name: str, number: int | None) -> int:
        if not self._numeric:
            with contextlib.suppress(KeyError, ValueError):
                if what == 'user':
                    return pwd.getpwnam(name).pw_uid
                return grp.getgrnam(name).gr_gid
        if number is not None and number < 2**32 - 1:
            return number
        self._warnings.add(
            f'{name!r}: this machine has no such {what}: its files are restored as '
            f'those of another one, because the backup has only the name',
            incomplete=True,
        )
        return -1


class _Attributes(NamedTuple):
    entry: Entry
    uid: int
    gid: int
    mode: int


class TargetWriter:
    """Writes the wanted paths, level by level. A context manager.

    :param target: created if it is missing
    :ivar files: how many were written, without directories
    :raises RestoreError: it cannot be
    """

    def __init__(
        self,
        target: str,
        wanted: Wanted,
        plan: TargetPlan,
        owners: Owners,
        untrusted: bool,
        warnings: Warnings,
    ) -> None:
        self._target = target
        self._wanted = wanted
        self._plan = plan
        self._owners = owners
        self._untrusted = untrusted
        self._warnings = warnings
        self.files = 0
        # Directories that this made, and those made writable: path -> mode.
        self._made: set[bytes] = set()
        self._opened: dict[bytes, int] = {}
        self._directories: dict[bytes, Entry] = {}
        try:
            os.makedirs(target, exist_ok=True)
            self._folders = tree.Folders(target)
        except OSError as error:
            raise RestoreError(f'{target}: {error.strerror}') from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is not None:
                # Report the first error.
                with contextlib.suppress(OSError, EngineError):
                    self._close_directories()
                return
            self._set_directories()
            self._close_directories()
        finally:
            self._folders.__exit__(None, None, None)

    def remove(self) -> None:
        """Remove what the plan lists.

        :raises RestoreError: a path cannot be removed
        """
        for path in (*self._plan.removed, *self._plan.replaced):
            names = path.split(b'/')
            try:
                with contextlib.suppress(*tree.GONE):
                    self._make_tree_writable(names)
                tree.remove(self._folders, names)
            except OSError as error:
                raise RestoreError(
                    f'{self._full(path)} could not be removed: {error.strerror}'
                ) from error

    def write(
        self, entry: Entry, contents: Iterator[tuple[int, Block]], level: int
    ) -> None:
        """Write an entry of a level, if the final state has it.

        :param contents: those of a file
        :raises UnsafeArchiveError: it would be outside of the target
        :raises RestoreError: something that is in the target is in the way
        :raises EngineError: it cannot be written
        """
        found = self._wanted.state.get(entry.path)
        if found is None or not found.has(entry, level):
            return
        if self._skips(entry):
            return
        try:
            self._write(entry, contents, level == found.base, level == found.last)
        except OSError as error:
            raise EngineError(
                f'{self._full(entry.path)} could not be restored: {error.strerror}'
            ) from error
        self.files += entry.kind != 'directory' and level == found.last

    def _write(
        self,
        entry: Entry,
        contents: Iterator[tuple[int, Block]],
        is_base: bool,
        is_last: bool,
    ) -> None:
        *parents, name = entry.path.split(b'/')
        if entry.kind == 'directory':
            if entry.path:
                self._open(entry.path.split(b'/'))
            self._directories[entry.path] = entry
            return
        if entry.kind in ('character', 'block'):
            self._warnings.add(
                f'{self._full(entry.path)}: a device: not restored, because the backup '
                f'does not have its numbers',
                incomplete=True,
            )
            return
        folder = self._open(parents)
        if is_base:
            self._clear(folder, name, entry.path)
        if entry.kind == 'file':
            self._write_file(folder, name, entry, contents, is_base, is_last)
        elif entry.kind == 'symlink':
            os.symlink(entry.target, name, dir_fd=folder)
            self._set_link(folder, name, entry)
        else:
            os.mkfifo(name, 0o600, dir_fd=folder)
            self._set(folder, name, entry)

    def _write_file(
        self,
        folder: int,
        name: bytes,
        entry: Entry,
        contents: Iterator[tuple[int, Block]],
        is_base: bool,
        is_last: bool,
    ) -> None:
        fd = os.open(name, _NEW if is_base else _OLD, 0o600, dir_fd=folder)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UnsafeArchiveError(
                    f'{self._full(entry.path)} is no file any more: the target was '
                    f'changed meanwhile'
                )
            for position, block in contents:
                # Blocks of zeros become holes of a new file.
                if not is_base or block[0] or block != _ZEROS[: len(block)]:
                    _write_at(fd, block, position)
            os.ftruncate(fd, entry.size)
        finally:
            os.close(fd)
        if is_last:
            self._set(folder, name, entry)

    # Directories

    def _open(self, names: Sequence[bytes]) -> int:
        """Open a directory; it is made if it is missing.

        :returns: as :attr:`tree.Folders.fd`
        """
        with contextlib.suppress(*tree.GONE, PermissionError):
            return self._writable(self._folders.open(names))
        for depth, name in enumerate(names):
            folder = self._writable(self._folders.open(names[:depth]))
            try:
                self._folders.open(names[: depth + 1])
            except tree.GONE:
                path = b'/'.join(names[: depth + 1])
                self._clear_for_directory(folder, name, path)
                os.mkdir(name, 0o700, dir_fd=folder)
                self._made.add(path)
        return self._writable(self._folders.open(names))

    def _writable(self, folder: int) -> int:
        """Make the open directory writable, if this user owns it and is not root."""
        if self._owners.are_set:
            return folder
        status = os.fstat(folder)
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o700 != 0o700 and status.st_uid == os.geteuid():
            self._opened.setdefault(b'/'.join(self._folders.names), mode)
            os.chmod(_link(folder), mode | 0o700)
        return folder

    def _make_tree_writable(self, names: Sequence[bytes]) -> None:
        """The parent of a path that is removed, and all directories below it."""
        self._writable(self._folders.open(names[:-1]))
        if self._owners.are_set:
            return
        self._folders.open(names)
        for directory in tree.walk(self._folders, None):
            self._writable(directory.fd)
            with tree.entries(directory.fd) as entries:
                for name, entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        directory.enter(name, None)

    def _clear_for_directory(self, folder: int, name: bytes, path: bytes) -> None:
        """Remove a file in the place of a directory, if the directory is chosen."""
        status = _status(folder, name)
        if status is None:
            return
        found = self._wanted.state.get(path)
        if path in self._wanted.leading or found is None:
            raise RestoreError(
                f'{self._full(path)} is not a directory, but paths below it are to be '
                f'restored: remove it, or restore into another directory'
            )
        if found.kind != 'directory':
            raise UnsafeArchiveError(
                f'the archive has paths below {os.fsdecode(path)!r}, which is a '
                f'{found.kind}: it was not made by Freezer 19'
            )
        os.unlink(name, dir_fd=folder)

    def _set_directories(self) -> None:
        """Children before their parents: those may become inaccessible."""
        for path, entry in sorted(self._directories.items(), reverse=True):
            if path in self._wanted.leading and path not in self._made:
                continue
            self._opened.pop(path, None)
            names = path.split(b'/') if path else []
            try:
                self._set(self._folders.open(names), b'', entry)
            except OSError as error:
                raise EngineError(
                    f'{self._full(path)} could not be restored: {error.strerror}'
                ) from error

    def _close_directories(self) -> None:
        """Give back their modes to those that were only made writable."""
        for path, mode in sorted(self._opened.items(), reverse=True):
            with contextlib.suppress(*tree.GONE):
                fd = self._folders.open(path.split(b'/') if path else [])
                os.chmod(_link(fd), mode)

    # Files

    def _clear(self, folder: int, name: bytes, path: bytes) -> None:
        """Remove the file that an entry replaces."""
        status = _status(folder, name)
        if status is None:
            return
        if stat.S_ISDIR(status.st_mode):
            raise RestoreError(
                f'{self._full(path)} is a directory, but not in the backup: remove it, '
                f'or restore into another directory'
            )
        os.unlink(name, dir_fd=folder)

    def is_untouched(self, path: bytes) -> bool:
        """Whether this is a mount point, or below one, that is not to be changed."""
        return self._mount_above(path) != b''

    def _mount_above(self, path: bytes) -> bytes:
        mounts = self._plan.untouched
        while path and path not in mounts:
            path = path.rpartition(b'/')[0] if mounts else b''
        return path

    def _skips(self, entry: Entry) -> bool:
        mount = self._mount_above(entry.path)
        if mount and (mount != entry.path or entry.kind != 'directory'):
            self._warnings.add(
                f'{self._full(entry.path)}: not restored: it is on a mounted file '
                f'system'
            )
        return mount != b''

    def _attributes(self, entry: Entry) -> _Attributes:
        mode, uid, gid = entry.mode, -1, -1
        if self._owners.are_set:
            uid, gid, is_known = self._owners.of(entry)
            if not is_known:
                # It would give the rights of another user.
                mode &= ~_ARMED
        if self._untrusted and entry.kind != 'directory':
            mode &= ~_ARMED
        return _Attributes(entry, uid, gid, mode)

    def _set(self, folder: int, name: bytes, entry: Entry) -> None:
        """Set the attributes of a file or a directory.

        :param name: empty for the folder itself
        """
        found = self._attributes(entry)
        fd = os.open(name or b'.', _PATH, dir_fd=folder)
        try:
            mode = found.mode
            if not self._chown(entry, _link(fd), found):
                mode &= ~_ARMED
            os.chmod(_link(fd), mode)
            os.utime(_link(fd), ns=_times(entry))
        finally:
            os.close(fd)

    def _set_link(self, folder: int, name: bytes, entry: Entry) -> None:
        found = self._attributes(entry)
        self._chown(entry, name, found, folder)
        os.utime(name, ns=_times(entry), dir_fd=folder, follow_symlinks=False)

    def _chown(
        self,
        entry: Entry,
        name: str | bytes,
        found: _Attributes,
        folder: int | None = None,
    ) -> bool:
        """Set the owner; False, and a warning, if it cannot be.

        :param folder: where a symbolic link is
        """
        if (found.uid, found.gid) == (-1, -1):
            return True
        try:
            os.chown(
                name,
                found.uid,
                found.gid,
                dir_fd=folder,
                follow_symlinks=folder is None,
            )
        except OSError as error:
            self._warnings.add(
                f'{self._full(entry.path)}: its owner could not be set: '
                f'{error.strerror}',
                incomplete=True,
            )
            return False
        return True

    def _full(self, path: bytes) -> str:
        return os.path.join(self._target, os.fsdecode(path))


def read_file(folders: tree.Folders, path: bytes, size: int) -> Iterable[bytes] | None:
    """The contents of a file below a directory, in blocks; None if it cannot be read.

    :param size: bytes of a block
    """
    *parents, name = path.split(b'/')
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=folders.open(parents))
    except OSError:
        return None
    return _blocks_of(fd, size)


def _blocks_of(fd: int, size: int) -> Iterator[bytes]:
    with open(fd, 'rb', buffering=max(size, 1 << 20)) as stream:
        while block := stream.read(size):
            yield block


def _write_at(fd: int, block: Block, position: int) -> None:
    view = memoryview(block)
    while view:
        written = os.pwrite(fd, view, position)
        position += written
        view = view[written:]


def _times(entry: Entry) -> tuple[int, int]:
    accessed = entry.mtime_ns if entry.atime_ns is None else entry.atime_ns
    return accessed, entry.mtime_ns


def _status(folder: int, name: bytes) -> os.stat_result | None:
    with contextlib.suppress(FileNotFoundError):
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    return None


def _link(fd: int) -> str:
    """A name of what a descriptor is of: those of O_PATH cannot be changed."""
    return f'/proc/self/fd/{fd}'
