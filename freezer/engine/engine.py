"""The contract of an engine: it turns a source into a stream, and extracts streams.

``backup.py`` filters, stores and commits the stream, ``restore.py`` opens and orders
levels.
"""

import abc
import dataclasses
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, Self

from freezer.engine.settings import EngineSettings
from freezer.exceptions import ConfigError, EngineError, RestoreError
from freezer.utils.blocks import Block

LOG = logging.getLogger(__name__)

# Warnings that the summary may repeat; all are counted and logged.
KEPT_WARNINGS = 100


@dataclasses.dataclass(frozen=True)
class Source:
    """What is backed up: files, a database, an image. An engine adds what it needs.

    :param label: its name for the user, such as its path
    :param notes: warnings to show before the backup
    """

    label: str
    notes: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)


class Warnings:
    """Problems that did not make the run fail: all are logged, the first ones kept."""

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
    """One archive to create.

    :param base: the engine's file of the level below, which must not change; None at
        level 0
    :param state: where to write the engine's file for the next level
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
    """The archive lacks files that changed meanwhile: create it again, with them."""

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
        """:raises ConfigError: this machine lacks something that the settings need"""
        return cls(settings)

    # Backup

    @abc.abstractmethod
    def source(self, path: str | None) -> Source:
        """The source, checked to exist and to be readable.

        :param path: ``--path-to-backup``, or the path of its snapshot
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
        """Why an increment of this source cannot build on this engine's file; None if
        it can.

        :param now: epoch seconds
        """

    # Restore

    @abc.abstractmethod
    def check_target(self, path: str | None, overwrite: bool) -> str:
        """The target of a restore, as :meth:`extractor` takes it. Writes nothing.

        :param path: ``--restore-abs-path``
        :raises ConfigError: an option is missing
        :raises RestoreError: nothing can be restored there
        """

    @abc.abstractmethod
    def extractor(
        self, target: str, state: bytes | None, warnings: Warnings
    ) -> 'Extractor':
        """Create the extractor of one chain.

        :param target: from :meth:`check_target`; created here if it is missing
        :param state: the engine's file of the newest level to extract; None if lost
        """

    @abc.abstractmethod
    def is_archive_start(self, head: bytes) -> bool:
        """Whether these bytes (512, or all there are) begin an archive."""


class FileEngine(Engine):
    """An engine whose archives hold files: they can be listed, and restored in part."""

    @abc.abstractmethod
    def extract_part(
        self,
        target: str,
        levels: Iterable['LevelArchive'],
        limited: Callable[[Iterable[Block]], Iterator[Block]],
        warnings: Warnings,
    ) -> None:
        """Extract what ``include`` chooses of a chain.

        :param target: as for :meth:`extractor`
        :param levels: the newest first; read until older ones have nothing of it
        :param limited: passes on what is to be extracted, or raises
        :raises RestoreError: a pattern chooses nothing
        :raises UnsafeArchiveError: a member would land outside the target
        :raises EngineError: the archive is damaged, or could not be written out
        """

    @abc.abstractmethod
    def entries(self, levels: Iterable['LevelArchive']) -> Iterator['Entry']:
        """The files that ``include`` chooses in the final state of a chain, unsorted.

        :param levels: as for :meth:`extract_part`
        :raises RestoreError: a pattern chooses nothing
        :raises EngineError: the archive is damaged
        """

    @abc.abstractmethod
    def unmatched_patterns(self, patterns: Iterable[str], state: bytes) -> set[str]:
        """The patterns that match no path in a level's engine file; none if that file
        has no paths."""

    @abc.abstractmethod
    def removals(
        self, target: str, state: bytes | None, level: int, where: str
    ) -> list[str]:
        """The paths below the target that a restore will remove, sorted.

        Empty if the target does not exist.

        :param state: the engine's file of the newest level; None if lost
        :param level: that level
        :param where: the name of that file
        :raises RestoreError: they cannot be determined
        """

    @abc.abstractmethod
    def checksum(self, source: Source) -> str:
        """The consistency checksum of the files that an archive would hold."""


def require_files(engine: Engine, purpose: str) -> FileEngine:
    """:raises ConfigError: the engine's backups do not consist of files"""
    if not isinstance(engine, FileEngine):
        raise ConfigError(
            f'{purpose}: backups of engine {engine.name} do not consist of files'
        )
    return engine


def no_match(patterns: Iterable[str]) -> RestoreError:
    """The error for patterns that choose nothing."""
    return RestoreError(
        f'nothing in the backup matches --include {" ".join(map(repr, patterns))}: '
        f'--action list shows the files; a pattern begins at the top of the backup, '
        f'and **/ matches any directories'
    )


class LevelArchive(Protocol):
    """The archive of one level."""

    @property
    def level(self) -> int: ...

    def data(self) -> Generator[Block, None, None]:
        """Read it, also more than once. To be closed: it has downloads in flight."""


class Extractor(abc.ABC):
    """Extracts the levels of one chain, in order, into one target."""

    @abc.abstractmethod
    def extract(self, blocks: Iterator[Block]) -> None:
        """Extract one level.

        :raises UnsafeArchiveError: a member would land outside the target
        :raises EngineError: the archive is damaged, or could not be written out
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
