"""When a job runs: from the fields of its document to points in time. Pure.

Dates without an offset and cron fields are in the machine's time zone. Cron fields have
APScheduler's syntax: its day_of_week begins with Monday, 0 or ``mon``.
"""

import dataclasses
import datetime
import functools
import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from freezer.common.parsing import one_line
from freezer.exceptions import ConfigError

#: how late a run with a date or cron fields may start
GRACE = datetime.timedelta(hours=1)
#: a job without a start in the future first runs after this time
FIRST_DELAY = datetime.timedelta(seconds=2)
CRON = ('year', 'month', 'day', 'week', 'day_of_week', 'hour', 'minute', 'second')
#: the keys of job_schedule that :func:`parse` reads
KEYS = (
    *('schedule_date', 'schedule_interval', 'schedule_start_date', 'schedule_end_date'),
    *(f'schedule_{field}' for field in CRON),
)

_INTERVAL = re.compile(r'([0-9]+)\s*(week|day|hour|minute|second)s?\Z', re.IGNORECASE)
_TICK = datetime.timedelta(microseconds=1)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A date, or an interval, or cron fields; with none of them, once: at the start, or
    at once.

    Its repr is part of :attr:`Document.timing`, which is stored.
    """

    date: datetime.datetime | None = None
    every: datetime.timedelta | None = None
    cron: tuple[tuple[str, str], ...] = ()
    start: datetime.datetime | None = None
    end: datetime.datetime | None = None

    @property
    def once(self) -> bool:
        """Whether it has no date, interval or cron field."""
        return not (self.date or self.every or self.cron)

    @property
    def skips_late_runs(self) -> bool:
        """Whether a run that is more than GRACE late is skipped."""
        return bool(self.date or self.cron)

    def __str__(self) -> str:
        if self.date:
            return f'once, at {format_time(self.date)}'
        if self.once and self.start:
            return f'once, at {format_time(self.start)}'
        if self.once:
            return 'once, now'
        if self.every:
            text = f'every {self.every.total_seconds():g} s'
        else:
            text = 'cron ' + ' '.join(f'{field}={value}' for field, value in self.cron)
        if self.start:
            text += f', from {format_time(self.start)}'
        return text + (f', until {format_time(self.end)}' if self.end else '')

    def anchor(self, now: datetime.datetime) -> datetime.datetime:
        """The time from which intervals are counted, for a job that is new now."""
        if self.start and self.start > now:
            return self.start
        return now + FIRST_DELAY


#: from a moment to the first run after it; None if there is none
NextRun = Callable[[datetime.datetime], datetime.datetime | None]


def format_time(moment: datetime.datetime) -> str:
    """With its offset, in the machine's time zone."""
    return moment.astimezone(zone()).isoformat(' ', 'seconds')


def zone() -> datetime.tzinfo:
    """The machine's time zone, or the one in TZ.

    :raises ConfigError: TZ names no time zone, or APScheduler is not installed
    """
    tzlocal = _import('tzlocal')
    try:
        found: datetime.tzinfo = tzlocal.get_localzone()
    except (OSError, ValueError, LookupError) as error:
        raise ConfigError(
            f'cannot determine the time zone: {error}; set TZ or /etc/localtime'
        ) from error
    return found


def parse(given: Mapping[str, Any]) -> tuple[Schedule | None, list[tuple[str, str]]]:
    """Parse the times in ``job_schedule``.

    :returns: the schedule, or None if there is a problem; and (key, message) of each
        problem
    """
    problems: list[tuple[str, str]] = []

    def value_of(key: str, convert: Callable[[Any], Any]) -> Any:
        value = given.get(key)
        if value is None or value == '':
            return None
        try:
            return convert(value)
        except (ValueError, OverflowError) as error:
            problems.append((key, str(error)))
            return None

    date = value_of('schedule_date', _date)
    every = value_of('schedule_interval', _interval)
    cron = []
    for field in CRON:
        check = functools.partial(_cron_field, field)
        cron.append((field, value_of(f'schedule_{field}', check)))
    start = value_of('schedule_start_date', _date)
    end = value_of('schedule_end_date', _date)
    if problems:
        return None, problems
    # The first that is given counts, as in Freezer 19.
    if date:
        return Schedule(date=date), []
    if every:
        return Schedule(every=every, start=start, end=end), []
    fields = tuple((field, text) for field, text in cron if text is not None)
    if fields:
        return Schedule(cron=fields, start=start, end=end), []
    return Schedule(start=start, end=end), []


