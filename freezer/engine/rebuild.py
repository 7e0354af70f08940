"""Makes indexes for stored levels that have none, by reading each archive once."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from freezer.engine.backup import sealed_index
from freezer.engine.engine import ArchiveContents, ArchiveReader, Engine
from freezer.engine.index.file import IndexFile
from freezer.engine.index.local import UsesIndexes
from freezer.engine.index.new import NewIndex
from freezer.engine.index.record import Record
from freezer.engine.index.state import merged, merged_parts
from freezer.engine.opened import LevelOpener, OpenedLevel
from freezer.engine.settings import EngineSettings
from freezer.exceptions import EngineError
from freezer.storage import layout, manifest
from freezer.storage.backup import StoredLevel
from freezer.storage.exceptions import IntegrityError, NotFound
from freezer.storage.repository import Repository
from freezer.stream.points import Points


class NoIndexError(EngineError):
    """An index cannot describe the level."""


class ChainRebuilder(UsesIndexes):
    """Makes the indexes of one chain, the lower levels first. A context manager: it has
    temporary files.

    :raises ConfigError: the passphrase cannot be read
    """

    def __init__(
        self, engine: Engine, settings: EngineSettings, repository: Repository
    ) -> None:
        super().__init__()
        self._engine = engine
        self._repository = repository
        self._opener = LevelOpener(settings, engine)

    def has_index(self, stored: StoredLevel) -> bool:
        """Whether a level has an index that is not damaged. Fetches it.

        :raises RestoreError: the level cannot be opened with these settings
        :raises EncryptionError: the level was changed
        :raises EngineError: the index is of a newer agent
        :raises StorageException: its marker, or the index, cannot be read
        """
        level = self._opener.open(stored)
        try:
            return self._indexes.fetch(level) is not None
        except (NotFound, IntegrityError):
            # Another one takes its place.
            return False

    def rebuild(self, stored: StoredLevel, below: Sequence[StoredLevel]) -> int:
        """Make the index of a level, and add it to the level.

        Atomic: the level has the index, or is as it was.

        :param below: the levels that it builds on, from level 0 up
        :returns: the number of records
        :raises NoIndexError: an index cannot describe the level
        :raises RestoreError, EngineError, EncryptionError, StorageException: the level
            cannot be read, or the index not be stored
        """
        reader = self._reader(stored)
        if reader.no_index is not None:
            raise NoIndexError(reader.no_index)
        lower = self._indexes.all_of(below)
        if lower is None or len(below) != stored.level:
            raise NoIndexError('a level below has no index')
        level = self._opener.open(stored)
        state = self._state(level, below)
        points = Points()
        with contextlib.closing(
            level.decode(stored.stream().blocks(), points)
        ) as archive:
            contents = reader.read(archive, self._folder, level.padded)
        if contents.no_index is not None:
            raise NoIndexError(contents.no_index)
        path = self._folder / 'new'
        path.touch(mode=0o600)
        new = NewIndex(path)
        count = 0
        for record in _records(contents, lower):
            new.add(record)
            count += 1
        new.properties.update(reader.properties(state))
        new.finish(points.dump())
        marker, sent = self._sealed(level, path)
        self._repository.add_index(stored, sent, marker)
        self._indexes.add(stored, _LocalFile(path))
        return count

    def _state(self, level: OpenedLevel, below: Sequence[StoredLevel]) -> bytes | None:
        """The engine's file. Of a sealed level, all but the data is checked."""
        levels = [level, *(OpenedLevel(each, self._opener) for each in below)]
        if any(each.format == layout.AGE for each in levels):
            return level.check_seal(below[-1] if below else None)
        return level.state()

    def _reader(self, stored: StoredLevel) -> ArchiveReader:
        """One that has read nothing: what older levels left behind does not matter."""
        reader = self._engine.archive_reader(stored.level)
        if reader is None:
            raise NoIndexError(f'engine {self._engine.name} keeps no index')
        return reader

    def _sealed(self, level: OpenedLevel, index: Path) -> tuple[dict[str, Any], Path]:
        """The engine's content of the new marker, and the index as it is stored."""
        if level.sealed is None:
            marker = level.stored.marker.items()
            added = manifest.STORAGE_KEYS
            return {key: value for key, value in marker if key not in added}, index
        sealer = level.sealed.sealer()
        encrypted = sealed_index(sealer, index, self._folder / 'sealed')
        return sealer.sealed(level.sealed.content), encrypted


def _records(contents: ArchiveContents, lower: Sequence[IndexFile]) -> Iterator[Record]:
    base = merged_parts([index.parts() for index in lower]) if lower else ()
    # A directory that did not change has no record, so it keeps its identity. That of a
    # file would be the one of an older file.
    state = merged([index.parts() for index in lower]) if lower else ()
    seen = (record for _level, record in state if record.kind == 'directory')
    return contents.records(base, seen)


class _LocalFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = path.stat().st_size

    def read(self, start: int, end: int) -> bytes:
        with self._path.open('rb') as file:
            file.seek(start)
            return file.read(end - start)
