"""Backups that Cinder itself makes of volumes, in the store of cinder-backup.

Imported when it is used: it needs the extra ``openstack``.
"""

import contextlib
import datetime
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlsplit

from freezer.engine.openstack.service import Service
from freezer.exceptions import CloudError
from freezer.storage.exceptions import NotFound
from freezer.utils.progress import Progress
from freezer.utils.text import NOTICES, printable

LOG = logging.getLogger(__name__)

#: metadata of the backups that this agent and Freezer 19 make
CREATOR: Final = ('created_by', 'freezer')
# With metadata; and with the availability zone, of 2018 (Rocky).
_PLAIN: Final = '3.43'
_ZONED: Final = '3.51'
_PAGE: Final = '500'
# Seconds for a connection; and for the response, before which Cinder creates a volume.
# A second attempt would be refused.
_START_TIMEOUT: Final = (15.0, 600.0)
# Seconds between two questions for a status.
_SHORTEST: Final = 0.2
_LONGEST: Final = 5.0


@dataclass(frozen=True)
class VolumeBackup:
    """One backup, as Cinder has it.

    :param created: epoch seconds
    :param own: whether an agent made it
    """

    id: str
    volume: str
    name: str
    status: str
    reason: str
    created: float
    incremental: bool
    size: int
    own: bool

    @property
    def label(self) -> str:
        return f'backup {printable(json.dumps(self.name))} ({self.id})'


@dataclass(frozen=True)
class NewBackup:
    """What to back up.

    :param container: bucket or the like of the store; None for Cinder's own
    :param zone: availability zone of the store; None for that of the volume
    """

    volume: str
    name: str
    incremental: bool = False
    container: str | None = None
    zone: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


