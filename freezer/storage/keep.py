"""The rules of retention by calendar. Pure functions on dates.

A period is an hour, a day, a week from Monday on, a month or a year, in UTC: so the
result is the same on every machine, and no hour comes twice. A rule with a number keeps
one state of each of the newest periods that have any.
"""

import datetime
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby, islice
from typing import Protocol, TypeVar

# Two times are in the same period if these make the same text of them.
_PERIODS = {
    'hourly': '%Y-%m-%d %H',
    'daily': '%Y-%m-%d',
    'weekly': '%G week %V',
    'monthly': '%Y-%m',
    'yearly': '%Y',
}


class State(Protocol):
    """A restorable state. ``timestamp`` is in epoch seconds; ``incomplete`` may be slow
    to find out, and is read for as few states as possible."""

    @property
    def timestamp(self) -> int: ...

    @property
    def incomplete(self) -> bool: ...


S = TypeVar('S', bound=State)


@dataclass(frozen=True)
class Rules:
    """How many states to keep by each rule, and ``within`` how many seconds of the
    newest; 0 is unset. They add up: a state that one rule keeps is kept."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: float = 0

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) > 0 for each in fields(self))


def kept(states: Iterable[S], rules: Rules) -> list[tuple[S, list[str]]]:
    """Each state, oldest first, with the names of the rules that keep it.

    The newest state is always kept. An incomplete state does not take the place of a
    complete one in its period, nor among the last ones.

    :param states: sorted by time, oldest first
    """
    newest_first = list(states)[::-1]
    reasons: list[list[str]] = [[] for _state in newest_first]
    if not newest_first:
        return []
    reasons[0].append('newest')
    numbers = range(len(newest_first))
    for number in _last(newest_first, rules.last):
        reasons[number].append('last')
    since = newest_first[0].timestamp - rules.within
    for number in numbers if rules.within else ():
        if newest_first[number].timestamp >= since:
            reasons[number].append('within')
    for name, form in _PERIODS.items():
        wanted = getattr(rules, name)
        if wanted:
            for number, reason in _periodic(newest_first, wanted, name, form):
                reasons[number].append(reason)
    return list(zip(newest_first, reasons, strict=True))[::-1]


def _last(newest_first: Sequence[State], wanted: int) -> list[int]:
    """The newest complete states; then incomplete ones, if those are too few."""
    complete, incomplete = list[int](), list[int]()
    for number, state in enumerate(newest_first):
        if len(complete) >= wanted:
            break
        (incomplete if state.incomplete else complete).append(number)
    return (complete + incomplete)[:wanted]


def _periodic(
    newest_first: Sequence[State], wanted: int, name: str, form: str
) -> Iterator[tuple[int, str]]:
    """The newest state of each period; and the oldest of all, while there are fewer
    periods than wanted: else a yearly one would first exist after a year."""
    numbers = range(len(newest_first))
    periods = [_period(state.timestamp, form) for state in newest_first]
    groups = groupby(numbers, periods.__getitem__)
    found = [
        _first_complete(newest_first, members)
        for _name, members in islice(groups, min(wanted, len(periods)))
    ]
    yield from ((number, name) for number in found)
    if len(found) < wanted:
        oldest = _first_complete(newest_first, reversed(numbers))
        if oldest not in found:
            yield oldest, f'oldest {name}'


def _period(timestamp: int, form: str) -> str:
    return datetime.datetime.fromtimestamp(timestamp, datetime.UTC).strftime(form)


def _first_complete(states: Sequence[State], numbers: Iterable[int]) -> int:
    """The first number of a complete state; the first of all if there is none."""
    candidates = list(numbers)
    complete = (number for number in candidates if not states[number].incomplete)
    return next(complete, candidates[0])
