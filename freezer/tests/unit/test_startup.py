"""What makes the start faster."""

import gc

import pytest

from freezer.utils import startup


def test_it_goes_on_afterwards() -> None:
    assert gc.isenabled()
    with startup.no_garbage_collection():
        assert not gc.isenabled()
        with startup.no_garbage_collection():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_goes_on_after_a_failure() -> None:
    with pytest.raises(OSError, match='no'), startup.no_garbage_collection():
        raise OSError('no')
    assert gc.isenabled()


def test_who_does_without_is_left_alone() -> None:
    gc.disable()
    try:
        with startup.no_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
