"""What is remembered of each job: one JSON file a job, in a directory of ours.

The operator's job files are never written.
"""

import dataclasses
import datetime
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from freezer.exceptions import FreezerError
from freezer.scheduler import private

LOG = logging.getLogger(__name__)

STOPPED, SCHEDULED, RUNNING = 'stop', 'scheduled', 'running'
COMPLETED, REMOVED = 'completed', 'removed'
SUCCESS, FAIL, ABORTED = 'success', 'fail', 'aborted'

_VERSION = 1
_KEPT_SECONDS = 30 * 86400
_Moment = datetime.datetime | None


class RecordError(FreezerError):
    """What is remembered cannot be written."""


@dataclasses.dataclass
class Record:
    """Of one job. Moments are in UTC.

    :param timing: :attr:`Document.timing` of the schedule it is armed with; empty if
        it is not armed
    :param anchor: what that schedule counts intervals from
    :param considered: up to when its times have been seen to
    :param due: when it runs next
    :param error: the last run's one line, if it failed
    :param backup: what the agent said of the backup that was made last
    :param event: the event of freezer-api that was seen to, as long as it stands there
    :param in_api: the job is of freezer-api
    """

    job_id: str
    path: str = ''
    status: str = STOPPED
    timing: str = ''
    anchor: _Moment = None
    considered: _Moment = None
    due: _Moment = None
    result: str = ''
    error: str = ''
    exit_code: int | None = None
    started: _Moment = None
    ended: _Moment = None
    last_success: _Moment = None
    runs: int = 0
    successes: int = 0
    failures: int = 0
    aborted: int = 0
    backup: dict[str, Any] = dataclasses.field(default_factory=dict)
    event: str = ''
    in_api: bool = False

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            key: value.isoformat() if isinstance(value, datetime.datetime) else value
            for key, value in dataclasses.asdict(self).items()
        }


_MOMENTS = ('anchor', 'considered', 'due', 'started', 'ended', 'last_success')


class Records:
    """The directory of them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, job_id: str) -> Record:
        """What is remembered, or a record of a job that is new."""
        return self._read(self._path(job_id)) or Record(job_id)

    def __iter__(self) -> Iterator[Record]:
        for path in sorted(self._directory.glob('*.json')):
            record = self._read(path)
            if record is not None:
                yield record

    def save(self, record: Record) -> None:
        """In one step.

        :raises RecordError: the file is as it was
        """
        path = self._path(record.job_id)
        try:
            private.write_json(path, {'version': _VERSION} | record.document())
        except OSError as error:
            raise RecordError(f'{path}: {error.strerror or error}') from error

    def forget_old(self) -> None:
        """Remove the files of jobs that were removed a month ago, or that came to
        their end then and are freezer-api's: it would ask for them again."""
        for record in list(self):
            path = self._path(record.job_id)
            ended = record.in_api and record.status == COMPLETED
            if record.status != REMOVED and not ended:
                continue
            try:
                if time.time() - path.stat().st_mtime > _KEPT_SECONDS:
                    path.unlink()
            except OSError as error:
                LOG.warning('%s: %s', path, error.strerror)

    def _path(self, job_id: str) -> Path:
        return self._directory / f'{quote(job_id, safe="")}.json'

    def _read(self, path: Path) -> Record | None:
        """None if there is none that can be understood."""
        try:
            given = json.loads(path.read_text(encoding='utf-8'))
            if given.pop('version') != _VERSION:
                raise ValueError('of another version')
            for key in _MOMENTS:
                if given.get(key) is not None:
                    given[key] = datetime.datetime.fromisoformat(given[key])
            return Record(**given)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            LOG.warning('%s: cannot be read, and counts for nothing: %s', path, error)
            return None
