"""Sources on the file system."""

import contextlib
import functools
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from freezer.engine.engine import Source
from freezer.engine.index.record import sort_key
from freezer.engine.path_list import ListedPath
from freezer.engine.tar.selection import Selection
from freezer.exceptions import ConfigError, EngineError
from freezer.utils import human
from freezer.utils.paths import absolute
from freezer.utils.tree import Folders

_READ_AT_ONCE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OPEN: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# Of many paths, a message names these.
_NAMED: Final = 3


@dataclass(frozen=True)
class PathSource(Source):
    """``name`` as seen from ``folder``; ``.`` is the folder itself.

    :ivar selection: the paths in the folder that are backed up; None for all of it
    """

    folder: str
    name: str
    selection: Selection | None = field(default=None, kw_only=True)

    @property
    def origin(self) -> str:
        """The path that the archive begins at."""
        return self.top or self.label


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


class Descriptors:
    """A descriptor of each path to read, opened as it is iterated over, and closed with
    the next one: there may be more paths than descriptors.

    No symbolic link below the folder is followed: a user who puts one in the place of a
    directory cannot make another file be read.

    :param folder: descriptor of the source's folder
    """

    def __init__(self, folder: int, selection: Selection | None) -> None:
        self._folder = folder
        self._selection = selection

    def __iter__(self) -> Iterator[int]:
        if self._selection is None:
            yield self._folder
            return
        with Folders(self._folder) as folders:
            for path in self._selection.paths:
                *parents, name = path.rstrip(b'/').split(b'/')
                try:
                    found = os.open(name, _OPEN, dir_fd=folders.open(parents))
                except OSError:
                    # tar reports it.
                    continue
                try:
                    yield found
                finally:
                    os.close(found)


def source_at(
    paths: Sequence[str],
    listed: Sequence[ListedPath] | None,
    origin: str,
    *,
    follows_links: bool,
) -> PathSource:
    """The source at ``path-to-backup``, or at the paths of ``files-from``.

    :param listed: the paths of ``files-from``; None if that is not given
    :param origin: what a single path is, or is a snapshot of
    :param follows_links: whether the target of a symbolic link is backed up
    :raises ConfigError: no path, or a listed one that is not absolute, or not in
        ``path-to-backup``
    :raises EngineError: one is missing or cannot be read
    """
    if listed is not None:
        return _listed_source(paths, listed, origin, follows_links)
    if not paths:
        raise ConfigError(
            'path-to-backup is required for action backup: give --path-to-backup, or '
            'path_to_backup in the job file'
        )
    given = [_Given(f'path-to-backup {path}', absolute(path)) for path in paths]
    if len(given) == 1:
        return _single(given[0], follows_links)
    for each in given:
        _check_readable(each)
    return _several(given, follows_links, is_list=False)


@dataclass(frozen=True)
class _Given:
    """A path to back up.

    :ivar where: where it was given, for errors
    """

    where: str
    path: str


def _single(given: _Given, follows_links: bool) -> PathSource:
    path = given.path
    if is_directory := os.path.isdir(path):
        source = PathSource(path, path, '.')
    else:
        source = PathSource(path, os.path.dirname(path), os.path.basename(path))
    _check_readable(given, follow=is_directory)
    if os.path.islink(os.path.join(source.folder, source.name)) and not follows_links:
        note = (
            f'{path} is a symbolic link; only the link is backed up. To back up its '
            f'target use --dereference-symlink soft'
        )
        return replace(source, notes=(note,))
    return source


def _check_readable(given: _Given, follow: bool = False) -> None:
    """:raises EngineError: it is missing, or cannot be read or stored"""
    path = given.path
    try:
        status = os.stat(path, follow_symlinks=follow)
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(path):
                pass
        elif stat.S_ISREG(status.st_mode):
            # Nothing else: opening a fifo waits, and a tape is rewound. Another user
            # may put one in its place.
            os.close(os.open(path, _READ_AT_ONCE))
    except OSError as error:
        raise EngineError(f'{given.where}: {error.strerror or error}') from error
    if stat.S_ISSOCK(status.st_mode):
        raise EngineError(f'{given.where}: a socket, which cannot be stored')


def _listed_source(
    paths: Sequence[str],
    listed: Sequence[ListedPath],
    origin: str,
    follows_links: bool,
) -> PathSource:
    if len(paths) > 1:
        raise ConfigError(
            'files-from and several --path-to-backup: give one --path-to-backup, the '
            'directory that the listed paths are in, or none'
        )
    if not listed:
        raise ConfigError('files-from: no path is listed, so there is nothing to do')
    if not paths:
        for line in listed:
            if not os.path.isabs(line.text):
                raise ConfigError(
                    f'{line.where}: {line.text!r} is relative: write absolute paths, '
                    f'or give the directory that they are in as --path-to-backup'
                )
        given = [
            _Given(f'{each.where}: {each.text}', os.path.normpath(each.text))
            for each in listed
        ]
        return _several(given, follows_links)
    folder = absolute(paths[0])
    if not os.path.isdir(folder):
        raise ConfigError(
            f'path-to-backup {paths[0]}: must be a directory if --files-from is given'
        )
    _check_readable(_Given(f'path-to-backup {paths[0]}', folder), follow=True)
    given = [
        _Given(f'{each.where}: {each.text}', _inside(each, folder, origin or folder))
        for each in listed
    ]
    return _several(given, follows_links, folder=folder)


