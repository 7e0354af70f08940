"""Directories and files that are this user's alone, and locks that die with a process.

A lock is the kernel's (``flock``): it is gone when the last process that holds the file
open is. So a file that a dead process left is told from that of a living one, whatever
number is in it.
"""

import contextlib
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freezer.exceptions import ConfigError

#: what nobody but the owner may do with a file we make
UMASK = 0o077


def directory(path: Path) -> Path:
    """The directory, made if it is not there.

    :raises ConfigError: it cannot be made, or others could write to it
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(path)
    except OSError as error:
        raise ConfigError(f'{path}: {error.strerror or error}') from error
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f'{path}: is not a directory of its own: give another')
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f'{path}: belongs to another user: be that user, or give another'
        )
    if found.st_mode & 0o022:
        raise ConfigError(f'{path}: others can write to it; chmod 700 it')
    return path


class Lock:
    """A file that one process has, and those it gives it to.

    :raises ConfigError: it cannot be opened
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.fd = os.open(
                path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise ConfigError(f'{path}: {error.strerror or error}') from error

    def take(self) -> bool:
        """Whether it is ours now; False if another process has it."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Ours no longer. The file stays: to remove it is to let two have it."""
        os.close(self.fd)


def is_locked(path: Path) -> bool:
    """Whether some process has the lock.

    :raises ConfigError: that cannot be seen
    """
    try:
        with open(path, 'rb') as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        raise ConfigError(f'{path}: {error.strerror or error}') from error
    return False


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Replace the file in one step; readable by its owner alone.

    :raises OSError: it is as it was
    """
    fd, name = tempfile.mkstemp(dir=path.parent, prefix='.', suffix='.new')
    try:
        with open(fd, 'w', encoding='utf-8') as stream:
            json.dump(document, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
