"""What the agent is for, from its command line to a real S3 server and back.

With what ``levels-and-retention.rst`` shows of retention.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from freezer.tests import servers
from freezer.tests.agent import (
    HOST,
    Agent,
    LocalStore,
    S3Store,
    Store,
    assert_restores,
    in_parts,
    iso,
    job_file,
    missed,
    run,
    wrap_tar,
)
from freezer.tests.proxy import Ending, Proxy
from freezer.tests.trees import describe, make_tree, mutate_tree

REAL = pytest.mark.parametrize('s3_server', ['seaweedfs', 'ceph'], indirect=True)
# Where it makes no difference which server it is.
ONE = pytest.mark.parametrize('s3_server', ['seaweedfs'], indirect=True)

DAY = 24 * 3600


@pytest.fixture
def store(s3_server: servers.Server) -> S3Store:
    return S3Store(s3_server)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A few files, where what is in them does not matter."""
    path = tmp_path / 'source'
    path.mkdir()
    for name in ('one', 'two', 'three'):
        (path / name).write_text(f'{name}\n' * 100)
    return path


# The whole way


@pytest.mark.package
@REAL
def test_every_state_of_a_chain_restores(agent: Agent, tmp_path: Path) -> None:
    source = tmp_path / 'source'
    make_tree(source, seed=11, files=120)
    states, dates = [], []
    for level in range(3):
        if level:
            assert mutate_tree(source, seed=level, count=12)
        states.append(describe(source))
        result = agent.increment(source).check()
        made = result.document
        assert made['curr_backup_level'] == level
        assert made['warnings'] == 0, result.err
        dates.append(made['time_stamp'])
    for level, date in enumerate(dates):
        target = tmp_path / f'state {level}'
        assert_restores(agent, states[level], target, '--restore-from-date', iso(date))
    newest = tmp_path / 'newest'
    assert_restores(agent, states[2], newest)


@pytest.mark.package
@REAL
def test_backup_of_many_parts(agent: Agent, store: S3Store, tmp_path: Path) -> None:
    source = tmp_path / 'source'
    source.mkdir()
    (source / 'big').write_bytes(os.urandom(12 << 20))
    agent.backup(source, '--compression', 'none', '-M', '5M').check()
    assert_restores(agent, source, tmp_path / 'target')
    assert store.open_uploads() == []


@REAL
@pytest.mark.parametrize('longest', [1024, 1025])
def test_long_keys(
    s3_server: servers.Server, source: Path, tmp_path: Path, longest: int
) -> None:
    folder = f'/data/tar/{HOST}_bk/1234567890/0_1234567890'
    left = longest - len(f'{folder}/segments/00000001')
    # A store that keeps files takes 255 bytes between slashes.
    prefix = (f'{"p" * 99}/' * 10)[:left]
    store = S3Store(s3_server, prefix=prefix)
    agent = Agent(store)
    result = agent.backup(source)
    if longest <= 1024:
        result.check()
        assert_restores(agent, source, tmp_path / 'target')
        return
    assert 'would have up to 1025 bytes, and the store allows 1024' in result.only_error
    assert store.sizes() == {}


@ONE
@pytest.mark.parametrize('name', ["-rf o'dd $(x);\n\u2603\\"])
def test_single_file(agent: Agent, tmp_path: Path, name: str) -> None:
    folder = tmp_path / 'source'
    folder.mkdir()
    (folder / name).write_bytes(b'first')
    (folder / 'not this one').write_bytes(b'')
    level_0 = agent.increment(folder / name).check().document
    (folder / name).write_bytes(b'second')
    assert agent.increment(folder / name).check().document['curr_backup_level'] == 1
    for date, content in ((iso(level_0['time_stamp']), b'first'), ('', b'second')):
        target = tmp_path / f'target {content.decode()}'
        agent.restore(target, *(['--restore-from-date', date] if date else [])).check()
        assert os.listdir(target) == [name]
        assert (target / name).read_bytes() == content


@REAL
def test_job_file_written_by_freezer_scheduler(store: S3Store, tmp_path: Path) -> None:
    source = tmp_path / 'source'
    make_tree(source, seed=3)
    common = {
        **store.section,
        'hostname': HOST,
        'backup_name': '100% job',
        'mode': 'fs',
        'engine_name': 'tar',
        'dry_run': False,
        'exclude': False,
        'proxy': False,
        'snapshot': False,
        'ssh_port': 22,
    }
    backup = {
        'action': 'backup',
        'path_to_backup': source,
        'incremental': True,
        'max_level': 14,
        'always_level': 0,
        'remove_older_than': 365.0,
    }
    job = job_file(tmp_path / 'backup.ini', {'action': common | backup})
    for level in (0, 1):
        made = run('--metadata-out', '-', '--config', job).check()
        assert made.document['curr_backup_level'] == level
        assert made.document['container'] == store.container
        assert store.server.secret_key not in made.out + made.err
    target = tmp_path / 'target'
    restore = {'action': 'restore', 'restore_abs_path': target}
    job = job_file(tmp_path / 'restore.ini', {'action': common | restore})
    run('--metadata-out', '-', '--config', job).check()
    assert missed(describe(source), target) == []


