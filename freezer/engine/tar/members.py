"""An archive taken apart, member by member, and members under another name."""

from __future__ import annotations

import decimal
import sys
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from freezer.engine.tar.units import (
    BLOCK,
    GNU,
    POSIX,
    BrokenError,
    MoreError,
    Reader,
    RefusedError,
    Unit,
    block_count,
    read_number,
    records,
    shown,
)
from freezer.exceptions import EngineError, UnsafeArchiveError
from freezer.utils.blocks import Block

#: kinds of members that are directories
DIRECTORIES: Final = frozenset({b'5', b'D'})

_NAMING: Final = frozenset({b'path', b'linkpath', b'GNU.sparse.name', b'GNU.dumpdir'})


class Members:
    """Reads one archive: :meth:`next`, and :meth:`data` if that is wanted."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self.head = b''
        """Of the present member: its header, with the extension headers before it."""
        self._blocks = iter(blocks)
        self._buffer = b''
        self._position = 0
        self._offset = 0  # of the buffer in the archive
        self._left = 0  # of the present member

    def next(self) -> Unit | None:
        """The next member; None at the end, when all blocks have been read.

        Raises :class:`UnsafeArchiveError` at one that is not what GNU tar writes, and
        :class:`EngineError` when the bytes are not a tar archive or end too early.
        """
        for _data in self.data():
            pass
        need = BLOCK
        while True:
            self._fill(need)
            try:
                unit = Reader(self._buffer).unit(self._position)
            except MoreError as more:
                need = more.need
            except RefusedError as refused:
                raise self.refused(refused) from refused
            except BrokenError as broken:
                raise EngineError(
                    f'The archive is damaged or not a tar archive: {broken} at byte '
                    f'{self.offset}. Check the backup in the storage.'
                ) from broken
            else:
                break
        if not unit.kind:
            self._read_tail()
            return None
        size = unit.length if unit.kind == b'g' else unit.header + BLOCK
        self.head = self._buffer[self._position : self._position + size]
        self._position += size
        self._left = unit.length - size
        return unit

    def data(self) -> Iterator[bytes]:
        """The rest of the present member, padding included; can be asked for once."""
        while self._left:
            if self._position == len(self._buffer):
                self._fill(1)
            part = self._buffer[self._position : self._position + self._left]
            self._position += len(part)
            self._left -= len(part)
            yield part

    @property
    def offset(self) -> int:
        """Bytes of the archive that have been read."""
        return self._offset + self._position

    def refused(self, refused: RefusedError) -> UnsafeArchiveError:
        name = 'a member' if refused.name is None else shown(refused.name)
        return UnsafeArchiveError(
            f'Refused {name}: {refused.why} (before byte {self.offset} of the '
            f'archive). The backup was tampered with, or another program than GNU tar '
            f'made it.'
        )

    def _fill(self, need: int) -> None:
        """Have so many bytes from here in the buffer."""
        have = len(self._buffer) - self._position
        if have >= need:
            return
        parts = [self._buffer[self._position :]]
        self._offset += self._position
        for block in self._blocks:
            parts.append(bytes(block))  # names cut out of it have to be hashable
            have += len(block)
            if have >= need:
                break
        self._buffer = b''.join(parts)
        self._position = 0
        if have < need:
            raise EngineError(
                f'The archive stops after {self._offset + have} bytes: it is cut off '
                f'or not a tar archive. Check the backup in the storage.'
            )

    def _read_tail(self) -> None:
        tail = self._buffer[self._position :]
        while True:
            if tail.count(0) != len(tail):
                raise EngineError(
                    'The archive has data after its end marker: it was tampered with, '
                    'or is more than one archive. Check the backup in the storage.'
                )
            block = next(self._blocks, None)
            if block is None:
                return
            tail = bytes(block)


class Attributes(NamedTuple):
    """What a header says of a file; ``size`` with its holes, times in nanoseconds."""

    mode: int
    uid: int
    gid: int
    user: str
    group: str
    size: int
    mtime_ns: int


def attributes(unit: Unit, head: bytes) -> Attributes:
    """Raises :class:`RefusedError` at a number that is none."""
    header = head[unit.header :]
    said = _pax_of(unit, head)

    def number(keyword: bytes, start: int, end: int) -> int:
        if keyword in said:
            return int(_decimal(said[keyword], keyword))
        return _signed(header[start:end])

    def name(keyword: bytes, start: int) -> str:
        value = said.get(keyword, header[start : start + 32].partition(b'\0')[0])
        # The same few, once each.
        return sys.intern(value.decode(errors='surrogateescape'))

    size = number(b'size', 124, 136)
    if unit.kind == b'S':
        size = _signed(header[483:495])
    for keyword in (b'GNU.sparse.realsize', b'GNU.sparse.size'):
        if keyword in said:
            size = int(_decimal(said[keyword], keyword))
    mtime_ns = _signed(header[136:148]) * 10**9
    if b'mtime' in said:
        mtime_ns = int(_decimal(said[b'mtime'], b'mtime') * 10**9)
    return Attributes(
        _signed(header[100:108]) & 0o7777,
        number(b'uid', 108, 116),
        number(b'gid', 116, 124),
        name(b'uname', 265),
        name(b'gname', 297),
        0 if unit.kind in DIRECTORIES else size,
        mtime_ns,
    )


def renamed(
    unit: Unit,
    head: bytes,
    name: bytes,
    linkname: bytes,
    dumpdir: bytes | None,
) -> bytes:
    """The head of a member, changed; of a directory, all of it.

    :param dumpdir: None for a directory that lists nothing, so tar deletes nothing
    """
    header, kind = head[unit.header :], unit.kind
    if header[257:265] == GNU:
        return _renamed_gnu(header, kind, name, linkname, dumpdir)
    fields = [(b'path', name)]
    if kind in {b'1', b'2'}:
        fields.append((b'linkpath', linkname))
    if dumpdir is not None:
        fields.append((b'GNU.dumpdir', dumpdir))
    for keyword, value in _records_of(unit, head):
        if keyword == b'GNU.sparse.name':
            fields.append((keyword, name))
        elif keyword not in _NAMING:
            fields.append((keyword, value))
    data = b''.join(_record(*field) for field in fields)
    short = header[:345] + bytes(BLOCK - 345)
    return (
        _header(short, b'././@PaxHeader', b'x', len(data))
        + _padded(data)
        + _header(short, _short(name), kind, None, _short(linkname))
    )


def _renamed_gnu(
    header: bytes, kind: bytes, name: bytes, linkname: bytes, dumpdir: bytes | None
) -> bytes:
    parts = []
    blank = header[:345] + bytes(BLOCK - 345)
    for letter, text in ((b'L', name), (b'K', linkname)):
        if len(text) > 100:
            parts.append(_header(blank, b'././@LongLink', letter, len(text) + 1))
            parts.append(_padded(text + b'\0'))
    if kind not in DIRECTORIES:
        parts.append(_header(header, _short(name), kind, None, _short(linkname)))
    elif dumpdir is None:
        parts.append(_header(header, _short(name), b'5', 0))
    else:
        parts.append(_header(header, _short(name), b'D', len(dumpdir)))
        parts.append(_padded(dumpdir))
    return b''.join(parts)


def _short(name: bytes) -> bytes:
    """What of a name has room in a header; a slash at its end would mean something."""
    return name if len(name) <= 100 else name[:100].rstrip(b'/')


def _header(
    header: bytes, name: bytes, kind: bytes, size: int | None, linkname: bytes = b''
) -> bytes:
    """A header block with these fields in place of its own.

    :param size: None for its own
    """
    new = b''.join(
        (
            name.ljust(100, b'\0'),
            header[100:124],
            header[124:136] if size is None else b'%011o\0' % size,
            header[136:148],
            b' ' * 8,
            kind,
            linkname.ljust(100, b'\0'),
            header[257:],
        )
    )
    return new[:148] + b'%06o\0 ' % sum(new) + new[156:]


def _padded(data: bytes) -> bytes:
    return data.ljust(block_count(len(data)) * BLOCK, b'\0')


def _record(keyword: bytes, value: bytes) -> bytes:
    """A record of a pax header, which begins with its own length."""
    rest = len(keyword) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b'%d %s=%s\n' % (length, keyword, value)


def _records_of(unit: Unit, head: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The records of the pax header before a member, if there is one."""
    if unit.header and head[257:265] == POSIX:
        size = read_number(head[124:136]) or 0
        yield from records(head[BLOCK : BLOCK + size])


def _pax_of(unit: Unit, head: bytes) -> dict[bytes, bytes]:
    return dict(_records_of(unit, head))


def _signed(field: bytes) -> int:
    """A number of a header, octal or base-256, which may be negative."""
    if field[:1] == b'\xff':
        return int.from_bytes(field, 'big', signed=True)
    return read_number(field) or 0


def _decimal(value: bytes, keyword: bytes) -> decimal.Decimal:
    try:
        return decimal.Decimal(value.decode('ascii'))
    except (UnicodeDecodeError, decimal.InvalidOperation) as error:
        raise RefusedError(f'its {shown(keyword)} is no number') from error
