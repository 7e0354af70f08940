"""The members of a tar archive, read as GNU tar reads them, and strictly.

Why an own parser and not :mod:`tarfile`: a filter must read an archive exactly as tar
does, and the two disagree. With ``GNU.sparse.realsize`` but no sparse map tar skips the
real size and tarfile the stored one, so a member can be hidden in the other's data; tar
prefers ``GNU.sparse.name`` to ``path`` and takes a ``0`` member whose name ends in a
slash for a directory; tarfile knows no old GNU ``D`` members. So this one reads only
what GNU tar writes in its ``posix`` and ``gnu`` formats and refuses everything else.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

BLOCK: Final = 512
"""Bytes: everything in a tar archive begins at a multiple of this."""

MAX_NAME: Final = 1 << 20
"""Bytes of one name. PATH_MAX is 4096, but a tree can be deeper than that."""

MAX_RECORDS: Final = 16 << 20
"""Bytes of all the records of one pax header that are not names or lists: extended
attributes of 64 KiB each, ACLs, times."""

MAX_LIST: Final = 128 << 20
"""Bytes of a dumpdir or of a sparse map: a million entries with names of 125 bytes.
It has to be in memory at once, here and in tar."""

_MAX_OFF_T: Final = (1 << 63) - 1
_ZERO_BLOCK: Final = bytes(BLOCK)
POSIX: Final = b'ustar\x0000'
GNU: Final = b'ustar  \x00'
_OCTAL: Final = re.compile(rb' *([0-7]+)[ \0]*')
# Permissions and the sticky bit; what else a mode can have is set-user-ID and
# set-group-ID.
_PLAIN_MODE: Final = 0o1777

# The records that GNU tar knows and that change neither a name nor a length.
_HARMLESS: Final = frozenset(
    {
        b'atime', b'charset', b'comment', b'ctime', b'gid', b'gname', b'mtime', b'uid',
        b'uname', b'GNU.volume.label', b'RHT.security.selinux', b'SCHILY.acl.access',
        b'SCHILY.acl.default',
    }
)  # fmt: skip
_XATTR: Final = b'SCHILY.xattr.'
# Such a record on a directory may take the owner's right to write away.
_ACCESS: Final = (b'SCHILY.acl.access', b'SCHILY.xattr.system.')


class MoreError(Exception):
    """The unit of the archive that begins here is not yet in the buffer."""

    def __init__(self, need: int) -> None:
        super().__init__(need)
        self.need = need
        """Bytes from the begin of the unit, at least."""


class RefusedError(Exception):
    """Why a member may not reach tar; ``name`` is ``None`` if not known yet."""

    def __init__(self, why: str, name: bytes | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.name = name


class BrokenError(Exception):
    """What is here is not tar at all."""


@dataclass(slots=True)
class Unit:
    """One thing in the archive that is passed on or refused as a whole.

    A member with the extension headers before it, a global header, a volume label, or
    the end marker.
    """

    kind: bytes
    """The type letter of the member; ``b''`` for the end marker."""
    length: int
    """Bytes, with headers, data and padding. The data may not be in the buffer yet."""
    name: bytes = b''
    linkname: bytes = b''
    dumpdir: bytes | None = None
    locked: bool = False
    """A directory that its owner may be unable to write into."""
    header: int = 0
    """Of a member: bytes of the extension headers before its own."""


class _Pax:
    """What one pax header says about a member, as far as it matters here."""

    __slots__ = (
        'acl',
        'dumpdir',
        'linkpath',
        'path',
        'size',
        'sparse',
        'sparse_map',
    )

    def __init__(self) -> None:
        self.path: bytes | None = None
        self.linkpath: bytes | None = None
        self.size: int | None = None
        self.dumpdir: bytes | None = None
        self.acl = False
        self.sparse: dict[bytes, bytes] = {}
        """``GNU.sparse.*`` without the prefix, but not the map of format 0.0."""
        self.sparse_map: list[int] = []
        """That: offset, length, offset, length ..."""


def records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Split a pax header into keyword and value.

    Raises :class:`RefusedError` at anything that tar would read but that is not in the
    standard: it also takes blanks before the length and before the keyword, and a NUL
    for the end.
    """
    pos, end = 0, len(data)
    while pos < end:
        blank = data.find(b' ', pos, pos + 12)
        digits = data[pos : max(blank, pos)]
        if not digits.isdigit() or digits[0] == 0x30:
            raise RefusedError('its pax header is malformed (length of a record)')
        after = pos + int(digits)
        equals = data.find(b'=', blank + 1, max(after - 1, 0))
        if after > end or equals <= blank + 1 or data[after - 1] != 0x0A:
            raise RefusedError('its pax header is malformed')
        keyword = data[blank + 1 : equals]
        if b'\0' in keyword or keyword[0] in b' \t':
            raise RefusedError('its pax header has a malformed keyword')
        yield keyword, data[equals + 1 : after - 1]
        pos = after


