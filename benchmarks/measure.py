"""Measures one command with all its child processes."""

import contextlib
import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Often enough for lasting peaks; a sample takes four milliseconds of CPU time, which
# the measured tool needs too.
_SAMPLE_SECONDS = 0.1
_PIPE_SIZE = 2**20
_BLOCK = 2**20


class Failed(Exception):
    """The command failed."""


@dataclass(frozen=True)
class Cost:
    """Cost of a run.

    :ivar wall: wall seconds
    :ivar cpu: CPU seconds (user and system) of the whole process tree
    :ivar peak: maximum memory of the whole tree in MiB (proportional set size),
        sampled. ``ru_maxrss`` would include the memory of this process when it forked
    """

    wall: float
    cpu: float
    peak: float


def measure(
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    source: Path | None = None,
    times: int = 1,
    sink: int | None = None,
    cwd: Path | None = None,
    patience: float = 600.0,
) -> Cost:
    """Run a command.

    :param source: a file sent to its standard input through a pipe. This process feeds
        the pipe, so the cost is not counted
    :param times: how often the file is sent
    :param sink: number of bytes expected on its standard output, through a pipe
    :param patience: seconds after which it is killed
    :raises Failed: it exited with an error, or its output had another length; the
        message ends with its standard error
    """
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(_temporary())
        begun = time.monotonic()
        process = subprocess.Popen(
            argv,
            env=dict(environment),
            stdin=subprocess.PIPE if source else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if sink is None else subprocess.PIPE,
            stderr=errors,
            cwd=cwd,
            start_new_session=True,
        )
        helpers = []
        came = [0]
        if source:
            assert process.stdin is not None
            helpers.append(_start(_feed, source, times, process.stdin.fileno()))
        if sink is not None:
            assert process.stdout is not None
            helpers.append(_start(_drain, process.stdout.fileno(), came))
        ended = threading.Event()
        peaks = [0.0]
        sampler = _start(_sample, process.pid, ended, peaks)
        killer = threading.Timer(patience, os.killpg, (process.pid, signal.SIGKILL))
        killer.start()
        _, status, used = os.wait4(process.pid, 0)
        killer.cancel()
        wall = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        for helper in (sampler, *helpers):
            helper.join()
        if process.stdout is not None:
            process.stdout.close()
        if process.returncode:
            raise Failed(f'exit {process.returncode}: {_tail(errors)}')
        if sink is not None and came[0] != sink:
            raise Failed(f'received {came[0]} bytes, expected {sink}: {_tail(errors)}')
    return Cost(wall, used.ru_utime + used.ru_stime, peaks[0])


def _start(function: object, *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments, daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread


@contextlib.contextmanager
def _temporary() -> Iterator[int]:
    fd = os.memfd_create('errors')
    try:
        yield fd
    finally:
        os.close(fd)


def _tail(fd: int) -> str:
    size = os.fstat(fd).st_size
    return os.pread(fd, 2000, max(0, size - 2000)).decode(errors='replace').strip()


def _feed(source: Path, times: int, pipe: int) -> None:
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    with source.open('rb') as stream, contextlib.suppress(BrokenPipeError):
        for _ in range(times):
            stream.seek(0)
            # Pages from the page cache, without copying.
            while os.splice(stream.fileno(), pipe, _BLOCK):
                pass
    os.close(pipe)


def _drain(pipe: int, came: list[int]) -> None:
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    with open('/dev/null', 'wb') as nowhere:
        while moved := os.splice(pipe, nowhere.fileno(), _BLOCK):
            came[0] += moved


def _sample(leader: int, ended: threading.Event, peaks: list[float]) -> None:
    while not ended.wait(_SAMPLE_SECONDS):
        peaks[0] = max(peaks[0], sum(map(_size, _tree(leader))))


def _tree(leader: int) -> set[int]:
    """The process and all its descendants."""
    parents = {}
    for name in filter(str.isdecimal, os.listdir('/proc')):
        with contextlib.suppress(OSError):
            stat = Path(f'/proc/{name}/stat').read_text()
            # After the command name, which may contain any character.
            parents[int(name)] = int(stat.rpartition(')')[2].split()[1])
    found, added = {leader}, True
    while added:
        children = {child for child, parent in parents.items() if parent in found}
        added = not children <= found
        found |= children
    return found


def _size(process: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f'/proc/{process}/smaps_rollup').read_text().splitlines():
            if line.startswith('Pss:'):
                return int(line.split()[1]) / 1024
    return 0.0
