"""The engine tar: GNU tar with ``--listed-incremental``, as Freezer's backups."""

import logging
import os
from collections.abc import (
    Callable,
    Container,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)

from freezer.engine.engine import (
    Archiving,
    Base,
    Chosen,
    Extractor,
    FileEngine,
    LevelArchive,
    LevelState,
    MemberMap,
    Source,
    TargetPlan,
    Warnings,
)
from freezer.engine.index.chain import ChainIndex
from freezer.engine.index.file import IndexFile, Part
from freezer.engine.index.record import REBUILT, Row
from freezer.engine.path_list import ListedPath
from freezer.engine.settings import EngineSettings
from freezer.engine.tar import (
    choose,
    contents,
    create,
    listing,
    members,
    process,
    snapshot,
)
from freezer.engine.tar.extract import ArchiveExtractor, TarExtractor
from freezer.engine.tar.options import OPTIONS
from freezer.engine.tar.part import PartExtractor
from freezer.engine.tar.patterns import Patterns
from freezer.engine.tar.plan import Listing, Planner, of_chain
from freezer.engine.tar.reader import TarReader
from freezer.engine.tar.rules import rules_of
from freezer.engine.tar.selection import Selection, chosen_in
from freezer.engine.tar.source import PathSource, path_source, source_at
from freezer.engine.target import check_directory
from freezer.exceptions import ConfigError, EngineError
from freezer.utils import checksum, human, machine
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
        rules_of(self._options)
        if self._options['cross_mounts'] and self._options['one_file_system']:
            raise ConfigError('cross-mounts and one-file-system: pass one of them')

    def source(
        self, paths: Sequence[str], listed: Sequence[ListedPath] | None = None
    ) -> PathSource:
        origin = self.settings.origin
        found = source_at(paths, listed, origin, follows_links=self._follows_links)
        # Not when the engine is made: where a backup is restored, the files with
        # patterns may be missing.
        create.excludes_of(self.settings, self._options, origin or found.origin)
        return found

    def archive(self, archiving: Archiving) -> Generator[Block, None, None]:
        source = path_source(archiving.source)
        writer = create.ArchiveWriter(archiving, source, self.settings)
        return writer.blocks()

    def base_problem(self, base: Base, source: Source, now: int) -> str | None:
        source = path_source(source)
        origin = self.settings.origin or source.origin
        if base.indexes:
            return _index_problem(base.indexes, source, origin, now)
        try:
            known = snapshot.load(base.state.read_bytes())
        except EngineError as error:
            return str(error)
        if known.seconds > now:
            return (
                f'the previous level was made {known.seconds - now} s in the future: '
                f'this clock is wrong or was wrong then, and that level has no index'
            )
        if known.subject != create.subject(source):
            return _OTHER_FILE
        if source.selection or known.chosen:
            return 'the previous level has no index, which several paths need'
        return _path_problem(known, source, origin)

    def checksum(self, source: Source) -> str:
        source = path_source(source)
        paths = create.members(source, self.settings)
        return checksum.checksum(source.folder, paths, self._follows_links, LOG.warning)

    def check_target(self, path: str | None, overwrite: bool) -> str:
        return check_directory(path, overwrite)

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
            parents=plan.parents,
        )
        PartExtractor(archives, self._patterns, plan).extract(levels, limited)

    def entries(self, levels: Iterable[LevelArchive]) -> Iterator[Row]:
        return listing.entries(levels, self._patterns)

    def contents(self, archive: Iterable[Block], path: bytes) -> Iterator[Block]:
        return contents.of_member(archive, path)

    def member_map(self, archive: Iterable[Block], path: bytes) -> MemberMap:
        return contents.member_map(archive, path)

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
        self,
        target: str,
        states: Iterable[LevelState],
        keep_extra: bool,
        index: Callable[[], ChainIndex | None] = lambda: None,
    ) -> TargetPlan | None:
        def listed() -> Listing:
            return of_chain(states, index(), self._patterns.roots())

        return Planner(target, listed, self._patterns, keep_extra).plan()

    def archive_reader(self, level: int) -> TarReader:
        return TarReader()

    def padded(self, state: bytes) -> frozenset[bytes]:
        return snapshot.load(state).padded

    def without(
        self, archive: Iterable[Block], paths: Container[bytes]
    ) -> Iterator[Block]:
        return members.without(archive, paths)

    def is_archive_start(self, head: bytes) -> bool:
        return head[257:262] == b'ustar' or (bool(head) and not head.strip(b'\0'))


_OTHER_FILE = 'increments of a single file need the same path each time'


def _path_problem(
    known: snapshot.Snapshot, source: PathSource, origin: str
) -> str | None:
    """Why a level without an index seems to be of another path; None if it does not.

    :param origin: as for :func:`_index_problem`
    :raises EngineError: the source cannot be read
    """
    if known.source is not None:
        before = os.fsdecode(known.source)
        return None if before == origin else _other_path(before, origin)
    if source.name != '.':
        return None
    # Levels of Freezer 19, and of earlier versions of this agent.
    names = known.top_names
    try:
        present = os.listdir(os.fsencode(source.folder))
    except OSError as error:
        raise EngineError(f'{source.folder}: {error.strerror}') from error
    if names and names.isdisjoint(present):
        return f'{origin} has none of the names that the previous level has'
    return None


def _other_path(before: str, origin: str) -> str:
    return f'the previous level is of {before}, and this backup of {origin}'


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
        return _other_path(before, origin)
    if index.properties.get('subject') != os.fsdecode(create.subject(source)):
        return _OTHER_FILE
    return _lost_path(chosen_in(index), source.selection, origin)


def _lost_path(
    before: Sequence[bytes], selection: Selection | None, origin: str
) -> str | None:
    """Which path the level below has, and this one does not; None if there is none.

    An archive cannot take such a path away from the state of the level below.

    :param before: the paths of that level; empty if it has all of ``origin``
    """
    if selection is None:
        return None
    if not before:
        return f'the previous level is of all of {origin}, and this backup of parts'
    lost = [path for path in before if not selection.covers(path)]
    if not lost:
        return None
    name = os.path.join(origin, os.fsdecode(lost[0].rstrip(b'/')))
    if selection.kind_changed(lost[0]):
        was, now = ('directory', 'file')[:: 1 if lost[0].endswith(b'/') else -1]
        return f'{name} was a {was} in the previous level, and is a {now} now'
    what = f'{name} is'
    if len(lost) > 1:
        what = f'{name} and {human.number(len(lost) - 1, "more path")} are'
    return f'{what} in the previous level, and not among the paths to back up now'


def _load_or_warn(state: bytes) -> snapshot.Snapshot:
    """The snapshot file; an empty one, and a warning in the log, if it is damaged."""
    try:
        return snapshot.load(state)
    except EngineError as error:
        LOG.warning('the snapshot file: %s', error)
        return snapshot.EMPTY
