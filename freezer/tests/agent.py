"""The agent as its users meet it: a command, started in a process of its own."""

import abc
import configparser
import copy
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import freezer
from freezer.common import opts
from freezer.engine.tar import snapshot
from freezer.storage import layout, manifest
from freezer.storage.swift.options import ENVIRONMENT
from freezer.tests import servers, trees, warm
from freezer.tests.servers.ftpd import Pyftpd, Vsftpd
from freezer.tests.servers.sshd import Sshd
from freezer.tests.servers.swift import SwiftS3

ROOT = Path(freezer.__file__).parent.parent

#: Seconds after which an agent that should have ended is taken to hang.
TIMEOUT = 200

HOST = 'hosta'

#: a command that runs another as on a kernel without Landlock
NO_LANDLOCK = (sys.executable, '-m', 'freezer.tests.no_landlock')

#: the smallest that S3 has, in bytes
PART = 5 << 20


#: A directory with the commands to test, which were installed from a package; in place
#: of those of this tree.
PACKAGED = os.environ.get('FREEZER_TEST_BIN', '')


def command() -> tuple[str, ...]:
    """How to start the agent."""
    return script('freezer-agent', 'freezer.main')


@functools.cache
def script(name: str, module: str) -> tuple[str, ...]:
    """How to start a command of this tree, or of the package that is tested.

    The console script, where what is installed is this tree; else the module.
    """
    if PACKAGED:
        return (str(Path(PACKAGED, name)),)
    beside = Path(sys.executable).parent / name
    if beside.exists() and _is_installed():
        return (str(beside),)
    return (sys.executable, '-m', module)


def _is_installed() -> bool:
    try:
        found = importlib.metadata.distribution('freezer')
    except importlib.metadata.PackageNotFoundError:
        return False
    editable = json.loads(found.read_text('direct_url.json') or '{}').get('url', '')
    if Path(unquote(urlsplit(editable).path)) == ROOT:
        return True
    return Path(str(found.locate_file('freezer'))) == ROOT / 'freezer'


