"""Reads an archive while tar writes it."""

from __future__ import annotations

from collections.abc import Callable

from freezer.engine.index.record import Record
from freezer.engine.tar.describe import describe, plain_member
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
from freezer.engine.tar.units import read_unit
from freezer.exceptions import EngineError
from freezer.utils.blocks import Block


class Scanner:
    """Reads the members of an archive, which it gets block by block.

    :param note: called with the record of each member; of a directory also with the
        list of its names, if the archive has it
    """

    def __init__(self, note: Callable[[Record, Dumpdir | None], None]) -> None:
        self._note = note
        self._parts: list[Block] = []
        self._have = 0  # bytes in the parts
        self._need = BLOCK  # bytes without which nothing more can be read
        self._offset = 0  # of the parts in the archive
        self._skip = 0  # bytes of the current unit that are still to come
        self._ended = False

    def feed(self, block: Block) -> None:
        """:raises EngineError: a restore would refuse it"""
        if self._skip >= len(block):
            self._skip -= len(block)
            self._offset += len(block)
            return
        if self._skip:
            block = block[self._skip :]
            self._offset += self._skip
            self._skip = 0
        if self._ended:
            check_zeros(block)
            return
        self._parts.append(block)
        self._have += len(block)
        if self._have >= self._need:
            self._read()

    def _read(self) -> None:
        buffer = bytes(
            self._parts[0] if len(self._parts) == 1 else b''.join(self._parts)
        )
        position = 0
        self._need = BLOCK
        while len(buffer) - position >= self._need:
            offset = self._offset + position
            if (record := plain_member(buffer, position, offset)) is not None:
                self._note(record, None)
                position += record.length
                continue
            try:
                unit = read_unit(buffer, position)
                if unit.kind not in HEADERS:
                    head = buffer[position : position + unit.header + BLOCK]
                    self._note(describe(unit, head, offset), unit.dumpdir)
            except MoreError as more:
                self._need = more.need
                continue
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
            position += unit.length
            self._need = BLOCK
            if not unit.kind:
                self._ended = True
                check_zeros(buffer[position:])
                position = max(position, len(buffer))
                break
        self._skip = max(position - len(buffer), 0)
        rest = buffer[position:]
        self._offset += len(buffer) - len(rest)
        self._parts = [rest] if rest else []
        self._have = len(rest)

    def finish(self) -> None:
        """:raises EngineError: the archive has no end marker"""
        if not self._ended:
            raise EngineError(
                f'tar wrote an archive without an end, of {self._offset + self._have} '
                f'bytes'
            )
