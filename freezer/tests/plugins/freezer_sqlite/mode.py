"""SQLite databases: no writes until the snapshot exists."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Self

from freezer.exceptions import ConfigError, FreezerError
from freezer.mode.mode import Mode, ModeSettings, Release


class SqliteMode(Mode):
    """Holds the lock that writers need. Readers go on.

    :param path: of the database
    :param timeout: seconds to wait for the lock
    """

    name = 'sqlite'
    release_when = Release.AFTER_SNAPSHOT

    def __init__(self, path: str, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._held: sqlite3.Connection | None = None

    @classmethod
    def from_settings(cls, settings: ModeSettings) -> Self:
        if settings.path is None:
            raise ConfigError('mode sqlite needs --path-to-backup: the database')
        return cls(settings.path, settings.options['timeout'])

    def validate(self) -> None:
        with contextlib.closing(self._connect()) as connection:
            try:
                connection.execute('SELECT count(*) FROM sqlite_schema')
            except sqlite3.Error as error:
                raise ConfigError(f'mode sqlite: {self._path}: {error}') from error

    def _connect(self) -> sqlite3.Connection:
        try:
            where = Path(self._path).absolute().as_uri()
            return sqlite3.connect(f'{where}?mode=rw', self._timeout, uri=True)
        except sqlite3.Error as error:
            raise ConfigError(f'mode sqlite: {self._path}: {error}') from error

    def prepare(self) -> None:
        self._held = self._connect()
        try:
            self._held.execute('BEGIN IMMEDIATE')
        except sqlite3.Error as error:
            raise FreezerError(
                f'{self._path}: {error}: wait for the program that writes to it, or '
                f'raise --timeout'
            ) from error

    def release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None
