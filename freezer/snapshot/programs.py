"""Runs the programs that make snapshots."""

import json
import logging
import os
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Final

from freezer.exceptions import FreezerError
from freezer.utils import signals
from freezer.utils.process import ENVIRONMENT

LOG = logging.getLogger(__name__)

# cron and others run jobs without them.
_FOLDERS: Final = ('/usr/local/sbin', '/usr/sbin', '/sbin')


# A signal may arrive before the thread begins, which then begins at once, or never.
_LAUNCH_SECONDS: Final = 1.0


class ProgramError(FreezerError):
    """A program failed."""


def _path() -> str:
    return os.pathsep.join([os.environ.get('PATH', os.defpath), *_FOLDERS])


def require(programs: Mapping[str, str], purpose: str) -> None:
    """Check that programs are installed.

    :param programs: program -> the package it is usually in
    :raises FreezerError: one is not
    """
    for program, package in programs.items():
        if shutil.which(program, path=_path()) is None:
            raise FreezerError(
                f'{purpose} needs the program {program}, which is not installed: '
                f'install {package}'
            )


def require_root(purpose: str) -> None:
    """:raises FreezerError: this process is not root"""
    if os.geteuid() != 0:
        raise FreezerError(f'{purpose} needs root: run the agent as root')


def run(*argv: str) -> str:
    """Run a program to its end; returns its output.

    A signal does not reach it: a program that is stopped halfway may leave a volume
    suspended. Nor does its output go to a pipe, which would break with the agent. If a
    signal raises an exception here, the program has ended nevertheless.

    :raises ProgramError: it is not installed, or failed
    """
    path = _path()
    program = shutil.which(argv[0], path=path)
    if program is None:
        raise ProgramError(f'{argv[0]} is not installed')
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in ENVIRONMENT or name.startswith(('LVM_', 'DM_'))
    }
    command = [program, *argv[1:]]
    environment |= {'PATH': path, 'LC_ALL': 'C.UTF-8'}
    ended = _Program(command, environment).result()
    LOG.debug('%s ended with %d: %s', argv, ended.returncode, ended.stderr.strip())
    if ended.returncode:
        lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
        reason = '; '.join(lines) or f'exit code {ended.returncode}'
        raise ProgramError(f'{argv[0]}: {reason}')
    return ended.stdout


class _Program(threading.Thread):
    """Runs a program in a thread: signals raise exceptions in the main thread, and
    subprocess kills a child then, or forgets it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        super().__init__(name=command[0], daemon=True)
        self._command = command
        self._environment = environment
        self._begun = threading.Event()
        self._ended = threading.Event()
        self._result: subprocess.CompletedProcess[str] | OSError | None = None

    def run(self) -> None:
        self._begun.set()
        try:
            with _memory() as stdout, _memory() as stderr:
                code = subprocess.run(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    env=self._environment,
                    start_new_session=True,
                ).returncode
                texts = [_text(stdout), _text(stderr)]
            self._result = subprocess.CompletedProcess(self._command, code, *texts)
        except OSError as error:
            self._result = error
        finally:
            self._ended.set()

    def result(self) -> 'subprocess.CompletedProcess[str]':
        """:raises OSError: it cannot be started"""
        try:
            self.start()
            self._ended.wait()
        except signals.Interrupted:
            if self._begun.wait(_LAUNCH_SECONDS):
                self._ended.wait()
            raise
        if isinstance(self._result, OSError):
            raise self._result
        assert self._result is not None
        return self._result


def _memory() -> BinaryIO:
    return open(os.memfd_create('output'), 'w+b')


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode('utf-8', 'surrogateescape')


def report(*argv: str, key: str) -> Sequence[Mapping[str, Any]]:
    """Run a program that prints JSON; returns the list under a key.

    :raises ProgramError: it is not installed, failed, or prints something else
    """
    output = run(*argv)
    try:
        found = json.loads(output)[key]
    except (ValueError, LookupError, TypeError) as error:
        raise ProgramError(f'{argv[0]}: prints no report in JSON') from error
    assert isinstance(found, list)
    return found
