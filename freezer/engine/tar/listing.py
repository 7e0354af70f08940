"""Lists a chain by reading its archives."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from freezer.engine.engine import LevelArchive
from freezer.engine.index.record import Row
from freezer.engine.tar.describe import describe
from freezer.engine.tar.headers import HEADERS, RefusedError, components
from freezer.engine.tar.members import Members
from freezer.engine.tar.patterns import Patterns
from freezer.engine.tar.state import State
from freezer.engine.tar.units import Unit


def entries(levels: Iterable[LevelArchive], patterns: Patterns) -> Iterator[Row]:
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


def _find(unit: Unit, head: bytes, level: int, state: State) -> Row | None:
    found = None if unit.kind in HEADERS else state.admit(unit)
    if found is None or not found.chosen or not found.path:
        return None
    member = describe(unit, head, 0)._replace(path=b'/'.join(found.path))
    if unit.kind == b'1':
        linked = state.target_of(unit.linkname)
        target = b'/'.join(linked or components(unit.linkname, 'its link name'))
        member = member._replace(target=target)
    return member.row(level)
