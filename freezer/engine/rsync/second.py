"""Archives of engine rsyncv2: version 2 of the format.

A list of all entries, in msgpack, is followed by the contents of the files in it,
without anything between them. The list is kept in a temporary file meanwhile.
"""

from __future__ import annotations

import collections
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Final

from freezer.engine.rsync.byte_reader import ByteReader, Numbers
from freezer.engine.rsync.entry import (
    LARGEST,
    REMOVED,
    Entry,
    LevelReader,
    check_path,
    kind_of,
    nanoseconds,
)
from freezer.engine.rsync.msgpack import Unpacker
from freezer.exceptions import EngineError
from freezer.utils.blocks import Block

_KEPT: Final = 8 << 20


class SecondReader(LevelReader):
    """
    :param block_size: bytes; None if it is not known: then the offsets of changes mean
        nothing
    :param most: bytes that the list may have; 0 is any
    """

    version = 2

    def __init__(
        self, stream: ByteReader, block_size: int | None, most: int = 0
    ) -> None:
        super().__init__(stream)
        self._block_size = block_size
        self._most = most

    def paths(self) -> Iterator[Entry]:
        unpacker = Unpacker(self._counted(self._stream.read), self._stream.damaged)
        for _ in range(unpacker.array()):
            yield self._entry(unpacker, lambda _number: None)[0]

    def entries(self) -> Iterator[tuple[Entry, Iterator[tuple[int, Block]]]]:
        with tempfile.SpooledTemporaryFile(_KEPT) as kept:
            count = self._keep(kept)
            kept.seek(0)
            unpacker = Unpacker(self._kept_reader(kept), self._stream.damaged)
            unpacker.array()
            for _ in range(count):
                with Numbers() as numbers:
                    entry, total = self._entry(unpacker, numbers.add)
                    contents: Iterator[tuple[int, Block]] = iter(())
                    if entry.kind == 'file' and entry.is_change:
                        contents = self._blocks(numbers, total)
                    elif entry.kind == 'file':
                        contents = self._take(0, entry.size)
                    yield entry, contents
                    collections.deque(contents, maxlen=0)
        more = 0
        while self._stream.first() is not None:
            more += sum(len(block) for block in self._stream.take(1 << 20))
        if more:
            self._report(f'has {more} bytes more than the files in it')

    def _keep(self, kept: IO[bytes]) -> int:
        """Read and check the list; returns how many entries it has."""
        read = self._counted(self._stream.read)

        def keep(size: int) -> bytes:
            data = read(size)
            kept.write(data)
            return data

        unpacker = Unpacker(keep, self._stream.damaged)
        count = unpacker.array()
        for _ in range(count):
            self._entry(unpacker, lambda _number: None)
        return count

    def _kept_reader(self, kept: IO[bytes]) -> Callable[[int], bytes]:
        return ByteReader(
            iter(lambda: kept.read(64 * 1024), b''), 'the list of files'
        ).read

    def _counted(self, read: Callable[[int], bytes]) -> Callable[[int], bytes]:
        if not self._most:
            return read
        passed = 0

        def counted(size: int) -> bytes:
            nonlocal passed
            passed += size
            if passed > self._most:
                raise EngineError(
                    f'the list of files in the archive is larger than the '
                    f'{self._most} bytes that --max-restore-size allows: stopped there'
                )
            return read(size)

        return counted

    def _entry(
        self, unpacker: Unpacker, add: Callable[[int], None]
    ) -> tuple[Entry, int]:
        """An entry, and the bytes of its changed blocks, whose numbers are added."""
        path, target, total, removed = b'', b'', 0, False
        fields: dict[bytes, bytes | int | float | None] = {}
        for key in unpacker.map():
            if key == b'path':
                path = unpacker.text()
            elif key == b'lname':
                target = unpacker.text()
            elif key == b'deleted':
                removed = bool(unpacker.scalar())
            elif key == b'inode':
                for name in unpacker.map():
                    fields[name] = unpacker.scalar()
            elif key == b'deltas':
                total = self._deltas(unpacker, add)
            else:
                unpacker.skip()
        check_path(path)
        if removed:
            return Entry(path, REMOVED), 0
        mode, size = fields.get(b'mode'), fields.get(b'size')
        if not isinstance(mode, int) or not isinstance(size, int):
            raise unpacker.damaged(f'{path[:200]!r} has no mode or no size')
        kind = kind_of(mode)
        is_broken = kind == 'symlink' and not target
        if kind is None or not 0 <= size <= LARGEST or is_broken:
            raise unpacker.damaged(f'{path[:200]!r} has an impossible mode or size')
        entry = Entry(
            path,
            kind,
            mode & 0o7777,
            None,
            None,
            self._name(fields.get(b'uname')),
            self._name(fields.get(b'gname')),
            size,
            self._time(unpacker, fields.get(b'mtime')),
            self._time(unpacker, fields.get(b'atime')),
            target,
            total > 0,
        )
        return entry, total

    def _deltas(self, unpacker: Unpacker, add: Callable[[int], None]) -> int:
        if unpacker.array() != 2:
            raise unpacker.damaged('changes have no length or no blocks')
        total = unpacker.number()
        count = unpacker.array()
        size = self._block_size
        if size is not None and count != -(-total // size):
            raise unpacker.damaged('changes have another number of blocks')
        for _ in range(count):
            number = unpacker.number()
            if number > LARGEST // (size or 1):
                raise unpacker.damaged(f'it has no block {number}')
            add(number)
        return total

    def _blocks(self, numbers: Numbers, total: int) -> Iterator[tuple[int, Block]]:
        if self._block_size is None:
            yield from self._take(0, total)
            return
        for number in numbers:
            # Only the last one may be shorter.
            size = min(self._block_size, total)
            total -= size
            yield from self._take(number * self._block_size, size)

    def _take(self, position: int, size: int) -> Iterator[tuple[int, Block]]:
        end = position + size
        for block in self._stream.take(size):
            yield position, block
            position += len(block)
        if position < end:
            self._report('ends before the contents of all files')

    def _report(self, what: str) -> None:
        self.problem = self.problem or (
            f'the archive {what}: a file changed its size while Freezer 19 backed it '
            f'up, so the contents of files after it are wrong'
        )

    @staticmethod
    def _name(value: object) -> str:
        return os.fsdecode(value) if isinstance(value, bytes) else ''

    @staticmethod
    def _time(unpacker: Unpacker, value: object) -> int:
        found = nanoseconds(value) if isinstance(value, (int, float)) else None
        if found is None:
            raise unpacker.damaged(f'{value!r} is no time')
        return found
