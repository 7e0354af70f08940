"""GNU tar with ``--listed-incremental``, which Freezer's backups are made by.

Archives are in POSIX format, with sub-second times, holes, extended attributes and
ACLs; the flags Freezer 19 restores with read them. tar is started from a list of
arguments, never through a shell.
"""

import contextlib
import fcntl
import functools
import logging
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from freezer.engine.engine import (
    Again,
    BackupEngine,
    Extractor,
    Lister,
    PartExtractor,
    Run,
    Source,
    Warnings,
)
from freezer.engine.settings import EngineSettings
from freezer.engine.tar import messages, snapshot
from freezer.engine.tar.directories import TargetDirectories
from freezer.engine.tar.guard import TargetGuard
from freezer.engine.tar.options import OPTIONS
from freezer.engine.tar.patterns import Patterns
from freezer.exceptions import ConfigError, EngineError, RestoreError
from freezer.storage.base import Backup, Storage
from freezer.utils import landlock, signals
from freezer.utils.blocks import Block
from freezer.utils.progress import Progress

if TYPE_CHECKING:
    # Who makes a backup needs none of it.
    from freezer.engine.tar.part import Part

LOG = logging.getLogger(__name__)

_NAMES = ('gnutar', 'gtar', 'tar')
_READ_BLOCK = 1024 * 1024
# What any user may have: the two ends take turns less often than with 64 KiB.
_PIPE_SIZE = 1024 * 1024
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
        self._options = OPTIONS.defaults() | {**settings.options}
        self._patterns = Patterns(settings.include)

    def archive(self, run: Run) -> Generator[Block, None, None]:
        base_time = 0
        base: snapshot.Snapshot | None = None
        if run.base is not None:
            base = snapshot.load(run.base.read_bytes())
            base.for_next_level(run.level)
            base.forget(run.include)
            base_time = base.seconds * 10**9 + base.nanoseconds
            run.state.write_bytes(base.dump())
        else:
            # Empty, it is as none: tar makes a level 0.
            run.state.write_bytes(b'')
        source = run.source
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
            '--check-links',
            f'--listed-incremental={run.state}',
        )
        LOG.info('archiving %s of %s', source.name, source.folder)
        with _running(argv, stdout=subprocess.PIPE) as (process, said):
            assert process.stdout is not None
            head = b''
            while block := process.stdout.read(_READ_BLOCK):
                head = head or block[:1]
                yield block
            status = process.wait()
            lines = said.lines()
        found = _judge(status, lines, source, run.warnings)
        if base is None and head == b'\0':
            raise EngineError(
                f'{os.path.join(source.folder, source.name)}: --exclude leaves out all '
                f'of it'
            )
        # In the state each file that was stored has a field that begins with Y. Beside
        # a single file there are no directories, and so no fields; an archive of
        # nothing is zeros.
        if source.name == '.':
            self._progress.files = run.state.read_bytes().count(b'\0Y')
        else:
            self._progress.files = int(head > b'\0')
        # What else is beside a single file is not in the archive at all.
        if run.base is not None and source.name == '.':
            links = [m.path for m in found if m.kind is messages.Kind.MISSING_LINKS]
            self._check_links(run, base_time, [path for path in links if path])
        # tar counts what it could not read as stored.
        unread = [m.path for m in found if m.kind is messages.Kind.WARNING and m.path]
        excluded = base is not None and bool(self._options['exclude'])
        if unread or excluded or source.name != '.':
            written = snapshot.load(run.state.read_bytes())
            written.note(_subject(source))
            if excluded:
                assert base is not None
                written.note_excluded(
                    base.paths(), lambda path: _is_younger(source, path, base_time)
                )
            written.forget(snapshot.plain_path(path) for path in unread)
            run.state.write_bytes(written.dump())

    def _check_links(self, run: Run, base_time: int, paths: Sequence[bytes]) -> None:
        """Names of one file stay names of one file.

        In a directory that was moved a file is stored again, though it has not changed;
        its names elsewhere are not, and a restore would make two files of one.

        :param base_time: epoch nanoseconds: older files count as not changed
        :raises Again: the archive lacks names of files it holds
        """
        wanted = set()
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(os.path.join(os.fsencode(run.source.folder), path))
                # One that changed since is stored under all its names.
                if max(status.st_mtime_ns, status.st_ctime_ns) < base_time:
                    wanted.add((status.st_dev, status.st_ino))
        names: dict[tuple[int, int], set[bytes]] = {}
        if wanted:
            for path, status in _walk(run.source.folder):
                if (status.st_dev, status.st_ino) in wanted:
                    names.setdefault((status.st_dev, status.st_ino), set()).add(path)
        missing = set().union(*(many for many in names.values() if len(many) > 1))
        if missing - run.include:
            raise Again(run.include | missing)

    def why_unusable(self, state: Path, source: Source, now: int) -> str | None:
        try:
            base = snapshot.load(state.read_bytes())
        except EngineError as error:
            return str(error)
        if base.seconds > now:
            return (
                f'the previous level was made {base.seconds - now} s in the future: '
                f'this clock, or the one then, is wrong, and tar goes by times'
            )
        if base.subject != _subject(source):
            return 'increments of a single file need the same path each time'
        return None

    def members(self, source: Source) -> list[bytes]:
        # Into /dev/null tar reads no file, and names on standard output what it would.
        argv = self._create(
            source, '--file=/dev/null', '--verbose', '--quoting-style=escape'
        )
        with _running(argv, stdout=subprocess.PIPE) as (process, said):
            assert process.stdout is not None
            listing = process.stdout.read()
            _judge(process.wait(), said.lines(), source, Warnings())
        names = listing.decode('ascii', 'surrogateescape').splitlines()
        return [messages.unescape(name) for name in names]

    def _create(self, source: Source, *options: str) -> list[str]:
        return [
            self._tar,
            '--create',
            *options,
            '--one-file-system',
            *_DEREFERENCE[self._options['dereference_symlink']],
            *(f'--exclude={pattern}' for pattern in self._options['exclude']),
            f'--directory={source.folder}',
            '--',
            source.name,
        ]

    def extractor(
        self, target: str, state: bytes | None, warnings: Warnings
    ) -> Extractor:
        # The data is what counts: without this a restore only leaves extended
        # attributes where they are.
        known = snapshot.EMPTY
        try:
            if state is not None:
                known = snapshot.load(state)
        except EngineError as error:
            LOG.warning('the snapshot file: %s', error)
        whole_tree = known.subject == snapshot.TREE
        directories = TargetDirectories(target)
        guard = TargetGuard(
            target,
            self.settings.untrusted,
            opened=lambda: whole_tree and not directories.refused,
        )
        return _TarExtractor(
            self._process(target, warnings, guard), directories, whole_tree=whole_tree
        )

    def part_extractor(self, target: str, warnings: Warnings) -> PartExtractor:
        from freezer.engine.tar.part import Part

        directories = TargetDirectories(target)
        # Where a part leaves a directory as it is, it removes the link itself.
        guard = TargetGuard(
            target,
            self.settings.untrusted,
            self._patterns,
            lambda: not directories.refused,
        )
        return _TarPartExtractor(
            self._process(target, warnings, guard),
            Part(target, self._patterns, directories.make_ready),
            directories,
        )

    def _process(
        self, target: str, warnings: Warnings, guard: TargetGuard
    ) -> '_Process':
        return _Process(
            self._tar,
            target,
            guard,
            warnings,
            self._progress,
            untrusted=self.settings.untrusted,
        )

    def lister(self) -> Lister:
        from freezer.engine.tar.listing import TarLister

        return TarLister(self._patterns)

    def not_in(self, patterns: Iterable[str], state: bytes) -> set[str]:
        try:
            known = snapshot.load(state)
        except EngineError as error:
            LOG.warning('the snapshot file: %s', error)
            known = snapshot.EMPTY
        if known.subject != snapshot.TREE:
            return set()
        texts = sorted(patterns)
        those = Patterns(texts)
        found: set[int] = set()
        for path in known.paths():
            found.update(those.matched(those.at(path.split(b'/'))))
            if len(found) == len(texts):
                break
        return {text for number, text in enumerate(texts) if number not in found}

    def removals(self, target: str, newest: Backup) -> list[str]:
        if not os.listdir(target):
            return []
        try:
            state = self.state_of(newest)
            if state is None:
                raise EngineError(f'{newest.engine_metadata_path} is missing')
            known = snapshot.load(state)
            kept = known.paths()
            # Of a later level it may be what an older one has.
            left = known.left_out() if newest.level == 0 else set()
        except EngineError as error:
            raise RestoreError(
                f'what --overwrite would remove from {target} cannot be told '
                f'({error}): restore into an empty directory'
            ) from error
        if not kept:
            return []
        removed = (
            path
            for path, _ in _walk(target, self._patterns)
            if path not in kept and self._goes(path, kept, left)
        )
        # What is removed whole is named once.
        whole: list[bytes] = []
        for path in sorted(removed):
            if not whole or not path.startswith(whole[-1] + b'/'):
                whole.append(path)
        return [os.fsdecode(path) for path in whole]

    def _goes(
        self, path: bytes, kept: Container[bytes], left: Container[bytes]
    ) -> bool:
        """Whether it is in a directory that is restored as a whole."""
        above = parent = path.rpartition(b'/')[0]
        while above:
            if above in left:
                return False
            above = above.rpartition(b'/')[0]
        if not self.settings.include:
            return True
        while parent:
            place = self._patterns.at(parent.split(b'/'))
            if not self._patterns.chosen(place):
                return False
            if parent in kept:
                return True
            parent = parent.rpartition(b'/')[0]
        return False

    def begins(self, head: bytes) -> bool:
        return head[257:262] == b'ustar' or (bool(head) and not head.strip(b'\0'))


