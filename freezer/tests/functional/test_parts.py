"""Levels with several parts through the real commands: an engine that is not in this
tree makes them."""

import json
import os
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from freezer.storage import manifest
from freezer.tests import servers
from freezer.tests.agent import (
    HOST,
    PART,
    ROOT,
    Agent,
    LocalStore,
    S3Store,
    Store,
    iso,
    job_file,
    private,
)
from freezer.tests.proxy import Proxy

State = dict[str, list[str]]


@pytest.fixture
def parts_agent(installed: Path, store: Store) -> Agent:
    return agent_for(installed, store)


@pytest.fixture(params=['local', 's3'])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == 'local':
        return LocalStore(tmp_path / 'store')
    return S3Store(request.getfixturevalue('seaweedfs'))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / 'source'
    path.mkdir()
    for name in ('kept', 'changed', 'removed'):
        make(path, name, f'{name} at level 0')
    return path


def agent_for(installed: Path, store: Store) -> Agent:
    return Agent(
        store, 'set', ['--engine', 'sqlset'], {'PYTHONPATH': f'{installed}:{ROOT}'}
    )


def make(source: Path, name: str, text: str, size: int = 0) -> None:
    with closing(sqlite3.connect(source / f'{name}.sqlite')) as database, database:
        database.execute('CREATE TABLE IF NOT EXISTS texts (text TEXT, bytes BLOB)')
        database.execute('INSERT INTO texts VALUES (?, ?)', (text, os.urandom(size)))


def described(folder: Path) -> State:
    found = {}
    for path in folder.iterdir():
        with closing(sqlite3.connect(path)) as database:
            found[path.name] = list(database.iterdump())
    return found


def back_up(agent: Agent, source: Path) -> list[State]:
    """Three levels: a part is changed and one added, then one changed and one removed.

    The states.
    """
    states = []
    for level in range(3):
        if level == 1:
            make(source, 'changed', 'changed at level 1')
            make(source, 'added', 'added at level 1')
        if level == 2:
            make(source, 'changed', 'changed at level 2')
            (source / 'removed.sqlite').unlink()
        agent.increment(source).check()
        states.append(described(source))
    return states


def folders(store: Store) -> list[str]:
    """The folder of each level, by level, below the container."""
    return [
        path.replace('metadata/', 'data/', 1).removesuffix('/metadata')
        for path in store.markers()
    ]


def parts_of(store: Store, folder: str) -> set[str]:
    start = f'{folder}/parts/'
    return {
        path.removeprefix(start).split('/')[0]
        for path in store.files()
        if path.startswith(start)
    }


def options(encryption: str | None, tmp_path: Path) -> Sequence[object]:
    if encryption is None:
        return ()
    file = private(tmp_path / 'passphrase', 'correct horse')
    return '--encryption', encryption, '--encrypt-pass-file', file


@pytest.mark.parametrize('encryption', [None, 'openssl', 'age'])
def test_three_levels(
    parts_agent: Agent, encryption: str | None, source: Path, tmp_path: Path
) -> None:
    agent, store = parts_agent.told(*options(encryption, tmp_path)), parts_agent.store
    states = back_up(agent, source)
    assert [parts_of(store, folder) for folder in folders(store)] == [
        {'0-databases', 'changed', 'kept', 'removed'},
        {'0-databases', 'added', 'changed'},
        {'0-databases', 'changed'},
    ]
    for path, content in store.files().items():
        assert encryption is None or b'level 1' not in content, path
    for level, folder in enumerate(folders(store)):
        date = iso(int(folder.rpartition('_')[2]))
        target = tmp_path / f'level {level}'
        agent.restore(target, '--restore-from-date', date).check()
        assert described(target) == states[level]
    # Over an older state, in which a database has to go.
    agent.restore(tmp_path / 'level 0', '--overwrite').check()
    assert described(tmp_path / 'level 0') == states[2]
    verified = agent.run('verify', '--verify-data', '--json').check()
    assert json.loads(verified.out)['backups_count'] == 3
    info = json.loads(agent.run('info', '--long', '--json').check().out)
    (chain,) = info['backups']
    assert chain['levels'][1]['parts'] == ['0-databases', 'added', 'changed']
    assert chain['size'] == sum(map(len, store.files().values()))
    refused = agent.run('list').error
    assert 'backups of engine sqlset do not consist of files' in refused
    # A wrong passphrase is noticed before anything is made of it.
    if encryption is not None:
        wrong = private(tmp_path / 'wrong', 'battery staple')
        target = tmp_path / 'nothing'
        assert agent.restore(target, '--encrypt-pass-file', wrong).code == 1
        assert not target.exists() or not described(target)


