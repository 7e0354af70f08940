"""Backups in a SQLite database: a file that holds files."""

import contextlib
import os
import secrets
import sqlite3
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Self

from freezer.storage import layout
from freezer.storage.backup import Stat, marker_replaced
from freezer.storage.base import StorageSettings
from freezer.storage.check import CheckReport, try_out
from freezer.storage.exceptions import (
    Conflict,
    IntegrityError,
    NotFound,
    StorageConfigError,
    StorageException,
)
from freezer.storage.path_probes import PATH_PROBES, PathScratch
from freezer.storage.paths import NEVER, PathStorage
from freezer.utils.blocks import Block, cut
from freezer.utils.ranges import Range
from freezer.utils.rate import UNLIMITED, Rate

# A row is no larger than this, so that a range is read from few of them.
_PIECE = 1024 * 1024

# A file exists if it has a row in "files"; its bytes are in "pieces". A claim is the
# folder of a level that is being written.
_TABLES = """
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS pieces (
    path TEXT, start INTEGER, content BLOB NOT NULL, PRIMARY KEY (path, start));
CREATE TABLE IF NOT EXISTS claims (folder TEXT PRIMARY KEY);
"""
_BELOW = "substr({0}, 1, length(:folder) + 1) = :folder || '/'"


class SqliteStorage(PathStorage):
    """A database; the container is its file.

    :param busy_timeout: seconds to wait for another agent that writes
    """

    _type = 'sqlite'

    def __init__(
        self,
        storage_path: str,
        max_segment_size: int,
        skip_prepare: bool = False,
        *,
        busy_timeout: float = 60.0,
        sending: Rate = UNLIMITED,
        receiving: Rate = UNLIMITED,
    ) -> None:
        self._busy_timeout = busy_timeout
        super().__init__(
            storage_path,
            max_segment_size,
            skip_prepare,
            sending=sending,
            receiving=receiving,
        )

    @classmethod
    def from_settings(cls, settings: StorageSettings) -> Self:
        if not settings.container:
            raise StorageConfigError(
                f'{settings.section}: storage sqlite needs container: the file that '
                f'is the database'
            )
        return cls(
            os.path.abspath(settings.container),
            settings.max_segment_size,
            skip_prepare=True,
            busy_timeout=settings.options['sqlite_busy_timeout'],
            sending=settings.sending,
            receiving=settings.receiving,
        )

    # The database

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it, or nothing.

        Each has its own connection, because any thread may call.
        """
        if not os.path.exists(self.storage_path):
            # If the disk is not mounted, the storage must not look empty.
            raise NotFound(f'{self.storage_path}: not found')
        try:
            connection = sqlite3.connect(self.storage_path, self._busy_timeout)
            with contextlib.closing(connection), connection:
                yield connection
        except sqlite3.Error as error:
            raise StorageException(f'{self.storage_path}: {error}') from error

    def _inner(self, path: str) -> str:
        """A path below the container."""
        return path[len(self.storage_path) + 1 :]

    def prepare(self) -> None:
        try:
            os.makedirs(os.path.dirname(self.storage_path), mode=0o700, exist_ok=True)
            # Other users must not read it.
            flags = os.O_RDWR | os.O_CREAT
            os.close(os.open(self.storage_path, flags, 0o600))
        except OSError as error:
            where = error.filename or self.storage_path
            raise StorageException(f'{where}: {error.strerror}') from error
        with self._database() as database:
            database.executescript(_TABLES)

    # The verbs of PathStorage

    def reserve(self, folder: str) -> None:
        row = [self._inner(folder)]
        with self._database() as database:
            done = database.execute('INSERT OR IGNORE INTO claims VALUES (?)', row)
        if not done.rowcount:
            raise Conflict(
                f'{folder} is there already: another backup of this name started in '
                f'the same second; run it again'
            )

    def write_stream(
        self,
        path: str,
        blocks: Iterable[memoryview],
        cancelled: threading.Event = NEVER,
    ) -> None:
        """The row in "files" is written last: until then the file does not exist."""
        inner = self._inner(path)
        with self._database() as database:
            database.execute('DELETE FROM pieces WHERE path = ?', [inner])
        size = 0
        # Only one piece is in memory at a time.
        for piece in cut(blocks, _PIECE):
            row = (inner, size, piece)
            with self._database() as database:
                database.execute('INSERT OR REPLACE INTO pieces VALUES (?, ?, ?)', row)
            size += len(piece)
        with self._database() as database:
            database.execute(
                'INSERT OR REPLACE INTO files VALUES (?, ?)', (inner, size)
            )

    def write_file(self, path: str, content: bytes) -> None:
        with self._database() as database:
            _write(database, self._inner(path), content)

    def replace_file(self, path: str, old: bytes, content: bytes) -> None:
        inner = self._inner(path)
        with self._database() as database:
            # No other agent can write until this transaction ends.
            database.execute('BEGIN IMMEDIATE')
            query = 'SELECT 1 FROM files WHERE path = ?'
            if database.execute(query, [inner]).fetchone() is None:
                raise NotFound(f'{path}: not found')
            if _read(database, inner, 0, len(old) + 1) != old:
                raise marker_replaced(path)
            _write(database, inner, content)

    def read_ranges(
        self, path: str, ranges: Iterable[Range]
    ) -> Generator[Block | StorageException, None, None]:
        self.stat(path)
        for start, end in ranges:
            yield self._range(path, start, end)

    def _range(self, path: str, start: int, end: int) -> bytes:
        with self._database() as database:
            return _read(database, self._inner(path), start, end)

    def list_tree(self, path: str) -> Iterator[tuple[str, int]]:
        folder = self._inner(path)
        with self._database() as database:
            rows = database.execute('SELECT path, size FROM files').fetchall()
        for found, size in rows:
            if not folder:
                yield found, size
            elif found.startswith(f'{folder}/'):
                yield found[len(folder) + 1 :], size

    def read_file(self, path: str, limit: int | None = None) -> bytes:
        size = self.stat(path).size
        if limit is not None and size > limit:
            raise IntegrityError(f'{path}: larger than {limit} bytes')
        return self._range(path, 0, size)

    def stat(self, path: str) -> Stat:
        with self._database() as database:
            query = 'SELECT size FROM files WHERE path = ?'
            row = database.execute(query, [self._inner(path)]).fetchone()
        if row is None:
            raise NotFound(f'{path}: not found')
        return Stat(row[0], None)

    def delete_files(self, paths: Sequence[str]) -> None:
        inner = [(self._inner(path),) for path in paths]
        folders = {os.path.dirname(path) for (path,) in inner}
        with self._database() as database:
            for table in ('files', 'pieces'):
                database.executemany(f'DELETE FROM {table} WHERE path = ?', inner)
            # The claim of a removed level is removed with it.
            database.executemany(
                'DELETE FROM claims WHERE folder = :folder AND NOT EXISTS '
                f'(SELECT 1 FROM files WHERE {_BELOW.format("path")})',
                [{'folder': folder} for folder in folders],
            )

    def remove_tree(self, path: str) -> None:
        folder = {'folder': self._inner(path)}
        with self._database() as database:
            for table in ('files', 'pieces'):
                where = _BELOW.format('path')
                database.execute(f'DELETE FROM {table} WHERE {where}', folder)
            where = _BELOW.format('folder')
            database.execute(
                f'DELETE FROM claims WHERE folder = :folder OR {where}', folder
            )

    def check(self) -> CheckReport:
        was_there = os.path.exists(self.storage_path)
        folder = layout.join(self.storage_path, layout.CHECK, secrets.token_hex(16))
        scratch = PathScratch(self, folder)
        self.prepare()
        try:
            scratch.write()
            rows = tuple(try_out(PATH_PROBES, scratch))
        finally:
            self.remove_tree(folder)
            if not was_there:
                os.unlink(self.storage_path)
        return CheckReport(self.storage_path, rows)


def _read(database: sqlite3.Connection, inner: str, start: int, end: int) -> bytes:
    rows = database.execute(
        'SELECT start, content FROM pieces WHERE path = ? AND start < ? '
        'AND start + length(content) > ? ORDER BY start',
        [inner, end, start],
    )
    return b''.join(
        content[max(0, start - first) : end - first] for first, content in rows
    )


def _write(database: sqlite3.Connection, inner: str, content: bytes) -> None:
    pieces = [
        (inner, start, content[start : start + _PIECE])
        for start in range(0, len(content), _PIECE)
    ]
    database.execute('DELETE FROM pieces WHERE path = ?', [inner])
    database.executemany('INSERT INTO pieces VALUES (?, ?, ?)', pieces)
    row = (inner, len(content))
    database.execute('INSERT OR REPLACE INTO files VALUES (?, ?)', row)
