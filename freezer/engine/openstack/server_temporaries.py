"""Servers and ports that a restore has not completed, and images of root disks."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from freezer.engine.openstack.networks import Networks
from freezer.engine.openstack.servers import Record, Servers, label
from freezer.engine.openstack.temporary import (
    KEY,
    PREFIX,
    RUN,
    VALUE,
    Temporaries,
    is_abandoned,
    name_of,
    new_mark,
    problems_reported,
)
from freezer.engine.openstack.volumes import Volumes

if TYPE_CHECKING:
    from freezer.engine.openstack.images import Images

LOG = logging.getLogger(__name__)


class ServerTemporaries(Temporaries):
    """Also those of Nova and Neutron. The mark of a server is in its metadata, that of
    a port in its description."""

    def __init__(
        self,
        servers: Servers,
        networks: Networks,
        volumes: Volumes,
        images: Callable[[], 'Images'],
        patience: float,
        cancelled: threading.Event | None = None,
    ) -> None:
        super().__init__(volumes, images, patience, cancelled)
        self._servers = servers
        self._networks = networks

    @contextlib.contextmanager
    def image_of_server(self, server: Record) -> Iterator[Callable[[], Record]]:
        """An image of the root disk; the block gets a function that waits for it."""
        images = self._images()
        self.remove_left_images(images)
        made = self._servers.make_image(server['id'], name_of(new_mark()))
        try:
            yield lambda: self.active(images, made, label(server))
        finally:
            with problems_reported(f'image {made}'):
                images.delete(made)

    @contextlib.contextmanager
    def port(self, fields: Record) -> Iterator[Record]:
        """A new port, to be made permanent by its description."""
        mark = name_of(new_mark())
        try:
            yield self._networks.create_port({**fields, 'description': mark})
        finally:
            with problems_reported(f'port {mark}'):
                for found in self._networks.find('ports', description=mark):
                    self._networks.delete_port(found['id'])

    @contextlib.contextmanager
    def server(self, fields: Record, hints: Record) -> Iterator[Record]:
        """A new server, to be made permanent by its metadata."""
        mark = new_mark()
        own = {'metadata': {KEY: VALUE, RUN: mark}}
        try:
            made = self._servers.create({**fields, **own}, hints)
            yield self._servers.wait(made, self._cancelled)
        finally:
            with problems_reported(f'server {mark}'):
                for found in self._marked_servers():
                    if found['metadata'][RUN] == mark:
                        self._servers.delete(found['id'])

    def _marked_servers(self) -> list[Record]:
        return [
            each
            for each in self._servers.find()
            if each.get('metadata', {}).get(KEY) == VALUE and RUN in each['metadata']
        ]

    def remove_leftovers(self) -> None:
        # Before the volumes that they use.
        for found in self._marked_servers():
            mark = str(found['metadata'][RUN])
            if is_abandoned(mark, {'created_at': found['created']}):
                LOG.warning('deleting %s of a killed run', label(found))
                with problems_reported(label(found)):
                    self._servers.delete(found['id'])
        for port in self._networks.find('ports', project_id=self._servers.project):
            prefix, _space, mark = str(port.get('description')).partition(' ')
            if prefix == PREFIX and is_abandoned(mark, port):
                LOG.warning('deleting port %s of a killed run', port['id'])
                with problems_reported(f'port {port["id"]}'):
                    self._networks.delete_port(port['id'])
        super().remove_leftovers()
