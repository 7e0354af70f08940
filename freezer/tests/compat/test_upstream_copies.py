"""Copies of backups that Freezer 19.0.0 made: each level restores from the copy, which
has digests. The passphrase of encrypted ones is not needed to copy them."""

from pathlib import Path

from freezer.tests import servers
from freezer.tests.agent import Agent, LocalStore, S3Store, Store, SwiftStore
from freezer.tests.compat import test_upstream_backups, test_upstream_swift
from freezer.tests.compat.test_upstream_backups import (
    LEVELS,
    agent_for,
    check_every_level,
    copy_store,
)
from freezer.tests.copier import Copier

fixture = test_upstream_backups.fixture
swift_fixture = test_upstream_swift.fixture
store = test_upstream_swift.store


def test_from_a_directory_to_another(fixture: Path, tmp_path: Path) -> None:
    source, target = (LocalStore(tmp_path / name) for name in ('source', 'target'))
    copy_store(fixture, source)
    check_copies(source, target, len(test_upstream_backups.NAMES), tmp_path)
    agent = agent_for(target, 'tar-gzip-enc', fixture)
    check_every_level(agent, fixture, tmp_path)


def test_from_swift_to_s3(
    swift_fixture: Path,
    store: SwiftStore,
    seaweedfs: servers.SeaweedFS,
    tmp_path: Path,
) -> None:
    """Segments of Freezer 19 become one stream."""
    test_upstream_swift.load(swift_fixture, store)
    target = S3Store(seaweedfs)
    check_copies(store, target, len(test_upstream_swift.NAMES), tmp_path)
    states = swift_fixture / 'swift-enc'
    check_every_level(agent_for(target, 'swift-enc', states), states, tmp_path)


def check_copies(source: Store, target: Store, count: int, folder: Path) -> None:
    """Copy all chains of a fixture."""
    before = source.files()
    copier = Copier(source, target, folder)
    ended = copier.run().check()
    found = [each['result'] for each in ended.document['backups']]
    assert found == ['copied'] * count * len(LEVELS)
    assert not any(each['digests'] for each in ended.document['backups'])
    assert 'without digests: only the size was checked' in ended.err
    assert set(copier.copied('--verify-data')) == {'present'}
    assert source.files() == before
    there = Agent(target).nameless
    verified = there.run('verify', '--verify-data', '--json').check()
    assert all(each['digests'] for each in verified.document['backups'])
