"""A run of a job: its actions in turn, each an agent in a process of its own.

The agent gets its options as a job file in memory (memfd), readable by this user alone,
which is gone with the two processes: secrets are in no argument, on no disk, and in no
log.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from freezer.scheduler import private, results
from freezer.scheduler.action import Action
from freezer.scheduler.document import Document
from freezer.scheduler.record import ABORTED, FAIL, SUCCESS
from freezer.scheduler.results import Results
from freezer.utils.text import printable

LOG = logging.getLogger(__name__)

#: the agent of this installation; -P: not one of the current directory
AGENT = (sys.executable, '-P', '-m', 'freezer.main')
#: seconds from asking an agent to end to making it; it takes 4 (utils/signals.py)
KILL_SECONDS = 15.0

# What the agent's own lines on standard error begin with, if they say why it failed.
_REASONS = ('Error: ', 'freezer-agent: ')
_LONGEST_LINE = 1 << 16
_READERS_SECONDS = 2.0
# Of what the agent says of a backup.
_KEPT = ('curr_backup_level', 'time_stamp', 'backup_name', 'container', 'warnings')


@dataclass
class Outcome:
    """What came of a run.

    :param exit_code: of the action that failed first; 0 if none did
    :param error: why it failed; a line
    """

    result: str = SUCCESS
    exit_code: int = 0
    error: str = ''
    seconds: float = 0.0
    backup: dict[str, Any] = field(default_factory=dict)

    def add(self, ended: '_Ended') -> None:
        """The first failure is what is told of; none of them is forgotten."""
        self.backup = ended.backup or self.backup
        if ended.code == 0:
            return
        if self.result == SUCCESS:
            self.exit_code, self.error = ended.code, ended.reason
        if ended.aborted:
            self.result = ABORTED
        elif self.result == SUCCESS:
            self.result = FAIL


@dataclass(frozen=True)
class _Ended:
    """An agent that has ended."""

    code: int
    reason: str
    seconds: float
    backup: dict[str, Any]
    aborted: bool


class Run:
    """One run, in the thread that calls :meth:`execute`; others may end it.

    :param lock: held by the agents too, so that a job whose scheduler was killed is
        not started again while its agent lives
    :param environ: the agents'
    :param results: where agents say what they have made; None if they have this
        process's standard output and error
    :param made: is told of each backup, before the next action begins; raises OSError
        if it cannot keep that
    """

    def __init__(
        self,
        document: Document,
        lock: private.Lock,
        environ: Mapping[str, str],
        results: Results | None = None,
        made: Callable[[Document, dict[str, Any]], None] = lambda *_: None,
    ) -> None:
        self.document = document
        self._lock = lock
        self._environ = environ
        self._results = results
        self._made = made
        self._guard = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed: subprocess.Popen[bytes] | None = None
        #: nothing more is to begin, but what is mandatory
        self._aborted = False
        #: nothing more is to begin at all
        self._closed = False
        #: a failure is not to be tried again
        self._hurry = threading.Event()

    def abort(self, for_good: bool = False) -> None:
        """End the action at work: the agent undoes what it began.

        :param for_good: nothing more is begun, be it mandatory
        """
        with self._guard:
            self._aborted = True
            self._closed = self._closed or for_good
            self._hurry.set()
            process = self._killed = self._process
            self._kill(process, signal.SIGTERM)
        if process is not None:
            killer = threading.Timer(KILL_SECONDS, self._make_end, (process,))
            killer.daemon = True
            killer.start()

    def hurry(self) -> None:
        """Do not wait to try again what fails: the scheduler wants to end."""
        self._hurry.set()

    def execute(self) -> Outcome:
        """All of it. Raises nothing: what goes wrong is a failure of the job."""
        began = time.monotonic()
        outcome = Outcome()
        job_id, actions = self.document.job_id, self.document.actions
        for action in actions:
            unwanted = self._aborted or outcome.result != SUCCESS
            if self._closed or (unwanted and not action.mandatory):
                LOG.warning('job %s: %s is skipped', job_id, action.name)
                if self._aborted and outcome.result == SUCCESS:
                    outcome.result, outcome.error = ABORTED, 'aborted'
                continue
            outcome.add(self._act(action))
        outcome.seconds = time.monotonic() - began
        return outcome

    def _act(self, action: Action) -> _Ended:
        """One action, with its further tries."""
        job_id = self.document.job_id
        for tries in range(action.retries + 1):
            ended = self._run_agent(action)
            said = (
                f'job {job_id}: {action.name} ended with {ended.code} after '
                f'{ended.seconds:.1f} s'
            )
            if ended.code == 0:
                level = ended.backup.get('curr_backup_level')
                LOG.info('%s%s', said, '' if level is None else f': level {level}')
                return ended
            said += f': {ended.reason}' if ended.reason else ''
            last = tries == action.retries or ended.aborted or self._hurry.is_set()
            if last:
                LOG.error('%s', said)
                return ended
            LOG.warning(
                '%s; try %d of %d in %g s',
                *(said, tries + 2, action.retries + 1, action.retry_seconds),
            )
            if self._hurry.wait(action.retry_seconds):
                return ended
        raise AssertionError('not reached')

    def _run_agent(self, action: Action) -> _Ended:
        began = time.monotonic()
        reason, killed = '', False
        result = None
        if self._results is not None and not action.options.get('metadata_out'):
            result = self._results.place(self.document.job_id)
        try:
            with _job_file(action) as config:
                started = self._start(action, config, result)
                if started is None:
                    return _Ended(-signal.SIGTERM, 'aborted', 0.0, {}, True)
                said = _Said(started)
                # The process stays, as a zombie, until it may not be killed any more.
                os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
                with self._guard:
                    self._process = None
                    killed = started is self._killed
                    code = started.wait()
                said.finish()
        except OSError as error:
            code, reason = 1, f'the agent cannot be started: {error.strerror or error}'
        else:
            reason = action.without_secrets(said.reason)
        # An agent that is made to end may die of that, or fail to undo what it began.
        aborted = code == -signal.SIGTERM or (code != 0 and killed)
        backup = self._backup(result)
        return _Ended(code, reason, time.monotonic() - began, backup, aborted)

    def _backup(self, result: Path | None) -> dict[str, Any]:
        """What was made, whatever the agent's end: the backup is there."""
        if result is None:
            return {}
        found = results.read(result)
        try:
            if found:
                self._made(self.document, found)
        except OSError as error:
            LOG.error(
                'job %s: %s; it stays in %s, and is tried again',
                *(self.document.job_id, error, result),
            )
        else:
            results.forget(result)
        return {key: found[key] for key in _KEPT if key in found}

    def _start(
        self, action: Action, config: int, result: Path | None
    ) -> 'subprocess.Popen[bytes] | None':
        arguments = ['--config', f'/dev/fd/{config}']
        if result is not None:
            arguments += ['--metadata-out', str(result)]
        shown = self._results is None
        with self._guard:
            if self._closed or (self._aborted and not action.mandatory):
                return None
            self._process = subprocess.Popen(
                [*AGENT, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=None if shown else subprocess.DEVNULL,
                stderr=None if shown else subprocess.PIPE,
                env=self._environ,
                pass_fds=(config, self._lock.fd),
                # A group of its own: what a terminal sends is for the scheduler, and
                # what the scheduler sends is for all of the agent's processes.
                start_new_session=True,
                umask=private.UMASK,
            )
            return self._process

    def _make_end(self, process: 'subprocess.Popen[bytes]') -> None:
        with self._guard:
            if self._process is process:
                LOG.error(
                    'job %s: its agent does not end, and is killed',
                    self.document.job_id,
                )
                self._kill(process, signal.SIGKILL)

    def _kill(
        self, process: 'subprocess.Popen[bytes] | None', number: signal.Signals
    ) -> None:
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)


@contextlib.contextmanager
def _job_file(action: Action) -> Iterator[int]:
    fd = os.memfd_create('freezer-job', os.MFD_CLOEXEC)
    try:
        os.fchmod(fd, 0o600)
        with open(fd, 'wb', closefd=False) as stream:
            stream.write(action.ini().encode())
        yield fd
    finally:
        os.close(fd)


class _Said:
    """What an agent says on standard error, as far as it is wanted; the rest is read
    and dropped, so that none waits for a reader."""

    def __init__(self, process: 'subprocess.Popen[bytes]') -> None:
        self.reason = ''
        self._reader: threading.Thread | None = None
        if process.stderr is not None:
            self._reader = threading.Thread(
                target=self._read, args=(process.stderr,), daemon=True
            )
            self._reader.start()

    def finish(self) -> None:
        """To the end, or as far as it came: a child that a command left behind may
        hold the pipe open for ever."""
        if self._reader is not None:
            self._reader.join(_READERS_SECONDS)

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            while line := stream.readline(_LONGEST_LINE):
                text = printable(line.decode(errors='backslashreplace').strip())
                if text.startswith(_REASONS):
                    self.reason = text
