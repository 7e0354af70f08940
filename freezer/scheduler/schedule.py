"""When a job runs: from what its document says to the moments. Pure.

Dates without an offset, and the fields of cron, are of the machine's time zone. The
fields of cron are APScheduler's: its day_of_week begins with Monday, 0 or ``mon``.
"""

import dataclasses
import datetime
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from freezer.exceptions import ConfigError

#: how late a run at a given time may begin
GRACE = datetime.timedelta(hours=1)
#: a job without a time, or one whose beginning is past, begins after so long
SOON = datetime.timedelta(seconds=2)
CRON = ('year', 'month', 'day', 'week', 'day_of_week', 'hour', 'minute', 'second')
#: the keys of job_schedule that this reads
KEYS = (
    *('schedule_date', 'schedule_interval', 'schedule_start_date', 'schedule_end_date'),
    *(f'schedule_{field}' for field in CRON),
)

_INTERVAL = re.compile(r'([0-9]+)\s*(week|day|hour|minute|second)s?\Z', re.IGNORECASE)
_TICK = datetime.timedelta(microseconds=1)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """One of: a date, an interval, fields of cron, or nothing: once, soon."""

    date: datetime.datetime | None = None
    every: datetime.timedelta | None = None
    cron: tuple[tuple[str, str], ...] = ()
    start: datetime.datetime | None = None
    end: datetime.datetime | None = None

    @property
    def once(self) -> bool:
        """Whether it has no time of its own."""
        return not (self.date or self.every or self.cron)

    @property
    def punctual(self) -> bool:
        """Whether a run that is late is pointless; an interval has just passed."""
        return bool(self.date or self.cron)

    def __str__(self) -> str:
        if self.date:
            return f'once, at {shown(self.date)}'
        if self.once:
            return 'once, at once'
        if self.every:
            said = f'every {self.every.total_seconds():g} s'
        else:
            said = 'cron ' + ' '.join(f'{field}={text}' for field, text in self.cron)
        if self.start:
            said += f', from {shown(self.start)}'
        return said + (f', until {shown(self.end)}' if self.end else '')

    def anchor(self, now: datetime.datetime) -> datetime.datetime:
        """What intervals are counted from, for a job that is new at this moment."""
        if self.start and self.start > now:
            return self.start
        return now + SOON


class Times(Protocol):
    def after(self, moment: datetime.datetime) -> datetime.datetime | None:
        """The first time after the moment; None if there is none any more."""


def shown(moment: datetime.datetime) -> str:
    """With its offset, of the machine's zone."""
    return moment.astimezone(zone()).isoformat(' ', 'seconds')


def zone() -> datetime.tzinfo:
    """The machine's, or that of TZ.

    :raises ConfigError: there is none of that name, or APScheduler is not installed
    """
    tzlocal = _needed('tzlocal')
    try:
        found: datetime.tzinfo = tzlocal.get_localzone()
    except (OSError, ValueError, LookupError) as error:
        raise ConfigError(
            f'the time zone of this machine: {error}; set TZ, or /etc/localtime'
        ) from error
    return found


def zone_name() -> str:
    return str(zone())


def read(
    given: Mapping[str, Any],
) -> tuple[Schedule | None, list[tuple[str, str]]]:
    """The timing of a ``job_schedule``.

    :returns: (key, what is wrong) of each problem; no schedule where there is one
    """
    wrong: list[tuple[str, str]] = []

    def value_of(key: str, reader: Callable[[Any], Any]) -> Any:
        value = given.get(key)
        if value is None or value == '':
            return None
        try:
            return reader(value)
        except (ValueError, OverflowError) as error:
            wrong.append((key, str(error)))
            return None

    date = value_of('schedule_date', _date)
    every = value_of('schedule_interval', _interval)
    cron = [(field, value_of(f'schedule_{field}', _field(field))) for field in CRON]
    start = value_of('schedule_start_date', _date)
    end = value_of('schedule_end_date', _date)
    if wrong:
        return None, wrong
    # The first that is given counts, as in Freezer 19.
    if date:
        return Schedule(date=date), []
    if every:
        return Schedule(every=every, start=start, end=end), []
    fields = tuple((field, text) for field, text in cron if text is not None)
    if fields:
        return Schedule(cron=fields, start=start, end=end), []
    return Schedule(), []


def times(schedule: Schedule, anchor: datetime.datetime) -> Times:
    """:param anchor: what :meth:`Schedule.anchor` gave when the job was new"""
    if schedule.every:
        trigger = _needed('apscheduler.triggers.interval').IntervalTrigger(
            seconds=schedule.every.total_seconds(),
            start_date=anchor,
            end_date=schedule.end,
            timezone=datetime.UTC,
        )
        return _Interval(trigger)
    if schedule.cron:
        # Of a clock that is never set.
        trigger = _needed('apscheduler.triggers.cron').CronTrigger(
            **dict(schedule.cron), timezone=datetime.UTC
        )
        return _Cron(trigger, zone(), schedule)
    return _Once(schedule.date or anchor)


