"""The stream of one level: a header, records of ranges, and an end with a digest.

All numbers are unsigned and big-endian::

    header   16 bytes  "freezer-blocks-1"
              4        level
              4        block size: a power of two, from 4096 to 1048576
              8        size of the image in this level, bytes
             32        digest of the level below; zeros at level 0
    record    1 byte   "D" data, "Z" zeros, or "E" end
              8        offset in the image; in the end record: size of the image
              8        length; in the end record: bytes of all data records
             and in data records as many bytes as the length says,
             in the end record 32 bytes: the digest of the level

The digest of a level is the SHA-256 of everything before it. Records are sorted by
offset and do not overlap. Offsets are multiples of the block size, and so are lengths,
except at the end of the image. A range without a record is as in the level below; at
level 0, zeros.
"""

import hashlib
import hmac
import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from freezer.exceptions import EngineError
from freezer.utils.blocks import Block

MAGIC: Final = b'freezer-blocks-1'
MIN_BLOCK: Final = 4096
MAX_BLOCK: Final = 1 << 20
# Larger files do not exist: offsets are signed in system calls.
MAX_SIZE: Final = 2**63 - 1
DIGEST_SIZE: Final = 32
# Bytes that one data record may have.
MAX_DATA: Final = 16 << 20

_HEADER: Final = struct.Struct('>16sIIQ32s')
_RECORD: Final = struct.Struct('>cQQ')
_DATA, _ZEROS, _END = b'D', b'Z', b'E'
NO_BASE: Final = bytes(DIGEST_SIZE)


class Header(NamedTuple):
    """
    :ivar size: bytes of the image
    :ivar base: digest of the level below; zeros at level 0
    """

    level: int
    block_size: int
    size: int
    base: bytes = NO_BASE


class Range(NamedTuple):
    """A range of the image that a level describes.

    :ivar offset: bytes
    :ivar content: None for ``length`` zeros
    """

    offset: int
    length: int
    content: Block | memoryview | None = None


class StreamWriter:
    """Makes the bytes of a stream.

    :ivar digest: of the level; only after :meth:`end`
    """

    def __init__(self, header: Header) -> None:
        self.digest = b''
        self._size = header.size
        self._data = 0
        self._hash = hashlib.sha256()
        level, block_size, size, base = header
        self.head = _HEADER.pack(MAGIC, level, block_size, size, base)
        self._hash.update(self.head)

    def records(self, ranges: Iterable[Range]) -> bytearray:
        """The records of some ranges; empty if there are none."""
        found = bytearray()
        for offset, length, content in ranges:
            found += _RECORD.pack(_ZEROS if content is None else _DATA, offset, length)
            if content is not None:
                found += content
                self._data += length
        self._hash.update(found)
        return found

    def end(self) -> bytes:
        end = _RECORD.pack(_END, self._size, self._data)
        self._hash.update(end)
        self.digest = self._hash.digest()
        return end + self.digest


class StreamReader:
    """Reads the stream of one level.

    :param blocks: the stream
    :ivar header: read at once
    :ivar digest: of the level; only after :meth:`ranges`
    :raises EngineError: the header is malformed
    """

    def __init__(self, blocks: Iterable[Block]) -> None:
        self._blocks = iter(blocks)
        self._rest = memoryview(b'')
        self._hash = hashlib.sha256()
        self.digest = b''
        self.header = self._read_header()

    def ranges(self) -> Iterator[Range]:
        """All ranges, in order, to the end of the stream. Data comes in pieces, which
        the next step of the iteration makes invalid.

        :raises EngineError: the stream is damaged or cut off
        """
        size = self.header.size
        position = total = 0
        while True:
            kind, offset, length = _RECORD.unpack(self._take(_RECORD.size))
            if kind == _END:
                self._check_end(offset == size and length == total)
                return
            self._check(kind in (_DATA, _ZEROS), f'record {kind!r} is not known')
            self._check(
                position <= offset
                and 0 < length <= size - offset
                and self._is_aligned(offset, offset + length),
                f'the record of bytes {offset} to {offset + length} is in a wrong '
                f'place',
            )
            position = offset + length
            if kind == _ZEROS:
                yield Range(offset, length)
                continue
            self._check(length <= MAX_DATA, f'a record has {length} bytes')
            total += length
            while offset < position:
                piece = self._take_some(position - offset)
                yield Range(offset, len(piece), piece)
                offset += len(piece)

    def _read_header(self) -> Header:
        magic, level, block_size, size, base = _HEADER.unpack(self._take(_HEADER.size))
        self._check(magic == MAGIC, 'it does not begin as one')
        self._check(
            MIN_BLOCK <= block_size <= MAX_BLOCK
            and not block_size & (block_size - 1)
            and size <= MAX_SIZE
            and (level > 0 or base == NO_BASE),
            'its header is impossible',
        )
        return Header(level, block_size, size, base)

    def _is_aligned(self, start: int, end: int) -> bool:
        block_size, size = self.header.block_size, self.header.size
        return not start % block_size and (end == size or not end % block_size)

    def _check_end(self, fits: bool) -> None:
        self._check(fits, 'its end record does not fit the records before')
        self.digest = self._hash.digest()
        found = self._take(DIGEST_SIZE)
        self._check(hmac.compare_digest(found, self.digest), 'its digest is another')
        self._check(
            not self._rest and not any(map(len, self._blocks)),
            'bytes follow its end',
        )

    def _take(self, size: int) -> bytes:
        taken = bytearray()
        while len(taken) < size:
            taken += self._take_some(size - len(taken))
        return bytes(taken)

    def _take_some(self, size: int) -> bytes:
        """At least one byte, at most ``size``."""
        while not self._rest:
            try:
                self._rest = memoryview(next(self._blocks))
            except StopIteration:
                raise _damaged('it is cut off') from None
        piece = bytes(self._rest[:size])
        self._rest = self._rest[size:]
        self._hash.update(piece)
        return piece

    @staticmethod
    def _check(fits: bool, why: str) -> None:
        if not fits:
            raise _damaged(why)


def _damaged(why: str) -> EngineError:
    return EngineError(f'the archive of blocks is damaged: {why}')
