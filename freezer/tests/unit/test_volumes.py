"""Volumes of Cinder: what becomes of a deletion."""

from collections.abc import Sequence
from typing import Any

import pytest

from freezer.engine.openstack import volumes as module
from freezer.engine.openstack.volumes import SNAPSHOTS, VOLUMES, Volumes
from freezer.exceptions import CloudError
from freezer.storage.exceptions import NotFound


class Scripted:
    """In place of the service: the statuses that a volume has, one after the other."""

    def __init__(self, statuses: Sequence[str]) -> None:
        self.statuses = list(statuses)
        self.requests: list[str] = []
        self.attachments: list[dict[str, Any]] = []

    def document(self, _method: str, path: str, **_request: Any) -> dict[str, Any]:
        if path == '/attachments':
            return {'attachments': self.attachments}
        if path == '/messages':
            return {}
        if not self.statuses:
            raise CloudError('not found (HTTP 404)') from NotFound('not found')
        return {'volume': {'id': 'v1', 'name': 'x', 'status': self.statuses.pop(0)}}

    def request(self, method: str, path: str) -> None:
        self.requests.append(f'{method} {path}')

    def run(self, call: Any) -> Any:
        return call()


def scripted(*statuses: str) -> tuple[Volumes, Scripted]:
    volumes = Volumes.__new__(Volumes)
    service = Scripted(statuses)
    volumes._service = service  # type: ignore[assignment]
    volumes._patience = 5.0
    return volumes, service


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, '_SHORTEST', 0.0)


@pytest.mark.parametrize('kind', [VOLUMES, SNAPSHOTS])
def test_what_was_busy_is_deleted_again(kind: str) -> None:
    volumes, service = scripted('deleting', 'available', 'deleting')
    volumes.delete(kind, 'v1')
    assert service.requests == [f'DELETE /{kind}/v1'] * 2


def test_a_deletion_that_fails() -> None:
    volumes, _service = scripted('deleting', 'error_deleting')
    with pytest.raises(CloudError, match='has status error_deleting, not gone'):
        volumes.delete(VOLUMES, 'v1')


def test_attachments_of_servers_are_left() -> None:
    volumes, service = scripted()
    service.attachments = [
        {'id': 'a1', 'instance': None},
        {'id': 'a2', 'instance': 'server'},
    ]
    volumes.detach_all('v1')
    assert service.requests == ['DELETE /attachments/a1']
