"""MongoDB: checks the server, and blocks writes where that is asked for."""

import importlib.util
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from freezer.exceptions import ConfigError, FreezerError, RestoreError
from freezer.mode.data_files import (
    check_holds,
    check_one_device,
    check_used,
    check_whole,
    is_locked,
)
from freezer.mode.mode import Mode, ModeSettings, Release
from freezer.utils.text import NOTICES

if TYPE_CHECKING:
    from freezer.mode.mongo_server import MongoServer

# A running mongod has a lock on it. On mongod.lock it has one of another kind, flock.
_LOCKED = 'WiredTiger.lock'


class MongoMode(Mode):
    """A snapshot of WiredTiger's files is as after a crash, and it recovers. Without
    one, the files rest only under fsyncLock.

    :param path: of the backup
    :param snapshot: whether a snapshot of it is read
    :param lock: whether to use fsyncLock
    """

    name = 'mongo'
    release_when = Release.AFTER_SNAPSHOT

    def __init__(
        self, path: str, uri: str, timeout: float, *, snapshot: bool, lock: bool
    ) -> None:
        self._path = path
        self._uri = uri
        self._timeout = timeout
        self._snapshot = snapshot
        self._lock = lock
        self._server: MongoServer | None = None
        # Whether the lock was asked for, and whether it is known to be there.
        self._locking = self._locked = False
        self._facts: dict[str, str | int] = {}

    @classmethod
    def from_settings(cls, settings: ModeSettings) -> Self:
        given = settings.options
        if settings.path is None:
            raise ConfigError(
                'mode mongo needs one --path-to-backup: the data directory of mongod'
            )
        check_whole(settings)
        if not settings.snapshot and not given['mongo_fsync_lock']:
            raise ConfigError(
                'mode mongo needs --snapshot; or add --mongo-fsync-lock, which then '
                'blocks all writes until the backup has been read'
            )
        if importlib.util.find_spec('pymongo') is None:
            raise ConfigError(
                "mode mongo needs the package pymongo: pip install 'freezer[mongo]'"
            )
        return cls(
            settings.path,
            given['mongo_uri'],
            given['mongo_timeout'],
            snapshot=settings.snapshot,
            lock=given['mongo_fsync_lock'],
        )

    @classmethod
    def check_target(cls, target: str) -> None:
        if is_locked(os.path.join(target, _LOCKED)):
            raise RestoreError(
                f'a running mongod uses {target}: stop it before the restore, or '
                f'restore into another directory'
            )

    def _connect(self) -> 'MongoServer':
        from freezer.mode.mongo_server import MongoServer

        return MongoServer(self._uri, self._timeout)

    def _check_role(self, server: 'MongoServer') -> None:
        role = server.role()
        if role == 'secondary' and not self._lock:
            raise ConfigError(
                f'{server} is a secondary: run the backup on the primary, or add '
                f'--mongo-fsync-lock'
            )
        if role not in ('primary', 'standalone', 'secondary'):
            raise ConfigError(
                f'{server} is {role}: run the backup where a mongod is the primary, '
                f'a secondary or standalone'
            )

    def validate(self) -> None:
        server = self._connect()
        try:
            self._check_role(server)
            engine, folder = server.storage()
            if engine != 'wiredTiger':
                raise ConfigError(
                    f'{server} has the storage engine {engine}: mode mongo backs up '
                    f'wiredTiger only'
                )
            check_holds(self._path, folder, str(server))
            check_one_device([folder], self._path, snapshot=self._snapshot)
            check_used([os.path.join(folder, _LOCKED)], str(server))
            if self._lock and server.is_locked():
                raise ConfigError(
                    f'{server} is locked already, by an operator or a backup that was '
                    f'killed: run db.fsyncUnlock() in mongosh'
                )
        finally:
            server.close()

    def prepare(self) -> None:
        self._server = server = self._connect()
        # It may have changed since validate.
        self._check_role(server)
        self._facts = server.facts()
        if self._lock:
            if server.is_locked():
                raise FreezerError(
                    f'{server} was locked meanwhile: run the backup again'
                )
            # It does not end with the connection, so it has to be undone even if it is
            # not known whether it was taken.
            self._locking = True
            server.lock()
            self._locked = True
            if not self._snapshot:
                NOTICES.warning(
                    'Writes to %s are blocked until the backup has been read and sent',
                    server,
                )

    def facts(self) -> Mapping[str, str | int]:
        return self._facts

    def release(self) -> None:
        server = self._server
        if server is None:
            return
        if self._locking:
            server.unlock(was_locked=self._locked)
            self._locking = self._locked = False
        server.close()
        self._server = None
