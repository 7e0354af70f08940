"""The one suite that every mode passes."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import pytest

from freezer.exceptions import FreezerError
from freezer.job.source import at_rest
from freezer.mode.mode import Release
from freezer.snapshot.snapshot import Snapshot, SnapshotSettings, SnapshotView
from freezer.tests.conformance.mode_places import (
    FsPlace,
    ModePlace,
    MongoPlace,
    MysqlPlace,
    MysqlWithoutSnapshotPlace,
)
from freezer.tests.plugins.place import SqliteModePlace

PLACES: dict[str, type[ModePlace]] = {
    'fs': FsPlace,
    'mongo': MongoPlace,
    'mysql': MysqlPlace,
    'sqlite': SqliteModePlace,
}
if os.environ.get('FREEZER_TEST_THOROUGH'):
    # It waits for 12 seconds in each test; test_mysql.py has some of them.
    PLACES['mysql without a snapshot'] = MysqlWithoutSnapshotPlace
HOLDING = [name for name, place in PLACES.items() if place.holds]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ModePlace]:
    kind = PLACES[request.param]
    if not kind.available():
        pytest.skip(f'what mode {request.param} needs is not installed')
    place = kind(tmp_path)
    yield place
    place.close()


on_holding = pytest.mark.parametrize('place', HOLDING, indirect=True)


def test_validate_changes_nothing(place: ModePlace, tmp_path: Path) -> None:
    before = os.listdir(tmp_path)
    mode = place.mode()
    mode.validate()
    assert os.listdir(tmp_path) == before
    assert place.can_write()


@on_holding
def test_an_application_that_is_missing(place: ModePlace, tmp_path: Path) -> None:
    """Seen by validate, and not made by anything."""
    place.remove()
    mode = place.mode()
    with pytest.raises(FreezerError):
        mode.validate()
    with pytest.raises(FreezerError):
        mode.prepare()
    mode.release()
    assert os.listdir(tmp_path) == []


def test_it_holds_from_prepare_to_release(place: ModePlace) -> None:
    mode = place.mode()
    for _ in range(2):
        mode.prepare()
        assert place.can_write() is not place.holds
        mode.release()
        assert place.can_write()


def test_release_more_than_once(place: ModePlace) -> None:
    mode = place.mode()
    mode.release()
    mode.prepare()
    mode.release()
    mode.release()
    assert place.can_write()


@on_holding
def test_release_after_prepare_failed(place: ModePlace) -> None:
    mode = place.mode()
    with place.busy():
        with pytest.raises(FreezerError):
            mode.prepare()
        mode.release()
    assert place.can_write()
    # It fails as little for having failed.
    mode.prepare()
    mode.release()
    assert place.can_write()


class Witness(Snapshot):
    """Notes whether the application can write when the snapshot is made."""

    def __init__(self, place: ModePlace) -> None:
        self._place = place
        self.could_write: bool | None = None

    @classmethod
    def from_settings(cls, settings: SnapshotSettings) -> Self:
        raise NotImplementedError

    def validate(self, path: str) -> None:
        raise NotImplementedError

    def remove_leftovers(self, path: str) -> Sequence[str]:
        return []

    def create(self, path: str) -> SnapshotView:
        self.could_write = self._place.can_write()
        return SnapshotView(path, 0)

    def remove(self) -> None:
        """Nothing."""


def test_a_backup_of_a_snapshot(place: ModePlace) -> None:
    """The application is held as long as ``release_when`` says."""
    mode = place.mode()
    witness = Witness(place)
    with at_rest(mode, witness, str(place.path)):
        early = mode.release_when is Release.AFTER_SNAPSHOT
        assert place.can_write() is (early or not place.holds)
    assert witness.could_write is not place.holds
    assert place.can_write()


def test_a_backup_without_a_snapshot(place: ModePlace) -> None:
    """The application is held until it ends, and resumed if it fails."""
    with at_rest(place.mode(), None, str(place.path)):
        assert place.can_write() is not place.holds
    assert place.can_write()
    with pytest.raises(FreezerError, match='the backup failed'):
        with at_rest(place.mode(), None, str(place.path)):
            raise FreezerError('the backup failed')
    assert place.can_write()
