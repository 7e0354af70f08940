"""The file of an index: sorted records in compressed blocks, and a table of the blocks.

::

    magic | block | block | ... | top | bytes of the top (8, big-endian) | magic

A block has up to 2048 records, in columns: numbers as arrays of the narrowest width,
their bytes grouped by significance; paths without what they share with the path before.
So a block compresses well, and is decoded by a few calls per column, not per record.
The top, JSON, has the level's properties, the owners, and of each block its place and
its first path: one name is found by reading the top and one block.

Compression is zlib's, which every Python has. Decision 0019 compares the alternatives.
"""

import functools
import itertools
import json
import operator
import struct
import sys
import tempfile
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, NamedTuple, Protocol, TypeVar

from freezer.engine.index.record import ALL_KINDS, Owner, Record, sort_key
from freezer.exceptions import EngineError

VERSION: Final = 1
BLOCK_RECORDS: Final = 2048

_MAGIC: Final = b'freezer-index-1\n'
_LENGTH: Final = struct.Struct('>Q')
_ZLIB_LEVEL: Final = 3
# The top of an index of a hundred million files has about 5 MB. What a damaged file
# declares must not fill the memory.
_MAX_TOP: Final = 256 << 20
_MAX_BLOCK: Final = 256 << 20
_COPY_BLOCK: Final = 1 << 20
# Bytes of a copy that are kept in memory.
_SPOOLED: Final = 1 << 20

#: reads the bytes from start to end (exclusive) of an index
Read = Callable[[int, int], bytes]


class IndexWriter:
    """Writes an index. Records are added in order; :meth:`finish` completes the file.

    :ivar count: records so far
    """

    def __init__(self, file: BinaryIO) -> None:
        self.count = 0
        self._file = file
        self._position = file.write(_MAGIC)
        self._pending: list[Record] = []
        self._owners: dict[Owner, int] = {}
        self._blocks: list[list[Any]] = []

    def add(self, record: Record) -> None:
        """Add a record. Its key is greater than that of the one before."""
        self._pending.append(record)
        if len(self._pending) == BLOCK_RECORDS:
            self._write_block()

    def finish(self, properties: Mapping[str, Any]) -> None:
        """Write the rest, and the top.

        :param properties: of the level, as JSON has them
        """
        if self._pending:
            self._write_block()
        owners = [list(owner) for owner in self._owners]
        document = {
            'version': VERSION,
            'records': self.count,
            'owners': owners,
            'blocks': self._blocks,
            'properties': properties,
        }
        top = zlib.compress(json.dumps(document).encode(), _ZLIB_LEVEL)
        self._file.write(top + _LENGTH.pack(len(top)) + _MAGIC)
        self._file.flush()

    def _write_block(self) -> None:
        records, self._pending = self._pending, []
        packed = zlib.compress(_pack(records, self._owners), _ZLIB_LEVEL)
        first = records[0].path.decode('latin-1')
        self._blocks.append([first, self._position, len(packed), len(records)])
        self._position += self._file.write(packed)
        self.count += len(records)