def _decimal(value: bytes, what: str) -> int:
    if not value.isdigit() or len(value) > 19 or int(value) > _MAX_OFF_T:
        raise RefusedError(f'its {what} is not a length')
    return int(value)


def _pax_name(value: bytes, keyword: bytes) -> bytes:
    # Tar would stop at the NUL.
    if b'\0' in value:
        raise RefusedError(f'a NUL in its pax record {shown(keyword)}')
    if len(value) > MAX_NAME:
        raise RefusedError(f'its pax record {shown(keyword)} is too long')
    return value


def _pax_member(data: bytes) -> _Pax:
    """Read the pax header of one member. Raises :class:`RefusedError`."""
    pax = _Pax()
    seen: set[bytes] = set()
    short = 0
    for keyword, value in records(data):
        if keyword in _HARMLESS or keyword.startswith(_XATTR):
            short += len(keyword) + len(value)
            if keyword.startswith(_ACCESS):
                pax.acl = True
            continue
        sparse = keyword.removeprefix(b'GNU.sparse.')
        if keyword in {b'GNU.sparse.offset', b'GNU.sparse.numbytes'}:
            # The one pair of keywords that comes more than once. Tar takes a pair
            # only after the number of pairs.
            if b'numblocks' not in pax.sparse or b'map' in pax.sparse:
                raise RefusedError('its sparse map is in the wrong place')
            if (sparse == b'numbytes') != len(pax.sparse_map) % 2:
                raise RefusedError('its sparse map has a number too few')
            pax.sparse_map.append(_decimal(value, 'sparse map'))
            continue
        # Tar would take the last one; no writer of ours repeats one.
        if keyword in seen:
            raise RefusedError(f'its pax record {shown(keyword)} comes twice')
        seen.add(keyword)
        if keyword == b'path':
            pax.path = _pax_name(value, keyword)
        elif keyword == b'linkpath':
            pax.linkpath = _pax_name(value, keyword)
        elif keyword == b'size':
            pax.size = _decimal(value, 'pax size')
        elif keyword == b'GNU.dumpdir':
            pax.dumpdir = value
        elif keyword == b'GNU.sparse.name':
            pax.sparse[sparse] = _pax_name(value, keyword)
        elif keyword == b'GNU.sparse.map':
            # Tar throws a map away when the number of pairs comes after it.
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


def _check_pax_global(data: bytes) -> None:
    """Refuse a global header that would change a name or a length of any member."""
    for keyword, _ in records(data):
        if keyword not in _HARMLESS and not keyword.startswith(_XATTR):
            raise RefusedError(f'a global pax header sets {shown(keyword)}')


def split(data: bytes, separator: bytes) -> Iterator[bytes]:
    """Like :meth:`bytes.split`, one by one: a list of them can take gigabytes."""
    start = 0
    while (end := data.find(separator, start)) >= 0:
        yield data[start:end]
        start = end + 1
    yield data[start:]


