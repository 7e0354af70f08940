"""The jobs of freezer-api, as they were last seen: ``job_<id>.conf`` in a directory.

An index says which of the files there are ours, and of whom: others are left alone, and
are not run. The thread that talks to freezer-api writes; the scheduler reads them as it
does the files of an operator.
"""

import datetime
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from freezer.exceptions import ConfigError
from freezer.scheduler import private
from freezer.scheduler.directory import SUFFIX, Directory, Stamp, stamp

LOG = logging.getLogger(__name__)

#: in the state directory, for all that is of freezer-api
FOLDER = 'api'

_VERSION = 1
_LONGEST_ID = 64


class Saved(Directory):
    """Them, and what was learnt of the client with them.

    :param state_dir: the scheduler's; the index is there
    :param whose: jobs of another are forgotten
    """

    _in_api = True

    def __init__(self, directory: Path, state_dir: Path, whose: Sequence[str]) -> None:
        super().__init__(directory)
        self._index = _index(state_dir)
        self._whose = list(whose)
        kept = _read_index(self._index)
        ours = kept.get('whose') == self._whose
        found = dict(kept.get('jobs', {}))
        self._jobs: dict[str, str] = found if ours else {}
        # Of another client, or project.
        self._others = set() if ours else set(found.values())

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(self._jobs)

    def document(self, job_id: str) -> dict[str, Any]:
        """As it was last seen; empty if it was not."""
        try:
            found = json.loads((self._path / self._jobs[job_id]).read_bytes())
        except (KeyError, OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def save(self, document: Mapping[str, Any]) -> bool:
        """Keep it, as freezer-api has it now; readable by its owner alone.

        :returns: whether it is another than before
        :raises OSError: it is as it was
        """
        job_id = document['job_id']
        if job_id in self._jobs and self.document(job_id) == document:
            return False
        name = f'job_{quote(job_id, safe="")}{SUFFIX}'
        private.write_json(self._path / name, document)
        self._jobs = self._jobs | {job_id: name}
        return True

    def drop(self, job_id: str) -> None:
        """It is not freezer-api's any more, or has come to its end.

        :raises OSError: the file is still there
        """
        name = self._jobs.get(job_id)
        if name is not None:
            # Known no more before it is gone: else it would be a file that is missed.
            self._jobs = {
                each: self._jobs[each] for each in self._jobs if each != job_id
            }
            (self._path / name).unlink(missing_ok=True)

    def note(self, client_id: str, error: str, waiting: int) -> None:
        """Write the index, with how it goes.

        :raises OSError: it is as it was
        """
        if not error:
            for name in self._others - set(self._jobs.values()):
                (self._path / name).unlink(missing_ok=True)
            self._others = set()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
        before = _read_index(self._index)
        private.write_json(
            self._index,
            {
                'version': _VERSION,
                'whose': self._whose,
                'client_id': client_id,
                'jobs': self._jobs,
                'reached': before.get('reached', '') if error else now,
                'error': error,
                'waiting': waiting,
            },
        )

    def _files(self) -> dict[Path, Stamp]:
        found = {}
        for name in self._jobs.values():
            path = self._path / name
            try:
                found[path] = stamp(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ConfigError(f'{path}: {error.strerror or error}') from error
        return found


def is_job(document: object) -> bool:
    """Whether it can be kept: whatever else is wrong with it is told by file."""
    if not isinstance(document, dict):
        return False
    job_id = document.get('job_id')
    return isinstance(job_id, str) and 0 < len(job_id) <= _LONGEST_ID


def contact(state_dir: Path) -> dict[str, Any]:
    """For people: client_id, reached, error, waiting; empty if freezer-api was never
    asked."""
    kept = _read_index(_index(state_dir))
    names = ('client_id', 'reached', 'error', 'waiting')
    return {name: kept.get(name) or '' for name in names} if kept else {}


def _index(state_dir: Path) -> Path:
    return state_dir / FOLDER / 'index.json'


def _read_index(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
        if found['version'] != _VERSION or not isinstance(found['jobs'], dict):
            raise ValueError('of another version')
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        LOG.warning('%s: cannot be read, and counts for nothing: %s', path, error)
        return {}
    return dict(found)
