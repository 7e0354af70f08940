"""Backups that Freezer 19.0.0 made, and what Freezer 19 would make of ours.

``from-freezer-19.rst`` says how one moves.

The fixture has four chains of one small tree, written by Freezer 19.0.0 to local
storage; on S3 the objects would be the same. Its archives keep whole seconds of times
only, and no holes.
"""

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from freezer.tests import servers, trees
from freezer.tests.agent import (
    Agent,
    FtpStore,
    LocalStore,
    S3Store,
    SshStore,
    Store,
    iso,
    missed,
    run,
)
from freezer.tests.compat.upstream import lost_by_upstream
from freezer.tests.servers.ftpd import Vsftpd
from freezer.tests.servers.sshd import Sshd

FIXTURES = Path(__file__).parent.parent / 'fixtures'
FIXTURE = FIXTURES / 'upstream-19.0.0.tar.xz'
# Written to storage ssh: two chains of three levels.
SSH_FIXTURE = FIXTURES / 'upstream-ssh-19.0.0.tar.xz'
SSH_NAMES = ('ssh-gzip', 'ssh-gzip-enc')
NAMES = ('tar-gzip', 'tar-bzip2', 'tar-xz', 'tar-gzip-enc')
LEVELS = (0, 1, 2)
# As root the states have their owners, and so can be compared with all they have.
YEARS = 20 * 365 * 24 * 3600
EXTRACT = ('tar', '--extract', '--preserve-permissions')


@pytest.fixture(scope='module')
def fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixture, unpacked: store, states and pass.txt."""
    folder = tmp_path_factory.mktemp('upstream')
    subprocess.run([*EXTRACT, f'--file={FIXTURE}', f'--directory={folder}'], check=True)
    for level in LEVELS:
        state = folder / f'state{level}'
        state.mkdir()
        archive = folder / 'states' / f'level{level}.tar'
        command = [*EXTRACT, f'--file={archive}', f'--directory={state}']
        subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope='module')
def ssh_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each name a folder as of ``fixture``, but with one store."""
    folder = tmp_path_factory.mktemp('upstream-ssh')
    command = [*EXTRACT, f'--file={SSH_FIXTURE}', f'--directory={folder}']
    subprocess.run(command, check=True)
    for name in SSH_NAMES:
        for level in LEVELS:
            state = folder / name / f'state{level}'
            state.mkdir(parents=True)
            archive = folder / 'states' / name / f'level{level}.tar'
            command = [*EXTRACT, f'--file={archive}', f'--directory={state}']
            subprocess.run(command, check=True)
        shutil.copy(folder / 'pass.txt', folder / name / 'pass.txt')
    return folder


@pytest.mark.parametrize('name', SSH_NAMES)
def test_every_level_restores_from_ssh(
    sshd: Sshd, ssh_fixture: Path, name: str, tmp_path: Path
) -> None:
    store = SshStore(sshd, tmp_path / 'store')
    copy_store(ssh_fixture, store)
    agent = agent_for(store, name, ssh_fixture / name)
    check_every_level(agent, ssh_fixture / name, tmp_path)


def test_every_level_restores_from_ftps(
    vsftpd_tls: Vsftpd, fixture: Path, tmp_path: Path
) -> None:
    """Freezer 19 itself makes no increments by FTP; the layout is the same."""
    store = FtpStore(vsftpd_tls, tmp_path / 'store')
    copy_store(fixture, store)
    check_every_level(agent_for(store, 'tar-gzip', fixture), fixture, tmp_path)


@pytest.fixture
def local(fixture: Path, tmp_path: Path) -> LocalStore:
    """A directory with everything that is in the fixture's."""
    store = LocalStore(tmp_path / 'store')
    copy_store(fixture, store)
    return store


@pytest.fixture
def on_s3(s3_server: servers.Server, fixture: Path) -> S3Store:
    """A bucket and prefix with everything that is in the fixture's."""
    store = S3Store(s3_server)
    copy_store(fixture, store)
    return store


def copy_store(fixture: Path, store: Store) -> None:
    for path, content in LocalStore(fixture / 'store').files().items():
        store.put(path, content)


def agent_for(store: Store, name: str, fixture: Path) -> Agent:
    encrypted = name.endswith('-enc')
    options = ['--encrypt-pass-file', fixture / 'pass.txt'] if encrypted else []
    return Agent(store, name, ['--hostname', 'fixture', *options])


def dates(store: Store, name: str) -> list[int]:
    """When each level of a name was made."""
    levels = (path.split('/')[4] for path in store.markers() if f'_{name}/' in path)
    return [int(level.partition('_')[2]) for level in sorted(levels)]


def test_the_states_differ(fixture: Path) -> None:
    states = [trees.describe(fixture / f'state{level}') for level in LEVELS]
    assert len(states[0]) > 10
    assert b'dir/to_delete' in states[0]
    assert trees.differences(states[0], states[1])
    assert trees.differences(states[1], states[2])


