"""Volumes, snapshots and images that exist only while a backup or a restore runs.

Each has a mark of its run in its name, and snapshots and volumes in their metadata as
well. So a later run finds and deletes what a killed run has left.
"""

import contextlib
import datetime
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from freezer.engine.openstack.download import DownloadedImage
from freezer.engine.openstack.record import Digests
from freezer.engine.openstack.service import cloud_errors_but
from freezer.engine.openstack.volumes import (
    SNAPSHOTS,
    VOLUMES,
    Record,
    Volumes,
    is_missing,
    label,
    pauses,
)
from freezer.exceptions import CloudError
from freezer.storage.exceptions import StorageException
from freezer.utils import owner
from freezer.utils.blocks import Block
from freezer.utils.text import NOTICES

if TYPE_CHECKING:
    from freezer.engine.openstack.images import Images

LOG = logging.getLogger(__name__)

#: metadata of everything temporary
KEY: Final = 'freezer'
VALUE: Final = 'temporary'
RUN: Final = 'freezer_run'
PREFIX: Final = 'freezer-temporary'
# Seconds after which those of a host that is not this one count as leftovers.
_ABANDONED: Final = 7 * 86400
_CONNECTOR: Final = {'platform': 'x86_64', 'os_type': 'linux', 'multipath': False}


