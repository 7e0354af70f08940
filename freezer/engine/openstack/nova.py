"""Servers of Nova: all disks and the record of each, as a backup of its own."""

import functools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from freezer.engine.blocks.engine import ImageEngine
from freezer.engine.blocks.source import Image
from freezer.engine.blocks.state import LevelState
from freezer.engine.engine import Archiving, Extractor, Source, Warnings
from freezer.engine.openstack import sdk
from freezer.engine.openstack.librbd import check_transfer
from freezer.engine.openstack.restored import ResourceExtractor
from freezer.engine.openstack.server_options import left_out, network_map
from freezer.engine.openstack.server_record import Record, ServerState
from freezer.engine.settings import EngineSettings
from freezer.exceptions import ConfigError, RestoreError

if TYPE_CHECKING:
    from freezer.engine.openstack.nova_cloud import NovaCloud


@dataclass(frozen=True)
class ServerSource(Source):
    record: Record
    ports: Sequence[Record]


class NovaEngine(ImageEngine):
    """An archive has the blocks of all disks of a server: of snapshots of its volumes,
    and of an image of its root disk if that is no volume."""

    name = 'nova'
    restores_to_path = False

    @classmethod
    def from_settings(cls, settings: EngineSettings) -> Self:
        sdk.check_installed(cls.name)
        return cls(settings)

    @functools.cached_property
    def _cloud(self) -> 'NovaCloud':
        # Optional: it needs the extra openstack.
        with sdk.imported():
            from freezer.engine.openstack.nova_cloud import NovaCloud
        return NovaCloud(self.settings.options, self._progress)

    # Backup

    def check_source(self, paths: Sequence[str]) -> None:
        options = self.settings.options
        if paths:
            raise ConfigError(
                'engine nova backs up servers: leave out --path-to-backup'
            )
        keys = 'nova_inst_id', 'nova_inst_name', 'project_id'
        if not any(options[key] for key in keys):
            raise ConfigError(
                'engine nova needs --nova-inst-id, --nova-inst-name or --project-id'
            )
        check_transfer(options['cinder_transfer'])

    def resources(self) -> Sequence[str]:
        options = self.settings.options
        if server := options['nova_inst_id']:
            return [server]
        if name := options['nova_inst_name']:
            return [self._cloud.only(name)]
        return self._cloud.of_project(options['project_id'])

    def resource_name(self, marker: Mapping[str, Any]) -> str | None:
        server = marker.get('server')
        return server.get('name') if isinstance(server, dict) else None

    def source(self, paths: Sequence[str]) -> ServerSource:
        (resource,) = paths
        cloud = self._cloud
        record = cloud.readable(resource)
        marker = {'server': {key: record.get(key) for key in ('id', 'name')}}
        ports = cloud.ports(record['id'])
        return ServerSource(cloud.label(record), record, ports, marker=marker)

    def image(self, archiving: Archiving) -> AbstractContextManager[Image]:
        assert isinstance(archiving.source, ServerSource)
        record = archiving.source.record
        for text in self._cloud.lost(record):
            archiving.warnings.add(text)
        return self._cloud.image(record, archiving.cancelled)

    def state(self, source: Source, image: Image, level: LevelState) -> bytes:
        assert isinstance(source, ServerSource)
        disks = self._cloud.disks(image)
        return ServerState(source.record, source.ports, disks, level).dump()

    def level_state(self, content: bytes) -> LevelState:
        return ServerState.load(content).level

    # Restore

    def check_target(self, path: str | None, overwrite: bool) -> str:
        options = self.settings.options
        if path:
            raise ConfigError(
                'engine nova restores a server: leave out --restore-abs-path'
            )
        if options['project_id']:
            raise ConfigError(
                'a restore creates one server: pass --nova-inst-id or --nova-inst-name'
            )
        network_map(options['nova_restore_network'])
        left_out(options['nova_leave_out'])
        check_transfer(options['cinder_transfer'])
        return 'a new server'

    def extractor(
        self, target: str, state: bytes | None, warnings: Warnings
    ) -> Extractor:
        if state is None:
            raise RestoreError(
                'the record of the server is lost with its engine_metadata: restore '
                'another date'
            )
        known = ServerState.load(state)
        server = self._cloud.restored(known)
        return ResourceExtractor(server, known.level, self._progress)
