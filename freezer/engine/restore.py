"""Opens a chain of levels, and restores or lists it."""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping

from freezer.engine.engine import Engine, Entry, FileEngine, Warnings, require_files
from freezer.engine.opened import LevelOpener
from freezer.engine.settings import EngineSettings
from freezer.exceptions import EngineError, RestoreError
from freezer.storage import layout
from freezer.storage.backup import StoredLevel
from freezer.utils.blocks import Block

LOG = logging.getLogger(__name__)


class RestoreChain:
    """A chain that can be restored, as far as that shows without its data.

    Each marker, manifest and engine's file is fetched at most once.

    :param chain: level -> stored level, from 0 up, without a gap
    :raises RestoreError: it cannot be restored with these settings
    :raises EncryptionError: a level was exchanged or changed, or does not open
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
        """Check the seals; and whether any level ever had what ``include`` chooses,
        which needs no data.

        :raises RestoreError: none had
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
            raise _no_match([p for p in include if p in missing])

    def _newest_state(self) -> bytes | None:
        if not self._state_known:
            self._state, self._state_known = self._levels[0].state(), True
        return self._state

    def removals(self, target: str) -> list[str]:
        """What a restore will remove from the target: paths below it, sorted. None if
        the engine's backups hold no files: it replaces what it restores.

        :raises RestoreError: that cannot be known
        """
        if not isinstance(self._engine, FileEngine):
            return []
        newest = self.newest
        where = newest.paths.engine_metadata
        return self._engine.removals(target, self._newest_state(), newest.level, where)

    def restore(self, target: str) -> Warnings:
        """Extract the chain, level after level.

        Not atomic: when it raises, the target holds a part of the backup.

        :param target: what :meth:`Engine.check_target` gave
        """
        warnings = Warnings()
        self._progress.begin()
        self._progress.phase = 'Restoring'
        if self._settings.include:
            self._restore_part(target, warnings)
            return warnings
        self._progress.total = self._size()
        extractor = self._engine.extractor(target, self._newest_state(), warnings)
        limit = _Limit(self._settings.max_restore_size)
        for level in reversed(self._levels):
            stored = level.stored
            LOG.info('restoring level %d (%r) into %s', stored.level, stored, target)
            # Closed here and not some time later: it has downloads under way.
            with contextlib.closing(level.data()) as blocks:
                held = limit.hold(self._progress.archived(blocks))
                extractor.extract(held)
                # Only the end proves that all of it was there, and tar may not read
                # that far.
                for _block in held:
                    pass
        return warnings

    def _size(self) -> int | None:
        """Bytes to be read; None if a level does not tell."""
        total = 0
        for level in self._levels:
            size = level.stored.size
            if size is None:
                return None
            total += size
        return total

    def _restore_part(self, target: str, warnings: Warnings) -> None:
        """The newest level first; older ones only while they may have something."""
        files = require_files(self._engine, 'include')
        extractor = files.part_extractor(target, warnings)
        limit = _Limit(self._settings.max_restore_size)

        def hold(blocks: Iterable[Block]) -> Iterator[Block]:
            return self._progress.archived(limit.hold(blocks))

        for level in self._levels:
            stored = level.stored
            LOG.info('restoring of level %d (%r) into %s', stored.level, stored, target)
            again = True
            while again:
                with contextlib.closing(level.data()) as blocks:
                    again = extractor.extract(blocks, hold)
            if not extractor.wanted:
                break
        extractor.finish()
        if extractor.unmatched:
            raise _no_match(extractor.unmatched)

    def entries(self) -> Iterator[Entry]:
        """The files that a restore would bring, by reading the data; in no order.

        :raises RestoreError: after the last, if a pattern chooses nothing
        """
        self._progress.begin()
        self._progress.phase = 'Listing'
        lister = require_files(self._engine, 'list').lister()
        for level in self._levels:
            stored = level.stored
            LOG.info('listing level %d (%r)', stored.level, stored)
            with contextlib.closing(level.data()) as blocks:
                yield from lister.entries(blocks, stored.level)
            if not lister.wanted:
                break
        if lister.unmatched:
            raise _no_match(lister.unmatched)


class _Limit:
    """What the archives of one restore may come to, together; 0 is any size."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._passed = 0

    def hold(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The blocks, as long as they are within the limit.

        :raises EngineError: they are not; that block is not passed on
        """
        for block in blocks:
            self._passed += len(block)
            if 0 < self._size < self._passed:
                raise EngineError(
                    f'the backup comes to more than the {self._size} bytes that '
                    f'--max-restore-size allows: stopped there; what is restored is '
                    f'incomplete'
                )
            yield block


def _no_match(patterns: Iterable[str]) -> RestoreError:
    return RestoreError(
        f'nothing in the backup matches --include {" ".join(map(repr, patterns))}: '
        f'--action list shows what there is; a pattern begins at the top of what was '
        f'backed up, and **/ stands for any directories'
    )
