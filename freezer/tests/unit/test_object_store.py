"""Claims and clean-up on a store that is not S3."""

import json

import pytest

from freezer.storage import claims, leftovers
from freezer.storage import exceptions as e
from freezer.storage.objects import Upload, UploadedParts
from freezer.storage.survey import Survey
from freezer.tests.unit.object_store import MemoryStore
from freezer.utils import process

LEVEL = 'tar/host_name/1600000000/0_1600000000'
FOLDER = f'p/data/{LEVEL}'
MARKER = f'p/metadata/{LEVEL}/metadata'
UPLOAD = Upload(f'{FOLDER}/data', 'id')
DAY = 24 * 3600.0


@pytest.mark.parametrize('conditional', [True, False])
def test_a_folder_is_claimed_once(conditional: bool) -> None:
    store = MemoryStore(conditional=conditional)
    claim = claims.take(store, FOLDER)
    assert claim.exclusive is conditional
    assert claim.is_held(store)
    with pytest.raises(e.Conflict, match='is taken'):
        claims.take(store, FOLDER)
    store.delete(claim.keys)
    assert not claim.is_held(store)
    claims.take(store, FOLDER)


def test_a_claim_is_checked_without_reading_it() -> None:
    store = MemoryStore()
    claim = claims.take(store, FOLDER)
    assert claim.is_held_write_only(store)
    store.delete(claim.keys)
    assert not claim.is_held_write_only(store)


def stale(store: MemoryStore, *live: str) -> list[str]:
    store.now = 2 * DAY
    survey = Survey(store, 'p/')
    return [left.what for left in leftovers.clear_stale(store, survey, live, DAY)]


def test_an_old_folder_without_a_marker_is_removed() -> None:
    store = MemoryStore(f'{FOLDER}/claim', f'{FOLDER}/segments/00000001', 'p/other')
    store.uploads[UPLOAD] = UploadedParts(3, 0.0)
    assert stale(store) == [f'memory://{FOLDER}']
    assert list(store.objects) == ['p/other']
    assert store.uploads == {}


def test_what_is_not_stale_stays() -> None:
    """A live folder, a recent upload, a process of this machine."""
    keys = [f'{FOLDER}/data']
    assert stale(MemoryStore(*keys), FOLDER) == []
    store = MemoryStore(*keys)
    store.uploads[UPLOAD] = UploadedParts(3, 1.5 * DAY)
    assert stale(store) == []
    store = MemoryStore(*keys)
    claim = json.dumps({'process': process.identity()}).encode()
    store.objects[f'{FOLDER}/claim'] = claim, 0.0
    assert stale(store) == []


def test_of_a_committed_level_only_claim_and_uploads_are_removed() -> None:
    store = MemoryStore(MARKER, f'{FOLDER}/data', f'{FOLDER}/claim')
    store.uploads[UPLOAD] = UploadedParts(3, 0.0)
    assert stale(store) == [f'memory://{FOLDER}']
    assert list(store.objects) == [MARKER, f'{FOLDER}/data']
    assert store.uploads == {}
