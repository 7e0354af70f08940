"""Start and stop: the pid file, the daemon, and signals from one command to another."""

import logging
import os
import signal
import time
from pathlib import Path

from freezer.common import logs
from freezer.exceptions import ConfigError, FreezerError
from freezer.scheduler import private
from freezer.scheduler.api import wire
from freezer.scheduler.config import Settings
from freezer.scheduler.coordination import backend
from freezer.scheduler.documents import schedule
from freezer.scheduler.loop import Scheduler
from freezer.scheduler.sources.directory import JobDirectory
from freezer.scheduler.sources.remote import ApiJobSource
from freezer.scheduler.sources.source import JobSource
from freezer.utils import streams

LOG = logging.getLogger(__name__)

# A process that checks the lock holds it for a moment: retry.
_TRIES, _TRY_SECONDS = 5, 0.05
# From the lock to the number in the file; from the stop grace to the exit.
_NUMBER_SECONDS = 10.0
_EXIT_SECONDS = 30.0


class AlreadyRunning(ConfigError):
    """Another scheduler uses this runtime directory."""


class PidFile:
    """The pid file of the scheduler that uses this runtime directory.

    The scheduler is running while the file is locked. The number in it is for signals,
    and is valid only then.
    """

    def __init__(self, runtime_dir: Path) -> None:
        self.path = runtime_dir / 'scheduler.pid'

    def take(self) -> private.Lock:
        """Lock it, until this process exits, or the daemon that it forks.

        :raises ConfigError: another scheduler holds it
        """
        lock = private.Lock(self.path)
        for _try in range(_TRIES):
            if lock.take():
                os.ftruncate(lock.fd, 0)
                return lock
            time.sleep(_TRY_SECONDS)
        raise AlreadyRunning(
            f'freezer-scheduler is already running (pid {self._number()}); to run '
            f'another one, give it its own --scheduler-runtime-dir and '
            f'--scheduler-state-dir'
        )

    @staticmethod
    def write_pid(lock: private.Lock) -> None:
        os.pwrite(lock.fd, f'{os.getpid()}\n'.encode(), 0)

    def process(self) -> int | None:
        """The pid of the running scheduler; None if none is running."""
        deadline = time.monotonic() + _NUMBER_SECONDS
        while private.is_locked(self.path):
            number = self._number()
            if number is not None:
                return number
            if time.monotonic() > deadline:
                raise FreezerError(
                    f'{self.path} is locked, but contains no pid: another program '
                    f'holds it (fuser shows which)'
                )
            time.sleep(_TRY_SECONDS)
        return None

    def _number(self) -> int | None:
        try:
            return int(self.path.read_text())
        except (OSError, ValueError):
            return None


def start(settings: Settings) -> int:
    """Run until stopped; as a daemon, return once it has been forked, or if one is
    running already.

    :raises ConfigError: it cannot start
    """
    _check(settings)
    private.directory(settings.state_dir)
    pid_file = PidFile(private.directory(settings.runtime_dir))
    try:
        lock = pid_file.take()
    except AlreadyRunning:
        if settings.no_daemon:
            raise
        # As the LSB and other daemons have it: it runs, as wanted.
        streams.show(
            f'freezer-scheduler is already running (pid {pid_file.process()})\n'
        )
        return 0
    if not settings.no_daemon:
        _detach(lock)
    logs.set_up(settings.conf, 'scheduler.log', by_default=not settings.no_daemon)
    pid_file.write_pid(lock)
    source: JobSource = JobDirectory(settings.jobs_dir, settings.check)
    if settings.service is not None:
        source = ApiJobSource(settings, settings.service)
    LOG.info('started, pid %d, reading jobs from %s', os.getpid(), source.place)
    scheduler = Scheduler(settings, source)
    scheduler.handle_signals()
    scheduler.run()
    return 0


def stop(settings: Settings) -> int:
    """Stop the scheduler and wait for its exit; 0 also if none is running."""
    pid_file = PidFile(settings.runtime_dir)
    number = pid_file.process()
    if number is None:
        streams.show('freezer-scheduler is not running\n')
        return 0
    _send(number, signal.SIGTERM)
    deadline = time.monotonic() + settings.stop_grace + _EXIT_SECONDS
    while private.is_locked(pid_file.path):
        if time.monotonic() > deadline:
            raise FreezerError(
                f'process {number} has not stopped; its log shows why. kill -KILL '
                f'{number} kills it, but not its jobs'
            )
        time.sleep(_TRY_SECONDS)
    return 0


def restart(settings: Settings) -> int:
    _check(settings)
    stop(settings)
    return start(settings)


def reload(settings: Settings) -> int:
    number = PidFile(settings.runtime_dir).process()
    if number is None:
        raise FreezerError(
            'freezer-scheduler is not running; start it with freezer-scheduler start'
        )
    _send(number, signal.SIGHUP)
    return 0


def _check(settings: Settings) -> None:
    """Raise errors now, while the user can see them; a daemon can only log them."""
    schedule.zone()
    if settings.coordination is not None:
        backend.check(settings.coordination.backend_url)
    page = settings.status_page
    if page is not None and (
        (page.exists() and not page.is_file()) or not page.parent.is_dir()
    ):
        raise ConfigError(f'status-page {page}: not a file in an existing directory')
    if settings.service is not None:
        settings.service.check()
        wire.check()
        private.directory(settings.jobs_dir)
    elif not settings.jobs_dir.exists():
        raise ConfigError(
            f'jobs-dir {settings.jobs_dir} does not exist: create it, or set '
            f'--scheduler-jobs-dir'
        )


def _send(number: int, which: signal.Signals) -> None:
    try:
        os.kill(number, which)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise FreezerError(
            f'process {number} belongs to another user: run this as that user or root'
        ) from error


def _detach(lock: private.Lock) -> None:
    """Continue as a daemon; the original process exits with 0."""
    try:
        # Part of the extra [scheduler], and not needed in the foreground.
        import daemon
    except ImportError as error:
        raise ConfigError(
            "python-daemon is not installed: pip install 'freezer[scheduler]', or use "
            '--no-daemon'
        ) from error
    daemon.DaemonContext(
        detach_process=True,
        umask=private.UMASK,
        working_directory='/',
        files_preserve=[lock.fd],
        signal_map={},
    ).open()
