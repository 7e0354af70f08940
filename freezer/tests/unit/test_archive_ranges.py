"""Ranges of a level's archive: compressed, encrypted, in volumes and pieces."""

import dataclasses
import itertools
import json
import os
import random
from collections.abc import Container, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings

from freezer.engine.opened import LevelOpener, OpenedLevel
from freezer.engine.sealing import Keyring, Sealer
from freezer.engine.settings import EngineSettings
from freezer.exceptions import EngineError, FreezerError, TamperedError
from freezer.storage import layout, manifest
from freezer.storage.backup import Backup, LevelPaths, StoredLevel
from freezer.storage.exceptions import IntegrityError, NotFound
from freezer.storage.local.storage import LocalStorage
from freezer.stream import age, compression, encryption
from freezer.stream.points import Points
from freezer.tests import ranged
from freezer.tests.archives import cut
from freezer.utils.blocks import Block
from freezer.utils.progress import Progress
from freezer.utils.ranges import Range

BACKUP = Backup('tar', 'host_name', 17, 17, 0)
PASSPHRASE = b'correct horse'
PIECE = 10_000
VOLUME = 7 * PIECE
CHUNK = 64 * 1024
# Header and nonce of a file for one key.
AGE_HEAD = 168 + 16
ARCHIVE = b'archive' + b''.join(
    os.urandom(700) + b'the same words ' * 40 for _ in range(200)
)
ENCRYPTIONS = (None, encryption.OPENSSL, layout.AGE)
COMBINATIONS = list(itertools.product(compression.NAMES, ENCRYPTIONS))


