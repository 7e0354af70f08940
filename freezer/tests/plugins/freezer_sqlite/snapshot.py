"""Snapshots of a file or directory: a copy, which shares its blocks where the file
system can."""

import contextlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from freezer.exceptions import ConfigError, FreezerError
from freezer.snapshot.snapshot import Snapshot, SnapshotSettings, SnapshotView

_PREFIX = '.freezer-copy-'


class CopySnapshot(Snapshot):
    """:param directory: where copies are made; None for beside the original"""

    name = 'copy'

    def __init__(self, directory: str | None) -> None:
        self._directory = directory
        self._folder: Path | None = None

    @classmethod
    def from_settings(cls, settings: SnapshotSettings) -> Self:
        return cls(settings.options['copy_directory'])

    def validate(self, path: str) -> None:
        if not os.path.lexists(path):
            raise FreezerError(f'{path}: not found')
        parent = self._parent(path)
        if not os.access(parent, os.W_OK):
            raise ConfigError(f'copy-directory {parent}: cannot be written')

    def _parent(self, path: str) -> Path:
        return Path(self._directory or os.path.dirname(os.path.abspath(path)))

    def remove_leftovers(self, path: str) -> Sequence[str]:
        found = [
            each
            for each in self._parent(path).glob(f'{_PREFIX}*')
            if not _is_running(each.name.removeprefix(_PREFIX).partition('-')[0])
        ]
        for each in found:
            self._delete(each)
        return [str(each) for each in found]

    def create(self, path: str) -> SnapshotView:
        started = time.time_ns()
        name = f'{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}'
        # Known before it is made, so that remove() finds it whatever happens.
        self._folder = self._parent(path) / name
        try:
            self._folder.mkdir(mode=0o700)
        except OSError as error:
            raise FreezerError(f'{error.filename}: {error.strerror}') from error
        copy = self._folder / os.path.basename(os.path.abspath(path))
        done = subprocess.run(
            ['cp', '-a', '--reflink=auto', path, copy], capture_output=True, text=True
        )
        if done.returncode:
            raise FreezerError(f'cp {path}: {done.stderr.strip()}')
        return SnapshotView(str(copy), started)

    def remove(self) -> None:
        if self._folder is not None:
            self._delete(self._folder)
            self._folder = None

    def _delete(self, path: Path) -> None:
        try:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)
        except OSError as error:
            raise FreezerError(f'{path}: {error.strerror}: remove it') from error


def _is_running(pid: str) -> bool:
    return os.path.exists(f'/proc/{pid}')