@ONE
def test_keys_from_environment_or_command_line(
    store: S3Store, source: Path, tmp_path: Path
) -> None:
    Agent(store).backup(source).check()
    without = dict.fromkeys(('ACCESS_KEY', 'SECRET_KEY', 'ENDPOINT'))
    keys = (
        *('--access-key', store.server.access_key),
        *('--secret-key', store.server.secret_key),
        *('--endpoint', store.endpoint),
    )
    assert_restores(Agent(store, options=keys, env=without), source, tmp_path / 'there')
    missing = Agent(store, env=without).restore(tmp_path / 'not there').only_error
    for name in ('access-key', 'secret-key', 'endpoint'):
        assert f'--{name}' in missing


@pytest.mark.package
@ONE
@pytest.mark.parametrize(
    'compression, magic',
    [
        ('gzip', b'\x1f\x8b'),
        ('bzip2', b'BZh'),
        ('xz', b'\xfd7zXZ'),
        ('zstd', b'\x28\xb5\x2f\xfd'),
        ('none', b'./'),
    ],
)
def test_restore_knows_the_compression(
    agent: Agent,
    store: S3Store,
    source: Path,
    tmp_path: Path,
    compression: str,
    magic: bytes,
) -> None:
    (source / 'random').write_bytes(os.urandom(200_000))
    made = agent.backup(source, '--compression', compression).check()
    assert made.document['compression'] == compression
    (stream,) = (c for p, c in store.files().items() if p.endswith('/data'))
    assert stream.startswith(magic)
    # Asked for another one: the marker decides.
    other = 'xz' if compression == 'gzip' else 'gzip'
    assert_restores(agent, source, tmp_path / 'target', '--compression', other)


@pytest.mark.package
@REAL
def test_encrypted_backup_is_read_by_openssl_and_tar(
    store: S3Store, tmp_path: Path
) -> None:
    source = tmp_path / 'source'
    make_tree(source, seed=5)
    passphrase = tmp_path / 'pass'
    passphrase.write_text('correct horse battery staple\n')
    Agent(store, options=['--encrypt-pass-file', passphrase]).backup(source).check()
    (stream,) = (c for p, c in store.files().items() if p.endswith('/data'))
    target = tmp_path / 'target'
    target.mkdir()
    argv = ['openssl', 'enc', '-d', '-aes-256-cfb', '-md', 'sha256']
    argv += ['-pass', f'file:{passphrase}']
    plain = subprocess.run(argv, input=stream, stdout=subprocess.PIPE, check=True)
    argv = ['tar', '--extract', '--gzip', '--file=-', '--preserve-permissions']
    argv += ['--xattrs', '--xattrs-include=*', '--acls', f'--directory={target}']
    subprocess.run(argv, input=plain.stdout, check=True)
    assert missed(describe(source), target) == []


@ONE
def test_limited_backup_restores(agent: Agent, source: Path, tmp_path: Path) -> None:
    (source / 'random').write_bytes(os.urandom(300_000))
    agent.backup(source, '--upload-limit', '1M').check()
    assert_restores(agent, source, tmp_path / 'target', '--download-limit', '1M')


@ONE
def test_consistency_checksum(
    agent: Agent, store: S3Store, source: Path, tmp_path: Path
) -> None:
    made = agent.backup(source, '--consistency-check').check()
    checksum = made.document['consistency_checksum']
    assert checksum
    wanted = ('--consistency-checksum', checksum)
    assert_restores(agent, source, tmp_path / 'same', *wanted)
    (source / 'two').write_text('changed')
    agent.backup(source).check()
    error = agent.restore(tmp_path / 'other', *wanted).error
    assert checksum in error
    assert 'this is another state, or the files were changed' in error


# What else there is to an S3 store


