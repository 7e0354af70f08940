"""Faults 28 to 31: the way to the store, and its clock."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.tests import servers, trees
from freezer.tests.agent import Agent, S3Store, Trap
from freezer.tests.faults.harness import (
    impatient,
    refused,
    restores,
    unprotected,
)
from freezer.tests.proxy import Answered, Proxy
from freezer.tests.scripted import full

REAL = pytest.mark.parametrize('s3_server', ['seaweedfs', 'ceph'], indirect=True)


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """The endpoint of one that takes connections, and never says a word."""
    with socket.create_server(('127.0.0.1', 0)) as listener:
        yield f'http://127.0.0.1:{listener.getsockname()[1]}'


@contextlib.contextmanager
def closed() -> Iterator[str]:
    """The endpoint of nobody."""
    with socket.create_server(('127.0.0.1', 0)) as listener:
        port = listener.getsockname()[1]
    yield f'http://127.0.0.1:{port}'


@contextlib.contextmanager
def unknown() -> Iterator[str]:
    yield 'http://no-such-host.invalid:9000'


@pytest.mark.parametrize('nobody', [silent, full, closed, unknown])
@pytest.mark.parametrize('action', ['backup', 'restore', 'info'])
def test_28_unreachable(
    store: S3Store,
    source: Path,
    tmp_path: Path,
    nobody: object,
    action: str,
    trap: Trap,
) -> None:
    assert callable(nobody)
    hasty = ('--s3-connect-timeout', '0.5', '--s3-read-timeout', '0.5')
    with nobody() as endpoint:
        agent = impatient(Agent(store).told(*hasty, **trap.env, ENDPOINT=endpoint))
        line = agent.run(
            action,
            *(('--path-to-backup', source) if action == 'backup' else ()),
            *(('--restore-abs-path', tmp_path / 'to') if action == 'restore' else ()),
        ).error
    assert endpoint in line
    assert 'gave up after' in line
    assert 'No backup ' not in line
    assert not trap.sprung
    assert not (tmp_path / 'to').exists()


@pytest.mark.parametrize(
    'options, said',
    [
        (['--endpoint', 's3.example.com'], 'scheme'),
        (['--endpoint', 'ftp://s3.example.com'], 'scheme'),
        (['--endpoint', 'http://127.0.0.1:1/path'], 'only scheme, host and port'),
        (['--endpoint', 'http://127.0.0.1:port'], 'port'),
        (['--endpoint', 'http://'], 'endpoint'),
        (['--container', 'a'], 'not a bucket name'),
        (['--container', 'Up_Per!/prefix'], 'not a bucket name'),
        (['--container', '/prefix'], 'not a bucket name'),
        (['--container', 'bucket/../x'], 'container'),
        (['--max-segment-size', '6G'], 'max-segment-size'),
        # Other options, too, are checked before any work.
        (['--path-to-backup', '/nonexistent/source'], '/nonexistent/source'),
        (['--compression', 'zip'], 'zip'),
        (['--max-level', '2'], '--incremental'),
        (['--encrypt-pass-file', '/nonexistent/pass'], '/nonexistent/pass'),
        (['--engine', 'zip'], 'zip'),
        (['--engine', 'rsync'], '--engine tar'),
        (['--engine', 'rsyncv2'], '--engine tar'),
        (['--mode', 'sqlserver'], 'sqlserver'),
        (['--storage', 'nfs'], 'nfs'),
        (['--config', '/nonexistent/job'], '/nonexistent/job'),
        (['--cinder-vol-id', 'x'], 'cinder-vol-id'),
    ],
)
def test_29_malformed_options_are_refused_before_any_work(
    store: S3Store,
    source: Path,
    options: list[str],
    said: str,
    trap: Trap,
) -> None:
    env = trap.env | ({'ENDPOINT': None} if '--endpoint' in options else {})
    agent = Agent(store).told('--path-to-backup', source, *options, **env)
    assert said in agent.run('backup').only_error
    assert not trap.sprung
    assert store.is_untouched()


MALFORMED = (
    b'<?xml version="1.0"?><Error><Code>AuthorizationHeaderMalformed</Code>'
    b'<Message>the region is wrong</Message><Region>eu-north-1</Region></Error>'
)
MOVED = MALFORMED.replace(b'AuthorizationHeaderMalformed', b'PermanentRedirect')


@pytest.mark.parametrize(
    'happens',
    [
        refused(301, body=MOVED, x_amz_bucket_region='eu-north-1'),
        refused(307, body=MOVED, x_amz_bucket_region='eu-north-1'),
        refused(400, body=MALFORMED, x_amz_bucket_region='eu-north-1'),
    ],
    ids=['301', '307', '400'],
)
def test_30_another_region(
    proxied: S3Store,
    proxy: Proxy,
    source: Path,
    happens: Answered,
    trap: Trap,
) -> None:
    agent = Agent(proxied, env=trap.env)
    proxy.act(lambda _request: True, happens)
    line = agent.backup(source).error
    assert '--s3-region' in line
    assert 'eu-north-1' in line
    # Nothing was followed elsewhere, and nothing tried for long.
    assert len(proxy.requests) < 6
    assert not trap.sprung
    proxy.clear()
    assert proxied.is_untouched()


def clock_off_by(seconds: int) -> str:
    """Python that sets the clock of a process."""
    return f"""
import datetime, time
_real, _class = time.time, datetime.datetime
class _Shifted(_class):
    @classmethod
    def now(cls, tz=None):
        return _class.now(tz) + datetime.timedelta(seconds={seconds})
    @classmethod
    def utcnow(cls):
        return _class.utcnow() + datetime.timedelta(seconds={seconds})
time.time = lambda: _real() + {seconds}
datetime.datetime = _Shifted
"""


@REAL
@pytest.mark.parametrize('minutes', [20, -20])
def test_31_clock_is_off(
    s3_server: servers.Server, source: Path, tmp_path: Path, minutes: int
) -> None:
    log = tmp_path / 'log'
    agent = Agent(S3Store(s3_server), options=['--log-file', log])
    off = unprotected(agent, clock_off_by(60 * minutes))
    off.backup(source).check()
    assert "requests are dated by the store's; set the clock" in log.read_text()
    restores(off, trees.describe(source), tmp_path / 'target')


@REAL
def test_31_without_correction(s3_server: servers.Server, source: Path) -> None:
    """The same without the protection."""
    store = S3Store(s3_server)
    patch = clock_off_by(1200) + (
        'from freezer.storage._s3.transport.clock import StoreClock\n'
        'StoreClock.correct = lambda *_: False'
    )
    result = unprotected(Agent(store), patch).backup(source)
    assert result.code == 1
    assert store.is_untouched()
