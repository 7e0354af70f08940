"""What a backup is made of, and where the agent runs, is odd: it says so, or holds."""

import os
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest

from freezer.engine.tar import snapshot
from freezer.tests import trees
from freezer.tests.agent import (
    ROOT,
    Agent,
    Result,
    assert_restores,
    job_file,
    missed,
    run,
)
from freezer.tests.commands import run_command

pytestmark = pytest.mark.usefixtures('cold')

JOB = ROOT / 'etc/freezer/scheduler/daily-s3.conf.example'
# What is this much older than a level counts as not changed by the next.
OLD = snapshot.MARGIN_NANOSECONDS / 10**9 + 0.1


def level(agent: Agent, path: object) -> int:
    made: int = agent.increment(path).check().document['curr_backup_level']
    return made


# Single files


@pytest.mark.parametrize('other', ['other', 'folder/one'])
def test_another_single_file_begins_a_chain(
    local: Agent, tmp_path: Path, other: str
) -> None:
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'one').write_text('first')
    (tmp_path / other).write_text('second')
    time.sleep(OLD)
    assert level(local, tmp_path / 'one') == 0
    assert level(local, tmp_path / 'one') == 1
    # Once: nothing was stored, because it is older, and the first came back.
    assert level(local, tmp_path / other) == 0
    local.restore(tmp_path / 'target').check()
    assert os.listdir(tmp_path / 'target') == [Path(other).name]
    assert (tmp_path / 'target' / Path(other).name).read_text() == 'second'


def test_directory_that_became_a_file_and_a_directory(
    local: Agent, tmp_path: Path
) -> None:
    path = tmp_path / 'path'
    path.mkdir()
    (path / 'inside').write_text('inside')
    assert level(local, path) == 0
    (path / 'inside').unlink()
    path.rmdir()
    path.write_text('a file')
    # Once: what the directory had held came back as well.
    assert level(local, path) == 0
    local.restore(tmp_path / 'file').check()
    assert os.listdir(tmp_path / 'file') == ['path']
    path.unlink()
    path.mkdir()
    (path / 'later').write_text('later')
    assert level(local, path) == 0
    assert level(local, path) == 1
    assert_restores(local, path, tmp_path / 'directory')


# Paths that are no directory and no file


@pytest.mark.parametrize('action', ['backup', 'dry-run'])
def test_fifo_is_not_waited_for(local: Agent, tmp_path: Path, action: str) -> None:
    os.mkfifo(tmp_path / 'fifo')
    if action == 'dry-run':
        local.backup(tmp_path / 'fifo', '--dry-run').check()
        return
    local.backup(tmp_path / 'fifo').check()
    local.restore(tmp_path / 'target').check()
    assert (tmp_path / 'target' / 'fifo').is_fifo()


def test_socket_is_refused(local: Agent, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / 'socket'))
        assert 'a socket' in local.backup(tmp_path / 'socket').only_error
    assert local.store.is_untouched()


