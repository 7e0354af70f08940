"""Opens a chain of levels, and restores or lists it."""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping

from freezer.engine.engine import (
    Engine,
    Entry,
    FileEngine,
    Warnings,
    no_match,
    require_files,
)
from freezer.engine.opened import LevelOpener, OpenedLevel
from freezer.engine.settings import EngineSettings
from freezer.exceptions import EngineError
from freezer.storage import layout
from freezer.storage.backup import StoredLevel
from freezer.utils.blocks import Block

LOG = logging.getLogger(__name__)


class RestoreChain:
    """A chain, checked as far as possible without reading its data.

    Each marker, manifest and engine's file is fetched at most once.

    :param chain: level -> stored level, from 0 up, without a gap
    :raises RestoreError: it cannot be restored with these settings
    :raises EncryptionError: a level was replaced or changed, or cannot be decrypted
    :raises StorageException: a marker cannot be read
    """

    def __init__(
        self,
        chain: Mapping[int, StoredLevel],
        engine: Engine,
        settings: EngineSettings,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._progress = settings.progress
        opener = LevelOpener(settings, engine.is_archive_start)
        # The newest first, as a part of a backup is restored.
        self._levels = [
            opener.open(stored)
            for _level, stored in sorted(chain.items(), reverse=True)
        ]
        self._state: bytes | None = None
        self._state_known = False
        self._check()

    @property
    def newest(self) -> StoredLevel:
        return self._levels[0].stored

    def _check(self) -> None:
        """Check the seals, and that each pattern of ``include`` matches a path in the
        engine file of a level.

        :raises RestoreError: one does not
        """
        include = self._settings.include
        missing = set(include)
        files = require_files(self._engine, 'include') if include else None
        sealed = any(level.format == layout.AGE for level in self._levels)
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

    def _newest_state(self) -> bytes | None:
        if not self._state_known:
            self._state, self._state_known = self._levels[0].state(), True
        return self._state

    def removals(self, target: str) -> list[str]:
        """The paths below the target that a restore will remove, sorted. None if the
        engine's backups hold no files: it replaces what it restores.

        :raises RestoreError: they cannot be determined
        """
        if not isinstance(self._engine, FileEngine):
            return []
        newest = self.newest
        where = newest.paths.engine_metadata
        return self._engine.removals(target, self._newest_state(), newest.level, where)

    def restore(self, target: str) -> Warnings:
        """Extract the chain, level after level.

        Not atomic: when it raises, the target holds a part of the backup.

        :param target: from :meth:`Engine.check_target`
        """
        warnings = Warnings()
        self._progress.begin()
        self._progress.phase = 'Restoring'
        limit = _Limit(self._settings.max_restore_size)
        if self._settings.include:
            require_files(self._engine, 'include').extract_part(
                target,
                self._newest_first('restoring a part of'),
                lambda blocks: self._progress.archived(limit.hold(blocks)),
                warnings,
            )
            return warnings
        sizes = [level.stored.size for level in self._levels]
        known = [size for size in sizes if size is not None]
        self._progress.total = sum(known) if len(known) == len(sizes) else None
        extractor = self._engine.extractor(target, self._newest_state(), warnings)
        for level in reversed(self._levels):
            stored = level.stored
            LOG.info('restoring level %d (%r) into %s', stored.level, stored, target)
            # Closed at once: it has downloads in flight.
            with contextlib.closing(level.data()) as blocks:
                held = limit.hold(self._progress.archived(blocks))
                extractor.extract(held)
                # Only the end proves that the stream is complete, and tar may not read
                # that far.
                for _block in held:
                    pass
        return warnings

    def entries(self) -> Iterator[Entry]:
        """The files that a restore would bring, unsorted; reads the data.

        :raises RestoreError: after the last, if a pattern chooses nothing
        """
        self._progress.begin()
        self._progress.phase = 'Listing'
        files = require_files(self._engine, 'list')
        return files.entries(self._newest_first('listing'))

    def _newest_first(self, action: str) -> Iterator[OpenedLevel]:
        for level in self._levels:
            LOG.info('%s level %d (%r)', action, level.level, level.stored)
            yield level


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
