"""Start and stop: the pid file, the daemon, and signals from one command to another."""

import logging
import os
import signal
import time
from pathlib import Path

from freezer.exceptions import ConfigError, FreezerError
from freezer.scheduler import config, private, schedule
from freezer.scheduler.config import Settings
from freezer.scheduler.directory import Directory
from freezer.scheduler.loop import Scheduler
from freezer.scheduler.source import Source

LOG = logging.getLogger(__name__)

_PID_FILE = 'scheduler.pid'
# One who only looks whether it is locked has it for a moment.
_TRIES, _TRY_SECONDS = 5, 0.05
# To the number, after the lock; to the end, after grace and abort.
_NUMBER_SECONDS = 10.0
_END_SECONDS = 30.0


class PidFile:
    """Of the scheduler that has this directory for its own.

    The lock says whether it lives; the number is for signals, and is right while the
    lock is held.
    """

    def __init__(self, runtime_dir: Path) -> None:
        self._path = runtime_dir / _PID_FILE

    def take(self) -> private.Lock:
        """Until the end of this process, or the one that it becomes and that signs.

        :raises ConfigError: another scheduler has it
        """
        lock = private.Lock(self._path)
        for _try in range(_TRIES):
            if lock.take():
                os.ftruncate(lock.fd, 0)
                return lock
            time.sleep(_TRY_SECONDS)
        raise ConfigError(
            f'freezer-scheduler is running already, process {self._number()}; another '
            f'one needs a --scheduler-runtime-dir, and a --scheduler-state-dir, of its '
            f'own'
        )

    @staticmethod
    def sign(lock: private.Lock) -> None:
        os.pwrite(lock.fd, f'{os.getpid()}\n'.encode(), 0)

    def process(self) -> int | None:
        """The scheduler that runs; None if none does, whatever the file says."""
        deadline = time.monotonic() + _NUMBER_SECONDS
        while private.is_locked(self._path):
            number = self._number()
            if number is not None:
                return number
            if time.monotonic() > deadline:
                raise FreezerError(
                    f'{self._path}: is locked, and has no number in it: something else '
                    f'holds it (fuser tells)'
                )
            time.sleep(_TRY_SECONDS)
        return None

    def is_held(self) -> bool:
        return private.is_locked(self._path)

    def _number(self) -> int | None:
        try:
            return int(self._path.read_text())
        except (OSError, ValueError):
            return None


def start(settings: Settings) -> int:
    """Run as long as it is wanted; as a daemon return at once.

    :raises ConfigError: it cannot
    """
    _check(settings)
    private.directory(settings.state_dir)
    pid_file = PidFile(private.directory(settings.runtime_dir))
    lock = pid_file.take()
    if not settings.no_daemon:
        _detach(lock)
    config.set_up_log(settings, foreground=settings.no_daemon)
    pid_file.sign(lock)
    source = _source(settings)
    LOG.info('process %d takes jobs from %s', os.getpid(), source.place)
    Scheduler(settings, source).run()
    return 0


def _source(settings: Settings) -> Source:
    if settings.service is None:
        return Directory(settings.jobs_dir)
    from freezer.scheduler.remote import Remote

    return Remote(settings, settings.service)


def stop(settings: Settings) -> int:
    """Until it has ended; 0 also if none was running."""
    pid_file = PidFile(settings.runtime_dir)
    number = pid_file.process()
    if number is None:
        print('freezer-scheduler is not running')
        return 0
    _send(number, signal.SIGTERM)
    deadline = time.monotonic() + settings.stop_grace + _END_SECONDS
    while pid_file.is_held():
        if time.monotonic() > deadline:
            raise FreezerError(
                f'process {number} does not end: the log has what it waits for; kill '
                f'-KILL {number} ends it, and not its jobs'
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
            'freezer-scheduler is not running: freezer-scheduler start starts it'
        )
    _send(number, signal.SIGHUP)
    return 0


def _check(settings: Settings) -> None:
    """What would be too late to be told of by a daemon."""
    schedule.zone()
    if settings.service is not None:
        from freezer.scheduler import wire

        settings.service.check()
        wire.check()
        private.directory(settings.jobs_dir)
    elif not settings.jobs_dir.exists():
        raise ConfigError(
            f'jobs-dir {settings.jobs_dir}: there is no such directory: make it, or '
            f'give --scheduler-jobs-dir'
        )


def _send(number: int, which: signal.Signals) -> None:
    try:
        os.kill(number, which)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise FreezerError(
            f'process {number} is of another user: do this as that user, or as root'
        ) from error


def _detach(lock: private.Lock) -> None:
    """Go on as a daemon; the process that was started ends with 0."""
    try:
        import daemon
    except ImportError as error:
        raise ConfigError(
            "python-daemon is not installed: pip install 'freezer[scheduler]', or give "
            '--no-daemon'
        ) from error
    daemon.DaemonContext(
        detach_process=True,
        umask=private.UMASK,
        working_directory='/',
        files_preserve=[lock.fd],
        signal_map={},
    ).open()
