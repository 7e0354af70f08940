"""Reads an archive member by member, and renames members."""

from __future__ import annotations

import decimal
import sys
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from freezer.engine.tar.headers import (
    BLOCK,
    DIRECTORIES,
    GNU,
    POSIX,
    BrokenError,
    MoreError,
    RefusedError,
    block_count,
    check_tail,
    damaged,
    read_number,
    records,
    rewritten,
    shown,
)
from freezer.engine.tar.units import Unit, read_unit
from freezer.exceptions import EngineError, UnsafeArchiveError
from freezer.utils.blocks import Block

_NAMING: Final = frozenset({b'path', b'linkpath', b'GNU.sparse.name', b'GNU.dumpdir'})


class Members:
    """Reads one archive: call :meth:`next`, then :meth:`data` if it is needed."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self.head = b''
        """The header of the current member, with the extension headers before it."""
        self._blocks = iter(blocks)
        self._buffer = b''
        self._position = 0
        self._offset = 0  # of the buffer in the archive
        self._left = 0  # bytes of the current member

    def next(self) -> Unit | None:
        """The next member; None at the end, when all blocks have been read.

        Raises :class:`UnsafeArchiveError` if GNU tar does not write such members, and
        :class:`EngineError` when the bytes are not a tar archive or end too early.
        """
        for _data in self.data():
            pass
        need = BLOCK
        while True:
            self._fill(need)
            try:
                unit = read_unit(self._buffer, self._position)
            except MoreError as more:
                need = more.need
            except RefusedError as refused:
                raise self.refused(refused) from refused
            except BrokenError as broken:
                raise damaged(broken, self.offset) from broken
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
        """The rest of the current member, padding included; can be read once."""
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

    def refused(
        self, refused: RefusedError, name: bytes | None = None
    ) -> UnsafeArchiveError:
        """The error for a member; ``name`` is used if the refusal has none."""
        name = name if refused.name is None else refused.name
        member = 'a member' if name is None else shown(name)
        return UnsafeArchiveError(
            f'Refused {member}: {refused.why} (before byte {self.offset} of the '
            f'archive). The backup was tampered with, or was not made by GNU tar.'
        )

    def _fill(self, need: int) -> None:
        """Read until the buffer holds ``need`` unread bytes."""
        have = len(self._buffer) - self._position
        if have >= need:
            return
        parts = [self._buffer[self._position :]]
        self._offset += self._position
        for block in self._blocks:
            parts.append(bytes(block))  # names, which are slices, must be hashable
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
            check_tail(tail)
            block = next(self._blocks, None)
            if block is None:
                return
            tail = bytes(block)


class Attributes(NamedTuple):
    """Attributes in a header; ``size`` includes holes, times are in nanoseconds."""

    mode: int
    uid: int
    gid: int
    user: str
    group: str
    size: int
    mtime_ns: int


def attributes(unit: Unit, head: bytes) -> Attributes:
    """Raises :class:`RefusedError` if a number is malformed."""
    header = head[unit.header :]
    pax = dict(_records_of(unit, head))

    def number(keyword: bytes, start: int, end: int) -> int:
        if keyword in pax:
            return int(_decimal(pax[keyword], keyword))
        return _signed(header[start:end])

    def name(keyword: bytes, start: int) -> str:
        value = pax.get(keyword, header[start : start + 32].partition(b'\0')[0])
        # There are few different names: keep each once.
        return sys.intern(value.decode(errors='surrogateescape'))

    size = number(b'size', 124, 136)
    if unit.kind == b'S':
        size = _signed(header[483:495])
    for keyword in (b'GNU.sparse.realsize', b'GNU.sparse.size'):
        if keyword in pax:
            size = int(_decimal(pax[keyword], keyword))
    mtime_ns = _signed(header[136:148]) * 10**9
    if b'mtime' in pax:
        mtime_ns = int(_decimal(pax[b'mtime'], b'mtime') * 10**9)
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
    """The headers of a member, or a whole directory member, with other names.

    :param dumpdir: None for a directory without a list, so that tar deletes nothing
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
        rewritten(short, b'././@PaxHeader', b'x', len(data), b'')
        + _padded(data)
        + rewritten(short, _short(name), kind, None, _short(linkname))
    )


def _renamed_gnu(
    header: bytes, kind: bytes, name: bytes, linkname: bytes, dumpdir: bytes | None
) -> bytes:
    parts = []
    blank = header[:345] + bytes(BLOCK - 345)
    for letter, text in ((b'L', name), (b'K', linkname)):
        if len(text) > 100:
            size = len(text) + 1
            parts.append(rewritten(blank, b'././@LongLink', letter, size, b''))
            parts.append(_padded(text + b'\0'))
    if kind not in DIRECTORIES:
        parts.append(rewritten(header, _short(name), kind, None, _short(linkname)))
    elif dumpdir is None:
        parts.append(rewritten(header, _short(name), b'5', 0, b''))
    else:
        parts.append(rewritten(header, _short(name), b'D', len(dumpdir), b''))
        parts.append(_padded(dumpdir))
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


def _records_of(unit: Unit, head: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The records of the pax header before a member, if any."""
    if unit.header and head[257:265] == POSIX:
        size = read_number(head[124:136]) or 0
        yield from records(head[BLOCK : BLOCK + size])


def _signed(field: bytes) -> int:
    """An octal or base-256 number of a header, which may be negative."""
    if field[:1] == b'\xff':
        return int.from_bytes(field, 'big', signed=True)
    return read_number(field) or 0


def _decimal(value: bytes, keyword: bytes) -> decimal.Decimal:
    try:
        return decimal.Decimal(value.decode('ascii'))
    except (UnicodeDecodeError, decimal.InvalidOperation) as error:
        raise RefusedError(f'its {shown(keyword)} is not a number') from error
