"""The one suite that every snapshot passes."""

import contextlib
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from freezer.exceptions import FreezerError
from freezer.job.source import at_rest
from freezer.mode.fs import FsMode
from freezer.tests import trees
from freezer.tests.conformance.snapshot_places import (
    BtrfsPlace,
    LvmPlace,
    SnapshotPlace,
)
from freezer.tests.plugins.place import CopyPlace

PLACES: dict[str, type[SnapshotPlace]] = {'copy': CopyPlace, 'btrfs': BtrfsPlace}
if LvmPlace.group:
    # Under another kernel: functional/test_snapshots_lvm.py.
    PLACES['lvm'] = LvmPlace


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SnapshotPlace]:
    with PLACES[request.param].made(tmp_path) as made:
        yield made


def content(path: str | Path) -> bytes:
    return Path(path, 'below', 'file').read_bytes()


def write(place: SnapshotPlace, content: bytes) -> None:
    (place.path / 'below' / 'file').write_bytes(content)


def test_the_view_is_of_the_time_before_later_changes(place: SnapshotPlace) -> None:
    write(place, b'changed')
    before = trees.describe(place.path)
    started = time.time_ns()
    snapshot = place.snapshot()
    view = snapshot.create(str(place.path))
    assert started <= view.time_ns <= time.time_ns()
    write(place, b'changed later')
    (place.path / 'later').touch()
    assert trees.differences(before, trees.describe(Path(view.path))) == []
    shutil.rmtree(place.path / 'below')
    assert content(view.path) == b'changed'
    snapshot.remove()


def test_the_view_of_a_single_file(place: SnapshotPlace) -> None:
    """It has the file's name, which engines store."""
    path = place.path / 'below' / 'file'
    snapshot = place.snapshot()
    view = Path(snapshot.create(str(path)).path)
    assert view != path
    assert (view.name, view.read_bytes()) == ('file', b'before')
    snapshot.remove()
    assert not view.exists()


def test_remove_leaves_the_files_and_nothing_else(place: SnapshotPlace) -> None:
    before = trees.describe(place.path)
    snapshot = place.snapshot()
    snapshot.remove()
    snapshot.create(str(place.path))
    assert place.others()
    # A signal may come when the first has done its part.
    for _ in range(2):
        snapshot.remove()
    assert place.others() == []
    assert trees.differences(before, trees.describe(place.path)) == []


def test_what_is_gone_need_not_be_removed(place: SnapshotPlace) -> None:
    snapshot = place.snapshot()
    snapshot.create(str(place.path))
    place.remove_others()
    snapshot.remove()


def test_validate_changes_nothing(place: SnapshotPlace) -> None:
    place.snapshot().validate(str(place.path))
    assert place.others() == []
    with pytest.raises(FreezerError):
        place.snapshot().validate(str(place.folder / 'missing'))


def test_remove_after_create_failed(place: SnapshotPlace) -> None:
    snapshot = place.snapshot()
    shutil.rmtree(place.path)
    with pytest.raises(FreezerError):
        snapshot.create(str(place.path))
    snapshot.remove()
    assert place.others() == []


def test_a_backup_that_fails_leaves_no_snapshot(place: SnapshotPlace) -> None:
    with pytest.raises(FreezerError, match='before'):
        with at_rest(FsMode(), place.snapshot(), str(place.path)) as rest:
            raise FreezerError(content(rest.view.path if rest.view else '').decode())
    assert place.others() == []


def _hold(place: SnapshotPlace, told: Connection) -> None:
    told.send(place.snapshot().create(str(place.path)).path)
    time.sleep(600)


@contextlib.contextmanager
def another_run(place: SnapshotPlace) -> Iterator[str]:
    """One that has made a snapshot, in another process; killed at the end.

    :yields: the path of its view
    """
    context = multiprocessing.get_context('fork')
    told, tells = context.Pipe(duplex=False)
    run = context.Process(target=_hold, args=(place, tells), daemon=True)
    run.start()
    try:
        assert told.poll(60)
        yield told.recv()
    finally:
        run.kill()
        run.join()


def test_leftovers(place: SnapshotPlace) -> None:
    """That of a killed run is removed, that of a running one is not."""
    path = str(place.path)
    assert list(place.snapshot().remove_leftovers(path)) == []
    with another_run(place) as running:
        with another_run(place) as killed:
            assert list(place.snapshot().remove_leftovers(path)) == []
        removed = place.snapshot().remove_leftovers(path)
        assert len(removed) == 1
        assert not os.path.exists(killed)
        assert content(running) == b'before'
        own = place.snapshot()
        view = own.create(path).path
        assert list(place.snapshot().remove_leftovers(path)) == []
        assert content(view) == b'before'
        own.remove()
    assert len(place.snapshot().remove_leftovers(path)) == 1
    assert place.others() == []
    assert content(path) == b'before'
