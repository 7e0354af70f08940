"""Option types that oslo.config does not have."""

import datetime
import re

from oslo_config import types

_SIZE = re.compile(r'(-?[0-9]+)\s*(?:([KMGTP])(?:i?B)?|B)?\Z', re.IGNORECASE)
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40, 'P': 2**50}
_DURATION = re.compile(r'([0-9]+(?:\.[0-9]+)?)\s*([smhd]?)\Z', re.IGNORECASE)
# 8 digits are a date: 20260131.
_EPOCH = re.compile(r'[0-9]{9,11}\Z')
_AGE = re.compile(r'([0-9]+(?:\.[0-9]+)?)\s*([hdwy])\Z', re.IGNORECASE)
_AGE_SECONDS = {'h': 3600, 'd': 86400, 'w': 7 * 86400, 'y': 365 * 86400}
_SECONDS = {'': 1, 's': 1, 'm': 60, 'h': 3600, 'd': 86400}


class _Type(types.ConfigType):
    """Types of one class with the same attributes are equal."""

    def __repr__(self) -> str:
        return type(self).__name__

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(repr(self))


class Size(_Type):
    """Bytes: a whole number, or one with K, M, G, T or P, in powers of 1024.

    oslo.utils' string_to_bytes rejects a number without a unit, and 32M.
    """

    def __init__(self, min: int | None = None) -> None:
        super().__init__(type_name='size')
        self.min = min

    def __call__(self, value: str | int) -> int:
        match = _SIZE.match(str(value).strip())
        if match is None:
            raise ValueError(f'{value!r} is not a size: write 33554432, or 32M')
        size = int(match[1]) * _UNITS[(match[2] or '').upper()]
        if self.min is not None and size < self.min:
            raise ValueError(f'{value!r} is less than {self.min} bytes')
        return size

    def _formatter(self, value: int) -> str:
        return str(value)


class Duration(_Type):
    """Seconds: a number, or one with s, m, h or d."""

    def __init__(self) -> None:
        super().__init__(type_name='duration')

    def __call__(self, value: str | float) -> float:
        match = _DURATION.match(str(value).strip())
        if match is None:
            raise ValueError(
                f'{value!r} is not a duration: write 90, 90s, 30m, 24h, 7d'
            )
        return float(match[1]) * _SECONDS[match[2].lower()]

    def _formatter(self, value: float) -> str:
        return f'{value:g}'


class Age(_Type):
    """Seconds: a number with h, d, w or y: hours, days, weeks, years of 365 days.

    A unit is required, and m is none: it could mean minutes or months.
    """

    def __init__(self) -> None:
        super().__init__(type_name='age')

    def __call__(self, value: str | float) -> float:
        if isinstance(value, float):
            return value
        match = _AGE.match(str(value).strip())
        if match is None:
            raise ValueError(f'{value!r} is not an age: write 36h, 30d, 4w or 1y')
        return float(match[1]) * _AGE_SECONDS[match[2].lower()]

    def _formatter(self, value: float) -> str:
        return f'{value / 3600:g}h'


class Date(_Type):
    """A time: ISO 8601, epoch seconds, ``now``; or a day: a date alone, ``today``,
    ``yesterday``. Without an offset it is UTC, as in Freezer 19.

    :param until: what a day means: true is its last second, to find the newest backup
        of the day; false is the last second before it, so that what is removed until
        then is older than the day
    """

    def __init__(self, until: bool) -> None:
        super().__init__(type_name='date')
        self.until = until

    def __call__(self, value: str | datetime.datetime) -> datetime.datetime:
        if isinstance(value, datetime.datetime):
            return value
        text = str(value).strip()
        try:
            if _EPOCH.match(text):
                return datetime.datetime.fromtimestamp(int(text), datetime.UTC)
            if text.lower() == 'now':
                return datetime.datetime.now(datetime.UTC)
            day = _day(text.lower())
            if day is not None:
                return self._of_day(day)
            moment = datetime.datetime.fromisoformat(text)
        except (ValueError, OverflowError):
            raise ValueError(
                f'{value!r} is not a date: write 2026-01-31T23:59:59, which is UTC, '
                f'or with an offset 2026-01-31T23:59:59+02:00; 2026-01-31, today or '
                f'yesterday for a day; epoch seconds; or now'
            ) from None
        return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)

    def _of_day(self, day: datetime.date) -> datetime.datetime:
        start = datetime.datetime.combine(day, datetime.time(), datetime.UTC)
        if not self.until:
            return start - datetime.timedelta(seconds=1)
        return start.replace(hour=23, minute=59, second=59)

    def _formatter(self, value: datetime.datetime) -> str:
        return value.isoformat()


def _day(text: str) -> datetime.date | None:
    """None for what is no date alone."""
    if text in ('today', 'yesterday'):
        today = datetime.datetime.now(datetime.UTC).date()
        return today - datetime.timedelta(days=text == 'yesterday')
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        return None
