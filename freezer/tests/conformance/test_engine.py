"""The one suite that every engine passes."""

import functools
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from freezer.engine.engine import (
    Archiving,
    Base,
    Engine,
    FileEngine,
    PartsExtractor,
    TargetPlan,
    Warnings,
    require_files,
)
from freezer.engine.index.file import IndexFile
from freezer.engine.index.new import NewIndex
from freezer.exceptions import ConfigError, EngineError, RestoreError
from freezer.storage import layout, manifest
from freezer.storage.backup import split_parts
from freezer.storage.exceptions import IntegrityError, StorageException
from freezer.tests import trees
from freezer.tests.conformance.backups import HOST, NOISE, RANDOM
from freezer.tests.conformance.engine_places import (
    BlocksPlace,
    EnginePlace,
    StreamPlace,
    TarPlace,
    children,
)
from freezer.tests.plugins.place import SqlDumpPlace, SqlSetPlace
from freezer.utils.blocks import Block, PartStart

PLACES: dict[str, type[EnginePlace]] = {
    'tar': TarPlace,
    'blocks': BlocksPlace,
    'stream': StreamPlace,
    'sqldump': SqlDumpPlace,
    'sqlset': SqlSetPlace,
}
WITH_FILES = [n for n, p in PLACES.items() if issubclass(p.engine_class, FileEngine)]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> EnginePlace:
    return PLACES[request.param](tmp_path)


on_files = pytest.mark.parametrize('place', WITH_FILES, indirect=True)
on_directories = pytest.mark.parametrize(
    'place', [n for n, p in PLACES.items() if p.target_is_directory], indirect=True
)


def archiving(
    place: EnginePlace, base: Path | None = None, level: int = 0
) -> Archiving:
    """With an index, as the writer of backups has it."""
    source = place.engine().source([str(place.source)])
    state = place.source.with_name(f'state {level}')
    index = NewIndex(place.source.with_name(f'index {level}'))
    below = base_of(place, base, level) if base else None
    now = time.time_ns()
    return Archiving(source, below, state, Warnings(), level, now, index)


def base_of(place: EnginePlace, state: Path, level: int) -> Base:
    """The level below, with the indexes that :func:`archive` left."""
    found = []
    for number in range(level):
        path = place.source.with_name(f'index {number}')
        if path.exists() and path.stat().st_size:
            content = path.read_bytes()
            read = functools.partial(_part, content)
            found.append(IndexFile(read, len(content), path.name))
    return Base(state, found if len(found) == level else [])


def _part(content: bytes, start: int, end: int) -> bytes:
    return content[start:end]


def archive(
    place: EnginePlace, base: Path | None = None, level: int = 0
) -> dict[str, bytes]:
    """The parts by name; without parts, all of it under an empty name."""
    made = archiving(place, base, level)
    parts = split_parts(place.engine().archive(made))
    content = {part: b''.join(blocks) for part, blocks in parts}
    assert made.index is not None
    if made.index.finish({}) is None:
        # This engine keeps none.
        made.index.path.unlink()
    return content


def extract(
    engine: Engine, target: Path, state: bytes | None, archive: dict[str, bytes]
) -> None:
    where = engine.check_target(str(target), False)
    parts = [
        (part, iter([content[:700], content[700:]]))
        for part, content in archive.items()
    ]
    opened = engine.extractor(where, state, Warnings())
    assert opened is not None
    with opened as extractor:
        if isinstance(extractor, PartsExtractor):
            extractor.extract(iter(parts))
        else:
            ((_part, blocks),) = parts
            extractor.extract(blocks)


def listed(place: EnginePlace) -> list[int]:
    """The levels of all backups."""
    return sorted(level.level for level in place.repository.committed())


# The source


def test_a_source_that_is_missing(place: EnginePlace) -> None:
    engine = place.engine()
    with pytest.raises(EngineError, match='missing'):
        engine.source([str(place.source.with_name('missing'))])
    with pytest.raises(ConfigError):
        engine.source([])
    assert str(place.source) in engine.source([str(place.source)]).label


def test_a_source_that_goes_away(place: EnginePlace) -> None:
    engine = place.engine()
    made = archiving(place)
    place.source.rename(place.source.with_name('elsewhere'))
    with pytest.raises(EngineError):
        list(engine.archive(made))
    assert not place.source.exists()


