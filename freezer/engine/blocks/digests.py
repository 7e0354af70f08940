"""The digests of an image's blocks: they show which blocks differ from the level below.

A digest is a SHA-256 of the chain's key and the block, cut to 16 bytes. A block of
zeros has the digest :data:`ZEROS`, and is not hashed.

The index of a level has the digests of the blocks that the level stores, as one
attachment for each *group* of 16384 blocks with changes. Numbers are unsigned and
big-endian. An attachment is a sequence of runs, sorted by their first block::

    1 byte   "D" data, or "Z" zeros
    2        the first block, from 0 in the group
    2        number of blocks, at least 1
    and in data runs the digest of each block, 16 bytes

So the digests of a state are those of level 0, overlaid with those of each level above.
One group of them is in memory at a time.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from freezer.engine.index.file import IndexFile
from freezer.engine.index.new import NewIndex
from freezer.exceptions import EngineError

SIZE: Final = 16
ZEROS: Final = bytes(SIZE)
GROUP: Final = 16384
_RUN: Final = struct.Struct('>cHH')
_DATA, _ZERO = b'D', b'Z'
_EMPTY: Final = bytes(GROUP * SIZE)


class Hasher:
    """Digests of blocks. Threads may share it.

    :param key: as long as a block of SHA-256, so that it is hashed only once
    """

    def __init__(self, key: bytes, block_size: int) -> None:
        self._keyed = hashlib.sha256(key)
        self._block_size = block_size
        self._zeros = bytes(block_size)

    def digests(self, content: bytearray, length: int) -> bytes:
        """The digests of the blocks in the first ``length`` bytes."""
        size, zeros = self._block_size, self._zeros
        found = []
        with memoryview(content) as view:
            for start in range(0, length, size):
                end = min(start + size, length)
                # Compares without a copy, and mostly only one byte.
                if content.startswith(zeros[: end - start], start):
                    found.append(ZEROS)
                    continue
                keyed = self._keyed.copy()
                keyed.update(view[start:end])
                found.append(keyed.digest()[:SIZE])
        return b''.join(found)


class Run(NamedTuple):
    """Neighbouring blocks that changed.

    :ivar first: number of the first block
    :ivar after: number of the block after the last
    """

    first: int
    after: int
    is_zero: bool


def changes(before: bytes, now: bytes) -> Iterator[Run]:
    """The blocks whose digests differ, counted from 0."""
    if before == now:
        return
    first, kind = 0, None
    count = len(now) // SIZE
    for number in range(count + 1):
        at = number * SIZE
        digest = now[at : at + SIZE]
        found = (
            digest == ZEROS
            if number < count and before[at : at + SIZE] != digest
            else None
        )
        if found is not kind:
            if kind is not None:
                yield Run(first, number, kind)
            first, kind = number, found


def are_zeros(found: bytes) -> bool:
    """Whether these are digests of zeros only; at most those of a group."""
    return found == _EMPTY[: len(found)]


class StoredDigests:
    """The digests of the newest state of a chain, group by group.

    :param levels: index and number of blocks of each level, from level 0 up
    """

    def __init__(self, levels: Sequence[tuple[IndexFile, int]] = ()) -> None:
        self._levels = levels
        self._number = -1
        self._group: bytes | bytearray = _EMPTY

    def between(self, first: int, after: int) -> bytes:
        """The digests of blocks, which are all in one group.

        :raises EngineError: an index is damaged
        """
        number = first // GROUP
        if number != self._number:
            self._group, self._number = self._read(number), number
        start = number * GROUP
        return bytes(self._group[(first - start) * SIZE : (after - start) * SIZE])

    def _read(self, number: int) -> bytes | bytearray:
        group = bytearray()
        for index, count in self._levels:
            content = index.attachment(number)
            if content is None and not group:
                continue
            group = group or bytearray(_EMPTY)
            _overlay(group, content or b'', number)
            # What a level cuts off is zeros when a later one is larger.
            kept = min(max(count - number * GROUP, 0), GROUP) * SIZE
            group[kept:] = bytes(len(group) - kept)
        return group or _EMPTY


def _overlay(group: bytearray, content: bytes, number: int) -> None:
    position = block = 0
    try:
        while position < len(content):
            kind, first, count = _RUN.unpack_from(content, position)
            position += _RUN.size
            length = count * SIZE
            if kind == _DATA:
                digests = content[position : position + length]
                position += length
            else:
                digests = bytes(length)
            if (
                kind not in (_DATA, _ZERO)
                or first < block
                or not 0 < count <= GROUP - first
                or len(digests) != length
            ):
                raise ValueError('a run is in a wrong place')
            block = first + count
            group[first * SIZE : block * SIZE] = digests
    except (struct.error, ValueError) as error:
        raise EngineError(
            f'the digests of blocks in an index of the chain are damaged: {error}: '
            f'run the backup once without --incremental'
        ) from error


class NewDigests:
    """Writes the digests of a new level into its index.

    :param index: None: the next level cannot be an increment
    """

    def __init__(self, index: NewIndex | None) -> None:
        self._index = index
        self._number = 0
        self._runs = bytearray()

    def add(self, run: Run, digests: bytes) -> None:
        """Add a run, which is in one group; runs are sorted.

        :param digests: of its blocks
        """
        number, first = divmod(run.first, GROUP)
        if number != self._number:
            self.flush()
            self._number = number
        count = run.after - run.first
        self._runs += _RUN.pack(_ZERO if run.is_zero else _DATA, first, count)
        if not run.is_zero:
            self._runs += digests

    def flush(self) -> None:
        """Write the digests that are in memory."""
        if self._index is not None and self._runs:
            self._index.attach(self._number, bytes(self._runs))
        self._runs.clear()
