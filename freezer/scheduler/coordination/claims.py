"""Claims: which of the schedulers that share jobs runs one.

A thread of its own talks to the backend. A claim is a lock, held during the run and
renewed; a run whose lock was lost, or could not be renewed in time, is ended.
"""

import contextlib
import dataclasses
import datetime
import logging
import math
import os
import queue
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from freezer.scheduler import private
from freezer.scheduler.config import Coordination
from freezer.scheduler.coordination import backend as backends
from freezer.scheduler.coordination.backend import Backend, BackendError
from freezer.scheduler.coordination.runs import (
    DONE,
    OPEN,
    RUNNING,
    SharedRun,
    Wanted,
    unpack,
)
from freezer.scheduler.runs.watchdog import Watchdog, now
from freezer.utils.text import printable

LOG = logging.getLogger(__name__)

#: in the state directory; its contents are those of :func:`state`. Records of jobs
#: have a suffix
FILE = 'coordination'
_VERSION = 1
# Parts of the lifetime of a lock: until it is renewed, until its run is ended, until
# its agent is killed, and until the locks are given up.
_RENEW, _TERM, _KILL, _GIVE_UP = 1 / 6, 2 / 3, 11 / 12, 1
# And until nothing is claimed after an outage.
_SETTLE = 1 / 3
# Seconds between two looks at the other members, at most.
_LOOK_SECONDS = 5.0
# Intervals between looks that a member stays after its last run.
_STAY = 1.5
_STOP_SECONDS = 5.0
# The newest runs are published: memcached and etcd take a megabyte.
_MOST_RUNS = 2000
# By how much the clock of another member may be ahead. Times later than that do not
# count as handled: no job would run until then.
_MOST_AHEAD = datetime.timedelta(hours=1)


@dataclasses.dataclass(eq=False)
class Claim:
    """The right to run a job now.

    :param run: as published; None if it was not
    :param before: the last run of the job before that one
    :param on_lost: called in another thread when the lock is lost
    """

    wanted: Wanted
    lock: Any
    run: SharedRun | None = None
    before: SharedRun | None = None
    lost: bool = False
    on_lost: Callable[[], None] = lambda: None


@dataclasses.dataclass(frozen=True)
class Answer:
    """:param claim: None if the job must not be run now
    :param run: one of another member, which has handled the due time
    :param asked: it answers :meth:`Claims.ask`
    """

    job_id: str
    claim: Claim | None = None
    run: SharedRun | None = None
    asked: bool = True


