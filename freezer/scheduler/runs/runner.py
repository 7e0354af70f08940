"""A run of a job: its actions in order, each by an agent in a process of its own.

The agent gets its options as a job file in memory (memfd) that only this user can read,
and that is gone when the two processes are. So secrets are in no argument, in no log
and on no disk.
"""

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from freezer.scheduler import private
from freezer.scheduler.documents.action import Action
from freezer.scheduler.documents.check import PYTHON
from freezer.scheduler.documents.document import Document
from freezer.scheduler.runs import metadata
from freezer.scheduler.runs.metadata import MetadataFiles
from freezer.scheduler.runs.record import ABORTED, FAIL, SUCCESS
from freezer.scheduler.runs.watchdog import Watchdog
from freezer.utils.human import number
from freezer.utils.process import StderrReader
from freezer.utils.text import printable

LOG = logging.getLogger(__name__)

#: the agent's exit code for a backup that could not read all of its source
INCOMPLETE = 3
AGENT = (*PYTHON, 'freezer.main')
#: seconds from SIGTERM to SIGKILL; the agent takes 4 to stop (utils/signals.py)
KILL_SECONDS = 15.0

# A line of the agent's standard error that begins like this says why it failed.
_REASON = 'Error: '
_LONGEST_LINE = 1 << 16
_STDERR_SECONDS = 2.0
# The metadata of a backup that is shown and remembered.
_SHOWN_KEYS = (
    *('curr_backup_level', 'time_stamp', 'backup_name', 'container'),
    *('warnings', 'incomplete', 'bytes_read', 'bytes_stored'),
)
_WARNING = (
    'the backup is incomplete: part of its source could not be read; the log of the '
    'agent lists it'
)


def job_lock(runtime_dir: Path, job_id: str) -> private.Lock:
    """The lock that is held while the job runs."""
    return private.Lock(runtime_dir / f'job-{quote(job_id, safe="")}.lock')


@dataclass
class RunResult:
    """The result of a run, or of one of its actions.

    :param exit_code: of the action that failed first; INCOMPLETE if none failed, but a
        backup is incomplete; 0 otherwise
    :param error: why that action failed; one line
    :param warning: what was not as it should be in a success; one line
    """

    result: str = SUCCESS
    exit_code: int = 0
    error: str = ''
    warning: str = ''
    seconds: float = 0.0
    backup: dict[str, Any] = field(default_factory=dict)

    def add(self, action: 'RunResult') -> None:
        self.backup = action.backup or self.backup
        self.warning = self.warning or action.warning
        if self.result == SUCCESS:
            self.exit_code = action.exit_code or self.exit_code
            self.result, self.error = action.result, action.error
        elif action.result == ABORTED:
            self.result = ABORTED


