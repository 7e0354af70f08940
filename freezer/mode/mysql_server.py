"""A connection to a MariaDB or MySQL server. Only this module imports PyMySQL."""

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pymysql

from freezer.exceptions import FreezerError
from freezer.mode.mysql_options import MysqlOptions

# Numbers of errors: https://mariadb.com/kb/en/mariadb-error-code-reference/
_LOGIN_REFUSED = (1044, 1045, 1698)
_NO_PRIVILEGE = (1227,)
_LOCK_WAIT_TIMEOUT = (1205, 3024)
_NOT_STARTED = (4146,)
# SHOW MASTER STATUS in MySQL 8.4.
_SYNTAX = (1064,)
# Since 10.4.1: https://mariadb.com/kb/en/backup-stage/
_HAS_STAGES = (10, 4, 1)
# Seconds for an answer, in addition to the time that the server waits for a lock.
_ANSWER = 60
# Seconds; the most that there is. A backup may take longer than the server's default.
_IDLE = 31536000
#: directories that recovery after a crash needs
_DIRECTORIES = (
    *('datadir', 'innodb_data_home_dir', 'innodb_log_group_home_dir'),
    *('innodb_undo_directory', 'innodb_doublewrite_dir', 'aria_log_dir_path'),
    *('rocksdb_datadir', 'rocksdb_wal_dir'),
)
_LOGS = ('log_error', 'general_log_file', 'slow_query_log_file', 'pid_file')


