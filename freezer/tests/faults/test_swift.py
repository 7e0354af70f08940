"""Faults of storage swift: answers that are lost, late, wrong, or errors."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.tests import trees
from freezer.tests.agent import Agent, SwiftStore
from freezer.tests.faults.harness import (
    EVER,
    Broken,
    Cut,
    Fault,
    Flipped,
    Lost,
    faults,
    refused,
    restores,
    unprotected,
    without,
)
from freezer.tests.proxy import Act, Answer, Ending, Proxy, Request, error
from freezer.tests.servers.swift import SwiftS3

# Named as the harness names them for S3; a listing is a GET of the container.
PUT, GET, DELETE = 'PutObject', 'GetObject', 'DeleteObject'
SEGMENT, MARKER = '/segments/00000001', '/metadata'


@pytest.fixture
def proxy(swift: SwiftS3) -> Iterator[Proxy]:
    with Proxy(swift.endpoint) as proxy:
        yield proxy


@pytest.fixture
def store(swift: SwiftS3, proxy: Proxy) -> Iterator[SwiftStore]:
    store = SwiftStore(swift, proxy.endpoint)
    yield store
    swift.account.remove(store.bucket)


@pytest.fixture
def agent(store: SwiftStore) -> Agent:
    options = ('--max-segment-size', '1M', '--swift-retry-budget', '20')
    return Agent(store, options=options)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / 'big'
    path.mkdir()
    (path / 'file').write_bytes(os.urandom(3 * 2**20 + 1000))
    return path


SURVIVED = {
    'a segment breaks': Fault(PUT, Broken(Ending.RESET, 300_000), key=SEGMENT),
    'an answer is lost': Fault(PUT, Lost(), key=SEGMENT),
    'the marker is answered with nothing': Fault(PUT, Lost(), key=MARKER),
    'a segment changes on its way': Fault(PUT, Flipped(1000), key=SEGMENT),
    '429': Fault(PUT, refused(429, Retry_After='1'), key=SEGMENT),
    '401': Fault(PUT, refused(401), key=SEGMENT),
    'no ETag': Fault(PUT, without('etag'), key=SEGMENT),
    'the claim is answered with nothing': Fault(PUT, Lost(), key='/claim'),
}


@pytest.mark.parametrize('name', SURVIVED)
def test_a_backup_survives(
    agent: Agent, store: SwiftStore, proxy: Proxy, big: Path, name: str
) -> None:
    with faults(proxy, SURVIVED[name]):
        agent.backup(big).check()
    assert len(store.markers()) == 1
    with tempfile.TemporaryDirectory() as folder:
        restores(agent, trees.describe(big), Path(folder, 'target'))


# Each on another segment, or another attempt.
STATUSES = (
    Fault(PUT, refused(408), key='/segments/00000000'),
    Fault(PUT, refused(409), key='/segments/00000000', first=2),
    Fault(PUT, refused(498), key=SEGMENT),
    Fault(PUT, refused(499), key=MARKER),
    Fault(PUT, refused(503), key='/segments/00000002', times=2),
)


def test_a_backup_survives_busy_servers(
    agent: Agent, proxy: Proxy, big: Path, tmp_path: Path
) -> None:
    with faults(proxy, *STATUSES):
        agent.backup(big).check()
    restores(agent, trees.describe(big), tmp_path / 'target')


def test_a_backup_survives_when_the_token_cannot_be_checked(
    agent: Agent, store: SwiftStore, proxy: Proxy, big: Path, tmp_path: Path
) -> None:
    """After a broken upload the token is checked, and that breaks too."""
    account = Fault('HeadObject', Lost(), key='AUTH_test')
    with faults(proxy, SURVIVED['a segment breaks'], account):
        agent.backup(big).check()
    restores(agent, trees.describe(big), tmp_path / 'target')


FATAL = {
    '413': (Fault(PUT, refused(413), key=SEGMENT), 'a quota is used up'),
    '507': (Fault(PUT, refused(507), key=SEGMENT), 'the store is full'),
    '403': (Fault(PUT, refused(403), key=SEGMENT), '403'),
    'the marker': (Fault(PUT, refused(403), key=MARKER), '403'),
}


@pytest.mark.parametrize('name', FATAL)
def test_a_backup_fails_in_one_line(
    agent: Agent, store: SwiftStore, proxy: Proxy, big: Path, name: str
) -> None:
    """And leaves nothing, listed or not."""
    fault, said = FATAL[name]
    with faults(proxy, fault):
        line = agent.backup(big).error
    assert said in line
    assert store.is_untouched()


READS = {
    'cut': Fault(GET, Cut(400_000), key=SEGMENT),
    'reset': Fault(GET, Cut(400_000, Ending.RESET), key=SEGMENT),
    'changed': Fault(GET, Flipped(1000, answer=True), key=SEGMENT),
    '503': Fault(GET, refused(503), key=SEGMENT),
}


@pytest.mark.parametrize('name', READS)
def test_a_restore_survives(
    agent: Agent, proxy: Proxy, big: Path, tmp_path: Path, name: str
) -> None:
    agent.backup(big).check()
    with faults(proxy, READS[name]):
        restores(agent, trees.describe(big), tmp_path / 'target')


def test_a_login_is_not_sent_to_another_place(
    agent: Agent, store: SwiftStore, proxy: Proxy, big: Path
) -> None:
    """keystoneauth1 follows redirections, with the password."""
    there = f'{proxy.endpoint}/elsewhere'
    proxy.answer(
        lambda request: request.path.endswith('/tokens'),
        error(307, '', Location=there),
    )
    ours = agent.told('--swift-project-name', 'p', '--swift-retry-budget', '0')
    ours.env = agent.env | {'OS_AUTH_URL': f'{proxy.endpoint}/v3'}
    line = ours.backup(big).error
    assert [request.path for request in proxy.requests] == ['/v3/auth/tokens']
    assert '307' in line
    assert there in line


def test_claims_are_asked_of_every_replica(
    agent: Agent, proxy: Proxy, big: Path
) -> None:
    """A server that was away may not have the newest state."""
    proxy.answer(
        lambda request: (
            request.method == 'GET'
            and request.key.endswith('/claim')
            and 'x-newest' not in request.headers
        ),
        error(404, ''),
    )
    agent.backup(big).check()


class _Echo(Act):
    """The answer repeats the token of the request."""

    def request(self, request: Request) -> Answer:
        return error(403, '', request.headers['x-auth-token'])


def test_no_error_repeats_the_token(agent: Agent, proxy: Proxy, big: Path) -> None:
    with faults(proxy, Fault(PUT, _Echo(), key=SEGMENT)):
        result = agent.backup(big)
    assert '***' in result.error
    assert 'AUTH_tk' not in result.err


def test_a_listing_that_fails_is_not_empty(
    agent: Agent, store: SwiftStore, proxy: Proxy, big: Path
) -> None:
    agent.increment(big).check()
    hurried = agent.told('--swift-retry-budget', '1')
    with faults(proxy, Fault(GET, refused(503), times=EVER, key=store.bucket)):
        assert '503' in hurried.increment(big).error
    with faults(proxy, Fault(GET, Cut(40), times=EVER, key=store.bucket)):
        hurried.increment(big).error  # noqa: B018 - asserts that it failed
    assert len(store.markers()) == 1


def test_a_segment_that_is_not_kept(
    agent: Agent, store: SwiftStore, proxy: Proxy, big: Path
) -> None:
    """Swift says that it has it. Without the check, a backup without it is listed."""
    lost = refused(201, body=b'', ETag='0')
    patch = (
        'from freezer.storage.swift.segments import SegmentedObjects\n'
        'SegmentedObjects._verify = lambda *_: None'
    )
    trusting = (
        'import hashlib\n'
        'from freezer.storage.swift.objects import Objects\n'
        'real = Objects.put_once\n'
        'def put(self, key, body, headers):\n'
        '    try:\n'
        '        return real(self, key, body, headers)\n'
        '    except Exception:\n'
        f'        if key.endswith({SEGMENT!r}):\n'
        '            return hashlib.md5(body).hexdigest()\n'
        '        raise\n'
        'Objects.put_once = put\n'
    )
    fault = Fault(PUT, lost, times=EVER, key=SEGMENT)
    with faults(proxy, fault):
        line = unprotected(agent, trusting).backup(big).error
    assert 'the store confirmed it, and does not have it' in line
    assert store.is_untouched()
    with faults(proxy, fault):
        unprotected(agent, trusting + patch).backup(big).check()
    assert len(store.markers()) == 1
