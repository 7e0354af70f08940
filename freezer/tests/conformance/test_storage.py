"""The one suite that every storage passes, on every server."""

import contextlib
import json
import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from freezer.storage import exceptions as e
from freezer.storage.base import Backup, EngineName, NoSuchBackup, Storage
from freezer.storage.levels import BrokenChain, LevelPolicy
from freezer.storage.manifested import Manifested
from freezer.storage.s3 import S3Storage
from freezer.tests import servers
from freezer.tests.conformance.backups import (
    DAY,
    HOST,
    MARKER,
    NOISE,
    STATE,
    TAR,
    ZERO,
    Store,
    backup,
    chunks,
    flip,
    folder,
    marker,
    write,
)
from freezer.tests.conformance.places import PART, PARTS_PER_VOLUME, Place, S3Place
from freezer.tests.conformance.variants import Way, combinations
from freezer.tests.conftest import on_servers
from freezer.utils.rate import Rate
from freezer.utils.streaming import RichQueue

# (driver, server): a storage without a server has None.
EVERY_S3 = {f's3-{server}': ('s3', server) for server in servers.KINDS}
EVERY_STORAGE = {
    'local': ('local', None),
    'sqlite': ('sqlite', None),
    'multiple-local': ('multiple', None),
    'multiple-mixed': ('multiple', 'moto'),
    **EVERY_S3,
}


def on(*names: str) -> Any:
    """Run tests on some storages. A parameter's name is what marks those on Ceph."""
    return pytest.mark.parametrize(
        'driver, s3_server',
        [EVERY_STORAGE[name] for name in names],
        ids=names,
        indirect=['s3_server'],
    )


def then_fail(messages: Iterable[bytes], error: Exception) -> Iterator[bytes]:
    yield from messages
    raise error


def restore(storage: Storage, date: int | None = None, identity: str = HOST) -> bytes:
    """The streams of the newest state, one after the other."""
    chain = storage.get_latest_level_zero_increments(TAR, identity, date)
    assert list(chain) == list(range(len(chain)))
    return b''.join(stream(level) for level in chain.values())


def stream(backup: Backup) -> bytes:
    assert backup.storage is not None
    return b''.join(backup.storage.backup_blocks(backup))


def collect(backup: Backup, got: bytearray) -> None:
    """Read, and keep what came if it fails."""
    assert backup.storage is not None
    for block in backup.storage.backup_blocks(backup):
        got += block


def listed(storage: Storage, identity: str = HOST) -> dict[int, list[tuple[int, int]]]:
    """Level-0 timestamp -> (level, timestamp) of each backup."""
    chains = storage.get_chains(TAR, identity)
    return {
        zero: [(found.level, found.timestamp) for found in chain]
        for zero, chain in chains.items()
    }


SIZES = {
    'empty': 0,
    'one byte': 1,
    'a byte less than a part': PART - 1,
    'one part': PART,
    'a byte more than a part': PART + 1,
    'parts': 2 * PART + 12345,
    'one volume': PARTS_PER_VOLUME * PART,
    'volumes': len(NOISE),
}


