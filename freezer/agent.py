"""One run of the agent: wires configuration, storage and job, and reports errors."""

import contextlib
import dataclasses
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from freezer import output
from freezer.common import config
from freezer.common.config import AgentConfig
from freezer.exceptions import ConfigError, FreezerError
from freezer.job import job_of
from freezer.metrics import MetricsFile
from freezer.notify import Hooks, Result, notify
from freezer.storage.exceptions import StorageException
from freezer.storage.repository import Repository
from freezer.utils import signals, startup, streams
from freezer.utils.progress import Progress
from freezer.utils.rate import Rate, Share
from freezer.utils.text import NOTICES, SayHandler
from freezer.watch import Watch

if TYPE_CHECKING:
    from freezer.job.job import Outcome

LOG = logging.getLogger(__name__)

_HIGHEST_NICENESS = -19


class Agent:
    """One run. ``quiet`` is known once the options are read."""

    def __init__(self) -> None:
        self._quiet = False
        self._watch: Watch | None = None
        self._result = Result()
        self._interruption: signals.Interrupted | None = None
        self._notify: Callable[[], None] = lambda: None
        self._hooks: Hooks | None = None

    def run(self, argv: Sequence[str]) -> int:
        """:returns: the exit code"""
        # Until the log is set up, nothing else writes to standard error.
        logging.getLogger().addHandler(logging.NullHandler())
        with signals.as_exceptions(self._report_timeout):
            result = self._result
            result.code = self._reported(lambda: self._load_and_act(argv))

            def run_command() -> int:
                # The command reports the result of the action.
                self._notify()
                return result.code

            result.code = self._reported(run_command)
            if self._interruption is not None:
                self._interruption.pass_on()
            return result.code

    def _reported(self, act: Callable[[], int]) -> int:
        """Act, and report an error. :returns: the exit code"""
        try:
            return act()
        except (FreezerError, StorageException) as error:
            LOG.error('%s', error)
            LOG.debug('where it was raised', exc_info=True)
            self._complain(str(error))
            return 1
        except signals.Interrupted as interruption:
            LOG.error('interrupted by %s', interruption.name)
            self._complain(f'interrupted by {interruption.name}')
            self._interruption = interruption
            return 128 + interruption.number
        except (OSError, MemoryError) as error:
            # Of this machine: no memory, no file descriptors.
            LOG.exception('system error')
            self._complain(f'{_reason(error)}; the log has the traceback')
            return 1
        except Exception as error:
            # A defect of this program; the log has the traceback.
            LOG.exception('unexpected error')
            self._complain(
                f'{type(error).__name__}: {error} (this is a defect; the log has '
                f'the traceback)'
            )
            return 1

    def _load_and_act(self, argv: Sequence[str]) -> int:
        with startup.no_garbage_collection():
            settings = config.load(argv, os.environ)
        self._quiet = settings.quiet
        progress = make_progress(settings)

        def run_command() -> None:
            try:
                notify(settings, self._result, progress)
            except ConfigError as error:
                LOG.warning('%s', error)
                self.say(f'Warning: {error}')

        self._notify = run_command
        for listener in (progress.notice, self.say):
            NOTICES.addHandler(SayHandler(listener))
        for line in settings.warnings:
            NOTICES.warning('%s', line)
        return self._with_metrics(
            settings, progress, lambda: self._act(settings, progress)
        )

    def _report_timeout(self, interruption: signals.Interrupted) -> None:
        command = 'on-failure-command' if self._interruption is not None else ''
        if self._hooks is not None and self._hooks.is_ending:
            command = 'post-command'
        text = (
            f'interrupted by {interruption.name}; {command} was killed, because it did '
            f'not end in time'
            if command
            else f'interrupted by {interruption.name}; cleaning up took longer than '
            f'{signals.GRACE_SECONDS:g} s: the next backup, or --action admin, on this '
            f'machine removes the leftovers'
        )
        LOG.error(text)
        self._complain(text)

    def _with_metrics(
        self, settings: AgentConfig, progress: Progress, act: Callable[[], int]
    ) -> int:
        """Act, and write ``--metrics-file``, whatever the result."""
        if not settings.metrics_file:
            return act()
        metrics = MetricsFile(settings.metrics_file, settings)
        if settings.dry_run:
            return act()

        def note_at_once() -> None:
            with contextlib.suppress(FreezerError):
                metrics.write(progress, success=False, patience=0)

        def note_failure() -> None:
            try:
                metrics.write(progress, success=False)
            except FreezerError as error:
                # The failure itself is the one to report.
                LOG.error('%s', error)
                self.say(f'Warning: {error}')

        try:
            with signals.on_forced_exit(note_at_once):
                code = act()
        except BaseException:
            note_failure()
            raise
        if code and not progress.incomplete:
            note_failure()
            return code
        try:
            metrics.write(progress, success=True)
        except FreezerError as error:
            raise FreezerError(
                f'{error}; the action succeeded, but its metrics were not written'
            ) from error
        return code

    def _act(self, settings: AgentConfig, progress: Progress) -> int:
        with contextlib.ExitStack() as stack:
            repository = make_repository(settings, progress)
            if repository is not None:
                stack.callback(repository.close)
            kind = job_of(settings.action, settings.is_elsewhere)
            job = kind(settings, repository, self.say, progress)
            job.check_options()

            def execute() -> 'Outcome':
                job.validate()
                if settings.max_priority:
                    _raise_priority()
                if repository is not None and job.writes and not settings.dry_run:
                    repository.prepare()
                return job.execute()

            self._hooks = Hooks(settings, progress, self.say)
            with self._watching(progress):
                outcome = self._between(self._hooks, execute)
                self._result.document = outcome.document
                # Otherwise the terminal may show what is written.
                is_shown = outcome.content is not None and output.is_file()
                if is_shown:
                    is_read = _publish(outcome, settings)
            if not is_shown:
                is_read = _publish(outcome, settings)
        # Without a document, the lines count what was shown.
        if is_read or outcome.document is not None:
            for line in outcome.lines:
                self._result.message = self._result.message or line
                self.say(line)
        if outcome.failure is not None:
            raise outcome.failure
        return outcome.exit_code

    def _between(self, hooks: Hooks, execute: Callable[[], 'Outcome']) -> 'Outcome':
        """Act, between the commands before and after it."""
        try:
            hooks.before()
            outcome = execute()
        except BaseException as error:
            hooks.after_failure(_failure(error))
            raise
        result = Result(outcome.exit_code, '', outcome.document)
        if outcome.failure is not None:
            result = _failure(outcome.failure)
            result.document = outcome.document
            hooks.after_failure(result)
            return outcome
        if isinstance(outcome.lines, Sequence):
            result.message = next(iter(outcome.lines), '')
        try:
            hooks.after(result)
        except FreezerError as error:
            done = 'the backup is committed'
            if outcome.document is None or hooks.action != 'backup':
                done = f'action {hooks.action} was done'
            outcome.failure = FreezerError(f'{error}; {done}')
        return outcome

    def _watching(self, progress: Progress) -> contextlib.AbstractContextManager[None]:
        """A block whose progress is shown."""
        if self._quiet or sys.stderr is None:
            return contextlib.nullcontext()
        self._watch = Watch(progress, sys.stderr)
        return self._watch.watching()

    def say(self, text: str) -> None:
        """Show a line on the terminal."""
        if self._quiet:
            return
        with self._watch.interrupted() if self._watch else contextlib.nullcontext():
            streams.say(text)

    def _complain(self, text: str) -> None:
        """Show the error that ends the run."""
        if self._watch:
            self._watch.end()
        self._result.message = ' '.join(text.split())
        self.say(f'Error: {self._result.message}')


