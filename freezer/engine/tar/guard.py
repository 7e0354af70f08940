"""A filter between an archive and GNU tar that keeps a restore inside its target.

GNU tar refuses absolute names and ``..`` by itself, and puts off making symbolic links
that point upwards until the end of an archive. It does not protect a chain of
archives: level 0 leaves ``d -> /etc`` behind, level 1 writes ``d/passwd``, and tar
follows the link. :class:`TargetGuard` reads the same bytes ahead of tar, member by
member, and hands a member on only when its path stays in the target.

Why an own parser and not :mod:`tarfile`: a filter must read an archive exactly as tar
does, and the two disagree. With ``GNU.sparse.realsize`` but no sparse map tar skips the
real size and tarfile the stored one, so a member can be hidden in the other's data; tar
prefers ``GNU.sparse.name`` to ``path`` and takes a ``0`` member whose name ends in a
slash for a directory; tarfile knows no old GNU ``D`` members. So this one reads only
what GNU tar writes in its ``posix`` and ``gnu`` formats and refuses everything else.

Tar runs behind the guard and the guard never asks the disk about its progress. It keeps
a *model*: the paths that may be symbolic links. The model only has to be a superset of
the links on disk, and errs to that side, because tar carries on after most errors: a
hard link whose target is missing does not replace anything, a rename that fails leaves
its source (and makes tar skip the deletions that the same dumpdir asks for). Therefore:

* a path stays in the model until a *directory* member takes its place: only
  a directory can be anybody's parent, tar writes a member for every directory in every
  level, and extracting one either removes a symbolic link or fails where a later member
  would have to pass. A dumpdir which no longer lists the name, or another file in its
  place, need not clear anything;
* a renamed directory keeps its links under the old name as well.

What the guard relies on (GNU tar 1.34): at the last component of a path tar does not
follow a symbolic link but removes it, for files, directories and hard links alike, and
does not purge a directory through one. Tar has to run with ``LC_ALL=C`` or a UTF-8
locale: in others it converts the names of the posix format, and what are two names here
could be one on disk. Its working directory has to be the target, because that is where
it makes the temporary directory of an ``X`` record, whatever ``--directory`` says. File
systems that fold case are not protected, nor is a target in which somebody else makes
links during the restore.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from freezer.exceptions import EngineError, UnsafeArchiveError
from freezer.utils.streaming import Block

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

MAX_MERGES: Final = 1_000_000
"""Model entries looked at in one archive because renames collide: with these an archive
could otherwise make the model grow exponentially."""

_MAX_OFF_T: Final = (1 << 63) - 1
_ZERO_BLOCK: Final = bytes(BLOCK)
_POSIX: Final = b'ustar\x0000'
_GNU: Final = b'ustar  \x00'
_OCTAL: Final = re.compile(rb' *([0-7]+)[ \0]*')

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

_NOT_A_LINK: Final = -1
_ALWAYS: Final = 1 << 62


class _MoreError(Exception):
    """The unit of the archive that begins here is not yet in the buffer."""

    def __init__(self, need: int) -> None:
        super().__init__(need)
        self.need = need
        """Bytes from the begin of the unit, at least."""


class _RefusedError(Exception):
    """Why a member may not reach tar; ``name`` is ``None`` if not known yet."""

    def __init__(self, why: str, name: bytes | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.name = name


class _BrokenError(Exception):
    """What is here is not tar at all."""


@dataclass(slots=True)
class _Unit:
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
        """``GNU.sparse.*`` without the prefix, but not the map."""
        self.sparse_map: list[int] = []
        """Offset, length, offset, length ... of sparse formats 0.0 and 0.1."""


def _records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Split a pax header into keyword and value.

    Raises :class:`_RefusedError` at anything that tar would read but that is not in the
    standard: it also takes blanks before the length and before the keyword, and a NUL
    for the end.
    """
    pos, end = 0, len(data)
    while pos < end:
        blank = data.find(b' ', pos, pos + 12)
        digits = data[pos : max(blank, pos)]
        if not digits.isdigit() or digits[0] == 0x30:
            raise _RefusedError('its pax header is malformed (length of a record)')
        after = pos + int(digits)
        equals = data.find(b'=', blank + 1, max(after - 1, 0))
        if after > end or equals <= blank + 1 or data[after - 1] != 0x0A:
            raise _RefusedError('its pax header is malformed')
        keyword = data[blank + 1 : equals]
        if b'\0' in keyword or keyword[0] in b' \t':
            raise _RefusedError('its pax header has a malformed keyword')
        yield keyword, data[equals + 1 : after - 1]
        pos = after


