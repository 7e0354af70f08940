"""``--action admin --rebuild-index``: indexes for levels without (``listing.rst``)."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from freezer.engine.index.new import NewIndex
from freezer.engine.rebuild import ChainRebuilder
from freezer.engine.settings import EngineSettings
from freezer.exceptions import TamperedError
from freezer.storage.backup import StoredLevel
from freezer.storage.levels import LevelPolicy, needed
from freezer.storage.local.storage import LocalStorage
from freezer.stream import age
from freezer.stream.encryption import Passphrase
from freezer.tests import handmade, trees
from freezer.tests.agent import (
    Agent,
    Result,
    S3Store,
    Store,
    iso,
    missed,
    private,
)
from freezer.tests.engines import EngineAgent
from freezer.tests.proxy import DENIED, Proxy

LEVELS = 3
# Seconds after which an agent, whose times are whole seconds, knows that a file has not
# changed again.
SETTLED = 3.1


def rebuild(agent: Agent, *options: str) -> Result:
    return agent.run('admin', '--rebuild-index', *options)


def listed(agent: Agent) -> list[list[dict[str, object]]]:
    """The state of each level. A directory that did not change is in an older level for
    an index, and in the newest for who reads the archives."""
    states = []
    for path in agent.store.markers():
        timestamp = int(path.split('/')[4].partition('_')[2])
        found = agent.run('list', '--json', '--restore-from-date', iso(timestamp))
        records = [json.loads(line) for line in found.check().out.splitlines()]
        for record in records:
            if record['type'] == 'directory':
                del record['level'], record['level_date']
        states.append(records)
    return states


@pytest.mark.parametrize('encrypted', [False, True], ids=['plain', 'openssl'])
@pytest.mark.parametrize('compression', ['gzip', 'zstd', 'none'])
def test_as_if_they_had_been_there(
    any_store: Store, tmp_path: Path, compression: str, encrypted: bool
) -> None:
    agent = Agent(any_store, options=('--compression', compression))
    if encrypted:
        passphrase = private(tmp_path / 'pass', 'secret\n')
        agent = agent.told('--encrypt-pass-file', passphrase)
    source = tmp_path / 'tree'
    states = []
    trees.make_tree(source, 3, files=40, size=100_000)
    for level in range(LEVELS):
        if level:
            trees.mutate_tree(source, 30 + level)
        states.append(trees.describe(source))
        agent.increment(source).check()
    handmade.remove_indexes(any_store)
    before = listed(agent)
    files = any_store.files()
    told = rebuild(agent, '--dry-run').check().err
    assert told.count('Would make the index of hosta_bk, level ') == LEVELS
    assert any_store.files() == files
    told = rebuild(agent).check().err
    assert told.count('Made the index of hosta_bk, level ') == LEVELS
    assert 'Made 3 indexes' in told
    assert len(handmade.indexes(any_store)) == LEVELS
    assert listed(agent) == before
    assert agent.run('verify', '--verify-data').code == 0
    for path, content in files.items():
        if not path.startswith('metadata/'):
            assert any_store.files()[path] == content
    assert 'Made 0 indexes' in rebuild(agent).check().err
    # Levels on top of them.
    for level in range(LEVELS, LEVELS + 2):
        trees.mutate_tree(source, 30 + level)
        made = agent.increment(source).check().document
        assert made['curr_backup_level'] == level
        assert len(handmade.indexes(any_store)) == level + 1
        states.append(trees.describe(source))
    assert agent.run('verify', '--verify-data').code == 0
    for number, path in enumerate(any_store.markers()):
        target = tmp_path / f'target {number}'
        timestamp = int(path.split('/')[4].partition('_')[2])
        agent.restore(target, '--restore-from-date', iso(timestamp)).check()
        assert missed(states[number], target) == []


def test_a_part_is_restored_with_them(local: Agent, tmp_path: Path) -> None:
    source = tmp_path / 'tree'
    (source / 'folder').mkdir(parents=True)
    for name in ('folder/wanted', 'other'):
        (source / name).write_text(name)
    local.increment(source).check()
    (source / 'folder' / 'new').write_text('new')
    local.increment(source).check()
    handmade.remove_indexes(local.store)
    rebuild(local).check()
    local.restore(tmp_path / 'part', '--include', 'folder').check()
    names = {path.name for path in (tmp_path / 'part').rglob('*')}
    assert names == {'folder', 'wanted', 'new'}


def test_increments_archive_what_changed(local: Agent, tmp_path: Path) -> None:
    """The first one on top of such indexes, and the next ones."""
    source = tmp_path / 'tree'
    source.mkdir()
    for number in range(50):
        (source / f'file {number}').write_text('content')
    time.sleep(SETTLED)
    local.increment(source).check()
    handmade.remove_indexes(local.store)
    rebuild(local).check()
    for level in range(1, 4):
        (source / f'file {level}').write_text(f'changed at {level}')
        (source / f'new {level}').write_text('new')
        (source / f'file {level + 10}').unlink()
        (source / f'file {level + 20}').rename(source / f'moved {level}')
        time.sleep(SETTLED)
        made = local.increment(source).check()
        assert made.document['curr_backup_level'] == level
        # Changed, new, and moved.
        assert '3 files' in made.err, made
        local.restore(tmp_path / f'target {level}').check()
        state = trees.describe(source)
        assert missed(state, tmp_path / f'target {level}') == []
    assert local.run('verify', '--verify-data').code == 0


def test_a_level_below_the_others(local: Agent, tmp_path: Path) -> None:
    """Only the index that is missing is made; one that is damaged is made anew."""
    source = tmp_path / 'tree'
    source.mkdir()
    for level in range(3):
        (source / f'new at {level}').write_text('content')
        local.increment(source).check()
    before = listed(local)
    store = local.store
    damaged = handmade.indexes(store)[1]
    store.put(damaged, store.files()[damaged][:-1])
    kept = {path: store.files()[path] for path in handmade.indexes(store)}
    told = rebuild(local).check().err
    assert told.count('Made the index of') == 1
    assert 'level 1 of' in told
    for path, content in kept.items():
        assert (store.files()[path] == content) is (path != damaged)
    assert listed(local) == before
    assert local.run('verify', '--verify-data').code == 0


def test_all_names_of_the_host(local: Agent, source: Path) -> None:
    for name in ('one', 'two'):
        local.told('--backup-name', name).increment(source).check()
    local.told('--hostname', 'other').increment(source).check()
    handmade.remove_indexes(local.store)
    told = local.nameless.told('--hostname', 'hosta').run('admin', '--rebuild-index')
    assert 'Made 2 indexes' in told.check().err
    assert [
        '_hosta_' in f'_{path}' or 'hosta_' in path
        for path in handmade.indexes(local.store)
    ] == [True, True]
    nobody = local.told('--backup-name', 'nobody').run('admin', '--rebuild-index')
    assert "No backup 'nobody' of host" in nobody.error


def test_what_cannot_be_read(local: Agent, source: Path, tmp_path: Path) -> None:
    passphrase = private(tmp_path / 'pass', 'secret\n')
    secret = local.told('--encrypt-pass-file', passphrase, '--backup-name', 'secret')
    secret.increment(source).check()
    local.increment(source).check()
    (source / 'more').write_text('more')
    local.increment(source).check()
    handmade.remove_indexes(local.store)
    store = local.store
    (path,) = (p for p in store.files() if '/1_' in p and p.endswith('/data'))
    store.put(path, b'x' * len(store.files()[path]))
    host = local.nameless.told('--hostname', 'hosta')
    found = host.run('admin', '--rebuild-index')
    assert '2 levels could not be read or changed' in found.error
    assert 'is encrypted: give its passphrase' in found.err
    assert 'are not the bytes that were written' in found.err
    # The rest is done.
    assert 'Made 1 index\n' in found.err
    assert len(handmade.indexes(store)) == 1


def test_renamed_directories(local: Agent, tmp_path: Path) -> None:
    """Freezer 19 lets tar detect them. Differences of names cannot describe that."""
    source, state = tmp_path / 'tree', tmp_path / 'snapshot'
    (source / 'folder').mkdir(parents=True)
    (source / 'folder' / 'file').write_text('content')
    command = ['tar', '--create', '--file=-', f'--listed-incremental={state}']
    for level in range(3):
        if level == 1:
            (source / 'folder').rename(source / 'moved')
        done = subprocess.run(
            [*command, f'--directory={source}', '.'], check=True, capture_output=True
        )
        handmade.put_level(
            local.store, local.identity, level, done.stdout, state.read_bytes()
        )
    before = listed(local)
    found = rebuild(local).check()
    lines = [line for line in found.err.splitlines() if line.startswith('No index')]
    assert [line.partition('Z: ')[2] for line in lines] == [
        'its archive renames directories',
        'a level below has no index',
    ]
    assert '2 levels without' in found.err
    assert len(handmade.indexes(local.store)) == 1
    assert listed(local) == before
    assert local.run('verify', '--verify-data').code == 0


def test_keys_that_may_not_write(proxied: S3Store, proxy: Proxy, source: Path) -> None:
    agent = Agent(proxied)
    agent.increment(source).check()
    handmade.remove_indexes(proxied)
    files = proxied.files()
    proxy.answer(lambda request: request.operation == 'PutObject', DENIED)
    assert 's3:PutObject' in rebuild(agent).error
    assert proxied.files() == files


# Format age


class Sealed:
    """A chain in format age without indexes, as an earlier version made it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.source = folder / 'tree'
        self.source.mkdir()
        private(folder / 'pass', 'secret\n')
        self.storage = LocalStorage(str(folder / 'storage'), 2**20)
        settings = EngineSettings('gzip', Passphrase(str(folder / 'pass')), 'age')
        self.agent = EngineAgent(self.storage, settings)
        with monkeypatch.context() as patch:
            patch.setattr(NewIndex, 'finish', lambda _self, _stream: None)
            for level in range(LEVELS):
                self.add(level)

    def add(self, level: int) -> None:
        (self.source / f'new at {level}').write_text(f'level {level}')
        now = int(time.time()) + 10 * level
        plan = self.agent.plan('host_name', LevelPolicy(incremental=True), now)
        assert self.agent.backup(self.source, plan, now).level == level

    @property
    def chain(self) -> list[StoredLevel]:
        return self.agent.repository.committed()

    def rebuild(self) -> None:
        engine, repository = self.agent.engine, self.agent.repository
        chain = self.chain
        with ChainRebuilder(engine, self.agent.settings, repository) as rebuilder:
            for stored in chain:
                assert not rebuilder.has_index(stored)
                rebuilder.rebuild(stored, needed(stored, chain)[::-1])

    def check(self) -> None:
        target = self.folder / f'target of {len(self.chain)}'
        self.agent.restore(target, self.agent.state('host_name'))
        assert missed(trees.describe(self.source), target) == []


