"""The engine's file: what the next level must know of a level."""

import json
from dataclasses import dataclass, field
from typing import Any, Final, Self

from freezer.exceptions import EngineError

_VERSION: Final = 1
_MAX_BYTES: Final = 65536
# What reading another document raises.
_DAMAGE: Final = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class LevelState:
    """
    :param digest: of the archive, hexadecimal
    :param preset: of ``--stream``; empty if there was none
    :param position: what the tool needs to make the next level; empty if there can be
        none
    """

    level: int
    digest: str
    preset: str = ''
    position: dict[str, str] = field(default_factory=dict)

    def dump(self) -> bytes:
        document = {
            'engine': 'stream',
            'version': _VERSION,
            'level': self.level,
            'digest': self.digest,
            'preset': self.preset,
            'position': self.position,
        }
        return json.dumps(document).encode() + b'\n'

    @classmethod
    def load(cls, content: bytes) -> Self:
        """:raises EngineError: it is damaged, or of a newer agent"""
        try:
            if len(content) > _MAX_BYTES:
                raise ValueError('too large')
            document: dict[str, Any] = json.loads(content)
            if (document['engine'], document['version']) != ('stream', _VERSION):
                raise ValueError('not known')
            level, digest, preset, position = (
                document[key] for key in ('level', 'digest', 'preset', 'position')
            )
            texts = [digest, preset, *position, *position.values()]
            if not all(type(each) is str for each in texts):
                raise ValueError('no text')
            if type(level) is not int or level < 0:
                raise ValueError('no level')
        except _DAMAGE as error:
            raise EngineError(
                f'the engine file of the level is damaged: {error}'
            ) from error
        return cls(level, digest, preset, position)
