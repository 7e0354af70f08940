"""Processes on Linux: an identity that others can check, and a child's messages."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

#: variables that any child gets; others may contain secrets
ENVIRONMENT = ('PATH', 'HOME', 'TMPDIR', 'LD_LIBRARY_PATH', 'LD_PRELOAD')

_PROC = Path('/proc')


class StderrReader:
    """Reads a child's standard error in a thread, so that the child never blocks.

    :param keep: whether to keep a line; all are read
    :param longest: longer lines are split after so many bytes; -1 is never
    """

    def __init__(
        self,
        stream: IO[bytes],
        keep: Callable[[str], bool] = lambda _line: True,
        longest: int = -1,
    ) -> None:
        self._lines: list[str] = []

        def read() -> None:
            with stream:
                while data := stream.readline(longest):
                    line = data.decode('utf-8', 'backslashreplace').rstrip('\n')
                    if keep(line):
                        self._lines.append(line)

        self._thread = threading.Thread(target=read, name='stderr', daemon=True)
        self._thread.start()

    def lines(self, timeout: float | None = None) -> list[str]:
        """The lines that were kept, once standard error is closed.

        :param timeout: seconds, then the lines so far: a process that the child left
            behind may hold the pipe open for ever
        """
        self._thread.join(timeout)
        return self._lines


def identity() -> dict[str, str]:
    """This process: machine start, process namespace, id and start time.

    An id alone is not enough: it is used again, and means another process in another
    container. Empty where ``/proc`` cannot be read.
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

    :param process: the value of :func:`identity`, perhaps from another machine
    """
    try:
        here = _surroundings()
        if not here.items() <= process.items():
            return None
        return bool(_started(int(process['pid'])) == process['started'])
    except (FileNotFoundError, ProcessLookupError):
        return False
    except (OSError, AttributeError, KeyError, TypeError, ValueError):
        # The value may have been written by another program.
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
