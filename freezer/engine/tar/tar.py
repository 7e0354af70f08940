"""GNU tar with ``--listed-incremental``: the engine that Freezer's backups are made by.

Archives are in POSIX format, with sub-second times, holes, extended attributes and ACLs;
the flags Freezer 19 restores with read them. tar is started from a list of arguments,
never through a shell.
"""

import contextlib
import functools
import logging
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from freezer.engine.engine import (
    BackupEngine,
    EngineSettings,
    Extractor,
    Source,
    Warnings,
)
from freezer.engine.tar import messages, snapshot
from freezer.engine.tar.guard import TargetGuard
from freezer.exceptions import ConfigError, EngineError
from freezer.storage.base import Backup, Storage
from freezer.utils.streaming import Block

LOG = logging.getLogger(__name__)

_NAMES = ('gnutar', 'gtar', 'tar')
_READ_BLOCK = 1024 * 1024
_SAID_LINES = 20
_METADATA = ('--xattrs', '--xattrs-include=*', '--acls')
# In the C locale messages are known texts; TAR_OPTIONS would change what tar does.
_ENVIRONMENT = ('PATH', 'HOME', 'TMPDIR', 'LD_LIBRARY_PATH', 'LD_PRELOAD')


class TarEngine(BackupEngine):
    """GNU tar."""

    name = 'tar'

    def __init__(self, storage: Storage, settings: EngineSettings) -> None:
        super().__init__(storage, settings)
        self._tar = _find_tar()

    def archive(
        self, source: Source, state: Path, warnings: Warnings
    ) -> Iterator[Block]:
        argv = self._create(
            source,
            '--file=-',
            '--format=posix',
            # Without the process number that is there by default.
            '--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=ctime',
            '--sparse',
            *_METADATA,
            # Device numbers change with the next boot (LVM, NFS, containers).
            '--no-check-device',
            f'--listed-incremental={state}',
        )
        LOG.info('archiving %s of %s', source.name, source.folder)
        with _running(argv, stdout=subprocess.PIPE) as (process, said):
            assert process.stdout is not None
            while block := process.stdout.read(_READ_BLOCK):
                yield block
            status = process.wait()
            _judge(status, said.lines(), source, warnings)

    def members(self, source: Source) -> list[bytes]:
        # Into /dev/null tar reads no file, and names on standard output what it would.
        argv = self._create(
            source, '--file=/dev/null', '--verbose', '--quoting-style=escape'
        )
        with _running(argv, stdout=subprocess.PIPE) as (process, said):
            assert process.stdout is not None
            listing = process.stdout.read()
            _judge(process.wait(), said.lines(), source, Warnings())
        return [_unescape(line) for line in listing.splitlines()]

    def _create(self, source: Source, *options: str) -> list[str]:
        return [
            self._tar,
            '--create',
            *options,
            '--one-file-system',
            *_DEREFERENCE[self.settings.dereference_symlink],
            *(f'--exclude={pattern}' for pattern in self.settings.exclude),
            f'--directory={source.folder}',
            '--',
            source.name,
        ]

    def extractor(self, target: str, warnings: Warnings) -> Extractor:
        return _TarExtractor(self._tar, target, warnings)

    def removals(self, target: str, newest: Backup) -> list[str]:
        kept = snapshot.entries(newest.engine_metadata())
        if not kept:
            return []
        root = os.fsencode(target)
        removed = []
        for folder, folders, files in os.walk(root):
            below = os.path.relpath(folder, root)
            for name in sorted(folders + files):
                path = name if below == b'.' else os.path.join(below, name)
                if path not in kept:
                    removed.append(os.fsdecode(path))
            # What is removed whole is named once.
            folders[:] = [
                name
                for name in folders
                if (name if below == b'.' else os.path.join(below, name)) in kept
            ]
        return sorted(removed)

    def begins(self, head: bytes) -> bool:
        return head[257:262] == b'ustar' or (bool(head) and not head.strip(b'\0'))


_DEREFERENCE = {
    'none': (),
    'soft': ('--dereference',),
    'hard': ('--hard-dereference',),
    'all': ('--dereference', '--hard-dereference'),
}


