"""The server that a restore creates, with its disks."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from freezer.engine.blocks.joined import JoinedTarget
from freezer.engine.blocks.target import Target, open_target
from freezer.engine.engine import Restored
from freezer.engine.openstack.networks import Networks
from freezer.engine.openstack.record import ImageState
from freezer.engine.openstack.restored import RestoredResource
from freezer.engine.openstack.restored_volume import FileBody, NewVolume
from freezer.engine.openstack.server_plan import ServerPlan
from freezer.engine.openstack.server_record import Disk, Record, ServerState
from freezer.engine.openstack.server_temporaries import ServerTemporaries
from freezer.engine.openstack.servers import Servers, label
from freezer.engine.openstack.temporary import problems_reported
from freezer.engine.openstack.volume_record import VolumeState
from freezer.engine.openstack.volumes import Volumes


class RestoredServer(RestoredResource):
    """Its ports are created first: whether addresses are free, only Neutron decides.
    Until the end, all is marked as temporary.

    :param transfer: see :func:`freezer.engine.openstack.librbd.check_transfer`
    """

    def __init__(
        self,
        servers: Servers,
        networks: Networks,
        volumes: Volumes,
        temporaries: ServerTemporaries,
        state: ServerState,
        plan: ServerPlan,
        transfer: str | None,
    ) -> None:
        self._servers, self._networks = servers, networks
        self._temporaries = temporaries
        self._state, self._plan = state, plan
        self._disks = [self._disk(each, volumes, transfer) for each in state.disks]
        self._existence = contextlib.ExitStack()
        self._ports: list[Record] = []

    def _disk(
        self, disk: Disk, volumes: Volumes, transfer: str | None
    ) -> 'NewVolume | _RootImage':
        if not disk.is_volume:
            return _RootImage(self._temporaries, disk)
        known = VolumeState(disk.record, self._state.level_of(disk))
        return NewVolume(volumes, self._temporaries, known, {}, None, transfer)

    @contextlib.contextmanager
    def opened(self, is_new: bool) -> Iterator[Target]:
        if is_new:
            for fields in self._plan.ports:
                port = self._temporaries.port(fields)
                self._ports.append(self._existence.enter_context(port))
        with contextlib.ExitStack() as stack:
            targets = [stack.enter_context(each.opened(is_new)) for each in self._disks]
            sizes = [disk.size for disk in self._state.disks]
            yield JoinedTarget(targets, sizes)

    def complete(self) -> Restored:
        with contextlib.ExitStack() as images:
            mappings = [
                self._mapping(number, disk, images)
                for number, disk in enumerate(self._state.disks)
            ]
            fields = {
                **self._plan.fields,
                'block_device_mapping_v2': mappings,
                'networks': [{'port': each['id']} for each in self._ports] or 'none',
            }
            if mappings[0]['source_type'] == 'image':
                fields['imageRef'] = mappings[0]['uuid']
            server = self._existence.enter_context(
                self._temporaries.server(fields, self._plan.hints)
            )
        self._keep(server)
        return Restored(
            label(server),
            {
                'restored_server_id': str(server['id']),
                'restored_volume_ids': ' '.join(
                    each['uuid'] for each in mappings if each['source_type'] == 'volume'
                ),
            },
        )

    def _mapping(
        self, number: int, disk: Disk, images: contextlib.ExitStack
    ) -> dict[str, Any]:
        made = self._disks[number]
        if isinstance(made, _RootImage):
            image = images.enter_context(made.image())
            return {
                'boot_index': 0,
                'uuid': image['id'],
                'source_type': 'image',
                'destination_type': 'local',
                'delete_on_termination': True,
            }
        attachment: Mapping[str, Any] = disk.attachment or {}
        mapping = {
            'boot_index': -1 if number else 0,
            'uuid': str(made.finish()['id']),
            'source_type': 'volume',
            'destination_type': 'volume',
            'delete_on_termination': bool(attachment.get('delete_on_termination')),
        }
        if attachment.get('tag'):
            mapping['tag'] = attachment['tag']
        return mapping

    def _keep(self, server: Record) -> None:
        """Make the server, its volumes and its ports permanent."""
        for each in self._disks:
            if isinstance(each, NewVolume):
                each.keep()
        for port, text in zip(self._ports, self._plan.descriptions, strict=True):
            self._networks.describe_port(port['id'], text)
        # Last: without its mark, a later run would not delete it.
        metadata = self._state.server['metadata']
        self._servers.set_metadata(server['id'], metadata)
        self._existence.close()

    def discard(self) -> None:
        # The server first, then its ports.
        self._existence.close()
        for each in self._disks:
            with problems_reported('a disk of the server'):
                each.discard()


class _RootImage:
    """The image of a root disk, written as a file."""

    def __init__(self, temporaries: ServerTemporaries, disk: Disk) -> None:
        self._temporaries = temporaries
        self._state = ImageState(disk.record)
        self._folder = contextlib.ExitStack()
        self._file = ''

    def opened(self, is_new: bool) -> Target:
        if is_new:
            folder = tempfile.TemporaryDirectory(prefix='freezer-')
            self._file = os.path.join(self._folder.enter_context(folder), 'image')
        return open_target(self._file, is_new)

    @contextlib.contextmanager
    def image(self) -> Iterator[Record]:
        """The image, while Nova copies it."""
        body = FileBody(self._file)
        fields = self._state.new_image(None, ())
        with self._temporaries.image(fields) as made:
            found = self._temporaries.upload(made, body, body.digests)
            self._folder.close()
            yield found

    def discard(self) -> None:
        self._folder.close()