def _decimal(value: bytes, what: str) -> int:
    if not value.isdigit() or len(value) > 19 or int(value) > _MAX_OFF_T:
        raise _RefusedError(f'its {what} is not a length')
    return int(value)


def _pax_name(value: bytes, keyword: bytes) -> bytes:
    # Tar would stop at the NUL.
    if b'\0' in value:
        raise _RefusedError(f'a NUL in its pax record {_text(keyword)}')
    if len(value) > MAX_NAME:
        raise _RefusedError(f'its pax record {_text(keyword)} is too long')
    return value


def _pax_member(data: bytes) -> _Pax:
    """Read the pax header of one member. Raises :class:`_RefusedError`."""
    pax = _Pax()
    seen: set[bytes] = set()
    short = 0
    for keyword, value in _records(data):
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
                raise _RefusedError('its sparse map is in the wrong place')
            if (sparse == b'numbytes') != len(pax.sparse_map) % 2:
                raise _RefusedError('its sparse map has a number too few')
            pax.sparse_map.append(_decimal(value, 'sparse map'))
            continue
        # Tar would take the last one; no writer of ours repeats one.
        if keyword in seen:
            raise _RefusedError(f'its pax record {_text(keyword)} comes twice')
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
                raise _RefusedError('its sparse map is in the wrong place')
            pax.sparse[sparse] = b''
            pax.sparse_map = [_decimal(n, 'sparse map') for n in value.split(b',')]
        elif keyword in {
            b'GNU.sparse.major',
            b'GNU.sparse.minor',
            b'GNU.sparse.numblocks',
            b'GNU.sparse.realsize',
            b'GNU.sparse.size',
        }:
            pax.sparse[sparse] = value
        else:
            raise _RefusedError(f'unknown pax record {_text(keyword)}')
    if short > MAX_RECORDS:
        raise _RefusedError('its pax header is too long')
    return pax


def _check_pax_global(data: bytes) -> None:
    """Refuse a global header that would change a name or a length of any member."""
    for keyword, _ in _records(data):
        if keyword not in _HARMLESS and not keyword.startswith(_XATTR):
            raise _RefusedError(f'a global pax header sets {_text(keyword)}')


def _check_map(pairs: list[int], real: int, stored: int) -> None:
    """Refuse a sparse map that does not fit its data.

    Tar reads as many blocks as the map says and not as many as the size: with a map
    that is too long it would take the next header for data, with one that is wrong in
    the middle of its data it loses its place when writing fails.

    :param real: bytes of the file.
    :param stored: bytes of the data in the archive, without a map.
    """
    blocks = end = 0
    ragged = False
    if len(pairs) % 2:
        raise _RefusedError('its sparse map has a number too few')
    for offset, length in zip(pairs[::2], pairs[1::2], strict=True):
        if ragged and length:
            raise _RefusedError('its sparse map is not in whole blocks')
        if offset < end or offset + length > real:
            raise _RefusedError('its sparse map is not in order')
        end = offset + length
        if length:
            ragged = length % BLOCK != 0
            blocks += _blocks(length)
    if blocks != _blocks(stored):
        raise _RefusedError('its sparse map does not fit its size')


