"""Mounted states as a file system in user space. Only imported if it is used: it needs
the extra ``mount``, and libfuse."""

import contextlib
import errno
import functools
import grp
import hashlib
import itertools
import logging
import os
import pwd
import stat
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, TypeVar

import mfusepy

from freezer.engine.browse import Attributes, BrowsedState, FileReader
from freezer.engine.index.record import Owner
from freezer.exceptions import FreezerError
from freezer.job.mounted import REFRESH_SECONDS, Folder, MountedState, MountedStates
from freezer.storage.exceptions import StorageException

LOG = logging.getLogger(__name__)

_TYPES: Final = {
    'file': stat.S_IFREG,
    'directory': stat.S_IFDIR,
    'symlink': stat.S_IFLNK,
    'fifo': stat.S_IFIFO,
    'character': stat.S_IFCHR,
    'block': stat.S_IFBLK,
}
_FOLDER_MODE: Final = stat.S_IFDIR | 0o555
_LINK_MODE: Final = stat.S_IFLNK | 0o777

T = TypeVar('T')


class _Place(NamedTuple):
    """Where a path of the mount leads: a folder, the target of a symbolic link there,
    or a path of a state."""

    found: Folder | MountedState | str
    path: bytes = b''


class _Listing:
    """A directory that is being listed. The kernel asks again for the names that it had
    no room for.

    :param make: begins the names: name, and type and inode number
    """

    def __init__(self, make: Callable[[], Iterator[tuple[str, Any]]]) -> None:
        self._make = make
        self._position = 0
        self._names: Iterator[tuple[str, Any]] = iter(())
        self._last: tuple[str, Any] | None = None

    def since(self, offset: int) -> Iterator[tuple[str, Any, int]]:
        """Name, attributes and the offset after it."""
        if offset == self._position - 1 and self._last is not None:
            self._names = itertools.chain([self._last], self._names)
        elif offset != self._position or not offset:
            self._names = itertools.islice(self._make(), offset, None)
        self._position = offset
        for one in self._names:
            self._last = one
            self._position += 1
            yield *one, self._position


