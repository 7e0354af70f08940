"""Format age, level by level: what may not be noticed nowhere is noticed here.

In process, on local storage; with the real command in
``freezer/tests/faults/test_encryption.py`` and in ``test_encryption.py``.
"""

import base64
import dataclasses
import json
import logging
import shutil
from pathlib import Path

import pytest

from freezer.engine.engine import Extractor, TargetPlan
from freezer.engine.settings import EngineSettings
from freezer.engine.tar import snapshot
from freezer.engine.tar.tar import TarEngine
from freezer.exceptions import (
    EncryptionError,
    FreezerError,
    PassphraseError,
    RestoreError,
    TamperedError,
)
from freezer.storage.backup import StoredLevel
from freezer.storage.exceptions import StorageException
from freezer.storage.levels import LevelPolicy
from freezer.storage.local.storage import LocalStorage
from freezer.stream import age
from freezer.stream.encryption import Passphrase
from freezer.tests import trees
from freezer.tests.engines import EngineAgent

NAME = 'host_name'
POLICY = LevelPolicy(incremental=True)
NOW = 1_800_000_000
LEVELS = 3


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(age, '_WORK', 1)
    # Of files that are this old it is known whether they have changed.
    monkeypatch.setattr(snapshot, 'MARGIN_NANOSECONDS', 0)


@dataclasses.dataclass
class World:
    """A source, a storage, and agents of several minds."""

    folder: Path

    def __post_init__(self) -> None:
        self.source = self.folder / 'source'
        self.source.mkdir()
        (self.source / 'a name to hide').write_text('some content')
        (self.folder / 'pass').write_text('correct horse\n')
        (self.folder / 'other').write_text('battery staple\n')
        self.storage = LocalStorage(str(self.folder / 'storage'), 2**20)
        self.made: list[StoredLevel] = []

    def engine(
        self, encryption: str | None = 'age', passphrase: str | None = 'pass'
    ) -> EngineAgent:
        file = Passphrase(str(self.folder / passphrase)) if passphrase else None
        return EngineAgent(self.storage, EngineSettings('gzip', file, encryption))

    def back_up(
        self, engine: EngineAgent | None = None, name: str = NAME
    ) -> StoredLevel:
        engine = engine or self.engine()
        now = NOW + len(self.made)
        plan = engine.plan(name, POLICY, now)
        # The snapshot files have the time of day.
        made = engine.backup(self.source, plan, 2 * NOW)
        self.made.append(StoredLevel(self.storage, made))
        return self.made[-1]

    def levels(self, count: int = LEVELS, name: str = NAME) -> list[StoredLevel]:
        made = []
        for level in range(count):
            (self.source / f'new at {level}').write_text(f'level {level} of {name}')
            made.append(self.back_up(name=name))
            assert made[-1].level == level
        return made

    def restore(self, engine: EngineAgent | None = None, name: str = NAME) -> Path:
        engine = engine or self.engine(None)
        target = self.folder / 'target'
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        engine.restore(target, engine.state(name))
        assert (
            trees.differences(trees.describe(self.source), trees.describe(target)) == []
        )
        return target

    def refuse(
        self, kind: type[Exception] = EncryptionError, early: bool = True
    ) -> str:
        """Why a restore fails.

        :param early: before anything is written
        """
        with pytest.raises(kind) as caught:
            self.restore()
        if early:
            assert list((self.folder / 'target').iterdir()) == []
        return str(caught.value)

    def files(self, backup: StoredLevel) -> dict[str, Path]:
        folder = Path(backup.paths.folder)
        return {p.name: p for p in folder.rglob('*') if p.is_file()} | {
            'marker': Path(backup.paths.marker)
        }


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def exchange(one: Path, other: Path) -> None:
    ours, theirs = one.read_bytes(), other.read_bytes()
    one.write_bytes(theirs)
    other.write_bytes(ours)


# A chain


def test_chain_restores_with_and_without_the_option(world: World) -> None:
    made = world.levels()
    assert {backup.level_zero_timestamp for backup in made} == {made[0].timestamp}
    world.restore()
    world.restore(world.engine('age'))


