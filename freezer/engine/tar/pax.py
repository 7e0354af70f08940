"""Pax headers: records of keyword and value that precede a member."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from freezer.engine.tar.headers import RefusedError, read_length, shown

MAX_NAME: Final = 1 << 20
"""Bytes of one name. PATH_MAX is 4096, but a tree can be deeper than that."""

MAX_RECORDS: Final = 16 << 20
"""Bytes of all the records of one pax header that are not names or lists: extended
attributes of 64 KiB each, ACLs, times."""

# The records that GNU tar knows and that change neither a name nor a length.
_HARMLESS: Final = frozenset(
    {
        b'atime', b'charset', b'comment', b'ctime', b'gid', b'gname', b'mtime', b'uid',
        b'uname', b'GNU.volume.label', b'RHT.security.selinux', b'SCHILY.acl.access',
        b'SCHILY.acl.default',
    }
)  # fmt: skip
_XATTR: Final = b'SCHILY.xattr.'
# On a directory such a record may take the owner's right to write away.
_ACCESS: Final = (b'SCHILY.acl.access', b'SCHILY.xattr.system.')


@dataclass(slots=True)
class PaxHeader:
    """The records of one pax header that change how its member is read."""

    path: bytes | None = None
    linkpath: bytes | None = None
    size: int | None = None
    dumpdir: bytes | None = None
    acl: bool = False
    sparse: dict[bytes, bytes] = field(default_factory=dict)
    """``GNU.sparse.*`` without the prefix, except the map of format 0.0."""
    sparse_map: list[int] = field(default_factory=list)
    """The map of format 0.0: offset, length, offset, length ..."""


def records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Split a pax header into keyword and value.

    Raises :class:`RefusedError` at anything that tar would read but that is not in the
    standard: tar also accepts blanks before the length and before the keyword, and a
    NUL as the end.
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


def parse(data: bytes) -> PaxHeader:
    """Read the pax header of one member. Raises :class:`RefusedError`."""
    pax = PaxHeader()
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
            # The one pair of keywords that is repeated. Tar accepts a pair only after
            # the number of pairs.
            if b'numblocks' not in pax.sparse or b'map' in pax.sparse:
                raise RefusedError('its sparse map is in the wrong place')
            if (sparse == b'numbytes') != len(pax.sparse_map) % 2:
                raise RefusedError('its sparse map has a number too few')
            pax.sparse_map.append(read_length(value, 'sparse map'))
            continue
        # Tar would use the last one; GNU tar and this agent never repeat one.
        if keyword in seen:
            raise RefusedError(f'its pax record {shown(keyword)} is repeated')
        seen.add(keyword)
        if keyword == b'path':
            pax.path = _name(value, keyword)
        elif keyword == b'linkpath':
            pax.linkpath = _name(value, keyword)
        elif keyword == b'size':
            pax.size = read_length(value, 'pax size')
        elif keyword == b'GNU.dumpdir':
            pax.dumpdir = value
        elif keyword == b'GNU.sparse.name':
            pax.sparse[sparse] = _name(value, keyword)
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


def check_global(data: bytes) -> None:
    """Refuse a global header that would change a name or a length of any member."""
    for keyword, _ in records(data):
        if keyword not in _HARMLESS and not keyword.startswith(_XATTR):
            raise RefusedError(f'a global pax header sets {shown(keyword)}')


def _name(value: bytes, keyword: bytes) -> bytes:
    # Tar would stop at the NUL.
    if b'\0' in value:
        raise RefusedError(f'a NUL in its pax record {shown(keyword)}')
    if len(value) > MAX_NAME:
        raise RefusedError(f'its pax record {shown(keyword)} is too long')
    return value
