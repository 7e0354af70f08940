"""What the services of a cloud need below them: a database, a queue, a store."""

import concurrent.futures
import gzip
import subprocess
from pathlib import Path
from typing import ClassVar, TypeVar

from freezer.tests.servers.base import ProcessServer, which
from freezer.tests.servers.ceph import CephRGW
from freezer.tests.servers.mariadb import MariaDb
from freezer.tests.servers.rabbitmq import RabbitMq

P = TypeVar('P', bound=ProcessServer)

_OPTIONS = """\
skip_log_bin
skip_name_resolve
character_set_server=utf8mb3
max_connections=400
performance_schema=off
innodb_buffer_pool_size=128M
innodb_log_file_size=16M
innodb_flush_log_at_trx_commit=0
innodb_doublewrite=0
"""
_USER = 'cloud'
_PASSWORD = 'secret'


class CloudDb(MariaDb):
    """The databases of the services, without durability."""

    name = 'clouddb'

    def __init__(self, parent: Path | None = None) -> None:
        super().__init__(parent, options=_OPTIONS)

    def create(self, name: str) -> None:
        """An empty database for the services."""
        self.query(f'CREATE DATABASE IF NOT EXISTS {name}')
        self.query(
            f"GRANT ALL ON {name}.* TO {_USER}@'127.0.0.1' IDENTIFIED BY '{_PASSWORD}'"
        )

    def url(self, name: str) -> str:
        return f'mysql+pymysql://{_USER}:{_PASSWORD}@127.0.0.1:{self.port}/{name}'

    def execute(self, statements: str, database: str = '') -> None:
        """Run statements, also such as dump() returns."""
        self._client('mariadb', *([database] if database else []), given=statements)

    def dump(self, name: str) -> str:
        """The statements that create its tables."""
        return self._client('mariadb-dump', '--skip-dump-date', name)

    def _client(self, program: str, *arguments: str, given: str = '') -> str:
        done = subprocess.run(
            [which(program) or program, f'--socket={self.socket}', *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


class Backends:
    """Started by the first service that needs them."""

    _kinds: ClassVar[dict[str, type[ProcessServer]]] = {
        'mariadb': CloudDb,
        'rabbitmq': RabbitMq,
        'ceph': CephRGW,
    }

    def __init__(self, parent: Path | None) -> None:
        self._parent = parent
        self._servers: dict[str, ProcessServer] = {}

    @classmethod
    def missing(cls, names: set[str]) -> str | None:
        """What has to be installed for these."""
        kinds = [kind for name, kind in cls._kinds.items() if name in names]
        return next((kind.source for kind in kinds if not kind.available()), None)

    def start(self, names: set[str]) -> None:
        """Start those that do not run, side by side."""
        new = {
            name: self._kinds[name](self._parent)
            for name in sorted(names - self._servers.keys())
        }
        with concurrent.futures.ThreadPoolExecutor() as threads:
            started = [threads.submit(server.start) for server in new.values()]
        self._servers |= new
        for each in started:
            each.result()

    def stop(self) -> None:
        for server in self._servers.values():
            server.stop()
        self._servers.clear()

    @property
    def mariadb(self) -> CloudDb:
        return self._running(CloudDb)

    @property
    def rabbitmq(self) -> RabbitMq:
        return self._running(RabbitMq)

    @property
    def ceph(self) -> CephRGW:
        return self._running(CephRGW)

    def _running(self, kind: type[P]) -> P:
        return next(each for each in self._servers.values() if isinstance(each, kind))


def kept_tables(name: str) -> Path:
    """A dump of a database that a service has just created, which saves a minute of
    migrations. To renew it, for another version, delete it and start the service."""
    return Path(__file__).with_name('tables') / f'{name}.sql.gz'


def write_tables(path: Path, statements: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(statements.encode(), mtime=0))


def read_tables(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode()