class FileSystem(mfusepy.Operations):  # type: ignore[misc]
    """The operations of libfuse, which several of its threads call at once.

    What fails becomes EIO, and is reported.

    :param report: shows a line on the terminal
    :param numeric: whether numbers of owners count, and not their names
    """

    #: times are nanoseconds
    use_ns = True

    def __init__(
        self, states: MountedStates, report: Callable[[str], None], numeric: bool
    ) -> None:
        self._states = states
        self._report = report
        self._numeric = numeric
        self._reported: set[str] = set()
        self._handles = itertools.count(1)
        self._readers: dict[int, FileReader] = {}
        self._listings: dict[int, _Listing] = {}
        self._folder = os.getcwd()
        self.started = threading.Event()

    def init(self, path: str) -> None:
        # libfuse has changed it to the root.
        os.chdir(self._folder)
        self.started.set()

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        place = self._place(path)
        if isinstance(place.found, Folder):
            newest = max(
                (one.newest.timestamp for one in place.found.states), default=0
            )
            return _own(_FOLDER_MODE, path, newest)
        if isinstance(place.found, str):
            return {**_own(_LINK_MODE, path, 0), 'st_size': len(place.found)}
        state = place.found
        found = self._read(path, lambda: self._opened(state).attributes(place.path))
        if found is None and not place.path:
            # A backup of one file.
            return _own(_FOLDER_MODE, path, state.newest.timestamp)
        if found is None:
            raise mfusepy.FuseOSError(errno.ENOENT)
        return self._stat(found)

    def readlink(self, path: str) -> str:
        place = self._place(path)
        if isinstance(place.found, str):
            return place.found
        if isinstance(place.found, MountedState):
            state = place.found
            file = self._read(path, lambda: self._opened(state).attributes(place.path))
            if file is not None and file.kind == 'symlink':
                return file.target.decode(errors='surrogateescape')
        raise mfusepy.FuseOSError(errno.EINVAL)

    def opendir(self, path: str) -> int:
        place = self._place(path)
        handle = next(self._handles)
        make = functools.partial(self._names, place)
        self._listings[handle] = _Listing(make)
        return handle

    def readdir_with_offset(
        self, path: str, offset: int, fh: int
    ) -> Iterator[tuple[str, Any, int]]:
        names = self._listings[fh].since(offset)
        while (one := self._read(path, lambda: next(names, None))) is not None:
            yield one

    def releasedir(self, path: str, fh: int) -> int:
        del self._listings[fh]
        return 0

    def open(self, path: str, flags: int) -> int:
        place = self._place(path)
        if not isinstance(place.found, MountedState):
            raise mfusepy.FuseOSError(errno.EISDIR)
        state = place.found
        reader = self._read(path, lambda: self._opened(state).open(place.path))
        if reader is None:
            raise mfusepy.FuseOSError(errno.ENOENT)
        handle = next(self._handles)
        self._readers[handle] = reader
        return handle

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return self._read(path, lambda: self._readers[fh].read(offset, size))

    def release(self, path: str, fh: int) -> int:
        del self._readers[fh]
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        return {'f_bsize': 4096, 'f_frsize': 4096, 'f_namemax': 255}

    def _place(self, path: str) -> _Place:
        """:raises FuseOSError: there is nothing"""
        found: Folder | MountedState | str = self._states.top
        rest = path.strip('/')
        while rest and isinstance(found, Folder):
            name, _slash, rest = rest.partition('/')
            below = found.get(name)
            if below is None:
                raise mfusepy.FuseOSError(errno.ENOENT)
            found = below
        if rest and isinstance(found, str):
            raise mfusepy.FuseOSError(errno.ENOTDIR)
        return _Place(found, rest.encode(errors='surrogateescape'))

    def _opened(self, state: MountedState) -> BrowsedState:
        return self._states.opened(state)

    def _names(self, place: _Place) -> Iterator[tuple[str, Any]]:
        """Names, each with type and inode number."""
        yield '.', None
        yield '..', None
        if isinstance(place.found, Folder):
            for name, below in place.found.items():
                is_link = isinstance(below, str)
                mode = _LINK_MODE if is_link else _FOLDER_MODE
                yield name, {'st_mode': mode, 'st_ino': _inode(name.encode())}
        elif isinstance(place.found, MountedState):
            for raw, kind, identity in self._opened(place.found).names(place.path):
                shown = raw.decode(errors='surrogateescape')
                yield shown, {'st_mode': _TYPES[kind], 'st_ino': _inode(identity)}

    def _stat(self, found: Attributes) -> dict[str, Any]:
        uid, gid, *_names = found.owner
        return {
            'st_mode': _TYPES[found.kind] | found.mode,
            'st_nlink': found.links,
            'st_ino': _inode(found.identity),
            'st_uid': uid if self._numeric else _uid(found.owner),
            'st_gid': gid if self._numeric else _gid(found.owner),
            'st_size': found.size,
            'st_blocks': found.blocks,
            'st_rdev': found.device,
            'st_atime': found.mtime_ns,
            'st_mtime': found.mtime_ns,
            'st_ctime': found.mtime_ns,
        }

    def _read(self, path: str, read: Callable[[], T]) -> T:
        """:raises FuseOSError: EIO, after a report, if it fails"""
        try:
            return read()
        except (StorageException, FreezerError, MemoryError) as error:
            text = f'{path}: {error}'
            LOG.error('%s', text)
            LOG.debug('where it was raised', exc_info=True)
            if str(error) not in self._reported and len(self._reported) < _REPORTED:
                self._reported.add(str(error))
                self._report(f'Error: {text}')
            raise mfusepy.FuseOSError(errno.EIO) from error


# Different errors that the terminal shows; the log has all.
_REPORTED: Final = 100


def _own(mode: int, path: str, seconds: int) -> dict[str, Any]:
    """The attributes of a directory or link above the states."""
    time_ns = seconds * 10**9
    return {
        'st_mode': mode,
        'st_nlink': 1,
        'st_ino': _inode(path.encode(errors='surrogateescape')),
        'st_uid': os.getuid(),
        'st_gid': os.getgid(),
        'st_atime': time_ns,
        'st_mtime': time_ns,
        'st_ctime': time_ns,
    }


def _inode(identity: bytes) -> int:
    digest = hashlib.blake2b(identity, digest_size=8).digest()
    return int.from_bytes(digest, 'big') or 1


@functools.lru_cache(4096)
def _uid(owner: Owner) -> int:
    """As a restore by root finds it."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(owner[2]).pw_uid
    return owner[0]


@functools.lru_cache(4096)
def _gid(owner: Owner) -> int:
    with contextlib.suppress(KeyError):
        return grp.getgrnam(owner[3]).gr_gid
    return owner[1]


def serve(system: FileSystem, mount_point: str, allow_other: bool) -> None:
    """Mount, and answer until it is unmounted. Not in the main thread, which gets the
    signals.

    :raises RuntimeError: it cannot be mounted; libfuse has printed why
    """
    more = {'allow_other': True, 'default_permissions': True} if allow_other else {}
    mfusepy.FUSE(
        system,
        mount_point,
        foreground=True,
        ro=True,
        fsname='freezer',
        subtype='freezer',
        use_ino=True,
        # What a path has does not change, but new states appear.
        kernel_cache=True,
        entry_timeout=REFRESH_SECONDS,
        attr_timeout=REFRESH_SECONDS,
        negative_timeout=0,
        **more,
    )
