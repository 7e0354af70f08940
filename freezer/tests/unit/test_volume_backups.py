"""Cinder's own backups: waiting, failures, and the choice of a rotation."""

from collections.abc import Sequence
from typing import Any

import pytest

from freezer.engine.openstack import volume_backups
from freezer.engine.openstack.volume_backups import (
    NewBackup,
    VolumeBackup,
    VolumeBackups,
    outdated,
)
from freezer.exceptions import CloudError
from freezer.storage.exceptions import NotFound


def record(status: str, **changes: Any) -> dict[str, Any]:
    return {
        'id': 'b1',
        'volume_id': 'v1',
        'name': 'bk',
        'status': status,
        'created_at': '2026-11-30T12:00:00.000000',
        'is_incremental': False,
        'size': 1,
        **changes,
    }


class Scripted:
    """In place of the service: the statuses that it shows, one after the other."""

    def __init__(self, statuses: Sequence[dict[str, Any] | None]) -> None:
        self.statuses = list(statuses)
        self.deleted: list[str] = []
        self.is_busy = False

    def document(self, method: str, path: str, **_request: Any) -> dict[str, Any]:
        if method == 'POST':
            if path.endswith('/restore'):
                return {'restore': {'volume_id': 'v2'}}
            return {'backup': {'id': 'b1'}}
        if path.startswith('/volumes'):
            return {'volume': {'status': 'available'}}
        found = self.statuses.pop(0)
        if found is None:
            raise CloudError('not found (HTTP 404)') from NotFound('not found')
        return {'backup': found}

    def request(self, _method: str, path: str) -> None:
        if self.is_busy:
            raise CloudError('its status must be another (HTTP 400)')
        self.deleted.append(path)

    def call(self, method: str, path: str) -> None:
        self.request(method, path)

    def run(self, call: Any) -> Any:
        return call()


def scripted(*statuses: dict[str, Any] | None) -> tuple[VolumeBackups, Scripted]:
    backups = VolumeBackups.__new__(VolumeBackups)
    service = Scripted(statuses)
    backups._service = service  # type: ignore[assignment]
    backups._patience = 0.5
    return backups, service


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume_backups, '_SHORTEST', 0.0)


def test_a_backup_is_waited_for() -> None:
    backups, service = scripted(record('creating'), record('available'))
    assert backups.create(NewBackup('v1', 'bk')).status == 'available'
    assert service.deleted == []


@pytest.mark.parametrize(
    'statuses, said',
    [
        (
            (record('creating'), record('error', fail_reason='no space')),
            'backup "bk" (b1) has status error: the backup failed: no space',
        ),
        ((record('creating'), None), 'backup b1 disappeared before it was complete'),
    ],
)
def test_a_backup_that_fails_is_deleted(
    statuses: Sequence[dict[str, Any] | None], said: str
) -> None:
    backups, service = scripted(*statuses)
    with pytest.raises(CloudError) as raised:
        backups.create(NewBackup('v1', 'bk'))
    assert said in str(raised.value)
    assert service.deleted == ['/backups/b1']


def test_a_wait_has_a_limit() -> None:
    backups, _service = scripted(*[record('creating')] * 1000)
    backups._patience = 0.0
    with pytest.raises(CloudError, match='raise --openstack-timeout'):
        backups.create(NewBackup('v1', 'bk'))


def test_the_volume_of_a_restore_that_fails_is_deleted() -> None:
    backups, service = scripted(record('available'), record('restoring'), None)
    found = backups.get('b1')
    with pytest.raises(CloudError, match='was deleted during the restore'):
        backups.restore(found, None)
    assert service.deleted == ['/volumes/v2']


def test_what_cinder_is_still_at_remains_and_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backups, service = scripted(*[record('creating')] * 1000)
    backups._patience = 0.0
    service.is_busy = True
    with pytest.raises(CloudError, match='was not complete within'):
        backups.create(NewBackup('v1', 'bk'))
    with pytest.raises(CloudError, match='was not restored within'):
        backups.restore(backups.get('b1'), None)
    said = [each.getMessage() for each in caplog.records]
    assert [text.partition(' remains')[0] for text in said] == [
        'backup b1',
        'volume v2 is incomplete and',
    ]


def made(kinds: str) -> list[VolumeBackup]:
    """F: full, I: incremental, E: a full one that failed, C: one being made."""
    statuses = {'F': 'available', 'I': 'available', 'E': 'error', 'C': 'creating'}
    return [
        VolumeBackup(
            str(number), 'v1', 'bk', statuses[kind], '', number, kind == 'I', 1, True
        )
        for number, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize(
    'kinds, count, deleted',
    [
        ('', 1, ''),
        ('F', 1, ''),
        ('FII', 1, ''),
        ('FIIF', 1, '210'),
        ('FIFIFI', 2, '10'),
        ('FIFIFI', 3, ''),
        # A backup that failed, or is not complete, keeps none of the others away.
        ('FIE', 1, ''),
        ('FIC', 1, ''),
        ('FEFI', 1, '10'),
        # Whatever an increment is based on, it is deleted with what is older.
        ('IFIF', 1, '210'),
    ],
)
def test_rotation(kinds: str, count: int, deleted: str) -> None:
    found = outdated(made(kinds), count)
    assert ''.join(each.id for each in found) == deleted
