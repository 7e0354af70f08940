"""Servers in the Nova of a test, by requests of the test's own."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

import keystoneauth1.exceptions

from freezer.tests.servers.nova import Nova
from freezer.tests.volumes import Volumes

_MICROVERSION = {'OpenStack-API-Version': 'compute 2.79'}
_PATIENCE = 240


class Computer:
    """The servers and networks of one user.

    :ivar volumes: of the same user
    """

    def __init__(self, nova: Nova, volumes: Volumes, user: str) -> None:
        self.nova = nova
        self.volumes = volumes
        cloud = nova.cloud
        self.env: dict[str, str | None] = {**cloud.environ(user)}
        self._session = cloud.session(user)
        self.project: str = self._session.get_project_id()

    def call(self, method: str, path: str, **body: Any) -> Any:
        """A request to Nova."""
        answer = self._session.request(
            f'{self.nova.endpoint}/v2.1{path}',
            method,
            headers={**_MICROVERSION},
            json=body or None,
        )
        return answer.json() if answer.content else None

    def network(self, method: str, path: str, **body: Any) -> Any:
        """A request to Neutron; the one object or list in the answer."""
        url = f'{self.nova.cloud.service("neutron").endpoint}/v2.0{path}'
        answer = self._session.request(url, method, json=body or None)
        return next(iter(answer.json().values())) if answer.content else None

    def make_network(self, name: str, cidr: str) -> str:
        made: str = self.network('POST', '/networks', network={'name': name})['id']
        subnet = {'network_id': made, 'cidr': cidr, 'ip_version': 4}
        self.network('POST', '/subnets', subnet=subnet)
        return made

    def make_flavor(self, name: str, specs: dict[str, str], **fields: int) -> str:
        """By the administrator, for all projects."""
        flavor = {'name': name, 'ram': 64, 'vcpus': 1, 'disk': 1, **fields}
        admin = self.nova.cloud.admin
        url = f'{self.nova.endpoint}/v2.1/flavors'
        made: str = admin.post(url, json={'flavor': flavor}).json()['flavor']['id']
        if specs:
            admin.post(f'{url}/{made}/os-extra_specs', json={'extra_specs': specs})
        return made

    def set_quota(self, **values: int) -> None:
        url = f'{self.nova.endpoint}/v2.1/os-quota-sets/{self.project}'
        self.nova.cloud.admin.put(url, json={'quota_set': values})

    def delete_flavor(self, flavor: str) -> None:
        self.nova.cloud.admin.delete(f'{self.nova.endpoint}/v2.1/flavors/{flavor}')

    def create(
        self,
        flavor: str,
        ports: Sequence[str] = (),
        volume: str | None = None,
        **fields: Any,
    ) -> str:
        """The ID of a server that is active.

        :param volume: that it boots from
        """
        server = {'name': f'vm{uuid.uuid4().hex}', 'flavorRef': flavor, **fields}
        server['networks'] = [{'port': each} for each in ports] or 'none'
        if volume:
            server['block_device_mapping_v2'] = [
                {
                    'boot_index': 0,
                    'uuid': volume,
                    'source_type': 'volume',
                    'destination_type': 'volume',
                    'delete_on_termination': False,
                }
            ]
        made: str = self.call('POST', '/servers', server=server)['server']['id']
        self._until(made, 'ACTIVE')
        return made

    def attach(self, server: str, volume: str) -> None:
        body = {'volumeId': volume}
        self.call(
            'POST', f'/servers/{server}/os-volume_attachments', volumeAttachment=body
        )
        self.volumes.wait('volume', volume, 'in-use')

    def get(self, server: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call('GET', f'/servers/{server}')['server']
        return found

    def attached(self, server: str) -> list[str]:
        """The IDs of its volumes, in the order of their names in the server."""
        path = f'/servers/{server}/os-volume_attachments'
        found = self.call('GET', path)['volumeAttachments']
        return [each['volumeId'] for each in sorted(found, key=lambda x: x['device'])]

    def ports(self, server: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.network('GET', f'/ports?device_id={server}')
        return found

    def listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call('GET', '/servers/detail')['servers']
        return found

    def delete(self, server: str) -> None:
        """Delete, and wait until it is gone."""
        self.call('DELETE', f'/servers/{server}')
        self._until(server, None)

    def delete_all(self) -> None:
        for each in self.listed():
            self.delete(each['id'])
        for what in ('ports', 'networks', 'security-groups'):
            for one in self.network('GET', f'/{what}?project_id={self.project}'):
                if one['name'] != 'default':
                    self.network('DELETE', f'/{what}/{one["id"]}')
        self.volumes.delete_all()

    def _until(self, server: str, status: str | None) -> None:
        end = time.monotonic() + _PATIENCE
        found = None
        while time.monotonic() < end:
            try:
                found = self.get(server)
            except keystoneauth1.exceptions.NotFound:
                assert status is None
                return
            if found['status'] == status:
                return
            assert status is None or found['status'] != 'ERROR', found
            time.sleep(0.1)
        raise AssertionError(found)