class VolumeBackups:
    """The backups of volumes that the credentials can see.

    :param patience: seconds to wait for a backup, restore or removal
    """

    def __init__(
        self, cloud: str | None, budget: float, patience: float, progress: Progress
    ) -> None:
        self._service = Service(
            *(cloud, 'block-storage', 'Cinder', '3', budget, progress),
            microversion=_PLAIN,
        )
        self._patience = patience

    def find(self, volume: str | None = None) -> list[VolumeBackup]:
        """The backups of a volume, or of all, the oldest first."""
        query = {'limit': _PAGE, **({'volume_id': volume} if volume else {})}
        found = [_of(each) for each in self._pages(query)]
        return sorted(found, key=lambda each: each.created)

    def _pages(self, query: dict[str, str]) -> Iterator[Mapping[str, Any]]:
        while True:
            page = self._service.document('GET', '/backups/detail', params=query)
            yield from page.get('backups', ())
            links = page.get('backups_links') or ()
            following = [each['href'] for each in links if each.get('rel') == 'next']
            if not following:
                return
            query = dict(parse_qsl(urlsplit(following[0]).query))

    def get(self, backup: str) -> VolumeBackup:
        """:raises CloudError: there is no such backup"""
        return _of(self._service.document('GET', _path(backup))['backup'])

    def check_volume(self, volume: str) -> None:
        """:raises CloudError: there is no such volume"""
        self._volume(volume)

    def _volume(self, volume: str) -> Mapping[str, Any]:
        path = f'/volumes/{quote(volume, safe="")}'
        found: Mapping[str, Any] = self._service.document('GET', path)['volume']
        return found

    def create(self, new: NewBackup) -> VolumeBackup:
        """A backup that is complete. One that fails is deleted; one that is still being
        made, as after a signal, cannot be.

        :raises CloudError: Cinder refuses it, such as for a quota; or it fails
        """
        fields: dict[str, Any] = {
            'volume_id': new.volume,
            'name': new.name,
            'incremental': new.incremental,
            # Also of a volume that is attached to a server.
            'force': True,
            'metadata': {**new.metadata, **dict([CREATOR])},
        }
        if new.container:
            fields['container'] = new.container
        headers = {}
        if new.zone:
            fields['availability_zone'] = new.zone
            headers['OpenStack-API-Version'] = f'volume {_ZONED}'
        made = self._service.document(
            *('POST', '/backups'),
            json={'backup': fields},
            headers=headers,
            timeout=_START_TIMEOUT,
        )['backup']
        try:
            return self._wait(made['id'])
        except BaseException:
            try:
                self._delete(made['id'])
            except CloudError as error:
                NOTICES.warning(
                    'backup %s remains, and Cinder may still be making it: delete it '
                    'later if it is not wanted: %s',
                    *(made['id'], error),
                )
            raise

    def _wait(self, backup: str) -> VolumeBackup:
        """:raises CloudError: it fails, is deleted, or takes too long"""
        for found in self._asked(backup):
            if found is None:
                raise CloudError(
                    f'backup {backup} disappeared before it was complete: somebody, or '
                    f'Cinder, deleted it'
                )
            if found.status == 'available':
                return found
            if found.status.startswith('error'):
                raise CloudError(_failed(found, 'the backup failed'))
        raise CloudError(
            f'backup {backup} was not complete within {self._patience:g} s: see its '
            f'status in Cinder, or raise --openstack-timeout'
        )

    def _asked(self, backup: str) -> Iterator[VolumeBackup | None]:
        """A backup, again and again until time is up; None once it is gone."""
        end, pause = time.monotonic() + self._patience, _SHORTEST
        while True:
            try:
                yield self.get(backup)
            except CloudError as error:
                if not isinstance(error.__cause__, NotFound):
                    raise
                yield None
                return
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, _LONGEST)

    def delete(self, backup: VolumeBackup) -> None:
        """Delete a backup, if it is there, and wait until it is gone.

        :raises CloudError: others depend on it; or it cannot be deleted
        """
        self._delete(backup.id)
        for found in self._asked(backup.id):
            if found is None:
                return
            if found.status.startswith('error'):
                raise CloudError(_failed(found, 'it cannot be deleted'))
        raise CloudError(
            f'{backup.label} was not deleted within {self._patience:g} s: see its '
            f'status in Cinder, or raise --openstack-timeout'
        )

    def _delete(self, backup: str) -> None:
        def attempt() -> None:
            with contextlib.suppress(NotFound):
                self._service.request('DELETE', _path(backup))

        self._service.run(attempt)

    def restore(self, backup: VolumeBackup, name: str | None) -> str:
        """Restore into a new volume; returns its ID. If it fails, the volume is
        deleted, unless Cinder is still writing it.

        :raises CloudError: Cinder refuses it, or it fails
        """
        fields = {'name': name} if name else {}
        answer = self._service.document(
            *('POST', f'{_path(backup.id)}/restore'),
            json={'restore': fields},
            timeout=_START_TIMEOUT,
        )
        volume = str(answer['restore']['volume_id'])
        try:
            self._wait_restored(backup, volume)
        except BaseException:
            try:
                self._service.call('DELETE', f'/volumes/{quote(volume, safe="")}')
            except CloudError as error:
                NOTICES.warning(
                    'volume %s is incomplete and remains, and Cinder may still be '
                    'writing it: delete it later: %s',
                    *(volume, error),
                )
            raise
        return volume

    def _wait_restored(self, backup: VolumeBackup, volume: str) -> None:
        # The volume is created before it is restored: its status comes in between.
        for found in self._asked(backup.id):
            if found is None:
                raise CloudError(f'{backup.label} was deleted during the restore')
            if found.status.startswith('error'):
                raise CloudError(_failed(found, 'it cannot be restored'))
            status = str(self._volume(volume)['status'])
            if status.startswith('error'):
                raise CloudError(
                    f'volume {volume} has status {status} after the restore of '
                    f'{backup.label}: see the log of cinder-backup'
                )
            if found.status == 'available' and status == 'available':
                return
        raise CloudError(
            f'{backup.label} was not restored within {self._patience:g} s: see its '
            f'status in Cinder, or raise --openstack-timeout'
        )


def outdated(backups: Sequence[VolumeBackup], count: int) -> list[VolumeBackup]:
    """What a rotation deletes: all that is older than the newest full backups, in the
    order in which it can be deleted.

    :param backups: of one volume, the oldest first
    :param count: of full backups to keep, at least 1
    """
    full = [
        each
        for each in backups
        if not each.incremental and each.status in ('available', 'restoring')
    ]
    if len(full) <= count:
        return []
    oldest = full[-count]
    old = backups[: backups.index(oldest)]
    return [each for each in reversed(old) if each.status in ('available', 'error')]


def _of(record: Mapping[str, Any]) -> VolumeBackup:
    """:raises CloudError: it is not the record of a backup"""
    key, value = CREATOR
    try:
        made = datetime.datetime.fromisoformat(record['created_at'])
        if made.tzinfo is None:
            # Cinder has UTC without an offset.
            made = made.replace(tzinfo=datetime.UTC)
        return VolumeBackup(
            id=record['id'],
            volume=record['volume_id'],
            name=record.get('name') or '',
            status=record['status'],
            reason=record.get('fail_reason') or '',
            created=made.timestamp(),
            incremental=bool(record['is_incremental']),
            size=int(record['size']),
            own=(record.get('metadata') or {}).get(key) == value,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise CloudError(
            'Cinder has a backup with an incomplete record: use a newer Cinder'
        ) from error


def _failed(backup: VolumeBackup, result: str) -> str:
    reason = f': {printable(backup.reason)}' if backup.reason else ''
    return f'{backup.label} has status {backup.status}: {result}{reason}'


def _path(backup: str) -> str:
    return f'/backups/{quote(backup, safe="")}'