def test_stored_files_are_encrypted(world: World) -> None:
    made = world.levels()
    known = b''
    for backup in made:
        files = world.files(backup)
        assert set(files) == {
            *('data', 'identity.age', 'engine_metadata', 'manifest', '00000000'),
            *('index', 'marker'),
        }
        known += b''.join(path.read_bytes() for path in files.values())
        for name in ('data', 'identity.age', 'engine_metadata', 'index'):
            assert files[name].read_bytes().startswith(b'age-encryption.org/v1\n')
        marker = json.loads(files['marker'].read_bytes())
        assert marker['encryption'] is True
        assert marker['encryption_format'] == 'age'
        assert marker['engine_name'] == 'tar'
    for secret in (b'name to hide', b'new at', b'correct horse', b'SECRET', b'age1'):
        assert secret not in known
    # A level is complete by itself.
    assert len({world.files(b)['identity.age'].read_bytes() for b in made}) == 1


def test_every_chain_has_a_key_of_its_own(world: World) -> None:
    (first,) = world.levels(1)
    (second,) = world.levels(1, 'host_other')
    exchange(world.files(first)['identity.age'], world.files(second)['identity.age'])
    assert 'was modified, cut off' in world.refuse(TamperedError)


def test_passphrase_of_a_chain_can_be_changed(world: World) -> None:
    """As with ``age -d`` and ``age -p``: another passphrase, the same key."""
    for backup in world.levels():
        path = world.files(backup)['identity.age']
        key = age.unlock(b'correct horse', path.read_bytes(), 'here')
        path.write_bytes(age.lock(b'battery staple', key))
    world.refuse(PassphraseError)
    world.restore(world.engine('age', 'other'))
    assert world.back_up(world.engine('age', 'other')).level == LEVELS
    world.restore(world.engine('age', 'other'))


# The passphrase


def test_wrong_passphrase_is_refused(world: World) -> None:
    made = world.levels(2)
    before = trees.describe(world.folder / 'storage')
    other = world.engine('age', 'other')
    with pytest.raises(PassphraseError) as caught:
        world.back_up(other)
    assert made[1].paths.identity in str(caught.value)
    assert 'wrong passphrase' in str(caught.value)
    with pytest.raises(PassphraseError):
        world.restore(other)
    assert list((world.folder / 'target').iterdir()) == []
    target = world.folder / 'target'
    (target / 'in the way').touch()
    with pytest.raises(PassphraseError):
        other.open(other.state(NAME)).plan(str(target))
    assert trees.describe(world.folder / 'storage') == before


def test_missing_passphrase_is_refused(world: World) -> None:
    world.levels(1)
    none = world.engine(None, None)
    with pytest.raises(RestoreError, match='--encrypt-pass-file'):
        world.restore(none)
    target = world.folder / 'target'
    (target / 'in the way').touch()
    with pytest.raises(RestoreError, match='--encrypt-pass-file'):
        none.open(none.state(NAME)).plan(str(target))


def test_overwrite_knows_what_to_remove(world: World) -> None:
    world.levels()
    target = world.restore()
    (target / 'in the way').touch()
    agent = world.engine(None)
    plan = agent.open(agent.state(NAME)).plan(str(target))
    assert plan == TargetPlan(removed=(b'in the way',))


# What somebody has changed


def test_every_changed_or_missing_file_is_detected(world: World) -> None:
    for backup in world.levels():
        for name, path in world.files(backup).items():
            if name in ('index', 'identity.age'):
                continue  # A restore does not read it, or has it from another level.
            content = path.read_bytes()
            unread = content.find(b'"index": {')
            digest = content.find(b'"content_sha256"')
            # A manifest may say of parts what it likes, if the bytes are right.
            step = len(content) // 5 if name != 'manifest' else len(content)
            for position in range(0, len(content), step):
                if 0 <= unread <= position <= content.find(b'}', unread):
                    continue
                if name == 'marker' and digest + len('"content_sha256": "') <= position:
                    continue  # verify alone reads it.
                changed = bytearray(content)
                changed[position] ^= 0x01
                path.write_bytes(changed)
                with pytest.raises((FreezerError, StorageException)):
                    world.restore()
            # One of them ends with a line feed.
            path.write_bytes(content[:-2])
            with pytest.raises((FreezerError, StorageException)):
                world.restore()
            path.unlink()
            if name != 'marker':
                with pytest.raises((FreezerError, StorageException)):
                    world.restore()
            path.write_bytes(content)
    world.restore()


