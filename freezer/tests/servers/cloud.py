"""A cloud: the real Keystone on SQLite, and services that a test adds to it.

The programs are in a virtual environment of their own.
"""

import abc
import contextlib
import functools
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import keystoneauth1.exceptions
import keystoneauth1.identity.v3
import keystoneauth1.session

from freezer.tests import packages
from freezer.tests.servers.backends import (
    Backends,
    kept_tables,
    read_tables,
    write_tables,
)
from freezer.tests.servers.base import ProcessServer, Properties, StartError, free_ports

PACKAGES = (
    'keystone==30.0.0',
    'glance==33.0.0',
    'freezer-api==19.0.0',
    'python-freezerclient==6.5.0',
    'gunicorn==27.0.1',
    'cinder==29.0.0',
    'os-brick==7.1.1',
    'nova==34.0.0',
    'neutron==29.0.0',
    'openstack-placement==16.0.0',
    'PyMySQL==1.2.0',
    'boto3',
    'setuptools<81',
)
#: of Debian: rados and rbd are not on PyPI
LIBRARIES = Path('/usr/lib/python3/dist-packages')
PASSWORD = 'pw/keystone+secret'
DOMAIN_NAME = 'Default'
REGION = 'RegionOne'
#: of all services
HOST = 'testhost'

# Otherwise oslo.config would read gunicorn's arguments.
_KEYSTONE = """
import sys
sys.argv = ['keystone']
from keystone.server.wsgi import initialize_public_application
application = initialize_public_application()
"""

Sections = Mapping[str, Mapping[str, object]]


def build(folder: Path) -> None:
    """Create the virtual environment; takes half a minute.

    :raises packages.Unavailable: the packages cannot be installed
    """
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
    packages.install(folder, *PACKAGES)
    (site_packages,) = folder.glob('lib/python*/site-packages')
    for library in LIBRARIES.glob('r[ab]d*.cpython-*.so'):
        (site_packages / library.name).symlink_to(library)


