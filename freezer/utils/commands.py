"""Commands that a user configured: split as a shell does, and run without one."""

import collections
import contextlib
import functools
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from freezer.exceptions import ConfigError
from freezer.utils import process, signals
from freezer.utils.text import printable, shortened

#: seconds that a command of :func:`run` may take
LIMIT_SECONDS = 60.0

_QUOTED = re.compile(r"""\\.|'[^']*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)
# A single | is a pipe here as well. Patterns such as *.log and $NAME stay as they are:
# find and other programs take them.
_SHELL = re.compile(r'&&|\|\||\|&|>>|<<|\$\(|[;&<>()`]')
_FIND_EXEC = {'-exec', '-execdir', '-ok', '-okdir'}
# Where programs find a user's files and agents. Other variables may contain secrets.
_ENVIRONMENT = {
    *process.ENVIRONMENT,
    *('LANG', 'LANGUAGE', 'LC_ALL', 'LC_CTYPE', 'LC_MESSAGES', 'TZ'),
    *('USER', 'LOGNAME', 'SHELL', 'XDG_RUNTIME_DIR', 'DBUS_SESSION_BUS_ADDRESS'),
    *('GNUPGHOME', 'GPG_AGENT_INFO', 'SSH_AUTH_SOCK', 'PASSWORD_STORE_DIR'),
}
# Where clients of databases find servers, option files and passwords.
_DATABASES = ('PG', 'MYSQL_', 'MARIADB_', 'MONGO')
# Of these, the values are secrets.
_PASSWORDS = ('PGPASSWORD', 'MYSQL_PWD')
# Of the standard error of a command that failed.
_LAST_LINES = 5
_LONGEST_MESSAGE = 1000
_LONGEST_LINE = 1 << 16
# A process that the command left behind may hold its output open for ever.
_LEFT_BEHIND_SECONDS = 2.0

Process = subprocess.Popen[bytes]


def split(option: str, command: str) -> list[list[str]]:
    """``a "b c" | d`` -> ``[['a', 'b c'], ['d']]``.

    :param option: for messages
    :raises ConfigError: it is malformed, or needs a shell
    """
    if operator := _operator(command):
        raise ConfigError(
            f'{option}: {operator} is for a shell, and no shell runs this command: '
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
        raise ConfigError(f'{option}: {error}; quote it as for a shell') from error
    if not all(commands):
        raise ConfigError(
            f'{option}: no command before or after a |; quote a | that is not a pipe'
        )
    return commands


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


@contextlib.contextmanager
def started(
    option: str,
    commands: Sequence[Sequence[str]],
    stdout: Any,
    stdin: Any = None,
    own_group: bool = False,
    **others: Any,
) -> Iterator[list[Process]]:
    """Start a pipeline; when the block is left, its processes have been reaped.

    :param stdin: of the first process
    :param stdout: of the last one
    :param own_group: give each process a group, without a terminal; a signal that
        interrupts the block kills the group. Otherwise it terminates the process.
    :param others: for each ``Popen``
    :raises ConfigError: one cannot be started
    """
    processes: list[Process] = []
    kill: Callable[[Process], None] = kill_group if own_group else Process.kill
    end: Callable[[Process], None] = kill_group if own_group else Process.terminate

    def end_all(end: Callable[[Process], None]) -> None:
        # The last one first: it must not take the end of another for that of its input.
        for each in reversed(processes):
            end(each)

    with signals.on_forced_exit(functools.partial(end_all, kill)):
        try:
            for number, argv in enumerate(commands):
                last = number == len(commands) - 1
                try:
                    process = subprocess.Popen(
                        argv,
                        stdin=processes[-1].stdout if processes else stdin,
                        stdout=stdout if last else subprocess.PIPE,
                        start_new_session=own_group,
                        **others,
                    )
                except OSError as error:
                    end_all(end)
                    raise ConfigError(
                        f'{option} {argv[0]}: {error.strerror}'
                    ) from error
                finally:
                    # Only the next process may hold the pipe open.
                    if processes and processes[-1].stdout is not None:
                        processes[-1].stdout.close()
                processes.append(process)
            yield processes
        except signals.Interrupted:
            end_all(end)
            raise
        finally:
            for each in processes:
                each.wait()


def exit_code(processes: Sequence[Process]) -> int:
    """As with pipefail in a shell: the status of the last command that failed."""
    failed = [each.returncode for each in processes if each.returncode]
    return failed[-1] if failed else 0


def kill_group(process: Process) -> None:
    """Kill a process that has a group, and its children."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def environment() -> dict[str, str]:
    """The variables for a command: few, because others may contain secrets."""
    return {key: os.environ[key] for key in _ENVIRONMENT & os.environ.keys()}


def database_environment() -> dict[str, str]:
    """The same for clients of databases, with all that they read."""
    names = [name for name in os.environ if name.startswith(_DATABASES)]
    return environment() | {name: os.environ[name] for name in names}


def run(
    option: str,
    command: str,
    stdin: bytes = b'',
    variables: Mapping[str, str] | None = None,
    limit: float | None = None,
) -> bytes:
    """Run a command, and return the first line of its output, without the newline.

    It has no terminal, and gets few variables of the environment.

    :param variables: further variables for it
    :param limit: seconds, after which it is killed with its children; None:
        :data:`LIMIT_SECONDS`
    :raises ConfigError: it cannot be started, took too long or failed; the message has
        the end of its standard error
    """
    commands = split(option, command)
    limit = LIMIT_SECONDS if limit is None else limit
    name = f'{option} {commands[0][0]}'
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(os.memfd_create('freezer-command'), 'w+b'))
        file.write(stdin)
        file.seek(0)
        with contextlib.ExitStack() as ends:
            output = Output(ends, keep_first=True)
            errors = Output(ends, keep_first=False)
            processes = stack.enter_context(
                started(
                    option,
                    commands,
                    stdin=file,
                    stdout=output.end,
                    own_group=True,
                    stderr=errors.end,
                    env=environment() | {**(variables or {})},
                )
            )
        deadline = time.monotonic() + limit
        try:
            for each in processes:
                each.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            for each in processes:
                kill_group(each)
            raise ConfigError(
                f'{name}: was killed, because it took longer than {limit:g} s'
            ) from error
    line = b''.join(output.lines())
    if reason := failure(processes, errors, line):
        raise ConfigError(f'{name}: {reason}')
    return line


