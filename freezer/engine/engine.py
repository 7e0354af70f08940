"""The contract of an engine: a source becomes an archive stream, and the reverse.

What surrounds the stream is not the engine's: filters, storage and commit are in
``backup.py``, opening and ordering of levels in ``restore.py``.
"""

import abc
import dataclasses
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

from freezer.engine.settings import EngineSettings
from freezer.exceptions import ConfigError, EngineError
from freezer.utils.blocks import Block

LOG = logging.getLogger(__name__)

# So many warnings are kept to be repeated; all are counted and logged.
KEPT_WARNINGS = 100


@dataclasses.dataclass(frozen=True)
class Source:
    """What is backed up: files, a database, an image. An engine adds what it needs.

    :param label: names it for people, such as its path
    :param notes: what the person should know of it before the backup
    """

    label: str
    notes: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)


class Warnings:
    """What did not make the run fail: all counted and logged, the first ones kept."""

    def __init__(self) -> None:
        self.count = 0
        self.kept: list[str] = []

    def add(self, text: str) -> None:
        LOG.warning('%s', text)
        self.count += 1
        if len(self.kept) < KEPT_WARNINGS:
            self.kept.append(text)


@dataclasses.dataclass(frozen=True)
class Archiving:
    """One archive to be made.

    :param base: the engine's file of the level below, not to be changed; None at
        level 0
    :param state: where the engine's file for the next level has to be written
    :param level: of the archive
    :param now: epoch seconds; the next level stores what changes from then on, though
        the archive is made later, of a snapshot
    :param include: paths to archive whether they changed or not
    """

    source: Source
    base: Path | None
    state: Path
    warnings: Warnings
    level: int
    now: int
    include: frozenset[bytes] = frozenset()


class SourceChanged(EngineError):
    """The archive lacks something that changed meanwhile: make it again, with it."""

    def __init__(self, include: frozenset[bytes]) -> None:
        super().__init__('files changed while they were archived')
        self.include = include


class Engine(abc.ABC):
    """Makes and extracts archives, level by level.

    ``name`` is its folder on storage.
    """

    name: ClassVar[str]

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self._progress = settings.progress

    @classmethod
    def from_settings(cls, settings: EngineSettings) -> Self:
        """:raises ConfigError: the settings cannot be met on this machine"""
        return cls(settings)

    # Backup

    @abc.abstractmethod
    def source(self, path: str | None) -> Source:
        """What the settings name, checked to be there and readable.

        :param path: ``--path-to-backup``, or where its snapshot is; None without
        :raises ConfigError: an option is missing
        :raises EngineError: the source cannot be read
        """

    @abc.abstractmethod
    def archive(self, archiving: Archiving) -> Generator[Block, None, None]:
        """The archive, uncompressed.

        :raises SourceChanged: after the last block
        :raises EngineError: after the last block at the latest, if the archive is not
            complete
        """

    @abc.abstractmethod
    def base_problem(self, state: Path, source: Source, now: int) -> str | None:
        """Why no increment of this source may be built on this engine's file; None if
        one may.

        :param now: epoch seconds
        """

    # Restore

    @abc.abstractmethod
    def check_target(self, path: str | None, overwrite: bool) -> str:
        """The target of a restore, as :meth:`extractor` takes it. Writes nothing.

        :param path: ``--restore-abs-path``
        :raises ConfigError: an option is missing
        :raises RestoreError: it is not a place to restore into
        """

    @abc.abstractmethod
    def extractor(
        self, target: str, state: bytes | None, warnings: Warnings
    ) -> 'Extractor':
        """Extracts one level after the other.

        :param target: what :meth:`check_target` gave; made here if it is missing
        :param state: the engine's file of the last level that will be extracted; None
            if it is lost
        """

    @abc.abstractmethod
    def is_archive_start(self, head: bytes) -> bool:
        """Whether these bytes (512, or all there are) begin an archive."""


class FileEngine(Engine):
    """An engine whose archives hold files: they can be listed, and restored in part."""

    @abc.abstractmethod
    def part_extractor(self, target: str, warnings: Warnings) -> 'PartExtractor':
        """Extracts what ``include`` chooses; see :meth:`extractor`."""

    @abc.abstractmethod
    def lister(self) -> 'Lister':
        """Lists what ``include`` chooses."""

    @abc.abstractmethod
    def unmatched_patterns(self, patterns: Iterable[str], state: bytes) -> set[str]:
        """The patterns that match no file of a level, by its engine's file; none if
        that file does not show it."""

    @abc.abstractmethod
    def removals(
        self, target: str, state: bytes | None, level: int, where: str
    ) -> list[str]:
        """What a restore will remove from the target: paths below it, sorted.

        A target that does not exist loses nothing.

        :param state: the engine's file of the newest level; None if it is lost
        :param level: that level
        :param where: names that file
        :raises RestoreError: that cannot be known
        """

    @abc.abstractmethod
    def checksum(self, source: Source) -> str:
        """The consistency checksum of the files that an archive would hold."""


def require_files(engine: Engine, purpose: str) -> FileEngine:
    """:raises ConfigError: the engine's backups hold no files"""
    if not isinstance(engine, FileEngine):
        raise ConfigError(
            f'{purpose}: backups of engine {engine.name} are not made of files'
        )
    return engine


class Extractor(abc.ABC):
    """Extracts the levels of one chain, in order, into one target."""

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
        """Extract what one level has of it.

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


class Entry(NamedTuple):
    """A file of a backup, of any kind, as it would be restored.

    :ivar path: below the directory that was backed up
    :ivar kind: a word of :data:`KINDS`
    :ivar mode: permissions, and set-user-ID and the like
    :ivar size: bytes, with holes; 0 for all but files
    :ivar mtime_ns: epoch nanoseconds
    :ivar target: of a symbolic link; of a hard link, the name of the same file that has
        the size
    :ivar level: the level that holds it
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


class Lister(_Choosing):
    """Lists a chain, the newest level first."""

    @abc.abstractmethod
    def entries(self, blocks: Iterator[Block], level: int) -> Iterator[Entry]:
        """What one level contributes to the final state.

        :param blocks: read to their end
        :raises EngineError: the archive is damaged
        """
