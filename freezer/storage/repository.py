"""The backups of one storage, or of several that all get every backup."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from freezer.storage import levels, pins, reports, retention
from freezer.storage.backup import Backup, Owner, PendingBackup, StoredLevel
from freezer.storage.base import Storage
from freezer.storage.check import CheckReport, CheckRow, Finding, Result
from freezer.storage.exceptions import AccessDenied, NotFound, StorageException
from freezer.storage.housekeeping import CleanUpReport
from freezer.storage.levels import NoSuchBackup
from freezer.storage.several import Members, PendingOnAll, named
from freezer.storage.verify import ReadStream, Verification, examine
from freezer.utils.rate import Rate

LOG = logging.getLogger(__name__)


class Repository:
    """Storages by name; a single one has the empty name.

    A backup goes to all; :meth:`failure` names those that failed while the others got
    it. A restore reads from the first storage that has the newest backup.

    :param sent: name -> what the storage sends
    """

    def __init__(
        self, storages: Mapping[str, Storage], sent: Mapping[str, Rate] | None = None
    ) -> None:
        self.storages = storages
        self._members = Members(storages, sent)

    @property
    def has_several(self) -> bool:
        """Whether more than one storage gets the backup: none that was set aside."""
        return len(self._members.live) > 1

    def prepare(self) -> None:
        """Create the containers that are missing."""
        self._members.each({n: s.prepare for n, s in self.storages.items()})

    def close(self) -> None:
        for storage in self.storages.values():
            storage.close()

    # Writing

    def begin(self, backup: Backup) -> PendingBackup:
        """Claim the level's place on every storage; on none if another agent has it.

        :raises Conflict: another agent has it
        """
        if '' in self.storages:
            return self.storages[''].begin(backup)
        claims = {
            name: functools.partial(storage.begin, backup)
            for name, storage in self._members.live.items()
        }
        begun = self._members.each(claims, lambda pending: pending.discard())
        return PendingOnAll(backup, self._members, begun)

    def failure(self) -> StorageException | None:
        """The storages that do not have the backup that the others got; None if all
        have it, or if all were set aside, which was raised."""
        errors = self._members.failures
        if not errors or not self._members.live:
            return None
        reasons = '; '.join(error.message for error in errors.values())
        return StorageException(
            f'{reasons}; the backup is complete on {", ".join(self._members.live)}, '
            f'and the next one starts a new chain on all storages'
        )

    def add_index(
        self, level: StoredLevel, index: Path, marker: Mapping[str, Any]
    ) -> None:
        """See :meth:`base.Storage.add_index`."""
        with named(level.member):
            self.storages[level.member].add_index(level, index, marker)

    # Finding

    def plan(
        self,
        engine: str,
        hostname_backup_name: str,
        policy: levels.LevelPolicy,
        now: float,
        owner: Owner | None = None,
    ) -> tuple[list[StoredLevel], int]:
        """As :func:`levels.plan`; an increment needs the same levels on all storages.

        :returns: those of the first storage
        """
        made = self._members.each(
            {
                name: functools.partial(
                    levels.plan,
                    *(storage, engine, hostname_backup_name, policy, now, owner),
                )
                for name, storage in self._members.live.items()
            },
            # Without its container, a dry run has no plan.
            of_all=(NotFound,),
        )
        plans = [below for below, _soonest in made.values()]
        earliest = max(soonest for _below, soonest in made.values())
        if len({tuple(each.backup for each in below) for below in plans}) > 1:
            LOG.warning(
                'the storages do not hold the same backups of %s: starting a new chain '
                'at level 0 on all of them',
                hostname_backup_name,
            )
            return [], earliest
        return plans[0], earliest

    def chains(
        self, engine: str, hostname_backup_name: str
    ) -> dict[int, list[StoredLevel]]:
        """Every chain of a name, from the first storage that has its newest level."""
        found = []
        for name, storage in self._members.live.items():
            with named(name):
                found.append(levels.chains(storage, engine, hostname_backup_name, name))
        return _best(found)

    def chains_after_commit(
        self, engine: str, hostname_backup_name: str
    ) -> dict[int, list[StoredLevel]]:
        """:meth:`chains`, without the storages that now fail: they are set aside."""
        found = self._members.each(
            {
                name: functools.partial(
                    levels.chains, storage, engine, hostname_backup_name, name
                )
                for name, storage in self._members.live.items()
            },
            of_all=(),
        )
        return _best(found.values())

    def members_without(self, engine: str, owners: Sequence[Owner]) -> list[str]:
        """The storages that have no level of any of these owners, nor leftovers of one,
        such as those of a deletion that was interrupted."""
        found = []
        for name, storage in self.storages.items():
            with named(name):
                if not any(levels.has_any(storage, engine, owner) for owner in owners):
                    found.append(name)
        return found

    def find_state(
        self,
        engine: str,
        hostname_backup_name: str,
        date: int | None = None,
        owner: Owner | None = None,
        tags: Collection[str] = (),
    ) -> dict[int, StoredLevel]:
        """As :func:`levels.find_state`, from the first storage that has the newest.

        A storage that cannot be read is skipped, with a warning in the log.
        """
        best: dict[int, StoredLevel] = {}
        problems: list[StorageException] = []
        for name, storage in self.storages.items():
            try:
                with named(name):
                    found = levels.find_state(
                        storage,
                        engine,
                        hostname_backup_name,
                        date,
                        name,
                        owner,
                        tags,
                    )
            except StorageException as error:
                problems.append(error)
                continue
            if not best or _newest(found.values()) > _newest(best.values()):
                best = found
        if best:
            for problem in problems:
                LOG.warning('%s', problem.message)
            return best
        # Report first the storages that could not be read: they may have it.
        problems.sort(key=lambda error: isinstance(error, NoSuchBackup))
        raise problems[0]

    def committed(self) -> list[StoredLevel]:
        """Every level on every storage, one storage after the other."""
        found = []
        for name, storage in self.storages.items():
            with named(name):
                found += levels.committed(storage, name)
        return found

    def complete_data(self) -> list[StoredLevel]:
        """See :func:`levels.complete_data`; of all storages that let us list."""
        found = []
        for name, storage in self.storages.items():
            try:
                with named(name):
                    found += levels.complete_data(storage, name)
            except AccessDenied as error:
                LOG.info('lost markers are not looked for: %s', error.message)
        return found

    # Reading

    def report(self) -> reports.StorageReport:
        found = []
        for name, storage in self.storages.items():
            with named(name):
                found.append(reports.report(storage, name))
        return reports.StorageReport(
            ', '.join(report.container for report in found),
            sum(report.size for report in found),
            sum(report.objects for report in found),
            tuple(chain for report in found for chain in report.chains),
            tuple(prefix for report in found for prefix in report.prefixes),
        )

    def details(self, level: StoredLevel) -> reports.Details:
        """See :func:`reports.details`."""
        with named(level.member):
            return reports.details(level)

    def verify(
        self,
        level: StoredLevel,
        data: bool,
        read: ReadStream | None = None,
        key_opens: bool = False,
    ) -> Verification | None:
        """See :func:`verify.examine`."""
        with named(level.member):
            return examine(level, data, read, key_opens)

    def check(self) -> CheckReport:
        """The rows of all storages; one problem for a storage that cannot be checked.

        :raises StorageException: the only storage cannot be checked
        """
        if '' in self.storages:
            return self.storages[''].check()
        rows: list[CheckRow] = []
        containers = []
        for name, storage in self.storages.items():
            try:
                report = storage.check()
            except StorageException as error:
                finding = Finding(Result.PROBLEM, error.message)
                rows.append(CheckRow('storage', finding, name))
                continue
            containers.append(report.container)
            rows += (dataclasses.replace(row, storage=name) for row in report.rows)
        return CheckReport(', '.join(containers), tuple(rows))

    def time(self) -> float | None:
        """The earliest storage clock, so that retention removes the least."""
        clocks = [storage.time() for storage in self._members.live.values()]
        return min((each for each in clocks if each is not None), default=None)

    # Keeping and removing

    def pin(self, backup: Backup, pinned: bool) -> int:
        """Pin a state on every storage that has it, or remove its pins.

        :returns: on how many storages; of those where it was pinned, to remove pins
        :raises NotFound: retention removed it meanwhile
        """
        count = 0
        for name, storage in self.storages.items():
            with named(name):
                chain = levels.chains(
                    storage, backup.engine, backup.hostname_backup_name, name
                ).get(backup.level_zero_timestamp, [])
                for stored in chain:
                    if stored.backup != backup:
                        continue
                    if pinned:
                        pins.pin(storage, stored, chain)
                    elif stored.pinned:
                        pins.unpin(storage, stored)
                    else:
                        continue
                    count += 1
        return count

    def plan_retention(
        self,
        engine: str,
        hostname_backup_name: str,
        policy: retention.Policy,
        owner: Owner | None = None,
    ) -> list[retention.Plan]:
        """One plan for each storage; see :func:`retention.plan`."""
        plans = []
        for name, storage in self._members.live.items():
            with named(name):
                plans.append(
                    retention.plan(
                        storage, engine, hostname_backup_name, policy, name, owner
                    )
                )
        return plans

    def carry_out(self, plans: Iterable[retention.Plan]) -> None:
        """Delete what the plans say; see :meth:`retention.Plan.carry_out`."""
        for plan in plans:
            with named(plan.member):
                plan.carry_out()

    @contextlib.contextmanager
    def housekeeping(self) -> Iterator[None]:
        """A block in which retention and :meth:`clean_up` share their listings."""
        with contextlib.ExitStack() as stack:
            for storage in self.storages.values():
                stack.enter_context(storage.housekeeping())
            yield

    @property
    def needs_cleanup(self) -> bool:
        return any(storage.needs_cleanup for storage in self.storages.values())

    def clean_up(self, dry_run: bool = False) -> CleanUpReport:
        found = CleanUpReport()
        for name, storage in self.storages.items():
            with named(name):
                one = storage.clean_up(dry_run)
            found = CleanUpReport(
                found.leftovers + one.leftovers, found.old_versions + one.old_versions
            )
        return found


def _best(
    found: Iterable[Mapping[int, list[StoredLevel]]],
) -> dict[int, list[StoredLevel]]:
    best: dict[int, list[StoredLevel]] = {}
    for chains in found:
        for zero, chain in chains.items():
            if zero not in best or _newest(chain) > _newest(best[zero]):
                best[zero] = chain
    return dict(sorted(best.items()))


def _newest(chain: Iterable[StoredLevel]) -> tuple[int, int]:
    last = max(chain, key=lambda each: (each.level, each.timestamp))
    return last.level_zero_timestamp, last.timestamp
