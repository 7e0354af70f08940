"""A budget of bytes per second."""

import heapq
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freezer.tests.unit.clock import FakeClock
from freezer.utils.rate import Rate


class Waiting:
    """Waits on a fake clock.

    :param late: seconds by which each wait takes longer than it should
    """

    def __init__(self, late: float = 0.0) -> None:
        self.clock = FakeClock()
        self.late = late

    def rate(self, per_second: int) -> Rate:
        return Rate(per_second, self.clock, self._wait)

    def _wait(self, _event: threading.Event, seconds: float) -> None:
        self.clock.sleep(seconds + self.late)


RATES = st.integers(1000, 10**9)


@given(RATES, st.floats(0, 0.01))
def test_a_minute_has_what_it_may(per_second: int, late: float) -> None:
    """Also where the system wakes who sleeps a little late."""
    waiting = Waiting(late)
    rate = waiting.rate(per_second)
    size = max(rate.step, per_second // 50)
    start = waiting.clock.now
    sent = 0
    while waiting.clock.now < start + 60:
        rate.take(size)
        sent += size
    assert sent == pytest.approx(per_second * (waiting.clock.now - start), rel=0.01)


@given(RATES, st.lists(st.tuples(st.floats(0, 10), st.integers(1, 10**6)), min_size=1))
def test_never_ahead_and_no_bursts(
    per_second: int, takes: list[tuple[float, int]]
) -> None:
    """Whoever takes, however much and after whatever pauses."""
    waiting = Waiting()
    rate = waiting.rate(per_second)
    sent: list[tuple[float, int]] = []
    for pause, size in takes:
        waiting.clock.now += pause
        rate.take(size)
        sent.append((waiting.clock.now, size))
    for first, (begun, own) in enumerate(sent):
        total = 0
        for moment, size in sent[first:]:
            total += size
            # A tenth of a second may be caught up with, and no more.
            assert total - own <= per_second * (moment - begun + 0.1) + 1


def test_all_get_the_same() -> None:
    """Simulated: eight of different greed, who come back as soon as they are served."""
    waiting = Waiting()
    rate = waiting.rate(10**6)
    start = waiting.clock.now
    got = [0] * 8
    longest = 0.0
    queue = [(start, number) for number in range(8)]
    while queue[0][0] < start + 60:
        now, number = heapq.heappop(queue)
        size = rate.step // (1 + number % 2)
        waiting.clock.now = now
        rate.take(size)
        longest = max(longest, waiting.clock.now - now)
        got[number] += size
        heapq.heappush(queue, (waiting.clock.now, number))
    assert sum(got) == pytest.approx(60 * 10**6, rel=0.01)
    # Each as often as the others, and none waits for more than all the others.
    assert max(got[::2]) - min(got[::2]) <= rate.step
    assert max(got[1::2]) - min(got[1::2]) <= rate.step
    assert longest <= 8 * rate.step / 10**6 + 0.001


def test_no_take_is_lost_between_threads() -> None:
    clock = FakeClock()
    waits: list[float] = []
    rate = Rate(1000, clock, lambda _event, seconds: waits.append(seconds))
    threads = [
        threading.Thread(target=lambda: [rate.take(1) for _ in range(2000)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Nobody's clock went on, so each was told another moment.
    assert len(waits) == 16000
    assert sorted(waits) == pytest.approx([n / 1000 for n in range(1, 16001)])


def test_what_it_took_is_told() -> None:
    waiting = Waiting()
    rate = waiting.rate(100)
    assert rate.take(250) == pytest.approx(2.5)
    waiting.clock.now += 100
    assert rate.take(10) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize('per_second', [0, -1])
def test_no_limit(per_second: int) -> None:
    waiting = Waiting()
    rate = waiting.rate(per_second)
    assert rate.take(10**12) == 0
    assert waiting.clock.sleeps == []
    assert rate.step == 64 * 1024


@given(st.integers(1, 10**12))
def test_steps_are_small(per_second: int) -> None:
    step = Waiting().rate(per_second).step
    assert 1 <= step <= 64 * 1024
    assert step == 1 or step / per_second <= 0.1


def test_who_waits_is_woken() -> None:
    """A real clock: this would take an hour."""
    rate = Rate(1)
    cancelled = threading.Event()
    thread = threading.Thread(target=rate.take, args=(3600, cancelled), daemon=True)
    thread.start()
    cancelled.set()
    thread.join(10)
    assert not thread.is_alive()
