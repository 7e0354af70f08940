"""Code that all tasks share: running the tools alternately, checking the targets."""

import collections
import contextlib
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import Cost, Failed
from benchmarks.peers import CONCURRENCY, PART_MIB, Place

MIB = 2**20
# A tool that failed this often is skipped.
_FAILURES = 2


@dataclass
class Row:
    """The runs of one tool."""

    name: str
    costs: list[Cost] = field(default_factory=list)

    def median(self, what: str) -> float:
        return statistics.median(getattr(cost, what) for cost in self.costs)

    def range(self, what: str) -> tuple[float, float]:
        values = [getattr(cost, what) for cost in self.costs]
        return min(values), max(values)


@dataclass(frozen=True)
class Check:
    """A value with its maximum or minimum."""

    what: str
    value: float
    limit: float
    least: bool = False

    @property
    def passed(self) -> bool:
        return self.value >= self.limit if self.least else self.value <= self.limit


@dataclass
class Result:
    """Result of one task with one store."""

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
    """Settings and helpers that all tasks share.

    :param stores: names of the stores of P1 and P2; P4 to P7 use the first real one
    :param store: context manager that starts a store
    :param scratch: a directory for trees
    :param memory: a directory whose files are in memory
    :param mib: MiB of the stream of P1 to P3
    :param gib: GiB of P10
    :param chains: number of chains of P9
    :param files: number of files in the tree of P4 to P7, which has ``tree_mib`` MiB
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
    log: Callable[[str], None]

    def __post_init__(self) -> None:
        self.environment = {
            name: value
            for name, value in os.environ.items()
            # PYTHON…: an installed agent is compiled once.
            if not name.startswith(('AWS_', 'OS_', 'RCLONE_', 'RESTIC_', 'PYTHON'))
        }
        self.environment['HOME'] = str(self.scratch)
        self.notes: list[str] = []
        self._serial = 0
        self._newest: dict[str, str] = {}

    def real_store(self) -> str:
        """The first real store, over http."""
        names = (*self.stores, 'seaweedfs')
        return next(name for name in names if name in ('seaweedfs', 'ceph'))

    def fresh(self, word: str = 'run') -> str:
        """A new, unused name."""
        self._serial += 1
        self._newest[word] = f'{word}{self._serial}'
        return self._newest[word]

    def newest(self, word: str) -> str:
        """The last name created with this word."""
        return self._newest[word]

    def agent(self, *arguments: object) -> Sequence[str]:
        return (
            *(self.tools['freezer-agent'], '--storage', 's3'),
            *('--hostname', 'bench', *map(str, arguments)),
        )

    def interleaved(
        self, candidates: Mapping[str, Callable[[], Cost]], runs: int | None = None
    ) -> list[Row]:
        """Run the tools alternately, so that background load affects all equally."""
        rows = {name: Row(name) for name in candidates}
        failures: collections.Counter[str] = collections.Counter()
        for _ in range(runs or self.runs):
            for name, run in candidates.items():
                if failures[name] == _FAILURES:
                    continue
                try:
                    cost = run()
                except Failed as error:
                    failures[name] += 1
                    self.notes.append(f'{name} failed: {str(error)[-200:].strip()}')
                    self.log(f'  {self.notes[-1]}')
                    continue
                rows[name].costs.append(cost)
                self.log(
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
    """Our value divided by that of ``name``; infinite if one never succeeded."""
    names = {row.name: row for row in rows}
    ours = next(filter(_is_ours, rows), None)
    if ours is None or name not in names:
        return math.inf
    return ours.median(what) / names[name].median(what)


def not_behind(rows: Sequence[Row]) -> Check:
    """Check that no other tool is faster than ours by more than the spread of the
    runs."""
    best = min(others(rows), key=lambda row: row.median('wall'))
    value = math.inf
    if own := list(filter(_is_ours, rows)):
        ranges = [row.range('wall') for row in (best, *own)]
        spread = max(high - low for low, high in ranges)
        value = own[0].median('wall') / (best.median('wall') + spread)
    return Check(f'wall / ({best.name} + spread)', value, 1.0)


def memory(rows: Sequence[Row]) -> Check:
    """Check the memory: 96 MiB, and a part for each one in flight and one more."""
    limit = 96 + (CONCURRENCY + 1) * PART_MIB
    peaks = [row.median('peak') for row in rows if _is_ours(row)]
    return Check('memory, MiB', max(peaks, default=math.inf), limit)


def against(rows: Sequence[Row], what: str, limit: float, title: str) -> Check:
    """Check our value divided by the best of the others."""
    best = min(others(rows), key=lambda row: row.median(what)).name
    return Check(f'{title} / {best}', ratio(rows, best, what), limit)
