"""Where the conformance suites try the plugins, seen without the plugins."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from freezer.mode.mode import ModeSettings
from freezer.snapshot.snapshot import SnapshotSettings
from freezer.storage.base import StorageSettings
from freezer.tests.conformance.engine_places import LARGE, EnginePlace
from freezer.tests.conformance.mode_places import ModePlace
from freezer.tests.conformance.places import PART, Place
from freezer.tests.conformance.snapshot_places import SnapshotPlace
from freezer.tests.plugins.freezer_sqlite.databases import SqlSetEngine
from freezer.tests.plugins.freezer_sqlite.engine import SqlDumpEngine
from freezer.tests.plugins.freezer_sqlite.mode import SqliteMode
from freezer.tests.plugins.freezer_sqlite.options import ENGINE, SNAPSHOT, STORAGE
from freezer.tests.plugins.freezer_sqlite.snapshot import CopySnapshot
from freezer.tests.plugins.freezer_sqlite.storage import SqliteStorage

# A range is read from rows of about this size.
_PIECE = 1024 * 1024


@contextlib.contextmanager
def connect(path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        yield database


class SqlitePlace(Place):
    """A database that is not there before the driver prepares it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def storage(self, **rates: Any) -> SqliteStorage:
        options = STORAGE.defaults()
        settings = StorageSettings(str(self._file), PART, options=options, **rates)
        return SqliteStorage.from_settings(settings)

    def files(self) -> dict[str, int]:
        with connect(self._file) as database:
            return dict(database.execute('SELECT path, size FROM files'))

    def read(self, path: str) -> bytes:
        query = 'SELECT content FROM pieces WHERE path = ? ORDER BY start'
        with connect(self._file) as database:
            return b''.join(row[0] for row in database.execute(query, [path]))

    def write(self, path: str, content: bytes) -> None:
        self.delete(path)
        with connect(self._file) as database:
            row = (path, len(content))
            database.execute('INSERT INTO files VALUES (?, ?)', row)
            pieces = (
                (path, start, content[start : start + _PIECE])
                for start in range(0, len(content), _PIECE)
            )
            database.executemany('INSERT INTO pieces VALUES (?, ?, ?)', pieces)

    def delete(self, path: str) -> None:
        with connect(self._file) as database:
            for table in ('files', 'pieces'):
                database.execute(f'DELETE FROM {table} WHERE path = ?', [path])


class SqlDumpPlace(EnginePlace):
    """A database with texts that look like the end of a statement."""

    engine_class = SqlDumpEngine
    options = ENGINE.defaults()

    def make_source(self) -> None:
        rows = [(f'{number};\n', bytes(1000)) for number in range(LARGE // 1000)]
        with connect(self.source) as database:
            database.execute('CREATE TABLE things (text, bytes)')
            database.executemany('INSERT INTO things VALUES (?, ?)', rows)

    def change(self) -> None:
        with connect(self.source) as database:
            database.execute("UPDATE things SET bytes = NULL WHERE text LIKE '7%'")
            database.execute(f'CREATE TABLE at_{time.time_ns()} (number)')

    def break_source(self) -> None:
        with open(self.source, 'r+b') as file:
            file.seek(LARGE // 2)
            file.write(b'x' * (LARGE // 4))

    def describe(self, where: Path) -> Any:
        with connect(where) as database:
            return list(database.iterdump())

    def restored(self, target: Path) -> Path:
        return target / self.source.name


class SqlSetPlace(EnginePlace):
    """A directory of databases, of which a day of use changes, adds and removes one."""

    engine_class = SqlSetEngine

    def make_source(self) -> None:
        self.source.mkdir()
        for name, size in (('large', LARGE), ('small', 1000), ('removed', 1)):
            with connect(self.source / f'{name}.sqlite') as database:
                database.execute('CREATE TABLE things (text, bytes)')
                rows = ((f'{n};\n', bytes(1000)) for n in range(size // 1000))
                database.executemany('INSERT INTO things VALUES (?, ?)', rows)

    def change(self) -> None:
        now = time.time_ns()
        with connect(self.source / 'small.sqlite') as database:
            database.execute(f'CREATE TABLE at_{now} (number)')
        with connect(self.source / f'added_{now}.sqlite') as database:
            database.execute(f'CREATE TABLE at_{now} (number)')
        (self.source / 'removed.sqlite').unlink(missing_ok=True)

    def break_source(self) -> None:
        with open(self.source / 'large.sqlite', 'r+b') as file:
            file.seek(LARGE // 2)
            file.write(b'x' * (LARGE // 4))

    def describe(self, where: Path) -> Any:
        found = {}
        for path in where.glob('*.sqlite'):
            with connect(path) as database:
                found[path.name] = list(database.iterdump())
        return found


class SqliteModePlace(ModePlace):
    """A database that somebody writes to. Its name is one of the difficult ones."""

    holds = True

    def __init__(self, folder: Path) -> None:
        self.path = folder / 'a?mode=memory#%41.sqlite'
        with connect(self.path) as database:
            database.execute('CREATE TABLE things (number)')

    def mode(self) -> SqliteMode:
        return SqliteMode.from_settings(ModeSettings(str(self.path), {'timeout': 0.0}))

    def can_write(self) -> bool:
        try:
            with contextlib.closing(sqlite3.connect(self.path, 0)) as database:
                database.execute('BEGIN IMMEDIATE')
        except sqlite3.OperationalError:
            return False
        return True

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        with contextlib.closing(sqlite3.connect(self.path)) as writer:
            writer.execute('BEGIN IMMEDIATE')
            yield

    def remove(self) -> None:
        self.path.unlink()


class CopyPlace(SnapshotPlace):
    def snapshot(self) -> CopySnapshot:
        return CopySnapshot.from_settings(SnapshotSettings(SNAPSHOT.defaults()))
