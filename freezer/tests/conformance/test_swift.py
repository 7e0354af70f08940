"""Storage swift: large objects, and the limits of Swift."""

from collections.abc import Iterator

import pytest

from freezer.storage.repository import Repository
from freezer.storage.swift import requests
from freezer.tests.conformance.backups import NOISE, Store, backup, flip, folder
from freezer.tests.conformance.places import PART, SwiftPlace, new_swift_place
from freezer.tests.conformance.test_verify import assert_whole, every, the_problem
from freezer.tests.servers.swift import SwiftS3

CONTENT = NOISE[: 2 * PART + 1000]
SECOND = f'{folder(backup())}/segments/00000001'


@pytest.fixture
def place(swift: SwiftS3) -> Iterator[SwiftPlace]:
    place = new_swift_place(swift)
    yield place
    place.remove()


def test_verify_looks_for_each_segment(
    place: SwiftPlace, repository: Repository, store: Store
) -> None:
    """Also without reading the data."""
    store(backup(), CONTENT)
    assert_whole(repository, False)
    assert_whole(repository, True)
    flip(place, SECOND, 5)
    (problem,) = the_problem(repository, True, '/data')
    assert (problem.part, problem.start, problem.end) == (2, PART, 2 * PART - 1)
    place.write(SECOND, b'short')
    the_problem(repository, False, '/data: has', 'were written')
    place.write(SECOND, bytes(PART))
    (found,) = every(repository)
    assert '/data: its ETag is' in found.warnings[0]
    place.delete(SECOND)
    (problem,) = the_problem(repository, False, 'segments/00000001', 'is missing')
    assert problem.volume == 'data'


def test_small_objects_may_be_larger_than_other_answers(
    place: SwiftPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of an engine grows with the number of files."""
    monkeypatch.setattr(requests, 'MAX_ANSWER', 1000)
    storage = place.storage()
    storage.prepare()
    path = f'{storage.storage_path}/large'
    storage.write_file(path, bytes(5000))
    assert storage.read_file(path) == bytes(5000)
    storage.close()
