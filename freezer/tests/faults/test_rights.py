"""Keys that are wrong, or may only read, and buckets that are not there."""

from pathlib import Path

import pytest

from freezer.tests import servers, trees
from freezer.tests.agent import PART, Agent, S3Store, Trap, in_parts, missed
from freezer.tests.conftest import on_servers
from freezer.tests.proxy import Proxy

REAL = pytest.mark.parametrize('s3_server', ['seaweedfs', 'ceph'], indirect=True)
WRONG = 'sk/quite+wrong'


def buckets(server: servers.Server) -> list[str]:
    return [bucket['Name'] for bucket in server.client().list_buckets()['Buckets']]


def reader_of(server: servers.Server) -> dict[str, str | None]:
    return {
        'ACCESS_KEY': server.readonly_access_key,
        'SECRET_KEY': server.readonly_secret_key,
    }


@on_servers(lambda kind: kind.properties.checks_keys)
@pytest.mark.parametrize('wrong', [{'ACCESS_KEY': 'AKNOBODY'}, {'SECRET_KEY': WRONG}])
def test_24_wrong_keys(
    s3_server: servers.Server,
    source: Path,
    trap: Trap,
    tmp_path: Path,
    wrong: dict[str, str | None],
) -> None:
    code = 'SignatureDoesNotMatch'
    if 'ACCESS_KEY' in wrong:
        code = s3_server.properties.unknown_key
    log = tmp_path / 'log'
    with Proxy(s3_server.endpoint) as proxy:
        store = S3Store(s3_server, proxy.endpoint)
        agent = Agent(store, options=['--debug', '--log-file', log], env=trap.env)
        error = agent.told(**wrong).backup(source).only_error
        asked = [(r.method, r.path, str(r.query)) for r in proxy.requests]
    assert len(set(asked)) == len(asked)
    for part in (code, store.bucket, store.endpoint, 'check the access key and the'):
        assert part in error
    for secret in (WRONG, s3_server.secret_key):
        assert secret not in error
        assert secret not in log.read_text()
    assert not trap.sprung
    assert store.is_untouched()


@REAL
def test_24_exchanged_keys(s3_server: servers.Server, source: Path, trap: Trap) -> None:
    """A store cannot tell why in its answer to a HEAD, and so is asked further."""
    store = S3Store(s3_server)
    keys = {'ACCESS_KEY': s3_server.secret_key, 'SECRET_KEY': s3_server.access_key}
    error = Agent(store, env=trap.env | keys).backup(source).only_error
    assert 'Bad Request' not in error
    assert s3_server.secret_key not in error
    assert not trap.sprung
    assert store.is_untouched()


@REAL
@pytest.mark.parametrize('keys', ['all', 'read-only'])
def test_25_no_such_bucket(
    s3_server: servers.Server, source: Path, trap: Trap, keys: str
) -> None:
    store = S3Store(s3_server)
    absent = f'{store.bucket}-absent'
    agent = Agent(store, options=['--container', f'{absent}/a'], env=trap.env)
    if keys == 'all':
        # Else it is made.
        agent = agent.told('--s3-nocreate-bucket')
    else:
        agent = agent.told(**reader_of(s3_server))
    for error in (agent.backup(source).only_error, agent.run('info').only_error):
        assert absent in error
        assert store.endpoint in error
    assert 'does not exist' in agent.backup(source).only_error
    assert not trap.sprung
    assert absent not in buckets(s3_server)


@REAL
def test_25_bucket_is_deleted_midway(s3_server: servers.Server, tmp_path: Path) -> None:
    source = tmp_path / 'source'
    source.mkdir()
    (source / 'file').write_bytes(bytes(3 * PART))
    with Proxy(s3_server.endpoint) as proxy:
        store = S3Store(s3_server, proxy.endpoint)
        agent = in_parts(Agent(store, options=['--s3-retry-budget', '3']))
        held = proxy.hold(lambda request: bool(request.part))
        with agent.start('backup', '--path-to-backup', source) as process:
            held.wait()
            s3_server.remove_bucket(store.bucket)
            held.release()
            error = process.wait().error
        assert 'NoSuch' in error
        assert store.bucket in error
        assert store.bucket not in buckets(s3_server)
        made = [r for r in proxy.requests if r.operation == 'CreateBucket']
        assert made == []
        assert 'NoSuchBucket' in agent.run('info').error


@REAL
def test_26_keys_that_may_only_read(
    s3_server: servers.Server, source: Path, trap: Trap, tmp_path: Path
) -> None:
    store = S3Store(s3_server)
    writer = Agent(store)
    writer.backup(source).check()
    files = store.files()
    reader = writer.told(**reader_of(s3_server), **trap.env)
    for error in (
        reader.backup(source).only_error,
        reader.increment(source).only_error,
    ):
        assert 'AccessDenied' in error
        assert 's3:PutObject' in error
        assert store.bucket in error
        assert store.endpoint in error
        assert s3_server.readonly_secret_key not in error
    assert not trap.sprung
    assert store.files() == files
    assert store.open_uploads() == []
    reader.run('info').check()
    reader.run('verify', '--verify-data').check()
    reader.restore(tmp_path / 'target').check()
    assert missed(trees.describe(source), tmp_path / 'target') == []
