"""The archive of one level, its index, and the snapshot file, written with GNU tar.

Archives are in POSIX format, with sub-second times, holes, extended attributes and
ACLs; the flags that Freezer 19 restores with read them.
"""

import contextlib
import logging
import os
import subprocess
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from freezer.engine.engine import Archiving, LeftOut, Warnings
from freezer.engine.index.record import REBUILT, Record
from freezer.engine.index.state import merged
from freezer.engine.settings import EngineSettings
from freezer.engine.tar import messages, process, reading, snapshot
from freezer.engine.tar.excludes import Excludes
from freezer.engine.tar.indexer import Indexer
from freezer.engine.tar.options import OPTIONS
from freezer.engine.tar.source import PathSource, opened
from freezer.engine.tar.walk import Dated, Indexed, Known, Nothing, Walk
from freezer.exceptions import EngineError
from freezer.utils import file_system, human, machine
from freezer.utils.blocks import Block

LOG = logging.getLogger(__name__)

_READ_BLOCK = 1024 * 1024


class ArchiveWriter:
    """Creates one archive."""

    def __init__(
        self, run: Archiving, source: PathSource, settings: EngineSettings
    ) -> None:
        self._run = run
        self._source = source
        self._options = OPTIONS.defaults() | {**settings.options}
        self._progress = settings.progress
        self._sync = settings.sync
        self._excludes = excludes_of(settings, self._options)
        self._own_paths = settings.own_paths
        self._origin = settings.origin or source.label
        self._path = os.path.join(source.folder, source.name)

    def blocks(self) -> Generator[Block, None, None]:
        """The archive; see :meth:`freezer.engine.engine.Engine.archive`."""
        with opened(self._source) as folder:
            yield from self._blocks(folder)

    def _blocks(self, folder: int) -> Generator[Block, None, None]:
        """
        :param folder: descriptor of the source's folder
        """
        run, source = self._run, self._source
        temporary = run.state.parent
        if self._sync:
            with contextlib.suppress(FileNotFoundError):
                file_system.sync(source.folder)
        walk = Walk(
            source,
            folder,
            self._known(),
            run.now_ns,
            follows_links(self._options),
            self._options['cross_mounts'],
            self._excludes,
            self._own_paths,
            run.left_out,
            temporary,
        )
        walk.write_state(run.state)
        self._warn(walk)
        self._progress.total = walk.bytes
        indexer = Indexer(temporary)
        arguments = process.create_arguments(
            source,
            self._options,
            self._excludes,
            walk.crosses,
            '--file=-',
            '--format=posix',
            # The default name contains tar's process number.
            '--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=ctime',
            '--sparse',
            *process.METADATA,
            # Device numbers change with the next boot (LVM, NFS, containers).
            '--no-check-device',
            f'--listed-incremental={run.state}',
        )
        LOG.info('archiving %s of %s', source.name, source.folder)
        confine = reading.confinement(
            folder, source.folder, follows_links(self._options), str(run.state)
        )
        names = reading.names_version()
        with process.running(arguments, subprocess.PIPE, confine=confine) as (
            tar,
            stderr,
        ):
            assert tar.stdout is not None
            while block := tar.stdout.read(_READ_BLOCK):
                indexer.feed(block)
                self._progress.files = indexer.files
                yield block
            status = tar.wait()
            lines = stderr.lines()
        found = messages.check(status, lines, source.name, run.warnings)
        if confine is not None and names != reading.names_version():
            run.warnings.add(
                'users or groups of this machine were changed meanwhile: owners of '
                'some files may be stored by number only'
            )
        indexer.finish()
        if not indexer.members and (run.base is None or source.name == '.'):
            raise EngineError(f'{self._path}: --exclude leaves nothing to back up')
        self._progress.files = indexer.files
        unread = [snapshot.plain_path(path) for path in messages.paths(found)]
        self._write_state(unread)
        if run.index is not None:
            run.index.properties.update(
                subject=os.fsdecode(subject(source)),
                source=self._origin,
                machine=machine.identity(),
                time_ns=run.now_ns,
            )
            records = self._base_records()
            indexer.write(run.index, records, walk.found.sorted(), unread)

    def _warn(self, walk: Walk) -> None:
        """Report mounts that are left out, and excludes without effect."""
        warnings = self._run.warnings
        if not self._options['one_file_system']:
            for path, size in walk.mounts:
                where = os.path.join(self._origin, os.fsdecode(path))
                warnings.add(
                    f'{where} is on another file system ({human.size(size)}) and is '
                    f'not in the backup: add --cross-mounts to include it, or '
                    f'--one-file-system to accept this'
                )
        for sentence in self._excludes.unmatched():
            warnings.add(sentence)

    def _known(self) -> Known:
        base = self._run.base
        if base is None:
            return Nothing()
        if base.indexes:
            times = [index.properties['time_ns'] for index in base.indexes]
            elapsed = self._run.now_ns - times[-1]
            settled = elapsed >= snapshot.MARGIN_NANOSECONDS
            rebuilt = {
                level: times[level]
                for level, index in enumerate(base.indexes)
                if index.properties.get(REBUILT)
            }
            before = max(rebuilt.values(), default=0) - snapshot.MARGIN_NANOSECONDS
            return Indexed(self._base_records(), settled, rebuilt, before)
        known = snapshot.load(base.state.read_bytes())
        known.for_next_level(self._run.level)
        return Dated(known)

    def _base_records(self) -> Iterator[tuple[int, Record]]:
        base = self._run.base
        if base is None:
            return iter(())
        return merged([index.parts() for index in base.indexes])

    def _write_state(self, unread: Sequence[bytes]) -> None:
        """Correct the snapshot file that tar wrote, for agents that read no index.

        :param unread: paths that tar could not read, but counts as stored
        """
        source, state = self._source, self._run.state
        if unread or self._excludes or source.name != '.':
            written = snapshot.load(state.read_bytes())
            written.note(subject(source))
            if self._run.base is not None:
                written.note_excluded(self._excludes.matches)
            written.forget(unread)
            state.write_bytes(written.dump())
        # What changes after the walk, or the snapshot of the source, is not in it.
        snapshot.set_seconds(state, self._run.now_ns // 10**9)


def excludes_of(settings: EngineSettings, options: Mapping[str, Any]) -> Excludes:
    """:raises ConfigError: a pattern excludes the whole source"""
    return Excludes(options['exclude'], settings.origin, settings.own_paths)


def follows_links(options: Mapping[str, Any]) -> bool:
    """Whether symbolic links are followed."""
    return options['dereference_symlink'] in ('soft', 'all')


def subject(source: PathSource) -> bytes:
    """The value of :attr:`snapshot.Snapshot.subject` for a source."""
    if source.name == '.':
        return snapshot.TREE
    return os.fsencode(os.path.join(source.folder, source.name))


def members(source: PathSource, settings: EngineSettings) -> list[bytes]:
    """The paths that an archive would hold, below the source's folder, unsorted."""
    options = OPTIONS.defaults() | {**settings.options}
    with (
        opened(source) as folder,
        tempfile.TemporaryDirectory(prefix='freezer-') as name,
    ):
        temporary = Path(name)
        excludes = excludes_of(settings, options)
        walk = Walk(
            *(source, folder, Nothing(), 0, follows_links(options)),
            *(options['cross_mounts'], excludes, settings.own_paths, LeftOut()),
            temporary,
        )
        # It adds to the excludes.
        walk.write_state(temporary / 'state')
        # With /dev/null tar reads no file, and prints the names that it would store.
        arguments = process.create_arguments(
            source,
            options,
            excludes,
            walk.crosses,
            *('--file=/dev/null', '--verbose', '--quoting-style=escape'),
        )
        confine = reading.confinement(folder, source.folder, follows_links(options))
        with process.running(arguments, subprocess.PIPE, confine=confine) as (
            tar,
            stderr,
        ):
            assert tar.stdout is not None
            listing = tar.stdout.read()
            messages.check(tar.wait(), stderr.lines(), source.name, Warnings())
    names = listing.decode('ascii', 'surrogateescape').splitlines()
    return [messages.unescape(name) for name in names]
