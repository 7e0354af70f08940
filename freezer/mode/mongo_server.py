"""Commands to a mongod. Only this module imports pymongo."""

import logging
from collections.abc import Mapping
from typing import Any

import pymongo
import pymongo.errors

from freezer.exceptions import ConfigError, FreezerError

# It logs each command with --debug.
logging.getLogger('pymongo').setLevel(logging.WARNING)
# Without an option or a configuration file.
_DATA = '/data/db'
_ENGINE = 'wiredTiger'
_UNAUTHORIZED = 13
_LOGIN_FAILED = 18
# fsyncUnlock on a server that is not locked.
_ILLEGAL = 20


class MongoServer:
    """One mongod, and not its replica set.

    :param timeout: seconds for each step
    :raises FreezerError: from every method: the server does not answer, or refused
    """

    def __init__(self, uri: str, timeout: float) -> None:
        self._timeout = timeout
        milliseconds = round(timeout * 1000)
        try:
            self._client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
                uri,
                directConnection=True,
                serverSelectionTimeoutMS=milliseconds,
                connectTimeoutMS=milliseconds,
                # The server ends a command itself, before that.
                socketTimeoutMS=milliseconds + 5000,
                retryReads=False,
                retryWrites=False,
            )
            host, port = next(
                iter(self._client.topology_description.server_descriptions())
            )
        except (pymongo.errors.PyMongoError, ValueError, OSError) as error:
            # Not the reason: it may contain a part of the URI.
            raise ConfigError(
                'mongo-uri: not the address of one mongod: write it as '
                'mongodb://USER:PASSWORD@HOST:PORT/'
            ) from error
        self._name = f'mongod at {host}:{port}'

    def __str__(self) -> str:
        return self._name

    def close(self) -> None:
        self._client.close()

    def role(self) -> str:
        """``primary``, ``secondary``, ``standalone``, or another in words."""
        # Servers before 4.4 know only this name.
        found = self._run({'isMaster': 1})
        if found.get('msg') == 'isdbgrid':
            return 'mongos, which has no data'
        if found.get('arbiterOnly'):
            return 'an arbiter, which has no data'
        if not found.get('setName') and not found.get('isreplicaset'):
            return 'standalone'
        if found.get('ismaster'):
            return 'primary'
        if found.get('secondary'):
            return 'secondary'
        return 'not ready: neither primary nor secondary'

    def facts(self) -> dict[str, str | int]:
        version = self._run({'buildInfo': 1}).get('version', 'unknown')
        return {'name': 'MongoDB', 'version': str(version), 'role': self.role()}

    def storage(self) -> tuple[str, str]:
        """Its engine, and the directory of its data."""
        parsed = self._run({'getCmdLineOpts': 1}).get('parsed') or {}
        found = parsed.get('storage') or {}
        return str(found.get('engine') or _ENGINE), str(found.get('dbPath') or _DATA)

    def is_locked(self) -> bool:
        """Whether fsyncLock is in effect."""
        return bool(self._run({'currentOp': 1, 'ns': ''}).get('fsyncLock'))

    def lock(self) -> None:
        """Write all data out, and block writes."""
        self._run({'fsync': 1, 'lock': True, 'maxTimeMS': round(self._timeout * 1000)})

    def unlock(self, *, was_locked: bool) -> None:
        """Unlock.

        :param was_locked: raise if it is no longer locked
        """
        try:
            self._run({'fsyncUnlock': 1})
        except _NotLocked as error:
            if was_locked:
                raise FreezerError(
                    f'{error}: the lock was lost, so the files may have changed: run '
                    f'the backup again'
                ) from error
        except FreezerError as error:
            raise FreezerError(
                f'{error}: it may still be locked: look at db.currentOp().fsyncLock in '
                f'mongosh, and run db.fsyncUnlock()'
            ) from error

    def _run(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        name = next(iter(command))
        try:
            return self._client.admin.command(dict(command))
        except pymongo.errors.OperationFailure as error:
            if error.code == _LOGIN_FAILED:
                raise FreezerError(
                    f'{self} refuses the login: set user and password in --mongo-uri'
                ) from error
            if error.code == _UNAUTHORIZED:
                raise FreezerError(
                    f'{self}: this user may not run {name}: grant it the role '
                    f'clusterMonitor, and for --mongo-fsync-lock hostManager'
                ) from error
            kind = _NotLocked if error.code == _ILLEGAL else FreezerError
            raise kind(f'{self}: {name} failed: {_first_line(error)}') from error
        except pymongo.errors.PyMongoError as error:
            raise FreezerError(
                f'{self} does not answer: {_first_line(error)}: start it, or set '
                f'--mongo-uri'
            ) from error


class _NotLocked(FreezerError):
    """There is no lock to release."""


def _first_line(error: pymongo.errors.PyMongoError) -> str:
    # After the first comma is the state of the whole topology.
    text = getattr(error, '_message', '') or str(error)
    return ' '.join(text.split(', full error:')[0].split(', Timeout:')[0].split())
