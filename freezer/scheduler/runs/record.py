"""The state of each job across restarts: one JSON file per job, in a private directory.

The operator's job files are never written.
"""

import dataclasses
import datetime
import logging
import time
from collections.abc import Iterator, Mapping
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
_RUNS_KEPT = 30
_KEPT_SECONDS = 30 * 86400
_Moment = datetime.datetime | None


class RecordError(FreezerError):
    """A record cannot be written."""


@dataclasses.dataclass
class Record:
    """The state of one job. Times are in UTC.

    :param timing: :attr:`Document.timing` of the current schedule; empty if the job is
        not scheduled
    :param anchor: the time from which that schedule counts intervals
    :param considered: all times up to this one have been handled
    :param due: the next run
    :param error: why the last run failed; one line
    :param warning: why the last run, a success, was not a full one; one line
    :param backup: what the agent reported about the last backup
    :param history: the last runs, the newest last; see :meth:`remember`
    :param event: the event in freezer-api that has been handled, while it is there
    :param in_api: the job is in freezer-api
    :param elsewhere: the last run was that of another scheduler; result and times are
        those of the last run here
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
    warning: str = ''
    exit_code: int | None = None
    started: _Moment = None
    ended: _Moment = None
    last_success: _Moment = None
    runs: int = 0
    successes: int = 0
    failures: int = 0
    aborted: int = 0
    backup: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    event: str = ''
    in_api: bool = False
    elsewhere: bool = False

    def remember(self, backup: Mapping[str, Any]) -> None:
        """Add the run that has ended to the history.

        :param backup: what it reported; empty if it made no backup
        """
        run = {
            'started': self.started and self.started.isoformat(timespec='seconds'),
            'ended': self.ended and self.ended.isoformat(timespec='seconds'),
            'result': self.result,
            'warning': bool(self.warning),
            'level': backup.get('curr_backup_level'),
            'bytes_read': backup.get('bytes_read'),
            'bytes_stored': backup.get('bytes_stored'),
        }
        self.history = [*self.history, run][-_RUNS_KEPT:]

    @property
    def outcome(self) -> str:
        """The result, for people."""
        return f'{self.result} with warnings' if self.warning else self.result

    def document(self) -> dict[str, Any]:
        """As written to JSON."""
        return {
            key: value.isoformat() if isinstance(value, datetime.datetime) else value
            for key, value in dataclasses.asdict(self).items()
        }


_MOMENTS = ('anchor', 'considered', 'due', 'started', 'ended', 'last_success')


class Records:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, job_id: str) -> Record:
        """The record of the job, or an empty one for a new job."""
        path = self._path(job_id)
        return private.read_json(path, _VERSION, _record) or Record(job_id)

    def __iter__(self) -> Iterator[Record]:
        for path in sorted(self._directory.glob('*.json')):
            record = private.read_json(path, _VERSION, _record)
            if record is not None:
                yield record

    def save(self, record: Record) -> None:
        """Atomically.

        :raises RecordError: the file is unchanged
        """
        path = self._path(record.job_id)
        try:
            private.write_json(path, {'version': _VERSION} | record.document())
        except OSError as error:
            raise RecordError(f'{path}: {error.strerror or error}') from error

    def delete_old(self) -> None:
        """Delete the records of jobs that were removed a month ago, or completed in
        freezer-api, which no longer lists them."""
        for record in list(self):
            path = self._path(record.job_id)
            completed = record.in_api and record.status == COMPLETED
            if record.status != REMOVED and not completed:
                continue
            try:
                if time.time() - path.stat().st_mtime > _KEPT_SECONDS:
                    path.unlink()
            except OSError as error:
                LOG.warning('%s: %s', path, error.strerror)

    def _path(self, job_id: str) -> Path:
        return self._directory / f'{quote(job_id, safe="")}.json'


def _record(**document: Any) -> Record:
    for key in _MOMENTS:
        if document.get(key) is not None:
            document[key] = datetime.datetime.fromisoformat(document[key])
    return Record(**document)
