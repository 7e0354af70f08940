"""A directory for mounts that only root can enter."""

import contextlib
import logging
import os
import stat
import time
from collections.abc import Iterator, Sequence
from typing import Final

from freezer.exceptions import FreezerError
from freezer.snapshot import mounts, programs
from freezer.utils import owner, signals

LOG = logging.getLogger(__name__)

#: where the directories are, unless an option says otherwise
BASE: Final = '/run/freezer'
# Nothing in a snapshot is to be used but its contents.
_OPTIONS: Final = 'nosuid,nodev,noexec'
#: attempts to release a device: others, such as udev, open it for a moment
ATTEMPTS: Final = 6
PAUSE_SECONDS: Final = 0.2


class PrivateFolder:
    """Created with the first mount.

    :param base: the directory to create it in
    :param mark: its name; see :func:`freezer.utils.owner.new_mark`
    """

    def __init__(self, base: str, mark: str) -> None:
        self._base = base
        self._path = os.path.join(base, mark)
        self._is_made = False

    def mount(self, name: str, kind: str, source: str, options: str) -> str:
        """Mount a file system; returns the path.

        :param name: of its mount point in this directory
        :param options: further ones
        :raises FreezerError: it cannot be mounted
        """
        target = os.path.join(self._path, name)
        try:
            os.makedirs(self._base, 0o700, exist_ok=True)
            _check_base(self._base)
            if not self._is_made:
                os.mkdir(self._path, 0o700)
                self._is_made = True
            os.mkdir(target)
        except OSError as error:
            raise FreezerError(f'{error.filename}: {error.strerror}') from error
        options = f'{_OPTIONS},{options}'
        programs.run('mount', '-t', kind, '-o', options, '--', source, target)
        return target

    def unmount(self, name: str) -> None:
        """Unmount a file system, if it is mounted.

        :raises FreezerError: it is still mounted
        """
        target = os.path.join(self._path, name)
        if os.path.ismount(target):
            unmount(target)

    def remove(self) -> None:
        """Unmount everything in it, and remove it. Nothing, if it is gone.

        :raises FreezerError: something remains
        """
        if os.path.lexists(self._path):
            _remove(self._path, mounts.mounted())


@contextlib.contextmanager
def temporary(base: str) -> Iterator[PrivateFolder]:
    """A block with a private directory, which is removed also if a signal interrupts
    that."""
    folder = PrivateFolder(base, owner.new_mark())
    try:
        yield folder
    finally:
        try:
            folder.remove()
        except signals.Interrupted:
            # Later signals are ignored.
            folder.remove()
            raise


def is_mounted(path: str, device: int) -> bool:
    """Whether the top directory of a file system with this number is at a path, and
    can be read."""
    try:
        return os.stat(path).st_dev == device
    except OSError:
        return False


def _check_base(path: str) -> None:
    """:raises FreezerError: another user could exchange what is in the directory"""
    status = os.stat(path)
    shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if status.st_uid != os.geteuid() or (shared and not status.st_mode & stat.S_ISVTX):
        raise FreezerError(
            f'{path}: other users can write to it, so no snapshot is mounted there: '
            f'choose a directory of root'
        )


def remove_abandoned(base: str) -> None:
    """Remove the directories of killed runs, whatever is mounted in them.

    :raises FreezerError: one remains
    """
    try:
        names = os.listdir(base)
    except FileNotFoundError:
        return
    _check_base(base)
    for name in filter(owner.is_abandoned, names):
        path = os.path.join(base, name)
        if _is_own_directory(path):
            _remove(path, mounts.mounted())


def _is_own_directory(path: str) -> bool:
    # In /tmp, another user may put a link there that leads to mounts of others.
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _remove(path: str, mounted: Sequence[mounts.Mount]) -> None:
    prefix = os.path.join(os.path.realpath(path), '')
    for mount in reversed(mounted):
        if mount.target.startswith(prefix):
            unmount(mount.target)
    try:
        for name in os.listdir(path):
            os.rmdir(os.path.join(path, name))
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise FreezerError(f'{error.filename}: {error.strerror}: remove it') from error


def unmount(target: str) -> None:
    """:raises FreezerError: it is still mounted"""
    for attempt in range(ATTEMPTS):
        try:
            programs.run('umount', '--', target)
        except programs.ProgramError as error:
            if not os.path.ismount(target):
                return
            if attempt + 1 == ATTEMPTS:
                raise FreezerError(f'{error}: unmount it') from error
            LOG.info('%s; trying again', error)
            time.sleep(PAUSE_SECONDS)
        else:
            return