class Temporaries:
    """Makes temporary resources of one run.

    Each method is a context manager, at whose end the resource is deleted; one that
    cannot be deleted is a warning, and the next run tries again.

    :param images: gives the API of Glance when it is needed
    :param patience: seconds to wait for an image
    :param cancelled: set when the run has failed
    """

    def __init__(
        self,
        volumes: Volumes,
        images: Callable[[], 'Images'],
        patience: float,
        cancelled: threading.Event | None = None,
    ) -> None:
        self._volumes = volumes
        self._images = images
        self._patience = patience
        self._cancelled = cancelled or threading.Event()

    @contextlib.contextmanager
    def snapshots(self, volumes: Sequence[Record]) -> Iterator[list[Record]]:
        """Snapshots of volumes, which may be in use, each as soon after the one before
        as Cinder takes them."""
        with contextlib.ExitStack() as stack:
            begun = [
                stack.enter_context(
                    self._begun(SNAPSHOTS, {'volume_id': each['id'], 'force': True})
                )
                for each in volumes
            ]
            yield [self._ready(SNAPSHOTS, each) for each in begun]

    @contextlib.contextmanager
    def volume_of(self, snapshot: Record) -> Iterator[Record]:
        """A volume with the data of a snapshot."""
        fields = {'snapshot_id': snapshot['id'], 'size': snapshot['size']}
        with self._made(VOLUMES, fields) as made:
            yield made

    @contextlib.contextmanager
    def volume(self, fields: Record) -> Iterator[Record]:
        """A new volume, to be made permanent with :meth:`keep`."""
        with self._made(VOLUMES, fields) as made:
            yield made

    @contextlib.contextmanager
    def _made(self, kind: str, fields: Record) -> Iterator[Record]:
        with self._begun(kind, fields) as made:
            yield self._ready(kind, made)

    @contextlib.contextmanager
    def _begun(self, kind: str, fields: Record) -> Iterator[Record]:
        """A resource that is not available yet."""
        mark = new_mark()
        own = {'name': name_of(mark), 'metadata': {KEY: VALUE, RUN: mark}}
        try:
            yield self._volumes.create(kind, {**fields, **own})
        finally:
            with problems_reported(f'{kind} {mark}'):
                # Also those of requests without a response, and not what was made
                # permanent: that has other metadata.
                for found in list(self._marked(kind, RUN, mark)):
                    self._delete(kind, found)

    def _ready(self, kind: str, made: Record) -> Record:
        return self._volumes.wait(kind, made['id'], self._cancelled)

    def _marked(self, kind: str, key: str, value: str) -> Iterator[Record]:
        return self._volumes.find(kind, metadata=json.dumps({key: value}))

    def _delete(self, kind: str, found: Record) -> None:
        with problems_reported(label(kind, found)):
            if kind == VOLUMES:
                self._volumes.detach_all(found['id'])
            self._volumes.delete(kind, found['id'])

    @contextlib.contextmanager
    def attachment(self, volume: Record, mode: str) -> Iterator[Record]:
        """What a client needs to reach an available volume: connection_info.

        :param mode: ``ro`` or ``rw``
        """
        connector = {**_CONNECTOR, 'host': socket.gethostname(), 'ip': '127.0.0.1'}
        try:
            made = self._volumes.attach(volume['id'], mode, connector)
            yield made['connection_info']
        finally:
            # Also one that failed halfway.
            with problems_reported(label(VOLUMES, volume)):
                self._volumes.detach_all(volume['id'])
                self._volumes.wait(VOLUMES, volume['id'])

    @contextlib.contextmanager
    def image_of(self, volume: Record) -> Iterator[Record]:
        """An image with the data of an available volume."""
        images = self._images()
        self.remove_left_images(images)
        made = self._volumes.upload(volume['id'], name_of(new_mark()))
        try:
            yield self.active(images, made, label(VOLUMES, volume))
        finally:
            with problems_reported(f'image {made}'):
                images.delete(made)

    @contextlib.contextmanager
    def image(self, fields: Record) -> Iterator[Record]:
        """A new image, without data yet."""
        images = self._images()
        self.remove_left_images(images)
        own = {'name': name_of(new_mark()), 'visibility': 'private'}
        made = images.create({**fields, **own})
        try:
            yield made
        finally:
            with problems_reported(f'image {made["id"]}'):
                images.delete(made['id'])

    def download(self, record: Record) -> DownloadedImage:
        """The data of an active image."""
        return DownloadedImage(self._images(), record, self._cancelled)

    def upload(self, made: Record, body: Iterable[Block], digests: Digests) -> Record:
        """Send the data of a new image, and compare it with what Glance stored.

        :param body: also has the size of all as its length
        :param digests: of the body, when it was sent
        :returns: the active image
        :raises CloudError: it is not active, or has other data
        """
        images = self._images()
        with cloud_errors_but():
            images.upload(made['id'], body)
        found = self.active(images, made['id'], 'the data')
        if problem := digests.problem(found):
            raise CloudError(f'Glance stored the image wrongly: {problem}')
        return found

    def active(self, images: 'Images', image: str, origin: str) -> Record:
        """An image, once it is active.

        :raises CloudError: it fails, disappears, or takes too long
        """
        of = f'the image {image} of {origin}'
        found: Record = {}
        for _time in pauses(self._patience, self._cancelled):
            try:
                found = images.get(image)
            except CloudError as error:
                if not is_missing(error):
                    raise
                # As Cinder and Nova do when the upload fails.
                raise CloudError(
                    f'{of} disappeared: its upload failed: see the quota of images, '
                    f'and the log of Cinder or Nova'
                ) from error
            if found['status'] == 'active':
                return found
            if found['status'] in ('killed', 'deleted', 'pending_delete'):
                break
        raise CloudError(
            f'{of} has status {found["status"]} and was not active within '
            f'{self._patience:g} s: see why in Glance, or raise --openstack-timeout'
        )

    # Leftovers

    def remove_leftovers(self) -> None:
        """Delete what killed runs of this host have left in the project, and what is
        older than a week."""
        for kind in (VOLUMES, SNAPSHOTS):
            for found in list(self._marked(kind, KEY, VALUE)):
                if is_abandoned(str(found['metadata'].get(RUN)), found):
                    LOG.warning('deleting %s of a killed run', label(kind, found))
                    self._delete(kind, found)

    def remove_left_images(self, images: 'Images') -> None:
        """The same for images."""
        for found in images.find(owner=images.project):
            prefix, _space, mark = (found['name'] or '').partition(' ')
            if prefix == PREFIX and is_abandoned(mark, found):
                LOG.warning('deleting image %s of a killed run', found['id'])
                with problems_reported(f'image {found["id"]}'):
                    images.delete(found['id'])


def new_mark() -> str:
    """Of this host and process."""
    return f'{socket.gethostname()}/{owner.new_mark()}'


def name_of(mark: str) -> str:
    """For resources without metadata."""
    return f'{PREFIX} {mark}'


def is_abandoned(mark: str, found: Record) -> bool:
    """Whether nobody will delete a resource any more: see ``remove_leftovers``."""
    host, _slash, process = mark.rpartition('/')
    if not owner.is_mark(process):
        # Of a newer agent, or not of an agent.
        return False
    if host == socket.gethostname() and owner.is_abandoned(process):
        return True
    # Without an offset, the dates of Cinder are in UTC.
    made = re.sub(r'Z?$', '+00:00', str(found['created_at']), count=1)
    return time.time() - datetime.datetime.fromisoformat(made).timestamp() > _ABANDONED


@contextlib.contextmanager
def problems_reported(what: str) -> Iterator[None]:
    """A block whose failure must not hide the error of the run, nor make a complete run
    fail."""
    try:
        yield
    except (CloudError, StorageException) as error:
        NOTICES.warning(
            '%s is temporary and could not be removed; the next run tries again: %s',
            *(what, error),
        )
