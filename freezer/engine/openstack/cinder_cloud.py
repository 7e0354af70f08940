"""Volumes that are backed up and restored.

Imported when it is used: it needs the extra ``openstack``.
"""

import contextlib
import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from freezer.engine.blocks.source import Image
from freezer.engine.openstack.choice import Choice
from freezer.engine.openstack.images import Images
from freezer.engine.openstack.restored import RestoredResource
from freezer.engine.openstack.restored_volume import ExistingVolume, NewVolume
from freezer.engine.openstack.temporary import KEY, VALUE, Temporaries
from freezer.engine.openstack.transfer import opened_snapshot
from freezer.engine.openstack.volume_record import Record, VolumeState, is_true
from freezer.engine.openstack.volumes import VOLUMES, Volumes, label
from freezer.exceptions import EngineError
from freezer.utils.progress import Progress

_CHOICE: Final = Choice(
    'volume', 'cinder-vol-id', ('creating', 'downloading', 'deleting')
)
_READABLE: Final = ('available', 'in-use')


class CinderCloud:
    """Cinder, and Glance where it is needed. Neither is contacted before it is used.

    :raises ConfigError: there are no credentials
    """

    def __init__(self, options: Mapping[str, Any], progress: Progress) -> None:
        self._options = options
        self._progress = progress
        self._patience = float(options['openstack_timeout'])
        self._budget = float(options['openstack_retry_budget'])

    @functools.cached_property
    def volumes(self) -> Volumes:
        cloud = self._options['os_cloud']
        return Volumes(cloud, self._budget, self._patience, self._progress)

    @functools.cached_property
    def images(self) -> Images:
        return Images(self._options['os_cloud'], self._budget, self._progress)

    def temporaries(self, cancelled: threading.Event | None = None) -> Temporaries:
        """For one backup or restore. Removes what killed runs have left."""
        volumes = self.volumes
        found = Temporaries(volumes, lambda: self.images, self._patience, cancelled)
        found.remove_leftovers()
        return found

    def only(self, name: str) -> str:
        """The ID of the volume with a name."""
        return _CHOICE.only(name, self.volumes.find(VOLUMES, name=name))

    def of_project(self, project: str) -> Sequence[str]:
        """The IDs of all volumes of a project that have data."""
        query = {}
        if project != self.volumes.project:
            # Only administrators may.
            query = {'all_tenants': 'true', 'project_id': project}
        found = (
            (each, label(VOLUMES, each))
            for each in self.volumes.find(VOLUMES, **query)
            if each.get('metadata', {}).get(KEY) != VALUE
        )
        return _CHOICE.with_data(found, f' of project {project}')

    def readable(self, volume: str) -> tuple[Record, str]:
        """The record of a volume, and its name for the user.

        :raises EngineError: the volume cannot be backed up
        """
        record = self.volumes.get(VOLUMES, volume)
        named = label(VOLUMES, record)
        if record['status'] not in _READABLE:
            raise EngineError(
                f'{named} has status {record["status"]}: only a volume that is '
                f'available or in-use can be backed up'
            )
        if is_true(record.get('encrypted')):
            raise EngineError(
                f'{named} is encrypted: its key cannot be backed up, so the backup '
                f'would not restore; back up its files inside the server'
            )
        return record, named

    @contextlib.contextmanager
    def image(self, volume: Record, cancelled: threading.Event) -> Iterator[Image]:
        """The data of a volume, as it is now.

        :param cancelled: set when nobody reads the rest
        """
        temporaries = self.temporaries(cancelled)
        transfer = self._options['cinder_transfer']
        with (
            temporaries.snapshots([volume]) as (snapshot,),
            opened_snapshot(temporaries, snapshot, transfer) as image,
        ):
            yield image

    def restored(self, state: VolumeState) -> RestoredResource:
        """What a restore writes."""
        options, volumes = self._options, self.volumes
        temporaries = self.temporaries()
        if existing := options['cinder_restore_vol_id']:
            size = state.level.size
            return ExistingVolume(volumes, temporaries, existing, size)
        fields = {
            'volume_type': options['cinder_restore_type'],
            'availability_zone': options['cinder_restore_az'],
        }
        name, transfer = options['cinder_restore_name'], options['cinder_transfer']
        return NewVolume(volumes, temporaries, state, fields, name, transfer)
