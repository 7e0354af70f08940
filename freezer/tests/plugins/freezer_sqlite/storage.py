"""Backups in a SQLite database: a file that holds files."""

import contextlib
import os
import secrets
import sqlite3
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from freezer.storage import layout, manifest
from freezer.storage.base import Backup, StorageSettings
from freezer.storage.check import CheckReport, Finding, Probe, ok, problem, try_out
from freezer.storage.exceptions import (
    Cancelled,
    Conflict,
    IntegrityError,
    NotFound,
    StorageConfigError,
    StorageException,
)
from freezer.storage.manifested import Manifested
from freezer.storage.verify import Stat
from freezer.utils.blocks import Block, cut
from freezer.utils.rate import UNLIMITED, Rate
from freezer.utils.streaming import RichQueue

# A file is there if it has a row in "files"; its bytes are in pieces. A claim is the
# folder of a level that somebody has begun.
_TABLES = """
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS pieces (
    path TEXT, start INTEGER, content BLOB NOT NULL, PRIMARY KEY (path, start));
CREATE TABLE IF NOT EXISTS claims (folder TEXT PRIMARY KEY);
"""
_BELOW = "substr({0}, 1, length(:folder) + 1) = :folder || '/'"


class SqliteStorage(Manifested):
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
        self._sending = sending
        self._receiving = receiving
        self._cancelled = threading.Event()
        super().__init__(storage_path, max_segment_size, skip_prepare)

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

        A connection for each, as any thread may come.
        """
        if not os.path.exists(self.storage_path):
            # A disk that is not mounted is not a storage without backups.
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
            # Nobody else has to read what is in it.
            flags = os.O_RDWR | os.O_CREAT
            os.close(os.open(self.storage_path, flags, 0o600))
        except OSError as error:
            where = error.filename or self.storage_path
            raise StorageException(f'{where}: {error.strerror}') from error
        with self._database() as database:
            database.executescript(_TABLES)

    # A backup

    def claim(self, backup: Backup) -> None:
        self._cancelled.clear()
        folder = self._inner(backup.copy(self).data_prefix_path)
        with self._database() as database:
            done = database.execute('INSERT OR IGNORE INTO claims VALUES (?)', [folder])
            if not done.rowcount:
                raise Conflict(
                    f'{folder} is there already: another backup of this name started '
                    f'in the same second; run it again'
                )

    def cancel(self) -> None:
        self._cancelled.set()

    def write_backup(self, rich_queue: RichQueue, backup: Backup) -> None:
        backup = backup.copy(self)
        folder = backup.data_prefix_path
        builder = manifest.ManifestBuilder(secrets.token_hex(16))
        digests: list[bytes] = []
        size = 0
        # Pieces of one size, so that this is all that is in memory.
        for block in cut(rich_queue.get_messages(), manifest.MAX_PIECE):
            digests += manifest.digest_part(block)
            self._send(block)
            with self._database() as database:
                piece = (self._inner(backup.data_path), size, block)
                database.execute(
                    'INSERT OR REPLACE INTO pieces VALUES (?, ?, ?)', piece
                )
            size += len(block)
        with self._database() as database:
            file = (self._inner(backup.data_path), size)
            database.execute('INSERT OR REPLACE INTO files VALUES (?, ?)', file)
        name = layout.digests_name(0)
        lines = manifest.dump_digests(digests)
        self.put_bytes(layout.join(folder, name), lines)
        builder.add(layout.DATA, size, manifest.MAX_PIECE, name, lines)
        self.put_bytes(layout.join(folder, layout.MANIFEST), builder.finish().dump())
        # put_metadata writes it into the marker.
        self._tokens[folder] = builder.token

    def _send(self, block: Block) -> None:
        """Wait until so much may be sent."""
        step = self._sending.step
        for start in range(0, len(block), step):
            self._sending.take(min(step, len(block) - start), self._cancelled)
            if self._cancelled.is_set():
                raise Cancelled('given up, because something else failed')

    def backup_blocks(self, backup: Backup) -> Iterator[Block]:
        backup = backup.copy(self)
        found = self.manifest_of(backup)
        try:
            if found is None:
                # Freezer 19 wrote it: nobody knows its digests.
                pieces = manifest.plain_pieces(self.stat(backup.data_path).size)
                reads = self.read_pieces(backup.data_path, None, pieces)
                yield from manifest.unwrap(reads)
                return
            for volume in found.volumes:
                yield from self._volume(backup.data_prefix_path, volume)
        except NotFound as error:
            raise IntegrityError(f'{error.message}: the backup is damaged') from error

    def _volume(self, folder: str, volume: manifest.Volume) -> Iterator[Block]:
        path = layout.join(folder, volume.name)
        digests = layout.join(folder, volume.digests)
        lines = self.read_file(digests)
        size = self.stat(path).size
        if size != volume.size:
            raise IntegrityError(
                f'{path}: has {size} bytes, and {volume.size} were written: the '
                f'backup is damaged'
            )
        pieces = volume.pieces(lines, digests)
        yield from manifest.unwrap(self.read_pieces(path, None, pieces))

    def read_pieces(
        self, path: str, etag: str | None, pieces: Iterable[manifest.Piece]
    ) -> Generator[manifest.Read, None, None]:
        self.stat(path)
        for piece in pieces:
            yield manifest.Read(piece, self._read_piece(path, piece))

    def _read_piece(self, path: str, piece: manifest.Piece) -> Block | StorageException:
        try:
            data = self._range(path, piece.start, piece.end)
        except StorageException as error:
            return error
        right = manifest.check_piece(data, piece)
        return data if right else manifest.damaged(path, piece)

    def _range(self, path: str, start: int, end: int) -> bytes:
        with self._database() as database:
            rows = database.execute(
                'SELECT start, content FROM pieces WHERE path = ? AND start < ? '
                'AND start + length(content) > ? ORDER BY start',
                [self._inner(path), end, start],
            )
            data = b''.join(
                content[max(0, start - first) : end - first] for first, content in rows
            )
        for position in range(0, len(data), self._receiving.step):
            self._receiving.take(min(self._receiving.step, len(data) - position))
        return data

    # Files

    def list_tree(self, path: str) -> Iterator[tuple[str, int]]:
        folder = self._inner(path)
        with self._database() as database:
            rows = database.execute('SELECT path, size FROM files').fetchall()
        for found, size in rows:
            if not folder:
                yield found, size
            elif found.startswith(f'{folder}/'):
                yield found[len(folder) + 1 :], size

    def listdir(self, path: str) -> list[str]:
        return sorted({found.split('/')[0] for found, _size in self.list_tree(path)})

    def create_dirs(self, path: str) -> None:
        """There are none."""

    def put_file(self, from_path: str, to_path: str) -> None:
        self.put_bytes(to_path, Path(from_path).read_bytes())

    def put_bytes(self, to_path: str, content: bytes) -> None:
        path = self._inner(to_path)
        with self._database() as database:
            database.execute('DELETE FROM pieces WHERE path = ?', [path])
            database.execute('INSERT INTO pieces VALUES (?, 0, ?)', [path, content])
            row = (path, len(content))
            database.execute('INSERT OR REPLACE INTO files VALUES (?, ?)', row)

    def get_file(self, from_path: str, to_path: str) -> None:
        Path(to_path).write_bytes(self.read_file(from_path))

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
            # Of a level that is gone no claim stays.
            database.executemany(
                'DELETE FROM claims WHERE folder = :folder AND NOT EXISTS '
                f'(SELECT 1 FROM files WHERE {_BELOW.format("path")})',
                [{'folder': folder} for folder in folders],
            )

    def rmtree(self, path: str) -> None:
        folder = {'folder': self._inner(path)}
        with self._database() as database:
            for table in ('files', 'pieces'):
                where = _BELOW.format('path')
                database.execute(f'DELETE FROM {table} WHERE {where}', folder)
            where = _BELOW.format('folder')
            database.execute(
                f'DELETE FROM claims WHERE folder = :folder OR {where}', folder
            )

    # Action check

    def check(self) -> CheckReport:
        was_there = os.path.exists(self.storage_path)
        folder = layout.join(self.storage_path, layout.CHECK, secrets.token_hex(16))
        self.prepare()
        try:
            rows = tuple(try_out(_PROBES, (self, folder)))
        finally:
            self.rmtree(folder)
            if not was_there:
                os.unlink(self.storage_path)
        return CheckReport(self.storage_path, rows)


_Tried = tuple[SqliteStorage, str]
_CONTENT = bytes(range(256))


def _write_and_read(place: _Tried) -> Finding:
    storage, folder = place
    path = layout.join(folder, 'small')
    storage.put_bytes(path, _CONTENT)
    same = storage.read_file(path) == _CONTENT
    return ok('the same bytes came back') if same else problem('other bytes came back')


def _list(place: _Tried) -> Finding:
    storage, folder = place
    found = storage.listdir(folder) == ['small']
    return ok('listed at once') if found else problem('what was written is not listed')


_PROBES = [Probe('write, read', _write_and_read), Probe('list', _list)]
