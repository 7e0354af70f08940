"""The contract of a storage, and the backup as it is named there.

A driver subclasses :class:`Storage` (or, where paths on storage mean something,
:class:`freezer.storage.physical.PhysicalStorage`), is registered under the entry point
``freezer.storage``, and declares its options apart from the class, under
``freezer.storage.options`` (``freezer/utils/plugin_options.py``).

Names and signatures are Freezer 19's.
"""

import abc
import contextlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, Self

from freezer.storage import layout, levels
from freezer.storage.check import CheckReport
from freezer.storage.details import Details
from freezer.storage.exceptions import IntegrityError, StorageException
from freezer.storage.housekeeping import Tidied
from freezer.storage.verify import Verification
from freezer.utils.blocks import Block
from freezer.utils.progress import Progress
from freezer.utils.rate import UNLIMITED, Rate
from freezer.utils.streaming import RichQueue

LOG = logging.getLogger(__name__)

# It has some 300, and with comments not many more.
_MAX_IDENTITY_BYTES = 64 * 1024


class Named(Protocol):
    """An engine as far as a storage needs to know it."""

    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class EngineName:
    """A :class:`Named` for those who only have the name."""

    name: str


@dataclass(frozen=True)
class StorageSettings:
    """What a driver is built from.

    :param container: as typed: a directory, or ``bucket/prefix``
    :param max_segment_size: bytes of a queue message, segment or part
    :param options: the driver's own options by name, with ``-`` as ``_`` and options of
        a group prefixed with it (``s3_region``); every declared option has a key
    :param section: how to call these settings in an error
    :param name: of a member of a multiple storage
    :param sending: what all storages of this process together may send
    :param receiving: what they may receive
    :param progress: is told of parts and repetitions
    """

    container: str
    max_segment_size: int
    insecure: bool = False
    proxy: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    section: str = 'the main settings'
    name: str = ''
    sending: Rate = UNLIMITED
    receiving: Rate = UNLIMITED
    progress: Progress = field(default_factory=Progress, repr=False, compare=False)


class LevelReport(NamedTuple):
    """One level of a chain; ``size`` is what its objects take, in bytes."""

    level: int
    timestamp: int
    size: int


@dataclass(frozen=True)
class StorageReport:
    """What a container holds: objects of any kind, and the backups among them."""

    container: str
    size: int
    objects: int
    chains: tuple['ChainReport', ...] = ()


@dataclass(frozen=True)
class ChainReport:
    """One chain of levels; ``size`` is what all its objects take, in bytes.

    :param levels: of each that is committed, sorted
    :param storage: the member's name in a multiple storage
    """

    engine: str
    identity: str
    level_zero_timestamp: int
    levels: tuple[LevelReport, ...]
    size: int
    storage: str = ''