class Storage(LocalStorage):
    """Records pieces that are requested, as a driver that reads ahead requests them.

    :ivar requested: path, start and end
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, VOLUME)
        self.requested: list[tuple[str, int, int]] = []
        self.heads: list[int] = []
        self.open = 0

    def read_pieces(
        self, path: str, etag: str | None, pieces: Iterable[manifest.Piece]
    ) -> Generator[manifest.Read, None, None]:
        pieces = list(pieces)
        for piece in pieces:
            if piece.digest is None:
                self.heads.append(piece.end)
            else:
                self.requested.append((Path(path).name, piece.start, piece.end))
        self.open += 1
        try:
            yield from super().read_pieces(path, etag, pieces)
        finally:
            self.open -= 1


@dataclasses.dataclass(repr=False)
class Level:
    """A stored archive.

    :ivar stream: the stored bytes of all volumes
    """

    storage: Storage
    opened: OpenedLevel
    points: Points
    stream: bytes

    def read(self, points: Points | None, *ranges: Range) -> bytes:
        self.storage.requested.clear()
        self.storage.heads.clear()
        return b''.join(self.opened.archive_ranges(ranges, points))

    def path(self, number: int) -> Path:
        return Path(self.opened.stored.paths.file(layout.volume_name(number)))

    def flip(self, position: int) -> None:
        """Change a stored byte, or change it back."""
        path = self.path(position // VOLUME)
        content = bytearray(path.read_bytes())
        content[position % VOLUME] ^= 1
        path.write_bytes(content)

    def forget_manifest(self) -> None:
        """Make it a level of Freezer 19."""
        path = self.path(0)
        path.write_bytes(self.stream)
        self.opened.stored.marker.pop(manifest.MARKER_KEY)


@pytest.fixture(scope='module', autouse=True)
def _small() -> Iterator[None]:
    """Pieces of some kilobytes; a passphrase that anybody could guess."""
    sizes = {'gzip': 9000, 'bzip2': 10_000, 'xz': 12_000, 'zstd': 11_000}
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            form = compression._FORMATS[name]
            block = size if form.parallel else size // 3
            patch.setitem(
                compression._FORMATS, name, form._replace(piece=size, block=block)
            )
        patch.setattr('freezer.stream.points._SPACING', 1)
        patch.setattr(age, '_WORK', 1)
        yield


def make(folder: Path, name: str, form: str | None) -> Level:
    """Store the archive as the engine does, in volumes of seven pieces."""
    storage = Storage(str(folder / 'storage'))
    (folder / 'pass').write_bytes(PASSPHRASE + b'\n')
    marker: dict[str, Any] = {'compression': name, 'encryption': form is not None}
    points = Points()
    stream: Any = compression.compress(name, cut(ARCHIVE, 5000), points)
    paths = LevelPaths(storage.storage_path, BACKUP)
    if form == encryption.OPENSSL:
        stream = encryption.encrypt(PASSPHRASE, stream)
    elif form == layout.AGE:
        key = Keyring(PASSPHRASE).make()
        sealer = Sealer(key, BACKUP, None)
        stream = sealer.data(stream)
        sealer.engine_metadata(b'')
        storage.write_file(paths.identity, sealer.file)
        marker = sealer.sealed({**marker, layout.FORMAT_KEY: layout.AGE})
    content = b''.join(stream)
    builder = manifest.ManifestBuilder('token')
    for number, volume in enumerate(cut(content, VOLUME)):
        lines = manifest.dump_digests(
            digest
            for piece in cut(volume, PIECE)
            for digest in manifest.digest_part(piece)
        )
        digests = layout.digests_name(number)
        storage.write_file(paths.file(layout.volume_name(number)), volume)
        storage.write_file(paths.file(digests), lines)
        builder.add(layout.volume_name(number), len(volume), PIECE, digests, lines)
    storage.write_file(paths.manifest, builder.finish().dump())
    marker[manifest.MARKER_KEY] = 'token'
    storage.write_file(paths.marker, json.dumps(marker).encode())
    return Level(storage, opened_level(folder, storage, form), points, content)


class _Engine:
    unmarked_compression = None
    compressions: ClassVar[Mapping[str, str]] = {}

    def is_archive_start(self, head: bytes) -> bool:
        return head.startswith(b'archive')

    def padded(self, state: bytes) -> frozenset[bytes]:
        raise NotImplementedError

    def without(
        self, archive: Iterable[Block], paths: Container[bytes]
    ) -> Iterator[Block]:
        raise NotImplementedError


def opened_level(folder: Path, storage: Storage, form: str | None) -> OpenedLevel:
    passphrase = encryption.Passphrase(str(folder / 'pass')) if form else None
    opener = LevelOpener(
        EngineSettings(passphrase=passphrase, progress=Progress()),
        _Engine(),
    )
    return opener.open(StoredLevel(storage, BACKUP))


@pytest.fixture(scope='module', params=COMBINATIONS)
def level(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Level:
    return make(tmp_path_factory.mktemp('level'), *request.param)


def needed(level: Level, ranges: Iterable[Range]) -> set[int]:
    """The pieces of the whole stream that hold ranges."""
    found: set[int] = set()
    size = len(level.stream)
    for start, end in ranges:
        if start == end:
            continue
        if level.opened.compression != 'none':
            after = level.points.after(end)
            start = level.points.before(start).compressed
            end = after.compressed if after else 10**9
        if level.opened.format == layout.AGE:
            start = AGE_HEAD + start // CHUNK * (CHUNK + 16)
            end = AGE_HEAD + -(-end // CHUNK) * (CHUNK + 16)
        elif level.opened.format:
            # With the block before.
            start = max(start // 16 * 16, 16)
            end = 16 + -(-end // 16) * 16
        found.update(range(start // PIECE, (min(end, size) - 1) // PIECE + 1))
    return found


@settings(deadline=None, max_examples=30)
@given(wanted=ranged.ranges_of(len(ARCHIVE)))
def test_ranges(level: Level, wanted: list[Range]) -> None:
    assert len(level.stream) > 2 * VOLUME
    assert level.read(level.points, *wanted) == ranged.joined(ARCHIVE, wanted)
    pieces = [
        (0 if name == 'data' else int(name)) * (VOLUME // PIECE) + start // PIECE
        for name, start, _end in level.storage.requested
    ]
    # Only those that hold the ranges, each once and in order.
    assert pieces == sorted(needed(level, wanted))
    # What is read of the beginning before the key is known is read alone.
    assert len(level.storage.heads) == (level.opened.format is not None)
    assert all(end <= 16 * 1024 for end in level.storage.heads)
    assert not level.storage.open


@settings(deadline=None, max_examples=10)
@given(wanted=ranged.ranges_of(len(ARCHIVE)))
def test_ranges_without_points(level: Level, wanted: list[Range]) -> None:
    assert level.read(None, *wanted) == ranged.joined(ARCHIVE, wanted)
    assert not level.storage.open


def test_all_of_it_is_the_archive(level: Level) -> None:
    assert level.read(level.points, (0, len(ARCHIVE))) == ARCHIVE
    assert b''.join(level.opened.data()) == ARCHIVE


def test_ranges_that_do_not_exist(level: Level) -> None:
    size = len(ARCHIVE)
    for wanted in ((size - 1, size + 1), (size, size + 1), (10**9, 10**10)):
        with pytest.raises((EngineError, TamperedError, IntegrityError)):
            level.read(level.points, wanted)
    assert not level.storage.open


def test_a_flipped_bit_is_noticed(level: Level) -> None:
    """Also where the range itself is not in the damaged byte, but its piece is."""
    rng = random.Random(17)
    for _ in range(10):
        start = rng.randrange(len(ARCHIVE))
        wanted = (start, min(start + 100, len(ARCHIVE)))
        pieces = sorted(needed(level, [wanted]))
        position = rng.choice(pieces) * PIECE + rng.randrange(PIECE)
        position = min(position, len(level.stream) - 1)
        level.flip(position)
        with pytest.raises(FreezerError if position < 1000 else IntegrityError):
            level.read(level.points, wanted)
        level.flip(position)
        assert level.read(level.points, wanted) == ARCHIVE[wanted[0] : wanted[1]]
    assert not level.storage.open


def test_reading_is_given_up(level: Level) -> None:
    blocks = level.opened.archive_ranges([(0, len(ARCHIVE))], level.points)
    next(blocks)
    assert level.storage.open == 1
    blocks.close()
    assert level.storage.open == 0


def test_received_bytes_are_counted(level: Level) -> None:
    progress = level.opened._opener.settings.progress
    progress.begin()
    level.read(level.points, (0, 1))
    assert 0 < progress.stored_bytes < len(level.stream)


@pytest.mark.parametrize('name, form', COMBINATIONS)
def test_without_a_manifest(tmp_path: Path, name: str, form: str | None) -> None:
    level = make(tmp_path, name, form)
    level.forget_manifest()
    wanted = [(5, 6), (90_000, 110_000), (len(ARCHIVE) - 7, len(ARCHIVE))]
    assert level.read(level.points, *wanted) == ranged.joined(ARCHIVE, wanted)
    assert not level.storage.requested
    # What digests do not find, authentication and checksums do.
    if name != 'none' or form == layout.AGE:
        content = bytearray(level.stream)
        content[-30] ^= 1
        level.path(0).write_bytes(content)
        with pytest.raises(TamperedError if form == layout.AGE else EngineError):
            level.read(level.points, *wanted)
    level.path(0).unlink()
    opened = opened_level(tmp_path, level.storage, form)
    opened.stored.marker.pop(manifest.MARKER_KEY)
    with pytest.raises(IntegrityError, match='damaged'):
        b''.join(opened.archive_ranges(wanted, level.points))


@pytest.mark.parametrize('name', ['data', 'segments/00000001', 'digests/00000001'])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    level = make(tmp_path, 'zstd', None)
    Path(level.opened.stored.paths.file(name)).unlink()
    with pytest.raises(IntegrityError, match=rf'{name}.* the backup is damaged'):
        level.read(level.points, (0, len(ARCHIVE)))


# The index

CONTENT = os.urandom(200_000)


class Index:
    """What StoredLevel.index is."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)

    def read(self, start: int, end: int) -> bytes:
        assert 0 <= start <= end <= self.size
        return self.content[start:end]


