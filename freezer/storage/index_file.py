"""The index of a level: how it is stored beside the data, and how parts of it are read.

The stored file is the index, followed by its *digest table*: one SHA-256 of 32 bytes
for each piece of 64 KiB, in order. The commit marker records the size of the index, and
the SHA-256 of the table. A reader fetches the table, checks it with the marker, and can
then fetch any piece and check that, without the others. The digests are of the stored
bytes, so a reader needs no key for them.

The engine decides what an index contains.
"""

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from freezer.storage import manifest
from freezer.storage.exceptions import IntegrityError, NotFound, StorageException
from freezer.utils.lazy import fetched

PIECE = 64 * 1024
_DIGEST_SIZE = 32
# 64 GiB: the table of a larger index would be more than one piece of a storage.
MAX_SIZE = manifest.MAX_PIECE // _DIGEST_SIZE * PIECE

# A file of at most this many bytes is fetched whole, with one request.
SMALL = 4 * 1024 * 1024
# All of these count pieces: the largest request, the furthest that is read ahead, and
# the number kept in memory. A small file fits into memory.
_FETCHED_AT_ONCE = SMALL // PIECE
_READ_AHEAD = _FETCHED_AT_ONCE // 2
_KEPT = _FETCHED_AT_ONCE

#: Reads pieces of one file, as :meth:`base.Storage.read_pieces` does.
ReadPieces = Callable[[Iterable[manifest.Piece]], Generator[manifest.Read, None, None]]


@dataclass(frozen=True)
class IndexRecord:
    """What the marker records of an index.

    :param size: bytes of the index, without its table
    :param digest: SHA-256 of the table, hexadecimal
    """

    size: int
    digest: str

    @classmethod
    def parse(cls, raw: object, where: str) -> Self:
        """Read a marker's value.

        :param where: name of the marker in errors
        :raises IntegrityError: it is malformed, or of a newer agent
        """
        value: Mapping[str, Any] = raw if isinstance(raw, dict) else {}
        size, piece, digest = (value.get(key) for key in ('size', 'piece', 'sha256'))
        if (
            type(piece) is not int
            or piece != PIECE
            or type(size) is not int
            or not 0 <= size <= MAX_SIZE
            or not isinstance(digest, str)
            or not manifest.is_digest(digest)
        ):
            raise IntegrityError(
                f'{where}: its record of the index is damaged, or of a newer agent'
            )
        return cls(size, digest)

    def dump(self) -> dict[str, Any]:
        """The marker's value."""
        return {'size': self.size, 'piece': PIECE, 'sha256': self.digest}

    @property
    def count(self) -> int:
        """The number of pieces."""
        return math.ceil(self.size / PIECE)

    @property
    def stored_size(self) -> int:
        """Bytes of the stored file: the index and its table."""
        return self.size + self.count * _DIGEST_SIZE

    @property
    def table(self) -> manifest.Piece:
        """The table's place in the stored file."""
        return manifest.Piece(self.size, self.stored_size, bytes.fromhex(self.digest))

    def pieces(self, table: bytes, first: int, after: int) -> Iterator[manifest.Piece]:
        """Pieces ``first`` to ``after`` (exclusive), with their digests.

        :param table: the digest table, checked
        """
        for number in range(first, after):
            start = number * PIECE
            digest = table[number * _DIGEST_SIZE : (number + 1) * _DIGEST_SIZE]
            yield manifest.Piece(start, min(start + PIECE, self.size), digest)


