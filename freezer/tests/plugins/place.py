"""Where the conformance suite tries the example driver, seen without the driver."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from freezer.storage.base import StorageSettings
from freezer.tests.conformance.places import PART, Place
from freezer.tests.plugins.freezer_sqlite.options import STORAGE
from freezer.tests.plugins.freezer_sqlite.storage import SqliteStorage


class SqlitePlace(Place):
    """A database that is not there before the driver prepares it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def storage(self, **rates: Any) -> SqliteStorage:
        options = STORAGE.defaults()
        settings = StorageSettings(str(self._file), PART, options=options, **rates)
        return SqliteStorage.from_settings(settings)

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self._file)) as database, database:
            yield database

    def files(self) -> dict[str, int]:
        with self._database() as database:
            return dict(database.execute('SELECT path, size FROM files'))

    def read(self, path: str) -> bytes:
        query = 'SELECT content FROM pieces WHERE path = ? ORDER BY start'
        with self._database() as database:
            return b''.join(row[0] for row in database.execute(query, [path]))

    def write(self, path: str, content: bytes) -> None:
        self.delete(path)
        with self._database() as database:
            row = (path, len(content))
            database.execute('INSERT INTO files VALUES (?, ?)', row)
            database.execute('INSERT INTO pieces VALUES (?, 0, ?)', [path, content])

    def delete(self, path: str) -> None:
        with self._database() as database:
            for table in ('files', 'pieces'):
                database.execute(f'DELETE FROM {table} WHERE path = ?', [path])
