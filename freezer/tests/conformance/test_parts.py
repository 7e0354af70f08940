"""Levels with several parts, on every storage: written, read, removed, damaged."""

import json
from collections.abc import Iterator, Mapping

import pytest

from freezer.storage import exceptions as e
from freezer.storage import manifest, reports
from freezer.storage.repository import Repository
from freezer.tests.conformance.backups import (
    HOST,
    MARKER,
    NOISE,
    TAR,
    Commit,
    backup,
    chunks,
    flip,
    folder,
    marker,
    remove_older_than,
    write,
)
from freezer.tests.conformance.places import PART, Place, S3Place
from freezer.tests.conformance.test_storage import listed, on
from freezer.tests.conformance.test_verify import every, the_problem
from freezer.utils.blocks import Block, PartStart

PARTS = {
    'list': b'what there is',
    'disk-0': NOISE,
    'disk_1': NOISE[PART : 2 * PART + 17],
    'empty': b'',
    'z' * 63: b'a long name',
}
FOLDER = f'{folder(backup())}/parts'
# What the parts are made of are verbs that the suite of a storage tries on all of them.
SOME = ('local', 'sqlite', 'multiple-mixed', 's3-seaweedfs', 's3-ceph')


def messages(parts: Mapping[str, bytes]) -> Iterator[Block | PartStart]:
    for name, content in parts.items():
        yield PartStart(name)
        yield from chunks(content)


def read(repository: Repository, level: int = 0) -> dict[str, bytes]:
    """The parts of a level of the newest state."""
    stored = repository.find_state(TAR, HOST)[level]
    return {name: b''.join(each.blocks()) for name, each in stored.streams.items()}


@pytest.fixture
def stored(repository: Repository, commit: Commit) -> None:
    """A level with ``PARTS``."""
    commit(write(repository.begin(backup()), messages(PARTS)))


