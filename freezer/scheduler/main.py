"""``freezer-scheduler``: argv in, exit code out.

Exit codes: 0 it was done; 1 it was not, with one line on standard error; 2 an argument
is unknown, or the command is missing; 3 ``status``, and the scheduler is not running;
of ``run``, that of the agent.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from freezer.exceptions import ConfigError, FreezerError
from freezer.scheduler import config, control, directory, private, report
from freezer.scheduler.config import Settings
from freezer.scheduler.loop import job_lock
from freezer.scheduler.record import ABORTED
from freezer.scheduler.runner import Run
from freezer.utils.text import printable

LOG = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """The console script ``freezer-scheduler``."""
    argv = sys.argv[1:] if argv is None else argv
    if '--version' in argv:
        from freezer.common.version import version

        print(f'{config.PROG} {version()}')
        return 0
    os.umask(private.UMASK)
    # Until the log is set up, nothing goes to standard error behind our back.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        settings = config.load(argv, os.environ)
        return _COMMANDS[settings.command](settings)
    except FreezerError as error:
        LOG.error('%s', error)
        _complain(str(error))
        return 1
    except Exception as error:
        # A defect of this program: the line says what, the log says where.
        LOG.exception('unexpected')
        _complain(f'{type(error).__name__}: {error} (this is a defect)')
        return 1


def _complain(text: str) -> None:
    said = printable(' '.join(text.split()))
    print(f'{config.PROG}: {said}', file=sys.stderr)


def _run(settings: Settings) -> int:
    """One job, once, now and here."""
    document = directory.read(Path(settings.files[0]).absolute())
    refused = settings.refuses(document)
    if refused:
        raise ConfigError(f'{document.path}: {refused}')
    lock = job_lock(private.directory(settings.runtime_dir), document.job_id)
    if not lock.take():
        raise ConfigError(
            f'job {document.job_id} is running: wait for its end, or stop it'
        )
    config.set_up_log(settings, foreground=True)
    run = Run(document, lock, settings.environ)

    def stop(_number: int, _frame: FrameType | None) -> None:
        # Not here: what it interrupted may hold the lock that it needs.
        threading.Thread(target=run.abort).start()

    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, stop)
    outcome = run.execute()
    code = outcome.exit_code
    if outcome.result == ABORTED and not code:
        return 1
    return code if code >= 0 else 128 - code


_COMMANDS: dict[str, Callable[[Settings], int]] = {
    'start': control.start,
    'stop': control.stop,
    'restart': control.restart,
    'reload': control.reload,
    'status': report.status,
    'validate': report.validate,
    'run': _run,
}


if __name__ == '__main__':
    sys.exit(main())
