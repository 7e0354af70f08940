"""Folders on a file server that another agent makes, or removes as empty, at the worst
moment. unit/test_local.py has the same of directories."""

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

from freezer.storage.exceptions import Conflict
from freezer.storage.ftp.server import FtpServer
from freezer.tests.conformance.places import FtpPlace, LocalPlace, SshPlace


@pytest.fixture(params=['sshd', 'pyftpd_tls'])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> LocalPlace:
    kind: Any = SshPlace if request.param == 'sshd' else FtpPlace
    made: LocalPlace = kind(request.getfixturevalue(request.param), tmp_path / 'root')
    return made


def test_a_parent_that_is_removed(
    place: LocalPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each call in turn, until there are no more."""
    storage: Any = place.storage()
    storage.prepare()
    make_folder = storage.server.make_folder
    step = calls = 0

    def calling(path: str) -> None:
        nonlocal calls
        calls += 1
        if calls == step:
            with contextlib.suppress(OSError):
                os.removedirs(os.path.dirname(path))
        make_folder(path)

    monkeypatch.setattr(storage.server, 'make_folder', calling)
    while calls >= step:
        step, calls = step + 1, 0
        (place.root / 'kept').mkdir(parents=True, exist_ok=True)
        folder = place.root / str(step) / 'a' / 'b'
        storage.reserve(str(folder))
        assert folder.is_dir()
        with pytest.raises(Conflict, match='is there already'):
            storage.reserve(str(folder))
    assert step > 5
    storage.close()


def test_a_parent_that_appears(
    pyftpd_tls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FTP has one reply for a parent that is missing, and for one that is not writable:
    between it and the look at the parent, another agent makes that."""
    place = FtpPlace(pyftpd_tls, tmp_path)
    storage = place.storage()
    why = FtpServer.why

    def late(server: FtpServer, client: Any, path: str, error: Any) -> Any:
        (tmp_path / 'a').mkdir(exist_ok=True)
        return why(server, client, path, error)

    monkeypatch.setattr(FtpServer, 'why', late)
    storage.server.make_folder(str(tmp_path / 'a' / 'b'))
    assert (tmp_path / 'a' / 'b').is_dir()
    storage.close()
