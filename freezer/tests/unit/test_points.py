"""Where decompression can begin."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freezer.exceptions import EngineError
from freezer.stream.points import Point, Points

MIB = 2**20
START = Point(0, 0)


def made(*places: tuple[int, int]) -> Points:
    points = Points()
    for plain, compressed in places:
        points.add(plain, compressed)
    return points


def test_before_and_after() -> None:
    points = made((0, 0), (5 * MIB, 100), (10 * MIB, 200))
    assert len(points) == 3
    five, ten = Point(5 * MIB, 100), Point(10 * MIB, 200)
    assert [points.before(place) for place in (0, 1, 5 * MIB - 1)] == [START] * 3
    assert points.before(5 * MIB) == points.before(10 * MIB - 1) == five
    assert points.before(10 * MIB) == points.before(10**15) == ten
    assert points.after(0) == START
    assert points.after(1) == points.after(5 * MIB) == five
    assert points.after(5 * MIB + 1) == points.after(10 * MIB) == ten
    assert points.after(10 * MIB + 1) is None


def test_without_points() -> None:
    assert Points().before(10**15) == START
    assert Points().after(1) is None
    assert Points.load(Points().dump(), 'x').before(7) == START


def test_points_that_are_close_are_left_out() -> None:
    points = made(*((number * MIB, number * 10) for number in range(100)))
    assert len(points) == 25
    assert points.before(7 * MIB) == (4 * MIB, 40)


@given(st.lists(st.tuples(st.integers(4 * MIB, 2**40), st.integers(1, 2**40))))
def test_dumped_and_loaded(distances: list[tuple[int, int]]) -> None:
    points, plain, compressed = Points(), 0, 0
    for one, other in distances:
        plain, compressed = plain + one, compressed + other
        points.add(plain, compressed)
    loaded = Points.load(json.loads(json.dumps(points.dump())), 'x')
    assert loaded.dump() == points.dump()
    assert len(loaded) == len(distances) + 1
    assert loaded.before(2**62) == (plain, compressed)


@pytest.mark.parametrize(
    'document',
    [
        None,
        [],
        'points',
        {},
        {'plain': []},
        {'compressed': []},
        {'plain': [1], 'compressed': []},
        {'plain': [1], 'compressed': [1, 1]},
        {'plain': '1', 'compressed': '1'},
        {'plain': {'0': 1}, 'compressed': [1]},
        {'plain': ['1'], 'compressed': [1]},
        {'plain': [1.0], 'compressed': [1]},
        {'plain': [True], 'compressed': [1]},
        {'plain': [None], 'compressed': [1]},
        {'plain': [0], 'compressed': [1]},
        {'plain': [5, -1], 'compressed': [1, 1]},
        {'plain': [2**63], 'compressed': [1]},
        {'plain': [1, 1], 'compressed': [2**62, 2**62]},
        {'plain': [10**400], 'compressed': [1]},
    ],
)
def test_malformed(document: Any) -> None:
    with pytest.raises(EngineError, match='the index: its table of the places'):
        Points.load(document, 'the index')