class IndexFile:
    """An index for reading.

    :param read: its exceptions pass through; the bytes are not checked again
    :param size: bytes of the file
    :param where: its name in errors
    :ivar properties: what :meth:`IndexWriter.finish` got
    :ivar count: records
    :ivar owners: all that its records have
    :raises EngineError: it is not an index, or of a newer version
    """

    def __init__(self, read: Read, size: int, where: str) -> None:
        self._read = read
        self._kept: tuple[int, RecordBlock] | None = None
        self._where = where
        end = _LENGTH.size + len(_MAGIC)
        if size < end + len(_MAGIC):
            raise self._damaged('too short')
        tail = read(size - end, size)
        if tail[_LENGTH.size :] != _MAGIC:
            raise self._damaged('not an index, or one of a newer agent')
        (length,) = _LENGTH.unpack(tail[: _LENGTH.size])
        start = size - end - length
        if length > _MAX_TOP or start < len(_MAGIC):
            raise self._damaged('its length is impossible')
        try:
            document = json.loads(_inflate(read(start, size - end), _MAX_TOP))
            self.properties: dict[str, Any] = document['properties']
            self.count = int(document['records'])
            self.owners: Sequence[Owner] = [
                (int(uid), int(gid), sys.intern(str(user)), sys.intern(str(group)))
                for uid, gid, user, group in document['owners']
            ]
            self._blocks = [
                (str(first).encode('latin-1'), int(at), int(bytes_), int(records))
                for first, at, bytes_, records in document['blocks']
            ]
            known = document['version'] == VERSION
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            raise self._damaged(str(error)) from error
        if not known:
            raise self._damaged(f'version {document["version"]} is not known')
        if any(
            not len(_MAGIC) <= at <= at + length <= start or length > _MAX_BLOCK
            for _first, at, length, _records in self._blocks
        ):
            raise self._damaged('a block is outside of it')
        self._keys = [sort_key(block[0]) for block in self._blocks]

    def records(self) -> Iterator[Record]:
        """Every record, in order."""
        for number in range(len(self._blocks)):
            yield from self._block(number).records

    def parts(self, roots: Sequence[bytes] = ()) -> Iterator['Part']:
        """The records, in order, as parts of blocks; none is empty.

        :param roots: only these paths, all below them, and the directories above them;
            none of them is below another. Only blocks that may have them are read
        """
        if roots:
            yield from self._parts_within(roots)
            return
        for number in range(len(self._blocks)):
            block = self._block(number)
            yield Part(block, 0, len(block.paths))

    def _parts_within(self, roots: Iterable[bytes]) -> Iterator['Part']:
        for key, whole in _keys_within(roots):
            # What is below a path comes directly after it.
            after = key + (b'\1' if whole else b'\0')
            first = max(bisect_right(self._keys, key) - 1, 0)
            for number in range(first, bisect_left(self._keys, after)):
                block = self._block(number)
                start = bisect_left(block.keys, key)
                end = bisect_left(block.keys, after, start)
                if start < end:
                    yield Part(block, start, end)

    def find(self, path: bytes) -> Record | None:
        """The record of one path; None if the index has none."""
        key = sort_key(path)
        number = bisect_right(self._keys, key) - 1
        if number < 0:
            return None
        block = self._block(number)
        at = bisect_left(block.keys, key)
        found = at < len(block.keys) and block.keys[at] == key
        return block.records[at] if found else None

    def _block(self, number: int) -> 'RecordBlock':
        """A block; the last one is kept, for lookups in a row."""
        if self._kept is None or self._kept[0] != number:
            self._kept = number, self._read_block(number)
        return self._kept[1]

    def _read_block(self, number: int) -> 'RecordBlock':
        first, at, length, records = self._blocks[number]

        def damaged(why: object) -> EngineError:
            return self._damaged(f'block {number}: {why}')

        try:
            content = _inflate(self._read(at, at + length), _MAX_BLOCK)
        except (ValueError, zlib.error) as error:
            raise damaged(error) from error
        block = RecordBlock(content, records, self.owners, damaged)
        if block.paths[0] != first:
            raise damaged('it is another one')
        return block

    def _damaged(self, why: str) -> EngineError:
        return EngineError(f'{self._where}: the index is damaged: {why}')


class Readable(Protocol):
    """An index on a storage, or anything else that can be read by ranges."""

    @property
    def size(self) -> int: ...

    def read(self, start: int, end: int) -> bytes: ...


def local_copy(index: Readable, path: Path, where: str) -> IndexFile:
    """Copy an index into a local file, and open that.

    :param where: its name in errors
    """
    # Closed with the object that reads it.
    return _copy(index, path.open('w+b'), where)


def memory_copy(index: Readable, where: str) -> IndexFile:
    """Copy an index into memory, or into a file without a name if it is large.

    :param where: its name in errors
    """
    # Closed with the object that reads it.
    return _copy(index, tempfile.SpooledTemporaryFile(_SPOOLED), where)


def _copy(index: Readable, file: IO[bytes], where: str) -> IndexFile:
    for start in range(0, index.size, _COPY_BLOCK):
        file.write(index.read(start, min(start + _COPY_BLOCK, index.size)))

    def read(start: int, end: int) -> bytes:
        file.seek(start)
        return file.read(end - start)

    return IndexFile(read, index.size, where)


