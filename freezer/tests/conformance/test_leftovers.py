"""What failed backups leave on S3 goes, and nothing else does.

As ``levels-and-retention.rst`` shows.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from freezer.storage import claims, levels
from freezer.storage import exceptions as e
from freezer.storage._s3.transport.bucket import Bucket
from freezer.storage._s3.transport.objects import Objects
from freezer.storage.backup import Backup, PendingBackup
from freezer.storage.housekeeping import CleanUpReport
from freezer.storage.objects import ListedObject
from freezer.storage.repository import Repository
from freezer.storage.s3 import S3Storage
from freezer.tests import servers
from freezer.tests.conformance.backups import remove_older_than
from freezer.tests.conformance.places import PART, S3Place, new_s3_place
from freezer.tests.conformance.variants import Way
from freezer.utils import process

ZERO = 1_700_000_000
DAY = 86400
FOLDER = f'data/tar/host_name/{ZERO}/0_{ZERO}'
MARKER = f'metadata/tar/host_name/{ZERO}/0_{ZERO}/metadata'

# What is asked of a store here are verbs that the suite tries on all of them.
pytestmark = pytest.mark.parametrize(
    's3_server', ['moto', 'seaweedfs', 'ceph'], indirect=True
)


@pytest.fixture
def place(s3_server: servers.Server, way: Way) -> Iterator[S3Place]:
    place = new_s3_place(s3_server, way)
    s3_server._client.create_bucket(Bucket=place.bucket)
    yield place
    place.remove()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """What is done in its calls, another machine does."""

    def move() -> None:
        monkeypatch.setenv('HOME', str(tmp_path / 'another home'))
        monkeypatch.setattr(process, '_surroundings', lambda: {'boot': 'another'})

    return move


class Making:
    """A backup that is made step by step."""

    def __init__(self, storage: S3Storage, level: int = 0) -> None:
        self.name = Backup('tar', 'host_name', ZERO, ZERO + level, level)
        self.pending = storage.begin(self.name)

    def write(self, content: bytes) -> 'Making':
        self.written = self.pending.write([content])
        return self

    def commit(self, tmp_path: Path) -> PendingBackup:
        (tmp_path / 'engine').write_bytes(b'state')
        self.written.commit(tmp_path / 'engine', {'engine_name': 'tar'})
        return self.pending


def store(storage: S3Storage, tmp_path: Path, level: int = 0) -> PendingBackup:
    return Making(storage, level).write(content_at(level)).commit(tmp_path)


def content_at(level: int) -> bytes:
    return bytes([level]) * (PART + 1)


def content_of(storage: S3Storage) -> bytes:
    first, *_ = levels.committed(storage)
    return b''.join(first.stream().blocks())


def open_upload(place: S3Place, path: str, parts: int = 1) -> str:
    client = place.server._client
    where = {'Bucket': place.bucket, 'Key': f'{place.prefix}/{path}'}
    made: str = client.create_multipart_upload(**where)['UploadId']
    for number in range(1, parts + 1):
        client.upload_part(**where, UploadId=made, PartNumber=number, Body=bytes(PART))
    return made


def clean_up(place: S3Place, *, dry_run: bool = False, **options: Any) -> CleanUpReport:
    storage = place.storage(**options)
    try:
        return storage.clean_up(dry_run)
    finally:
        storage.close()


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """The store's clock goes ahead, and what is there becomes older."""
    now = Bucket.store_time
    monkeypatch.setattr(Bucket, 'store_time', lambda self: now(self) + seconds)


def whole(place: S3Place, found: CleanUpReport) -> tuple[int, int, int]:
    (left,) = found.leftovers
    assert left.what == f's3://{place.bucket}/{place.prefix}/{FOLDER}'
    return left.objects, left.uploads, left.size


