"""What is stored of a volume beside its data: a JSON document."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from freezer.engine.blocks.state import LevelState
from freezer.exceptions import EngineError

#: a volume, as the API of Cinder shows it
Record = Mapping[str, Any]

_VERSION: Final = 1
_KEYS: Final = ('id', 'name', 'size', 'status', 'bootable', 'metadata')
# Cinder shows them as metadata, and sets them itself.
_READ_ONLY: Final = ('attached_mode', 'readonly')


@dataclass(frozen=True)
class VolumeState:
    """The engine's file of a level.

    :param record: the volume when the level was made
    :param level: of its blocks
    """

    record: Record
    level: LevelState

    @classmethod
    def load(cls, content: bytes) -> Self:
        """:raises EngineError: it is damaged, or of a newer agent"""
        try:
            document = json.loads(content)
            version = document['version']
            if version != _VERSION:
                raise EngineError(
                    f'the record of the volume has version {version!r}, which is not '
                    f'known: use a newer agent'
                )
            record = dict(document['volume'])
            blocks = json.dumps(document['blocks']).encode()
            if missing := [key for key in _KEYS if key not in record]:
                raise ValueError(missing)
            int(record['size'])
            dict(record['metadata'])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise EngineError('the record of the volume is damaged') from error
        return cls(record, LevelState.load(blocks))

    def dump(self) -> bytes:
        document = {
            'engine': 'cinder',
            'version': _VERSION,
            'volume': {k: v for k, v in self.record.items() if k != 'links'},
            'blocks': json.loads(self.level.dump()),
        }
        return json.dumps(document, indent=1).encode() + b'\n'

    @property
    def metadata(self) -> dict[str, str]:
        """That of the user."""
        found = self.record['metadata'].items()
        return {key: value for key, value in found if key not in _READ_ONLY}

    @property
    def image_metadata(self) -> dict[str, str]:
        """That of the image that the volume was made from."""
        return dict(self.record.get('volume_image_metadata') or {})

    @property
    def is_bootable(self) -> bool:
        return is_true(self.record['bootable'])

    @property
    def is_read_only(self) -> bool:
        return is_true(self.record['metadata'].get('readonly'))


def is_true(value: object) -> bool:
    """Whether Cinder means true; it also has texts for that."""
    return str(value).lower() == 'true'
