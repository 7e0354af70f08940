"""The one loop that tries again."""

import contextlib
import threading
from collections.abc import Callable

import pytest

from freezer.storage import exceptions as e
from freezer.storage.retry import FIRST_ANSWER_SECONDS, NOTICE_SECONDS, Retry
from freezer.tests.unit.clock import FakeClock, FakeEvent
from freezer.utils.text import NOTICES

FINAL = (
    e.NotFound,
    e.AccessDenied,
    e.BadCredentials,
    e.Conflict,
    e.CertificateError,
    e.Rejected,
    e.MalformedAnswer,
    e.ClockSkew,
    e.IntegrityError,
    e.PartialDelete,
    e.StorageConfigError,
    e.Cancelled,
)
TEMPORARY = (e.Unreachable, e.Throttled, e.ServerError, e.IncompleteAnswer)


class Script:
    """A call that fails as it is told, each time for some seconds, then succeeds."""

    def __init__(self, clock: FakeClock, *errors: Exception, takes: float = 0) -> None:
        self.clock = clock
        self.errors = list(errors)
        self.takes = takes
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        self.clock.now += self.takes
        if self.errors:
            raise self.errors.pop(0)
        return 'done'


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def run(retry: Retry, call: Callable[[], str], clock: FakeClock) -> str:
    return retry.run(call, FakeEvent(clock))


def answered(clock: FakeClock, budget: float = 900.0, jitter: float = 1.0) -> Retry:
    """One that knows that the store is there."""
    retry = Retry(budget, clock, lambda: jitter)
    run(retry, Script(clock), clock)
    return retry


@pytest.mark.parametrize('kind', TEMPORARY)
def test_temporary_errors_are_tried_again(
    clock: FakeClock, kind: type[e.StorageException]
) -> None:
    call = Script(clock, kind('a'), kind('b'), kind('c'))
    assert run(answered(clock), call, clock) == 'done'
    assert call.calls == 4


@pytest.mark.parametrize('kind', FINAL)
def test_final_errors_are_not(clock: FakeClock, kind: type[e.StorageException]) -> None:
    error = kind('no')
    call = Script(clock, error)
    with pytest.raises(kind) as caught:
        run(answered(clock), call, clock)
    assert caught.value is error
    assert call.calls == 1
    assert clock.sleeps == []


def test_other_errors_pass(clock: FakeClock) -> None:
    call = Script(clock, KeyError('a defect'))
    with pytest.raises(KeyError):
        run(answered(clock), call, clock)
    assert call.calls == 1


def test_the_budget_ends_it(clock: FakeClock) -> None:
    call = Script(clock, *(e.ServerError(f'error {n}') for n in range(10000)))
    start = clock.now
    with pytest.raises(e.ServerError, match=r'error \d+; gave up after \d+ attempts'):
        run(answered(clock, 900), call, clock)
    assert 900 - 30 <= clock.now - start <= 900
    # Full waits of 30 s: not hundreds of attempts.
    assert 30 <= call.calls <= 45


def test_the_error_that_ends_it_tells_how_often_it_was_tried(clock: FakeClock) -> None:
    call = Script(clock, e.ServerError('down'), takes=7)
    with pytest.raises(e.ServerError, match='down; gave up after 1 attempt in 7 s'):
        run(answered(clock, 5), call, clock)


def test_a_budget_of_zero_is_one_attempt(clock: FakeClock) -> None:
    call = Script(clock, e.ServerError('down'))
    with pytest.raises(e.ServerError):
        run(answered(clock, 0), call, clock)
    assert call.calls == 1


def test_cleaning_up_has_less_time(clock: FakeClock) -> None:
    call = Script(clock, *(e.ServerError('x') for _ in range(999)))
    retry = answered(clock, 900)
    start = clock.now
    with pytest.raises(e.ServerError):
        run(retry.within(20), call, clock)
    assert clock.now - start <= 20
    start = clock.now
    with pytest.raises(e.ServerError):
        run(retry, call, clock)
    assert clock.now - start > 20


def test_a_store_that_never_answered_is_given_up_soon(clock: FakeClock) -> None:
    call = Script(clock, *(e.Unreachable('x') for _ in range(9999)))
    start = clock.now
    with pytest.raises(e.Unreachable):
        run(Retry(900, clock, lambda: 1.0), call, clock)
    assert clock.now - start <= FIRST_ANSWER_SECONDS == 20


@pytest.mark.parametrize('first', [e.ServerError('x'), e.NotFound('x'), None], ids=str)
def test_one_that_has_answered_has_the_whole_budget(
    clock: FakeClock, first: e.StorageException | None
) -> None:
    """An error is an answer too, if the store gave it."""
    retry = Retry(900, clock, lambda: 1.0)
    with contextlib.suppress(e.NotFound):
        run(retry, Script(clock, *([first] if first else [])), clock)
    call = Script(clock, *(e.Unreachable('x') for _ in range(9999)))
    start = clock.now
    with pytest.raises(e.Unreachable):
        run(retry, call, clock)
    assert clock.now - start > 800


