"""Engine stream with ordinary commands, and the commands before and after an action."""

import json
import os
import pty
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from freezer.tests.agent import (
    Agent,
    LocalStore,
    in_parts,
    job_file,
    private,
)
from freezer.tests.functional.waiting import gone, until, until_gone
from freezer.tests.machine import with_broken

MIB = 1 << 20


@pytest.fixture
def agent(local: Agent) -> Agent:
    return local.told('--engine', 'stream')


def backup(agent: Agent, command: str, *options: object) -> None:
    agent.run('backup', '--json', '--stream-command', command, *options).check()


def shell(script: str) -> str:
    return shlex.join(['sh', '-c', script])


@pytest.mark.parametrize('encryption', ['', 'openssl', 'age'])
def test_a_stream_restores(encryption: str, store: LocalStore, tmp_path: Path) -> None:
    """To a file, to a command, and to standard output: byte for byte."""
    content = tmp_path / 'content'
    content.write_bytes(os.urandom(12 * MIB + 77))
    agent = in_parts(Agent(store)).told('--engine', 'stream')
    if encryption:
        passphrase = private(tmp_path / 'pass', 'correct horse\n')
        agent = agent.told('--encryption', encryption)
        agent = agent.told('--encrypt-pass-file', passphrase)
    backup(agent, f'cat {content} | cat', '--stream-name', 'a.bin')
    agent.restore(tmp_path / 'new').check()
    (made,) = (tmp_path / 'new').iterdir()
    assert (made.name, made.read_bytes()) == ('a.bin', content.read_bytes())
    assert made.stat().st_mode & 0o777 == 0o600
    assert 'a.bin exists: --overwrite' in agent.restore(tmp_path / 'new').error
    agent.restore(tmp_path / 'new', '--overwrite').check()
    copy = tmp_path / 'copy'
    agent.run('restore', '--restore-command', f'dd of={copy} status=none').check()
    assert copy.read_bytes() == content.read_bytes()
    digest = tmp_path / 'digest'
    words = [*agent_words(agent, 'dump')]
    with digest.open('wb') as file:
        subprocess.run(words, stdout=file, check=True, env=environment(agent))
    assert digest.read_bytes() == content.read_bytes()
    verified = agent.run('verify', '--verify-data').check()
    assert 'Verified 1 backup ' in verified.err
    assert 'Only the stored bytes' not in verified.err


def agent_words(agent: Agent, action: str, *options: object) -> list[str]:
    with agent.start(action, '--help') as process:
        process.wait()
    argv = [each for each in process.argv if each != '--help']
    return [*argv, *map(str, options)]


def environment(agent: Agent) -> dict[str, str]:
    return os.environ | {k: v for k, v in agent.env.items() if v is not None}


FAILING = [
    ('head -c 3000000 /dev/zero; exit 1', 'sh exited with 1'),
    ('echo all is well; echo disk is full >&2; exit 7', 'exited with 7: disk is full'),
    ('echo part; kill -9 $$', 'was killed by signal 9'),
    ('true', 'is empty, which is no backup'),
]


@pytest.mark.parametrize('script, reason', FAILING)
def test_a_command_that_fails_commits_nothing(
    agent: Agent, script: str, reason: str
) -> None:
    """Also if it wrote everything."""
    failed = agent.run('backup', '--stream-command', shell(script))
    assert reason in failed.error
    assert agent.store.is_untouched()


@pytest.mark.parametrize('number', range(3))
def test_each_process_of_a_pipeline_counts(agent: Agent, number: int) -> None:
    parts = ['echo content', 'cat', 'cat']
    parts[number] = shell('cat; echo content; exit 5')
    failed = agent.run('backup', '--stream-command', ' | '.join(parts))
    assert 'exited with 5' in failed.error
    assert agent.store.is_untouched()


def test_the_standard_error_is_bounded_and_has_no_password(agent: Agent) -> None:
    script = 'echo x; yes error-$MYSQL_PWD | head -c 9000000 >&2; exit 1'
    failed = agent.told(MYSQL_PWD='tiger').run(
        'backup', '--stream-command', shell(script)
    )
    assert 'error-***' in failed.error
    assert 'tiger' not in failed.err
    assert len(failed.err) < 2000


