"""What a verification finds, on every storage and server, and what it leaves alone."""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from freezer.storage import exceptions as e
from freezer.storage import manifest
from freezer.storage.backup import Backup
from freezer.storage.ftp.storage import FtpStorage
from freezer.storage.local.storage import LocalStorage
from freezer.storage.repository import Repository
from freezer.storage.s3 import S3Storage
from freezer.storage.ssh.storage import SshStorage
from freezer.storage.verify import Problem, Verification
from freezer.tests import servers
from freezer.tests.conformance.backups import (
    HOST,
    MARKER,
    NOISE,
    STATE,
    TAR,
    ZERO,
    Store,
    backup,
    flip,
    folder,
    marker,
    remove_older_than,
)
from freezer.tests.conformance.places import (
    PART,
    PARTS_PER_VOLUME,
    LocalPlace,
    Place,
    S3Place,
)
from freezer.tests.conformance.test_storage import on
from freezer.tests.conformance.variants import Way
from freezer.tests.plugins.freezer_sqlite.storage import SqliteStorage

CONTENT = NOISE[: 2 * PART + 17]
VOLUME = PARTS_PER_VOLUME * PART

# What a verification asks of a store are verbs that the suite tries on all of them.
STORES: tuple[str, ...] = ('s3-seaweedfs',)
if os.environ.get('FREEZER_TEST_THOROUGH'):
    STORES = ('s3-seaweedfs', 's3-ceph')

# Whether the data is read, or only listed.
BOTH = (False, True)


def every(repository: Repository, data: bool = False) -> list[Verification]:
    """What is found of each backup there is; of several members, one after the
    other."""
    found = []
    for one in repository.committed():
        result = repository.verify(one, data)
        assert result is not None
        assert result.stored is one
        assert result.count == len(result.problems)
        found.append(result)
    assert found
    return found


def the_problem(repository: Repository, data: bool, *said: str) -> list[Problem]:
    """The one problem that there is, on each member; its message has all of these."""
    problems = []
    for found in every(repository, data):
        (problem,) = found.problems
        assert all(part in problem.what for part in said), problem.what
        assert problem.fatal != found.restorable
        problems.append(problem)
    return problems


def assert_whole(repository: Repository, data: bool) -> None:
    for found in every(repository, data):
        assert (found.problems, found.missing, found.warnings) == ((), (), ())
        assert found.restorable
        assert found.digests


DRIVERS = (LocalStorage, SqliteStorage, S3Storage, SshStorage, FtpStorage)


def part_size(member: Place) -> int:
    return PART if isinstance(member, S3Place) else manifest.MAX_PIECE


def place_of(member: Place, position: int, size: int) -> tuple[int, int, int]:
    """Part, first and last byte of what one digest covers there."""
    length = part_size(member)
    number = position // length
    return number + 1, number * length, min((number + 1) * length, size) - 1


def where(problem: Problem) -> tuple[str | None, int | None, int | None, int | None]:
    return problem.volume, problem.part, problem.start, problem.end


