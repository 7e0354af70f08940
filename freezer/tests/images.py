"""Images in the Glance of a test, by requests of the test's own."""

import hashlib
import json
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from freezer.tests.servers.cloud import Cloud
from freezer.tests.servers.glance import Glance

_PATCH = {'Content-Type': 'application/openstack-images-v2.1-json-patch'}
_BINARY = {'Content-Type': 'application/octet-stream'}


class Images:
    """The images of one user, who is a member of the project with the same name."""

    def __init__(self, glance: Glance, user: str) -> None:
        self.glance = glance
        self.user = user
        self.env: dict[str, str | None] = {**self.cloud.environ(user)}
        self._session = self.cloud.session(user)

    @property
    def cloud(self) -> Cloud:
        return self.glance.cloud

    @property
    def project(self) -> str:
        found: str = self._session.get_project_id()
        return found

    def call(
        self, method: str, path: str, headers: Mapping[str, str] = {}, **request: Any
    ) -> Any:
        # keystoneauth adds to the headers.
        return self._session.request(
            f'{self.glance.endpoint}/v2/images{path}',
            method,
            headers={**headers},
            **request,
        )

    def create(self, name: str, data: bytes | None = None, **fields: Any) -> str:
        """Its ID. Without data it stays queued."""
        body = {'name': name, 'disk_format': 'raw', 'container_format': 'bare'}
        made = self.call('POST', '', json=body | fields).json()
        if data is not None:
            self.call('PUT', f'/{made["id"]}/file', data=data, headers=_BINARY)
        found: str = made['id']
        return found

    def record(self, image: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call('GET', f'/{image}').json()
        return found

    def data(self, image: str) -> bytes:
        found: bytes = self.call('GET', f'/{image}/file').content
        return found

    def update(self, image: str, **values: Any) -> None:
        record = self.record(image)
        changes = [
            {
                'op': 'replace' if key in record else 'add',
                'path': f'/{key}',
                'value': value,
            }
            for key, value in values.items()
        ]
        self.call('PATCH', f'/{image}', data=json.dumps(changes), headers=_PATCH)

    def listed(self) -> dict[str, str]:
        """ID -> status, of the images of the project, hidden ones as well."""
        found: dict[str, str] = {}
        for hidden in ('false', 'true'):
            query = {'owner': self.project, 'os_hidden': hidden, 'limit': '1000'}
            answer = self.call('GET', '', params=query).json()
            found |= {each['id']: each['status'] for each in answer['images']}
        return found

    def delete_all(self) -> None:
        for image in self.listed():
            if self.record(image)['protected']:
                self.update(image, protected=False)
            self.call('DELETE', f'/{image}')

    def alter(self, image: str, **columns: object) -> None:
        """Change what Glance has of an image in its database."""
        path = self.cloud.directory / 'glance.db'
        names = ', '.join(f'{name} = ?' for name in columns)
        with closing(sqlite3.connect(path, timeout=30)) as database, database:
            database.execute(
                f'UPDATE images SET {names} WHERE id = ?', (*columns.values(), image)
            )


def random_data(size: int) -> bytes:
    return os.urandom(size)


def is_hash_of(record: Mapping[str, Any], data: bytes) -> bool:
    found: str = record['os_hash_value']
    return found == hashlib.new(record['os_hash_algo'], data).hexdigest()


def clouds_yaml(folder: Path, images: Images, endpoint: str) -> dict[str, str | None]:
    """An environment whose cloud ``test`` has Glance at another place."""
    env = images.env
    auth = {
        key: env[f'OS_{key.upper()}']
        for key in (
            *('auth_url', 'username', 'password', 'project_name'),
            *('user_domain_name', 'project_domain_name'),
        )
    }
    cloud = {'auth': auth, 'image_endpoint_override': f'{endpoint}/v2'}
    path = folder / 'clouds.yaml'
    path.write_text(json.dumps({'clouds': {'test': cloud}}))
    path.chmod(0o600)
    return {
        **dict.fromkeys(env),
        'OS_CLIENT_CONFIG_FILE': str(path),
        'OS_CLOUD': 'test',
    }
