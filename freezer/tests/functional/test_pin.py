"""Pinned states, which no retention removes."""

from pathlib import Path

import pytest

from freezer.tests.agent import Agent, iso, job_file
from freezer.tests.proxy import Proxy

DAY = 86400
OLD = ('--remove-older-than', '5')
LAST = ('--keep-last', '1')


@pytest.fixture(params=['local', 'agent'])
def anywhere(request: pytest.FixtureRequest) -> Agent:
    found: Agent = request.getfixturevalue(request.param)
    return found


def chain(agent: Agent, source: Path, count: int = 3) -> list[int]:
    """An old chain, and a new one; the times of the old one."""
    made = []
    for number in range(count):
        (source / 'file').write_text(str(number))
        made.append(agent.increment(source).check().document['time_stamp'])
    agent.store.made_earlier(10 * DAY, agent.identity)
    agent.backup(source).check()
    return [date - 10 * DAY for date in made]


def levels(agent: Agent) -> list[tuple[int, bool]]:
    """Time of each level, and whether it is pinned."""
    document = agent.run('info', '--metadata-out', '-').check().document
    return [
        (level['time_stamp'], level['pinned'])
        for each in document['backups']
        for level in each['levels']
    ]


@pytest.mark.parametrize('how', [OLD, LAST])
def test_a_pinned_state_stays_with_its_base(
    anywhere: Agent, source: Path, tmp_path: Path, how: tuple[str, str]
) -> None:
    dates = chain(anywhere, source)
    for _once_more in range(2):
        said = anywhere.run('admin', '--pin', iso(dates[1])).check().err
        assert f'Pinned level 1 of {iso(dates[1])}' in said
    before = levels(anywhere)
    assert [date for date, is_pinned in before if is_pinned] == [dates[1]]
    assert f'{iso(dates[1])}  pinned' in anywhere.run('info').check().out
    dry = anywhere.run('admin', *how, '--dry-run').check().err
    assert f'Would keep   {iso(dates[0])} level 0' in dry
    assert f'Would remove {iso(dates[2])} level 2' in dry
    assert 'pinned' in dry
    assert levels(anywhere) == before
    anywhere.run('admin', *how).check()
    assert [date for date, _ in levels(anywhere)][:2] == dates[:2]
    assert len(levels(anywhere)) == 3
    target = tmp_path / 'target'
    anywhere.restore(target, '--restore-from-date', iso(dates[1])).check()
    assert (target / 'file').read_text() == '1'
    # After a backup, too.
    anywhere.backup(source, *how).check()
    assert [date for date, _ in levels(anywhere)][:2] == dates[:2]
    anywhere.run('admin', '--unpin', iso(dates[1])).check()
    anywhere.run('admin', *how).check()
    left = [date for date, _ in levels(anywhere)]
    assert not set(left) & set(dates)
    # Nothing of it is left behind.
    assert not [path for path in anywhere.store.files() if str(dates[0]) in path]


def test_what_is_refused(local: Agent, source: Path) -> None:
    dates = chain(local, source, 1)
    before = local.store.files()
    for words, error in (
        (('--unpin', iso(dates[0])), 'is not pinned'),
        (('--pin', iso(dates[0] - 1)), 'the oldest is'),
        (('--pin', 'now', '--unpin', 'now'), 'pin and unpin: pass one of them'),
        (('--pin', 'soon'), 'is not a date'),
    ):
        assert error in local.run('admin', *words).only_error
    assert 'belong to action admin' in local.run('info', '--pin', 'now').error
    assert 'Would pin level 0' in local.run('admin', '--pin', 'now', '--dry-run').err
    assert local.store.files() == before


def test_several_storages(
    local: Agent, agent: Agent, source: Path, tmp_path: Path
) -> None:
    sections = {'storage:a': local.store.section, 'storage:b': agent.store.section}
    both = Agent(local.store)
    both.options = ('--config', job_file(tmp_path / 'job', sections))
    both = both.told('--hostname', 'hosta', '--backup-name', 'bk')
    for _number in range(2):
        both.backup(source).check()
    first = levels(local)[0][0]
    said = both.run('admin', '--pin', iso(first)).check().err
    assert 'on 2 storages' in said
    for each in (local, agent):
        each.run('admin', *LAST).check()
        assert levels(each)[0] == (first, True)
    # One of them has lost its pin.
    local.run('admin', '--unpin', iso(first)).check()
    assert 'on 1 storage' in both.run('admin', '--unpin', iso(first)).check().err
    assert not any(pinned for _, pinned in levels(agent))


def test_pinned_while_retention_deletes(
    seaweedfs_agent: Agent, proxy: Proxy, source: Path, tmp_path: Path
) -> None:
    """Retention has decided; somebody pins before the markers are deleted."""
    agent = seaweedfs_agent
    dates = chain(agent, source)
    before = agent.store.files()
    held = proxy.hold(lambda request: request.method in ('POST', 'DELETE'))
    with agent.start('admin', *OLD) as process:
        held.wait()
        agent.told(HOME=str(tmp_path)).run('admin', '--pin', iso(dates[1])).check()
        held.release()
        said = process.wait().check().err
    assert f'level 2 of {iso(dates[2])}' in said
    assert f'level 1 of {iso(dates[1])}' not in said
    assert [date for date, _ in levels(agent)][:2] == dates[:2]
    left = {path: text for path, text in agent.store.files().items() if path in before}
    assert left.items() <= before.items()
    agent.restore(tmp_path / 'x', '--restore-from-date', iso(dates[1])).check()
    assert (tmp_path / 'x/file').read_text() == '1'


def test_removed_while_it_is_pinned(
    seaweedfs_agent: Agent, proxy: Proxy, source: Path, tmp_path: Path
) -> None:
    """Retention deletes everything before the pin is written: the pin must fail."""
    agent = seaweedfs_agent
    dates = chain(agent, source)
    held = proxy.hold(
        lambda request: request.method == 'PUT' and request.key.endswith('/pinned')
    )
    with agent.start('admin', '--pin', iso(dates[1])) as process:
        held.wait()
        agent.told(HOME=str(tmp_path)).run('admin', *OLD).check()
        held.release()
        assert 'was removed meanwhile' in process.wait().error
    assert len(levels(agent)) == 1
    assert not [path for path in agent.store.files() if path.endswith('/pinned')]


@pytest.fixture
def seaweedfs_agent(request: pytest.FixtureRequest) -> Agent:
    """One that reaches the store through the proxy."""
    return Agent(request.getfixturevalue('proxied'))
