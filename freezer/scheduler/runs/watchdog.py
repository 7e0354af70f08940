"""Ends the agents of a scheduler that was killed or stopped, before its locks expire.

A process of its own, which needs no answer from the scheduler: it reads on its standard
input which agents run, and until when the locks are valid. Past that time, or when the
scheduler is gone, it ends the agents. It runs without the rest of this package, so that
it starts in a few milliseconds.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time

#: seconds from SIGTERM to SIGKILL, without a lifetime of locks
GRACE_SECONDS = 15.0


def now() -> float:
    """Seconds; a suspended machine's count as well."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Watchdog:
    """The scheduler's side. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._agents: set[int] = set()
        self._term = float('inf')
        self._deadlines = f'valid inf {GRACE_SECONDS}\n'
        self._process = self._spawn()

    def _spawn(self) -> 'subprocess.Popen[bytes]':
        process = subprocess.Popen(
            [sys.executable, '-I', '-S', __file__],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            # Signals of the terminal are for the scheduler.
            start_new_session=True,
            cwd='/',
            env={},
        )
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        return process

    def add(self, pid: int) -> None:
        """An agent, which leads its process group, has started."""
        with self._guard:
            self._agents.add(pid)
            self._send(f'add {pid}\n')

    def remove(self, pid: int) -> None:
        """It has ended."""
        with self._guard:
            self._agents.discard(pid)
            self._send(f'remove {pid}\n')

    def valid_until(self, term: float, kill: float) -> None:
        """Past these times of :func:`now` the agents get SIGTERM, and SIGKILL."""
        with self._guard:
            self._term = term
            self._deadlines = f'valid {term} {kill - term}\n'
            self._send(self._deadlines)

    @property
    def is_past(self) -> bool:
        """Whether agents have to end."""
        return now() >= self._term

    def close(self) -> None:
        with self._guard:
            with contextlib.suppress(OSError):
                assert self._process.stdin is not None
                self._process.stdin.close()
            self._process.wait()

    def _send(self, line: str) -> None:
        try:
            self._write(line)
        except OSError:
            # It was killed, or has read nothing for long. The process does not need it.
            import logging

            text = 'the watchdog process %d was killed or hangs; starting another'
            logging.getLogger(__name__).warning(text, self._process.pid)
            self._process.kill()
            self._process.wait()
            self._process = self._spawn()
            for pid in self._agents:
                self._write(f'add {pid}\n')
            self._write(self._deadlines)

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        # So short a line is written as a whole, or not at all.
        if self._process.stdin.write(line.encode()) is None:
            raise BlockingIOError


class _Agents:
    """The process's side."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}
        self._signalled: dict[int, signal.Signals] = {}

    def add(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._fds[pid] = os.pidfd_open(pid)

    def remove(self, pid: int) -> None:
        if pid in self._fds:
            os.close(self._fds.pop(pid))
            self._signalled.pop(pid, None)

    def __bool__(self) -> bool:
        return bool(self._fds)

    def signal(self, number: signal.Signals) -> None:
        """Once to each."""
        for pid in list(self._fds):
            if self._signalled.get(pid) != number:
                self._signalled[pid] = number
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, number)

    def forget_ended(self) -> None:
        """End what those that have ended left in their groups."""
        for pid, fd in list(self._fds.items()):
            if select.select([fd], [], [], 0)[0]:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
                self.remove(pid)


def main() -> None:
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    agents, rest, alive = _Agents(), b'', True
    term, grace = float('inf'), GRACE_SECONDS
    while alive or agents:
        past = now() >= term
        # While agents are being ended, look often.
        seconds = 0.2 if past or not alive else min(term - now(), 3600.0)
        if not alive:
            time.sleep(seconds)
        elif select.select([0], [], [], max(seconds, 0.0))[0]:
            read = os.read(0, 1 << 16)
            if not read:
                alive, term = False, min(term, now())
            *lines, rest = (rest + read).split(b'\n')
            for line in lines:
                verb, *values = line.split()
                if verb == b'add':
                    agents.add(int(values[0]))
                elif verb == b'remove':
                    agents.remove(int(values[0]))
                else:
                    term, grace = map(float, values)
        if now() >= term:
            agents.signal(signal.SIGKILL if now() >= term + grace else signal.SIGTERM)
        if not alive:
            agents.forget_ended()


if __name__ == '__main__':
    main()
