"""Reads an archive member by member, and renames members."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Iterator
from typing import Final

from freezer.engine.tar.headers import (
    BLOCK,
    DIRECTORIES,
    GNU,
    HEADERS,
    POSIX,
    BrokenError,
    MoreError,
    RefusedError,
    block_count,
    components,
    read_number,
    records,
    rewritten,
    shown,
)
from freezer.engine.tar.units import Unit, read_unit
from freezer.exceptions import EngineError, UnsafeArchiveError
from freezer.utils.blocks import Block

_NAMING: Final = frozenset({b'path', b'linkpath', b'GNU.sparse.name'})


class Members:
    """Reads one archive: iterate over its units; for each, :attr:`head` and
    :meth:`data` are its bytes. The last unit is the end marker."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self.head = b''
        """The header of the current member, with the extension headers before it."""
        self.start = 0
        """The first byte of :attr:`head` in the archive."""
        self._blocks = iter(blocks)
        self._buffer = b''
        self._position = 0
        self._offset = 0  # of the buffer in the archive
        self._left = 0  # bytes of the current unit
        self._ended = False

    def __iter__(self) -> Iterator[Unit]:
        """At the end all blocks have been read.

        Raises :class:`UnsafeArchiveError` if GNU tar does not write such members, and
        :class:`EngineError` when the bytes are not a tar archive or end too early.
        """
        while not self._ended:
            unit = self._read_unit()
            self.start = self._read
            size = unit.header + BLOCK if unit.kind not in {b'', b'g'} else unit.length
            self.head = self._buffer[self._position : self._position + size]
            self._position += size
            self._left = unit.length - size
            self._ended = not unit.kind
            yield unit
            for _data in self.data():
                pass

    def data(self) -> Iterator[bytes]:
        """The rest of the current unit, padding included; can be read once.

        After the end marker: the zeros that follow.
        """
        while self._left:
            if self._position == len(self._buffer):
                self._fill(1)
            start, end = self._position, self._position + self._left
            part = self._buffer[start:end]
            self._position += len(part)
            self._left -= len(part)
            yield part
        if self._ended:
            yield from self._tail()

    def refused(self, refused: RefusedError, unit: Unit | None) -> UnsafeArchiveError:
        """The error for a member."""
        name = refused.name
        if name is None and unit is not None:
            name = unit.name
        member = 'a member' if name is None else shown(name)
        return UnsafeArchiveError(
            f'Refused {member}: {refused.why} (before byte {self._read} of the '
            f'archive). The backup was tampered with, or was not made by GNU tar.'
        )

    @property
    def _read(self) -> int:
        """Bytes of the archive that have been read."""
        return self._offset + self._position

    def _read_unit(self) -> Unit:
        need = BLOCK
        while True:
            self._fill(need)
            try:
                return read_unit(self._buffer, self._position)
            except MoreError as more:
                need = more.need
            except RefusedError as refused:
                raise self.refused(refused, None) from refused
            except BrokenError as broken:
                raise EngineError(
                    f'The archive is damaged or not a tar archive: {broken} at byte '
                    f'{self._read}. Check the backup in the storage.'
                ) from broken

    def _fill(self, need: int) -> None:
        """Read until the buffer holds ``need`` unread bytes."""
        have = len(self._buffer) - self._position
        if have >= need:
            return
        parts = [self._buffer[self._position :]] if have else []
        self._offset += self._position
        for block in self._blocks:
            parts.append(bytes(block))  # names, which are slices, must be hashable
            have += len(block)
            if have >= need:
                break
        self._buffer = parts[0] if len(parts) == 1 else b''.join(parts)
        self._position = 0
        if have < need:
            raise EngineError(
                f'The archive stops after {self._offset + have} bytes: it is cut off '
                f'or not a tar archive. Check the backup in the storage.'
            )

    def _tail(self) -> Iterator[bytes]:
        """tar stops at the end marker, other programs do not: only zeros may follow."""
        tail = self._buffer[self._position :]
        self._buffer, self._position = b'', 0
        for following in itertools.chain([tail], self._blocks):
            check_zeros(following)
            yield bytes(following)


def without(archive: Iterable[Block], paths: Container[bytes]) -> Iterator[Block]:
    """An archive without some members, and without hard links to them.

    :raises UnsafeArchiveError, EngineError: as :meth:`Members.__iter__`
    """
    members = Members(archive)
    for unit in members:
        if unit.kind not in HEADERS:
            try:
                path = b'/'.join(components(unit.name, 'its name'))
                if unit.kind == b'1' and path not in paths:
                    path = b'/'.join(components(unit.linkname, 'its link name'))
            except RefusedError as refused:
                raise members.refused(refused, unit) from refused
            if path in paths:
                continue
        yield members.head
        yield from members.data()


def check_zeros(block: Block) -> None:
    """:raises EngineError: anything but zeros follows the end marker"""
    if block.count(0) != len(block):
        raise EngineError(
            'The archive has data after its end marker: it was tampered with, or is '
            'more than one archive. Check the backup in the storage.'
        )


def renamed(unit: Unit, head: bytes, name: bytes, linkname: bytes) -> bytes:
    """The headers of a member, or a whole directory member, with other names.

    A directory gets no list, so that tar deletes nothing in it.
    """
    header, kind = head[unit.header :], unit.kind
    if header[257:265] == GNU:
        return _renamed_gnu(header, kind, name, linkname)
    fields = [(b'path', name)]
    if kind in {b'1', b'2'}:
        fields.append((b'linkpath', linkname))
    for keyword, value in records_of(unit, head):
        if keyword == b'GNU.sparse.name':
            fields.append((keyword, name))
        elif keyword not in _NAMING:
            fields.append((keyword, value))
    data = b''.join(_record(*field) for field in fields)
    short = header[:345] + bytes(BLOCK - 345)
    return (
        rewritten(short, b'././@PaxHeader', b'x', len(data), b'')
        + _padded(data)
        + rewritten(short, _short(name), kind, None, _short(linkname))
    )


def _renamed_gnu(header: bytes, kind: bytes, name: bytes, linkname: bytes) -> bytes:
    parts = []
    blank = header[:345] + bytes(BLOCK - 345)
    for letter, text in ((b'L', name), (b'K', linkname)):
        if len(text) > 100:
            size = len(text) + 1
            parts.append(rewritten(blank, b'././@LongLink', letter, size, b''))
            parts.append(_padded(text + b'\0'))
    if kind not in DIRECTORIES:
        parts.append(rewritten(header, _short(name), kind, None, _short(linkname)))
    else:
        parts.append(rewritten(header, _short(name), b'5', 0, b''))
    return b''.join(parts)


def _short(name: bytes) -> bytes:
    """The beginning of a name, as the header has room; a final slash has a meaning."""
    return name if len(name) <= 100 else name[:100].rstrip(b'/')


def _padded(data: bytes) -> bytes:
    return data.ljust(block_count(len(data)) * BLOCK, b'\0')


def _record(keyword: bytes, value: bytes) -> bytes:
    """A record of a pax header; it begins with its own length."""
    rest = len(keyword) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b'%d %s=%s\n' % (length, keyword, value)


def records_of(unit: Unit, head: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The records of the pax header before a member, if any; without its dumpdir."""
    if unit.header and head[257:265] == POSIX:
        size = read_number(head[124:136]) or 0
        for keyword, start, end in records(head, BLOCK, BLOCK + size):
            if keyword != b'GNU.dumpdir':
                yield keyword, head[start:end]
