"""Archives of engine rsync: version 1 of the format, which Freezer wrote with Python 2.

A header in text is followed by the contents of its file, then comes the next header.
Each level has a header of every directory, and one of every path that was removed since
level 0.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Final

from freezer.engine.rsync.byte_reader import Numbers
from freezer.engine.rsync.entry import (
    LARGEST,
    NS,
    REMOVED,
    Entry,
    LevelReader,
    check_path,
    nanoseconds,
)
from freezer.utils.blocks import Block

_LONGEST_HEADER: Final = 64 * 1024
_LONGEST_NUMBER: Final = 20
_YES: Final = b'1111'
_NO: Final = b'0000'
_KINDS: Final = {
    b'r': 'file',
    b'u': 'file',
    b'd': 'directory',
    b'l': 'symlink',
    b'p': 'fifo',
    b'c': 'character',
    b'b': 'block',
}
_FIELDS: Final = 19


class FirstReader(LevelReader):
    version = 1

    def paths(self) -> Iterator[Entry]:
        return (entry for entry, _contents in self.entries())

    def entries(self) -> Iterator[tuple[Entry, Iterator[tuple[int, Block]]]]:
        while self._stream.first() is not None:
            entry, block_size = self._header()
            contents: Iterator[tuple[int, Block]] = iter(())
            if entry.kind == 'file' and entry.is_change:
                contents = self._blocks(entry, block_size)
            elif entry.kind == 'file':
                contents = self._whole(entry)
            yield entry, contents
            collections.deque(contents, maxlen=0)

    def _header(self) -> tuple[Entry, int]:
        digits = self._stream.until_nul(_LONGEST_NUMBER)
        length = self._number(digits) - len(digits) - 1
        if not 0 < length <= _LONGEST_HEADER:
            raise self._stream.damaged('a header has an impossible length')
        fields = self._stream.read(length).split(b'\0')
        if len(fields) != _FIELDS or fields[1] != b'1':
            raise self._stream.damaged('a header is not of version 1')
        path, _version, mode, uid, gid, size, mtime = fields[:7]
        user, group, letter, target = fields[8:12]
        block_size, changed, removed = fields[16:]
        if letter not in _KINDS or {changed, removed} - {_YES, _NO}:
            raise self._stream.damaged(f'a header has a field {letter[:20]!r}')
        kind = REMOVED if removed == _YES else _KINDS[letter]
        mtime_ns = nanoseconds(self._number(mtime, signed=True))
        number = self._number(block_size)
        if mtime_ns is None or not number or (kind == 'symlink' and not target):
            raise self._stream.damaged('a header has an impossible value')
        entry = Entry(
            b'' if path == b'.' else check_path(path.removeprefix(b'./')),
            kind,
            self._number(mode) & 0o7777,
            self._number(uid),
            self._number(gid),
            user.decode(errors='surrogateescape'),
            group.decode(errors='surrogateescape'),
            self._number(size),
            mtime_ns // NS * NS,
            None,
            target,
            changed == _YES,
        )
        return entry, number

    def _whole(self, entry: Entry) -> Iterator[tuple[int, Block]]:
        position = 0
        for block in self._stream.take(entry.size):
            yield position, block
            position += len(block)
        if position < entry.size:
            raise self._stream.cut_off()

    def _blocks(self, entry: Entry, block_size: int) -> Iterator[tuple[int, Block]]:
        """The changed blocks: their numbers, then the contents of all."""
        if self._stream.read(1) != b'\0':
            raise self._stream.damaged('a file has no list of blocks')
        self._number(self._stream.until_nul(_LONGEST_NUMBER))
        # It counts itself, once too often.
        length = self._number(self._stream.until_nul(_LONGEST_NUMBER)) - 1
        with Numbers() as numbers:
            for text in self._texts(length):
                numbers.add(self._number(text))
            for number in numbers:
                position = number * block_size
                size = min(block_size, entry.size - position)
                for block in self._stream.take(max(size, 0)):
                    yield position, block
                    position += len(block)
                    size -= len(block)
                if size > 0:
                    raise self._stream.cut_off()

    def _texts(self, length: int) -> Iterator[bytes]:
        """The fields of a text of that length: NUL before each, and one at the end."""
        if length < 1:
            raise self._stream.damaged('a list of blocks has an impossible length')
        rest = b''
        for block in self._stream.take(length):
            length -= len(block)
            *whole, rest = (rest + bytes(block)).split(b'\0')
            if len(rest) > _LONGEST_NUMBER:
                break
            yield from filter(None, whole)
        if length or rest:
            raise self._stream.damaged('a list of blocks has no end')

    def _number(self, text: bytes, signed: bool = False) -> int:
        digits = text.removeprefix(b'-') if signed else text
        if not digits.isdigit() or len(digits) > _LONGEST_NUMBER:
            raise self._stream.damaged(f'{text[:20]!r} is no number')
        number = int(text)
        if number > LARGEST:
            raise self._stream.damaged(f'{number} is too large')
        return number