def _blocks(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK


def _number(field: bytes) -> int | None:
    """A number of a header, octal or base-256; ``None`` if it is none, or negative."""
    if field[0] == 0x80:
        number = int.from_bytes(field[1:], 'big')
        return number if number <= _MAX_OFF_T else None
    match = _OCTAL.fullmatch(field)
    return int(match[1], 8) if match else None


def _text(name: bytes) -> str:
    """A name for a message: on one line, and not too long."""
    text = name.decode('utf-8', 'backslashreplace')
    if len(text) > 200:
        text = f'{text[:200]}...'
    return repr(text)


class _Reader:
    """Finds the next unit in a buffer; knows nothing about the target."""

    def __init__(self, buffer: bytes) -> None:
        self._buffer = buffer

    def unit(self, start: int) -> _Unit:
        """The unit that begins at ``start``.

        Raises :class:`_MoreError` when the buffer ends before its data begins (for a
        dumpdir: before its data ends), :class:`_RefusedError` and
        :class:`_BrokenError`.
        """
        try:
            return self._unit(start)
        except _RefusedError as error:
            if error.name is None:
                # That of the extension header: better than none.
                error.name = self._buffer[start : start + 100].partition(b'\0')[0]
            raise

    def _unit(self, start: int) -> _Unit:
        pos = start
        pax: _Pax | None = None
        long: dict[bytes, bytes] = {}
        while True:
            header = self._block(start, pos)
            if header == _ZERO_BLOCK:
                if pos > start:
                    raise _BrokenError('an extension header without a member')
                if self._block(start, pos + BLOCK) != _ZERO_BLOCK:
                    raise _BrokenError('a lone block of zeros')
                return _Unit(b'', 2 * BLOCK)
            size, magic = self._check_header(header)
            kind = header[156:157]
            pos += BLOCK
            if kind in {b'L', b'K'}:
                if magic != _GNU or pax or kind in long:
                    raise _RefusedError(f'a long name ({_text(kind)}) out of place')
                if size > MAX_NAME:
                    raise _RefusedError('its name is too long')
                data = self._data(start, pos, size)
                # Tar would stop at the first NUL.
                if data.find(b'\0') != size - 1 or not size:
                    raise _RefusedError('a long name without a NUL at its end')
                long[kind] = data[:-1]
            elif kind in {b'x', b'g'}:
                if magic != _POSIX or pax or long:
                    raise _RefusedError('a pax header out of place')
                limit = MAX_LIST if kind == b'x' else MAX_RECORDS
                if size > limit:
                    raise _RefusedError(f'a pax header of {size} bytes is too long')
                data = self._data(start, pos, size)
                if kind == b'g':
                    _check_pax_global(data)
                    return _Unit(kind, pos - start + _blocks(size) * BLOCK)
                pax = _pax_member(data)
            else:
                return self._member(start, pos, header, magic, size, pax, long)
            pos += _blocks(size) * BLOCK

    def _block(self, start: int, pos: int) -> bytes:
        block = self._buffer[pos : pos + BLOCK]
        if len(block) < BLOCK:
            raise _MoreError(pos - start + BLOCK)
        return block

    def _data(self, start: int, pos: int, size: int) -> bytes:
        end = pos + _blocks(size) * BLOCK
        if len(self._buffer) < end:
            raise _MoreError(end - start)
        return self._buffer[pos : pos + size]

    @staticmethod
    def _check_header(header: bytes) -> tuple[int, bytes]:
        """Checksum and format of a header block; returns its size and magic."""
        # The low half of an Adler-32 is 1 + the sum of the bytes modulo 65521, and 256
        # bytes cannot reach that: five times as fast as sum().
        total = (zlib.adler32(header[:256]) & 0xFFFF) - 1
        total += (zlib.adler32(header[256:]) & 0xFFFF) - 1
        total += 8 * 0x20 - sum(header[148:156])
        if _number(header[148:156]) != total:
            raise _BrokenError('a header with a wrong checksum')
        magic = header[257:265]
        if magic not in {_POSIX, _GNU}:
            raise _BrokenError('a header of an unknown format')
        size = _number(header[124:136])
        if size is None:
            raise _BrokenError('a header with an impossible size')
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
    ) -> _Unit:
        """The member of this header block, whose data begin at ``pos``."""
        kind = header[156:157].replace(b'\0', b'0')
        name = header[:100].partition(b'\0')[0]
        linkname = header[157:257].partition(b'\0')[0]
        if magic == _POSIX:
            prefix, _, rest = header[345:500].partition(b'\0')
            # Tar takes a header with something here for one of star, and these for
            # having other sparse maps.
            if rest.strip(b'\0'):
                raise _RefusedError('its header is not a posix one', name)
            if prefix:
                name = prefix + b'/' + name
        if (long and magic != _GNU) or (pax and magic != _POSIX):
            raise _RefusedError('its header and its extension differ in format', name)
        name = long.get(b'L', name)
        linkname = long.get(b'K', linkname)
        pax = pax or _Pax()
        if pax.path is not None:
            name = pax.path
        if b'name' in pax.sparse:
            # Tar uses the sparse name; the other one is checked for good measure.
            try:
                _components(name, 'its pax path')
            except _RefusedError as error:
                error.name = name
                raise
            name = pax.sparse[b'name']
        if pax.linkpath is not None:
            linkname = pax.linkpath
        if pax.size is not None:
            size = pax.size

        unit = _Unit(kind, 0, name, linkname, pax.dumpdir)
        if pax.dumpdir is not None and kind != b'5':
            raise _RefusedError('a dumpdir, but not a directory', name)
        if pax.sparse and kind != b'0':
            raise _RefusedError('a sparse map, but not a file', name)
        if kind == b'0':
            pos = self._sparse_pax(start, pos, size, pax, name)
        elif kind == b'S' and magic == _GNU:
            pos = self._sparse_gnu(start, pos, size, header, name)
        elif kind == b'D' and magic == _GNU:
            if size > MAX_LIST:
                raise _RefusedError(f'a dumpdir of {size} bytes is too long', name)
            unit.dumpdir = self._data(start, pos, size)
        elif kind in {b'1', b'2', b'3', b'4', b'5', b'6'} or (
            kind == b'V' and magic == _GNU
        ):
            # Tar does not skip the data of these, other programs do.
            if size:
                raise _RefusedError(f'type {_text(kind)} with data', name)
        else:
            raise _RefusedError(f'unknown type {_text(kind)}', name)
        mode = _number(header[100:108])
        unit.locked = pax.acl or mode is None or not _writable(mode)
        unit.length = pos - start + _blocks(size) * BLOCK
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
                    raise _RefusedError('an unknown sparse format')
                real = _decimal(pax.sparse[b'realsize'], 'real size')
                pairs, length = self._map_in_data(start, pos, size)
                _check_map(pairs, real, size - length)
                return pos
            # Without a map tar would use the real size for the length of the data.
            if keys - {b'map'} != {b'numblocks', b'size'} or not pax.sparse_map:
                raise _RefusedError('an incomplete sparse map')
            count = _decimal(pax.sparse[b'numblocks'], 'sparse map')
            if len(pax.sparse_map) != 2 * count:
                raise _RefusedError('a sparse map of another length than it says')
            _check_map(pax.sparse_map, _decimal(pax.sparse[b'size'], 'size'), size)
        except _RefusedError as error:
            error.name = name
            raise
        return pos

    def _map_in_data(self, start: int, pos: int, size: int) -> tuple[list[int], int]:
        """The map of sparse format 1.0, from the begin of the data.

        Returns the map and its bytes in the archive, padding included.
        """
        have = self._buffer[pos : pos + min(size, MAX_LIST)]
        first, newline, _ = have[:BLOCK].partition(b'\n')
        if not newline:
            if len(have) >= min(size, BLOCK):
                raise _RefusedError('a sparse map without a length')
            raise _MoreError(pos - start + min(size, BLOCK))
        numbers = 2 * _decimal(first, 'sparse map') + 1
        if 2 * numbers > min(size, MAX_LIST):
            raise _RefusedError('a sparse map longer than its member')
        if have.count(b'\n') < numbers:
            if len(have) >= min(size, MAX_LIST):
                raise _RefusedError('a sparse map longer than its member')
            more = min(2 * len(have) + BLOCK, size, MAX_LIST)
            raise _MoreError(pos - start + more)
        lines = have.split(b'\n', numbers)[:numbers]
        length = _blocks(sum(map(len, lines)) + numbers) * BLOCK
        if length > size:
            raise _RefusedError('a sparse map longer than its member')
        return [_decimal(line, 'sparse map') for line in lines[1:]], length

    def _sparse_gnu(
        self, start: int, pos: int, size: int, header: bytes, name: bytes
    ) -> int:
        """Check the map of an old GNU ``S`` member. Returns where its data begin."""
        try:
            real = _number(header[483:495])
            if real is None:
                raise _RefusedError('an impossible real size')
            pairs: list[int] = []
            fields, extended = header[386:482], header[482]
            ended = False
            while True:
                for at in range(0, len(fields), 24):
                    # An empty length ends the map for tar, and also the headers.
                    if fields[at + 12] == 0:
                        ended = True
                        continue
                    offset = _number(fields[at : at + 12])
                    length = _number(fields[at + 12 : at + 24])
                    if ended or offset is None or length is None:
                        raise _RefusedError('a malformed sparse map')
                    pairs += offset, length
                if not extended:
                    break
                if ended or len(pairs) * 8 > MAX_LIST:
                    raise _RefusedError('a malformed sparse map')
                more = self._block(start, pos)
                pos += BLOCK
                fields, extended = more[:504], more[504]
            _check_map(pairs, real, size)
        except _RefusedError as error:
            error.name = name
            raise
        return pos