@on(*SOME)
class TestEveryStorage:
    @pytest.mark.usefixtures('stored')
    def test_what_is_written_is_read(self, place: Place) -> None:
        repository = place.repository()
        assert read(repository) == PARTS
        assert list(read(repository)) == list(PARTS)
        assert place.uploads() == []
        for level in repository.committed():
            assert level.size == sum(map(len, PARTS.values()))
            for name, content in PARTS.items():
                size = len(content)
                wanted = [(0, min(3, size)), (size // 2, size)]
                found = b''.join(level.stream(name).block_ranges(wanted))
                assert found == content[:3] + content[size // 2 :]
            for name in ('', 'disk'):
                with pytest.raises(e.IntegrityError, match='disk-0'):
                    level.stream(name)
            details = reports.details(level)
            assert details.parts == tuple(PARTS)
            assert details.size == level.size
            assert details.digests
        for member in place.members:
            files = member.files()
            beside = {p for p in files if p.startswith(folder(backup()))}
            beside -= {path for path in beside if path.startswith(f'{FOLDER}/')}
            assert beside == {f'{folder(backup())}/engine_metadata'}
            written = json.loads(member.read(marker(backup())))
            assert [part['name'] for part in written['parts']] == list(PARTS)
            assert written.items() >= MARKER.items()
            assert manifest.MARKER_KEY not in written
            assert member.read(f'{FOLDER}/list/data') == PARTS['list']
            has_volumes = f'{FOLDER}/disk-0/segments/00000001' in files
            assert has_volumes == isinstance(member, S3Place)
        report = repository.report()
        assert report.size == sum(
            size for each in place.members for size in each.files().values()
        )
        assert sum(chain.size for chain in report.chains) == report.size

    def test_the_parts_of_a_chain_change(
        self, place: Place, repository: Repository, commit: Commit
    ) -> None:
        """A level may also have no parts."""
        chain: list[dict[str, bytes]] = [
            {'a': b'first', 'b': b'second'},
            {'b': b'second, changed', 'c': b'added'},
            {'': b'no parts'},
            {'a': b'only one'},
        ]
        for level, parts in enumerate(chain):
            stream = messages(parts) if '' not in parts else chunks(parts[''])
            commit(write(repository.begin(backup(level=level)), stream))
        for level, parts in enumerate(chain):
            assert read(place.repository(), level) == parts
        for found in every(repository, data=True):
            assert found.problems == ()
        removed = remove_older_than(repository, TAR, HOST, backup(level=3).timestamp)
        assert len(removed) == len(place.members)
        assert place.files() == {}

    @pytest.mark.parametrize('why', ['failed', 'cancelled'])
    def test_the_second_part_is_not_written(
        self, place: Place, repository: Repository, why: str, commit: Commit
    ) -> None:
        pending = repository.begin(backup())

        def failing() -> Iterator[Block | PartStart]:
            yield from messages({'a': b'whole', 'b': b'begun'})
            if why == 'failed':
                raise OSError('gone')
            pending.cancel()
            while True:
                yield bytes(PART)

        with pytest.raises(OSError if why == 'failed' else e.Cancelled):
            write(pending, failing())
        assert listed(repository) == {}
        pending.discard()
        assert place.files() == {}
        assert place.uploads() == []
        commit(write(repository.begin(backup()), messages({'a': b'again'})))
        assert read(repository) == {'a': b'again'}

    @pytest.mark.usefixtures('stored')
    def test_a_lost_marker(self, place: Place, repository: Repository) -> None:
        assert repository.committed()
        for member in place.members:
            member.delete(marker(backup()))
        found = [level.backup for level in repository.complete_data()]
        assert found == [backup()] * len(place.members)

    @pytest.mark.usefixtures('stored')
    def test_a_flipped_byte(self, place: Place, repository: Repository) -> None:
        flip(place, f'{FOLDER}/disk_1/data', 7)
        assert all(found.problems == () for found in every(repository))
        for problem in the_problem(repository, True, 'parts/disk_1/data'):
            assert (problem.volume, problem.part) == ('parts/disk_1/data', 1)
            assert problem.fatal
        for level in repository.committed():
            with pytest.raises(e.IntegrityError, match='parts/disk_1/data'):
                b''.join(level.stream('disk_1').blocks())
            assert b''.join(level.stream('list').blocks()) == PARTS['list']

    @pytest.mark.parametrize(
        'name', ['manifest', 'data', 'digests/00000000', 'everything']
    )
    @pytest.mark.usefixtures('stored')
    def test_what_is_missing(
        self, place: Place, repository: Repository, name: str
    ) -> None:
        for member in place.members:
            for path in member.files():
                if path.startswith(f'{FOLDER}/list/{name}') or (
                    name == 'everything' and path.startswith(f'{FOLDER}/list/')
                ):
                    member.delete(path)
        what = 'manifest' if name == 'everything' else name
        for problem in the_problem(
            repository, False, f'parts/list/{what}', 'is missing'
        ):
            assert problem.fatal
        for level in repository.committed():
            with pytest.raises(e.IntegrityError):
                b''.join(level.stream('list').blocks())

    @pytest.mark.usefixtures('stored')
    def test_a_part_in_place_of_another(
        self, place: Place, repository: Repository
    ) -> None:
        for member in place.members:
            for path in member.files():
                if path.startswith(f'{FOLDER}/empty/'):
                    other = path.replace('/empty/', '/list/')
                    member.write(other, member.read(path))
        the_problem(repository, False, 'parts/list/manifest', 'another backup')

    @pytest.mark.usefixtures('stored')
    def test_a_part_that_the_marker_does_not_name(
        self, place: Place, repository: Repository
    ) -> None:
        for member in place.members:
            member.write(f'{FOLDER}/other/data', b'content')
        for problem in the_problem(repository, False, 'parts/other'):
            assert not problem.fatal
        assert read(repository) == PARTS

    @pytest.mark.usefixtures('stored')
    def test_a_marker_that_was_changed(
        self, place: Place, repository: Repository
    ) -> None:
        for member in place.members:
            document = json.loads(member.read(marker(backup())))
            document['parts'][1]['name'] = '../../../elsewhere'
            del document[manifest.CONTENT_KEY]
            changed = manifest.whole(document)
            member.write(marker(backup()), changed)
        the_problem(repository, False, 'parts is missing or malformed')
        for level in repository.committed():
            with pytest.raises(e.IntegrityError, match='malformed'):
                level.stream('list')


def test_parts_of_markers() -> None:
    """What is not one that this agent wrote is damaged."""
    good = {'name': 'a', 'manifest': '0'}
    assert manifest.stream_tokens({'parts': [good]}, 'x') == {'a': '0'}
    assert manifest.stream_tokens({}, 'x') == {'': None}
    parts: list[object] = [
        *(None, {}, [], 'a', [good, good], [None], [{'name': 'a'}]),
        *([{**good, 'name': name}] for name in ('', 'A', '.', 'a/b', 'a' * 64, 'a\n')),
    ]
    for each in parts:
        with pytest.raises(e.IntegrityError, match='x is damaged'):
            manifest.stream_tokens({'parts': each}, 'x')
    with pytest.raises(e.IntegrityError):
        manifest.stream_tokens({'parts': [good], 'manifest': '1'}, 'x')
