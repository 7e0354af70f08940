"""Dumps of SQLite databases: SQL that any version of SQLite can run."""

import contextlib
import dataclasses
import hashlib
import hmac
import os
import re
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from freezer.engine.engine import (
    Archiving,
    Base,
    Engine,
    Extractor,
    Source,
    Warnings,
)
from freezer.engine.settings import EngineSettings
from freezer.exceptions import ConfigError, EngineError, RestoreError
from freezer.utils.blocks import Block

_HEAD = b'-- freezer-sqldump 1\n'
_NAME = re.compile(rb'[^/\0]{1,255}')
_COLUMN = re.compile(r'(\w+)\.(\w+)\Z')
_Masked = tuple[str, str, bytes]


@dataclasses.dataclass(frozen=True)
class Database(Source):
    path: Path


class SqlDumpEngine(Engine):
    """Each level is the whole database, so each is a level 0.

    The engine's file is the name of the database. Dumps hold no files, so nothing can
    be listed or restored in part.

    :param masked: table, column and key, or None
    """

    name = 'sqldump'

    def __init__(self, settings: EngineSettings, masked: _Masked | None = None) -> None:
        super().__init__(settings)
        self._masked = masked

    @classmethod
    def from_settings(cls, settings: EngineSettings) -> Self:
        return cls(settings, _masked(settings.options))

    def source(self, paths: Sequence[str]) -> Database:
        path = next(iter(paths), None)
        if path is None:
            raise ConfigError('engine sqldump needs --path-to-backup: a database')
        if not os.access(path, os.R_OK):
            raise EngineError(f'{path}: cannot be read')
        return Database(path, Path(path))

    def archive(self, archiving: Archiving) -> Generator[Block, None, None]:
        source = archiving.source
        assert isinstance(source, Database)
        archiving.state.write_bytes(os.fsencode(source.path.name))
        with self._open(source.path) as database:
            yield from dump(_HEAD, database)
        self._progress.files = 1

    @contextlib.contextmanager
    def _open(self, path: Path) -> Iterator[sqlite3.Connection]:
        with opened(path) as original:
            if self._masked is None:
                yield original
                return
            table, column, key = self._masked
            # One that has no name is a file of SQLite's own.
            with contextlib.closing(sqlite3.connect('')) as copy:
                original.backup(copy)
                copy.create_function('mask', 1, lambda value: _mask(key, value))
                copy.execute(f'UPDATE "{table}" SET "{column}" = mask("{column}")')
                yield copy

    def base_problem(self, base: Base, source: Source, now: int) -> str | None:
        return 'a dump is always the whole database'

    def check_target(self, path: str | None, overwrite: bool) -> str:
        return directory(path, overwrite)

    def extractor(
        self, target: str, state: bytes | None, warnings: Warnings
    ) -> Extractor:
        # A name that leaves the target is not one that this engine wrote.
        known = state and _NAME.fullmatch(state) and state not in (b'.', b'..')
        name = os.fsdecode(state) if state and known else 'database.sqlite'
        os.makedirs(target, exist_ok=True)
        return _Loader(Path(target, name))

    def is_archive_start(self, head: bytes) -> bool:
        return head.startswith(_HEAD)


def _masked(options: Any) -> _Masked | None:
    """:raises ConfigError: half of it is missing, or the key cannot be read"""
    column, path = options['sqldump_mask'], options['sqldump_mask_key_file']
    if not column and not path:
        return None
    match = _COLUMN.match(column or '')
    if not match or not path:
        raise ConfigError(
            'sqldump-mask TABLE.COLUMN and sqldump-mask-key-file: pass both or none'
        )
    try:
        return match[1], match[2], Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f'sqldump-mask-key-file {path}: {error.strerror}') from error


def _mask(key: bytes, value: object) -> str:
    return hmac.digest(key, str(value).encode(), hashlib.sha256).hex()


class _Loader(Extractor):
    """Runs a dump into a database that does not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def extract(self, blocks: Iterator[Block]) -> None:
        load(_HEAD, blocks, self._path)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """:raises EngineError: it cannot be read, in the block"""
    try:
        # Without the mode a database that is missing would be made, and be empty.
        database = sqlite3.connect(f'{path.absolute().as_uri()}?mode=ro', uri=True)
        with contextlib.closing(database):
            yield database
    except sqlite3.Error as error:
        raise EngineError(f'{path}: {error}') from error


def dump(head: bytes, database: sqlite3.Connection) -> Iterator[bytes]:
    return with_digest(head, (f'{line}\n'.encode() for line in database.iterdump()))


def load(head: bytes, blocks: Iterable[Block], path: Path) -> None:
    """Run a dump into a new database, in place of one that is there.

    :raises EngineError: the dump is damaged, or the database cannot be written
    """
    try:
        path.unlink(missing_ok=True)
        database = sqlite3.connect(path, isolation_level=None)
        with contextlib.closing(database):
            # A dump that somebody changed must not write to another database.
            database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
            lines: list[str] = []
            quotes = 0
            for line in without_digest(head, blocks):
                # A dump has its line breaks where statements end, and in texts: there
                # a quote is still open.
                lines.append(line.decode())
                quotes += lines[-1].count("'")
                if quotes % 2 == 0 and sqlite3.complete_statement(''.join(lines)):
                    database.execute(''.join(lines))
                    lines = []
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise EngineError(f'{path}: the dump is damaged: {error}') from error
    except OSError as error:
        raise EngineError(f'{path}: {error.strerror}') from error


def directory(path: str | None, overwrite: bool) -> str:
    """A target, checked.

    :raises ConfigError, RestoreError: nothing can be restored there
    """
    if not path:
        raise ConfigError('this engine needs --restore-abs-path: a directory')
    try:
        present = os.listdir(path)
    except FileNotFoundError:
        return path
    except OSError as error:
        raise RestoreError(f'{path}: {error.strerror}') from error
    if present and not overwrite:
        raise RestoreError(f'{path} is not empty: choose another, or --overwrite')
    return path


def with_digest(head: bytes, lines: Iterable[bytes]) -> Iterator[bytes]:
    """The first line, the lines, and their digest as a comment of SQL.

    :param lines: one or more at a time
    """
    digest = hashlib.sha256(head)
    yield head
    for some in lines:
        digest.update(some)
        yield some
    yield _end(digest)


def without_digest(head: bytes, blocks: Iterable[Block]) -> Iterator[bytes]:
    """The lines of :func:`with_digest`, with the first one.

    :raises EngineError: after the last one, if they are cut off or were changed
    """
    digest = hashlib.sha256()
    for number, line in enumerate(_lines(blocks)):
        if line == _end(digest):
            return
        if number == 0 and line != head:
            break
        digest.update(line)
        yield line
    raise EngineError('the dump is damaged, or its end is missing')


def _lines(blocks: Iterable[Block]) -> Iterator[bytes]:
    rest = b''
    for block in blocks:
        *lines, rest = (rest + bytes(block)).split(b'\n')
        for line in lines:
            yield line + b'\n'


def _end(digest: Any) -> bytes:
    """The last line."""
    return f'-- sha256 {digest.hexdigest()}\n'.encode()
