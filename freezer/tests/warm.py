"""Agents that need not start from nothing.

More than half of what a small action costs is to load Python's modules, and the tests
run some thousands. So a process that has loaded them, and has done nothing with them,
is kept; each agent is a fork of it, with arguments, environment, directory, streams
and a process of its own, and goes through the same ``main``.

What is decided when Python itself starts is not of such an agent, nor is its line in
``ps``: see :func:`suits`, and the fixture ``cold``.
"""

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future
from typing import IO, Any, TypeVar

_T = TypeVar('_T')

#: what Python, or the loader of programs, reads before anything of ours is there
_READ_AT_START = ('PYTHON', 'LD_', 'LC_', 'LANG', 'GLIBC_', 'MALLOC_')

# Not at the top of any module of ours: they take long to load.
_LATE = (
    *('botocore.session', 'botocore.client', 'botocore.signers', 'botocore.handlers'),
    *('botocore.httpsession', 'botocore.parsers', 'botocore.retryhandler'),
    *('prettytable', 'tqdm', 'stevedore', 'oslo_log.log', 'urllib3.connectionpool'),
)


def suits(env: Mapping[str, str], ours: Mapping[str, str]) -> bool:
    """Whether an agent of an environment may be a fork of a process of ours."""
    return _read_at_start(env) == _read_at_start(ours)


def _read_at_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: env[name] for name in env if name.startswith(_READ_AT_START)}


class Child:
    """An agent: what :class:`subprocess.Popen` is of one that was started cold."""

    def __init__(
        self, pid: int, status: IO[bytes], stdout: IO[bytes], stderr: IO[bytes]
    ) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self._status = status
        self._said: tuple[Future[bytes], Future[bytes]] | None = None
        # It alone waits: the number is written when the agent has been reaped.
        self._code = _aside(self._reap)

    def _reap(self) -> int:
        with self._status:
            said = self._status.readline()
        # Of one whose shepherd was killed as well.
        return int(said) if said else -signal.SIGKILL

    def poll(self) -> int | None:
        return self._code.result() if self._code.done() else None

    def wait(self, timeout: float | None = None) -> int:
        return _within(timeout, self._code)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[bytes, bytes]:
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._said is None:
            self._said = (_aside(self.stdout.read), _aside(self.stderr.read))

        def left() -> float | None:
            return None if deadline is None else max(deadline - time.monotonic(), 0)

        out, err = (_within(left(), each) for each in self._said)
        _within(left(), self._code)
        self.stdout.close()
        self.stderr.close()
        return out, err


def _within(timeout: float | None, future: Future[_T]) -> _T:
    try:
        return future.result(timeout)
    except futures.TimeoutError:
        raise subprocess.TimeoutExpired('freezer-agent', timeout or 0) from None


def _aside(work: Callable[[], _T]) -> Future[_T]:
    """What a thread of its own comes to.

    Who waits for a future may be interrupted, and wait again; a thread whose ``join``
    was interrupted, as by the time limit of a test, counts as ended when it is not.
    """
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 (the waiter raises it)
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class Nursery:
    """The process they are forks of.

    :param env: its environment
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self._guard = threading.Lock()
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, '-m', __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env={**env, 'HOME': os.devnull},
                pass_fds=[theirs.fileno()],
            )

    def start(self, argv: Sequence[str], env: Mapping[str, str]) -> Child:
        """As ``argv`` would be, in the current directory; its input is empty."""
        umask = os.umask(0)
        os.umask(umask)
        request = {'argv': list(argv), 'env': dict(env), 'cwd': os.getcwd()}
        body = os.fsencode(json.dumps(request | {'umask': umask}))
        pipes = [os.pipe() for _ in range(3)]
        # A datagram has its limit, and an environment may be long.
        fd = os.memfd_create('request')
        os.write(fd, body)
        os.lseek(fd, 0, os.SEEK_SET)
        try:
            with self._guard:
                sent = [fd, *(theirs for _ours, theirs in pipes)]
                socket.send_fds(self._ours, [b'\0'], sent)
        finally:
            for each in (fd, *(theirs for _ours, theirs in pipes)):
                os.close(each)
        status, stdout, stderr = (os.fdopen(ours, 'rb') for ours, _theirs in pipes)
        pid = status.readline()
        assert pid, 'the process that agents are forks of has ended'
        return Child(int(pid), status, stdout, stderr)

    def close(self) -> None:
        self._ours.close()
        self._process.wait()


# -- In that process ------------------------------------------------------------------


def _load() -> None:
    """All that an agent may come to need."""
    import freezer
    from freezer.utils import lazy

    # In the order of main().
    lazy.postpone('rfc3986')
    importlib.import_module('freezer.common.config')
    for found in pkgutil.walk_packages(freezer.__path__, 'freezer.', onerror=print):
        if not found.name.startswith(('freezer.tests', 'freezer.scheduler')):
            # Of an extra that is not installed.
            with contextlib.suppress(ImportError):
                importlib.import_module(found.name)
    for name in _LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    from freezer.common import plugins

    # stevedore looks through all that is installed, and remembers it.
    for namespace in plugins.KINDS:
        plugins.options(namespace)


def _serve(control: socket.socket) -> dict[str, Any]:
    """Fork for each request; returns in the agent, with what is asked of it."""
    # Shepherds need no reaping.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, fds, _flags, _address = socket.recv_fds(control, 1, 4)
        if not message:
            sys.exit(0)
        # A shepherd for each, who waits for it.
        if os.fork() == 0:
            control.close()
            return _herd(*fds)
        for each in fds:
            os.close(each)


def _herd(request: int, status: int, stdout: int, stderr: int) -> dict[str, Any]:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid:
        for each in (request, stdout, stderr):
            os.close(each)
        os.write(status, b'%d\n' % pid)
        _pid, ended = os.waitpid(pid, 0)
        os.write(status, b'%d\n' % os.waitstatus_to_exitcode(ended))
        os._exit(0)
    with os.fdopen(request, 'rb') as stream:
        found: dict[str, Any] = json.loads(os.fsdecode(stream.read()))
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.closerange(3, 1024)
    return found


def _become(request: Mapping[str, Any]) -> None:
    """What a new process has of its parent, and what a fork would have of another."""
    os.environ.clear()
    os.environ.update(request['env'])
    os.chdir(request['cwd'])
    os.umask(request['umask'])
    sys.argv = request['argv']
    time.tzset()
    random.seed()
    tempfile.tempdir = None


if __name__ == '__main__':
    _load()
    # Else every fork would copy all of it, to look through it.
    gc.collect()
    gc.freeze()
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))))
    from freezer.main import main

    sys.exit(main())
