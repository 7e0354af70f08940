"""Option types that oslo.config does not have."""

import datetime
import re

from oslo_config import types

_SIZE = re.compile(r'(-?[0-9]+)\s*(?:([KMGTP])(?:i?B)?|B)?\Z', re.IGNORECASE)
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40, 'P': 2**50}
_DURATION = re.compile(r'([0-9]+(?:\.[0-9]+)?)\s*([smhd]?)\Z', re.IGNORECASE)
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


class Date(_Type):
    """A time in ISO 8601; without an offset it is UTC, as in Freezer 19."""

    def __init__(self) -> None:
        super().__init__(type_name='ISO 8601 date')

    def __call__(self, value: str | datetime.datetime) -> datetime.datetime:
        if isinstance(value, datetime.datetime):
            return value
        try:
            moment = datetime.datetime.fromisoformat(str(value).strip())
        except ValueError:
            raise ValueError(
                f'{value!r} is not a date: write 2026-01-31T23:59:59, which is UTC, '
                f'or with an offset 2026-01-31T23:59:59+02:00'
            ) from None
        return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)

    def _formatter(self, value: datetime.datetime) -> str:
        return value.isoformat()
