"""Makes one level: plans, claims, archives, stores and commits it."""

import contextlib
import dataclasses
import errno
import functools
import hashlib
import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freezer.engine.engine import Archiving, Base, Engine, LeftOut, Source, Warnings
from freezer.engine.index.chain import at_once
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
    split_parts,
)
from freezer.storage.exceptions import IntegrityError, NotFound, StorageException
from freezer.storage.repository import Repository
from freezer.stream import compression, encryption
from freezer.stream.points import Points
from freezer.utils import signals
from freezer.utils.blocks import Block, PartStart
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
    """The backup to make, the levels it builds on, from level 0 up, its owner, and what
    else its marker says."""

    backup: Backup
    below: Sequence[StoredLevel]
    owner: Owner | None = None
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class CompletedBackup:
    """A committed backup.

    :param failure: why it is not known whether its base is still there
    """

    backup: Backup
    warnings: Warnings
    left_out: LeftOut
    failure: StorageException | None = None


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
        self._opener = LevelOpener(settings, engine, replaces_keys=False)
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

    def write(
        self,
        source: Source,
        plan: BackupPlan,
        now_ns: int,
        was_read: Callable[[], None] = lambda: None,
    ) -> CompletedBackup:
        """Make the backup. Atomic: it is listed when this returns, not if this raises.

        If its base is unusable, it becomes a level 0.

        :param now_ns: epoch nanoseconds
        :param was_read: called when the source was read, before the commit; what it
            raises is raised
        :raises EngineError: also if temporary files have no space
        """
        backup = plan.backup
        base: _Base | None = None
        with (
            temporary_space(),
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
            marker = {**self._marker(plan.owner), **plan.labels}
            return self._make(archiving, backup, sealer, marker, was_read)

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
            if stored.marker.get('encryption') and self._passphrase is None:
                NOTICES.warning(
                    '%r is encrypted, and this backup is not: no passphrase is given',
                    stored,
                )
            format_ = stored.marker.get(layout.FORMAT_KEY)
            if fits := (format_ == layout.AGE) == self._writes_age:
                levels = [OpenedLevel(each, self._opener) for each in below]
                if self._writes_age:
                    assert levels[-1].sealed is not None
                    key = levels[-1].sealed.key
                base = self._fetch_files(levels, state)
                fits = self._writes_age or not encryption.is_age(state)
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

    def _fetch_files(self, levels: Sequence[OpenedLevel], state: Path) -> Base:
        """Fetch the engine's file of a base, and the indexes of its chain, at the same
        time; no index if a level has none.

        With an index no engine reads the other file. It is fetched nevertheless: a
        chain in format age of which it is missing or damaged cannot be restored, so
        nothing may build on it.

        :param levels: from level 0 up
        :param state: where to write the engine's file; indexes are written beside it
        :raises NotFound, IntegrityError, EngineError: one is missing or damaged
        """
        indexes = LocalIndexes(state.parent)

        def fetch_state() -> None:
            state.write_bytes(levels[-1].engine_metadata())

        calls: list[Callable[[], IndexFile | None]] = [fetch_state]
        calls += [functools.partial(indexes.fetch, each) for each in levels]
        found = list(at_once(calls))[1:]
        known = [index for index in found if index is not None]
        return Base(state, known if len(known) == len(found) else [])

    def _make(
        self,
        archiving: Archiving,
        backup: Backup,
        sealer: 'Sealer | None',
        marker: dict[str, Any],
        was_read: Callable[[], None],
    ) -> CompletedBackup:
        self._progress.begin(stores=True)
        pending = self._repository.begin(backup)
        try:
            if sealer is not None:
                pending.put_identity(sealer.file)
            self._progress.phase = 'Backing up'
            points = Points()
            written = self._store(archiving, points, pending, sealer)
            was_read()
            self._progress.phase = 'Committing'
            state = archiving.state
            index = None
            if archiving.index is not None:
                index = archiving.index.finish(points.dump())
            if archiving.warnings.incomplete:
                marker[layout.INCOMPLETE_KEY] = archiving.warnings.incomplete
            if archiving.padded:
                marker[layout.PADDED_KEY] = len(archiving.padded)
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
        except BaseException:
            self._discard(pending)
            raise
        failure = None
        try:
            self._check_base(backup)
        except EngineError:
            self._discard(pending)
            raise
        except StorageException as error:
            failure = type(error)(
                f'the backup is committed, and whether the levels that it builds on '
                f'are still there is not known: {error.message}'
            )
            failure.__cause__ = error
        return CompletedBackup(backup, archiving.warnings, archiving.left_out, failure)

    @staticmethod
    def _discard(pending: PendingBackup) -> None:
        try:
            pending.discard()
        except StorageException as error:
            # The first error is the one to report.
            LOG.error(
                'the leftovers of the failed backup %r could not be removed: %s',
                pending.backup,
                error.message,
            )

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
        :raises StorageException: that cannot be found out
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
        archiving: Archiving,
        points: Points,
        pending: PendingBackup,
        sealer: 'Sealer | None',
    ) -> WrittenBackup:
        archive = self._engine.archive(archiving)
        stream = self._filtered(archive, points, sealer)
        queue = RichQueue(_QUEUE_BLOCKS)
        failed: list[BaseException] = []

        def produce() -> None:
            try:
                # Closed at once: it has a child process.
                with contextlib.closing(archive):
                    queue.put_messages(stream)
                # The last parts are sent meanwhile.
                if archiving.index is not None:
                    archiving.index.write()
            except ConsumerGone:
                pass
            except BaseException as error:  # noqa: BLE001 - raised below
                failed.append(error)

        producer = threading.Thread(target=produce, name='archive', daemon=True)
        producer.start()
        try:
            written = pending.write(queue.get_messages())
        finally:
            archiving.cancelled.set()
            queue.close()
            producer.join()
        if failed:
            raise failed[0]
        if not queue.drained:
            raise EngineError(
                'the storage stopped reading before the end: run the backup again'
            )
        return written

    def _filtered(
        self,
        archive: Iterator[Block | PartStart],
        points: Points,
        sealer: 'Sealer | None',
    ) -> Iterator[Block | PartStart]:
        """The archive as it is stored: compressed and encrypted, part by part.

        :raises EngineError: a part has no proper name
        """
        parts: list[str] = []
        for part, blocks in split_parts(archive):
            parts.append(part)
            if parts != ['']:
                self._check_parts(parts)
                yield PartStart(part)
            stream: Iterator[Block] = compression.compress(
                self._settings.compression,
                self._progress.archived(blocks),
                None if part else points,
            )
            if sealer is not None:
                stream = sealer.data(stream, part)
            elif self._passphrase is not None:
                stream = encryption.encrypt(self._passphrase, stream)
            yield from self._progress.stored(stream)

    def _check_parts(self, parts: Sequence[str]) -> None:
        """:raises EngineError: the last one is not a part of its own"""
        part = parts[-1]
        if (
            layout.PART_NAME.match(part) is None
            or part in parts[:-1]
            or '' in parts[:-1]
        ):
            raise EngineError(
                f'engine {self._engine.name}: part {part!r}: each part needs a name of '
                f'its own, of up to 63 lower-case letters, digits, _ and -, and no '
                f'bytes may come before the first'
            )

    def _sealer(
        self, key: 'ChainKey | None', backup: Backup, base: _Base | None
    ) -> 'Sealer | None':
        if key is None:
            return None
        # Optional: it needs the extra encryption.
        from freezer.engine.sealing import Sealer

        return Sealer(key, backup, base.backup if base else None)


@contextlib.contextmanager
def temporary_space() -> Iterator[None]:
    """A block that writes temporary files. Other files have errors of their own.

    :raises EngineError: they have no space
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise EngineError(
            f'{tempfile.gettempdir()}: no space is left for temporary files: free '
            f'some, or set TMPDIR to another directory'
        ) from error


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