@pytest.mark.parametrize('name', ['data', 'engine_metadata', 'marker'])
@pytest.mark.parametrize('one, other', [(0, 1), (1, 2)])
def test_exchanged_levels_are_seen(
    world: World, name: str, one: int, other: int
) -> None:
    """Each opens, for it is of the same key."""
    made = world.levels()
    for backup in made:
        # Who changes one can change the other, and this is what Freezer 19 reads.
        forget_manifest(world, backup)
    world.restore()
    exchange(world.files(made[one])[name], world.files(made[other])[name])
    # The data is only seen when it is read.
    error = world.refuse(TamperedError, early=name != 'data' or one == 0)
    assert 'was replaced' in error


def forget_manifest(world: World, backup: StoredLevel) -> None:
    path = world.files(backup)['marker']
    marker = json.loads(path.read_bytes())
    del marker['manifest']
    path.write_bytes(json.dumps(marker).encode())


@pytest.mark.parametrize('name', ['data', 'engine_metadata', 'identity.age'])
def test_wrong_seal_is_detected(world: World, name: str) -> None:
    (made,) = world.levels(1)
    files = world.files(made)
    marker = json.loads(files['marker'].read_bytes())
    for seal in (base64.b64encode(files[name].read_bytes()).decode(), '', 5, None):
        files['marker'].write_text(json.dumps({**marker, 'seal': seal}))
        assert 'its seal' in world.refuse(TamperedError)


@pytest.mark.parametrize(
    'change',
    [
        {'engine_name': 'tat'},
        {'compression': 'none'},
        {'encryption': False},
        {'encryption': 1.5},
        {'more': ''},
    ],
    ids=str,
)
def test_changed_marker_is_detected(world: World, change: dict[str, object]) -> None:
    made = world.levels()
    path = world.files(made[1])['marker']
    marker = json.loads(path.read_bytes())
    path.write_text(json.dumps({**marker, **change}))
    assert f'{path}: was modified or damaged' in world.refuse(TamperedError)
    seal = marker['seal']
    path.write_text(json.dumps({**marker, 'seal': f'{seal[:9]}\n{seal[9:]}'}))
    assert 'its seal: was modified or damaged' in world.refuse(TamperedError)


def test_replaced_level_is_detected(world: World) -> None:
    """All of it, so that it is whole in itself."""
    made = world.levels()
    ours, theirs = world.files(made[1]), world.files(made[2])
    for name, path in theirs.items():
        path.write_bytes(ours[name].read_bytes())
    error = world.refuse(TamperedError)
    assert f'was replaced by the marker of tar/{NAME}/{NOW}/1_{NOW + 1}' in error


def test_replaced_chain_is_detected(world: World) -> None:
    made = world.levels(2)
    others = world.levels(2, 'host_other')
    for ours, theirs in zip(made, others, strict=True):
        for name, path in world.files(ours).items():
            path.write_bytes(world.files(theirs)[name].read_bytes())
    assert 'was replaced by the marker of tar/host_other/' in world.refuse(
        TamperedError
    )


def test_missing_base_level_is_detected(world: World) -> None:
    """A level 2 on the second of two levels 1 is none on the first."""
    policy = LevelPolicy(incremental=True, always_level=1)
    for number in range(3):
        (world.source / f'file {number}').touch()
        engine = world.engine()
        plan = engine.plan(NAME, policy, NOW + number)
        engine.backup(world.source, plan, 2 * NOW)
    plan = engine.plan(NAME, POLICY, NOW + 3)
    newest = engine.backup(world.source, plan, 2 * NOW)
    assert newest.level == 2
    world.restore()
    second = engine.repository.chains('tar', NAME)[NOW][2]
    assert (second.level, second.timestamp) == (1, NOW + 2)
    Path(second.paths.marker).unlink()
    assert f'builds on tar/{NAME}/{NOW}/1_{NOW + 2}' in world.refuse(TamperedError)


@pytest.mark.parametrize('level', range(LEVELS))
@pytest.mark.parametrize('encryption', ['openssl', None])
def test_level_of_another_format_in_a_chain_is_detected(
    world: World, level: int, encryption: str | None
) -> None:
    """What anybody can make cannot be put into a chain."""
    made = world.levels()
    passphrase = 'pass' if encryption else None
    other = LocalStorage(str(world.folder / 'other storage'), 2**20)
    file = Passphrase(str(world.folder / 'pass')) if passphrase else None
    settings = EngineSettings('gzip', file)
    forger = EngineAgent(other, settings)
    plan = forger.plan(NAME, LevelPolicy(), NOW)
    forged = forger.backup(world.source, plan, 2 * NOW)
    theirs = world.files(StoredLevel(other, forged))
    for name, path in world.files(made[level]).items():
        if name in theirs:
            path.write_bytes(theirs[name].read_bytes())
        else:
            path.unlink()
    assert 'it was replaced' in world.refuse(TamperedError)


