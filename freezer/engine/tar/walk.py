"""Walks the source before tar reads it, and selects the files that tar archives.

A file is unchanged only if its inode number, ctime, mtime and size are those in the
index of the level below. All other files are archived, whatever the clocks say. A
snapshot file that is written here controls tar: its time is in the far future, so a
file that its directory lists counts as unchanged, and any other one as new. Because
every directory has a record, tar detects no renames.
"""

import contextlib
import dataclasses
import errno
import os
import stat
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from freezer.engine.engine import LeftOut
from freezer.engine.index.record import Record, sort_key
from freezer.engine.index.sorter import Sorter
from freezer.engine.tar import snapshot
from freezer.engine.tar.excludes import Excludes
from freezer.engine.tar.source import PathSource
from freezer.exceptions import EngineError
from freezer.utils.tree import Folders, entries, mount_types

# Errors of this machine; all others are of a file.
_EXHAUSTED: Final = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)
# Bytes of most members before their data.
_HEADERS: Final = 1536
# Reasons why a path is left out.
_ELSEWHERE: Final = 'on another file system'
_STORAGE: Final = 'storage of backups'
#: types of file systems without files of their own: the kernel makes them up
_VIRTUAL: Final = frozenset(
    b'binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fusectl '
    b'hugetlbfs mqueue nfsd nsfs proc pstore rpc_pipefs securityfs selinuxfs sysfs '
    b'tracefs'.split()
)
#: the word for a type of file; tar ignores sockets
_KINDS: Final = {
    stat.S_IFREG: 'file',
    stat.S_IFDIR: 'directory',
    stat.S_IFLNK: 'symlink',
    stat.S_IFIFO: 'fifo',
    stat.S_IFCHR: 'character',
    stat.S_IFBLK: 'block',
}


class Known(Protocol):
    """What is known of the level below; asked about paths in their order."""

    def unchanged(self, path: bytes, status: os.stat_result) -> bool:
        """Whether the level below has this file as it is now."""

    def seen(self, path: bytes, status: os.stat_result) -> bool:
        """Whether the level below saw it with this ctime, at least two seconds ago.

        Called after :meth:`unchanged`, for the same path.
        """


class Nothing:
    """There is no level below."""

    def unchanged(self, path: bytes, status: os.stat_result) -> bool:
        return False

    def seen(self, path: bytes, status: os.stat_result) -> bool:
        return False


class Indexed:
    """The level below has an index.

    :param records: its state, in order
    :param settled: whether its files were seen at least two seconds ago
    :param rebuilt: the levels whose indexes were made later: of files in them whose
        identity is not known, times decide
    :param before: epoch nanoseconds; what changed before that, those levels have
    """

    def __init__(
        self,
        records: Iterator[tuple[int, Record]],
        settled: bool,
        rebuilt: Container[int] = (),
        before: int = 0,
    ) -> None:
        self._records = records
        self._settled = settled
        self._rebuilt = rebuilt
        self._before = before
        self._level = 0
        self._key = b''
        self._record: Record | None = None
        self._advance()

    def _advance(self) -> None:
        self._level, self._record = next(self._records, (0, None))
        if self._record is not None:
            self._key = sort_key(self._record.path)

    def _find(self, path: bytes) -> Record | None:
        key = sort_key(path)
        while self._record is not None and self._key < key:
            self._advance()
        return self._record if self._key == key else None

    def unchanged(self, path: bytes, status: os.stat_result) -> bool:
        record = self._find(path)
        if record is None:
            return False
        if self._level in self._rebuilt and record.inode == 0:
            same = (
                max(status.st_mtime_ns, status.st_ctime_ns) < self._before
                # Archives of Freezer 19 have whole seconds.
                and record.mtime_ns // 10**9 == status.st_mtime_ns // 10**9
            )
        else:
            same = (
                record.inode == status.st_ino != 0
                and record.ctime_ns == status.st_ctime_ns
                and record.mtime_ns == status.st_mtime_ns
            )
        return (
            same
            # Of a hard link the archive has no size; the inode's ctime includes it.
            and (record.kind != 'file' or record.size == status.st_size)
            and (record.kind == 'directory') == stat.S_ISDIR(status.st_mode)
        )

    def seen(self, path: bytes, status: os.stat_result) -> bool:
        record = self._find(path)
        return (
            self._settled
            and record is not None
            and record.ctime_ns == status.st_ctime_ns
        )