def _inflate(content: bytes, limit: int) -> bytes:
    decompressor = zlib.decompressobj()
    data = decompressor.decompress(content, limit)
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError('too large, cut off, or followed by other data')
    return data


def _keys_within(roots: Iterable[bytes]) -> list[tuple[bytes, bool]]:
    """The keys of paths and of the directories above them, sorted; and whether what is
    below is wanted as well."""
    keys: dict[bytes, bool] = {}
    for root in roots:
        key = sort_key(root)
        keys[key] = True
        while b'\0' in key:
            key = key.rpartition(b'\0')[0]
            keys.setdefault(key, False)
    return sorted(keys.items())


# Columns


def _pack(records: Sequence[Record], owners: dict[Owner, int]) -> bytes:
    (
        paths, kinds, modes, uids, gids, users, groups, sizes, mtimes, ctimes, inodes,
        targets, offsets, lengths,
    ) = zip(*records, strict=True)  # fmt: skip
    shared = [0]
    suffixes = [paths[0]]
    for before, path in itertools.pairwise(paths):
        count = before.rfind(b'/') + 1
        if not path.startswith(before[:count]):
            count = _shared(before, path)
        shared.append(count)
        suffixes.append(path[count:])
    numbers = [
        owners.setdefault(owner, len(owners))
        for owner in zip(uids, gids, users, groups, strict=True)
    ]
    # Members are mostly next to each other, in this order, and hold a file and headers.
    expected = (0, *map(operator.add, offsets, lengths))
    columns: list[Sequence[int]] = [
        shared,
        [_NUMBER_OF[kind] for kind in kinds],
        modes,
        numbers,
        sizes,
        mtimes,
        list(map(operator.sub, ctimes, mtimes)),
        inodes,
        list(map(operator.sub, offsets, expected)),
        # A member that has the size of the file, in whole blocks, and some headers.
        [
            length - (size + 511 & -512)
            for length, size in zip(lengths, sizes, strict=True)
        ],
    ]
    parts = [b'\0'.join(suffixes), b'\0'.join(targets)]
    parts += [_pack_numbers(column) for column in columns]
    head = struct.pack(f'>{len(parts)}I', *map(len, parts))
    return b''.join([head, *parts])


_COLUMNS: Final = 12
_NUMBER_OF: Final = {kind: number for number, kind in enumerate(ALL_KINDS)}


# What a malformed column raises.
_MALFORMED: Final = (ValueError, IndexError, TypeError, struct.error)

T = TypeVar('T')
S = TypeVar('S', bound=Sequence[Any])


def _column(read: Callable[['RecordBlock'], T]) -> 'functools.cached_property[T]':
    """A column: decoded once; what is wrong with it becomes an error that names it."""

    @functools.wraps(read)
    def checked(block: 'RecordBlock') -> T:
        try:
            return read(block)
        except _MALFORMED as error:
            raise block.damaged(error) from error

    return functools.cached_property(checked)


