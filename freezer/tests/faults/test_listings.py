"""Faults 32, 35, 36, 41 to 43, 58, 59: what is there, and what is to go."""

import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from freezer.tests import trees
from freezer.tests.agent import Agent, Result, S3Store, in_parts
from freezer.tests.faults.harness import (
    EVER,
    Cut,
    Fault,
    Lost,
    faults,
    impatient,
    listed,
    refused,
    restores,
    says,
)
from freezer.tests.proxy import Act, Answer, Changed, Proxy, Reply, Request

LIST, DELETE, UPLOADS = 'ListObjectsV2', 'DeleteObjects', 'ListMultipartUploads'
DAY = 86400
OLD = ('--remove-older-than', '30')


@pytest.fixture
def agent(proxied: S3Store) -> Agent:
    return Agent(proxied)


@pytest.fixture
def aged(agent: Agent, proxied: S3Store, source: Path) -> Agent:
    """With a chain of two levels that retention is to remove, and one that stays."""
    for _ in range(2):
        agent.increment(source).check()
    proxied.made_earlier(60 * DAY, agent.identity)
    Agent(proxied, 'other').backup(source).check()
    return agent


def _ahead(seconds: int) -> Changed:
    """The store's clock, and so this machine's is off to the other side."""
    date = time.strftime(
        '%a, %d %b %Y %H:%M:%S GMT', time.gmtime(time.time() - seconds)
    )
    return Changed(lambda reply: reply.but(date=date))


def test_32_clock_far_ahead(agent: Agent, proxy: Proxy, source: Path) -> None:
    """By this machine's clock the chain is old; by the store's it is of today."""
    agent.backup(source).check()
    store = agent.store
    store.made_earlier(60 * DAY, agent.identity)
    before = store.files()
    proxy.act(lambda _request: True, _ahead(60 * DAY))
    line = agent.run('admin', *OLD).error
    assert 'clock' in line
    assert store.files() == before
    # The same day is no reason, nor is a date that somebody has said.
    proxy.clear()
    proxy.act(lambda _request: True, _ahead(600))
    agent.run('admin', *OLD).check()
    assert store.markers() == []


def test_32_after_a_backup(aged: Agent, proxy: Proxy, source: Path) -> None:
    """The backup is good, and says that retention was not done."""
    proxy.act(lambda _request: True, _ahead(60 * DAY))
    result = aged.backup(source, *OLD)
    assert 'clock' in result.error
    assert len(aged.store.markers()) == 4


def test_35_upload_of_a_living_agent(
    agent: Agent, proxy: Proxy, proxied: S3Store, big: Path, tmp_path: Path
) -> None:
    live = in_parts(Agent(proxied, 'live', env={'HOME': str(tmp_path)}))
    held = proxy.hold(lambda request: request.part == 2)
    with live.start('backup', '--path-to-backup', big) as process:
        held.wait()
        agent.run('admin', '--s3-stale-after', '0').check()
        assert len(proxied.open_uploads()) == 1
        held.release()
        process.wait().check()
    restores(live, trees.describe(big), tmp_path / 'target')


NO_UPLOADS = (
    b'<?xml version="1.0"?><ListMultipartUploadsResult>'
    b'<IsTruncated>false</IsTruncated></ListMultipartUploadsResult>'
)


def test_36_list_of_uploads_is_empty(
    agent: Agent, proxy: Proxy, proxied: S3Store, big: Path
) -> None:
    held = proxy.hold(lambda request: request.part == 2)
    several = in_parts(agent)
    with several.start('backup', '--path-to-backup', big) as process:
        held.wait()
        process.send(signal.SIGKILL)
        process.wait()
    held.release()
    proxy.clear()
    assert proxied.open_uploads() != []
    proxy.change(
        lambda request: request.operation == UPLOADS,
        lambda reply: reply.but(200, NO_UPLOADS),
    )
    several.backup(big).check()
    assert proxied.open_uploads() == []


DAMAGED_MARKERS = [b'', b'{"engine_na', b'[]', bytes(10), b'x' * (1 << 22)]


def test_41_damaged_marker(
    agent: Agent, proxied: S3Store, source: Path, tmp_path: Path
) -> None:
    """Empty, truncated, no object, zeros, huge."""
    other = Agent(proxied, 'other')
    for each in (agent, other):
        each.backup(source).check()
    (marker,) = [path for path in proxied.markers() if '_bk/' in path]
    for content in DAMAGED_MARKERS:
        proxied.put(marker, content)
        line = agent.restore(tmp_path / 'target').error
        assert marker in line, content[:20]
        assert not (tmp_path / 'target').exists()
        result = agent.run('verify')
        assert result.code == 1
        assert marker in result.out + result.err, content[:20]
        looked = agent.nameless.run('info', '--long', '--json')
        assert looked.code == 1
        assert marker in looked.err, content[:20]
        whole = {
            each['backup_name']: each['levels'][0]['whole']
            for each in looked.document['backups']
        }
        assert whole == {'bk': False, 'other': True}
    # The others are as good as before.
    assert 'other' in {each['backup_name'] for each in listed(agent)}
    restores(other, trees.describe(source), tmp_path / 'other')


def test_41_missing_marker(
    agent: Agent, proxied: S3Store, source: Path, tmp_path: Path
) -> None:
    """What has none is no backup: it was never committed, or is being deleted."""
    agent.backup(source).check()
    (marker,) = proxied.markers()
    proxied.delete(marker)
    assert listed(agent) == []
    assert 'No backup ' in agent.restore(tmp_path / 'target').error