def test_the_variables_of_a_command(agent: Agent, tmp_path: Path) -> None:
    """Those of databases; none that may be a key of the storage."""
    agent = agent.told(SECRET_KEY='sk', OS_PASSWORD='word', PGHOST='db1', TOKEN='t')
    backup(agent, 'env', '--stream-name', 'env')
    agent.restore(tmp_path / 'new').check()
    found = (tmp_path / 'new/env').read_text()
    assert 'PGHOST=db1' in found
    assert not any(name in found for name in ('SECRET_KEY', 'OS_PASSWORD', 'TOKEN'))


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_command_is_silent(
    agent: Agent, number: signal.Signals, tmp_path: Path
) -> None:
    """It is killed at once, with its children, and the claim is gone."""
    pid = tmp_path / 'pid'
    script = f'echo begun; sleep 600 & echo $! >{pid}.new; mv {pid}.new {pid}; wait'
    with agent.start('backup', '--stream-command', shell(script)) as process:
        until(pid.exists, process)
        process.send(number)
        assert process.wait().code == -number
        child = int(pid.read_text())
        until_gone(child)
        assert gone(child)
    assert agent.store.is_untouched()


RESTORES = [
    ('true', 'did not read all of the backup'),
    ('head -c 5', 'did not read all of the backup'),
    (shell('cat >/dev/null; echo no such table >&2; exit 2'), 'with 2: no such table'),
    ('/no/such/program', 'there is no program /no/such/program'),
]


@pytest.mark.parametrize('command, reason', RESTORES)
@pytest.mark.parametrize('size', [100, 3 * MIB])
def test_a_restore_command_that_fails(
    agent: Agent, command: str, reason: str, size: int
) -> None:
    backup(agent, f'head -c {size} /dev/zero')
    assert reason in agent.run('restore', '--restore-command', command).error


def test_a_damaged_stream_has_no_end(agent: Agent, tmp_path: Path) -> None:
    """The command is killed before it could take the damage for the end."""
    agent = in_parts(agent)
    backup(agent, 'head -c 70000000 /dev/urandom')
    store = agent.store
    (data,) = (path for path in store.files() if path.endswith('/data'))
    content = store.files()[data]
    store.put(data, content[:-1000] + b'x' + content[-999:])
    begun, ended = tmp_path / 'begun', tmp_path / 'ended'
    script = shell(f'touch {begun}; cat >/dev/null; touch {ended}')
    assert 'verify' in agent.run('restore', '--restore-command', script).error
    assert (begun.exists(), ended.exists()) == (True, False)
    failed = agent.restore(tmp_path / 'new')
    assert 'verify' in failed.error
    assert list((tmp_path / 'new').iterdir()) == []


# Standard input


def piped(agent: Agent, text: bytes, *options: object) -> 'subprocess.Popen[bytes]':
    words = agent_words(agent, 'backup', '--path-to-backup', '-', *options)
    return subprocess.run(  # type: ignore[return-value]
        words, input=text, capture_output=True, env=environment(agent)
    )


def test_standard_input(agent: Agent, tmp_path: Path) -> None:
    assert piped(agent, b'', '--quiet').returncode == 1
    assert agent.store.is_untouched()
    noise = os.urandom(3 * MIB)
    assert piped(agent, noise).returncode == 0
    agent.restore(tmp_path / 'new').check()
    assert (tmp_path / 'new/stream').read_bytes() == noise


def test_a_script_in_place_of_a_preset_runs_once(agent: Agent, tmp_path: Path) -> None:
    """Its version is not asked for: it may take no arguments."""
    script = tmp_path / 'script'
    script.write_text(f'#!/bin/sh\necho x | tee -a {tmp_path}/runs\n')
    script.chmod(0o755)
    backup(agent, str(script), '--stream', 'mongodump')
    assert (tmp_path / 'runs').read_text() == 'x\n'


def test_a_terminal_is_refused(agent: Agent) -> None:
    words = agent_words(agent, 'backup', '--path-to-backup', '-')
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            words, stdin=theirs, capture_output=True, env=environment(agent)
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert b'standard input is a terminal' in done.stderr
    assert agent.store.is_untouched()


