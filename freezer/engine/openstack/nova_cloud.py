"""Servers that are backed up and restored.

Imported when it is used: it needs the extra ``openstack``.
"""

import contextlib
import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from freezer.engine.blocks.joined import JoinedImage
from freezer.engine.blocks.source import Image
from freezer.engine.openstack.choice import Choice
from freezer.engine.openstack.cinder_cloud import CinderCloud
from freezer.engine.openstack.networks import Networks
from freezer.engine.openstack.restored_server import RestoredServer
from freezer.engine.openstack.server_plan import plan
from freezer.engine.openstack.server_record import Disk, Record, ServerState
from freezer.engine.openstack.server_temporaries import ServerTemporaries
from freezer.engine.openstack.servers import Servers, label
from freezer.engine.openstack.temporary import KEY, VALUE
from freezer.engine.openstack.transfer import opened_snapshot
from freezer.exceptions import EngineError
from freezer.utils.progress import Progress

_CHOICE: Final = Choice('server', 'nova-inst-id', ('BUILD', 'DELETED', 'SOFT_DELETED'))
_READABLE: Final = ('ACTIVE', 'SHUTOFF', 'PAUSED', 'SUSPENDED')
_TASK: Final = 'OS-EXT-STS:task_state'


class ServerImage(JoinedImage):
    """The disks of a server.

    :ivar disks: in their order
    """

    def __init__(self, images: Sequence[Image], disks: Sequence[Disk]) -> None:
        super().__init__(images)
        self.disks = disks


class NovaCloud:
    """Nova, Neutron and Cinder, and Glance where it is needed. None is contacted before
    it is used.

    :raises ConfigError: there are no credentials
    """

    def __init__(self, options: Mapping[str, Any], progress: Progress) -> None:
        self._options = options
        self._progress = progress
        self._patience = float(options['openstack_timeout'])
        self._budget = float(options['openstack_retry_budget'])
        self._cinder = CinderCloud(options, progress)

    @functools.cached_property
    def servers(self) -> Servers:
        cloud = self._options['os_cloud']
        return Servers(cloud, self._budget, self._patience, self._progress)

    @functools.cached_property
    def networks(self) -> Networks:
        return Networks(self._options['os_cloud'], self._budget, self._progress)

    def _temporaries(
        self, cancelled: threading.Event | None = None
    ) -> ServerTemporaries:
        """For one backup or restore. Removes what killed runs have left."""
        found = ServerTemporaries(
            *(self.servers, self.networks, self._cinder.volumes),
            *(lambda: self._cinder.images, self._patience, cancelled),
        )
        found.remove_leftovers()
        return found

    def only(self, name: str) -> str:
        """The ID of the server with a name."""
        # Nova takes a name for a pattern.
        return _CHOICE.only(name, self.servers.find())

    def of_project(self, project: str) -> Sequence[str]:
        """The IDs of all servers of a project that have disks."""
        query = {}
        if project != self.servers.project:
            # Only administrators may.
            query = {'all_tenants': '1', 'project_id': project}
        found = (
            (each, label(each))
            for each in self.servers.find(**query)
            if each.get('metadata', {}).get(KEY) != VALUE
        )
        return _CHOICE.with_data(found, f' of project {project}')

    def readable(self, server: str) -> Record:
        """The record of a server.

        :raises EngineError: it cannot be backed up
        """
        record = self.servers.get(server)
        named, status = label(record), record['status']
        if status not in _READABLE or record.get(_TASK):
            task = record.get(_TASK)
            doing = f' and task {task}' if task else ''
            raise EngineError(
                f'{named} has status {status}{doing}: only a server that is active, '
                f'shut off, paused or suspended, and without a task, can be backed up'
            )
        for attached in self._attached(record):
            self._cinder.readable(attached['volumeId'])
        return record

    @staticmethod
    def label(record: Record) -> str:
        return label(record)

    def lost(self, record: Record) -> Iterator[str]:
        """The disks of a server that no image or snapshot has."""
        flavor = record['flavor']
        for key in ('ephemeral', 'swap'):
            if flavor.get(key):
                yield f'{label(record)}: its {key} disk has no snapshot: left out'

    def _attached(self, record: Record) -> list[Record]:
        """The attachments of its volumes, the one that boots first."""
        found = self.servers.volumes(record['id'])
        names = [str(each.get('device') or '') for each in found]
        # vdb comes before vdaa.
        order = sorted(range(len(found)), key=lambda n: (len(names[n]), names[n]))
        return [found[number] for number in order]

    def ports(self, server: str) -> list[Record]:
        """The ports of a server, with the names of their networks and groups."""
        return [
            {**port, **self._names(port)}
            for port in self.networks.find('ports', device_id=server)
        ]

    def _names(self, port: Record) -> dict[str, Any]:
        network = self.networks.get('networks', port['network_id']) or {}
        groups = {}
        for each in port.get('security_groups') or ():
            found = self.networks.get('security-groups', each)
            groups[each] = found['name'] if found else each
        return {
            'network_name': network.get('name', ''),
            'security_group_names': groups,
        }

    @contextlib.contextmanager
    def image(self, record: Record, cancelled: threading.Event) -> Iterator[Image]:
        """The disks of a server, as they are now.

        :param cancelled: set when nobody reads the rest
        """
        temporaries = self._temporaries(cancelled)
        transfer = self._options['cinder_transfer']
        attached = self._attached(record)
        volumes = [self._cinder.readable(each['volumeId'])[0] for each in attached]
        with contextlib.ExitStack() as stack:
            waits = []
            # Empty if it boots from a volume.
            if record.get('image'):
                waits.append(stack.enter_context(temporaries.image_of_server(record)))
            snapshots = stack.enter_context(temporaries.snapshots(volumes))
            images: list[Image] = []
            disks = []
            for wait in waits:
                found = wait()
                images.append(stack.enter_context(temporaries.download(found)))
                disks.append(Disk(images[-1].size, found, None))
            for snapshot, volume, each in zip(
                snapshots, volumes, attached, strict=True
            ):
                opened = opened_snapshot(temporaries, snapshot, transfer)
                images.append(stack.enter_context(opened))
                disks.append(Disk(images[-1].size, volume, each))
            if not disks:
                raise EngineError(f'{label(record)} has no disk')
            yield ServerImage(images, disks)

    @staticmethod
    def disks(image: Image) -> Sequence[Disk]:
        """:param image: of :meth:`image`"""
        assert isinstance(image, ServerImage)
        return image.disks

    def restored(self, state: ServerState) -> RestoredServer:
        """The server that a restore creates.

        :raises RestoreError: the cloud lacks something it needs
        """
        # Leftovers may have the addresses that it needs.
        temporaries = self._temporaries()
        return RestoredServer(
            *(self.servers, self.networks, self._cinder.volumes),
            temporaries,
            state,
            plan(state, self.servers, self.networks, self._options),
            self._options['cinder_transfer'],
        )
