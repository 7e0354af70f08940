"""Completion, by the shells themselves."""

import os
import pty
import re
import select
import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.tests.agent import ROOT
from freezer.tests.commands import run_command

ENGINES = {'blocks', 'cinder', 'glance', 'nova', 'rsync', 'rsyncv2', 'stream', 'tar'}
_SECONDS = 60
COMMANDS = ('freezer-agent', 'freezer-scheduler')


def offered(*words: str) -> tuple[set[str], set[str]]:
    """What bash offers for the last word; and what else it is told to look for."""
    script = ROOT / 'etc/bash-completion' / words[0]
    function = f'_{words[0].replace("-", "_")}'
    # bash has compopt while it completes only.
    command = (
        'compopt() { echo "compopt $*"; }; source "$0"; COMP_WORDS=("$@"); '
        f'COMP_CWORD=$(($# - 1)); {function}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    ended = run_command('bash', '--norc', '-c', command, script, *words, check=True)
    assert ended.stderr == ''
    lines = set(ended.stdout.split('\n')) - {''}
    looked = {line for line in lines if line.startswith('compopt ')}
    return lines - looked, {line.removeprefix('compopt ') for line in looked}


@pytest.mark.parametrize(
    'words, expected',
    [
        (('freezer-agent', '--restart'), {'--restart-always-level'}),
        (('freezer-agent', '--action', 'ch'), {'check'}),
        (('freezer-agent', '--action', '=', 're'), {'restore'}),
        (
            ('freezer-agent', '--storage', '='),
            {'s3', 'ssh', 'swift', 'ftp', 'ftps', 'local'},
        ),
        (('freezer-agent', '--compression', 'z'), {'zstd'}),
        (('freezer-agent', '-e', ''), ENGINES),
        (('freezer-agent', '--s3-sse', 'aws'), {'aws:kms'}),
        (('freezer-agent', '--s3-nocr'), {'--s3-nocreate-bucket'}),
        (('freezer-agent', '--backup-name', '-'), set()),
        (('freezer-agent', ''), set()),
        (('freezer-scheduler', 're'), {'restart', 'reload'}),
        (('freezer-scheduler', '--json', 'st'), {'start', 'stop', 'status'}),
        (('freezer-scheduler', 'status', '--js'), {'--json'}),
    ],
)
def test_bash_completes_words(words: tuple[str, ...], expected: set[str]) -> None:
    assert offered(*words) == (expected, set())


@pytest.mark.parametrize(
    'words, expected',
    [
        (('freezer-agent', '--config', ''), 'default'),
        (('freezer-agent', '-F', '/et'), 'default'),
        (('freezer-agent', '--encrypt-pass-file', '=', '/et'), 'default'),
        (('freezer-agent', '--restore-abs-path', ''), 'dirnames'),
        (('freezer-scheduler', 'validate', ''), 'default'),
        (('freezer-scheduler', 'run', '/et'), 'default'),
    ],
)
def test_bash_completes_files(words: tuple[str, ...], expected: str) -> None:
    assert offered(*words) == (set(), {f'-o {expected}'})


class Shell:
    """A shell on a terminal, in which a command prints what it is given."""

    def __init__(self, argv: tuple[str, ...], folder: Path) -> None:
        self.pid, self._fd = pty.fork()
        if not self.pid:
            os.chdir(folder)
            environ = {'PATH': os.environ['PATH'], 'HOME': str(folder), 'TERM': 'dumb'}
            os.execvpe(argv[0], argv, environ)

    def tell(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait_for(self, mark: str) -> str:
        """What stands behind the mark in its line, once that has been shown."""
        shown = b''
        end = time.monotonic() + _SECONDS
        line = re.compile(re.escape(mark.encode()) + b'([^\n]*)\n')
        while not (found := line.search(shown)):
            ready, _, _ = select.select(
                [self._fd], [], [], max(0, end - time.monotonic())
            )
            assert ready, shown
            shown += os.read(self._fd, 65536)
        return found[1].decode().rstrip('\r')

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._fd)


def _bash(folder: Path) -> Shell:
    shell = Shell(('bash', '--norc', '--noprofile', '-i'), folder)
    for command in COMMANDS:
        script = shlex.quote(f'{ROOT}/etc/bash-completion/{command}')
        shell.tell(f'source {script}\n')
    return shell


def _zsh(folder: Path) -> Shell:
    if shutil.which('zsh') is None:
        pytest.skip('zsh is not installed')
    shell = Shell(('zsh', '-f', '-i'), folder)
    scripts = shlex.quote(f'{ROOT}/etc/zsh')
    shell.tell(f'fpath=({scripts} $fpath); autoload -U compinit; compinit -u -D\n')
    return shell


@pytest.mark.parametrize(
    'typed, expected',
    [
        ('freezer-agent --restart', {'--restart-always-level'}),
        ('freezer-agent --action ch', {'check'}),
        ('freezer-agent --action=mou', {'--action=mount'}),
        ('freezer-agent --storage ', {'s3', 'ssh', 'swift', 'ftp', 'ftps', 'local'}),
        ('freezer-agent -e ', ENGINES),
        ('freezer-agent --s3-sse aws', {'aws:kms'}),
        ('freezer-agent --s3-nocr', {'--s3-nocreate-bucket'}),
        ('freezer-agent --backup-name ', set()),
        ('freezer-agent ', set()),
        ('freezer-agent --config jo', {'job file.conf'}),
        ('freezer-agent --restore-abs-path fol', {'folder/'}),
        ('freezer-scheduler re', {'restart', 'reload'}),
        ('freezer-scheduler --json st', {'start', 'stop', 'status'}),
        ('freezer-scheduler status --js', {'--json'}),
        ('freezer-scheduler validate jo', {'job file.conf'}),
        ('freezer-scheduler status jo', set()),
    ],
)
def test_fish_completes(typed: str, expected: set[str], tmp_path: Path) -> None:
    if shutil.which('fish') is None:
        pytest.skip('fish is not installed')
    (tmp_path / 'job file.conf').touch()
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folded').touch()
    script = ROOT / f'etc/fish/{typed.split()[0]}.fish'
    ended = run_command(
        *('fish', '--no-config', '-c', 'source $argv[1]; complete -C $argv[2]'),
        *(script, typed),
        check=True,
        cwd=tmp_path,
        env={'PATH': os.environ['PATH'], 'HOME': str(tmp_path)},
    )
    assert ended.stderr == ''
    found = {line.partition('\t')[0] for line in ended.stdout.splitlines()}
    assert {word.replace('\\ ', ' ') for word in found} == expected


def test_fish_describes_options() -> None:
    text = (ROOT / 'etc/fish/freezer-agent.fish').read_text()
    assert "-l action -x -a 'backup restore" in text
    assert "-d 'not: Restore into a directory that is not empty'" in text
    assert r'machine\'s own' in text


@pytest.fixture(params=[_bash, _zsh], ids=['bash', 'zsh'])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    (tmp_path / 'job file.conf').touch()
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folded').touch()
    started = request.param(tmp_path)
    try:
        for command in COMMANDS:
            # The mark is put together, so that it is not in the line as it is typed.
            started.tell(f'{command}() {{ printf "%s|" "GO""T" "$@"; echo; }}\n')
        started.tell('printf "%s\\n" "REA""DY"\n')
        started.wait_for('READY')
        yield started
    finally:
        started.close()


TYPED = {
    'freezer-agent --actio\tver\t': ['--action', 'verify'],
    'freezer-agent --compression zs\t': ['--compression', 'zstd'],
    'freezer-agent --compression=bz\t': ['--compression', 'bzip2'],
    'freezer-agent --s3-addressing-style vi\t': ['--s3-addressing-style', 'virtual'],
    'freezer-agent --s3-noc\t': ['--s3-nocreate-bucket'],
    'freezer-agent --config jo\t': ['--config', 'job file.conf'],
    'freezer-agent --restore-abs-path fol\t': ['--restore-abs-path', 'folder'],
    'freezer-scheduler valid\tjo\t': ['validate', 'job file.conf'],
}


def test_completion_on_a_terminal(shell: Shell) -> None:
    found = {}
    for typed in TYPED:
        shell.tell(f'{typed}\n')
        said = shell.wait_for('GOT|').rstrip('|').split('|')
        # zsh writes --option=value, where bash leaves a space; and it takes the slash
        # of a directory away.
        found[typed] = [word.rstrip('/') for each in said for word in each.split('=')]
    assert found == TYPED
