"""The same backup on several storages at once."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Self

from freezer.storage import levels
from freezer.storage.base import (
    Backup,
    ChainReport,
    Named,
    NoSuchBackup,
    Storage,
    StorageReport,
    StorageSettings,
)
from freezer.storage.check import CheckReport, CheckRow, Finding, Result
from freezer.storage.details import Details
from freezer.storage.exceptions import StorageConfigError, StorageException
from freezer.storage.housekeeping import Tidied
from freezer.storage.verify import Verification
from freezer.utils.blocks import Block
from freezer.utils.streaming import ConsumerGone, RichQueue

LOG = logging.getLogger(__name__)

_QUEUE_BLOCKS = 2


class MultipleStorage(Storage):
    """Members that all get every backup, or none does.

    A member that fails fails the backup, and the error says which. A restore reads from
    the first member that has the newest backup.

    :param storages: name -> member
    """

    _type = 'multiple'

    def __init__(self, storages: dict[str, Storage]) -> None:
        self.storages = storages
        super().__init__(skip_prepare=True)

    @classmethod
    def from_settings(cls, settings: StorageSettings) -> Self:
        raise StorageConfigError(
            'a multiple storage is made by the [storage:NAME] sections of a job file'
        )

    def prepare(self) -> None:
        for name, storage in self.storages.items():
            with _named(name):
                storage.prepare()

    def claim(self, backup: Backup) -> None:
        claimed: list[str] = []
        try:
            for name, storage in self.storages.items():
                with _named(name):
                    storage.claim(backup)
                claimed.append(name)
        except BaseException:
            try:
                self._discard(backup, claimed)
            except StorageException as error:
                LOG.error('a claim remains: %s', error.message)
            raise

    def write_backup(self, rich_queue: RichQueue, backup: Backup) -> None:
        """One thread and queue a member; the slowest sets the pace."""
        queues = {name: RichQueue(_QUEUE_BLOCKS) for name in self.storages}
        errors: dict[str, BaseException] = {}

        def write(name: str) -> None:
            try:
                with _named(name):
                    self.storages[name].write_backup(
                        rich_queue=queues[name], backup=backup
                    )
            except BaseException as error:  # noqa: BLE001 - raised below
                errors[name] = error
                self.cancel()
            finally:
                queues[name].close()

        failure: BaseException | None = None
        with ThreadPoolExecutor(len(queues), 'store') as pool:
            # Futures: a thread whose join() was interrupted counts as ended, in Python
            # before 3.13, while it goes on.
            members = [pool.submit(write, name) for name in queues]

            def end() -> None:
                for queue in queues.values():
                    with contextlib.suppress(ConsumerGone):
                        queue.end(failure)
                wait(members)

            try:
                try:
                    for message in rich_queue.get_messages():
                        for queue in queues.values():
                            queue.put(message)
                except ConsumerGone:
                    failure = _MemberFailed('another member of the storage failed')
                end()
            except BaseException as error:
                # It may have come while the members were waited for. Nobody may write
                # any more when this is discarded.
                failure = error
                self.cancel()
                end()
                raise
        first = [e for e in errors.values() if not isinstance(e, _MemberFailed)]
        if first:
            raise first[0]
        if failure is not None:
            raise StorageException(
                'a member stopped reading before the end: run the backup again'
            )

    def cancel(self) -> None:
        for storage in self.storages.values():
            storage.cancel()

    def put_identity(self, identity: bytes, backup: Backup) -> None:
        for name, storage in self.storages.items():
            with _named(name):
                storage.put_identity(identity, backup)

    def put_metadata(
        self, engine_metadata_path: str, freezer_metadata_path: str, backup: Backup
    ) -> None:
        """All members commit, or the caller discards the backup on all of them."""
        for name, storage in self.storages.items():
            with _named(name):
                storage.put_metadata(
                    engine_metadata_path, freezer_metadata_path, backup
                )

    def discard(self, backup: Backup) -> None:
        self._discard(backup, list(self.storages))

    def _discard(self, backup: Backup, names: Sequence[str]) -> None:
        """On every member, whatever becomes of the others; then the first error."""
        errors = []
        for name in names:
            try:
                with _named(name):
                    self.storages[name].discard(backup)
            except StorageException as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def backup_blocks(self, backup: Backup) -> Iterator[Block]:
        return self._member_of(backup).backup_blocks(backup)

    def size_of(self, backup: Backup) -> int | None:
        return self._member_of(backup).size_of(backup)

    def get_file(self, from_path: str, to_path: str) -> None:
        raise StorageException(
            f'{from_path}: ask the member that has it (Backup.storage)'
        )

    def _member_of(self, backup: Backup) -> Storage:
        if backup.storage is None or backup.storage is self:
            raise StorageException(f'{backup!r} is on no member')
        return backup.storage

    def get_chains(
        self, engine: Named, hostname_backup_name: str
    ) -> dict[int, list[Backup]]:
        """Of every chain, the backups of the first member that has its newest one."""
        best: dict[int, list[Backup]] = {}
        for name, storage in self.storages.items():
            with _named(name):
                found = storage.get_chains(engine, hostname_backup_name)
            for zero, chain in found.items():
                if zero not in best or _newest(chain) > _newest(best[zero]):
                    best[zero] = chain
        return dict(sorted(best.items()))

    def backups(self) -> list[Backup]:
        """What every member has, one member after the other."""
        found = []
        for name, storage in self.storages.items():
            with _named(name):
                found += storage.backups()
        return found

    def verify(self, backup: Backup, data: bool) -> Verification | None:
        with _named(self.member_name(backup)):
            return self._member_of(backup).verify(backup, data)

    def details(self, backup: Backup) -> Details:
        with _named(self.member_name(backup)):
            return self._member_of(backup).details(backup)

    def member_name(self, backup: Backup) -> str:
        member = self._member_of(backup)
        return next(name for name, one in self.storages.items() if one is member)

    def plan(
        self,
        engine: Named,
        hostname_backup_name: str,
        policy: levels.LevelPolicy,
        now: float,
    ) -> tuple[Backup | None, int]:
        """An increment only where every member has the same base."""
        bases = []
        earliest = 0
        for name, storage in self.storages.items():
            with _named(name):
                base, soonest = storage.plan(engine, hostname_backup_name, policy, now)
            bases.append(base)
            earliest = max(earliest, soonest)
        if len({_place(base) for base in bases}) > 1:
            LOG.warning(
                'the storages do not hold the same backups of %s: starting a new chain '
                'at level 0 on all of them',
                hostname_backup_name,
            )
            return None, earliest
        return bases[0], earliest

    def get_latest_level_zero_increments(
        self,
        engine: Named,
        hostname_backup_name: str,
        recent_to_date: int | None = None,
    ) -> dict[int, Backup]:
        """From the first member that has the newest; one that cannot be read is passed
        over, and said."""
        best: dict[int, Backup] = {}
        problems: list[StorageException] = []
        for name, storage in self.storages.items():
            try:
                with _named(name):
                    found = storage.get_latest_level_zero_increments(
                        engine, hostname_backup_name, recent_to_date
                    )
            except StorageException as error:
                LOG.warning('%s', error.message)
                problems.append(error)
                continue
            if not best or _newest(list(found.values())) > _newest(list(best.values())):
                best = found
        if best:
            return best
        # A member that could not be read may have it: that comes before "none".
        problems.sort(key=lambda error: isinstance(error, NoSuchBackup))
        raise problems[0]

    def report(self) -> StorageReport:
        reports = []
        chains: list[ChainReport] = []
        for name, storage in self.storages.items():
            with _named(name):
                report = storage.report()
            reports.append(report)
            chains += (dataclasses.replace(c, storage=name) for c in report.chains)
        return StorageReport(
            ', '.join(report.container for report in reports),
            sum(report.size for report in reports),
            sum(report.objects for report in reports),
            tuple(chains),
        )

    def check(self) -> CheckReport:
        """A member that cannot be checked at all has one row, a problem."""
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

    def remove_older_than(
        self,
        engine: Named,
        remove_older_timestamp: int,
        hostname_backup_name: str,
        keep: int | None = None,
        dry_run: bool = False,
    ) -> list[list[Backup]]:
        removed = []
        for name, storage in self.storages.items():
            with _named(name):
                removed += storage.remove_older_than(
                    engine, remove_older_timestamp, hostname_backup_name, keep, dry_run
                )
        return removed

    def time(self) -> float | None:
        """The earliest: by it, the least is old."""
        told = [storage.time() for storage in self.storages.values()]
        return min((each for each in told if each is not None), default=None)

    @contextlib.contextmanager
    def housekeeping(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for storage in self.storages.values():
                stack.enter_context(storage.housekeeping())
            yield

    @property
    def tidies(self) -> bool:
        return any(storage.tidies for storage in self.storages.values())

    def tidy(self, dry_run: bool = False) -> Tidied:
        found = Tidied()
        for name, storage in self.storages.items():
            with _named(name):
                one = storage.tidy(dry_run)
            found = Tidied(
                found.leftovers + one.leftovers, found.old_versions + one.old_versions
            )
        return found

    def close(self) -> None:
        for storage in self.storages.values():
            storage.close()


class _MemberFailed(StorageException):
    """What the members that did not fail are stopped with."""


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """An error says which member it is from."""
    try:
        yield
    except _MemberFailed:
        raise
    except StorageException as error:
        raise type(error)(f'[storage:{name}]: {error.message}') from error


def _newest(chain: Sequence[Backup]) -> tuple[int, int]:
    last = max(chain, key=lambda backup: (backup.level, backup.timestamp))
    return last.level_zero_timestamp, last.timestamp


def _place(base: Backup | None) -> tuple[int, int, int] | None:
    if base is None:
        return None
    return base.level_zero_timestamp, base.level, base.timestamp
