"""The scheduler at work: looks at the jobs, runs what is due, hears signals.

One thread decides; each run has a thread that waits for its agents. Where jobs are from
freezer-api, one more thread talks to it.
"""

import contextlib
import datetime
import logging
import os
import queue
import select
import signal
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from urllib.parse import quote

from freezer.exceptions import ConfigError
from freezer.scheduler import private, results
from freezer.scheduler.config import Settings
from freezer.scheduler.document import Document
from freezer.scheduler.job import Job
from freezer.scheduler.record import FAIL, Records
from freezer.scheduler.results import Results
from freezer.scheduler.runner import Outcome, Run
from freezer.scheduler.source import Source

LOG = logging.getLogger(__name__)

# A job that another process runs is looked at again after so many seconds.
_BUSY_SECONDS = 1.0


def job_lock(runtime_dir: Path, job_id: str) -> private.Lock:
    """Whoever runs a job has this."""
    return private.Lock(runtime_dir / f'job-{quote(job_id, safe="")}.lock')


def utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Bell:
    """Wakes the thread that waits: a thread rings it, or a signal."""

    def __init__(self) -> None:
        self._here, self._there = os.pipe()
        for end in (self._here, self._there):
            os.set_blocking(end, False)

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._there, b'\0')

    def wait(self, seconds: float) -> None:
        select.select([self._here], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            while os.read(self._here, 4096):
                pass

    @contextlib.contextmanager
    def rung_by_signals(self) -> Iterator[None]:
        """So that none comes between looking for it and waiting."""
        before = signal.set_wakeup_fd(self._there, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)


class Scheduler:
    """Runs until it is told to end."""

    def __init__(self, settings: Settings, source: Source) -> None:
        self._settings = settings
        self._source = source
        self._records = Records(private.directory(settings.state_dir))
        self._results = Results(private.directory(settings.state_dir / 'results'))
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._running = 0
        self._left_out: dict[str, str] = {}
        self._busy: set[str] = set()
        self._bell = Bell()
        self._ended: queue.SimpleQueue[tuple[Job, private.Lock, Outcome]] = (
            queue.SimpleQueue()
        )
        self._look = True
        self._hurry = False
        self._stops = 0
        self._next_look = 0.0

    def run(self) -> None:
        """Until SIGTERM or SIGINT; then what runs has its time to end.

        :raises ConfigError: the jobs cannot be listed
        """
        with self._signals(), self._bell.rung_by_signals():
            self._source.list()
            self._records.forget_old()
            self._source.begin(self._ring)
            try:
                while not self._stops:
                    now = utc_now()
                    if self._look or now.timestamp() >= self._next_look:
                        self._read_jobs(now)
                        self._adopt()
                    self._collect(now)
                    self._start_due(now)
                    self._tell()
                    self._bell.wait(self._seconds_to_wait(utc_now()))
            finally:
                self._come_to_an_end()
                self._tell()
                self._source.end()

    def _ring(self) -> None:
        self._look = True
        self._bell.ring()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(_number: int, _frame: FrameType | None) -> None:
            self._stops += 1

        def look(_number: int, _frame: FrameType | None) -> None:
            self._look = self._hurry = True

        handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: look}
        before = {each: signal.signal(each, handlers[each]) for each in handlers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _seconds_to_wait(self, now: datetime.datetime) -> float:
        moments = [self._next_look]
        if self._waiting and self._running < self._settings.concurrent_jobs:
            moments.append(now.timestamp() + _BUSY_SECONDS)
        moments += [
            job.due.timestamp()
            for job in self._jobs.values()
            if job.due is not None and job.run is None and not job.waits
        ]
        # The clock may be set; so never for longer than an interval.
        soonest = min(moments) - now.timestamp()
        return min(max(soonest, 0.0), float(self._settings.interval))

    # -- Jobs -------------------------------------------------------------------------

    def _read_jobs(self, now: datetime.datetime) -> None:
        self._look = False
        if self._hurry:
            self._hurry = False
            self._source.hurry()
        self._next_look = now.timestamp() + self._settings.interval
        try:
            listing = self._source.list()
        except ConfigError as error:
            LOG.error('%s; the jobs that are known go on', error)
            return
        documents = self._ours(listing.documents)
        for job_id, job in list(self._jobs.items()):
            if job_id not in documents:
                job.leave()
                self._unqueue(job)
                if job.run is None:
                    del self._jobs[job_id]
        for job_id, document in documents.items():
            known = self._jobs.get(job_id)
            if known is None:
                self._jobs[job_id] = Job(document, self._records, now)
            elif known.document is not document:
                known.take(document, now)
                self._unqueue(known)

    def _ours(self, documents: dict[str, Document]) -> dict[str, Document]:
        kept, left_out = {}, {}
        for job_id, document in documents.items():
            reason = self._settings.leaves_out(document)
            if not reason:
                kept[job_id] = document
                continue
            left_out[job_id] = reason
            if self._left_out.get(job_id) != reason:
                LOG.info('job %s: is left out: it %s', job_id, reason)
        self._left_out = left_out
        return kept

    def _tell(self) -> None:
        for job in self._jobs.values():
            news = job.news
            if news is not None:
                self._source.tell(news, job.document)

    def _adopt(self) -> None:
        """See to backups of agents whose scheduler was killed, when they have ended."""
        for job_id, path in self._results.left():
            job = self._jobs.get(job_id)
            if job is None or job.run is not None or self._is_run(job_id):
                continue
            found = results.read(path)
            if found:
                LOG.warning('job %s: made a backup that nobody was told of', job_id)
                try:
                    self._source.made(job.document, found)
                except OSError as error:
                    LOG.error('job %s: %s', job_id, error)
                    continue
            results.forget(path)

    def _is_run(self, job_id: str) -> bool:
        """By another process."""
        try:
            lock = job_lock(self._settings.runtime_dir, job_id)
        except ConfigError:
            return True
        try:
            return not lock.take()
        finally:
            lock.close()

    def _unqueue(self, job: Job) -> None:
        if not job.waits and job in self._waiting:
            self._waiting.remove(job)

    # -- Runs -------------------------------------------------------------------------

    def _start_due(self, now: datetime.datetime) -> None:
        due = [job for job in self._jobs.values() if job.is_due(now)]
        for job in sorted(due, key=lambda job: (job.due or now, job.id)):
            job.waits = True
            self._waiting.append(job)
        for _number in range(len(self._waiting)):
            if self._running >= self._settings.concurrent_jobs:
                return
            job = self._waiting.popleft()
            if not self._start(job):
                self._waiting.append(job)

    def _start(self, job: Job) -> bool:
        """Whether it has begun; False if another process runs it."""
        reason = self._settings.refuses(job.document)
        if reason:
            job.refused(reason, utc_now())
            return True
        try:
            lock = job_lock(self._settings.runtime_dir, job.id)
        except ConfigError as error:
            job.refused(str(error), utc_now())
            return True
        if not lock.take():
            lock.close()
            if job.id not in self._busy:
                LOG.warning(
                    'job %s: is due, and is still run by another process; it waits',
                    job.id,
                )
                self._busy.add(job.id)
            return False
        self._busy.discard(job.id)
        run = Run(
            *(job.document, lock, self._settings.environ),
            *(self._results, self._source.made),
        )
        job.started(run, utc_now())
        self._source.began(run.document)
        self._running += 1

        def execute() -> None:
            try:
                outcome = run.execute()
            except Exception as error:
                # A defect; the job has failed, and others go on.
                LOG.exception('job %s', job.id)
                outcome = Outcome(FAIL, 1, f'{type(error).__name__}: {error}')
            self._ended.put((job, lock, outcome))
            self._bell.ring()

        threading.Thread(target=execute, name=f'job {job.id}').start()
        return True

    def _collect(self, now: datetime.datetime) -> None:
        """See to the runs that have ended."""
        while not self._ended.empty():
            job, lock, outcome = self._ended.get()
            lock.close()
            self._running -= 1
            document = job.run.document if job.run else job.document
            job.ended(outcome, now)
            self._source.ended(document, outcome.result)
            if job.gone:
                del self._jobs[job.id]

    # -- The end ----------------------------------------------------------------------

    def _come_to_an_end(self) -> None:
        LOG.info('ends; %d jobs are running', self._running)
        running = [job for job in self._jobs.values() if job.run is not None]
        for job in running:
            assert job.run is not None
            job.run.hurry()
        deadline = utc_now().timestamp() + self._settings.stop_grace
        aborted = False
        while self._running:
            self._collect(utc_now())
            if not self._running:
                break
            left = deadline - utc_now().timestamp()
            if not aborted and (left <= 0 or self._stops > 1):
                aborted = True
                for job in running:
                    if job.run is not None:
                        LOG.warning('job %s: is aborted, as its time is up', job.id)
                        job.run.abort(for_good=True)
            self._bell.wait(3600.0 if aborted else max(left, 0.0))
        LOG.info('has ended')