@REAL
def test_info(agent: Agent, store: S3Store, source: Path) -> None:
    first = agent.increment(source).check().document['time_stamp']
    second = agent.increment(source).check().document['time_stamp']
    Agent(store, 'other').backup(source).check()
    store.server.put(store.bucket, 'beside the prefix', b'not counted')
    store.put('not a backup', b'counted')
    sizes = store.sizes()

    found = agent.nameless.run('info', '--json').check().document
    assert found['container'] == store.container
    assert found['size'] == sum(sizes.values())
    assert found['objects_count'] == len(sizes)
    ours, other = sorted(found['backups'], key=lambda backup: backup['backup_name'])
    assert (ours['hostname'], ours['backup_name']) == (HOST, 'bk')
    assert ours['level_zero'] == iso(first)
    levels = [(x['level'], x['time_stamp']) for x in ours['levels']]
    assert levels == [(0, first), (1, second)]
    assert ours['size'] == sum(n for p, n in sizes.items() if f'/{HOST}_bk/' in p)
    assert other['size'] == sum(n for p, n in sizes.items() if f'/{HOST}_other/' in p)

    table = agent.run('info').check().out
    cells = [{cell.strip() for cell in row.split('|')} for row in table.splitlines()]
    total = {store.container, str(found['size']), str(len(sizes))}
    assert any(total <= row for row in cells), table
    for level, date in enumerate((first, second)):
        assert f'level {level}   {iso(date)}' in table


@REAL
def test_admin_removes_what_is_old(
    agent: Agent, store: S3Store, source: Path, tmp_path: Path
) -> None:
    agent.increment(source).check()
    agent.increment(source).check()
    store.made_earlier(10 * DAY, agent.identity)
    old = set(store.sizes())
    agent.backup(source).check()
    new = set(store.sizes()) - old
    agent.run('admin', '--remove-older-than', '11').check()
    assert set(store.sizes()) == old | new
    done = agent.run('admin', '--remove-older-than', '9').check()
    assert 'Removed' in done.err
    assert set(store.sizes()) == new
    assert_restores(agent, source, tmp_path / 'target')


@REAL
def test_dry_run_changes_nothing(
    agent: Agent, store: S3Store, source: Path, tmp_path: Path
) -> None:
    agent.increment(source).check()
    store.made_earlier(10 * DAY, agent.identity)
    before = store.files()
    target = tmp_path / 'target'
    target.mkdir()
    (target / 'mine').write_text('stays')
    dry = ('--dry-run', '--remove-older-than', '5')
    backup = agent.increment(source, *dry).check()
    assert backup.document['curr_backup_level'] == 1
    assert 'Would back up' in backup.err
    restore = agent.restore(target, '--dry-run', '--overwrite').check()
    assert 'Would remove' in restore.err
    assert 'mine' in restore.err
    new = tmp_path / 'new'
    agent.restore(new, '--dry-run').check()
    admin = agent.run('admin', *dry).check()
    assert 'Would remove' in admin.err
    assert store.files() == before
    assert store.open_uploads() == []
    assert os.listdir(target) == ['mine']
    assert not new.exists()


@REAL
def test_dry_run_makes_no_bucket(
    store: S3Store, source: Path, s3_server: servers.Server
) -> None:
    bucket = f'{store.bucket}-absent'
    agent = Agent(store, options=['--container', bucket, '--dry-run'])
    for action in ('backup', 'restore', 'info', 'admin'):
        agent.run(
            *(action, '--path-to-backup', source, '--restore-abs-path', '/nonexistent'),
            *('--remove-older-than', '1'),
        )
    names = [b['Name'] for b in s3_server.client().list_buckets()['Buckets']]
    assert bucket not in names
    # It is the dry run that keeps it from being made.
    Agent(store, options=['--container', bucket]).backup(source).check()
    names = [b['Name'] for b in s3_server.client().list_buckets()['Buckets']]
    assert bucket in names


# Levels


@ONE
@pytest.mark.parametrize(
    'options, levels',
    [
        (['--max-level', '2'], [0, 1, 2, 0, 1]),
        (['--always-level', '1'], [0, 1, 1, 1]),
        (['--max-level', '1', '--always-level', '3'], [0, 1, 0]),
        ([], [0, 1, 2, 3]),
    ],
)
def test_levels(
    agent: Agent, source: Path, tmp_path: Path, options: list[str], levels: list[int]
) -> None:
    made = []
    for number, level in enumerate(levels):
        (source / 'counter').write_text(str(number))
        (source / f'new {number}').write_text('')
        (source / f'new {number - 1}').unlink(missing_ok=True)
        document = agent.increment(source, *options).check().document
        made.append(document['curr_backup_level'])
        state = describe(source)
        assert level == document['curr_backup_level'], made
    assert_restores(agent, state, tmp_path / 'target')


