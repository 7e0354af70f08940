"""The file of an index: sorted records in compressed blocks, and a table of the blocks.

::

    magic | block | block | ... | top | bytes of the top (8, big-endian) | magic

A block has up to 2048 records, in columns: numbers as arrays of the narrowest width,
their bytes grouped by significance; paths without what they share with the path before.
So a block compresses well, and is decoded by a few calls per column, not per record.
The top, JSON, has the level's properties, the owners, and of each block its place and
its first path: one name is found by reading the top and one block.

An engine may add *attachments* between the blocks: bytes by number, which are not
compressed. Each is found by reading the top.

Compression is zlib's, which every Python has. Decision 0019 compares the alternatives.
"""

import collections
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
        self._attachments: list[list[int]] = []

    def add(self, record: Record) -> None:
        """Add a record. Its key is greater than that of the one before."""
        self._pending.append(record)
        if len(self._pending) == BLOCK_RECORDS:
            self._write_block()

    def attach(self, number: int, content: bytes) -> None:
        """Add an attachment. Its number is greater than that of the one before."""
        self._attachments.append([number, self._position, len(content)])
        self._position += self._file.write(content)

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
        if self._attachments:
            document['attachments'] = self._attachments
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


class BlockCache:
    """Decoded blocks of one index, or of several: those that were used last.

    A block takes about half a MiB. Not for several threads at once.
    """

    def __init__(self, blocks: int = 1) -> None:
        self._limit = blocks
        self._kept: collections.OrderedDict[tuple[IndexFile, int], RecordBlock]
        self._kept = collections.OrderedDict()

    def get(self, index: 'IndexFile', number: int) -> 'RecordBlock | None':
        block = self._kept.get((index, number))
        if block is not None:
            self._kept.move_to_end((index, number))
        return block

    def put(self, index: 'IndexFile', number: int, block: 'RecordBlock') -> None:
        self._kept[index, number] = block
        if len(self._kept) > self._limit:
            self._kept.popitem(last=False)


