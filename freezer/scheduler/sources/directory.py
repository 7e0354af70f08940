"""Job files in a directory, reread when they change."""

import dataclasses
import logging
import math
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from freezer.exceptions import ConfigError
from freezer.scheduler.documents import document
from freezer.scheduler.documents.document import Document, DocumentError, Problem
from freezer.scheduler.sources.source import JobListing, JobSource

LOG = logging.getLogger(__name__)

SUFFIX = '.conf'
_MAX_BYTES = 1 << 20
# As Linux follows.
_MOST_LINKS = 40
# Until a refused job is checked again: a missing file may be there by then.
_RECHECK_SECONDS = 60.0
Stamp = tuple[int, ...]
#: returns for each document the document, or its error if the job can never run; raises
#: ConfigError if that could not be checked
Check = Callable[[Sequence[Document]], Sequence[Document | DocumentError]]


def read(path: Path, in_api: bool = False) -> Document:
    """:param in_api: it is a document of freezer-api, cached here

    :raises DocumentError: the file cannot be read, or is not a valid job
    """
    try:
        with open(path, 'rb') as stream:
            found = os.fstat(stream.fileno())
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    if len(content) > _MAX_BYTES:
        raise _unreadable(path, f'is larger than {_MAX_BYTES} bytes')
    if stat.S_ISREG(found.st_mode) and found.st_mode & stat.S_IWOTH:
        # Anyone who can write to it can run commands as the scheduler's user.
        raise _unreadable(path, 'is writable by everyone; chmod 600 it')
    default_id = path.name.removesuffix(SUFFIX)
    parsed = document.parse(str(path), content, default_id, in_api)
    if not _is_private(path, found):
        parsed = dataclasses.replace(parsed, trusted=False)
    if parsed.has_secrets and found.st_mode & stat.S_IROTH:
        remark = Problem(1, '', 'contains a secret, and everyone can read it')
        return dataclasses.replace(parsed, remarks=(*parsed.remarks, remark))
    return parsed


def _is_private(path: Path, found: os.stat_result) -> bool:
    """Whether only root and this user can write to a file, and put another one in its
    place: by its directory, one above, or those of a link on the way."""
    if not _is_ours(found):
        return False
    if not stat.S_ISREG(found.st_mode):
        return True
    folders, above = set[Path](), set[Path]()
    try:
        for link in _links(path):
            folders.add(link.parent)
            above.update(link.parent.parents, link.parent.resolve().parents)
        return all(_is_ours(os.stat(folder)) for folder in folders) and all(
            _is_ours(os.stat(folder), sticky=True) for folder in above
        )
    except OSError:
        # It was removed meanwhile.
        return False


def _links(path: Path) -> Iterator[Path]:
    """The path, and those that links lead to from it, one after the other."""
    path = path.absolute()
    yield path
    for _ in range(_MOST_LINKS):
        if not path.is_symlink():
            return
        path = path.parent.resolve() / os.readlink(path)
        yield path


def _is_ours(found: os.stat_result, sticky: bool = False) -> bool:
    """Whether only root and this user can write to it.

    :param sticky: or to a directory in which others cannot rename what is ours
    """
    if found.st_uid not in (0, os.geteuid()):
        return False
    if sticky and found.st_mode & stat.S_ISVTX:
        return True
    return not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def is_job_file(name: str) -> bool:
    return name.endswith(SUFFIX) and not name.startswith('.')


