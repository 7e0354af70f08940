"""The API of Cinder, version 3.

Imported when it is used: it needs the extra ``openstack``.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from freezer.engine.openstack.service import Service
from freezer.exceptions import CloudError
from freezer.storage.exceptions import NotFound
from freezer.utils.progress import Progress
from freezer.utils.text import printable

#: a volume, snapshot or attachment, as the API shows it
Record = Mapping[str, Any]

VOLUMES: Final = 'volumes'
SNAPSHOTS: Final = 'snapshots'

# Of 2018 (Rocky): the first with the mode of an attachment.
_MICROVERSION: Final = '3.54'
_PAGE: Final = '500'
# Seconds for a connection; and for the response, which waits for the backend. A second
# attempt would find the volume reserved by the first.
_ATTACH_TIMEOUT: Final = (15.0, 600.0)
# Seconds between two questions for a status.
_SHORTEST: Final = 0.1
_LONGEST: Final = 5.0


class Volumes:
    """The volumes and snapshots that the credentials can see.

    :param patience: seconds to wait for a volume or snapshot to become ready
    """

    def __init__(
        self, cloud: str | None, budget: float, patience: float, progress: Progress
    ) -> None:
        self._service = Service(
            *(cloud, 'block-storage', 'Cinder', '3', budget, progress),
            microversion=_MICROVERSION,
        )
        self._patience = patience

    @property
    def project(self) -> str:
        """The ID of the project that the credentials are for."""
        return self._service.project

    def get(self, kind: str, item: str) -> Record:
        """:raises CloudError: there is no such volume or snapshot"""
        return _content(self._service.document('GET', _path(kind, item)))

    def find(self, kind: str, **query: str) -> Iterator[Record]:
        """The volumes or snapshots with these properties, in no order."""
        return self._service.pages(f'/{kind}/detail', kind, {**query, 'limit': _PAGE})

    def create(self, kind: str, fields: Record) -> Record:
        """Begin to create a volume or snapshot; see :meth:`wait`.

        :raises CloudError: Cinder refuses it, such as for a quota
        """
        body = {_singular(kind): fields}
        return _content(self._service.document('POST', f'/{kind}', json=body))

    def update(self, volume: str, fields: Record) -> None:
        """:raises CloudError: Cinder refuses it"""
        body = {'volume': fields}
        self._service.call('PUT', _path(VOLUMES, volume), json=body)

    def set_metadata(self, volume: str, metadata: Record) -> None:
        """Replace all metadata of a volume.

        :raises CloudError: Cinder refuses it
        """
        path = f'{_path(VOLUMES, volume)}/metadata'
        self._service.call('PUT', path, json={'metadata': metadata})

    def act(self, volume: str, action: str, arguments: Record) -> Any:
        """The response to an action on a volume.

        :raises CloudError: Cinder refuses it
        """
        path = f'{_path(VOLUMES, volume)}/action'
        return self._service.call('POST', path, json={action: arguments})

    def upload(self, volume: str, name: str) -> str:
        """Begin to copy a volume into a new raw image; returns the ID of the image.

        :raises CloudError: Cinder refuses it
        """
        fields = {
            'image_name': name,
            'disk_format': 'raw',
            'container_format': 'bare',
            'visibility': 'private',
        }
        response = self.act(volume, 'os-volume_upload_image', fields)
        return str(response.json()['os-volume_upload_image']['image_id'])

    def attach(self, volume: str, mode: str, connector: Record) -> Record:
        """Attach a volume to no server, but to this machine.

        :param mode: ``ro`` or ``rw``
        :returns: the attachment, with its connection_info
        :raises CloudError: Cinder refuses it
        """
        fields = {'volume_uuid': volume, 'mode': mode, 'connector': connector}
        body = {'attachment': fields}
        document = self._service.document(
            'POST', '/attachments', json=body, timeout=_ATTACH_TIMEOUT
        )
        return _content(document)

    def detach_all(self, volume: str) -> None:
        """Delete the attachments of a volume that are to no server.

        :raises CloudError: one cannot be deleted
        """
        query = {'volume_id': volume}
        found = self._service.document('GET', '/attachments', params=query)
        for each in found.get('attachments', ()):
            # A server may have been faster.
            if not each.get('instance'):
                self._delete(f'/attachments/{quote(each["id"], safe="")}')

    def delete(self, kind: str, item: str) -> None:
        """Delete a volume or snapshot, if it is there, and wait until it is gone.

        :raises CloudError: it cannot be deleted
        """

        def ask_again(found: Record) -> bool:
            # Its backend was busy, so Cinder has given up.
            if found['status'] == 'available':
                self._delete(_path(kind, item))
            return False

        self._delete(_path(kind, item))
        self._wait(kind, item, ask_again, 'gone')

    def _delete(self, path: str) -> None:
        def attempt() -> None:
            with contextlib.suppress(NotFound):
                self._service.request('DELETE', path)

        self._service.run(attempt)

    def wait(
        self, kind: str, item: str, cancelled: threading.Event | None = None
    ) -> Record:
        """A volume or snapshot, once it is available.

        :raises CloudError: it fails, disappears, or takes too long
        """

        def is_ready(found: Record) -> bool:
            return bool(found['status'] == 'available')

        found = self._wait(kind, item, is_ready, 'available', cancelled)
        if found is None:
            raise CloudError(
                f'{_singular(kind)} {item} disappeared before it was available: '
                f'somebody, or Cinder, deleted it'
            )
        return found

    def _wait(
        self,
        kind: str,
        item: str,
        is_ready: Callable[[Record], bool],
        wanted: str,
        cancelled: threading.Event | None = None,
    ) -> Record | None:
        """:returns: None if it is gone"""
        for _time in pauses(self._patience, cancelled):
            try:
                found = self.get(kind, item)
            except CloudError as error:
                if is_missing(error):
                    return None
                raise
            if is_ready(found):
                return found
            status = str(found['status'])
            if 'error' in status:
                raise CloudError(
                    f'{label(kind, found)} has status {status}, not {wanted}'
                    f'{self._reason(item)}'
                )
        raise CloudError(
            f'{label(kind, found)} has status {found["status"]} and was not {wanted} '
            f'within {self._patience:g} s: see why in Cinder, or raise '
            f'--openstack-timeout'
        )

    def _reason(self, item: str) -> str:
        """What Cinder lets the user know about an error; empty if that is nothing."""
        query = {'resource_uuid': item, 'sort': 'created_at:desc', 'limit': '1'}
        try:
            found = self._service.document('GET', '/messages', params=query)
        except CloudError:
            return ''
        texts = [each.get('user_message', '') for each in found.get('messages', ())]
        return f': {printable(texts[0])}' if texts else ''


def pauses(
    patience: float, cancelled: threading.Event | None = None
) -> Iterator[float]:
    """Seconds since the start, again and again with growing pauses, until time is up.

    :raises CloudError: the event was set
    """
    cancelled = cancelled or threading.Event()
    start, pause = time.monotonic(), _SHORTEST
    while True:
        elapsed = time.monotonic() - start
        yield elapsed
        left = patience - (time.monotonic() - start)
        if left <= 0:
            return
        if cancelled.wait(min(pause, left)):
            raise CloudError('cancelled because another part of the backup failed')
        pause = min(pause * 1.5, _LONGEST)


def is_missing(error: CloudError) -> bool:
    """Whether a request failed because what it names does not exist."""
    return isinstance(error.__cause__, NotFound)


def label(kind: str, record: Record) -> str:
    name = printable(json.dumps(record.get('name'), ensure_ascii=False))
    return f'{_singular(kind)} {name} ({record["id"]})'


def _singular(kind: str) -> str:
    return kind.removesuffix('s')


def _content(document: Record) -> Record:
    """:raises CloudError: it is not one object with an ID"""
    values = list(document.values())
    if len(values) != 1 or not isinstance(values[0], dict) or 'id' not in values[0]:
        raise CloudError('Cinder answered with an object of another kind')
    return dict(values[0])


def _path(kind: str, item: str) -> str:
    return f'/{kind}/{quote(item, safe="")}'
