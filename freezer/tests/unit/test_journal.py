"""The journal: what it names of dead processes is undone, and nothing else."""

import fcntl
from pathlib import Path

import pytest

from freezer.storage import exceptions as e
from freezer.storage.journal import Journal, Place
from freezer.storage.objects import Upload, UploadedParts
from freezer.tests.unit.object_store import MemoryStore

ENDPOINT = 'http://store.example:1'
PLACE = Place(ENDPOINT, 'bucket', 'p/data/1_2', 'p/metadata/1_2/metadata')
UPLOAD = Upload('p/data/1_2/data', 'id1')


def store_with(*keys: str, endpoint: str = ENDPOINT) -> MemoryStore:
    """One that does not list its open upload: only the journal knows of it."""
    store = MemoryStore(*keys, endpoint=endpoint, lists_uploads=False)
    store.uploads[UPLOAD] = UploadedParts(3, 0.0)
    return store


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / 'uploads')


def _die(entry: object) -> None:
    """What the kernel does for a process that is killed: the file stays, unlocked."""
    entry._stream.close()  # type: ignore[attr-defined]


def _files(tmp_path: Path) -> list[Path]:
    return list((tmp_path / 'uploads').iterdir())


def test_a_dead_process_is_cleaned_up_after(journal: Journal, tmp_path: Path) -> None:
    entry = journal.begin(PLACE)
    entry.add(UPLOAD)
    _die(entry)
    store = store_with('p/data/1_2/claim', 'p/data/1_20/claim')
    journal.clean_up(store)
    assert not store.uploads
    assert list(store.objects) == ['p/data/1_20/claim']
    assert _files(tmp_path) == []


def test_what_was_committed_stays(journal: Journal, tmp_path: Path) -> None:
    _die(journal.begin(PLACE))
    keys = ['p/data/1_2/data', PLACE.marker]
    store = store_with(*keys)
    journal.clean_up(store)
    assert list(store.objects) == keys
    assert _files(tmp_path) == []


def test_a_live_process_is_left_alone(journal: Journal, tmp_path: Path) -> None:
    entry = journal.begin(PLACE)
    entry.add(UPLOAD)
    store = store_with('p/data/1_2/claim')
    journal.clean_up(store)
    assert list(store.uploads) == [UPLOAD]
    assert list(store.objects) == ['p/data/1_2/claim']
    assert len(_files(tmp_path)) == 1
    entry.close()
    assert _files(tmp_path) == []


def test_another_store_is_not_touched(journal: Journal, tmp_path: Path) -> None:
    _die(journal.begin(PLACE))
    store = store_with('p/data/1_2/claim', endpoint='http://other.example:1')
    journal.clean_up(store)
    assert list(store.objects) == ['p/data/1_2/claim']
    assert len(_files(tmp_path)) == 1


def test_what_cannot_be_undone_is_tried_again(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = journal.begin(PLACE)
    entry.add(UPLOAD)
    _die(entry)
    store = store_with()

    def refuse(upload: Upload) -> None:
        raise e.Unreachable('no')

    with monkeypatch.context() as patch:
        patch.setattr(store, 'abort', refuse)
        journal.clean_up(store)
        assert len(_files(tmp_path)) == 1
    journal.clean_up(store)
    assert not store.uploads
    assert _files(tmp_path) == []


def test_an_entry_that_is_kept_outlives_its_process(
    journal: Journal, tmp_path: Path
) -> None:
    entry = journal.begin(PLACE)
    entry.add(UPLOAD)
    entry.keep()
    entry.close()
    store = store_with()
    journal.clean_up(store)
    assert not store.uploads


@pytest.mark.parametrize('content', ['', '{"endpoint":', 'null\n', '[1]\n', '{}\n'])
def test_a_torn_entry_names_nothing(
    journal: Journal, tmp_path: Path, content: str
) -> None:
    _die(journal.begin(PLACE))
    _files(tmp_path)[0].write_text(content)
    store = store_with('p/data/1_2/claim')
    journal.clean_up(store)
    assert list(store.objects) == ['p/data/1_2/claim']
    assert _files(tmp_path) == []


def test_a_last_line_that_is_cut_off_is_not_believed(
    journal: Journal, tmp_path: Path
) -> None:
    entry = journal.begin(PLACE)
    entry.add(UPLOAD)
    _die(entry)
    with _files(tmp_path)[0].open('a') as stream:
        stream.write('["p/data/1_2/segments/00000001", "id')
    store = store_with()
    journal.clean_up(store)
    assert not store.uploads


def test_without_a_journal_the_backup_goes_on(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    entry = Journal(tmp_path / 'file' / 'uploads').begin(PLACE)
    entry.add(UPLOAD)
    entry.close()


def test_only_the_owner_reads_it(journal: Journal, tmp_path: Path) -> None:
    entry = journal.begin(PLACE)
    assert (tmp_path / 'uploads').stat().st_mode & 0o777 == 0o700
    assert _files(tmp_path)[0].stat().st_mode & 0o777 == 0o600
    with _files(tmp_path)[0].open() as stream, pytest.raises(BlockingIOError):
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    entry.close()
