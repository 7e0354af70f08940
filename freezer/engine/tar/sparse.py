"""The maps of files with holes, in the formats that GNU tar writes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from freezer.engine.tar.headers import (
    BLOCK,
    MAX_LIST,
    MoreError,
    RefusedError,
    block_at,
    block_count,
    read_length,
    read_number,
    split,
)
from freezer.engine.tar.pax import PaxHeader


def check_pax(buffer: bytes, start: int, pos: int, size: int, pax: PaxHeader) -> None:
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
        numbers, length = _map_in_data(buffer, start, pos, size)
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


def check_gnu(buffer: bytes, start: int, pos: int, size: int, header: bytes) -> int:
    """Check the map of an old GNU ``S`` member. Returns where its data begins.

    Raises and parameters as :func:`check_pax`.
    """
    real = read_number(header[483:495])
    if real is None:
        raise RefusedError('an impossible real size')
    pairs: list[int] = []
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
            pairs += offset, length
        if not extended:
            break
        if ended or len(pairs) * 8 > MAX_LIST:
            raise RefusedError('a malformed sparse map')
        more = block_at(buffer, start, pos)
        pos += BLOCK
        fields, extended = more[:504], more[504]
    _check_map(pairs, real, size)
    return pos


def _map_in_data(
    buffer: bytes, start: int, pos: int, size: int
) -> tuple[Iterator[int], int]:
    """The map of sparse format 1.0, from the beginning of the data.

    Returns the map and its bytes in the archive, padding included.
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