def _check_map(numbers: Iterable[int], real: int, stored: int) -> None:
    """Refuse a sparse map that does not fit its data.

    Tar reads as many blocks as the map says and not as many as the size: with a map
    that is too long it would take the next header for data, with one that is wrong in
    the middle of its data it loses its place when writing fails.

    :param numbers: offset, length, offset, length ...
    :param real: bytes of the file.
    :param stored: bytes of the data in the archive, without a map.
    """
    blocks = end = 0
    ragged = False
    numbers = iter(numbers)
    for offset in numbers:
        length = next(numbers, None)
        if length is None:
            raise RefusedError('its sparse map has a number too few')
        if ragged and length:
            raise RefusedError('its sparse map is not in whole blocks')
        if offset < end or offset + length > real:
            raise RefusedError('its sparse map is not in order')
        end = offset + length
        if length:
            ragged = length % BLOCK != 0
            blocks += block_count(length)
    if blocks != block_count(stored):
        raise RefusedError('its sparse map does not fit its size')


def block_count(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK


def read_number(field: bytes) -> int | None:
    """A number of a header, octal or base-256; ``None`` if it is none, or negative."""
    if field[0] == 0x80:
        number = int.from_bytes(field[1:], 'big')
        return number if number <= _MAX_OFF_T else None
    match = _OCTAL.fullmatch(field)
    return int(match[1], 8) if match else None


def shown(name: bytes) -> str:
    """A name for a message: on one line, and not too long."""
    text = name.decode('utf-8', 'backslashreplace')
    if len(text) > 200:
        text = f'{text[:200]}...'
    return repr(text)


class Reader:
    """Finds the next unit in a buffer; knows nothing about the target."""

    def __init__(self, buffer: bytes) -> None:
        self._buffer = buffer

    def unit(self, start: int) -> Unit:
        """The unit that begins at ``start``.

        Raises :class:`MoreError` when the buffer ends before its data begins (for a
        dumpdir: before its data ends), :class:`RefusedError` and
        :class:`BrokenError`.
        """
        try:
            return self._unit(start)
        except RefusedError as error:
            if error.name is None:
                # That of the extension header: better than none.
                error.name = self._buffer[start : start + 100].partition(b'\0')[0]
            raise

    def _unit(self, start: int) -> Unit:
        pos = start
        pax: _Pax | None = None
        long: dict[bytes, bytes] = {}
        while True:
            header = self._block(start, pos)
            if header == _ZERO_BLOCK:
                if pos > start:
                    raise BrokenError('an extension header without a member')
                if self._block(start, pos + BLOCK) != _ZERO_BLOCK:
                    raise BrokenError('a lone block of zeros')
                return Unit(b'', 2 * BLOCK)
            size, magic = self._check_header(header)
            kind = header[156:157]
            pos += BLOCK
            if kind in {b'L', b'K'}:
                if magic != GNU or pax or kind in long:
                    raise RefusedError(f'a long name ({shown(kind)}) out of place')
                if size > MAX_NAME:
                    raise RefusedError('its name is too long')
                data = self._data(start, pos, size)
                # Tar would stop at the first NUL.
                if data.find(b'\0') != size - 1 or not size:
                    raise RefusedError('a long name without a NUL at its end')
                long[kind] = data[:-1]
            elif kind in {b'x', b'g'}:
                if magic != POSIX or pax or long:
                    raise RefusedError('a pax header out of place')
                limit = MAX_LIST if kind == b'x' else MAX_RECORDS
                if size > limit:
                    raise RefusedError(f'a pax header of {size} bytes is too long')
                data = self._data(start, pos, size)
                if kind == b'g':
                    _check_pax_global(data)
                    return Unit(kind, pos - start + block_count(size) * BLOCK)
                pax = _pax_member(data)
            else:
                return self._member(start, pos, header, magic, size, pax, long)
            pos += block_count(size) * BLOCK

    def _block(self, start: int, pos: int) -> bytes:
        block = self._buffer[pos : pos + BLOCK]
        if len(block) < BLOCK:
            raise MoreError(pos - start + BLOCK)
        return block

    def _data(self, start: int, pos: int, size: int) -> bytes:
        end = pos + block_count(size) * BLOCK
        if len(self._buffer) < end:
            raise MoreError(end - start)
        return self._buffer[pos : pos + size]

    @staticmethod
    def _check_header(header: bytes) -> tuple[int, bytes]:
        """Checksum and format of a header block; returns its size and magic."""
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

    def _member(
        self,
        start: int,
        pos: int,
        header: bytes,
        magic: bytes,
        size: int,
        pax: _Pax | None,
        long: dict[bytes, bytes],
    ) -> Unit:
        """The member of this header block, whose data begin at ``pos``."""
        kind = header[156:157].replace(b'\0', b'0')
        name = header[:100].partition(b'\0')[0]
        linkname = header[157:257].partition(b'\0')[0]
        if magic == POSIX:
            prefix, _, rest = header[345:500].partition(b'\0')
            # Tar takes a header with something here for one of star, and these for
            # having other sparse maps.
            if rest.strip(b'\0'):
                raise RefusedError('its header is not a posix one', name)
            if prefix:
                name = prefix + b'/' + name
        if (long and magic != GNU) or (pax and magic != POSIX):
            raise RefusedError('its header and its extension differ in format', name)
        name = long.get(b'L', name)
        linkname = long.get(b'K', linkname)
        pax = pax or _Pax()
        if pax.path is not None:
            name = pax.path
        if b'name' in pax.sparse:
            # Tar uses the sparse name; the other one is checked for good measure.
            try:
                components(name, 'its pax path')
            except RefusedError as error:
                error.name = name
                raise
            name = pax.sparse[b'name']
        if pax.linkpath is not None:
            linkname = pax.linkpath
        if pax.size is not None:
            size = pax.size

        unit = Unit(kind, 0, name, linkname, pax.dumpdir, header=pos - start - BLOCK)
        if pax.dumpdir is not None and kind != b'5':
            raise RefusedError('a dumpdir, but not a directory', name)
        if pax.sparse and kind != b'0':
            raise RefusedError('a sparse map, but not a file', name)
        if kind == b'0':
            pos = self._sparse_pax(start, pos, size, pax, name)
        elif kind == b'S' and magic == GNU:
            pos = self._sparse_gnu(start, pos, size, header, name)
        elif kind == b'D' and magic == GNU:
            if size > MAX_LIST:
                raise RefusedError(f'a dumpdir of {size} bytes is too long', name)
            unit.dumpdir = self._data(start, pos, size)
        elif kind in {b'1', b'2', b'3', b'4', b'5', b'6'} or (
            kind == b'V' and magic == GNU
        ):
            # Tar does not skip the data of these, other programs do.
            if size:
                raise RefusedError(f'type {shown(kind)} with data', name)
        else:
            raise RefusedError(f'unknown type {shown(kind)}', name)
        mode = read_number(header[100:108])
        unit.locked = pax.acl or mode is None or not writable(mode)
        unit.length = pos - start + block_count(size) * BLOCK
        return unit

    def _sparse_pax(
        self, start: int, pos: int, size: int, pax: _Pax, name: bytes
    ) -> int:
        """Check the sparse map of a posix member, if any. Returns ``pos``."""
        keys = pax.sparse.keys() - {b'name'}
        if not pax.sparse:
            return pos
        try:
            if keys == {b'major', b'minor', b'realsize'}:
                if (pax.sparse[b'major'], pax.sparse[b'minor']) != (b'1', b'0'):
                    raise RefusedError('an unknown sparse format')
                real = _decimal(pax.sparse[b'realsize'], 'real size')
                numbers, length = self._map_in_data(start, pos, size)
                _check_map(numbers, real, size - length)
                return pos
            # Without a map tar would use the real size for the length of the data.
            text = pax.sparse.get(b'map')
            given = len(pax.sparse_map) if text is None else text.count(b',') + 1
            if keys - {b'map'} != {b'numblocks', b'size'} or not given:
                raise RefusedError('an incomplete sparse map')
            count = _decimal(pax.sparse[b'numblocks'], 'sparse map')
            if given != 2 * count:
                raise RefusedError('a sparse map of another length than it says')
            numbers = (
                iter(pax.sparse_map)
                if text is None
                else (_decimal(number, 'sparse map') for number in split(text, b','))
            )
            _check_map(numbers, _decimal(pax.sparse[b'size'], 'size'), size)
        except RefusedError as error:
            error.name = name
            raise
        return pos

    def _map_in_data(
        self, start: int, pos: int, size: int
    ) -> tuple[Iterator[int], int]:
        """The map of sparse format 1.0, from the begin of the data.

        Returns the map and its bytes in the archive, padding included.
        """
        have = self._buffer[pos : pos + min(size, MAX_LIST)]
        first, newline, _ = have[:BLOCK].partition(b'\n')
        if not newline:
            if len(have) >= min(size, BLOCK):
                raise RefusedError('a sparse map without a length')
            raise MoreError(pos - start + min(size, BLOCK))
        count = 2 * _decimal(first, 'sparse map') + 1
        if 2 * count > min(size, MAX_LIST):
            raise RefusedError('a sparse map longer than its member')
        if have.count(b'\n') < count:
            if len(have) >= min(size, MAX_LIST):
                raise RefusedError('a sparse map longer than its member')
            more = min(2 * len(have) + BLOCK, size, MAX_LIST)
            raise MoreError(pos - start + more)

        def lines() -> Iterator[bytes]:
            return itertools.islice(split(have, b'\n'), count)

        length = block_count(sum(map(len, lines())) + count) * BLOCK
        if length > size:
            raise RefusedError('a sparse map longer than its member')
        numbers = (_decimal(line, 'sparse map') for line in lines())
        return itertools.islice(numbers, 1, None), length

    def _sparse_gnu(
        self, start: int, pos: int, size: int, header: bytes, name: bytes
    ) -> int:
        """Check the map of an old GNU ``S`` member. Returns where its data begin."""
        try:
            real = read_number(header[483:495])
            if real is None:
                raise RefusedError('an impossible real size')
            pairs: list[int] = []
            fields, extended = header[386:482], header[482]
            ended = False
            while True:
                for at in range(0, len(fields), 24):
                    # An empty length ends the map for tar, and also the headers.
                    if fields[at + 12] == 0:
                        ended = True
                        continue
                    offset = read_number(fields[at : at + 12])
                    length = read_number(fields[at + 12 : at + 24])
                    if ended or offset is None or length is None:
                        raise RefusedError('a malformed sparse map')
                    pairs += offset, length
                if not extended:
                    break
                if ended or len(pairs) * 8 > MAX_LIST:
                    raise RefusedError('a malformed sparse map')
                more = self._block(start, pos)
                pos += BLOCK
                fields, extended = more[:504], more[504]
            _check_map(pairs, real, size)
        except RefusedError as error:
            error.name = name
            raise
        return pos


def disarmed(header: bytes) -> bytes:
    """The header of a file or a device, as one of a file that gives nobody rights."""
    kind = header[156:157]
    if kind in {b'3', b'4'}:
        kind = b'0'
    mode = (read_number(header[100:108]) or 0) & _PLAIN_MODE
    new = b''.join(
        (header[:100], b'%07o\0' % mode, header[108:148], b' ' * 8, kind, header[157:])
    )
    return new[:148] + b'%06o\0 ' % sum(new) + new[156:]


def components(name: bytes, what: str) -> list[bytes]:
    """The components of a path in an archive, without ``.`` and empty ones.

    Raises :class:`RefusedError` if the path is empty, absolute or has a ``..``.
    """
    if not name:
        raise RefusedError(f'{what} is empty')
    if name[0] == 0x2F:
        raise RefusedError(f'{what} {shown(name)} is absolute')
    parts = name.split(b'/')
    if b'..' in parts:
        raise RefusedError(f'{what} {shown(name)} has a ".."')
    if b'.' in parts or b'' in parts:
        parts = [part for part in parts if part and part != b'.']
    return parts


def writable(mode: int) -> bool:
    """Whether its owner can remove a file from a directory of this mode."""
    return mode & 0o300 == 0o300
