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

from freezer.engine.engine import Archiving, LeftOut
from freezer.engine.index.file import Part
from freezer.engine.index.record import CHOSEN, REBUILT, UNSTORED
from freezer.engine.index.state import merged_parts
from freezer.engine.settings import EngineSettings
from freezer.engine.tar import (
    instructions,
    messages,
    pattern_file,
    process,
    reading,
    snapshot,
)
from freezer.engine.tar.excludes import Excludes
from freezer.engine.tar.indexer import Indexer
from freezer.engine.tar.options import OPTIONS
from freezer.engine.tar.rules import rules_of
from freezer.engine.tar.source import Descriptors, PathSource, opened
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
        self._origin = settings.origin or source.origin
        self._excludes = excludes_of(settings, self._options, self._origin)
        self._own_paths = settings.own_paths
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
            _sync(source)
        walk = Walk(
            source,
            folder,
            self._known(),
            run.now_ns,
            follows_links(self._options),
            self._options['cross_mounts'],
            self._excludes,
            rules_of(self._options),
            self._own_paths,
            run.left_out,
            temporary,
        )
        walk.write_state(run.state)
        self._warn(walk)
        self._progress.total = walk.bytes
        indexer = Indexer(temporary, walk.chosen)
        found: list[messages.Message] = []
        with contextlib.closing(self._tar(folder, walk, found)) as blocks:
            for block in blocks:
                kept = indexer.feed(block)
                self._progress.files = indexer.files
                self._progress.current = indexer.current
                yield from kept
        self._progress.current = b''
        indexer.finish()
        if indexer.is_empty and (run.base is None or source.name == '.'):
            raise EngineError(f'{self._path}: --exclude leaves nothing to back up')
        self._progress.files = indexer.files
        unread = [snapshot.plain_path(path) for path in messages.paths(found)]
        for path, why in (*indexer.left_out, *indexer.lost(unread)):
            run.warnings.add(
                f'{os.path.join(self._origin, os.fsdecode(path))} changed while it was '
                f'read, and is not in the backup: {why}',
                incomplete=True,
            )
            unread.append(path)
        padded = frozenset(map(snapshot.plain_path, messages.padded(found)))
        run.padded.update(padded)
        self._write_state(unread, padded)
        if run.index is not None:
            run.index.properties.update(
                subject=os.fsdecode(subject(source)),
                source=self._origin,
                machine=machine.identity(),
                time_ns=run.now_ns,
            )
            if source.selection is not None:
                run.index.properties[CHOSEN] = source.selection.texts()
            if walk.unstored is not None:
                paths = {*walk.unstored, *unread}
                run.index.properties[UNSTORED] = sorted(map(os.fsdecode, paths))
            run.index.records = indexer.records(
                self._base_parts(), walk.found.sorted(), unread, padded
            )

    def _tar(
        self, folder: int, walk: Walk, found: list[messages.Message]
    ) -> Generator[Block, None, None]:
        """What tar writes, as one archive.

        :param folder: descriptor of the source's folder
        :param found: gets the messages of tar
        """
        source, state = self._source, self._run.state
        temporary = state.parent
        hidden = temporary / 'hidden'
        confine = reading.confinement(
            Descriptors(folder, source.selection),
            source.label,
            follows_links(self._options),
            [str(state), str(hidden), *instructions.files(temporary)],
        )
        names = [f'--directory={source.folder}', '--', source.name]
        if source.selection is not None:
            names = instructions.arguments(temporary)
            yield from self._parents(folder, confine is not None, found)
            if not walk.has_names:
                # Without a name, tar would archive the whole folder.
                yield bytes(process.END)
                return
        arguments = process.create_arguments(
            self._options,
            self._excludes,
            walk.crosses,
            hidden,
            [
                '--file=-',
                *process.FORMAT,
                '--sparse',
                # Device numbers change with the next boot (LVM, NFS, containers).
                '--no-check-device',
                f'--listed-incremental={state}',
            ],
            names,
        )
        LOG.info('archiving %s of %s', source.name, source.folder)
        yield from self._run_tar(folder, arguments, confine, found)

    def _parents(
        self, folder: int, is_confined: bool, found: list[messages.Message]
    ) -> Generator[Block, None, None]:
        """The directories that lead to the paths. They are members without a list of
        names: a restore removes nothing that is in them."""
        names = instructions.parents(self._run.state.parent)
        confine = None
        if is_confined:
            confine = reading.confined_to_directories(folder, [str(names)])
        arguments = process.parents_arguments(names)
        rest = b''
        for block in self._run_tar(folder, arguments, confine, found):
            rest += block
            end = max(len(rest) - process.END, 0)
            yield rest[:end]
            rest = rest[end:]

    def _run_tar(
        self,
        folder: int,
        arguments: list[str],
        confine: process.Confine | None,
        found: list[messages.Message],
    ) -> Generator[bytes, None, None]:
        warnings = self._run.warnings
        # If tar cannot read one of several paths, the others are archived.
        root = '' if self._source.selection else self._source.name
        names = reading.names_version()
        # It may not open a directory of which only some paths are backed up.
        cwd = f'/proc/self/fd/{folder}' if self._source.selection else '/'
        with process.running(arguments, subprocess.PIPE, cwd=cwd, confine=confine) as (
            tar,
            stderr,
        ):
            assert tar.stdout is not None
            while block := tar.stdout.read(_READ_BLOCK):
                yield block
            status = tar.wait()
            lines = stderr.lines()
        found += messages.check(status, lines, root, warnings)
        if confine is not None and names != reading.names_version():
            warnings.add(
                'users or groups of this machine were changed meanwhile: owners of '
                'some files may be stored by number only'
            )

    def _warn(self, walk: Walk) -> None:
        """Report mounts that are left out, and excludes without effect.

        :raises EngineError: --cross-mounts requests what a snapshot does not have
        """
        warnings = self._run.warnings
        for path in walk.missing:
            where = os.path.join(self._origin, os.fsdecode(path))
            problem = f'{where} is another file system, which is not in the snapshot'
            if self._options['cross_mounts']:
                raise EngineError(
                    f'{problem}: omit --cross-mounts, and make another backup for it'
                )
            if not self._options['one_file_system']:
                warnings.add(
                    f'{problem}: make another backup for it, or add --one-file-system '
                    f'to accept this'
                )
        if not self._options['one_file_system']:
            for path, size in walk.mounts:
                where = os.path.join(self._origin, os.fsdecode(path))
                warnings.add(
                    f'{where} is on another file system ({human.size(size)}) and is '
                    f'not in the backup: add --cross-mounts to include it, or '
                    f'--one-file-system to accept this'
                )
        for sentence in self._excludes.patterns.unmatched():
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
            return Indexed(self._base_parts(), settled, rebuilt, before)
        known = snapshot.load(base.state.read_bytes())
        known.for_next_level(self._run.level)
        return Dated(known)

    def _base_parts(self) -> Iterator[tuple[int, Part]]:
        """The state of the level below, if that has an index."""
        base = self._run.base
        if base is None:
            return iter(())
        return merged_parts([index.parts() for index in base.indexes])

    def _write_state(self, unread: Sequence[bytes], padded: frozenset[bytes]) -> None:
        """Correct the snapshot file that tar wrote, for agents that read no index.

        :param unread: paths that tar could not read, but counts as stored
        :param padded: those of them that end with zeros in the archive
        """
        source, state = self._source, self._run.state
        is_indexed = self._run.index is not None
        selection = source.selection
        if (
            unread
            or self._excludes
            or source.name != '.'
            or selection
            or not is_indexed
        ):
            written = snapshot.load(state.read_bytes())
            if selection is not None:
                written.note_chosen(selection)
            if not is_indexed:
                written.source = os.fsencode(self._origin)
            written.note(subject(source))
            if self._run.base is not None:
                written.note_excluded(self._excludes.matches)
            written.forget(unread)
            written.padded = padded
            state.write_bytes(written.dump())
        # What changes after the walk, or the snapshot of the source, is not in it.
        snapshot.set_seconds(state, self._run.now_ns // 10**9)


def excludes_of(
    settings: EngineSettings, options: Mapping[str, Any], origin: str
) -> Excludes:
    """
    :param origin: the path that the archive begins at
    :raises ConfigError: a pattern excludes the whole source, or a file of patterns
    cannot be read"""
    files = [pattern_file.read(path) for path in options['exclude_from']]
    return Excludes(options['exclude'], origin, settings.own_paths, files)


def _sync(source: PathSource) -> None:
    """Write out each file system that has a part of the source."""
    selection = source.selection
    paths = sorted(selection.directories) if selection else [b'']
    devices: set[int] = set()
    for path in paths:
        folder = os.path.join(source.folder, os.fsdecode(path))
        # tar reports what cannot be read.
        with contextlib.suppress(
            FileNotFoundError, NotADirectoryError, PermissionError
        ):
            device = os.stat(folder).st_dev
            if device not in devices:
                file_system.sync(folder)
                devices.add(device)


def follows_links(options: Mapping[str, Any]) -> bool:
    """Whether symbolic links are followed."""
    return options['dereference_symlink'] in ('soft', 'all')


def subject(source: PathSource) -> bytes:
    """The value of :attr:`snapshot.Snapshot.subject` for a source."""
    if source.name == '.':
        return snapshot.TREE
    # Not the path that is read: a snapshot has another one each time.
    return os.fsencode(os.path.join(os.path.dirname(source.origin), source.name))


def members(source: PathSource, settings: EngineSettings) -> list[bytes]:
    """The paths that an archive would hold, below the source's folder."""
    options = OPTIONS.defaults() | {**settings.options}
    with (
        opened(source) as folder,
        tempfile.TemporaryDirectory(prefix='freezer-') as name,
    ):
        temporary = Path(name)
        excludes = excludes_of(settings, options, settings.origin or source.origin)
        walk = Walk(
            *(source, folder, Nothing(), 0, follows_links(options)),
            *(options['cross_mounts'], excludes, rules_of(options)),
            *(settings.own_paths, LeftOut(), temporary),
        )
        walk.write_state(temporary / 'state')
        return [record.path for record in walk.found.sorted()]
