"""The passphrase from a command and from a file descriptor."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from freezer.tests.agent import ROOT, Agent, assert_restores, job_file, private
from freezer.tests.commands import run_command
from freezer.tests.pages import blocks

PAGE = ROOT / 'doc' / 'source' / 'user' / 'encryption.rst'
WORDS = 'correct horse battery staple'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return private(tmp_path / 'pass', f'{WORDS}\nanother line\n')


@pytest.fixture(params=['age', 'openssl'])
def agent(local: Agent, request: pytest.FixtureRequest) -> Agent:
    return local.told('--encryption', request.param)


def opening(agent: Agent, descriptor: int, text: str) -> Agent:
    """The agent, started by a shell with a redirection."""
    script = f'exec "$@" {descriptor}{text}'
    return agent.run_by('bash', '-c', script, 'bash').told(
        '--encrypt-pass-fd', str(descriptor)
    )


def test_a_command(agent: Agent, source: Path, file: Path, tmp_path: Path) -> None:
    calls, seen = tmp_path / 'calls', tmp_path / 'seen'
    script = tmp_path / 'give'
    script.write_text(f'#!/bin/sh\necho x >>{calls}\nenv >{seen}\ncat {file}\n')
    script.chmod(0o755)
    log = tmp_path / 'log'
    options = ('--encrypt-pass-command', str(script), '--debug', '--log-file', log)
    told = agent.told(*options, SECRET_KEY='sk/of+it', OS_S3__SESSION_TOKEN='sk/of+it')
    results = [told.increment(source).check() for _level in range(2)]
    results.append(told.run('verify', '--verify-data').check())
    # Once for each run.
    assert calls.read_text() == 'x\n' * 3
    assert 'sk/of+it' not in seen.read_text()
    for text in (log.read_text(), *(each.out + each.err for each in results)):
        assert WORDS not in text
    assert f'--encrypt-pass-command {script}' in results[0].err
    target = tmp_path / 'target'
    assert_restores(agent.told('--encrypt-pass-file', file), source, target)
    shutil.rmtree(target)
    assert_restores(told, source, target)


@pytest.mark.parametrize('descriptor', [0, 3, 9])
def test_a_descriptor(
    agent: Agent, source: Path, file: Path, tmp_path: Path, descriptor: int
) -> None:
    told = opening(agent, descriptor, f'< <(cat {file})')
    made = [told.increment(source).check() for _level in range(2)]
    assert 'Restore, with the same encrypt-pass-fd: ' in made[0].err
    assert WORDS not in made[0].out + made[0].err
    job = job_file(tmp_path / 'job', {'job': {'encrypt_pass_fd': descriptor}})
    restoring = agent.told('--config', job)
    restoring = restoring.run_by('bash', '-c', f'exec "$@" {descriptor}<{file}', 'bash')
    assert_restores(restoring, source, tmp_path / 'target')


@pytest.mark.parametrize(
    'command, error',
    [
        (
            f"sh -c 'echo {WORDS}; echo not {WORDS} >&2; exit 4'",
            'encrypt-pass-command sh: exited with 4: not ***',
        ),
        ('/none/such', 'encrypt-pass-command /none/such: No such file or directory'),
        ('true', 'encrypt-pass-command: its first line is empty'),
        ('cat f && true', 'encrypt-pass-command: && is for a shell'),
    ],
)
def test_a_command_that_gives_none(
    agent: Agent, source: Path, command: str, error: str
) -> None:
    failed = agent.backup(source, '--encrypt-pass-command', command)
    assert failed.code == 1
    assert failed.only_error.startswith(f'Error: {error}')
    assert agent.store.markers() == []


def test_descriptors_that_give_none(agent: Agent, source: Path) -> None:
    failed = agent.backup(source, '--encrypt-pass-fd', '77')
    assert 'encrypt-pass-fd 77: the agent was started without' in failed.only_error
    # Agents have opened files of their own by then.
    for number in range(3, 10):
        failed = agent.run_by('env').backup(source, '--encrypt-pass-fd', number)
        assert f'encrypt-pass-fd {number}: the agent was' in failed.only_error
    failed = opening(agent, 3, '</').backup(source)
    assert failed.only_error == 'Error: encrypt-pass-fd 3: Is a directory'
    failed = opening(agent, 3, '</dev/null').backup(source)
    assert failed.only_error == 'Error: encrypt-pass-fd 3: its first line is empty'


@pytest.mark.parametrize(
    'options',
    [
        ('--encrypt-pass-file', '/none', '--encrypt-pass-command', 'true'),
        ('--encrypt-pass-command', 'true', '--encrypt-pass-fd', '0'),
        ('--encrypt-pass-file', '/none', '--encrypt-pass-fd', '0'),
    ],
)
def test_several_are_refused(
    local: Agent, source: Path, options: tuple[str, ...]
) -> None:
    first, other = options[0][2:], options[2][2:]
    failed = local.backup(source, *options)
    assert failed.only_error == f'Error: {first} and {other}: pass one of them'


@pytest.mark.skipif(not shutil.which('age'), reason='no age (Debian: age)')
def test_the_command_of_the_page(
    local: Agent, source: Path, file: Path, tmp_path: Path
) -> None:
    (block,) = [
        block
        for block in blocks(PAGE)
        if block.said.get('run by', '').endswith(Path(__file__).name)
    ]
    ((typed, _output),) = block.commands()
    words = shlex.split(typed.replace('\\\n', ''))
    at = words.index('--encrypt-pass-command')
    key, sealed = tmp_path / 'key', tmp_path / 'passphrase.age'
    run_command('age-keygen', '-o', key, check=True)
    done = subprocess.run(['age-keygen', '-y', key], capture_output=True, check=True)
    recipient = done.stdout.decode().strip()
    run_command('age', '-r', recipient, '-o', sealed, file, check=True)
    for old, new in {'/media/key': key, '/etc/freezer/passphrase.age': sealed}.items():
        assert old in words[at + 1]
        words[at + 1] = words[at + 1].replace(old, str(new))
    told = local.told('--encryption', 'age', *words[at : at + 2])
    told.backup(source).check()
    told = local.told('--encrypt-pass-file', file)
    assert_restores(told, source, tmp_path / 'target')
