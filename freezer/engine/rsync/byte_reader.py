"""Reads a stream of blocks by numbers of bytes, and keeps lists of numbers on disk."""

import tempfile
from array import array
from collections.abc import Iterable, Iterator
from typing import Final, Self

from freezer.exceptions import EngineError
from freezer.utils.blocks import Block

_KEPT: Final = 1 << 20
_AT_ONCE: Final = 8192


class ByteReader:
    """Reads a stream from its start to its end.

    :param what: the name of the stream, for errors
    """

    def __init__(self, blocks: Iterable[Block], what: str) -> None:
        self._blocks = iter(blocks)
        self._what = what
        self._block: Block = b''
        self._at = 0

    def _fill(self) -> bool:
        """Whether there is another byte."""
        while self._at == len(self._block):
            block = next(self._blocks, None)
            if block is None:
                return False
            self._block, self._at = block, 0
        return True

    def first(self) -> int | None:
        """The next byte, which is not taken; None at the end."""
        return self._block[self._at] if self._fill() else None

    def read(self, size: int) -> bytes:
        """The next bytes.

        :param size: small: they are kept in memory
        :raises EngineError: the stream ends before
        """
        start, end = self._at, self._at + size
        if end <= len(self._block):
            self._at = end
            return bytes(self._block[start:end])
        found = b''.join(self.take(size))
        if len(found) < size:
            raise self.cut_off()
        return found

    def take(self, size: int) -> Iterator[Block]:
        """The next bytes, in blocks; fewer at the end of the stream."""
        while size and self._fill():
            part = self._block[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            yield part

    def until_nul(self, most: int) -> bytes:
        """The bytes up to a NUL, which is taken as well.

        :raises EngineError: there is none among the next ``most`` bytes
        """
        found = bytearray()
        while len(found) <= most:
            if not self._fill():
                raise self.cut_off()
            end = self._block.find(b'\0', self._at, self._at + most + 1 - len(found))
            stop = end if end >= 0 else min(self._at + most + 1, len(self._block))
            found += self._block[self._at : stop]
            self._at = stop + (end >= 0)
            if end >= 0:
                return bytes(found)
        raise self.damaged('a field is too long')

    def cut_off(self) -> EngineError:
        return EngineError(f'{self._what} is cut off: the backup is damaged')

    def damaged(self, why: str) -> EngineError:
        return EngineError(f'engine rsync: {self._what} is damaged: {why}')


class Numbers:
    """A list of numbers, in a temporary file if it is long. A context manager."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_KEPT)  # noqa: SIM115
        self._some = array('Q')
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, number: int) -> None:
        self._some.append(number)
        self.count += 1
        if len(self._some) == _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        self._file.write(self._some.tobytes())
        self._some = array('Q')

    def __iter__(self) -> Iterator[int]:
        """All of them; nothing may be added afterwards."""
        self._flush()
        self._file.seek(0)
        while data := self._file.read(_AT_ONCE * 8):
            yield from array('Q', data)