@ONE
def test_restart_always_level(agent: Agent, store: S3Store, source: Path) -> None:
    agent.increment(source).check()
    store.made_earlier(3 * DAY, agent.identity)
    for days, level in (('4', 1), ('2', 0), ('2', 1)):
        made = agent.increment(source, '--restart-always-level', days).check()
        assert made.document['curr_backup_level'] == level, days


# Restoring into what is there


@ONE
def test_overwrite_lists_what_it_removes(
    agent: Agent, source: Path, tmp_path: Path
) -> None:
    agent.backup(source).check()
    target = tmp_path / 'target'
    target.mkdir()
    (target / 'two').write_text('another two')
    (target / 'mine').write_text('mine alone')
    (target / 'folder').mkdir()
    (target / 'folder' / 'within').write_text('')
    error = agent.restore(target).only_error
    assert '--overwrite' in error

    # With a tar that fails, no more is done than what was announced.
    path = wrap_tar(tmp_path / 'bin', 'cat >/dev/null; exit 2')
    said = Agent(agent.store, env=path).restore(target, '--overwrite')
    assert said.error
    lines = [line.strip() for line in said.err.splitlines()]
    assert f'Removing 2 paths not in the backup from {target}:' in said.err
    assert {'mine', 'folder'} <= set(lines)
    assert 'two' not in lines
    assert (target / 'two').read_text() == 'another two'

    assert_restores(agent, source, target, '--overwrite')


# Several storages


def sections(*stores: Store, read_only: bool = False) -> dict[str, dict[str, object]]:
    """``[storage:NAME]`` of each: l0 or s0, l1 or s1, …, for local or S3.

    :param read_only: with the S3 keys of the user who may not write
    """
    made: dict[str, dict[str, object]] = {'action': {'max_segment_size': 5 << 20}}
    for number, store in enumerate(stores):
        section = made[f'storage:{store.options[1][0]}{number}'] = {**store.section}
        if isinstance(store, S3Store):
            section['s3_retry_budget'] = 2
            if read_only:
                section['access_key'] = store.server.readonly_access_key
                section['secret_key'] = store.server.readonly_secret_key
    return made


class Several(Store):
    """What the job file names. What there is, is what the first member has."""

    def __init__(
        self, path: Path, *members: S3Store | LocalStore, read_only: bool = False
    ) -> None:
        job = job_file(path, sections(*members, read_only=read_only))
        self.options = ('--config', str(job))
        self.env = {}
        self._members = members

    def files(self) -> dict[str, bytes]:
        return self._members[0].files()

    def put(self, path: str, content: bytes) -> None:
        for member in self._members:
            member.put(path, content)

    def delete(self, path: str) -> None:
        for member in self._members:
            member.delete(path)


@REAL
def test_backup_to_several_storages(store: S3Store, tmp_path: Path) -> None:
    source = tmp_path / 'source'
    make_tree(source, seed=7)
    (source / 'big').write_bytes(os.urandom(11 << 20))
    local = LocalStore(tmp_path / 'local')
    both = Agent(Several(tmp_path / 'job', local, store))
    for level in (0, 1):
        made = both.increment(source, '--compression', 'none').check().document
        assert made['curr_backup_level'] == level
        assert made['storage'] == 'multiple'
        mutate_tree(source, seed=level)
    state = describe(source)
    both.increment(source).check()
    assert store.markers() == local.markers()
    assert len(store.markers()) == 3
    for number, member in enumerate((local, store, both.store)):
        target = tmp_path / f'target {number}'
        assert_restores(Agent(member), state, target)


@REAL
def test_the_others_get_the_backup_when_a_member_fails(
    store: S3Store, source: Path, tmp_path: Path
) -> None:
    # Read, and not write: what fails is the S3 member.
    local = LocalStore(tmp_path / 'local')
    both = Several(tmp_path / 'job', local, store)
    Agent(both).increment(source).check()
    before = store.files()
    failing = Several(tmp_path / 'failing', local, store, read_only=True)
    result = Agent(failing).increment(source)
    assert '[storage:s1]' in result.error
    assert 'AccessDenied' in result.error
    assert 'the backup is complete on l0' in result.error
    assert result.document['curr_backup_level'] == 1
    assert store.files() == before
    assert len(local.markers()) == 2
    assert_restores(Agent(local), source, tmp_path / 'target')
    # The chains are not the same any more.
    made = Agent(both).increment(source).check().document
    assert made['curr_backup_level'] == 0


