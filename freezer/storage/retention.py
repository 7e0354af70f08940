"""Decides which levels of a name stay, and removes the others.

Each level is a state, which one can restore. It stays if a rule keeps it, or if one
that stays builds on it. A dry run shows the plan that a run carries out.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from freezer.storage import keep, layout, levels, pins
from freezer.storage.backup import Backup, Owner, StoredLevel
from freezer.storage.base import Storage
from freezer.storage.exceptions import IntegrityError

#: clocks may differ by this much: a later date than that is in the future
TOLERATED_SECONDS = 3600


@dataclass(frozen=True)
class Policy:
    """What stays: by ``rules``, or everything of a chain that has a newer level than
    ``cutoff``. Times are epoch seconds.

    :param now: the rules do not count states that are dated later; they stay
    :param whole: level-0 timestamp of a chain of which all stays; without effect on
        ``rules``, which keep the newest state
    :param coming: a backup that a dry run supposes to be made
    :param tags: a state that does not have all of them stays, and does not count
    """

    now: float
    rules: keep.Rules = field(default_factory=keep.Rules)
    cutoff: int = 0
    whole: int | None = None
    coming: Backup | None = None
    tags: Collection[str] = ()


@dataclass
class Decision:
    """Whether a level stays.

    :ivar reasons: the rules that keep the state
    :ivar needed: whether another level that stays builds on it
    :ivar size: bytes of its files without the marker; 0 if nobody had to list them
    """

    stored: StoredLevel
    reasons: list[str] = field(default_factory=list)
    needed: bool = False
    size: int = 0

    @property
    def stays(self) -> bool:
        return self.needed or bool(self.reasons)


@dataclass(frozen=True)
class Plan:
    """The levels of a name on one storage, by chain and level, and what is to be done.

    :param name: ``<host name>_<backup name>``
    :param member: name of the storage among several
    :param levels: all that the name has
    :param files: of each level that goes, committed or not, but for its marker
    """

    storage: Storage
    name: str
    member: str
    decisions: Sequence[Decision]
    levels: Sequence[StoredLevel]
    files: Mapping[Backup, Sequence[str]] = field(default_factory=dict)

    @property
    def removed(self) -> dict[int, list[StoredLevel]]:
        """The levels that go: level-0 timestamp -> levels, oldest first."""
        chains: dict[int, list[StoredLevel]] = {}
        for each in self.decisions:
            if not each.stays:
                stored = each.stored
                chains.setdefault(stored.level_zero_timestamp, []).append(stored)
        return chains

    def carry_out(self) -> None:
        """Delete the levels that go; markers first.

        If interrupted, data without a marker remains, for ``clean_up`` to find.

        :raises PartialDelete: some files are still there
        """
        going = [each for chain in self.removed.values() for each in chain]
        if not going:
            return
        # Highest level first: if interrupted, what is left can be restored.
        markers = [each.paths.marker for each in reversed(going)]
        try:
            self.storage.delete_files(markers)
        finally:
            self._put_back(going[0].backup.engine)
        stay = {each.stored.backup for each in self.decisions if each.stays}
        self.storage.delete_files(
            [
                path
                for at, paths in self.files.items()
                if at not in stay
                for path in paths
            ]
        )

    def _put_back(self, engine: str) -> None:
        """Change the decisions on what was pinned meanwhile."""
        known = {each.stored.backup for each in self.decisions if each.stored.pinned}
        back = pins.put_back(self.storage, engine, self.name, known)
        for each in self.decisions:
            if each.stored.backup in back:
                each.reasons.append('pinned')


def plan(
    storage: Storage,
    engine: str,
    hostname_backup_name: str,
    policy: Policy,
    member: str = '',
    owner: Owner | None = None,
) -> Plan:
    """Decide which levels of a name stay. Changes nothing.

    A level that is being written counts as a level, so what somebody builds on stays.

    :param owner: whose levels may go; None for anybody's
    """
    chains = levels.chains(storage, engine, hostname_backup_name, member)
    everything = [stored for chain in chains.values() for stored in chain]
    if not policy.rules:
        chains = {
            zero: chain
            for zero, chain in chains.items()
            if zero != policy.whole and not _has_newer(chain, policy.cutoff)
        }
    chains = levels.owned(chains, owner)
    decisions = {
        stored.backup: Decision(stored) for chain in chains.values() for stored in chain
    }
    if policy.tags:
        _keep_others(policy.tags, decisions.values())
    if policy.rules:
        _apply(policy, chains, decisions)
    for each in decisions.values():
        if each.stored.pinned:
            each.reasons.append('pinned')
    _keep_bases(policy, chains, decisions)
    files = {}
    if not all(each.reasons for each in decisions.values()):
        files = _list_data(
            storage, engine, hostname_backup_name, policy, chains, decisions
        )
    return Plan(
        storage, hostname_backup_name, member, [*decisions.values()], everything, files
    )


def _has_newer(chain: Iterable[StoredLevel], cutoff: int) -> bool:
    return any(each.timestamp > cutoff for each in chain)


class _State:
    """A level, or the one that is coming, as the rules see it."""

    def __init__(self, backup: Backup, stored: StoredLevel | None) -> None:
        self.backup = backup
        self.timestamp = backup.timestamp
        self.order = backup.timestamp, backup.level_zero_timestamp, backup.level
        self._stored = stored

    @property
    def incomplete(self) -> bool:
        if self._stored is None:
            return False
        try:
            return bool(self._stored.marker.get(layout.INCOMPLETE_KEY))
        except IntegrityError:
            # Its marker is damaged: no complete state gives way to it.
            return True


def _apply(
    policy: Policy,
    chains: Mapping[int, Sequence[StoredLevel]],
    decisions: Mapping[Backup, Decision],
) -> None:
    """Apply the rules to the states that can be restored."""
    states = []
    for chain in chains.values():
        present = {each.level for each in chain}
        for stored in chain:
            if decisions[stored.backup].reasons:
                continue
            if not present.issuperset(range(stored.level)):
                # A lost marker can be put back; until then it takes no place.
                decisions[stored.backup].reasons.append('a level below is missing')
            elif stored.timestamp > policy.now + TOLERATED_SECONDS:
                decisions[stored.backup].reasons.append('dated in the future')
            else:
                states.append(_State(stored.backup, stored))
    if policy.coming is not None:
        states.append(_State(policy.coming, None))
    states.sort(key=lambda each: each.order)
    for state, reasons in keep.kept(states, policy.rules):
        if state.backup in decisions:
            decisions[state.backup].reasons += reasons


def _keep_others(tags: Collection[str], decisions: Collection[Decision]) -> None:
    """Let the states stay that do not have all the tags."""
    levels.fetch_markers(each.stored for each in decisions)
    for each in decisions:
        if not each.stored.has_tags(tags):
            each.reasons.append('without the tag')


def _keep_bases(
    policy: Policy,
    chains: Mapping[int, Sequence[StoredLevel]],
    decisions: Mapping[Backup, Decision],
) -> None:
    """Let everything stay that states which stay build on."""
    for chain in chains.values():
        bases = levels.bases(each.backup for each in chain)
        for stored in chain:
            below = bases.get(stored.backup)
            if not decisions[stored.backup].reasons:
                continue
            while below is not None and not decisions[below].needed:
                decisions[below].needed = True
                below = bases.get(below)
    if policy.coming is not None:
        _mark_needed(policy.coming, chains, decisions)


def _mark_needed(
    backup: Backup,
    chains: Mapping[int, Sequence[StoredLevel]],
    decisions: Mapping[Backup, Decision],
) -> None:
    """Let everything stay that a backup which is not there yet builds on."""
    chain = chains.get(backup.level_zero_timestamp, ())
    for below in levels.needed(backup, [each.backup for each in chain]):
        decisions[below].needed = True


def _list_data(
    storage: Storage,
    engine: str,
    hostname_backup_name: str,
    policy: Policy,
    chains: Mapping[int, Sequence[StoredLevel]],
    decisions: Mapping[Backup, Decision],
) -> dict[Backup, list[str]]:
    """Set the sizes, and let everything stay that a level that is being written needs.

    One listing for all chains.

    :returns: the files of each level that goes
    """
    files: dict[Backup, list[str]] = {}
    root = layout.join(layout.DATA, engine, hostname_backup_name)
    for path, size in storage.list_tree(layout.join(storage.storage_path, root)):
        found = layout.parse(layout.join(root, path))
        # The name of another backup may begin with this one and a slash.
        if found is None or found.identity != hostname_backup_name:
            continue
        if found.level_zero not in chains:
            continue
        backup = levels.backup_at(found)
        full = layout.join(storage.storage_path, root, path)
        files.setdefault(backup, []).append(full)
        if backup in decisions:
            decisions[backup].size += size
    newest = max(backup.timestamp for backup in decisions)
    for backup in files.keys() - decisions.keys():
        chain = chains[backup.level_zero_timestamp]
        if not policy.rules and backup.timestamp > policy.cutoff:
            for stored in chain:
                decisions[stored.backup].reasons.append('a newer level is being made')
        elif policy.rules and backup.timestamp > newest:
            _mark_needed(backup, chains, decisions)
    return {
        backup: files.get(backup, [])
        for zero, chain in chains.items()
        for backup in _going(zero, chain, decisions, files)
    }


def _going(
    zero: int,
    chain: Sequence[StoredLevel],
    decisions: Mapping[Backup, Decision],
    files: Iterable[Backup],
) -> list[Backup]:
    """The levels of a chain to delete; of a chain that goes as a whole, also what was
    never committed."""
    going = [each.backup for each in chain if not decisions[each.backup].stays]
    if len(going) < len(chain):
        return going
    return going + [
        each
        for each in files
        if each.level_zero_timestamp == zero and each not in decisions
    ]
