"""Where the decompression of a stream can begin."""

import bisect
import itertools
from array import array
from typing import Any, NamedTuple, Self

from freezer.exceptions import EngineError

# Bytes: entering at a point decompresses no more than this in vain, 0.02 s of gzip. An
# archive of 1 TiB has 262144 points, 4 MiB in memory.
_SPACING = 4 * 1024 * 1024
_LARGEST = 2**63


class Point(NamedTuple):
    """The same place in the plain and in the compressed stream: bytes before it."""

    plain: int
    compressed: int


class Points:
    """The points of one stream, in order. The start of the stream is always one.

    :param spacing: plain bytes between two points, at least; 4 MiB unless given
    """

    def __init__(self, spacing: int | None = None) -> None:
        self._spacing = _SPACING if spacing is None else spacing
        self._plain = array('Q', [0])
        self._compressed = array('Q', [0])

    def __len__(self) -> int:
        return len(self._plain)

    def add(self, plain: int, compressed: int) -> None:
        """Record a point, unless too few plain bytes are between it and the last.

        :param plain: not less than in the call before
        """
        if plain - self._plain[-1] >= self._spacing:
            self._plain.append(plain)
            self._compressed.append(compressed)

    def before(self, plain: int) -> Point:
        """The last point at or before a place in the plain stream."""
        number = bisect.bisect_right(self._plain, plain) - 1
        return Point(self._plain[number], self._compressed[number])

    def after(self, plain: int) -> Point | None:
        """The first point at or after a place; None if there is none."""
        number = bisect.bisect_left(self._plain, plain)
        if number == len(self._plain):
            return None
        return Point(self._plain[number], self._compressed[number])

    def among(self, others: 'Points') -> bool:
        """Whether others have all of these points, too."""
        rest = zip(others._plain, others._compressed, strict=True)
        # Each search continues where the one before has ended.
        return all(
            point in rest for point in zip(self._plain, self._compressed, strict=True)
        )

    def dump(self) -> dict[str, list[int]]:
        """For JSON: the distances between the points in both streams."""
        return {
            'plain': _distances(self._plain),
            'compressed': _distances(self._compressed),
        }

    @classmethod
    def load(cls, document: Any, where: str) -> Self:
        """Reverse :meth:`dump`.

        :param where: name of the document in errors
        :raises EngineError: it is malformed
        """
        points = cls()
        try:
            _add_up(points._plain, document['plain'])
            _add_up(points._compressed, document['compressed'])
            if len(points._plain) != len(points._compressed):
                raise ValueError
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(
                f'{where}: its table of the places where decompression can begin is '
                f'malformed'
            ) from error
        return points


def _distances(offsets: 'array[int]') -> list[int]:
    return [later - earlier for earlier, later in itertools.pairwise(offsets)]


def _add_up(offsets: 'array[int]', distances: Any) -> None:
    """:raises ValueError, TypeError: these are no distances"""
    if not isinstance(distances, list):
        raise TypeError
    last = 0
    for distance in distances:
        # True is an int as well.
        if type(distance) is not int or distance < 1:
            raise ValueError
        last += distance
        if last >= _LARGEST:
            raise ValueError
        offsets.append(last)
