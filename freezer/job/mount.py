"""Action mount: all states of backups as directories."""

import contextlib
import errno
import importlib
import logging
import os
import shutil
import subprocess
import threading
from typing import Any, Final

from freezer.engine.browse import Browser
from freezer.engine.engine import require_files
from freezer.exceptions import ConfigError, FreezerError
from freezer.job.job import Job, Outcome, damage_explained, describe_levels
from freezer.job.mounted import MountedStates
from freezer.storage.exceptions import IntegrityError
from freezer.utils import human
from freezer.utils.paths import absolute
from freezer.utils.signals import Interrupted

LOG = logging.getLogger(__name__)

_UNMOUNT: Final = ('fusermount3', 'fusermount')
# How long the threads of libfuse may take to end.
_PATIENCE_SECONDS: Final = 2.0


class MountJob(Job):
    """Shows all states of the selected backups below a directory, read-only, until a
    signal or ``fusermount3 -u``. Reads indexes, and the ranges that are read."""

    takes_tag = True

    def check_options(self) -> None:
        super().check_options()
        config = self.config
        if not config.mount_point:
            raise ConfigError(
                'action mount needs --mount-point DIR, an empty directory'
            )
        if config.metadata_out:
            raise ConfigError(
                'action mount has no result: omit --json and --metadata-out'
            )

    def validate(self) -> None:
        super().validate()
        _fuse()
        self._mount_point = absolute(self.config.mount_point or '')
        _check_empty(self._mount_point)

    def execute(self) -> Outcome:
        engine = require_files(self.engine, 'action mount')
        where = self._mount_point
        self.progress.phase = 'Looking for backups'
        with damage_explained():
            browser = Browser(engine, self.settings)
            states = MountedStates(self, browser)
            self._check_passphrase(states)
        self.progress.phase = ''
        fuse = _fuse()
        numeric = bool(self.config.engine_options.get('numeric_owner'))
        system = fuse.FileSystem(states, self.say, numeric)
        mounted = _Mount(fuse, system, where, self.config.allow_other)
        with mounted:
            mounted.start()
            count = human.number(states.count, 'backup')
            self.say(f'Mounted {count} at {where}; to unmount: fusermount3 -u {where}')
            with contextlib.suppress(Interrupted):
                mounted.wait()
        return Outcome(lines=[f'Unmounted {where}'])

    def _check_passphrase(self, states: MountedStates) -> None:
        """Open the newest state: a wrong passphrase shows. If it is damaged, the others
        are mounted all the same."""
        newest = states.newest()
        try:
            states.opened(newest).check()
        except IntegrityError as error:
            LOG.error('%s', error)
            name = newest.newest.backup.hostname_backup_name
            level = describe_levels([newest.newest])
            self.say(f'Damaged: {name}, {level}: {error.message}')


class _Mount:
    """A mount, served by a thread. A context manager: it is unmounted at the end."""

    def __init__(self, fuse: Any, system: Any, where: str, allow_other: bool) -> None:
        self._fuse = fuse
        self._system = system
        self._where = where
        self._allow_other = allow_other
        self._failed = False
        self._thread = threading.Thread(target=self._serve, name='fuse', daemon=True)
        self._ended = threading.Event()

    def __enter__(self) -> '_Mount':
        return self

    def __exit__(self, *_error: object) -> None:
        if self._system.started.is_set() and not self._ended.is_set():
            _unmount(self._where)
        # If a process still uses the mount, that ends when this process does.
        self._ended.wait(_PATIENCE_SECONDS)

    def start(self) -> None:
        """:raises FreezerError: it cannot be mounted"""
        self._thread.start()
        while not self._system.started.wait(0.01):
            if self._ended.is_set():
                raise FreezerError(
                    f'{self._where}: cannot be mounted: the line above says why'
                )

    def wait(self) -> None:
        """Until it is unmounted."""
        self._ended.wait()

    def _serve(self) -> None:
        try:
            self._fuse.serve(self._system, self._where, self._allow_other)
        except RuntimeError as error:
            LOG.error('libfuse: %s', error)
        finally:
            self._ended.set()


def _fuse() -> Any:
    """The module that needs the library.

    :raises ConfigError: it is not installed
    """
    try:
        # Optional: it needs the extra mount.
        return importlib.import_module('freezer.job.fuse')
    except ModuleNotFoundError as error:
        if error.name != 'mfusepy':
            raise
        raise ConfigError(
            'action mount needs the package mfusepy: pip install freezer[mount]'
        ) from error
    except OSError as error:
        raise ConfigError(
            'action mount needs libfuse: install the package fuse3'
        ) from error


def _check_empty(where: str) -> None:
    """:raises ConfigError: nothing can be mounted there"""
    try:
        names = os.listdir(where)
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise ConfigError(
                f'mount-point {where} is the mount of a process that was killed: run '
                f'fusermount3 -u {where}'
            ) from error
        raise ConfigError(f'mount-point {where}: {error.strerror}') from error
    if os.path.ismount(where):
        raise ConfigError(f'mount-point {where}: something is mounted there already')
    if names:
        raise ConfigError(f'mount-point {where} is not empty: choose another')
    if not os.path.exists('/dev/fuse'):
        raise ConfigError(
            'action mount needs /dev/fuse: load the kernel module fuse, or pass the '
            'device to this container'
        )


def _unmount(where: str) -> None:
    program = next(filter(shutil.which, _UNMOUNT), _UNMOUNT[0])
    # If a process uses it, it disappears here, and for that process when this one ends.
    for options in (('-u',), ('-u', '-z')):
        with contextlib.suppress(OSError):
            done = subprocess.run(
                [program, *options, '--', where], capture_output=True, check=False
            )
            if not done.returncode:
                return
            LOG.warning('%s: %s', program, done.stderr.decode(errors='replace').strip())