MISTAKES = [
    ((), 'engine stream needs --stream PRESET'),
    (('--path-to-backup', '/etc'), 'backs up no files, and /etc is one'),
    (('--stream', 'pg_dump', '--path-to-backup', '-'), 'leave out --path-to-backup'),
    (('--stream-command', 'a && b'), '&& is for a shell'),
    (('--stream-command', '/no/program'), 'there is no program /no/program'),
    (('--stream-arguments', 'x', '--stream-command', 'y'), 'stream-arguments needs'),
    (
        ('--stream', 'mariadb-dump', '--stream-arguments=--password=tiger'),
        'stream-arguments: a password',
    ),
    (('--stream', 'mariadb-dump', '--stream-arguments=-ptiger'), 'a password'),
    (('--stream-command', 'x', '--stream-name', 'a/b'), 'not the name of a file'),
    (('--stream-command', 'x', '--incremental'), 'has no increments of x'),
    (('--path-to-backup', '-', '--incremental'), 'no increments of standard input'),
    (('--stream', 'pg_basebackup', '--incremental'), 'increments of pg_basebackup (P'),
]


@pytest.mark.parametrize('options, reason', MISTAKES)
def test_mistakes(agent: Agent, options: tuple[str, ...], reason: str) -> None:
    failed = agent.run('backup', *options)
    assert reason in failed.error
    assert 'tiger' not in failed.err
    assert agent.store.is_untouched()


def test_options_of_another_engine(local: Agent, source: Path) -> None:
    failed = local.backup(source, '--stream-command', 'x')
    assert 'stream-command belongs to engine stream' in failed.error


# Commands before and after

RECORD = shell('env >$0.env; cat >$0.in').replace('$0', 'FILE')


def recorded(path: Path) -> dict[str, str]:
    lines = path.with_name(path.name + '.env').read_text().splitlines()
    found = dict(line.split('=', 1) for line in lines if '=' in line)
    return {k: v for k, v in found.items() if k.startswith('FREEZER_')}


def test_before_and_after(local: Agent, source: Path, tmp_path: Path) -> None:
    """The source may be made by the first command."""
    late = tmp_path / 'late'
    record = RECORD.replace('FILE', str(tmp_path / 'post'))
    hooks = ('--pre-command', f'cp -r {source} {late}', '--post-command', record)
    made = local.backup(late, *hooks).check()
    found = recorded(tmp_path / 'post')
    assert json.loads((tmp_path / 'post.in').read_text()) == made.document
    assert found['FREEZER_MESSAGE'] == made.err.splitlines()[0]
    assert (found['FREEZER_RESULT'], found['FREEZER_LEVEL']) == ('ok', '0')
    assert found['FREEZER_CONTAINER'] == local.options[3]
    before = RECORD.replace('FILE', str(tmp_path / 'pre'))
    local.restore(tmp_path / 'new', '--pre-command', before).check()
    assert recorded(tmp_path / 'pre')['FREEZER_ACTION'] == 'restore'
    assert 'belong to action backup' in local.run('info', *hooks).error
    shown = local.backup(source, *hooks, '--dry-run').check()
    assert f'Would run cp -r {source} {late}' in shown.err


def test_a_pre_command_that_fails(local: Agent, source: Path, tmp_path: Path) -> None:
    record = RECORD.replace('FILE', str(tmp_path / 'post'))
    pre = shell('echo no lock >&2; exit 4')
    failed = local.backup(source, '--pre-command', pre, '--post-command', record)
    assert 'exited with 4: no lock; nothing else was done' in failed.error
    assert local.store.is_untouched()
    found = recorded(tmp_path / 'post')
    assert (found['FREEZER_RESULT'], found['FREEZER_EXIT_CODE']) == ('failed', '1')


def test_a_post_command_that_fails(local: Agent, source: Path) -> None:
    """The backup stays; after another error, that is the one to report."""
    post = ('--post-command', shell('echo still busy >&2; exit 2'))
    failed = local.backup(source, *post)
    assert 'with 2: still busy; the backup is committed' in failed.error
    assert len(local.store.markers()) == 1
    failed = local.backup(source / 'missing', *post)
    assert 'missing' in failed.error
    slow = local.backup(source, '--post-command', 'sleep 60', '--hook-timeout', '1')
    assert 'took longer than 1 s; the backup is committed' in slow.error


