"""Sources and targets on the file system."""

import os
import stat
from dataclasses import dataclass, replace

from freezer.engine.engine import Source
from freezer.exceptions import ConfigError, EngineError, RestoreError


@dataclass(frozen=True)
class PathSource(Source):
    """``name`` as seen from ``folder``; ``.`` is the folder itself."""

    folder: str
    name: str


def path_source(source: Source) -> PathSource:
    """A source of this engine, as the type it has."""
    assert isinstance(source, PathSource)
    return source


def source_at(path: str | None, *, follows_links: bool) -> PathSource:
    """What ``path-to-backup`` names.

    :param follows_links: the target of a symbolic link is backed up
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
            # Nothing else: opening a fifo waits, and a tape is rewound.
            with open(path, 'rb'):
                pass
    except OSError as error:
        raise EngineError(
            f'path-to-backup {path}: {error.strerror or error}'
        ) from error
    if stat.S_ISSOCK(os.lstat(path).st_mode):
        raise EngineError(f'path-to-backup {path}: a socket, which cannot be stored')
    return PathSource(path, os.path.dirname(path), os.path.basename(path))


def check_target(path: str | None, *, overwrite: bool) -> str:
    """The absolute path of ``restore-abs-path``.

    :raises ConfigError: no path
    :raises RestoreError: it is not a directory to restore into
    """
    if not path:
        raise ConfigError(
            'restore-abs-path is required for action restore: give '
            '--restore-abs-path, or restore_abs_path in the job file'
        )
    target = os.path.abspath(path)
    try:
        present = os.listdir(target)
    except FileNotFoundError:
        return target
    except OSError as error:
        raise RestoreError(f'restore-abs-path {target}: {error.strerror}') from error
    if present and not overwrite:
        raise RestoreError(
            f'restore-abs-path {target} is not empty: choose another, or give '
            f'--overwrite, which also removes what the backup does not hold'
        )
    return target


def make_target(target: str) -> None:
    """:raises RestoreError: the directory cannot be made"""
    try:
        os.makedirs(target, exist_ok=True)
    except OSError as error:
        raise RestoreError(f'{target}: {error.strerror}') from error
