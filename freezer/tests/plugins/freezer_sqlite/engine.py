"""Dumps of SQLite databases: SQL that any version of SQLite can run."""

import contextlib
import dataclasses
import hashlib
import hmac
import os
import re
import sqlite3
from collections.abc import Generator, Iterable, Iterator
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

    def source(self, path: str | None) -> Database:
        if not path:
            raise ConfigError('engine sqldump needs --path-to-backup: a database')
        if not os.access(path, os.R_OK):
            raise EngineError(f'{path}: cannot be read')
        return Database(path, Path(path))

    def archive(self, archiving: Archiving) -> Generator[Block, None, None]:
        source = archiving.source
        assert isinstance(source, Database)
        archiving.state.write_bytes(os.fsencode(source.path.name))
        digest = hashlib.sha256(_HEAD)
        yield _HEAD
        try:
            with self._open(source.path) as database:
                for statement in database.iterdump():
                    lines = f'{statement}\n'.encode()
                    digest.update(lines)
                    yield lines
        except sqlite3.Error as error:
            raise EngineError(f'{source.path}: {error}') from error
        yield _end(digest)
        self._progress.files = 1

    @contextlib.contextmanager
    def _open(self, path: Path) -> Iterator[sqlite3.Connection]:
        # Without the mode a database that is missing would be made, and be empty.
        original = sqlite3.connect(f'{path.absolute().as_uri()}?mode=ro', uri=True)
        with contextlib.closing(original):
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
        if not path:
            raise ConfigError('engine sqldump needs --restore-abs-path: a directory')
        try:
            present = os.listdir(path)
        except FileNotFoundError:
            return path
        except OSError as error:
            raise RestoreError(f'{path}: {error.strerror}') from error
        if present and not overwrite:
            raise RestoreError(f'{path} is not empty: choose another, or --overwrite')
        return path

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
        try:
            self._path.unlink(missing_ok=True)
            database = sqlite3.connect(self._path, isolation_level=None)
            with contextlib.closing(database):
                # A dump that somebody changed must not write to another database.
                database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
                for statement in _statements(blocks):
                    database.execute(statement)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise EngineError(f'{self._path}: the dump is damaged: {error}') from error
        except OSError as error:
            raise EngineError(f'{self._path}: {error.strerror}') from error


def _statements(blocks: Iterable[Block]) -> Iterator[str]:
    """A dump has its line breaks where statements end, and in texts.

    :raises EngineError: the dump is cut off, or is not what was written
    """
    digest = hashlib.sha256()
    text = ''
    for number, line in enumerate(_lines(blocks)):
        if line == _end(digest):
            return
        if number == 0 and line != _HEAD:
            break
        digest.update(line)
        text += line.decode()
        if sqlite3.complete_statement(text):
            yield text
            text = ''
    raise EngineError('the dump is damaged, or its end is missing')


def _lines(blocks: Iterable[Block]) -> Iterator[bytes]:
    rest = b''
    for block in blocks:
        *lines, rest = (rest + bytes(block)).split(b'\n')
        for line in lines:
            yield line + b'\n'


def _end(digest: Any) -> bytes:
    """The last line: a comment of SQL, like the first."""
    return f'-- sha256 {digest.hexdigest()}\n'.encode()
