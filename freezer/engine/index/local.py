"""Local copies of the indexes of stored levels."""

import contextlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol, Self

from freezer.engine.index.file import BlockCache, IndexFile, Readable, local_copy
from freezer.storage.backup import StoredLevel

# Blocks of up to 2048 records that are kept decoded: 16 MiB.
_KEPT_BLOCKS: Final = 32


class Opened(Protocol):
    """An opened level; see :class:`freezer.engine.opened.OpenedLevel`."""

    stored: StoredLevel

    def index(self) -> Readable | None: ...


class LocalIndexes:
    """Indexes of one chain; each is fetched once.

    :param folder: for the copies
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # A backup reads them twice.
        self._cache = BlockCache(_KEPT_BLOCKS)
        self._found: dict[str, IndexFile | None] = {}

    def fetch(self, level: Opened) -> IndexFile | None:
        """The index of a level; None if it has none.

        :raises StorageException, EncryptionError, EngineError: it is missing or damaged
        """
        stored = level.stored
        if stored.backup.path not in self._found:
            index = level.index()
            if index is None:
                self._found[stored.backup.path] = None
            else:
                self.add(stored, index)
        return self._found[stored.backup.path]

    def add(self, stored: StoredLevel, index: Readable) -> None:
        """Take this for the index of a level."""
        path = self._folder / f'index-{stored.level}-{stored.timestamp}'
        path.touch(mode=0o600)
        copy = local_copy(index, path, stored.paths.index, self._cache)
        self._found[stored.backup.path] = copy

    def all_of(self, levels: Iterable[StoredLevel]) -> list[IndexFile] | None:
        """Those of levels that were fetched or added; None if one was not."""
        found = []
        for stored in levels:
            index = self._found.get(stored.backup.path)
            if index is None:
                return None
            found.append(index)
        return found


class UsesIndexes:
    """A base class: keeps local copies of the indexes of one chain. A context manager:
    it has temporary files.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        name = self._stack.enter_context(tempfile.TemporaryDirectory(prefix='freezer-'))
        self._folder = Path(name)
        self._indexes = LocalIndexes(self._folder)
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()
