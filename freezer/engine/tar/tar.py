"""The engine tar: GNU tar with ``--listed-incremental``, as Freezer's backups."""

import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

from freezer.engine.engine import (
    Archiving,
    Base,
    Chosen,
    Extractor,
    FileEngine,
    LevelArchive,
    LevelState,
    Source,
    TargetPlan,
    Warnings,
)
from freezer.engine.index.file import IndexFile, Part
from freezer.engine.index.record import REBUILT, Row
from freezer.engine.settings import EngineSettings
from freezer.engine.tar import choose, contents, create, listing, process, snapshot
from freezer.engine.tar.extract import ArchiveExtractor, TarExtractor
from freezer.engine.tar.options import OPTIONS
from freezer.engine.tar.part import PartExtractor
from freezer.engine.tar.patterns import Patterns
from freezer.engine.tar.plan import Planner
from freezer.engine.tar.reader import TarReader
from freezer.engine.tar.source import PathSource, path_source, source_at
from freezer.exceptions import ConfigError, EngineError, RestoreError
from freezer.utils import checksum, machine
from freezer.utils.blocks import Block

LOG = logging.getLogger(__name__)


class TarEngine(FileEngine):
    """GNU tar."""

    name = 'tar'

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        process.find_tar()
        self._options = OPTIONS.defaults() | {**settings.options}
        self._patterns = Patterns(settings.include)
        self._follows_links = create.follows_links(self._options)
        create.excludes_of(settings, self._options)
        if self._options['cross_mounts'] and self._options['one_file_system']:
            raise ConfigError('cross-mounts and one-file-system: pass one of them')

    def source(self, path: str | None) -> PathSource:
        return source_at(path, follows_links=self._follows_links)

    def archive(self, archiving: Archiving) -> Generator[Block, None, None]:
        source = path_source(archiving.source)
        writer = create.ArchiveWriter(archiving, source, self.settings)
        return writer.blocks()

    def base_problem(self, base: Base, source: Source, now: int) -> str | None:
        if base.indexes:
            origin = self.settings.origin or source.label
            return _index_problem(base.indexes, path_source(source), origin, now)
        try:
            known = snapshot.load(base.state.read_bytes())
        except EngineError as error:
            return str(error)
        if known.seconds > now:
            return (
                f'the previous level was made {known.seconds - now} s in the future: '
                f'this clock is wrong or was wrong then, and that level has no index'
            )
        if known.subject != create.subject(path_source(source)):
            return _OTHER_FILE
        return None

    def checksum(self, source: Source) -> str:
        source = path_source(source)
        members = create.members(source, self.settings)
        return checksum.checksum(
            source.folder, members, self._follows_links, LOG.warning
        )

    def check_target(self, path: str | None, overwrite: bool) -> str:
        if not path:
            raise ConfigError(
                'restore-abs-path is required for action restore: give '
                '--restore-abs-path, or restore_abs_path in the job file'
            )
        target = os.path.abspath(path)
        try:
            present = os.listdir(target)
        except FileNotFoundError:
            return target
        except OSError as error:
            raise RestoreError(
                f'restore-abs-path {target}: {error.strerror}'
            ) from error
        if present and not overwrite:
            raise RestoreError(
                f'restore-abs-path {target} is not empty: choose another, or give '
                f'--overwrite, which also removes what the backup does not hold, or '
                f'--keep-extra, which removes nothing'
            )
        return target

    def extractor(
        self, target: str, state: bytes | None, warnings: Warnings
    ) -> Extractor:
        # A damaged snapshot file does not keep the data from being restored: only
        # extended attributes of directories in the target stay as they are.
        known = snapshot.EMPTY if state is None else _load_or_warn(state)
        whole_tree = known.subject == snapshot.TREE
        archives = ArchiveExtractor(
            target,
            self.settings.untrusted,
            warnings,
            self._progress,
            self._options,
            makes_writable=whole_tree,
        )
        return TarExtractor(archives, whole_tree)

    def extract_part(
        self,
        target: str,
        levels: Iterable[LevelArchive],
        limited: Callable[[Iterable[Block]], Iterator[Block]],
        warnings: Warnings,
        plan: TargetPlan | None = None,
    ) -> None:
        plan = plan or TargetPlan()
        # Where it makes no directory ready, it removes a link in the way itself.
        archives = ArchiveExtractor(
            target,
            self.settings.untrusted,
            warnings,
            self._progress,
            self._options,
            self._patterns,
            untouched=plan.untouched,
        )
        PartExtractor(archives, self._patterns, plan).extract(levels, limited)

    def entries(self, levels: Iterable[LevelArchive]) -> Iterator[Row]:
        return listing.entries(levels, self._patterns)

    def contents(self, archive: Iterable[Block], path: bytes) -> Iterator[Block]:
        return contents.of_member(archive, path)

    def contents_of_chosen(self, levels: Iterable[LevelArchive]) -> Iterator[Block]:
        return contents.of_chosen(levels, self._patterns)

    def chooser(self) -> choose.Chooser:
        return choose.Chooser(self._patterns)

    def roots(self) -> Sequence[bytes]:
        return self._patterns.roots()

    def choose(self, parts: Iterable[tuple[int, Part]]) -> Iterator[Chosen]:
        return choose.choose(self._patterns, parts)

    def unmatched_patterns(self, patterns: Iterable[str], state: bytes) -> set[str]:
        known = _load_or_warn(state)
        if known.subject != snapshot.TREE:
            return set()
        texts = sorted(patterns)
        compiled = Patterns(texts)
        found: set[int] = set()
        for path in known.paths():
            found.update(compiled.matched(compiled.at(path.split(b'/'))))
            if len(found) == len(texts):
                break
        return {text for number, text in enumerate(texts) if number not in found}

    def plan(
        self, target: str, states: Iterable[LevelState], keep_extra: bool
    ) -> TargetPlan | None:
        return Planner(target, states, self._patterns, keep_extra).plan()

    def archive_reader(self) -> TarReader:
        return TarReader()

    def is_archive_start(self, head: bytes) -> bool:
        return head[257:262] == b'ustar' or (bool(head) and not head.strip(b'\0'))


