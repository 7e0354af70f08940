"""The archive of one level, and the snapshot file for the next, written by GNU tar.

Archives are in POSIX format, with sub-second times, holes, extended attributes and
ACLs; the flags that Freezer 19 restores with read them.
"""

import contextlib
import logging
import os
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from freezer.engine.engine import Archiving, SourceChanged, Warnings
from freezer.engine.tar import messages, process, snapshot
from freezer.engine.tar.patterns import walk
from freezer.engine.tar.source import PathSource
from freezer.exceptions import EngineError
from freezer.utils.blocks import Block
from freezer.utils.progress import Progress

LOG = logging.getLogger(__name__)

_READ_BLOCK = 1024 * 1024


class ArchiveWriter:
    """Creates one archive."""

    def __init__(
        self,
        run: Archiving,
        source: PathSource,
        options: Mapping[str, Any],
        progress: Progress,
    ) -> None:
        self._run = run
        self._source = source
        self._options = options
        self._progress = progress
        self._base: snapshot.Snapshot | None = None
        self._base_time = 0  # epoch nanoseconds; older files count as unchanged

    def blocks(self) -> Generator[Block, None, None]:
        """The archive; see :meth:`freezer.engine.engine.Engine.archive`."""
        self._write_base()
        run, source = self._run, self._source
        delay = time.time_ns() - run.now * 10**9
        arguments = process.create_arguments(
            source,
            self._options,
            '--file=-',
            '--format=posix',
            # The default name contains tar's process number.
            '--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=ctime',
            '--sparse',
            *process.METADATA,
            # Device numbers change with the next boot (LVM, NFS, containers).
            '--no-check-device',
            '--check-links',
            f'--listed-incremental={run.state}',
        )
        LOG.info('archiving %s of %s', source.name, source.folder)
        with process.running(arguments, stdout=subprocess.PIPE) as (tar, stderr):
            assert tar.stdout is not None
            head = b''
            while block := tar.stdout.read(_READ_BLOCK):
                head = head or block[:1]
                yield block
            status = tar.wait()
            lines = stderr.lines()
        found = messages.check(status, lines, source.name, run.warnings.add)
        if self._base is None and head == b'\0':
            raise EngineError(
                f'{os.path.join(source.folder, source.name)}: --exclude leaves nothing '
                f'to back up'
            )
        # In the snapshot file each stored file has a field that begins with Y. A single
        # file has no directory and so no field; an archive of nothing is zeros.
        if source.name == '.':
            self._progress.files = run.state.read_bytes().count(b'\0Y')
        else:
            self._progress.files = int(head > b'\0')
        # The other names of a single file are not in the archive in any case.
        if run.base is not None and source.name == '.':
            self._check_links(messages.paths(found, messages.Severity.MISSING_LINKS))
        if delay > snapshot.MARGIN_NANOSECONDS:
            snapshot.set_seconds(run.state, run.now)
        self._write_state(messages.paths(found, messages.Severity.WARNING))

    def _write_base(self) -> None:
        """Write the snapshot file that tar compares with and then updates."""
        run = self._run
        if run.base is None:
            # tar treats an empty file as a missing one: it makes a level 0.
            run.state.write_bytes(b'')
            return
        self._base = base = snapshot.load(run.base.read_bytes())
        base.for_next_level(run.level)
        base.forget(run.include)
        self._base_time = base.seconds * 10**9 + base.nanoseconds
        run.state.write_bytes(base.dump())

    def _check_links(self, paths: Sequence[bytes]) -> None:
        """Check that hard links stay hard links.

        In a directory that was moved a file is stored again, though it has not changed;
        its names elsewhere are not, and a restore would make two files of it.

        :param paths: what tar reports missing links of
        :raises SourceChanged: the archive lacks names of files it holds
        """
        run = self._run
        wanted = set()
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(os.path.join(os.fsencode(self._source.folder), path))
                # A file that changed since is stored under all its names.
                if not self._changed(status):
                    wanted.add((status.st_dev, status.st_ino))
        names: dict[tuple[int, int], set[bytes]] = {}
        if wanted:
            for path, status in walk(self._source.folder):
                if (status.st_dev, status.st_ino) in wanted:
                    names.setdefault((status.st_dev, status.st_ino), set()).add(path)
        missing = set().union(*(many for many in names.values() if len(many) > 1))
        if missing - run.include:
            raise SourceChanged(run.include | missing)

    def _write_state(self, unread: Sequence[bytes]) -> None:
        """Correct the snapshot file that tar wrote.

        :param unread: paths that tar could not read, but counts as stored
        """
        source, base, state = self._source, self._base, self._run.state
        excluded = base is not None and self._options['exclude']
        if not (unread or excluded or source.name != '.'):
            return
        written = snapshot.load(state.read_bytes())
        written.note(subject(source))
        if base is not None and excluded:
            written.note_excluded(base.paths(), self._path_changed)
        written.forget(snapshot.plain_path(path) for path in unread)
        state.write_bytes(written.dump())

    def _path_changed(self, path: bytes) -> bool:
        folder = os.fsencode(self._source.folder)
        try:
            return self._changed(os.lstat(os.path.join(folder, path)))
        except OSError:
            return True

    def _changed(self, status: os.stat_result) -> bool:
        """Whether a file counts as changed since the level below."""
        return max(status.st_mtime_ns, status.st_ctime_ns) >= self._base_time


def subject(source: PathSource) -> bytes:
    """The value of :attr:`snapshot.Snapshot.subject` for a source."""
    if source.name == '.':
        return snapshot.TREE
    return os.fsencode(os.path.join(source.folder, source.name))


def members(source: PathSource, options: Mapping[str, Any]) -> list[bytes]:
    """The paths that an archive would hold, below the source's folder, unsorted."""
    # With /dev/null tar reads no file, and prints the names that it would store.
    arguments = process.create_arguments(
        source, options, '--file=/dev/null', '--verbose', '--quoting-style=escape'
    )
    with process.running(arguments, stdout=subprocess.PIPE) as (tar, stderr):
        assert tar.stdout is not None
        listing = tar.stdout.read()
        messages.check(tar.wait(), stderr.lines(), source.name, Warnings().add)
    names = listing.decode('ascii', 'surrogateescape').splitlines()
    return [messages.unescape(name) for name in names]
