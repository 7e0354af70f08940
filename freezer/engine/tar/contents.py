"""The contents of one file, from archives."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, Final

from freezer.engine.engine import LevelArchive, MemberMap, require_one_file
from freezer.engine.tar.describe import KINDS, file_size
from freezer.engine.tar.headers import (
    BLOCK,
    HEADERS,
    MoreError,
    RefusedError,
    block_count,
    components,
    read_length,
    read_number,
    split,
)
from freezer.engine.tar.members import Members
from freezer.engine.tar.patterns import Patterns
from freezer.engine.tar.state import State
from freezer.engine.tar.units import Unit, gnu_map, map_in_data
from freezer.exceptions import EngineError
from freezer.utils.blocks import Block
from freezer.utils.ranges import Portions

_SPOOLED: Final = 8 << 20
_COPY_BLOCK: Final = 1 << 20
_HOLE: Final = bytes(1 << 20)


def of_member(archive: Iterable[Block], path: bytes) -> Iterator[Block]:
    """See :meth:`freezer.engine.engine.FileEngine.contents`."""
    members = Members(archive)
    is_found = False
    for unit in members:
        if not unit.kind:
            continue
        with _refusals(members, unit):
            named = b'/'.join(components(unit.name, 'its name'))
        if is_found or named != path or KINDS.get(unit.kind, 'file') != 'file':
            raise _other_member(named, path)
        is_found = True
        yield from _contents(members, unit)
    if not is_found:
        raise EngineError(f'the archive does not have {os.fsdecode(path)!r}')


def of_chosen(levels: Iterable[LevelArchive], patterns: Patterns) -> Iterator[Block]:
    """See :meth:`freezer.engine.engine.FileEngine.contents_of_chosen`.

    Only the end of the search shows that nothing else is chosen, so the contents are
    kept in a temporary file until then.
    """
    state = State(patterns)
    found: list[tuple[bytes, str]] = []
    with tempfile.SpooledTemporaryFile(_SPOOLED) as kept:
        for level in levels:
            state.begin_archive()
            linked: bytes | None = None
            with contextlib.closing(level.data()) as blocks:
                members = Members(blocks)
                for unit in members:
                    with _refusals(members, unit):
                        seen = None if unit.kind in HEADERS else state.admit(unit)
                    if seen is None or not seen.chosen or not seen.path:
                        continue
                    kind = KINDS.get(unit.kind, 'file')
                    found.append((b'/'.join(seen.path), kind))
                    if len(found) == 1 and kind == 'file':
                        _keep(kept, _contents(members, unit))
                    elif len(found) == 1 and kind == 'link':
                        linked = unit.linkname
            if linked is not None and len(found) == 1:
                # They came before the link.
                _keep(kept, _of_first_name(level, found[0][0], linked))
            if not state.wanted:
                break
        state.finish()
        require_one_file(found)
        kept.seek(0)
        while block := kept.read(_COPY_BLOCK):
            yield block


def _keep(kept: IO[bytes], blocks: Iterable[Block]) -> None:
    # Not writelines: that goes to the disk only at its end.
    for block in blocks:
        kept.write(block)


def _of_first_name(
    level: LevelArchive, link: bytes, linkname: bytes
) -> Iterator[Block]:
    """The contents of the file that has this name in an archive.

    :param link: final path of another name of it
    :raises RestoreError: it is a symbolic link or the like
    """
    path = components(linkname, 'its link name')
    with contextlib.closing(level.data()) as blocks:
        members = Members(blocks)
        for unit in members:
            if unit.kind in HEADERS:
                continue
            with _refusals(members, unit):
                named = components(unit.name, 'its name')
            if named == path:
                require_one_file([(link, KINDS.get(unit.kind, 'file'))])
                yield from _contents(members, unit)
                return
    raise EngineError(
        f'the archive has a hard link to {os.fsdecode(linkname)!r}, but not that file: '
        f'it was not made by GNU tar'
    )


def _other_member(named: bytes, path: bytes) -> EngineError:
    return EngineError(
        f'the archive has {os.fsdecode(named)!r} where the index has '
        f'{os.fsdecode(path)!r}: the index is not of this archive'
    )


@contextlib.contextmanager
def _refusals(members: Members, unit: Unit) -> Iterator[None]:
    """:raises UnsafeArchiveError: in place of RefusedError"""
    try:
        yield
    except RefusedError as refused:
        raise members.refused(refused, unit) from refused


def member_map(archive: Iterable[Block], path: bytes) -> MemberMap:
    """See :meth:`freezer.engine.engine.FileEngine.member_map`."""
    members = Members(archive)
    unit = next(iter(members))
    named = b''
    if unit.kind:
        with _refusals(members, unit):
            named = b'/'.join(components(unit.name, 'its name'))
    if named != path:
        raise _other_member(named, path)
    header = members.head[unit.header :]
    if unit.kind in (b'3', b'4'):
        numbers = [read_number(header[at : at + 8]) or 0 for at in (329, 337)]
        return MemberMap(device=os.makedev(*numbers))
    size = file_size(unit, header)
    extents, skipped, _data = _sparse_map(members, unit)
    found = MemberMap()
    position = len(members.head) + skipped
    pairs = iter((0, size) if extents is None else extents)
    for start, length in zip(pairs, pairs, strict=True):
        if length:
            found.starts.append(start)
            found.lengths.append(length)
            found.places.append(position)
        position += block_count(length) * BLOCK
    return found


def _contents(members: Members, unit: Unit) -> Iterator[Block]:
    """The contents of the current member, a file."""
    size = file_size(unit, members.head[unit.header :])
    extents, _skipped, data = _sparse_map(members, unit)
    if extents is None:
        yield from data.take(size)
    else:
        yield from _expanded(extents, data, size)


def _sparse_map(
    members: Members, unit: Unit
) -> tuple[Iterable[int] | None, int, Portions]:
    """Where the current member, a file, has data: offset, length, offset, length ...;
    None if it has no holes. Then the bytes of the map before the data, and the data."""
    header = members.head[unit.header :]
    data = Portions(members.data())
    if unit.kind == b'S':
        return _after_gnu_map(header, data)
    if unit.pax is None or not unit.pax.sparse:
        return None, 0, data
    if b'major' in unit.pax.sparse:
        stored = unit.pax.size
        if stored is None:
            stored = read_number(header[124:136]) or 0
        return _after_map_in_data(data, stored)
    if b'map' in unit.pax.sparse:
        texts = split(unit.pax.sparse[b'map'], b',')
        return (read_length(text, 'sparse map') for text in texts), 0, data
    return unit.pax.sparse_map, 0, data


def _after_gnu_map(
    header: bytes, data: Portions
) -> tuple[Iterable[int], int, Portions]:
    """The map of an old GNU member, its bytes, and the data after it."""
    blocks = b''
    while True:
        try:
            return *gnu_map(blocks, 0, 0, header), data
        except MoreError as more:
            blocks += b''.join(data.take(more.need - len(blocks)))


def _after_map_in_data(
    data: Portions, stored: int
) -> tuple[Iterable[int], int, Portions]:
    """The map of sparse format 1.0, its bytes, and the data after it.

    :param stored: bytes of the map and the data
    """
    head = b''
    while True:
        try:
            numbers, length = map_in_data(head, 0, 0, stored)
        except MoreError as more:
            head += b''.join(data.take(more.need - len(head)))
        else:
            rest = data.take(stored - len(head))
            return numbers, length, Portions(itertools.chain([head[length:]], rest))


def _expanded(numbers: Iterable[int], data: Portions, size: int) -> Iterator[Block]:
    """A sparse file with its holes. The map has been checked.

    :param numbers: offset, length, offset, length ...
    """
    position = 0
    pairs = iter(numbers)
    for start, length in zip(pairs, pairs, strict=True):
        yield from _hole(start - position)
        yield from data.take(length)
        for _padding in data.take(block_count(length) * BLOCK - length):
            pass
        position = start + length
    yield from _hole(size - position)


def _hole(size: int) -> Iterator[Block]:
    for start in range(0, size, len(_HOLE)):
        yield _HOLE[: size - start]
