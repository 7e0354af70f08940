"""Selects the level of the next backup, and the levels of a restore. Pure functions.

The rules are Freezer's, with three fixes: `restart_always_level` counts from level 0
and not from the newest backup (a daily job never restarted); several backups of one
level resolve to the newest, not to the last in the listing; and a chain with a gap is
rejected before anything is extracted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from freezer.storage.exceptions import StorageException

SECONDS_PER_DAY = 86400


class LevelLike(Protocol):
    @property
    def level(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def level_zero_timestamp(self) -> int: ...


L = TypeVar('L', bound=LevelLike)


class BrokenChain(StorageException):
    """A level is missing, so the levels above it cannot be restored."""


@dataclass(frozen=True)
class LevelPolicy:
    """The options that select levels. 0 and 0.0 mean unset.

    :param retention: whether old chains are removed afterwards
    """

    incremental: bool = False
    max_level: int = 0
    always_level: int = 0
    restart_always_level: float = 0.0
    retention: bool = False

    @property
    def needs_listing(self) -> bool:
        """Whether existing backups must be listed first."""
        return self.incremental or self.retention


def resolve(backups: Iterable[L]) -> dict[int, L]:
    """The chain of the newest state: level -> backup, from level 0 up, without a gap.

    It begins with the newest backup of the highest level. Of each level below, it takes
    the newest backup that is not newer than the level above; if there is none because
    a clock went backwards, the newest.

    :raises BrokenChain: a level below the highest is missing
    """
    by_level = _by_level(backups)
    chain: dict[int, L] = {}
    if not by_level:
        return chain
    above: L | None = None
    for level in range(max(by_level), -1, -1):
        same = by_level.get(level)
        if not same:
            newest = max(
                backup.timestamp for many in by_level.values() for backup in many
            )
            raise BrokenChain(
                f'level {level} of the chain is missing, and level {max(by_level)} '
                f'(timestamp {newest}) cannot be restored without it'
            )
        above = _newest_below(above, same)
        chain[level] = above
    return dict(sorted(chain.items()))


def needed(backup: L, backups: Iterable[L]) -> list[L]:
    """The existing backups of lower levels that a backup is restored with.

    :param backups: all of its chain
    """
    by_level = _by_level(backups)
    found: list[L] = []
    above = backup
    for level in range(backup.level - 1, -1, -1):
        if same := by_level.get(level):
            above = _newest_below(above, same)
            found.append(above)
    return found


def _by_level(backups: Iterable[L]) -> dict[int, list[L]]:
    by_level: dict[int, list[L]] = {}
    for backup in backups:
        by_level.setdefault(backup.level, []).append(backup)
    return by_level


def _newest_below(above: L | None, same: Sequence[L]) -> L:
    """The backup of a level that a backup of the level above builds on."""
    older = [b for b in same if above is None or b.timestamp <= above.timestamp]
    return max(older or same, key=lambda b: b.timestamp)


def base_for_next(chain: Mapping[int, L], policy: LevelPolicy, now: float) -> L | None:
    """The backup that the next one builds on; None to start a new chain at level 0.

    :param chain: the newest chain, from :func:`resolve`
    :param now: epoch seconds
    """
    if not policy.incremental or not chain:
        return None
    highest = max(chain)
    if policy.max_level and policy.max_level <= highest:
        return None
    if policy.always_level and highest > policy.always_level:
        return None
    age = now - chain[0].level_zero_timestamp
    if policy.restart_always_level and (
        age > policy.restart_always_level * SECONDS_PER_DAY
    ):
        return None
    if policy.always_level and highest == policy.always_level:
        return chain[highest - 1]
    return chain[highest]
