"""The scheduler's main loop: read the jobs, run those that are due, handle signals.

One thread decides; each run has a thread that waits for its agents. With freezer-api,
one more thread talks to it; with [coordination], one more to its backend.
"""

import contextlib
import datetime
import logging
import queue
import signal
import threading
import time
from types import FrameType

from freezer.exceptions import ConfigError
from freezer.scheduler import private
from freezer.scheduler.config import Settings
from freezer.scheduler.coordination import claims
from freezer.scheduler.coordination.claims import Claim, Claims
from freezer.scheduler.coordination.runs import DONE, OPEN, Wanted
from freezer.scheduler.documents.document import Document
from freezer.scheduler.page import StatusPage
from freezer.scheduler.runs import metadata
from freezer.scheduler.runs.job import ScheduledJob
from freezer.scheduler.runs.metadata import MetadataFiles
from freezer.scheduler.runs.record import ABORTED, FAIL, SUCCESS, Records
from freezer.scheduler.runs.runner import JobRun, RunResult, job_lock
from freezer.scheduler.sources.refused import Refused
from freezer.scheduler.sources.source import JobSource
from freezer.utils.human import number

LOG = logging.getLogger(__name__)

# How often to check a job that another process is running.
_BUSY_SECONDS = 1.0
# How often to ask for a job that another scheduler is running.
_ASK_SECONDS = 2.0
# The jobs are not read again before so many times the duration of the last time, unless
# a signal asks for it: with thousands of jobs it takes tenths of a second, and each
# report to freezer-api changes one. New jobs and events must not wait for long.
_READ_SHARE = 3.0
# By how much later than another scheduler this one may see an event of freezer-api.
_EVENT_SECONDS = 10.0
_LOCK_LOST = (
    'its lock in [coordination] was lost; a scheduler that has contact with the '
    'backend runs the job again'
)


def utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Scheduler:
    """Runs the jobs of a source until a signal stops it."""

    def __init__(self, settings: Settings, source: JobSource) -> None:
        self._settings = settings
        self._source = source
        self._records = Records(private.directory(settings.state_dir))
        self._files = MetadataFiles(private.directory(settings.state_dir / 'results'))
        self._refused = Refused(settings.state_dir)
        self._jobs: dict[str, ScheduledJob] = {}
        self._running = 0
        # Job ids, to log each reason and each busy job once.
        self._skipped: dict[str, str] = {}
        self._busy: set[str] = set()
        # Anything in it ends the wait. Signal handlers may put: it is reentrant.
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[
            tuple[ScheduledJob, private.Lock, Claim | None, RunResult]
        ] = queue.SimpleQueue()
        self._page: StatusPage | None = None
        if settings.status_page is not None:
            self._page = StatusPage(settings.status_page, max(settings.interval, 60))
        self._claims: Claims | None = None
        # Jobs for which an answer is due; when to ask again (epoch seconds).
        self._asked: set[str] = set()
        self._ask_again: dict[str, float] = {}
        self._read_now = True
        self._refresh = False
        self._stop_signals = 0
        #: it stops, and has aborted the jobs that ran
        self._aborted = False
        self._next_read = 0.0
        # Monotonic time before which changes do not make it read the jobs.
        self._read_after = 0.0

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT stop it, SIGHUP looks for changes. Main thread only."""
        for which in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(which, self._on_signal)

    def stop(self) -> None:
        """Stop it, from any thread; the second time, abort the running jobs."""
        self._stop_signals += 1
        self._wakeups.put(None)

    def run(self) -> None:
        """Until it is stopped; running jobs then have the stop grace to finish.

        :raises ConfigError: the jobs cannot be listed
        """
        self._source.list()
        self._records.delete_old()
        self._source.start(self._on_change)
        claims.forget_state(self._settings.state_dir)
        self._refused.remove()
        if self._settings.coordination is not None:
            self._claims = Claims(
                *(self._settings.coordination, self._settings.state_dir),
                lambda: self._wakeups.put(None),
            )
            self._claims.start()
        try:
            while not self._stop_signals:
                now = utc_now()
                if self._is_read_due(now):
                    began = time.monotonic()
                    self._read_jobs(now)
                    self._record_orphaned_backups()
                    ended = time.monotonic()
                    self._read_after = ended + (ended - began) * _READ_SHARE
                self._collect_finished(now)
                self._collect_answers(now)
                self._start_due(now)
                self._report()
                self._show(now)
                self._wait(self._seconds_to_wait(utc_now()))
        finally:
            self._shut_down()
            self._report()
            self._refused.remove()
            if self._claims is not None:
                self._claims.stop()
            self._source.stop()

    def _on_change(self) -> None:
        self._read_now = True
        self._wakeups.put(None)

    def _is_read_due(self, now: datetime.datetime) -> bool:
        changed = self._read_now and time.monotonic() >= self._read_after
        return changed or self._refresh or now.timestamp() >= self._next_read

    def _wait(self, seconds: float) -> None:
        """Until a signal, the end of a run, a change of the jobs, or so long."""
        with contextlib.suppress(queue.Empty):
            self._wakeups.get(timeout=seconds)
            while True:
                self._wakeups.get_nowait()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            return self.stop()
        self._read_now = self._refresh = True
        return self._wakeups.put(None)

    def _seconds_to_wait(self, now: datetime.datetime) -> float:
        moments = [self._next_read]
        if self._read_now:
            pause = self._read_after - time.monotonic()
            moments.append(now.timestamp() + max(pause, 0.0))
        queued = any(job.queued for job in self._jobs.values())
        if queued and self._running < self._settings.concurrent_jobs:
            moments.append(now.timestamp() + _BUSY_SECONDS)
        moments += [
            job.due.timestamp()
            for job in self._jobs.values()
            if job.due is not None and job.run is None and not job.queued
        ]
        if self._page is not None:
            moments.append(self._page.next_update)
        # At most an interval: the clock may be changed meanwhile.
        soonest = min(moments) - now.timestamp()
        return min(max(soonest, 0.0), float(self._settings.interval))

    # -- Jobs -------------------------------------------------------------------------

    def _read_jobs(self, now: datetime.datetime) -> None:
        self._read_now = False
        if self._refresh:
            self._refresh = False
            self._source.refresh()
        self._next_read = now.timestamp() + self._settings.interval
        try:
            listing = self._source.list()
        except ConfigError as error:
            LOG.error('%s; continuing with known jobs', error)
            return
        self._refused.write(listing.errors)
        documents = self._without_skipped(listing.documents)
        for job_id, job in list(self._jobs.items()):
            if job_id not in documents:
                job.on_document_gone()
                if job.run is None:
                    del self._jobs[job_id]
        for job_id, document in documents.items():
            known = self._jobs.get(job_id)
            if known is None:
                self._jobs[job_id] = ScheduledJob(document, self._records, now)
            elif known.document is not document:
                known.update(document, now)

    def _without_skipped(self, documents: dict[str, Document]) -> dict[str, Document]:
        kept, skipped = {}, {}
        for job_id, document in documents.items():
            reason = self._settings.skip_reason(document)
            if not reason:
                kept[job_id] = document
                continue
            skipped[job_id] = reason
            if self._skipped.get(job_id) != reason:
                LOG.info('job %s skipped: %s', job_id, reason)
        self._skipped = skipped
        return kept

    def _report(self) -> None:
        for job in self._jobs.values():
            update = job.pending_update
            elsewhere = self._claims and self._claims.runs_elsewhere(job.id)
            if update is not None and not elsewhere:
                self._source.report(update, job.document)

    def _show(self, now: datetime.datetime) -> None:
        if self._page is not None:
            records = [job.record for job in self._jobs.values()]
            self._page.update(records, now)

    def _record_orphaned_backups(self) -> None:
        """Record backups of agents that outlived the scheduler before this one."""
        for job_id, path in self._files:
            job = self._jobs.get(job_id)
            if job is None or job.run is not None or self._runs_elsewhere(job_id):
                continue
            found = metadata.read(path)
            if found:
                LOG.warning('job %s: recording a backup of an earlier run', job_id)
                try:
                    self._source.on_backup(job.document, found)
                except OSError as error:
                    LOG.error('job %s: %s', job_id, error)
                    continue
            metadata.delete(path)

    def _runs_elsewhere(self, job_id: str) -> bool:
        """Whether another process runs the job, possibly an agent without scheduler."""
        try:
            lock = job_lock(self._settings.runtime_dir, job_id)
        except ConfigError:
            return True
        try:
            return not lock.take()
        finally:
            lock.close()

    # -- Runs -------------------------------------------------------------------------

    def _start_due(self, now: datetime.datetime) -> None:
        due = [job for job in self._jobs.values() if job.is_due(now)]
        for job in sorted(due, key=lambda job: (job.due or now, job.id)):
            job.queued = True
            if self._running + len(self._asked) >= self._settings.concurrent_jobs:
                continue
            if self._claims is None:
                self._start(job, None)
            elif job.id not in self._asked:
                self._ask(self._claims, job, now)

    def _ask(self, shared: Claims, job: ScheduledJob, now: datetime.datetime) -> None:
        """Claim the job, unless it was asked for just now."""
        if (
            now.timestamp()
            < self._ask_again.get(job.id, 0.0)
            <= (now.timestamp() + _ASK_SECONDS)
        ):
            return
        self._asked.add(job.id)
        shared.ask(self._wanted(job, now))

    def _wanted(self, job: ScheduledJob, now: datetime.datetime) -> Wanted:
        schedule, record = job.document.schedule, job.record
        seconds = 0.0 if job.document.api else float(self._settings.interval)
        return Wanted(
            job_id=job.id,
            timing=record.timing,
            anchor=record.anchor or now,
            due=job.due or now,
            once=schedule.once,
            every=schedule.every is not None,
            tolerance=datetime.timedelta(seconds=seconds + _EVENT_SECONDS),
        )

    def _collect_answers(self, now: datetime.datetime) -> None:
        """Start the jobs that were claimed, and note those that others have run."""
        if self._claims is None:
            return
        for answer in self._claims.answers():
            if answer.asked:
                self._asked.discard(answer.job_id)
            job = self._jobs.get(answer.job_id)
            claim, run = answer.claim, answer.run
            if claim is not None:
                # Meanwhile it may be removed, stopped or rescheduled, or this process
                # was stopped.
                if (
                    job is None
                    or not job.is_due(now)
                    or claim.wanted != self._wanted(job, now)
                    or self._claims.is_lost(claim)
                ):
                    self._claims.finish(claim, OPEN)
                else:
                    self._start(job, claim)
            elif job is not None and run is not None:
                job.on_run_elsewhere(run.timing, run.anchor, run.at)
            elif job is not None:
                self._ask_again[job.id] = now.timestamp() + _ASK_SECONDS

    def _start(self, job: ScheduledJob, claim: Claim | None) -> None:
        """Start or reject the job; it stays queued if another process is running it."""
        reason = self._settings.reject_reason(job.document)
        lock = None
        if not reason:
            try:
                lock = job_lock(self._settings.runtime_dir, job.id)
            except ConfigError as error:
                reason = str(error)
        if lock is None:
            job.reject(reason, utc_now())
            return self._finish_claim(claim, DONE)
        if not lock.take():
            lock.close()
            if job.id not in self._busy:
                text = 'job %s is due, but another process is running it; waiting'
                LOG.warning(text, job.id)
                self._busy.add(job.id)
            self._ask_again[job.id] = utc_now().timestamp() + _ASK_SECONDS
            return self._finish_claim(claim, OPEN)
        self._busy.discard(job.id)
        run = JobRun(
            *(job.document, lock, self._settings.environ),
            *(self._files, self._source.on_backup),
            self._claims.watchdog if self._claims else None,
        )
        if claim is not None:
            claim.on_lost = lambda: run.abort(for_good=True)
            if claim.lost:
                claim.on_lost()
        job.on_started(run, utc_now())
        self._source.on_started(run.document)
        self._running += 1

        def execute() -> None:
            try:
                result = run.execute()
            except Exception as error:
                # A bug: this job has failed, the others go on.
                LOG.exception('job %s', job.id)
                result = RunResult(FAIL, 1, f'{type(error).__name__}: {error}')
            self._finished.put((job, lock, claim, result))
            self._wakeups.put(None)

        threading.Thread(target=execute, name=f'job {job.id}').start()
        return None

    def _finish_claim(self, claim: Claim | None, state: str) -> None:
        if self._claims is not None and claim is not None:
            self._claims.finish(claim, state)

    def _is_to_repeat(self, claim: Claim | None, result: RunResult) -> bool:
        """Whether a run that was ended is due again, on one of the schedulers."""
        if self._claims is None or claim is None:
            return False
        if result.result != SUCCESS and self._claims.is_lost(claim):
            # The watchdog has ended it: some agents then fail, or must be killed.
            result.result, result.error = ABORTED, _LOCK_LOST
            return True
        return result.result == ABORTED and self._aborted

    def _collect_finished(self, now: datetime.datetime) -> None:
        while not self._finished.empty():
            job, lock, claim, result = self._finished.get()
            lock.close()
            self._running -= 1
            document = job.run.document if job.run else job.document
            repeat = self._is_to_repeat(claim, result)
            job.on_finished(result, now, repeat)
            self._finish_claim(claim, OPEN if repeat else DONE)
            self._source.on_finished(document, result.result)
            if job.gone:
                del self._jobs[job.id]

    # -- Shutdown ---------------------------------------------------------------------

    def _shut_down(self) -> None:
        """Wait for the running jobs; abort them when the stop grace is over, or at the
        second signal."""
        LOG.info('stopping, %s running', number(self._running, 'job'))
        running = [job for job in self._jobs.values() if job.run is not None]
        for job in running:
            assert job.run is not None
            job.run.skip_retries()
        deadline = utc_now().timestamp() + self._settings.stop_grace
        while self._running:
            self._collect_finished(utc_now())
            if not self._running:
                break
            left = deadline - utc_now().timestamp()
            if not self._aborted and (left <= 0 or self._stop_signals > 1):
                self._aborted = True
                for job in running:
                    if job.run is not None:
                        LOG.warning('job %s: aborting, the scheduler stops', job.id)
                        job.run.abort(for_good=True)
            self._wait(3600.0 if self._aborted else max(left, 0.0))
        LOG.info('stopped')
