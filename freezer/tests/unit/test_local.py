"""Files of local storages."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize('step', range(1, 5))
@pytest.mark.parametrize('verb', ['reserve', 'write_file'])
def test_folders_that_another_agent_removes(
    verb: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each folder is removed once, just before something is made in it: it is empty
    until then, and the agent has removed all that it had there itself."""
    storage = LocalStorage(str(tmp_path), 1 << 20, skip_prepare=True)
    path = str(tmp_path / 'a/b/c/d')
    made: list[str] = []

    def interrupted(call: Callable[..., Any]) -> Callable[..., Any]:
        def calling(path: Any, *given: Any, **named: Any) -> Any:
            made.append(str(path))
            if len(made) == step:
                storage._prune(os.path.dirname(str(path)))
            return call(path, *given, **named)

        return calling

    for name in ('mkdir', 'open'):
        monkeypatch.setattr(os, name, interrupted(getattr(os, name)))
    if verb == 'reserve':
        storage.reserve(path)
        assert os.path.isdir(path)
    else:
        storage.write_file(path, b'content')
        assert storage.read_file(path) == b'content'
    assert len(made) > step
