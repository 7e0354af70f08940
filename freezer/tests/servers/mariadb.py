"""A MariaDB server. Ready in three seconds, in one where its data is there already."""

import contextlib
import getpass
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql

from freezer.tests.servers.base import ProcessServer, free_ports

_CONFIG = """\
[mysqld]
datadir={data}
socket={socket}
tmpdir={directory}
pid-file={directory}/mariadb.pid
log-error={directory}/log/error.log
bind-address=127.0.0.1
port={port}
user={user}
log-bin=binlog
server-id=1
innodb_buffer_pool_size=32M
loose_innodb_buffer_pool_size_max=32M
innodb_log_file_size=8M
"""


class MariaDb(ProcessServer):
    """Root logs in by the socket, ``freezer`` by TCP with the password ``secret/1``.

    :param data: its data; made unless it is there
    :param options: lines for its configuration
    """

    name = 'mariadb'
    title = 'MariaDB'
    source = "Debian's package mariadb-server"
    programs = ('mariadbd', 'mariadb-install-db')
    version_command = ('mariadbd', '--version')
    user = 'freezer'
    password = 'secret/1'

    def __init__(
        self, parent: Path | None = None, data: Path | None = None, options: str = ''
    ) -> None:
        super().__init__(parent)
        self._data = data
        self._options = options
        self.port = 0

    @property
    def data(self) -> Path:
        return self._data or self.directory / 'data'

    @property
    def socket(self) -> Path:
        return self.directory / 'my.sock'

    @property
    def pid(self) -> int:
        return int((self.directory / 'mariadb.pid').read_text())

    @contextlib.contextmanager
    def session(self, **changes: Any) -> Iterator[Any]:
        """A cursor of root."""
        given: dict[str, Any] = {
            'unix_socket': str(self.socket),
            'user': 'root',
            'autocommit': True,
        }
        connection = pymysql.connect(**(given | changes))
        try:
            yield connection.cursor()
        finally:
            with contextlib.suppress(pymysql.MySQLError, OSError):
                connection.close()

    def query(self, statement: str, **changes: Any) -> Any:
        """The rows of a statement."""
        with self.session(**changes) as cursor:
            cursor.execute(statement)
            return cursor.fetchall()

    def can_write(self) -> bool:
        """Whether a transaction can be committed now."""
        try:
            self.query(
                'SET STATEMENT lock_wait_timeout = 1 FOR '
                'INSERT INTO probe.things VALUES (1)'
            )
        except pymysql.OperationalError:
            return False
        return True

    def _prepare(self) -> None:
        (self.port,) = free_ports(1)
        if not (self.data / 'mysql').exists():
            self._run(
                [
                    *('mariadb-install-db', '--no-defaults', '--skip-test-db'),
                    *(f'--datadir={self.data}', f'--user={getpass.getuser()}'),
                    '--auth-root-authentication-method=normal',
                    '--loose-innodb-buffer-pool-size-max=32M',
                    *(f'--{line}' for line in self._options.splitlines()),
                ]
            )
        config = _CONFIG.format(
            data=self.data,
            socket=self.socket,
            directory=self.directory,
            port=self.port,
            user=getpass.getuser(),
        )
        (self.directory / 'my.cnf').write_text(config + self._options)

    def _launch(self) -> None:
        self._spawn(
            'mariadbd', ['mariadbd', f'--defaults-file={self.directory}/my.cnf']
        )

    def _answers(self) -> bool:
        try:
            with self.session() as cursor:
                for statement in (
                    'CREATE DATABASE IF NOT EXISTS probe',
                    'CREATE TABLE IF NOT EXISTS probe.things (n int)',
                    f"CREATE USER IF NOT EXISTS {self.user}@'127.0.0.1' "
                    f"IDENTIFIED BY '{self.password}'",
                    f'GRANT RELOAD, BINLOG MONITOR, PROCESS ON *.* '
                    f"TO {self.user}@'127.0.0.1'",
                ):
                    cursor.execute(statement)
        except (pymysql.MySQLError, OSError):
            return False
        return True
