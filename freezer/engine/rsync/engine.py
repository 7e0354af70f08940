"""The engines rsync and rsyncv2: both read what either of them wrote."""

from __future__ import annotations

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
from typing import Any, ClassVar, Self

from freezer.engine.engine import (
    ArchiveReader,
    Archiving,
    Base,
    Chosen,
    FileEngine,
    LevelArchive,
    LevelState,
    MemberMap,
    Source,
    TargetPlan,
    Warnings,
)
from freezer.engine.index.chain import ChainIndex
from freezer.engine.index.file import Part
from freezer.engine.index.record import Record, Row
from freezer.engine.path_list import ListedPath
from freezer.engine.rsync import restore, state
from freezer.engine.rsync.options import OPTIONS
from freezer.engine.rsync.plan import listing
from freezer.engine.settings import EngineSettings
from freezer.engine.tar import choose
from freezer.engine.tar.patterns import Patterns
from freezer.engine.tar.plan import Listing, Planner
from freezer.engine.tar.tar import TarEngine
from freezer.engine.target import check_directory
from freezer.exceptions import ConfigError, EngineError
from freezer.utils.blocks import Block

_NO_INDEX = 'its engine is rsync: the backups of Freezer 19 have none'


class RsyncEngine(FileEngine):
    """Restores backups of Freezer 19, and makes none."""

    name = 'rsync'
    # Freezer 19 calls a stream of zlib gzip.
    compressions: ClassVar[Mapping[str, str]] = {'gzip': 'zlib'}

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        self._options = OPTIONS.defaults() | {**settings.options}
        self._patterns = Patterns(settings.include)

    # Backup

    def check_source(self, paths: Sequence[str]) -> None:
        raise _reads_only()

    def source(
        self, paths: Sequence[str], listed: Sequence[ListedPath] | None = None
    ) -> Source:
        # A restored directory, whose checksum is wanted.
        return TarEngine(self.settings).source(paths, listed)

    def checksum(self, source: Source) -> str:
        return TarEngine(self.settings).checksum(source)

    def archive(self, archiving: Archiving) -> Generator[Block, None, None]:
        raise _reads_only()

    def base_problem(self, base: Base, source: Source, now: int) -> str | None:
        return str(_reads_only())

    # Restore

    def check_target(self, path: str | None, overwrite: bool) -> str:
        return check_directory(path, overwrite)

    def extractor(self, target: str, state: bytes | None, warnings: Warnings) -> None:
        return None

    def extract_part(
        self,
        target: str,
        levels: Iterable[LevelArchive],
        limited: Callable[[Iterable[Block]], Iterator[Block]],
        warnings: Warnings,
        plan: TargetPlan | None = None,
    ) -> None:
        chain = restore.Chain(levels, self.settings)
        chain.restore(target, limited, self._options, warnings, plan or TargetPlan())

    def plan(
        self,
        target: str,
        states: Iterable[LevelState],
        keep_extra: bool,
        index: Callable[[], ChainIndex | None] = lambda: None,
    ) -> TargetPlan | None:
        def listed() -> Listing:
            newest = next(iter(states))
            return listing(state.load(newest.content, newest.where))

        return Planner(target, listed, self._patterns, keep_extra).plan()

    def entries(self, levels: Iterable[LevelArchive]) -> Iterator[Row]:
        return restore.Chain(levels, self.settings, keep=True).rows()

    def contents_of_chosen(self, levels: Iterable[LevelArchive]) -> Iterator[Block]:
        return restore.Chain(levels, self.settings).contents()

    def contents(self, archive: Iterable[Block], path: bytes) -> Iterator[Block]:
        raise EngineError(f'no index: {_NO_INDEX}')

    def member_map(self, archive: Iterable[Block], path: bytes) -> MemberMap:
        raise EngineError(f'no index: {_NO_INDEX}')

    def chooser(self) -> choose.Chooser:
        return choose.Chooser(self._patterns)

    def roots(self) -> Sequence[bytes]:
        return self._patterns.roots()

    def choose(self, parts: Iterable[tuple[int, Part]]) -> Iterator[Chosen]:
        return choose.choose(self._patterns, parts)

    def unmatched_patterns(self, patterns: Iterable[str], state: bytes) -> set[str]:
        # They are compared with the archives, before anything is restored.
        return set()

    def is_archive_start(self, head: bytes) -> bool:
        return restore.is_archive_start(head)

    def archive_reader(self, level: int) -> RsyncReader:
        return RsyncReader()


def _reads_only() -> ConfigError:
    return ConfigError(
        'engine rsync: backups of Freezer 19 can be restored, and no new ones are '
        'made: use --engine tar, whose first backup is a level 0'
    )


class RsyncReader(ArchiveReader):
    """Checks that archives can be read."""

    no_index = _NO_INDEX

    def fork(self) -> Self:
        return self

    def read(
        self,
        blocks: Iterable[Block],
        temporary: Path,
        padded: Container[bytes] = (),
    ) -> RsyncContents:
        reader = restore.open_reader(blocks, None)
        for _entry, _contents in reader.entries():
            pass
        if reader.problem:
            raise EngineError(reader.problem)
        return RsyncContents()

    def properties(self, state: bytes | None) -> Mapping[str, Any]:
        return {}


class RsyncContents:
    no_index: str | None = _NO_INDEX

    def records(
        self, base: Iterable[tuple[int, Part]], seen: Iterable[Record]
    ) -> Iterator[Record]:
        return iter(())