class JobRun:
    """One run, in the thread that calls :meth:`execute`; other threads may abort it.

    :param lock: inherited by the agents, so that a job whose scheduler was killed is
        not started again while its agent lives
    :param environ: for the agents
    :param files: where agents write what they made; None lets them write to this
        process's standard output and error instead
    :param on_backup: called after each backup, before the next action starts; raises
        OSError if it cannot record the backup
    :param watchdog: ends the agents if this process cannot
    """

    def __init__(
        self,
        document: Document,
        lock: private.Lock,
        environ: Mapping[str, str],
        files: MetadataFiles | None = None,
        on_backup: Callable[[Document, dict[str, Any]], None] = lambda *_: None,
        watchdog: Watchdog | None = None,
    ) -> None:
        self.document = document
        self._lock = lock
        self._environ = environ
        self._files = files
        self._on_backup = on_backup
        self._watchdog = watchdog
        self._guard = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._terminated: subprocess.Popen[bytes] | None = None
        #: start mandatory actions only
        self._aborted = False
        #: start no further action
        self._closed = False
        #: do not retry a failed action
        self._no_retries = threading.Event()

    def abort(self, for_good: bool = False) -> None:
        """Stop the current action; the agent undoes what it began.

        :param for_good: do not start mandatory actions either
        """
        with self._guard:
            self._aborted = True
            self._closed = self._closed or for_good
            self._no_retries.set()
            process = self._terminated = self._process
            self._signal(process, signal.SIGTERM)
        if process is not None:
            killer = threading.Timer(KILL_SECONDS, self._kill, (process,))
            killer.daemon = True
            killer.start()

    def skip_retries(self) -> None:
        """Do not retry failed actions any more, because the scheduler is stopping."""
        self._no_retries.set()

    def execute(self) -> RunResult:
        """Run all actions. Raises nothing: an error is a failure of the job."""
        began = time.monotonic()
        result = RunResult()
        job_id, actions = self.document.job_id, self.document.actions
        for action in actions:
            skip = self._aborted or result.result != SUCCESS
            if self._closed or (skip and not action.mandatory):
                LOG.warning('job %s: %s skipped', job_id, action.name)
                if self._aborted and result.result == SUCCESS:
                    result.result, result.error = ABORTED, 'aborted'
                continue
            result.add(self._run_action(action))
        result.seconds = time.monotonic() - began
        return result

    def _run_action(self, action: Action) -> RunResult:
        """Run the agent, and retry."""
        job_id = self.document.job_id
        for tries in range(action.retries + 1):
            agent = self._run_agent(action)
            text = (
                f'job {job_id}: {action.name} exited with {agent.exit_code} after '
                f'{agent.seconds:.1f} s'
            )
            if agent.result == SUCCESS:
                level = agent.backup.get('curr_backup_level')
                text += '' if level is None else f': level {level}'
                if agent.warning:
                    LOG.warning('%s: %s', text, agent.warning)
                else:
                    LOG.info('%s', text)
                return agent
            text += f': {agent.error}' if agent.error else ''
            final = tries == action.retries or agent.result == ABORTED
            if final or self._no_retries.is_set():
                LOG.error('%s', text)
                return agent
            LOG.warning(
                '%s; try %d of %d in %g s',
                *(text, tries + 2, action.retries + 1, action.retry_seconds),
            )
            if self._no_retries.wait(action.retry_seconds):
                return agent
        raise AssertionError('not reached')

    def _run_agent(self, action: Action) -> RunResult:
        began = time.monotonic()
        reason, killed = '', False
        file = None
        if self._files is not None and not action.options.get('metadata_out'):
            file = self._files.new_path(self.document.job_id)
        try:
            with _job_file(action) as config:
                process = self._start(action, config, file)
                if process is None:
                    return RunResult(ABORTED, -signal.SIGTERM, 'aborted')
                stderr = process.stderr and StderrReader(
                    process.stderr,
                    keep=lambda line: line.strip().startswith(_REASON),
                    longest=_LONGEST_LINE,
                )
                # Do not reap it until no other thread can send it a signal.
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
                with self._guard:
                    self._process = None
                    killed = process is self._terminated
                    if self._watchdog is not None:
                        self._end_group(process, self._watchdog)
                    code = process.wait()
                # A child that a command left behind may hold the pipe open for ever.
                reasons = stderr.lines(_STDERR_SECONDS) if stderr else []
        except OSError as error:
            code, reason = 1, f'cannot start the agent: {error.strerror or error}'
        else:
            reason = printable(reasons[-1].strip()) if code and reasons else ''
            reason = action.without_secrets(reason)
        seconds = time.monotonic() - began
        backup = self._record_backup(file)
        if code == INCOMPLETE and action.name == 'backup':
            return RunResult(SUCCESS, code, '', _WARNING, seconds, backup)
        # A terminated agent may die of the signal, or fail to undo what it began.
        aborted = code == -signal.SIGTERM or (code != 0 and killed)
        result = ABORTED if aborted else FAIL if code else SUCCESS
        warning, count = '', backup.get('warnings')
        if result == SUCCESS and isinstance(count, int) and count > 0:
            warning = f'{number(count, "warning")}; the log of the agent lists them'
        return RunResult(result, code, reason, warning, seconds, backup)

    def _record_backup(self, file: Path | None) -> dict[str, Any]:
        """Record a backup, whatever the agent's exit code: the backup exists."""
        if file is None:
            return {}
        found = metadata.read(file)
        try:
            if found:
                self._on_backup(self.document, found)
        except OSError as error:
            LOG.error(
                'job %s: cannot record its backup: %s; keeping %s to try again',
                *(self.document.job_id, error, file),
            )
        else:
            metadata.delete(file)
        return {key: found[key] for key in _SHOWN_KEYS if key in found}

    def _start(
        self, action: Action, config: int, file: Path | None
    ) -> 'subprocess.Popen[bytes] | None':
        arguments = ['--config', f'/dev/fd/{config}']
        if file is not None:
            arguments += ['--metadata-out', str(file)]
        shown = self._files is None
        with self._guard:
            if self._closed or (self._aborted and not action.mandatory):
                return None
            if self._watchdog is not None and self._watchdog.is_past:
                return None
            self._process = subprocess.Popen(
                [*AGENT, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=None if shown else subprocess.DEVNULL,
                stderr=None if shown else subprocess.PIPE,
                env=self._environ,
                pass_fds=(config, self._lock.fd),
                # A process group of its own: the terminal signals the scheduler only,
                # and the scheduler signals all processes of the agent.
                start_new_session=True,
                umask=private.UMASK,
            )
            if self._watchdog is not None:
                self._watch(self._process, self._watchdog)
            return self._process

    def _watch(self, process: 'subprocess.Popen[bytes]', watchdog: Watchdog) -> None:
        try:
            watchdog.add(process.pid)
        except OSError:
            self._process = None
            self._signal(process, signal.SIGKILL)
            process.wait()
            raise

    def _end_group(
        self, process: 'subprocess.Popen[bytes]', watchdog: Watchdog
    ) -> None:
        """Before it is reaped: then another process may get its number."""
        if process is self._terminated or watchdog.is_past:
            # Another scheduler may repeat the run: leave no process that ignored
            # SIGTERM.
            self._signal(process, signal.SIGKILL)
        watchdog.remove(process.pid)

    def _kill(self, process: 'subprocess.Popen[bytes]') -> None:
        with self._guard:
            if self._process is process:
                job_id = self.document.job_id
                LOG.error('job %s: killing the agent, which did not stop', job_id)
                self._signal(process, signal.SIGKILL)

    def _signal(
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
