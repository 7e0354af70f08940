"""Directories and files that only this user can access, and locks.

A lock is the kernel's (``flock``): it is released when the last process that has the
file open ends. So a pid file that a dead process left behind is recognized, whatever
number is in it.
"""

import contextlib
import fcntl
import json
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from freezer.exceptions import ConfigError
from freezer.utils import trusted

LOG = logging.getLogger(__name__)
T = TypeVar('T')

#: permissions that the files we make do not give to anyone else
UMASK = 0o077


def directory(path: Path) -> Path:
    """The directory; created if it does not exist.

    :raises ConfigError: it cannot be created, or others could write to it
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        trusted.check(path)
        found = os.lstat(path)
    except OSError as error:
        raise ConfigError(f'{path}: {error.strerror or error}') from error
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f'{path} is not a directory: choose another')
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f'{path} belongs to another user: run as that user, or choose another'
        )
    if found.st_mode & 0o022:
        raise ConfigError(f'{path} is writable by other users; chmod 700 it')
    return path


class Lock:
    """A lock file, open but not locked yet. Child processes can inherit the lock.

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
        """Lock it; False if another process holds the lock."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Release the lock. The file is kept: deleting it would let two processes hold
        "the" lock."""
        os.close(self.fd)


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock.

    :raises ConfigError: the file cannot be opened
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


def read_json(path: Path, version: int, convert: Callable[..., T]) -> T | None:
    """``convert(**document)`` for a file of :func:`write_json`; None if it is missing,
    or, with a warning in the log, unreadable or of another version."""
    try:
        document = json.loads(path.read_text(encoding='utf-8'))
        if document.pop('version') != version:
            raise ValueError('unsupported version')
        return convert(**document)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        LOG.warning('%s: ignored, cannot be read: %s', path, error)
        return None


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Replace the file atomically; only its owner can read it.

    :raises OSError: the file is unchanged
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
