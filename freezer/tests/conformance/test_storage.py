"""The one suite that every storage passes, on every server."""

import contextlib
import json
import logging
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from freezer.storage import exceptions as e
from freezer.storage import levels, manifest, pins, several
from freezer.storage._s3.transport.objects import Objects
from freezer.storage.backup import Backup, PendingBackup, StoredLevel, WrittenBackup
from freezer.storage.ftp.storage import FtpStorage
from freezer.storage.levels import BrokenChain, LevelPolicy, NoSuchBackup
from freezer.storage.local.storage import LocalStorage
from freezer.storage.repository import Repository
from freezer.storage.retention import Policy
from freezer.storage.s3 import S3Storage
from freezer.storage.ssh.storage import SshStorage
from freezer.storage.swift.objects import Objects as SwiftObjects
from freezer.tests import servers
from freezer.tests.conformance.backups import (
    DAY,
    HOST,
    MARKER,
    NOISE,
    STATE,
    TAR,
    ZERO,
    Commit,
    Store,
    backup,
    chunks,
    flip,
    folder,
    marker,
    remove_older_than,
    write,
)
from freezer.tests.conformance.places import PART, PARTS_PER_VOLUME, Place, S3Place
from freezer.tests.conformance.variants import Way, combinations
from freezer.tests.conftest import on_servers
from freezer.tests.plugins.freezer_sqlite.storage import SqliteStorage
from freezer.utils.rate import Rate

# (driver, server): a storage without a server has None.
EVERY_S3 = {f's3-{server}': ('s3', server) for server in servers.KINDS}
EVERY_STORAGE = {
    'local': ('local', None),
    'sqlite': ('sqlite', None),
    'ssh': ('ssh', None),
    'ftp': ('pyftpd', None),
    'ftps-pyftpdlib': ('pyftpd_tls', None),
    'ftps-vsftpd': ('vsftpd_tls', None),
    'swift': ('swift', None),
    'swift-keystone': ('swift_keystone', None),
    'multiple-local': ('multiple', None),
    'multiple-mixed': ('multiple', 'moto'),
    **EVERY_S3,
}


def on(*names: str) -> pytest.MarkDecorator:
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


def restore(
    repository: Repository, date: int | None = None, identity: str = HOST
) -> bytes:
    """The streams of the newest state, one after the other."""
    chain = repository.find_state(TAR, identity, date)
    assert list(chain) == list(range(len(chain)))
    return b''.join(stream(level) for level in chain.values())


def stream(level: StoredLevel) -> bytes:
    return b''.join(level.stream().blocks())


def collect(level: StoredLevel, got: bytearray) -> None:
    """Read, and keep what came if it fails."""
    for block in level.stream().blocks():
        got += block


