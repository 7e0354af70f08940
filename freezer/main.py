"""argv in, exit code out: wires configuration, storage, engine and job.

Exit codes: 0 it was done; 1 it was not, with one line that says why on standard error;
2 an argument is unknown; for action exec, the command's own.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from freezer.common.config import AgentConfig
    from freezer.job.job import Outcome
    from freezer.storage.base import Storage


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

    def run(self, argv: Sequence[str]) -> int:
        import logging
        import os

        from freezer.utils import collection

        with collection.suspended():
            from freezer.common import config
            from freezer.exceptions import FreezerError
            from freezer.storage.exceptions import StorageException
            from freezer.utils import signals
            from freezer.utils.text import NOTICES, SayHandler

        log = logging.getLogger(__name__)
        # Until the log is set up, nothing goes to standard error behind say()'s back.
        logging.getLogger().addHandler(logging.NullHandler())

        def last_words(interruption: signals.Interrupted) -> None:
            said = (
                f'interrupted by {interruption.name}; not all that was begun could be '
                f'undone in {signals.GRACE_SECONDS:g} s: what is left of an upload is '
                f'removed by the next backup, or --action admin, on this machine'
            )
            log.error(said)
            self._complain(said)

        with signals.raised(last_words):
            try:
                with collection.suspended():
                    settings = config.load(argv, os.environ)
                self._quiet = settings.quiet
                NOTICES.addHandler(SayHandler(self.say))
                for line in settings.exposed:
                    NOTICES.warning('%s', line)
                return self._act(settings)
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

    def _act(self, settings: 'AgentConfig') -> int:
        from freezer.exceptions import FreezerError
        from freezer.job import job_of
        from freezer.utils import priority

        job = job_of(settings.action)
        job.validate(settings)
        if settings.max_priority:
            priority.raise_to_highest()
        storage = _storage(settings)
        try:
            if storage is not None and job.writes and not settings.dry_run:
                storage.prepare()
            outcome = job(settings, storage, self.say).execute()
        finally:
            if storage is not None:
                storage.close()
        try:
            _publish(outcome, settings.metadata_out)
        except _NoOutput as error:
            raise FreezerError(
                f'what was asked for was done, and standard output {error} before the '
                f'result was written'
            ) from error
        for line in outcome.lines:
            self.say(line)
        if outcome.failure is not None:
            raise outcome.failure
        return outcome.exit_code

    def say(self, text: str) -> None:
        """A line for the person who watches."""
        # Without one, print() would take standard output.
        if not self._quiet and sys.stderr is not None:
            from freezer.utils.text import printable

            try:
                print(printable(text), file=sys.stderr, flush=True)
            except OSError:
                # What is done is no worse for that, and the log has it.
                _point_to_nothing(sys.stderr)

    def _complain(self, text: str) -> None:
        self.say(f'Critical Error: {" ".join(text.split())}')


def _storage(settings: 'AgentConfig') -> 'Storage | None':
    """Driver objects that have talked to nobody yet."""
    import dataclasses

    from freezer.storage.base import Storage
    from freezer.utils.rate import Rate

    if not settings.storages:
        return None
    # One of each, whatever the number of storages: it is the machine's line.
    sending, receiving = Rate(settings.upload_limit), Rate(settings.download_limit)
    members: dict[str, Storage] = {
        options.name: driver.from_settings(
            dataclasses.replace(options, sending=sending, receiving=receiving)
        )
        for driver, options in settings.storages
    }
    if settings.storage != 'multiple':
        (single,) = members.values()
        return single
    from freezer.storage.multiple import MultipleStorage

    return MultipleStorage(members)


def _publish(outcome: 'Outcome', metadata_out: str | None) -> None:
    """The result: JSON where it is asked for, else tables."""
    if metadata_out:
        if outcome.document is not None:
            _write_json(outcome.document, metadata_out)
        return
    # Without standard output nobody wants to see them.
    for table in outcome.tables if sys.stdout is not None else ():
        import prettytable

        from freezer.utils.text import printable

        shown = prettytable.PrettyTable(table.header)
        shown.align = 'l'
        if table.width:
            shown.max_width = table.width
            shown.break_on_hyphens = False
        shown.add_rows([[printable(str(cell)) for cell in row] for row in table.rows])
        _print(f'{shown}\n')


class _NoOutput(Exception):
    """What became of standard output."""


def _print(text: str) -> None:
    """:raises _NoOutput: it cannot be written"""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        _point_to_nothing(sys.stdout)
        gone = isinstance(error, BrokenPipeError)
        raise _NoOutput(
            'was closed' if gone else f'failed ({error.strerror})'
        ) from error


def _point_to_nothing(stream: TextIO) -> None:
    """Else the interpreter tries again when it ends."""
    import os

    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


def _refusal(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return 'there is not enough memory'
    assert isinstance(error, OSError)
    where = f'{error.filename}: ' if error.filename else ''
    return f'{where}{error.strerror or error}'


def _write_json(document: Any, path: str) -> None:
    import json

    from freezer.exceptions import FreezerError

    text = json.dumps(document)
    if path == '-':
        if sys.stdout is None:
            raise _NoOutput('was closed')
        _print(text)
        return
    try:
        with open(path, 'w', encoding='utf-8') as stream:
            stream.write(text)
    except OSError as error:
        raise FreezerError(
            f'metadata-out {path}: {error.strerror}; what was asked for was done, and '
            f'its result is: {text}'
        ) from error


if __name__ == '__main__':
    sys.exit(main())