def _inside(line: ListedPath, folder: str, origin: str) -> str:
    """A listed path, as it is below the directory that is read.

    :param origin: the directory, or the one that it is a snapshot of
    """
    path = os.path.normpath(line.text)
    if os.path.isabs(path):
        tops = (origin, os.path.realpath(origin))
        found = [top for top in tops if path == top or path.startswith(_slash(top))]
        if not found:
            raise ConfigError(f'{line.where}: {line.text} is not in {origin}')
        path = os.path.relpath(path, found[0])
    if path.split('/')[0] == '..':
        raise ConfigError(f'{line.where}: {line.text} is not in {origin}')
    return os.path.normpath(os.path.join(folder, path))


def _slash(path: str) -> str:
    return os.path.join(path, '')


@dataclass(frozen=True)
class _Found:
    """A path to back up, with the links in its parents followed."""

    given: _Given
    path: str
    is_directory: bool
    is_link: bool


def _several(
    given: Sequence[_Given],
    follows_links: bool,
    *,
    folder: str | None = None,
    is_list: bool = True,
) -> PathSource:
    """:param folder: the directory that all are in; None for the common parent
    :param is_list: whether paths in others, and symbolic links, need no note
    """
    found = sorted(_found(given, follows_links), key=lambda each: _key(each.path))
    kept: list[_Found] = []
    covered: list[str] = []
    for each in found:
        last = kept[-1] if kept else None
        if last is not None and (
            each.path == last.path
            or (last.is_directory and each.path.startswith(_slash(last.path)))
        ):
            covered.append(
                f'{each.given.path} is given twice'
                if each.path == last.path
                else f'{each.given.path} is in {last.given.path}'
            )
        else:
            kept.append(each)
    notes = [] if is_list else [f'{text}: it is backed up once' for text in covered]
    if folder is None and len(kept) == 1:
        single = _single(kept[0].given, follows_links)
        return replace(single, notes=(*notes, *single.notes))
    for each in kept:
        if not is_list and each.is_link and not follows_links:
            notes.append(f'{each.path} is a symbolic link; only the link is backed up')
    moved = [
        f'{each.given.path} is {each.path}, and is backed up under this name'
        for each in kept
        if folder is None and each.given.path != each.path
    ]
    notes += moved[:_NAMED]
    if len(moved) > _NAMED:
        count = human.number(len(moved) - _NAMED, 'more path')
        notes.append(f'symbolic links lead to {count}')
    top = (
        os.path.commonpath([each.path for each in kept])
        if folder is None
        else os.path.realpath(folder)
    )
    for each in kept:
        if each.path == top:
            return PathSource(folder or top, folder or top, '.', notes=tuple(notes))
        if not each.path.startswith(_slash(top)):
            raise ConfigError(f'{each.given.where} is {each.path}, not in {folder}')
    selection = Selection(
        os.fsencode(each.path[len(_slash(top)) :] + '/' * each.is_directory)
        for each in kept
    )
    _check_parents(top, selection)
    label = (
        _joined([each.path for each in kept])
        if folder is None
        else f'{human.number(len(kept), "path")} in {folder}'
    )
    return PathSource(
        label,
        folder or top,
        '.',
        selection=selection,
        notes=tuple(notes),
        top=folder or top,
    )


def _found(given: Iterable[_Given], follows_links: bool) -> Iterator[_Found]:
    """:raises EngineError: some are missing"""
    resolved = functools.cache(os.path.realpath)
    missing: list[tuple[_Given, OSError]] = []
    for each in given:
        parent, name = os.path.split(each.path)
        path = os.path.join(resolved(parent), name)
        try:
            status = os.stat(path, follow_symlinks=follows_links)
        except OSError as error:
            missing.append((each, error))
            continue
        mode = status.st_mode
        yield _Found(each, path, stat.S_ISDIR(mode), stat.S_ISLNK(mode))
    if missing:
        first, reason = missing[0]
        more = f'; and {len(missing) - 1} more' if len(missing) > 1 else ''
        raise EngineError(f'{first.where}: {reason.strerror}{more}') from reason


def _check_parents(top: str, selection: Selection) -> None:
    """Check that the attributes of the directories above can be read.

    :raises EngineError: of one they cannot
    """
    for parent in selection.names:
        path = os.path.join(top, os.fsdecode(parent))
        if not os.access(path, os.R_OK | os.X_OK):
            raise EngineError(
                f'{path} contains paths to back up, and this user may not read it: '
                f'back up each of them with a --backup-name of its own'
            )


def _key(path: str) -> bytes:
    return sort_key(os.fsencode(path))


def _joined(paths: Sequence[str]) -> str:
    more = len(paths) - _NAMED
    if more > 0:
        return f'{", ".join(paths[:_NAMED])} and {human.number(more, "more path")}'
    return f'{", ".join(paths[:-1])} and {paths[-1]}'
