"""Images of Glance: data and record of each, as a backup of its own."""

import contextlib
import datetime
import functools
import json
import logging
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from freezer.engine.engine import (
    Archiving,
    Base,
    Engine,
    Extractor,
    Restored,
    Source,
    Warnings,
)
from freezer.engine.openstack import sdk
from freezer.engine.openstack.choice import Choice
from freezer.engine.openstack.record import (
    Digests,
    ImageState,
    Record,
    of_freezer_19,
)
from freezer.engine.settings import EngineSettings
from freezer.exceptions import CloudError, ConfigError, EngineError, RestoreError
from freezer.storage.exceptions import AccessDenied, StorageException
from freezer.utils.blocks import Block
from freezer.utils.text import NOTICES, printable

if TYPE_CHECKING:
    from freezer.engine.openstack.images import Images

LOG = logging.getLogger(__name__)

#: tag of an image whose restore has not finished
RESTORING = 'freezer-restoring'
# Seconds after which an image with this tag and without data is a leftover.
_ABANDONED = 600
_POLL = 0.5
_CHOICE = Choice(
    'image', 'glance-image-id', ('queued', 'killed', 'deleted', 'pending_delete')
)


@dataclass(frozen=True)
class ImageSource(Source):
    record: Record


class GlanceEngine(Engine):
    """An archive is the data of an image. It never changes, so a level above 0 has no
    data, only the record of the image: name, properties, tags, visibility."""

    name = 'glance'
    restores_to_path = False
    # As Freezer 19 made them.
    unmarked_compression = 'none'

    @classmethod
    def from_settings(cls, settings: EngineSettings) -> Self:
        sdk.check_installed(cls.name)
        return cls(settings)

    @functools.cached_property
    def _images(self) -> 'Images':
        # Optional: it needs the extra openstack.
        with sdk.imported():
            from freezer.engine.openstack.images import Images

        options = self.settings.options
        budget = float(options['openstack_retry_budget'])
        return Images(options['os_cloud'], budget, self._progress)

    # Backup

    def check_source(self, paths: Sequence[str]) -> None:
        if paths:
            raise ConfigError(
                'engine glance backs up images: leave out --path-to-backup'
            )
        options = self.settings.options
        if not any(
            options[key]
            for key in (
                *('glance_image_id', 'glance_image_name', 'glance_image_name_filter'),
                'project_id',
            )
        ):
            raise ConfigError(
                'engine glance needs --glance-image-id, --glance-image-name, '
                '--glance-image-name-filter or --project-id'
            )

    def resources(self) -> Sequence[str]:
        options = self.settings.options
        if image_id := options['glance_image_id']:
            return [image_id]
        if name := options['glance_image_name']:
            return [self._only(name)]
        part, owner = options['glance_image_name_filter'], options['project_id']
        found = self._images.find(**({'owner': owner} if owner else {}))
        chosen = [each for each in found if (part or '') in (each.get('name') or '')]
        where = f' of project {owner}' if owner else ''
        which = f' whose name contains {part!r}' if part else ''
        named = ((each, _label(each)) for each in chosen)
        return _CHOICE.with_data(named, where + which)

    def _only(self, name: str) -> str:
        """The ID of the image with a name."""
        # Glance takes some names for an operator.
        query = {} if name.startswith('in:') else {'name': name}
        return _CHOICE.only(name, self._images.find(**query))

    def resource_name(self, marker: Mapping[str, Any]) -> str | None:
        image = marker.get('image')
        return image.get('name') if isinstance(image, dict) else None

    def source(self, paths: Sequence[str]) -> ImageSource:
        (resource,) = paths
        record = self._images.get(resource)
        label, status = _label(record), record['status']
        if status != 'active':
            raise EngineError(
                f'{label} is {status}: only the data of an active image can be read'
            )
        if record['size'] is None:
            raise EngineError(f'{label} has no size, so it cannot be backed up')
        if not record['size'] and record.get('block_device_mapping'):
            raise EngineError(
                f'{label} has no data: it refers to snapshots of volumes, which this '
                f'backup would not contain'
            )
        notes = () if Digests(record).can_check(record) else (
            f'{label} has no hash that can be compared: only its size is checked',
        )  # fmt: skip
        keys = ('id', 'name', 'disk_format', 'container_format')
        marker = {'image': {key: record.get(key) for key in keys}}
        return ImageSource(label, record, notes=notes, marker=marker)

    def archive(self, archiving: Archiving) -> Generator[Block, None, None]:
        source = archiving.source
        assert isinstance(source, ImageSource)
        record = source.record
        if archiving.base is not None:
            below = ImageState.load(archiving.base.state.read_bytes())
            archiving.state.write_bytes(ImageState(record, below.digests).dump())
            return
        self._progress.total = record['size']
        digests = Digests(record)
        blocks = self._images.blocks(record['id'], record['size'])
        with contextlib.closing(blocks):
            for block in blocks:
                digests.update(block)
                yield block
        if problem := digests.problem(record):
            raise EngineError(
                f'{source.label} was not read as Glance has it: {problem}'
            )
        archiving.state.write_bytes(ImageState(record, digests.values()).dump())

    def base_problem(self, base: Base, source: Source, now: int) -> str | None:
        assert isinstance(source, ImageSource)
        state = ImageState.load(base.state.read_bytes())
        if state.has_data_of(source.record):
            return None
        return f'the last backup of {source.label} has other data, or no hash'

    # Restore

    def check_target(self, path: str | None, overwrite: bool) -> str:
        if path:
            raise ConfigError(
                'engine glance restores into a new image: leave out --restore-abs-path'
            )
        options = self.settings.options
        if options['glance_image_name_filter'] or options['project_id']:
            raise ConfigError(
                'a restore creates one image: pass --glance-image-id or '
                '--glance-image-name'
            )
        return 'a new image'

    def completed_state(
        self, state: bytes | None, marker: Mapping[str, Any]
    ) -> bytes | None:
        image = marker.get('image')
        if state is None or not isinstance(image, dict) or b'"version"' in state:
            return state
        return of_freezer_19(state, image)

    def extractor(
        self, target: str, state: bytes | None, warnings: Warnings
    ) -> Extractor:
        if state is None:
            raise RestoreError(
                'the record of the image is lost with its engine_metadata: restore '
                'another date'
            )
        name = self.settings.options['glance_restore_name']
        budget = float(self.settings.options['openstack_retry_budget'])
        return _Uploader(self._images, ImageState.load(state), name, budget, warnings)

    def is_archive_start(self, head: bytes) -> bool:
        # Any bytes can be an image. The digests show a wrong passphrase.
        return True


