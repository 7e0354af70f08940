"""The data of volumes: by an attachment, or by an image.

*attachment*: the volume is attached to this machine, without a server, and read and
written with librbd: only what is allocated is read. It needs a backend of Ceph RBD,
librbd, and a network to the cluster. *image*: Cinder copies the volume into an image of
Glance, or the image into a volume. Any backend can do that, and all bytes are moved.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from freezer.engine.blocks.source import Image
from freezer.engine.openstack import librbd
from freezer.engine.openstack.librbd import ATTACHMENT, IMAGE
from freezer.engine.openstack.temporary import Temporaries
from freezer.engine.openstack.volumes import Record
from freezer.exceptions import CloudError, EngineError
from freezer.utils.text import NOTICES

if TYPE_CHECKING:
    from freezer.engine.openstack.ceph import Connection, RbdTarget

LOG = logging.getLogger(__name__)
T = TypeVar('T')


class NoAttachment(EngineError):
    """A volume cannot be read and written by an attachment from here."""


@contextlib.contextmanager
def opened_snapshot(
    temporaries: Temporaries, snapshot: Record, transfer: str | None
) -> Iterator[Image]:
    """The data of a snapshot of a volume.

    :param transfer: as for :func:`freezer.engine.openstack.librbd.check_transfer`
    :raises EngineError: it cannot be read
    """
    with contextlib.ExitStack() as kept:
        with temporaries.volume_of(snapshot) as volume:
            if transfer != IMAGE:
                with contextlib.ExitStack() as stack:
                    try:
                        image = stack.enter_context(
                            _attached_image(temporaries, volume)
                        )
                    except NoAttachment as error:
                        if transfer == ATTACHMENT:
                            raise
                        LOG.info('%s: using an image instead', error)
                    else:
                        yield image
                        return
            record = kept.enter_context(temporaries.image_of(volume))
        # The space of the volume is free again.
        with temporaries.download(record) as image:
            yield image


@contextlib.contextmanager
def _attached_image(temporaries: Temporaries, volume: Record) -> Iterator[Image]:
    with (
        _connected(temporaries, volume, 'ro') as connection,
        _opened(connection.image) as image,
    ):
        yield image


@contextlib.contextmanager
def attached_target(temporaries: Temporaries, volume: Record) -> Iterator['RbdTarget']:
    """An available volume, open for writing.

    :raises NoAttachment: it cannot be written from here
    """
    with (
        _connected(temporaries, volume, 'rw') as connection,
        _opened(connection.target) as target,
    ):
        yield target


def _opened(call: Callable[[], T]) -> T:
    try:
        return call()
    except EngineError as error:
        raise _not_possible(error) from error


@contextlib.contextmanager
def _connected(
    temporaries: Temporaries, volume: Record, mode: str
) -> Iterator['Connection']:
    """:raises NoAttachment: there is no connection to the data of the volume"""
    if not librbd.is_installed():
        raise NoAttachment('librbd is not installed')
    # Optional: it needs librbd.
    try:
        from freezer.engine.openstack import ceph
    except ImportError as error:
        raise NoAttachment(f'librbd cannot be imported: {error}') from error
    with contextlib.ExitStack() as stack:
        try:
            info = stack.enter_context(temporaries.attachment(volume, mode))
        except CloudError as error:
            raise NoAttachment(f'the volume cannot be attached: {error}') from error
        kind = info.get('driver_volume_type')
        if kind != ceph.KIND:
            raise NoAttachment(f'the backend of the volume is {kind}, not Ceph RBD')
        connection = _opened(lambda: ceph.Connection(info))
        stack.callback(connection.close)
        yield connection


def _not_possible(error: EngineError) -> NoAttachment:
    NOTICES.warning('the volume cannot be reached with librbd: %s', error)
    return NoAttachment(f'the volume cannot be reached with librbd: {error}')
