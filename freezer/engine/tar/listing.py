"""Lists a chain by reading its archives."""

from __future__ import annotations

import contextlib
import decimal
import sys
from collections.abc import Iterable, Iterator
from typing import Final

from freezer.engine.engine import Entry, LevelArchive
from freezer.engine.tar.headers import (
    HEADERS,
    RefusedError,
    components,
    read_number,
    shown,
)
from freezer.engine.tar.members import Members, records_of
from freezer.engine.tar.patterns import Patterns
from freezer.engine.tar.state import State
from freezer.engine.tar.units import Unit

_KINDS: Final = {
    b'1': 'link',
    b'2': 'symlink',
    b'3': 'character',
    b'4': 'block',
    b'5': 'directory',
    b'D': 'directory',
    b'6': 'fifo',
}


def entries(levels: Iterable[LevelArchive], patterns: Patterns) -> Iterator[Entry]:
    """See :meth:`freezer.engine.engine.FileEngine.entries`."""
    state = State(patterns)
    for level in levels:
        state.begin_archive()
        with contextlib.closing(level.data()) as blocks:
            members = Members(blocks)
            for unit in members:
                try:
                    entry = _find(unit, members.head, level.level, state)
                except RefusedError as refused:
                    raise members.refused(refused, unit) from refused
                if entry is not None:
                    yield entry
        if not state.wanted:
            break
    state.finish()


def _find(unit: Unit, head: bytes, level: int, state: State) -> Entry | None:
    found = None if unit.kind in HEADERS else state.admit(unit)
    if found is None or not found.chosen or not found.path:
        return None
    target: bytes | None = None
    if unit.kind == b'1':
        linked = state.target_of(unit.linkname)
        target = b'/'.join(linked or components(unit.linkname, 'its link name'))
    elif unit.kind == b'2':
        target = unit.linkname
    return _entry(unit, head, b'/'.join(found.path), target, level)


def _entry(
    unit: Unit, head: bytes, path: bytes, target: bytes | None, level: int
) -> Entry:
    """A member with its attributes. Raises :class:`RefusedError` if a number is
    malformed."""
    header = head[unit.header :]
    pax = dict(records_of(unit, head))
    kind = _KINDS.get(unit.kind, 'file')

    def number(keyword: bytes, start: int, end: int) -> int:
        if keyword in pax:
            return int(_decimal(pax[keyword], keyword))
        return _signed(header[start:end])

    def name(keyword: bytes, start: int) -> str:
        value = pax.get(keyword, header[start : start + 32].partition(b'\0')[0])
        # There are few different names: keep each once.
        return sys.intern(value.decode(errors='surrogateescape'))

    size = _signed(header[483:495]) if unit.kind == b'S' else number(b'size', 124, 136)
    for keyword in (b'GNU.sparse.realsize', b'GNU.sparse.size'):
        if keyword in pax:
            size = int(_decimal(pax[keyword], keyword))
    mtime_ns = _signed(header[136:148]) * 10**9
    if b'mtime' in pax:
        mtime_ns = int(_decimal(pax[b'mtime'], b'mtime') * 10**9)
    return Entry(
        path,
        kind,
        _signed(header[100:108]) & 0o7777,
        number(b'uid', 108, 116),
        number(b'gid', 116, 124),
        name(b'uname', 265),
        name(b'gname', 297),
        size if kind == 'file' else 0,
        mtime_ns,
        target,
        level,
    )


def _signed(field: bytes) -> int:
    """An octal or base-256 number of a header, which may be negative."""
    if field[:1] == b'\xff':
        return int.from_bytes(field, 'big', signed=True)
    return read_number(field) or 0


def _decimal(value: bytes, keyword: bytes) -> decimal.Decimal:
    try:
        return decimal.Decimal(value.decode('ascii'))
    except (UnicodeDecodeError, decimal.InvalidOperation) as error:
        raise RefusedError(f'its {shown(keyword)} is not a number') from error
