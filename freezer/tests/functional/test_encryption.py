"""Format age, with the real command: a chain, and what opens it without us."""

import json
import os
import pty
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from freezer.tests import trees
from freezer.tests.agent import (
    HOST,
    ROOT,
    Agent,
    LocalStore,
    S3Store,
    assert_restores,
    in_parts,
    iso,
    job_file,
    missed,
    private,
    run,
)

PAGE = ROOT / 'doc' / 'source' / 'user' / 'encryption.rst'
WORDS = 'correct horse battery staple'
LEVELS = 3


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    return private(tmp_path / 'pass', f'{WORDS}\nanother line\n')


@pytest.fixture
def options(passphrase: Path) -> tuple[object, ...]:
    return '--encryption', 'age', '--encrypt-pass-file', passphrase


Tree = dict[bytes, trees.Entry]


def make(agent: Agent, source: Path) -> list[tuple[int, Tree]]:
    """A chain: when each level was made, and what it is."""
    states = []
    for level in range(LEVELS):
        if level:
            trees.mutate_tree(source, 70 + level)
        state = trees.describe(source)
        document = agent.increment(source).check().document
        assert document['curr_backup_level'] == level
        states.append((document['time_stamp'], state))
    return states


@pytest.mark.package
def test_a_chain(store: S3Store, options: tuple[object, ...], tmp_path: Path) -> None:
    source = tmp_path / 'source'
    trees.make_tree(source, seed=7)
    secret_names = [path.rpartition(b'/')[2] for path, _ in trees.walk(source)]
    agent = Agent(store).told(*options)
    states = make(agent, source)
    everything = b''.join(store.files().values())
    for name in secret_names:
        # Shorter ones are there by chance.
        assert len(name) < 6 or name not in everything
    assert WORDS.encode() not in everything
    timestamp, state = states[0]
    target = tmp_path / 'target'
    assert_restores(agent, state, target, '--restore-from-date', iso(timestamp))
    # The newest, over an older one; nothing has to be said of the format.
    only = Agent(store).told('--encrypt-pass-file', tmp_path / 'pass')
    assert_restores(only, states[-1][1], target, '--overwrite')


def test_info_verify_and_admin_need_no_passphrase(
    store: S3Store, options: tuple[object, ...], source: Path
) -> None:
    agent = Agent(store).told(*options)
    made = [agent.increment(source).check().document for _ in range(2)]
    bare = Agent(store)
    found = bare.run('info', '--metadata-out', '-').check().document
    assert found['size'] == sum(store.sizes().values())
    assert len(found['backups'][0]['levels']) == 2
    for more in ((), ('--verify-data',)):
        bare.run('verify', *more).check()
    identity = next(p for p in store.sizes() if p.endswith('/identity.age'))
    content = store.files()[identity]
    store.delete(identity)
    result = bare.run('verify', '--metadata-out', '-')
    assert f'{identity} is missing; a restore uses ' in result.err
    assert '0 of them cannot be restored' in result.error
    for path in [p for p in store.sizes() if p.endswith('/identity.age')]:
        store.delete(path)
    assert '2 of them cannot be restored' in bare.run('verify').error
    store.put(identity, content)
    date = iso(made[-1]['time_stamp'])
    bare.run('admin', '--remove-before-date', date).check()
    assert store.is_untouched()


def test_encrypted_backup_of_many_volumes_restores(
    store: S3Store, options: tuple[object, ...], big: Path, tmp_path: Path
) -> None:
    agent = in_parts(Agent(store)).told(*options, '--s3-max-parts', 2)
    agent.backup(big).check()
    assert [path for path in store.sizes() if '/segments/' in path]
    assert_restores(agent, big, tmp_path / 'target')


@pytest.mark.package
def test_encrypted_backup_to_several_storages(
    store: S3Store, options: tuple[object, ...], source: Path, tmp_path: Path
) -> None:
    local = LocalStore(tmp_path / 'disk')
    sections = {'storage:disk': local.section, 'storage:cloud': store.section}
    job = job_file(tmp_path / 'job', sections)
    named = ('--hostname', HOST, '--backup-name', 'bk')
    common = ('--config', job, *named, *options)
    for _ in range(2):
        run(*common, '--path-to-backup', source, '--incremental').check()
        (source / 'more').touch()
    (source / 'more').unlink()
    run('--action', 'verify', *common).check()
    for number, one in enumerate((local, store)):
        target = tmp_path / f'target {number}'
        Agent(one).told(*options).restore(target).check()
        assert 'file' in os.listdir(target)


def test_encryption_without_a_passphrase_is_refused(local: Agent, source: Path) -> None:
    error = local.backup(source, '--encryption', 'age').only_error
    assert 'passphrase' in error
    assert local.store.is_untouched()


