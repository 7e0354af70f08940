"""The journal: what it names of dead processes is undone, and nothing else."""

import fcntl
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from freezer.storage import exceptions as e
from freezer.storage._s3.transport.bucket import Bucket
from freezer.storage.journal import Journal, Place
from freezer.storage.objects import ListedObject, OpenUpload, Upload, UploadedParts
from freezer.storage.retry import Retry

ENDPOINT = 'http://store.example:1'
PLACE = Place(ENDPOINT, 'bucket', 'p/data/1_2', 'p/metadata/1_2/metadata')
UPLOAD = Upload('p/data/1_2/data', 'id1')


class FakeBucket(Bucket):
    """Remembers what is undone."""

    def __init__(self, keys: list[str], endpoint: str = ENDPOINT) -> None:
        super().__init__('bucket', endpoint, None, lambda: None, Retry(0))
        self.keys = keys
        self.aborted: list[Upload] = []

    def head(self, key: str) -> None:  # type: ignore[override]
        if key not in self.keys:
            raise e.NotFound(key)

    def list(self, prefix: str) -> Iterator[ListedObject]:
        return (
            ListedObject(key, 1, 0.0) for key in self.keys if key.startswith(prefix)
        )

    def delete(self, keys: Sequence[str]) -> None:
        self.keys = [key for key in self.keys if key not in keys]

    def list_uploads(self, prefix: str) -> Iterator[OpenUpload]:
        return iter(())

    def parts(self, upload: Upload) -> UploadedParts:
        return UploadedParts(3, 0.0)

    def abort(self, upload: Upload) -> None:
        self.aborted.append(upload)


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
    bucket = FakeBucket(['p/data/1_2/claim', 'p/data/1_20/claim'])
    journal.clean_up(bucket)
    assert bucket.aborted == [UPLOAD]
    assert bucket.keys == ['p/data/1_20/claim']
    assert _files(tmp_path) == []


def test_what_was_committed_stays(journal: Journal, tmp_path: Path) -> None:
    _die(journal.begin(PLACE))
    keys = ['p/data/1_2/data', PLACE.marker]
    bucket = FakeBucket(list(keys))
    journal.clean_up(bucket)
    assert bucket.keys == keys
    assert _files(tmp_path) == []


def test_a_live_process_is_left_alone(journal: Journal, tmp_path: Path) -> None:
    entry = journal.begin(PLACE)
    entry.add(UPLOAD)
    bucket = FakeBucket(['p/data/1_2/claim'])
    journal.clean_up(bucket)
    assert bucket.aborted == []
    assert bucket.keys == ['p/data/1_2/claim']
    assert len(_files(tmp_path)) == 1
    entry.close()
    assert _files(tmp_path) == []


def test_another_store_is_not_touched(journal: Journal, tmp_path: Path) -> None:
    _die(journal.begin(PLACE))
    bucket = FakeBucket(['p/data/1_2/claim'], 'http://other.example:1')
    journal.clean_up(bucket)
    assert bucket.keys == ['p/data/1_2/claim']
    assert len(_files(tmp_path)) == 1


def test_what_cannot_be_undone_is_tried_again(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = journal.begin(PLACE)
    entry.add(UPLOAD)
    _die(entry)
    bucket = FakeBucket([])

    def refuse(upload: Upload) -> None:
        raise e.Unreachable('no')

    with monkeypatch.context() as patch:
        patch.setattr(bucket, 'abort', refuse)
        journal.clean_up(bucket)
        assert len(_files(tmp_path)) == 1
    journal.clean_up(bucket)
    assert bucket.aborted == [UPLOAD]
    assert _files(tmp_path) == []


def test_an_entry_that_is_kept_outlives_its_process(
    journal: Journal, tmp_path: Path
) -> None:
    entry = journal.begin(PLACE)
    entry.add(UPLOAD)
    entry.keep()
    entry.close()
    bucket = FakeBucket([])
    journal.clean_up(bucket)
    assert bucket.aborted == [UPLOAD]


@pytest.mark.parametrize('content', ['', '{"endpoint":', 'null\n', '[1]\n', '{}\n'])
def test_a_torn_entry_names_nothing(
    journal: Journal, tmp_path: Path, content: str
) -> None:
    _die(journal.begin(PLACE))
    _files(tmp_path)[0].write_text(content)
    bucket = FakeBucket(['p/data/1_2/claim'])
    journal.clean_up(bucket)
    assert bucket.keys == ['p/data/1_2/claim']
    assert _files(tmp_path) == []


def test_a_last_line_that_is_cut_off_is_not_believed(
    journal: Journal, tmp_path: Path
) -> None:
    entry = journal.begin(PLACE)
    entry.add(UPLOAD)
    _die(entry)
    with _files(tmp_path)[0].open('a') as stream:
        stream.write('["p/data/1_2/segments/00000001", "id')
    bucket = FakeBucket([])
    journal.clean_up(bucket)
    assert bucket.aborted == [UPLOAD]


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
