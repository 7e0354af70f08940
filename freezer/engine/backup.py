"""Makes one level: plans, claims, archives, stores and commits it."""

import contextlib
import dataclasses
import hashlib
import logging
import shutil
import tempfile
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freezer.engine.engine import Archiving, Base, Engine, LeftOut, Source, Warnings
from freezer.engine.index.file import IndexFile
from freezer.engine.index.local import LocalIndexes
from freezer.engine.index.new import NewIndex
from freezer.engine.opened import LevelOpener, OpenedLevel
from freezer.engine.settings import EngineSettings
from freezer.exceptions import EngineError
from freezer.storage import layout, levels, manifest
from freezer.storage.backup import (
    Backup,
    Owner,
    PendingBackup,
    StoredLevel,
    WrittenBackup,
)
from freezer.storage.exceptions import IntegrityError, NotFound, StorageException
from freezer.storage.repository import Repository
from freezer.stream import compression, encryption
from freezer.stream.points import Points
from freezer.utils import signals
from freezer.utils.blocks import Block
from freezer.utils.streaming import ConsumerGone, RichQueue
from freezer.utils.text import NOTICES

if TYPE_CHECKING:
    from freezer.engine.sealing import ChainKey, Sealer

LOG = logging.getLogger(__name__)

# Seconds: if the newest backup is further in the future, a clock is wrong.
CLOCK_TOLERANCE = 2
_QUEUE_BLOCKS = 4
_INDEX_BLOCK = 1024 * 1024


@dataclasses.dataclass(frozen=True)
class BackupPlan:
    """The backup to make, the levels it builds on, from level 0 up, and its owner."""

    backup: Backup
    below: Sequence[StoredLevel]
    owner: Owner | None = None


@dataclasses.dataclass(frozen=True)
class CompletedBackup:
    """A committed backup."""

    backup: Backup
    warnings: Warnings
    left_out: LeftOut


@dataclasses.dataclass(frozen=True)
class _Base:
    """The base of an increment: for the engine, and in format age the key."""

    backup: Backup
    level: Base
    key: 'ChainKey | None'


