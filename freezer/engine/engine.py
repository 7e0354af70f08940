"""The contract of an engine, and the way of the data between it and a storage.

An engine makes an archive stream of files and the reverse. What every engine needs is
here: the stream's filters, the queue to the storage, the order of a commit.
"""

import abc
import contextlib
import dataclasses
import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from freezer.exceptions import ConfigError, EngineError, RestoreError
from freezer.storage.base import Backup, Storage
from freezer.storage.exceptions import NotFound, StorageException
from freezer.storage.levels import LevelPolicy
from freezer.stream import compression, encryption
from freezer.utils import signals
from freezer.utils.blocks import Block
from freezer.utils.streaming import ConsumerGone, RichQueue

LOG = logging.getLogger(__name__)

# Seconds: a newest backup that is further ahead says that a clock is wrong.
CLOCK_TOLERANCE = 2
# How many warnings are kept to be repeated; all are counted and logged.
KEPT_WARNINGS = 100
_QUEUE_BLOCKS = 4
# How often an archive is made before the source is said to change too fast.
_ATTEMPTS = 4


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """How an archive is made.

    :param compression: a name of :data:`freezer.stream.compression.NAMES`
    :param encrypt_pass_file: path, or None for no encryption
    """

    compression: str = 'gzip'
    encrypt_pass_file: str | None = None
    dereference_symlink: str = 'none'
    exclude: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Source:
    """What to archive: ``name`` as seen from ``folder``; ``.`` is the folder itself."""

    folder: str
    name: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """The backup to make, and the one it builds on (None at level 0)."""

    backup: Backup
    base: Backup | None


@dataclasses.dataclass(frozen=True)
class Run:
    """One archive to be made.

    :param base: the engine's file of the level below, to be left as it is; None at
        level 0
    :param state: where the engine's file for the next level has to be written
    :param include: paths to archive whether they changed or not
    """

    source: Source
    base: Path | None
    state: Path
    warnings: 'Warnings'
    include: frozenset[bytes] = frozenset()


class Again(EngineError):
    """The archive that was made lacks something; it has to be made again, with it."""

    def __init__(self, include: frozenset[bytes]) -> None:
        super().__init__('files changed while they were archived')
        self.include = include


@dataclasses.dataclass(frozen=True)
class Made:
    """A backup that is committed."""

    backup: Backup
    warnings: 'Warnings'


class Warnings:
    """What was not quite right: all counted and logged, the first ones kept."""

    def __init__(self) -> None:
        self.count = 0
        self.kept: list[str] = []

    def add(self, text: str) -> None:
        LOG.warning('%s', text)
        self.count += 1
        if len(self.kept) < KEPT_WARNINGS:
            self.kept.append(text)


