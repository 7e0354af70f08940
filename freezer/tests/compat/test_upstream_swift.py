"""Freezer 19.0.0 and this agent in one container of Swift."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.tests import trees
from freezer.tests.agent import Agent, SwiftStore
from freezer.tests.compat import clouds
from freezer.tests.compat.test_upstream_backups import (
    EXTRACT,
    FIXTURES,
    LEVELS,
    agent_for,
    check_every_level,
)
from freezer.tests.compat.upstream import Upstream, lost_by_upstream
from freezer.tests.faults.harness import Flipped
from freezer.tests.proxy import Proxy
from freezer.tests.servers.swift import SwiftS3

FIXTURE = FIXTURES / 'upstream-swift-19.0.0.tar.xz'
NAMES = ('swift', 'swift-enc')


@pytest.fixture
def store(swift: SwiftS3) -> Iterator[SwiftStore]:
    store = SwiftStore(swift)
    swift.account.make(store.bucket)
    yield store
    swift.account.remove(store.bucket)


@pytest.fixture(scope='module')
def fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each name a folder with its states and pass.txt; index.json and objects."""
    folder = tmp_path_factory.mktemp('upstream-swift')
    subprocess.run([*EXTRACT, f'--file={FIXTURE}', f'--directory={folder}'], check=True)
    for name in NAMES:
        for level in LEVELS:
            state = folder / name / f'state{level}'
            state.mkdir(parents=True)
            archive = folder / 'states' / name / f'level{level}.tar'
            command = [*EXTRACT, f'--file={archive}', f'--directory={state}']
            subprocess.run(command, check=True)
        (folder / name / 'pass.txt').write_bytes((folder / 'pass.txt').read_bytes())
    return folder


def load(fixture: Path, store: SwiftStore) -> None:
    """Put the objects of the fixture where the store is."""
    account = store.server.account
    for item in json.loads((fixture / 'index.json').read_text()):
        content = fixture / 'objects' / item['container'] / item['name']
        key = item['name'].replace('some/prefix', store.prefix)
        manifest = (item['manifest'] or '').replace('fzc/some/prefix', store.container)
        headers = {'X-Object-Manifest': manifest} if manifest else {}
        account.put(store.bucket, key, content.read_bytes(), headers)


@pytest.mark.parametrize('name', NAMES)
def test_every_level_restores(
    store: SwiftStore, fixture: Path, name: str, tmp_path: Path
) -> None:
    load(fixture, store)
    check_every_level(agent_for(store, name, fixture / name), fixture / name, tmp_path)


@pytest.mark.parametrize('number', [1, 3])
def test_a_missing_segment_does_not_restore(
    store: SwiftStore, fixture: Path, number: int, tmp_path: Path
) -> None:
    """In the middle, and at the end."""
    load(fixture, store)
    (path,) = (
        path
        for path in store.sizes()
        if '/fixture_swift/' in path and f'/0_1795925116/segments/{number:08d}' in path
    )
    store.delete(path)
    agent = agent_for(store, 'swift', fixture / 'swift')
    line = agent.restore(tmp_path / 'target').error
    if number == 1:
        assert 'segments/00000001 is missing: the backup is damaged' in line


def test_a_segment_that_arrives_changed_does_not_restore(
    store: SwiftStore, fixture: Path, tmp_path: Path
) -> None:
    """Freezer 19 has no digests, but Swift has the MD5 of each segment."""
    load(fixture, store)
    with Proxy(store.server.endpoint) as proxy:
        proxy.act(
            lambda r: r.method == 'GET' and r.path.endswith('/segments/00000001'),
            Flipped(5000, answer=True),
        )
        agent = agent_for(store, 'swift', fixture / 'swift')
        agent = agent.told(OS_AUTH_URL=f'{proxy.endpoint}/auth/v1.0')
        line = agent.restore(tmp_path / 'target').error
    assert 'its bytes are not those of its ETag: the backup is damaged' in line


def upstream(freezer19: Path, store: SwiftStore) -> Upstream:
    made = Upstream(freezer19, store)
    login = store.server.options()
    made.env = {
        **{name: value for name, value in made.env.items() if 'SWIFT' not in name},
        clouds.SWIFT: ' '.join(
            login[f'swift_{name}'] for name in ('auth_url', 'username', 'password')
        ),
    }
    return made


def test_freezer_19_restores_our_levels(
    freezer19: Path, store: SwiftStore, tmp_path: Path
) -> None:
    source = tmp_path / 'source'
    source.mkdir()
    for name in ('kept', 'changed', 'removed'):
        (source / name).write_bytes(os.urandom(1_500_000))
    # Several segments.
    ours = Agent(store).told('--max-segment-size', '1M')
    ours.increment(source).check()
    assert any(path.endswith('segments/00000004') for path in store.sizes())
    (source / 'changed').write_text('changed')
    (source / 'removed').unlink()
    (source / 'new').write_bytes(os.urandom(100_000))
    time.sleep(1)
    ours.increment(source).check()
    target = tmp_path / 'target'
    upstream(freezer19, store).restore(target).check()
    assert lost_by_upstream(source, target) == []
    assert sorted(trees.describe(target)) == sorted(trees.describe(source))


def test_we_continue_a_chain_of_freezer_19(
    freezer19: Path, store: SwiftStore, tmp_path: Path
) -> None:
    source = tmp_path / 'source'
    source.mkdir()
    (source / 'file').write_bytes(os.urandom(100_000))
    upstream(freezer19, store).increment(source).check()
    (source / 'new').write_text('new')
    time.sleep(1)
    done = Agent(store).increment(source).check()
    assert done.document['curr_backup_level'] == 1
    for number, agent in enumerate((Agent(store), upstream(freezer19, store))):
        target = tmp_path / f'target{number}'
        agent.restore(target).check()
        assert lost_by_upstream(source, target) == []