@pytest.mark.parametrize('format_', ['openssl', 'age'])
def test_a_forgotten_passphrase_is_noticed(
    local: Agent, source: Path, passphrase: Path, format_: str
) -> None:
    sealed = local.told('--encryption', format_, '--encrypt-pass-file', passphrase)
    sealed.backup(source).check()
    said = local.increment(source).check().err
    assert 'is encrypted, and this backup is not: no passphrase is given' in said
    # Not once it is on purpose: the chain ends with a level that is not encrypted.
    assert 'is encrypted' not in local.increment(source).check().err
    assert 'is encrypted' not in sealed.increment(source).check().err


def test_help_names_the_format_without_authentication(local: Agent) -> None:
    said = ' '.join(run('--help').check().out.split())
    assert 'is not authenticated' in said


# Without the agent


def commands(page: str) -> str:
    """What the part of a page for those without the agent has one type."""
    _, _, part = page.partition('.. _opened-by-hand:')
    typed = []
    for block in re.findall(r'\.\. code-block:: console\n\n((?:   .*\n|\n)+)', part):
        typed += [line.strip().removeprefix('$ ') for line in block.splitlines()]
    return '\n'.join(typed)


def type_in(script: str, answer: str, folder: Path) -> str:
    """Run a script on a terminal; what it says. It gets the answer as often as it asks
    for a passphrase."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvp('bash', ['bash', '-e', '-c', script])
    said = b''
    answered = 0
    while True:
        try:
            block = os.read(terminal, 4096)
        except OSError:
            # Nobody has the other end open any more.
            break
        if not block:
            break
        said += block
        while answered < len(re.findall(rb'(?:Enter|Confirm) passphrase', said)):
            os.write(terminal, answer.encode() + b'\n')
            answered += 1
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    text = said.decode(errors='backslashreplace').replace('\r\n', '\n')
    assert status == 0, text
    return text


@pytest.mark.skipif(not shutil.which('age'), reason='no age (Debian: age)')
@pytest.mark.parametrize('compression', ['gzip', 'zstd'])
def test_backup_is_opened_with_age_and_tar_alone(
    local: Agent, options: tuple[object, ...], tmp_path: Path, compression: str
) -> None:
    """As the documentation has it; what is not tried is aws-cli."""
    if not shutil.which(compression):
        pytest.skip(f'no {compression}')
    source = tmp_path / 'source'
    trees.make_tree(source, seed=9)
    agent = local.told(*options, '--compression', compression)
    zero = agent.increment(source).check().document['time_stamp']
    (source / 'new').write_text('content')
    one = agent.increment(source).check().document['time_stamp']
    store = local.store
    assert isinstance(store, LocalStore)
    script = commands(PAGE.read_text())
    for old, new in {
        'web1_etc': agent.identity,
        '1769306405': str(zero),
        '1769392806': str(one),
        'gzip -d': f'{compression} -d',
    }.items():
        assert old in script
        script = script.replace(old, new)
    # aws s3 cp --recursive FROM TO
    copy = 'aws() { cp -r "$PLACE/${4#s3://backups/web1/}" "$5"; }\n'
    folder = tmp_path / 'by hand'
    folder.mkdir()
    said = type_in(f'PLACE="{store.directory}"\n{copy}{script}', WORDS, folder)
    assert missed(trees.describe(source), folder / 'etc') == []
    seal = json.loads(next(x for x in said.splitlines() if x.startswith('{"level"')))
    assert seal['level'] == f'tar/{agent.identity}/{zero}/1_{one}'
    assert seal['base'] == f'tar/{agent.identity}/{zero}/0_{zero}'
    for name in ('data', 'engine_metadata'):
        assert f'{seal[name]}  -' in said
    # The list of files, in clear.
    path = f'data/tar/{agent.identity}/{zero}/1_{one}/engine_metadata'
    opened = subprocess.run(
        ['age', '-d', '-i', folder / 'key', store.directory / path],
        capture_output=True,
        check=True,
    ).stdout
    assert opened.startswith(b'GNU tar-')


@pytest.mark.skipif(not shutil.which('age'), reason='no age (Debian: age)')
def test_passphrase_is_changed_with_age_alone(
    local: Agent, options: tuple[object, ...], source: Path, tmp_path: Path
) -> None:
    agent = local.told(*options)
    agent.increment(source).check()
    store = local.store
    assert isinstance(store, LocalStore)
    (path,) = store.directory.rglob('identity.age')
    type_in(f'age -d -o key "{path}"', WORDS, tmp_path)
    path.unlink()
    type_in(f'age -p -o "{path}" key', 'new words', tmp_path)
    new = private(tmp_path / 'new', 'new words\n')
    renewed = local.told('--encryption', 'age', '--encrypt-pass-file', new)
    renewed.increment(source).check()
    assert_restores(renewed, source, tmp_path / 'target')
    assert 'identity.age' in agent.restore(tmp_path / 'other').error
