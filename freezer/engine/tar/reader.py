"""Reads the archives of a chain as a restore does, and extracts nothing."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from freezer.engine.engine import ArchiveReader
from freezer.engine.index.file import Part
from freezer.engine.index.record import CHOSEN, REBUILT, Record
from freezer.engine.tar import snapshot
from freezer.engine.tar.describe import describe
from freezer.engine.tar.guard import TargetGuard
from freezer.engine.tar.headers import HEADERS, RefusedError
from freezer.engine.tar.indexer import Indexer
from freezer.engine.tar.members import Members
from freezer.engine.tar.units import Unit
from freezer.exceptions import EngineError
from freezer.utils.blocks import Block

_RENAMES: Final = (b'R', b'T')


class TarReader(ArchiveReader):
    """Asks the guard that a restore into an empty directory has.

    :param guard: which has checked the archives below
    """

    def __init__(self, guard: TargetGuard | None = None) -> None:
        # A restore makes the directories writable before each archive.
        self._guard = guard or TargetGuard(None, made_writable=lambda: True)

    def fork(self) -> TarReader:
        return TarReader(self._guard.fork())

    def read(
        self,
        blocks: Iterable[Block],
        temporary: Path,
        padded: Container[bytes] = (),
    ) -> _Contents:
        contents = _Contents(temporary, padded)
        members = Members(blocks)
        for unit in self._guard.approved(members):
            if unit.kind not in HEADERS:
                try:
                    contents.add(unit, members)
                except RefusedError as refused:
                    raise members.refused(refused, unit) from refused
        return contents

    def properties(self, state: bytes | None) -> Mapping[str, Any]:
        """Without the snapshot file, no increment can build on the level."""
        subject, time = None, 0
        chosen: Sequence[bytes] = ()
        if state is not None:
            try:
                known = snapshot.load(state)
            except EngineError:
                pass
            else:
                subject, time = known.subject, known.seconds
                chosen = known.chosen
        found = {CHOSEN: [os.fsdecode(path) for path in chosen]} if chosen else {}
        return {
            **found,
            'subject': None if subject is None else os.fsdecode(subject),
            'time_ns': time * 10**9,
            REBUILT: True,
        }


class _Contents:
    def __init__(self, temporary: Path, padded: Container[bytes]) -> None:
        self._indexer = Indexer(temporary)
        self._padded = padded
        self.no_index: str | None = None

    def add(self, unit: Unit, members: Members) -> None:
        """Raises :class:`RefusedError` if a name or a number is malformed."""
        record = describe(unit, members.head, members.start)
        # Only the first member may have renames.
        if self._indexer.is_empty and unit.dumpdir is not None:
            renames = (e for e in unit.dumpdir.entries() if e[:1] in _RENAMES)
            if next(renames, None) is not None:
                self.no_index = 'its archive renames directories'
        self._indexer.note(record, unit.dumpdir)

    def records(
        self, base: Iterable[tuple[int, Part]], seen: Iterable[Record]
    ) -> Iterator[Record]:
        return self._indexer.records(base, seen, (), self._padded)
