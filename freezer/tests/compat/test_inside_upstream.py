"""Freezer 19.0.0 with our S3 driver, and this agent, on one container."""

import base64
import csv
import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from freezer.tests import servers, trees
from freezer.tests.agent import (
    HOST,
    PART,
    Agent,
    LocalStore,
    S3Store,
    Store,
    iso,
    job_file,
)
from freezer.tests.compat.upstream import (
    Upstream,
    in_seconds,
    site_packages,
)
from freezer.tests.proxy import DENIED, Matches, Proxy

DAY = 24 * 3600
VOLUMES = ('/data', '/segments/00000001', '/segments/00000002')
Tree = dict[bytes, trees.Entry]


@pytest.fixture
def store(seaweedfs: servers.SeaweedFS) -> S3Store:
    return S3Store(seaweedfs)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree of three parts; of what Freezer 19 loses there is nothing in it."""
    path = tmp_path / 'source'
    (path / 'dir' / 'empty').mkdir(parents=True)
    (path / 'big').write_bytes(os.urandom(2 * PART + 1000))
    for number in range(4):
        folder = path / f'folder {number}'
        folder.mkdir()
        for name in ('kept', 'changed', 'removed'):
            (folder / name).write_bytes(os.urandom(1000 * number))
    (path / 'dir' / 'link').symlink_to('../big')
    os.link(path / 'folder 1' / 'kept', path / 'dir' / 'grün')
    return path


def change(source: Path, level: int) -> Tree:
    """Make a tree what it is at a level, from what it was at the one below."""
    if level:
        (source / f'folder {level}' / 'changed').write_text(f'level {level}')
        (source / f'folder {level}' / 'removed').unlink()
        (source / f'folder {level}' / f'new of {level}').write_bytes(os.urandom(PART))
        (source / f'folder {level - 1}').rename(source / f'was folder {level - 1}')
    return trees.describe(source)


def make(agent: Agent, source: Path, levels: Iterable[int]) -> dict[int, Tree]:
    """Let an agent write these levels; the tree at each."""
    states = {}
    for level in levels:
        states[level] = change(source, level)
        if level:
            # Freezer 19 takes the time from the clock, in seconds.
            wait_until_after(dates(agent.store)[level - 1])
        agent.increment(source, '--max-segment-size', PART).check()
        assert list(dates(agent.store)) == list(range(level + 1))
    return states


def wait_until_after(moment: int) -> None:
    while time.time() < moment + 1:
        time.sleep(0.1)


def dates(store: Store) -> dict[int, int]:
    """Level -> when it was made."""
    names = (path.split('/')[4].split('_') for path in store.markers())
    return {int(level): int(timestamp) for level, timestamp in sorted(names)}


def lost(expected: Tree, target: Path) -> list[str]:
    return trees.differences(in_seconds(expected), in_seconds(trees.describe(target)))


@pytest.mark.parametrize('compression', ['gzip', 'none'])
@pytest.mark.parametrize('where', ['local', 's3'])
def test_a_level_with_parts_is_refused(
    freezer19: Path,
    seaweedfs: servers.SeaweedFS,
    source: Path,
    where: str,
    compression: str,
    tmp_path: Path,
) -> None:
    """Freezer 19 must not restore nothing, and call that a success."""
    local = LocalStore(tmp_path / 'store')
    store: Store = local if where == 'local' else S3Store(seaweedfs)
    ours = Agent(store)
    ours.backup(source, '--compression', compression).check()
    level = f'{dates(store)[0]}/0_{dates(store)[0]}/'
    for path, content in store.files().items():
        name = path.partition(level)[2]
        if path in store.markers():
            document = json.loads(content)
            del document['content_sha256']
            token = document.pop('manifest')
            document['parts'] = [{'name': 'only', 'manifest': token}]
            store.put(path, json.dumps(document).encode())
        elif name.partition('/')[0] in ('data', 'digests', 'manifest'):
            store.put(path.replace(level, f'{level}parts/only/'), content)
            store.delete(path)
    target = tmp_path / 'restored'
    for reader in (Upstream(freezer19, store), ours):
        refused = reader.restore(target)
        assert refused.code != 0, refused
        assert not target.exists() or not list(target.iterdir())
    assert 'has other parts than expected (only)' in ours.restore(target).error


@pytest.mark.parametrize(
    's3_server, begins',
    [('seaweedfs', 'upstream'), ('ceph', 'ours')],
    indirect=['s3_server'],
)
def test_each_restores_what_the_other_wrote(
    s3_server: servers.Server,
    begins: str,
    freezer19: Path,
    source: Path,
    tmp_path: Path,
) -> None:
    store = S3Store(s3_server)
    upstream, ours = Upstream(freezer19, store), Agent(store)
    writer, reader = (upstream, ours) if begins == 'upstream' else (ours, upstream)
    states = make(writer, source, range(3))
    files = store.sizes()
    for level, date in dates(store).items():
        folder = f'data/tar/{HOST}_bk/{dates(store)[0]}/{level}_{date}'
        found = {p.removeprefix(folder) for p in files if p.startswith(folder)}
        index = {'/index'} if writer is ours else set()
        expected = {'/data', '/engine_metadata', '/manifest', '/digests/00000000'}
        assert found == expected | index
    assert store.open_uploads() == []
    newest, older, last = (tmp_path / f'restored{number}' for number in range(3))
    reader.restore(newest).check()
    assert lost(states[2], newest) == []
    reader.restore(older, '--restore-from-date', iso(dates(store)[1])).check()
    assert lost(states[1], older) == []
    # And the reader goes on where the writer stopped.
    states |= make(reader, source, [3])
    writer.restore(last).check()
    assert lost(states[3], last) == []


def test_upstream_with_options_of_the_driver(
    store: S3Store, freezer19: Path, source: Path, tmp_path: Path
) -> None:
    """From its configuration file; and of several volumes all are read."""
    configuration = Path(os.environ['HOME'], '.freezer', 'freezer.conf')
    configuration.parent.mkdir()
    configuration.write_text('[s3]\nmax_parts = 2\n')
    upstream = Upstream(freezer19, store)
    upstream.backup(source, '--max-segment-size', PART).check()
    volumes = [path for path in store.sizes() if path.endswith(VOLUMES)]
    assert len(volumes) == len(VOLUMES)
    for agent in (upstream, Agent(store)):
        target = tmp_path / type(agent).__name__
        agent.restore(target).check()
        assert lost(trees.describe(source), target) == []


def test_upstream_with_several_storages(
    store: S3Store,
    seaweedfs: servers.SeaweedFS,
    freezer19: Path,
    source: Path,
    tmp_path: Path,
) -> None:
    other = S3Store(seaweedfs)
    sections: dict[str, dict[str, object]] = {'action': {'storage': 'local'}}
    for name, member in (('here', store), ('there', other)):
        sections[f'storage:{name}'] = {
            'storage': 's3',
            'container': member.container,
            'access_key': seaweedfs.access_key,
            'secret_key': seaweedfs.secret_key,
            'endpoint': member.endpoint,
        }
    config = job_file(tmp_path / 'job.ini', sections)
    Upstream(freezer19, store).backup(source, '--config', config).check()
    for member in (store, other):
        target = tmp_path / member.bucket
        Agent(member).restore(target).check()
        assert lost(trees.describe(source), target) == []


def test_upstream_fails_on_what_it_cannot_decrypt(
    store: S3Store, freezer19: Path, source: Path, tmp_path: Path
) -> None:
    """A backup in format age: nothing is restored, and nothing is put on top of it."""
    passphrase = tmp_path / 'pass'
    passphrase.write_text('correct horse\n')
    options = ('--encrypt-pass-file', passphrase)
    ours = Agent(store).told(*options, '--encryption', 'age')
    ours.increment(source).check()
    markers = store.markers()
    wait_until_after(dates(store)[0])
    upstream = Upstream(freezer19, store).told(*options)
    assert upstream.restore(tmp_path / 'target').code == 1
    assert list((tmp_path / 'target').iterdir()) == []
    assert upstream.increment(source).code == 1
    assert store.markers() == markers
    ours.restore(tmp_path / 'ours').check()
    assert lost(trees.describe(source), tmp_path / 'ours') == []


def test_upstream_checks_what_it_restores(
    store: S3Store, freezer19: Path, source: Path, tmp_path: Path
) -> None:
    upstream = Upstream(freezer19, store)
    upstream.backup(source).check()
    (path,) = (path for path in store.sizes() if path.endswith('/data'))
    content = bytearray(store.files()[path])
    content[-10] ^= 1
    store.put(path, bytes(content))
    result = upstream.restore(tmp_path / 'target')
    assert (result.code, list((tmp_path / 'target').iterdir())) == (1, [])
    log = Path(os.environ['HOME'], '.freezer', 'freezer.log').read_text()
    assert f'{path}' in log
    assert 'is damaged' in log


@pytest.mark.parametrize(
    'fails',
    [lambda request: request.part == 2, lambda r: r.path.endswith('/manifest')],
    ids=['part', 'manifest'],
)
def test_an_upload_that_fails_is_a_backup_that_failed(
    seaweedfs: servers.SeaweedFS, freezer19: Path, source: Path, fails: Matches
) -> None:
    """Freezer 19's own driver lists such a backup, and ends with 0."""
    with Proxy(seaweedfs.endpoint) as proxy:
        store = S3Store(seaweedfs, proxy.endpoint)
        upstream = Upstream(freezer19, store)
        proxy.answer(fails, DENIED)
        result = upstream.backup(source, '--max-segment-size', PART)
        assert result.code == 1, result
        assert 'Engine error' in result.err
        assert store.markers() == []
        assert store.open_uploads() == []
        assert store.sizes() != {}
        proxy.clear()
        # What is left, the next run on this machine removes.
        upstream.run('info').check()
        assert store.is_untouched()


