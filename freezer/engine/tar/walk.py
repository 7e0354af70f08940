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
import itertools
import os
import stat
import sys
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol

from freezer.engine.engine import LeftOut
from freezer.engine.index.file import Part
from freezer.engine.index.record import identity, sort_key
from freezer.engine.index.sorter import Sorter
from freezer.engine.tar import snapshot
from freezer.engine.tar.excludes import Excludes
from freezer.engine.tar.instructions import Instructions
from freezer.engine.tar.rules import ExcludeRules
from freezer.engine.tar.source import PathSource
from freezer.exceptions import EngineError
from freezer.utils.file_system import VIRTUAL
from freezer.utils.tree import Folders, mount_types

# Errors of this machine; all others are of a file.
_EXHAUSTED: Final = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)
# Of names of files.
_ENCODING: Final = sys.getfilesystemencoding()
_ENCODING_ERRORS: Final = sys.getfilesystemencodeerrors()
# Bytes of most members before their data.
_HEADERS: Final = 1536
# Paths that are left out and that the index lists.
_MAX_UNSTORED: Final = 100_000
# Reasons why a path is left out.
_ELSEWHERE: Final = 'on another file system'
_STORAGE: Final = 'storage of backups'
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


_IndexedRow = tuple[bytes, str, int, int, int, int, int]


def _rows(part: tuple[int, Part]) -> Iterator[_IndexedRow]:
    """Of each record path, kind, size, mtime, ctime, inode and level."""
    level, (block, start, end) = part
    columns = (
        *(block.paths, block.kinds, block.sizes),
        *(block.mtimes, block.ctimes, block.inodes),
    )
    levels = itertools.repeat(level, end - start)
    return zip(*(each[start:end] for each in columns), levels, strict=True)


