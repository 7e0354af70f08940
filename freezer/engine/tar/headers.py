"""Header blocks, numbers and names of tar archives, and the errors of reading them.

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
from collections.abc import Iterator
from typing import Final

from freezer.exceptions import EngineError

BLOCK: Final = 512
"""Bytes: everything in a tar archive begins at a multiple of this."""

MAX_LIST: Final = 128 << 20
"""Bytes of a dumpdir or of a sparse map: a million entries with names of 125 bytes.
It has to be in memory at once, here and in tar."""

MAX_OFF_T: Final = (1 << 63) - 1
POSIX: Final = b'ustar\x0000'
GNU: Final = b'ustar  \x00'
DIRECTORIES: Final = frozenset({b'5', b'D'})
"""Type letters of directories."""

_OCTAL: Final = re.compile(rb' *([0-7]+)[ \0]*')
# Permissions and the sticky bit: a mode without set-user-ID and set-group-ID.
_PLAIN_MODE: Final = 0o1777


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


def check_tail(tail: bytes) -> None:
    """Check that only zeros follow the end marker.

    Tar stops at the end marker, other programs do not.

    :raises EngineError: other bytes follow
    """
    if tail.count(0) != len(tail):
        raise EngineError(
            'The archive has data after its end marker: it was tampered with, or is '
            'more than one archive. Check the backup in the storage.'
        )


def damaged(broken: BrokenError, offset: int) -> EngineError:
    """The error for bytes that are not tar, at an offset in the archive."""
    return EngineError(
        f'The archive is damaged or not a tar archive: {broken} at byte {offset}. '
        f'Check the backup in the storage.'
    )
