"""Files of local storages."""

import os
from pathlib import Path

import pytest

from freezer.storage.local import storage as local
from freezer.storage.local.storage import LocalStorage


def test_a_stream_is_synchronized_in_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A last fsync of everything would keep other storages waiting."""
    sizes = []

    def sync(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(local, '_SYNC_BYTES', 1000)
    monkeypatch.setattr(os, 'fdatasync', sync)
    storage = LocalStorage(str(tmp_path), 1 << 20, skip_prepare=True)
    path = tmp_path / 'folder/file'
    storage.write_stream(str(path), [memoryview(bytes(400))] * 8)
    # Each time, with what was buffered.
    assert sizes == [1200, 2400]
    assert path.stat().st_size == 3200