def test_link_to_a_file_is_reported(local: Agent, tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('content')
    (tmp_path / 'link').symlink_to('file')
    assert 'is a symbolic link' in local.backup(tmp_path / 'link').check().err
    local.restore(tmp_path / 'as a link').check()
    assert os.readlink(tmp_path / 'as a link' / 'link') == 'file'
    followed = local.told('--dereference-symlink', 'soft')
    said = followed.backup(tmp_path / 'link').check().err
    assert 'is a symbolic link' not in said
    local.restore(tmp_path / 'followed').check()
    assert (tmp_path / 'followed' / 'link').read_text() == 'content'
    assert not (tmp_path / 'followed' / 'link').is_symlink()


# Retention


@pytest.mark.parametrize('days', ['1000000', '1e300', '1e308'])
def test_ages_before_1970_remove_nothing(local: Agent, source: Path, days: str) -> None:
    local.backup(source, '--remove-older-than', days).check()
    said = local.run('admin', '--remove-older-than', days).check().err
    newer = 'every chain has a backup newer than 1970-01-01T00:00:00Z'
    assert said == f'Nothing to remove: {newer}\n'
    local.run('admin', '--remove-before-date', '0001-01-01T00:00:00+14:00').check()
    assert len(local.store.markers()) == 1


def test_folders_without_a_timestamp_are_ignored(local: Agent, source: Path) -> None:
    local.backup(source).check()
    far = '9' * 12
    path = f'tar/{local.identity}/{far}/0_{far}'
    local.store.put(f'metadata/{path}/metadata', b'{}')
    local.store.put(f'data/{path}/data', b'')
    assert far not in local.run('info').check().out
    local.run('verify').check()
    assert local.increment(source).check().document['curr_backup_level'] == 1


# Standard streams, and the machine


def shell(command: str, agent: Agent, *arguments: object) -> Result:
    """The agent, started by a shell that ends in ``"$@"`` and some redirection."""
    runner = ('sh', '-c', command, 'sh')
    return agent.run_by(*runner).run(*map(str, arguments))


@pytest.mark.parametrize('streams', ['<&- >&- 2>&-', '2>/dev/full', '2>&- <&-'])
def test_closed_standard_streams(
    local: Agent, source: Path, tmp_path: Path, streams: str
) -> None:
    command = f'exec "$@" {streams}'
    shell(command, local, 'backup', '--path-to-backup', source).check()
    target = tmp_path / 'target'
    restored = shell(command, local, 'restore', '--restore-abs-path', target).check()
    # Once, with standard error closed: what is for a person was in the result.
    assert restored.out == ''
    assert missed(trees.describe(source), target) == []
    again = shell(command, local, 'restore', '--restore-abs-path', target)
    assert again.code == 1


@pytest.mark.parametrize('stream', ['>&-', '>/dev/full'])
def test_unwritable_output_fails(local: Agent, source: Path, stream: str) -> None:
    options = ('--path-to-backup', source, '--metadata-out', '-')
    result = shell(f'exec "$@" {stream}', local, 'backup', *options)
    assert 'the action succeeded, but standard output' in result.error
    assert len(local.store.markers()) == 1


@pytest.mark.parametrize('stream', ['>&-', '>/dev/full'])
@pytest.mark.parametrize(
    'words',
    [
        ('freezer-scheduler', 'validate', JOB),
        ('freezer-scheduler', 'status', '--json', '--no-api'),
        ('freezer-scheduler', '--help'),
        ('freezer-scheduler', '--version'),
        ('freezer-agent', '--help'),
        ('freezer-agent', '--version'),
    ],
    ids=lambda words: ' '.join(map(str, words[:2])),
)
def test_an_output_that_is_lost_fails(words: tuple[object, ...], stream: str) -> None:
    command, *arguments = words
    ran = run_command(
        *('sh', '-c', f'exec "$@" {stream}', 'sh'),
        *(Path(sys.executable).with_name(str(command)), *arguments),
    )
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith('Error: standard output ')
    assert line.endswith(' before the result was written')


@pytest.mark.parametrize('path', ['.', 'nowhere/file'])
def test_result_that_cannot_be_written_is_refused_first(
    local: Agent, source: Path, tmp_path: Path, path: str
) -> None:
    arguments = ('--path-to-backup', source, '--metadata-out', tmp_path / path)
    assert 'metadata-out' in local.run('backup', *arguments).only_error
    assert local.store.is_untouched()


def test_removed_working_directory(local: Agent, source: Path, tmp_path: Path) -> None:
    gone = (
        f'mkdir "{tmp_path}/gone" && cd "{tmp_path}/gone" && rmdir ../gone && exec "$@"'
    )
    shell(gone, local, 'backup', '--path-to-backup', source).check()
    assert_restores(local, source, tmp_path / 'target')
    error = shell(gone, local, 'backup', '--path-to-backup', 'relative').error
    assert error.startswith('Error: No such file or directory')


def test_limit_of_open_files_fails_the_backup(local: Agent, source: Path) -> None:
    few = shell('ulimit -n 12; exec "$@"', local, 'backup', '--path-to-backup', source)
    assert 'Too many open files' in few.error
    assert local.store.markers() == []


def test_unwritable_log_only_warns(local: Agent, source: Path, tmp_path: Path) -> None:
    (tmp_path / 'log').symlink_to('/dev/full')
    made = local.backup(source, '--log-file', tmp_path / 'log').check()
    # When it happens, and once more with what was done.
    assert 1 <= made.err.count('the log cannot be written: ') <= 2
    assert 'Traceback' not in made.err
    assert made.document['curr_backup_level'] == 0


# What is not a host, a proxy or a key


@pytest.mark.parametrize(
    'endpoint',
    ['http://a..b', 'http://exa mple', 'http://ü.example', f'http://{"a" * 64}.x'],
)
def test_endpoint_without_a_host_name_is_refused(source: Path, endpoint: str) -> None:
    result = run(
        *('--storage', 's3', '--container', 'bucket', '--path-to-backup', source),
        *('--access-key', 'a', '--secret-key', 'b', '--endpoint', endpoint),
    )
    assert 'is not a host name' in result.only_error


@pytest.mark.parametrize('proxy', ['http://u:pAss@[::1', 'http://u:pAss@h:99999'])
def test_malformed_proxy_is_refused(local: Agent, source: Path, proxy: str) -> None:
    error = local.backup(source, '--proxy', proxy).only_error
    assert 'proxy: must be a URL' in error
    assert 'pAss' not in error


def test_two_spellings_of_one_key(local: Agent, source: Path, tmp_path: Path) -> None:
    job = tmp_path / 'job'
    job.write_text('[job]\nremove-older-than = 30\nremove_older_than = 3\n')
    assert 'is given twice' in local.backup(source, '--config', job).only_error


@pytest.mark.parametrize('key', ['config', 'config_file', 'config-dir'])
def test_job_file_cannot_name_another_file(
    local: Agent, source: Path, tmp_path: Path, key: str
) -> None:
    job = job_file(tmp_path / 'job', {'job': {key: tmp_path}})
    error = local.backup(source, '--config', job).only_error
    assert f'{key.replace("-", "_")} is not an option of this agent' in error


# Exclusion


def test_file_that_is_no_longer_excluded_is_stored(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    for name in ('never.o', 'first.o', 'file'):
        (source / name).write_text('first')
    excluding = local.told('--exclude', '*.o')
    time.sleep(OLD)
    # Once: not in level 1, because it is older than level 0, which has not got it.
    assert level(excluding, source) == 0
    assert level(local, source) == 1
    (source / 'first.o').write_text('second')
    time.sleep(OLD)
    # Once: not in level 3, because it is older than level 2, which left it out.
    assert level(excluding, source) == 2
    assert level(excluding, source) == 3
    assert level(local, source) == 4
    assert_restores(local, source, tmp_path / 'target')


def test_directory_that_is_excluded_later_keeps_its_attributes(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    inner = source / 'sub' / 'cache' / 'inner'
    inner.mkdir(parents=True)
    (inner / 'file').write_text('content')
    os.setxattr(inner, 'user.note', b'kept')
    inner.chmod(0o2751)
    os.utime(inner, ns=(1, 1234567891))
    before = trees.describe(source)
    assert level(local, source) == 0
    for number in (1, 2):
        assert level(local.told('--exclude', 'cache'), source) == number
    for options in ([], ['--include', 'sub/cache/inner']):
        target = tmp_path / str(len(options))
        local.restore(target, *options).check()
        # Once: 0700, without attributes.
        path = b'sub/cache/inner'
        assert trees.describe(target)[path] == before[path]


def test_overwrite_keeps_excluded(local: Agent, source: Path, tmp_path: Path) -> None:
    (source / 'sub' / 'cache' / 'inner').mkdir(parents=True)
    (source / 'sub' / 'cache' / 'file').write_text('content')
    (source / 'sub' / 'cache' / 'inner').chmod(0o751)
    assert level(local.told('--exclude', 'cache'), source) == 0
    (source / 'sub' / 'gone').touch()
    for options in ([], ['--include', 'sub']):
        target = tmp_path / str(len(options))
        shutil.copytree(source, target)
        os.utime(target / 'sub' / 'cache', ns=(1, 987654321))
        cache = trees.describe(target / 'sub' / 'cache')
        said = local.restore(target, '--overwrite', *options).check().err
        # Once: all that is in it was said to go, and with --include it went.
        assert f'Removing 1 path not in the backup from {target}:\n  sub/gone\n' in said
        assert trees.describe(target / 'sub' / 'cache') == cache


@pytest.mark.parametrize('pattern, path', [('.', ''), ('*.o', 'file.o')])
def test_excluding_everything_is_refused(
    local: Agent, source: Path, pattern: str, path: str
) -> None:
    (source / 'file.o').write_text('content')
    result = local.backup(source / path, '--exclude', pattern)
    assert 'leaves nothing to back up' in result.only_error
    assert local.store.markers() == []
