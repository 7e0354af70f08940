"""The units of a tar archive: members with their headers and sparse maps."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from freezer.engine.tar.headers import (
    BLOCK,
    GNU,
    MAX_LIST,
    MAX_NAME,
    MAX_RECORDS,
    POSIX,
    BrokenError,
    Dumpdir,
    MoreError,
    PaxHeader,
    RefusedError,
    block_at,
    block_count,
    check_global_pax,
    check_header,
    components,
    parse_pax,
    read_length,
    read_number,
    shown,
    split,
    writable,
)

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
    dumpdir: Dumpdir | None = None
    locked: bool = False
    """A directory that its owner may be unable to write into."""
    header: int = 0
    """Of a member: bytes of the extension headers before its own."""
    pax: PaxHeader | None = None


def read_unit(buffer: bytes, start: int) -> Unit:
    """The unit that begins at ``start``.

    Raises :class:`MoreError` when the buffer ends before its data begins (for a
    dumpdir: before its data ends), :class:`RefusedError` and
    :class:`BrokenError`.
    """
    try:
        return _read_unit(buffer, start)
    except RefusedError as error:
        if error.name is None:
            # The name in the extension header: better than none.
            error.name = buffer[start : start + 100].partition(b'\0')[0]
        raise


def _read_unit(buffer: bytes, start: int) -> Unit:
    pos = start
    pax: PaxHeader | None = None
    long: dict[bytes, bytes] = {}
    while True:
        header = block_at(buffer, start, pos)
        if header == _ZERO_BLOCK:
            if pos > start:
                raise BrokenError('an extension header without a member')
            if block_at(buffer, start, pos + BLOCK) != _ZERO_BLOCK:
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
            _need(buffer, start, pos, size)
            data = buffer[pos : pos + size]
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
            _need(buffer, start, pos, size)
            if kind == b'g':
                check_global_pax(buffer, pos, pos + size)
                return Unit(kind, pos - start + block_count(size) * BLOCK)
            pax = parse_pax(buffer, pos, pos + size)
        else:
            return _member(buffer, start, pos, header, magic, size, pax, long)
        pos += block_count(size) * BLOCK


def _need(buffer: bytes, start: int, pos: int, size: int) -> None:
    """Raise :class:`MoreError` if data are not in the buffer, with their padding."""
    end = pos + block_count(size) * BLOCK
    if len(buffer) < end:
        raise MoreError(end - start)


def _member(
    buffer: bytes,
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
            _check_pax(buffer, start, pos, size, pax)
        elif kind == b'S' and magic == GNU:
            pos = _check_gnu(buffer, start, pos, size, header)
        elif kind == b'D' and magic == GNU:
            if size > MAX_LIST:
                raise RefusedError(f'a dumpdir of {size} bytes is too long')
            _need(buffer, start, pos, size)
            unit.dumpdir = Dumpdir(buffer, pos, pos + size)
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
    unit.pax = pax
    return unit


def _check_pax(buffer: bytes, start: int, pos: int, size: int, pax: PaxHeader) -> None:
    """Check the sparse map of a posix member, if any.

    Raises :class:`RefusedError`, and :class:`MoreError`.

    :param start: where the unit begins in the buffer
    :param pos: where its data begins
    :param size: bytes of the data in the archive
    """
    if not pax.sparse:
        return
    keys = pax.sparse.keys() - {b'name'}
    if keys == {b'major', b'minor', b'realsize'}:
        if (pax.sparse[b'major'], pax.sparse[b'minor']) != (b'1', b'0'):
            raise RefusedError('an unknown sparse format')
        real = read_length(pax.sparse[b'realsize'], 'real size')
        numbers, length = map_in_data(buffer, start, pos, size)
        _check_map(numbers, real, size - length)
        return
    # Without a map tar would use the real size as the length of the data.
    text = pax.sparse.get(b'map')
    given = len(pax.sparse_map) if text is None else text.count(b',') + 1
    if keys - {b'map'} != {b'numblocks', b'size'} or not given:
        raise RefusedError('an incomplete sparse map')
    count = read_length(pax.sparse[b'numblocks'], 'sparse map')
    if given != 2 * count:
        raise RefusedError('a sparse map of another length than it declares')
    numbers = (
        iter(pax.sparse_map)
        if text is None
        else (read_length(number, 'sparse map') for number in split(text, b','))
    )
    _check_map(numbers, read_length(pax.sparse[b'size'], 'size'), size)


def _check_gnu(buffer: bytes, start: int, pos: int, size: int, header: bytes) -> int:
    """Check the map of an old GNU ``S`` member. Returns where its data begins.

    Raises and parameters as :func:`_check_pax`.
    """
    real = read_number(header[483:495])
    if real is None:
        raise RefusedError('an impossible real size')
    pairs, pos = gnu_map(buffer, start, pos, header)
    _check_map(pairs, real, size)
    return pos


def gnu_map(
    buffer: bytes, start: int, pos: int, header: bytes
) -> tuple[array[int], int]:
    """The map of an old GNU ``S`` member (offset, length, offset, length ...), and
    where its data begins.

    Raises and parameters as :func:`_check_pax`.
    """
    pairs = array('q')
    fields, extended = header[386:482], header[482]
    ended = False
    while True:
        for at in range(0, len(fields), 24):
            # For tar an empty length ends the map, and also the headers.
            if fields[at + 12] == 0:
                ended = True
                continue
            offset = read_number(fields[at : at + 12])
            length = read_number(fields[at + 12 : at + 24])
            if ended or offset is None or length is None:
                raise RefusedError('a malformed sparse map')
            pairs.extend((offset, length))
        if not extended:
            break
        if ended or len(pairs) * 8 > MAX_LIST:
            raise RefusedError('a malformed sparse map')
        more = block_at(buffer, start, pos)
        pos += BLOCK
        fields, extended = more[:504], more[504]
    return pairs, pos


def map_in_data(
    buffer: bytes, start: int, pos: int, size: int
) -> tuple[Iterator[int], int]:
    """The map of sparse format 1.0, from the beginning of the data.

    Returns the map (offset, length, offset, length ...) and its bytes in the archive,
    padding included. Raises and parameters as :func:`_check_pax`.
    """
    have = buffer[pos : pos + min(size, MAX_LIST)]
    first, newline, _ = have[:BLOCK].partition(b'\n')
    if not newline:
        if len(have) >= min(size, BLOCK):
            raise RefusedError('a sparse map without a length')
        raise MoreError(pos - start + min(size, BLOCK))
    count = 2 * read_length(first, 'sparse map') + 1
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
    numbers = (read_length(line, 'sparse map') for line in lines())
    return itertools.islice(numbers, 1, None), length


def _check_map(numbers: Iterable[int], real: int, stored: int) -> None:
    """Refuse a sparse map that does not fit its data.

    Tar reads as many blocks as the map lists, whatever the size: with a map that is too
    long it would take the next header for data; with one that is wrong in the middle it
    loses its place when writing fails.

    :param numbers: offset, length, offset, length ...
    :param real: bytes of the file
    :param stored: bytes of the data in the archive, without a map
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