class _Uploader(Extractor):
    """Creates an image, which is deleted if the restore fails.

    :param name: None for the recorded one
    :param patience: seconds to wait for an upload to become active
    """

    def __init__(
        self,
        images: 'Images',
        state: ImageState,
        name: str | None,
        patience: float,
        warnings: Warnings,
    ) -> None:
        self._images = images
        self._state = state
        self._name = name
        self._patience = patience
        self._warnings = warnings
        self._made: Record | None = None
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        """Delete the images of restores that were killed."""
        for record in self._images.find(tag=RESTORING, owner=self._images.project):
            age = time.time() - _epoch(record['updated_at'])
            if record['status'] != 'queued' or age < _ABANDONED:
                continue
            LOG.warning('deleting %s of a restore that was killed', _label(record))
            try:
                self._images.delete(record['id'])
            except CloudError as error:
                NOTICES.warning(
                    '%s is incomplete; delete it: %s', _label(record), error
                )

    def extract(self, blocks: Iterator[Block]) -> None:
        if self._made is not None:
            # Levels above 0 have no data.
            if any(blocks):
                raise EngineError('a level above 0 has data: the backup is damaged')
            return
        self._made = self._create()
        body = _Body(self._state, blocks)
        try:
            self._images.upload(self._made['id'], body)
        except StorageException as error:
            if body.failed:
                raise
            raise CloudError(
                f'{error.message}; {body.digests.size} of {len(body)} bytes were sent'
            ) from error
        body.check()
        self._check_stored(body.digests)

    def _create(self) -> Record:
        fields = self._state.new_image(self._name, [RESTORING])
        try:
            return self._images.create(fields)
        except CloudError as error:
            denied = isinstance(error.__cause__, AccessDenied)
            if not denied or fields.get('visibility') != 'public':
                raise
        made = self._images.create({**fields, 'visibility': 'private'})
        self._warnings.add(
            'these credentials may not create public images: the image is private',
            incomplete=True,
        )
        return made

    def _check_stored(self, digests: Digests) -> None:
        """Compare with what Glance recorded of the upload.

        :raises CloudError: it stored something else
        """
        assert self._made is not None
        end = time.monotonic() + self._patience
        while (record := self._images.get(self._made['id']))['status'] in (
            *('saving', 'importing', 'uploading'),
        ):
            if time.monotonic() > end:
                break
            time.sleep(_POLL)
        self._made = record
        if record['status'] != 'active':
            raise CloudError(
                f'{_label(record)} is {record["status"]} after the upload, not active'
            )
        if problem := digests.problem(record):
            raise CloudError(f'{_label(record)}: Glance stored it wrongly: {problem}')
        if not digests.can_check(record):
            self._warnings.add(
                f'{_label(record)}: this Glance recorded no hash that can be compared: '
                f'only the size of the upload was checked'
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._made is None:
            return
        if error is None:
            try:
                self._complete(self._made['id'])
            except BaseException:
                self._delete()
                raise
        else:
            self._delete()

    def _complete(self, image_id: str) -> None:
        record = self._state.record
        changes: list[dict[str, Any]] = [
            {'op': 'replace', 'path': '/tags', 'value': [*record.get('tags', ())]}
        ]
        if record.get('protected'):
            changes.append({'op': 'replace', 'path': '/protected', 'value': True})
        self._images.update(image_id, changes)

    def _delete(self) -> None:
        assert self._made is not None
        try:
            self._images.delete(self._made['id'])
            LOG.info('deleted %s, whose restore failed', _label(self._made))
        except CloudError as error:
            # The first error is the one to report.
            NOTICES.warning(
                '%s is incomplete; delete it: %s', _label(self._made), error
            )

    @property
    def restored(self) -> Restored | None:
        if self._made is None:
            return None
        return Restored(_label(self._made), {'restored_image_id': self._made['id']})


class _Body:
    """The data of an image, on its way to Glance; its length is that of the record.

    It stops before the last block of other data, so that Glance never has a complete
    upload of it.

    :ivar failed: whether the backup could not be read
    """

    def __init__(self, state: ImageState, blocks: Iterator[Block]) -> None:
        self._state = state
        self._blocks = blocks
        self.failed = False
        self.digests = Digests(state.record)

    def __len__(self) -> int:
        return int(self._state.record['size'])

    def __iter__(self) -> Iterator[Block]:
        kept: Block = b''
        for block in self._read():
            self.digests.update(block)
            if self.digests.size > len(self):
                break
            if kept:
                yield kept
            # Its memory is used again.
            kept = bytes(block)
        self.check()
        if kept:
            yield kept

    def _read(self) -> Iterator[Block]:
        try:
            yield from self._blocks
        except Exception:
            self.failed = True
            raise

    def check(self) -> None:
        """:raises EngineError: the data differs from the backup"""
        if problem := self._state.problem(self.digests):
            raise EngineError(
                f'the restored data is not that of {_label(self._state.record)}: '
                f'{problem}; the passphrase is wrong, or the backup is damaged'
            )


def _label(record: Record) -> str:
    name = printable(json.dumps(record.get('name'), ensure_ascii=False))
    return f'image {name} ({record["id"]})'


def _epoch(date: str) -> float:
    """Seconds, of a date of the API."""
    return datetime.datetime.fromisoformat(date).timestamp()
