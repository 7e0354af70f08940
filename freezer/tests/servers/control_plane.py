"""The real freezer-api, for freezer-scheduler, and the client ``freezer``."""

import os
import subprocess
from collections.abc import Mapping
from typing import Any

from freezer.tests.servers.cloud import Service

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


class ControlPlane(Service):
    """freezer-api; its process is ``freezer``."""

    name = 'freezer'
    kind = 'backup'

    def prepare(self) -> None:
        cloud = self.cloud
        folder = cloud.directory
        (folder / 'run_api.py').write_text(_FREEZER_API)
        cloud.write(
            'freezer-api.conf',
            {
                'DEFAULT': {
                    'bind_host': '127.0.0.1',
                    'bind_port': self.port,
                    'log_dir': folder / 'log',
                },
                'keystone_authtoken': cloud.credentials(),
                'database': {'connection': f'sqlite:///{folder}/freezer.db'},
                'storage': {'backend': 'sqlalchemy', 'driver': 'sqlalchemy'},
                'paste_deploy': {
                    'config_file': cloud.folder / 'etc/freezer/freezer-paste.ini'
                },
            },
        )
        cloud.program(
            *('freezer-manage', '--config-file', 'freezer-api.conf', 'db', 'sync')
        )
        cloud.write_ahead('freezer')

    def launch(self) -> None:
        self.cloud.spawn(
            self.name, ['python', 'run_api.py', '--config-file', 'freezer-api.conf']
        )

    def is_ready(self, session: Any) -> bool:
        session.get(f'{self.endpoint}/v2/{session.get_project_id()}/clients/')
        return True

    def call(
        self, method: str, path: str, body: Any = None, session: Any = None
    ) -> Any:
        """Call freezer-api; returns the JSON of the response."""
        session = session or self.cloud.admin
        url = f'{self.endpoint}/v2/{session.get_project_id()}/{path}'
        answer = session.request(url, method, json=body, raise_exc=False)
        assert answer.status_code < 400, (answer.text, self.cloud._log_tails())
        return answer.json() if answer.content else None

    def freezer(self, *arguments: str, env: Mapping[str, str] = {}) -> str:
        """Run the client ``freezer``; returns its output."""
        done = subprocess.run(
            [self.cloud.folder / 'bin' / 'freezer', *arguments],
            env={'PATH': os.environ['PATH'], **self.cloud.environ(), **env},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout
