"""Several agents at once, on one store."""

import contextlib
from pathlib import Path

import pytest

from freezer.tests import trees
from freezer.tests.agent import Agent, S3Store, in_parts, missed
from freezer.tests.faults.harness import listed, restores
from freezer.tests.proxy import Proxy

DAY = 86400
OLD = ('--remove-older-than', '30')


@pytest.fixture
def agent(proxied: S3Store) -> Agent:
    return in_parts(Agent(proxied))


def elsewhere(agent: Agent, home: Path) -> Agent:
    """The same, of another machine."""
    home.mkdir()
    return agent.told(HOME=str(home))


def test_backup_while_admin_deletes(
    agent: Agent, proxy: Proxy, proxied: S3Store, big: Path, tmp_path: Path
) -> None:
    """An increment is under way on a chain that is old enough to go."""
    agent.increment(big).check()
    proxied.made_earlier(60 * DAY, agent.identity)
    (big / 'more').write_text('more')
    held = proxy.hold(
        lambda request: request.method == 'PUT' and request.key.endswith('/data')
    )
    arguments = ('backup', '--path-to-backup', big, '--incremental')
    with agent.start(*arguments) as process:
        held.wait()
        elsewhere(agent, tmp_path / 'home').run('admin', *OLD).check()
        held.release()
        process.wait().check()
    (chain,) = listed(agent)
    assert [level['level'] for level in chain['levels']] == [0, 1]
    restores(agent, trees.describe(big), tmp_path / 'target')


def test_admin_deletes_first(
    agent: Agent, proxy: Proxy, proxied: S3Store, big: Path, tmp_path: Path
) -> None:
    """The chain goes while the increment on it is being planned: it must not be
    committed as one that cannot be restored."""
    agent.increment(big).check()
    proxied.made_earlier(60 * DAY, agent.identity)
    (big / 'more').write_text('more')
    held = proxy.hold(lambda request: request.key.endswith('/claim'))
    arguments = ('backup', '--path-to-backup', big, '--incremental')
    with agent.start(*arguments) as process:
        held.wait()
        elsewhere(agent, tmp_path / 'home').run('admin', *OLD).check()
        assert proxied.markers() == []
        held.release()
        result = process.wait()
    if result.code == 0:
        restores(agent, trees.describe(big), tmp_path / 'target')
    else:
        assert listed(agent) == []
        assert result.error


def test_two_restores_at_once(agent: Agent, big: Path, tmp_path: Path) -> None:
    agent.backup(big).check()
    targets = [tmp_path / name for name in ('one', 'two')]
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(agent.start('restore', '--restore-abs-path', target))
            for target in targets
        ]
        for process in running:
            process.wait().check()
    for target in targets:
        assert missed(trees.describe(big), target) == []


def test_restore_while_admin_deletes(
    agent: Agent, proxy: Proxy, proxied: S3Store, big: Path, tmp_path: Path
) -> None:
    agent.backup(big).check()
    proxied.made_earlier(60 * DAY, agent.identity)
    held = proxy.hold(
        lambda request: request.method == 'GET' and request.key.endswith('/data')
    )
    target = tmp_path / 'target'
    with agent.start('restore', '--restore-abs-path', target) as process:
        held.wait()
        elsewhere(agent, tmp_path / 'home').run('admin', *OLD).check()
        held.release()
        result = process.wait()
    assert 'is missing' in result.error
    assert f'{target} is incomplete, do not use it' in result.err
