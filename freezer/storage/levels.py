"""Finds levels: the base of the next backup, and the levels of a restore.

The rules are Freezer's, with three fixes: `restart_always_level` counts from level 0
and not from the newest backup (a daily job never restarted); several backups of one
level resolve to the newest, not to the last in the listing; and a chain with a gap is
rejected before anything is extracted.
"""

import contextlib
import itertools
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from freezer.storage import claims, layout
from freezer.storage.backup import Backup, Owner, Readable, StoredLevel
from freezer.storage.exceptions import (
    AccessDenied,
    IntegrityError,
    NotFound,
    StorageException,
)

LOG = logging.getLogger(__name__)

SECONDS_PER_DAY = 86400
# Connections to the store that reading markers may use.
_MARKERS_AT_ONCE = 8


L = TypeVar('L', Backup, StoredLevel)


class BrokenChain(StorageException):
    """A level is missing, so the levels above it cannot be restored."""


class NoSuchBackup(StorageException):
    """Nothing of that name, or nothing as old as that."""


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
    # The levels that exist, as a key may have any number.
    for level in sorted(by_level, reverse=True):
        if level < backup.level:
            above = _newest_below(above, by_level[level])
            found.append(above)
    return found


def bases(backups: Iterable[Backup]) -> dict[Backup, Backup]:
    """Each backup of a chain above level 0 -> the existing one below it that it is
    restored with. Those of :func:`needed` are its base, the base of that, and so on."""
    by_level = _by_level(backups)
    found = {}
    for lower, higher in itertools.pairwise(sorted(by_level)):
        for backup in by_level[higher]:
            found[backup] = _newest_below(backup, by_level[lower])
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


def committed(storage: Readable, member: str = '') -> list[StoredLevel]:
    """Every level in the container, by engine, name, chain, level and time.

    :param member: name of the storage among several
    """
    return _levels(storage, layout.METADATA, member)


def chains(
    storage: Readable, engine: str, hostname_backup_name: str, member: str = ''
) -> dict[int, list[StoredLevel]]:
    """Every level of a name: level-0 timestamp -> its levels, by level and time."""
    root = layout.join(layout.METADATA, engine, hostname_backup_name)
    found: dict[int, list[StoredLevel]] = {}
    for level in _levels(storage, root, member):
        # A name that begins with this one and a slash is below it.
        if level.backup.hostname_backup_name == hostname_backup_name:
            found.setdefault(level.level_zero_timestamp, []).append(level)
    return found


def committed_and_pinned(
    storage: Readable, engine: str, hostname_backup_name: str
) -> tuple[set[Backup], set[Backup]]:
    """The levels of a name that have a marker, and those that have a pin."""
    root = layout.join(layout.METADATA, engine, hostname_backup_name)
    markers, pins = _list_markers(storage, root)
    return (
        {each for each in markers if each.hostname_backup_name == hostname_backup_name},
        {each for each in pins if each.hostname_backup_name == hostname_backup_name},
    )


def is_owned(chain: Iterable[StoredLevel], owner: Owner | None) -> bool:
    """Whether a chain is the owner's, or nobody's; see :func:`known_owner`.

    :param chain: of the owner's identity
    """
    if owner is None or not layout.is_ambiguous(owner.identity):
        return True
    return known_owner(chain) in (owner, None)


def owned(
    chains: Mapping[int, list[StoredLevel]], owner: Owner | None
) -> dict[int, list[StoredLevel]]:
    """The chains that are the owner's, or nobody's."""
    if owner is not None and layout.is_ambiguous(owner.identity):
        fetch_markers(max(c, key=lambda each: each.level) for c in chains.values())
    return {zero: chain for zero, chain in chains.items() if is_owned(chain, owner)}


def readable_marker(stored: StoredLevel) -> Mapping[str, Any] | None:
    """The marker of a level; None if it is damaged, or cannot be read."""
    try:
        return stored.marker
    except AccessDenied:
        return None
    except (NotFound, IntegrityError) as error:
        LOG.warning('%r: %s', stored, error.message)
        return None


def known_owner(chain: Iterable[StoredLevel]) -> Owner | None:
    """The owner of a chain; None if no marker says it, or none can be read.

    Reads one marker; more if it is damaged.
    """
    for each in sorted(chain, key=lambda level: level.level, reverse=True):
        try:
            return each.owner
        except AccessDenied:
            break
        except (NotFound, IntegrityError) as error:
            LOG.warning('the owner of %r is unknown: %s', each, error.message)
    return None


def fetch_markers(found: Iterable[StoredLevel]) -> None:
    """Fetch many markers, some at a time. An error is raised where one is needed."""

    def fetch(stored: StoredLevel) -> None:
        with contextlib.suppress(StorageException):
            _ = stored.marker

    pool = ThreadPoolExecutor(_MARKERS_AT_ONCE, 'markers')
    try:
        for _done in pool.map(fetch, found):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def complete_data(storage: Readable, member: str = '') -> list[StoredLevel]:
    """Every level in the container whose engine's file and a manifest are there, and
    that no agent claims: it should have a marker."""
    names: dict[Backup, set[str]] = {}
    root = layout.join(storage.storage_path, layout.DATA)
    for path, _size in storage.list_tree(root):
        found = layout.parse(layout.join(layout.DATA, path))
        if found is None:
            continue
        name = claims.CLAIM if claims.is_claim(path) else found.name
        if layout.is_manifest(name):
            name = layout.MANIFEST
        if name in (layout.MANIFEST, layout.ENGINE_METADATA, claims.CLAIM):
            names.setdefault(backup_at(found), set()).add(name)
    return [
        StoredLevel(storage, backup, member)
        for backup, there in names.items()
        if there == {layout.MANIFEST, layout.ENGINE_METADATA}
    ]


