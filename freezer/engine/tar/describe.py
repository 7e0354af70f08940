"""A member of an archive as a record of the index."""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import struct
import sys
from typing import Final

from freezer.engine.index.record import Record, new_record
from freezer.engine.tar.headers import (
    BLOCK,
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
# magic; of the member all but the checksum and the device, and owner and group as two
# fields each.
_HEADERS: Final = struct.Struct(
    '124x11sx20xs100x8s247x512x100s7sx16s11sx11sx8xs100s8s64s16xs166x'
)
_PAX: Final = re.compile(
    rb'(?:[0-9]+ atime=[0-9.]+\n|[0-9]+ mtime=([0-9]+)(?:\.([0-9]{1,9}))?\n'
    rb'|(([0-9]+) path=(\./[^\n]+)\n)|(([0-9]+) GNU\.dumpdir=([^\n]*)\n))+'
)
_PLAIN: Final = {
    b'0': 'file',
    b'2': 'symlink',
    b'3': 'character',
    b'4': 'block',
    b'5': 'directory',
    b'6': 'fifo',
}
# Entries of a dumpdir that are names.
_NAMES: Final = frozenset({b'Y', b'N', b'D'})
_NAMES_AT_ONCE: Final = 4096
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


def plain_member(
    buffer: bytes, position: int, offset: int
) -> tuple[Record, Dumpdir | None] | None:
    """The record of a member as GNU tar writes most of them, and its list if it is a
    directory; None of any other.

    That is one with times in a pax header, and its path if it is long, and the list of
    a directory, and nothing else there.
    Half of the work of a backup of small files would be to read headers with all the
    care that a restore takes; these were written a moment ago.

    :param position: of its headers in the buffer
    :param offset: of its headers in the archive
    """
    if len(buffer) - position < _HEADERS.size:
        return None
    (
        pax_size, pax_kind, pax_magic, name, mode, owner, size, mtime, letter, linkname,
        magic, owner_names, prefix,
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
    begin = position + BLOCK
    found = _PAX.match(buffer, begin, begin + BLOCK)
    try:
        if found is None or found.end() != begin + int(pax_size, 8):
            return None
        seconds, fraction, record, length, path, listed, listed_length, _names = (
            found.groups()
        )
        if path is None:
            path = name.rstrip(b'\0')
        elif len(record) != int(length):
            return None  # a name with a newline, and something like a record after it
        is_directory = kind == 'directory'
        if not path.startswith(b'./') or path.endswith(b'/') != is_directory:
            return None
        bytes_ = data_size = int(size, 8)
        dumpdir = None
        if is_directory:
            if listed is None or len(listed) != int(listed_length) or data_size:
                return None
            dumpdir = Dumpdir(buffer, *found.span(8))
            bytes_ = names_digest(dumpdir)
        elif listed is not None:
            return None
        uid, gid, user, group = _owner_of(owner, owner_names)
        return new_record((
            path[2:-1] if is_directory else path[2:],
            kind, int(mode, 8) & 0o7777, uid, gid, user, group, bytes_,
            int(mtime, 8) * 10**9 if seconds is None
            else int(seconds + (fraction or b'').ljust(9, b'0')),
            0, 0,
            linkname.rstrip(b'\0') if kind == 'symlink' else b'',
            offset, _HEADERS.size + (data_size + 511 & -512),
        )), dumpdir  # fmt: skip
    except (ValueError, RefusedError):
        # A number in base 256, or something to refuse: the caller reads it again.
        return None


@functools.lru_cache
def _owner_of(numbers: bytes, names: bytes) -> tuple[int, int, str, str]:
    """The owner in a header. Raises ValueError if a number is not octal.

    :param numbers: the fields of user and group
    :param names: likewise
    """
    user, group = (
        each.partition(b'\0')[0].decode(errors='surrogateescape')
        for each in (names[:32], names[32:])
    )
    return int(numbers[:7], 8), int(numbers[8:15], 8), user, group


def names_digest(dumpdir: Dumpdir) -> int:
    """A number of 63 bits that differs if the names in a directory differ."""
    digest = hashlib.blake2b(digest_size=8)
    entries = dumpdir.entries()
    while some := list(itertools.islice(entries, _NAMES_AT_ONCE)):
        # Which of them are in this archive does not matter.
        names = [entry[1:] for entry in some if entry[:1] in _NAMES]
        digest.update(b'\0'.join([*names, b'']))
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
