"""The collection of garbage, suspended."""

import gc

import pytest

from freezer.utils import collection


def test_it_goes_on_afterwards() -> None:
    assert gc.isenabled()
    with collection.suspended():
        assert not gc.isenabled()
        with collection.suspended():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_goes_on_after_a_failure() -> None:
    with pytest.raises(OSError, match='no'), collection.suspended():
        raise OSError('no')
    assert gc.isenabled()


def test_who_does_without_is_left_alone() -> None:
    gc.disable()
    try:
        with collection.suspended():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