class JobDirectory(JobSource):
    """A directory of job files, or a single job file.

    If a file becomes invalid, its last valid version stays in force: it may be half
    edited, and a typo should not stop the backups.
    """

    _in_api = False

    def __init__(self, path: Path, check: Check = lambda documents: documents) -> None:
        self._path = path
        self._check = check
        # Files of jobs that the check refused -> when to check again (monotonic time)
        self._refused: dict[Path, float] = {}
        self._stamps: dict[Path, Stamp] = {}
        self._documents: dict[Path, Document] = {}
        self._errors: dict[Path, DocumentError] = {}
        self._duplicates: set[Path] = set()

    @property
    def place(self) -> str:
        return str(self._path)

    def list(self) -> JobListing:
        """Check all files, and read those that have changed.

        :raises ConfigError: the directory cannot be listed
        """
        found = self._files()
        for known in (self._stamps, self._documents, self._errors, self._refused):
            for path in known.keys() - found.keys():
                del known[path]
        self._load([path for path in found if self._is_due(path, found[path])])
        self._stamps = found
        listing = JobListing(errors=list(self._errors.values()))
        duplicates = set()
        for path in sorted(self._documents):
            one = self._documents[path]
            first = listing.documents.setdefault(one.job_id, one)
            if first is not one:
                duplicates.add(path)
                text = f'{one.job_id} is the id of {first.path}'
                error = DocumentError(str(path), [Problem(1, 'job_id', text)])
                listing.errors.append(error)
                if path not in self._duplicates:
                    LOG.error('%s', error)
        self._duplicates = duplicates
        return listing

    def _files(self) -> dict[Path, Stamp]:
        try:
            if not self._path.is_dir():
                return {self._path: stamp(self._path)}
            found = {}
            for name in filter(is_job_file, os.listdir(self._path)):
                path = self._path / name
                try:
                    found[path] = stamp(path)
                except FileNotFoundError:
                    continue
            return found
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f'jobs-dir {self._path}: {reason}') from error

    def refresh(self) -> None:
        self._refused = dict.fromkeys(self._refused, 0.0)

    def _is_due(self, path: Path, current: Stamp) -> bool:
        """Whether to read the file."""
        changed = self._stamps.get(path) != current
        return changed or time.monotonic() >= self._refused.get(path, math.inf)

    def _load(self, paths: Iterable[Path]) -> None:
        unchecked: dict[Path, Document] = {}
        for path in paths:
            self._refused.pop(path, None)
            loaded = self._read(path)
            if isinstance(loaded, DocumentError):
                self._reject(path, loaded)
                continue
            known = self._documents.get(path)
            if known is not None and known.actions == loaded.actions:
                self._accept(path, loaded)
            else:
                unchecked[path] = loaded
        checked: Sequence[Document | DocumentError] = [*unchecked.values()]
        try:
            checked = self._check([*unchecked.values()])
        except ConfigError as error:
            # Run the jobs all the same: the agent checks them again.
            LOG.warning('%s', error)
        for path, result in zip(unchecked, checked, strict=True):
            if isinstance(result, DocumentError):
                self._refused[path] = time.monotonic() + _RECHECK_SECONDS
                self._reject(path, result)
            else:
                self._accept(path, result)

    def _read(self, path: Path) -> Document | DocumentError:
        try:
            return read(path, self._in_api)
        except DocumentError as error:
            return error

    def _accept(self, path: Path, loaded: Document) -> None:
        self._errors.pop(path, None)
        self._documents[path] = loaded
        for remark in loaded.remarks:
            LOG.warning('%s, %s', path, remark)

    def _reject(self, path: Path, error: DocumentError) -> None:
        before = self._errors.get(path)
        self._errors[path] = error
        if before is not None and before.texts == error.texts:
            return
        known = path in self._documents
        kept = '; keeping the previous version of the job' if known else ''
        for problem in error.problems:
            LOG.error('%s, %s%s', path, problem, kept)


def stamp(path: Path) -> Stamp:
    """Changes whenever the file does: ctime cannot be set back."""
    try:
        found = path.stat()
    except FileNotFoundError:
        # A dangling link is reported when it is read.
        found = path.lstat()
    times = (found.st_mtime_ns, found.st_ctime_ns)
    return (found.st_dev, found.st_ino, found.st_size, *times)


def _unreadable(path: Path, text: str) -> DocumentError:
    return DocumentError(str(path), [Problem(1, '', text)])