def test_unencrypted_chain_is_restored(world: World) -> None:
    """It is restored, as a chain of days when nothing was: unless one asks."""
    world.back_up(world.engine(None, None))
    world.restore(world.engine(None))
    with pytest.raises(RestoreError, match='is not encrypted'):
        world.restore(world.engine('age'))
    world.back_up(world.engine('openssl'), 'host_other')
    world.restore(world.engine(None), 'host_other')
    with pytest.raises(RestoreError, match='in format openssl, not in age'):
        world.restore(world.engine('age'), 'host_other')


def test_unknown_format_is_refused(world: World) -> None:
    (made,) = world.levels(1)
    path = world.files(made)['marker']
    path.write_bytes(path.read_bytes().replace(b'"age"', b'"agf"'))
    assert "format 'agf' is not known" in world.refuse(RestoreError)


# What an increment is built on


@pytest.mark.parametrize('name', ['identity.age', 'engine_metadata'])
def test_missing_file_begins_a_new_chain(
    world: World, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A new chain is a good backup."""
    *_, newest = world.levels(2)
    world.files(newest)[name].unlink()
    with caplog.at_level(logging.WARNING):
        assert world.back_up().level == 0
    assert 'starting a new chain at level 0' in caplog.text
    assert name in caplog.text
    world.restore()


@pytest.mark.parametrize('name', ['identity.age', 'engine_metadata', 'marker'])
def test_changed_file_fails_the_increment(world: World, name: str) -> None:
    *_, newest = world.levels(2)
    path = world.files(newest)[name]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    path.write_bytes(content)
    before = trees.describe(world.folder / 'storage')
    with pytest.raises((EncryptionError, StorageException)) as caught:
        world.back_up()
    assert str(path) in str(caught.value)
    assert trees.describe(world.folder / 'storage') == before


@pytest.mark.parametrize(
    'before, after',
    [
        ((None, None), ('age', 'pass')),
        (('openssl', 'pass'), ('age', 'pass')),
        (('age', 'pass'), ('openssl', 'pass')),
        (('age', 'pass'), (None, None)),
    ],
)
def test_another_format_begins_a_new_chain(
    world: World,
    before: tuple[str | None, str | None],
    after: tuple[str | None, str | None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(2):
        world.back_up(world.engine(*before))
    with caplog.at_level(logging.WARNING):
        assert world.back_up(world.engine(*after)).level == 0
    assert 'is not encrypted in the same way: starting a new chain' in caplog.text
    world.restore(world.engine(None))
    (world.source / 'more').touch()
    assert world.back_up(world.engine(*after)).level == 1
    world.restore(world.engine(None))


# The end of the stream


def test_change_behind_the_end_of_the_archive_is_detected(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is done at the end of the archive, and the stream may have an end of its
    own."""
    (made,) = world.levels(1)
    forget_manifest(world, made)
    path = world.files(made)['data']
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x01
    extracted: list[bool] = []

    class Hasty(Extractor):
        def extract(self, blocks: object) -> None:
            extracted.append(True)

    monkeypatch.setattr(TarEngine, 'extractor', lambda *_arguments: Hasty())
    path.write_bytes(content)
    assert 'was modified, cut off' in world.refuse(TamperedError)
    assert extracted == [True]


# A key file that is damaged


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize('how', ['damaged', 'missing'])
@pytest.mark.parametrize('level', range(LEVELS))
def test_the_same_key_file_of_another_level_serves(
    world: World, level: int, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    levels = world.levels()
    file = world.files(levels[level])['identity.age']
    if how == 'missing':
        file.unlink()
    else:
        damage(file)
    with caplog.at_level(logging.WARNING, 'freezer.notices'):
        world.restore()
    (line,) = [each for each in caplog.messages if 'instead' in each]
    assert str(file) in line
    assert f'identity.age of level {0 if level else 1} instead' in line


def test_no_key_file_serves_if_all_are_damaged(world: World) -> None:
    for each in world.levels():
        damage(world.files(each)['identity.age'])
    assert 'identity.age' in world.refuse()
