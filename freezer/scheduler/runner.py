"""A run of a job: its actions in turn, each an agent in a process of its own.

The agent gets its options as a job file in memory (memfd), readable by this user alone,
which is gone with the two processes: secrets are in no argument, on no disk, and in no
log.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from freezer.scheduler import private
from freezer.scheduler.action import Action
from freezer.scheduler.document import Document
from freezer.scheduler.record import ABORTED, FAIL, SUCCESS
from freezer.utils.text import printable

LOG = logging.getLogger(__name__)

#: the agent of this installation; -P: not one of the current directory
AGENT = (sys.executable, '-P', '-m', 'freezer.main')
#: seconds from asking an agent to end to making it; it takes 4 (utils/signals.py)
KILL_SECONDS = 15.0

# What the agent's own lines on standard error begin with, if they say why it failed.
_REASONS = ('Critical Error: ', 'freezer-agent: ')
_LONGEST_LINE = 1 << 16
_LONGEST_DOCUMENT = 1 << 20
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
    :param environ: the agents', beside this process's
    :param shown: the agents have this process's standard output and error
    """

    def __init__(
        self,
        document: Document,
        lock: private.Lock,
        environ: Mapping[str, str],
        shown: bool = False,
    ) -> None:
        self.document = document
        self._lock = lock
        self._environ = {**os.environ, **environ}
        self._shown = shown
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
        backup: dict[str, Any] = {}
        try:
            with _job_file(action) as config:
                started = self._start(action, config)
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
            backup = said.backup
            reason = action.without_secrets(said.reason)
        # An agent that is made to end may die of that, or fail to undo what it began.
        aborted = code == -signal.SIGTERM or (code != 0 and killed)
        return _Ended(code, reason, time.monotonic() - began, backup, aborted)

    def _start(self, action: Action, config: int) -> 'subprocess.Popen[bytes] | None':
        arguments = ['--config', f'/dev/fd/{config}']
        if not self._shown and not action.options.get('metadata_out'):
            arguments += ['--metadata-out', '-']
        with self._guard:
            if self._closed or (self._aborted and not action.mandatory):
                return None
            self._process = subprocess.Popen(
                [*AGENT, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=None if self._shown else subprocess.PIPE,
                stderr=None if self._shown else subprocess.PIPE,
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
    """What an agent says, as far as it is wanted; the rest is read and dropped, so
    that none waits for a reader."""

    def __init__(self, process: 'subprocess.Popen[bytes]') -> None:
        self.reason = ''
        self._out = b''
        self._readers = [
            self._reader(stream, keep)
            for stream, keep in (
                (process.stdout, self._keep_out),
                (process.stderr, self._keep_reason),
            )
            if stream is not None
        ]

    def finish(self) -> None:
        """To the end, or as far as it came: a child that a command left behind may
        hold the pipe open for ever."""
        for reader in self._readers:
            reader.join(_READERS_SECONDS)

    @property
    def backup(self) -> dict[str, Any]:
        """What was said of a backup."""
        try:
            document = json.loads(self._out or b'{}')
        except ValueError:
            return {}
        if not isinstance(document, dict) or 'curr_backup_level' not in document:
            return {}
        return {key: document[key] for key in _KEPT if key in document}

    def _reader(
        self, stream: IO[bytes], keep: Callable[[bytes], None]
    ) -> threading.Thread:
        def read() -> None:
            with stream:
                while line := stream.readline(_LONGEST_LINE):
                    keep(line)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def _keep_out(self, line: bytes) -> None:
        if len(self._out) < _LONGEST_DOCUMENT:
            self._out += line

    def _keep_reason(self, line: bytes) -> None:
        text = printable(line.decode(errors='backslashreplace').strip())
        if text.startswith(_REASONS):
            self.reason = text
