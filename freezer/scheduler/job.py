"""A job and the state it is in: stopped, scheduled, running, completed.

Only the thread of the loop touches it. What a run is made of, and the queue of those
that wait for their turn, are the loop's.
"""

import datetime
import logging

from freezer.scheduler import document as documents
from freezer.scheduler import schedule
from freezer.scheduler.document import Document
from freezer.scheduler.record import (
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
from freezer.scheduler.runner import Outcome, Run
from freezer.scheduler.schedule import GRACE, Times
from freezer.scheduler.source import News

LOG = logging.getLogger(__name__)

_CUT_SHORT = (
    'the scheduler was killed while it ran; what came of it is in the log of the agent'
)


class Job:
    """One job: what is wanted of it, what is remembered, and its run if it has one."""

    def __init__(
        self, document: Document, records: Records, now: datetime.datetime
    ) -> None:
        self.document = document
        self._records = records
        self.record = records.load(document.job_id)
        self._times: Times | None = None
        #: its run, and None if there is none
        self.run: Run | None = None
        #: it is due, and waits for its turn
        self.waits = False
        #: its file is not there any more
        self.gone = False
        self._aborting = False
        if self.record.status == RUNNING:
            self.record.result, self.record.error = FAIL, _CUT_SHORT
            self.record.failures += 1
            LOG.error('job %s: %s', self.id, _CUT_SHORT)
        self.take(document, now)

    @property
    def id(self) -> str:
        return self.document.job_id

    @property
    def armed(self) -> bool:
        """Whether it is run when it is due."""
        return self._times is not None

    @property
    def due(self) -> datetime.datetime | None:
        return self.record.due if self.armed else None

    def take(self, document: Document, now: datetime.datetime) -> None:
        """Do what the document wants; it may be the one there was."""
        self.document = document
        self.record.path = document.path
        self.gone = False
        heard = self._hear()
        if document.wanted == documents.START:
            self._arm(now)
        elif document.wanted != documents.REST:
            self._disarm()
            if document.wanted == documents.ABORT:
                self.abort()
        if heard:
            self._set_status(self.record.status)

    def _hear(self) -> bool:
        """Whether there is an event in freezer-api that was not there before: what is
        asked for once is done once."""
        cloud, record = self.document.cloud, self.record
        record.in_api = cloud is not None
        event = cloud.event if cloud is not None else ''
        if event == record.event:
            return False
        record.event = event
        if event == documents.START and self.run is None and record.due is None:
            # It is not scheduled: a new beginning.
            self._unschedule()
            record.timing = ''
        return True

    @property
    def news(self) -> News | None:
        """What freezer-api does not know of it yet; None if nothing."""
        cloud, record = self.document.cloud, self.record
        if cloud is None:
            return None
        # What is to happen at the end of the run is remembered there until then.
        waits = self.run is not None and cloud.event != documents.START
        found = News(
            self.id,
            record.status,
            record.result if self.run is None else '',
            _epoch(record.started),
            _epoch(record.ended) if self.run is None else -1,
            '' if waits else cloud.event,
        )
        known = News(self.id, cloud.status, cloud.result, cloud.started, cloud.ended)
        return None if found == known else found

    def leave(self) -> None:
        """Its file is not there any more; what runs comes to its end first.

        Its times are remembered: a directory may be away for a moment.
        """
        self.gone = True
        self._unschedule()
        if self.run is None:
            # Jobs that have come to their end are not asked for any more.
            ended = self.record.in_api and self.record.status == COMPLETED
            self._set_status(COMPLETED if ended else REMOVED)
            if not ended:
                LOG.info('job %s: is removed, as its document is', self.id)

    def abort(self) -> None:
        if self.run is not None and not self._aborting:
            LOG.info('job %s: is aborted', self.id)
            self._aborting = True
            self.run.abort()

    def is_due(self, now: datetime.datetime) -> bool:
        """Whether it is to be run; one that was missed by too much is passed over."""
        due = self.due
        if due is None or due > now or self.run is not None or self.waits:
            return False
        if not self.document.schedule.punctual or now - due <= GRACE:
            return True
        assert self._times is not None
        later = self._times.after(now - GRACE)
        if later is not None and later <= now:
            return True
        LOG.warning(
            'job %s: missed its time %s, and it is too late now',
            self.id,
            schedule.shown(due),
        )
        self._advance(now)
        self._set_status(self._resting_status())
        return False

    def started(self, run: Run, now: datetime.datetime) -> None:
        LOG.info('job %s: started', self.id)
        self.waits = False
        self._aborting = False
        self.run = run
        self.record.runs += 1
        self.record.started = now
        self._advance(now)
        self._set_status(RUNNING)

    def ended(self, outcome: Outcome, now: datetime.datetime) -> None:
        record = self.record
        self.run = None
        record.ended = now
        record.result, record.error = outcome.result, outcome.error
        record.exit_code = outcome.exit_code
        record.backup = outcome.backup or record.backup
        if outcome.result == SUCCESS:
            record.successes += 1
            record.last_success = now
        elif outcome.result == ABORTED:
            record.aborted += 1
        else:
            record.failures += 1
        if self.gone or self.document.wanted == documents.REMOVE:
            status = REMOVED
        else:
            status = self._resting_status()
        self._set_status(status)
        level = logging.INFO if outcome.result == SUCCESS else logging.ERROR
        LOG.log(
            level,
            'job %s: %s after %.1f s%s; %s',
            *(self.id, outcome.result, outcome.seconds),
            f': {outcome.error}' if outcome.error else '',
            f'next {schedule.shown(self.due)}' if self.due else status,
        )

    def refused(self, reason: str, now: datetime.datetime) -> None:
        """It was due, and must not be run."""
        self.record.runs += 1
        self.record.started = now
        self.waits = False
        self._advance(now)
        self.ended(Outcome(FAIL, 1, reason), now)

    def _arm(self, now: datetime.datetime) -> None:
        record = self.record
        wanted = self.document.schedule
        if record.timing != self.document.timing or record.considered is None:
            self.waits = False
            record.timing = self.document.timing
            record.anchor = wanted.anchor(now)
            # A date may be past for a while when the file is put there.
            record.considered = now - GRACE if wanted.date else now
            self._times = None
        if self._times is None:
            self._times = schedule.times(wanted, record.anchor or now)
            record.due = self._times.after(record.considered)
            status = self._resting_status()
            if self.run is None:
                self._set_status(status)
            LOG.info(
                'job %s: %s; %s',
                *(self.id, wanted),
                f'next {schedule.shown(self.due)}' if self.due else 'no time is left',
            )

    def _disarm(self) -> None:
        """What is remembered of its times is forgotten: a start is a new beginning."""
        was_armed = bool(self.record.timing)
        self._unschedule()
        self.record.timing = ''
        status = REMOVED if self.document.wanted == documents.REMOVE else STOPPED
        if self.run is None and (was_armed or self.record.status != status):
            self._set_status(status)
        if was_armed:
            LOG.info('job %s: %s', self.id, self.document.wanted)

    def _unschedule(self) -> None:
        self._times = None
        self.waits = False
        self.record.due = None

    def _advance(self, now: datetime.datetime) -> None:
        """All times up to now have been seen to."""
        if self._times is not None:
            self.record.considered = now
            self.record.due = self._times.after(now)

    def _resting_status(self) -> str:
        return SCHEDULED if self.due else COMPLETED

    def _set_status(self, status: str) -> None:
        self.record.status = status
        try:
            self._records.save(self.record)
        except RecordError as error:
            # It is run all the same: a backup is worth more than its record.
            LOG.error('job %s: %s', self.id, error)


def _epoch(moment: datetime.datetime | None) -> int:
    return -1 if moment is None else int(moment.timestamp())
