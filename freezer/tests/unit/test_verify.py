"""What a verification lists, where it stops, and what a chain needs."""

from collections.abc import Generator, Iterable
from pathlib import Path

import pytest

from freezer.storage import exceptions as e
from freezer.storage import manifest
from freezer.storage.backup import Backup, LevelPaths, StoredLevel
from freezer.storage.local.storage import LocalStorage
from freezer.storage.verify import LISTED, Verification, examine

BACKUP = Backup('tar', 'host_name', 17, 17, 0)
PIECE = 4
COUNT = 3 * LISTED
CONTENT = bytes(range(PIECE * COUNT))


class Storage(LocalStorage):
    """One whose pieces come wrong or fail as they are told to."""

    fail: dict[int, e.StorageException]

    def read_pieces(
        self, path: str, etag: str | None, pieces: Iterable[manifest.Piece]
    ) -> Generator[manifest.Read, None, None]:
        for piece, data in super().read_pieces(path, etag, pieces):
            error = self.fail.get(piece.start // PIECE)
            yield manifest.Read(piece, error or data)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A backup in parts of four bytes."""
    storage = Storage(str(tmp_path), PIECE)
    storage.fail = {}
    paths = LevelPaths(storage.storage_path, BACKUP)
    digests = [
        digest
        for start in range(0, len(CONTENT), PIECE)
        for digest in manifest.digest_part(CONTENT[start : start + PIECE])
    ]
    lines = manifest.dump_digests(digests)
    builder = manifest.ManifestBuilder('token')
    builder.add('data', len(CONTENT), PIECE, 'digests/00000000', lines)
    storage.write_file(paths.data, CONTENT)
    storage.write_file(paths.file('digests/00000000'), lines)
    storage.write_file(paths.manifest, builder.finish().dump())
    storage.write_file(paths.engine_metadata, b'')
    storage.write_file(paths.marker, b'{"manifest": "token"}')
    return storage


def verify(storage: Storage) -> Verification:
    found = examine(StoredLevel(storage, BACKUP), True)
    assert found is not None
    return found


def test_many_problems_are_counted_and_some_listed(storage: Storage) -> None:
    assert verify(storage).problems == ()
    data = Path(LevelPaths(storage.storage_path, BACKUP).data)
    data.write_bytes(bytes(len(CONTENT)))
    found = verify(storage)
    assert found.count == COUNT
    assert [problem.part for problem in found.problems] == [*range(1, LISTED + 1)]
    assert not found.restorable


def test_a_refusal_does_not_end_the_reading(storage: Storage) -> None:
    storage.fail = {n: e.AccessDenied(f'not {n}') for n in (3, 7)}
    found = verify(storage)
    assert [(p.what, p.part) for p in found.problems] == [('not 3', 4), ('not 7', 8)]


def test_three_that_used_up_their_time_do(storage: Storage) -> None:
    """Each piece took 15 minutes, and there may be thousands."""
    failing = {n: e.ServerError(f'not {n}') for n in (1, 3, 4, 6, 7)}
    storage.fail = {**failing, 5: e.AccessDenied('not 5')}
    found = verify(storage)
    assert [problem.what for problem in found.problems] == [
        f'not {n}' for n in (1, 3, 4, 5, 6, 7)
    ]
    storage.fail = {n: e.ServerError(f'not {n}') for n in (2, *range(4, COUNT))}
    found = verify(storage)
    *failed, last = (problem.what for problem in found.problems)
    assert failed == ['not 2', 'not 4', 'not 5', 'not 6']
    assert f'bytes after {7 * PIECE - 1} were not read' in last


def test_errors_of_a_disk_go_with_their_place(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sector that cannot be read is no reason not to read the others."""
    # A directory opens as /proc/self/mem does: for reading, and then it fails.
    data = Path(LevelPaths(storage.storage_path, BACKUP).data)
    data.unlink()
    data.symlink_to('/proc/self/mem')
    pieces = [manifest.Piece(0, 4, None), manifest.Piece(4, 8, None)]
    reads = list(storage.read_pieces(str(data), None, pieces))
    for (piece, error), expected in zip(reads, pieces, strict=True):
        assert piece == expected
        assert isinstance(error, e.StorageException)
        assert f'bytes {piece.start} to {piece.end - 1} of {data}' in error.message