@on('local', 'sqlite', 'ssh', 'ftps-vsftpd', 'multiple-mixed', *STORES)
class TestEveryStorage:
    @pytest.mark.parametrize('size', [0, 1, len(CONTENT)])
    def test_what_is_whole(
        self, place: Place, repository: Repository, store: Store, size: int
    ) -> None:
        for level in range(2):
            store(backup(level=level), NOISE[:size])
        before = place.files()
        for data in BOTH:
            # As another agent, which has written nothing.
            assert_whole(place.repository(), data)
            for found in every(repository, data):
                assert found.size == size
                assert found.marker.items() >= MARKER.items()
            assert place.files() == before
            assert place.uploads() == []

    def test_which_there_are(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        assert repository.committed() == []
        names = ('h_a', 'h_a/b', 'h_ab')
        for name in names:
            for level in (1, 0):
                store(backup(name, level=level))
        store(backup('h_a', zero=ZERO - 5))
        place.write('metadata/other/h_a/5/0_5/metadata', b'{}')
        place.write(f'metadata/tar/h_a/{ZERO}/notes', b'not ours')
        place.write(f'data/tar/h_a/{ZERO}/2_{ZERO + 2}/data', b'not committed')
        found = [
            (b.engine, b.hostname_backup_name, b.level_zero_timestamp, b.level)
            for b in (stored.backup for stored in repository.committed())
        ]
        expected = [('other', 'h_a', 5, 0), ('tar', 'h_a', ZERO - 5, 0)]
        expected += (('tar', name, ZERO, level) for name in names for level in (0, 1))
        assert found == expected * len(place.members)

    # Damage

    def test_a_changed_byte(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), CONTENT)
        path = f'{folder(backup())}/data'
        for position in (0, PART, 2 * PART + 16):
            flip(place, path, position)
            problems = the_problem(repository, True, path)
            for member, problem in zip(place.members, problems, strict=True):
                expected = place_of(member, position, len(CONTENT))
                assert where(problem) == ('data', *expected)
            # Only who reads it sees it.
            assert not any(found.count for found in every(repository))
            flip(place, path, position)
        assert not any(found.count for found in every(repository, True))

    def test_every_changed_place_is_named(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), CONTENT)
        positions = (0, 5, PART + 3, 2 * PART + 1)
        for position in positions:
            flip(place, f'{folder(backup())}/data', position)
        for member, found in zip(place.members, every(repository, True), strict=True):
            expected = {place_of(member, p, len(CONTENT)) for p in positions}
            places = [where(problem)[1:] for problem in found.problems]
            assert places == sorted(expected)

    def test_missing_data(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), CONTENT)
        place.delete(f'{folder(backup())}/data')
        said = f'{folder(backup())}/data is missing'
        for data in BOTH:
            for problem in the_problem(repository, data, said):
                assert where(problem) == ('data', None, 0, len(CONTENT) - 1)

    def test_truncated_data(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), CONTENT)
        for size in (2 * PART + 16, PART + 3, PART, 0):
            place.write(f'{folder(backup())}/data', CONTENT[:size])
            said = f'data: has {size} bytes, and {len(CONTENT)} were written'
            for data in BOTH:
                problems = the_problem(repository, data, f'{folder(backup())}/{said}')
                for member, problem in zip(place.members, problems, strict=True):
                    part = size // part_size(member) + 1
                    assert where(problem) == ('data', part, size, len(CONTENT) - 1)

    def test_data_that_grew(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), CONTENT)
        place.write(f'{folder(backup())}/data', CONTENT + b'xy')
        for data in BOTH:
            for problem in the_problem(
                repository, data, f'{folder(backup())}/data: has'
            ):
                assert problem.volume == 'data'
                assert (problem.start, problem.end) == (len(CONTENT), len(CONTENT) + 1)

    @pytest.mark.parametrize('name', ['manifest', 'digests/00000000'])
    def test_damaged_manifest_or_digests(
        self, place: Place, repository: Repository, store: Store, name: str
    ) -> None:
        store(backup(), CONTENT)
        path = f'{folder(backup())}/{name}'
        volume = 'data' if 'digests' in name else None
        for content in (b'', b'nonsense', b'{}', b'\xff' * 99, b'0' * 99999):
            place.write(path, content)
            for problem in the_problem(repository, True, path):
                assert problem.volume == volume
        place.delete(path)
        for problem in the_problem(repository, True, path, ' is missing'):
            assert problem.volume == volume

    def test_a_changed_digest(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        """It is the digests that are wrong, and not the data."""
        store(backup(), CONTENT)
        for member in place.members:
            path = f'{folder(backup())}/digests/00000000'
            digests = bytearray(member.read(path))
            digests[3] = ord('1') if digests[3] == ord('0') else ord('0')
            member.write(path, bytes(digests))
        the_problem(repository, False, f'{folder(backup())}/digests/00000000: ')

    def test_the_manifest_of_another_backup(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), CONTENT)
        other = store(backup('other'), b'other')
        for member in place.members:
            for name in ('manifest', 'digests/00000000', 'data'):
                content = member.read(f'{folder(other.backup)}/{name}')
                member.write(f'{folder(backup())}/{name}', content)
        other.discard()
        path = f'{folder(backup())}/manifest'
        the_problem(repository, True, path, ' belongs to another backup')

    def test_a_changed_digest_of_the_whole(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), CONTENT)
        path = f'{folder(backup())}/manifest'
        for member in place.members:
            document = json.loads(member.read(path))
            document['digest'] = '0' * 64
            member.write(path, json.dumps(document).encode())
        for problem in the_problem(repository, False, path):
            assert not problem.fatal

    def test_missing_engine_metadata(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), CONTENT)
        path = f'{folder(backup())}/engine_metadata'
        place.delete(path)
        for data in BOTH:
            for problem in the_problem(repository, data, f'{path} is missing'):
                # It restores, and no increment can be made on it.
                assert not problem.fatal

    def test_a_damaged_marker(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), CONTENT)
        other = json.dumps(MARKER | {'engine_name': 'rsync'}).encode()
        for content in (b'', b'{', b'[]', b'\xff\n{}'):
            place.write(marker(backup()), content)
            the_problem(repository, True, marker(backup()))
        place.write(marker(backup()), other)
        for found in every(repository):
            # It does not name the manifest either.
            engine, token = found.problems
            assert f'{marker(backup())} is of another engine: rsync' in engine.what
            assert f'{marker(backup())} does not name the manifest' in token.what

    def test_everything_is_found_at_once(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), CONTENT)
        gone = ('data', 'digests/00000000', 'engine_metadata')
        for name in gone:
            place.delete(f'{folder(backup())}/{name}')
        for found in every(repository, True):
            assert found.count == len(gone)
            for name in gone:
                path = f'{folder(backup())}/{name} is missing'
                assert any(path in problem.what for problem in found.problems)

    # Chains

    def test_a_missing_level(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        for level in range(4):
            store(backup(level=level))
        # Another chain, and another name, have that level.
        store(backup(zero=ZERO + 100))
        store(backup(zero=ZERO + 100, level=1))
        store(backup(f'{HOST}/x', level=1))
        place.delete(marker(backup(level=1)))
        for member in split(repository, place):
            assert {
                (found.stored.level_zero_timestamp, found.stored.level): found.missing
                for found in member
                if found.stored.backup.hostname_backup_name == HOST
            } == {
                (ZERO, 0): (),
                (ZERO, 2): ((1, 1),),
                (ZERO, 3): ((1, 1),),
                (ZERO + 100, 0): (),
                (ZERO + 100, 1): (),
            }
        place.delete(marker(backup()))
        for member in split(repository, place):
            missing = [found.missing for found in member]
            assert missing == [((0, 1),), ((0, 1),), (), (), ((0, 0),)]

    # What is no damage

    def test_a_copied_container(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        """Other ETags alone are worth a warning, until the bytes have been read."""
        store(backup(), CONTENT)
        for member in place.members:
            for path in member.files():
                member.write(path, member.read(path))
        for data in BOTH:
            results = every(repository, data)
            for member, found in zip(place.members, results, strict=True):
                assert found.problems == ()
                warned = isinstance(member, S3Place) and not data
                assert len(found.warnings) == warned
                assert all('/data: its ETag is' in line for line in found.warnings)

    @pytest.mark.parametrize('data', BOTH, ids=['listed', 'read'])
    def test_a_backup_of_freezer_19(
        self, place: Place, repository: Repository, data: bool
    ) -> None:
        place.write(f'{folder(backup())}/engine_metadata', STATE)
        place.write(marker(backup()), json.dumps(MARKER).encode())
        path = f'{folder(backup())}/data'
        the_problem(repository, data, f'{path} is missing')
        place.write(path, b'')
        the_problem(repository, data, f'{path} is empty')
        for size in (1, PART + 1):
            place.write(path, NOISE[:size])
            for found in every(repository, data):
                assert (found.problems, found.size) == ((), size)
                assert not found.digests

    def test_a_marker_that_lost_the_manifest(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), CONTENT)
        place.write(marker(backup()), json.dumps(MARKER).encode())
        the_problem(repository, False, f'{marker(backup())} does not name the manifest')

    # At the same time

    def test_what_is_removed_is_not_damaged(
        self,
        place: Place,
        repository: Repository,
        store: Store,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Whichever verb comes when retention does, or when it has begun."""
        for verb in ('read_file', 'stat', 'read_pieces'):
            for level in range(3):
                store(backup(level=level), CONTENT)
            backups = repository.committed()
            other = place.repository()
            before_each(monkeypatch, verb, lambda: remove(other))  # noqa: B023
            assert [repository.verify(one, True) for one in backups] == [None] * len(
                backups
            )
            monkeypatch.undo()
            assert repository.committed() == []

    def test_half_removed_is_removed(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        """Markers go first, so data may be there without."""
        for level in range(3):
            store(backup(level=level))
        backups = repository.committed()
        for level in (2, 1):
            place.delete(marker(backup(level=level)))
        for one in backups:
            found = repository.verify(one, True)
            assert (found is None) == (one.level > 0)
            assert found is None or (found.problems, found.missing) == ((), ())

    def test_a_new_level_is_nothing_to_it(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), CONTENT)
        pending = repository.begin(backup(level=1))
        backups = repository.committed()
        assert len(backups) == len(place.members)
        pending.discard()
        store(backup(level=1))
        assert all(repository.verify(one, True) is not None for one in backups)

    def test_a_storage_that_is_down_is_not_damage(
        self, repository: Repository, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither that nor one that is gone."""
        store(backup(), CONTENT)
        one = repository.committed()[0]

        def fails(*_args: Any) -> Any:
            raise e.Unreachable('the network is down')

        for driver in DRIVERS:
            for verb in ('list_tree', 'read_file', 'stat', 'read_pieces'):
                monkeypatch.setattr(driver, verb, fails)
        with pytest.raises(e.Unreachable, match='the network is down'):
            repository.verify(one, True)

    def test_what_cannot_be_read_is_a_problem(
        self, repository: Repository, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As long as the storage itself answers; and the rest is looked at."""
        store(backup(), CONTENT)
        for verb, path, kind in (
            ('read_file', '/metadata', e.AccessDenied),
            ('read_file', '/manifest', e.AccessDenied),
            ('read_file', '/digests/00000000', e.ServerError),
            ('stat', '/data', e.AccessDenied),
            ('stat', '/engine_metadata', e.Unreachable),
        ):
            refuse(monkeypatch, verb, path, kind)
            for found in every(repository, True):
                assert [problem.what for problem in found.problems] == ['no, not this']
            monkeypatch.undo()


def split(repository: Repository, place: Place) -> Iterator[list[Verification]]:
    """What is found on each member."""
    found = every(repository)
    each = len(found) // len(place.members)
    for start in range(0, len(found), each):
        yield found[start : start + each]


def remove(repository: Repository) -> None:
    """All there is, as retention does."""
    remove_older_than(repository, TAR, HOST, ZERO + 99)


def before_each(
    monkeypatch: pytest.MonkeyPatch, verb: str, do: Callable[[], None]
) -> None:
    """Do something before each call of a verb, on every driver; not before those that
    this makes itself."""
    doing = False
    for driver in DRIVERS:
        original = getattr(driver, verb)

        def call(self: Any, *args: Any, original: Any = original) -> Any:
            nonlocal doing
            if not doing:
                doing = True
                try:
                    do()
                finally:
                    doing = False
            return original(self, *args)

        monkeypatch.setattr(driver, verb, call)


def refuse(
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    ending: str,
    kind: type[e.StorageException],
) -> None:
    """From now on a verb fails on some paths, on every driver."""
    for driver in DRIVERS:
        original = getattr(driver, verb)

        def call(self: Any, path: str, *args: Any, original: Any = original) -> Any:
            if path.endswith(ending):
                raise kind('no, not this')
            return original(self, path, *args)

        monkeypatch.setattr(driver, verb, call)


@on(*STORES)
class TestS3:
    """Several volumes; and the store's own ways to be gone."""

    @pytest.fixture
    def s3(self, place: Place) -> S3Place:
        assert isinstance(place, S3Place)
        return place

    @pytest.fixture
    def stored(self, store: Store) -> Backup:
        """Three volumes: of three parts, of three, and of one and a byte."""
        return store(backup(), NOISE).backup

    def test_volumes_that_are_whole(
        self, repository: Repository, stored: Backup
    ) -> None:
        for data in BOTH:
            assert_whole(repository, data)

    def test_a_changed_byte_in_a_later_volume(
        self, s3: S3Place, repository: Repository, stored: Backup
    ) -> None:
        path = f'{folder(stored)}/segments/00000001'
        flip(s3, path, 2 * PART)
        flip(s3, f'{folder(stored)}/segments/00000002', PART)
        (found,) = every(repository, True)
        assert [where(problem) for problem in found.problems] == [
            ('segments/00000001', 3, 2 * PART, 3 * PART - 1),
            ('segments/00000002', 2, PART, PART),
        ]
        assert f'{path} at {s3.way.endpoint}' in found.problems[0].what

    def test_a_missing_volume(
        self, s3: S3Place, repository: Repository, stored: Backup
    ) -> None:
        path = f'{folder(stored)}/segments/00000001'
        s3.delete(path)
        for data in BOTH:
            (problem,) = the_problem(repository, data, f'{path} is missing')
            assert where(problem) == ('segments/00000001', None, 0, VOLUME - 1)

    def test_a_truncated_volume(
        self, s3: S3Place, repository: Repository, stored: Backup
    ) -> None:
        path = f'{folder(stored)}/segments/00000001'
        s3.write(path, NOISE[VOLUME : 2 * VOLUME - 5])
        for data in BOTH:
            (problem,) = the_problem(
                repository,
                data,
                f'{path}: has {VOLUME - 5} bytes, and {VOLUME} were written',
            )
            assert where(problem) == ('segments/00000001', 3, VOLUME - 5, VOLUME - 1)

    def test_volumes_that_changed_places(
        self, s3: S3Place, repository: Repository, stored: Backup
    ) -> None:
        names = ('data', 'segments/00000001')
        contents = [s3.read(f'{folder(stored)}/{name}') for name in names]
        for name, content in zip(names, reversed(contents), strict=True):
            s3.write(f'{folder(stored)}/{name}', content)
        for data in BOTH:
            (found,) = every(repository, data)
            if data:
                wrong = [(problem.volume, problem.part) for problem in found.problems]
                assert wrong == [(name, part) for name in names for part in (1, 2, 3)]
            else:
                assert found.problems == ()
                assert len(found.warnings) == 2

    def test_a_bucket_that_is_gone(
        self, s3: S3Place, repository: Repository, stored: Backup
    ) -> None:
        (one,) = repository.committed()
        s3.remove()
        s3.server.client().delete_bucket(Bucket=s3.bucket)
        with pytest.raises(e.NotFound, match=s3.bucket):
            repository.verify(one, True)
        with pytest.raises(e.NotFound, match=s3.bucket):
            repository.committed()


# moto knows no permissions.
@pytest.mark.parametrize('s3_server', ['seaweedfs', 'ceph'], indirect=True)
class TestKeys:
    @pytest.fixture
    def place(self, s3_server: servers.Server) -> S3Place:
        bucket = s3_server.make_bucket()
        return S3Place(s3_server, bucket, 'prefix', Way(s3_server.endpoint))

    def test_keys_that_only_read_will_do(self, place: S3Place, store: Store) -> None:
        store(backup(), NOISE)
        keys = {
            'access_key': place.server.readonly_access_key,
            'secret_key': place.server.readonly_secret_key,
        }
        for data in BOTH:
            assert_whole(place.repository(**keys), data)


@on('local')
class TestLocal:
    def test_a_disk_that_is_gone(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup())
        (one,) = repository.committed()
        assert isinstance(place, LocalPlace)
        place.root.rename(place.root.with_name('away'))
        with pytest.raises(e.NotFound, match='some where'):
            repository.verify(one, True)
        with pytest.raises(e.NotFound, match='some where'):
            repository.committed()