@dataclasses.dataclass(frozen=True)
class _Once:
    at: datetime.datetime

    def after(self, moment: datetime.datetime) -> datetime.datetime | None:
        return self.at if self.at > moment else None


@dataclasses.dataclass(frozen=True)
class _Interval:
    """By a trigger of APScheduler."""

    trigger: Any

    def after(self, moment: datetime.datetime) -> datetime.datetime | None:
        return _fire_time(self.trigger, moment)


@dataclasses.dataclass(frozen=True)
class _Cron:
    """By a trigger of APScheduler, on the clock on the wall.

    The trigger itself runs in circles in the hour that comes twice in autumn.

    :param trigger: of the wall's clock, as if that were UTC
    """

    trigger: Any
    zone: datetime.tzinfo
    schedule: Schedule

    def after(self, moment: datetime.datetime) -> datetime.datetime | None:
        if self.schedule.start and moment < self.schedule.start:
            moment = self.schedule.start - _TICK
        moment = moment.astimezone(datetime.UTC)
        found = self._in_any_hour(moment) if self._any_hour else self._at(moment)
        if found is None or (self.schedule.end and found > self.schedule.end):
            return None
        return found

    @property
    def _any_hour(self) -> bool:
        given = dict(self.schedule.cron)
        if 'hour' in given:
            return given['hour'].startswith('*')
        return 'minute' in given or 'second' in given

    def _at(self, moment: datetime.datetime) -> datetime.datetime | None:
        """Given hours: of one that comes twice the first, and for one that does not
        come the one after it."""
        wall: datetime.datetime | None = moment + self._offset(moment)
        while wall is not None:
            wall = _fire_time(self.trigger, wall)
            if wall is not None:
                found = wall.replace(tzinfo=self.zone).astimezone(datetime.UTC)
                if found > moment:
                    return found
        return None

    def _in_any_hour(self, moment: datetime.datetime) -> datetime.datetime | None:
        """Every hour that comes, how often it may."""
        while True:
            offset = self._offset(moment + _TICK)
            wall = _fire_time(self.trigger, moment + offset)
            if wall is None:
                return None
            found = wall - offset
            if self._offset(found) == offset:
                return found
            # The clock is set before that: look from there.
            moment = self._change(moment + _TICK, found) - _TICK

    def _change(
        self, before: datetime.datetime, after: datetime.datetime
    ) -> datetime.datetime:
        """The first moment, to the microsecond, with another offset than before."""
        offset = self._offset(before)
        while after - before > _TICK:
            middle = before + (after - before) / 2
            if self._offset(middle) == offset:
                before = middle
            else:
                after = middle
        return after

    def _offset(self, moment: datetime.datetime) -> datetime.timedelta:
        return moment.astimezone(self.zone).utcoffset() or datetime.timedelta()


def _fire_time(trigger: Any, moment: datetime.datetime) -> datetime.datetime | None:
    """The first after the moment; triggers take what is at the moment for due."""
    try:
        found: datetime.datetime | None = trigger.get_next_fire_time(
            None, moment.astimezone(datetime.UTC) + _TICK
        )
    except OverflowError:
        return None
    return found


def _needed(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            "APScheduler is not installed: pip install 'freezer[scheduler]'"
        ) from error


def _date(value: Any) -> datetime.datetime:
    try:
        moment = datetime.datetime.fromisoformat(str(value).strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=zone())).astimezone(
            datetime.UTC
        )
    except (ValueError, OverflowError):
        raise ValueError(
            f'{value!r} is not a date: write 2026-01-31T23:59:59, which is of the '
            f'time zone of the machine, or with an offset 2026-01-31T23:59:59+02:00'
        ) from None


def _interval(value: Any) -> datetime.timedelta:
    text = str(value).strip()
    if text.lower() == 'continuous':
        return datetime.timedelta(seconds=1)
    match = _INTERVAL.match(text)
    if match is None or not int(match[1]):
        raise ValueError(
            f'{value!r} is not an interval: write continuous, or a number of weeks, '
            f'days, hours, minutes or seconds, as in "12 hours"'
        )
    try:
        return datetime.timedelta(**{match[2].lower() + 's': int(match[1])})
    except OverflowError:
        raise ValueError(f'{value!r} is longer than time lasts') from None


def _field(name: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        text = str(value).strip()
        trigger = _needed('apscheduler.triggers.cron').CronTrigger
        try:
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise TypeError('is neither a number nor text')
            trigger(**{name: text}, timezone=datetime.UTC)
        except (ValueError, TypeError) as error:
            raise ValueError(f'{text!r}: {" ".join(str(error).split())}') from None
        return text

    return check
