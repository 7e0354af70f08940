"""The API of Nova, version 2.

Imported when it is used: it needs the extra ``openstack``.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from freezer.engine.openstack.service import Service
from freezer.engine.openstack.volumes import is_missing, pauses
from freezer.exceptions import CloudError
from freezer.storage.exceptions import NotFound
from freezer.utils.progress import Progress
from freezer.utils.text import printable

#: a server, flavor or attachment, as the API shows it
Record = Mapping[str, Any]

# Of 2019 (Train): the first that shows whether a volume is deleted with its server.
_MICROVERSION: Final = '2.79'


class Servers:
    """The servers that the credentials can see.

    :param patience: seconds to wait for a server
    """

    def __init__(
        self, cloud: str | None, budget: float, patience: float, progress: Progress
    ) -> None:
        self._service = Service(
            *(cloud, 'compute', 'Nova', '2', budget, progress),
            microversion=_MICROVERSION,
        )
        self._patience = patience

    @property
    def project(self) -> str:
        """The ID of the project that the credentials are for."""
        return self._service.project

    def get(self, server: str) -> Record:
        """:raises CloudError: there is no such server"""
        return self._content('server', 'GET', _path(server))

    def find(self, **query: str) -> Iterator[Record]:
        """The servers with these properties, in no order."""
        return self._service.pages('/servers/detail', 'servers', query)

    def volumes(self, server: str) -> list[Record]:
        """The attachments of its volumes."""
        path = f'{_path(server)}/os-volume_attachments'
        return list(self._service.document('GET', path)['volumeAttachments'])

    def flavors(self) -> Iterator[Record]:
        """Those that the project may use."""
        return self._service.pages('/flavors/detail', 'flavors')

    def has_keypair(self, name: str) -> bool:
        """Whether the user has a key pair with this name."""
        return self._has(f'/os-keypairs/{quote(name, safe="")}')

    def has_group(self, group: str) -> bool:
        """Whether the project has a server group with this ID."""
        return self._has(f'/os-server-groups/{quote(group, safe="")}')

    def _has(self, path: str) -> bool:
        try:
            self._service.call('GET', path)
        except CloudError as error:
            if is_missing(error):
                return False
            raise
        return True

    def zones(self) -> list[str]:
        """The names of the availability zones that are up."""
        found = self._service.document('GET', '/os-availability-zone')
        return [
            str(each['zoneName'])
            for each in found['availabilityZoneInfo']
            if each['zoneState']['available']
        ]

    def make_image(self, server: str, name: str) -> str:
        """Begin to copy the root disk into a new image; returns its ID.

        :raises CloudError: Nova refuses it
        """
        action = {'createImage': {'name': name}}
        found = self._service.document('POST', f'{_path(server)}/action', json=action)
        return str(found['image_id'])

    def create(self, fields: Record, hints: Record) -> str:
        """Begin to create a server; returns its ID.

        :raises CloudError: Nova refuses it, such as for a quota
        """
        body = {'server': fields, **({'os:scheduler_hints': hints} if hints else {})}
        return str(self._content('server', 'POST', '/servers', json=body)['id'])

    def set_metadata(self, server: str, metadata: Record) -> None:
        """Replace all metadata of a server.

        :raises CloudError: Nova refuses it
        """
        path = f'{_path(server)}/metadata'
        self._service.call('PUT', path, json={'metadata': metadata})

    def delete(self, server: str) -> None:
        """Delete a server, if it is there, and wait until it is gone.

        :raises CloudError: it cannot be deleted
        """

        def attempt() -> None:
            with contextlib.suppress(NotFound):
                self._service.request('DELETE', _path(server))

        self._service.run(attempt)
        self._wait(server, lambda _found: False, 'gone')

    def wait(self, server: str, cancelled: threading.Event | None = None) -> Record:
        """A server, once it is active.

        :raises CloudError: it fails, disappears, or takes too long
        """

        def is_ready(found: Record) -> bool:
            return bool(found['status'] == 'ACTIVE')

        found = self._wait(server, is_ready, 'active', cancelled)
        if found is None:
            raise CloudError(
                f'server {server} disappeared before it was active: somebody deleted it'
            )
        return found

    def _wait(
        self,
        server: str,
        is_ready: Callable[[Record], bool],
        wanted: str,
        cancelled: threading.Event | None = None,
    ) -> Record | None:
        """:returns: None if it is gone"""
        for _time in pauses(self._patience, cancelled):
            try:
                found = self.get(server)
            except CloudError as error:
                if is_missing(error):
                    return None
                raise
            if is_ready(found):
                return found
            if found['status'] == 'ERROR' and wanted != 'gone':
                reason = (found.get('fault') or {}).get('message', '')
                text = f': {printable(str(reason))}' if reason else ''
                raise CloudError(f'{label(found)} has status ERROR{text}')
        raise CloudError(
            f'{label(found)} has status {found["status"]} and was not {wanted} within '
            f'{self._patience:g} s: see why in Nova, or raise --openstack-timeout'
        )

    def _content(self, kind: str, method: str, path: str, **request: Any) -> Record:
        found = self._service.document(method, path, **request).get(kind)
        if not isinstance(found, dict) or 'id' not in found:
            raise CloudError('Nova answered with an object of another kind')
        return found


def label(record: Record) -> str:
    name = printable(json.dumps(record.get('name'), ensure_ascii=False))
    return f'server {name} ({record["id"]})'


def _path(server: str) -> str:
    return f'/servers/{quote(server, safe="")}'
