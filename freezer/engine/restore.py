"""Opens a chain of levels, and restores or lists it."""

import contextlib
import functools
import itertools
import logging
import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import NamedTuple

from freezer.engine.engine import (
    Chosen,
    Engine,
    FileEngine,
    LevelArchive,
    LevelState,
    PartsExtractor,
    Restored,
    StreamedEngine,
    TargetPlan,
    Warnings,
    no_match,
    require_files,
    require_one_file,
)
from freezer.engine.index.chain import (
    ChainIndex,
    at_once,
    no_link_target,
    open_indexes,
)
from freezer.engine.index.file import BLOCK_RECORDS, Part
from freezer.engine.index.record import (
    Owner,
    Record,
    Row,
    Rows,
    rows_of,
    sort_key,
)
from freezer.engine.opened import LevelOpener, OpenedLevel
from freezer.engine.settings import EngineSettings
from freezer.exceptions import EngineError
from freezer.storage import layout
from freezer.storage.backup import StoredLevel
from freezer.storage.exceptions import IntegrityError, NotFound
from freezer.utils.blocks import Block
from freezer.utils.text import NOTICES

LOG = logging.getLogger(__name__)


class RestoreChain:
    """A chain, checked as far as possible without reading its data.

    Each marker, manifest and engine's file is fetched at most once.

    :param chain: level -> stored level, from 0 up, without a gap
    :param listed: nothing will be restored: of levels that have an index, only that is
        read
    :raises RestoreError: it cannot be restored with these settings
    :raises EncryptionError: a level was replaced or changed, or cannot be decrypted
    :raises StorageException: a marker cannot be read
    """

    def __init__(
        self,
        chain: Mapping[int, StoredLevel],
        engine: Engine,
        settings: EngineSettings,
        listed: bool = False,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._listed = listed
        self._progress = settings.progress
        opener = LevelOpener(settings, engine)
        # The newest first, as a part of a backup is restored.
        newest_first = [chain[level] for level in sorted(chain, reverse=True)]
        self._levels = list(
            at_once(
                [functools.partial(opener.open, stored) for stored in newest_first],
                None if listed else 1,
            )
        )
        self.restored: Restored | None = None
        """What a restore has made; None if it is its target."""
        self._chosen: list[Chosen] | None = None
        self._state: bytes | None = None
        self._state_known = False
        self._check()

    @property
    def newest(self) -> StoredLevel:
        return self._levels[0].stored

    def _check(self) -> None:
        """Check the seals, and that each pattern of ``include`` matches a path.

        :raises RestoreError: one does not
        """
        include = self._settings.include
        sealed = any(level.format == layout.AGE for level in self._levels)
        by_index = (include or self._listed) and isinstance(self._engine, FileEngine)
        if by_index and self._index is not None:
            if sealed:
                stored = [each.stored for each in self._levels]
                for level, below in zip(self._levels, [*stored[1:], None], strict=True):
                    level.check_base(below)
            if include:
                # Reads what was chosen, and nothing else.
                self._chosen = list(self._files.choose(self._index_state()))
            return
        self._check_states(sealed)

    def _check_states(self, sealed: bool) -> None:
        """The same without an index: by the engine file of each level."""
        include = self._settings.include
        missing = set(include)
        files = require_files(self._engine, 'include') if include else None
        for number, level in enumerate(self._levels):
            state: bytes | None = None
            if sealed:
                below = self._levels[number + 1 :]
                state = level.check_seal(below[0].stored if below else None)
            elif missing:
                state = level.state()
            if number == 0 and (sealed or missing):
                self._state, self._state_known = state, True
            if files is not None and missing:
                missing = (
                    files.unmatched_patterns(missing, state)
                    if state is not None
                    else set()
                )
        if missing:
            raise no_match([p for p in include if p in missing])

    @functools.cached_property
    def _index(self) -> ChainIndex | None:
        """None, and all data must be read, if a level has none or it is damaged.

        :raises EncryptionError: it was changed
        """
        levels = self._levels[::-1]
        names = [each.stored.paths.index for each in levels]
        # Of an index that is read as a whole, damage shows before anything is done.
        copy = not self._files.roots()
        try:
            return open_indexes(levels, names, copy)
        except (NotFound, IntegrityError, EngineError) as error:
            NOTICES.warning('%s; reading the data of all levels instead', error)
            return None

    @property
    def _files(self) -> FileEngine:
        assert isinstance(self._engine, FileEngine)
        return self._engine

    def _index_state(self) -> Iterator[tuple[int, Part]]:
        assert self._index is not None
        return self._index.state(self._files.roots())

    def _newest_state(self) -> bytes | None:
        if not self._state_known:
            self._state, self._state_known = self._levels[0].state(), True
        return self._state

    def plan(self, target: str, keep_extra: bool = False) -> TargetPlan | None:
        """What the restore does to a target that is not empty. None if it is empty, or
        if the engine's backups hold no files: it replaces what it restores.

        :param keep_extra: remove nothing
        :raises RestoreError: see :meth:`FileEngine.plan`
        """
        if not isinstance(self._engine, FileEngine):
            return None
        return self._engine.plan(
            target, self._states(), keep_extra, lambda: self._index
        )

    def _states(self) -> Iterator[LevelState]:
        for number, level in enumerate(self._levels):
            state = level.state() if number else self._newest_state()
            yield LevelState(state, level.stored.paths.engine_metadata)

    def restore(self, target: str, plan: TargetPlan | None = None) -> Warnings:
        """Extract the chain, level after level.

        Not atomic: when it raises, the target holds a part of the backup.

        :param target: from :meth:`Engine.check_target`
        :param plan: from :meth:`plan`, for a target that is not empty; made here if it
            is not given
        """
        warnings = Warnings()
        plan = plan or self.plan(target)
        for mount in plan.mounts if plan else ():
            where = os.path.join(target, os.fsdecode(mount))
            warnings.add(f'{where}: a mounted file system: nothing is removed from it')
        self._warn_of_padded(warnings)
        self._progress.begin()
        self._progress.phase = 'Restoring'
        limit = _Limit(self._settings.max_restore_size)
        if self._settings.include or plan is not None:
            self._restore_part(target, limit, warnings, plan)
        else:
            self._restore_whole(target, limit, warnings)
        return warnings

    def _restore_part(
        self,
        target: str,
        limit: '_Limit',
        warnings: Warnings,
        plan: TargetPlan | None = None,
    ) -> None:
        require_files(self._engine, 'include').extract_part(
            target,
            self._parts(),
            lambda blocks: self._progress.archived(limit.hold(blocks)),
            warnings,
            plan,
        )

    def _warn_of_padded(self, warnings: Warnings) -> None:
        """Name the files that the newest level should have. Each level tries again to
        read those of the level below."""
        newest = self._levels[0]
        if not newest.padded:
            return
        chooser = self._files.chooser()
        for path in sorted(newest.padded):
            if not self._settings.include or chooser.chooses(path):
                warnings.add(
                    f'{os.fsdecode(path)}: could not be read to its end when level '
                    f'{newest.level} was made: restored as the levels below have it, '
                    f'or not at all'
                )

    def _restore_whole(self, target: str, limit: '_Limit', warnings: Warnings) -> None:
        """Into an empty target: the oldest level first."""
        sizes = [level.stored.size for level in self._levels]
        known = [size for size in sizes if size is not None]
        self._progress.total = sum(known) if len(known) == len(sizes) else None
        state = self._engine.completed_state(self._newest_state(), self.newest.marker)
        opened = self._engine.extractor(target, state, warnings)
        if opened is None:
            self._restore_part(target, limit, warnings)
            return
        with opened as extractor:
            if not isinstance(extractor, PartsExtractor):
                for level in self._levels:
                    # Raises an exception if it has parts.
                    level.stored.stream()
            for level in reversed(self._levels):
                stored = level.stored
                LOG.info(
                    'restoring level %d (%r) into %s', stored.level, stored, target
                )
                with contextlib.closing(self._streams(level, limit)) as streams:
                    if isinstance(extractor, PartsExtractor):
                        extractor.extract(streams)
                    else:
                        for _part, blocks in streams:
                            extractor.extract(blocks)
                    for _rest in streams:
                        pass
        self.restored = extractor.restored

    def _streams(
        self, level: OpenedLevel, limit: '_Limit'
    ) -> Generator[tuple[str, Iterator[Block]], None, None]:
        """The archive, or each part of it by name; read to its end."""
        for part in level.stored.streams:
            # Closed at once: it has downloads in flight.
            with contextlib.closing(level.data(part)) as blocks:
                held = limit.hold(self._progress.archived(blocks))
                yield part, held
                # Only the end proves that the stream is complete, and tar may not read
                # that far.
                for _block in held:
                    pass

    def rows(self) -> Iterator[Rows]:
        """The files that a restore would bring, sorted by path; reads the data if the
        chain has no index.

        :raises RestoreError: a pattern chooses nothing
        """
        if self._index is None or self._chosen is not None:
            entries = iter(self._entries())
            while some := list(itertools.islice(entries, BLOCK_RECORDS)):
                yield rows_of(some)
            return
        for level, (block, start, end) in self._index.state():
            # The top.
            start += not block.paths[start]
            part = slice(start, end)
            yield Rows(
                itertools.repeat(level, end - start),
                block.paths[part],
                block.kinds[part],
                block.modes[part],
                block.owners[part],
                block.sizes[part],
                block.mtimes[part],
                block.targets[part],
            )

    def owners(self) -> Iterable[Owner] | None:
        """The owners that :meth:`rows` may have, if they are known before."""
        if self._index is None:
            return None
        return [owner for each in self._index.indexes for owner in each.owners]

    def _entries(self) -> Iterable[Row]:
        if self._chosen is not None:
            return (
                record.row(level)
                for level, record, is_chosen in self._chosen
                if is_chosen and record.path
            )
        self._progress.begin()
        self._progress.phase = 'Listing'
        found = self._files.entries(self._newest_first('listing'))
        return sorted(found, key=lambda each: sort_key(each.path))

    def contents(self) -> 'Contents':
        """The contents of the one file that ``include`` chooses. Of a chain with
        indexes, only what holds them is read.

        :raises RestoreError: it chooses nothing, several files, or something else; if
            the chain has no index, when the blocks are read
        """
        if self._index is None or self._chosen is None:
            self._progress.phase = 'Looking for the file'
            levels = self._newest_first('searching')
            return Contents(None, self._files.contents_of_chosen(levels))
        found = [each for each in self._chosen if each.chosen]
        require_one_file([(each.record.path, each.record.kind) for each in found])
        level, record, _is_chosen = found[0]
        path = record.path
        if record.kind == 'link':
            record = self._target_of(record.row(level))
            require_one_file([(path, record.kind)])
        (archive,) = self._index.archives({level: [record]})
        return Contents(path, self._read(archive, record.path))

    def streamed(self) -> Generator[Block, None, None]:
        """The stream of a backup that is one. Each byte is checked before it is
        yielded.

        :raises RestoreError: it is no use without the levels below
        """
        assert isinstance(self._engine, StreamedEngine)
        newest = self._levels[0]
        self._progress.begin()
        # Closed at once: it has downloads in flight.
        with contextlib.closing(newest.data()) as blocks:
            archived = self._progress.archived(blocks)
            yield from self._engine.content(newest.level, archived)

    def _read(self, archive: LevelArchive, path: bytes) -> Iterator[Block]:
        self._progress.begin()
        with contextlib.closing(archive.data()) as blocks:
            archived = self._progress.archived(blocks)
            yield from self._files.contents(archived, path)

    def resolved(self, row: Row) -> Row:
        """What a hard link is a name of, under the path of the link; the row itself if
        it is no link, or if the chain has no index."""
        if row.kind != 'link' or self._index is None:
            return row
        return self._target_of(row).row(row.level)._replace(path=row.path)

    def _target_of(self, link: Row) -> Record:
        """The file that a hard link is a name of."""
        assert self._index is not None
        found = self._index.indexes[link.level].find(link.target)
        if found is None:
            raise no_link_target(link.path, link.target, link.level)
        return found

    @property
    def has_index(self) -> bool:
        return self._index is not None

    def _parts(self) -> Iterator[LevelArchive]:
        """The archives that hold what is chosen, the newest first."""
        if self._chosen is None or self._index is None:
            return self._newest_first('restoring')
        members = self._index.with_targets(each[:2] for each in self._chosen)
        return self._index.archives(members)

    def _newest_first(self, action: str) -> Iterator[OpenedLevel]:
        for level in self._levels:
            LOG.info('%s level %d (%r)', action, level.level, level.stored)
            yield level


class Contents(NamedTuple):
    """The contents of a file.

    :ivar path: of the file; None if it is found as the blocks are read
    :ivar blocks: each byte is checked before it is yielded
    """

    path: bytes | None
    blocks: Iterator[Block]


class _Limit:
    """The size limit of all archives of one restore together; 0 is unlimited."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._passed = 0

    def hold(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Pass on the blocks up to the limit.

        :raises EngineError: a block would exceed it
        """
        for block in blocks:
            self._passed += len(block)
            if 0 < self._size < self._passed:
                raise EngineError(
                    f'the backup is larger than the {self._size} bytes that '
                    f'--max-restore-size allows: stopped there'
                )
            yield block