def environment(changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """This process's environment, the tree the tests are from, and the changes; None
    takes a variable away."""
    tree = {} if PACKAGED else {'PYTHONPATH': str(ROOT)}
    # An agent that hangs shows where.
    handler = {'PYTHONFAULTHANDLER': '1'}
    merged = {**os.environ, **tree, **handler, **(changes or {})}
    return {name: value for name, value in merged.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Result:
    """What an agent that has ended left behind."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str

    def check(self) -> 'Result':
        """Itself, if the agent succeeded."""
        assert self.code == 0, self
        return self

    @property
    def document(self) -> dict[str, Any]:
        """The JSON of ``--metadata-out -``."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def notices(self) -> list[str]:
        """What was said while it was at work, before the summary."""
        lines = self.err.splitlines()
        heads = ('Backed up ', 'Restored ')
        (end,) = (n for n, line in enumerate(lines) if line.startswith(heads))
        return lines[:end]

    @property
    def error(self) -> str:
        """The one line that says why it failed."""
        assert self.code == 1, self
        lines = [line for line in self.err.splitlines() if line.startswith('Error: ')]
        assert len(lines) == 1, self
        assert 'this is a defect' not in lines[0], self
        assert 'Traceback' not in self.err, self
        return lines[0]

    @property
    def only_error(self) -> str:
        """The one line, where nothing else was said."""
        assert self.err.splitlines() == [self.error], self
        assert self.out == '', self
        return self.error

    def __str__(self) -> str:
        return (
            f'{" ".join(self.argv)} ended with {self.code}\n'
            f'--- stdout\n{self.out}\n--- stderr\n{self.err}'
        )

    __repr__ = __str__


#: that each agent is to be started from nothing; by the fixture ``cold``, or for all
COLD = os.environ.get('FREEZER_TEST_COLD', '') not in ('', '0')


@functools.cache
def _single_options() -> dict[str, str]:
    """Every name of an option that takes one value -> its long name."""
    return {
        name: one.names[-1]
        for section in opts.help_usage().sections
        for one in section.entries
        if one.metavar and not one.many
        for name in one.names
    }


def last_given(arguments: Iterable[object]) -> list[str]:
    """The arguments, with the last value of each option that takes one: the agent
    refuses two."""
    words = list(map(str, arguments))
    single = _single_options()
    kept: list[str] = []
    seen: set[str] = set()
    # From the end; an option is followed by its value.
    while words:
        word = words.pop()
        taken = [word]
        if words and words[-1] in single:
            taken = [words.pop(), word]
        name = single.get(taken[0].partition('=')[0], '')
        if name not in seen:
            kept = [*taken, *kept]
        if name:
            seen.add(name)
    return kept


class Process:
    """An agent that is running.

    With ``with``: it is killed at the end if it has not ended.

    :param runner: a command that runs the agent
    :param program: another agent than that of this tree
    """

    def __init__(
        self,
        *arguments: object,
        env: Mapping[str, str | None] | None = None,
        runner: Iterable[str] = (),
        program: Iterable[str] = (),
    ) -> None:
        runner, program = tuple(runner), tuple(program)
        self.argv = (*runner, *(program or command()), *map(str, arguments))
        self._streams = [os.memfd_create(name) for name in ('stdout', 'stderr')]
        stdout, stderr = self._streams
        variables = environment(env)
        self._process: subprocess.Popen[bytes] | warm.Fork
        if not (COLD or PACKAGED or runner or program) and warm.suits(
            variables, environment()
        ):
            argv = (command()[-1], *map(str, arguments))
            self._process = warm.Fork(argv, variables, stdout, stderr)
            return
        self._process = subprocess.Popen(
            self.argv,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=variables,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> 'Process':
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for number in self._streams:
            os.close(number)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def output(self) -> tuple[str, str]:
        """What it has written so far: standard output and standard error."""
        out, err = (
            os.pread(number, os.fstat(number).st_size, 0).decode(
                errors='backslashreplace'
            )
            for number in self._streams
        )
        return out, err

    def wait(self) -> Result:
        """Its result; an agent that hangs is killed, and fails the test."""
        try:
            code = self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            # faulthandler then writes where each thread is.
            self._process.send_signal(signal.SIGABRT)
            self._process.wait()
            message = f'it hangs: {self.argv}\n{self.output()[1]}'
            raise AssertionError(message) from None
        return Result(self.argv, code, *self.output())


def run(*arguments: object, env: Mapping[str, str | None] | None = None) -> Result:
    """Run the agent to its end."""
    with Process(*arguments, env=env) as process:
        return process.wait()


def _is_marker(path: str) -> bool:
    return path.startswith('metadata/') and path.endswith('/metadata')


class Store(abc.ABC):
    """Where backups go, seen by its own means and not by the agent's."""

    #: what the agent is told on its command line, and in its environment
    options: tuple[str, ...]
    env: dict[str, str | None]
    #: the same as a section of a job file
    section: dict[str, object]

    @abc.abstractmethod
    def files(self) -> dict[str, bytes]:
        """Everything that is there: path below the container -> content."""

    @abc.abstractmethod
    def put(self, path: str, content: bytes) -> None:
        """Write one of those."""

    @abc.abstractmethod
    def delete(self, path: str) -> None:
        """Take one away."""

    def open_uploads(self) -> list[str]:
        """The keys of uploads that were begun and neither completed nor aborted."""
        return []

    def markers(self) -> list[str]:
        """The commit markers: what is listed as a backup."""
        return sorted(filter(_is_marker, self.files()))

    def is_untouched(self) -> bool:
        """Whether there is nothing, listed or left behind."""
        return not self.files() and not self.open_uploads()

    def made_earlier(self, seconds: int, identity: str) -> None:
        """Let the backups of a name have been made that long before."""
        digests: dict[str, str] = {}
        # The engine's files come before the markers, which have their digests.
        for path, content in sorted(self.files().items()):
            parts = path.split('/')
            if parts[2] != identity:
                continue
            level, _, timestamp = parts[4].partition('_')
            parts[3] = str(int(parts[3]) - seconds)
            parts[4] = f'{level}_{int(timestamp) - seconds}'
            if parts[-1] == layout.ENGINE_METADATA:
                state = snapshot.load(content)
                state.seconds -= seconds
                content = state.dump()
                digests[parts[4]] = hashlib.sha256(content).hexdigest()
            elif _is_marker(path):
                marker = json.loads(content) | {manifest.STATE_KEY: digests[parts[4]]}
                content = json.dumps(marker).encode()
            self.put('/'.join(parts), content)
            self.delete(path)


class S3Store(Store):
    """A bucket and a prefix of its own on a server.

    :param endpoint: where the agent shall think that the server is
    """

    def __init__(
        self,
        server: servers.Server,
        endpoint: str = '',
        prefix: str = 'pre/fix',
    ) -> None:
        self.server = server
        self.bucket = server.make_bucket()
        self.prefix = prefix
        self.container = f'{self.bucket}/{prefix}' if prefix else self.bucket
        self.endpoint = endpoint or server.endpoint
        self.options = ('--storage', 's3', '--container', self.container)
        self.env = {
            'ACCESS_KEY': server.access_key,
            'SECRET_KEY': server.secret_key,
            'ENDPOINT': self.endpoint,
        }
        keys = {name.lower(): value for name, value in self.env.items()}
        self.section = {'storage': 's3', 'container': self.container, **keys}

    def _key(self, path: str) -> str:
        return f'{self.prefix}/{path}' if self.prefix else path

    def sizes(self) -> dict[str, int]:
        """Path below the container -> bytes."""
        start = self._key('')
        found = self.server.keys(self.bucket, start)
        return {key[len(start) :]: size for key, size in found.items()}

    def files(self) -> dict[str, bytes]:
        return {
            path: self.server.get(self.bucket, self._key(path)) for path in self.sizes()
        }

    def markers(self) -> list[str]:
        return sorted(filter(_is_marker, self.sizes()))

    def put(self, path: str, content: bytes) -> None:
        self.server.put(self.bucket, self._key(path), content)

    def delete(self, path: str) -> None:
        self.server.delete(self.bucket, self._key(path))

    def open_uploads(self) -> list[str]:
        return [key for key, _upload_id in self.server.uploads(self.bucket)]


class LocalStore(Store):
    """A directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.options = ('--storage', 'local', '--container', str(directory))
        self.env = {}
        self.section = {'storage': 'local', 'container': directory}

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.directory)): path.read_bytes()
            for path in self.directory.rglob('*')
            if path.is_file()
        }

    def is_untouched(self) -> bool:
        return not self.directory.exists() or not self.files()

    def put(self, path: str, content: bytes) -> None:
        full = self.directory / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(content)

    def delete(self, path: str) -> None:
        """With the folders that are empty then: a bucket has none."""
        file = self.directory / path
        file.unlink()
        while not any((file := file.parent).iterdir()):
            file.rmdir()


class SshStore(LocalStore):
    """A directory of an SSH server, which is on this machine.

    :param changes: of the options of the storage, by key
    """

    def __init__(self, server: Sshd, directory: Path, **changes: object) -> None:
        super().__init__(directory)
        self.server = server
        given = server.options(**changes)
        self.options = (
            *('--storage', 'ssh', '--container', str(directory)),
            *server.arguments(given),
        )
        self.section = {'storage': 'ssh', 'container': directory, **given}


class FtpStore(LocalStore):
    """A directory of an FTP server, which is on this machine.

    :param changes: of the options of the storage, by key
    """

    def __init__(
        self, server: Pyftpd | Vsftpd, directory: Path, **changes: object
    ) -> None:
        super().__init__(directory)
        self.server = server
        given = server.options(**changes)
        self.options = (
            *('--storage', server.storage, '--container', str(directory)),
            *server.arguments(given),
        )
        self.section = {'storage': server.storage, 'container': directory, **given}


class SwiftStore(Store):
    """A container of its own, and a prefix.

    :param endpoint: of a proxy before the server
    :param changes: of the options of the storage, by key
    """

    def __init__(self, server: SwiftS3, endpoint: str = '', **changes: Any) -> None:
        self.server = server
        self.bucket = f'agent-{uuid.uuid4().hex[:12]}'
        self.prefix = 'pre/fix'
        self.container = f'{self.bucket}/{self.prefix}'
        given = server.options(**changes)
        if endpoint:
            given['swift_auth_url'] = f'{endpoint}/auth/v1.0'
        self.given = given
        self.options = ('--storage', 'swift', '--container', self.container)
        self.env = {
            ENVIRONMENT.get(key) or f'OS_{key.upper().replace("_", "__", 1)}': str(
                value
            )
            for key, value in given.items()
        }
        self.section = {'storage': 'swift', 'container': self.container, **given}

    def sizes(self) -> dict[str, int]:
        """Path below the container -> bytes."""
        start = f'{self.prefix}/'
        try:
            found = self.server.account.keys(self.bucket, start)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return {}
        return {key[len(start) :]: size for key, size in found.items()}

    def files(self) -> dict[str, bytes]:
        account = self.server.account
        return {
            path: account.get(self.bucket, f'{self.prefix}/{path}')
            for path in self.sizes()
        }

    def markers(self) -> list[str]:
        return sorted(filter(_is_marker, self.sizes()))

    def is_untouched(self) -> bool:
        return not self.sizes()

    def put(self, path: str, content: bytes) -> None:
        self.server.account.put(self.bucket, f'{self.prefix}/{path}', content)

    def delete(self, path: str) -> None:
        self.server.account.delete(self.bucket, f'{self.prefix}/{path}')


class Agent:
    """The agent with what it is told every time: store, host name and backup name."""

    def __init__(
        self,
        store: Store,
        name: str = 'bk',
        options: Iterable[object] = (),
        env: Mapping[str, str | None] | None = None,
    ) -> None:
        self.store = store
        self.name = name
        self.options: tuple[object, ...] = (
            *store.options,
            *('--hostname', HOST, '--backup-name', name),
            *options,
        )
        self.env = {**store.env, **(env or {})}
        self.runner: tuple[str, ...] = ()
        self.program: tuple[str, ...] = ()

    def told(self, *options: object, **variables: str | None) -> 'Agent':
        """The same, with more options and environment variables."""
        made = copy.copy(self)
        made.options = (*self.options, *options)
        made.env = {**self.env, **variables}
        return made

    @property
    def nameless(self) -> 'Agent':
        """The same, told neither a host name nor a backup name."""
        made = copy.copy(self)
        names = len(self.store.options)
        made.options = (*self.options[:names], *self.options[names + 4 :])
        return made

    def run_by(self, *command: str) -> 'Agent':
        """The same, started by this command."""
        made = copy.copy(self)
        made.runner = command
        return made

    @property
    def identity(self) -> str:
        return f'{HOST}_{self.name}'

    def start(self, action: str, *arguments: object) -> Process:
        return Process(
            *last_given(('--action', action, *self.options, *arguments)),
            env=self.env,
            runner=self.runner,
            program=self.program,
        )

    def run(self, action: str, *arguments: object) -> Result:
        with self.start(action, *arguments) as process:
            return process.wait()

    def backup(self, path: object, *arguments: object) -> Result:
        return self.run(
            'backup', '--path-to-backup', path, '--metadata-out', '-', *arguments
        )

    def increment(self, path: object, *arguments: object) -> Result:
        return self.backup(path, '--incremental', *arguments)

    def restore(self, target: object, *arguments: object) -> Result:
        return self.run('restore', '--restore-abs-path', target, *arguments)


def in_parts(agent: Agent) -> Agent:
    """The same, with streams that are as long as the files, in the smallest parts."""
    return agent.told('--compression', 'none', '--max-segment-size', PART)


def wrap_tar(directory: Path, script: str) -> dict[str, str | None]:
    """An environment in which this shell script is what ``tar`` is.

    ``$TAR`` is the real one. Questions for the version do not reach the script.
    """
    directory.mkdir()
    tar = directory / 'tar'
    tar.write_text(
        f'#!/bin/sh\nTAR={shutil.which("tar")}\n'
        f'[ "$1" = --version ] && exec $TAR --version\n{script}\n'
    )
    tar.chmod(0o755)
    return {'PATH': f'{directory}:{os.environ["PATH"]}'}


# After 64 KiB the disk that "broken" is on is at its end.
_SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

ssize_t readlink(const char *path, char *buffer, size_t size);
off_t lseek(int fd, off_t offset, int whence);

ssize_t CALL(int fd, void *buffer, size_t size)
{
    ssize_t (*real)(int, void *, size_t) = dlsym(RTLD_NEXT, NAME);
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length > 0) {
        path[length] = 0;
        const char *name = strrchr(path, '/');
        if (name && !strcmp(name, "/broken") && lseek(fd, 0, SEEK_CUR) >= 65536) {
            errno = ERROR;
            return -1;
        }
    }
    return real(fd, buffer, size);
}
"""


def wrap_tar_on_broken_disk(
    directory: Path, call: str, error: int
) -> dict[str, str | None]:
    """An environment in which tar cannot read, or write, "broken" to its end.

    :param call: ``read`` or ``write``
    :param error: the errno it meets
    """
    compiler = shutil.which('gcc') or shutil.which('cc')
    if compiler is None:
        said = f'{call.title()} error at byte 65536, while reading 512 bytes'
        said = said if call == 'read' else 'Cannot write'
        message = f'tar: ./broken: {said}: {os.strerror(error)}'
        return wrap_tar(directory, f'$TAR "$@"; echo "{message}" >&2; exit 2')
    env = wrap_tar(
        directory, f'LD_PRELOAD={directory}/shim.so; export LD_PRELOAD; exec $TAR "$@"'
    )
    (directory / 'shim.c').write_text(_SHIM)
    defined = (f'-DCALL={call}', f'-DNAME="{call}"', f'-DERROR={error}')
    command = [compiler, '-shared', '-fPIC', *defined, '-o', 'shim.so', 'shim.c']
    subprocess.run([*command, '-ldl'], cwd=directory, check=True)
    return env


class Trap:
    """A ``tar`` that tells whether it was started, and so the source was read."""

    def __init__(self, folder: Path) -> None:
        self._mark = folder / 'tar was started'
        script = f'touch "{self._mark}"; exec $TAR "$@"'
        self.env = wrap_tar(folder / 'bin', script)

    @property
    def sprung(self) -> bool:
        return self._mark.exists()


def missed(expected: Mapping[bytes, trees.Entry], target: Path) -> list[str]:
    """How a directory differs from what was backed up."""
    return trees.differences(dict(expected), trees.describe(target))


def assert_restores(
    agent: Agent,
    expected: Path | Mapping[bytes, trees.Entry],
    target: Path,
    *options: object,
) -> None:
    """A restore makes what a directory is, or what a tree was."""
    agent.restore(target, *options).check()
    tree = trees.describe(expected) if isinstance(expected, Path) else expected
    assert missed(tree, target) == []


def iso(timestamp: int) -> str:
    """A date as ``--restore-from-date`` takes it."""
    return time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(timestamp))


def private(path: Path, content: str | bytes) -> Path:
    """A file that only its owner can read, for a secret."""
    path.touch(mode=0o600)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def job_file(path: Path, sections: Mapping[str, Mapping[str, object]]) -> Path:
    """A file for ``--config`` as freezer-scheduler writes it: what str() makes."""
    parser = configparser.ConfigParser(interpolation=None)
    for name, values in sections.items():
        parser[name] = {key: str(value) for key, value in values.items()}
    # It may hold keys.
    path.touch(mode=0o600)
    with path.open('w') as stream:
        parser.write(stream)
    return path
