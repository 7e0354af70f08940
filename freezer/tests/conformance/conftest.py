"""The storages of the suite, empty, and what fills them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from freezer.storage.base import Backup, Storage
from freezer.tests import servers
from freezer.tests.conformance.backups import MARKER, STATE, Store, chunks, write
from freezer.tests.conformance.places import (
    LocalPlace,
    MultiplePlace,
    Place,
    S3Place,
    new_s3_place,
)


@pytest.fixture(scope='session')
def s3_server(request: pytest.FixtureRequest) -> servers.Server | None:
    if request.param is None:
        return None
    server: servers.Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def place(
    driver: str, s3_server: servers.Server | None, tmp_path: Path
) -> Iterator[Place]:
    local = LocalPlace(tmp_path / 'some where' / 'ü')
    other: Place = LocalPlace(tmp_path / 'elsewhere')
    if s3_server is not None:
        other = new_s3_place(s3_server)
    yield {
        'local': local,
        's3': other,
        'multiple': MultiplePlace({'here': local, 'there': other}),
    }[driver]
    if isinstance(other, S3Place):
        other.remove()


@pytest.fixture
def storage(place: Place) -> Iterator[Storage]:
    storage = place.storage()
    storage.prepare()
    yield storage
    storage.close()


@pytest.fixture
def commit(tmp_path: Path) -> Callable[[Storage, Backup], None]:
    """Write the metadata, which is in files, as an engine has it."""
    state, marker = tmp_path / 'state', tmp_path / 'marker'
    state.write_bytes(STATE)
    marker.write_text(json.dumps(MARKER))

    def commit(storage: Storage, backup: Backup) -> None:
        storage.put_metadata(str(state), str(marker), backup)

    return commit


@pytest.fixture
def store(storage: Storage, commit: Callable[[Storage, Backup], None]) -> Store:
    """Make a whole backup."""

    def store(backup: Backup, content: bytes = b'content') -> Backup:
        storage.claim(backup)
        write(storage, backup, chunks(content))
        commit(storage, backup)
        return backup

    return store