@REAL
def test_restore_when_a_member_is_gone(
    store: S3Store, source: Path, tmp_path: Path
) -> None:
    local = LocalStore(tmp_path / 'local')
    both = Agent(Several(tmp_path / 'job', local, store))
    both.increment(source).check()
    (source / 'four').write_text('four')
    both.increment(source).check()
    local.directory.rename(tmp_path / 'away')
    assert_restores(both, source, tmp_path / 'without local')
    (tmp_path / 'away').rename(local.directory)
    store.section['endpoint'] = 'http://127.0.0.1:9'
    unreachable = Several(tmp_path / 'unreachable', store, local)
    assert_restores(Agent(unreachable), source, tmp_path / 'without s3')


@REAL
def test_verify_names_the_member(store: S3Store, source: Path, tmp_path: Path) -> None:
    local = LocalStore(tmp_path / 'local')
    both = Agent(Several(tmp_path / 'job', local, store))
    both.increment(source).check()
    both.increment(source).check()
    whole = both.run('verify', '--verify-data', '--metadata-out', '-').check()
    assert [(b['storage'], b['level'], b['ok']) for b in whole.document['backups']] == [
        (name, level, True) for name in ('l0', 's1') for level in (0, 1)
    ]
    (path,) = (path for path in store.files() if '/1_' in path and '/digests/' in path)
    store.delete(path)
    found = both.run('verify')
    assert '1 of 4 backups' in found.error
    (problem,) = (
        line for line in found.err.splitlines() if line.startswith('Problem: ')
    )
    assert problem.startswith(f'Problem: [storage:s1] {both.identity}, level 1 of ')
    assert f'{path} is missing' in problem
    # A member that has nothing is not whole either, nor is one that is gone.
    for path in local.files():
        local.delete(path)
    local.directory.mkdir()
    assert '[storage:l0]: No backup ' in both.run('verify').only_error
    local.directory.rmdir()
    assert '[storage:l0]: ' in both.run('verify').only_error


# exec


def test_exec_returns_the_status_of_the_command() -> None:
    python = shlex.quote(sys.executable)
    assert run('--action', 'exec', '--command', 'true').code == 0
    assert run('--action', 'exec', '--command', f'{python} -c "exit(7)"').code == 7
    assert run('--action', 'exec', '--command', 'sh -c "kill -9 $$"').code == 137
    assert 'no-such-program' in (
        run('--action', 'exec', '--command', 'no-such-program').only_error
    )


def test_exec_pipeline_without_a_shell(tmp_path: Path) -> None:
    file = tmp_path / 'file'
    refused = run('--action', 'exec', '--command', f'echo a > {file}')
    assert 'command: > is for a shell' in refused.only_error
    assert refused.code == 1
    command = f'echo "a  b" $HOME ";" ">" {file} | tr a-z A-Z'
    done = run('--action', 'exec', '--command', command).check()
    # Standard output is for the agent's own result.
    assert done.out == ''
    assert done.err == f'A  B $HOME ; > {str(file).upper()}\n'
    assert not file.exists()
    # As with pipefail.
    assert run('--action', 'exec', '--command', 'sh -c "exit 3" | cat').code == 3


def test_exec_dry_run(tmp_path: Path) -> None:
    file = tmp_path / 'file'
    command = ('--action', 'exec', '--command', f'touch {file}')
    run(*command, '--dry-run').check()
    assert not file.exists()
    run(*command).check()
    assert file.exists()


@pytest.mark.parametrize('operation', ['ListObjectsV2', 'UploadPart', 'PutObject'])
def test_a_member_that_hangs_does_not_hold_up_the_others(
    proxied: S3Store, proxy: Proxy, source: Path, tmp_path: Path, operation: str
) -> None:
    """It has its own time for that; see ``jobfile.rst``."""
    (source / 'big').write_bytes(os.urandom(6 << 20))
    local = LocalStore(tmp_path / 'local')
    both = Several(tmp_path / 'job', local, proxied)
    hasty = sections(local, proxied)
    for section in hasty.values():
        if section.get('storage') == 's3':
            section |= {'s3_read_timeout': 0.5, 's3_retry_budget': 2}
    both.options = ('--config', str(job_file(tmp_path / 'hasty', hasty)))
    proxy.interrupt(
        lambda request: request.operation == operation,
        lambda rest: rest.end(Ending.STALL),
    )
    result = in_parts(Agent(both)).backup(source)
    assert '[storage:s1]: ' in result.error
    assert 'the backup is complete on l0' in result.error
    assert len(local.markers()) == 1
    assert_restores(Agent(local), source, tmp_path / 'target')
    proxy.clear()
    assert proxied.markers() == []
    # All have the next one, which is not an increment.
    made = Agent(both).increment(source).check().document
    assert made['curr_backup_level'] == 0
    assert len(proxied.markers()) == 1