def next_run(schedule: Schedule, anchor: datetime.datetime) -> NextRun:
    """:param anchor: what :meth:`Schedule.anchor` returned when the job was new"""
    if schedule.every:
        trigger = _import('apscheduler.triggers.interval').IntervalTrigger(
            seconds=schedule.every.total_seconds(),
            start_date=anchor,
            end_date=schedule.end,
            timezone=datetime.UTC,
        )
        return functools.partial(_fire_time, trigger)
    if schedule.cron:
        # In UTC, a clock without daylight saving time: _Cron applies the zone.
        trigger = _import('apscheduler.triggers.cron').CronTrigger(
            **dict(schedule.cron), timezone=datetime.UTC
        )
        return _Cron(trigger, zone(), schedule)
    date = schedule.date or anchor
    if schedule.end and date > schedule.end:
        return lambda _moment: None
    return lambda moment: date if date > moment else None


@dataclasses.dataclass(frozen=True)
class _Cron:
    """The runs of an APScheduler trigger, converted from local time.

    The trigger itself, given the zone, repeats itself in the hour that occurs twice in
    autumn.

    :param trigger: of local time, treated as if it were UTC
    """

    trigger: Any
    zone: datetime.tzinfo
    schedule: Schedule

    def __call__(self, moment: datetime.datetime) -> datetime.datetime | None:
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
        """For given hours: the first of an hour that occurs twice, and the following
        hour for one that does not occur."""
        local: datetime.datetime | None = moment + self._offset(moment)
        while local is not None:
            local = _fire_time(self.trigger, local)
            if local is not None:
                found = local.replace(tzinfo=self.zone).astimezone(datetime.UTC)
                if found > moment:
                    return found
        return None

    def _in_any_hour(self, moment: datetime.datetime) -> datetime.datetime | None:
        """For every hour, including both that have the same number."""
        while True:
            offset = self._offset(moment + _TICK)
            local = _fire_time(self.trigger, moment + offset)
            if local is None:
                return None
            found = local - offset
            if self._offset(found) == offset:
                return found
            # The clock changes before that time: search from the change on.
            moment = self._change(moment + _TICK, found) - _TICK

    def _change(
        self, before: datetime.datetime, after: datetime.datetime
    ) -> datetime.datetime:
        """The first microsecond with another UTC offset than ``before``."""
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
    """The first run after the moment. A trigger would return the moment itself."""
    try:
        found: datetime.datetime | None = trigger.get_next_fire_time(
            None, moment.astimezone(datetime.UTC) + _TICK
        )
    except OverflowError:
        return None
    return found


def _import(module: str) -> Any:
    """APScheduler and tzlocal are of the extra [scheduler]; --help works without."""
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
            f'{value!r} is not a date. Write 2026-01-31T23:59:59 (time zone of the '
            f'machine), or with an offset: 2026-01-31T23:59:59+02:00'
        ) from None


def _interval(value: Any) -> datetime.timedelta:
    text = str(value).strip()
    if text.lower() == 'continuous':
        return datetime.timedelta(seconds=1)
    match = _INTERVAL.match(text)
    if match is None or not int(match[1]):
        raise ValueError(
            f'{value!r} is not an interval. Write continuous, or a number of weeks, '
            f'days, hours, minutes or seconds, such as "12 hours"'
        )
    try:
        return datetime.timedelta(**{match[2].lower() + 's': int(match[1])})
    except OverflowError:
        raise ValueError(f'{value!r}: interval too large') from None


def _cron_field(name: str, value: Any) -> str:
    text = str(value).strip()
    trigger = _import('apscheduler.triggers.cron').CronTrigger
    try:
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise TypeError('must be a number or text')
        trigger(**{name: text}, timezone=datetime.UTC)
    except (ValueError, TypeError) as error:
        raise ValueError(f'{text!r}: {one_line(error)}') from None
    return text