class BackupWriter:
    """Makes backups with one engine.

    :raises ConfigError: the encryption in the settings is not available
    """

    def __init__(
        self, repository: Repository, engine: Engine, settings: EngineSettings
    ) -> None:
        self._repository = repository
        self._engine = engine
        self._settings = settings
        self._progress = settings.progress
        # A new level gets a copy of the key's file from its base alone.
        self._opener = LevelOpener(
            settings, engine.is_archive_start, replaces_keys=False
        )
        self._passphrase = self._opener.passphrase
        self._writes_age = (
            self._passphrase is not None and settings.encryption == layout.AGE
        )
        if self._writes_age:
            encryption.check_available(layout.AGE)

    def plan(
        self,
        identity: str,
        policy: levels.LevelPolicy,
        now: int,
        owner: Owner | None = None,
    ) -> BackupPlan:
        """Decide the level and timestamp of the next backup.

        Timestamps only grow, whatever the clock does: a backup that looks older than
        the one it follows could not be found by its date.

        :param identity: ``<host name>_<backup name>``
        :param now: epoch seconds
        :param owner: host and backup name; None if they are not known
        """
        name = self._engine.name
        below, earliest = self._repository.plan(name, identity, policy, now, owner)
        timestamp = max(now, earliest)
        if timestamp - now > CLOCK_TOLERANCE:
            LOG.warning(
                'this clock is %d s behind the newest backup of %s: check the clock',
                timestamp - now,
                identity,
            )
        zero = below[0].level_zero_timestamp if below else timestamp
        backup = Backup(name, identity, zero, timestamp, len(below))
        return BackupPlan(backup, below, owner)

    def write(self, source: Source, plan: BackupPlan, now_ns: int) -> CompletedBackup:
        """Make the backup. Atomic: it is listed when this returns, not if this raises.

        If its base is unusable, it becomes a level 0.

        :param now_ns: epoch nanoseconds
        """
        backup = plan.backup
        base: _Base | None = None
        with (
            tempfile.TemporaryDirectory(prefix='freezer-') as name,
            signals.on_forced_exit(lambda: shutil.rmtree(name, ignore_errors=True)),
        ):
            folder = Path(name)
            for file in ('state', 'sealed', 'index'):
                (folder / file).touch(mode=0o600)
            if plan.below:
                base = self._fetch_base(plan.below, folder, source, now_ns // 10**9)
                if base is None:
                    time = backup.timestamp
                    backup = dataclasses.replace(
                        backup, level_zero_timestamp=time, level=0
                    )
            key = base.key if base else None
            if key is None and self._writes_age:
                key = self._opener.keyring.make()
            # A level above one without an index cannot have one.
            indexed = base is None or base.level.indexes
            archiving = Archiving(
                source,
                base.level if base else None,
                folder / 'state',
                Warnings(),
                backup.level,
                now_ns,
                NewIndex(folder / 'index') if indexed else None,
            )
            sealer = self._sealer(key, backup, base)
            return self._make(archiving, backup, sealer, self._marker(plan.owner))

    def _fetch_base(
        self, below: Sequence[StoredLevel], folder: Path, source: Source, now: int
    ) -> _Base | None:
        """The base; None, and a warning in the log, if it is unusable.

        :param below: the levels from level 0 up
        :param folder: for local files
        :raises EncryptionError: it cannot be decrypted
        """
        stored = below[-1]
        key = None
        state = folder / 'base'
        state.touch(mode=0o600)
        base = Base(state)
        try:
            if not self._writes_age:
                state.write_bytes(stored.checked_engine_metadata())
                fits = not encryption.is_age(state)
            elif fits := stored.marker.get(layout.FORMAT_KEY) == layout.AGE:
                opened = OpenedLevel(stored, self._opener)
                assert opened.sealed is not None
                key = opened.sealed.key
                state.write_bytes(opened.engine_metadata())
            if fits:
                base = Base(state, self._fetch_indexes(below, folder))
            reason = (
                self._engine.base_problem(base, source, now)
                if fits
                else f'{stored!r} is not encrypted in the same way'
            )
        except (NotFound, IntegrityError) as error:
            reason = error.message
        except EngineError as error:
            reason = str(error)
        if reason is None:
            return _Base(stored.backup, base, key)
        NOTICES.warning('%s: starting a new chain at level 0', reason)
        return None

    def _fetch_indexes(
        self, below: Sequence[StoredLevel], folder: Path
    ) -> list[IndexFile]:
        """The indexes of all levels, as local files; none if a level has none.

        :raises NotFound, IntegrityError, EngineError: one is missing or damaged
        """
        indexes = LocalIndexes(folder)
        found = [indexes.fetch(OpenedLevel(each, self._opener)) for each in below]
        known = [index for index in found if index is not None]
        return known if len(known) == len(found) else []

    def _make(
        self,
        archiving: Archiving,
        backup: Backup,
        sealer: 'Sealer | None',
        marker: dict[str, Any],
    ) -> CompletedBackup:
        self._progress.begin(stores=True)
        pending = self._repository.begin(backup)
        try:
            if sealer is not None:
                pending.put_identity(sealer.file)
            self._progress.phase = 'Backing up'
            points = Points()
            archive = self._engine.archive(archiving)
            written = self._store(archive, points, pending, sealer)
            self._progress.phase = 'Committing'
            state = archiving.state
            index = None
            if archiving.index is not None:
                index = archiving.index.finish(points.dump())
            if archiving.warnings.incomplete:
                marker[layout.INCOMPLETE_KEY] = archiving.warnings.incomplete
            if sealer is not None:
                folder = state.parent
                content = state.read_bytes()
                state = folder / 'sealed'
                state.write_bytes(sealer.engine_metadata(content))
                if index is not None:
                    index = sealed_index(sealer, index, folder / 'sealed-index')
                marker[manifest.IDENTITY_KEY] = hashlib.sha256(sealer.file).hexdigest()
                marker = sealer.sealed(marker)
            written.commit(state, marker, index)
            self._check_base(backup)
        except BaseException:
            try:
                pending.discard()
            except StorageException as error:
                # The first error is the one to report.
                LOG.error(
                    'the leftovers of the failed backup %r could not be removed: %s',
                    backup,
                    error.message,
                )
            raise
        return CompletedBackup(backup, archiving.warnings, archiving.left_out)

    def _marker(self, owner: Owner | None) -> dict[str, Any]:
        """The commit marker's content."""
        marker: dict[str, Any] = {
            'engine_name': self._engine.name,
            'compression': self._settings.compression,
            'encryption': self._passphrase is not None,
        }
        if self._writes_age:
            marker[layout.FORMAT_KEY] = layout.AGE
        return marker | (owner._asdict() if owner else {})

    def _check_base(self, backup: Backup) -> None:
        """Check that the levels below still exist.

        After the commit: retention checks first whether a chain has a newer level, so
        one of the two notices the other.

        :raises EngineError: the backup would be listed, but could not be restored
        """
        if not backup.level:
            return
        chains = self._repository.chains_after_commit(
            backup.engine, backup.hostname_backup_name
        )
        chain = [b.backup for b in chains.get(backup.level_zero_timestamp, [])]
        if len(levels.needed(backup, chain)) < backup.level:
            raise EngineError(
                f'the chain that {backup!r} builds on was removed while it was made: '
                f'run the backup again'
            )

    def _store(
        self,
        archive: Generator[Block, None, None],
        points: Points,
        pending: PendingBackup,
        sealer: 'Sealer | None',
    ) -> WrittenBackup:
        stream: Iterator[Block] = compression.compress(
            self._settings.compression, self._progress.archived(archive), points
        )
        if sealer is not None:
            stream = sealer.data(stream)
        elif self._passphrase is not None:
            stream = encryption.encrypt(self._passphrase, stream)
        stream = self._progress.stored(stream)
        queue = RichQueue(_QUEUE_BLOCKS)

        def produce() -> None:
            # Closed at once: it has a child process.
            with contextlib.suppress(ConsumerGone), contextlib.closing(archive):
                queue.put_messages(stream)

        producer = threading.Thread(target=produce, name='archive', daemon=True)
        producer.start()
        try:
            written = pending.write(queue.get_messages())
        finally:
            queue.close()
            producer.join()
        if not queue.drained:
            raise EngineError(
                'the storage stopped reading before the end: run the backup again'
            )
        return written

    def _sealer(
        self, key: 'ChainKey | None', backup: Backup, base: _Base | None
    ) -> 'Sealer | None':
        if key is None:
            return None
        # Optional: it needs the extra encryption.
        from freezer.engine.sealing import Sealer

        return Sealer(key, backup, base.backup if base else None)


def sealed_index(sealer: 'Sealer', index: Path, encrypted: Path) -> Path:
    """Encrypt an index for its level.

    :param encrypted: the file to write, which only its owner may read
    :returns: that file
    """
    encrypted.touch(mode=0o600)
    with index.open('rb') as plain, encrypted.open('wb') as file:
        blocks = iter(lambda: plain.read(_INDEX_BLOCK), b'')
        for block in sealer.index(blocks):
            file.write(block)
    return encrypted