class Claims:
    """Of one scheduler.

    :param on_answer: called in another thread when there is an answer
    """

    def __init__(
        self,
        coordination: Coordination,
        state_dir: Path,
        on_answer: Callable[[], None],
    ) -> None:
        self._coordination = coordination
        self._lifetime = backends.lifetime(coordination.backend_url)
        self._file = state_dir / FILE
        self._on_answer = on_answer
        self.member = f'{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}'
        self.group = coordination.name()
        self.watchdog = Watchdog()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._tasks: queue.SimpleQueue[Callable[[Backend], None] | None] = (
            queue.SimpleQueue()
        )
        self._backend: Backend | None = None
        self._held: set[Claim] = set()
        # The last run of each job by any member, so that it is known for as long as
        # one member lives; and the jobs that others run now.
        self._runs: dict[str, SharedRun] = {}
        self._running: set[str] = set()
        self._members: list[str] = []
        # Those whose clock is ahead.
        self._ahead: set[str] = set()
        self._published = True
        self._renewed = -math.inf
        self._looked = -math.inf
        # When the last run here ended.
        self._ended = -math.inf
        # Until then nothing is claimed.
        self._wait_until = -math.inf
        self._error = ''
        self._written: dict[str, Any] = {}
        self._stopping = False
        self._thread = threading.Thread(
            target=self._work, name='coordination', daemon=True
        )

    # -- Called by the scheduler ------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Leave the group, as soon as the others know the last runs; no run may be
        left."""
        self._stopping = True
        self._tasks.put(None)
        self._thread.join(_STOP_SECONDS + self._look_seconds * _STAY)
        self.watchdog.close()

    def ask(self, wanted: Wanted) -> None:
        """Claim a run; an answer follows."""
        self._tasks.put(lambda backend: self._claim(backend, wanted))

    def answers(self) -> Iterator[Answer]:
        while not self._answers.empty():
            yield self._answers.get()

    def is_lost(self, claim: Claim) -> bool:
        """Whether the run may have been repeated by another scheduler."""
        return claim.lost or now() >= self._valid_until

    def finish(self, claim: Claim, state: str) -> None:
        """The run has ended, or is not to be started.

        :param state: DONE, or OPEN to let a scheduler repeat it
        """
        self._tasks.put(lambda backend: self._finish(backend, claim, state))

    def runs_elsewhere(self, job_id: str) -> bool:
        """Whether a live member runs the job, or was the last to run it."""
        run = self._runs.get(job_id)
        return job_id in self._running or (
            run is not None
            and run.member != self.member
            and run.member in self._members
        )

    # -- The thread -------------------------------------------------------------------

    @property
    def _valid_until(self) -> float:
        return self._renewed + self._lifetime * _TERM

    @property
    def _look_seconds(self) -> float:
        return min(self._lifetime * _RENEW, _LOOK_SECONDS)

    def _work(self) -> None:
        tasks: list[Callable[[Backend], None]] = []
        while True:
            try:
                if self._backend is None:
                    url = self._coordination.backend_url
                    self._backend = Backend(url, self.member, self.group)
                    self._published = False
                self._backend.ping()
                self._renew(self._backend)
                if self._error:
                    # Others have to publish what they have run meanwhile.
                    self._wait_until = now() + self._lifetime * _SETTLE
                while tasks:
                    tasks[0](self._backend)
                    del tasks[0]
                if not self._published:
                    self._publish(self._backend)
                self._look(self._backend)
                self._on_success()
            except BackendError as error:
                self._on_failure(str(error), tasks)
            except Exception as error:
                # A bug; without renewals, the runs are ended.
                LOG.exception('coordination')
                self._on_failure(f'{type(error).__name__}: {error}', tasks)
            self._end_expired()
            if self._stopping and not tasks and self._tasks.empty():
                break
            self._take_tasks(tasks)
            if self._stopping and self._error:
                break
        if self._backend is not None:
            if not self._error and len(self._members) > 1:
                # What a member publishes is gone when it leaves, and another one that
                # has not seen it would repeat the run.
                left = self._ended + self._look_seconds * _STAY - now()
                time.sleep(max(left, 0.0))
            with contextlib.suppress(BackendError):
                self._backend.close()

    def _take_tasks(self, tasks: list[Callable[[Backend], None]]) -> None:
        """Wait for work, or until something has to be renewed."""
        seconds = self._look_seconds
        if self._error:
            seconds = 1.0
        with contextlib.suppress(queue.Empty):
            task = self._tasks.get(timeout=seconds)
            while True:
                if task is not None:
                    tasks.append(task)
                task = self._tasks.get_nowait()

    def _renew(self, backend: Backend) -> None:
        began = now()
        if began < self._renewed + self._lifetime * _RENEW:
            return
        if began >= self._valid_until:
            # This process was stopped, or the backend away: others may have run the
            # jobs since.
            self._lose(list(self._held), 'it could not be renewed in time')
        for claim in list(self._held):
            if not claim.lost and not backend.renew(claim.lock):
                self._lose([claim], 'the backend no longer has it')
        backend.beat()
        self._renewed = began
        self.watchdog.valid_until(
            began + self._lifetime * _TERM, began + self._lifetime * _KILL
        )

    def _end_expired(self) -> None:
        if now() >= self._valid_until:
            self._lose(list(self._held), 'it could not be renewed in time')

    def _lose(self, claims: list[Claim], reason: str) -> None:
        for claim in claims:
            if not claim.lost:
                claim.lost = True
                job_id = claim.wanted.job_id
                LOG.error('job %s: its lock is lost: %s; ending it', job_id, reason)
                claim.on_lost()

    def _claim(self, backend: Backend, wanted: Wanted) -> None:
        lock = backend.lock(self._coordination.name(wanted.job_id))
        if lock is None:
            self._answer(Answer(wanted.job_id))
            return
        claim = Claim(wanted, lock)
        self._held.add(claim)
        answer = Answer(wanted.job_id)
        try:
            self._read(backend)
            run = self._runs.get(wanted.job_id)
            if wanted.job_id in self._running or now() < self._wait_until:
                # That member has lost its lock, or was killed just now; its agent may
                # live.
                pass
            elif run and run.member != self.member and wanted.is_handled_by(run):
                answer = Answer(wanted.job_id, run=run)
            else:
                answer = Answer(wanted.job_id, claim)
                self._note_start(claim)
                self._publish(backend)
        except BackendError:
            # Whatever was published: it does not run. This call is repeated; without
            # the release, the lock would be renewed for ever.
            self.finish(claim, OPEN)
            raise
        if answer.claim is None:
            self.finish(claim, OPEN)
        self._answer(answer)

    def _finish(self, backend: Backend, claim: Claim, state: str) -> None:
        # Before the lock is free, so that the next holder knows.
        if claim in self._held:
            self._held.discard(claim)
            self._note_end(claim, state)
        if not self._published:
            self._publish(backend)
        try:
            backend.release(claim.lock)
        except BackendError:
            if not claim.lost:
                raise

    def _note_start(self, claim: Claim) -> None:
        wanted = claim.wanted
        at = max(datetime.datetime.now(datetime.UTC), wanted.due)
        claim.before = self._runs.get(wanted.job_id)
        claim.run = SharedRun(
            *(self.member, wanted.timing, wanted.anchor, at, at, RUNNING)
        )
        self._store(wanted.job_id, claim.run)

    def _note_end(self, claim: Claim, state: str) -> None:
        job_id, run = claim.wanted.job_id, claim.run
        if run is None or self._runs.get(job_id) is not run:
            return
        self._published = False
        if state == DONE:
            self._ended = now()
            ended = max(run.at, datetime.datetime.now(datetime.UTC))
            self._store(job_id, dataclasses.replace(run, ended=ended, state=DONE))
        elif claim.before is not None:
            self._store(job_id, claim.before)
        else:
            del self._runs[job_id]

    def _publish(self, backend: Backend) -> None:
        self._published = False
        runs = list(self._runs.items())
        older, newest = runs[:-_MOST_RUNS], runs[-_MOST_RUNS:]
        shown = [each for each in older if each[1].state == RUNNING] + newest
        backend.publish({job_id: run.packed() for job_id, run in shown})
        self._published = True

    def _look(self, backend: Backend) -> None:
        """At what the others have done."""
        if now() >= self._looked + self._look_seconds:
            self._read(backend)

    def _read(self, backend: Backend) -> None:
        documents = backend.members()
        self._looked = now()
        if documents.pop(self.member, None) is None:
            # It has lost its data, or this process was stopped for a while. Give the
            # others time to notice whether their locks are lost.
            self._wait_until = now() + self._lifetime * _SETTLE
            self._publish(backend)
        self._members = sorted([self.member, *documents])
        running = set()
        latest = datetime.datetime.now(datetime.UTC) + _MOST_AHEAD
        for member, document in documents.items():
            for job_id, run in unpack(document).items():
                if run.state == DONE and run.at > latest:
                    self._warn_ahead(run.member)
                elif run.state == DONE:
                    self._learn(job_id, run)
                elif run.state == RUNNING and run.member == member:
                    running.add(job_id)
        self._running = running

    def _warn_ahead(self, member: str) -> None:
        if member not in self._ahead:
            self._ahead.add(member)
            text = 'the clock of scheduler %s is more than an hour ahead; its runs are '
            LOG.warning(text + 'not counted', printable(member))

    def _learn(self, job_id: str, run: SharedRun) -> None:
        """Another member has run the job."""
        known = self._runs.get(job_id)
        if known is None or (known.state != RUNNING and known.at < run.at):
            self._store(job_id, run)
            self._published = False
            self._answer(Answer(job_id, run=run, asked=False))

    def _store(self, job_id: str, run: SharedRun) -> None:
        self._runs.pop(job_id, None)
        self._runs[job_id] = run

    def _answer(self, answer: Answer) -> None:
        self._answers.put(answer)
        self._on_answer()

    # -- The state of the connection --------------------------------------------------

    def _on_success(self) -> None:
        if self._error:
            LOG.warning('coordination backend is available again')
        self._error = ''
        self._write_state()

    def _on_failure(self, error: str, tasks: list[Callable[[Backend], None]]) -> None:
        if error != self._error:
            LOG.error('%s; no job starts until it is available', error)
        self._error = error
        # To leave releases the locks: not before their agents have been killed.
        give_up = self._renewed + self._lifetime * _GIVE_UP
        if self._backend is not None and now() >= give_up:
            with contextlib.suppress(BackendError):
                self._backend.close()
            self._backend = None
        self._write_state()

    def _write_state(self) -> None:
        found = {
            'group': self.group,
            'member': self.member,
            'members': self._members,
            'error': self._error,
        }
        if found == self._written:
            return
        try:
            private.write_json(self._file, {'version': _VERSION, **found})
            self._written = found
        except OSError as failure:
            LOG.error('%s: %s', self._file, failure.strerror)


def state(state_dir: Path) -> dict[str, Any]:
    """group, member, members and error; empty if there was no coordination."""
    return private.read_json(state_dir / FILE, _VERSION, dict) or {}


def forget_state(state_dir: Path) -> None:
    """The state of an earlier scheduler, which may have had coordination."""
    with contextlib.suppress(OSError):
        (state_dir / FILE).unlink()