def _components(name: bytes, what: str) -> list[bytes]:
    """The components of a path in an archive, without ``.`` and empty ones.

    Raises :class:`_RefusedError` if the path is empty, absolute or has a ``..``.
    """
    if not name:
        raise _RefusedError(f'{what} is empty')
    if name[0] == 0x2F:
        raise _RefusedError(f'{what} {_text(name)} is absolute')
    parts = name.split(b'/')
    if b'..' in parts:
        raise _RefusedError(f'{what} {_text(name)} has a ".."')
    if b'.' in parts or b'' in parts:
        parts = [part for part in parts if part and part != b'.']
    return parts


class _Node:
    """What the model knows about one path, and about the paths below it."""

    __slots__ = ('kids', 'link', 'locked', 'shared')

    def __init__(self) -> None:
        self.kids: dict[bytes, _Node] = {}
        self.link = _NOT_A_LINK
        """The archive that made it a symbolic link: 0 the scan, 1 the first ..."""
        self.locked = _NOT_A_LINK
        """Up to this archive, tar may be unable to remove things from this one."""
        self.shared = False
        """It is in the tree in more than one place: copy before writing."""

    def copy(self) -> _Node:
        new = _Node()
        new.link, new.locked = self.link, self.locked
        new.kids = dict(self.kids)
        for kid in self.kids.values():
            kid.shared = True
        return new