def check_every_level(agent: Agent, fixture: Path, directory: Path) -> None:
    before = agent.store.files()
    for level, date in zip(LEVELS, dates(agent.store, agent.name), strict=True):
        target = directory / f'level {level}'
        agent.restore(target, '--restore-from-date', iso(date)).check()
        assert lost_by_upstream(fixture / f'state{level}', target) == [], level
    newest = directory / 'newest'
    agent.restore(newest).check()
    assert lost_by_upstream(fixture / 'state2', newest) == []
    assert agent.store.files() == before


@pytest.mark.parametrize('name', NAMES)
def test_every_level_restores(
    local: LocalStore, name: str, fixture: Path, tmp_path: Path
) -> None:
    check_every_level(agent_for(local, name, fixture), fixture, tmp_path)


@pytest.mark.parametrize('name', NAMES)
def test_a_part_of_every_level(
    local: LocalStore, name: str, fixture: Path, tmp_path: Path
) -> None:
    agent = agent_for(local, name, fixture)
    for level, date in zip(LEVELS, dates(local, name), strict=True):
        state = trees.describe(fixture / f'state{level}')
        listed = agent.told('--restore-from-date', iso(date)).run('list', '--json')
        paths = {json.loads(line)['path'] for line in listed.check().out.splitlines()}
        assert paths == {os.fsdecode(path) for path in state} - {'.'}
        target = tmp_path / f'level {level}'
        agent.restore(
            target, '--restore-from-date', iso(date), '--include', 'dir'
        ).check()
        found = trees.describe(target)
        assert found.keys() == {
            path for path in state if path in (b'.', b'dir') or path[:4] == b'dir/'
        }
        for path in found.keys() - {b'.'}:
            assert found[path].digest == state[path].digest
            assert found[path].links == state[path].links
            assert found[path].mode == state[path].mode


@pytest.mark.parametrize(
    's3_server, name',
    [*(('seaweedfs', name) for name in NAMES), ('ceph', 'tar-gzip-enc')],
    indirect=['s3_server'],
)
def test_every_level_restores_from_s3(
    on_s3: S3Store, name: str, fixture: Path, tmp_path: Path
) -> None:
    check_every_level(agent_for(on_s3, name, fixture), fixture, tmp_path)


@pytest.mark.parametrize('s3_server', ['seaweedfs', 'ceph'], indirect=True)
def test_info_lists_them(on_s3: S3Store) -> None:
    found = Agent(on_s3).nameless.run('info', '--json').check().document
    sizes = on_s3.sizes()
    assert (found['size'], found['objects_count']) == (sum(sizes.values()), len(sizes))
    assert {backup['backup_name'] for backup in found['backups']} == set(NAMES)
    for backup in found['backups']:
        assert backup['hostname'] == 'fixture'
        assert [level['level'] for level in backup['levels']] == list(LEVELS)


@pytest.mark.parametrize('s3_server', ['seaweedfs', 'ceph'], indirect=True)
def test_verify_says_that_they_have_no_digests(on_s3: S3Store) -> None:
    everything = ('--action', 'verify', *on_s3.options, '--verify-data')
    found = run(*everything, '--metadata-out', '-', env=on_s3.env).check()
    backups = len(NAMES) * len(LEVELS)
    assert f'; {backups} made by Freezer 19 without digests' in found.err
    sizes = on_s3.sizes()
    data = sum(size for path, size in sizes.items() if path.endswith('/data'))
    assert found.document['size'] == data
    assert [b['digests'] for b in found.document['backups']] == [False] * backups
    assert run(*everything, env=on_s3.env).out.count('| ok, no digests |') == backups


@pytest.mark.parametrize('s3_server', ['seaweedfs'], indirect=True)
def test_our_increment_on_their_chain_on_s3(
    on_s3: S3Store, fixture: Path, tmp_path: Path
) -> None:
    check_increments(agent_for(on_s3, 'tar-gzip', fixture), fixture, tmp_path)


@pytest.mark.parametrize('name', NAMES)
def test_our_increment_on_their_chain(
    local: LocalStore, name: str, fixture: Path, tmp_path: Path
) -> None:
    check_increments(agent_for(local, name, fixture), fixture, tmp_path)


