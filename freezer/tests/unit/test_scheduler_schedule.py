"""When jobs run."""

import datetime
import itertools
from typing import Any

import pytest

from freezer.exceptions import ConfigError
from freezer.scheduler import schedule
from freezer.scheduler.schedule import Schedule

UTC = datetime.UTC
NOW = datetime.datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
SECOND = datetime.timedelta(seconds=1)
DAY = datetime.timedelta(days=1)


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Be in a time zone."""
    import zoneinfo

    def set_zone(name: str) -> None:
        monkeypatch.setattr(schedule, 'zone', lambda: zoneinfo.ZoneInfo(name))

    set_zone('Europe/Berlin')
    return set_zone


pytestmark = pytest.mark.usefixtures('zone')


def read(**given: Any) -> Schedule:
    made, wrong = schedule.read({f'schedule_{key}': given[key] for key in given})
    assert not wrong
    assert made is not None
    return made


def times(
    made: Schedule, count: int, moment: datetime.datetime = NOW
) -> list[datetime.datetime]:
    found = schedule.times(made, made.anchor(moment))
    after: datetime.datetime | None = moment
    moments: list[datetime.datetime] = []
    while after is not None and len(moments) < count:
        after = found.after(after)
        if after is not None:
            moments.append(after)
    return moments


@pytest.mark.parametrize(
    'text, every',
    [
        ('continuous', SECOND),
        ('5 seconds', 5 * SECOND),
        ('1 day', DAY),
        ('1 days', DAY),
        ('2 weeks', 14 * DAY),
        ('3 Hours', DAY / 8),
        ('1 minute', 60 * SECOND),
        (' 10  minutes ', 600 * SECOND),
    ],
)
def test_intervals(text: str, every: datetime.timedelta) -> None:
    first, second, third = times(read(interval=text), 3)
    assert first == NOW + 2 * SECOND
    assert second - first == third - second == every


def test_a_start_that_is_to_come_and_one_that_is_past() -> None:
    to_come = read(interval='1 day', start_date='2026-02-01T00:00:00')
    # Berlin is an hour ahead.
    assert times(to_come, 1) == [datetime.datetime(2026, 1, 31, 23, tzinfo=UTC)]
    past = read(interval='1 day', start_date='2025-02-01T00:00:00Z')
    assert times(past, 1) == [NOW + 2 * SECOND]


def test_an_end() -> None:
    made = read(interval='1 day', end_date='2026-02-02T12:00:02Z')
    assert len(times(made, 9)) == 3
    assert times(read(interval='1 day', end_date='2026-01-01T00:00:00Z'), 9) == []
    hours = read(hour='*', end_date='2026-01-31T15:30:00+01:00')
    assert len(times(hours, 9)) == 2


def test_dates_and_their_zones() -> None:
    assert times(read(date='2026-03-01T10:00:00'), 3) == [
        datetime.datetime(2026, 3, 1, 9, tzinfo=UTC)
    ]
    assert times(read(date='2026-03-01T10:00:00+05:00'), 3) == [
        datetime.datetime(2026, 3, 1, 5, tzinfo=UTC)
    ]
    assert times(read(date='2026-01-01T10:00:00'), 3) == []


def test_without_a_time_once_and_soon() -> None:
    assert times(read(), 3) == [NOW + 2 * SECOND]


def clock(moments: list[datetime.datetime]) -> list[str]:
    return [schedule.shown(moment)[5:] for moment in moments]


SPRING = datetime.datetime(2026, 3, 28, 12, tzinfo=UTC)
AUTUMN = datetime.datetime(2026, 10, 24, 12, tzinfo=UTC)


def test_a_given_hour_when_clocks_are_set() -> None:
    nightly = read(hour='2', minute='30')
    assert clock(times(nightly, 2, SPRING)) == [
        '03-29 03:30:00+02:00',
        '03-30 02:30:00+02:00',
    ]
    # An hour that comes twice is one hour.
    assert clock(times(nightly, 2, AUTUMN)) == [
        '10-25 02:30:00+02:00',
        '10-26 02:30:00+01:00',
    ]
    within = datetime.datetime(2026, 10, 25, 1, 10, tzinfo=UTC)
    assert clock(times(nightly, 1, within)) == ['10-26 02:30:00+01:00']


@pytest.mark.parametrize('moment', [SPRING, AUTUMN])
@pytest.mark.parametrize(
    'given, minutes',
    [({'minute': '0'}, 60), ({'hour': '*', 'minute': '*/15'}, 15)],
)
def test_any_hour_when_clocks_are_set(
    moment: datetime.datetime, given: dict[str, str], minutes: int
) -> None:
    moments = times(read(**given), 24 * 60 // minutes, moment)
    steps = {b - a for a, b in itertools.pairwise(moments)}
    assert steps == {datetime.timedelta(minutes=minutes)}


@pytest.mark.parametrize('name', ['Europe/Berlin', 'Australia/Lord_Howe', 'UTC'])
@pytest.mark.parametrize(
    'given',
    [
        {'hour': '2'},
        {'hour': '1-3', 'minute': '*/20'},
        {'minute': '10'},
        {'second': '*/7'},
        {'day': 'last'},
        {'interval': '45 minutes'},
    ],
)
def test_every_time_is_after_the_one_before(
    zone: Any, name: str, given: dict[str, str]
) -> None:
    zone(name)
    for begin in (SPRING, AUTUMN, datetime.datetime(2026, 4, 4, tzinfo=UTC)):
        moments = [begin, *times(read(**given), 200, begin)]
        assert all(a < b for a, b in itertools.pairwise(moments))


def test_days_of_the_week_begin_with_monday() -> None:
    by_name = times(read(day_of_week='sun', hour=6), 2)
    assert by_name == times(read(day_of_week=6, hour='6'), 2)
    assert [moment.weekday() for moment in by_name] == [6, 6]
    # Fields above the given ones are any, and those below the least.
    assert {(moment.minute, moment.second) for moment in by_name} == {(0, 0)}


def test_a_day_that_never_comes() -> None:
    assert times(read(month=2, day=30), 1) == []


def test_the_first_kind_counts() -> None:
    made = read(date='2026-03-01T10:00:00', interval='1 day', hour=1)
    assert made.once is False
    assert len(times(made, 3)) == 1
    assert read(interval='1 day', hour=1).every == DAY


def test_times_are_shown_with_their_offset() -> None:
    assert schedule.shown(NOW) == '2026-01-31 13:00:00+01:00'
    assert str(read(date=NOW.isoformat())) == 'once, at 2026-01-31 13:00:00+01:00'


def test_without_apscheduler_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, 'apscheduler.triggers.cron', None)
    with pytest.raises(ConfigError, match=r"pip install 'freezer\[scheduler\]'"):
        schedule.read({'schedule_hour': 1})