def with_index(
    folder: Path,
    form: str | None,
    monkeypatch: pytest.MonkeyPatch,
    *,
    seal: bool = True,
    marker: bool = True,
) -> tuple[OpenedLevel, Index]:
    """A level with an index, or with one in its seal or marker only."""
    storage = Storage(str(folder / 'storage'))
    (folder / 'pass').write_bytes(PASSPHRASE + b'\n')
    document: dict[str, Any] = {'compression': 'gzip', 'encryption': form is not None}
    content = CONTENT
    paths = LevelPaths(storage.storage_path, BACKUP)
    if form == layout.AGE:
        sealer = Sealer(Keyring(PASSPHRASE).make(), BACKUP, None)
        b''.join(sealer.data([]))
        sealer.engine_metadata(b'')
        if seal:
            content = b''.join(sealer.index(cut(CONTENT, 5000)))
        storage.write_file(paths.identity, sealer.file)
        document = sealer.sealed({**document, layout.FORMAT_KEY: layout.AGE})
    if marker:
        document[layout.INDEX] = {'size': len(content)}
    storage.write_file(paths.marker, json.dumps(document).encode())
    index = Index(content)
    monkeypatch.setattr(StoredLevel, 'index', index if marker else None, raising=False)
    return opened_level(folder, storage, form), index


