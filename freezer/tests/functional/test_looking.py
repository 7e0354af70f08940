"""What is there, and what is in it, without a restore.

The screens are in ``listing.rst``.
"""

from pathlib import Path

import pytest

from freezer.tests import servers
from freezer.tests.agent import HOST, Agent, LocalStore, S3Store, iso, private
from freezer.tests.proxy import Proxy


def test_info_is_limited_to_what_is_named(local: Agent, source: Path) -> None:
    local.backup(source).check()
    Agent(local.store, 'other').backup(source).check()
    host = local.nameless.told('--hostname', HOST)
    for agent, names in {
        local: {'bk'},
        host: {'bk', 'other'},
        local.nameless: {'bk', 'other'},
        local.nameless.told('--hostname', 'another'): set(),
        Agent(local.store, 'b'): set(),
    }.items():
        result = agent.run('info', '--json').check()
        found = result.document
        assert {backup['backup_name'] for backup in found['backups']} == names
        # What the container holds is the same whatever is looked at.
        assert found['objects_count'] == len(local.store.files())
        assert bool(names) != bool(result.err)


def test_info_says_how_each_level_was_made(
    seaweedfs: servers.SeaweedFS, source: Path, tmp_path: Path
) -> None:
    secret = private(tmp_path / 'pass', 'Passphrase-7\n')
    with Proxy(seaweedfs.endpoint) as proxy:
        store = S3Store(seaweedfs, proxy.endpoint)
        agent = Agent(store)
        date = agent.backup(source).check().document['time_stamp']
        sealed = Agent(store, 'sealed', ['--compression', 'xz'])
        sealed.increment(
            source, '--encryption', 'age', '--encrypt-pass-file', secret
        ).check()
        proxy.requests.clear()
        agent.nameless.run('info').check()
        # The listing, and the markers of two chains.
        assert len(proxy.requests) == 3
        shown = agent.nameless.run('info', '--long').check().out
        assert 'gzip, not encrypted, 1 volume\n' in shown
        assert 'xz, encrypted (age), 1 volume\n' in shown
        assert max(map(len, shown.splitlines())) <= 80
        assert shown.index(f'{HOST} / bk') < shown.index(f'chain of {iso(date)}, tar')
        both = agent.nameless.run('info', '--long', '--json').check().document
    for backup in both['backups']:
        (level,) = backup['levels']
        (size,) = (
            len(content)
            for path, content in store.files().items()
            if path.endswith('/data') and f'_{backup["backup_name"]}/' in path
        )
        assert (level['data_size'], level['volumes_count']) == (size, 1)
        assert level['size'] == backup['size']
        assert level['whole']
        assert level['digests']
        assert level['locked_until'] is None


def test_info_in_ascii(local: Agent, source: Path) -> None:
    local.backup(source).check()
    plain = local.told(PYTHONIOENCODING='ascii').run('info').check().out
    assert '`- level 0' in plain
    assert '└─ level 0' in local.told(PYTHONIOENCODING='utf-8').run('info').check().out


def test_json_is_metadata_out(local: Agent, source: Path, tmp_path: Path) -> None:
    local.backup(source).check()
    one = local.run('info', '--json').check()
    other = local.run('info', '--metadata-out', '-').check()
    assert one.document == other.document
    error = local.run('info', '--json', '--metadata-out', tmp_path / 'file').only_error
    assert 'json and metadata-out' in error
    assert 'action' in local.run('backup', '--json', '-F', source).check().document


@pytest.mark.parametrize('lost', ['data', 'manifest'])
def test_info_says_what_is_damaged(local: Agent, source: Path, lost: str) -> None:
    local.backup(source).check()
    Agent(local.store, 'other').backup(source).check()
    (path,) = (
        path
        for path in local.store.files()
        if '_bk/' in path and path.endswith(f'/{lost}')
    )
    assert isinstance(local.store, LocalStore)
    local.store.delete(path)
    local.run('info').check()
    result = local.nameless.run('info', '--long')
    assert '1 of 2 backups are damaged' in result.error
    assert path in result.err
    assert 'damaged\n' in result.out
    assert 'gzip, not encrypted' in result.out
