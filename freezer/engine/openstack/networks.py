"""The API of Neutron, version 2.

Imported when it is used: it needs the extra ``openstack``.
"""

import contextlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from freezer.engine.openstack.service import Service
from freezer.engine.openstack.volumes import is_missing
from freezer.exceptions import CloudError
from freezer.storage.exceptions import NotFound
from freezer.utils.progress import Progress

#: a port, network, subnet or security group, as the API shows it
Record = Mapping[str, Any]


class Networks:
    """The networks and ports that the credentials can see."""

    def __init__(self, cloud: str | None, budget: float, progress: Progress) -> None:
        self._service = Service(cloud, 'network', 'Neutron', '2', budget, progress)

    def find(self, kind: str, **query: str) -> list[Record]:
        """
        :param kind: ``ports``, ``networks``, ``subnets`` or ``security-groups``
        :param query: properties that they have
        """
        found = self._service.document('GET', f'/{kind}', params=query)
        return list(found[kind.replace('-', '_')])

    def get(self, kind: str, item: str) -> Record | None:
        """None if there is none, or the credentials cannot see it."""
        path = f'/{kind}/{quote(item, safe="")}'
        try:
            (found,) = self._service.document('GET', path).values()
        except CloudError as error:
            if is_missing(error):
                return None
            raise
        return dict(found)

    def create_port(self, fields: Record) -> Record:
        """:raises CloudError: Neutron refuses it, such as for a quota"""
        found = self._service.document('POST', '/ports', json={'port': fields})
        return dict(found['port'])

    def describe_port(self, port: str, description: str) -> None:
        """:raises CloudError: Neutron refuses it"""
        body = {'port': {'description': description}}
        self._service.call('PUT', f'/ports/{quote(port, safe="")}', json=body)

    def delete_port(self, port: str) -> None:
        """Delete a port, if it is there.

        :raises CloudError: it cannot be deleted
        """

        def attempt() -> None:
            with contextlib.suppress(NotFound):
                self._service.request('DELETE', f'/ports/{quote(port, safe="")}')

        self._service.run(attempt)
