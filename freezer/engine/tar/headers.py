"""The headers of tar archives, with pax headers, numbers and names, read strictly.

Why an own parser and not :mod:`tarfile`: a filter must read an archive exactly as tar
does, and the two disagree. With ``GNU.sparse.realsize`` but no sparse map tar skips the
real size and tarfile the stored one, so a member can be hidden in the other's data; tar
prefers ``GNU.sparse.name`` to ``path`` and takes a ``0`` member whose name ends in a
slash for a directory; tarfile knows no old GNU ``D`` members. So this parser reads only
what GNU tar writes in its ``posix`` and ``gnu`` formats and refuses everything else.
"""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

BLOCK: Final = 512
"""Bytes: everything in a tar archive begins at a multiple of this."""

MAX_NAME: Final = 1 << 20
"""Bytes of one name. PATH_MAX is 4096, but a tree can be deeper than that."""

MAX_RECORDS: Final = 640 << 20
"""Bytes of all the records of one pax header that are not names or lists: extended
attributes, ACLs, times. Linux lists at most 64 KiB of names of attributes, of at least
7 bytes each, and a value has at most 64 KiB."""

MAX_LIST: Final = 2 << 30
"""Bytes of a dumpdir or of a sparse map: 8 million names of 255 bytes in one directory.
It has to be in memory at once, here and in tar."""

MAX_OFF_T: Final = (1 << 63) - 1
POSIX: Final = b'ustar\x0000'
GNU: Final = b'ustar  \x00'
DIRECTORIES: Final = frozenset({b'5', b'D'})
"""Type letters of directories."""
HEADERS: Final = frozenset({b'', b'g', b'V'})
"""Units that are not members: the end marker, a global header, a volume label."""

_OCTAL: Final = re.compile(rb' *([0-7]+)[ \0]*')
# Of a dumpdir, after the end of the one before: a rename, or no name of a file.
_ODD_ENTRY: Final = re.compile(rb'\0(?:[^YND\0]|[YND]\.{0,2}\0)')
# Permissions and the sticky bit: a mode without set-user-ID and set-group-ID.
_PLAIN_MODE: Final = 0o1777
# The records that GNU tar knows and that change neither a name nor a length.
_HARMLESS: Final = frozenset(
    {
        b'atime', b'charset', b'comment', b'ctime', b'gid', b'gname', b'mtime', b'uid',
        b'uname', b'GNU.volume.label', b'RHT.security.selinux', b'SCHILY.acl.access',
        b'SCHILY.acl.default',
    }
)  # fmt: skip
_ATTRIBUTES: Final = frozenset({b'uid', b'gid', b'uname', b'gname', b'mtime'})
_XATTR: Final = b'SCHILY.xattr.'
# On a directory such a record may take the owner's right to write away.
_ACCESS: Final = (b'SCHILY.acl.access', b'SCHILY.xattr.system.')


class MoreError(Exception):
    """The unit of the archive that begins here is not yet in the buffer."""

    def __init__(self, need: int) -> None:
        super().__init__(need)
        self.need = need
        """Bytes from the beginning of the unit, at least."""


