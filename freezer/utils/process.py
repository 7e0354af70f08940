"""Which process this is, in words another process can check. Linux."""

import os
from pathlib import Path
from typing import Any

_PROC = Path('/proc')


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
