"""When jobs run."""

import datetime
import itertools
import sys
import zoneinfo
from typing import Any

import pytest

from freezer.exceptions import ConfigError
from freezer.scheduler.documents import schedule
from freezer.scheduler.documents.schedule import Schedule

UTC = datetime.UTC
NOW = datetime.datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
SECOND = datetime.timedelta(seconds=1)
DAY = datetime.timedelta(days=1)


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the time zone; Berlin at first."""

    def set_zone(name: str) -> None:
        monkeypatch.setattr(schedule, 'zone', lambda: zoneinfo.ZoneInfo(name))

    set_zone('Europe/Berlin')
    return set_zone


pytestmark = pytest.mark.usefixtures('zone')


def parse(**given: Any) -> Schedule:
    made, problems = schedule.parse({f'schedule_{key}': given[key] for key in given})
    assert not problems
    assert made is not None
    return made


def times(
    made: Schedule, count: int, moment: datetime.datetime = NOW
) -> list[datetime.datetime]:
    next_run = schedule.next_run(made, made.anchor(moment))
    moments: list[datetime.datetime] = []
    while len(moments) < count and (after := next_run((moments or [moment])[-1])):
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
    first, second, third = times(parse(interval=text), 3)
    assert first == NOW + 2 * SECOND
    assert second - first == third - second == every


def test_start_date() -> None:
    future = parse(interval='1 day', start_date='2026-02-01T00:00:00')
    # Berlin is an hour ahead.
    assert times(future, 1) == [datetime.datetime(2026, 1, 31, 23, tzinfo=UTC)]
    past = parse(interval='1 day', start_date='2025-02-01T00:00:00Z')
    assert times(past, 1) == [NOW + 2 * SECOND]


def test_start_date_alone() -> None:
    later = datetime.datetime(2026, 2, 1, 5, tzinfo=UTC)
    made = parse(start_date='2026-02-01T06:00:00')
    assert times(made, 3) == [later]
    assert str(made) == 'once, at 2026-02-01 06:00:00+01:00'
    # Given an empty interval, as dashboards do.
    assert times(parse(start_date=later.isoformat(), interval=''), 3) == [later]
    # One that is past is a start at once, as for an interval.
    past = parse(start_date='2026-01-01T00:00:00Z')
    assert times(past, 3) == [NOW + 2 * SECOND]
    ended = parse(start_date=later.isoformat(), end_date=later.isoformat())
    assert times(ended, 3) == [later]
    assert times(parse(end_date='2026-01-01T00:00:00Z'), 3) == []


def test_end_date() -> None:
    made = parse(interval='1 day', end_date='2026-02-02T12:00:02Z')
    assert len(times(made, 9)) == 3
    assert times(parse(interval='1 day', end_date='2026-01-01T00:00:00Z'), 9) == []
    hours = parse(hour='*', end_date='2026-01-31T15:30:00+01:00')
    assert len(times(hours, 9)) == 2


def test_dates_and_their_zones() -> None:
    assert times(parse(date='2026-03-01T10:00:00'), 3) == [
        datetime.datetime(2026, 3, 1, 9, tzinfo=UTC)
    ]
    assert times(parse(date='2026-03-01T10:00:00+05:00'), 3) == [
        datetime.datetime(2026, 3, 1, 5, tzinfo=UTC)
    ]
    assert times(parse(date='2026-01-01T10:00:00'), 3) == []


def test_without_times_once_and_soon() -> None:
    assert times(parse(), 3) == [NOW + 2 * SECOND]


def clock(moments: list[datetime.datetime]) -> list[str]:
    return [schedule.format_time(moment)[5:] for moment in moments]


SPRING = datetime.datetime(2026, 3, 28, 12, tzinfo=UTC)
AUTUMN = datetime.datetime(2026, 10, 24, 12, tzinfo=UTC)


def test_given_hour_when_the_clock_changes() -> None:
    nightly = parse(hour='2', minute='30')
    assert clock(times(nightly, 2, SPRING)) == [
        '03-29 03:30:00+02:00',
        '03-30 02:30:00+02:00',
    ]
    # An hour that occurs twice counts once.
    assert clock(times(nightly, 2, AUTUMN)) == [
        '10-25 02:30:00+02:00',
        '10-26 02:30:00+01:00',
    ]
    within = datetime.datetime(2026, 10, 25, 1, 10, tzinfo=UTC)
    assert clock(times(nightly, 1, within)) == ['10-26 02:30:00+01:00']


@pytest.mark.parametrize('moment', [SPRING, AUTUMN])
@pytest.mark.parametrize(
    'given, minutes', [({'minute': '0'}, 60), ({'hour': '*', 'minute': '*/15'}, 15)]
)
def test_any_hour_when_the_clock_changes(
    moment: datetime.datetime, given: dict[str, str], minutes: int
) -> None:
    moments = times(parse(**given), 24 * 60 // minutes, moment)
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
def test_times_increase(zone: Any, name: str, given: dict[str, str]) -> None:
    zone(name)
    for begin in (SPRING, AUTUMN, datetime.datetime(2026, 4, 4, tzinfo=UTC)):
        moments = [begin, *times(parse(**given), 200, begin)]
        assert all(a < b for a, b in itertools.pairwise(moments))


def test_weeks_begin_with_monday() -> None:
    by_name = times(parse(day_of_week='sun', hour=6), 2)
    assert by_name == times(parse(day_of_week=6, hour='6'), 2)
    assert [moment.weekday() for moment in by_name] == [6, 6]
    # Larger units match every value, smaller ones their minimum.
    assert {(moment.minute, moment.second) for moment in by_name} == {(0, 0)}


def test_date_that_never_occurs() -> None:
    assert times(parse(month=2, day=30), 1) == []


def test_date_before_interval_before_cron() -> None:
    made = parse(date='2026-03-01T10:00:00', interval='1 day', hour=1)
    assert made.once is False
    assert len(times(made, 3)) == 1
    assert parse(interval='1 day', hour=1).every == DAY


def test_times_are_formatted_with_their_offset() -> None:
    assert schedule.format_time(NOW) == '2026-01-31 13:00:00+01:00'
    assert str(parse(date=NOW.isoformat())) == 'once, at 2026-01-31 13:00:00+01:00'


def test_apscheduler_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'apscheduler.triggers.cron', None)
    with pytest.raises(ConfigError, match=r"pip install 'freezer\[scheduler\]'"):
        schedule.parse({'schedule_hour': 1})