class _Links:
    """The model: which paths below the target may be symbolic links.

    A tree, so that renaming a directory is cheap. Nodes are shared between the old and
    the new name and copied on the first write.
    """

    def __init__(self) -> None:
        self._root = _Node()
        self._merges = 0

    def begin_archive(self) -> None:
        self._merges = MAX_MERGES

    def find(self, path: list[bytes]) -> _Node | None:
        node: _Node | None = self._root
        for part in path:
            if node is None:
                return None
            node = node.kids.get(part)
        return node

    def own(self, path: list[bytes]) -> _Node:
        """The node of a path, for writing."""
        node = self._root
        for part in path:
            kid = node.kids.get(part)
            if kid is None:
                kid = node.kids[part] = _Node()
            elif kid.shared:
                kid = node.kids[part] = kid.copy()
            node = kid
        return node

    def link_on_the_way(self, path: list[bytes]) -> bytes | None:
        """The first symbolic link that opening the last component would follow."""
        node = self._root
        for depth, part in enumerate(path[:-1], 1):
            kid = node.kids.get(part)
            if kid is None:
                return None
            if kid.link != _NOT_A_LINK:
                return b'/'.join(path[:depth])
            node = kid
        return None

    def put(self, path: list[bytes], node: _Node) -> None:
        """Put a node of this tree at one more path."""
        node.shared = True
        parent = self.own(path[:-1])
        there = parent.kids.get(path[-1])
        parent.kids[path[-1]] = node if there is None else self.merge(there, node)

    def merge(self, one: _Node, other: _Node) -> _Node:
        """A node that stands for both. Raises :class:`_RefusedError` at too much."""
        top = _Node()
        todo = [(top, one, other)]
        while todo:
            new, a, b = todo.pop()
            self._merges -= 1 + len(a.kids) + len(b.kids)
            if self._merges < 0:
                raise _RefusedError('its renames collide too often')
            new.link = max(a.link, b.link)
            new.locked = max(a.locked, b.locked)
            new.kids = a.copy().kids
            for name, kid in b.kids.items():
                there = new.kids.get(name)
                if there is None or there is kid:
                    kid.shared = True
                    new.kids[name] = kid
                else:
                    new.kids[name] = both = _Node()
                    todo.append((both, there, kid))
        return top


