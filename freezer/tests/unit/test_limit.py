"""A stream no faster than it may be."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freezer.stream.limit import limit
from freezer.tests.unit.clock import FakeClock


@given(st.lists(st.binary(max_size=2000)), st.integers(-1, 5000))
def test_the_same_bytes(blocks: list[bytes], rate: int) -> None:
    clock = FakeClock()
    limited = limit(blocks, rate, clock, clock.sleep)
    assert b''.join(limited) == b''.join(blocks)


@given(
    st.lists(st.integers(1, 100_000), min_size=1, max_size=20), st.integers(1, 10**6)
)
def test_never_faster(sizes: list[int], rate: int) -> None:
    clock = FakeClock()
    start = clock.now
    rate = max(rate, sum(sizes) // 1000)
    sent = 0
    for block in limit((bytes(n) for n in sizes), rate, clock, clock.sleep):
        # One step of a tenth of a second is ahead of its time.
        assert sent <= (clock.now - start) * rate + 1
        sent += len(block)
    assert sent == sum(sizes)
    assert clock.now - start == pytest.approx(sent / rate)


def test_a_slow_source_is_not_made_up_for() -> None:
    clock = FakeClock()

    def source() -> Iterator[bytes]:
        yield bytes(100)
        clock.now += 1000
        for _ in range(10):
            yield bytes(100)

    start = clock.now
    list(limit(source(), 100, clock, clock.sleep))
    assert clock.now - start == pytest.approx(1000 + 11)


@pytest.mark.parametrize('rate', [0, -1])
def test_no_limit(rate: int) -> None:
    clock = FakeClock()
    block = bytes(10**6)
    assert list(limit([block], rate, clock, clock.sleep)) == [block]
    assert clock.sleeps == []


def test_a_large_block_flows() -> None:
    """Not one block, then nothing for ten seconds."""
    clock = FakeClock()
    list(limit([bytes(1000)], 100, clock, clock.sleep))
    assert max(clock.sleeps) <= 0.11
