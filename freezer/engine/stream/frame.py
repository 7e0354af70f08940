"""The archive of a level: a header, which is one line of JSON; the stream as it is; at
the end its size and a digest.

Without the agent: the archive, decrypted and decompressed, without its first line and
its last 40 bytes.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

from freezer.exceptions import EngineError
from freezer.utils.blocks import Block

MAGIC: Final = b'{"freezer": "stream", '
_VERSION: Final = 1
_MAX_HEADER: Final = 4096
_SIZE: Final = struct.Struct('>Q')
#: bytes: the size of the stream, and a SHA-256 of header and stream
END: Final = _SIZE.size + hashlib.sha256().digest_size
# Bytes. A restore adds the level and .partial; a file system takes 255.
_MAX_NAME: Final = 200


@dataclass(frozen=True)
class Header:
    """
    :param level: of the archive
    :param name: of the file that a restore makes
    :param base: the digest of the level below, hexadecimal; empty at level 0
    """

    level: int
    name: str
    base: str = ''

    def dump(self) -> bytes:
        document = {
            'freezer': 'stream',
            'version': _VERSION,
            'level': self.level,
            'name': self.name,
            'base': self.base,
        }
        return json.dumps(document).encode() + b'\n'

    @classmethod
    def load(cls, line: bytes) -> Self:
        """:raises EngineError: it is damaged, or of a newer agent"""
        try:
            if not line.startswith(MAGIC):
                raise ValueError('it begins with other bytes')
            document: dict[str, Any] = json.loads(line)
            version = document['version']
            level, name, base = (document[key] for key in ('level', 'name', 'base'))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise EngineError(f'the archive is no stream: {error}') from error
        if version != _VERSION:
            raise EngineError(
                f'the archive has version {version!r}, which is not known: restore '
                f'it with a newer agent'
            )
        if type(level) is not int or not 0 <= level < 2**32 or type(base) is not str:
            raise EngineError('the archive is no stream: its header is malformed')
        if problem := name_problem(name):
            # It would be a path.
            raise EngineError(f'the archive is no stream: file name {problem}')
        return cls(level, name, base)


def name_problem(name: Any) -> str:
    """Why this cannot be the name of a file in a directory; empty if it can."""
    if type(name) is not str or not name or name in ('.', '..') or '/' in name:
        return f'{name!r} is not the name of a file'
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return f'{name!r} is not UTF-8'
    if not name.isprintable():
        return f'{name!r} has control characters'
    if len(encoded) > _MAX_NAME:
        return f'is longer than {_MAX_NAME} bytes'
    return ''


class FrameWriter:
    """Makes an archive.

    :ivar size: bytes of the stream so far
    :ivar digest: of the archive, hexadecimal; after the last block
    """

    def __init__(self, header: Header) -> None:
        self._header = header
        self.size = 0
        self.digest = ''

    def blocks(self, stream: Iterable[Block]) -> Iterator[Block]:
        digest = hashlib.sha256()
        line = self._header.dump()
        digest.update(line)
        yield line
        for block in stream:
            digest.update(block)
            self.size += len(block)
            yield block
        digest.update(_SIZE.pack(self.size))
        self.digest = digest.hexdigest()
        yield _SIZE.pack(self.size) + digest.digest()


class FrameReader:
    """Reads an archive.

    :ivar digest: of the archive, hexadecimal; after the last block
    :raises EngineError: it does not begin with a header
    """

    def __init__(self, archive: Iterable[Block]) -> None:
        self._blocks = iter(archive)
        self._hash = hashlib.sha256()
        self.digest = ''
        head = bytearray()
        while b'\n' not in head[:_MAX_HEADER] and len(head) < _MAX_HEADER:
            block = next(self._blocks, None)
            if block is None:
                break
            head += block
        line, newline, rest = bytes(head).partition(b'\n')
        self.header = Header.load(line)
        self._hash.update(line + newline)
        self._rest = rest

    def blocks(self) -> Iterator[Block]:
        """The stream; all of the archive is read.

        :raises EngineError: at the end, if it is not complete or was changed
        """
        size = 0
        # What may be the end.
        kept = bytearray(self._rest)
        for block in self._blocks:
            if len(kept) > END:
                yield from self._passed(kept[:-END])
                size += len(kept) - END
                del kept[:-END]
            if len(block) >= END:
                yield from self._passed(bytes(kept))
                size += len(kept)
                with memoryview(block) as view:
                    yield from self._passed(bytes(view[:-END]))
                    kept = bytearray(view[-END:])
                size += len(block) - END
            else:
                kept += block
        if len(kept) > END:
            yield from self._passed(kept[:-END])
            size += len(kept) - END
            del kept[:-END]
        self._check(bytes(kept), size)

    def _passed(self, block: Block) -> Iterator[Block]:
        if block:
            self._hash.update(block)
            yield block

    def _check(self, end: bytes, size: int) -> None:
        self._hash.update(_SIZE.pack(size))
        if len(end) < END or end != _SIZE.pack(size) + self._hash.digest():
            raise EngineError(
                f'the archive of level {self.header.level} is damaged: it ends too '
                f'early, or was changed'
            )
        self.digest = self._hash.hexdigest()
