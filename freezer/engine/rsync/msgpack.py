"""Reads msgpack from a stream, without keeping it."""

import struct
from collections.abc import Callable, Iterator
from typing import Final

from freezer.exceptions import EngineError

Scalar = bytes | int | float | None

_LONGEST: Final = 64 * 1024
_DEEPEST: Final = 8
# First byte -> format of the number after it: big-endian.
_NUMBERS: Final = {
    0xCA: struct.Struct('>f'),
    0xCB: struct.Struct('>d'),
    0xCC: struct.Struct('>B'),
    0xCD: struct.Struct('>H'),
    0xCE: struct.Struct('>I'),
    0xCF: struct.Struct('>Q'),
    0xD0: struct.Struct('>b'),
    0xD1: struct.Struct('>h'),
    0xD2: struct.Struct('>i'),
    0xD3: struct.Struct('>q'),
}
# First byte -> bytes of the length after it. Texts are read as bytes.
_TEXTS: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_CONSTANTS: Final[dict[int, int | None]] = {0xC0: None, 0xC2: 0, 0xC3: 1}


def is_array(first: int) -> bool:
    """Whether a byte begins an array."""
    return first & 0xF0 == 0x90 or first in (0xDC, 0xDD)


def is_map(first: int) -> bool:
    """Whether a byte begins a map."""
    return first & 0xF0 == 0x80 or first in (0xDE, 0xDF)


class Unpacker:
    """
    :param read: reads that many bytes, and no fewer
    :param damaged: makes an error of a reason
    """

    def __init__(
        self, read: Callable[[int], bytes], damaged: Callable[[str], EngineError]
    ) -> None:
        self._read = read
        self.damaged = damaged

    def array(self) -> int:
        """The beginning of an array; returns how many values follow."""
        return self._length(is_array, 0xDC)

    def items(self) -> Iterator[None]:
        """One for each value of an array. The values are to be read in between."""
        for _ in range(self.array()):
            yield

    def map(self) -> Iterator[bytes]:
        """The keys of a map. Its values are to be read in between."""
        for _ in range(self._length(is_map, 0xDE)):
            key = self.scalar()
            if not isinstance(key, bytes):
                raise self.damaged('a key is no text')
            yield key

    def _length(self, begins: Callable[[int], bool], short: int) -> int:
        first = self._read(1)[0]
        if not begins(first):
            raise self.damaged(f'byte {first:#04x} is not expected')
        if first < short:
            return first & 0x0F
        return int.from_bytes(self._read(2 if first == short else 4))

    def scalar(self) -> Scalar:
        return self._scalar(self._read(1)[0])

    def _scalar(self, first: int) -> Scalar:
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 0x100
        if 0xA0 <= first < 0xC0:
            return self._read(first & 0x1F)
        if first in _NUMBERS:
            form = _NUMBERS[first]
            number: int | float = form.unpack(self._read(form.size))[0]
            return number
        if first in _TEXTS:
            length = int.from_bytes(self._read(_TEXTS[first]))
            if length > _LONGEST:
                raise self.damaged(f'a text has {length} bytes')
            return self._read(length)
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        raise self.damaged(f'byte {first:#04x} is not expected')

    def skip(self, depth: int = 0) -> None:
        """Skip a value of any kind."""
        if depth > _DEEPEST:
            raise self.damaged('its values are nested too deep')
        first = self._read(1)[0]
        count = 0
        if is_array(first) or is_map(first):
            count = first & 0x0F
            if first >= 0xDC:
                count = int.from_bytes(self._read(2 if first in (0xDC, 0xDE) else 4))
            count *= 2 if is_map(first) else 1
        else:
            self._scalar(first)
        for _ in range(count):
            self.skip(depth + 1)

    def text(self) -> bytes:
        value = self.scalar()
        if not isinstance(value, bytes):
            raise self.damaged(f'{value!r} is no text')
        return value

    def number(self) -> int:
        """A number that is not negative."""
        value = self.scalar()
        if not isinstance(value, int) or value < 0:
            raise self.damaged(f'{value!r} is no number')
        return value
