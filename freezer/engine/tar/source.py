"""Sources on the file system."""

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from freezer.engine.engine import Source
from freezer.exceptions import ConfigError, EngineError

_READ_AT_ONCE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class PathSource(Source):
    """``name`` as seen from ``folder``; ``.`` is the folder itself."""

    folder: str
    name: str


def path_source(source: Source) -> PathSource:
    """A source of this engine, as the type it has."""
    assert isinstance(source, PathSource)
    return source


@contextlib.contextmanager
def opened(source: PathSource) -> Iterator[int]:
    """A block with a descriptor of the source's folder. A user who may rename the
    folder can make its path lead elsewhere later.

    :raises EngineError: it cannot be opened
    """
    try:
        folder = os.open(source.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise EngineError(f'{source.folder}: {error.strerror}') from error
    try:
        yield folder
    finally:
        os.close(folder)


def source_at(path: str | None, *, follows_links: bool) -> PathSource:
    """The source at ``path-to-backup``.

    :param follows_links: whether the target of a symbolic link is backed up
    :raises ConfigError: no path
    :raises EngineError: it is missing or cannot be read
    """
    if not path:
        raise ConfigError(
            'path-to-backup is required for action backup: give --path-to-backup, or '
            'path_to_backup in the job file'
        )
    source = _readable(os.path.abspath(os.path.expanduser(path)))
    if os.path.islink(os.path.join(source.folder, source.name)) and not follows_links:
        note = (
            f'{path} is a symbolic link; only the link is backed up. To back up its '
            f'target use --dereference-symlink soft'
        )
        return replace(source, notes=(note,))
    return source


def _readable(path: str) -> PathSource:
    try:
        if os.path.isdir(path):
            with os.scandir(path):
                return PathSource(path, path, '.')
        if stat.S_ISREG(os.lstat(path).st_mode):
            # Nothing else: opening a fifo waits, and a tape is rewound. Another user
            # may put one in its place.
            os.close(os.open(path, _READ_AT_ONCE))
    except OSError as error:
        raise EngineError(
            f'path-to-backup {path}: {error.strerror or error}'
        ) from error
    if stat.S_ISSOCK(os.lstat(path).st_mode):
        raise EngineError(f'path-to-backup {path}: a socket, which cannot be stored')
    return PathSource(path, os.path.dirname(path), os.path.basename(path))
