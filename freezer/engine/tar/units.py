"""The units of a tar archive: members with their extension headers, read strictly.

:mod:`freezer.engine.tar.headers` explains why tarfile does not do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from freezer.engine.tar import pax as pax_headers
from freezer.engine.tar import sparse
from freezer.engine.tar.headers import (
    BLOCK,
    GNU,
    MAX_LIST,
    POSIX,
    BrokenError,
    MoreError,
    RefusedError,
    block_at,
    block_count,
    check_header,
    components,
    read_number,
    shown,
    writable,
)
from freezer.engine.tar.pax import MAX_NAME, MAX_RECORDS, PaxHeader

_ZERO_BLOCK: Final = bytes(BLOCK)


@dataclass(slots=True)
class Unit:
    """A part of the archive that is passed on or refused as a whole.

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
                # The name in the extension header: better than none.
                error.name = self._buffer[start : start + 100].partition(b'\0')[0]
            raise

    def _unit(self, start: int) -> Unit:
        pos = start
        pax: PaxHeader | None = None
        long: dict[bytes, bytes] = {}
        while True:
            header = block_at(self._buffer, start, pos)
            if header == _ZERO_BLOCK:
                if pos > start:
                    raise BrokenError('an extension header without a member')
                if block_at(self._buffer, start, pos + BLOCK) != _ZERO_BLOCK:
                    raise BrokenError('a lone block of zeros')
                return Unit(b'', 2 * BLOCK)
            size, magic = check_header(header)
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
                    pax_headers.check_global(data)
                    return Unit(kind, pos - start + block_count(size) * BLOCK)
                pax = pax_headers.parse(data)
            else:
                return self._member(start, pos, header, magic, size, pax, long)
            pos += block_count(size) * BLOCK

    def _data(self, start: int, pos: int, size: int) -> bytes:
        end = pos + block_count(size) * BLOCK
        if len(self._buffer) < end:
            raise MoreError(end - start)
        return self._buffer[pos : pos + size]

    def _member(
        self,
        start: int,
        pos: int,
        header: bytes,
        magic: bytes,
        size: int,
        pax: PaxHeader | None,
        long: dict[bytes, bytes],
    ) -> Unit:
        """The member of this header block, whose data begins at ``pos``."""
        kind = header[156:157].replace(b'\0', b'0')
        name = header[:100].partition(b'\0')[0]
        linkname = header[157:257].partition(b'\0')[0]
        try:
            if magic == POSIX:
                prefix, _, rest = header[345:500].partition(b'\0')
                # With anything here tar would take the header for one of star, whose
                # sparse maps are others.
                if rest.strip(b'\0'):
                    raise RefusedError('its header is not a posix one')
                if prefix:
                    name = prefix + b'/' + name
            if (long and magic != GNU) or (pax and magic != POSIX):
                raise RefusedError('its header and its extension differ in format')
            name = long.get(b'L', name)
            linkname = long.get(b'K', linkname)
            pax = pax or PaxHeader()
            if pax.path is not None:
                name = pax.path
            if b'name' in pax.sparse:
                # Tar uses the sparse name; the other one is checked for good measure.
                components(name, 'its pax path')
                name = pax.sparse[b'name']
            if pax.linkpath is not None:
                linkname = pax.linkpath
            if pax.size is not None:
                size = pax.size

            dumpdir = pax.dumpdir
            unit = Unit(kind, 0, name, linkname, dumpdir, header=pos - start - BLOCK)
            if dumpdir is not None and kind != b'5':
                raise RefusedError('a dumpdir, but not a directory')
            if pax.sparse and kind != b'0':
                raise RefusedError('a sparse map, but not a file')
            if kind == b'0':
                sparse.check_pax(self._buffer, start, pos, size, pax)
            elif kind == b'S' and magic == GNU:
                pos = sparse.check_gnu(self._buffer, start, pos, size, header)
            elif kind == b'D' and magic == GNU:
                if size > MAX_LIST:
                    raise RefusedError(f'a dumpdir of {size} bytes is too long')
                unit.dumpdir = self._data(start, pos, size)
            elif kind in {b'1', b'2', b'3', b'4', b'5', b'6'} or (
                kind == b'V' and magic == GNU
            ):
                # Tar does not skip the data of these, other programs do.
                if size:
                    raise RefusedError(f'type {shown(kind)} with data')
            else:
                raise RefusedError(f'unknown type {shown(kind)}')
        except RefusedError as error:
            error.name = name
            raise
        mode = read_number(header[100:108])
        unit.locked = pax.acl or mode is None or not writable(mode)
        unit.length = pos - start + block_count(size) * BLOCK
        return unit
