"""The engine tar: GNU tar with ``--listed-incremental``, as Freezer's backups."""

import logging
import os
from collections.abc import Callable, Container, Generator, Iterable, Iterator
from pathlib import Path

from freezer.engine.engine import (
    Archiving,
    Entry,
    Extractor,
    FileEngine,
    LevelArchive,
    Source,
    Warnings,
)
from freezer.engine.settings import EngineSettings
from freezer.engine.tar import create, listing, process, snapshot
from freezer.engine.tar.extract import ArchiveExtractor, TarExtractor
from freezer.engine.tar.options import OPTIONS
from freezer.engine.tar.part import PartExtractor
from freezer.engine.tar.patterns import Patterns, walk
from freezer.engine.tar.source import PathSource, path_source, source_at
from freezer.exceptions import ConfigError, EngineError, RestoreError
from freezer.utils import checksum
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
        self._follows_links = self._options['dereference_symlink'] in ('soft', 'all')

    def source(self, path: str | None) -> PathSource:
        return source_at(path, follows_links=self._follows_links)

    def archive(self, archiving: Archiving) -> Generator[Block, None, None]:
        source = path_source(archiving.source)
        writer = create.ArchiveWriter(archiving, source, self._options, self._progress)
        return writer.blocks()

    def base_problem(self, state: Path, source: Source, now: int) -> str | None:
        try:
            base = snapshot.load(state.read_bytes())
        except EngineError as error:
            return str(error)
        if base.seconds > now:
            return (
                f'the previous level was made {base.seconds - now} s in the future: '
                f'this clock is wrong or was wrong then, and tar compares times'
            )
        if base.subject != create.subject(path_source(source)):
            return 'increments of a single file need the same path each time'
        return None

    def checksum(self, source: Source) -> str:
        source = path_source(source)
        members = create.members(source, self._options)
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
                f'--overwrite, which also removes what the backup does not hold'
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
            makes_writable=whole_tree,
        )
        return TarExtractor(archives, whole_tree)

    def extract_part(
        self,
        target: str,
        levels: Iterable[LevelArchive],
        limited: Callable[[Iterable[Block]], Iterator[Block]],
        warnings: Warnings,
    ) -> None:
        # Where it makes no directory ready, it removes a link in the way itself.
        archives = ArchiveExtractor(
            target, self.settings.untrusted, warnings, self._progress, self._patterns
        )
        PartExtractor(archives, self._patterns).extract(levels, limited)

    def entries(self, levels: Iterable[LevelArchive]) -> Iterator[Entry]:
        return listing.entries(levels, self._patterns)

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

    def removals(
        self, target: str, state: bytes | None, level: int, where: str
    ) -> list[str]:
        try:
            if not os.listdir(target):
                return []
        except FileNotFoundError:
            return []
        try:
            if state is None:
                raise EngineError(f'{where} is missing')
            known = snapshot.load(state)
            kept = known.paths()
            # Above level 0 an unchanged path may just be stored in an older level.
            excluded = known.left_out() if level == 0 else set()
        except EngineError as error:
            raise RestoreError(
                f'cannot determine what --overwrite would remove from {target} '
                f'({error}): restore into an empty directory'
            ) from error
        if not kept:
            return []
        removed = (
            path
            for path, _ in walk(target, self._patterns)
            if path not in kept and self._is_removed(path, kept, excluded)
        )
        # A directory that is removed as a whole is listed once.
        whole: list[bytes] = []
        for path in sorted(removed):
            if not whole or not path.startswith(whole[-1] + b'/'):
                whole.append(path)
        return [os.fsdecode(path) for path in whole]

    def _is_removed(
        self, path: bytes, kept: Container[bytes], excluded: Container[bytes]
    ) -> bool:
        """Whether a path not in the backup is in a directory restored as a whole."""
        above = parent = path.rpartition(b'/')[0]
        while above:
            if above in excluded:
                return False
            above = above.rpartition(b'/')[0]
        if not self.settings.include:
            return True
        while parent:
            place = self._patterns.at(parent.split(b'/'))
            if not self._patterns.chosen(place):
                return False
            if parent in kept:
                return True
            parent = parent.rpartition(b'/')[0]
        return False

    def is_archive_start(self, head: bytes) -> bool:
        return head[257:262] == b'ustar' or (bool(head) and not head.strip(b'\0'))


def _load_or_warn(state: bytes) -> snapshot.Snapshot:
    """The snapshot file; an empty one, and a warning in the log, if it is damaged."""
    try:
        return snapshot.load(state)
    except EngineError as error:
        LOG.warning('the snapshot file: %s', error)
        return snapshot.EMPTY