class OutgoingIndex:
    """An index on its way to a storage.

    :param path: a local file
    :raises StorageException: it is larger than :data:`MAX_SIZE`
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._record: IndexRecord | None = None
        size = os.stat(path).st_size
        if size > MAX_SIZE:
            raise StorageException(
                f'the index of this backup has {size} bytes, and at most {MAX_SIZE} '
                f'can be stored: back up fewer files in one backup'
            )

    def blocks(self) -> Iterator[bytes]:
        """The stored file. One piece and the table are in memory."""
        size, table = 0, bytearray()
        with open(self._path, 'rb') as file:
            while piece := file.read(PIECE):
                size += len(piece)
                table += hashlib.sha256(piece).digest()
                yield piece
        self._record = IndexRecord(size, hashlib.sha256(table).hexdigest())
        yield bytes(table)

    @property
    def record(self) -> IndexRecord:
        """What was stored; only after the last block."""
        assert self._record is not None
        return self._record


class StoredIndex:
    """The index of a stored level. For one thread at a time.

    Nothing is fetched before the first read. The table is kept, and so are the 4 MiB
    that were read last.

    :param read_pieces: reads the stored file
    :param where: its name in errors
    :ivar size: bytes of the index
    """

    def __init__(
        self, record: IndexRecord, read_pieces: ReadPieces, where: str
    ) -> None:
        self.size = record.size
        self.record = record
        self._read_pieces = read_pieces
        self._where = where
        # Number -> a checked piece; the one that was used last is the last.
        self._kept: dict[int, bytes] = {}
        # Where the last fetch ended, and how many pieces it had at least.
        self._next = -1
        self._ahead = 1

    def read(self, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` (exclusive), each checked.

        A read that continues the last one fetches more than it needs, up to 2 MiB.

        :raises IntegrityError: they are missing or damaged, or not in the index
        """
        if not 0 <= start <= end <= self.size:
            raise IntegrityError(
                f'{self._where}: has {self.size} bytes, and bytes {start} to '
                f'{end - 1} were requested: the index is damaged'
            )
        if start == end:
            return b''
        first, after = start // PIECE, (end - 1) // PIECE + 1
        # This may fetch all pieces.
        _ = self._table
        found = {n: self._kept[n] for n in range(first, after) if n in self._kept}
        missing = [number for number in range(first, after) if number not in found]
        if missing:
            fetched = self._fetch(missing[0], missing[-1] + 1)
            self._keep(fetched)
            found |= fetched
        parts = [found[number] for number in range(first, after)]
        self._keep(dict(zip(range(first, after), parts, strict=True)))
        parts[-1] = parts[-1][: end - (after - 1) * PIECE]
        parts[0] = parts[0][start - first * PIECE :]
        return b''.join(parts)

    def pieces(
        self, first: int = 0, after: int | None = None
    ) -> Generator[manifest.Read, None, None]:
        """Pieces ``first`` to ``after`` (exclusive), or all, in order, each checked.

        A damaged piece is yielded as an error; iteration continues. Bytes are valid
        until the next piece is requested.

        :raises IntegrityError: the file is missing, or its table is damaged
        """
        after = self.record.count if after is None else after
        table = self._table
        ranges = (
            manifest.Piece(
                number * PIECE,
                min(min(number + _FETCHED_AT_ONCE, after) * PIECE, self.size),
                None,
            )
            for number in range(first, after, _FETCHED_AT_ONCE)
        )
        with contextlib.closing(self._reads(ranges)) as reads:
            for whole, data in reads:
                if isinstance(data, StorageException):
                    yield manifest.Read(whole, data)
                    continue
                view = memoryview(data)
                first_here, after_here = whole.start // PIECE, -(-whole.end // PIECE)
                for piece in self.record.pieces(table, first_here, after_here):
                    part = view[piece.start - whole.start : piece.end - whole.start]
                    if manifest.check_piece(part, piece):
                        yield manifest.Read(piece, part)
                    else:
                        # Again: the storage repeats it, and names it if it is damaged.
                        yield from self._reads([piece])

    @fetched
    def _table(self) -> bytes:
        """The digest table, checked. With it come all pieces of a small index."""
        record = self.record
        if not record.count:
            return b''
        if record.stored_size > SMALL:
            return self._one(record.table)
        whole = self._one(manifest.Piece(0, record.stored_size, None))
        table = whole[record.size :]
        if not manifest.check_piece(table, record.table):
            table = self._one(record.table)
        for number, piece in enumerate(record.pieces(table, 0, record.count)):
            part = whole[piece.start : piece.end]
            # A damaged piece is an error only for who reads it.
            if manifest.check_piece(part, piece):
                self._keep({number: part})
        return table

    def _fetch(self, first: int, after: int) -> dict[int, bytes]:
        """Pieces by number: at least these, and more while reads are sequential."""
        sequential = first == self._next
        self._ahead = min(4 * self._ahead, _READ_AHEAD) if sequential else 1
        further = min(max(after, first + self._ahead), self.record.count)
        try:
            found = self._checked(first, further)
            self._next = further
        except IntegrityError:
            if further == after:
                raise
            # The damage may be in what was read ahead.
            found = self._checked(first, after)
            self._next = after
        return found

    def _checked(self, first: int, after: int) -> dict[int, bytes]:
        """:raises StorageException: one of the pieces cannot be read"""
        found = {}
        with contextlib.closing(self.pieces(first, after)) as reads:
            for piece, data in reads:
                if isinstance(data, StorageException):
                    raise data
                found[piece.start // PIECE] = bytes(data)
        return found

    def _keep(self, pieces: Mapping[int, bytes]) -> None:
        for number, data in pieces.items():
            self._kept.pop(number, None)
            self._kept[number] = data
        while len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]

    def _one(self, piece: manifest.Piece) -> bytes:
        return b''.join(manifest.unwrap(self._reads([piece])))

    def _reads(
        self, pieces: Iterable[manifest.Piece]
    ) -> Generator[manifest.Read, None, None]:
        try:
            yield from self._read_pieces(pieces)
        except NotFound as error:
            raise IntegrityError(
                f'{self._where} is missing: the backup is damaged'
            ) from error
