"""Which level comes next, and which levels make up a state."""

import pytest

from freezer.storage.backup import Backup
from freezer.storage.levels import (
    SECONDS_PER_DAY,
    BrokenChain,
    LevelPolicy,
    base_for_next,
    needed,
    resolve,
)

ZERO = 1_700_000_000
NOW = ZERO + SECONDS_PER_DAY


def at(level: int, timestamp: int) -> Backup:
    return Backup('tar', 'h_n', ZERO, timestamp, level)


def chain(highest: int) -> dict[int, Backup]:
    return {level: at(level, ZERO + level) for level in range(highest + 1)}


POLICIES = {
    # name: (policy, highest level there is or None, base or None)
    'not incremental': (LevelPolicy(), 2, None),
    'no chain': (LevelPolicy(True), None, None),
    'no limit': (LevelPolicy(True), 7, 7),
    'max level not reached': (LevelPolicy(True, max_level=3), 2, 2),
    'max level reached': (LevelPolicy(True, max_level=3), 3, None),
    'max level passed': (LevelPolicy(True, max_level=3), 4, None),
    'always level not reached': (LevelPolicy(True, always_level=2), 1, 1),
    'always level reached': (LevelPolicy(True, always_level=2), 2, 1),
    'always level passed': (LevelPolicy(True, always_level=2), 3, None),
    'always level 1': (LevelPolicy(True, always_level=1), 1, 0),
    'max level comes before always level': (LevelPolicy(True, 2, 2), 2, None),
    'always level below max level': (LevelPolicy(True, 3, 2), 2, 1),
    'restart not due': (LevelPolicy(True, restart_always_level=1.0), 3, 3),
    'restart due': (LevelPolicy(True, restart_always_level=0.9), 3, None),
    'restart comes before always level': (LevelPolicy(True, 0, 2, 0.9), 2, None),
    'restart needs incremental': (LevelPolicy(False, 0, 0, 9.0), 3, None),
}


@pytest.mark.parametrize('policy, highest, base', POLICIES.values(), ids=POLICIES)
def test_base_for_next(
    policy: LevelPolicy, highest: int | None, base: int | None
) -> None:
    levels = {} if highest is None else chain(highest)
    found = base_for_next(levels, policy, NOW)
    assert (None if found is None else found.level) == base


def test_restart_counts_from_level_zero() -> None:
    """A daily job has a young newest level for ever."""
    daily = {n: at(n, ZERO + n * SECONDS_PER_DAY) for n in range(8)}
    policy = LevelPolicy(True, restart_always_level=7.0)
    day_7 = ZERO + 7 * SECONDS_PER_DAY
    assert base_for_next(daily, policy, day_7) == daily[7]
    assert base_for_next(daily, policy, day_7 + 1) is None


def test_a_clock_before_the_chain_restarts_nothing() -> None:
    policy = LevelPolicy(True, restart_always_level=1.0)
    assert base_for_next(chain(1), policy, ZERO - SECONDS_PER_DAY * 9) == chain(1)[1]


RESOLVED = {
    'nothing': ([], []),
    'in order': ([(0, 1), (1, 2), (2, 3)], [1, 2, 3]),
    'in any order': ([(2, 3), (0, 1), (1, 2)], [1, 2, 3]),
    'newest of the highest': ([(0, 1), (1, 4), (1, 3), (1, 2)], [1, 4]),
    'below, what the one above was built on': (
        [(0, 1), (1, 2), (2, 3), (1, 4)],
        [1, 2, 3],
    ),
    'below, the newest that is older': (
        [(0, 1), (1, 2), (1, 3), (2, 4), (1, 5)],
        [1, 3, 4],
    ),
    'the same second': ([(0, 5), (1, 5), (2, 5)], [5, 5, 5]),
    'the clock went back': ([(0, 100), (1, 50), (2, 60)], [100, 50, 60]),
    'the clock went back, twice the level': ([(0, 10), (0, 99), (1, 5)], [99, 5]),
}


@pytest.mark.parametrize('levels, timestamps', RESOLVED.values(), ids=RESOLVED)
def test_resolve(levels: list[tuple[int, int]], timestamps: list[int]) -> None:
    found = resolve(at(*level) for level in levels)
    assert list(found) == list(range(len(timestamps)))
    assert [level.level for level in found.values()] == list(found)
    assert [level.timestamp for level in found.values()] == timestamps


@pytest.mark.parametrize(
    'levels, missing', [([1], 0), ([0, 2], 1), ([0, 1, 4], 3), ([3], 2)]
)
def test_a_gap_is_named(levels: list[int], missing: int) -> None:
    with pytest.raises(BrokenChain, match=f'level {missing} of the chain is missing'):
        resolve(at(level, ZERO + level) for level in levels)


@pytest.mark.parametrize('levels, timestamps', RESOLVED.values(), ids=RESOLVED)
def test_what_a_backup_needs_is_what_it_is_restored_with(
    levels: list[tuple[int, int]], timestamps: list[int]
) -> None:
    backups = [at(*level) for level in levels]
    for backup in backups:
        state = resolve([*(b for b in backups if b.level < backup.level), backup])
        assert [backup, *needed(backup, backups)] == [*reversed(state.values())]


def test_what_is_below_a_gap_is_needed_too() -> None:
    backups = [at(level, ZERO + level) for level in (0, 2, 3)]
    assert needed(backups[2], backups) == [backups[1], backups[0]]
