"""Faults 34 and 35: killed at any moment, what is listed restores, the rest goes."""

import random
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from freezer.tests import servers, trees
from freezer.tests.agent import Agent, S3Store, in_parts, missed
from freezer.tests.proxy import Proxy

pytestmark = pytest.mark.usefixtures('cold')

# A volume holds three parts of five.
SEVERAL_VOLUMES = ('--s3-max-parts', '4', '--s3-concurrency', '2')


@pytest.mark.parametrize(
    's3_server, kills', [('seaweedfs', 20), ('ceph', 10)], indirect=['s3_server']
)
def test_34_many_kills(
    s3_server: servers.Server, kills: int, big: Path, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f'seed {seed}')
    chance = random.Random(seed)
    store = S3Store(s3_server)
    began = time.monotonic()
    _agent(store, 'unhurt').backup(big).check()
    usual = time.monotonic() - began
    # Another agent, of another user of this machine, is in the middle of it.
    live = _agent(store, 'live')
    with Proxy(s3_server.endpoint) as proxy:
        held = proxy.hold(lambda request: request.part == 1)
        elsewhere = live.told(
            '--s3-read-timeout', '240', HOME=str(tmp_path), ENDPOINT=proxy.endpoint
        )
        with elsewhere.start('backup', '--path-to-backup', big) as process:
            held.wait()
            for number in range(kills):
                _kill_one(_agent(store, f'kill{number}'), big, chance, usual)
            listed = _names(store.markers())
            print(f'{len(listed) - 1} of {kills} had been committed')
            _agent(store, 'any').run('admin', '--s3-stale-after', '0').check()
            assert _names(store.open_uploads()) == {'live'}
            assert _names(store.sizes()) == listed | {'live'}
            held.release()
            process.wait().check()
    for name in listed | {'live'}:
        target = tmp_path / name
        _agent(store, name).restore(target).check()
        assert missed(trees.describe(big), target) == []
    _agent(store, 'any').run('admin', '--s3-stale-after', '0').check()
    assert store.open_uploads() == []
    assert _names(store.sizes()) == listed | {'live'}
    # Beside data and what is written about it, nothing clings to a backup.
    assert not [path for path in store.sizes() if '/claim' in path]


def _agent(store: S3Store, name: str) -> Agent:
    return in_parts(Agent(store, name)).told(*SEVERAL_VOLUMES)


def _kill_one(agent: Agent, path: Path, chance: random.Random, usual: float) -> None:
    with agent.start('backup', '--path-to-backup', path) as process:
        time.sleep(chance.uniform(0.1 * usual, 1.1 * usual))
        process.send(signal.SIGKILL)
        process.wait()


def _names(paths: Iterable[str]) -> set[str]:
    """The backup names in keys, with or without the container's prefix."""
    found = set()
    for path in paths:
        parts = path.split('/')
        kind = next(i for i, part in enumerate(parts) if part in ('data', 'metadata'))
        found.add(parts[kind + 2].rpartition('_')[2])
    return found