def _is_younger(source: Source, path: bytes, time: int) -> bool:
    """Whether a file counts as changed since; epoch nanoseconds."""
    try:
        status = os.lstat(os.path.join(os.fsencode(source.folder), path))
    except OSError:
        return True
    return max(status.st_mtime_ns, status.st_ctime_ns) >= time


def _subject(source: Source) -> bytes:
    """What a snapshot file says it is of; see :attr:`snapshot.Snapshot.subject`."""
    if source.name == '.':
        return snapshot.TREE
    return os.fsencode(os.path.join(source.folder, source.name))


_DEREFERENCE = {
    'none': (),
    'soft': ('--dereference',),
    'hard': ('--hard-dereference',),
    'all': ('--dereference', '--hard-dereference'),
}


class _Process:
    """Runs tar to extract archives into a target, one after the other.

    Two nets keep it there; each holds without the other. A guard reads each member
    before tar does, always. Landlock, where the kernel has it, holds tar itself.
    """

    def __init__(
        self,
        tar: str,
        target: str,
        guard: TargetGuard,
        warnings: Warnings,
        progress: Progress,
        *,
        untrusted: bool,
    ) -> None:
        self.target = target
        self._warnings = warnings
        self._guard = guard
        self._progress = progress
        without_landlock = landlock.why_not(target)
        if without_landlock is None:
            LOG.info(
                'every member is checked before tar sees it, and Landlock %d keeps tar '
                'from writing outside of %s',
                landlock.version(),
                target,
            )
        else:
            LOG.info(
                'every member is checked before tar sees it; no Landlock here (%s)',
                without_landlock,
            )
        self._confined = without_landlock is None
        self._argv = [
            tar,
            '--extract',
            '--file=-',
            '--listed-incremental=/dev/null',
            '--preserve-permissions',
            *_METADATA,
            # Who has it is root in part.
            *(['--xattrs-exclude=security.capability'] if untrusted else []),
            '--warning=no-timestamp',
            f'--directory={target}',
        ]

    def extract(self, blocks: Iterable[Block]) -> None:
        """:param blocks: an archive"""
        # tar makes the temporary directories of a rename where it was started.
        with _running(
            self._argv,
            stdin=subprocess.PIPE,
            cwd=self.target,
            confined=self._confined,
        ) as (process, said):
            assert process.stdin is not None
            # A tar that died says why in its status.
            with contextlib.suppress(BrokenPipeError):
                for block in self._guard.check(blocks):
                    process.stdin.write(block)
                    self._progress.files = self._guard.files
                process.stdin.close()
            status = process.wait()
            lines = said.lines()
        if status != 0:
            raise EngineError(
                f'tar could not extract into {self.target} (status {status}): '
                f'{_last(lines)}'
            )
        for line in lines:
            self._warnings.add(line)


