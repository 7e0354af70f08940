"""Snapshots of btrfs: a read-only snapshot of the subvolume that a path is in.

It is made in the top directory of the file system, which is mounted in a private
directory for it: an owner of the subvolume could exchange a snapshot in there, and the
agent would read something else.
"""

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import Final, Self

from freezer.exceptions import FreezerError
from freezer.snapshot import mounts, programs
from freezer.snapshot.folder import (
    BASE,
    PrivateFolder,
    is_mounted,
    remove_abandoned,
    temporary,
)
from freezer.snapshot.snapshot import Snapshot, SnapshotSettings, SnapshotView
from freezer.utils import owner

LOG = logging.getLogger(__name__)

_PURPOSE: Final = '--snapshot btrfs'
_PROGRAMS: Final = {
    'btrfs': 'btrfs-progs',
    **dict.fromkeys(('mount', 'umount'), 'mount'),
    **mounts.FINDMNT,
}
#: inode number of the top directory of each subvolume
_TOP_INODE: Final = 256
#: ID of the subvolume that holds all others
_TOP_ID: Final = 5
# A name may contain line breaks.
_LISTED: Final = re.compile(
    r'^ID \d+ gen [^\n]*?\bpath (.*?)(?=\nID \d+ gen |\n?\Z)',
    re.MULTILINE | re.DOTALL,
)
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class BtrfsSnapshot(Snapshot):
    """Makes one called ``.freezer-snapshot-…``; the name tells the process.

    :param base: where it is mounted, in a directory of its own
    """

    name = 'btrfs'

    def __init__(self, base: str = BASE) -> None:
        self._base = base
        self._folder: PrivateFolder | None = None
        self._top: _TopFolder | None = None
        self._mark = ''
        self._view = ''
        self._device = 0

    @classmethod
    def from_settings(cls, settings: SnapshotSettings) -> Self:
        return cls()

    def path_problem(self, path: str) -> str | None:
        kind = mounts.locate(path, mounts.mounted()).mount.kind
        return None if kind == 'btrfs' else f'it is on {kind}, not on btrfs'

    def validate(self, path: str) -> None:
        programs.require_root(_PURPOSE)
        programs.require(_PROGRAMS, _PURPOSE)
        if problem := self.path_problem(path):
            raise FreezerError(f'{_PURPOSE} {path}: {problem}')
        _subvolume(mounts.locate(path, mounts.mounted()))

    def remove_leftovers(self, path: str) -> Sequence[str]:
        remove_abandoned(self._base)
        place = mounts.locate(path, mounts.mounted())
        with temporary(self._base) as folder:
            top = _TopFolder(folder, place.mount)
            found = [name for name in top.names() if owner.is_abandoned(name[1:])]
            return [name for name in found if top.delete(name)]

    def create(self, path: str) -> SnapshotView:
        mounted = mounts.mounted()
        place = mounts.locate(path, mounted)
        subvolume = _subvolume(place)
        # Known before anything is made, so that remove() finds it whatever happens.
        self._mark = owner.new_mark()
        self._folder = PrivateFolder(self._base, self._mark)
        self._top = top = _TopFolder(self._folder, place.mount)
        name = f'.{self._mark}'
        taken = time.time_ns()
        programs.run(
            *('btrfs', 'subvolume', 'snapshot', '-r', '--'),
            *(subvolume, os.path.join(top.path, name)),
        )
        LOG.info('made the snapshot %s of %s', name, subvolume)
        self._view = self._folder.mount(
            *('root', 'btrfs', place.mount.source, f'ro,subvolid={top.number(name)}')
        )
        self._device = os.stat(self._view).st_dev
        inside = os.path.relpath(place.path, subvolume)
        missing = {*mounts.below(place, mounted), *_nested(place, subvolume)}
        view = os.path.normpath(os.path.join(self._view, inside))
        return SnapshotView(view, taken, sorted(missing))

    def check(self) -> None:
        assert self._top is not None
        there = f'.{self._mark}' in self._top.names()
        if not there or not is_mounted(self._view, self._device):
            raise FreezerError(
                'the snapshot was unmounted or removed while it was read: run the '
                'backup again'
            )

    def remove(self) -> None:
        if not self._mark:
            return
        assert self._folder is not None
        if self._top is not None:
            self._folder.unmount('root')
            self._top.delete(f'.{self._mark}')
        self._folder.remove()
        self._mark = ''


class _TopFolder:
    """The top directory of a file system, mounted in a private directory.

    :raises FreezerError: it cannot be mounted
    """

    def __init__(self, folder: PrivateFolder, mount: mounts.Mount) -> None:
        self.path = folder.mount('top', 'btrfs', mount.source, f'subvolid={_TOP_ID}')

    def names(self) -> Sequence[str]:
        """Of the snapshots."""
        if not os.path.ismount(self.path):
            return []
        return [name for name in os.listdir(self.path) if owner.is_mark(name[1:])]

    def number(self, name: str) -> int:
        """The ID of a snapshot.

        :raises FreezerError: it is gone, or the name is another file's
        """
        with self._opened(name) as path:
            return int(programs.run('btrfs', 'inspect-internal', 'rootid', path))

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[str]:
        """A block with a path to a snapshot that stays the same."""
        path = os.path.join(self.path, name)
        try:
            opened = os.open(path, _OPEN)
        except OSError as error:
            raise FreezerError(f'the snapshot {name}: {error.strerror}') from error
        try:
            if os.fstat(opened).st_ino != _TOP_INODE:
                raise FreezerError(f'the snapshot {name}: not a subvolume')
            yield f'/proc/{os.getpid()}/fd/{opened}'
        finally:
            os.close(opened)

    def delete(self, name: str) -> bool:
        """Delete a snapshot; returns False if it is gone.

        :raises FreezerError: it could not be deleted
        """
        if name not in self.names():
            return False
        try:
            self._delete(name)
        except FreezerError:
            if name in self.names():
                raise
            # Another agent has deleted it meanwhile.
            return False
        return True

    def _delete(self, name: str) -> None:
        # By its ID: of a path, the program would follow symbolic links.
        number = str(self.number(name))
        try:
            programs.run(
                'btrfs', 'subvolume', 'delete', '--subvolid', number, self.path
            )
        except programs.ProgramError as error:
            raise FreezerError(
                f'the snapshot {name}: {error}: delete the subvolume {number} with '
                f'btrfs subvolume delete'
            ) from error


def _subvolume(place: mounts.Place) -> str:
    """The top directory of the subvolume that a path is in.

    :raises FreezerError: it is not mounted, or the path is gone
    """
    folder = place.path
    try:
        if not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        while os.stat(folder).st_ino != _TOP_INODE:
            if folder == place.mount.target:
                raise FreezerError(
                    f'{_PURPOSE} {place.path}: only a directory of the subvolume is '
                    f'mounted, at {folder}: mount the subvolume'
                )
            folder = os.path.dirname(folder)
    except OSError as error:
        raise FreezerError(f'{folder}: {error.strerror}') from error
    return folder


def _nested(place: mounts.Place, subvolume: str) -> Iterator[str]:
    """The subvolumes in a subvolume that are below a path, relative to it."""
    # Relative to the root of the file system, as the paths that are listed.
    listed = programs.run('btrfs', 'subvolume', 'list', '-o', '--', subvolume)
    prefix = '' if place.inside == '.' else os.path.join(place.inside, '')
    for path in _LISTED.findall(listed):
        name = os.path.basename(path)
        if path.startswith(prefix) and not owner.is_mark(name[1:]):
            yield path.removeprefix(prefix)
