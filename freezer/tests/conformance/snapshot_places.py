"""Files to test snapshots on."""

import abc
import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from freezer.snapshot.btrfs import BtrfsSnapshot
from freezer.snapshot.lvm import LvmSnapshot
from freezer.snapshot.lvm_options import OPTIONS
from freezer.snapshot.snapshot import Snapshot, SnapshotSettings
from freezer.tests.commands import run_command
from freezer.tests.machine import file_system


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

    @classmethod
    @contextlib.contextmanager
    def made(cls, folder: Path) -> Iterator[Self]:
        """A block with one, in a directory."""
        yield cls(folder)

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


def _found(where: Path) -> list[str]:
    return os.listdir(where) if where.exists() else []


class BtrfsPlace(SnapshotPlace):
    """A directory of a subvolume, which is not the top one of its file system."""

    def __init__(self, folder: Path, top: Path) -> None:
        super().__init__(folder)
        self._top = top
        self._base = top.parent / 'run'

    @classmethod
    @contextlib.contextmanager
    def made(cls, folder: Path) -> Iterator[Self]:
        with file_system('btrfs', folder) as top:
            subvolume = top / 'sub volume'
            run_command('btrfs', 'subvolume', 'create', subvolume, check=True)
            yield cls(subvolume, top)

    def snapshot(self) -> Snapshot:
        return BtrfsSnapshot(str(self._base))

    def others(self) -> list[str]:
        made = [name for name in os.listdir(self._top) if name.startswith('.')]
        return [*super().others(), *made, *_found(self._base)]

    def remove_others(self) -> None:
        base, top = Path(self._base), Path(self._top)
        run_command('umount', *base.glob('*/root'), check=True)
        run_command('btrfs', 'subvolume', 'delete', *top.glob('.*-*'), check=True)
        run_command('umount', *base.glob('*/top'), check=True)


class LvmPlace(SnapshotPlace):
    """A file system on a volume."""

    group = os.environ.get('FREEZER_TEST_VOLUME_GROUP', '')

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._base = Path('/mnt/run')

    @classmethod
    @contextlib.contextmanager
    def made(cls, folder: Path) -> Iterator[Self]:
        # One for all tests: the kernel ends with them.
        top, origin = Path('/mnt/origin'), f'/dev/{cls.group}/origin'
        if not top.exists():
            top.mkdir()
            size = ('--size', '40M', '--name', 'origin')
            run_command('lvcreate', '--quiet', '--yes', *size, cls.group, check=True)
            run_command('mkfs.ext4', '-q', origin, check=True)
            run_command('mount', origin, top, check=True)
        made = cls(top)
        yield made
        shutil.rmtree(made.path, ignore_errors=True)

    def snapshot(self) -> Snapshot:
        options = {'lvm_snapsize': '8M', 'lvm_dirmount': str(self._base)}
        settings = SnapshotSettings(OPTIONS.defaults() | options)
        return LvmSnapshot.from_settings(settings)

    def _made(self) -> list[str]:
        listed = run_command('lvs', '--noheadings', '-olv_name', self.group, check=True)
        return [name for name in listed.stdout.split() if name != 'origin']

    def others(self) -> list[str]:
        return [*self._made(), *_found(self._base)]

    def remove_others(self) -> None:
        run_command('umount', *Path(self._base).glob('*/root'), check=True)
        for name in self._made():
            run_command('lvremove', '--yes', f'{self.group}/{name}', check=True)