class MysqlServer:
    """A session. Closing it, in whichever way, releases its locks.

    :raises FreezerError: from every method: the server cannot be reached, or refused
    """

    def __init__(self, options: MysqlOptions) -> None:
        self._options = options
        self._unlock = ''
        try:
            self._connection = pymysql.connect(
                user=options.user,
                password=options.password,
                unix_socket=options.socket,
                host=options.host,
                port=options.port,
                ssl=options.tls,
                ssl_disabled=options.plain,
                connect_timeout=max(1, round(options.connect_timeout)),
                read_timeout=options.lock_timeout + _ANSWER,
                write_timeout=_ANSWER,
                autocommit=True,
                local_infile=False,
            )
        except (pymysql.MySQLError, OSError, RuntimeError) as error:
            raise self._error(error, 'cannot be used') from error
        try:
            [row] = self._rows('SELECT VERSION() AS version')
            self.version = str(row['version'])
        except BaseException:
            self.close()
            raise

    @property
    def is_mariadb(self) -> bool:
        return 'mariadb' in self.version.lower()

    @property
    def _has_stages(self) -> bool:
        number = re.match(r'(?:5\.5\.5-)?(\d+)\.(\d+)\.(\d+)', self.version)
        found = tuple(map(int, number.groups())) if number else ()
        return self.is_mariadb and found >= _HAS_STAGES

    def check_privilege(self) -> None:
        """Check whether it may be locked, where that is possible without locking."""
        if self._has_stages:
            # Without the privilege the error is another one.
            with contextlib.suppress(_NotStarted):
                self._execute('BACKUP STAGE END')

    def lock(self, *, files_rest: bool) -> None:
        """Block all commits; after that, every statement that writes, if the files have
        to come to rest.

        MariaDB has a lock that does not wait for transactions that go on:
        https://mariadb.com/kb/en/storage-snapshots-and-backup-stage-commands/
        """
        self._execute(f'SET SESSION lock_wait_timeout = {self._options.lock_timeout}')
        self._execute(f'SET SESSION wait_timeout = {_IDLE}')
        if self._has_stages and not files_rest:
            self._unlock = 'BACKUP STAGE END'
            statements = ['BACKUP STAGE START', 'BACKUP STAGE BLOCK_COMMIT']
        else:
            self._unlock = 'UNLOCK TABLES'
            statements = ['FLUSH TABLES WITH READ LOCK']
        for statement in statements:
            try:
                self._execute(statement)
            except _LockWaitTimeout as error:
                raise FreezerError(
                    f'{self._options}: no lock within {self._options.lock_timeout} s: '
                    f'{self._blocker()}: repeat the backup when that has ended, or '
                    f'raise --mysql-lock-timeout'
                ) from error
        # With a binary log, the end of a committed transaction may not be in the redo
        # log yet.
        self._execute('FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS')
        self._wait_for_redo_log()

    def _wait_for_redo_log(self) -> None:
        """Wait until all commits are in the redo log.

        With innodb_flush_log_at_trx_commit=0 they are in memory for a second. There
        MariaDB ignores FLUSH ENGINE LOGS; MySQL does not.
        """
        setting = 'innodb_flush_log_at_trx_commit'
        if not self.is_mariadb or self._variables((setting,)).get(setting) != '0':
            return
        deadline = time.monotonic() + self._options.lock_timeout
        committed = self._log_number('Innodb_lsn_current')
        while self._log_number('Innodb_lsn_flushed') < committed:
            if time.monotonic() > deadline:
                raise FreezerError(
                    f'{self._options}: {setting} is 0, and the last commits were not '
                    f'written within {self._options.lock_timeout} s: set it to 1, or '
                    f'raise --mysql-lock-timeout'
                )
            time.sleep(0.05)

    def _log_number(self, name: str) -> int:
        rows = self._rows(f"SHOW GLOBAL STATUS LIKE '{name}'")
        if not rows:
            raise FreezerError(
                f'{self._options}: innodb_flush_log_at_trx_commit is 0, and this '
                f'version has no {name}: set it to 1'
            )
        return int(rows[0]['Value'])

    def _blocker(self) -> str:
        query = (
            'SELECT id, user, time FROM information_schema.processlist '
            "WHERE id <> connection_id() AND command NOT IN ('Sleep', 'Daemon') "
            'ORDER BY time DESC LIMIT 1'
        )
        with contextlib.suppress(FreezerError):
            for row in self._rows(query):
                found = {key.lower(): value for key, value in row.items()}
                return (
                    f'connection {found["id"]} of user {found["user"]} has been '
                    f'running a statement for {found["time"]} s'
                )
        return 'another connection holds a lock'

    def unlock(self) -> None:
        """Unlock; raises if the lock was lost before."""
        try:
            self._execute(self._unlock)
        except FreezerError as error:
            raise FreezerError(
                f'{error}: the connection was lost while it held the lock, so the '
                f'files may have changed: run the backup again'
            ) from error

    def close(self) -> None:
        with contextlib.suppress(pymysql.MySQLError, OSError):
            self._connection.close()

    def data_directory(self) -> str:
        return os.path.normpath(self._variables(('datadir',))['datadir'])

    def directories(self) -> Iterator[tuple[str, str]]:
        """(variable, directory) of all that recovery after a crash needs."""
        found = self._variables((*_DIRECTORIES, 'innodb_data_file_path'))
        data = found['datadir']
        for name in _DIRECTORIES:
            if found.get(name):
                yield name, os.path.normpath(os.path.join(data, found[name]))
        home = os.path.join(data, found.get('innodb_data_home_dir', ''))
        for file in found.get('innodb_data_file_path', '').split(';'):
            path = os.path.normpath(os.path.join(home, file.split(':')[0]))
            yield 'innodb_data_file_path', os.path.dirname(path)
        # MariaDB has an empty table, and .isl files instead.
        query = (
            'SELECT file_name AS path FROM information_schema.files '
            "WHERE engine = 'InnoDB' AND file_type <> 'TEMPORARY'"
        )
        for row in self._rows(query):
            yield 'a tablespace', os.path.dirname(os.path.join(data, row['path']))

    def binary_logs(self) -> str | None:
        """The directory of the binary logs; None if they are off."""
        base = self._variables(('log_bin_basename',)).get('log_bin_basename')
        return os.path.dirname(base) if base else None

    def own_logs(self) -> list[str]:
        """Files that the server writes at any time, and needs for no recovery."""
        data = self.data_directory()
        logs = self._variables(_LOGS).values()
        names = [*logs, 'ibtmp1', '#innodb_temp']
        return [os.path.join(data, name) for name in names if name]

    def facts(self, *, with_position: bool) -> dict[str, str | int]:
        """Version, and where the binary log ends."""
        facts: dict[str, str | int] = {
            'name': 'MariaDB' if self.is_mariadb else 'MySQL',
            'version': self.version,
        }
        for row in self._log_status() if with_position else ():
            facts['binlog_file'] = str(row['File'])
            facts['binlog_position'] = int(row['Position'])
            gtid = row.get('Executed_Gtid_Set') or ''
            if self.is_mariadb:
                [position] = self._rows('SELECT @@GLOBAL.gtid_binlog_pos AS gtid')
                gtid = position['gtid'] or ''
            if gtid:
                facts['gtid'] = str(gtid).replace('\n', '')
        return facts

    def _log_status(self) -> Sequence[Mapping[str, Any]]:
        try:
            return self._rows('SHOW MASTER STATUS')
        except _SyntaxError:
            return self._rows('SHOW BINARY LOG STATUS')

    def may_see_logs(self) -> bool:
        """Whether this user may see the position of the binary log."""
        try:
            self._log_status()
        except _NoPrivilege:
            return False
        return True

    def _variables(self, names: Sequence[str]) -> dict[str, str]:
        quoted = ', '.join(f"'{name}'" for name in names)
        rows = self._rows(f'SHOW GLOBAL VARIABLES WHERE Variable_name IN ({quoted})')
        return {row['Variable_name']: row['Value'] or '' for row in rows}

    def _execute(self, statement: str) -> None:
        self._rows(statement)

    def _rows(self, statement: str) -> Sequence[Mapping[str, Any]]:
        try:
            with self._connection.cursor(pymysql.cursors.DictCursor) as cursor:
                cursor.execute(statement)
                rows: Sequence[Mapping[str, Any]] = cursor.fetchall()
                return rows
        except (pymysql.MySQLError, OSError) as error:
            raise self._error(error, f'{statement!r} failed') from error

    def _error(self, error: Exception, what: str) -> FreezerError:
        options = self._options
        code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        reason = ' '.join(str(each) for each in error.args[1:] or error.args)
        reason = ' '.join(reason.split()) or 'the connection was closed'
        if code in _LOGIN_REFUSED:
            return FreezerError(
                f'{options} refuses the login of user {options.user!r}: {reason}: set '
                f'user and password in --mysql-conf'
            )
        if code in _NO_PRIVILEGE:
            return _NoPrivilege(
                f'{options}: user {options.user!r} may not do that: {reason}: GRANT '
                f'RELOAD, BINLOG MONITOR ON *.* (MySQL: REPLICATION CLIENT)'
            )
        kinds: tuple[tuple[Sequence[int], type[FreezerError]], ...] = (
            (_LOCK_WAIT_TIMEOUT, _LockWaitTimeout),
            (_NOT_STARTED, _NotStarted),
            (_SYNTAX, _SyntaxError),
        )
        kind = next((kind for codes, kind in kinds if code in codes), FreezerError)
        return kind(f'{options}: {what}: {reason}')


class _NoPrivilege(FreezerError):
    """A privilege is missing."""


class _LockWaitTimeout(FreezerError):
    """Another statement holds the lock."""


class _NotStarted(FreezerError):
    """There is no lock to release."""


class _SyntaxError(FreezerError):
    """This version does not have the statement."""
