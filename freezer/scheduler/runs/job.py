"""A job and its state: stopped, scheduled, running, completed, removed.

Only the thread of the loop uses it. The loop makes the runs, and keeps the queue of the
jobs that are due.
"""

import datetime
import logging

from freezer.scheduler.documents import document as documents
from freezer.scheduler.documents import schedule
from freezer.scheduler.documents.document import Document
from freezer.scheduler.documents.schedule import GRACE, NextRun
from freezer.scheduler.runs.record import (
    ABORTED,
    COMPLETED,
    FAIL,
    REMOVED,
    RUNNING,
    SCHEDULED,
    STOPPED,
    SUCCESS,
    RecordError,
    Records,
)
from freezer.scheduler.runs.runner import JobRun, RunResult
from freezer.scheduler.sources.source import JobUpdate

LOG = logging.getLogger(__name__)

_SCHEDULER_KILLED = (
    'the scheduler was killed during this run; see the log of the agent for its result'
)


class ScheduledJob:
    """A job: its document, its record, and its current run."""

    def __init__(
        self, document: Document, records: Records, now: datetime.datetime
    ) -> None:
        self.document = document
        self._records = records
        self.record = records.load(document.job_id)
        self._next_run: NextRun | None = None
        #: the current run
        self.run: JobRun | None = None
        #: it is due, and waits in the queue
        self.queued = False
        #: its document no longer exists
        self.gone = False
        self._aborting = False
        # timing, considered and due of the record before the current run.
        self._before: tuple[str, datetime.datetime | None, datetime.datetime | None]
        self._before = ('', None, None)
        if self.record.status == RUNNING:
            self.record.result, self.record.error = FAIL, _SCHEDULER_KILLED
            self.record.warning = ''
            self.record.failures += 1
            LOG.error('job %s: %s', self.id, _SCHEDULER_KILLED)
        self.update(document, now)

    @property
    def id(self) -> str:
        return self.document.job_id

    @property
    def due(self) -> datetime.datetime | None:
        """The next run; None if the job is not scheduled."""
        return self.record.due if self._next_run is not None else None

    def update(self, document: Document, now: datetime.datetime) -> None:
        """Do what the document says; it may be the same as before."""
        self.document = document
        self.record.path = document.path
        self.gone = False
        changed = self._take_event()
        if document.wanted == documents.START:
            self._schedule(now)
        elif document.wanted != documents.REST:
            self._stop()
            if document.wanted == documents.ABORT:
                self.abort()
        if changed:
            self._set_status(self.record.status)

    def _take_event(self) -> bool:
        """Note the event in freezer-api, so that one request is handled once; whether
        it differs from the one before."""
        api, record = self.document.api, self.record
        record.in_api = api is not None
        event = api.event if api is not None else ''
        if event == record.event:
            return False
        record.event = event
        if event == documents.START and self.run is None and record.due is None:
            # The job is not scheduled: start it anew.
            self._unschedule()
            record.timing = ''
        return True

    @property
    def pending_update(self) -> JobUpdate | None:
        """What freezer-api does not know yet; None if it is up to date."""
        api, record = self.document.api, self.record
        if api is None:
            return None
        # During a run, freezer-api keeps an event that takes effect after the run.
        pending = self.run is not None and api.event != documents.START
        result, started, ended = record.result, record.started, record.ended
        if self.run is not None:
            result, ended = '', None
        times = (result, _epoch(started), _epoch(ended))
        if record.elsewhere:
            # Only the scheduler of that run knows, and may have left meanwhile.
            times = (api.result, api.started, api.ended)
        event = '' if pending else api.event
        current = JobUpdate(self.id, record.status, *times, event)
        known = JobUpdate(self.id, api.status, api.result, api.started, api.ended)
        return None if current == known else current

    def on_document_gone(self) -> None:
        """Its document no longer exists. A current run is finished first.

        Its times are remembered: the directory may be missing only for a moment.
        """
        self.gone = True
        self._unschedule()
        if self.run is None:
            # freezer-api no longer lists completed jobs.
            completed = self.record.in_api and self.record.status == COMPLETED
            self._set_status(COMPLETED if completed else REMOVED)
            if not completed:
                LOG.info('job %s removed: its file no longer exists', self.id)

    def abort(self) -> None:
        if self.run is not None and not self._aborting:
            LOG.info('job %s: aborting', self.id)
            self._aborting = True
            self.run.abort()

    def is_due(self, now: datetime.datetime) -> bool:
        """Whether to run it now. A run that is due too late is skipped."""
        due = self.due
        if due is None or due > now or self.run is not None:
            return False
        if self.queued:
            return True
        if not self.document.schedule.skips_late_runs or now - due <= GRACE:
            return True
        assert self._next_run is not None
        later = self._next_run(now - GRACE)
        if later is not None and later <= now:
            return True
        when = schedule.format_time(due)
        LOG.warning('job %s: skipping the run of %s, which is too late', self.id, when)
        self._advance(now)
        self._set_status(self._idle_status())
        return False

    def on_started(self, run: JobRun, now: datetime.datetime) -> None:
        LOG.info('job %s: started', self.id)
        self.queued = False
        self._aborting = False
        self.run = run
        self.record.runs += 1
        self.record.started = now
        self.record.elsewhere = False
        record = self.record
        self._before = (record.timing, record.considered, record.due)
        self._advance(now)
        self._set_status(RUNNING)

    def on_finished(
        self, result: RunResult, now: datetime.datetime, repeat: bool = False
    ) -> None:
        """:param repeat: the run does not count as handled: it is due again"""
        record = self.record
        self.run = None
        timing, considered, due = self._before
        if repeat and self._next_run is not None and record.timing == timing:
            record.considered, record.due = considered, due
        record.ended = now
        record.result, record.error = result.result, result.error
        record.warning = result.warning
        record.exit_code = result.exit_code
        record.backup = result.backup or record.backup
        if result.result == SUCCESS:
            record.successes += 1
            record.last_success = now
        elif result.result == ABORTED:
            record.aborted += 1
        else:
            record.failures += 1
        record.remember(result.backup)
        removed = self.gone or self.document.wanted == documents.REMOVE
        status = REMOVED if removed else self._idle_status()
        self._set_status(status)
        level, reason = logging.ERROR, result.error
        if result.result == SUCCESS:
            level = logging.WARNING if result.warning else logging.INFO
            reason = result.warning
        LOG.log(
            level,
            'job %s: %s after %.1f s%s; %s',
            *(self.id, record.outcome, result.seconds),
            f': {reason}' if reason else '',
            f'next run {schedule.format_time(self.due)}' if self.due else status,
        )

    def on_run_elsewhere(
        self, timing: str, anchor: datetime.datetime, at: datetime.datetime
    ) -> None:
        """Another scheduler has run the job, and handled all times up to this one.

        :param anchor: from which it counts intervals: from now on, so does this one
        """
        record = self.record
        if self._next_run is None or self.run is not None or timing != record.timing:
            return
        if self.document.schedule.every or self.document.schedule.once:
            record.anchor = anchor
            self._next_run = schedule.next_run(self.document.schedule, anchor)
        record.considered = max(record.considered or at, at)
        record.due = self._next_run(record.considered)
        self.queued = False
        record.elsewhere = True
        self._set_status(self._idle_status())

    def reject(self, reason: str, now: datetime.datetime) -> None:
        """Count a run that was due, but may not start, as failed."""
        self.record.runs += 1
        self.record.started = now
        self.record.elsewhere = False
        self.queued = False
        self._advance(now)
        self.on_finished(RunResult(FAIL, 1, reason), now)

    def _schedule(self, now: datetime.datetime) -> None:
        record = self.record
        wanted = self.document.schedule
        if record.timing != self.document.timing or record.considered is None:
            self.queued = False
            record.timing = self.document.timing
            record.anchor = wanted.anchor(now)
            # A date may already be past when the file is written.
            record.considered = now - GRACE if wanted.date else now
            self._next_run = None
        if self._next_run is None:
            self._next_run = schedule.next_run(wanted, record.anchor or now)
            record.due = self._next_run(record.considered)
            status = self._idle_status()
            if self.run is None:
                self._set_status(status)
            due = f'next run {schedule.format_time(self.due)}' if self.due else 'no run'
            LOG.info('job %s: %s; %s', self.id, wanted, due)

    def _stop(self) -> None:
        """Forget the job's times as well: a later start begins anew."""
        was_scheduled = bool(self.record.timing)
        self._unschedule()
        self.record.timing = ''
        status = REMOVED if self.document.wanted == documents.REMOVE else STOPPED
        if self.run is None and (was_scheduled or self.record.status != status):
            self._set_status(status)
        if was_scheduled:
            LOG.info('job %s: unscheduled (%s)', self.id, self.document.wanted)

    def _unschedule(self) -> None:
        self._next_run = None
        self.queued = False
        self.record.due = None

    def _advance(self, now: datetime.datetime) -> None:
        """Mark all times up to now as handled."""
        if self._next_run is not None:
            self.record.considered = now
            self.record.due = self._next_run(now)

    def _idle_status(self) -> str:
        return SCHEDULED if self.due else COMPLETED

    def _set_status(self, status: str) -> None:
        self.record.status = status
        try:
            self._records.save(self.record)
        except RecordError as error:
            # Run the job all the same: a backup is worth more than its record.
            LOG.error('job %s: %s', self.id, error)


def _epoch(moment: datetime.datetime | None) -> int:
    return -1 if moment is None else int(moment.timestamp())