class Backup:
    """One level of one chain, as it is named on a storage.

    One without a storage is only a name; :meth:`copy` gives it a storage.
    """

    def __init__(
        self,
        engine: Named,
        hostname_backup_name: str,
        level_zero_timestamp: int,
        timestamp: int,
        level: int,
        storage: 'Storage | None' = None,
    ) -> None:
        self.engine = engine
        self.hostname_backup_name = hostname_backup_name
        self.level_zero_timestamp = level_zero_timestamp
        self.timestamp = timestamp
        self.level = level
        self.storage = storage

    def __repr__(self) -> str:
        return (
            f'<{self.engine.name} {self.hostname_backup_name} '
            f'{self.level_zero_timestamp}/{self.level}_{self.timestamp}>'
        )

    def copy(self, storage: 'Storage') -> 'Backup':
        """The same backup on a storage."""
        return Backup(
            self.engine,
            self.hostname_backup_name,
            self.level_zero_timestamp,
            self.timestamp,
            self.level,
            storage,
        )

    @property
    def _storage(self) -> Any:
        if self.storage is None:
            raise StorageException(f'{self!r} is not on a storage')
        return self.storage

    def _path(self, kind: str, *rest: str) -> str:
        return layout.join(
            self._storage.storage_path,
            kind,
            self.engine.name,
            self.hostname_backup_name,
            str(self.level_zero_timestamp),
            *rest,
        )

    @property
    def _level_name(self) -> str:
        return layout.level_name(self.level, self.timestamp)

    @property
    def increments_data_path(self) -> str:
        return self._path(layout.DATA)

    @property
    def increments_metadata_path(self) -> str:
        return self._path(layout.METADATA)

    @property
    def data_prefix_path(self) -> str:
        return self._path(layout.DATA, self._level_name)

    @property
    def data_path(self) -> str:
        return self._path(layout.DATA, self._level_name, layout.DATA)

    @property
    def engine_metadata_path(self) -> str:
        return self._path(layout.DATA, self._level_name, layout.ENGINE_METADATA)

    @property
    def identity_path(self) -> str:
        return self._path(layout.DATA, self._level_name, layout.IDENTITY)

    @property
    def metadata_path(self) -> str:
        return self._path(layout.METADATA, self._level_name, layout.METADATA)

    @property
    def segments_path(self) -> str:
        return self._path(layout.DATA, self._level_name, layout.SEGMENTS)

    def metadata(self) -> dict[str, Any]:
        """The commit marker: engine_name, compression, encryption.

        :raises IntegrityError: it is not what a marker is
        """
        document: bytes = self._storage.read_file(self.metadata_path)
        try:
            metadata = json.loads(document.split(b'\n', 1)[0])
        except ValueError as error:
            raise IntegrityError(f'{self.metadata_path} is damaged: {error}') from error
        if not isinstance(metadata, dict):
            raise IntegrityError(f'{self.metadata_path} is damaged: not a JSON object')
        return metadata

    def engine_metadata(self) -> bytes:
        """What the engine left for the next increment."""
        content: bytes = self._storage.read_file(self.engine_metadata_path)
        return content

    def identity(self) -> bytes:
        """The key it is encrypted for, which a passphrase opens."""
        path = self.identity_path
        content: bytes = self._storage.read_file(path, _MAX_IDENTITY_BYTES)
        return content

    def get_increments(self) -> dict[int, 'Backup']:
        """The chain this backup belongs to, newest state: level -> backup."""
        increments: dict[int, Backup] = self._storage.get_increments(self)
        return increments


