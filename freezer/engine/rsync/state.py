"""The engine's file of a level: every path of its state, and checksums of the blocks of
every file. It is read as a stream, once for each question."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator
from typing import Final, NamedTuple

from freezer.engine.rsync.byte_reader import ByteReader
from freezer.engine.rsync.entry import LARGEST, check_path, kind_of
from freezer.engine.rsync.json_reader import JsonReader
from freezer.engine.rsync.msgpack import Unpacker
from freezer.exceptions import EngineError
from freezer.stream import compression

_WHAT: Final = 'engine_metadata'


class StatePath(NamedTuple):
    """
    :ivar kind: ``directory``, ``symlink`` or ``file``, which stands for all others
    """

    path: bytes
    kind: str


class Checksums(NamedTuple):
    """
    :ivar digests: SHA-1 of each block of the file, in order; read them at once
    """

    path: bytes
    digests: Iterator[str]


class StateFile:
    """
    :param content: as it is stored
    """

    def __init__(self, content: bytes) -> None:
        self._content = content

    def block_size(self) -> int | None:
        """None if it is not there.

        :raises EngineError: the file is damaged
        """
        reader, _stream = self._open()
        size = None
        for key in reader.map():
            if key == b'rsync_block_size':
                value = reader.scalar()
                size = value if isinstance(value, int) and value > 0 else None
            else:
                reader.skip()
        return size

    def paths(self) -> Iterator[StatePath]:
        """
        :raises EngineError: the file is damaged
        """
        return (each for each in self._read() if isinstance(each, StatePath))

    def checksums(self) -> Iterator[Checksums]:
        """
        :raises EngineError: the file is damaged
        """
        return (each for each in self._read() if isinstance(each, Checksums))

    def _read(self) -> Iterator[StatePath | Checksums]:
        reader, stream = self._open()
        for key in reader.map():
            if key not in (b'files', b'directories'):
                reader.skip()
                continue
            for path in reader.map():
                # Version 1 has the names of directories with the path it was given.
                name = b'' if path == b'.' else check_path(path.removeprefix(b'./'))
                yield from self._entry(reader, name)
        # Its last bytes show whether it is damaged.
        collections.deque(stream.take(LARGEST), maxlen=0)

    def _entry(
        self, reader: JsonReader | Unpacker, path: bytes
    ) -> Iterator[StatePath | Checksums]:
        kind, removed = 'file', False
        for key in reader.map():
            if key == b'mode':
                kind = self._kind(reader)
            elif key == b'inode':
                for name in reader.map():
                    if name == b'mode':
                        kind = self._kind(reader)
                    elif name == b'deleted':
                        removed = reader.scalar() == b'1111'
                    else:
                        reader.skip()
            elif key == b'signature':
                digests = self._digests(reader)
                yield Checksums(path, digests)
                for _rest in digests:
                    pass
            else:
                reader.skip()
        if not removed:
            yield StatePath(path, kind)

    @staticmethod
    def _kind(reader: JsonReader | Unpacker) -> str:
        mode = reader.scalar()
        kind = kind_of(mode) if isinstance(mode, int) else None
        return kind if kind in ('directory', 'symlink') else 'file'

    @staticmethod
    def _digests(reader: JsonReader | Unpacker) -> Iterator[str]:
        """Of the lists of weak and of strong checksums, the second."""
        for number, _ in enumerate(reader.items()):
            if number != 1:
                reader.skip()
                continue
            for _ in reader.items():
                value = reader.scalar()
                if not isinstance(value, bytes):
                    raise reader.damaged(f'{value!r} is no checksum')
                yield os.fsdecode(value)

    def _open(self) -> tuple[JsonReader | Unpacker, ByteReader]:
        name = 'bzip2' if self._content.startswith(b'BZh') else 'zlib'
        stream = ByteReader(compression.decompress(name, [self._content]), _WHAT)
        if stream.first() == ord('{'):
            blocks = iter(lambda: b''.join(stream.take(64 * 1024)), b'')
            return JsonReader(blocks, stream.damaged), stream
        return Unpacker(stream.read, stream.damaged), stream


def load(content: bytes | None, where: str) -> StateFile:
    """
    :raises EngineError: the file is missing
    """
    if content is None:
        raise EngineError(f'{where} is missing')
    return StateFile(content)
