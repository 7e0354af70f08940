"""Waiting for what another process brings about."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from freezer.tests.agent import Process


def until(condition: Callable[[], object], process: Process) -> None:
    """Wait for something that a running agent will bring about."""
    deadline = time.monotonic() + 60
    while not condition():
        assert not process.ended, process.wait()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pid: int) -> bool:
    return not Path(f'/proc/{pid}').exists()


def until_gone(pid: int) -> None:
    """Wait for one that was killed, and whose parent is."""
    _until(lambda: gone(pid))


def until_group_gone(pid: int) -> None:
    """Wait for all processes of a group, which were killed."""
    _until(lambda: not members(pid))


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def members(group: int) -> list[str]:
    """The processes of a group that have not ended."""
    found = []
    for path in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):
            name, _, fields = path.read_text().rpartition(')')
            state, _parent, its_group, *_ = fields.split()
            if int(its_group) == group and state != 'Z':
                found.append(name)
    return found