class _TarExtractor(Extractor):
    """All of a chain."""

    def __init__(
        self, process: _Process, directories: TargetDirectories, *, whole_tree: bool
    ) -> None:
        self._process = process
        self._directories = directories
        self._whole_tree = whole_tree

    def extract(self, blocks: Iterator[Block]) -> None:
        # Of what was excluded, archives have no directories.
        with self._directories.for_archive():
            if self._whole_tree:
                self._directories.make_ready()
            self._process.extract(blocks)


class _TarPartExtractor(PartExtractor):
    """A part of a chain."""

    def __init__(
        self, process: _Process, part: 'Part', directories: TargetDirectories
    ) -> None:
        self._process = process
        self._part = part
        self._directories = directories

    def extract(
        self,
        blocks: Iterator[Block],
        hold: Callable[[Iterable[bytes]], Iterator[Block]],
    ) -> bool:
        part = self._part
        with self._directories.for_archive():
            part.make_ready()
            passed = part.filter_again if part.again else part.filter
            self._process.extract(hold(passed(blocks)))
        return part.again

    def finish(self) -> None:
        self._process.extract(self._part.directories())

    @property
    def wanted(self) -> bool:
        return self._part.wanted

    @property
    def unmatched(self) -> list[str]:
        return self._part.unmatched


