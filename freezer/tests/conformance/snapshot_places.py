"""Files to test snapshots on."""

import abc
import os
import shutil
from pathlib import Path

from freezer.snapshot.snapshot import Snapshot


class SnapshotPlace(abc.ABC):
    """A directory to make snapshots of.

    :ivar path: of the directory
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / 'data ü'
        (self.path / 'below').mkdir(parents=True)
        (self.path / 'below' / 'file').write_bytes(b'before')
        (self.path / 'link').symlink_to('below/file')

    @abc.abstractmethod
    def snapshot(self) -> Snapshot:
        """Another object."""

    def others(self) -> list[str]:
        """What there is beside the files: snapshots, and all that they left."""
        return [name for name in os.listdir(self.folder) if name != self.path.name]

    def remove_others(self) -> None:
        """Remove them, not through the snapshot."""
        for name in self.others():
            shutil.rmtree(self.folder / name)
