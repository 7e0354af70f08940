"""A member of an archive as a record of the index."""

from __future__ import annotations

import functools
import hashlib
import re
import struct
import sys
from typing import Final

from freezer.engine.index.record import Record
from freezer.engine.tar.headers import (
    POSIX,
    Dumpdir,
    RefusedError,
    components,
    read_length,
    read_number,
    shown,
)
from freezer.engine.tar.units import Unit

KINDS: Final = {
    b'1': 'link',
    b'2': 'symlink',
    b'3': 'character',
    b'4': 'block',
    b'5': 'directory',
    b'D': 'directory',
    b'6': 'fifo',
}
# The headers of a member with a pax header of one block: of that header size, type and
# magic, then its data; of the member all but the checksum and the device.
_HEADERS: Final = struct.Struct(
    '124x11sx20xs100x8s247x512s100s7sx7sx7sx11sx11sx8xs100s8s32s32s16xs166x'
)
_TIMES: Final = re.compile(
    rb'(?:[0-9]+ atime=[0-9.]+\n|[0-9]+ mtime=([0-9]+)(?:\.([0-9]{1,9}))?\n'
    rb'|(([0-9]+) path=(\./[^\n]+)\n))+'
)
_PLAIN: Final = {
    b'0': 'file',
    b'2': 'symlink',
    b'3': 'character',
    b'4': 'block',
    b'6': 'fifo',
}
_TIME: Final = re.compile(rb'(-?)([0-9]{1,19})(?:\.([0-9]{1,9})[0-9]*)?')


def describe(unit: Unit, head: bytes, offset: int) -> Record:
    """The record of a member, without an identity.

    Raises :class:`RefusedError` if a name or a number is malformed.

    :param head: its headers
    :param offset: of its headers in the archive
    """
    header = head[unit.header : unit.header + 512]
    kind = KINDS.get(unit.kind, 'file')
    target = b''
    if kind == 'link':
        target = b'/'.join(components(unit.linkname, 'its link name'))
    elif kind == 'symlink':
        target = unit.linkname
    attributes = unit.pax.attributes if unit.pax else {}
    size = 0
    if kind == 'file':
        size = file_size(unit, header)
    elif unit.dumpdir is not None:
        size = names_digest(unit.dumpdir)
    return Record(
        b'/'.join(components(unit.name, 'its name')),
        kind,
        _signed(header[100:108]) & 0o7777,
        _owner(attributes, b'uid', header[108:116]),
        _owner(attributes, b'gid', header[116:124]),
        _name(attributes, b'uname', header[265:297]),
        _name(attributes, b'gname', header[297:329]),
        size,
        _mtime(attributes, header),
        0,
        0,
        target,
        offset,
        unit.length,
    )


def plain_member(buffer: bytes, position: int, offset: int) -> Record | None:
    """The record of a member as GNU tar writes most of them; None of any other.

    That is a file, link or device with times in a pax header, and its path if it is
    long, and nothing else there.
    Half of the work of a backup of small files would be to read headers with all the
    care that a restore takes; these were written a moment ago.

    :param position: of its headers in the buffer
    :param offset: of its headers in the archive
    """
    if len(buffer) - position < _HEADERS.size:
        return None
    (
        pax_size, pax_kind, pax_magic, data, name, mode, uid, gid, size, mtime, letter,
        linkname, magic, user, group, prefix,
    ) = _HEADERS.unpack_from(buffer, position)  # fmt: skip
    kind = _PLAIN.get(letter)
    if (
        pax_kind != b'x'
        or pax_magic != POSIX
        or magic != POSIX
        or prefix != b'\0'
        or kind is None
    ):
        return None
    times = _TIMES.match(data)
    try:
        if times is None or times.end() != int(pax_size, 8):
            return None
        seconds, fraction, record, length, path = times.groups()
        if path is None:
            path = name.rstrip(b'\0')
        elif len(record) != int(length):
            return None  # a name with a newline, and something like a record after it
        if not path.startswith(b'./') or path.endswith(b'/'):
            return None
        return Record(
            path[2:],
            kind,
            int(mode, 8) & 0o7777,
            *_owner_of(uid, gid, user, group),
            bytes_ := int(size, 8),
            int(mtime, 8) * 10**9
            if seconds is None
            else int(seconds) * 10**9 + int((fraction or b'').ljust(9, b'0')),
            0,
            0,
            linkname.rstrip(b'\0') if kind == 'symlink' else b'',
            offset,
            _HEADERS.size + (bytes_ + 511 & -512),
        )
    except ValueError:
        return None  # a number in base 256


@functools.lru_cache
def _owner_of(
    uid: bytes, gid: bytes, user: bytes, group: bytes
) -> tuple[int, int, str, str]:
    """The owner in a header. Raises ValueError if a number is not octal."""
    names = (each.partition(b'\0')[0] for each in (user, group))
    user_name, group_name = (each.decode(errors='surrogateescape') for each in names)
    return int(uid, 8), int(gid, 8), user_name, group_name


def names_digest(dumpdir: Dumpdir) -> int:
    """A number of 63 bits that differs if the names in a directory differ."""
    digest = hashlib.blake2b(digest_size=8)
    for entry in dumpdir.entries():
        # Which of them are in this archive does not matter.
        if entry[:1] in (b'Y', b'N', b'D'):
            digest.update(entry[1:] + b'\0')
    return int.from_bytes(digest.digest(), 'big') >> 1


def file_size(unit: Unit, header: bytes) -> int:
    """Bytes of a file, with its holes.

    :param header: its own header, without those before
    """
    if unit.kind == b'S':
        return _signed(header[483:495])
    if unit.pax is not None:
        for keyword in (b'realsize', b'size'):
            if keyword in unit.pax.sparse:
                return read_length(unit.pax.sparse[keyword], 'real size')
        if unit.pax.size is not None:
            return unit.pax.size
    return _signed(header[124:136])


def _owner(attributes: dict[bytes, bytes], keyword: bytes, field: bytes) -> int:
    if keyword in attributes:
        return _time(attributes[keyword], keyword) // 10**9
    return _signed(field)


def _name(attributes: dict[bytes, bytes], keyword: bytes, field: bytes) -> str:
    value = attributes.get(keyword)
    if value is None:
        value = field.partition(b'\0')[0]
    # There are few different names: keep each once.
    return sys.intern(value.decode(errors='surrogateescape'))


def _mtime(attributes: dict[bytes, bytes], header: bytes) -> int:
    """Epoch nanoseconds."""
    if b'mtime' in attributes:
        return _time(attributes[b'mtime'], b'mtime')
    return _signed(header[136:148]) * 10**9


def _time(value: bytes, keyword: bytes) -> int:
    """A decimal number of seconds, in nanoseconds."""
    match = _TIME.fullmatch(value)
    if match is None:
        raise RefusedError(f'its {shown(keyword)} is not a number')
    sign, seconds, fraction = match.groups()
    nanoseconds = int(seconds) * 10**9 + int((fraction or b'').ljust(9, b'0'))
    return -nanoseconds if sign else nanoseconds


def _signed(field: bytes) -> int:
    """An octal or base-256 number of a header, which may be negative."""
    if field[:1] == b'\xff':
        return int.from_bytes(field, 'big', signed=True)
    return read_number(field) or 0
