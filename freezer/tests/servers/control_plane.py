"""The real Keystone and freezer-api, on SQLite, for freezer-scheduler.

They are in a virtual environment of their own, with the client ``freezer``.
"""

import contextlib
import functools
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keystoneauth1.exceptions
import keystoneauth1.identity.v3
import keystoneauth1.session

from freezer.tests.servers.base import ProcessServer, Properties, free_ports

PACKAGES = ('keystone', 'freezer-api>=19', 'python-freezerclient>=6.5', 'gunicorn')
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

# freezer-api reads in a transaction before it writes. If another connection wrote in
# between, SQLite refuses the write at once: "database is locked". So each transaction
# takes the lock for writing when it begins, and waits for it.
_FREEZER_API = """
import sqlalchemy.engine
import sqlalchemy.event
from freezer_api.cmd.api import main


@sqlalchemy.event.listens_for(
    sqlalchemy.engine.Engine, 'before_cursor_execute', retval=True
)
def begin_immediately(_connection, _cursor, statement, parameters, *_context):
    return 'BEGIN IMMEDIATE' if statement == 'BEGIN' else statement, parameters


main()
"""


class Unavailable(Exception):
    """The packages cannot be installed."""


def build(folder: Path) -> None:
    """Create the virtual environment; takes a minute.

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


class ControlPlane(ProcessServer):
    """Starts in about half a minute, most of it for Keystone's tables.

    :param folder: the virtual environment that :func:`build` created
    """

    name = 'control-plane'
    title = 'Keystone and freezer-api'
    source = f'pip install {" ".join(PACKAGES)}'
    properties = Properties()
    programs = ()
    version_command = ()
    start_timeout = 240.0

    def __init__(self, folder: Path, parent: Path | None = None) -> None:
        super().__init__(parent)
        self._bin = folder / 'bin'

    # -- Processes --------------------------------------------------------------------

    def kill_one(self, name: str) -> None:
        """:param name: ``keystone`` or ``api``"""
        process = self._processes.pop(name)
        os.killpg(process.pid, 9)
        process.wait()

    def start_one(self, name: str) -> None:
        """Start one that was killed; return when it answers."""
        self._launch_one(name)
        ready = self._keystone_answers if name == 'keystone' else self._answers
        self._wait(ready, f'answer of {name}')

    # -- Contents ----------------------------------------------------------------

    def environ(self, user: str = 'admin', project: str = 'admin') -> dict[str, str]:
        """Environment variables for a client or the scheduler."""
        return {
            'OS_AUTH_URL': self.auth_url,
            'OS_USERNAME': user,
            'OS_PASSWORD': PASSWORD,
            'OS_PROJECT_NAME': project,
            'OS_USER_DOMAIN_NAME': DOMAIN_NAME,
            'OS_PROJECT_DOMAIN_NAME': DOMAIN_NAME,
            'OS_IDENTITY_API_VERSION': '3',
        }

    @property
    def auth_url(self) -> str:
        return f'http://127.0.0.1:{self._ports[0]}/v3'

    def session(self, user: str = 'admin', project: str = 'admin') -> Any:
        return keystoneauth1.session.Session(
            auth=keystoneauth1.identity.v3.Password(
                *(self.auth_url, PASSWORD),
                username=user,
                project_name=project,
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

    def call(
        self, method: str, path: str, body: Any = None, session: Any = None
    ) -> Any:
        """Call freezer-api; returns the JSON of the response."""
        session = session or self.admin
        url = f'{self.endpoint}/v2/{session.get_project_id()}/{path}'
        answer = session.request(url, method, json=body, raise_exc=False)
        assert answer.status_code < 400, (answer.text, self._log_tails())
        return answer.json() if answer.content else None

    def freezer(self, *arguments: str, env: Mapping[str, str] = {}) -> str:
        """Run the client ``freezer``; returns its output."""
        done = subprocess.run(
            [self._bin / 'freezer', *arguments],
            env={'PATH': os.environ['PATH'], **self.environ(), **env},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def add_user(self, name: str) -> None:
        """Add a user, as a member of a new project with the same name."""
        project = self._identity('projects', 'project', {'name': name})
        user = self._identity('users', 'user', {'name': name, 'password': PASSWORD})
        roles = self.admin.get(f'{self.auth_url}/roles?name=member').json()['roles']
        self.admin.put(
            f'{self.auth_url}/projects/{project}/users/{user}/roles/{roles[0]["id"]}'
        )

    def _identity(self, what: str, one: str, values: dict[str, Any]) -> str:
        body = {one: {'domain_id': 'default', **values}}
        answer = self.admin.post(f'{self.auth_url}/{what}', json=body)
        found: str = answer.json()[one]['id']
        return found

    # -- ProcessServer ----------------------------------------------------------------

    def _prepare(self) -> None:
        for cached in ('admin', 'project_id'):
            self.__dict__.pop(cached, None)
        self._ports = free_ports(2)
        self.endpoint = f'http://127.0.0.1:{self._ports[1]}'
        for keys in ('fernet', 'credentials'):
            (self.directory / keys).mkdir()
        (self.directory / 'kwsgi.py').write_text(_KEYSTONE)
        (self.directory / 'run_api.py').write_text(_FREEZER_API)
        self._write('keystone.conf', _keystone(self.directory))
        paste = self._bin.parent / 'etc/freezer/freezer-paste.ini'
        api = _freezer_api(self.directory, self.auth_url, self._ports[1], paste)
        self._write('freezer-api.conf', api)
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
            self._program('keystone-manage', '--config-file', 'keystone.conf', *command)
        config = ('--config-file', 'freezer-api.conf')
        self._program('freezer-manage', *config, 'db', 'sync')
        for name in ('keystone', 'freezer'):
            # Readers do not block writers then.
            with contextlib.closing(
                sqlite3.connect(self.directory / f'{name}.db')
            ) as database:
                database.execute('PRAGMA journal_mode=WAL')

    def _launch(self) -> None:
        self._launch_one('keystone')
        self._wait(self._keystone_answers, 'answer of Keystone')
        self._register()
        self._launch_one('api')

    def _launch_one(self, name: str) -> None:
        if name == 'keystone':
            files = ('OS_KEYSTONE_CONFIG_FILES=keystone.conf',)
            folder = f'OS_KEYSTONE_CONFIG_DIR={self.directory}'
            address = f'127.0.0.1:{self._ports[0]}'
            gunicorn = (str(self._bin / 'gunicorn'), '-b', address, 'kwsgi:application')
            self._spawn(name, ['env', *files, folder, *gunicorn])
        else:
            program = (str(self._bin / 'python'), 'run_api.py')
            self._spawn(name, [*program, '--config-file', 'freezer-api.conf'])

    def _register(self) -> None:
        """Add freezer-api to Keystone's catalog, once."""
        services = self.admin.get(f'{self.auth_url}/services?type=backup').json()
        if services['services']:
            return
        made = self.admin.post(
            f'{self.auth_url}/services',
            json={'service': {'type': 'backup', 'name': 'freezer'}},
        ).json()
        service_id = made['service']['id']
        endpoint = {'service_id': service_id, 'region_id': REGION, 'url': self.endpoint}
        for interface in ('public', 'internal', 'admin'):
            self.admin.post(
                f'{self.auth_url}/endpoints',
                json={'endpoint': endpoint | {'interface': interface}},
            )

    def _keystone_answers(self) -> bool:
        return self._is_answered(lambda: self.session().get_token())

    def _answers(self) -> bool:
        def ask() -> None:
            session = self.session()
            url = f'{self.endpoint}/v2/{session.get_project_id()}/clients/'
            session.get(url)

        return self._keystone_answers() and self._is_answered(ask)

    def _is_answered(self, ask: Any) -> bool:
        try:
            ask()
        except keystoneauth1.exceptions.ClientException:
            return False
        return True

    def _program(self, program: str, *arguments: str) -> None:
        self._run([str(self._bin / program), *arguments])

    def _write(self, name: str, sections: Mapping[str, Mapping[str, object]]) -> None:
        lines = []
        for section, values in sections.items():
            lines.append(f'[{section}]')
            lines += [f'{key} = {value}' for key, value in values.items()]
        (self.directory / name).write_text('\n'.join(lines) + '\n')


def _keystone(folder: Path) -> dict[str, dict[str, object]]:
    return {
        'database': {'connection': f'sqlite:///{folder}/keystone.db'},
        'token': {'provider': 'fernet'},
        'fernet_tokens': {'key_repository': folder / 'fernet'},
        'fernet_receipts': {'key_repository': folder / 'fernet'},
        'credential': {'key_repository': folder / 'credentials'},
    }


def _freezer_api(
    folder: Path, auth_url: str, port: int, paste: Path
) -> dict[str, dict[str, object]]:
    return {
        'DEFAULT': {
            'bind_host': '127.0.0.1',
            'bind_port': port,
            'log_dir': folder / 'log',
        },
        'keystone_authtoken': {
            'auth_url': auth_url,
            'www_authenticate_uri': auth_url,
            'auth_type': 'password',
            'username': 'admin',
            'password': PASSWORD,
            'project_name': 'admin',
            'user_domain_name': DOMAIN_NAME,
            'project_domain_name': DOMAIN_NAME,
        },
        'database': {'connection': f'sqlite:///{folder}/freezer.db'},
        'storage': {'backend': 'sqlalchemy', 'driver': 'sqlalchemy'},
        'paste_deploy': {'config_file': paste},
    }