def test_waits_grow_to_a_limit_and_are_random(clock: FakeClock) -> None:
    call = Script(clock, *(e.Throttled('x') for _ in range(12)))
    run(answered(clock), call, clock)
    assert clock.sleeps == sorted(clock.sleeps)
    assert clock.sleeps[0] < 1
    assert clock.sleeps[-1] == 30
    clock.sleeps.clear()
    call = Script(clock, *(e.Throttled('x') for _ in range(12)))
    run(answered(clock, jitter=0.0), call, clock)
    assert set(clock.sleeps) == {0.0}


def told_to_wait(seconds: float) -> e.StorageException:
    error = e.Throttled('not now')
    error.retry_after = seconds
    return error


def test_the_store_says_when(clock: FakeClock) -> None:
    call = Script(clock, told_to_wait(40), told_to_wait(0), told_to_wait(0))
    assert run(answered(clock), call, clock) == 'done'
    # Never sooner than it says; later, where we are more patient than it is.
    assert clock.sleeps[0] == 40
    assert 0 < clock.sleeps[1] < clock.sleeps[2] < 30


def test_a_store_that_says_never_gets_what_there_is(clock: FakeClock) -> None:
    """One more attempt, when the time is up."""
    call = Script(clock, told_to_wait(10**6), told_to_wait(10**6), takes=1)
    start = clock.now
    with pytest.raises(e.Throttled, match='gave up after 2 attempts'):
        run(answered(clock, 900), call, clock)
    assert call.calls == 2
    assert clock.now - start == 901


def test_a_store_that_never_said_anything_else(clock: FakeClock) -> None:
    """It has answered: it is there."""
    call = Script(clock, told_to_wait(300))
    assert run(Retry(900, clock, lambda: 1.0), call, clock) == 'done'
    assert clock.sleeps == [300]


def test_cleaning_up_does_not_wait_as_long_as_the_store_says(clock: FakeClock) -> None:
    retry = answered(clock)
    start = clock.now
    with pytest.raises(e.Throttled):
        run(retry.within(20), Script(clock, *[told_to_wait(300)] * 9), clock)
    assert clock.now - start <= 20.5


def test_cancelled_means_no_more_attempts(clock: FakeClock) -> None:
    cancelled = threading.Event()
    cancelled.set()
    call = Script(clock, e.ServerError('the first'), e.ServerError('the second'))
    with pytest.raises(e.ServerError, match='the first'):
        answered(clock).run(call, cancelled)
    assert call.calls == 1


def test_cancelled_while_it_waits() -> None:
    """A real event: who waits is woken."""
    cancelled = threading.Event()
    called = threading.Event()
    ended = []

    def call() -> None:
        called.set()
        raise e.ServerError('down')

    def attempt() -> None:
        try:
            Retry(900, jitter=lambda: 1000.0, clock=lambda: 0.0).run(call, cancelled)
        except e.ServerError as error:
            ended.append(error.message)

    retry = threading.Thread(target=attempt, daemon=True)
    retry.start()
    assert called.wait(10)
    cancelled.set()
    retry.join(10)
    assert not retry.is_alive()
    assert len(ended) == 1
    assert ended[0].startswith('down')


def test_a_person_is_told_now_and_then(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    call = Script(clock, *[e.ServerError('the store is ill')] * 100)
    with contextlib.suppress(e.ServerError):
        run(answered(clock, budget=200), call, clock)
    told = [r.getMessage() for r in caplog.records if r.name == NOTICES.name]
    assert 2 <= len(told) <= 200 / NOTICE_SECONDS
    assert all('the store is ill' in text for text in told)


TIMEOUT = 60.0


def attempts(clock: FakeClock, retry: Retry, takes: float) -> int:
    call = Script(clock, *(e.Unreachable('x') for _ in range(999)), takes=takes)
    with pytest.raises(e.Unreachable):
        run(retry, call, clock)
    return call.calls


@pytest.mark.parametrize('takes', [TIMEOUT, 5 * TIMEOUT])
def test_a_limit_leaves_two_repetitions(clock: FakeClock, takes: float) -> None:
    """One attempt may take longer than all of them."""
    assert attempts(clock, answered(clock).limited(60, lambda: True), takes) == 3


def test_a_limit_for_as_long_as_others_wait(clock: FakeClock) -> None:
    waiting = True
    retry = answered(clock).limited(60, lambda: waiting)
    start = clock.now
    attempts(clock, retry, 1)
    assert clock.now - start <= 61
    waiting = False
    assert attempts(clock, retry, TIMEOUT) > 10


def test_a_limit_does_not_raise_the_budget(clock: FakeClock) -> None:
    assert attempts(clock, answered(clock, 0).limited(60, lambda: True), TIMEOUT) == 1
    limited = answered(clock).limited(60, lambda: True)
    assert attempts(clock, limited.within(30), TIMEOUT) == 1


def test_a_store_that_asks_for_more_time_than_the_others_wait(clock: FakeClock) -> None:
    retry = answered(clock).limited(60, lambda: True)
    start = clock.now
    with pytest.raises(e.Throttled):
        run(retry, Script(clock, *[told_to_wait(300)] * 99), clock)
    assert clock.now - start < 90
