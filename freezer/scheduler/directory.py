"""The job files: what is in them, and what has changed since they were looked at."""

import logging
import os
import stat
from pathlib import Path

from freezer.exceptions import ConfigError
from freezer.scheduler import document
from freezer.scheduler.document import Document, DocumentError, Problem
from freezer.scheduler.source import Listing, Source

LOG = logging.getLogger(__name__)

SUFFIX = '.conf'
_MOST_BYTES = 1 << 20
Stamp = tuple[int, ...]


def read(path: Path, in_api: bool = False) -> Document:
    """:param in_api: it is a document of freezer-api, kept here

    :raises DocumentError: it cannot be read, or is no job
    """
    try:
        with open(path, 'rb') as stream:
            found = os.fstat(stream.fileno())
            content = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    if len(content) > _MOST_BYTES:
        raise _unreadable(path, f'is larger than {_MOST_BYTES} bytes')
    if stat.S_ISREG(found.st_mode) and found.st_mode & stat.S_IWOTH:
        # Who can write to it can run commands as the user of the scheduler.
        raise _unreadable(path, 'everybody can write to it; chmod 600 it')
    return document.parse(str(path), content, path.name.removesuffix(SUFFIX), in_api)


def readable_by_others(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:
        return False


class Directory(Source):
    """A directory of job files, or one file. Remembers what was in them.

    A file that was right, and is not any more, stands for what it was: an editor may
    be at it, and a slip of the pen should not end a backup.
    """

    _in_api = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamps: dict[Path, Stamp] = {}
        self._read: dict[Path, Document] = {}
        self._wrong: dict[Path, DocumentError] = {}
        self._doubles: set[Path] = set()

    @property
    def place(self) -> str:
        return str(self._path)

    def list(self) -> Listing:
        """Look at all files; read those that have changed.

        :raises ConfigError: the directory cannot be listed
        """
        found = self._files()
        for path in set(self._stamps) - set(found):
            self._forget(path)
        for path, seen in found.items():
            if self._stamps.get(path) != seen:
                self._stamps[path] = seen
                self._look_at(path)
        listing = Listing(errors=list(self._wrong.values()))
        doubles = set()
        for path in sorted(self._read):
            one = self._read[path]
            first = listing.documents.setdefault(one.job_id, one)
            if first is not one:
                doubles.add(path)
                error = DocumentError(
                    str(path),
                    [Problem(1, 'job_id', f'{one.job_id} is the id of {first.path}')],
                )
                listing.errors.append(error)
                if path not in self._doubles:
                    LOG.error('%s', error)
        self._doubles = doubles
        return listing

    def _files(self) -> dict[Path, Stamp]:
        try:
            if not self._path.is_dir():
                return {self._path: stamp(self._path)}
            found = {}
            for name in os.listdir(self._path):
                if name.endswith(SUFFIX) and not name.startswith('.'):
                    path = self._path / name
                    try:
                        found[path] = stamp(path)
                    except FileNotFoundError:
                        continue
            return found
        except OSError as error:
            raise ConfigError(
                f'jobs-dir {self._path}: {error.strerror or error}'
            ) from error

    def _look_at(self, path: Path) -> None:
        try:
            made = read(path, self._in_api)
        except DocumentError as error:
            self._wrong[path] = error
            kept = '; what it was before goes on' if path in self._read else ''
            for problem in error.problems:
                LOG.error('%s, %s%s', path, problem, kept)
            return
        self._wrong.pop(path, None)
        self._read[path] = made
        for remark in made.remarks:
            LOG.warning('%s, %s', path, remark)
        if made.has_secrets and readable_by_others(made.path):
            LOG.warning('%s: holds a secret, and everybody can read it', path)

    def _forget(self, path: Path) -> None:
        for kept in (self._stamps, self._read, self._wrong):
            kept.pop(path, None)


def stamp(path: Path) -> Stamp:
    """Another one when the file has changed: ctime cannot be set back."""
    try:
        found = path.stat()
    except FileNotFoundError:
        # A link to nothing is to be told of.
        found = path.lstat()
    return (
        found.st_dev,
        found.st_ino,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )


def _unreadable(path: Path, text: str) -> DocumentError:
    return DocumentError(str(path), [Problem(1, '', text)])