class RecordBlock:
    """Some records of an index, in columns, which are decoded when they are needed.

    A list of all files needs half of the columns, and no :class:`Record` at all.

    :param damaged: makes the error that a column raises
    """

    def __init__(
        self,
        content: bytes,
        count: int,
        owners: Sequence[Owner],
        damaged: Callable[[object], EngineError],
    ) -> None:
        self.damaged = damaged
        self._count = count
        self._all_owners = owners
        head = struct.Struct(f'>{_COLUMNS}I')
        try:
            lengths_of = head.unpack_from(content)
        except struct.error as error:
            raise damaged(error) from error
        ends = list(itertools.accumulate(lengths_of, initial=head.size))
        if ends[-1] != len(content):
            raise damaged('its length does not fit')
        self._parts = [content[start:end] for start, end in itertools.pairwise(ends)]

    @_column
    def paths(self) -> list[bytes]:
        paths = []
        path = b''
        for same, suffix in zip(self._numbers(2), self._texts(0), strict=True):
            path = path[:same] + suffix
            paths.append(path)
        return paths

    @functools.cached_property
    def keys(self) -> list[bytes]:
        """:func:`sort_key` of the paths, in order."""
        return [path.replace(b'/', b'\0') for path in self.paths]

    @_column
    def kinds(self) -> list[str]:
        return [ALL_KINDS[number] for number in self._numbers(3)]

    @_column
    def modes(self) -> Sequence[int]:
        return self._numbers(4)

    @_column
    def owners(self) -> list[Owner]:
        owners = self._all_owners
        return [owners[number] for number in self._numbers(5)]

    @_column
    def sizes(self) -> Sequence[int]:
        return self._numbers(6)

    @_column
    def mtimes(self) -> Sequence[int]:
        return self._numbers(7)

    @_column
    def targets(self) -> list[bytes]:
        return self._texts(1)

    @_column
    def records(self) -> list[Record]:
        ctimes = map(operator.add, self.mtimes, self._numbers(8))
        lengths = [
            more + (size + 511 & -512)
            for more, size in zip(self._numbers(11), self.sizes, strict=True)
        ]
        places = []
        end = 0
        for more, length in zip(self._numbers(10), lengths, strict=True):
            end += more
            places.append(end)
            end += length
        rows = zip(
            self.paths, self.kinds, self.modes, *zip(*self.owners, strict=True),
            self.sizes, self.mtimes, ctimes, self._numbers(9), self.targets, places,
            lengths, strict=True,
        )  # fmt: skip
        # Faster than calling the class.
        return list(map(Record._make, rows))

    def _numbers(self, number: int) -> Sequence[int]:
        return self._checked(_unpack_numbers(self._parts[number]))

    def _texts(self, number: int) -> list[bytes]:
        return self._checked(self._parts[number].split(b'\0'))

    def _checked(self, column: S) -> S:
        if len(column) != self._count:
            raise ValueError('a column has another length')
        return column


class Part(NamedTuple):
    """Records of a block, from ``start`` to ``end`` (exclusive)."""

    block: RecordBlock
    start: int
    end: int


def _shared(before: bytes, path: bytes) -> int:
    """The number of bytes that two paths begin with alike."""
    low, high = 0, min(len(before), len(path))
    while low < high:
        middle = (low + high + 1) // 2
        if before.startswith(path[:middle]):
            low = middle
        else:
            high = middle - 1
    return low


_WIDTHS: Final = 'BHIQ'
_TEXT: Final = 'T'
_HEAD: Final = struct.Struct('>cq')


def _pack_numbers(numbers: Sequence[int]) -> bytes:
    """Numbers less the smallest, in the narrowest width, their bytes by significance;
    as text if 64 bits are not enough, as for times that are centuries apart."""
    least = min(numbers)
    range_ = max(numbers) - least
    code = next((c for c in _WIDTHS if range_ < 1 << 8 * array(c).itemsize), _TEXT)
    if code == _TEXT or not -(1 << 63) <= least < 1 << 63:
        text = ','.join(map(str, numbers)).encode('ascii')
        return _HEAD.pack(_TEXT.encode('ascii'), 0) + text
    packed = array(code, [number - least for number in numbers] if least else numbers)
    if sys.byteorder == 'big':
        packed.byteswap()
    data, width = packed.tobytes(), packed.itemsize
    planes = [data[byte::width] for byte in range(width)]
    return b''.join([_HEAD.pack(code.encode('ascii'), least), *planes])


def _unpack_numbers(data: bytes) -> Sequence[int]:
    letter, least = _HEAD.unpack_from(data)
    code, planes = letter.decode('ascii'), data[_HEAD.size :]
    if code == _TEXT:
        return [int(number) for number in planes.split(b',')]
    if code not in _WIDTHS:
        raise ValueError('an unknown width')
    numbers = array(code)
    width = numbers.itemsize
    count, rest = divmod(len(planes), width)
    if rest:
        raise ValueError('a number is cut off')
    mixed = bytearray(len(planes))
    for byte in range(width):
        mixed[byte::width] = planes[byte * count : (byte + 1) * count]
    numbers.frombytes(mixed)
    if sys.byteorder == 'big':
        numbers.byteswap()
    return [number + least for number in numbers] if least else numbers