class RefusedError(Exception):
    """Why a member may not reach tar; ``name`` is ``None`` if not known yet."""

    def __init__(self, why: str, name: bytes | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.name = name


class BrokenError(Exception):
    """The bytes are not a tar archive at all."""


def block_at(buffer: bytes, start: int, pos: int) -> bytes:
    """The block at ``pos``, of a unit that begins at ``start``."""
    block = buffer[pos : pos + BLOCK]
    if len(block) < BLOCK:
        raise MoreError(pos - start + BLOCK)
    return block


def check_header(header: bytes) -> tuple[int, bytes]:
    """Check checksum and format of a header block; its size and magic."""
    # The low half of an Adler-32 is 1 + the sum of the bytes modulo 65521, and 256
    # bytes cannot reach that: five times as fast as sum().
    total = (zlib.adler32(header[:256]) & 0xFFFF) - 1
    total += (zlib.adler32(header[256:]) & 0xFFFF) - 1
    total += 8 * 0x20 - sum(header[148:156])
    if read_number(header[148:156]) != total:
        raise BrokenError('a header with a wrong checksum')
    magic = header[257:265]
    if magic not in {POSIX, GNU}:
        raise BrokenError('a header of an unknown format')
    size = read_number(header[124:136])
    if size is None:
        raise BrokenError('a header with an impossible size')
    return size, magic


def rewritten(
    header: bytes,
    name: bytes | None = None,
    kind: bytes | None = None,
    size: int | None = None,
    linkname: bytes | None = None,
    mode: int | None = None,
) -> bytes:
    """A header with these fields changed, and its checksum; None keeps a field."""
    new = b''.join(
        (
            header[:100] if name is None else name.ljust(100, b'\0'),
            header[100:108] if mode is None else b'%07o\0' % mode,
            header[108:124],
            header[124:136] if size is None else b'%011o\0' % size,
            header[136:148],
            b' ' * 8,
            header[156:157] if kind is None else kind,
            header[157:257] if linkname is None else linkname.ljust(100, b'\0'),
            header[257:],
        )
    )
    return new[:148] + b'%06o\0 ' % sum(new) + new[156:]


def disarmed(header: bytes) -> bytes:
    """The header of a file that grants no rights, from one of a file or a device."""
    kind = b'0' if header[156:157] in {b'3', b'4'} else None
    mode = (read_number(header[100:108]) or 0) & _PLAIN_MODE
    return rewritten(header, kind=kind, mode=mode)


# Bytes of a list of names that is split in one call; of a large one, the entries in
# memory could take gigabytes.
_SPLIT_AT_ONCE: Final = 64 * 1024


class Dumpdir(NamedTuple):
    """The list of the files of a directory, where it is in the buffer: it may be large,
    and is not copied. See :meth:`TargetGuard._dumpdir` for its entries."""

    buffer: bytes
    start: int
    end: int

    def entries(self) -> Iterator[bytes]:
        """The entries, one by one. Raises :class:`RefusedError` if it has no end."""
        buffer, start, end = self
        if end - start < 2:
            if buffer[start:end] != b'\0':
                raise RefusedError('its dumpdir has no end')
            return iter(())
        # The ends of the last entry and of the list are not entries.
        end -= 2
        if buffer[end : end + 2] != b'\0\0':
            raise RefusedError('its dumpdir has no end')
        if end - start <= _SPLIT_AT_ONCE:
            return iter(buffer[start:end].split(b'\0'))
        return self._split(end)

    def _split(self, end: int) -> Iterator[bytes]:
        buffer, start, _end = self
        while (nul := buffer.find(b'\0', start, end)) >= 0:
            yield buffer[start:nul]
            start = nul + 1
        yield buffer[start:end]

    def is_plain(self) -> bool:
        """Whether it has names only, as nearly all have: much faster than a look at
        each entry."""
        buffer, start, end = self
        return (
            buffer.startswith((b'Y', b'N', b'D'), start)
            and not _ODD_ENTRY.match(b'\0' + buffer[start : start + 4])
            and not _ODD_ENTRY.search(buffer, start, end)
            and buffer.find(b'/', start, end) < 0
            and buffer.find(b'\0\0', start, end) == end - 2
        )

    def directories(self) -> Iterator[bytes]:
        """The names of the directories. Skips the other entries: there may be many."""
        buffer, start, end = self
        while start < end:
            if buffer.startswith(b'D', start):
                nul = buffer.find(b'\0', start, end)
                yield buffer[start + 1 : nul]
                start = nul + 1
            else:
                start = buffer.find(b'\0D', start, end) + 1 or end


@dataclass(slots=True)
class PaxHeader:
    """The records of one pax header that change how its member is read."""

    path: bytes | None = None
    linkpath: bytes | None = None
    size: int | None = None
    dumpdir: Dumpdir | None = None
    acl: bool = False
    attributes: dict[bytes, bytes] = field(default_factory=dict)
    """Owner and times, as far as the header has no room for them."""
    sparse: dict[bytes, bytes] = field(default_factory=dict)
    """``GNU.sparse.*`` without the prefix, except the map of format 0.0."""
    sparse_map: array[int] = field(default_factory=lambda: array('q'))
    """The map of format 0.0: offset, length, offset, length ..."""


def records(buffer: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Split the pax header in a part of a buffer: keyword, and where the value is.

    Raises :class:`RefusedError` at anything that tar would read but that is not in the
    standard: tar also accepts blanks before the length and before the keyword, and a
    NUL as the end.
    """
    pos = start
    while pos < end:
        blank = buffer.find(b' ', pos, min(pos + 12, end))
        digits = buffer[pos : max(blank, pos)]
        if not digits.isdigit() or digits[0] == 0x30:
            raise RefusedError('its pax header is malformed (length of a record)')
        after = pos + int(digits)
        equals = buffer.find(b'=', blank + 1, max(min(after, end) - 1, 0))
        if after > end or equals <= blank + 1 or buffer[after - 1] != 0x0A:
            raise RefusedError('its pax header is malformed')
        keyword = buffer[blank + 1 : equals]
        if b'\0' in keyword or keyword[0] in b' \t':
            raise RefusedError('its pax header has a malformed keyword')
        yield keyword, equals + 1, after - 1
        pos = after


def parse_pax(buffer: bytes, start: int, end: int) -> PaxHeader:
    """Read the pax header of one member. Raises :class:`RefusedError`."""
    pax = PaxHeader()
    seen: set[bytes] = set()
    short = 0
    for keyword, at, after in records(buffer, start, end):
        if keyword in _HARMLESS or keyword.startswith(_XATTR):
            short += len(keyword) + after - at
            if keyword in _ATTRIBUTES:
                pax.attributes[keyword] = buffer[at:after]
            elif keyword.startswith(_ACCESS):
                pax.acl = True
            continue
        if keyword == b'GNU.dumpdir':
            _once(keyword, seen)
            pax.dumpdir = Dumpdir(buffer, at, after)
            continue
        value = buffer[at:after]
        sparse = keyword.removeprefix(b'GNU.sparse.')
        if keyword in {b'GNU.sparse.offset', b'GNU.sparse.numbytes'}:
            # The one pair of keywords that is repeated. Tar accepts a pair only after
            # the number of pairs.
            if b'numblocks' not in pax.sparse or b'map' in pax.sparse:
                raise RefusedError('its sparse map is in the wrong place')
            if (sparse == b'numbytes') != len(pax.sparse_map) % 2:
                raise RefusedError('its sparse map has a number too few')
            pax.sparse_map.append(read_length(value, 'sparse map'))
            continue
        _once(keyword, seen)
        if keyword == b'path':
            pax.path = _pax_name(value, keyword)
        elif keyword == b'linkpath':
            pax.linkpath = _pax_name(value, keyword)
        elif keyword == b'size':
            pax.size = read_length(value, 'pax size')
        elif keyword == b'GNU.sparse.name':
            pax.sparse[sparse] = _pax_name(value, keyword)
        elif keyword == b'GNU.sparse.map':
            # Tar discards a map when the number of pairs follows it.
            if b'numblocks' not in pax.sparse or pax.sparse_map:
                raise RefusedError('its sparse map is in the wrong place')
            pax.sparse[sparse] = value
        elif keyword in {
            b'GNU.sparse.major',
            b'GNU.sparse.minor',
            b'GNU.sparse.numblocks',
            b'GNU.sparse.realsize',
            b'GNU.sparse.size',
        }:
            pax.sparse[sparse] = value
        else:
            raise RefusedError(f'unknown pax record {shown(keyword)}')
    if short > MAX_RECORDS:
        raise RefusedError('its pax header is too long')
    return pax


def _once(keyword: bytes, seen: set[bytes]) -> None:
    """Tar would use the last one; GNU tar and this agent never repeat one."""
    if keyword in seen:
        raise RefusedError(f'its pax record {shown(keyword)} is repeated')
    seen.add(keyword)


def check_global_pax(buffer: bytes, start: int, end: int) -> None:
    """Refuse a global header that would change a name or a length of any member."""
    for keyword, _, _ in records(buffer, start, end):
        if keyword not in _HARMLESS and not keyword.startswith(_XATTR):
            raise RefusedError(f'a global pax header sets {shown(keyword)}')


def _pax_name(value: bytes, keyword: bytes) -> bytes:
    # Tar would stop at the NUL.
    if b'\0' in value:
        raise RefusedError(f'a NUL in its pax record {shown(keyword)}')
    if len(value) > MAX_NAME:
        raise RefusedError(f'its pax record {shown(keyword)} is too long')
    return value


def read_number(field: bytes) -> int | None:
    """An octal or base-256 number of a header; ``None`` if malformed or negative."""
    if field[0] == 0x80:
        number = int.from_bytes(field[1:], 'big')
        return number if number <= MAX_OFF_T else None
    match = _OCTAL.fullmatch(field)
    return int(match[1], 8) if match else None


def read_length(value: bytes, what: str) -> int:
    """A decimal length. Raises :class:`RefusedError`."""
    if not value.isdigit() or len(value) > 19 or int(value) > MAX_OFF_T:
        raise RefusedError(f'its {what} is not a length')
    return int(value)


def block_count(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK


def writable(mode: int) -> bool:
    """Whether the owner can remove a file from a directory of this mode."""
    return mode & 0o300 == 0o300


def components(name: bytes, what: str) -> list[bytes]:
    """The components of a path in an archive, without ``.`` and empty ones.

    Raises :class:`RefusedError` if the path is empty, absolute or contains ``..``.
    """
    if not name:
        raise RefusedError(f'{what} is empty')
    if name[0] == 0x2F:
        raise RefusedError(f'{what} {shown(name)} is absolute')
    parts = name.split(b'/')
    if b'..' in parts:
        raise RefusedError(f'{what} {shown(name)} contains ".."')
    if b'.' in parts or b'' in parts:
        parts = [part for part in parts if part and part != b'.']
    return parts


def shown(name: bytes) -> str:
    """A name for a message: on one line, and not too long."""
    text = name.decode('utf-8', 'backslashreplace')
    if len(text) > 200:
        text = f'{text[:200]}...'
    return repr(text)


def split(data: bytes, separator: bytes) -> Iterator[bytes]:
    """Like :meth:`bytes.split`, one by one: a list of them can take gigabytes."""
    start = 0
    while (end := data.find(separator, start)) >= 0:
        yield data[start:end]
        start = end + 1
    yield data[start:]
