"""Which files with secrets are warned of."""

import os
from pathlib import Path

import pytest

from freezer.common import secret_files


@pytest.mark.parametrize(
    'mode, of_root, of_another',
    [
        (0o600, False, False),
        (0o640, False, True),
        (0o660, False, True),
        (0o604, True, True),
        (0o644, True, True),
        (0o622, False, False),
    ],
)
def test_modes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: int,
    of_root: bool,
    of_another: bool,
) -> None:
    path = tmp_path / 'file'
    path.touch()
    path.chmod(mode)
    status = os.stat(path)
    for owner, warned in ((0, of_root), (1000, of_another)):
        fields = [*status[:4], owner, *status[5:]]
        monkeypatch.setattr(os, 'stat', lambda _path, fields=fields: _status(fields))
        lines = list(secret_files.warnings([str(path), str(path)]))
        monkeypatch.undo()
        assert len(lines) == warned
        if warned:
            assert f'(mode {mode:04o})' in lines[0]
            assert lines[0].startswith(f'{path} holds a secret')


def _status(fields: list[int]) -> os.stat_result:
    return os.stat_result(fields)


def test_what_is_no_file_is_not_warned_of(tmp_path: Path) -> None:
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe, 0o644)
    paths = [str(pipe), str(tmp_path), str(tmp_path / 'absent')]
    assert list(secret_files.warnings(paths)) == []