class Dated:
    """The level below has no index, but tar's snapshot file: names and a time.

    :param base: corrected for the next level
    """

    def __init__(self, base: snapshot.Snapshot) -> None:
        self._paths = base.paths()
        self._time = base.seconds * 10**9 + base.nanoseconds
        if base.subject not in (None, snapshot.TREE):
            # A single file has no record in the snapshot file.
            self._paths.add(os.path.basename(base.subject or b''))

    def unchanged(self, path: bytes, status: os.stat_result) -> bool:
        changed = max(status.st_mtime_ns, status.st_ctime_ns)
        return path in self._paths and changed < self._time

    def seen(self, path: bytes, status: os.stat_result) -> bool:
        return False


@dataclasses.dataclass
class _Directory:
    """A directory that the walk is in."""

    path: bytes
    status: os.stat_result
    names: Iterator[tuple[bytes, os.stat_result]]
    unchanged: list[bytes]
    #: has names of files with several, which may have to be archived after all
    has_links: bool = False


@dataclasses.dataclass
class _Links:
    """The names of one file that has several."""

    changed: bool
    #: (directory, name) of those that count as unchanged
    unchanged: list[tuple[bytes, bytes]]


class Walk:
    """One walk over the source.

    :param folder: descriptor of the source's folder
    :param now: epoch nanoseconds; files that changed two seconds before it, or later,
        may change again without another ctime: the next level archives them again
    :param crosses_mounts: whether other file systems belong to the source
    :param excludes: paths that tar will not archive; further ones are added
    :param own_paths: directories that are left out under any name
    :param left_out: gets what is not in the backup
    :ivar found: records of what may be archived, with identities; attributes are those
        of the archive
    :ivar bytes: of the archive, about
    :ivar mounts: what is left out because it is on another file system, and its size in
        bytes; virtual file systems are not in it
    :ivar crosses: whether tar has to go into other file systems
    """

    def __init__(
        self,
        source: PathSource,
        folder: int,
        known: Known,
        now: int,
        follows_links: bool,
        crosses_mounts: bool,
        excludes: Excludes,
        own_paths: Iterable[str],
        left_out: LeftOut,
        temporary: Path,
    ) -> None:
        self.found = Sorter(temporary)
        self.bytes = 0
        self.mounts: list[tuple[bytes, int]] = []
        self.crosses = self._crosses_mounts = crosses_mounts
        self._mounted = mount_types(source.folder)
        self._own = set(_identities(own_paths))
        self._excludes = excludes
        self._left_out = left_out
        self._source = source
        self._folder = folder
        self._known = known
        self._settled_before = now - snapshot.MARGIN_NANOSECONDS
        self._follows_links = follows_links
        self._stack: list[_Directory] = []
        self._links: dict[tuple[int, int], _Links] = {}
        self._held: list[_Directory] = []

    def write_state(self, state: Path) -> None:
        """Walk, and write the snapshot file that makes tar archive what has changed.

        :raises EngineError: the source is gone; or a followed link leads to a directory
            that contains it
        """
        source = self._source
        with open(state, 'wb') as file:
            if source.name != '.':
                self._single_file(file)
                return
            _begin(file)
            try:
                with Folders(self._folder, follow=self._follows_links) as folders:
                    self._walk(folders, file)
            except OSError as error:
                path = os.path.join(source.folder, os.fsdecode(error.filename or b''))
                raise EngineError(f'{path}: {error.strerror}') from error
            self._write_held(file)

    def _single_file(self, file: BinaryIO) -> None:
        """tar archives a file that is named to it, if it is not older than the time."""
        name = os.fsencode(self._source.name)
        follow = self._follows_links
        path = os.path.join(os.fsencode(self._source.folder), name)
        try:
            status = os.stat(name, dir_fd=self._folder, follow_symlinks=follow)
        except OSError as error:
            raise EngineError(f'{os.fsdecode(path)}: {error.strerror}') from error
        if stat.S_ISDIR(status.st_mode) or not self._note(name, status):
            # An empty file makes tar archive all.
            return
        _begin(file)

    def _walk(self, folders: Folders, file: BinaryIO) -> None:
        top = os.fstat(folders.fd)
        self._note(b'', top)
        self._enter(folders, b'', top)
        while self._stack:
            directory = self._stack[-1]
            name, status = next(directory.names, (b'', None))
            if status is None:
                self._leave(folders, file)
                continue
            path = directory.path + b'/' + name if directory.path else name
            if self._excludes.matches(path):
                own = self._excludes.is_own(path)
                self._leave_out(_STORAGE if own else 'excluded', path)
                continue
            elsewhere = status.st_dev != directory.status.st_dev
            is_directory = stat.S_ISDIR(status.st_mode)
            if (status.st_dev, status.st_ino) in self._own:
                self._excludes.hide(path)
                self._leave_out(_STORAGE, path)
                continue
            if elsewhere and not is_directory and not self._takes(path, status.st_size):
                continue
            unchanged = self._note(path, status)
            if is_directory:
                directory.unchanged.append(b'D' + name)
                if not elsewhere or self._enters_mount(folders, name, path):
                    self._check_loop(path, status)
                    try:
                        folders.enter(name)
                        self._enter(folders, path, status)
                    except OSError as error:
                        if error.errno in _EXHAUSTED:
                            raise
                        # Vanished, or cannot be read: tar reports it.
                continue
            if status.st_nlink > 1:
                self._note_links(directory, name, status, unchanged)
            if unchanged:
                directory.unchanged.append(b'Y' + name)

    def _enters_mount(self, folders: Folders, name: bytes, path: bytes) -> bool:
        """Whether to go into the file system that is mounted on a directory."""
        is_virtual = self._mounted.get(path) in _VIRTUAL
        if self._crosses_mounts and not is_virtual:
            return True
        is_excluded = self._excludes.skip(path)
        self._excludes.empty(path)
        if is_virtual:
            self._leave_out('virtual file system', path)
        else:
            self._leave_out(_ELSEWHERE, path)
            if not is_excluded:
                self.mounts.append((path, _used(folders.fd, name)))
        return False

    def _takes(self, path: bytes, size: int) -> bool:
        """Whether a file with another device than its directory is archived.

        It may be a mount point. Otherwise a link leads to it that is followed, or it is
        on an overlay file system, whose files keep the devices of their layers.
        """
        if self._crosses_mounts or path not in self._mounted:
            self.crosses = True
            return True
        self._excludes.hide(path)
        self._leave_out(_ELSEWHERE, path)
        self.mounts.append((path, size))
        return False

    def _enter(self, folders: Folders, path: bytes, status: os.stat_result) -> None:
        names = []
        try:
            with entries(folders.fd) as found:
                for name, entry in found:
                    try:
                        status_of = entry.stat(follow_symlinks=self._follows_links)
                    except OSError:
                        # Vanished, or a link that leads nowhere: tar reports it. root
                        # may not look into a FUSE file system of another user.
                        below = path + b'/' + name if path else name
                        if below in self._mounted:
                            self._takes(below, 0)
                    else:
                        names.append((name, status_of))
        except OSError:
            if path:
                folders.leave()
            raise
        names.sort(key=lambda each: each[0])
        self._stack.append(_Directory(path, status, iter(names), []))

    def _leave(self, folders: Folders, file: BinaryIO) -> None:
        directory = self._stack.pop()
        if directory.path:
            folders.leave()
        if directory.has_links:
            self._held.append(directory)
        else:
            self._write(file, directory)

    def _write_held(self, file: BinaryIO) -> None:
        """Write the records of directories that have files with several names.

        In a directory that was moved a file is new, though it has not changed. Its
        names elsewhere then are new as well, or a restore would make two files of it.
        """
        again: dict[bytes, set[bytes]] = {}
        for links in self._links.values():
            if links.changed:
                for folder, name in links.unchanged:
                    again.setdefault(folder, set()).add(b'Y' + name)
        for directory in self._held:
            new = again.get(directory.path, set())
            directory.unchanged = [e for e in directory.unchanged if e not in new]
            self._write(file, directory)

    def _write(self, file: BinaryIO, directory: _Directory) -> None:
        # tar looks names up by halving, without their letters.
        directory.unchanged.sort(key=lambda entry: entry[1:])
        file.write(
            snapshot.DirectoryRecord(
                [b'0', b'0', b'0', b'0', b'%d' % directory.status.st_ino],
                b'./' + directory.path if directory.path else b'.',
                directory.unchanged,
            ).dump()
        )

    def _note(self, path: bytes, status: os.stat_result) -> bool:
        """Record the identity of what may be archived; whether it is unchanged."""
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            self._leave_out('socket', path)
            return False
        unchanged = self._known.unchanged(path, status)
        if unchanged and kind != 'directory' and status.st_nlink == 1:
            return True  # not archived
        self.bytes += _HEADERS
        # Once, however many names it has.
        if kind == 'file' and (status.st_dev, status.st_ino) not in self._links:
            # Without holes, in blocks of 512 bytes.
            held = min(status.st_size, status.st_blocks * 512)
            self.bytes += held + 511 & -512
        inode = status.st_ino
        if (
            status.st_ctime_ns >= self._settled_before
            and not unchanged
            and not self._known.seen(path, status)
        ):
            inode = 0
        self.found.add(
            Record(
                path,
                kind,
                status.st_mode,
                0,
                0,
                '',
                '',
                status.st_size if kind == 'file' else 0,
                status.st_mtime_ns,
                status.st_ctime_ns,
                inode,
                b'',
                0,
                0,
            )
        )
        return unchanged

    def _leave_out(self, reason: str, path: bytes) -> None:
        self._left_out.add(reason, os.fsdecode(path))

    def _note_links(
        self,
        directory: _Directory,
        name: bytes,
        status: os.stat_result,
        unchanged: bool,
    ) -> None:
        key = status.st_dev, status.st_ino
        links = self._links.setdefault(key, _Links(False, []))
        if unchanged:
            directory.has_links = True
            links.unchanged.append((directory.path, name))
        else:
            links.changed = True

    def _check_loop(self, path: bytes, status: os.stat_result) -> None:
        """:raises EngineError: the directory is one of those that contain it"""
        if not self._follows_links:
            return
        for above in self._stack:
            if os.path.samestat(above.status, status):
                folder = os.fsencode(self._source.folder)
                raise EngineError(
                    f'{_shown(folder, path)} leads back to '
                    f'{_shown(folder, above.path)}, which contains it: --exclude it, '
                    f'or back up without --dereference-symlink'
                )


def _begin(file: BinaryIO) -> None:
    file.write(b'GNU tar-1.34-2\n%d\0000\0' % snapshot.FUTURE)


def _used(parent: int, name: bytes) -> int:
    """The bytes in use on the file system of a directory; 0 if they are unknown."""
    try:
        place = os.open(name, os.O_PATH | os.O_DIRECTORY, dir_fd=parent)
        try:
            found = os.statvfs(place)
        finally:
            os.close(place)
    except OSError:
        # tar reports it.
        return 0
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def _identities(folders: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Device and inode of those that exist."""
    for folder in folders:
        with contextlib.suppress(OSError):
            status = os.stat(folder)
            yield status.st_dev, status.st_ino


def _shown(folder: bytes, path: bytes) -> str:
    return repr(os.fsdecode(os.path.join(folder, path).rstrip(b'/')))
