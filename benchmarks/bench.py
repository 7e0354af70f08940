"""What all works have in common: contestants that take turns, and what is reached."""

import collections
import contextlib
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import Cost, Failed
from benchmarks.peers import Place

MIB = 2**20
# A contestant that failed so often is not asked again.
_FAILURES = 2


@dataclass
class Row:
    """One contestant's runs."""

    name: str
    costs: list[Cost] = field(default_factory=list)

    def median(self, what: str) -> float:
        return statistics.median(getattr(cost, what) for cost in self.costs)

    def range(self, what: str) -> tuple[float, float]:
        values = [getattr(cost, what) for cost in self.costs]
        return min(values), max(values)


@dataclass(frozen=True)
class Check:
    """A figure and the most that it may be, or the least."""

    what: str
    value: float
    limit: float
    least: bool = False

    @property
    def passed(self) -> bool:
        return self.value >= self.limit if self.least else self.value <= self.limit


@dataclass
class Result:
    """What came of one work at one store."""

    work: str
    title: str
    store: str
    rows: list[Row]
    checks: list[Check]
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)


@dataclass
class Bench:
    """What the works have in common.

    :param stores: names of those of P1 and P2; P4 to P7 take the first real one
    :param store: starts one, with ``with``
    :param scratch: a directory for trees
    :param memory: a directory whose files are in memory
    :param mib: MiB of the stream of P1 to P3
    :param gib: GiB of P10
    :param chains: of P9
    :param files: of the tree of P4 to P7, which has ``tree_mib`` MiB
    """

    tools: Mapping[str, str]
    stores: Sequence[str]
    store: Callable[[str], contextlib.AbstractContextManager[Place]]
    scratch: Path
    memory: Path
    runs: int
    mib: int
    gib: tuple[int, int]
    chains: int
    files: int
    tree_mib: int
    tell: Callable[[str], None]

    def __post_init__(self) -> None:
        self.environment = {
            name: value
            for name, value in os.environ.items()
            # PYTHON…: who installs the agent has it compiled once and for all.
            if not name.startswith(('AWS_', 'OS_', 'RCLONE_', 'RESTIC_', 'PYTHON'))
        }
        self.environment['HOME'] = str(self.scratch)
        self.notes: list[str] = []
        self._serial = 0
        self._newest: dict[str, str] = {}

    def fresh(self, word: str = 'run') -> str:
        """A name nothing has been stored under."""
        self._serial += 1
        self._newest[word] = f'{word}{self._serial}'
        return self._newest[word]

    def newest(self, word: str) -> str:
        """The last name that was made of this word."""
        return self._newest[word]

    def agent(self, *arguments: object) -> Sequence[str]:
        return (
            *(self.tools['freezer-agent'], '--storage', 's3'),
            *('--hostname', 'bench', *map(str, arguments)),
        )

    def interleaved(
        self, contestants: Mapping[str, Callable[[], Cost]], runs: int | None = None
    ) -> list[Row]:
        """Each in turn, again and again, so that the machine's moods meet all alike."""
        rows = {name: Row(name) for name in contestants}
        failures: collections.Counter[str] = collections.Counter()
        for _ in range(runs or self.runs):
            for name, run in contestants.items():
                if failures[name] == _FAILURES:
                    continue
                try:
                    cost = run()
                except Failed as error:
                    failures[name] += 1
                    self.notes.append(f'{name} failed: {str(error)[-200:].strip()}')
                    self.tell(f'  {self.notes[-1]}')
                    continue
                rows[name].costs.append(cost)
                self.tell(
                    f'  {name:24} {cost.wall:7.2f} s  CPU {cost.cpu:6.2f} s  '
                    f'{cost.peak:5.0f} MiB'
                )
        return [row for row in rows.values() if row.costs]


def ours(rows: Sequence[Row]) -> Row:
    return next(row for row in rows if _is_ours(row))


def others(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not _is_ours(row)]


def _is_ours(row: Row) -> bool:
    return row.name.split()[0] == 'freezer'


def named(rows: Sequence[Row], name: str) -> Row:
    return next(row for row in rows if row.name == name)


def ratio(rows: Sequence[Row], name: str, what: str = 'wall') -> float:
    """Ours by another one; endless, so missed, if one of them never succeeded."""
    names = {row.name: row for row in rows}
    ours = next(filter(_is_ours, rows), None)
    if ours is None or name not in names:
        return math.inf
    return ours.median(what) / names[name].median(what)


def against(rows: Sequence[Row], what: str, limit: float, title: str) -> Check:
    """Ours by the best of the others."""
    best = min(others(rows), key=lambda row: row.median(what)).name
    return Check(f'{title} / {best}', ratio(rows, best, what), limit)