class TargetGuard:
    """Checks the archives of one restore, in the order in which tar extracts them.

    One guard lives over all levels of a chain: what level 0 leaves behind decides what
    level 1 may do. After an error the guard is of no further use.
    """

    ALLOW_DEVICES: ClassVar[bool] = True
    """Whether device nodes pass: a backup of a whole system has some."""

    def __init__(self, target: str | os.PathLike[str]) -> None:
        """Look for symbolic links that are in the target already.

        :param target: the directory that tar extracts into.

        Raises :class:`EngineError` when the target, or a directory in it, is not
        readable.
        """
        self.members = 0
        """Members passed so far, in all archives."""
        self._links = _Links()
        self._archive = 0
        self._first = True
        # Only root can remove a link from a directory that is not writable.
        self._root = os.geteuid() == 0
        # What tar took for directories in the present archive.
        self._dirs: set[bytes] = set()
        self._scan(os.fsencode(target))

    def check(self, chunks: Iterable[Block]) -> Iterator[bytes]:
        """Yield the bytes of one archive as far as they are safe.

        The bytes are the same as those of ``chunks``, in other pieces, and nothing of
        a member is among them before the member is approved; the data of an approved
        member are not held back.

        Raises :class:`UnsafeArchiveError` when a member would reach outside the target
        or is of a kind that the guard does not understand, and :class:`EngineError`
        when the bytes are not a tar archive or end before its end marker.
        """
        self._begin_archive()
        held: list[bytes] = []  # of the unit under way, not yielded yet
        have, need, skip = 0, BLOCK, 0
        offset = 0  # of held in the archive
        ended = False
        for block in chunks:
            chunk = bytes(block)  # names cut out of it have to be hashable
            if ended:
                _check_tail(chunk)
                yield chunk
                continue
            if skip >= len(chunk):
                skip -= len(chunk)
                offset += len(chunk)
                yield chunk
                continue
            if skip:
                yield chunk[:skip]
                chunk = chunk[skip:]
                offset += skip
                skip = 0
            held.append(chunk)
            have += len(chunk)
            if have < need:
                continue
            buffer = held[0] if len(held) == 1 else b''.join(held)
            reader = _Reader(buffer)
            pos, need = 0, BLOCK
            error: EngineError | None = None
            try:
                while pos < len(buffer):
                    unit = reader.unit(pos)
                    if unit.kind:
                        self._admit(unit)
                        pos += unit.length
                        continue
                    _check_tail(buffer[pos:])
                    ended = True
                    pos = len(buffer)
            except _MoreError as more:
                need = more.need
            except _RefusedError as refused:
                error = _unsafe(refused, offset + pos)
            except _BrokenError as broken:
                error = _broken(broken, offset + pos)
            except EngineError as tail:
                error = tail
            skip = max(pos - len(buffer), 0)
            passed = len(buffer) - max(len(buffer) - pos, 0)
            if passed:
                yield buffer if passed == len(buffer) else buffer[:passed]
            if error:
                raise error
            offset += passed
            held = [buffer[passed:]] if passed < len(buffer) else []
            have = len(buffer) - passed
        if not ended:
            where = offset + have
            what = 'in the middle of a member' if have or skip else 'without its end'
            raise EngineError(
                f'The archive stops after {where} bytes, {what}: it is cut off or not '
                'a tar archive. Check the backup in the storage.'
            )

    # The model

    def _scan(self, target: bytes) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        todo: list[list[bytes]] = [[]]
        while todo:
            path = todo.pop()
            full = b'/'.join([target, *path])
            try:
                fd = os.open(full, flags | (os.O_NOFOLLOW if path else 0))
                try:
                    self._scan_directory(fd, path, todo)
                finally:
                    os.close(fd)
            except OSError as error:
                raise EngineError(
                    f'Cannot look for symbolic links in {_text(full)}: '
                    f'{error.strerror}. Restore into an empty directory.'
                ) from error

    def _scan_directory(
        self, fd: int, path: list[bytes], todo: list[list[bytes]]
    ) -> None:
        with os.scandir(fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if entry.is_symlink():
                    self._links.own([*path, name]).link = self._archive
                elif entry.is_dir(follow_symlinks=False):
                    todo.append([*path, name])
        if not self._root:
            status = os.fstat(fd)
            owner = status.st_uid == os.geteuid()
            if not owner or not _writable(status.st_mode):
                self._links.own(path).locked = _ALWAYS

    def _begin_archive(self) -> None:
        self._archive += 1
        self._first = True
        self._dirs.clear()
        self._links.begin_archive()

    def _admit(self, unit: _Unit) -> None:
        """Check a unit against the model and bring the model up to date.

        Raises :class:`_RefusedError`.
        """
        if unit.kind == b'g':
            return
        try:
            if unit.kind == b'V':
                _components(unit.name, 'the volume label')
                return
            self._member(unit)
        except _RefusedError as error:
            error.name = unit.name
            raise
        self._first = False
        self.members += 1

    def _member(self, unit: _Unit) -> None:
        path = self._path(unit.name, 'its name')
        self._mark_directories(path[:-1])
        if unit.kind in {b'5', b'D'}:
            self._directory(unit, path)
            return
        if not path or unit.name.endswith((b'/', b'/.')):
            # Tar would make a directory of it, or replace the target itself.
            raise _RefusedError('it has the name of a directory')
        if b'/'.join(path) in self._dirs:
            # Tar sets mode and owner of a directory at the end of the archive, by
            # name, and would do so through a link that has taken its place.
            raise _RefusedError('it was a directory before in the same archive')
        if unit.kind in {b'3', b'4'} and not self.ALLOW_DEVICES:
            raise _RefusedError('it is a device node')
        if unit.kind == b'1':
            if unit.linkname.endswith((b'/', b'/.')):
                raise _RefusedError('it is a hard link to a directory')
            source = self._path(unit.linkname, 'its link name')
            # Tar may look for the source once more at the end of the archive.
            self._mark_directories(source[:-1])
            node = self._links.find(source)
            if node is not None and node.link != _NOT_A_LINK:
                self._links.own(path).link = self._archive
        elif unit.kind == b'2':
            self._links.own(path).link = self._archive

    def _path(self, name: bytes, what: str) -> list[bytes]:
        """The components of a path that tar reaches without following a link."""
        path = _components(name, what)
        # Here the last component is not the last for the kernel.
        dot = name.rstrip(b'/').endswith(b'/.')
        link = self._links.link_on_the_way([*path, b'.'] if dot else path)
        if link is not None:
            raise _RefusedError(
                f'{what} {_text(name)} goes through the symbolic link {_text(link)}'
            )
        return path

    def _mark_directories(self, path: list[bytes]) -> None:
        while path:
            key = b'/'.join(path)
            if key in self._dirs:
                return
            self._dirs.add(key)
            path = path[:-1]

    def _directory(self, unit: _Unit, path: list[bytes]) -> None:
        node = self._links.find(path)
        if node is not None and node.link != _NOT_A_LINK:
            if node.link == self._archive:
                # Tar makes some links at the end of the archive only, wherever it
                # still sees the inode of the file that kept the place.
                raise _RefusedError('it was a link before in the same archive')
            parent = self._links.find(path[:-1])
            if parent is not None and parent.locked >= self._archive:
                raise _RefusedError(
                    'a symbolic link is in its place that only root could remove'
                )
            self._links.own(path).link = _NOT_A_LINK
        if not self._root:
            if unit.locked:
                self._links.own(path).locked = _ALWAYS
            elif node is not None and node.locked == _ALWAYS:
                # The mode changes at the end of the archive.
                self._links.own(path).locked = self._archive
        self._mark_directories(path)
        if unit.dumpdir is not None:
            self._dumpdir(unit.dumpdir)

    def _dumpdir(self, data: bytes) -> None:
        """Check the list of the files of a directory, and do the renames in it.

        Entries are a letter and a name or path, ended by a NUL; an empty one ends the
        list. Y, N, D: a file in the archive, a file that is not, a directory; tar
        deletes what is not listed or no longer of that kind. X: make a temporary
        directory in this one. R, T: rename the directory R to T, both relative to the
        target, the temporary one if empty.
        """
        entries = data.split(b'\0')
        if len(entries) < 2 or entries[-2:] != [b'', b'']:
            raise _RefusedError('its dumpdir has no end')
        del entries[-2:]
        temporary: _Node | None = None
        source: bytes | None = None
        for entry in entries:
            code, name = entry[:1], entry[1:]
            if (source is not None) != (code == b'T'):
                raise _RefusedError('its dumpdir has an R without a T or a T without R')
            if code in {b'Y', b'N', b'D'}:
                if b'/' in name or name in {b'', b'.', b'..'}:
                    raise _RefusedError(f'its dumpdir lists {_text(name)}')
                continue
            if code not in {b'R', b'T', b'X'}:
                raise _RefusedError(f'its dumpdir has an unknown entry {_text(entry)}')
            if not self._first:
                # Tar writes them there, and they are harmless only before it has
                # noted any paths for the end of the archive.
                raise _RefusedError('it renames, but is not first in the archive')
            if code == b'X':
                self._path(name + b'/.', 'the temporary directory of its dumpdir')
                temporary = temporary or _Node()
            elif code == b'R':
                source = name
            else:
                assert source is not None
                temporary = self._rename(source, name, temporary)
                source = None
        if source is not None:
            raise _RefusedError('its dumpdir has an R without a T')

    def _rename(
        self, source: bytes, target: bytes, temporary: _Node | None
    ) -> _Node | None:
        """Take over a rename. Returns the temporary directory."""
        if (not source or not target) and temporary is None:
            raise _RefusedError('its dumpdir renames an empty name')
        paths: list[list[bytes]] = []
        for name in filter(None, (source, target)):
            path = self._path(name, 'the rename in its dumpdir')
            if not path or name.endswith((b'/', b'/.')):
                raise _RefusedError(f'its dumpdir renames {_text(name)}')
            self._mark_directories(path[:-1])
            paths.append(path)
        moved = self._links.find(paths[0]) if source else temporary
        if moved is None:
            return temporary
        if target:
            self._links.put(paths[-1], moved)
            return temporary
        assert temporary is not None
        return self._links.merge(temporary, moved)


def _writable(mode: int) -> bool:
    """Whether its owner can remove a file from a directory of this mode."""
    return mode & 0o300 == 0o300


def _check_tail(tail: bytes) -> None:
    """Raise :class:`EngineError` unless these bytes are zeros.

    Tar stops at the end marker, other programs do not.
    """
    if tail.count(0) != len(tail):
        raise EngineError(
            'The archive has data after its end marker: it was tampered with, or is '
            'more than one archive. Check the backup in the storage.'
        )


def _unsafe(refused: _RefusedError, offset: int) -> UnsafeArchiveError:
    name = 'a member' if refused.name is None else _text(refused.name)
    return UnsafeArchiveError(
        f'Refused to restore {name}: {refused.why} (at byte {offset} of the archive). '
        'The backup was tampered with, or another program than GNU tar made it; what '
        'is restored so far is incomplete.'
    )


def _broken(broken: _BrokenError, offset: int) -> EngineError:
    return EngineError(
        f'The archive is damaged or not a tar archive: {broken} at byte {offset}. '
        'Check the backup in the storage.'
    )
