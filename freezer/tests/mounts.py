"""File systems that a test mounts."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Mount = Callable[..., None]


@contextlib.contextmanager
def mounting() -> Iterator[Mount]:
    """A block in which ``mount`` can be called; what it mounted is unmounted at its
    end. Skips the test where nothing can be mounted."""
    mounted: list[Path] = []

    def mount(*arguments: str | Path) -> None:
        command = ['mount', *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f'nothing can be mounted here: {done.stderr!r}')
        mounted.append(Path(arguments[-1]))

    try:
        yield mount
    finally:
        for path in reversed(mounted):
            subprocess.run(['umount', str(path)], check=True)


@contextlib.contextmanager
def loop_device(file: Path) -> Iterator[Path]:
    """A block device that has the contents of a file. Skips the test where there is
    none."""
    command = ['losetup', '--find', '--show', str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip('losetup is not installed')
    if done.returncode:
        pytest.skip(f'no loop device: {done.stderr.strip()}')
    device = Path(done.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(['losetup', '--detach', str(device)], check=True)
