"""The jobs of freezer-api, cached as ``job_<id>.conf`` in the jobs directory.

An index lists which files there are ours, and of which API account; other files are
left alone, and not run. The API thread writes the cache; the scheduler reads it like an
operator's job files.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from freezer.exceptions import ConfigError
from freezer.scheduler import private
from freezer.scheduler.documents.document import is_file_name
from freezer.scheduler.sources.directory import (
    SUFFIX,
    Check,
    JobDirectory,
    Stamp,
    stamp,
)

#: below the state directory, for everything about freezer-api
FOLDER = 'api'

_VERSION = 1


class ApiJobCache(JobDirectory):
    """The cached jobs, and the state of the connection.

    :param state_dir: the scheduler's; contains the index
    :param owner_key: identifies the API account; cached jobs of another account are
        dropped
    """

    _in_api = True

    def __init__(
        self, directory: Path, state_dir: Path, owner_key: Sequence[str], check: Check
    ) -> None:
        super().__init__(directory, check)
        self._index = _index(state_dir)
        self._owner_key = list(owner_key)
        index = _read_index(self._index)
        ours = index.get('whose') == self._owner_key
        found = dict(index.get('jobs', {}))
        # One thread changes it; others read a copy, which is made in one step.
        self._jobs: dict[str, str] = found if ours else {}
        # The files of another account.
        self._foreign = set() if ours else set(found.values())

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(self._jobs)

    @property
    def refused(self) -> list[str]:
        """The jobs that cannot run, of which no earlier version can either."""
        jobs = self._jobs.copy()
        paths = {job_id: self._path / name for job_id, name in jobs.items()}
        return [
            job_id
            for job_id, path in paths.items()
            if path in self._errors and path not in self._documents
        ]

    def document(self, job_id: str) -> dict[str, Any]:
        """The cached document; empty if there is none."""
        try:
            found = json.loads((self._path / self._jobs[job_id]).read_bytes())
        except (KeyError, OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def save(self, document: Mapping[str, Any]) -> bool:
        """Cache the document of freezer-api, atomically; only its owner can read it.

        :returns: whether it has changed
        :raises OSError: the file is unchanged
        """
        job_id = document['job_id']
        if job_id in self._jobs and self.document(job_id) == document:
            return False
        name = f'job_{quote(job_id, safe="")}{SUFFIX}'
        private.write_json(self._path / name, document)
        self._jobs[job_id] = name
        return True

    def drop(self, job_id: str) -> None:
        """Remove a job that is no longer in freezer-api, or completed.

        :raises OSError: the file is still there
        """
        name = self._jobs.get(job_id)
        if name is not None:
            # Before the file: the scheduler would report a missing file.
            del self._jobs[job_id]
            (self._path / name).unlink(missing_ok=True)

    def write_index(self, client_id: str, error: str, waiting: int) -> None:
        """Write the index, with the state of the connection; atomic.

        :param waiting: the number of unsent reports
        :raises OSError: the index is unchanged
        """
        if not error:
            for name in self._foreign - set(self._jobs.values()):
                (self._path / name).unlink(missing_ok=True)
            self._foreign = set()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
        before = _read_index(self._index)
        private.write_json(
            self._index,
            {
                'version': _VERSION,
                'whose': self._owner_key,
                'client_id': client_id,
                'jobs': self._jobs,
                'reached': before.get('reached', '') if error else now,
                'error': error,
                'waiting': waiting,
            },
        )

    def _files(self) -> dict[Path, Stamp]:
        found = {}
        for name in self._jobs.copy().values():
            path = self._path / name
            try:
                found[path] = stamp(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ConfigError(f'{path}: {error.strerror or error}') from error
        return found


def has_job_id(document: object) -> bool:
    """Whether it can be cached. Other errors are reported when the file is read."""
    if not isinstance(document, dict):
        return False
    job_id = document.get('job_id')
    return isinstance(job_id, str) and job_id != '' and is_file_name(job_id)


def connection_state(state_dir: Path) -> dict[str, Any]:
    """client_id, reached (ISO 8601), error and waiting; empty if freezer-api was never
    used."""
    index = _read_index(_index(state_dir))
    names = ('client_id', 'reached', 'error', 'waiting')
    return {name: index.get(name) or '' for name in names} if index else {}


def _index(state_dir: Path) -> Path:
    return state_dir / FOLDER / 'index.json'


def _read_index(path: Path) -> dict[str, Any]:
    def checked(jobs: dict[str, str], **others: Any) -> dict[str, Any]:
        return {'jobs': dict(jobs), **others}

    return private.read_json(path, _VERSION, checked) or {}
