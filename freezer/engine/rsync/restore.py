"""Restores the final state of a chain, compares it with the checksums of its newest
level, lists it, and prints one of its files."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, Final

from freezer.engine.engine import (
    LevelArchive,
    TargetPlan,
    Warnings,
    require_one_file,
)
from freezer.engine.index.record import Row, sort_key
from freezer.engine.opened import OpenedLevel
from freezer.engine.rsync.byte_reader import ByteReader
from freezer.engine.rsync.entry import LevelReader
from freezer.engine.rsync.first import FirstReader
from freezer.engine.rsync.merge import Found, State, choose, merge, reading, where_of
from freezer.engine.rsync.msgpack import is_array
from freezer.engine.rsync.second import SecondReader
from freezer.engine.rsync.state import StateFile
from freezer.engine.rsync.target import Owners, TargetWriter, read_file
from freezer.engine.settings import EngineSettings
from freezer.engine.tar.choose import Chooser
from freezer.engine.tar.patterns import Patterns
from freezer.exceptions import ConfigError, EngineError
from freezer.utils import human, tree
from freezer.utils.blocks import Block
from freezer.utils.text import NOTICES

LOG = logging.getLogger(__name__)

_COPY_BLOCK: Final = 1 << 20
# Version 1 has no other.
_FIRST_BLOCK_SIZE: Final = 4096
_NO_CHECKSUMS: Final = (
    'its contents may be wrong, and they could not be compared with checksums: restore '
    'another level'
)
_DIGITS: Final = range(ord('0'), ord('9') + 1)


def is_archive_start(head: bytes) -> bool:
    return head[:1] != b'' and (head[0] in _DIGITS or is_array(head[0]))


def open_reader(
    blocks: Iterable[Block], block_size: int | None, most: int = 0
) -> LevelReader:
    """
    :param block_size: see :class:`SecondReader`
    :param most: see :class:`SecondReader`
    :raises EngineError: it is not an archive of engine rsync or rsyncv2
    """
    stream = ByteReader(blocks, 'the archive')
    first = stream.first()
    if first in _DIGITS:
        return FirstReader(stream)
    if first is not None and is_array(first):
        return SecondReader(stream, block_size, most)
    if first is None:
        raise stream.cut_off()
    raise stream.damaged('it is not one of engine rsync or rsyncv2')


class Chain:
    """A chain of levels.

    :param levels: the newest first
    :raises EngineError: an archive is damaged
    """

    def __init__(
        self,
        levels: Iterable[LevelArchive],
        settings: EngineSettings,
        *,
        keep: bool = False,
    ) -> None:
        self._settings = settings
        self._patterns = Patterns(settings.include)
        newest_first = []
        for level in levels:
            # Only of levels with an index is it another class.
            assert isinstance(level, OpenedLevel)
            newest_first.append(level)
        self._levels = newest_first[::-1]
        state, self.version = merge(self._levels, self._reader, keep)
        self._check(state)
        self._all = state.keys()
        self._wanted = choose(state, self._patterns)

    @property
    def _newest(self) -> OpenedLevel:
        return self._levels[-1]

    @functools.cached_property
    def _state(self) -> StateFile | None:
        content = self._newest.state()
        return None if content is None else StateFile(content)

    @functools.cached_property
    def _block_size(self) -> int | None:
        """Of a chain it does not change."""
        size = self._newest.stored.marker.get('rsync_block_size')
        if isinstance(size, int) and size > 0:
            return size
        try:
            return None if self._state is None else self._state.block_size()
        except EngineError as error:
            where = self._newest.stored.paths.engine_metadata
            LOG.warning('%s: %s', where, error)
            return None

    def _reader(self, blocks: Iterable[Block]) -> LevelReader:
        return open_reader(blocks, self._block_size, self._settings.max_restore_size)

    def _check(self, state: State) -> None:
        is_changed = any(each.base != each.last for each in state.values())
        if self.version == 2 and is_changed and self._block_size is None:
            raise EngineError(
                f'{self._newest.stored.paths.marker}: the block size is not known: '
                f'this file and engine_metadata are damaged'
            )
        if self._loses_data:
            NOTICES.warning(
                'engine rsync can lose data in levels above 0, if bytes were '
                'inserted into a file or removed from it: each file is compared with '
                'its checksums when it is restored, and those that differ are named'
            )

    def restore(
        self,
        target: str,
        limited: Callable[[Iterable[Block]], Iterator[Block]],
        options: dict[str, Any],
        warnings: Warnings,
        plan: TargetPlan,
    ) -> None:
        """See :meth:`freezer.engine.engine.FileEngine.extract_part`."""
        numeric = options['numeric_owner']
        if numeric and self.version != 1:
            raise ConfigError(
                'numeric-owner: engine rsyncv2 of Freezer 19 stored owners without '
                'their numbers: restore without it'
            )
        owners = Owners(numeric, warnings)
        untrusted = self._settings.untrusted
        writer = TargetWriter(target, self._wanted, plan, owners, untrusted, warnings)
        with writer:
            writer.remove()
            problems = [self._extract(each, writer, limited) for each in self._needed()]
            self._compare(target, writer, warnings, list(filter(None, problems)))

    def _needed(self) -> Iterator[OpenedLevel]:
        """The levels that have something of what is wanted."""
        needed = {
            level
            for found in set(map(_range, self._wanted.state.values()))
            for level in found
        }
        return (each for each in self._levels if each.level in needed)

    def _extract(
        self,
        level: OpenedLevel,
        writer: TargetWriter,
        limited: Callable[[Iterable[Block]], Iterator[Block]],
    ) -> str | None:
        """Extract a level; returns what is wrong with all of its contents."""
        progress = self._settings.progress
        with reading(level), contextlib.closing(level.data()) as blocks:
            reader = self._reader(limited(blocks))
            for entry, contents in reader.entries():
                progress.current = entry.path
                writer.write(entry, contents, level.level)
                progress.files = writer.files
            progress.current = b''
        return reader.problem and f'{where_of(level)}: {reader.problem}'

    def _compare(
        self,
        target: str,
        writer: TargetWriter,
        warnings: Warnings,
        problems: Sequence[str],
    ) -> None:
        """Compare every restored file with its checksums, and all paths of the backup
        with those in the engine's file.

        :param problems: reasons for which contents of files are wrong
        :raises EngineError: there is one, and checksums do not show of which files
        """
        self._settings.progress.phase = 'Comparing with the checksums'
        files = {
            path
            for path, each in self._wanted.state.items()
            if each.kind == 'file' and not writer.is_untouched(path)
        }
        try:
            if self._state is None:
                raise EngineError('engine_metadata is missing or damaged')
            different = self._different(target, files)
            missing = self._missing()
        except EngineError as error:
            if problems:
                raise EngineError(f'{problems[0]} ({error})') from error
            warnings.add(
                f'the restored files could not be compared with their checksums '
                f'({error}): some may be wrong',
                damaged=self._loses_data,
            )
            return
        for problem in problems:
            warnings.add(problem, damaged=True)

        def name(paths: Iterable[bytes], why: str) -> None:
            for path in paths:
                full = os.path.join(target, os.fsdecode(path))
                warnings.add(f'{full}: {why}', damaged=True)

        name(different, self._why_different())
        name(missing, 'Freezer 19 listed it, and did not store it')
        # Those that are left were not compared.
        if problems or self._loses_data:
            name(sorted(files), _NO_CHECKSUMS)
        elif files:
            warnings.add(
                f'{human.number(len(files), "restored file")} could not be compared '
                f'with checksums'
            )

    @property
    def _loses_data(self) -> bool:
        """Whether files may be wrong though the archives are not damaged."""
        return self.version == 1 and len(self._levels) > 1

    def _why_different(self) -> str:
        if self.version == 1:
            return (
                'not what was backed up: engine rsync lost a part of it; restore '
                'another level'
            )
        return (
            'not what its checksums are of: it, or a file before it, changed while '
            'Freezer 19 backed it up; restore another level'
        )

    def _different(self, target: str, files: set[bytes]) -> list[bytes]:
        """The files that are not those of the checksums.

        :param files: those that are compared are removed from it
        """
        assert self._state is not None
        size = self._block_size or _FIRST_BLOCK_SIZE
        if self.version == 1:
            size = _FIRST_BLOCK_SIZE
        different = []
        with tree.Folders(target) as folders:
            for path, digests in self._state.checksums():
                blocks = read_file(folders, path, size) if path in files else None
                if blocks is not None:
                    files.discard(path)
                    if not _is_same(blocks, digests):
                        different.append(path)
        return different

    def _missing(self) -> list[bytes]:
        """The chosen paths of the engine's file that no level has."""
        assert self._state is not None
        lost = {path for path, _kind in self._state.paths()} - self._all
        chooser = Chooser(self._patterns)
        return [
            path
            for path in sorted(lost, key=sort_key)
            if not self._patterns.texts or chooser.chooses(path)
        ]

    def rows(self) -> Iterator[Row]:
        """See :meth:`freezer.engine.engine.FileEngine.entries`."""
        leading = self._wanted.leading
        for path, found in self._wanted.state.items():
            entry = found.entry
            if path and path not in leading and entry is not None:
                owner = entry.uid or 0, entry.gid or 0, entry.user, entry.group
                yield Row(
                    *(found.last, path, entry.kind, entry.mode, owner),
                    *(entry.size, entry.mtime_ns, entry.target),
                )

    def contents(self) -> Iterator[Block]:
        """See :meth:`freezer.engine.engine.FileEngine.contents_of_chosen`."""
        leading = self._wanted.leading
        chosen = [
            (path, found.kind)
            for path, found in self._wanted.state.items()
            if path not in leading
        ]
        require_one_file(chosen)
        path = chosen[0][0]
        with tempfile.TemporaryFile() as kept:
            problems = [self._keep(each, path, kept) for each in self._needed()]
            self._check_kept(path, kept, any(problems))
            kept.seek(0)
            while block := kept.read(_COPY_BLOCK):
                yield block

    def _keep(self, level: OpenedLevel, path: bytes, kept: IO[bytes]) -> str | None:
        found = self._wanted.state[path]
        with reading(level), contextlib.closing(level.data()) as blocks:
            reader = self._reader(blocks)
            for entry, contents in reader.entries():
                if entry.path == path and found.has(entry, level.level):
                    if level.level == found.base:
                        kept.truncate(0)
                    for position, block in contents:
                        kept.seek(position)
                        kept.write(block)
                    kept.truncate(entry.size)
        return reader.problem

    def _check_kept(self, path: bytes, kept: IO[bytes], is_doubtful: bool) -> None:
        """:raises EngineError: the contents are not what was backed up"""
        size = _FIRST_BLOCK_SIZE if self.version == 1 else self._block_size
        doubtful = is_doubtful or self._loses_data
        kept.seek(0)
        for other, digests in self._state.checksums() if self._state and size else ():
            if other == path:
                assert size is not None
                blocks = iter(functools.partial(kept.read, size), b'')
                if not _is_same(blocks, digests):
                    raise EngineError(f'{os.fsdecode(path)!r}: {self._why_different()}')
                return
        if doubtful:
            raise EngineError(f'{os.fsdecode(path)!r}: {_NO_CHECKSUMS}')


def _range(found: Found) -> range:
    return range(found.base, found.last + 1)


def _is_same(blocks: Iterable[bytes], digests: Iterable[str]) -> bool:
    pairs = itertools.zip_longest(blocks, digests)
    return all(
        block is not None
        and hashlib.sha1(block, usedforsecurity=False).hexdigest() == digest
        for block, digest in pairs
    )