def test_a_post_command_after_a_signal(local: Agent, tmp_path: Path) -> None:
    """It has more time than the agent itself."""
    mark, ended = tmp_path / 'begun', tmp_path / 'ended'
    agent = local.told('--engine', 'stream')
    command = shell(f'echo x; touch {mark}; sleep 600')
    post = shell(f'sleep 5; echo $FREEZER_RESULT $FREEZER_EXIT_CODE >{ended}')
    with agent.start(
        'backup', '--stream-command', command, '--post-command', post
    ) as process:
        until(mark.exists, process)
        process.send(signal.SIGTERM)
        assert process.wait().code == -signal.SIGTERM
    assert ended.read_text() == 'failed 143\n'
    assert agent.store.is_untouched()


def test_a_signal_during_a_post_command(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    """It runs to its end, in more time than the agent itself has."""
    begun, ended = tmp_path / 'begun', tmp_path / 'ended'
    post = shell(f'touch {begun}; sleep 5; echo $FREEZER_RESULT >{ended}')
    options = ('--path-to-backup', source, '--post-command', post)
    with local.start('backup', *options) as process:
        until(begun.exists, process)
        process.send(signal.SIGTERM)
        assert process.wait().code == -signal.SIGTERM
    assert ended.read_text() == 'ok\n'
    assert len(local.store.markers()) == 1


def test_a_post_command_that_fails_after_an_incomplete_backup(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    """The command gets the exit code 3, and the agent exits with 1."""
    record = shell(f'echo $FREEZER_EXIT_CODE $FREEZER_STATUS >{tmp_path}/code; exit 2')
    (source / 'bad').write_bytes(b'content')
    failed = with_broken(local, 'bad').backup(source, '--post-command', record)
    assert (tmp_path / 'code').read_text() == '3 incomplete\n'
    assert (failed.code, len(local.store.markers())) == (1, 1)
    assert 'exited with 2; the backup is committed' in failed.error
    assert 'read error' in failed.err


def test_hooks_that_write_and_read_more_than_a_pipe_holds(
    local: Agent, source: Path
) -> None:
    noise = shell('cat; head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2')
    local.backup(source, '--pre-command', noise, '--post-command', noise).check()


def test_a_signal_during_a_pre_command(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    begun, ended = tmp_path / 'begun', tmp_path / 'ended'
    hooks = (
        *('--pre-command', shell(f'touch {begun}; sleep 600; :')),
        *('--post-command', f'touch {ended}'),
    )
    with local.start('backup', '--path-to-backup', source, *hooks) as process:
        until(begun.exists, process)
        process.send(signal.SIGTERM)
        assert process.wait().code == -signal.SIGTERM
    assert ended.exists()
    assert local.store.is_untouched()


def test_the_variables_of_hooks_have_no_secrets(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    names = ('SECRET_KEY', 'ACCESS_KEY', 'OS_PASSWORD', 'PGPASSWORD', 'TOKEN')
    agent = local.told(**dict.fromkeys(names, 'tiger'))
    hooks = [
        (f'--{name}-command', shell(f'env >{tmp_path}/{name}'))
        for name in ('pre', 'post')
    ]
    agent.backup(source, *hooks[0], *hooks[1]).check()
    for name in ('pre', 'post'):
        found = (tmp_path / name).read_text()
        assert 'FREEZER_ACTION=backup' in found
        assert 'tiger' not in found


def test_a_job_file(local: Agent, tmp_path: Path) -> None:
    options = {
        'action': 'backup',
        'engine': 'stream',
        'stream_command': 'echo "two  words"',
        'stream_name': 'text',
        'pre_command': f'touch {tmp_path}/pre',
        'backup_name': 'job',
    }
    path = job_file(tmp_path / 'job', {'job': {**local.store.section, **options}})
    words = [*agent_words(local, 'info')][:1]
    subprocess.run([*words, '--config', path], check=True, capture_output=True)
    assert (tmp_path / 'pre').exists()
    assert len(local.store.markers()) == 1