def test_data_without_a_marker(place: S3Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write(f'{FOLDER}/data', b'12345')
    place.write(f'{FOLDER}/segments/00000001', b'678')
    open_upload(place, f'{FOLDER}/segments/00000002', 2)
    files = place.files()
    # Too young.
    assert clean_up(place) == CleanUpReport()
    later(monkeypatch, DAY - 600)
    assert clean_up(place) == CleanUpReport()
    later(monkeypatch, 1200)
    found = clean_up(place, dry_run=True)
    assert whole(place, found) == (2, 1, 8 + 2 * PART)
    assert place.files() == files
    assert len(place.uploads()) == 1
    assert clean_up(place) == found
    assert place.files() == {}
    assert place.uploads() == []
    assert clean_up(place) == CleanUpReport()


def test_how_old_is_for_the_option_to_say(place: S3Place) -> None:
    place.write(f'{FOLDER}/data', b'12345')
    assert clean_up(place, s3_stale_after=3600.0) == CleanUpReport()
    assert whole(place, clean_up(place, s3_stale_after=0.0)) == (1, 0, 5)
    assert place.files() == {}


def test_an_upload_alone(place: S3Place) -> None:
    open_upload(place, f'{FOLDER}/data')
    assert whole(place, clean_up(place, s3_stale_after=0.0)) == (0, 1, PART)
    assert place.uploads() == []


def test_a_check_that_was_killed(place: S3Place) -> None:
    scratch = f'check/{"0f" * 16}'
    place.write(f'{scratch}/probe/x', b'12345')
    place.write('check/list.txt', b'x')
    open_upload(place, f'{scratch}/upload')
    assert clean_up(place) == CleanUpReport()
    (left,) = clean_up(place, s3_stale_after=0.0).leftovers
    assert left.what.endswith(f'/{scratch}')
    assert (left.objects, left.uploads, left.size) == (1, 1, 5 + PART)
    assert list(place.files()) == ['check/list.txt']
    assert place.uploads() == []


def test_what_is_not_a_backup_stays(place: S3Place) -> None:
    others = [
        'data/tar/host_name/notes.txt',
        f'data/tar/host_name/{ZERO}/README',
        'another/data/tar/h/1/0_1/data',
        'freezer.conf',
    ]
    for path in others:
        place.write(path, b'x')
    beside = f'{place.prefix}2/{FOLDER}/data'
    place.server.put(place.bucket, beside, b'x')
    open_upload(place, 'something/else')
    assert clean_up(place, s3_stale_after=0.0) == CleanUpReport()
    assert sorted(place.files()) == sorted(others)
    assert place.server.get(place.bucket, beside) == b'x'
    assert len(place.uploads()) == 1


def test_a_backup_stays_and_what_clings_to_it_goes(
    place: S3Place, tmp_path: Path
) -> None:
    storage = place.storage()
    store(storage, tmp_path)
    files = place.files()
    place.write(f'{FOLDER}/claim', b'{}')
    open_upload(place, f'{FOLDER}/data')
    assert whole(place, clean_up(place, s3_stale_after=0.0)) == (1, 1, 2 + PART)
    assert place.files() == files
    assert place.uploads() == []
    assert content_of(storage) == content_at(0)


def test_a_backup_under_way_is_left_alone(
    place: S3Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of this machine, whatever its home: the claim says which process it is."""
    storage = place.storage()
    making = Making(storage).write(b'content')
    monkeypatch.setenv('HOME', str(tmp_path / 'another home'))
    assert clean_up(place, s3_stale_after=0.0) == CleanUpReport()
    making.commit(tmp_path)
    assert content_of(storage) == b'content'


def test_the_journal_alone_protects_a_backup_under_way(
    place: S3Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container, whose processes cannot be seen from outside."""
    monkeypatch.setattr(claims, 'held_here', lambda *_: False)
    storage = place.storage()
    making = Making(storage).write(b'content')
    assert clean_up(place, s3_stale_after=0.0) == CleanUpReport()
    making.commit(tmp_path)
    assert content_of(storage) == b'content'


def test_taken_for_dead_by_another_machine(
    place: S3Place, tmp_path: Path, elsewhere: Any
) -> None:
    """It fails, and is not listed, rather than being listed with holes."""
    storage = place.storage()
    making = Making(storage).write(bytes(PART * 4 + 1))
    with pytest.MonkeyPatch.context():
        elsewhere()
        assert clean_up(place, s3_stale_after=0.0).leftovers != ()
    with pytest.raises(e.StorageException) as caught:
        making.commit(tmp_path)
    assert isinstance(caught.value, e.Conflict | e.IntegrityError)
    making.pending.discard()
    assert place.files() == {}


def test_the_claim_alone_tells_that_it_was_taken_for_dead(
    place: S3Place, tmp_path: Path
) -> None:
    storage = place.storage()
    making = Making(storage).write(b'content')
    for path in place.files():
        if '/claim' in path:
            place.delete(path)
    with pytest.raises(e.Conflict, match='treated this backup as dead'):
        making.commit(tmp_path)


def test_a_marker_that_comes_in_time_saves_the_data(
    place: S3Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Any
) -> None:
    """Committed between the look around and the removal."""
    storage = place.storage()
    Making(storage).write(b'content')
    delete = Objects.delete

    def commit_first(self: Objects, keys: Any) -> None:
        monkeypatch.setattr(Objects, 'delete', delete)
        place.write(MARKER, json.dumps({'engine_name': 'tar'}).encode())
        delete(self, keys)

    monkeypatch.setattr(Objects, 'delete', commit_first)
    elsewhere()
    clean_up(place, s3_stale_after=0.0)
    assert place.read(f'{FOLDER}/data') == b'content'
    assert f'{FOLDER}/manifest' in place.files()


@pytest.mark.parametrize('change', ['size', 'other', 'gone', 'manifest'])
def test_what_the_store_lost_before_the_end_is_noticed(
    place: S3Place, tmp_path: Path, change: str
) -> None:
    """The marker is not the end: what it stands for is looked at once more."""
    storage = place.storage()
    making = Making(storage).write(bytes(PART * 3 + 5))
    if change == 'gone':
        place.delete(f'{FOLDER}/segments/00000001')
    elif change == 'manifest':
        place.write(f'{FOLDER}/manifest', place.read(f'{FOLDER}/manifest') + b' x')
    else:
        size = 5 if change == 'other' else 4
        place.write(f'{FOLDER}/segments/00000001', b'x' * size)
    with pytest.raises(e.IntegrityError):
        making.commit(tmp_path)


# Versions


@pytest.fixture
def versioned(place: S3Place) -> S3Place:
    place.server._client.put_bucket_versioning(
        Bucket=place.bucket, VersioningConfiguration={'Status': 'Enabled'}
    )
    return place


def versions(place: S3Place) -> list[str]:
    page = place.server._client.list_object_versions(Bucket=place.bucket)
    return [
        item['Key']
        for kind in ('Versions', 'DeleteMarkers')
        for item in page.get(kind, ())
    ]


def test_old_versions_are_told_and_purged(versioned: S3Place, tmp_path: Path) -> None:
    storage = versioned.storage()
    store(storage, tmp_path)
    store(storage, tmp_path, 1).discard()
    files = versioned.files()
    versioned.server.put(versioned.bucket, 'elsewhere', b'1')
    versioned.server.put(versioned.bucket, 'elsewhere', b'2')
    (told,) = clean_up(versioned).old_versions
    assert told.where == f's3://{versioned.bucket}/{versioned.prefix}/'
    assert told.size > PART
    assert not told.purged
    before = versions(versioned)
    (would,) = clean_up(versioned, s3_purge_versions=True, dry_run=True).old_versions
    assert (would.count, would.size) == (told.count, told.size)
    assert versions(versioned) == before
    (purged,) = clean_up(versioned, s3_purge_versions=True).old_versions
    assert (purged.count, purged.size, purged.purged) == (told.count, told.size, True)
    # Nothing but what is seen is left, and what is none of ours.
    left = [key for key in versions(versioned) if key != 'elsewhere']
    assert sorted(left) == sorted(f'{versioned.prefix}/{path}' for path in files)
    assert versions(versioned).count('elsewhere') == 2
    assert versioned.files() == files
    assert content_of(storage) == content_at(0)
    assert clean_up(versioned).old_versions == ()


def test_a_bucket_without_versions_has_none(place: S3Place, tmp_path: Path) -> None:
    storage = place.storage()
    store(storage, tmp_path).discard()
    assert clean_up(place, s3_purge_versions=True) == CleanUpReport()


def test_retention_and_tidying_look_once(
    place: S3Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of a container of many backups each look is many pages."""
    storage = place.storage(s3_stale_after=0)
    store(storage, tmp_path)
    alone = FOLDER.replace(str(ZERO), str(ZERO + 1))
    assert alone != FOLDER
    place.write(f'{alone}/data', b'12345')
    asked = []
    real = storage._bucket.list

    def ask(prefix: str) -> Iterator[ListedObject]:
        asked.append(prefix.removeprefix(f'{place.prefix}/'))
        return real(prefix)

    monkeypatch.setattr(storage._bucket, 'list', ask)
    with storage.housekeeping():
        (chain,) = remove_older_than(
            Repository({'': storage}), 'tar', 'host_name', ZERO
        )
        (left,) = storage.clean_up().leftovers
    assert [each.timestamp for each in chain] == [ZERO]
    assert left.what.endswith(alone)
    assert place.files() == {}
    # What is to go is looked at again.
    whole = [prefix for prefix in asked if not prefix.startswith(alone)]
    pins = 'metadata/tar/host_name/'
    assert sorted(whole) == ['check/', 'data/', 'metadata/', pins]
    # Outside it, what is there now counts.
    place.write(f'{alone}/data', b'12345')
    assert len(storage.clean_up().leftovers) == 1
    assert list(storage.list_tree(f'{place.bucket}/{place.prefix}')) == []
    storage.close()