_OTHER_FILE = 'increments of a single file need the same path each time'


def _index_problem(
    indexes: Sequence[IndexFile], source: PathSource, origin: str, now: int
) -> str | None:
    """Why an increment of a source cannot build on the level of the last index.

    :param origin: the path of the source, or of what the source is a snapshot of
    :param now: epoch seconds
    """
    index = indexes[-1]
    if not all(type(each.properties.get('time_ns')) is int for each in indexes):
        return 'the index of a previous level does not have its time'
    # Of any level: whoever can write to the storage may have changed one.
    ahead = max(each.properties['time_ns'] for each in indexes) // 10**9 - now
    if ahead > 0 and any(each.properties.get(REBUILT) for each in indexes):
        # Without identities, times decide.
        return (
            f'the previous level was made {ahead} s in the future: this clock is wrong '
            f'or was wrong then, and an index of its chain was made later'
        )
    here = machine.identity()
    there = index.properties.get('machine')
    if here and there and here != there:
        return (
            'the previous level was made on another machine of this name (its '
            '/etc/machine-id differs): give each machine its own --hostname or '
            '--backup-name'
        )
    before = index.properties.get('source', origin)
    if before != origin:
        return f'the previous level is of {before}, and this backup of {origin}'
    if index.properties.get('subject') != os.fsdecode(create.subject(source)):
        return _OTHER_FILE
    return None


def _load_or_warn(state: bytes) -> snapshot.Snapshot:
    """The snapshot file; an empty one, and a warning in the log, if it is damaged."""
    try:
        return snapshot.load(state)
    except EngineError as error:
        LOG.warning('the snapshot file: %s', error)
        return snapshot.EMPTY
