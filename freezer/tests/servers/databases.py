"""MariaDB and PostgreSQL, with a bank whose books must balance. Ready in a second."""

import abc
import contextlib
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from freezer.tests.servers.base import ProcessServer, which

ACCOUNTS = 2000
_PG_BIN = Path('/usr/lib/postgresql/15/bin')
# Each transfer is a transaction, and in the ledger.
_TRANSFER = (
    'BEGIN; UPDATE acct SET bal = bal - {a} WHERE id = {s}; '
    'UPDATE acct SET bal = bal + {a} WHERE id = {d}; '
    'INSERT INTO ledger (src, dst, amt) VALUES ({s}, {d}, {a}); COMMIT;\n'
)
_CHECK = (
    'SELECT (SELECT COUNT(*) FROM acct), (SELECT SUM(bal) FROM acct), '
    '(SELECT COUNT(*) FROM ledger), (SELECT COUNT(*) FROM acct a WHERE a.bal <> '
    'COALESCE((SELECT SUM(amt) FROM ledger WHERE dst = a.id), 0) - '
    'COALESCE((SELECT SUM(amt) FROM ledger WHERE src = a.id), 0))'
)


class Database(ProcessServer):
    """A server on a socket.

    :param data: a data directory that exists, such as one that was restored
    """

    ledger_id: ClassVar[str]

    def __init__(self, data: Path | None = None) -> None:
        # The path of a socket is short; and other users must reach it.
        super().__init__(Path('/tmp'))
        self._data = data
        self.env: dict[str, str] = {}

    @property
    def data(self) -> Path:
        return self._data or self.directory / 'data'

    @abc.abstractmethod
    def _argv(self, database: str) -> list[str]:
        """A client that reads statements."""

    def sql(self, statement: str, database: str = 'bank') -> str:
        done = subprocess.run(
            self._argv(database),
            input=statement,
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _answers(self) -> bool:
        try:
            self.sql('SELECT 1', '')
        except AssertionError:
            return False
        return True

    def open_bank(self) -> None:
        self.sql('CREATE DATABASE bank', '')
        self.sql('CREATE TABLE acct (id INT PRIMARY KEY, bal BIGINT, pad VARCHAR(500))')
        self.sql(
            f'CREATE TABLE ledger (id {self.ledger_id} PRIMARY KEY, src INT, dst INT, '
            f'amt INT)'
        )
        rows = (
            f"({number}, 0, '{os.urandom(200).hex()}')" for number in range(ACCOUNTS)
        )
        self.sql(f'INSERT INTO acct VALUES {", ".join(rows)}')

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """While in the block, customers transfer money without a pause."""
        with subprocess.Popen(
            self._argv('bank'),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **self.env},
            text=True,
        ) as process:
            assert process.stdin is not None
            ended, began = threading.Event(), threading.Event()
            chance = random.Random()

            def transfer() -> None:
                assert process.stdin is not None
                while not ended.is_set():
                    ids = chance.sample(range(ACCOUNTS), 2)
                    # One transaction after the other, always in the order of accounts.
                    s, d = sorted(ids)
                    text = _TRANSFER.format(s=s, d=d, a=chance.randrange(-99, 99))
                    process.stdin.write(text)
                    process.stdin.flush()
                    began.set()

            thread = threading.Thread(target=transfer)
            thread.start()
            try:
                began.wait()
                yield
            finally:
                ended.set()
                thread.join()
                process.stdin.close()
                assert process.wait() == 0

    def transfers(self) -> int:
        """How many there were, if the books balance."""
        accounts, total, count, wrong = self.sql(_CHECK).split()
        assert (int(accounts), int(total), int(wrong)) == (ACCOUNTS, 0, 0)
        return int(count)


class MariaDB(Database):
    name = 'mariadb'
    title = 'MariaDB'
    source = "Debian's packages mariadb-server and mariadb-backup"
    programs = ('mariadbd', 'mariadb-install-db', 'mariadb-backup', 'mbstream')
    version_command = ('mariadbd', '--version')
    ledger_id = 'BIGINT AUTO_INCREMENT'

    @property
    def arguments(self) -> str:
        """With which clients find it."""
        return f'--defaults-file={self.directory}/client.cnf'

    def _argv(self, database: str) -> list[str]:
        return ['mariadb', self.arguments, '-BN', database]

    def _prepare(self) -> None:
        where = self.directory
        (where / 'client.cnf').write_text(f'[client]\nsocket={where}/s\nuser=root\n')
        (where / 'tmp').mkdir()
        (where / 'my.cnf').write_text(
            f'[mysqld]\ndatadir={self.data}\nsocket={where}/s\ntmpdir={where}/tmp\n'
            f'skip-networking\ninnodb_buffer_pool_size=32M\ninnodb_log_file_size=16M\n'
            f'loose_innodb_buffer_pool_size_max=32M\nuser=root\n'
        )
        if self._data is None:
            self.data.mkdir()
            subprocess.run(
                [
                    *('mariadb-install-db', '--no-defaults', f'--datadir={self.data}'),
                    *('--auth-root-authentication-method=normal', '--skip-test-db'),
                    *('--user=root', '--loose-innodb-buffer-pool-size-max=32M'),
                ],
                check=True,
                capture_output=True,
            )

    def _launch(self) -> None:
        program = which('mariadbd') or 'mariadbd'
        self._spawn('mariadbd', [program, f'--defaults-file={self.directory}/my.cnf'])


class PostgreSQL(Database):
    name = 'postgresql'
    title = 'PostgreSQL'
    source = "Debian's package postgresql-15"
    programs = (str(_PG_BIN / 'postgres'), str(_PG_BIN / 'initdb'), 'pg_basebackup')
    version_command = (str(_PG_BIN / 'postgres'), '--version')
    ledger_id = 'BIGSERIAL'

    def _argv(self, database: str) -> list[str]:
        argv = ['psql', '-X', '-q', '-A', '-t', '-F', ' ', '-v', 'ON_ERROR_STOP=1']
        return [*argv, '-d', database or 'postgres']

    @property
    def _as_user(self) -> list[str]:
        """It refuses to run as root."""
        if os.geteuid():
            return []
        return [
            *('setpriv', '--reuid=postgres', '--regid=postgres', '--init-groups'),
            *('--pdeathsig', 'KILL'),
        ]

    def _prepare(self) -> None:
        self.directory.chmod(0o755)
        self.env = {'PGHOST': str(self.directory), 'PGUSER': 'postgres'}
        socket = self.directory / 'socket'
        socket.mkdir()
        self.env['PGHOST'] = str(socket)
        if self._data is None:
            self.data.mkdir(mode=0o700)
        else:
            # Where the account of the server can reach it.
            self._data = Path(shutil.move(self._data, self.directory / 'data'))
        if not os.geteuid():
            for path in (socket, self.data, *self.data.rglob('*')):
                shutil.chown(path, 'postgres', 'postgres')
        if not (self.data / 'PG_VERSION').exists():
            initdb = [str(_PG_BIN / 'initdb'), '-D', str(self.data), '-U', 'postgres']
            subprocess.run(
                [*self._as_user, *initdb, '-A', 'trust', '--no-sync', '--locale=C'],
                check=True,
                capture_output=True,
                cwd='/',
            )

    def _launch(self) -> None:
        argv = [str(_PG_BIN / 'postgres'), '-D', str(self.data), '-h', '']
        argv += ['-k', self.env['PGHOST'], '-c', 'shared_buffers=16MB']
        self._spawn('postgres', [*self._as_user, *argv])
