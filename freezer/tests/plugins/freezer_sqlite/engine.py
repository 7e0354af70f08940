"""Dumps of SQLite databases: SQL that any version of SQLite can run."""

import contextlib
import hashlib
import hmac
import re
import sqlite3
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from freezer.engine.engine import (
    BackupEngine,
    Entry,
    Extractor,
    Lister,
    PartExtractor,
    Run,
    Source,
    Warnings,
)
from freezer.engine.settings import EngineSettings
from freezer.exceptions import ConfigError, EngineError
from freezer.storage.base import Backup, Storage
from freezer.utils.blocks import Block

_HEAD = b'-- freezer-sqldump 1\n'
_COLUMN = re.compile(r'(\w+)\.(\w+)\Z')
_Masked = tuple[str, str, bytes]


class SqlDumpEngine(BackupEngine):
    """Each level is the whole database, so each is a level 0.

    The engine's file is the name of the database.

    :param masked: table, column and key, or None
    """

    name = 'sqldump'

    def __init__(
        self, storage: Storage, settings: EngineSettings, masked: _Masked | None = None
    ) -> None:
        super().__init__(storage, settings)
        self._masked = masked

    @classmethod
    def from_settings(cls, storage: Storage, settings: EngineSettings) -> Self:
        return cls(storage, settings, _masked(settings.options))

    def archive(self, run: Run) -> Generator[Block, None, None]:
        path = Path(run.source.folder, run.source.name)
        run.state.write_text(path.name)
        yield _HEAD
        try:
            with self._open(path) as database:
                for statement in database.iterdump():
                    yield f'{statement}\n'.encode()
        except sqlite3.Error as error:
            raise EngineError(f'{path}: {error}') from error
        self._progress.files = 1

    @contextlib.contextmanager
    def _open(self, path: Path) -> Iterator[sqlite3.Connection]:
        original = sqlite3.connect(path)
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

    def why_unusable(self, state: Path, source: Source, now: int) -> str | None:
        return 'a dump is always the whole database'

    def extractor(
        self, target: str, state: bytes | None, warnings: Warnings
    ) -> Extractor:
        name = state.decode() if state else 'database.sqlite'
        return _Loader(Path(target, name))

    def begins(self, head: bytes) -> bool:
        return head.startswith(_HEAD)

    def members(self, source: Source) -> list[bytes]:
        return [source.name.encode()]

    def removals(self, target: str, newest: Backup) -> list[str]:
        return []

    # There are no parts to list or to restore.

    def not_in(self, patterns: Iterable[str], state: bytes) -> set[str]:
        return set(patterns)

    def part_extractor(self, target: str, warnings: Warnings) -> PartExtractor:
        raise EngineError('engine sqldump restores whole databases: omit --include')

    def lister(self) -> Lister:
        return _Lister()


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
        self._path.unlink(missing_ok=True)
        database = sqlite3.connect(self._path, isolation_level=None)
        try:
            with contextlib.closing(database):
                for statement in _statements(blocks):
                    database.execute(statement)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise EngineError(f'{self._path}: the dump is damaged: {error}') from error


def _statements(blocks: Iterable[Block]) -> Iterator[str]:
    """A dump has its line breaks where statements end, and in texts."""
    text, rest = '', b''
    for block in blocks:
        *lines, rest = (rest + bytes(block)).split(b'\n')
        for line in lines:
            text += line.decode() + '\n'
            if sqlite3.complete_statement(text):
                yield text
                text = ''


class _Lister(Lister):
    """What a dump holds: one file, of a size that only a restore shows."""

    wanted = False
    unmatched: list[str] = []  # noqa: RUF012

    def entries(self, blocks: Iterator[Block], level: int) -> Iterator[Entry]:
        for _block in blocks:
            pass
        yield Entry(b'database', 'file', 0o600, 0, 0, '', '', 0, 0, None, level)
