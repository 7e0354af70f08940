"""Job files in a directory, reread when they change."""

import dataclasses
import logging
import os
import stat
from pathlib import Path

from freezer.exceptions import ConfigError
from freezer.scheduler.documents import document
from freezer.scheduler.documents.document import Document, DocumentError, Problem
from freezer.scheduler.sources.source import JobListing, JobSource

LOG = logging.getLogger(__name__)

SUFFIX = '.conf'
_MAX_BYTES = 1 << 20
Stamp = tuple[int, ...]


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
    if parsed.has_secrets and found.st_mode & stat.S_IROTH:
        remark = Problem(1, '', 'contains a secret, and everyone can read it')
        return dataclasses.replace(parsed, remarks=(*parsed.remarks, remark))
    return parsed


def is_job_file(name: str) -> bool:
    return name.endswith(SUFFIX) and not name.startswith('.')


class JobDirectory(JobSource):
    """A directory of job files, or a single job file.

    If a file becomes invalid, its last valid version stays in force: it may be half
    edited, and a typo should not stop the backups.
    """

    _in_api = False

    def __init__(self, path: Path) -> None:
        self._path = path
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
        for known in (self._stamps, self._documents, self._errors):
            for path in known.keys() - found.keys():
                del known[path]
        for path, current in found.items():
            if self._stamps.get(path) != current:
                self._stamps[path] = current
                self._load(path)
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

    def _load(self, path: Path) -> None:
        try:
            loaded = read(path, self._in_api)
        except DocumentError as error:
            self._errors[path] = error
            known = path in self._documents
            kept = '; keeping the previous version of the job' if known else ''
            for problem in error.problems:
                LOG.error('%s, %s%s', path, problem, kept)
            return
        self._errors.pop(path, None)
        self._documents[path] = loaded
        for remark in loaded.remarks:
            LOG.warning('%s, %s', path, remark)


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
