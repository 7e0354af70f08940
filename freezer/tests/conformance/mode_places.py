"""Applications to test modes on."""

import abc
import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from freezer.mode import mongo_options, mysql_options
from freezer.mode.fs import FsMode
from freezer.mode.mode import Mode, ModeSettings
from freezer.mode.mongo import MongoMode
from freezer.mode.mysql import MysqlMode
from freezer.tests.servers.mariadb import MariaDb
from freezer.tests.servers.mongod import Mongod


class ModePlace(abc.ABC):
    """An application that runs.

    :cvar holds: whether it cannot write from ``prepare`` to ``release``. A mode that
        holds nothing cannot fail either: the last two methods are never called
    """

    holds: ClassVar[bool]

    def __init__(self, folder: Path) -> None:
        self.path = folder

    @classmethod
    def available(cls) -> bool:
        """Whether the application is installed."""
        return True

    def close(self) -> None:
        """End what was started."""

    @abc.abstractmethod
    def mode(self) -> Mode:
        """Another object for it."""

    @abc.abstractmethod
    def can_write(self) -> bool:
        """Whether the application can write now."""

    def busy(self) -> contextlib.AbstractContextManager[None]:
        """As long as the block runs, ``prepare`` fails."""
        raise NotImplementedError

    def remove(self) -> None:
        """Remove the application."""
        raise NotImplementedError


class FsPlace(ModePlace):
    """A directory."""

    holds = False

    def mode(self) -> FsMode:
        return FsMode.from_settings(ModeSettings(str(self.path)))

    def can_write(self) -> bool:
        (self.path / 'file').write_bytes(b'content')
        return True


class MysqlPlace(ModePlace):
    """A MariaDB server."""

    holds = True
    snapshot: ClassVar[bool] = True

    def __init__(self, folder: Path) -> None:
        self._server = MariaDb()
        self._server.start()
        self.path = self._server.data
        self._socket = str(self._server.socket)

    @classmethod
    def available(cls) -> bool:
        return MariaDb.available()

    def close(self) -> None:
        self._server.stop()

    def mode(self) -> MysqlMode:
        given = {
            'mysql_socket': self._socket,
            'mysql_user': 'root',
            'mysql_lock_timeout': 1,
            'mysql_lock_during_backup': not self.snapshot,
        }
        options = mysql_options.OPTIONS.defaults() | given
        return MysqlMode.from_settings(
            ModeSettings(str(self.path), options, self.snapshot)
        )

    def can_write(self) -> bool:
        return self._server.can_write()

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """A statement that writes goes on."""
        server = self._server
        server.query('CREATE TABLE IF NOT EXISTS probe.old (n int) ENGINE=MyISAM')
        with server.session() as slow:

            def write() -> None:
                with contextlib.suppress(Exception):
                    slow.execute('INSERT INTO probe.old SELECT sleep(60)')

            writer = threading.Thread(target=write)
            writer.start()
            time.sleep(0.5)
            try:
                yield
            finally:
                server.query(f'KILL {slow.connection.thread_id()}')
                writer.join()

    def remove(self) -> None:
        self._server.stop()


class MysqlWithoutSnapshotPlace(MysqlPlace):
    """The lock lasts until the files were read."""

    snapshot = False


class MongoPlace(ModePlace):
    """The double of a mongod."""

    holds = True

    def __init__(self, folder: Path) -> None:
        self.path = folder / 'db'
        self.path.mkdir()
        self._server = Mongod(str(self.path))

    def close(self) -> None:
        self._server.close()

    def mode(self) -> MongoMode:
        given = {
            'mongo_uri': self._server.uri,
            'mongo_timeout': 1.0,
            'mongo_fsync_lock': True,
        }
        options = mongo_options.OPTIONS.defaults() | given
        return MongoMode.from_settings(ModeSettings(str(self.path), options, True))

    def can_write(self) -> bool:
        return self._server.locks == 0

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Somebody else has locked it."""
        self._server.failing['fsync'] = (50, 'operation exceeded time limit')
        yield
        del self._server.failing['fsync']

    def remove(self) -> None:
        self._server.close()
        shutil.rmtree(self.path)