def check_increments(agent: Agent, fixture: Path, directory: Path) -> None:
    # Whatever this machine's clock says, it is later than they were made.
    agent.store.made_earlier(YEARS, agent.identity)
    source = directory / 'source'
    agent.restore(source).check()
    (source / 'text.log').write_text('shorter')
    (source / 'zero').unlink()
    (source / 'dir' / 'sub').rename(source / 'sub of level 3')
    (source / 'new').write_text('new')
    state = trees.describe(source)
    made = agent.increment(source).check().document
    assert made['curr_backup_level'] == 3
    (source / 'newer').write_text('newer')
    assert agent.increment(source).check().document['curr_backup_level'] == 4
    agent.restore(directory / 'newest').check()
    assert missed(trees.describe(source), directory / 'newest') == []
    target = directory / 'level 3'
    agent.restore(target, '--restore-from-date', iso(made['time_stamp'])).check()
    assert missed(state, target) == []
    # Theirs are as they were.
    theirs = directory / 'level 1'
    date = iso(dates(agent.store, agent.name)[1])
    agent.restore(theirs, '--restore-from-date', date).check()
    assert lost_by_upstream(fixture / 'state1', theirs) == []


@pytest.mark.parametrize('name', NAMES)
def test_indexes_for_their_levels(
    local: LocalStore, name: str, fixture: Path, tmp_path: Path
) -> None:
    check_indexes(agent_for(local, name, fixture), fixture, tmp_path)


@pytest.mark.parametrize(
    's3_server, name',
    [('seaweedfs', 'tar-gzip'), ('ceph', 'tar-gzip-enc')],
    indirect=['s3_server'],
)
def test_indexes_for_their_levels_on_s3(
    on_s3: S3Store, name: str, fixture: Path, tmp_path: Path
) -> None:
    check_indexes(agent_for(on_s3, name, fixture), fixture, tmp_path)


def check_indexes(agent: Agent, fixture: Path, directory: Path) -> None:
    """They say what reading all says, and increments build on them."""
    dated = [
        agent.told('--restore-from-date', iso(date))
        for date in dates(agent.store, agent.name)
    ]
    before = [listed(each) for each in dated]
    told = agent.run('admin', '--rebuild-index').check().err
    assert 'Made 3 indexes' in told
    assert [listed(each) for each in dated] == before
    assert agent.run('verify', '--verify-data').code == 0
    check_every_level(agent, fixture, directory)
    target = directory / 'part'
    agent.restore(target, '--include', 'dir').check()
    state = trees.describe(fixture / 'state2')
    assert trees.describe(target).keys() == {
        path for path in state if path in (b'.', b'dir') or path[:4] == b'dir/'
    }
    # What an increment archives is what is new.
    source = directory / 'source'
    agent.restore(source).check()
    (source / 'new').write_text('new')
    made = agent.increment(source).check().document
    assert made['curr_backup_level'] == 3
    indexes = [p for p in agent.store.files() if p.endswith('/index')]
    assert len([p for p in indexes if f'_{agent.name}/' in p]) == 4
    agent.restore(directory / 'on top').check()
    assert missed(trees.describe(source), directory / 'on top') == []
    assert agent.run('verify', '--verify-data').code == 0


@pytest.mark.parametrize(
    ('name', 'indexed'),
    [
        ('tar-gzip', False),
        ('tar-gzip-enc', False),
        ('tar-gzip-enc', True),
        ('tar-bzip2', True),
        ('tar-xz', True),
    ],
)
def test_looking_at_their_levels(
    local: LocalStore, name: str, fixture: Path, tmp_path: Path, indexed: bool
) -> None:
    agent = agent_for(local, name, fixture)
    if indexed:
        agent.run('admin', '--rebuild-index').check()
    states = [trees.describe(fixture / f'state{level}') for level in LEVELS]
    for state in states:
        del state[b'.']
    made = list(map(iso, dates(local, name)))
    for level, state in enumerate(states):
        dated = agent.told('--restore-from-date', made[level])
        assert {os.fsencode(str(each['path'])) for each in listed(dated)} == set(state)
        for path in (b'dir/hard', b'random.bin', b'sparse', b'dir/to_change'):
            chosen = ('--include', os.fsdecode(path))
            if path not in state:
                assert 'nothing in the backup matches' in (
                    dated.run('dump', *chosen).error
                )
                continue
            expected = fixture / f'state{level}' / os.fsdecode(path)
            with dated.start('dump', *chosen) as process:
                process.wait().check()
                contents = os.pread(process._streams[0], 1 << 30, 0)
            assert contents == expected.read_bytes()
        target = tmp_path / f'part {level}'
        pattern = ('--include', 'dir/*', '--include', 'name*')
        dated.restore(target, *pattern).check()
        found = trees.describe(target)
        assert found.keys() - {b'.', b'dir'} == {
            path for path in state if path.startswith((b'dir/', b'name'))
        }
        for path in found.keys() - {b'.'}:
            assert found[path].digest == state[path].digest
    for old, new in ((0, 2), (1, 2), (1, 0)):
        between = ('--from-date', made[old], '--to-date', made[new])
        changes = {each['path']: each['change'] for each in lines(agent, *between)}
        for path in states[old].keys() | states[new].keys():
            change = changes.get(os.fsdecode(path), 'stored')
            one, other = states[old].get(path), states[new].get(path)
            assert (change == 'added') == (one is None)
            assert (change == 'removed') == (other is None)
            if one and other and one.digest != other.digest:
                assert change == 'changed'
    found_paths = agent.run('find', '--include', '*', '--json')
    if not indexed:
        assert found_paths.err.count('has no index; --action list') == len(LEVELS)
        return
    rows = [json.loads(line) for line in found_paths.check().out.splitlines()]
    assert {os.fsencode(row['path']) for row in rows} == set().union(*states)


