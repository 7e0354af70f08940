"""The contract of an engine: it turns a source into a stream, and extracts streams.

``backup.py`` filters, stores and commits the stream, ``restore.py`` opens and orders
levels.
"""

import abc
import dataclasses
import logging
import os
import threading
from array import array
from collections.abc import (
    Callable,
    Container,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Protocol, Self

from freezer.engine.index.chain import ChainIndex
from freezer.engine.index.file import IndexFile, Part
from freezer.engine.index.new import NewIndex
from freezer.engine.index.record import Record, Row
from freezer.engine.path_list import ListedPath
from freezer.engine.settings import EngineSettings
from freezer.exceptions import ConfigError, RestoreError
from freezer.utils.blocks import Block, PartStart

LOG = logging.getLogger(__name__)

# Warnings that the summary may repeat; all are counted and logged.
KEPT_WARNINGS = 100


@dataclasses.dataclass(frozen=True)
class Source:
    """What is backed up: files, a database, an image. An engine adds what it needs.

    :param label: its name for the user, such as its path
    :param notes: warnings to show before the backup
    :param top: the directory that paths in the backup are relative to, if the label
        does not say it
    :param marker: what the marker says of it
    :param missing: paths below it whose contents a snapshot of it does not have,
        relative: the engine warns of each that it would archive otherwise
    """

    label: str
    notes: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    top: str = dataclasses.field(default='', kw_only=True)
    marker: Mapping[str, Any] = dataclasses.field(default_factory=dict, kw_only=True)
    missing: frozenset[bytes] = dataclasses.field(default=frozenset(), kw_only=True)


class Warnings:
    """Problems that did not make the run fail: all are logged, the first ones kept.

    :ivar incomplete: how many of them leave something out: of the source in a backup,
        of the backup in a restore
    :ivar damaged: how many name something that was restored, and is not what was backed
        up
    """

    def __init__(self) -> None:
        self.count = 0
        self.incomplete = 0
        self.damaged = 0
        self.kept: list[str] = []

    def add(
        self, text: str, *, incomplete: bool = False, damaged: bool = False
    ) -> None:
        LOG.warning('%s', text)
        self.count += 1
        self.incomplete += incomplete
        self.damaged += damaged
        if len(self.kept) < KEPT_WARNINGS:
            self.kept.append(text)


class LeftOut:
    """Paths of the source that are not in the backup, on purpose: all are logged, the
    first ones kept.

    :ivar counts: reason -> number, such as ``excluded``
    :ivar kept: reason and path
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.kept: list[tuple[str, str]] = []

    def add(self, reason: str, path: str) -> None:
        LOG.info('left out (%s): %s', reason, path)
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if len(self.kept) < KEPT_WARNINGS:
            self.kept.append((reason, path))


@dataclasses.dataclass(frozen=True)
class Base:
    """The level that an increment builds on.

    :param state: the engine's file, which must not change
    :param indexes: of its chain's levels, from level 0 up; empty if one has none
    """

    state: Path
    indexes: Sequence[IndexFile] = ()


@dataclasses.dataclass(frozen=True)
class Archiving:
    """One archive to create.

    :param base: the level below; None at level 0
    :param state: where to write the engine's file for the next level; other files
        beside it are temporary
    :param level: of the archive
    :param now_ns: epoch nanoseconds; the next level stores what changes from then on,
        though the archive is made later, of a snapshot
    :param index: for engines that keep one; None if the level cannot have any
    :param padded: gets the paths of files that could not be read to their ends, and end
        with other bytes in the archive; the engine's file has them as well
    :param cancelled: set when nobody reads the archive any more, so that an engine does
        not wait for a source that has nothing to read
    """

    source: Source
    base: Base | None
    state: Path
    warnings: Warnings
    level: int
    now_ns: int
    index: NewIndex | None = None
    left_out: LeftOut = dataclasses.field(default_factory=LeftOut)
    padded: set[bytes] = dataclasses.field(default_factory=set)
    cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)


class Engine(abc.ABC):
    """Makes and extracts archives, level by level.

    ``name`` is its folder on storage.
    """

    name: ClassVar[str]
    #: whether a restore writes into a directory, ``--restore-abs-path``; read after
    #: :meth:`check_target`
    restores_to_path: bool = True
    #: compression of backups whose marker has none; None: that of the settings
    unmarked_compression: ClassVar[str | None] = None
    #: names of compressions in markers -> what they mean there, if it is something else
    compressions: ClassVar[Mapping[str, str]] = {}

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self._progress = settings.progress

    @classmethod
    def from_settings(cls, settings: EngineSettings) -> Self:
        """:raises ConfigError: this machine lacks something that the settings need"""
        return cls(settings)

    # Backup

    def check_source(self, paths: Sequence[str]) -> None:
        """Check the options that name the source, and not the source.

        :param paths: those of ``--path-to-backup``
        :raises ConfigError: one is missing, or two contradict each other
        """
        if not paths:
            # Raises the error of an engine that needs a path.
            self.source(paths)

    def check_incremental(self) -> None:
        """Check the options for ``--incremental``.

        :raises ConfigError: no source of these options can have increments
        """

    def resources(self) -> Sequence[str]:
        """The IDs of the resources that the options select, each for a backup of its
        own. Empty for an engine whose source is a path.

        :raises EngineError: none is selected, or they cannot be listed
        """
        return ()

    def resource_name(self, marker: Mapping[str, Any]) -> str | None:
        """The name that a resource had, from the marker of its backup."""
        return None

    @abc.abstractmethod
    def source(self, paths: Sequence[str]) -> Source:
        """The source, checked to exist and to be readable.

        :param paths: those of ``--path-to-backup``, or the path of its snapshot; there
            are several only if the engine is a :class:`FileEngine`. Or one of
            :meth:`resources`
        :raises ConfigError: an option is missing
        :raises EngineError: the source cannot be read
        """

    @abc.abstractmethod
    def archive(self, archiving: Archiving) -> Generator[Block | PartStart, None, None]:
        """The archive, uncompressed.

        It may have several parts, each with a name: see :class:`PartsExtractor`. Then
        it begins with a :class:`PartStart`, and so does each further part. Each is
        compressed, encrypted and stored as a stream of its own. Another level may have
        other parts. Only an archive without parts can have an index.

        :raises EngineError: after the last block at the latest, if the archive is not
            complete
        """

    @abc.abstractmethod
    def base_problem(self, base: Base, source: Source, now: int) -> str | None:
        """Why an increment of this source cannot build on a level; None if it can.

        :param now: epoch seconds
        """

    # Restore

    @abc.abstractmethod
    def check_target(self, path: str | None, overwrite: bool) -> str:
        """The target of a restore, as :meth:`extractor` takes it. Writes nothing.

        :param path: ``--restore-abs-path``
        :param overwrite: whether it may hold files already
        :raises ConfigError: an option is missing
        :raises RestoreError: nothing can be restored there
        """

    def completed_state(
        self, state: bytes | None, marker: Mapping[str, Any]
    ) -> bytes | None:
        """An engine's file, with what Freezer 19 wrote only into the marker.

        :param state: None if it is lost
        """
        return state

    @abc.abstractmethod
    def extractor(
        self, target: str, state: bytes | None, warnings: Warnings
    ) -> 'Extractor | PartsExtractor | None':
        """Create the extractor of one chain; None for an engine that restores a whole
        chain with :meth:`FileEngine.extract_part`, too.

        :param target: from :meth:`check_target`; created here if it is missing
        :param state: the engine's file of the newest level to extract; None if lost
        """

    @abc.abstractmethod
    def is_archive_start(self, head: bytes) -> bool:
        """Whether these bytes (512, or all there are) begin an archive, or a part of
        one."""

    def archive_reader(self, level: int) -> 'ArchiveReader | None':
        """A reader of the archives of one chain; None if the engine keeps no index.

        :param level: of the first archive that it reads; nothing is known of those
            below
        """
        return None

    def padded(self, state: bytes) -> frozenset[bytes]:
        """The paths of :attr:`Archiving.padded`, from the engine's file.

        :raises EngineError: the file is damaged
        """
        return frozenset()

    def without(
        self, archive: Iterable[Block], paths: Container[bytes]
    ) -> Iterator[Block]:
        """An archive without these files.

        :raises EngineError: it is damaged
        """
        return iter(archive)


class FileEngine(Engine):
    """An engine whose archives hold files: they can be listed, and restored in part."""

    @abc.abstractmethod
    def source(
        self, paths: Sequence[str], listed: Sequence[ListedPath] | None = None
    ) -> Source:
        """As :meth:`Engine.source`.

        :param listed: the paths of ``--files-from``; None if that is not given
        """

    @abc.abstractmethod
    def extract_part(
        self,
        target: str,
        levels: Iterable['LevelArchive'],
        limited: Callable[[Iterable[Block]], Iterator[Block]],
        warnings: Warnings,
        plan: 'TargetPlan | None' = None,
    ) -> None:
        """Extract what ``include`` chooses of a chain, or all of it.

        :param target: as for :meth:`extractor`
        :param levels: the newest first; read until older ones have nothing of it
        :param limited: passes on what is to be extracted, or raises
        :param plan: carried out: what it lists is removed, and nothing else; required
            if the target is not empty
        :raises RestoreError: a pattern chooses nothing
        :raises UnsafeArchiveError: a member would land outside the target
        :raises EngineError: the archive is damaged, or could not be written out
        """

    @abc.abstractmethod
    def entries(self, levels: Iterable['LevelArchive']) -> Iterator[Row]:
        """The files that ``include`` chooses in the final state of a chain, unsorted.

        :param levels: as for :meth:`extract_part`
        :raises RestoreError: a pattern chooses nothing
        :raises EngineError: the archive is damaged
        """

    @abc.abstractmethod
    def contents(self, archive: Iterable[Block], path: bytes) -> Iterator[Block]:
        """The contents of a file, holes as zeros.

        :param archive: one that holds this file only
        :raises EngineError: the archive is damaged, or holds something else
        """

    @abc.abstractmethod
    def member_map(self, archive: Iterable[Block], path: bytes) -> 'MemberMap':
        """Where the contents of a file are in its member; of a device, its number.

        :param archive: begins with the member; only its beginning is read
        :raises EngineError: the archive is damaged, or begins with something else
        """

    @abc.abstractmethod
    def contents_of_chosen(self, levels: Iterable['LevelArchive']) -> Iterator[Block]:
        """The contents of the one file that ``include`` chooses in the final state of a
        chain. All is read before the first block is yielded.

        :param levels: as for :meth:`extract_part`
        :raises RestoreError: it chooses nothing, several files, or something else
        :raises EngineError: the archive is damaged
        """

    @abc.abstractmethod
    def chooser(self) -> 'Chooser':
        """What ``include`` chooses, path by path."""

    @abc.abstractmethod
    def roots(self) -> Sequence[bytes]:
        """Paths that everything ``include`` may choose is at or below; none is below
        another. Empty for the whole backup."""

    @abc.abstractmethod
    def choose(self, parts: Iterable[tuple[int, Part]]) -> Iterator['Chosen']:
        """What ``include`` chooses of a state, with the directories above.

        :param parts: level and records, sorted by path
        :raises RestoreError: after the last, if a pattern chooses nothing
        """

    @abc.abstractmethod
    def unmatched_patterns(self, patterns: Iterable[str], state: bytes) -> set[str]:
        """The patterns that match no path in a level's engine file; none if that file
        has no paths."""

    @abc.abstractmethod
    def plan(
        self,
        target: str,
        states: Iterable['LevelState'],
        keep_extra: bool,
        index: Callable[[], ChainIndex | None] = lambda: None,
    ) -> 'TargetPlan | None':
        """Plan a restore into a target that is not empty. Changes nothing.

        None if the target is empty or does not exist.

        :param states: the newest first; only those that are needed are fetched, and
            none if there is an index
        :param keep_extra: remove nothing
        :param index: opens the index of the chain, if it has one
        :raises RestoreError: the plan cannot be made; or something in the target cannot
            be replaced by what the backup has
        """

    @abc.abstractmethod
    def checksum(self, source: Source) -> str:
        """The consistency checksum of the files that an archive would hold."""


class StreamedEngine(Engine):
    """An engine whose archives hold one stream of bytes, which can be printed."""

    @abc.abstractmethod
    def content(self, level: int, archive: Iterable[Block]) -> Iterator[Block]:
        """The stream in the archive of a level, which is read to its end.

        :raises RestoreError: it is no use without the levels below
        :raises EngineError: the archive is damaged
        """


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


def require_one_file(found: Sequence[tuple[bytes, str]]) -> None:
    """Check that patterns choose one file.

    :param found: path and kind of all that they choose; a directory comes before what
        is in it
    :raises RestoreError: they choose something else
    """
    path, kind = found[0]
    first = repr(os.fsdecode(path))
    if len(found) == 1 and kind in ('file', 'link'):
        return
    if len(found) > 1 and kind != 'directory':
        names = ', '.join(repr(os.fsdecode(path)) for path, _kind in found[:_NAMED])
        more = ', …' if len(found) > _NAMED else ''
        raise RestoreError(
            f'--include matches {len(found)} paths, and one file can be printed: '
            f'{names}{more}'
        )
    raise RestoreError(
        f'{first} is no file but a {_WORDS.get(kind, kind)}: only the contents of a '
        f'file can be printed; --action restore restores it'
    )


# Of many paths, an error names these.
_NAMED = 5
_WORDS = {
    'symlink': 'symbolic link',
    'character': 'device',
    'block': 'device',
}


@dataclasses.dataclass(frozen=True)
class MemberMap:
    """The data of a file, in extents, in order; all else of the file is holes.

    :param starts: of each extent in the file
    :param lengths: bytes
    :param places: of each extent in the member
    :param device: number of a device
    """

    starts: 'array[int]' = dataclasses.field(default_factory=lambda: array('q'))
    lengths: 'array[int]' = dataclasses.field(default_factory=lambda: array('q'))
    places: 'array[int]' = dataclasses.field(default_factory=lambda: array('q'))
    device: int = 0


class Chooser(Protocol):
    """What patterns choose, path by path. Fast if paths come sorted."""

    def chooses(self, path: bytes) -> bool: ...

    @property
    def unmatched(self) -> Sequence[str]:
        """The patterns that have chosen nothing so far."""


class Chosen(NamedTuple):
    """A record that ``include`` chooses.

    :ivar level: the level whose archive has the member
    :ivar chosen: False for a directory that only contains chosen paths
    """

    level: int
    record: Record
    chosen: bool


class LevelState(NamedTuple):
    """The engine's file of one level; ``content`` is None if it is lost.

    :ivar where: its name, for errors
    """

    content: bytes | None
    where: str


class TargetPlan(NamedTuple):
    """What a restore does to a target that is not empty. Paths are below the target.

    :ivar removed: what is removed, sorted; a directory stands for all that is in it
    :ivar replaced: directories that are removed because the backup has a file there;
        what is in them is listed as removed
    :ivar mounts: the mount points on which nothing is removed, sorted
    :ivar untouched: those of them below which the backup has nothing: not changed at
        all
    :ivar parents: directories that only lead to the paths of the backup -> the names in
        them that do; they are made if they are missing, and otherwise stay as they are
    """

    removed: tuple[bytes, ...] = ()
    replaced: tuple[bytes, ...] = ()
    mounts: tuple[bytes, ...] = ()
    untouched: frozenset[bytes] = frozenset()
    parents: Mapping[bytes, Container[bytes]] = {}


class LevelArchive(Protocol):
    """The archive of one level."""

    @property
    def level(self) -> int: ...

    def data(self) -> Generator[Block, None, None]:
        """Read it, also more than once. To be closed: it has downloads in flight."""


class Restored(NamedTuple):
    """What a restore has made, if it is not the target.

    :ivar label: its name for the user
    :ivar keys: for the result of the run
    """

    label: str
    keys: Mapping[str, str]


class Extraction:
    """The restore of one chain into one target.

    A context manager: it ends with an error if the restore fails.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Complete the restore; after an error, undo what can be undone."""

    @property
    def restored(self) -> Restored | None:
        """Known at the end; None for the target itself."""
        return None


class Extractor(Extraction, abc.ABC):
    """Extracts the levels of one chain, in order, into one target."""

    @abc.abstractmethod
    def extract(self, blocks: Iterator[Block]) -> None:
        """Extract one level.

        :raises UnsafeArchiveError: a member would land outside the target
        :raises EngineError: the archive is damaged, or could not be written out
        """


class PartsExtractor(Extraction, abc.ABC):
    """Extracts the levels of one chain, whose archives have parts, in order, into one
    target."""

    @abc.abstractmethod
    def extract(self, parts: Iterator[tuple[str, Iterator[Block]]]) -> None:
        """Extract one level.

        :param parts: name and content, in the order in which they were archived. What
            is not read of a part when the next is requested is read and verified, and
            then dropped. An archive without parts is one without a name
        :raises EngineError: the archive is damaged, or could not be written out
        """


class ArchiveReader(abc.ABC):
    """Reads the archives of one chain, from some level up, and extracts nothing.

    :cvar no_index: why no index can be made of any of them; None if it can
    """

    no_index: ClassVar[str | None] = None

    @abc.abstractmethod
    def fork(self) -> Self:
        """Another one, which has read the same archives, for another next level."""

    @abc.abstractmethod
    def read(
        self,
        blocks: Iterable[Block],
        temporary: Path,
        padded: Container[bytes] = (),
    ) -> 'ArchiveContents':
        """Read the archive of the next level to its end. After an error, use another
        reader.

        :param temporary: a directory for temporary files
        :param padded: files that no index has
        :raises UnsafeArchiveError: a restore would refuse it
        :raises EngineError: it is damaged, or has no end marker
        """

    @abc.abstractmethod
    def properties(self, state: bytes | None) -> Mapping[str, Any]:
        """What an index says of its level if it is made after the level.

        :param state: the engine's file; None if it is lost
        """


class ArchiveContents(Protocol):
    """The members of an archive."""

    @property
    def no_index(self) -> str | None:
        """Why an index cannot describe the archive; None if it can."""

    def records(
        self, base: Iterable[tuple[int, Part]], seen: Iterable[Record]
    ) -> Iterator[Record]:
        """The records of the level's index, in order. To be called once.

        :param base: the state of the level below, in order
        :param seen: identities of files, in order; each counts for a member with the
            same size and mtime
        """