@on(*EVERY_STORAGE)
class TestEveryStorage:
    def test_a_new_container_is_empty(self, storage: Storage) -> None:
        storage.prepare()
        assert listed(storage) == {}
        found = storage.report()
        assert (found.size, found.objects, found.chains) == (0, 0, ())
        with pytest.raises(NoSuchBackup, match=HOST):
            storage.get_latest_level_zero_increments(TAR, HOST)

    @pytest.mark.parametrize('size', SIZES.values(), ids=SIZES)
    def test_what_is_written_is_read(
        self, place: Place, storage: Storage, store: Store, size: int
    ) -> None:
        store(backup(), NOISE[:size])
        assert restore(storage) == NOISE[:size]
        assert place.uploads() == []

    def test_tiny_messages(
        self, storage: Storage, commit: Callable[[Storage, Backup], None]
    ) -> None:
        storage.claim(backup())
        write(storage, backup(), (NOISE[n : n + 1] for n in range(3000)))
        commit(storage, backup())
        assert restore(storage) == NOISE[:3000]

    def test_a_backup_is_listed_when_it_is_committed(
        self,
        place: Place,
        storage: Storage,
        commit: Callable[[Storage, Backup], None],
    ) -> None:
        storage.claim(backup())
        write(storage, backup(), chunks(NOISE[: PART + 1]))
        other = place.storage()
        for agent in (storage, other):
            assert listed(agent) == {}
            assert agent.report().chains == ()
            with pytest.raises(NoSuchBackup):
                restore(agent)
            assert agent.plan(TAR, HOST, LevelPolicy(True), ZERO) == (None, 0)
        commit(storage, backup())
        for agent in (storage, other):
            assert listed(agent) == {ZERO: [(0, ZERO)]}
            assert restore(agent) == NOISE[: PART + 1]

    def test_metadata(self, place: Place, storage: Storage, store: Store) -> None:
        store(backup())
        chain = place.storage().get_latest_level_zero_increments(TAR, HOST)
        assert chain[0].engine_metadata() == STATE
        metadata = chain[0].metadata()
        assert metadata | MARKER == metadata
        for member in place.members:
            # Freezer 19 reads the first line as JSON.
            first_line = member.read(marker(backup())).splitlines()[0]
            assert json.loads(first_line)['compression'] == 'gzip'

    def test_identity(self, place: Place, storage: Storage, store: Store) -> None:
        storage.claim(backup())
        storage.put_identity(b'a key', backup())
        # It belongs to a backup, and makes none.
        assert listed(storage) == {}
        storage.discard(backup())
        assert place.files() == {}
        store(backup())
        storage.put_identity(b'another', backup())
        chain = place.storage().get_latest_level_zero_increments(TAR, HOST)
        assert chain[0].identity() == b'another'
        for member in place.members:
            assert member.read(f'{folder(backup())}/identity.age') == b'another'
        storage.remove_older_than(TAR, ZERO, HOST)
        assert place.files() == {}

    def test_engine_metadata_to_a_file(
        self, storage: Storage, store: Store, tmp_path: Path
    ) -> None:
        store(backup())
        base, _earliest = storage.plan(TAR, HOST, LevelPolicy(True), ZERO + 1)
        assert base is not None
        assert base.storage is not None
        target = tmp_path / 'copy'
        base.storage.get_file(base.engine_metadata_path, str(target))
        assert target.read_bytes() == STATE

    # Failing

    def test_a_failed_stream_leaves_nothing(
        self, place: Place, storage: Storage
    ) -> None:
        for size in (0, 1000, PART + 1, 4 * PART + 1):
            error = OSError('the disk is on fire')
            storage.claim(backup())
            with pytest.raises(OSError, match='on fire') as caught:
                write(storage, backup(), then_fail(chunks(NOISE[:size]), error))
            assert caught.value is error
            assert listed(storage) == {}
            assert place.uploads() == []
            storage.discard(backup())
            assert place.files() == {}, size

    def test_discard_takes_back_a_commit(
        self, place: Place, storage: Storage, store: Store
    ) -> None:
        store(backup())
        store(backup(level=1))
        storage.discard(backup(level=1))
        assert listed(storage) == {ZERO: [(0, ZERO)]}
        assert [path for path in place.files() if f'1_{ZERO + 1}' in path] == []
        assert restore(storage) == b'content'

    def test_discard_of_nothing(self, storage: Storage) -> None:
        storage.discard(backup())

    def test_a_taken_place_is_refused(
        self,
        place: Place,
        storage: Storage,
        commit: Callable[[Storage, Backup], None],
    ) -> None:
        other = place.storage()
        storage.claim(backup())
        with pytest.raises(e.Conflict):
            other.claim(backup())
        write(storage, backup(), [b'first'])
        with pytest.raises(e.Conflict):
            other.claim(backup())
        commit(storage, backup())
        with pytest.raises(e.Conflict):
            other.claim(backup())
        assert restore(storage) == b'first'
        other.claim(backup(timestamp=ZERO + 1))

    # Names

    def test_any_name(self, place: Place, storage: Storage, store: Store) -> None:
        for identity in (
            'host_a b',
            'host_Grüße €😀',
            'host_name/5f1c/0e',
            'host_{mode}_%41+&=?#',
            'host_\'"<>|*$(x)',
            'a',
            '1700000000',
            *(['host_\\n\\'] if place.keeps_backslash else []),
        ):
            store(backup(identity), identity.encode())
            assert listed(storage, identity) == {ZERO: [(0, ZERO)]}
            assert restore(storage, identity=identity) == identity.encode()
            assert {c.identity for c in storage.report().chains} == {identity}
            storage.remove_older_than(TAR, ZERO, identity)
            assert place.files() == {}, identity

    def test_names_that_begin_alike_do_not_mix(
        self, storage: Storage, store: Store
    ) -> None:
        names = ['h_a', 'h_ab', 'h_a b', 'h_a/b', 'h_a/b/c', 'h', 'h_a_']
        for number, identity in enumerate(names):
            store(backup(identity, ZERO + number), identity.encode())
        for number, identity in enumerate(names):
            assert listed(storage, identity) == {ZERO + number: [(0, ZERO + number)]}
            assert restore(storage, identity=identity) == identity.encode()
        assert storage.remove_older_than(TAR, ZERO + DAY, 'h_a')
        assert listed(storage, 'h_a') == {}
        for identity in names[1:]:
            assert restore(storage, identity=identity) == identity.encode()

    def test_times_that_begin_alike_do_not_mix(
        self, place: Place, storage: Storage, store: Store
    ) -> None:
        short, long, level = backup(zero=17), backup(zero=170), backup(zero=17, level=1)
        longer = backup(zero=17, timestamp=180, level=1)
        for each in (short, long, level, longer):
            store(each, repr(each).encode())
        storage.discard(level)
        assert listed(storage) == {17: [(0, 17), (1, 180)], 170: [(0, 170)]}
        assert restore(storage, 169) == repr(short).encode()
        storage.discard(longer)
        storage.remove_older_than(TAR, 17, HOST)
        assert listed(storage) == {170: [(0, 170)]}
        assert restore(storage) == repr(long).encode()

    def test_engines_do_not_mix(self, storage: Storage, store: Store) -> None:
        store(backup())
        assert storage.get_chains(EngineName('ta'), HOST) == {}
        assert storage.get_chains(EngineName('tarx'), HOST) == {}

    def test_what_is_not_ours_is_ignored(
        self, place: Place, storage: Storage, store: Store
    ) -> None:
        store(backup())
        foreign = [
            'README',
            'metadata/README',
            f'metadata/tar/{HOST}/README',
            f'metadata/tar/{HOST}/latest/0_{ZERO}/metadata',
            f'metadata/tar/{HOST}/{ZERO}/notes',
            f'metadata/tar/{HOST}/{ZERO}/0_{ZERO}/metadata.partial',
            f'metadata/tar/{HOST}/{ZERO}/x_{ZERO}/metadata',
            f'metadata/tar/{HOST}/{ZERO}/01_{ZERO}/metadata',
            f'metadata/tar/{HOST}/-5/0_5/metadata',
            f'data/tar/{HOST}/{ZERO + 9}/0_{ZERO + 9}/data',
        ]
        before = storage.report()
        for path in foreign:
            place.write(path, b'not ours')
        assert listed(storage) == {ZERO: [(0, ZERO)]}
        assert restore(storage) == b'content'
        after = storage.report()
        assert after.objects == before.objects + len(foreign) * len(place.members)
        assert [c.identity for c in after.chains] == [c.identity for c in before.chains]

    # Finding

    def test_the_state_of_a_date(self, storage: Storage, store: Store) -> None:
        store(backup(zero=100), b'a0')
        store(backup(zero=100, timestamp=110, level=1), b'a1')
        store(backup(zero=100, timestamp=120, level=2), b'a2')
        store(backup(zero=200), b'b0')
        states = {
            None: b'b0',
            999: b'b0',
            200: b'b0',
            199: b'a0a1a2',
            120: b'a0a1a2',
            119: b'a0a1',
            110: b'a0a1',
            109: b'a0',
            100: b'a0',
        }
        for date, state in states.items():
            assert restore(storage, date) == state, date
        with pytest.raises(NoSuchBackup):
            restore(storage, 99)
        zeros = storage.get_level_zero(TAR, HOST)
        assert [zero.timestamp for zero in zeros] == [100, 200]

    def test_of_one_level_the_newest_counts(
        self, storage: Storage, store: Store
    ) -> None:
        store(backup(zero=100), b'0')
        for timestamp in (110, 130, 120):
            store(backup(zero=100, timestamp=timestamp, level=1), b'%d' % timestamp)
        assert restore(storage) == b'0130'
        assert restore(storage, 125) == b'0120'

    def test_a_gap_is_refused(self, storage: Storage, store: Store) -> None:
        store(backup())
        store(backup(level=2))
        with pytest.raises(BrokenChain, match='level 1 '):
            restore(storage)
        assert storage.plan(TAR, HOST, LevelPolicy(True), ZERO) == (None, ZERO + 3)

    def test_what_the_next_builds_on(self, storage: Storage, store: Store) -> None:
        store(backup())
        store(backup(level=1))
        now = ZERO + DAY

        def base(policy: LevelPolicy) -> int | None:
            found, earliest = storage.plan(TAR, HOST, policy, now)
            assert earliest == ZERO + 2
            return None if found is None else found.level

        assert base(LevelPolicy()) is None
        assert base(LevelPolicy(True)) == 1
        assert base(LevelPolicy(True, max_level=1)) is None
        assert base(LevelPolicy(True, always_level=1)) == 0
        assert base(LevelPolicy(True, restart_always_level=0.5)) is None
        previous = storage.previous_backup(TAR, HOST, False, 0, 0, 0)
        assert previous is not None
        assert previous.level == 1
        assert storage.previous_backup(TAR, HOST, True, 0, 0, 0) is None

    def test_details(self, place: Place, storage: Storage, store: Store) -> None:
        store(backup(), NOISE)
        made, *_ = storage.backups()
        assert made.storage is not None
        found = storage.details(made)
        assert (found.size, found.digests) == (len(NOISE), True)
        in_volumes = isinstance(made.storage, S3Storage)
        assert (found.volumes > 1) == in_volumes
        assert found.marker['engine_name'] == 'tar'
        assert (found.stat.locked_until, found.stat.legal_hold) == (None, False)
        made.storage.discard(made)
        with pytest.raises(e.NotFound):
            storage.details(made)

    def test_report(self, place: Place, storage: Storage, store: Store) -> None:
        store(backup(), NOISE[: PART + 1])
        store(backup(level=1), NOISE[:10])
        store(backup('host_other'), b'')
        found = storage.report()
        files = place.files()
        assert found.objects == len(files)
        assert found.size == sum(files.values())
        chains = {
            (chain.engine, chain.identity, chain.level_zero_timestamp): [
                (level.level, level.timestamp) for level in chain.levels
            ]
            for chain in found.chains
        }
        assert chains == {
            ('tar', HOST, ZERO): [(0, ZERO), (1, ZERO + 1)],
            ('tar', 'host_other', ZERO): [(0, ZERO)],
        }
        for chain in found.chains:
            assert sum(level.size for level in chain.levels) == chain.size
        assert sum(chain.size for chain in found.chains) == found.size
        if isinstance(storage, Manifested):
            (info,) = storage.info()
            assert info == {
                'container_name': storage.storage_path,
                'size': found.size,
                'objects_count': found.objects,
            }

    # Removing

    def test_old_chains_are_removed_whole(
        self, place: Place, storage: Storage, store: Store
    ) -> None:
        for zero in (100, 200, 300):
            store(backup(zero=zero))
            store(backup(zero=zero, timestamp=zero + 50, level=1))
        other = store(backup('host_other', 100))
        before = place.files()

        def removed(older: int, **how: Any) -> set[int]:
            chains = storage.remove_older_than(TAR, older, HOST, **how)
            assert all([b.level for b in chain] == [0, 1] for chain in chains)
            return {chain[0].level_zero_timestamp for chain in chains}

        assert removed(249) == {100}
        assert set(listed(storage)) == {200, 300}
        assert removed(249) == set()
        assert removed(999, keep=300, dry_run=True) == {200}
        assert set(listed(storage)) == {200, 300}
        assert removed(999, keep=300) == {200}
        assert set(listed(storage)) == {300}
        assert restore(storage) == b'contentcontent'
        gone = [path for path in before if '/100/' in path or '/200/' in path]
        kept = set(before) - {path for path in gone if 'host_other' not in path}
        assert set(place.files()) == kept
        assert restore(storage, identity=other.hostname_backup_name) == b'content'

    def test_a_chain_being_built_on_stays(self, storage: Storage, store: Store) -> None:
        store(backup())
        increment = backup(timestamp=ZERO + DAY, level=1)
        storage.claim(increment)
        write(storage, increment, [b'under way'])
        assert storage.remove_older_than(TAR, ZERO + 1, HOST) == []
        assert restore(storage) == b'content'

    @pytest.mark.parametrize('calls', [1, 2, 3])
    def test_a_removal_that_stops_halfway_leaves_what_restores(
        self,
        place: Place,
        storage: Storage,
        store: Store,
        monkeypatch: pytest.MonkeyPatch,
        calls: int,
    ) -> None:
        for level in range(3):
            store(backup(level=level), b'%d' % level)
        store(backup(zero=ZERO + DAY), b'new')
        _stop_after(monkeypatch, calls)
        with contextlib.suppress(Stopped):
            storage.remove_older_than(TAR, ZERO + 99, HOST)
        monkeypatch.undo()
        agent = place.storage()
        assert restore(agent) == b'new'
        for zero in listed(agent):
            assert restore(agent, zero + 99)
        storage.remove_older_than(TAR, ZERO + 99, HOST)
        assert restore(agent) == b'new'

    def test_markers_go_before_data(
        self,
        place: Place,
        storage: Storage,
        store: Store,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Whenever it stops, nothing is listed that has no data."""
        store(backup())
        store(backup(level=1))
        seen: list[bool] = []

        def look() -> None:
            for member in place.members:
                files = member.files()
                for each in (backup(), backup(level=1)):
                    whole = f'{folder(each)}/data' in files
                    seen.append(whole)
                    assert whole or marker(each) not in files

        _after_each_verb(monkeypatch, look)
        storage.remove_older_than(TAR, ZERO + 99, HOST)
        assert set(seen) == {True, False}
        monkeypatch.undo()
        store(backup())
        _after_each_verb(monkeypatch, look)
        storage.discard(backup())
        assert listed(storage) == {}

    # Damage

    CONTENT = NOISE[: 2 * PART + 17]

    def assert_damage_is_told(self, storage: Storage, named: str) -> None:
        """Reading fails, says where, and gave no wrong byte before."""
        got = bytearray()
        chain = storage.get_latest_level_zero_increments(TAR, HOST)
        with pytest.raises(e.IntegrityError) as caught:
            collect(chain[0], got)
        assert named in caught.value.message
        assert self.CONTENT.startswith(got)
        assert len(got) < len(self.CONTENT)

    def test_a_changed_byte(self, place: Place, storage: Storage, store: Store) -> None:
        store(backup(), self.CONTENT)
        data = f'{folder(backup())}/data'
        for position in (0, PART + 3, -1):
            flip(place, data, position)
            self.assert_damage_is_told(storage, data)
            flip(place, data, position)
        assert restore(storage) == self.CONTENT

    def test_truncated_data(self, place: Place, storage: Storage, store: Store) -> None:
        store(backup(), self.CONTENT)
        for size in (2 * PART + 16, PART + 3, PART, 0):
            place.write(f'{folder(backup())}/data', self.CONTENT[:size])
            self.assert_damage_is_told(storage, f'{folder(backup())}/data')

    def test_a_missing_object(
        self, place: Place, storage: Storage, store: Store
    ) -> None:
        store(backup(), self.CONTENT)
        # What is looked at last first, as nothing is put back.
        for name in ('data', 'digests/00000000', 'manifest'):
            place.delete(f'{folder(backup())}/{name}')
            self.assert_damage_is_told(storage, f'{folder(backup())}/{name}')

    def test_damaged_digests(
        self, place: Place, storage: Storage, store: Store
    ) -> None:
        store(backup(), self.CONTENT)
        for name in ('digests/00000000', 'manifest'):
            for content in (b'', b'nonsense', b'{}', b'\xff' * 99, b'0' * 99999):
                place.write(f'{folder(backup())}/{name}', content)
                self.assert_damage_is_told(storage, name.partition('/')[0])

    def test_the_manifest_of_another_backup(
        self, place: Place, storage: Storage, store: Store
    ) -> None:
        store(backup(), self.CONTENT)
        other = store(backup('host_other'), b'other')
        for member in place.members:
            for name in ('manifest', 'digests/00000000', 'data'):
                member.write(
                    f'{folder(backup())}/{name}', member.read(f'{folder(other)}/{name}')
                )
        self.assert_damage_is_told(storage, f'{folder(backup())}/manifest')

    def test_a_damaged_marker(
        self, place: Place, storage: Storage, store: Store
    ) -> None:
        store(backup(), self.CONTENT)
        for content in (b'', b'{', b'[]', b'\xff\n{}'):
            place.write(marker(backup()), content)
            self.assert_damage_is_told(storage, marker(backup()))

    def test_a_copied_container_restores(
        self, place: Place, storage: Storage, store: Store
    ) -> None:
        """Copies have other ETags: what counts is the digests."""
        store(backup(), self.CONTENT)
        for member in place.members:
            for path in member.files():
                member.write(path, member.read(path))
        assert restore(place.storage()) == self.CONTENT

    def test_a_backup_of_freezer_19(self, place: Place, storage: Storage) -> None:
        """It has no manifest, and nothing but the three objects."""
        place.write(f'{folder(backup())}/engine_metadata', STATE)
        place.write(marker(backup()), json.dumps(MARKER).encode())
        for size in (0, 1000, PART + 1):
            place.write(f'{folder(backup())}/data', NOISE[:size])
            assert listed(storage) == {ZERO: [(0, ZERO)]}
            assert restore(storage) == NOISE[:size]
        chain = storage.get_latest_level_zero_increments(TAR, HOST)
        assert chain[0].metadata() == MARKER
        assert chain[0].engine_metadata() == STATE
        storage.remove_older_than(TAR, ZERO, HOST)
        assert place.files() == {}

    def test_a_backup_of_freezer_19_without_data(
        self, place: Place, storage: Storage
    ) -> None:
        """Freezer 19 lists backups whose upload had failed."""
        place.write(marker(backup()), json.dumps(MARKER).encode())
        self.assert_damage_is_told(storage, f'{folder(backup())}/data')

    def test_close_may_be_repeated(self, storage: Storage, store: Store) -> None:
        store(backup())
        storage.close()
        storage.close()


class Stopped(Exception):
    """In place of SIGKILL."""


def _after_each_verb(monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]) -> None:
    """Do something after each call of the verbs that delete, on every driver."""
    drivers = Manifested.__subclasses__()
    for driver in drivers:
        for verb in ('delete_files', 'rmtree'):
            original = getattr(driver, verb)

            def call(
                self: Any, path: Any, original: Callable[..., None] = original
            ) -> None:
                original(self, path)
                then()

            monkeypatch.setattr(driver, verb, call)


def _stop_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if done == calls:
            raise Stopped

    _after_each_verb(monkeypatch, count)


@on(*EVERY_S3)
class TestS3:
    @pytest.fixture
    def s3(self, place: Place) -> S3Place:
        assert isinstance(place, S3Place)
        return place

    def test_a_restore_has_nothing_to_complain_of(
        self,
        storage: Storage,
        store: Store,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        store(backup(), NOISE)
        caplog.clear()
        assert restore(storage) == NOISE
        levels = [r.levelname for r in caplog.records if r.levelno >= logging.WARNING]
        assert levels == [], caplog.text

    def test_a_missing_bucket_is_not_no_backups(self, s3: S3Place) -> None:
        calls: Sequence[Callable[[Storage], object]] = (
            lambda storage: storage.get_chains(TAR, HOST),
            lambda storage: storage.get_latest_level_zero_increments(TAR, HOST),
            lambda storage: storage.plan(TAR, HOST, LevelPolicy(True), ZERO),
            lambda storage: storage.remove_older_than(TAR, ZERO, HOST),
            lambda storage: storage.report(),
            lambda storage: storage.claim(backup()),
        )
        storage = s3.storage()
        for call in calls:
            with pytest.raises(e.NotFound, match=s3.bucket):
                call(storage)

    def test_objects_of_one_volume(
        self, s3: S3Place, storage: Storage, store: Store
    ) -> None:
        """As Freezer 19 lays them out, and no claim remains."""
        store(backup(), NOISE[: 2 * PART + 1])
        assert {p.removeprefix(f'{folder(backup())}/') for p in s3.files()} == {
            'data',
            'digests/00000000',
            'engine_metadata',
            'manifest',
            marker(backup()),
        }

    def test_volumes_are_uniform(
        self, s3: S3Place, storage: Storage, store: Store
    ) -> None:
        store(backup(), NOISE)
        volume = PARTS_PER_VOLUME * PART
        sizes = s3.files()
        assert [
            sizes[f'{folder(backup())}/{name}']
            for name in ('data', 'segments/00000001', 'segments/00000002')
        ] == [volume, volume, len(NOISE) - 2 * volume]

    def test_the_smallest_volumes(
        self, s3: S3Place, commit: Callable[[Storage, Backup], None]
    ) -> None:
        storage = s3.storage(s3_max_parts=2)
        storage.prepare()
        write(storage, backup(), chunks(NOISE[: 4 * PART + 1]))
        commit(storage, backup())
        assert restore(s3.storage()) == NOISE[: 4 * PART + 1]

    def test_damage_in_a_later_volume(
        self, s3: S3Place, storage: Storage, store: Store
    ) -> None:
        store(backup(), NOISE)
        path = f'{folder(backup())}/segments/00000001'
        flip(s3, path, 2 * PART)
        got = bytearray()
        chain = s3.storage().get_latest_level_zero_increments(TAR, HOST)
        with pytest.raises(e.IntegrityError, match=path):
            collect(chain[0], got)
        assert bytes(got) == NOISE[: (PARTS_PER_VOLUME + 2) * PART]

    def test_listdir(self, s3: S3Place) -> None:
        storage = s3.storage()
        storage.prepare()
        for path in ('d/b', 'd/a/x', 'd/a/y', 'd/c d', 'da', 'e/f'):
            s3.write(path, b'x')
        assert storage.listdir(f'{storage.storage_path}/d') == ['a', 'b', 'c d']
        assert storage.listdir(f'{storage.storage_path}/nothing') == []

    def test_rmtree_removes_nothing_beside_it(self, s3: S3Place) -> None:
        storage = s3.storage()
        storage.prepare()
        for path in ('d/a', 'd/b/c', 'da', 'd2/x'):
            s3.write(path, b'x')
        storage.rmtree(f'{storage.storage_path}/d')
        assert set(s3.files()) == {'da', 'd2/x'}

    def test_a_stream_may_be_given_up(
        self, s3: S3Place, storage: Storage, store: Store
    ) -> None:
        store(backup(), NOISE)
        chain = storage.get_latest_level_zero_increments(TAR, HOST)
        assert chain[0].storage is not None
        blocks = iter(chain[0].storage.backup_blocks(chain[0]))
        assert NOISE.startswith(next(blocks))
        threads = threading.active_count()
        assert threads > 1
        getattr(blocks, 'close')()  # noqa: B009 - a generator, though typed an Iterator
        assert threading.active_count() < threads


class TestPages:
    @pytest.fixture
    def place(self, s3: S3Place) -> Place:
        return s3

    def test_more_objects_than_a_page(self, s3: S3Place, storage: Storage) -> None:
        count = s3.server.properties.page + 100
        many = [backup(level=level) for level in range(count)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda b: s3.write(marker(b), b'{}'), many))
        assert listed(storage) == {ZERO: [(b.level, b.timestamp) for b in many]}
        assert storage.report().objects == count
        storage.remove_older_than(TAR, ZERO + count, HOST)
        assert s3.files() == {}


class TestKeys:
    @pytest.fixture
    def owned(self, s3_server: servers.Server, way: Way) -> S3Place:
        return S3Place(s3_server, s3_server.make_bucket(), 'prefix', way)

    @on_servers(lambda kind: kind.properties.checks_keys)
    @pytest.mark.parametrize(
        'wrong', [{'secret_key': 'sk/wrong'}, {'access_key': 'AKWRONG'}], ids=str
    )
    def test_wrong_keys(self, owned: S3Place, wrong: dict[str, str]) -> None:
        calls: Sequence[Callable[[Storage], object]] = (
            lambda storage: storage.get_chains(TAR, HOST),
            lambda storage: storage.report(),
            lambda storage: storage.claim(backup()),
        )
        storage = owned.storage(**wrong)
        for call in calls:
            with pytest.raises(e.BadCredentials) as caught:
                call(storage)
            assert 'sk/' not in caught.value.message
            assert owned.bucket in caught.value.message
        assert owned.files() == {}

    @on_servers(lambda kind: kind.readonly_access_key)
    def test_keys_that_only_read(self, owned: S3Place) -> None:
        server = owned.server
        storage = owned.storage(
            access_key=server.readonly_access_key,
            secret_key=server.readonly_secret_key,
        )
        storage.prepare()
        assert listed(storage) == {}
        with pytest.raises(e.AccessDenied):
            storage.claim(backup())
        assert owned.files() == {}


class Taken(Rate):
    """Counts what is taken, and lets it through.

    :param closed: nothing goes through, but to who is cancelled
    """

    def __init__(self, closed: bool = False) -> None:
        super().__init__(10**6)
        self.closed = closed
        self.asked = threading.Event()
        self.sizes: list[int] = []

    def take(self, size: int, cancelled: threading.Event | None = None) -> float:
        self.sizes.append(size)
        if self.closed:
            self.asked.set()
            (cancelled or threading.Event()).wait(300)
        return 0.0


@on(*EVERY_STORAGE)
class TestRates:
    def test_all_data_is_taken_of_them(
        self, place: Place, commit: Callable[[Storage, Backup], None]
    ) -> None:
        sending, receiving = Taken(), Taken()
        storage = place.storage(sending=sending, receiving=receiving)
        storage.prepare()
        storage.claim(backup())
        write(storage, backup(), chunks(NOISE))
        commit(storage, backup())
        # Not much more: manifest, digests and so on.
        expected = len(NOISE) * len(place.members)
        assert 0 <= sum(sending.sizes) - expected <= 10_000
        assert sum(receiving.sizes) <= 10_000
        assert restore(storage) == NOISE
        assert 0 <= sum(receiving.sizes) - len(NOISE) <= 20_000
        assert max(sending.sizes + receiving.sizes) <= sending.step

    def test_cancelled(self, place: Place) -> None:
        rate = Taken()
        storage = place.storage(sending=rate)
        storage.prepare()
        storage.claim(backup())
        rate.closed = True
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(write, storage, backup(), chunks(NOISE))
            assert rate.asked.wait(60)
            storage.cancel()
            with pytest.raises(e.Cancelled):
                future.result(60)
        rate.closed = False
        storage.discard(backup())
        assert place.files() == {}
        assert place.uploads() == []
        # It holds for what was under way.
        storage.claim(backup())
        write(storage, backup(), chunks(NOISE))


class TestVariants:
    """They make no difference; ``tools/matrix.sh`` runs the whole suite in each."""

    @pytest.fixture
    def place(self, s3: S3Place) -> Place:
        return s3

    @pytest.mark.parametrize(
        's3_server, variant',
        [each for each in combinations() if each[1] != 'plain'],
        indirect=True,
    )
    def test_a_chain(self, s3: S3Place, storage: Storage, store: Store) -> None:
        contents = [NOISE, b'', NOISE[: PART + 1]]
        for level, content in enumerate(contents):
            store(backup('host_Grüße / 1', level=level), content)
        assert restore(storage, identity='host_Grüße / 1') == b''.join(contents)
        assert storage.report().size == sum(s3.files().values())
        storage.remove_older_than(TAR, ZERO + 9, 'host_Grüße / 1')
        assert s3.files() == {}
        assert s3.uploads() == []


@pytest.mark.parametrize('variant', ['list-v1'], indirect=True)
class TestVariantsOfPages(TestPages):
    """Pages are what the two versions of listings differ in."""


@on('multiple-local', 'multiple-mixed')
class TestMultiple:
    @pytest.fixture
    def there(self, place: Place) -> Place:
        """The second member alone."""
        return place.members[1]

    def test_a_claim_is_for_all_or_none(
        self, place: Place, storage: Storage, there: Place
    ) -> None:
        there.storage().claim(backup())
        with pytest.raises(e.Conflict, match=r'\[storage:there\]'):
            storage.claim(backup())
        place.members[0].storage().claim(backup())

    def test_a_member_that_fails_fails_the_backup(
        self, place: Place, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from freezer.storage.local import LocalStorage

        def fails(*_args: object, **_kwargs: object) -> None:
            raise e.ServerError('no more space')

        first = place.members[0].storage()
        assert isinstance(first, LocalStorage)
        monkeypatch.setattr(storage.storages['here'], 'write_backup', fails)  # type: ignore[attr-defined]
        storage.claim(backup())
        with pytest.raises(e.ServerError, match=r'\[storage:here\].*no more space'):
            write(storage, backup(), chunks(NOISE))
        storage.discard(backup())
        assert place.files() == {}
        assert place.uploads() == []

    def test_members_do_not_go_on_when_one_has_failed(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However slow they are: they have all they need."""
        rate = Taken()
        storage = place.storage(sending=rate)
        storage.prepare()

        def fails(*_args: object, **_kwargs: object) -> None:
            assert rate.asked.wait(60)
            raise e.ServerError('no more space')

        monkeypatch.setattr(storage.storages['here'], 'write_backup', fails)  # type: ignore[attr-defined]
        storage.claim(backup())
        rate.closed = True
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(write, storage, backup(), [NOISE])
            try:
                with pytest.raises(e.ServerError, match=r'storage:here.*no more space'):
                    future.result(60)
            finally:
                storage.cancel()  # or the pool would wait for it
        rate.closed = False
        storage.discard(backup())
        assert place.files() == {}

    def test_a_signal_while_members_finish(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They have, or have given up, when the signal is passed on."""

        class Signal(BaseException):
            pass

        def handle(*_args: object) -> None:
            raise Signal

        cancelled, ended = threading.Event(), threading.Event()

        def lingers(rich_queue: RichQueue, backup: Backup) -> None:
            for _message in rich_queue.get_messages():
                pass
            # Another thread may be sent it as well, and the main one not be woken.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            assert cancelled.wait(60)
            ended.set()

        here = storage.storages['here']  # type: ignore[attr-defined]
        monkeypatch.setattr(here, 'write_backup', lingers)
        monkeypatch.setattr(here, 'cancel', cancelled.set)
        storage.claim(backup())
        before = signal.signal(signal.SIGUSR1, handle)
        try:
            with pytest.raises(Signal):
                write(storage, backup(), [b'content'])
            assert ended.is_set()
        finally:
            signal.signal(signal.SIGUSR1, before)
        storage.discard(backup())

    def test_a_member_that_cannot_be_read_is_passed_over(
        self, place: Place, storage: Storage, store: Store
    ) -> None:
        store(backup())
        place.members[0].delete(marker(backup()))
        assert restore(place.storage()) == b'content'

    def test_increments_only_on_a_base_that_all_have(
        self, place: Place, storage: Storage, store: Store, there: Place
    ) -> None:
        store(backup())
        store(backup(level=1))
        assert storage.plan(TAR, HOST, LevelPolicy(True), ZERO)[0] is not None
        there.delete(marker(backup(level=1)))
        assert storage.plan(TAR, HOST, LevelPolicy(True), ZERO) == (None, ZERO + 2)