class _TarExtractor(Extractor):
    def __init__(self, tar: str, target: str, warnings: Warnings) -> None:
        self._target = target
        self._warnings = warnings
        self._guard = TargetGuard(target)
        self._argv = [
            tar,
            '--extract',
            '--file=-',
            '--listed-incremental=/dev/null',
            '--preserve-permissions',
            *_METADATA,
            f'--directory={target}',
        ]

    def extract(self, blocks: Iterator[Block]) -> None:
        with _running(self._argv, stdin=subprocess.PIPE) as (process, said):
            assert process.stdin is not None
            # A tar that died says why in its status.
            with contextlib.suppress(BrokenPipeError):
                for block in self._guard.check(blocks):
                    process.stdin.write(block)
                process.stdin.close()
            status = process.wait()
            lines = said.lines()
            if status != 0:
                raise EngineError(
                    f'tar could not extract into {self._target} (status {status}): '
                    f'{_last(lines)}'
                )
            for line in lines:
                self._warnings.add(line)


class _Said:
    """Reads a process's standard error in a thread, so that it never blocks."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._lines: list[str] = []
        self._stream = stream
        self._thread = threading.Thread(target=self._read, name='stderr', daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            self._lines.append(line.decode('utf-8', 'backslashreplace').rstrip('\n'))

    def lines(self) -> list[str]:
        """All of it, once the process has ended."""
        self._thread.join()
        return self._lines


@contextlib.contextmanager
def _running(
    argv: list[str], stdin: int = subprocess.DEVNULL, stdout: int = subprocess.DEVNULL
) -> Iterator[tuple['subprocess.Popen[bytes]', _Said]]:
    """A child that is gone, and reaped, when the block is left."""
    LOG.debug('running %s', argv)
    environment = {k: v for k, v in os.environ.items() if k in _ENVIRONMENT}
    process = subprocess.Popen(
        argv,
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**environment, 'LC_ALL': 'C'},
    )
    assert process.stderr is not None
    said = _Said(process.stderr)
    try:
        yield process, said
    finally:
        if process.poll() is None:
            process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        process.wait()
        said.lines()
        process.stderr.close()


def _judge(status: int, lines: list[str], source: Source, warnings: Warnings) -> None:
    """Whether the archive is good; see :mod:`freezer.engine.tar.messages`."""
    explained = False
    for line in lines:
        meaning = messages.meaning_of(line, source.name)
        if meaning is messages.Meaning.FATAL and status != 0:
            raise EngineError(f'tar failed with status {status}: {line}')
        if meaning is messages.Meaning.HARMLESS:
            LOG.info('%s', line)
            continue
        warnings.add(line)
        explained = True
    if status not in (0, 1, 2) or (status == 2 and not explained):
        raise EngineError(f'tar failed with status {status}: {_last(lines)}')


def _last(lines: list[str]) -> str:
    """The lines that say why, without tar's closing formula."""
    telling = [line for line in lines if 'Exiting with failure status' not in line]
    return '; '.join(telling[-_SAID_LINES:]) or 'it did not say why'


_ESCAPES = {b'n': b'\n', b't': b'\t', b'r': b'\r', b'a': b'\a', b'b': b'\b'}
_ESCAPES |= {b'f': b'\f', b'v': b'\v'}


def _unescape(name: bytes) -> bytes:
    """What ``--quoting-style=escape`` made of a name, undone."""

    def plain(match: re.Match[bytes]) -> bytes:
        text = match[1]
        if text.isdigit():
            return bytes([int(text, 8)])
        return _ESCAPES.get(text, text)

    return re.sub(rb'\\([0-7]{3}|.)', plain, name)


@functools.cache
def _find_tar() -> str:
    """:raises ConfigError: there is no GNU tar"""
    for name in _NAMES:
        path = shutil.which(name)
        if path is None:
            continue
        said = subprocess.run([path, '--version'], capture_output=True, check=False)
        if b'GNU tar' in said.stdout:
            return path
    raise ConfigError('GNU tar is not installed: the tar engine needs it')
