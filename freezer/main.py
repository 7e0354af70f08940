"""argv in, exit code out: wires configuration, storage, engine and job.

Exit codes: 0 it was done; 1 it was not, with one line that says why on standard error;
2 an argument is unknown; for action exec, the command's own.
"""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from freezer.common.config import AgentConfig
    from freezer.storage.repository import Repository
    from freezer.utils.progress import Progress
    from freezer.watch import Watch


def main(argv: Sequence[str] | None = None) -> int:
    """The console script ``freezer-agent``."""
    argv = sys.argv[1:] if argv is None else argv
    if '--version' in argv:
        from freezer.common.version import version

        # Nothing else is needed to answer, so nothing else is imported.
        print(f'freezer-agent {version()}')
        return 0
    _occupy_standard_streams()
    return _Agent().run(argv)


def _occupy_standard_streams() -> None:
    """See that no file and no connection gets a number below 3.

    Who starts the agent without one of its three streams would find there what some
    library, or a child, says to it.
    """
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    import os

    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


class _Agent:
    """One run. ``quiet`` is known once the options are read."""

    def __init__(self) -> None:
        self._quiet = False
        self._watch: Watch | None = None

    def run(self, argv: Sequence[str]) -> int:
        import logging
        import os

        from freezer.utils import collection, lazy

        # oslo.config's, for options that are URLs: there is none, and to load it is a
        # tenth of what it takes to start.
        lazy.postpone('rfc3986')
        with collection.suspended():
            from freezer.common import config
            from freezer.exceptions import FreezerError
            from freezer.storage.exceptions import StorageException
            from freezer.utils import signals
            from freezer.utils.text import NOTICES, SayHandler

        log = logging.getLogger(__name__)
        # Until the log is set up, nothing goes to standard error behind say()'s back.
        logging.getLogger().addHandler(logging.NullHandler())

        def on_timeout(interruption: signals.Interrupted) -> None:
            said = (
                f'interrupted by {interruption.name}; not all that was begun could be '
                f'undone in {signals.GRACE_SECONDS:g} s: what is left of an upload is '
                f'removed by the next backup, or --action admin, on this machine'
            )
            log.error(said)
            self._complain(said)

        with signals.as_exceptions(on_timeout):
            try:
                with collection.suspended():
                    settings = config.load(argv, os.environ)
                self._quiet = settings.quiet
                progress = _progress(settings)
                for listener in (progress.notice, self.say):
                    NOTICES.addHandler(SayHandler(listener))
                for line in settings.exposed:
                    NOTICES.warning('%s', line)
                return self._noted(
                    settings, progress, lambda: self._act(settings, progress)
                )
            except (FreezerError, StorageException) as error:
                log.exception('%s', error)
                self._complain(str(error))
                return 1
            except signals.Interrupted as interruption:
                log.error('interrupted by %s', interruption.name)
                self._complain(f'interrupted by {interruption.name}')
                interruption.pass_on()
                return 1
            except (OSError, MemoryError) as error:
                # Of this machine, where nobody had more to say: no memory, no files.
                log.exception('refused')
                self._complain(f'{_refusal(error)}; the log has the traceback')
                return 1
            except Exception as error:
                # A defect of this program: the line says what, the log says where.
                log.exception('unexpected')
                self._complain(
                    f'{type(error).__name__}: {error} (this is a defect; the log has '
                    f'the traceback)'
                )
                return 1

    def _noted(
        self, settings: 'AgentConfig', progress: 'Progress', act: Callable[[], int]
    ) -> int:
        """Act, and leave the result where ``--metrics-file`` says, however it ends."""
        if not settings.metrics_file:
            return act()
        import contextlib
        import logging

        from freezer.exceptions import FreezerError
        from freezer.metrics import MetricsFile
        from freezer.utils import signals

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
                # The failure itself is what is to be told.
                logging.getLogger(__name__).error('%s', error)
                self.say(f'Warning: {error}')

        try:
            with signals.on_forced_exit(note_at_once):
                code = act()
        except BaseException:
            note_failure()
            raise
        if code:
            note_failure()
            return code
        try:
            metrics.write(progress, success=True)
        except FreezerError as error:
            raise FreezerError(
                f'{error}; what was asked for was done, and its metrics are not there'
            ) from error
        return 0

    def _act(self, settings: 'AgentConfig', progress: 'Progress') -> int:
        from freezer import output
        from freezer.exceptions import FreezerError
        from freezer.job import job_of
        from freezer.utils import priority

        job = job_of(settings.action)
        job.validate(settings)
        if settings.max_priority:
            priority.raise_to_highest()
        repository = _repository(settings, progress)
        try:
            if repository is not None and job.writes and not settings.dry_run:
                repository.prepare()
            if job.writes and not settings.metadata_out:
                _import_ahead('prettytable')
            with self._watching(progress):
                outcome = job(settings, repository, self.say, progress).execute()
        finally:
            if repository is not None:
                repository.close()
        try:
            output.publish(outcome, settings.metadata_out)
        except output.NoOutput as error:
            raise FreezerError(
                f'what was asked for was done, and standard output {error} before the '
                f'result was written'
            ) from error
        for line in outcome.lines:
            self.say(line)
        if outcome.failure is not None:
            raise outcome.failure
        return outcome.exit_code

    def _watching(self, progress: 'Progress') -> 'AbstractContextManager[None]':
        """A block in which is told how far it is."""
        if self._quiet or sys.stderr is None:
            from contextlib import nullcontext

            return nullcontext()
        from freezer.watch import Watch

        self._watch = Watch(progress, sys.stderr)
        return self._watch.watching()

    def say(self, text: str) -> None:
        """A line for the person who watches."""
        if self._quiet:
            return
        from contextlib import nullcontext

        from freezer import output

        with self._watch.interrupted() if self._watch else nullcontext():
            output.say(text)

    def _complain(self, text: str) -> None:
        """The last thing that is said."""
        if self._watch:
            self._watch.end()
        self.say(f'Critical Error: {" ".join(text.split())}')


def _progress(settings: 'AgentConfig') -> 'Progress':
    """Of all storages together; what they send and receive is limited together, too."""
    from freezer.utils.progress import Progress
    from freezer.utils.rate import Rate

    return Progress(Rate(settings.upload_limit), Rate(settings.download_limit))


def _repository(settings: 'AgentConfig', progress: 'Progress') -> 'Repository | None':
    """Driver objects that have contacted no store yet; None for actions without one."""
    import dataclasses

    from freezer.storage.repository import Repository

    if not settings.storages:
        return None
    return Repository(
        {
            options.name: driver.from_settings(
                dataclasses.replace(
                    options,
                    sending=progress.sending,
                    receiving=progress.receiving,
                    progress=progress,
                )
            )
            for driver, options in settings.storages
        }
    )


def _import_ahead(name: str) -> None:
    """Import what the result is shown with while the store is waited for."""
    import importlib
    import threading

    threading.Thread(
        target=importlib.import_module, args=(name,), name='imports', daemon=True
    ).start()


def _refusal(error: OSError | MemoryError) -> str:
    if isinstance(error, MemoryError):
        return 'there is not enough memory'
    where = f'{error.filename}: ' if error.filename else ''
    return f'{where}{error.strerror or error}'


if __name__ == '__main__':
    sys.exit(main())
