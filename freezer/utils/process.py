"""Processes: which one this is, in words another can check (Linux); reading a child's
standard error."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

_PROC = Path('/proc')
_LONGEST_LINE = 1 << 16


def identity() -> dict[str, str]:
    """This process: machine start, process namespace, id and start time.

    An id alone says little: it is used again, and means another process in another
    container. Empty where ``/proc`` does not tell.
    """
    try:
        return _surroundings() | {
            'pid': str(os.getpid()),
            'started': _started(os.getpid()),
        }
    except OSError:
        return {}


def is_alive(process: Any) -> bool | None:
    """Whether the process lives; None where that cannot be seen from here.

    :param process: what :func:`identity` gave, perhaps on another machine
    """
    try:
        here = _surroundings()
        if not here.items() <= process.items():
            return None
        return bool(_started(int(process['pid'])) == process['started'])
    except (FileNotFoundError, ProcessLookupError):
        return False
    except (OSError, AttributeError, KeyError, TypeError, ValueError):
        # What another program wrote may be anything.
        return None


def _surroundings() -> dict[str, str]:
    return {
        'boot': (_PROC / 'sys/kernel/random/boot_id').read_text().strip(),
        'namespace': os.readlink(_PROC / 'self/ns/pid'),
    }


def _started(pid: int) -> str:
    """In clock ticks after the machine's start: proc(5), field 22 of stat."""
    stat = (_PROC / str(pid) / 'stat').read_text()
    # The second field is the program's name in parentheses, and may hold anything.
    return stat.rpartition(')')[2].split()[19]


class StderrReader:
    """Collects a child's standard error in a thread, so that it never blocks the child.

    :param wanted: selects the lines that are kept; the part of a line after 64 KiB
        counts as another one
    """

    def __init__(
        self, stream: IO[bytes], wanted: Callable[[str], bool] = lambda line: True
    ) -> None:
        self._stream = stream
        self._wanted = wanted
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._read, name='stderr', daemon=True)
        self._thread.start()

    def lines(self, timeout: float | None = None) -> list[str]:
        """The lines, once the pipe is closed: the child and everyone who inherited the
        pipe have exited. After the timeout, in seconds, those read so far."""
        self._thread.join(timeout)
        return list(self._lines)

    def _read(self) -> None:
        with self._stream as stream:
            while line := stream.readline(_LONGEST_LINE):
                text = line.decode('utf-8', 'backslashreplace').rstrip('\n')
                if self._wanted(text):
                    self._lines.append(text)