def listed(
    repository: Repository, identity: str = HOST
) -> dict[int, list[tuple[int, int]]]:
    """Level-0 timestamp -> (level, timestamp) of each backup."""
    chains = repository.chains(TAR, identity)
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
    def test_a_new_container_is_empty(self, repository: Repository) -> None:
        repository.prepare()
        assert listed(repository) == {}
        found = repository.report()
        assert (found.size, found.objects, found.chains) == (0, 0, ())
        with pytest.raises(NoSuchBackup, match=HOST):
            repository.find_state(TAR, HOST)

    @pytest.mark.parametrize('size', SIZES.values(), ids=SIZES)
    def test_what_is_written_is_read(
        self, place: Place, repository: Repository, store: Store, size: int
    ) -> None:
        store(backup(), NOISE[:size])
        assert restore(repository) == NOISE[:size]
        assert place.uploads() == []

    def test_tiny_messages(self, repository: Repository, commit: Commit) -> None:
        bytes_alone = (NOISE[n : n + 1] for n in range(3000))
        commit(write(repository.begin(backup()), bytes_alone))
        assert restore(repository) == NOISE[:3000]

    def test_a_backup_is_listed_when_it_is_committed(
        self, place: Place, repository: Repository, commit: Commit
    ) -> None:
        written = write(repository.begin(backup()), chunks(NOISE[: PART + 1]))
        other = place.repository()
        for agent in (repository, other):
            assert listed(agent) == {}
            assert agent.report().chains == ()
            with pytest.raises(NoSuchBackup):
                restore(agent)
            assert agent.plan(TAR, HOST, LevelPolicy(True), ZERO) == ([], 0)
        commit(written)
        for agent in (repository, other):
            assert listed(agent) == {ZERO: [(0, ZERO)]}
            assert restore(agent) == NOISE[: PART + 1]

    def test_metadata(self, place: Place, repository: Repository, store: Store) -> None:
        store(backup())
        chain = place.repository().find_state(TAR, HOST)
        assert chain[0].engine_metadata() == STATE
        metadata = chain[0].marker
        assert metadata | MARKER == metadata
        for member in place.members:
            # Freezer 19 reads the first line as JSON.
            first_line = member.read(marker(backup())).splitlines()[0]
            assert json.loads(first_line)['compression'] == 'gzip'

    def test_identity(self, place: Place, repository: Repository, store: Store) -> None:
        pending = repository.begin(backup())
        pending.put_identity(b'a key')
        # It belongs to a backup, and makes none.
        assert listed(repository) == {}
        pending.discard()
        assert place.files() == {}
        store(backup()).put_identity(b'another')
        chain = place.repository().find_state(TAR, HOST)
        assert chain[0].identity == b'another'
        for member in place.members:
            assert member.read(f'{folder(backup())}/identity.age') == b'another'
        remove_older_than(repository, TAR, HOST, ZERO)
        assert place.files() == {}

    # Failing

    def test_a_failed_stream_leaves_nothing(
        self, place: Place, repository: Repository
    ) -> None:
        for size in (0, 1000, PART + 1, 4 * PART + 1):
            error = OSError('the disk is on fire')
            pending = repository.begin(backup())
            with pytest.raises(OSError, match='on fire') as caught:
                write(pending, then_fail(chunks(NOISE[:size]), error))
            assert caught.value is error
            assert listed(repository) == {}
            assert place.uploads() == []
            pending.discard()
            assert place.files() == {}, size

    def test_discard_takes_back_a_commit(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup())
        store(backup(level=1)).discard()
        assert listed(repository) == {ZERO: [(0, ZERO)]}
        assert [path for path in place.files() if f'1_{ZERO + 1}' in path] == []
        assert restore(repository) == b'content'

    def test_a_taken_place_is_refused(
        self, place: Place, repository: Repository, commit: Commit
    ) -> None:
        other = place.repository()
        pending = repository.begin(backup())
        with pytest.raises(e.Conflict):
            other.begin(backup())
        written = write(pending, [b'first'])
        with pytest.raises(e.Conflict):
            other.begin(backup())
        commit(written)
        with pytest.raises(e.Conflict):
            other.begin(backup())
        assert restore(repository) == b'first'
        other.begin(backup(timestamp=ZERO + 1))

    # Names

    def test_any_name(self, place: Place, repository: Repository, store: Store) -> None:
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
            assert listed(repository, identity) == {ZERO: [(0, ZERO)]}
            assert restore(repository, identity=identity) == identity.encode()
            assert {c.identity for c in repository.report().chains} == {identity}
            remove_older_than(repository, TAR, identity, ZERO)
            assert place.files() == {}, identity

    def test_names_that_begin_alike_do_not_mix(
        self, repository: Repository, store: Store
    ) -> None:
        names = ['h_a', 'h_ab', 'h_a b', 'h_a/b', 'h_a/b/c', 'h', 'h_a_']
        for number, identity in enumerate(names):
            store(backup(identity, ZERO + number), identity.encode())
        for number, identity in enumerate(names):
            assert listed(repository, identity) == {ZERO + number: [(0, ZERO + number)]}
            assert restore(repository, identity=identity) == identity.encode()
        assert remove_older_than(repository, TAR, 'h_a', ZERO + DAY)
        assert listed(repository, 'h_a') == {}
        for identity in names[1:]:
            assert restore(repository, identity=identity) == identity.encode()

    def test_times_that_begin_alike_do_not_mix(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        short, long, level = backup(zero=17), backup(zero=170), backup(zero=17, level=1)
        longer = backup(zero=17, timestamp=180, level=1)
        pending = {
            each: store(each, repr(each).encode())
            for each in (short, long, level, longer)
        }
        pending[level].discard()
        assert listed(repository) == {17: [(0, 17), (1, 180)], 170: [(0, 170)]}
        assert restore(repository, 169) == repr(short).encode()
        pending[longer].discard()
        remove_older_than(repository, TAR, HOST, 17)
        assert listed(repository) == {170: [(0, 170)]}
        assert restore(repository) == repr(long).encode()

    def test_engines_do_not_mix(self, repository: Repository, store: Store) -> None:
        store(backup())
        assert repository.chains('ta', HOST) == {}
        assert repository.chains('tarx', HOST) == {}

    def test_what_is_not_ours_is_ignored(
        self, place: Place, repository: Repository, store: Store
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
        before = repository.report()
        for path in foreign:
            place.write(path, b'not ours')
        assert listed(repository) == {ZERO: [(0, ZERO)]}
        assert restore(repository) == b'content'
        after = repository.report()
        assert after.objects == before.objects + len(foreign) * len(place.members)
        assert [c.identity for c in after.chains] == [c.identity for c in before.chains]

    # Finding

    def test_the_state_of_a_date(self, repository: Repository, store: Store) -> None:
        store(backup(zero=100), b'a0')
        store(backup(zero=100, timestamp=110, level=1), b'a1')
        store(backup(zero=100, timestamp=120, level=2), b'a2')
        store(backup(zero=200), b'b0')
        states = dict.fromkeys((None, 999, 200), b'b0')
        states |= dict.fromkeys((199, 120), b'a0a1a2')
        states |= {119: b'a0a1', 110: b'a0a1', 109: b'a0', 100: b'a0'}
        for date, state in states.items():
            assert restore(repository, date) == state, date
        with pytest.raises(NoSuchBackup):
            restore(repository, 99)
        assert list(repository.chains(TAR, HOST)) == [100, 200]

    def test_of_one_level_the_newest_counts(
        self, repository: Repository, store: Store
    ) -> None:
        store(backup(zero=100), b'0')
        for timestamp in (110, 130, 120):
            store(backup(zero=100, timestamp=timestamp, level=1), b'%d' % timestamp)
        assert restore(repository) == b'0130'
        assert restore(repository, 125) == b'0120'

    def test_a_gap_is_refused(self, repository: Repository, store: Store) -> None:
        store(backup())
        store(backup(level=2))
        with pytest.raises(BrokenChain, match='level 1 '):
            restore(repository)
        assert repository.plan(TAR, HOST, LevelPolicy(True), ZERO) == ([], ZERO + 3)

    def test_what_the_next_builds_on(
        self, repository: Repository, store: Store
    ) -> None:
        store(backup())
        store(backup(level=1))
        now = ZERO + DAY

        def base(policy: LevelPolicy) -> int | None:
            found, earliest = repository.plan(TAR, HOST, policy, now)
            assert earliest == ZERO + 2
            return found[-1].level if found else None

        assert base(LevelPolicy()) is None
        assert base(LevelPolicy(True)) == 1
        assert base(LevelPolicy(True, max_level=1)) is None
        assert base(LevelPolicy(True, always_level=1)) == 0
        assert base(LevelPolicy(True, restart_always_level=0.5)) is None

    def test_details(self, repository: Repository, store: Store) -> None:
        pending = store(backup(), NOISE)
        made, *_ = repository.committed()
        found = repository.details(made)
        assert (found.size, found.digests) == (len(NOISE), True)
        in_volumes = isinstance(made.storage, S3Storage)
        assert (found.volumes > 1) == in_volumes
        assert found.marker['engine_name'] == 'tar'
        assert (found.stat.locked_until, found.stat.legal_hold) == (None, False)
        pending.discard()
        again = StoredLevel(made.storage, made.backup)
        with pytest.raises(e.NotFound):
            repository.details(again)

    def test_report(self, place: Place, repository: Repository, store: Store) -> None:
        store(backup(), NOISE[: PART + 1])
        store(backup(level=1), NOISE[:10])
        store(backup('host_other'), b'')
        found = repository.report()
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

    # Removing

    def test_old_chains_are_removed_whole(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        for zero in (100, 200, 300):
            store(backup(zero=zero))
            store(backup(zero=zero, timestamp=zero + 50, level=1))
        store(backup('host_other', 100))
        before = place.files()

        def removed(older: int, **how: Any) -> set[int]:
            chains = remove_older_than(repository, TAR, HOST, older, **how)
            assert all([b.level for b in chain] == [0, 1] for chain in chains)
            return {chain[0].level_zero_timestamp for chain in chains}

        assert removed(249) == {100}
        assert set(listed(repository)) == {200, 300}
        assert removed(249) == set()
        assert removed(999, keep=300, dry_run=True) == {200}
        assert set(listed(repository)) == {200, 300}
        assert removed(999, keep=300) == {200}
        assert set(listed(repository)) == {300}
        assert restore(repository) == b'contentcontent'
        gone = [path for path in before if '/100/' in path or '/200/' in path]
        kept = set(before) - {path for path in gone if 'host_other' not in path}
        assert set(place.files()) == kept
        assert restore(repository, identity='host_other') == b'content'

    def test_a_chain_being_built_on_stays(
        self, repository: Repository, store: Store
    ) -> None:
        store(backup())
        increment = backup(timestamp=ZERO + DAY, level=1)
        write(repository.begin(increment), [b'under way'])
        assert remove_older_than(repository, TAR, HOST, ZERO + 1) == []
        assert restore(repository) == b'content'

    def test_a_pinned_state_is_not_removed(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        for level in range(3):
            store(backup(level=level), b'%d' % level)
        assert repository.pin(backup(level=1), True) == len(place.members)
        assert repository.find_state(TAR, HOST, ZERO + 1)[1].pinned
        (removed, *_) = remove_older_than(repository, TAR, HOST, ZERO + 99)
        assert [each.level for each in removed] == [2]
        assert listed(repository) == {ZERO: [(0, ZERO), (1, ZERO + 1)]}
        assert restore(repository) == b'01'
        assert remove_older_than(repository, TAR, HOST, ZERO + 99) == []
        (chain, *_) = repository.report().chains
        assert [level.pinned for level in chain.levels] == [False, True]
        assert repository.pin(backup(level=0), False) == 0
        assert repository.pin(backup(level=1), False) == len(place.members)
        remove_older_than(repository, TAR, HOST, ZERO + 99)
        assert place.files() == {}

    def test_a_state_pinned_during_a_removal_comes_back(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        for zero in (ZERO, ZERO + DAY):
            for level in range(3):
                store(backup(zero=zero, level=level), b'%d' % level)
        plans = repository.plan_retention(TAR, HOST, Policy(0, cutoff=ZERO + 2 * DAY))
        before = place.files()
        place.repository().pin(backup(level=1), True)
        repository.carry_out(plans)
        assert listed(repository) == {ZERO: [(0, ZERO), (1, ZERO + 1)]}
        assert restore(repository) == b'01'
        left = {path: size for path, size in place.files().items() if path in before}
        assert left.items() <= before.items()
        for storage in repository.storages.values():
            (state,) = levels.chains(storage, TAR, HOST).values()
            assert [each.pinned for each in state] == [False, True]
            assert all(manifest.is_whole(each.marker) for each in state)

    def test_a_pinned_state_comes_back_after_a_removal_that_was_killed(
        self,
        place: Place,
        repository: Repository,
        store: Store,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Killed when it had deleted the markers."""
        for zero in (ZERO, ZERO + DAY):
            for level in range(3):
                store(backup(zero=zero, level=level), b'%d' % level)
        plans = repository.plan_retention(TAR, HOST, Policy(0, cutoff=ZERO + 2 * DAY))
        place.repository().pin(backup(level=1), True)

        def kill(*_arguments: object) -> None:
            raise Stopped

        monkeypatch.setattr(pins, 'put_back', kill)
        for plan in plans:
            with pytest.raises(Stopped):
                plan.carry_out()
        monkeypatch.undo()
        assert listed(repository) == {}
        store(backup(zero=ZERO + 3 * DAY))
        store(backup(zero=ZERO + 4 * DAY))
        remove_older_than(repository, TAR, HOST, ZERO + 3 * DAY)
        assert listed(repository)[ZERO] == [(0, ZERO), (1, ZERO + 1)]
        assert restore(repository, ZERO + 99) == b'01'

    def test_a_pin_on_what_was_removed_fails(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        for level in range(2):
            store(backup(level=level))
        found = {
            name: levels.chains(storage, TAR, HOST)[ZERO]
            for name, storage in repository.storages.items()
        }
        remove_older_than(repository, TAR, HOST, ZERO + 99)
        for name, storage in repository.storages.items():
            with pytest.raises(e.NotFound, match='was removed meanwhile'):
                pins.pin(storage, found[name][1], found[name])
        assert place.files() == {}

    @pytest.mark.parametrize('calls', [1, 2, 3])
    def test_a_removal_that_stops_halfway_leaves_what_restores(
        self,
        place: Place,
        repository: Repository,
        store: Store,
        monkeypatch: pytest.MonkeyPatch,
        calls: int,
    ) -> None:
        for level in range(3):
            store(backup(level=level), b'%d' % level)
        store(backup(zero=ZERO + DAY), b'new')
        _stop_after(monkeypatch, repository, calls)
        with contextlib.suppress(Stopped):
            remove_older_than(repository, TAR, HOST, ZERO + 99)
        monkeypatch.undo()
        agent = place.repository()
        assert restore(agent) == b'new'
        for zero in listed(agent):
            assert restore(agent, zero + 99)
        remove_older_than(repository, TAR, HOST, ZERO + 99)
        assert restore(agent) == b'new'

    def test_markers_go_before_data(
        self,
        place: Place,
        repository: Repository,
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

        _after_each_verb(monkeypatch, repository, look)
        remove_older_than(repository, TAR, HOST, ZERO + 99)
        assert set(seen) == {True, False}
        monkeypatch.undo()
        pending = store(backup())
        _after_each_verb(monkeypatch, repository, look)
        pending.discard()
        assert listed(repository) == {}

    # Damage

    CONTENT = NOISE[: 2 * PART + 17]

    def assert_damage_is_told(self, repository: Repository, named: str) -> None:
        """Reading fails, says where, and gave no wrong byte before."""
        got = bytearray()
        chain = repository.find_state(TAR, HOST)
        with pytest.raises(e.IntegrityError) as caught:
            collect(chain[0], got)
        assert named in caught.value.message
        assert self.CONTENT.startswith(got)
        assert len(got) < len(self.CONTENT)

    def test_a_changed_byte(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), self.CONTENT)
        data = f'{folder(backup())}/data'
        for position in (0, PART + 3, -1):
            flip(place, data, position)
            self.assert_damage_is_told(repository, data)
            flip(place, data, position)
        assert restore(repository) == self.CONTENT

    def test_truncated_data(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), self.CONTENT)
        for size in (2 * PART + 16, PART + 3, PART, 0):
            place.write(f'{folder(backup())}/data', self.CONTENT[:size])
            self.assert_damage_is_told(repository, f'{folder(backup())}/data')

    def test_a_missing_object(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), self.CONTENT)
        # What is looked at last first, as nothing is put back.
        for name in ('data', 'digests/00000000', 'manifest'):
            place.delete(f'{folder(backup())}/{name}')
            self.assert_damage_is_told(repository, f'{folder(backup())}/{name}')

    def test_damaged_digests(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), self.CONTENT)
        for name in ('digests/00000000', 'manifest'):
            for content in (b'', b'nonsense', b'{}', b'\xff' * 99, b'0' * 99999):
                place.write(f'{folder(backup())}/{name}', content)
                self.assert_damage_is_told(repository, name.partition('/')[0])

    def test_the_manifest_of_another_backup(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), self.CONTENT)
        other = store(backup('host_other'), b'other').backup
        for member in place.members:
            for name in ('manifest', 'digests/00000000', 'data'):
                content = member.read(f'{folder(other)}/{name}')
                member.write(f'{folder(backup())}/{name}', content)
        self.assert_damage_is_told(repository, f'{folder(backup())}/manifest')

    def test_a_damaged_marker(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), self.CONTENT)
        for content in (b'', b'{', b'[]', b'\xff\n{}'):
            place.write(marker(backup()), content)
            self.assert_damage_is_told(repository, marker(backup()))

    def test_a_copied_container_restores(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        """Copies have other ETags: what counts is the digests."""
        store(backup(), self.CONTENT)
        for member in place.members:
            for path in member.files():
                member.write(path, member.read(path))
        assert restore(place.repository()) == self.CONTENT

    def test_a_backup_of_freezer_19(self, place: Place, repository: Repository) -> None:
        """It has no manifest, and nothing but the three objects."""
        place.write(f'{folder(backup())}/engine_metadata', STATE)
        place.write(marker(backup()), json.dumps(MARKER).encode())
        for size in (0, 1000, PART + 1):
            place.write(f'{folder(backup())}/data', NOISE[:size])
            assert listed(repository) == {ZERO: [(0, ZERO)]}
            assert restore(repository) == NOISE[:size]
        chain = repository.find_state(TAR, HOST)
        assert chain[0].marker == MARKER
        assert chain[0].engine_metadata() == STATE
        remove_older_than(repository, TAR, HOST, ZERO)
        assert place.files() == {}

    def test_a_backup_of_freezer_19_without_data(
        self, place: Place, repository: Repository
    ) -> None:
        """Freezer 19 lists backups whose upload had failed."""
        place.write(marker(backup()), json.dumps(MARKER).encode())
        self.assert_damage_is_told(repository, f'{folder(backup())}/data')

    def test_close_may_be_repeated(self, repository: Repository, store: Store) -> None:
        store(backup())
        repository.close()
        repository.close()


class Stopped(Exception):
    """In place of SIGKILL."""


def _after_each_verb(
    monkeypatch: pytest.MonkeyPatch, repository: Repository, then: Callable[[], None]
) -> None:
    """Do something after each call of the verbs that delete, on every driver."""
    # A bucket has its verbs since it was opened.
    repository.close()
    verbs = {LocalStorage: ('delete_files', 'remove_tree'), Objects: ('delete',)}
    verbs[SwiftObjects] = verbs[Objects]
    for other in (SqliteStorage, SshStorage, FtpStorage):
        verbs[other] = verbs[LocalStorage]
    for driver, names in verbs.items():
        for name in names:
            original = getattr(driver, name)

            def call(
                self: Any, what: Any, original: Callable[..., None] = original
            ) -> None:
                original(self, what)
                then()

            monkeypatch.setattr(driver, name, call)


def _stop_after(
    monkeypatch: pytest.MonkeyPatch, repository: Repository, calls: int
) -> None:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if done == calls:
            raise Stopped

    _after_each_verb(monkeypatch, repository, count)


@on(*EVERY_S3)
class TestS3:
    @pytest.fixture
    def s3(self, place: Place) -> S3Place:
        assert isinstance(place, S3Place)
        return place

    def test_a_restore_has_nothing_to_complain_of(
        self, repository: Repository, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        store(backup(), NOISE)
        caplog.clear()
        assert restore(repository) == NOISE
        levels = [r.levelname for r in caplog.records if r.levelno >= logging.WARNING]
        assert levels == [], caplog.text

    def test_a_missing_bucket_is_not_no_backups(self, s3: S3Place) -> None:
        calls: Sequence[Callable[[Repository], object]] = (
            lambda repository: repository.chains(TAR, HOST),
            lambda repository: repository.find_state(TAR, HOST),
            lambda repository: repository.plan(TAR, HOST, LevelPolicy(True), ZERO),
            lambda repository: remove_older_than(repository, TAR, HOST, ZERO),
            lambda repository: repository.report(),
            lambda repository: repository.begin(backup()),
        )
        repository = s3.repository()
        for call in calls:
            with pytest.raises(e.NotFound, match=s3.bucket):
                call(repository)

    def test_objects_of_one_volume(
        self, s3: S3Place, repository: Repository, store: Store
    ) -> None:
        """As Freezer 19 lays them out, and no claim remains."""
        store(backup(), NOISE[: 2 * PART + 1])
        names = {path.removeprefix(f'{folder(backup())}/') for path in s3.files()}
        data = {'data', 'digests/00000000', 'engine_metadata', 'manifest'}
        assert names == {*data, marker(backup())}

    def test_volumes_are_uniform(
        self, s3: S3Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), NOISE)
        volume = PARTS_PER_VOLUME * PART
        sizes = s3.files()
        assert [
            sizes[f'{folder(backup())}/{name}']
            for name in ('data', 'segments/00000001', 'segments/00000002')
        ] == [volume, volume, len(NOISE) - 2 * volume]

    def test_the_smallest_volumes(self, s3: S3Place, commit: Commit) -> None:
        repository = s3.repository(s3_max_parts=2)
        repository.prepare()
        commit(write(repository.begin(backup()), chunks(NOISE[: 4 * PART + 1])))
        assert restore(s3.repository()) == NOISE[: 4 * PART + 1]

    def test_damage_in_a_later_volume(
        self, s3: S3Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), NOISE)
        path = f'{folder(backup())}/segments/00000001'
        flip(s3, path, 2 * PART)
        got = bytearray()
        chain = s3.repository().find_state(TAR, HOST)
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
        self, s3: S3Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), NOISE)
        chain = repository.find_state(TAR, HOST)
        blocks = chain[0].stream().blocks()
        assert NOISE.startswith(next(blocks))
        threads = threading.active_count()
        assert threads > 1
        getattr(blocks, 'close')()  # noqa: B009 - a generator, though typed an Iterator
        assert threading.active_count() < threads


class TestPages:
    @pytest.fixture
    def place(self, s3: S3Place) -> Place:
        return s3

    def test_more_objects_than_a_page(
        self, s3: S3Place, repository: Repository
    ) -> None:
        count = s3.server.properties.page + 100
        many = [backup(level=level) for level in range(count)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda b: s3.write(marker(b), b'{}'), many))
        assert listed(repository) == {ZERO: [(b.level, b.timestamp) for b in many]}
        assert repository.report().objects == count
        remove_older_than(repository, TAR, HOST, ZERO + count)
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
        calls: Sequence[Callable[[Repository], object]] = (
            lambda repository: repository.chains(TAR, HOST),
            lambda repository: repository.report(),
            lambda repository: repository.begin(backup()),
        )
        repository = owned.repository(**wrong)
        for call in calls:
            with pytest.raises(e.BadCredentials) as caught:
                call(repository)
            assert 'sk/' not in caught.value.message
            assert owned.bucket in caught.value.message
        assert owned.files() == {}

    @on_servers(lambda kind: kind.readonly_access_key)
    def test_keys_that_only_read(self, owned: S3Place) -> None:
        server = owned.server
        repository = owned.repository(
            access_key=server.readonly_access_key, secret_key=server.readonly_secret_key
        )
        repository.prepare()
        assert listed(repository) == {}
        with pytest.raises(e.AccessDenied):
            repository.begin(backup())
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
    def test_all_data_is_taken_of_them(self, place: Place, commit: Commit) -> None:
        sending, receiving = Taken(), Taken()
        repository = place.repository(sending=sending, receiving=receiving)
        repository.prepare()
        commit(write(repository.begin(backup()), chunks(NOISE)))
        # Not much more: manifest, digests and so on.
        expected = len(NOISE) * len(place.members)
        assert 0 <= sum(sending.sizes) - expected <= 10_000
        assert sum(receiving.sizes) <= 10_000
        assert restore(repository) == NOISE
        assert 0 <= sum(receiving.sizes) - len(NOISE) <= 20_000
        assert max(sending.sizes + receiving.sizes) <= sending.step

    def test_cancelled(self, place: Place) -> None:
        rate = Taken()
        repository = place.repository(sending=rate)
        repository.prepare()
        pending = repository.begin(backup())
        rate.closed = True
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(write, pending, chunks(NOISE))
            assert rate.asked.wait(60)
            pending.cancel()
            with pytest.raises(e.Cancelled):
                future.result(60)
        rate.closed = False
        pending.discard()
        assert place.files() == {}
        assert place.uploads() == []
        # It ends only the backup that was under way.
        write(repository.begin(backup()), chunks(NOISE))


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
    def test_a_chain(self, s3: S3Place, repository: Repository, store: Store) -> None:
        contents = [NOISE, b'', NOISE[: PART + 1]]
        for level, content in enumerate(contents):
            store(backup('host_Grüße / 1', level=level), content)
        assert restore(repository, identity='host_Grüße / 1') == b''.join(contents)
        assert repository.report().size == sum(s3.files().values())
        remove_older_than(repository, TAR, 'host_Grüße / 1', ZERO + 9)
        assert s3.files() == {}
        assert s3.uploads() == []


@pytest.mark.parametrize('variant', ['list-v1'], indirect=True)
class TestVariantsOfPages(TestPages):
    """Pages are what the two versions of listings differ in."""


def commit_all(written: WrittenBackup) -> None:
    """As the engine does."""
    with tempfile.NamedTemporaryFile() as state:
        written.commit(Path(state.name), {'engine_name': TAR})


def begin_with(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, **methods: Any
) -> PendingBackup:
    """Begin a backup on several storages; some methods of the first are replaced."""
    here = repository.storages['here']
    begin = here.begin

    def replaced(backup: Backup) -> PendingBackup:
        pending = begin(backup)
        for name, method in methods.items():
            monkeypatch.setattr(pending, name, method)
        return pending

    monkeypatch.setattr(here, 'begin', replaced)
    return repository.begin(backup())


@on('multiple-local', 'multiple-mixed')
class TestMultiple:
    @pytest.fixture
    def there(self, place: Place) -> Place:
        """The second member alone."""
        return place.members[1]

    def test_a_claim_is_for_all_or_none(
        self, place: Place, repository: Repository, there: Place
    ) -> None:
        there.storage().begin(backup())
        with pytest.raises(e.Conflict, match=r'\[storage:there\]'):
            repository.begin(backup())
        place.members[0].storage().begin(backup())

    def test_the_others_finish_when_one_fails(
        self,
        place: Place,
        repository: Repository,
        there: Place,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fails(_blocks: Iterable[bytes]) -> WrittenBackup:
            raise e.ServerError('no more space')

        pending = begin_with(repository, monkeypatch, write=fails)
        commit_all(write(pending, chunks(NOISE)))
        failure = repository.failure()
        assert failure is not None
        assert '[storage:here]: no more space; the backup is' in failure.message
        assert 'complete on there' in failure.message
        # What the one had begun is discarded.
        assert place.members[0].files() == {}
        assert there.uploads() == []
        assert restore(place.repository()) == NOISE

    def test_the_others_finish_when_one_cannot_commit(
        self, place: Place, repository: Repository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Written(WrittenBackup):
            def commit(self, *_arguments: object) -> None:
                raise e.ServerError('no more space')

        def write_all(blocks: Iterable[bytes]) -> WrittenBackup:
            for _block in blocks:
                pass
            return Written()

        pending = begin_with(repository, monkeypatch, write=write_all)
        commit_all(write(pending, chunks(NOISE)))
        assert repository.failure() is not None
        assert place.members[0].files() == {}
        assert restore(place.repository()) == NOISE

    def test_all_fail(
        self, place: Place, repository: Repository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(_blocks: Iterable[bytes]) -> WrittenBackup:
            raise e.ServerError('no more space')

        pending = begin_with(repository, monkeypatch, write=fails)
        there = pending._begun['there']  # type: ignore[attr-defined]
        monkeypatch.setattr(there, 'write', fails)
        with pytest.raises(e.ServerError, match=r'\[storage:here\].*no more space'):
            commit_all(write(pending, chunks(NOISE)))
        pending.discard()
        assert place.files() == {}
        assert place.uploads() == []

    def test_a_stream_that_fails_leaves_nothing(
        self, place: Place, repository: Repository
    ) -> None:
        pending = repository.begin(backup())
        with pytest.raises(Stopped):
            write(pending, then_fail(chunks(NOISE), Stopped()))
        pending.discard()
        assert place.files() == {}
        assert place.uploads() == []

    def test_a_signal_while_members_finish(
        self, repository: Repository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They have, or have given up, when the backup is discarded."""

        class Signal(BaseException):
            pass

        cancelled, ended, handled = (threading.Event() for _ in range(3))

        def handle(*_args: object) -> None:
            if not handled.is_set():
                handled.set()
                raise Signal

        def lingers(blocks: Iterable[bytes]) -> WrittenBackup:
            for _block in blocks:
                pass
            # A signal that comes just before a thread waits does not wake it.
            for _attempt in range(60):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                if cancelled.wait(1):
                    break
            assert cancelled.is_set()
            ended.set()
            raise e.Cancelled('cancelled')

        methods = {'write': lingers, 'cancel': cancelled.set}
        pending = begin_with(repository, monkeypatch, **methods)
        before = signal.signal(signal.SIGUSR1, handle)
        try:
            with pytest.raises(Signal):
                commit_all(write(pending, [b'content']))
        finally:
            signal.signal(signal.SIGUSR1, before)
        pending.discard()
        assert ended.is_set()

    def test_a_member_that_cannot_be_read_is_passed_over(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup())
        place.members[0].delete(marker(backup()))
        assert restore(place.repository()) == b'content'

    def test_increments_only_on_a_base_that_all_have(
        self, place: Place, repository: Repository, store: Store, there: Place
    ) -> None:
        store(backup())
        store(backup(level=1))
        assert repository.plan(TAR, HOST, LevelPolicy(True), ZERO)[0]
        there.delete(marker(backup(level=1)))
        assert repository.plan(TAR, HOST, LevelPolicy(True), ZERO) == ([], ZERO + 2)


@on('multiple-local')
class TestHanging:
    """Of several storages; the tests wait, and any storage waits alike."""

    @pytest.mark.parametrize('when', ['in the stream', 'at its end'])
    def test_the_others_finish_when_one_hangs(
        self,
        place: Place,
        repository: Repository,
        monkeypatch: pytest.MonkeyPatch,
        when: str,
    ) -> None:
        # Enough for the other one, also on a busy machine.
        monkeypatch.setattr(several, 'PATIENCE', 8)
        monkeypatch.setattr(several, 'LAST_PATIENCE', 8)
        monkeypatch.setattr(several, 'CLEAN_UP_SECONDS', 0.1)
        released = threading.Event()

        def hangs(blocks: Iterable[bytes]) -> WrittenBackup:
            if when == 'at its end':
                for _block in blocks:
                    pass
            assert released.wait(60)
            raise e.Unreachable('released')

        pending = begin_with(repository, monkeypatch, write=hangs)
        try:
            commit_all(write(pending, chunks(NOISE)))
            failure = repository.failure()
            assert failure is not None
            assert '[storage:here]: nothing happened for' in failure.message
            assert restore(place.repository()) == NOISE
        finally:
            released.set()

    def test_one_that_hangs_when_it_is_asked(
        self, place: Place, repository: Repository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A claim that it makes afterwards is taken back."""
        monkeypatch.setattr(several, 'PATIENCE', 8)
        here = repository.storages['here']
        released, begun = threading.Event(), threading.Event()
        begin = here.begin

        def late(backup: Backup) -> PendingBackup:
            assert released.wait(60)
            pending = begin(backup)
            discard = pending.discard

            def discarded() -> None:
                discard()
                begun.set()

            monkeypatch.setattr(pending, 'discard', discarded)
            return pending

        monkeypatch.setattr(here, 'begin', late)
        pending = repository.begin(backup())
        released.set()
        commit_all(write(pending, chunks(NOISE)))
        assert repository.failure() is not None
        assert begun.wait(60)
        assert place.members[0].files() == {}
