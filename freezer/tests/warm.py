"""Start agents as forks of one process that has loaded their modules.

Loading takes more than half of the time of a small action, and the tests start some
thousands of agents: functional/test_agent_s3.py takes 128 s so, and 244 s with agents
that are started cold.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence

# Python and the dynamic loader read these before any code of ours runs.
_READ_AT_START = ('PYTHON', 'LD_', 'LC_', 'LANG', 'GLIBC_', 'MALLOC_')
_STARTING = threading.Lock()

_CONTEXT = multiprocessing.get_context('forkserver')
_CONTEXT.set_forkserver_preload(['freezer.tests.preload'])


def suits(env: Mapping[str, str], ours: Mapping[str, str]) -> bool:
    """Whether an agent with this environment may be a fork."""
    return _read_at_start(env) == _read_at_start(ours)


def _read_at_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: env[name] for name in env if name.startswith(_READ_AT_START)}


class Fork:
    """An agent, in the current directory and with empty input. The methods are those
    of :class:`subprocess.Popen`.

    :param stdout: descriptor of a file
    :param stderr: another
    :param target: what the fork does; None for :func:`run`
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        stdout: int,
        stderr: int,
        target: Callable[..., None] | None = None,
    ) -> None:
        umask = os.umask(0)
        os.umask(umask)
        streams = [f'/proc/{os.getpid()}/fd/{number}' for number in (stdout, stderr)]
        self._process = _CONTEXT.Process(
            target=target or run,
            args=(argv, env, os.getcwd(), umask, streams),
            daemon=True,
        )
        # Otherwise the child would import the main module: pytest.
        with _STARTING:
            main = sys.modules['__main__']
            sys.modules['__main__'] = types.ModuleType('__main__')
            try:
                self._process.start()
            finally:
                sys.modules['__main__'] = main
        assert self._process.pid
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired('freezer-agent', timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.poll() is None:
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    argv: Sequence[str],
    env: Mapping[str, str],
    directory: str,
    umask: int,
    streams: Sequence[str],
) -> None:
    """In the fork: take over what a new process has of its parent, and be the agent."""
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.closerange(3, 1024)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(directory)
    os.umask(umask)
    sys.argv = list(argv)
    time.tzset()
    random.seed()
    tempfile.tempdir = None
    faulthandler.enable()
    from freezer.main import main  # not in the process of the tests

    sys.exit(main())