class BackupEngine(abc.ABC):
    """Makes and extracts archives, level by level.

    A subclass provides :meth:`archive` and :meth:`extractor`; its ``name`` is its
    folder on storage.
    """

    name: ClassVar[str]

    def __init__(self, storage: Storage, settings: EngineSettings) -> None:
        """:raises ConfigError: the settings cannot be met on this machine"""
        self.storage = storage
        self.settings = settings
        self._passphrase = (
            encryption.read_passphrase(settings.encrypt_pass_file)
            if settings.encrypt_pass_file
            else None
        )

    @abc.abstractmethod
    def archive(self, run: Run) -> Generator[Block, None, None]:
        """The archive, uncompressed.

        :raises Again: after the last block
        :raises EngineError: after the last block at the latest, if the archive is not
            whole
        """

    @abc.abstractmethod
    def why_unusable(self, state: Path, now: int) -> str | None:
        """Why no increment may be built on this state; None if one may."""

    @abc.abstractmethod
    def extractor(self, target: str, newest: Backup, warnings: Warnings) -> 'Extractor':
        """Extracts one level after the other into a directory that exists.

        :param newest: the last level that will be extracted
        """

    @abc.abstractmethod
    def removals(self, target: str, newest: Backup) -> list[str]:
        """What of the target a restore will remove: paths below it, sorted."""

    @abc.abstractmethod
    def members(self, source: Source) -> list[bytes]:
        """What an archive would hold: paths below the source's folder, unsorted."""

    @abc.abstractmethod
    def begins(self, head: bytes) -> bool:
        """Whether these bytes (512, or all there are) begin an archive."""

    def metadata(self) -> dict[str, Any]:
        """The commit marker's content."""
        return {
            'engine_name': self.name,
            'compression': self.settings.compression,
            'encryption': self._passphrase is not None,
        }

    # Backup

    def plan(self, identity: str, policy: LevelPolicy, now: int) -> Plan:
        """What the next backup will be.

        Timestamps only grow, whatever the clock does: a backup that looks older than
        the one it follows could not be found by its date.

        :param now: epoch seconds
        """
        base, earliest = self.storage.plan(self, identity, policy, now)
        timestamp = max(now, earliest)
        if timestamp - now > CLOCK_TOLERANCE:
            LOG.warning(
                'this clock is %d s behind the newest backup of %s: check the clock',
                timestamp - now,
                identity,
            )
        if base is None:
            return Plan(Backup(self, identity, timestamp, timestamp, 0), None)
        level_zero = base.level_zero_timestamp
        backup = Backup(self, identity, level_zero, timestamp, base.level + 1)
        return Plan(backup, base)

    def backup(self, source: Source, plan: Plan, now: int) -> Made:
        """Make it. Atomic: it is listed when this returns, and not if it raises.

        A base that cannot be built on makes it a level 0.
        """
        backup = plan.backup
        base: Path | None = None
        with (
            tempfile.TemporaryDirectory(prefix='freezer-') as folder,
            signals.even_then(lambda: shutil.rmtree(folder, ignore_errors=True)),
        ):
            for name in ('base', 'engine_metadata', 'metadata'):
                Path(folder, name).touch(mode=0o600)
            if plan.base is not None:
                base = self._fetch_state(plan.base, Path(folder, 'base'), now)
                if base is None:
                    time = backup.timestamp
                    backup = Backup(self, backup.hostname_backup_name, time, time, 0)
            run = Run(source, base, Path(folder, 'engine_metadata'), Warnings())
            for _ in range(_ATTEMPTS):
                try:
                    return self._make(run, backup, Path(folder, 'metadata'))
                except Again as again:
                    LOG.info('archiving again: %d names more', len(again.include))
                    run = dataclasses.replace(
                        run, include=again.include, warnings=Warnings()
                    )
        raise EngineError(f'{source.folder} changes faster than it can be archived')

    def _fetch_state(self, backup: Backup, state: Path, now: int) -> Path | None:
        """The engine's file of a backup; None, and a warning, if it is of no use."""
        assert backup.storage is not None
        try:
            backup.storage.get_file(backup.engine_metadata_path, str(state))
            reason = self.why_unusable(state, now)
        except NotFound as error:
            reason = error.message
        if reason is None:
            return state
        LOG.warning('%s: starting a new chain at level 0', reason)
        return None

    def _make(self, run: Run, backup: Backup, marker: Path) -> Made:
        self.storage.claim(backup)
        try:
            self._send(self.archive(run), backup)
            marker.write_text(json.dumps(self.metadata()))
            self.storage.put_metadata(str(run.state), str(marker), backup)
        except BaseException:
            self._discard(backup)
            raise
        return Made(backup, run.warnings)

    def _send(self, archive: Generator[Block, None, None], backup: Backup) -> None:
        stream: Iterator[Block] = compression.compress(
            self.settings.compression, archive
        )
        if self._passphrase is not None:
            stream = encryption.encrypt(self._passphrase, stream)
        queue = RichQueue(_QUEUE_BLOCKS)

        def produce() -> None:
            # Closed here and not some time later: it has a child process to end.
            with contextlib.suppress(ConsumerGone), contextlib.closing(archive):
                queue.put_messages(stream)

        producer = threading.Thread(target=produce, name='archive', daemon=True)
        producer.start()
        try:
            self.storage.write_backup(rich_queue=queue, backup=backup)
        finally:
            queue.close()
            producer.join()
        if not queue.drained:
            raise EngineError('the storage stopped reading before the end')

    def _discard(self, backup: Backup) -> None:
        """The first error is the one to tell; this one goes to the log."""
        try:
            self.storage.discard(backup)
        except StorageException as error:
            LOG.error(
                'what the failed backup %r left could not be removed: %s',
                backup,
                error.message,
            )

    # Restore

    def check(self, chain: Mapping[int, Backup]) -> dict[int, dict[str, Any]]:
        """All that can be checked before a restore writes anything.

        :returns: level -> commit marker, for :meth:`restore`
        :raises RestoreError: the chain cannot be restored like this
        :raises StorageException: a marker cannot be read
        """
        return {level: self._usable(backup) for level, backup in chain.items()}

    def restore(
        self,
        target: str,
        chain: Mapping[int, Backup],
        metadata: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> Warnings:
        """Extract a chain, level after level, into a directory that exists.

        Not atomic: when it raises, the target holds a part of the backup.

        :param metadata: what :meth:`check` gave; checked here if not
        """
        warnings = Warnings()
        metadata = metadata or self.check(chain)
        extractor = self.extractor(target, chain[max(chain)], warnings)
        for level, backup in sorted(chain.items()):
            LOG.info('restoring level %d (%r) into %s', level, backup, target)
            # Closed here and not some time later: it has downloads under way.
            with contextlib.closing(self._receive(backup, metadata[level])) as blocks:
                extractor.extract(blocks)
        return warnings

    def _usable(self, backup: Backup) -> dict[str, Any]:
        metadata = backup.metadata()
        try:
            compression.check_available(self._compression_of(metadata))
        except ConfigError as error:
            raise RestoreError(f'{backup.metadata_path}: {error}') from error
        if metadata.get('encryption') and self._passphrase is None:
            raise RestoreError(
                f'{backup!r} is encrypted: give its passphrase with --encrypt-pass-file'
            )
        return metadata

    def _receive(
        self, backup: Backup, metadata: Mapping[str, Any]
    ) -> Generator[Block, None, None]:
        assert backup.storage is not None
        name = self._compression_of(metadata)
        stream = backup.storage.backup_blocks(backup)
        # Freezer 19 decrypts when a passphrase is given and the marker says nothing.
        encrypted = metadata.get('encryption', self._passphrase is not None)
        if encrypted and self._passphrase is not None:
            stream = encryption.decrypt(
                self._passphrase, stream, lambda head: self._looks_right(name, head)
            )
        return compression.decompress(name, stream)

    def _compression_of(self, metadata: Mapping[str, Any]) -> str:
        """The marker decides; the option, where it says nothing."""
        return str(metadata.get('compression') or self.settings.compression)

    def _looks_right(self, name: str, head: bytes) -> bool:
        magic = compression.MAGIC.get(name)
        return self.begins(head) if magic is None else head.startswith(magic)


class Extractor(abc.ABC):
    """Extracts the levels of one chain, in order, into one directory."""

    @abc.abstractmethod
    def extract(self, blocks: Iterator[Block]) -> None:
        """Extract one level.

        :raises UnsafeArchiveError: a member would land outside the target
        :raises EngineError: the archive is damaged, or could not be written out
        """


def source_of(path: str) -> Source:
    """What ``path-to-backup`` names, checked to be there and readable.

    :raises EngineError: it is not
    """
    path = os.path.abspath(os.path.expanduser(path))
    try:
        if os.path.isdir(path):
            with os.scandir(path):
                return Source(path, '.')
        if not os.path.islink(path):
            with open(path, 'rb'):
                pass
    except OSError as error:
        raise EngineError(
            f'path-to-backup {path}: {error.strerror or error}'
        ) from error
    return Source(os.path.dirname(path), os.path.basename(path))