class Indexed:
    """The level below has an index.

    :param parts: its state, in order
    :param settled: whether its files were seen at least two seconds ago
    :param rebuilt: the levels whose indexes were made later: of files in them whose
        identity is not known, times decide
    :param before: epoch nanoseconds; what changed before that, those levels have
    """

    def __init__(
        self,
        parts: Iterable[tuple[int, Part]],
        settled: bool,
        rebuilt: Container[int] = (),
        before: int = 0,
    ) -> None:
        self._settled = settled
        self._rebuilt = rebuilt
        self._before = before
        # Of every file of the source, so no object is made of a row.
        self._rows = itertools.chain.from_iterable(map(_rows, parts))
        self._next = next(self._rows, None)
        self._found: _IndexedRow | None = None

    def unchanged(self, path: bytes, status: os.stat_result) -> bool:
        row = self._next
        if row is not None and row[0] != path:
            row = self._skip_to(path)
        self._found = row
        if row is None:
            return False
        self._next = next(self._rows, None)
        _path, kind, size, mtime_ns, ctime_ns, inode, level = row
        if inode == 0 and level in self._rebuilt:
            same = (
                max(status.st_mtime_ns, status.st_ctime_ns) < self._before
                # Archives of Freezer 19 have whole seconds.
                and mtime_ns // 10**9 == status.st_mtime_ns // 10**9
            )
        else:
            same = (
                inode == status.st_ino != 0
                and ctime_ns == status.st_ctime_ns
                and mtime_ns == status.st_mtime_ns
            )
        return (
            same
            # Of a hard link the archive has no size; the inode's ctime includes it.
            and (kind != 'file' or size == status.st_size)
            and (kind == 'directory') == stat.S_ISDIR(status.st_mode)
        )

    def _skip_to(self, path: bytes) -> _IndexedRow | None:
        """The row of a path, which is not the next one; None if there is none."""
        key, row = sort_key(path), self._next
        while row is not None and sort_key(row[0]) < key:
            row = next(self._rows, None)
        self._next = row
        return row if row is not None and row[0] == path else None

    def seen(self, path: bytes, status: os.stat_result) -> bool:
        row = self._found
        return self._settled and row is not None and row[4] == status.st_ctime_ns


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
    """A directory that the walk is in.

    :ivar names: what is in it, sorted, as far as it has not been visited
    """

    path: bytes
    status: os.stat_result
    names: Iterator[tuple[bytes, os.stat_result]]
    unchanged: list[bytes]
    #: of one that leads to chosen paths: the names of those, which tar gets
    taken: list[bytes] = dataclasses.field(default_factory=list)
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
    :param rules: what else is left out
    :param own_paths: directories that are left out under any name
    :param left_out: gets what is not in the backup
    :ivar found: records of what may be archived, with identities; attributes are those
        of the archive
    :ivar unstored: paths that are left out on purpose; None if there are too many
    :ivar bytes: of the archive, about
    :ivar mounts: what is left out because it is on another file system, and its size in
        bytes; virtual file systems are not in it
    :ivar missing: what a snapshot of the source does not have
    :ivar crosses: whether tar has to go into other file systems
    :ivar has_names: whether tar gets a path of the selection, if the source has one
    :ivar chosen: directories that are, or lead to, paths of the selection, as far as
        they are archived
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
        rules: ExcludeRules,
        own_paths: Iterable[str],
        left_out: LeftOut,
        temporary: Path,
    ) -> None:
        self.found = Sorter(temporary, ordered=True)
        self.unstored: list[bytes] | None = []
        self.bytes = 0
        self.mounts: list[tuple[bytes, int]] = []
        self.missing: list[bytes] = []
        self.crosses = self._crosses_mounts = crosses_mounts
        self._mounted = mount_types(source.folder)
        self._own = set(_identities(own_paths))
        self._excludes = excludes
        self._rules = rules
        self._left_out = left_out
        self._source = source
        self._folder = folder
        self._known = known
        self._settled_before = now - snapshot.MARGIN_NANOSECONDS
        self._follows_links = follows_links
        self._temporary = temporary
        # Directories of which only some names are backed up.
        self._parents = source.selection.names if source.selection else {}
        self._directories = (
            source.selection.directories if source.selection else frozenset[bytes]()
        )
        self.chosen: list[bytes] = []
        self._has_taken = False
        self.has_names = False
        self._stack: list[_Directory] = []
        self._links: dict[tuple[int, int], _Links] = {}
        self._held: list[_Directory] = []

    def write_state(self, state: Path) -> None:
        """Walk, and write the files that make tar archive what has changed.

        :raises EngineError: the source is gone; or a followed link leads to a directory
            that contains it
        """
        source = self._source
        with Instructions(state, self._temporary, source.selection) as written:
            if source.name != '.':
                self._single_file(written)
                return
            written.begin()
            try:
                follow = self._follows_links
                with Folders(self._folder, follow=follow, read=True) as folders:
                    self._walk(folders, written)
            except OSError as error:
                raise EngineError(f'{source.folder}: {error.strerror}') from error
            self._write_held(written)
        self.has_names = written.has_names
        if self._parents and not self._has_taken:
            raise EngineError(f'{source.label}: --exclude leaves nothing to back up')

    def _single_file(self, written: Instructions) -> None:
        """tar archives a file that is named to it, if it is not older than the time."""
        name = os.fsencode(self._source.name)
        follow = self._follows_links
        path = os.path.join(os.fsencode(self._source.folder), name)
        try:
            status = os.stat(name, dir_fd=self._folder, follow_symlinks=follow)
        except OSError as error:
            raise EngineError(f'{os.fsdecode(path)}: {error.strerror}') from error
        if self._excludes.matches(name):
            raise EngineError(
                f'{os.fsdecode(path)}: --exclude leaves nothing to back up'
            )
        if (reason := self._rules.too_large(status)) is not None:
            raise EngineError(
                f'{os.fsdecode(path)} is {reason}: --exclude-larger-than leaves '
                f'nothing to back up'
            )
        if stat.S_ISDIR(status.st_mode) or not self._note(name, status):
            # An empty file makes tar archive all.
            return
        written.begin()

    def _walk(self, folders: Folders, written: Instructions) -> None:
        top = os.fstat(folders.fd)
        self._note(b'', top)
        self._enter(folders, b'', top)
        while self._stack:
            if not self._enter_next(folders, self._stack[-1]):
                self._leave(folders, written)

    def _enter_next(self, folders: Folders, directory: _Directory) -> bool:
        """Visit the names in a directory up to the next directory, and enter that.

        :returns: False at the end of the directory
        """
        prefix = directory.path + b'/' if directory.path else b''
        # A path that was given is backed up, whatever it is on.
        is_parent = directory.path in self._parents
        device = directory.status.st_dev
        excludes, rules = self._excludes, self._rules
        missing = self._source.missing
        # What is hidden meanwhile is not visited again.
        excluding = bool(excludes)
        is_limited = rules.larger_than is not None
        for name, status in directory.names:
            path = prefix + name
            if excluding and excludes.matches(path):
                own = excludes.is_own(path)
                self._leave_out(_STORAGE if own else 'excluded', path)
                continue
            if is_limited and (reason := rules.too_large(status)) is not None:
                self._hide(reason, path)
                continue
            elsewhere = status.st_dev != device and not is_parent
            is_directory = stat.S_ISDIR(status.st_mode)
            if is_directory and (status.st_dev, status.st_ino) in self._own:
                self._hide(_STORAGE, path)
                continue
            if path in missing and not excludes.patterns.skip(path):
                self._note_missing(path, is_requested=is_parent)
            if elsewhere and not is_directory and not self._takes(path, status.st_size):
                continue
            unchanged = self._note(path, status)
            if is_parent:
                directory.taken.append(name)
                # As it was when the paths were checked.
                if path in self._directories:
                    self.chosen.append(path)
                self._has_taken |= path not in self._parents
            if not is_directory:
                if status.st_nlink > 1:
                    self._note_links(directory, name, status, unchanged)
                if unchanged:
                    directory.unchanged.append(b'Y' + name)
                continue
            directory.unchanged.append(b'D' + name)
            if elsewhere and not self._enters_mount(folders, name, path):
                continue
            self._check_loop(path, status)
            try:
                folders.enter(name)
                self._enter(folders, path, status)
            except OSError as error:
                if error.errno in _EXHAUSTED or path in self._parents:
                    raise self._failed(path, error) from error
                # Vanished, or cannot be read: tar reports it.
                continue
            return True
        return False

    def _note_missing(self, path: bytes, *, is_requested: bool) -> None:
        """
        :param is_requested: it is, or leads to, a path of the selection
        :raises EngineError: then
        """
        if is_requested:
            where = os.path.join(self._source.origin, os.fsdecode(path))
            raise EngineError(
                f'{where} is another file system, which is not in the snapshot: make '
                f'another backup for it'
            )
        self.missing.append(path)

    def _enters_mount(self, folders: Folders, name: bytes, path: bytes) -> bool:
        """Whether to go into the file system that is mounted on a directory."""
        is_virtual = self._mounted.get(path) in VIRTUAL
        if self._crosses_mounts and not is_virtual:
            return True
        is_excluded = self._excludes.patterns.skip(path)
        self._excludes.empty(path)
        if is_virtual:
            self._leave_out('virtual file system', path)
        else:
            self._leave_out(_ELSEWHERE, path)
            if not is_excluded and path not in self._source.missing:
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
        self._hide(_ELSEWHERE, path)
        self.mounts.append((path, size))
        return False

    def _enter(self, folders: Folders, path: bytes, status: os.stat_result) -> None:
        unknown: list[bytes] = []
        try:
            if path in self._parents:
                names, left_out = self._stat_some(folders.fd, path), None
            else:
                names = self._stat_all(folders.fd, unknown)
                left_out = self._rules.markers(folders.fd, names, self._follows_links)
        except OSError:
            if path:
                folders.leave()
            raise
        prefix = path + b'/' if path else b''
        if left_out is not None:
            self._empty(prefix, [*names, *unknown], *left_out)
            names = {name: names[name] for name in left_out[1]}
            unknown = []
        for name in unknown:
            # Vanished, or a link that leads nowhere: tar reports it. root may not look
            # into a FUSE file system of another user.
            if prefix + name in self._mounted:
                self._takes(prefix + name, 0)
        self._stack.append(_Directory(path, status, iter(sorted(names.items())), []))

    def _stat_all(
        self, folder: int, unknown: list[bytes]
    ) -> dict[bytes, os.stat_result]:
        """What is in a directory.

        :param unknown: gets the names of which nothing else is known
        """
        names = {}
        follow = self._follows_links
        with os.scandir(folder) as found:
            for entry in found:
                # As os.fsencode, which takes a tenth of the walk.
                name = entry.name.encode(_ENCODING, _ENCODING_ERRORS)
                try:
                    names[name] = entry.stat(follow_symlinks=follow)
                except OSError:
                    unknown.append(name)
        return names

    def _stat_some(self, folder: int, path: bytes) -> dict[bytes, os.stat_result]:
        """The names in a directory that are, or lead to, paths of the selection.

        :raises EngineError: one is gone
        """
        names, follow = {}, self._follows_links
        for name in self._parents[path]:
            try:
                names[name] = os.stat(name, dir_fd=folder, follow_symlinks=follow)
            except OSError as error:
                raise self._failed(os.path.join(path, name), error) from error
        return names

    def _failed(self, path: bytes, error: OSError) -> EngineError:
        where = os.path.join(self._source.folder, os.fsdecode(path))
        return EngineError(f'{where}: {error.strerror}')

    def _empty(
        self, prefix: bytes, names: Iterable[bytes], reason: str, kept: set[bytes]
    ) -> None:
        """Leave out what is in a directory.

        :param prefix: its path and a slash; nothing of the source itself
        :param kept: the names that stay
        :raises EngineError: the directory is the source
        """
        if not prefix:
            raise EngineError(
                f'{self._source.folder} has {os.fsdecode(min(kept))}, so its contents '
                f'are excluded: that leaves nothing to back up'
            )
        for name in sorted(names):
            if name not in kept:
                # Patterns have not failed to match what another rule leaves out.
                self._excludes.matches(prefix + name)
                self._hide(reason, prefix + name)

    def _leave(self, folders: Folders, written: Instructions) -> None:
        directory = self._stack.pop()
        if directory.path:
            folders.leave()
        if directory.has_links:
            self._held.append(directory)
        else:
            _write(written, directory)

    def _write_held(self, written: Instructions) -> None:
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
            _write(written, directory)

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
        if kind == 'file' and (
            status.st_nlink == 1 or (status.st_dev, status.st_ino) not in self._links
        ):
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
        size = status.st_size if kind == 'file' else 0
        self.found.add(
            identity(path, kind, size, status.st_mtime_ns, status.st_ctime_ns, inode)
        )
        return unchanged

    def _hide(self, reason: str, path: bytes) -> None:
        """Leave out a path, of which tar gets the name."""
        self._excludes.hide(path)
        self._leave_out(reason, path)

    def _leave_out(self, reason: str, path: bytes) -> None:
        self._left_out.add(reason, os.fsdecode(path))
        if self.unstored is not None:
            self.unstored.append(path)
            if len(self.unstored) > _MAX_UNSTORED:
                self.unstored = None

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


def _write(written: Instructions, directory: _Directory) -> None:
    inode, unchanged = directory.status.st_ino, directory.unchanged
    written.add(directory.path, inode, unchanged, directory.taken)


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
