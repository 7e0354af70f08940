"""Which runs of other schedulers count as runs of a job."""

import dataclasses
import datetime
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from freezer.scheduler import private
from freezer.scheduler.config import Coordination
from freezer.scheduler.coordination import claims
from freezer.scheduler.coordination.backend import Backend
from freezer.scheduler.coordination.claims import Answer, Claims
from freezer.scheduler.coordination.runs import (
    DONE,
    OPEN,
    RUNNING,
    SharedRun,
    Wanted,
    unpack,
)
from freezer.scheduler.runs.watchdog import Watchdog, now
from freezer.tests.scheduler import until

NOW = datetime.datetime(2026, 1, 31, 12, 0, 0, tzinfo=datetime.UTC)
SECOND = datetime.timedelta(seconds=1)
RUN = SharedRun('a', 'x', NOW, NOW, NOW + 9 * SECOND, DONE)
WANTED = Wanted('job', 'x', NOW, NOW, once=False, every=False, tolerance=10 * SECOND)


def test_unpack_skips_what_is_malformed() -> None:
    document = {'a': RUN.packed(), 'b': RUN.packed()[:3], 'c': None, 'd': ['x'] * 6}
    assert unpack(document) == {'a': RUN}


@pytest.mark.parametrize(
    'state, handled', [(DONE, True), (OPEN, False), (RUNNING, False)]
)
def test_only_a_run_that_has_ended_counts(state: str, handled: bool) -> None:
    assert WANTED.is_handled_by(dataclasses.replace(RUN, state=state)) is handled


def test_times() -> None:
    assert not dataclasses.replace(WANTED, due=NOW + SECOND).is_handled_by(RUN)
    assert not dataclasses.replace(WANTED, timing='y').is_handled_by(RUN)


def test_an_interval_counted_from_another_time_is_looked_at_again() -> None:
    later = dataclasses.replace(WANTED, due=NOW + SECOND, every=True)
    assert not later.is_handled_by(RUN)
    assert dataclasses.replace(later, anchor=NOW + SECOND).is_handled_by(RUN)


def test_a_job_that_runs_once() -> None:
    once = dataclasses.replace(WANTED, once=True)
    # Found while the other one ran it, and started again later.
    for seconds, handled in ((0, True), (19, True), (20, False)):
        moment = NOW + seconds * SECOND
        wanted = dataclasses.replace(once, anchor=moment, due=moment)
        assert wanted.is_handled_by(RUN) is handled


# -- Claims, by a real directory ------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path) -> Coordination:
    url = f'file://{private.directory(tmp_path / "locks")}?timeout=5'
    return Coordination(backend_url=url, prefix='p', client_id='c')


@pytest.fixture
def made(shared: Coordination, tmp_path: Path) -> Iterator[Claims]:
    """Not started: the test calls what its thread would call."""
    made = Claims(shared, tmp_path, lambda: None)
    made._backend = Backend(shared.backend_url, made.member, made.group)
    made._renew(made._backend)
    yield made
    made.watchdog.close()


@pytest.fixture
def other(shared: Coordination) -> Backend:
    return Backend(shared.backend_url, 'other', shared.name())


def handled(job_id: str, **values: Any) -> dict[str, Any]:
    """What another scheduler publishes."""
    run = dataclasses.replace(RUN, member='other', **values)
    return {job_id: run.packed()}


def test_a_clock_that_is_far_ahead_stops_no_job(
    made: Claims, other: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    assert made._backend is not None
    today = datetime.datetime.now(datetime.UTC)
    ahead = today + datetime.timedelta(days=365)
    other.publish(handled('job', at=ahead, ended=ahead))
    made._claim(made._backend, dataclasses.replace(WANTED, anchor=today, due=today))
    (answer,) = made.answers()
    assert answer.claim is not None
    assert 'the clock of scheduler other is more than an hour ahead' in caplog.text


def test_many_runs_are_learned_once(
    made: Claims, other: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made._backend is not None
    monkeypatch.setattr(claims, '_MOST_RUNS', 2)
    other.publish(handled('a') | handled('b') | handled('c'))
    made._read(made._backend)
    assert len(list(made.answers())) == 3
    made._read(made._backend)
    assert list(made.answers()) == []
    made._publish(made._backend)
    assert set(other.members()[made.member]) == {'b', 'c'}


def test_a_run_that_was_given_up_leaves_the_one_before(made: Claims) -> None:
    backend = made._backend
    assert backend is not None
    made._store('job', RUN)
    later = dataclasses.replace(WANTED, due=NOW + 60 * SECOND)
    made._claim(backend, later)
    (answer,) = made.answers()
    assert answer.claim is not None
    made._finish(backend, answer.claim, OPEN)
    assert backend.members()[made.member] == {'job': RUN.packed()}


def test_locks_are_kept_until_the_agents_have_been_killed(
    made: Claims, other: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = made._renewed
    for part, left in ((0.7, True), (0.95, True), (1.0, False)):
        monkeypatch.setattr(claims, 'now', lambda part=part: began + part * 5)
        made._on_failure('away', [])
        assert (made.member in other.members()) is left


def test_nothing_is_claimed_at_once_after_an_outage(
    shared: Coordination, tmp_path: Path
) -> None:
    """Another scheduler may have run the job meanwhile, and has to publish that."""
    made = Claims(shared, tmp_path, lambda: None)
    (tmp_path / 'locks').rename(tmp_path / 'hidden')
    made.start()
    try:
        made.ask(WANTED)
        until(lambda: made._error)
        (tmp_path / 'hidden').rename(tmp_path / 'locks')
        answers: list[Answer] = []

        def collect() -> list[Answer]:
            answers.extend(made.answers())
            return answers

        until(collect)
        assert answers[0].claim is None
    finally:
        made.stop()


def test_the_last_run_of_one_that_leaves_is_known(
    shared: Coordination, tmp_path: Path
) -> None:
    leaving, staying = (Claims(shared, tmp_path, lambda: None) for _ in range(2))

    def answer(member: Claims) -> Answer:
        member.ask(WANTED)
        found: list[Answer] = []

        def asked() -> bool:
            found.extend(each for each in member.answers() if each.asked)
            return bool(found)

        until(asked)
        return found[0]

    staying.start()
    try:
        until(lambda: staying._members)
        leaving.start()
        claim = answer(leaving).claim
        assert claim is not None
        until(lambda: len(leaving._members) == 2)
        leaving.finish(claim, DONE)
        leaving.stop()
        found = answer(staying)
        assert found.claim is None
        assert found.run is not None
    finally:
        staying.stop()


# -- The watchdog ----------------------------------------------------------------------


def test_a_watchdog_that_reads_nothing_is_replaced() -> None:
    watchdog = Watchdog()
    agent = subprocess.Popen(['sleep', '60'], start_new_session=True)
    try:
        first = watchdog._process
        os.kill(first.pid, signal.SIGSTOP)
        watchdog.add(agent.pid)
        for _ in range(5000):
            watchdog.valid_until(now() + 60, now() + 70)
        assert first.returncode is not None
        watchdog.valid_until(now(), now() + 70)
        assert agent.wait(30) == -signal.SIGTERM
        watchdog.remove(agent.pid)
    finally:
        first.kill()
        agent.kill()
        agent.wait()
        watchdog.close()