@pytest.mark.parametrize(
    'store, encryption', [('local', None), ('s3', 'age')], indirect=['store']
)
def test_a_flipped_byte_in_one_part(
    parts_agent: Agent, encryption: str | None, source: Path, tmp_path: Path
) -> None:
    agent, store = parts_agent.told(*options(encryption, tmp_path)), parts_agent.store
    states = back_up(agent, source)
    path = f'{folders(store)[1]}/parts/added/data'
    content = bytearray(store.files()[path])
    content[len(content) // 2] ^= 1
    store.put(path, bytes(content))
    verified = agent.run('verify', '--verify-data', '--json')
    assert verified.code == 1
    found = json.loads(verified.out)['backups']
    assert [each['restorable'] for each in found] == [True, False, False]
    (problem,) = found[1]['problems']
    assert problem['volume'] == 'parts/added/data'
    target = tmp_path / 'restored'
    assert 'parts/added' in agent.restore(target).error
    # What is below can be restored.
    date = iso(int(folders(store)[0].rpartition('_')[2]))
    older = tmp_path / 'older'
    agent.restore(older, '--restore-from-date', date).check()
    assert described(older) == states[0]


@pytest.mark.parametrize('store', ['local'], indirect=True)
def test_parts_cannot_be_exchanged(
    parts_agent: Agent, source: Path, tmp_path: Path
) -> None:
    """Not even by anyone who can write manifests and markers, in format age."""
    agent, store = parts_agent.told(*options('age', tmp_path)), parts_agent.store
    back_up(agent, source)
    files = store.files()
    first, second, _third = folders(store)
    for level, there, here in (
        (0, f'{first}/parts/kept', f'{first}/parts/removed'),
        (1, f'{first}/parts/changed', f'{second}/parts/changed'),
    ):
        exchange(store, there, here)
        refused = agent.restore(tmp_path / f'restored {level}')
        # The digests are right; decryption is not.
        found = json.loads(agent.run('verify', '--verify-data', '--json').out)
        (problem,) = found['backups'][level]['problems']
        assert here in problem['what']
        assert f'{here.removeprefix("data/")}' in refused.error
        assert 'replaced' in refused.error or 'modified' in refused.error
        for path, content in files.items():
            store.put(path, content)
    # Nor left out, nor put into another order.
    marker = second.replace('data/', 'metadata/', 1) + '/metadata'
    for kept in (slice(None, -1), slice(None, None, -1)):
        document = json.loads(files[marker])
        document['parts'] = document['parts'][kept]
        del document['content_sha256']
        store.put(marker, manifest.whole(document))
        assert 'other parts than its seal' in agent.restore(tmp_path / 'none').error
        assert 'other parts than its seal' in agent.run('verify').err


def exchange(store: Store, there: str, here: str) -> None:
    """Put a part in place of another, as the marker then has it."""
    files = store.files()
    for path, content in files.items():
        if path.startswith(f'{there}/'):
            store.put(path.replace(there, here), content)
    token = json.loads(files[f'{there}/manifest'])['token']
    folder, _, name = here.partition('/parts/')
    marker = f'{folder.replace("data/", "metadata/", 1)}/metadata'
    document = json.loads(files[marker])
    for part in document['parts']:
        if part['name'] == name:
            part['manifest'] = token
    del document['content_sha256']
    store.put(marker, manifest.whole(document))


def test_retention(parts_agent: Agent, source: Path) -> None:
    agent, store = parts_agent, parts_agent.store
    back_up(agent, source)
    agent.backup(source).check()
    kept = folders(store)[-1]
    agent.run('admin', '--keep-last', '1').check()
    assert folders(store) == [kept]
    assert {
        path.split('/parts/')[0] for path in store.files() if '/parts/' in path
    } == {kept}
    left = [path for path in store.files() if not path.startswith(kept)]
    assert left == store.markers()


@pytest.mark.parametrize('store', ['s3'], indirect=True)
def test_killed_in_the_second_part(
    installed: Path, store: S3Store, source: Path, tmp_path: Path
) -> None:
    """Nothing is listed; the next run removes all that was written."""
    make(source, 'big', 'several parts of an upload', 3 * PART)
    agent = agent_for(installed, store).told('--compression', 'none')
    with Proxy(store.endpoint) as proxy:
        held = proxy.hold(
            lambda request: request.part == 1 and '/parts/big/' in request.path
        )
        slow = agent.told('--max-segment-size', PART, ENDPOINT=proxy.endpoint)
        with slow.start('backup', '--path-to-backup', source) as process:
            held.wait()
            process.send(signal.SIGKILL)
            process.wait()
        held.release()
    assert store.markers() == []
    (folder,) = {p.partition('/parts/')[0] for p in store.files() if '/parts/' in p}
    assert '0-databases' in parts_of(store, folder)
    agent.told(ENDPOINT=store.endpoint).run('admin', '--s3-stale-after', '0').check()
    assert store.is_untouched()
    agent.backup(source).check()
    agent.restore(tmp_path / 'restored').check()
    assert described(tmp_path / 'restored') == described(source)


def test_several_storages(
    installed: Path, seaweedfs: servers.SeaweedFS, source: Path, tmp_path: Path
) -> None:
    stores: list[Store] = [LocalStore(tmp_path / 'store'), S3Store(seaweedfs)]
    names = ('here', 'there')
    sections = {
        f'storage:{name}': store.section
        for name, store in zip(names, stores, strict=True)
    }
    job = job_file(tmp_path / 'job.ini', {'job': {'engine': 'sqlset'}, **sections})
    agent = agent_for(installed, stores[0])
    agent.options = (
        *('--config', job, '--hostname', HOST),
        *('--backup-name', 'set', '--engine', 'sqlset'),
    )
    states = back_up(agent, source)
    agent.run('verify', '--verify-data').check()
    for store in stores:
        one = agent_for(installed, store)
        target = tmp_path / type(store).__name__
        one.restore(target).check()
        assert described(target) == states[2]
