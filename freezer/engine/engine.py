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
import stat
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from freezer.engine.settings import EngineSettings
from freezer.engine.stored import StoredLevels
from freezer.exceptions import EngineError, RestoreError
from freezer.storage import layout, levels
from freezer.storage.base import Backup, Storage
from freezer.storage.exceptions import IntegrityError, NotFound, StorageException
from freezer.stream import compression, encryption
from freezer.utils import signals
from freezer.utils.blocks import Block
from freezer.utils.streaming import ConsumerGone, RichQueue

if TYPE_CHECKING:
    # It needs a package that who does not encrypt has not.
    from freezer.engine.sealing import ChainKey, Sealer

LOG = logging.getLogger(__name__)

# Seconds: a newest backup that is further ahead says that a clock is wrong.
CLOCK_TOLERANCE = 2
# How many warnings are kept to be repeated; all are counted and logged.
KEPT_WARNINGS = 100
_QUEUE_BLOCKS = 4
# How often an archive is made before the source is said to change too fast.
_ATTEMPTS = 4


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
    :param level: of the archive
    :param include: paths to archive whether they changed or not
    """

    source: Source
    base: Path | None
    state: Path
    warnings: 'Warnings'
    level: int
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


class Entry(NamedTuple):
    """A file of a backup, of any kind, as it would be restored.

    :ivar path: below the directory that was backed up
    :ivar kind: a word of :data:`KINDS`
    :ivar mode: permissions, and set-user-ID and the like
    :ivar size: bytes, with holes; 0 for all but files
    :ivar mtime_ns: epoch nanoseconds
    :ivar target: of a symbolic link, where it points; of a hard link, another name of
        the same file, which the size is told with
    :ivar level: which level has it
    """

    path: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    user: str
    group: str
    size: int
    mtime_ns: int
    target: bytes | None
    level: int


KINDS = ('file', 'directory', 'symlink', 'link', 'fifo', 'character', 'block')


@dataclasses.dataclass(frozen=True)
class _Base:
    """What an increment is built on: its engine's file; its key, in format age."""

    backup: Backup
    state: Path
    key: 'ChainKey | None'


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
        self._progress = settings.progress
        self._passphrase = (
            encryption.read_passphrase(settings.encrypt_pass_file)
            if settings.encrypt_pass_file
            else None
        )
        if self._writes_age:
            encryption.check_available(layout.AGE)
        self._stored = StoredLevels(settings, self._passphrase, self.begins)

    @classmethod
    def from_settings(cls, storage: Storage, settings: EngineSettings) -> Self:
        """Build the engine.

        :raises ConfigError: the settings cannot be met on this machine
        """
        return cls(storage, settings)

    @abc.abstractmethod
    def archive(self, run: Run) -> Generator[Block, None, None]:
        """The archive, uncompressed.

        :raises Again: after the last block
        :raises EngineError: after the last block at the latest, if the archive is not
            whole
        """

    @abc.abstractmethod
    def why_unusable(self, state: Path, source: Source, now: int) -> str | None:
        """Why no increment of this source may be built on this state; None if one
        may."""

    @abc.abstractmethod
    def extractor(
        self, target: str, state: bytes | None, warnings: Warnings
    ) -> 'Extractor':
        """Extracts one level after the other into a directory that exists.

        :param state: the engine's file of the last level that will be extracted; None
            where it is lost
        """

    @abc.abstractmethod
    def part_extractor(self, target: str, warnings: Warnings) -> 'PartExtractor':
        """Extracts what ``include`` chooses into a directory that exists."""

    @abc.abstractmethod
    def lister(self) -> 'Lister':
        """Lists what ``include`` chooses."""

    @abc.abstractmethod
    def not_in(self, patterns: Iterable[str], state: bytes) -> set[str]:
        """The patterns that choose nothing a level had, by its engine's file; none if
        it does not tell."""

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
        marker: dict[str, Any] = {
            'engine_name': self.name,
            'compression': self.settings.compression,
            'encryption': self._passphrase is not None,
        }
        if self._writes_age:
            marker[layout.FORMAT_KEY] = layout.AGE
        return marker

    # Backup

    def plan(self, identity: str, policy: levels.LevelPolicy, now: int) -> Plan:
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
        base: _Base | None = None
        with (
            tempfile.TemporaryDirectory(prefix='freezer-') as name,
            signals.even_then(lambda: shutil.rmtree(name, ignore_errors=True)),
        ):
            folder = Path(name)
            for file in ('base', 'state', 'metadata', 'sealed'):
                (folder / file).touch(mode=0o600)
            if plan.base is not None:
                base = self._fetch_base(plan.base, folder / 'base', source, now)
                if base is None:
                    time = backup.timestamp
                    backup = Backup(self, backup.hostname_backup_name, time, time, 0)
            key = base.key if base else self._new_key()
            run = Run(
                source,
                base.state if base else None,
                folder / 'state',
                Warnings(),
                backup.level,
            )
            for _ in range(_ATTEMPTS):
                sealer = self._sealer(key, backup, base)
                try:
                    return self._make(run, backup, sealer, folder)
                except Again as again:
                    LOG.info('archiving again: %d names more', len(again.include))
                    run = dataclasses.replace(
                        run, include=again.include, warnings=Warnings()
                    )
        raise EngineError(
            f'{source.folder} changes faster than it can be archived: leave out with '
            f'--exclude what changes all the time, or back up a snapshot'
        )

    def _fetch_base(
        self, backup: Backup, state: Path, source: Source, now: int
    ) -> _Base | None:
        """What to build on; None, and a warning, if it is of no use.

        :raises EncryptionError: it does not open
        """
        assert backup.storage is not None
        key = None
        try:
            if self._writes_age:
                sealed = self._stored.sealed(backup, backup.metadata())
                fits = sealed is not None
                if sealed is not None:
                    key = sealed.key
                    state.write_bytes(sealed.engine_metadata())
            else:
                state.write_bytes(self._stored.plain_state(backup, backup.metadata()))
                fits = not encryption.is_age(state)
            reason = (
                self.why_unusable(state, source, now)
                if fits
                else f'{backup!r} is not encrypted in the same way'
            )
        except (NotFound, IntegrityError) as error:
            reason = error.message
        if reason is None:
            return _Base(backup, state, key)
        LOG.warning('%s: starting a new chain at level 0', reason)
        return None

    def _make(
        self, run: Run, backup: Backup, sealer: 'Sealer | None', folder: Path
    ) -> Made:
        self._progress.begin(stores=True)
        self.storage.claim(backup)
        try:
            if sealer is not None:
                self.storage.put_identity(sealer.file, backup)
            self._progress.phase = 'Backing up'
            self._send(self.archive(run), backup, sealer)
            self._progress.phase = 'Committing'
            marker, state = self.metadata(), run.state
            if sealer is not None:
                state = folder / 'sealed'
                state.write_bytes(sealer.engine_metadata(run.state.read_bytes()))
                marker = sealer.sealed(marker)
            marker_file = folder / 'metadata'
            marker_file.write_text(json.dumps(marker))
            self.storage.put_metadata(str(state), str(marker_file), backup)
            self._check_base(backup)
        except BaseException:
            self._discard(backup)
            raise
        return Made(backup, run.warnings)

    def _check_base(self, backup: Backup) -> None:
        """See that the levels below are still there.

        After the commit, because who removes a chain looks first whether anything is
        above it: one of the two sees the other.

        :raises EngineError: it would be listed, and could not be restored
        """
        if not backup.level:
            return
        chains = self.storage.get_chains(self, backup.hostname_backup_name)
        chain = chains.get(backup.level_zero_timestamp, [])
        if len(levels.needed(backup, chain)) < backup.level:
            raise EngineError(
                f'the chain that {backup!r} builds on was removed while it was made: '
                f'run the backup again'
            )

    def _send(
        self,
        archive: Generator[Block, None, None],
        backup: Backup,
        sealer: 'Sealer | None',
    ) -> None:
        stream: Iterator[Block] = compression.compress(
            self.settings.compression, self._progress.archived(archive)
        )
        if sealer is not None:
            stream = sealer.data(stream)
        elif self._passphrase is not None:
            stream = encryption.encrypt(self._passphrase, stream)
        stream = self._progress.stored(stream)
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
            raise EngineError(
                'the storage stopped reading before the end: run the backup again'
            )

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
        :raises EncryptionError: it is not what was encrypted
        :raises StorageException: a marker cannot be read
        """
        markers = self._stored.markers(chain)
        self._check_include(chain, markers)
        return markers

    def _check_include(
        self, chain: Mapping[int, Backup], markers: Mapping[int, Mapping[str, Any]]
    ) -> None:
        """What no level has ever had needs no look at the data.

        :raises RestoreError: it is asked for
        """
        missing = set(self.settings.include)
        for level, backup in sorted(chain.items(), reverse=True):
            if not missing:
                return
            state = self._stored.state(backup, markers[level])
            missing = self.not_in(missing, state) if state is not None else set()
        if missing:
            raise _no_match([p for p in self.settings.include if p in missing])

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
        if self.settings.include:
            self._restore_part(target, chain, metadata, warnings)
            return warnings
        newest = max(chain)
        state = self._stored.state(chain[newest], metadata[newest])
        self._progress.begin()
        self._progress.total = self._total(chain.values())
        self._progress.phase = 'Restoring'
        extractor = self.extractor(target, state, warnings)
        limit = _Limit(self.settings.max_restore_size)
        for level, backup in sorted(chain.items()):
            LOG.info('restoring level %d (%r) into %s', level, backup, target)
            # Closed here and not some time later: it has downloads under way.
            with contextlib.closing(
                self._stored.data(backup, metadata[level])
            ) as blocks:
                held = limit.hold(self._progress.archived(blocks))
                extractor.extract(held)
                # That all of it was there shows at its end, which tar may not ask for.
                for _block in held:
                    pass
        return warnings

    def _total(self, backups: Iterable[Backup]) -> int | None:
        """Bytes to be read; None where one of them does not tell."""
        total = 0
        for backup in backups:
            assert backup.storage is not None
            size = backup.storage.size_of(backup)
            if size is None:
                return None
            total += size
        return total

    def _restore_part(
        self,
        target: str,
        chain: Mapping[int, Backup],
        metadata: Mapping[int, Mapping[str, Any]],
        warnings: Warnings,
    ) -> None:
        """The newest level first; none that has nothing of what is chosen is read."""
        self._progress.begin()
        self._progress.phase = 'Restoring'
        extractor = self.part_extractor(target, warnings)
        limit = _Limit(self.settings.max_restore_size)

        def hold(blocks: Iterable[Block]) -> Iterator[Block]:
            return self._progress.archived(limit.hold(blocks))

        for level, backup in sorted(chain.items(), reverse=True):
            LOG.info('restoring of level %d (%r) into %s', level, backup, target)
            again = True
            while again:
                data = self._stored.data(backup, metadata[level])
                with contextlib.closing(data) as blocks:
                    again = extractor.extract(blocks, hold)
            if not extractor.wanted:
                break
        extractor.finish()
        if extractor.unmatched:
            raise _no_match(extractor.unmatched)

    def entries(
        self,
        chain: Mapping[int, Backup],
        metadata: Mapping[int, Mapping[str, Any]],
    ) -> Iterator[Entry]:
        """What a restore of a chain would bring, by reading it; in no order.

        :param metadata: what :meth:`check` gave
        :raises RestoreError: after the last, if a pattern chooses nothing
        """
        self._progress.begin()
        self._progress.phase = 'Listing'
        lister = self.lister()
        for level, backup in sorted(chain.items(), reverse=True):
            LOG.info('listing level %d (%r)', level, backup)
            with contextlib.closing(
                self._stored.data(backup, metadata[level])
            ) as blocks:
                yield from lister.entries(blocks, level)
            if not lister.wanted:
                break
        if lister.unmatched:
            raise _no_match(lister.unmatched)

    def state_of(self, backup: Backup) -> bytes | None:
        """The engine's file of a backup; None if it is lost.

        :raises RestoreError, EncryptionError: it does not open
        """
        return self._stored.state(backup, self._stored.marker(backup))

    # Encryption of what is written

    @property
    def _writes_age(self) -> bool:
        return self._passphrase is not None and self.settings.encryption == layout.AGE

    def _new_key(self) -> 'ChainKey | None':
        return self._stored.keyring.make() if self._writes_age else None

    def _sealer(
        self, key: 'ChainKey | None', backup: Backup, base: _Base | None
    ) -> 'Sealer | None':
        if key is None:
            return None
        from freezer.engine.sealing import Sealer

        return Sealer(key, backup, base.backup if base else None)


class _Limit:
    """What the archives of one restore may come to, together; 0 is any size."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._passed = 0

    def hold(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The blocks, as long as they are within the limit.

        :raises EngineError: they are not; that one was not handed on
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


class Extractor(abc.ABC):
    """Extracts the levels of one chain, in order, into one directory."""

    @abc.abstractmethod
    def extract(self, blocks: Iterator[Block]) -> None:
        """Extract one level.

        :raises UnsafeArchiveError: a member would land outside the target
        :raises EngineError: the archive is damaged, or could not be written out
        """


class _Choosing(abc.ABC):
    """Looks for what ``include`` chooses in the levels of a chain, newest first."""

    @property
    @abc.abstractmethod
    def wanted(self) -> bool:
        """Whether an older level may have something of it."""

    @property
    @abc.abstractmethod
    def unmatched(self) -> list[str]:
        """The patterns that have chosen nothing until now."""


class PartExtractor(_Choosing):
    """Extracts a part of a chain, the newest level first, into one directory."""

    @abc.abstractmethod
    def extract(
        self,
        blocks: Iterator[Block],
        hold: Callable[[Iterable[bytes]], Iterator[Block]],
    ) -> bool:
        """Extract what there is of it in one level.

        :param blocks: read to their end
        :param hold: lets what is extracted pass, or raises
        :returns: whether the same level is needed once more
        :raises UnsafeArchiveError: a member would land outside the target
        :raises EngineError: the archive is damaged, or could not be written out
        """

    @abc.abstractmethod
    def finish(self) -> None:
        """After the last level: what could not be done before.

        :raises EngineError: it could not be done
        """


class Lister(_Choosing):
    """Lists a chain, the newest level first."""

    @abc.abstractmethod
    def entries(self, blocks: Iterator[Block], level: int) -> Iterator[Entry]:
        """What of one level is there in the end.

        :param blocks: read to their end
        :raises EngineError: the archive is damaged
        """


def _no_match(patterns: Iterable[str]) -> RestoreError:
    return RestoreError(
        f'nothing in the backup matches --include {" ".join(map(repr, patterns))}: '
        f'--action list shows what there is; a pattern begins at the top of what was '
        f'backed up, and **/ stands for any directories'
    )


def source_of(path: str) -> Source:
    """What ``path-to-backup`` names, checked to be there and readable.

    :raises EngineError: it is not
    """
    path = os.path.abspath(os.path.expanduser(path))
    try:
        if os.path.isdir(path):
            with os.scandir(path):
                return Source(path, '.')
        if stat.S_ISREG(os.lstat(path).st_mode):
            # Nothing else: who opens a fifo waits, and a tape is wound back.
            with open(path, 'rb'):
                pass
    except OSError as error:
        raise EngineError(
            f'path-to-backup {path}: {error.strerror or error}'
        ) from error
    if stat.S_ISSOCK(os.lstat(path).st_mode):
        raise EngineError(f'path-to-backup {path}: a socket, which cannot be stored')
    return Source(os.path.dirname(path), os.path.basename(path))