def failure(processes: Sequence[Process], errors: 'Output', secret: bytes = b'') -> str:
    """How processes that have ended failed, with the end of their standard error; empty
    if all ended with 0.

    :param secret: not to be shown, nor are passwords of the environment
    """
    code = exit_code(processes)
    if not code:
        return ''
    last = b'; '.join(errors.lines())
    hidden = [os.environb.get(name.encode(), b'') for name in _PASSWORDS]
    for each in filter(None, [secret, *hidden]):
        last = last.replace(each, b'***')
    text = printable(last.decode('utf-8', 'backslashreplace'))
    status = f'exited with {code}' if code > 0 else f'was killed by signal {-code}'
    return f'{status}: {shortened(text, _LONGEST_MESSAGE)}' if text else status


class Output(threading.Thread):
    """Reads all that is written to a pipe, so that its writers never block.

    :param ends: closes our copy of the end that is written to
    :param keep_first: keep the first line; otherwise the last ones that are not empty
    """

    def __init__(self, ends: contextlib.ExitStack, keep_first: bool) -> None:
        super().__init__(name='command', daemon=True)
        self._descriptor, self.end = os.pipe()
        ends.callback(os.close, self.end)
        self._keep_first = keep_first
        self._kept: collections.deque[bytes] = collections.deque(maxlen=_LAST_LINES)
        self.start()

    def run(self) -> None:
        first = self._keep_first
        with open(self._descriptor, 'rb') as stream:
            while data := stream.readline(_LONGEST_LINE):
                line = data.removesuffix(b'\n')
                if first or (not self._keep_first and line.strip()):
                    self._kept.append(line)
                first = False

    def lines(self) -> list[bytes]:
        """The lines that were kept, once the writers have ended."""
        self.join(_LEFT_BEHIND_SECONDS)
        return [*self._kept]
