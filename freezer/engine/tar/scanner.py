"""Reads an archive while tar writes it, and leaves out what would not restore.

It asks the guard that restores have. What the guard refuses is left out: a file that
was exchanged for another kind of file while tar read the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from freezer.engine.index.record import Record
from freezer.engine.tar.describe import describe, plain_member
from freezer.engine.tar.guard import TargetGuard
from freezer.engine.tar.headers import (
    BLOCK,
    HEADERS,
    BrokenError,
    Dumpdir,
    MoreError,
    RefusedError,
    shown,
)
from freezer.engine.tar.members import check_zeros
from freezer.engine.tar.units import Unit, read_unit
from freezer.exceptions import EngineError
from freezer.utils.blocks import Block


class Scanner:
    """Reads the members of an archive, which it gets block by block.

    :param note: called with the record of each member; of a directory also with the
        list of its names, if the archive has it
    :param leave_out: called with the path and the reason, for each member that is not
        stored
    :param chosen: directories that no list has
    """

    def __init__(
        self,
        note: Callable[[Record, Dumpdir | None], None],
        leave_out: Callable[[bytes, str], None],
        chosen: Iterable[bytes] = (),
    ) -> None:
        self._note = note
        self._leave_out = leave_out
        # What older levels left behind does not matter: in a strict check, the archive
        # itself has each directory in which it has files.
        self._guard = TargetGuard(None, made_writable=lambda: True, strict=True)
        self._guard.begin_archive(chosen)
        self._offset = 0  # of the next block in the archive
        self._left_out = 0  # bytes so far that are not stored
        self._is_left_out = False  # the current unit
        self._skip = 0  # bytes of the current unit that are still to come
        # The beginning of a unit that goes on in the next block, and the bytes without
        # which it cannot be read.
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0
        self._ended = False

    def feed(self, block: Block) -> Sequence[Block]:
        """Read on; returns the blocks to store.

        :raises EngineError: a restore would refuse the archive
        """
        buffer = bytes(block)
        kept: list[Block] = []
        # From begin to position is to be stored.
        begin, position = 0, self._skip
        if self._parts:
            begin, position = self._complete(buffer, kept)
        if self._is_left_out:
            begin = position
        while position < len(buffer) and not self._ended:
            try:
                length = self._read(buffer, position, self._offset + position)
            except MoreError as more:
                self._parts = [buffer[position:]]
                self._have = len(buffer) - position
                self._need = more.need
                break
            if self._is_left_out:
                kept.append(buffer[begin:position])
                begin = position + length
            position += length
        if self._ended:
            check_zeros(buffer[position:])
            kept.append(buffer[begin:])
        else:
            kept.append(buffer[begin:position])
        self._skip = max(position - len(buffer), 0)
        self._offset += len(buffer)
        return [each for each in kept if each]

    def _complete(self, buffer: bytes, kept: list[Block]) -> tuple[int, int]:
        """Read the unit whose beginning is held back, with no more of the next block
        than it needs: blocks are large, and are not copied.

        :param kept: gets what was held back, if it is to be stored
        :returns: where the rest of the unit begins in the block, and the next unit
        """
        used = 0
        while True:
            part = buffer[used : used + self._need - self._have]
            self._parts.append(part)
            self._have += len(part)
            used += len(part)
            if self._have < self._need:
                return used, used
            self._parts = [b''.join(self._parts)]
            before = self._have - used
            try:
                length = self._read(self._parts[0], 0, self._offset - before)
            except MoreError as more:
                self._need = more.need
                continue
            if not self._is_left_out:
                kept.append(self._parts[0])
            self._parts = []
            return used, length - before

    def _read(self, buffer: bytes, position: int, offset: int) -> int:
        """Note the unit at a position; returns its length.

        Raises :class:`MoreError`.

        :param offset: of the unit in the archive, as tar writes it
        """
        self._is_left_out = False
        offset -= self._left_out
        if (member := plain_member(buffer, position, offset)) is not None:
            record, dumpdir = member
            self._take(record, dumpdir, None)
            return record.length
        try:
            unit = read_unit(buffer, position)
            if unit.kind not in HEADERS:
                head = buffer[position : position + unit.header + BLOCK]
                record = describe(unit, head, offset)
                self._take(record, unit.dumpdir, unit)
        except RefusedError as refused:
            name = shown(refused.name or b'')
            raise EngineError(
                f'{name} cannot be backed up, because no restore would accept it: '
                f'{refused.why}; --exclude it'
            ) from refused
        except BrokenError as broken:
            raise EngineError(
                f'tar wrote a damaged archive: {broken} at byte {offset}'
            ) from broken
        self._ended = not unit.kind
        return unit.length

    def _take(self, record: Record, dumpdir: Dumpdir | None, unit: Unit | None) -> None:
        """Note a member, or leave it out if the guard refuses it.

        :param unit: None of a plain member
        """
        try:
            if unit is None:
                self._guard.admit_plain(record.path, dumpdir)
            else:
                self._guard.admit(unit)
        except RefusedError as refused:
            self._guard.refuse(record.path)
            self._is_left_out = True
            self._left_out += record.length
            self._leave_out(record.path, refused.why)
        else:
            self._note(record, dumpdir)

    def finish(self) -> None:
        """:raises EngineError: the archive has no end marker"""
        if not self._ended:
            raise EngineError(
                f'tar wrote an archive without an end, of {self._offset} bytes'
            )