def identities_elsewhere(stored: StoredLevel) -> Iterator[tuple[StoredLevel, bytes]]:
    """The files with the key of the chain that its other levels have, as far as they
    can be read."""
    backup = stored.backup
    name = backup.engine, backup.hostname_backup_name
    try:
        there = chains(stored.storage, *name, stored.member)
    except StorageException as error:
        LOG.info('the other levels of %r are unknown: %s', stored, error.message)
        return
    for other in there.get(stored.level_zero_timestamp, ()):
        if other.backup == backup:
            continue
        try:
            yield other, other.identity
        except StorageException as error:
            LOG.info('%r has no key to read: %s', other, error.message)


def has_any(storage: Readable, engine: str, owner: Owner) -> bool:
    """Whether there is a level of the owner, or anything in its folder if there is no
    level there."""
    there = chains(storage, engine, owner.identity)
    if there:
        return any(is_owned(chain, owner) for chain in there.values())
    root = layout.join(storage.storage_path, layout.DATA, engine, owner.identity)
    return any(True for _file in storage.list_tree(root))


def _levels(storage: Readable, root: str, member: str) -> list[StoredLevel]:
    """Every level below a path, by engine, name, chain, level and time."""
    markers, pins = _list_markers(storage, root)
    return [StoredLevel(storage, each, member, each in pins) for each in markers]


def _list_markers(storage: Readable, root: str) -> tuple[list[Backup], set[Backup]]:
    """The levels below a path that have a marker, sorted, and those that have a pin."""
    markers, pins = [], set()
    for path, _size in storage.list_tree(layout.join(storage.storage_path, root)):
        found = layout.parse(layout.join(root, path))
        if found is None:
            continue
        if found.name == layout.METADATA:
            markers.append(found)
        elif found.name == layout.PINNED:
            pins.add(backup_at(found))
    return [*map(backup_at, sorted(markers))], pins


def backup_at(found: layout.Location) -> Backup:
    return Backup(
        found.engine, found.identity, found.level_zero, found.timestamp, found.level
    )


def find_state(
    storage: Readable,
    engine: str,
    hostname_backup_name: str,
    date: int | None = None,
    member: str = '',
    owner: Owner | None = None,
    tags: Collection[str] = (),
) -> dict[int, StoredLevel]:
    """The newest state not after a date (epoch seconds): level -> stored level.

    :param owner: whose; None for anybody's
    :param tags: only a state that has all of them

    :raises NoSuchBackup: there is none
    :raises BrokenChain: a level is missing
    """
    there = chains(storage, engine, hostname_backup_name, member)
    in_time = {
        zero: [each for each in chain if date is None or each.timestamp <= date]
        for zero, chain in there.items()
        if date is None or zero <= date
    }
    newest, state = next(
        (
            (zero, state)
            for zero in sorted(in_time, reverse=True)
            if in_time[zero]
            and is_owned(in_time[zero], owner)
            and (state := _with_tags(in_time[zero], tags))
        ),
        (0, []),
    )
    if not state:
        raise NoSuchBackup(
            f'no backup of {hostname_backup_name} (engine {engine})'
            + (' with these tags' if tags else '')
            + (' at or before that date' if there else '')
        )
    try:
        return resolve(state)
    except BrokenChain as error:
        raise BrokenChain(
            f'{hostname_backup_name}, chain {newest}: {error.message}; '
            f'--restore-from-date with an earlier date finds an earlier state'
        ) from error


def _with_tags(
    chain: Sequence[StoredLevel], tags: Collection[str]
) -> list[StoredLevel]:
    """The levels of the newest state that has these tags; all levels for no tags."""
    if not tags:
        return list(chain)
    fetch_markers(chain)
    tagged = [each for each in chain if each.has_tags(tags)]
    newest = max(tagged, key=lambda each: each.timestamp, default=None)
    return [] if newest is None else [newest, *needed(newest, chain)]


def plan(
    storage: Readable,
    engine: str,
    hostname_backup_name: str,
    policy: LevelPolicy,
    now: float,
    owner: Owner | None = None,
) -> tuple[list[StoredLevel], int]:
    """The levels that the next backup builds on, and its earliest timestamp.

    Keys that may not list get a new chain, if a full backup is all that is asked for.

    :param now: epoch seconds
    :param owner: whose backups it may build on; None for anybody's
    :returns: the levels from level 0 up, none for a new chain; and one second after the
        newest backup of the name, 0 if there is none
    """
    try:
        there = chains(storage, engine, hostname_backup_name)
    except AccessDenied as error:
        if policy.needs_listing:
            raise AccessDenied(
                f'{error.message}; keys that may not list can make full backups only: '
                f'without --incremental, and without removing old ones'
            ) from error
        LOG.info('existing backups are unknown: %s', error.message)
        return [], 0
    if not there:
        return [], 0
    newest = max(each.timestamp for chain in there.values() for each in chain)
    if not policy.incremental:
        return [], newest + 1
    mine = (there[zero] for zero in sorted(there, reverse=True))
    levels = next((chain for chain in mine if is_owned(chain, owner)), [])
    try:
        chain = resolve(levels)
    except BrokenChain as error:
        # A new level 0 is a good backup; an increment on a gap never is one.
        LOG.warning('%s: starting a new chain at level 0', error)
        return [], newest + 1
    base = base_for_next(chain, policy, now)
    below = [] if base is None else [chain[level] for level in range(base.level + 1)]
    return below, newest + 1
