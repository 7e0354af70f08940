"""Lists a chain by reading its archives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from freezer.engine.engine import Entry, Lister
from freezer.engine.tar.headers import RefusedError, components
from freezer.engine.tar.members import Members, attributes
from freezer.engine.tar.patterns import Patterns
from freezer.engine.tar.state import State
from freezer.engine.tar.units import Unit
from freezer.utils.blocks import Block

_KINDS: Final = {
    b'1': 'link',
    b'2': 'symlink',
    b'3': 'character',
    b'4': 'block',
    b'5': 'directory',
    b'D': 'directory',
    b'6': 'fifo',
}


class TarLister(Lister):
    """Lists archives of GNU tar."""

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns
        self._state = State(patterns)

    def entries(self, blocks: Iterator[Block], level: int) -> Iterator[Entry]:
        self._state.begin_archive()
        members = Members(blocks)
        while (unit := members.next()) is not None:
            if unit.kind in {b'g', b'V'}:
                continue
            try:
                entry = self._entry(unit, members.head, level)
            except RefusedError as refused:
                raise members.refused(refused, unit.name) from refused
            if entry is not None:
                yield entry

    def _entry(self, unit: Unit, head: bytes, level: int) -> Entry | None:
        found = self._state.admit(unit)
        if found is None or not found.chosen or not found.path:
            return None
        target: bytes | None = None
        if unit.kind == b'1':
            linked = self._state.target_of(unit.linkname)
            target = b'/'.join(linked or components(unit.linkname, 'its link name'))
        elif unit.kind == b'2':
            target = unit.linkname
        header = attributes(unit, head)
        kind = _KINDS.get(unit.kind, 'file')
        size = header.size if kind == 'file' else 0
        path = b'/'.join(found.path)
        owner = (header.mode, header.uid, header.gid, header.user, header.group)
        return Entry(path, kind, *owner, size, header.mtime_ns, target, level)

    @property
    def wanted(self) -> bool:
        return self._state.wanted

    @property
    def unmatched(self) -> list[str]:
        return [self._patterns.texts[n] for n in sorted(self._state.unmatched)]
