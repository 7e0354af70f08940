"""The engine's file: what the next level must know of a level, beside the digests of
its blocks, which are in its index."""

import json
from dataclasses import dataclass
from typing import Any, Final, Self

from freezer.engine.blocks.stream import (
    DIGEST_SIZE,
    MAX_BLOCK,
    MAX_SIZE,
    MIN_BLOCK,
)
from freezer.exceptions import EngineError

KEY_SIZE: Final = 64
_VERSION: Final = 1
_MAX_BYTES: Final = 4096


@dataclass(frozen=True)
class LevelState:
    """
    :param size: bytes of the image
    :param key: of the digests of blocks: the same in all levels of a chain
    :param digest: of the level's stream
    """

    level: int
    block_size: int
    size: int
    key: bytes
    digest: bytes

    def dump(self) -> bytes:
        document = {
            'engine': 'blocks',
            'version': _VERSION,
            'level': self.level,
            'block_size': self.block_size,
            'size': self.size,
            'key': self.key.hex(),
            'digest': self.digest.hex(),
        }
        return json.dumps(document).encode() + b'\n'

    @classmethod
    def load(cls, content: bytes) -> Self:
        """:raises EngineError: it is damaged, or of a newer agent"""
        try:
            if len(content) > _MAX_BYTES:
                raise ValueError('too large')
            document: dict[str, Any] = json.loads(content)
            if (document['engine'], document['version']) != ('blocks', _VERSION):
                raise ValueError('not known')
            level, block_size, size = (
                document[key] for key in ('level', 'block_size', 'size')
            )
            key, digest = (bytes.fromhex(document[name]) for name in ('key', 'digest'))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise EngineError(
                f'the engine file of the level is damaged: {error}'
            ) from error
        if (
            not all(type(each) is int for each in (level, block_size, size))
            or not 0 <= level < 2**32
            or not MIN_BLOCK <= block_size <= MAX_BLOCK
            or block_size & (block_size - 1)
            or not 0 <= size <= MAX_SIZE
            or (len(key), len(digest)) != (KEY_SIZE, DIGEST_SIZE)
        ):
            raise EngineError('the engine file of the level is damaged')
        return cls(level, block_size, size, key, digest)