class Storage(abc.ABC):
    """Where backups live.

    Obligations of every driver:

    * A backup is a commit: ``write_backup`` leaves nothing a reader would find;
      ``put_metadata`` writes the marker last and is the only act that makes a backup
      visible.
    * Whatever goes wrong raises; nothing is swallowed. An error of a listing is never
      an empty listing.
    * A failed ``write_backup`` leaves no open upload, or the log says which. What it
      had stored ``discard`` removes.
    * ``write_backup`` holds a bounded number of bytes in memory, and none on disk but
      where the backup itself lives.
    * ``backup_blocks`` yields no byte it has not checked, where a digest is known.
    * Data is sent and received no faster than the settings' rates have it.
    """

    _type: ClassVar[str]

    def __init__(self, skip_prepare: bool = False) -> None:
        if not skip_prepare:
            self.prepare()

    @property
    def type(self) -> str:
        return self._type

    @classmethod
    @abc.abstractmethod
    def from_settings(cls, settings: StorageSettings) -> Self:
        """Build the driver without touching the store.

        :raises StorageConfigError: options are missing or malformed
        """

    @abc.abstractmethod
    def prepare(self) -> None:
        """Make the container if it is not there; before the first backup."""

    @abc.abstractmethod
    def claim(self, backup: Backup) -> None:
        """Take the level's place before the source is read.

        Fails where this cannot be written, and where another agent of the same name
        has taken the same place; so two of them never interleave.

        :raises Conflict: the place is taken
        """

    @abc.abstractmethod
    def write_backup(self, rich_queue: 'RichQueue', backup: Backup) -> None:
        """Store a stream: the queue's messages, one after the other.

        Not visible before :meth:`put_metadata`. Raises the producer's error if the
        queue ends with one. What was stored until then is for :meth:`discard`.
        """

    def cancel(self) -> None:
        """Let a :meth:`write_backup` in another thread fail soon: it is not wanted.

        Holds until the next :meth:`claim`.
        """

    @abc.abstractmethod
    def put_identity(self, identity: bytes, backup: Backup) -> None:
        """Write the key of a backup beside its data; before :meth:`put_metadata`."""

    @abc.abstractmethod
    def put_metadata(
        self, engine_metadata_path: str, freezer_metadata_path: str, backup: Backup
    ) -> None:
        """Commit: the engine's metadata, then the marker. From local files."""

    @abc.abstractmethod
    def discard(self, backup: Backup) -> None:
        """Remove all of a backup that was not committed, or must not stay committed."""

    @abc.abstractmethod
    def backup_blocks(self, backup: Backup) -> Iterator[Block]:
        """The stream of a backup, checked, in order.

        :raises IntegrityError: a byte is wrong or missing
        """

    def size_of(self, backup: Backup) -> int | None:
        """Bytes that :meth:`backup_blocks` will yield; None if that is not known.

        :raises IntegrityError: what says it is damaged
        """
        return None

    @abc.abstractmethod
    def get_file(self, from_path: str, to_path: str) -> None:
        """Copy a small file from the storage to a local path."""

    @abc.abstractmethod
    def get_chains(
        self, engine: Named, hostname_backup_name: str
    ) -> dict[int, list[Backup]]:
        """Every committed backup of a name: level-0 timestamp -> its backups."""

    @abc.abstractmethod
    def backups(self) -> list[Backup]:
        """Every committed backup in the container, of any engine and name.

        By engine, name, chain, level and time; each on the storage that has it.
        """

    @abc.abstractmethod
    def verify(self, backup: Backup, data: bool) -> Verification | None:
        """Whether a backup is there as it was written, and the levels below it.

        Obligations: nothing is written. Every problem is found, not the first one
        only; an object that cannot be read is one. Memory is bounded as for
        :meth:`backup_blocks`.

        :param backup: on the storage that has it
        :param data: read every byte, and check it where a digest is known
        :returns: None if the backup is not committed any more, which is no problem:
            somebody removes it
        :raises StorageException: the storage itself is not to be reached or listed
        """

    @abc.abstractmethod
    def details(self, backup: Backup) -> Details:
        """What is known of a backup, at the price of a few small requests.

        :param backup: on the storage that has it
        :raises NotFound: the backup is not committed any more
        :raises IntegrityError: its marker or manifest is damaged, or its data missing
        """

    def member_name(self, backup: Backup) -> str:
        """In a multiple storage, the name of the member that a backup is on."""
        return ''

    @abc.abstractmethod
    def report(self) -> StorageReport:
        """What the container holds."""

    def time(self) -> float | None:
        """The storage's own clock, epoch seconds; None if it has none."""
        return None

    def housekeeping(self) -> contextlib.AbstractContextManager[None]:
        """In it, what retention and :meth:`tidy` both go by is looked at once.

        What was removed in it may still be listed, and what others have made since may
        not be.
        """
        return contextlib.nullcontext()

    @property
    def tidies(self) -> bool:
        """Whether the options ask for :meth:`tidy` in particular."""
        return False

    def tidy(self, dry_run: bool = False) -> Tidied:
        """Remove what backups that ended badly left; never of one that is under way.

        :param dry_run: remove nothing
        """
        return Tidied()

    @abc.abstractmethod
    def check(self) -> CheckReport:
        """Try out all that a backup and a restore need, and what else there is.

        With the same calls as a backup, below :data:`layout.CHECK` in a folder of its
        own, of which nothing remains however the check ends; where something does, the
        report, or a notice, says what. A container that is not there is made as
        :meth:`prepare` makes it, and removed again.

        A problem is something without which backups cannot be made or restored. What
        was not answered is never reported as something that the storage cannot do.

        :raises StorageException: it cannot be reached, or not be written to at all
        """

    def close(self) -> None:
        """Give back connections and threads. May be called more than once."""

    def get_level_zero(
        self,
        engine: Named,
        hostname_backup_name: str,
        recent_to_date: int | None = None,
    ) -> list[Backup]:
        """The level 0 of each chain, oldest first; none newer than a date."""
        chains = self.get_chains(engine, hostname_backup_name)
        return [
            backup
            for timestamp in sorted(chains)
            for backup in chains[timestamp]
            if backup.level == 0
            and (recent_to_date is None or timestamp <= recent_to_date)
        ]

    def get_increments(self, backup: Backup) -> dict[int, Backup]:
        """The newest state of a backup's chain: level -> backup."""
        chains = self.get_chains(backup.engine, backup.hostname_backup_name)
        return levels.resolve(chains.get(backup.level_zero_timestamp, []))

    def get_latest_level_zero_increments(
        self,
        engine: Named,
        hostname_backup_name: str,
        recent_to_date: int | None = None,
    ) -> dict[int, Backup]:
        """The newest state not after a date (epoch seconds): level -> backup.

        :raises StorageException: there is none
        :raises BrokenChain: a level is missing
        """
        chains = self.get_chains(engine, hostname_backup_name)
        in_time = {
            zero: [
                b
                for b in backups
                if recent_to_date is None or b.timestamp <= recent_to_date
            ]
            for zero, backups in chains.items()
            if recent_to_date is None or zero <= recent_to_date
        }
        newest = max((zero for zero, found in in_time.items() if found), default=None)
        if newest is None:
            raise NoSuchBackup(
                f'No matching backup name: {hostname_backup_name!r} (engine '
                f'{engine.name})'
                + (
                    ' at or before that date; --action info shows the dates'
                    if chains
                    else ' is not on this storage; --action info shows what is'
                )
            )
        try:
            return levels.resolve(in_time[newest])
        except levels.BrokenChain as error:
            raise levels.BrokenChain(
                f'{hostname_backup_name}, chain {newest}: {error.message}; '
                f'--restore-from-date with an earlier date finds an earlier state'
            ) from error

    def plan(
        self,
        engine: Named,
        hostname_backup_name: str,
        policy: levels.LevelPolicy,
        now: float,
    ) -> tuple[Backup | None, int]:
        """What the next backup builds on, and its earliest timestamp.

        :param now: epoch seconds
        :returns: the base, None for a new chain; and one second after the newest backup
            of the name, 0 if there is none
        """
        chains = self.get_chains(engine, hostname_backup_name)
        if not chains:
            return None, 0
        newest = max(b.timestamp for chain in chains.values() for b in chain)
        try:
            chain = levels.resolve(chains[max(chains)])
        except levels.BrokenChain as error:
            # A new level 0 is a good backup; an increment on a gap never is one.
            LOG.warning('%s: starting a new chain at level 0', error)
            return None, newest + 1
        return levels.base_for_next(chain, policy, now), newest + 1

    def previous_backup(
        self,
        engine: Named,
        hostname_backup_name: str,
        no_incremental: bool,
        max_level: int,
        always_level: int,
        restart_always_level: float,
    ) -> Backup | None:
        """Freezer 19's form of :meth:`plan`: the base alone, as of now."""
        policy = levels.LevelPolicy(
            not no_incremental,
            int(max_level or 0),
            int(always_level or 0),
            float(restart_always_level or 0),
        )
        return self.plan(engine, hostname_backup_name, policy, time.time())[0]

    @abc.abstractmethod
    def remove_older_than(
        self,
        engine: Named,
        remove_older_timestamp: int,
        hostname_backup_name: str,
        keep: int | None = None,
        dry_run: bool = False,
    ) -> list[list[Backup]]:
        """Delete each chain whose every level is at or before a time; markers first.

        A level that is being written counts as a level, so a chain somebody builds on
        stays.

        :param remove_older_timestamp: epoch seconds
        :param keep: level-0 timestamp of a chain to keep whatever its age
        :param dry_run: delete nothing
        :returns: the chains that were (or would be) deleted, oldest first
        """


class NoSuchBackup(StorageException):
    """Nothing of that name, or nothing as old as that."""
