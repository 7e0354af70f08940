"""The volumes that restores write."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

from freezer.engine.blocks.target import Target, open_target
from freezer.engine.engine import Restored
from freezer.engine.openstack.librbd import ATTACHMENT, IMAGE
from freezer.engine.openstack.record import Digests
from freezer.engine.openstack.restored import RestoredResource
from freezer.engine.openstack.temporary import Temporaries, problems_reported
from freezer.engine.openstack.transfer import NoAttachment, attached_target
from freezer.engine.openstack.volume_record import Record, VolumeState, is_true
from freezer.engine.openstack.volumes import VOLUMES, Volumes, label
from freezer.exceptions import CloudError, RestoreError
from freezer.utils.blocks import Block
from freezer.utils.text import NOTICES

if TYPE_CHECKING:
    from freezer.engine.openstack.ceph import RbdTarget

LOG = logging.getLogger(__name__)

_GIB: Final = 1 << 30
_BLOCK: Final = 1 << 20


class NewVolume(RestoredResource):
    """A volume with what was recorded of the one that was backed up.

    It is written by an attachment; or as a file, which becomes a temporary image and
    then the volume. Until it is complete, it is marked as temporary.

    :param fields: for its creation, in place of the recorded ones
    :param name: None for the recorded one
    :param transfer: see :func:`freezer.engine.openstack.librbd.check_transfer`
    """

    def __init__(
        self,
        volumes: Volumes,
        temporaries: Temporaries,
        state: VolumeState,
        fields: Record,
        name: str | None,
        transfer: str | None,
    ) -> None:
        self._volumes = volumes
        self._temporaries = temporaries
        self._state = state
        self._name = name or state.record['name']
        self._transfer = transfer
        recorded = ('volume_type', 'availability_zone')
        self._fields = {
            # The data may be smaller than the volume.
            'size': max(-(-state.level.size // _GIB), int(state.record['size']), 1),
            **{key: state.record.get(key) for key in recorded},
            **{key: value for key, value in fields.items() if value},
        }
        # Ended in this order.
        self._writing = contextlib.ExitStack()
        self._existence = contextlib.ExitStack()
        self._made: Record | None = None
        self._is_kept = False
        self._target: Target | None = None
        self._file = ''

    def opened(self, is_new: bool) -> AbstractContextManager[Target]:
        if is_new and not self._attach():
            folder = self._writing.enter_context(
                tempfile.TemporaryDirectory(prefix='freezer-')
            )
            self._file = os.path.join(folder, 'image')
        if self._target is None:
            return open_target(self._file, is_new)
        # It stays open for the next level.
        return contextlib.nullcontext(self._target)

    def _attach(self) -> bool:
        """Create the volume and open it for writing; False if that is not possible."""
        if self._transfer == IMAGE:
            return False
        with contextlib.ExitStack() as existence:
            made = existence.enter_context(self._created({}))
            try:
                self._target = self._writing.enter_context(
                    attached_target(self._temporaries, made)
                )
            except NoAttachment as error:
                if self._transfer == ATTACHMENT:
                    raise
                LOG.info('%s: using an image instead', error)
                return False
            self._made = made
            self._existence = existence.pop_all()
        return True

    @contextlib.contextmanager
    def _created(self, origin: Record) -> Iterator[Record]:
        fields = {**self._fields, **origin}
        with contextlib.ExitStack() as stack:
            try:
                made = stack.enter_context(self._temporaries.volume(fields))
            except CloudError as error:
                raise CloudError(
                    f'cannot create a volume of {fields["size"]} GiB, type '
                    f'{fields["volume_type"]}, in zone {fields["availability_zone"]}: '
                    f'{error}; --cinder-restore-type and --cinder-restore-az choose '
                    f'others'
                ) from error
            if is_true(made.get('encrypted')):
                raise RestoreError(
                    f'volumes of type {made["volume_type"]} are encrypted, which is '
                    f'not supported: choose another with --cinder-restore-type'
                )
            yield made

    def complete(self) -> Restored:
        self.finish()
        return self.keep()

    def finish(self) -> Record:
        """The volume with its data and properties; temporary until :meth:`keep`.

        :raises EngineError: it cannot be completed, and is to be discarded
        """
        if self._file:
            self._make_of_file()
        self._writing.close()
        assert self._made is not None
        self._describe(self._made['id'])
        return self._made

    def keep(self) -> Restored:
        """:raises EngineError: it may be temporary still"""
        assert self._made is not None
        self._is_kept = True
        self._volumes.set_metadata(self._made['id'], self._state.metadata)
        # Deletes nothing: it is not marked as temporary any more.
        self._existence.close()
        return _restored({**self._made, 'name': self._name})

    def _make_of_file(self) -> None:
        body = FileBody(self._file)
        formats = {'disk_format': 'raw', 'container_format': 'bare'}
        with self._temporaries.image(formats) as image:
            self._temporaries.upload(image, body, body.digests)
            self._made = self._existence.enter_context(
                self._created({'imageRef': image['id']})
            )

    def _describe(self, volume: str) -> None:
        state, act = self._state, self._volumes.act
        now = self._volumes.get(VOLUMES, volume)
        wanted, has = state.image_metadata, now.get('volume_image_metadata') or {}
        for key in has.keys() - wanted.keys():
            act(volume, 'os-unset_image_metadata', {'key': key})
        if wanted:
            act(volume, 'os-set_image_metadata', {'metadata': wanted})
        if state.is_bootable != is_true(now['bootable']):
            act(volume, 'os-set_bootable', {'bootable': state.is_bootable})
        if state.is_read_only:
            act(volume, 'os-update_readonly_flag', {'readonly': True})
        description = state.record.get('description')
        fields = {'name': self._name, 'description': description}
        self._volumes.update(volume, fields)

    def discard(self) -> None:
        self._writing.close()
        self._existence.close()
        if self._is_kept and self._made is not None:
            # Its server could not be completed.
            with problems_reported(label(VOLUMES, self._made)):
                self._volumes.delete(VOLUMES, self._made['id'])


class ExistingVolume(RestoredResource):
    """A volume whose data is replaced, and nothing else of it.

    :raises RestoreError: it cannot be written
    """

    def __init__(
        self, volumes: Volumes, temporaries: Temporaries, volume: str, size: int
    ) -> None:
        self._record = volumes.get(VOLUMES, volume)
        self._temporaries = temporaries
        self._writing = contextlib.ExitStack()
        self._target: RbdTarget | None = None
        name = label(VOLUMES, self._record)
        if is_true(self._record.get('encrypted')):
            raise RestoreError(f'{name} is encrypted, which is not supported')
        if self._record['status'] != 'available':
            raise RestoreError(
                f'{name} has status {self._record["status"]}: detach it from its '
                f'server, or restore to a new volume'
            )
        if size > int(self._record['size']) * _GIB:
            raise RestoreError(
                f'{name} has {self._record["size"]} GiB, which is less than the '
                f'backup: extend it, or restore to a new volume'
            )

    def opened(self, is_new: bool) -> AbstractContextManager[Target]:
        if is_new:
            self._target = self._writing.enter_context(
                attached_target(self._temporaries, self._record)
            )
            self._target.wipe()
        assert self._target is not None
        return contextlib.nullcontext(self._target)

    def complete(self) -> Restored:
        self._writing.close()
        return _restored(self._record)

    def discard(self) -> None:
        self._writing.close()
        if self._target is not None:
            NOTICES.warning(
                '%s is incomplete, do not use it: restore again',
                label(VOLUMES, self._record),
            )


def _restored(record: Record) -> Restored:
    keys = {'restored_volume_id': str(record['id'])}
    return Restored(label(VOLUMES, record), keys)


class FileBody:
    """The contents of a file, with its size as length."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.digests = Digests({})

    def __len__(self) -> int:
        return os.path.getsize(self._path)

    def __iter__(self) -> Iterator[Block]:
        with open(self._path, 'rb') as file:
            while block := file.read(_BLOCK):
                self.digests.update(block)
                yield block
