"""Volumes of Cinder: the blocks and the record of each, as a backup of its own."""

import functools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from freezer.engine.blocks.engine import ImageEngine
from freezer.engine.blocks.source import Image
from freezer.engine.blocks.state import LevelState
from freezer.engine.engine import (
    Archiving,
    Extractor,
    Source,
    Warnings,
)
from freezer.engine.openstack import sdk
from freezer.engine.openstack.librbd import check_transfer
from freezer.engine.openstack.restored import ResourceExtractor
from freezer.engine.openstack.volume_record import Record, VolumeState
from freezer.engine.settings import EngineSettings
from freezer.exceptions import ConfigError, RestoreError

if TYPE_CHECKING:
    from freezer.engine.openstack.cinder_cloud import CinderCloud


@dataclass(frozen=True)
class VolumeSource(Source):
    record: Record


class CinderEngine(ImageEngine):
    """An archive has the blocks of a snapshot of a volume."""

    name = 'cinder'
    restores_to_path = False

    @classmethod
    def from_settings(cls, settings: EngineSettings) -> Self:
        sdk.check_installed(cls.name)
        return cls(settings)

    @functools.cached_property
    def _cloud(self) -> 'CinderCloud':
        # Optional: it needs the extra openstack.
        with sdk.imported():
            from freezer.engine.openstack.cinder_cloud import CinderCloud
        return CinderCloud(self.settings.options, self._progress)

    # Backup

    def check_source(self, paths: Sequence[str]) -> None:
        options = self.settings.options
        if paths:
            raise ConfigError(
                'engine cinder backs up volumes: leave out --path-to-backup'
            )
        keys = 'cinder_vol_id', 'cinder_vol_name', 'project_id'
        if not any(options[key] for key in keys):
            raise ConfigError(
                'engine cinder needs --cinder-vol-id, --cinder-vol-name or --project-id'
            )
        check_transfer(options['cinder_transfer'])

    def resources(self) -> Sequence[str]:
        options = self.settings.options
        if volume := options['cinder_vol_id']:
            return [volume]
        if name := options['cinder_vol_name']:
            return [self._cloud.only(name)]
        return self._cloud.of_project(options['project_id'])

    def resource_name(self, marker: Mapping[str, Any]) -> str | None:
        volume = marker.get('volume')
        return volume.get('name') if isinstance(volume, dict) else None

    def source(self, paths: Sequence[str]) -> VolumeSource:
        (resource,) = paths
        record, label = self._cloud.readable(resource)
        keys = ('id', 'name', 'size', 'volume_type', 'availability_zone', 'bootable')
        marker = {'volume': {key: record.get(key) for key in keys}}
        return VolumeSource(label, record, marker=marker)

    def image(self, archiving: Archiving) -> AbstractContextManager[Image]:
        assert isinstance(archiving.source, VolumeSource)
        return self._cloud.image(archiving.source.record, archiving.cancelled)

    def state(self, source: Source, image: Image, level: LevelState) -> bytes:
        assert isinstance(source, VolumeSource)
        return VolumeState(source.record, level).dump()

    def level_state(self, content: bytes) -> LevelState:
        return VolumeState.load(content).level

    # Restore

    def check_target(self, path: str | None, overwrite: bool) -> str:
        options = self.settings.options
        if path:
            raise ConfigError(
                'engine cinder restores into a volume: leave out --restore-abs-path'
            )
        if options['project_id']:
            raise ConfigError(
                'a restore creates one volume: pass --cinder-vol-id or '
                '--cinder-vol-name'
            )
        check_transfer(options['cinder_transfer'])
        existing = options['cinder_restore_vol_id']
        if not existing:
            return 'a new volume'
        if not overwrite:
            raise ConfigError(
                '--cinder-restore-vol-id replaces the data of a volume: add --overwrite'
            )
        if options['cinder_transfer'] == 'image':
            raise ConfigError(
                '--cinder-restore-vol-id needs --cinder-transfer attachment'
            )
        return f'volume {existing}'

    def extractor(
        self, target: str, state: bytes | None, warnings: Warnings
    ) -> Extractor:
        if state is None:
            raise RestoreError(
                'the record of the volume is lost with its engine_metadata: restore '
                'another date'
            )
        known = VolumeState.load(state)
        volume = self._cloud.restored(known)
        return ResourceExtractor(volume, known.level, self._progress)
