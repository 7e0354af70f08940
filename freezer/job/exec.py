"""Action exec: run a command."""

import contextlib
import logging
import re
import shlex
import subprocess
import sys

from freezer.exceptions import ConfigError
from freezer.job.job import Job, Outcome
from freezer.utils import signals

LOG = logging.getLogger(__name__)

_QUOTED = re.compile(r"""\\.|'[^']*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)
# A single | is a pipe here as well. Patterns such as *.log and $NAME stay as they are:
# find and other programs take them.
_SHELL = re.compile(r'&&|\|\||\|&|>>|<<|\$\(|[;&<>()`]')
_FIND_EXEC = {'-exec', '-execdir', '-ok', '-okdir'}


class ExecJob(Job):
    """Runs a command, without a shell, and exits with its status."""

    def check_options(self) -> None:
        super().check_options()
        _split_command(self.config.command)

    def execute(self) -> Outcome:
        commands = _split_command(self.config.command)
        if self.config.dry_run:
            self.say(f'Would run {self.config.command}')
            return Outcome()
        processes: list[subprocess.Popen[bytes]] = []
        stack = contextlib.ExitStack()
        try:
            for number, argv in enumerate(commands):
                last = number == len(commands) - 1
                processes.append(
                    subprocess.Popen(
                        argv,
                        stdin=processes[-1].stdout if processes else None,
                        # The agent's own standard output is for its result.
                        stdout=sys.stderr if last else subprocess.PIPE,
                    )
                )
                stack.enter_context(signals.on_forced_exit(processes[-1].kill))
                if len(processes) > 1:
                    _close(processes[-2])
            codes = [process.wait() for process in processes]
        except OSError as error:
            _close(processes[-1] if processes else None)
            raise ConfigError(f'command {argv[0]}: {error.strerror}') from error
        except signals.Interrupted:
            for process in processes:
                process.terminate()
            raise
        finally:
            for process in processes:
                process.wait()
            stack.close()
        # As with pipefail in a shell: the status of the last command that failed.
        failed = [code for code in codes if code != 0]
        code = failed[-1] if failed else 0
        LOG.info('%s exited with %d', commands[-1][0], code)
        return Outcome(exit_code=code if code >= 0 else 128 - code)


def _operator(command: str) -> str | None:
    """The first operator of a shell in a command, outside of quotes.

    ``;`` ends the command of ``find -exec``, and a URL may have ``&``.
    """
    words = _QUOTED.sub('quoted', command).split()
    for number, word in enumerate(words):
        if word == ';' and not _FIND_EXEC.isdisjoint(words[:number]):
            continue
        found = _SHELL.search(word)
        if found and '://' not in word:
            return found[0]
    return None


def _split_command(command: str | None) -> list[list[str]]:
    """``a "b c" | d`` -> ``[['a', 'b c'], ['d']]``."""
    if not command:
        raise ConfigError(
            'command is required for action exec: give --command, or command in the '
            'job file'
        )
    if operator := _operator(command):
        raise ConfigError(
            f'command: {operator} is for a shell, and no shell runs this command: '
            f"write sh -c '…' to use one, or quote {operator} to pass it on"
        )
    lexer = shlex.shlex(command, posix=True, punctuation_chars='|')
    lexer.whitespace_split = True
    lexer.commenters = ''
    commands: list[list[str]] = [[]]
    try:
        for word in lexer:
            if word == '|':
                commands.append([])
            else:
                commands[-1].append(word)
    except ValueError as error:
        raise ConfigError(f'command: {error}; quote it as for a shell') from error
    if not all(commands):
        raise ConfigError(
            'command: no command before or after a |; quote a | that is not a pipe'
        )
    return commands


def _close(process: 'subprocess.Popen[bytes] | None') -> None:
    """Close our end of a pipe: only the next process may hold it open."""
    if process is not None and process.stdout is not None:
        process.stdout.close()
