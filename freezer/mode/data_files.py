"""The data directory of a database server."""

import fcntl
import os
import struct
import time
from collections.abc import Collection, Iterable, Iterator, Sequence

from freezer.exceptions import ConfigError, FreezerError
from freezer.mode.mode import ModeSettings
from freezer.utils.tree import is_within

# Seconds in which nothing was written. Under the lock, InnoDB was seen to write again
# after pauses of several seconds.
_QUIET = 12.0
_INTERVAL = 0.5
# struct flock of Linux.
_FLOCK = 'hhqqi4x'

#: What tells a file that was written: inode, size and times.
_State = tuple[int, int, int, int]


def check_whole(settings: ModeSettings) -> None:
    """Check that the backup has every file of the path.

    :raises ConfigError: it does not
    """
    if settings.leaves_out:
        raise ConfigError(
            f'{settings.leaves_out} could leave out files that a restored server '
            f'needs: remove it, or pass --mode fs'
        )


def check_holds(path: str, folder: str, server: str) -> None:
    """Check that a backup of a path holds the data directory of a server.

    :param path: ``--path-to-backup``
    :param folder: where the server says that its data is
    :raises ConfigError: it does not
    """
    if not os.path.isabs(folder) or not os.path.isdir(folder):
        raise ConfigError(
            f'{server} has its data in {folder}, which does not exist on this machine: '
            f'run the agent where that directory is'
        )
    top = os.path.realpath(path)
    if not os.path.lexists(path):
        raise ConfigError(f'{path}: not found: {server} has its data in {folder}')
    if os.path.islink(path.rstrip('/')):
        # Only the link would be backed up.
        raise ConfigError(f'path-to-backup {path} is a symbolic link: back up {top}')
    if not is_within(os.path.realpath(folder), top):
        raise ConfigError(
            f'path-to-backup {path} does not hold the data directory of {server}: '
            f'back up {folder}'
        )


def check_used(paths: Sequence[str], server: str) -> None:
    """Check that a server on this machine uses the files: another one, such as in a
    container, may have its data in a directory of the same name.

    :param paths: files that it has locked, if they exist; one in its directory first
    :raises ConfigError: no process uses them
    """
    found = [path for path in paths if os.path.exists(path)]
    # The error of a file that cannot be read follows.
    if all(os.access(path, os.R_OK) and not is_locked(path) for path in found):
        raise ConfigError(
            f'no process uses the files in {os.path.dirname(paths[0])}: {server} has '
            f'its data in a directory of that name in a container or on another '
            f'machine: run the agent there'
        )


def check_one_device(folders: Iterable[str], path: str, *, snapshot: bool) -> None:
    """Check that a backup of a path holds all that is in directories below it.

    :raises ConfigError: a part is on another file system, or only linked
    """
    top = os.path.realpath(path)
    for each, problem in _elsewhere({os.path.realpath(each) for each in folders}, top):
        where = 'the snapshot' if snapshot else 'the backup'
        raise ConfigError(f'{each} {problem}: {where} of {path} would not hold it')


def _elsewhere(folders: Iterable[str], top: str) -> Iterator[tuple[str, str]]:
    """What of directories is not below ``top``, or on another file system."""
    waiting = sorted(folders)
    device = os.stat(top).st_dev
    while waiting:
        folder = waiting.pop()
        try:
            if os.stat(folder).st_dev != device:
                yield folder, 'is another file system or subvolume'
            with os.scandir(folder) as found:
                entries = list(found)
        except FileNotFoundError:
            # The server removed it meanwhile.
            continue
        except OSError as error:
            raise ConfigError(f'{error.filename}: {error.strerror}') from error
        for each in entries:
            if each.is_dir(follow_symlinks=False):
                waiting.append(each.path)
            elif each.is_symlink():
                if not is_within(os.path.realpath(each.path), top):
                    yield each.path, 'is a symbolic link'
            elif each.name.endswith('.isl'):
                yield each.path, 'names a tablespace in another directory'


class AtRest:
    """The files of a directory, which nothing writes.

    Every write(2) changes the times of a file, direct ones included. A write through a
    memory mapping may not; InnoDB, Aria and MyISAM make none to their tables by
    default.

    :param ignored: paths that may change, of files and directories
    """

    def __init__(self, top: str, ignored: Collection[str]) -> None:
        self._top = top
        self._ignored = {os.path.realpath(each) for each in ignored}
        self._states: dict[str, _State] = {}

    def wait(self, timeout: float) -> list[str]:
        """Wait until nothing was written for a while.

        :returns: files that were written last, if the time was over; none if all rest
        """
        started = quiet_since = time.monotonic()
        self._states = self._look()
        written: list[str] = []
        while True:
            time.sleep(_INTERVAL)
            before, self._states = self._states, self._look()
            now = time.monotonic()
            if changed := _changed(before, self._states):
                written, quiet_since = changed, now
            elif now - quiet_since >= _QUIET:
                return []
            if written and now - started > timeout:
                return written

    def changed(self) -> list[str]:
        """The files that were written, made or removed since :meth:`wait`."""
        return _changed(self._states, self._look())

    def _look(self) -> dict[str, _State]:
        found: dict[str, _State] = {}
        folders = [self._top]
        while folders:
            try:
                with os.scandir(folders.pop()) as entries:
                    for each in entries:
                        if each.path in self._ignored:
                            continue
                        if each.is_dir(follow_symlinks=False):
                            folders.append(each.path)
                        elif each.is_file(follow_symlinks=False):
                            is_ = each.stat(follow_symlinks=False)
                            found[each.path] = (
                                is_.st_ino,
                                is_.st_size,
                                is_.st_mtime_ns,
                                is_.st_ctime_ns,
                            )
            except FileNotFoundError:
                # What it was in shows that it is gone.
                continue
            except OSError as error:
                raise FreezerError(f'{error.filename}: {error.strerror}') from error
        return found


def _changed(before: dict[str, _State], after: dict[str, _State]) -> list[str]:
    paths = before.keys() | after.keys()
    return sorted(path for path in paths if before.get(path) != after.get(path))


def is_locked(path: str) -> bool:
    """Whether another process holds a lock on a file; False if there is no file.

    Locks nothing.
    """
    try:
        with open(path, 'rb') as file:
            wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            held = fcntl.fcntl(file, fcntl.F_GETLK, wanted)
    except OSError:
        return False
    kind: int = struct.unpack(_FLOCK, held)[0]
    return kind != fcntl.F_UNLCK
