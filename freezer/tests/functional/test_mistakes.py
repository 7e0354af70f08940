"""What users mistype or overlook, and what the commands answer."""

import itertools
import os
import pty
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.tests import scheduler
from freezer.tests.agent import (
    Agent,
    LocalStore,
    command,
    environment,
    job_file,
    run,
)
from freezer.tests.commands import run_command

# Terminals and pipes


def on_terminal(*words: object) -> list[str]:
    """What a command that succeeds shows on a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*command(), *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=environment(),
    ) as process:
        os.close(theirs)
        shown = b''.join(iter(lambda: _read(ours), b'')).decode()
        os.close(ours)
    assert process.returncode == 0, shown
    return [
        line.rpartition('\r')[2] for line in shown.replace('\r\n', '\n').split('\n')
    ]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b''


def test_a_backup_on_a_terminal(local: Agent, source: Path) -> None:
    words = ('--action', 'backup', *local.options, '--path-to-backup', source)
    summary = [
        *('Backed up', '  To:', '  Read:', '  Stored:', '  Took:', 'To restore'),
    ]
    lines = on_terminal(*words)
    start = next(n for n, line in enumerate(lines) if line.startswith('Backed up'))
    for line, head in zip(lines[start:], summary, strict=False):
        assert line.startswith(head)
    assert not any(line.startswith(('+', '|')) for line in lines)
    long = on_terminal(*words, '--long')
    assert sum(line.startswith('| ') for line in long) > 30
    # For a pipe it is as it was.
    assert local.run('backup', '--path-to-backup', source).out.count('\n| ') > 30


READERS = ('list', 'info', 'find --include file*', 'diff --from-date now')


@pytest.mark.parametrize('action', READERS)
def test_a_reader_that_leaves(local: Agent, source: Path, action: str) -> None:
    for number in range(3000):
        (source / f'file{number}').touch()
    local.backup(source).check()
    words = (*action.split(), *local.options)
    assert piped(*command(), '--action', *words) == (0, '')


@pytest.mark.parametrize('word', ['--help', '--version'])
def test_a_reader_of_the_help_leaves(word: str) -> None:
    assert piped(*command(), word) == (0, '')
    assert piped(*scheduler.command(), word) == (0, '')


def test_a_reader_of_the_scheduler_leaves(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f'{number}.conf').write_text('{}')
    found = piped(*scheduler.command(), 'validate', tmp_path)
    # The jobs are invalid.
    assert found == (1, '')


def piped(*words: object) -> tuple[int, str]:
    """Exit code and standard error of a command whose reader has gone at once."""
    line = f'{shlex.join(map(str, words))} | true; exit ${{PIPESTATUS[0]}}'
    done = run_command('bash', '-c', line, env=environment())
    return done.returncode, done.stderr


# A local container


@pytest.fixture(params=['file', 'below a file', 'dangling', 'loop', 'socket'])
def no_folder(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Path, str]]:
    path = tmp_path / 'container'
    if request.param == 'file':
        path.touch()
        yield path, 'is not a directory'
    elif request.param == 'below a file':
        path.touch()
        yield path / 'below', f'{path} is not a directory'
    elif request.param == 'dangling':
        path.symlink_to('nowhere')
        yield path, 'is a symbolic link to nowhere, which does not exist'
    elif request.param == 'loop':
        path.symlink_to('container')
        yield path, 'Too many levels of symbolic links'
    else:
        os.mkfifo(path)
        yield path, 'is not a directory'


def test_a_container_that_is_no_directory(
    no_folder: tuple[Path, str], source: Path, tmp_path: Path
) -> None:
    path, problem = no_folder
    agent = Agent(LocalStore(path))
    for words in (
        ('backup', '--path-to-backup', source),
        ('backup', '--path-to-backup', source, '--dry-run'),
        ('restore', '--restore-abs-path', tmp_path / 'target'),
        ('info',),
        ('check',),
        ('verify',),
    ):
        assert agent.run(*words).only_error.startswith(
            f'Error: container {path}: {problem}'
        )


SPELLINGS = ('{0}/', '{0}/../copies', '{0}/.', '{1}/link', '{1}//copies')


@pytest.mark.parametrize('pair', [*itertools.combinations(SPELLINGS, 2)])
@pytest.mark.parametrize('exists', [True, False])
def test_one_directory_in_two_spellings(
    source: Path, tmp_path: Path, pair: tuple[str, str], exists: bool
) -> None:
    copies = tmp_path / 'copies'
    (tmp_path / 'link').symlink_to('copies')
    if exists:
        copies.mkdir()
    config = job_file(
        tmp_path / 'job',
        {
            f'storage:{name}': {
                'storage': 'local',
                'container': each.format(copies, tmp_path),
            }
            for name, each in zip('ab', pair, strict=True)
        },
    )
    error = run('--config', config, '--path-to-backup', source).only_error
    assert '[storage:a] and [storage:b] are the same container' in error