def _publish(outcome: 'Outcome', settings: AgentConfig) -> bool:
    """Whether all of the result was read.

    :raises FreezerError: the result cannot be written
    """
    try:
        output.publish(outcome, settings.metadata_out, settings.long)
    except streams.ReaderGone:
        return False
    except streams.NoOutput as error:
        raise FreezerError(
            f'standard output {error} before all of the file was written'
            if outcome.content is not None
            else f'the action succeeded, but standard output {error} before the result '
            f'was written'
        ) from error
    return True


def make_progress(settings: AgentConfig) -> Progress:
    """Shared by all storages, as are its limits for sending and receiving."""
    return Progress(Rate(settings.upload_limit), Rate(settings.download_limit))


def make_repository(settings: AgentConfig, progress: Progress) -> Repository | None:
    """The storages, without contacting any; None if the run needs none."""
    if not settings.storages:
        return None
    sent = {options.name: Share(progress.sending) for _, options in settings.storages}
    repository = Repository(
        {
            options.name: driver.from_settings(
                dataclasses.replace(
                    options,
                    sending=sent[options.name],
                    receiving=progress.receiving,
                    progress=progress,
                    others_wait=lambda: repository.has_several,
                )
            )
            for driver, options in settings.storages
        },
        sent,
    )
    return repository


def _raise_priority() -> None:
    """Give this process and its children the highest CPU and disk priority."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _HIGHEST_NICENESS)
        subprocess.run(
            ['ionice', '-c', '1', '-n', '0', '-p', str(os.getpid())],  # noqa: S607
            check=True,
            capture_output=True,
            # Other variables may contain secrets.
            env={'PATH': os.environ.get('PATH', os.defpath)},
        )
    except (OSError, subprocess.CalledProcessError) as error:
        LOG.warning('the priority could not be raised: %s', error)


def _failure(error: BaseException) -> Result:
    """The result of a run that ends with an error."""
    if isinstance(error, signals.Interrupted):
        return Result(128 + error.number, f'interrupted by {error.name}')
    if isinstance(error, OSError | MemoryError):
        return Result(1, _reason(error))
    return Result(1, ' '.join(str(error).split()))


def _reason(error: OSError | MemoryError) -> str:
    if isinstance(error, MemoryError):
        return 'out of memory'
    where = f'{error.filename}: ' if error.filename else ''
    return f'{where}{error.strerror or error}'