@pytest.mark.parametrize('level', [0, 1])
def test_a_source_that_fails_midway(
    place: EnginePlace, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backup fails, and nothing is committed."""
    if level:
        place.backup()
    before, files = listed(place), place.storage.files()
    archive = place.engine_class.archive

    def breaking(
        engine: Any, made: Archiving
    ) -> Generator[Block | PartStart, None, None]:
        blocks = archive(engine, made)
        yield next(blocks)
        place.break_source()
        yield from blocks

    (place.source / 'large' if place.source.is_dir() else place.source).touch()
    monkeypatch.setattr(place.engine_class, 'archive', breaking)
    with pytest.raises(EngineError):
        place.backup()
    assert listed(place) == before
    assert place.storage.files() == files


# Backups and restores


@pytest.mark.parametrize('compression', ['gzip', 'none'])
def test_backups_and_restores(
    place: EnginePlace, compression: str, tmp_path: Path
) -> None:
    states = []
    for number in range(3):
        if number:
            place.change()
        states.append(place.describe(place.source))
        place.backup(compression=compression)
        target = tmp_path / f'restored {number}'
        place.restore(target)
        assert place.describe(place.restored(target)) == states[-1]
    assert states[0] != states[1]


def test_what_fits_makes_an_increment(place: EnginePlace) -> None:
    """And what does not, a new level 0."""
    archive(place)
    engine = place.engine()
    source = engine.source([str(place.source)])
    base = base_of(place, place.source.with_name('state 0'), 1)
    first = place.backup()
    problem = engine.base_problem(base, source, first.timestamp + 60)
    place.change()
    assert place.backup().level == (0 if problem else 1)


def test_a_damaged_base_makes_a_level_0(place: EnginePlace) -> None:
    state = place.source.with_name('base')
    engine = place.engine()
    source = engine.source([str(place.source)])
    for noise in (b'', b'\0', NOISE[:5000]):
        state.write_bytes(noise)
        assert engine.base_problem(Base(state), source, int(time.time()))


def test_the_base_stays_as_it_is(place: EnginePlace) -> None:
    archive(place)
    base = place.source.with_name('state 0')
    content = base.read_bytes()
    place.change()
    archive(place, base, level=1)
    assert base.read_bytes() == content


def test_two_archives_of_one_source_restore_the_same(
    place: EnginePlace, tmp_path: Path
) -> None:
    found = []
    for number in range(2):
        content = archive(place)
        target = tmp_path / str(number)
        state = (tmp_path / 'state 0').read_bytes()
        extract(place.engine(), target, state, content)
        found.append(place.describe(place.restored(target)))
    assert found[0] == found[1] == place.describe(place.source)


@pytest.mark.parametrize('damage', [None, b'', b'../../outside', NOISE[:5000]])
def test_a_restore_without_the_engines_file(
    place: EnginePlace, damage: bytes | None, tmp_path: Path
) -> None:
    """Everything of level 0 is there, perhaps under another name."""
    content = archive(place)
    before = set(tmp_path.iterdir())
    target = tmp_path / 'restored'
    extract(place.engine(), target, damage, content)
    assert set(tmp_path.iterdir()) == before | {target}
    restored = place.restored(target)
    if not restored.exists():
        (restored,) = target.iterdir()
    assert place.describe(restored) == place.describe(place.source)


def test_the_end_of_an_archive_that_is_not_wanted_to_its_end(
    place: EnginePlace,
) -> None:
    before = children()
    blocks = place.engine().archive(archiving(place))
    next(blocks)
    blocks.close()
    assert children() == before


# Damage


def test_the_start_of_an_archive(place: EnginePlace, tmp_path: Path) -> None:
    engine = place.engine()
    first = archive(place)
    place.change()
    increment = archive(place, tmp_path / 'state 0', level=1)
    for content in (*first.values(), *increment.values()):
        assert engine.is_archive_start(content[:512])
    for _ in range(100):
        assert not engine.is_archive_start(RANDOM.randbytes(512))
    for noise in (b'', b'x', b'\x1f\x8b\x08' + bytes(509), b'-- ' * 170):
        assert not engine.is_archive_start(noise)
    for name, other in PLACES.items():
        if other is not type(place):
            (tmp_path / name).mkdir()
            for content in archive(other(tmp_path / name)).values():
                assert not engine.is_archive_start(content[:512])


class Damaged:
    """A backup whose bytes can be changed, as no digest shows it. Of several parts, the
    largest."""

    def __init__(self, place: EnginePlace, **settings: Any) -> None:
        self._place = place
        self._described = place.describe(place.source)
        place.backup(**settings)
        (stored,) = place.repository.committed()
        self._stream = max(stored.streams.values(), key=lambda each: each.size or 0)
        self.content = b''.join(self._stream.blocks())

    def is_noticed(self, content: bytes, target: Path) -> bool:
        """Whether the restore of this content fails, or brings everything."""
        assert self._stream.token is not None
        builder = manifest.ManifestBuilder(self._stream.token)
        name = layout.digests_name(0)
        lines = manifest.dump_digests(manifest.digest_part(content))
        builder.add(layout.DATA, len(content), manifest.MAX_PIECE, name, lines)
        paths = self._stream.paths
        Path(paths.data).write_bytes(content)
        Path(paths.file(name)).write_bytes(lines)
        Path(paths.manifest).write_bytes(builder.finish().dump())
        try:
            self._place.restore(target)
        except (EngineError, RestoreError):
            return True
        restored = self._place.restored(target)
        return bool(self._place.describe(restored) == self._described)


@pytest.mark.parametrize('compression', ['gzip', 'none'])
def test_an_archive_that_is_cut_off(
    place: EnginePlace, compression: str, tmp_path: Path
) -> None:
    damaged = Damaged(place, compression=compression)
    content = damaged.content
    assert damaged.is_noticed(content, tmp_path / 'whole')
    size = len(content)
    few = [RANDOM.randrange(size) for _ in range(4)]
    for end in (0, 1, 511, 512, 1024, size // 1024 * 512, *few, size - 1):
        assert damaged.is_noticed(content[:end], tmp_path / str(end)), end


@pytest.mark.parametrize('compression', ['gzip', 'none'])
def test_an_archive_with_wrong_bytes(
    place: EnginePlace, compression: str, tmp_path: Path
) -> None:
    """They are noticed; where no checksum shows them, they cause no other error."""
    damaged = Damaged(place, compression=compression)
    checked = compression == 'gzip'
    size = len(damaged.content)
    few = [RANDOM.randrange(size) for _ in range(8)]
    for position in (0, 10, 100, 260, size // 2, *few, size - 12):
        content = bytearray(damaged.content)
        content[position] ^= 0x55
        noticed = damaged.is_noticed(bytes(content), tmp_path / f'{position}')
        assert noticed or not (checked or place.has_checksum), position


def test_the_digests_show_damage(place: EnginePlace, tmp_path: Path) -> None:
    place.backup()
    (stored,) = place.repository.committed()
    largest = max(stored.streams.values(), key=lambda each: each.size or 0)
    data = Path(largest.paths.data)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 0x55
    data.write_bytes(content)
    with pytest.raises(StorageException):
        place.restore(tmp_path / 'restored')


# Targets


@on_directories
def test_a_target_that_is_not_empty(place: EnginePlace, tmp_path: Path) -> None:
    engine = place.engine()
    target = tmp_path / 'target'
    assert engine.check_target(str(target), False)
    assert not target.exists()
    with pytest.raises(ConfigError):
        engine.check_target(None, False)
    target.mkdir()
    engine.check_target(str(target), False)
    assert not list(target.iterdir())
    file = target / 'file'
    file.write_bytes(b'content')
    with pytest.raises(RestoreError, match='not empty'):
        engine.check_target(str(target), False)
    engine.check_target(str(target), True)
    assert [each.read_bytes() for each in target.iterdir()] == [b'content']
    for overwrite in (False, True):
        with pytest.raises(RestoreError):
            engine.check_target(str(file), overwrite)


def test_a_restore_over_another_state(place: EnginePlace, tmp_path: Path) -> None:
    target = tmp_path / 'target'
    place.backup()
    place.restore(target)
    place.change()
    place.backup()
    agent = place.agent()
    chain = agent.open(agent.state(HOST))
    plan = chain.plan(str(target))
    chain.restore(agent.engine.check_target(str(target), True), plan)
    changed = place.describe(place.source)
    assert place.describe(place.restored(target)) == changed


# Engines whose archives hold files


@on_files
def test_a_list_has_what_a_restore_brings(place: EnginePlace, tmp_path: Path) -> None:
    place.backup()
    place.change()
    place.backup()
    place.restore(tmp_path / 'restored')
    agent = place.agent()
    found = [
        path for rows in agent.open(agent.state(HOST)).rows() for path in rows.paths
    ]
    expected = trees.describe(tmp_path / 'restored').keys() - {b'.'}
    assert sorted(found) == sorted(expected)


@on_files
def test_the_contents_of_one_file(place: EnginePlace) -> None:
    (place.source / 'one').write_bytes(b'content')
    place.backup()
    place.change()
    place.backup()
    for name in ('one', 'large', 'new'):
        agent = place.agent(include=(name,))
        found = agent.open(agent.state(HOST)).contents()
        assert b''.join(found.blocks) == (place.source / name).read_bytes()


@on_files
def test_changes_since_a_snapshot_are_in_the_next_level(place: EnginePlace) -> None:
    """However long after the snapshot its archive is made."""
    taken = time.time()
    (place.source / 'large').write_bytes(b'content')
    time.sleep(3)
    place.backup(taken)
    place.backup()
    agent = place.agent()
    opened = agent.open(agent.state(HOST))
    found = [row for rows in opened.rows() for row in rows.each()]
    assert {row.level for row in found if row.path == b'large'} == {1}


@on_files
def test_a_restore_of_a_part(place: EnginePlace, tmp_path: Path) -> None:
    (place.source / 'one').write_bytes(b'content')
    place.backup()
    place.change()
    place.backup()
    for name in ('one', 'large', 'new'):
        target = tmp_path / 'parts' / name
        place.restore(target, include=(name,))
        (restored,) = target.iterdir()
        content = (place.source / name).read_bytes()
        assert (restored.name, restored.read_bytes()) == (name, content)


@on_files
def test_patterns_that_match_nothing(place: EnginePlace, tmp_path: Path) -> None:
    (place.source / 'one').write_bytes(b'content')
    place.backup()
    (stored,) = place.repository.committed()
    engine = require_files(place.engine(), 'test')
    patterns = ['one', 'missing', 'miss*']
    unmatched = engine.unmatched_patterns(patterns, stored.engine_metadata())
    assert unmatched == {'missing', 'miss*'}
    with pytest.raises(RestoreError, match='missing'):
        place.restore(tmp_path / 'restored', include=('one', 'missing'))
    assert not (tmp_path / 'restored').exists()


@on_files
def test_what_a_restore_removes(place: EnginePlace, tmp_path: Path) -> None:
    place.backup()
    target = tmp_path / 'target'
    agent = place.agent()
    chain = agent.open(agent.state(HOST))
    assert chain.plan(str(target)) is None
    assert not target.exists()
    place.restore(target)
    assert chain.plan(str(target)) == TargetPlan()
    (target / 'other').mkdir()
    (target / 'other' / 'file').write_bytes(b'content')
    assert chain.plan(str(target)) == TargetPlan(removed=(b'other',))
    place.restore(target)
    assert not (target / 'other').exists()


@on_files
def test_the_checksum(place: EnginePlace, tmp_path: Path) -> None:
    place.backup()
    place.restore(tmp_path / 'restored')
    engine = require_files(place.engine(), 'test')
    found = engine.checksum(engine.source([str(place.source)]))
    assert engine.checksum(engine.source([str(tmp_path / 'restored')])) == found
    place.change()
    assert engine.checksum(engine.source([str(place.source)])) != found


# Engines whose archives have parts


@pytest.mark.parametrize(
    'stream',
    [
        [PartStart('A')],
        [PartStart('a/b')],
        [PartStart('a' * 64)],
        [PartStart('a'), b'content', PartStart('a')],
        [PartStart('a'), PartStart('')],
        [b'content', PartStart('a')],
    ],
    ids=repr,
)
def test_parts_without_a_name_of_their_own(
    stream: list[Block | PartStart], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = SqlSetPlace(tmp_path)
    monkeypatch.setattr(
        place.engine_class,
        'archive',
        lambda _engine, _made: (each for each in stream),
    )
    with pytest.raises(EngineError, match='each part needs a name of its own'):
        place.backup()
    assert place.storage.files() == {}


class _Ignoring(PartsExtractor):
    def extract(self, parts: Iterator[tuple[str, Iterator[Block]]]) -> None:
        next(parts)


def test_parts_that_the_engine_does_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are verified all the same."""
    place = SqlSetPlace(tmp_path)
    place.backup()
    monkeypatch.setattr(
        place.engine_class, 'extractor', lambda *_arguments: _Ignoring()
    )
    place.restore(tmp_path / 'restored')
    (stored,) = place.repository.committed()
    (*_others, last) = stored.streams.values()
    content = bytearray(Path(last.paths.data).read_bytes())
    content[-1] ^= 1
    Path(last.paths.data).write_bytes(content)
    with pytest.raises(IntegrityError):
        place.restore(tmp_path / 'restored again')


def test_parts_that_a_storage_does_not_read() -> None:
    parts = split_parts([PartStart('a'), b'1', b'2', PartStart('b')])
    name, content = next(parts)
    assert (name, next(content)) == ('a', b'1')
    with pytest.raises(StorageException, match='stopped reading'):
        next(parts)
