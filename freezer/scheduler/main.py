"""``freezer-scheduler``: argv in, exit code out.

Exit codes: 0 success; 1 failure, with one line on standard error; 2 an argument is
unknown, or the command is missing; 3 ``status``: the scheduler is not running. ``run``
returns the exit code of the agent.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from freezer.common import logs, version
from freezer.exceptions import ConfigError, FreezerError
from freezer.scheduler import config, control, private, report
from freezer.scheduler.config import Settings
from freezer.scheduler.documents.document import DocumentError
from freezer.scheduler.options import PROG
from freezer.scheduler.runs.record import ABORTED
from freezer.scheduler.runs.runner import JobRun, job_lock
from freezer.scheduler.sources import directory
from freezer.utils import streams

LOG = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if '--version' in argv:
        return version.show(PROG)
    os.umask(private.UMASK)
    # Until the log is set up, logging must not write to standard error.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        settings = config.load(argv, os.environ)
        return _COMMANDS[settings.command](settings)
    except FreezerError as error:
        LOG.error('%s', error)
        _complain(str(error))
        return 1
    except Exception as error:
        # A bug: print one line, and log the traceback.
        LOG.exception('unexpected error')
        _complain(f'{type(error).__name__}: {error} (this is a bug)')
        return 1


def _complain(text: str) -> None:
    streams.say(f'Error: {" ".join(text.split())}')


def _shown(command: Callable[[Settings], int]) -> Callable[[Settings], int]:
    """A command that shows all it prints at once, at its end."""

    def run(settings: Settings) -> int:
        with streams.shown():
            return command(settings)

    return run


def _run(settings: Settings) -> int:
    """Run one job now, in the foreground."""
    read = directory.read(Path(settings.files[0]).absolute())
    (document,) = settings.check([read])
    if isinstance(document, DocumentError):
        raise document
    rejected = settings.reject_reason(document)
    if rejected:
        raise ConfigError(f'{document.path}: will not run: {rejected}')
    lock = job_lock(private.directory(settings.runtime_dir), document.job_id)
    if not lock.take():
        raise ConfigError(
            f'job {document.job_id} is already running: wait for it, or stop it'
        )
    logs.set_up(settings.conf, 'scheduler.log', by_default=False)
    run = JobRun(document, lock, settings.environ)

    def stop(_number: int, _frame: FrameType | None) -> None:
        # In a thread: the interrupted code may hold the lock that abort() takes.
        threading.Thread(target=run.abort).start()

    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, stop)
    result = run.execute()
    code = result.exit_code
    if result.result == ABORTED and not code:
        return 1
    return code if code >= 0 else 128 - code


_COMMANDS: dict[str, Callable[[Settings], int]] = {
    'start': control.start,
    'stop': control.stop,
    'restart': control.restart,
    'reload': control.reload,
    'status': _shown(report.status),
    'validate': _shown(report.validate),
    'run': _run,
}


if __name__ == '__main__':
    sys.exit(main())