class Service(abc.ABC):
    """A service of a cloud, on a port of its own. :meth:`Cloud.add` starts it.

    :cvar kind: its type in Keystone's catalog
    :cvar path: of its endpoint
    :cvar needs: the :class:`Backends` that must run before it is prepared
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    path: ClassVar[str] = ''
    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, cloud: 'Cloud', port: int) -> None:
        self.cloud = cloud
        self.port = port
        self.endpoint = f'http://127.0.0.1:{port}'

    @abc.abstractmethod
    def prepare(self) -> None:
        """Write its configuration and create its tables. Called once."""

    @abc.abstractmethod
    def launch(self) -> None:
        """Start its process, with the name of the service, and others."""

    @abc.abstractmethod
    def is_ready(self, session: Any) -> bool:
        """Send a request as the administrator.

        :raises keystoneauth1.exceptions.ClientException: it does not answer
        """


S = TypeVar('S', bound=Service)


class Cloud(ProcessServer):
    """Starts in about twenty seconds, most of it for Keystone's tables.

    :param folder: the virtual environment that :func:`build` created
    """

    name = 'cloud'
    title = 'OpenStack'
    source = f'pip install {" ".join(PACKAGES)}'
    properties = Properties()
    programs = ()
    version_command = ()
    start_timeout = 240.0

    def __init__(self, folder: Path, parent: Path | None = None) -> None:
        super().__init__(parent)
        self.folder = folder
        self.backends = Backends(parent)
        self._services: dict[str, Service] = {}

    # -- Services ---------------------------------------------------------------------

    def add(self, kind: type[S]) -> S:
        """The service of this kind; started by the first call."""
        self.add_all(kind)
        found = self._services[kind.name]
        assert isinstance(found, kind)
        return found

    def add_all(self, *kinds: type[Service]) -> None:
        """Start services side by side; one may need those before it."""
        new = [kind for kind in kinds if kind.name not in self._services]
        self.backends.start({name for kind in new for name in kind.needs})
        for kind in new:
            made = self._services[kind.name] = kind(self, *free_ports(1))
            self.add_endpoint(kind.name, kind.kind, made.endpoint + kind.path)
            made.prepare()
            self._launch_one(kind.name)
        for kind in new:
            self._await_one(kind.name)

    def service(self, name: str) -> Service:
        """One that was added."""
        return self._services[name]

    def kill_one(self, name: str) -> None:
        """:param name: ``keystone``, or that of a service"""
        process = self._processes.pop(name)
        os.killpg(process.pid, 9)
        process.wait()

    def start_one(self, name: str) -> None:
        """Start one that is not running; return when it answers."""
        self._launch_one(name)
        self._await_one(name)

    def _await_one(self, name: str) -> None:
        try:
            self._wait(lambda: self._is_answered(name), f'answer of {name}', 0.5)
        except StartError as error:
            raise StartError(f'{error}\n{self._log_tails()}') from None

    def _launch_one(self, name: str) -> None:
        if name == 'keystone':
            config = {
                'OS_KEYSTONE_CONFIG_DIR': str(self.directory),
                'OS_KEYSTONE_CONFIG_FILES': 'keystone.conf',
            }
            self.spawn_wsgi(name, self._port, 'kwsgi', config)
        else:
            self._services[name].launch()

    def _is_answered(self, name: str) -> bool:
        try:
            if name == 'keystone':
                self.session().get_token()
                return True
            return self._services[name].is_ready(self.admin)
        except keystoneauth1.exceptions.ClientException:
            return False

    def add_endpoint(self, name: str, kind: str, url: str) -> None:
        """Add a service to Keystone's catalog."""
        made = self._identity('services', 'service', {'type': kind, 'name': name})
        endpoint = {'service_id': made, 'region_id': REGION, 'url': url}
        for interface in ('public', 'internal', 'admin'):
            self._identity('endpoints', 'endpoint', endpoint | {'interface': interface})

    # -- For services -----------------------------------------------------------------

    def program(self, program: str, *arguments: str) -> None:
        """Run a program of the virtual environment to its end."""
        self._run([str(self.folder / 'bin' / program), *arguments])

    def spawn(self, name: str, argv: list[str], env: Mapping[str, str] = {}) -> None:
        """Start a program of the virtual environment."""
        argv = [str(self.folder / 'bin' / argv[0]), *argv[1:]]
        self._spawn(name, ['env', *(f'{k}={v}' for k, v in env.items()), *argv])

    def spawn_wsgi(
        self, name: str, port: int, module: str, env: Mapping[str, str]
    ) -> None:
        """Start ``application`` of a module, with one process and eight threads."""
        listen = ['-b', f'127.0.0.1:{port}', '--threads', '8', '--timeout', '600']
        # After its two seconds, a client that sends meets a connection that closes.
        listen += ['--keep-alive', '600']
        self.spawn(name, ['gunicorn', *listen, f'{module}:application'], env)

    def write(self, name: str, sections: Sections) -> None:
        """Write an INI file in the directory."""
        lines = []
        for section, values in sections.items():
            lines.append(f'[{section}]')
            lines += [f'{key} = {value}' for key, value in values.items()]
        (self.directory / name).write_text('\n'.join(lines) + '\n')

    def create_sqlite(self, database: str, program: str, *arguments: str) -> None:
        """Create an SQLite database, by a program unless its tables are kept."""
        path = self.directory / f'{database}.db'
        kept = kept_tables(f'sqlite-{database}')
        with contextlib.closing(sqlite3.connect(path)) as connection:
            if kept.exists():
                connection.executescript(read_tables(kept))
            else:
                self.program(program, *arguments)
                write_tables(kept, '\n'.join(connection.iterdump()))
        self.write_ahead(database)

    def write_ahead(self, database: str) -> None:
        """Let readers of an SQLite database not block its writers."""
        path = self.directory / f'{database}.db'
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute('PRAGMA journal_mode=WAL')

    def database(self, name: str) -> str:
        """The URL of a database in MariaDB; created by the first call."""
        self.backends.mariadb.create(name)
        return self.backends.mariadb.url(name)

    def connection(self, name: str) -> dict[str, object]:
        """Options with which a service uses such a database."""
        return {
            'connection': self.database(name),
            'max_pool_size': 5,
            'max_overflow': 20,
        }

    def migrate(self, name: str, program: str, *arguments: str) -> None:
        """Create the tables of a database, by a program unless they are kept."""
        kept, database = kept_tables(name), self.backends.mariadb
        if kept.exists():
            database.execute(read_tables(kept), name)
        else:
            self.program(program, *arguments)
            write_tables(kept, database.dump(name))

    def common(self, name: str) -> dict[str, dict[str, object]]:
        """Options of a service that has this folder and uses the queue."""
        folder = self.directory / name
        settings: dict[str, dict[str, object]] = {
            'DEFAULT': {
                'state_path': folder,
                'my_ip': '127.0.0.1',
                'host': HOST,
                # On a busy machine, services that are asked may still be starting.
                'rpc_response_timeout': 600,
            },
            'oslo_concurrency': {'lock_path': folder / 'lock'},
            'oslo_messaging_notifications': {'driver': 'noop'},
            'oslo_messaging_rabbit': {
                'heartbeat_in_pthread': 'false',
                'rabbit_quorum_queue': 'false',
            },
            'service_user': {'send_service_user_token': 'true', **self.credentials()},
            'keystone_authtoken': {
                **self.credentials(),
                'service_token_roles_required': 'true',
                'service_token_roles': 'service',
            },
        }
        if 'rabbitmq' in self._services[name].needs:
            settings['DEFAULT']['transport_url'] = self.backends.rabbitmq.url
        return settings

    def credentials(self) -> dict[str, object]:
        """Options with which a service talks to Keystone, as the administrator."""
        return {
            'auth_url': self.auth_url,
            'www_authenticate_uri': self.auth_url,
            'auth_type': 'password',
            'username': 'admin',
            'password': PASSWORD,
            'project_name': 'admin',
            'user_domain_name': DOMAIN_NAME,
            'project_domain_name': DOMAIN_NAME,
            'region_name': REGION,
        }

    # -- Contents ---------------------------------------------------------------------

    def environ(self, user: str = 'admin', project: str = '') -> dict[str, str]:
        """Environment variables for a client.

        :param project: that of the user's name if empty
        """
        return {
            'OS_AUTH_URL': self.auth_url,
            'OS_USERNAME': user,
            'OS_PASSWORD': PASSWORD,
            'OS_PROJECT_NAME': project or user,
            'OS_USER_DOMAIN_NAME': DOMAIN_NAME,
            'OS_PROJECT_DOMAIN_NAME': DOMAIN_NAME,
            'OS_IDENTITY_API_VERSION': '3',
        }

    @property
    def auth_url(self) -> str:
        return f'http://127.0.0.1:{self._port}/v3'

    def session(
        self, user: str = 'admin', project: str = '', password: str = PASSWORD
    ) -> Any:
        return keystoneauth1.session.Session(
            auth=keystoneauth1.identity.v3.Password(
                *(self.auth_url, password),
                username=user,
                project_name=project or user,
                user_domain_name=DOMAIN_NAME,
                project_domain_name=DOMAIN_NAME,
            ),
            timeout=30,
        )

    @functools.cached_property
    def admin(self) -> Any:
        return self.session()

    @functools.cached_property
    def project_id(self) -> str:
        """The id of the project ``admin``."""
        found: str = self.admin.get_project_id()
        return found

    def add_user(self, name: str) -> str:
        """Add a user, as a member of a new project with the same name; returns the id
        of the project."""
        domain = {'domain_id': 'default', 'name': name}
        project = self._identity('projects', 'project', domain)
        user = self._identity('users', 'user', {**domain, 'password': PASSWORD})
        self._grant('member', project, user)
        return project

    def let_admin_serve(self) -> None:
        """Services accept the token of another service only with the role service."""
        self._grant('service', self.project_id, self.admin.get_user_id())

    def _grant(self, role: str, project: str, user: str) -> None:
        (found,) = self.admin.get(f'{self.auth_url}/roles?name={role}').json()['roles']
        where = f'{self.auth_url}/projects/{project}/users/{user}'
        self.admin.put(f'{where}/roles/{found["id"]}')

    def _identity(self, what: str, one: str, values: dict[str, Any]) -> str:
        answer = self.admin.post(f'{self.auth_url}/{what}', json={one: values})
        found: str = answer.json()[one]['id']
        return found

    # -- ProcessServer ----------------------------------------------------------------

    def _prepare(self) -> None:
        for cached in ('admin', 'project_id'):
            self.__dict__.pop(cached, None)
        self._services.clear()
        (self._port,) = free_ports(1)
        self.endpoint = self.auth_url
        for keys in ('fernet', 'credentials'):
            (self.directory / keys).mkdir()
        (self.directory / 'kwsgi.py').write_text(_KEYSTONE)
        self.write('keystone.conf', _keystone(self.directory))
        me = ('--keystone-user', str(os.getuid()), '--keystone-group', str(os.getgid()))
        config = ('keystone-manage', '--config-file', 'keystone.conf')
        self.create_sqlite('keystone', *config, 'db_sync')
        for command in (
            ('fernet_setup', *me),
            ('credential_setup', *me),
            (
                *('bootstrap', '--bootstrap-password', PASSWORD),
                *('--bootstrap-admin-url', self.auth_url),
                *('--bootstrap-public-url', self.auth_url),
                *('--bootstrap-internal-url', self.auth_url),
                *('--bootstrap-region-id', REGION),
            ),
        ):
            self.program(*config, *command)

    def stop(self) -> None:
        super().stop()
        self.backends.stop()

    def _launch(self) -> None:
        for name in ('keystone', *self._services):
            self._launch_one(name)

    def _answers(self) -> bool:
        return all(map(self._is_answered, ('keystone', *self._services)))


def _keystone(folder: Path) -> dict[str, dict[str, object]]:
    return {
        'database': {'connection': f'sqlite:///{folder}/keystone.db'},
        'token': {'provider': 'fernet'},
        'fernet_tokens': {'key_repository': folder / 'fernet'},
        'fernet_receipts': {'key_repository': folder / 'fernet'},
        'credential': {'key_repository': folder / 'credentials'},
    }
