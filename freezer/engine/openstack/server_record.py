"""The record of a server, stored beside its disks: a JSON document."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from freezer.engine.blocks.state import LevelState
from freezer.exceptions import EngineError

#: a server, port, volume or image, as its service shows it
Record = Mapping[str, Any]

_VERSION: Final = 1
_KEYS: Final = ('id', 'name', 'flavor', 'metadata')
_PORT_KEYS: Final = ('id', 'network_id', 'mac_address', 'fixed_ips')


@dataclass(frozen=True)
class Disk:
    """A disk: a volume of Cinder; or the root disk, as an image that Nova made of it.

    :ivar size: bytes of its data
    :ivar record: the volume, or the image
    :ivar attachment: of the volume to the server; None for an image
    """

    size: int
    record: Record
    attachment: Record | None

    @property
    def is_volume(self) -> bool:
        return self.attachment is not None


@dataclass(frozen=True)
class ServerState:
    """The engine's file of a level.

    :param server: when the level was made
    :param ports: those of Neutron, each also with ``network_name`` and
        ``security_group_names``
    :param disks: in the order in which they are joined; the first one boots
    :param level: of the blocks of all disks
    """

    server: Record
    ports: Sequence[Record]
    disks: Sequence[Disk]
    level: LevelState

    @classmethod
    def load(cls, content: bytes) -> Self:
        """:raises EngineError: it is damaged, or of a newer agent"""
        try:
            document = json.loads(content)
            version = document.get('version')
            if version is None:
                raise EngineError(
                    'the record of the server is one of Freezer 19, whose backups of '
                    'servers this agent does not restore'
                )
            if version != _VERSION:
                raise EngineError(
                    f'the record of the server has version {version!r}, which is not '
                    f'known: use a newer agent'
                )
            server = dict(document['server'])
            ports = [dict(each) for each in document['ports']]
            disks = [Disk(**each) for each in document['disks']]
            blocks = json.dumps(document['blocks']).encode()
            _check(server, _KEYS)
            for port in ports:
                _check(port, _PORT_KEYS)
            for disk in disks:
                if type(disk.size) is not int or disk.size < 0:
                    raise ValueError('size')
                _check(disk.record, ('id', 'name', 'size'))
            dict(server['flavor'])
            dict(server['metadata'])
            if not disks:
                raise ValueError('disks')
        except (
            *(ValueError, TypeError, KeyError),
            *(AttributeError, RecursionError),
        ) as error:
            raise EngineError('the record of the server is damaged') from error
        return cls(server, ports, disks, LevelState.load(blocks))

    def dump(self) -> bytes:
        document = {
            'engine': 'nova',
            'version': _VERSION,
            'server': {k: v for k, v in self.server.items() if k != 'links'},
            'ports': [dict(each) for each in self.ports],
            'disks': [vars(each) for each in self.disks],
            'blocks': json.loads(self.level.dump()),
        }
        return json.dumps(document, indent=1).encode() + b'\n'

    def level_of(self, disk: Disk) -> LevelState:
        """As if the disk were backed up alone."""
        return dataclasses.replace(self.level, size=disk.size)


def _check(record: Record, keys: Sequence[str]) -> None:
    if missing := [key for key in keys if key not in record]:
        raise ValueError(missing)