HTML = b'<!DOCTYPE html><html><body>Welcome to the portal</body></html>'


def _no_token(reply: Reply) -> Reply:
    """There is more, and no way to ask for it."""
    body = reply.body.replace(
        b'<IsTruncated>false</IsTruncated>', b'<IsTruncated>true</IsTruncated>'
    )
    assert body != reply.body
    return reply.but(body=body)


@pytest.mark.parametrize(
    'happens',
    [
        refused(500, 'InternalError'),
        refused(403, 'AccessDenied'),
        refused(200, body=HTML, X_Portal='yes'),
        Cut(150),
        Cut(150, told=False),
        Changed(_no_token),
        says(200, b''),
        Lost(),
    ],
    ids=['500', '403', 'html', 'cut', 'cut, no length', 'no token', 'empty', 'lost'],
)
def test_42_listing_is_odd(
    aged: Agent, proxy: Proxy, source: Path, tmp_path: Path, happens: Act
) -> None:
    before = aged.store.files()
    hasty = aged.told('--s3-retry-budget', '0.5')
    target = tmp_path / 'target'
    acts: dict[str, Callable[[], Result]] = {
        'info': lambda: hasty.run('info'),
        'restore': lambda: hasty.restore(target),
        'increment': lambda: hasty.increment(source),
        'admin': lambda: hasty.run('admin', *OLD),
        'verify': lambda: hasty.run('verify'),
    }
    for action, act in acts.items():
        with faults(proxy, Fault(LIST, happens, times=EVER)):
            result = act()
        assert 'No backup ' not in result.error, action
        assert proxy.endpoint in result.error, action
        assert aged.store.files() == before, action
    assert not target.exists()


def test_42_listing_that_recovers(aged: Agent, proxy: Proxy) -> None:
    broken = refused(500, 'InternalError')
    with faults(proxy, Fault(LIST, broken), Fault(LIST, Cut(150), first=2)):
        found = {each['backup_name'] for each in listed(aged)}
    assert found == {'bk', 'other'}


ODD = ['a b', 'ü', 'x%2Fy', 'a+b', "quo'te", 'new&amp;', '<tag>', '100%']


def test_43_many_keys_and_odd_ones(
    agent: Agent, proxied: S3Store, source: Path, tmp_path: Path
) -> None:
    """More than a page, and among them what is not ours."""
    with ThreadPoolExecutor(8) as pool:
        for number in range(1100):
            pool.submit(proxied.put, f'metadata/tar/foreign/{number}', b'')
    foreign = [f'data/tar/{odd}/1/0_1/data' for odd in ODD]
    foreign += ['metadata/tar/hosta_bk/x/0_y/metadata', 'zzz', 'data', 'metadata/tar']
    for path in foreign:
        proxied.put(path, b'')
    names = [f'bk {odd}'.replace('/', '_') for odd in ODD[:3]]
    agents = [Agent(proxied, name) for name in names]
    for each in agents:
        each.backup(source).check()
    assert len(proxied.sizes()) > 1100
    assert {each['backup_name'] for each in listed(agent)} == set(names)
    for number, each in enumerate(agents):
        restores(each, trees.describe(source), tmp_path / str(number))
    agent.run('admin', '--s3-stale-after', '0').check()
    assert {'zzz', 'data', 'metadata/tar'} <= set(proxied.sizes())


class Locked(Act):
    """What is asked for is refused, object by object."""

    def request(self, request: Request) -> Answer:
        refused = b''.join(
            b'<Error><Key>%b</Key><Code>AccessDenied</Code></Error>' % key
            for key in re.findall(rb'<Key>(.*?)</Key>', request.body)
        )
        return Answer(200, b'<DeleteResult>%b</DeleteResult>' % refused)


def test_58_deletion_refused_in_part(aged: Agent, proxy: Proxy) -> None:
    """The markers are gone already, as they go first: what is left is no backup."""
    with faults(proxy, Fault(DELETE, Locked(), first=2, times=EVER)):
        result = impatient(aged).run('admin', *OLD)
    assert 'AccessDenied' in result.error
    assert {each['backup_name'] for each in listed(aged)} == {'other'}


def test_58_locked(aged: Agent, proxy: Proxy, tmp_path: Path, source: Path) -> None:
    """The markers as well: all of it stays, and restores."""
    before = aged.store.files()
    with faults(proxy, Fault(DELETE, Locked(), times=EVER)):
        result = impatient(aged).run('admin', *OLD)
    assert 'AccessDenied' in result.error
    assert aged.store.files() == before
    restores(aged, trees.describe(source), tmp_path / 'target')


def test_59_deletion_interrupted(
    aged: Agent, proxy: Proxy, proxied: S3Store, tmp_path: Path
) -> None:
    seen = 0

    def second(request: object) -> bool:
        nonlocal seen
        seen += getattr(request, 'operation', '') == DELETE
        return seen == 2

    held = proxy.hold(second)
    with aged.start('admin', *OLD) as process:
        held.wait()
        process.send(signal.SIGKILL)
        process.wait()
    proxy.clear()
    left = [path for path in proxied.sizes() if '_bk/' in path]
    assert left
    assert not [path for path in left if path.startswith('metadata/')]
    assert {each['backup_name'] for each in listed(aged)} == {'other'}
    held.release()
    aged.run('admin', '--s3-stale-after', '0').check()
    assert not [path for path in proxied.sizes() if '_bk/' in path]