@pytest.mark.parametrize('form', ENCRYPTIONS)
def test_index(
    tmp_path: Path, form: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, stored = with_index(tmp_path, form, monkeypatch)
    assert (stored.content == CONTENT) == (form != layout.AGE)
    index = opened.index()
    assert index is not None
    assert index.size == len(CONTENT)
    for start, end in ((0, len(CONTENT)), (7, 7), (65_000, 66_000), (199_999, 200_000)):
        assert index.read(start, end) == CONTENT[start:end]


@pytest.mark.parametrize('form', ENCRYPTIONS)
def test_no_index(
    tmp_path: Path, form: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, _stored = with_index(tmp_path, form, monkeypatch, seal=False, marker=False)
    assert opened.index() is None


def test_the_index_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, _stored = with_index(tmp_path, layout.AGE, monkeypatch, marker=False)
    with pytest.raises(TamperedError, match='metadata: does not name its index'):
        opened.index()


def test_an_index_was_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, _stored = with_index(tmp_path, layout.AGE, monkeypatch, seal=False)
    with pytest.raises(TamperedError, match='metadata: names an index'):
        opened.index()


def test_the_index_of_another_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, stored = with_index(tmp_path, layout.AGE, monkeypatch)
    assert opened.sealed is not None
    stored.content = b''.join(age.encrypt(opened.sealed.key.key, [CONTENT]).blocks)
    with pytest.raises(TamperedError, match='index: was replaced by another file'):
        opened.index()


def test_a_flipped_bit_in_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, stored = with_index(tmp_path, layout.AGE, monkeypatch)
    content = bytearray(stored.content)
    content[100_000] ^= 1
    stored.content = bytes(content)
    index = opened.index()
    assert index is not None
    assert index.read(0, 10) == CONTENT[:10]
    with pytest.raises(TamperedError, match='index: was modified'):
        index.read(100_000, 100_001)


def test_a_seal_without_index_is_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier version rejects fields that it does not know."""
    for seal in (True, False):
        opened, _stored = with_index(
            tmp_path, layout.AGE, monkeypatch, seal=seal, marker=seal
        )
        assert opened.sealed is not None
        record = json.loads(opened.sealed._seal.dump())
        assert ('index' in record) == seal


def test_an_index_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, _stored = with_index(tmp_path, layout.AGE, monkeypatch)

    def missing(_self: StoredLevel) -> Index:
        raise NotFound('it is missing')

    monkeypatch.setattr(StoredLevel, 'index', property(missing))
    with pytest.raises(NotFound):
        opened.index()
