"""Ranges of a stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freezer.tests import ranged
from freezer.tests.archives import cut
from freezer.utils.ranges import Portions, Range, Selection, aligned, select

SIZE = 1000
CONTENT = bytes(number * 7 % 251 for number in range(SIZE))


@given(ranged.ranges_of(SIZE), st.integers(1, 400))
def test_aligned_ranges_are_whole_units(wanted: list[Range], unit: int) -> None:
    found = aligned(wanted, unit, SIZE)
    ranged.check(found, SIZE)
    places = {place for start, end in found for place in range(start, end)}
    needed = {place // unit for start, end in wanted for place in range(start, end)}
    assert places == {place for place in range(SIZE) if place // unit in needed}
    # Neighbours are one range.
    ends = {end for _start, end in found}
    assert not ends.intersection(start for start, _end in found)


@given(
    ranged.ranges_of(SIZE), st.integers(1, 400), st.integers(1, 50), st.integers(1, 50)
)
def test_what_was_wanted_is_selected(
    wanted: list[Range], unit: int, block: int, step: int
) -> None:
    covered = aligned(wanted, unit, SIZE)
    blocks = cut(ranged.joined(CONTENT, covered), block)
    found = b''.join(select(blocks, covered, wanted))
    assert found == ranged.joined(CONTENT, wanted)
    selection = Selection(wanted)
    steps = [
        part
        for start in range(0, SIZE, step)
        for part in selection.within(start, min(start + step, SIZE))
    ]
    assert ranged.joined(CONTENT, steps) == found


def test_selecting_stops_after_the_last() -> None:
    blocks = cut(CONTENT, 10)
    assert b''.join(select(blocks, [(0, SIZE)], [(3, 5), (25, 40)])) == (
        CONTENT[3:5] + CONTENT[25:40]
    )
    assert b''.join(blocks) == CONTENT[40:]


def test_a_stream_that_is_too_short() -> None:
    parts = select([CONTENT[:20]], [(0, SIZE)], [(3, 5), (15, 21)])
    assert next(parts) == CONTENT[3:5]
    assert next(parts) == CONTENT[15:20]
    with pytest.raises(EOFError):
        next(parts)


def test_touches() -> None:
    selection = Selection([(10, 20), (30, 31)])
    found = [selection.touches(start, start + 5) for start in range(0, 40, 5)]
    assert found == [False, False, True, True, False, False, True, False]
    assert selection.done()


def test_portions() -> None:
    portions = Portions(cut(CONTENT, 10))
    assert b''.join(portions.take(25)) == CONTENT[:25]
    assert b''.join(portions.take(0)) == b''
    assert b''.join(portions.take(5)) == CONTENT[25:30]
    assert b''.join(portions.take(SIZE)) == CONTENT[30:]