def _walk(
    root: str, patterns: Patterns | None = None
) -> Iterator[tuple[bytes, os.stat_result]]:
    """Every path below a directory, and its status; on its file system, no link
    followed. What vanishes meanwhile is left out.

    :param patterns: directories in which they choose nothing are left out
    """
    patterns = patterns or Patterns([])
    folders = [(b'', patterns.top)]
    device = os.stat(root).st_dev
    while folders:
        below, place = folders.pop()
        try:
            entries = list(os.scandir(os.path.join(os.fsencode(root), below)))
        except (FileNotFoundError, PermissionError):
            continue
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                path = os.path.join(below, entry.name)
                yield path, status
                inside = patterns.below(place, entry.name)
                if stat.S_ISDIR(status.st_mode) and status.st_dev == device and inside:
                    folders.append((path, inside))


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
    argv: list[str],
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    cwd: str = '/',
    confined: bool = False,
) -> Iterator[tuple['subprocess.Popen[bytes]', _Said]]:
    """A child that is gone, and reaped, when the block is left.

    :param cwd: not where the agent was started, which may be gone
    :param confined: it can change nothing but what is below ``cwd``
    """
    LOG.debug('running %s', argv)

    def start() -> 'subprocess.Popen[bytes]':
        return subprocess.Popen(
            ['tar', *argv[1:]],  # noqa: S607 - the name its messages begin with
            executable=argv[0],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=_environment(),
        )

    process = landlock.below(cwd, start) if confined else start()
    assert process.stderr is not None
    said = _Said(process.stderr)
    for stream in (process.stdin, process.stdout):
        # Not with Popen's pipesize: one who has many pipes already is refused more.
        with contextlib.suppress(OSError):
            if stream is not None:
                fcntl.fcntl(stream, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    try:
        with signals.even_then(process.kill):
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


def _judge(
    status: int, lines: list[str], source: Source, warnings: Warnings
) -> list[messages.Message]:
    """What tar said, if the archive is good; see :mod:`freezer.engine.tar.messages`.

    :raises EngineError: it is not
    """
    found = [messages.parse(line, source.name) for line in lines]
    kinds = {message.kind for message in found}
    explained = status in (0, 1) or (
        status == 2
        and messages.Kind.WARNING in kinds
        and messages.Kind.FATAL not in kinds
    )
    if not explained:
        fatal = [m.text for m in found if m.kind is messages.Kind.FATAL]
        raise EngineError(f'tar failed with status {status}: {_last(fatal or lines)}')
    for message in found:
        if message.kind in (messages.Kind.WARNING, messages.Kind.FATAL):
            warnings.add(message.text)
        else:
            LOG.info('%s', message.text)
    return found


def _last(lines: list[str]) -> str:
    """The lines that say why, without tar's closing formula."""
    telling = [line for line in lines if 'Exiting with failure status' not in line]
    return '; '.join(telling[-_SAID_LINES:]) or 'it did not say why'


def _environment() -> dict[str, str]:
    """Of a child: nothing that could change what it does, and no keys."""
    passed_on = {k: v for k, v in os.environ.items() if k in _ENVIRONMENT}
    return {**passed_on, 'LC_ALL': 'C'}


@functools.cache
def _find_tar() -> str:
    """:raises ConfigError: there is no GNU tar"""
    for name in _NAMES:
        path = shutil.which(name)
        if path is None:
            continue
        said = subprocess.run(
            [path, '--version'], capture_output=True, check=False, env=_environment()
        )
        if b'GNU tar' in said.stdout:
            return path
    raise ConfigError(
        f'GNU tar is not installed, or not in PATH: the tar engine needs it, under the '
        f'name {" or ".join(_NAMES)}'
    )
