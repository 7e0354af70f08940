"""Commands whose output is backed up, or that a restore writes to."""

import contextlib
import fcntl
import logging
import os
import select
import shutil
import subprocess
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import IO, Final, NamedTuple

from freezer.exceptions import ConfigError, EngineError
from freezer.utils import commands
from freezer.utils.blocks import Block
from freezer.utils.text import printable, shortened

LOG = logging.getLogger(__name__)

# The largest pipe that any user may have.
_PIPE_SIZE: Final = 1 << 20
# Seconds: how soon it is noticed that nobody reads any more.
_POLL: Final = 0.2
# Seconds for a program to print its version.
_VERSION_LIMIT: Final = 20.0
_LONGEST_LINE: Final = 200

Pipeline = Sequence[Sequence[str]]


class Command(NamedTuple):
    """A command of the user.

    :ivar option: that it is from, for messages
    """

    option: str
    pipeline: Pipeline

    @property
    def name(self) -> str:
        return ' | '.join(os.path.basename(argv[0]) for argv in self.pipeline)

    def check(self) -> None:
        """:raises ConfigError: a program of it is not there"""
        for argv in self.pipeline:
            if shutil.which(argv[0]) is None:
                raise ConfigError(
                    f'{self.option}: there is no program {argv[0]}: install it, or '
                    f'give its path'
                )


def read(
    descriptor: int,
    cancelled: threading.Event,
    is_over: Callable[[], bool] = lambda: False,
) -> Generator[bytes, None, None]:
    """All that comes from a pipe.

    :param cancelled: stop waiting
    :param is_over: whether to stop also before the end, asked while nothing comes
    :raises EngineError: ``cancelled`` was set
    """
    with contextlib.suppress(OSError):
        # A user who has many pipes is refused more room; and it may be a file.
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while True:
        _check(cancelled)
        if not poll.poll(_POLL * 1000):
            if is_over():
                return
            continue
        block = os.read(descriptor, _PIPE_SIZE)
        if not block:
            return
        yield block


def output(
    command: Command, cancelled: threading.Event
) -> Generator[bytes, None, None]:
    """The standard output of a command. If not all of it is read, it is killed.

    :raises EngineError: it cannot be started, a process of it failed, or ``cancelled``
        was set
    """
    with _running(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as running:
        stdout = running.processes[-1].stdout
        assert stdout is not None
        with stdout:
            # A child that a failed process left behind may hold the pipe open.
            yield from read(stdout.fileno(), cancelled, running.has_failed)
        running.wait(cancelled)


def feed(command: Command, blocks: Iterable[Block]) -> None:
    """Write to the standard input of a command, and wait until it has ended. If the
    blocks raise, it is killed before it could take that for their end.

    :raises EngineError: it cannot be started, a process of it failed, or it did not
        read everything
    """
    with _running(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as running:
        stdin = running.processes[0].stdin
        assert stdin is not None
        with contextlib.suppress(OSError):
            fcntl.fcntl(stdin, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        is_read = all(_write(stdin, block) for block in blocks)
        left = _other_end(stdin) if is_read else None
        with contextlib.suppress(BrokenPipeError):
            stdin.close()
        with left or contextlib.nullcontext():
            running.wait(threading.Event())
            is_read = left is not None and not left.read(1)
    if not is_read:
        raise EngineError(
            f'{command.option}: {command.name} exited with 0, but did not read all of '
            f'the backup: it was not restored'
        )


def _write(pipe: IO[bytes], block: Block) -> bool:
    """Write now. :returns: whether somebody can still read it"""
    try:
        pipe.write(block)
        pipe.flush()
    except BrokenPipeError:
        return False
    return True


def _other_end(pipe: IO[bytes]) -> IO[bytes]:
    """An end of our own to read from, for what its reader leaves in the pipe."""
    return open(f'/proc/self/fd/{pipe.fileno()}', 'rb', buffering=0)


def run(command: Command) -> None:
    """Run a command without input and output.

    :raises EngineError: it cannot be started, or failed
    """
    with _running(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as running:
        running.wait(threading.Event())


def first_line(argv: Sequence[str]) -> str | None:
    """The first line that a program prints, such as its version; None if it fails."""
    try:
        done = subprocess.run(
            [*argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_VERSION_LIMIT,
            env=commands.database_environment(),
            start_new_session=True,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        LOG.warning('%s: %s', argv[0], error)
        return None
    lines = (done.stdout + b'\n' + done.stderr).decode(errors='replace').split('\n')
    line = next((each.strip() for each in lines if each.strip()), '')
    if done.returncode:
        LOG.warning('%s exited with %d: %s', argv[0], done.returncode, line)
        return None
    return shortened(printable(line), _LONGEST_LINE) or None


class _Running:
    """A command that runs.

    :ivar processes: of its pipeline
    """

    def __init__(
        self,
        command: Command,
        processes: Sequence[commands.Process],
        errors: commands.Output,
    ) -> None:
        self._command = command
        self.processes = processes
        self._errors = errors

    def has_failed(self) -> bool:
        """Whether a process has failed already."""
        return any(each.poll() for each in self.processes)

    def wait(self, cancelled: threading.Event) -> None:
        """Wait until all processes have ended, or one has failed.

        :raises EngineError: one failed, or ``cancelled`` was set
        """
        for process in self.processes:
            while not self.has_failed():
                try:
                    process.wait(_POLL)
                    break
                except subprocess.TimeoutExpired:
                    _check(cancelled)
        if reason := commands.failure(self.processes, self._errors):
            raise EngineError(f'{self._command.option}: {self._command.name} {reason}')


@contextlib.contextmanager
def _running(command: Command, stdin: int, stdout: int) -> Iterator[_Running]:
    """Run a command. If the block raises, its processes are killed."""
    LOG.info('running %s', command.name)
    with contextlib.ExitStack() as stack:
        with contextlib.ExitStack() as ends:
            errors = commands.Output(ends, keep_first=False)
            try:
                processes = stack.enter_context(
                    commands.started(
                        command.option,
                        command.pipeline,
                        stdin=stdin,
                        stdout=stdout,
                        own_group=True,
                        stderr=errors.end,
                        env=commands.database_environment(),
                    )
                )
            except ConfigError as error:
                raise EngineError(str(error)) from error
        try:
            yield _Running(command, processes, errors)
        except BaseException:
            # The last one first: none may see the end of the input of another.
            for each in reversed(processes):
                commands.kill_group(each)
                if each.stdin is not None:
                    with contextlib.suppress(OSError):
                        each.stdin.close()
            raise


def _check(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise EngineError('the backup was cancelled')