@pytest.fixture
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sealed:
    monkeypatch.setattr(age, '_WORK', 1)
    return Sealed(tmp_path, monkeypatch)


def test_a_sealed_chain(sealed: Sealed) -> None:
    before = sizes_in(sealed)
    assert [stored.index for stored in sealed.chain] == [None] * LEVELS
    sealed.rebuild()
    for stored in sealed.chain:
        assert stored.index is not None
        # File names are as hidden as before.
        assert b'new at' not in Path(stored.paths.index).read_bytes()
    assert sizes_in(sealed) == before
    sealed.check()
    sealed.add(LEVELS)
    sealed.check()
    assert all(stored.index is not None for stored in sealed.chain)


def sizes_in(sealed: Sealed) -> dict[bytes, int]:
    chain = sealed.agent.open(sealed.agent.state('host_name'))
    return {
        path: size
        for rows in chain.rows()
        for path, size, kind in zip(rows.paths, rows.sizes, rows.kinds, strict=True)
        if kind == 'file'
    }


def test_the_new_seal_names_the_index(sealed: Sealed) -> None:
    sealed.rebuild()
    zero, one, _two = sealed.chain
    ours = json.loads(Path(one.paths.marker).read_bytes())
    theirs = json.loads(Path(zero.paths.marker).read_bytes())
    index = Path(one.paths.index).read_bytes()
    Path(one.paths.index).write_bytes(Path(zero.paths.index).read_bytes())
    Path(one.paths.marker).write_text(json.dumps(ours | {'index': theirs['index']}))
    with pytest.raises(TamperedError):
        sizes_in(sealed)
    del ours['index']
    Path(one.paths.index).write_bytes(index)
    Path(one.paths.marker).write_text(json.dumps(ours))
    with pytest.raises(TamperedError, match='does not name its index'):
        sizes_in(sealed)


def test_no_index_on_an_exchanged_level(sealed: Sealed) -> None:
    """What is authenticated is made of what is."""
    zero, one, two = sealed.chain
    for kind in ('marker', 'data', 'engine_metadata'):
        path = Path(getattr(two.paths, kind))
        path.write_bytes(Path(getattr(one.paths, kind)).read_bytes())
    with pytest.raises(TamperedError):
        sealed.rebuild()
    assert [each.index is None for each in sealed.chain] == [False, False, True]
    assert zero.level == 0