class IndexFile:
    """An index for reading.

    :param read: its exceptions pass through; the bytes are not checked again
    :param size: bytes of the file
    :param where: its name in errors
    :param cache: keeps blocks; unless it is given, the last one is kept
    :ivar properties: what :meth:`IndexWriter.finish` got
    :ivar count: records
    :ivar owners: all that its records have
    :raises EngineError: it is not an index, or of a newer version
    """

    def __init__(
        self, read: Read, size: int, where: str, cache: BlockCache | None = None
    ) -> None:
        self._read = read
        self._cache = cache or BlockCache()
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
            self._attachments = {
                int(number): (int(at), int(bytes_))
                for number, at, bytes_ in document.get('attachments', ())
            }
            known = document['version'] == VERSION
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            raise self._damaged(str(error)) from error
        if not known:
            raise self._damaged(f'version {document["version"]} is not known')
        places = [block[1:3] for block in self._blocks]
        if any(
            not len(_MAGIC) <= at <= at + length <= start or length > _MAX_BLOCK
            for at, length in (*places, *self._attachments.values())
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
        found = self.locate(path)
        return None if found is None else found.block.records[found.start]

    def locate(self, path: bytes) -> 'Part | None':
        """The record of one path, which is not decoded; None if the index has none."""
        key = sort_key(path)
        number = bisect_right(self._keys, key) - 1
        if number < 0:
            return None
        block = self._block(number)
        at = bisect_left(block.keys, key)
        found = at < len(block.keys) and block.keys[at] == key
        return Part(block, at, at + 1) if found else None

    def children(self, path: bytes) -> Iterator['Part']:
        """The records of the names in a directory, without those below, as parts.

        Blocks that only have what is below are not read.
        """
        prefix = sort_key(path) + b'\0' if path else b''
        # Where to go on: after the directory itself, and after each name below which
        # there is something.
        least = prefix or b'\1'
        number = max(bisect_right(self._keys, least) - 1, 0)
        while number < len(self._blocks):
            block = self._block(number)
            keys = block.keys
            at = bisect_left(keys, least)
            while at < len(keys):
                start, at = at, _siblings_end(keys, at, prefix)
                if start < at:
                    yield Part(block, start, at)
                if at < len(keys):
                    if not keys[at].startswith(prefix):
                        return
                    least = keys[at][: keys[at].index(b'\0', len(prefix))] + b'\1'
                    at = bisect_left(keys, least, at)
            number = max(bisect_right(self._keys, least) - 1, number + 1)

    def links_and_end(self) -> tuple[dict[bytes, list[bytes]], int]:
        """The hard links: the name that has the contents -> the others, in order; and
        the byte of the archive after the last member. Reads all blocks."""
        found: dict[bytes, list[bytes]] = {}
        end = 0
        for number in range(len(self._blocks)):
            block = self._read_block(number)
            end = max(end, *map(operator.add, block.places, block.lengths))
            if 'link' in block.kinds:
                for at, kind in enumerate(block.kinds):
                    if kind == 'link':
                        others = found.setdefault(block.targets[at], [])
                        others.append(block.paths[at])
        return found, end

    def attachment(self, number: int) -> bytes | None:
        """The attachment with this number; None if there is none."""
        if number not in self._attachments:
            return None
        at, length = self._attachments[number]
        return self._read(at, at + length)

    def _block(self, number: int) -> 'RecordBlock':
        block = self._cache.get(self, number)
        if block is None:
            block = self._read_block(number)
            self._cache.put(self, number, block)
        return block

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


def local_copy(
    index: Readable, path: Path, where: str, cache: BlockCache | None = None
) -> IndexFile:
    """Copy an index into a local file, and open that.

    :param where: its name in errors
    :param cache: see :class:`IndexFile`
    """
    # Closed with the object that reads it.
    return _copy(index, path.open('w+b'), where, cache)


def memory_copy(
    index: Readable, where: str, cache: BlockCache | None = None
) -> IndexFile:
    """Copy an index into memory, or into a file without a name if it is large.

    :param where: its name in errors
    :param cache: see :class:`IndexFile`
    """
    # Closed with the object that reads it.
    return _copy(index, tempfile.SpooledTemporaryFile(_SPOOLED), where, cache)


def _copy(
    index: Readable, file: IO[bytes], where: str, cache: BlockCache | None = None
) -> IndexFile:
    for start in range(0, index.size, _COPY_BLOCK):
        file.write(index.read(start, min(start + _COPY_BLOCK, index.size)))

    def read(start: int, end: int) -> bytes:
        file.seek(start)
        return file.read(end - start)

    return IndexFile(read, index.size, where, cache)


def _siblings_end(keys: Sequence[bytes], at: int, prefix: bytes) -> int:
    """Where a run of keys of names directly in a directory ends.

    :param prefix: of these keys
    """
    size = len(prefix)
    for number in range(at, len(keys)):
        key = keys[number]
        if not key.startswith(prefix) or key.find(b'\0', size) >= 0:
            return number
    return len(keys)


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
    def ctimes(self) -> list[int]:
        return list(map(operator.add, self.mtimes, self._numbers(8)))

    @_column
    def inodes(self) -> Sequence[int]:
        return self._numbers(9)

    @_column
    def targets(self) -> list[bytes]:
        return self._texts(1)

    @_column
    def lengths(self) -> list[int]:
        return [
            more + (size + 511 & -512)
            for more, size in zip(self._numbers(11), self.sizes, strict=True)
        ]

    @_column
    def places(self) -> list[int]:
        places = []
        end = 0
        for more, length in zip(self._numbers(10), self.lengths, strict=True):
            end += more
            places.append(end)
            end += length
        return places

    @_column
    def records(self) -> list[Record]:
        rows = zip(
            self.paths, self.kinds, self.modes, *zip(*self.owners, strict=True),
            self.sizes, self.mtimes, self.ctimes, self.inodes, self.targets,
            self.places, self.lengths, strict=True,
        )  # fmt: skip
        # Faster than calling the class.
        return list(map(Record._make, rows))

    def without_place(self, at: int) -> Record:
        """One record, with offset and length 0: places need those of all before."""
        return Record(
            self.paths[at], self.kinds[at], self.modes[at], *self.owners[at],
            self.sizes[at], self.mtimes[at], self.ctimes[at], self.inodes[at],
            self.targets[at], 0, 0,
        )  # fmt: skip

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
    """Numbers less the smallest, if that makes them narrower, in the narrowest width,
    their bytes by significance; as text if 64 bits are not enough, as for times that
    are centuries apart."""
    least, most = min(numbers), max(numbers)
    code = _width(most - least)
    if least > 0 and code == _width(most):
        least = 0
    if code == _TEXT or not -(1 << 63) <= least < 1 << 63:
        text = ','.join(map(str, numbers)).encode('ascii')
        return _HEAD.pack(_TEXT.encode('ascii'), 0) + text
    packed = array(code, [number - least for number in numbers] if least else numbers)
    if sys.byteorder == 'big':
        packed.byteswap()
    data, width = packed.tobytes(), packed.itemsize
    planes = [data[byte::width] for byte in range(width)]
    return b''.join([_HEAD.pack(code.encode('ascii'), least), *planes])


def _width(number: int) -> str:
    return next((c for c in _WIDTHS if number < 1 << 8 * array(c).itemsize), _TEXT)


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