def test_upstream_info(store: S3Store, freezer19: Path, source: Path) -> None:
    Agent(store).backup(source).check()
    found = Upstream(freezer19, store).run('info', '--metadata-out', '-').check()
    sizes = store.sizes()
    assert json.loads(found.out) == [
        ['Container', 'Size', 'Object Count'],
        [[store.container, sum(sizes.values()), len(sizes)]],
    ]


def test_upstream_removes_what_is_old(
    store: S3Store, freezer19: Path, tmp_path: Path
) -> None:
    source = tmp_path / 'source'
    source.mkdir()
    (source / 'file').write_text('content')
    upstream, ours = Upstream(freezer19, store), Agent(store)
    for agent in (upstream, ours):
        agent.increment(source).check()
    store.made_earlier(10 * DAY, upstream.identity)
    # A name that begins with the other one, and a chain that is young.
    Agent(store, 'bk2').backup(source).check()
    store.made_earlier(10 * DAY, f'{HOST}_bk2')
    ours.backup(source).check()
    kept = {
        path
        for path in store.sizes()
        if '_bk2/' in path or int(path.split('/')[3]) > time.time() - DAY
    }
    assert kept < set(store.sizes())
    upstream.run('admin', '--remove-older-than', 11).check()
    assert kept < set(store.sizes())
    upstream.run('admin', '--remove-older-than', 9).check()
    assert set(store.sizes()) == kept


def test_only_two_files_are_replaced(freezer19: Path) -> None:
    packages = site_packages(freezer19)
    differ = {
        path
        for path, digest in recorded(packages).items()
        if digest_of(packages / path) != digest
    }
    assert differ == {'freezer/storage/s3.py', 'freezer/storage/exceptions.py'}


def recorded(packages: Path) -> dict[str, str]:
    """What Freezer 19 was installed with: path -> digest."""
    (record,) = packages.glob('freezer-19.0.0.dist-info/RECORD')
    with record.open(newline='') as stream:
        rows = list(csv.reader(stream))
    return {path: digest for path, digest, _size in rows if path.endswith('.py')}


def digest_of(path: Path) -> str:
    digest = hashlib.sha256(path.read_bytes()).digest()
    return 'sha256=' + base64.urlsafe_b64encode(digest).decode().rstrip('=')
