"""Snapshots of a data directory for tests of modes: atomic, or slow."""

import os
import signal
import subprocess
import time
from pathlib import Path

from freezer.exceptions import FreezerError
from freezer.snapshot.snapshot import SnapshotView
from freezer.tests.plugins.freezer_sqlite.snapshot import CopySnapshot

# The process that writes to the files; and a directory, in which `reached` is written
# when the snapshot is to be made, and which then waits for `go`.
_PID = 'FREEZER_TEST_SERVER_PID'
_GATE = 'FREEZER_TEST_GATE'


def _wait_at_gate() -> None:
    gate = os.environ.get(_GATE)
    if gate:
        Path(gate, 'reached').touch()
        while not Path(gate, 'go').exists():
            time.sleep(0.02)


class StoppedSnapshot(CopySnapshot):
    """A copy. The server is stopped (SIGSTOP) while it is made: in place of a snapshot
    by the file system or the volume manager, it makes the copy atomic."""

    name = 'stopped'

    def __init__(self) -> None:
        super().__init__(None)

    @classmethod
    def from_settings(cls, settings: object) -> 'StoppedSnapshot':
        return cls()

    def create(self, path: str) -> SnapshotView:
        _wait_at_gate()
        pid = int(os.environ[_PID])
        os.kill(pid, signal.SIGSTOP)
        try:
            # Writes that the kernel has begun end.
            time.sleep(0.1)
            return super().create(path)
        finally:
            os.kill(pid, signal.SIGCONT)


class SubvolumeSnapshot(CopySnapshot):
    """A read-only snapshot of a subvolume of btrfs, which is the path."""

    name = 'subvolume'

    def __init__(self) -> None:
        super().__init__(None)

    @classmethod
    def from_settings(cls, settings: object) -> 'SubvolumeSnapshot':
        return cls()

    def create(self, path: str) -> SnapshotView:
        started = time.time_ns()
        self._folder = Path(f'{path}.freezer-test')
        command = ['btrfs', 'subvolume', 'snapshot', '-r', path, str(self._folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise FreezerError(done.stderr.strip())
        return SnapshotView(str(self._folder), started)

    def _delete(self, path: Path) -> None:
        command = ['btrfs', 'subvolume', 'delete', str(path)]
        subprocess.run(command, check=True, capture_output=True)
