"""The index beside the data, on every storage: written, read in ranges, damaged."""

import contextlib
import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from freezer.storage import exceptions as e
from freezer.storage import index_file
from freezer.storage.backup import StoredLevel
from freezer.storage.index_file import (
    MAX_SIZE,
    PIECE,
    SMALL,
    OutgoingIndex,
    StoredIndex,
)
from freezer.storage.manifest import CONTENT_KEY
from freezer.storage.repository import Repository
from freezer.storage.verify import Verification
from freezer.tests import servers
from freezer.tests.conformance.backups import (
    HOST,
    MARKER,
    NOISE,
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
from freezer.tests.conformance.test_storage import (
    EVERY_STORAGE,
    listed,
    on,
    restore,
)
from freezer.tests.conformance.variants import Way
from freezer.tests.proxy import BROKEN, DENIED, Proxy, Reply, Request, error

LARGE = NOISE[: 2 * PART + 12345]
# Each is written by other calls of a driver.
SIZES = {'empty': 0, 'small': 5 * PIECE + 17, 'parts': len(LARGE)}
# Each is on one side of a limit above the drivers.
LIMITS = {
    'one byte': 1,
    'a piece': PIECE,
    'a piece and a byte': PIECE + 1,
    'fetched whole': SMALL - SMALL // PIECE * 32,
    'not fetched whole': SMALL,
    'a part with its table': PART - PART // PIECE * 32,
}
PATH = f'{folder(backup())}/index'
# The rest of the store's behaviour is covered by TestEveryStorage of test_storage.py.
SOME: tuple[str, ...] = (
    *('local', 'sqlite', 'ssh', 'ftp'),
    *('multiple-mixed', 's3-seaweedfs'),
)
# One of files, one of objects, and several: for code above the drivers.
DIFFERENT: tuple[str, ...] = ('local', 's3-seaweedfs', 'multiple-mixed')
if os.environ.get('FREEZER_TEST_THOROUGH'):
    SOME = (*SOME, 's3-ceph')
    DIFFERENT = SOME


def indexes(repository: Repository) -> list[StoredIndex]:
    """Those of every stored level, on every member, opened anew."""
    found = []
    for level in repository.committed():
        assert level.index is not None
        found.append(level.index)
    assert found
    return found


def verified(repository: Repository, data: bool) -> list[Verification]:
    """What a verification finds of every level, on every member."""
    found = [repository.verify(one, data) for one in repository.committed()]
    assert found
    return [one for one in found if one is not None]


def table_of(index: bytes) -> bytes:
    return b''.join(
        hashlib.sha256(index[start : start + PIECE]).digest()
        for start in range(0, len(index), PIECE)
    )


def check_what_is_written(
    place: Place, repository: Repository, store: Store, size: int
) -> None:
    expected = NOISE[:size]
    store(backup(), b'content', expected)
    assert place.uploads() == []
    for member in place.members:
        assert member.read(PATH) == expected + table_of(expected)
    for index in indexes(place.repository()):
        assert index.size == size
        assert index.read(0, size) == expected
    for index in indexes(place.repository()):
        for start, end in (
            (0, 0),
            (size, size),
            (0, min(size, 1)),
            (max(0, size - 3), size),
            (size // 2, min(size, size // 2 + PIECE)),
            (size // 3, size // 3 * 2),
        ):
            assert index.read(start, end) == expected[start:end]
        for start, end in ((-1, 0), (1, 0), (0, size + 1), (size + 1, size + 1)):
            with pytest.raises(e.IntegrityError, match=PATH):
                index.read(start, end)
    assert restore(repository) == b'content'


@on(*EVERY_STORAGE)
class TestEveryStorage:
    @pytest.mark.parametrize('size', SIZES.values(), ids=SIZES)
    def test_what_is_written_is_read(
        self, place: Place, repository: Repository, store: Store, size: int
    ) -> None:
        check_what_is_written(place, repository, store, size)

    def test_a_level_without_index(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup())
        assert all(level.index is None for level in repository.committed())
        for member in place.members:
            assert 'index' not in json.loads(member.read(marker(backup())))
            assert PATH not in member.files()


@on(*DIFFERENT)
@pytest.mark.parametrize('size', LIMITS.values(), ids=LIMITS)
def test_a_size_at_a_limit(
    place: Place, repository: Repository, store: Store, size: int
) -> None:
    check_what_is_written(place, repository, store, size)


@on(*SOME)
class TestWriting:
    def test_the_marker_describes_it(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        index = NOISE[: PIECE + 1]
        store(backup(), b'content', index)
        for member in place.members:
            assert json.loads(member.read(marker(backup())))['index'] == {
                'size': PIECE + 1,
                'piece': 65536,
                'sha256': hashlib.sha256(table_of(index)).hexdigest(),
            }

    def test_removed_with_its_level(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), b'content', LARGE)
        assert repository.report().size == sum(place.files().values())
        store(backup(level=1), b'content', LARGE).discard()
        assert [path for path in place.files() if '/1_' in path] == []
        remove_older_than(repository, TAR, HOST, ZERO)
        assert place.files() == {}

    @pytest.mark.parametrize('pieces', [0, 3, 2 * PART // PIECE])
    def test_an_index_that_cannot_be_read(
        self,
        place: Place,
        repository: Repository,
        commit: Commit,
        monkeypatch: pytest.MonkeyPatch,
        pieces: int,
    ) -> None:
        """Nothing is committed, and nothing of it remains."""
        error = OSError('the disk is on fire')
        monkeypatch.setattr(OutgoingIndex, 'blocks', after(pieces, then_raise(error)))
        pending = repository.begin(backup())
        with pytest.raises((OSError, e.StorageException), match='on fire') as caught:
            commit(write(pending, chunks(b'content')), LARGE)
        # One of several storages would have failed alone.
        assert error in (caught.value, caught.value.__cause__)
        assert listed(place.repository()) == {}
        assert place.uploads() == []
        pending.discard()
        assert place.files() == {}

    @pytest.mark.parametrize('pieces', [0, 3, 2 * PART // PIECE])
    def test_a_process_that_is_killed(
        self,
        place: Place,
        repository: Repository,
        commit: Commit,
        store: Store,
        monkeypatch: pytest.MonkeyPatch,
        pieces: int,
    ) -> None:
        store(backup())

        def die() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                monkeypatch.setattr(OutgoingIndex, 'blocks', after(pieces, die))
                pending = place.repository().begin(backup(level=1))
                commit(write(pending, [b'more']), LARGE)
            os._exit(1)
        _child, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        # In S3, the next run removes what is left.
        agent = place.repository()
        agent.prepare()
        assert place.uploads() == []
        assert listed(agent) == {ZERO: [(0, ZERO)]}
        assert restore(agent) == b'content'
        assert [found.count for found in verified(agent, True)] == [0] * len(
            place.members
        )

    def test_too_large(
        self,
        place: Place,
        repository: Repository,
        commit: Commit,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The writer has the reader's limit."""
        monkeypatch.setattr(index_file, 'MAX_SIZE', 1000)
        pending = repository.begin(backup())
        written = write(pending, chunks(b'content'))
        with pytest.raises(e.StorageException, match='1001 bytes, and at most 1000'):
            commit(written, NOISE[:1001])
        assert listed(repository) == {}
        pending.discard()
        written = write(repository.begin(backup()), chunks(b'content'))
        commit(written, NOISE[:1000])
        assert [index.read(0, 1000) for index in indexes(repository)] == [
            NOISE[:1000]
        ] * len(place.members)


def after(
    pieces: int, then: Callable[[], None]
) -> Callable[[OutgoingIndex], Iterator[bytes]]:
    """In place of ``OutgoingIndex.blocks``: do something after some of them."""
    blocks = OutgoingIndex.blocks

    def some(self: OutgoingIndex) -> Iterator[bytes]:
        for number, block in enumerate(blocks(self)):
            if number == pieces:
                then()
            yield block

    return some


def then_raise(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


class Damage:
    """Whoever reads it notices it, and the backup still restores."""

    @pytest.fixture(params=[5 * PIECE + 17, len(LARGE)], ids=['small', 'large'])
    def content(self, request: pytest.FixtureRequest, store: Store) -> bytes:
        index = NOISE[: request.param]
        store(backup(), b'content', index)
        return index

    def assert_damaged(
        self, repository: Repository, *said: str, listed: bool = False
    ) -> None:
        """A problem of every member, with its place; the backup still restores."""
        for data in (False, True):
            for found in verified(repository, data):
                if not (data or listed):
                    assert found.problems == ()
                    continue
                assert found.problems
                for problem in found.problems:
                    assert all(part in problem.what for part in (PATH, *said))
                    assert not problem.fatal
                assert found.restorable
        assert restore(repository) == b'content'


@on(*DIFFERENT)
class TestOtherBytes(Damage):
    def test_a_changed_byte(
        self, place: Place, repository: Repository, content: bytes
    ) -> None:
        last = (len(content) - 1) // PIECE
        for position in (0, PIECE + 3, 3 * PIECE - 1, len(content) - 1):
            flip(place, PATH, position)
            number = position // PIECE
            first, end = number * PIECE, min(number * PIECE + PIECE, len(content))
            said = f'bytes {first} to {end - 1} are not the bytes that were written'
            if number == last:
                # A verification reads all pieces, wherever the damaged one is.
                self.assert_damaged(repository, said)
            for index in indexes(repository):
                with pytest.raises(e.IntegrityError, match=said) as caught:
                    index.read(position, position + 1)
                assert PATH in caught.value.message
                with pytest.raises(e.IntegrityError, match=said):
                    index.read(0, index.size)
                # The others are as good as before.
                other = 0 if number else last
                start, end = other * PIECE, min(other * PIECE + PIECE, len(content))
                assert index.read(start, end) == content[start:end]
            flip(place, PATH, position)
        assert [found.count for found in verified(repository, True)] == [0] * len(
            place.members
        )

    def test_a_changed_byte_that_was_only_read_ahead(
        self, place: Place, repository: Repository, content: bytes
    ) -> None:
        flip(place, PATH, 4 * PIECE)
        for index in indexes(repository):
            for number in range(4):
                start = number * PIECE
                read = index.read(start, start + PIECE)
                assert read == content[start : start + PIECE]
            with pytest.raises(e.IntegrityError, match=PATH):
                index.read(4 * PIECE, 5 * PIECE)

    def test_a_changed_table(
        self, place: Place, repository: Repository, content: bytes
    ) -> None:
        size = len(content)
        for position in (size, -1):
            flip(place, PATH, position)
            said = f'bytes {size} to {size + len(table_of(content)) - 1} are not'
            self.assert_damaged(repository, said)
            for index in indexes(repository):
                with pytest.raises(e.IntegrityError, match=said):
                    index.read(0, 1)
            flip(place, PATH, position)

    def test_every_changed_piece_is_named(
        self, place: Place, repository: Repository, content: bytes
    ) -> None:
        for number in (0, 1, 4):
            flip(place, PATH, number * PIECE + 7)
        for found in verified(repository, True):
            starts = [problem.start for problem in found.problems]
            assert starts == [0, PIECE, 4 * PIECE]

    def test_the_index_of_another_level(
        self, place: Place, repository: Repository, store: Store, content: bytes
    ) -> None:
        other = NOISE[-len(content) :]
        place.write(PATH, other + table_of(other))
        self.assert_damaged(repository, 'are not the bytes that were written')

    def test_a_malformed_marker(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        store(backup(), b'content', b'index')
        for value in MALFORMED:
            describe(place, value)
            for level in repository.committed():
                with pytest.raises(e.IntegrityError, match=marker(backup())):
                    _ = level.index
            for found in verified(repository, False):
                (problem,) = found.problems
                assert marker(backup()) in problem.what
                assert (problem.fatal, found.restorable) == (False, True)
        assert restore(repository) == b'content'
        describe(place, {'size': 5})
        assert all(index.read(0, 5) == b'index' for index in indexes(repository))


@on(*SOME)
class TestOtherSize(Damage):
    def test_truncated(
        self, place: Place, repository: Repository, content: bytes
    ) -> None:
        whole = content + table_of(content)
        for size in (len(whole) - 1, len(content), PIECE, 0):
            place.write(PATH, whole[:size])
            said = f'has {size} bytes, and {len(whole)} were written'
            self.assert_damaged(repository, said, listed=True)
            for index in indexes(repository):
                with pytest.raises(e.IntegrityError, match=PATH):
                    index.read(0, 1)

    def test_one_that_grew(
        self, place: Place, repository: Repository, content: bytes
    ) -> None:
        place.write(PATH, content + table_of(content) + b'x')
        self.assert_damaged(repository, 'bytes, and', listed=True)

    def test_removed(
        self, place: Place, repository: Repository, content: bytes
    ) -> None:
        place.delete(PATH)
        self.assert_damaged(repository, f'{PATH} is missing', listed=True)
        for index in indexes(repository):
            with pytest.raises(e.IntegrityError, match=PATH):
                index.read(0, 1)

    def test_an_absurd_size(
        self, place: Place, repository: Repository, store: Store
    ) -> None:
        """Memory is for what arrives, not for what the marker says."""
        store(backup(), b'content', b'index')
        for size in (SMALL, 2**30, MAX_SIZE):
            describe(place, {'size': size})
            for index in indexes(repository):
                for end in (1, size):
                    with pytest.raises(e.IntegrityError, match=PATH):
                        index.read(0, end)


MALFORMED: tuple[object, ...] = (
    *(None, [], 'index', 7, {}),
    *({'size': size} for size in (-1, 1.0, True, '1', None, MAX_SIZE + 1, 10**300)),
    *({'piece': piece} for piece in (None, 0, 1, 10**9, 65536.0)),
    *({'sha256': digest} for digest in ('F' * 64, 'f' * 63, 7, None)),
)


def describe(place: Place, value: object) -> None:
    """Change what the marker says of the index: all of it, or some keys."""
    digest = hashlib.sha256(table_of(b'index')).hexdigest()
    if value and isinstance(value, dict):
        value = {'size': 5, 'piece': PIECE, 'sha256': digest} | value
    for member in place.members:
        document = json.loads(member.read(marker(backup())))
        document['index'] = value
        # Which would be another problem.
        document.pop(CONTENT_KEY, None)
        member.write(marker(backup()), json.dumps(document).encode())


class TestRequests:
    """How often S3 is asked, and that keys that only write are enough to commit."""

    @pytest.fixture
    def proxy(self, seaweedfs: servers.SeaweedFS) -> Iterator[Proxy]:
        with Proxy(seaweedfs.endpoint) as proxy:
            yield proxy

    @pytest.fixture
    def place(self, seaweedfs: servers.SeaweedFS, proxy: Proxy) -> Iterator[S3Place]:
        bucket = seaweedfs.make_bucket()
        place = S3Place(seaweedfs, bucket, 'prefix', Way(proxy.endpoint))
        yield place
        place.remove()

    def fetched(self, proxy: Proxy) -> list[tuple[int, int]]:
        """The ranges of the index that were asked for since the last call."""
        ranges = []
        for request in proxy.requests:
            if about_index(request):
                assert request.operation == 'GetObject'
                first, _, last = request.headers['range'][6:].partition('-')
                ranges.append((int(first), int(last) + 1))
        proxy.requests.clear()
        return ranges

    def test_a_small_one_is_fetched_whole(
        self, proxy: Proxy, repository: Repository, store: Store
    ) -> None:
        content = NOISE[: SMALL - SMALL // PIECE * 32]
        store(backup(), b'content', content)
        (index,) = indexes(repository)
        proxy.requests.clear()
        for start in (5, 3 * PIECE, len(content) - 1, 0):
            assert index.read(start, start + 1) == content[start : start + 1]
        assert index.read(0, index.size) == content
        assert self.fetched(proxy) == [(0, SMALL)]
        assert index.read(0, index.size) == content
        assert self.fetched(proxy) == []

    def test_an_empty_one_needs_no_request(
        self, proxy: Proxy, repository: Repository, store: Store
    ) -> None:
        store(backup(), b'content', b'')
        (index,) = indexes(repository)
        proxy.requests.clear()
        assert index.read(0, 0) == b''
        assert self.fetched(proxy) == []

    def test_ranges_of_a_large_one(
        self, proxy: Proxy, repository: Repository, store: Store
    ) -> None:
        store(backup(), b'content', LARGE)
        (index,) = indexes(repository)
        proxy.requests.clear()
        size = len(LARGE)
        table = (size, size + len(table_of(LARGE)))

        def read(start: int, end: int) -> list[tuple[int, int]]:
            assert index.read(start, end) == LARGE[start:end]
            return [(a // PIECE, -(-b // PIECE)) for a, b in self.fetched(proxy)]

        # Only what is needed, and the table before.
        assert index.read(20 * PIECE + 1, 20 * PIECE + 2) == LARGE[20 * PIECE + 1 :][:1]
        assert self.fetched(proxy) == [table, (20 * PIECE, 21 * PIECE)]
        assert read(20 * PIECE, 21 * PIECE) == []
        assert read(90 * PIECE - 1, 90 * PIECE + 1) == [(89, 91)]
        # Further and further ahead, where it goes on.
        assert read(91 * PIECE, 92 * PIECE) == [(91, 95)]
        assert read(92 * PIECE, 95 * PIECE) == []
        assert read(95 * PIECE, 96 * PIECE) == [(95, 111)]
        assert read(110 * PIECE, 112 * PIECE) == [(111, 143)]
        assert read(143 * PIECE, 144 * PIECE) == [(143, 161)]
        # And not where it does not.
        assert read(PIECE, 2 * PIECE) == [(1, 2)]
        # At most 4 MiB at a time, and nothing of the 4 MiB that were read last.
        assert sorted(read(0, size)) == [(0, 64), (64, 99)]

    def test_memory_is_bounded(
        self, proxy: Proxy, repository: Repository, store: Store
    ) -> None:
        store(backup(), b'content', LARGE)
        (index,) = indexes(repository)
        proxy.requests.clear()
        for start in range(0, len(LARGE), 1000):
            assert index.read(start, start + 1) == LARGE[start : start + 1]
            assert sum(map(len, index._kept.values())) <= SMALL
        # The table, and then up to 32 pieces at a time.
        assert len(self.fetched(proxy)) == 9

    def test_damaged_on_the_way(
        self, proxy: Proxy, repository: Repository, store: Store
    ) -> None:
        """It is asked for again, and is all right then."""
        store(backup(), b'content', LARGE)
        (index,) = indexes(repository)
        lost = {PIECE, len(LARGE)}

        def once(request: Request) -> bool:
            first = request.headers.get('range', '')[6:].partition('-')[0]
            if not about_index(request) or not first or int(first) not in lost:
                return False
            lost.discard(int(first))
            return True

        proxy.answer(once, BROKEN)
        assert index.read(PIECE, 2 * PIECE) == LARGE[PIECE : 2 * PIECE]
        assert not lost

    @pytest.mark.parametrize('size', [0, 1000, len(LARGE)])
    def test_keys_that_only_write(
        self,
        proxy: Proxy,
        place: S3Place,
        repository: Repository,
        commit: Commit,
        size: int,
    ) -> None:
        reads = {'GetObject', 'HeadObject', 'ListObjectsV2', 'DeleteObject'}
        proxy.answer(lambda request: request.operation in reads, DENIED)
        written = write(repository.begin(backup()), chunks(b'content'))
        commit(written, NOISE[:size])
        proxy.clear()
        first, second = (indexes(place.repository())[0] for _ in range(2))
        assert first.read(0, size) == NOISE[:size]
        proxy.answer(lambda request: request.operation in reads, DENIED)
        if size:
            with pytest.raises(e.AccessDenied):
                second.read(0, size)

    @pytest.mark.parametrize('size', [1000, len(LARGE)], ids=['put', 'multipart'])
    def test_it_is_always_at_hand(
        self, proxy: Proxy, place: S3Place, commit: Commit, size: int
    ) -> None:
        """The data may be in a cold class; what is needed to look into it is not."""
        repository = place.repository(s3_storage_class='STANDARD_IA')
        commit(write(repository.begin(backup()), chunks(LARGE)), NOISE[:size])
        classes = {
            request.key.rpartition('/')[2]: request.headers.get('x-amz-storage-class')
            for request in proxy.requests
            if request.operation in ('PutObject', 'CreateMultipartUpload')
        }
        assert classes['data'] == 'STANDARD_IA'
        assert classes['index'] is classes['manifest'] is None

    @pytest.mark.parametrize('size', [1000, len(LARGE)], ids=['put', 'multipart'])
    def test_an_index_that_the_store_refuses(
        self,
        proxy: Proxy,
        place: S3Place,
        repository: Repository,
        commit: Commit,
        size: int,
    ) -> None:
        proxy.answer(
            lambda request: about_index(request) and request.operation in WRITES, DENIED
        )
        pending = repository.begin(backup())
        with pytest.raises(e.AccessDenied, match=PATH):
            commit(write(pending, chunks(b'content')), NOISE[:size])
        assert listed(repository) == {}
        assert place.uploads() == []
        pending.discard()
        assert place.files() == {}

    @pytest.mark.parametrize('size', [1000, len(LARGE)], ids=['put', 'multipart'])
    def test_an_index_that_the_store_loses(
        self,
        proxy: Proxy,
        place: S3Place,
        repository: Repository,
        commit: Commit,
        size: int,
    ) -> None:
        """It has confirmed it: the commit looks before it writes the marker."""
        pending = repository.begin(backup())
        written = write(pending, chunks(b'content'))
        heads = 0

        def lose() -> None:
            nonlocal heads
            heads += 1
            # The first look at a multipart upload belongs to its completion.
            if size < PART or heads == 2:
                place.delete(PATH)

        proxy.before(
            lambda request: about_index(request) and request.operation == 'HeadObject',
            lose,
        )
        with pytest.raises(e.IntegrityError, match=f'{PATH}.* is missing'):
            commit(written, NOISE[:size])
        assert listed(repository) == {}
        pending.discard()
        assert place.files() == {}

    def test_an_index_of_more_than_one_object(
        self, place: S3Place, repository: Repository, commit: Commit
    ) -> None:
        pending = repository.begin(backup())
        with pytest.raises(e.StorageException, match='raise --max-segment-size'):
            commit(
                write(pending, chunks(b'content')), NOISE[: PARTS_PER_VOLUME * PART + 1]
            )
        assert listed(repository) == {}
        pending.discard()
        assert place.files() == {}


WRITES = {'PutObject', 'UploadPart'}


def about_index(request: Request) -> bool:
    return request.path.endswith('/index')


def test_an_index_is_never_whole_in_memory(tmp_path: Path) -> None:
    """Beside one piece, only its table is."""
    path = tmp_path / 'index'
    with open(path, 'wb') as file:
        file.truncate(10**9)
    outgoing = OutgoingIndex(path)
    sizes = [len(block) for block in outgoing.blocks()]
    assert max(sizes[:-1]) == PIECE
    assert sizes[-1] == -(-(10**9) // PIECE) * 32
    assert sum(sizes) == outgoing.record.stored_size


def add(repository: Repository, folder: Path, index: bytes, level: StoredLevel) -> None:
    path = folder / 'added'
    path.write_bytes(index)
    repository.add_index(level, path, MARKER)


@on(*SOME, 'swift')
class TestAdding:
    """An index that is added to a level after its commit."""

    @pytest.mark.parametrize('size', [0, 1000, len(LARGE)])
    def test_as_if_it_had_been_there(
        self,
        place: Place,
        repository: Repository,
        store: Store,
        tmp_path: Path,
        size: int,
    ) -> None:
        store(backup())
        before = [(m, json.loads(m.read(marker(backup())))) for m in place.members]
        for content in (b'the first one', NOISE[:size]):
            for level in place.repository().committed():
                add(repository, tmp_path, content, level)
            assert [each.read(0, each.size) for each in indexes(repository)] == [
                content
            ] * len(place.members)
        for member, old in before:
            new = json.loads(member.read(marker(backup())))
            assert new.pop('index')['size'] == size
            assert new.pop(CONTENT_KEY) != old.pop(CONTENT_KEY)
            assert new == old
        assert place.uploads() == []
        assert {each.count for each in verified(repository, True)} == {0}
        assert restore(repository) == b'content'
        remove_older_than(repository, TAR, HOST, ZERO)
        assert place.files() == {}

    def test_a_level_of_freezer_19(
        self, place: Place, repository: Repository, tmp_path: Path
    ) -> None:
        """It has no manifest, and its marker no digest."""
        place.write(f'{folder(backup())}/data', b'content')
        place.write(f'{folder(backup())}/engine_metadata', b'state')
        place.write(marker(backup()), json.dumps(MARKER).encode() + b'\nmore')
        for level in repository.committed():
            add(repository, tmp_path, b'index', level)
        for member in place.members:
            new = json.loads(member.read(marker(backup())))
            assert new.pop('index')['size'] == 5
            del new[CONTENT_KEY]
            assert new == MARKER
        assert restore(repository) == b'content'
        assert {each.count for each in verified(repository, True)} == {0}

    def test_a_marker_that_was_replaced(
        self, place: Place, repository: Repository, store: Store, tmp_path: Path
    ) -> None:
        """Before, or while the index is written."""
        store(backup())
        stale = repository.committed()
        for level in stale:
            assert level.marker
        for member in place.members:
            document = json.loads(member.read(marker(backup()))) | {'new': 1}
            member.write(marker(backup()), json.dumps(document).encode())
        files = place.files()
        for level in stale:
            with pytest.raises(e.Conflict, match=marker(backup())):
                add(repository, tmp_path, b'index', level)
        assert place.files() == files
        assert restore(repository) == b'content'

    def test_a_marker_that_is_replaced_meanwhile(
        self,
        place: Place,
        repository: Repository,
        store: Store,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        store(backup())

        def replace() -> None:
            for member in place.members:
                document = json.loads(member.read(marker(backup()))) | {'new': 1}
                member.write(marker(backup()), json.dumps(document).encode())

        monkeypatch.setattr(OutgoingIndex, 'blocks', after(0, replace))
        for level in repository.committed()[:1]:
            with pytest.raises(e.Conflict, match=marker(backup())):
                add(repository, tmp_path, b'index', level)
        for member in place.members:
            assert json.loads(member.read(marker(backup())))['new'] == 1
            assert 'index' not in json.loads(member.read(marker(backup())))
        assert restore(repository) == b'content'

    @pytest.mark.parametrize('meanwhile', [False, True])
    def test_a_level_that_is_removed(
        self,
        place: Place,
        repository: Repository,
        store: Store,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        meanwhile: bool,
    ) -> None:
        """It does not come back, and nothing of it stays."""
        store(backup())
        levels = repository.committed()
        for level in levels:
            assert level.marker

        def remove() -> None:
            remove_older_than(place.repository(), TAR, HOST, ZERO)

        if meanwhile:
            monkeypatch.setattr(OutgoingIndex, 'blocks', after(0, remove))
        else:
            remove()
        for level in levels:
            with pytest.raises(e.NotFound, match='removed meanwhile'):
                add(repository, tmp_path, b'index', level)
        assert place.files() == {}
        assert listed(place.repository()) == {}

    def test_a_process_that_is_killed(
        self,
        place: Place,
        repository: Repository,
        store: Store,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The level is as it was."""
        store(backup())
        before = [(m, m.read(marker(backup()))) for m in place.members]

        def die() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        for pieces in (0, 3, 2 * PART // PIECE):
            child = os.fork()
            if not child:
                with contextlib.suppress(BaseException):
                    monkeypatch.setattr(OutgoingIndex, 'blocks', after(pieces, die))
                    agent = place.repository()
                    add(agent, tmp_path, LARGE, agent.committed()[0])
                os._exit(1)
            _child, status = os.waitpid(child, 0)
            assert os.WIFSIGNALED(status)
            agent = place.repository()
            agent.prepare()
            assert place.uploads() == []
            for member, document in before:
                assert member.read(marker(backup())) == document
            assert restore(agent) == b'content'
            assert {each.count for each in verified(agent, True)} == {0}
        for level in place.repository().committed():
            add(place.repository(), tmp_path, b'index', level)
        assert {each.size for each in indexes(repository)} == {5}


class TestAddingOnS3:
    @pytest.fixture
    def proxy(self, seaweedfs: servers.SeaweedFS) -> Iterator[Proxy]:
        with Proxy(seaweedfs.endpoint) as proxy:
            yield proxy

    @pytest.fixture
    def place(self, seaweedfs: servers.SeaweedFS, proxy: Proxy) -> Iterator[S3Place]:
        bucket = seaweedfs.make_bucket()
        place = S3Place(seaweedfs, bucket, 'prefix', Way(proxy.endpoint))
        yield place
        place.remove()

    def replaces_marker(self, request: Request) -> bool:
        return request.operation == 'PutObject' and 'if-match' in request.headers

    def test_removed_before_the_marker_is_replaced(
        self,
        proxy: Proxy,
        place: S3Place,
        repository: Repository,
        store: Store,
        tmp_path: Path,
    ) -> None:
        store(backup())
        (level,) = repository.committed()
        way = Way(place.server.endpoint)
        other = S3Place(place.server, place.bucket, place.prefix, way)
        proxy.before(
            self.replaces_marker,
            lambda: remove_older_than(other.repository(), TAR, HOST, ZERO),
        )
        with pytest.raises(e.NotFound, match='removed meanwhile'):
            add(repository, tmp_path, b'index', level)
        assert place.files() == {}

    def test_a_store_that_does_not_know_the_condition(
        self,
        proxy: Proxy,
        place: S3Place,
        repository: Repository,
        store: Store,
        tmp_path: Path,
    ) -> None:
        store(backup())
        (level,) = repository.committed()
        refusal = error(501, 'NotImplemented')
        proxy.answer(self.replaces_marker, refusal)
        add(repository, tmp_path, b'index', level)
        assert [each.size for each in indexes(repository)] == [5]

    def test_an_answer_that_is_lost(
        self,
        proxy: Proxy,
        repository: Repository,
        store: Store,
        tmp_path: Path,
    ) -> None:
        """The attempt has replaced it, and the next one finds another ETag."""
        store(backup())
        (level,) = repository.committed()
        lost = [1]

        def first(request: Request) -> bool:
            return self.replaces_marker(request) and bool(lost)

        def lose(reply: Reply) -> Reply:
            lost.clear()
            return reply.but(status=500, body=b'')

        proxy.change(first, lose)
        add(repository, tmp_path, b'index', level)
        assert not lost
        assert [each.size for each in indexes(repository)] == [5]

    def test_a_level_that_is_locked(
        self, seaweedfs: servers.SeaweedFS, tmp_path: Path, commit: Commit
    ) -> None:
        bucket = f'{seaweedfs.make_bucket()}-lock'
        place = S3Place(seaweedfs, bucket, 'prefix', Way(seaweedfs.endpoint))
        repository = place.repository(
            s3_object_lock_mode='GOVERNANCE', s3_object_lock_days=1
        )
        repository.prepare()
        commit(write(repository.begin(backup()), [b'content']))
        (level,) = repository.committed()
        before = place.read(marker(backup()))
        with pytest.raises(e.Rejected, match='is locked: an index can be added'):
            add(repository, tmp_path, b'index', level)
        assert place.read(marker(backup())) == before
        assert PATH not in place.files()
