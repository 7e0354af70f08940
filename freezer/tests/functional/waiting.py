"""Waiting for what another process brings about."""

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
    deadline = time.monotonic() + 20
    while not gone(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
