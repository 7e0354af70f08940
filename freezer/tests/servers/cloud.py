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

from freezer.tests.servers.base import ProcessServer, Properties, free_ports

PACKAGES = (
    'keystone==30.0.0',
    'glance==33.0.0',
    'freezer-api==19.0.0',
    'python-freezerclient==6.5.0',
    'gunicorn==27.0.1',
)
PASSWORD = 'pw/keystone+secret'
DOMAIN_NAME = 'Default'
REGION = 'RegionOne'

# Otherwise oslo.config would read gunicorn's arguments.
_KEYSTONE = """
import sys
sys.argv = ['keystone']
from keystone.server.wsgi import initialize_public_application
application = initialize_public_application()
"""

Sections = Mapping[str, Mapping[str, object]]


class Unavailable(Exception):
    """The packages cannot be installed."""


def build(folder: Path) -> None:
    """Create the virtual environment; takes half a minute.

    :raises Unavailable: the packages cannot be installed
    """
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
    done = subprocess.run(
        [
            *(sys.executable, '-m', 'pip', f'--python={folder}/bin/python'),
            # Modules are compiled when they are imported.
            *('install', '--quiet', '--no-compile', '--disable-pip-version-check'),
            *PACKAGES,
        ],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise Unavailable(done.stderr.decode().strip())


class Service(abc.ABC):
    """A service of a cloud, on a port of its own. :meth:`Cloud.add` starts it.

    :cvar kind: its type in Keystone's catalog
    """

    name: ClassVar[str]
    kind: ClassVar[str]

    def __init__(self, cloud: 'Cloud', port: int) -> None:
        self.cloud = cloud
        self.port = port
        self.endpoint = f'http://127.0.0.1:{port}'

    @abc.abstractmethod
    def prepare(self) -> None:
        """Write its configuration and create its tables. Called once."""

    @abc.abstractmethod
    def launch(self) -> None:
        """Start its process, with the name of the service."""

    @abc.abstractmethod
    def ask(self, session: Any) -> None:
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
        self._services: dict[str, Service] = {}

    # -- Services ---------------------------------------------------------------------

    def add(self, kind: type[S]) -> S:
        """The service of this kind; started by the first call."""
        found = self._services.get(kind.name)
        if found is None:
            found = kind(self, *free_ports(1))
            found.prepare()
            self.add_endpoint(kind.name, kind.kind, found.endpoint)
            self._services[kind.name] = found
            self.start_one(kind.name)
        assert isinstance(found, kind)
        return found

    def kill_one(self, name: str) -> None:
        """:param name: ``keystone``, or that of a service"""
        process = self._processes.pop(name)
        os.killpg(process.pid, 9)
        process.wait()

    def start_one(self, name: str) -> None:
        """Start one that is not running; return when it answers."""
        self._launch_one(name)
        self._wait(lambda: self._is_answered(name), f'answer of {name}')

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
        session = self.session()
        try:
            session.get_token()
            if name != 'keystone':
                self._services[name].ask(session)
        except keystoneauth1.exceptions.ClientException:
            return False
        return True

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
        self.spawn(name, ['gunicorn', *listen, f'{module}:application'], env)

    def write(self, name: str, sections: Sections) -> None:
        """Write an INI file in the directory."""
        lines = []
        for section, values in sections.items():
            lines.append(f'[{section}]')
            lines += [f'{key} = {value}' for key, value in values.items()]
        (self.directory / name).write_text('\n'.join(lines) + '\n')

    def write_ahead(self, database: str) -> None:
        """Let readers of an SQLite database not block its writers."""
        path = self.directory / f'{database}.db'
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute('PRAGMA journal_mode=WAL')

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
        roles = self.admin.get(f'{self.auth_url}/roles?name=member').json()['roles']
        self.admin.put(
            f'{self.auth_url}/projects/{project}/users/{user}/roles/{roles[0]["id"]}'
        )
        return project

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
        for command in (
            ('db_sync',),
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
            self.program('keystone-manage', '--config-file', 'keystone.conf', *command)
        self.write_ahead('keystone')

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