def lines(agent: Agent, *between: str) -> list[dict[str, str]]:
    out = agent.run('diff', '--json', *between).check().out
    return [json.loads(line) for line in out.splitlines()]


def listed(agent: Agent) -> list[dict[str, object]]:
    """The state. A directory that did not change is in an older level for an index."""
    records = []
    for line in agent.run('list', '--json').check().out.splitlines():
        record = json.loads(line)
        if record['type'] == 'directory':
            del record['level'], record['level_date']
        records.append(record)
    return records


def upstream_restores(stream: bytes, target: Path, compression: str) -> None:
    """Extract one level as Freezer 19 does."""
    target.mkdir(exist_ok=True)
    flag = {'gzip': '-z', 'bzip2': '-j', 'xz': '-J'}[compression]
    subprocess.run(
        [
            *('tar', flag, '--incremental', '--extract', '--ignore-zeros'),
            *('--warning=none', '--overwrite', '--directory', str(target)),
        ],
        input=stream,
        check=True,
    )


def streams(store: Store) -> list[bytes]:
    """The archives of a chain, by level."""
    files = store.files()
    paths = [path for path in files if path.endswith('/data')]
    return [files[path] for path in sorted(paths, key=lambda p: p.split('/')[4])]


def comparable(tree: Mapping[bytes, trees.Entry]) -> dict[bytes, trees.Entry]:
    """Without what Freezer 19's tar is not told to bring back, or cannot: extended
    attributes, and links of what is no file."""
    return {
        path: dataclasses.replace(
            entry, xattrs=(), links=entry.links if entry.kind == 'file' else ()
        )
        for path, entry in tree.items()
    }


@pytest.mark.parametrize('compression', ['gzip', 'bzip2', 'xz'])
def test_upstream_restores_our_level_0(tmp_path: Path, compression: str) -> None:
    source = tmp_path / 'source'
    trees.make_tree(source, seed=21, files=60)
    # More than one piece of any format.
    (source / 'long').write_bytes(bytes(20 * 2**20))
    store = LocalStore(tmp_path / 'store')
    Agent(store).backup(source, '--compression', compression).check()
    (stream,) = streams(store)
    target = tmp_path / 'target'
    upstream_restores(stream, target, compression)
    expected = comparable(trees.describe(source))
    assert trees.differences(expected, comparable(trees.describe(target))) == []


def test_upstream_restores_our_increments(tmp_path: Path) -> None:
    source = tmp_path / 'source'
    source.mkdir()
    for number in range(4):
        folder = source / f'folder {number}'
        folder.mkdir()
        for name in ('kept', 'changed', 'removed'):
            (folder / name).write_bytes(os.urandom(1000 * number))
    store = LocalStore(tmp_path / 'store')
    agent = Agent(store)
    agent.increment(source).check()
    for number in range(4):
        folder = source / f'folder {number}'
        (folder / 'changed').write_text('changed')
        (folder / 'removed').unlink()
        (folder / 'new').symlink_to('kept')
    (source / 'folder 2').rename(source / 'folder renamed')
    (source / 'folder 3' / 'kept').rename(source / 'kept, moved')
    agent.increment(source).check()
    (source / 'folder 0' / 'changed').write_text('changed again')
    agent.increment(source).check()
    target = tmp_path / 'target'
    for stream in streams(store):
        upstream_restores(stream, target, 'gzip')
    expected = trees.describe(source)
    assert trees.differences(expected, trees.describe(target)) == []


def test_upstream_reads_our_marker(tmp_path: Path) -> None:
    """It takes the first line of the marker as JSON, and looks for three keys."""
    source = tmp_path / 'source'
    source.mkdir()
    passphrase = tmp_path / 'pass'
    passphrase.write_text('secret\n')
    store = LocalStore(tmp_path / 'store')
    agent = Agent(store)
    agent.backup(source, '--compression', 'xz').check()
    agent.backup(source, '--encrypt-pass-file', passphrase).check()
    files = store.files()
    xz, encrypted = (json.loads(files[p].splitlines()[0]) for p in store.markers())
    assert (xz['engine_name'], xz['compression'], xz['encryption']) == (
        'tar',
        'xz',
        False,
    )
    assert (encrypted['compression'], encrypted['encryption']) == ('gzip', True)
