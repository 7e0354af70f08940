"""The backups of one storage, or of several that all get every backup."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from freezer.storage import levels, reports, retention
from freezer.storage.backup import (
    Backup,
    Owner,
    PendingBackup,
    StoredLevel,
    WrittenBackup,
)
from freezer.storage.base import Storage
from freezer.storage.check import CheckReport, CheckRow, Finding, Result
from freezer.storage.exceptions import AccessDenied, StorageException
from freezer.storage.housekeeping import CleanUpReport
from freezer.storage.levels import NoSuchBackup
from freezer.storage.verify import ReadStream, Verification, examine
from freezer.utils.blocks import Block
from freezer.utils.streaming import ConsumerGone, RichQueue

LOG = logging.getLogger(__name__)

_QUEUE_BLOCKS = 2


class Repository:
    """Storages by name; a single one has the empty name.

    A storage that fails fails the backup, and the error names it. A restore reads from
    the first storage that has the newest backup.
    """

    def __init__(self, storages: Mapping[str, Storage]) -> None:
        self.storages = storages

    def prepare(self) -> None:
        """Create the containers that are missing."""
        for name, storage in self.storages.items():
            with _named(name):
                storage.prepare()

    def close(self) -> None:
        for storage in self.storages.values():
            storage.close()

    # Writing

    def begin(self, backup: Backup) -> PendingBackup:
        """Claim the level's place on every storage, or on none.

        :raises Conflict: another agent has it
        """
        if '' in self.storages:
            return self.storages[''].begin(backup)
        begun: dict[str, PendingBackup] = {}
        pending = _PendingOnAll(backup, begun)
        try:
            for name, storage in self.storages.items():
                with _named(name):
                    begun[name] = storage.begin(backup)
        except BaseException:
            try:
                pending.discard()
            except StorageException as error:
                LOG.error('a claim remains: %s', error.message)
            raise
        return pending

    def add_index(
        self, level: StoredLevel, index: Path, marker: Mapping[str, Any]
    ) -> None:
        """See :meth:`base.Storage.add_index`."""
        with _named(level.member):
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
        plans = []
        earliest = 0
        for name, storage in self.storages.items():
            with _named(name):
                below, soonest = levels.plan(
                    storage, engine, hostname_backup_name, policy, now, owner
                )
            plans.append(below)
            earliest = max(earliest, soonest)
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
        best: dict[int, list[StoredLevel]] = {}
        for name, storage in self.storages.items():
            with _named(name):
                found = levels.chains(storage, engine, hostname_backup_name, name)
            for zero, chain in found.items():
                if zero not in best or _newest(chain) > _newest(best[zero]):
                    best[zero] = chain
        return dict(sorted(best.items()))

    def find_state(
        self,
        engine: str,
        hostname_backup_name: str,
        date: int | None = None,
        owner: Owner | None = None,
    ) -> dict[int, StoredLevel]:
        """As :func:`levels.find_state`, from the first storage that has the newest.

        A storage that cannot be read is skipped, with a warning in the log.
        """
        best: dict[int, StoredLevel] = {}
        problems: list[StorageException] = []
        for name, storage in self.storages.items():
            try:
                with _named(name):
                    found = levels.find_state(
                        storage, engine, hostname_backup_name, date, name, owner
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
            with _named(name):
                found += levels.committed(storage, name)
        return found

    def complete_data(self) -> list[StoredLevel]:
        """See :func:`levels.complete_data`; of all storages that let us list."""
        found = []
        for name, storage in self.storages.items():
            try:
                with _named(name):
                    found += levels.complete_data(storage, name)
            except AccessDenied as error:
                LOG.info('lost markers are not looked for: %s', error.message)
        return found

    # Reading

    def report(self) -> reports.StorageReport:
        found = []
        for name, storage in self.storages.items():
            with _named(name):
                found.append(reports.report(storage, name))
        return reports.StorageReport(
            ', '.join(report.container for report in found),
            sum(report.size for report in found),
            sum(report.objects for report in found),
            tuple(chain for report in found for chain in report.chains),
        )

    def details(self, level: StoredLevel) -> reports.Details:
        """See :func:`reports.details`."""
        with _named(level.member):
            return reports.details(level)

    def verify(
        self,
        level: StoredLevel,
        data: bool,
        read: ReadStream | None = None,
        key_opens: bool = False,
    ) -> Verification | None:
        """See :func:`verify.examine`."""
        with _named(level.member):
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
        clocks = [storage.time() for storage in self.storages.values()]
        return min((each for each in clocks if each is not None), default=None)

    # Removing

    def remove_older_than(
        self,
        engine: str,
        hostname_backup_name: str,
        cutoff: int,
        keep: int | None = None,
        dry_run: bool = False,
        owner: Owner | None = None,
    ) -> list[list[StoredLevel]]:
        """On every storage; see :func:`retention.remove_older_than`."""
        removed = []
        for name, storage in self.storages.items():
            with _named(name):
                removed += retention.remove_older_than(
                    *(storage, engine, hostname_backup_name, cutoff, keep),
                    *(dry_run, name, owner),
                )
        return removed

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
            with _named(name):
                one = storage.clean_up(dry_run)
            found = CleanUpReport(
                found.leftovers + one.leftovers, found.old_versions + one.old_versions
            )
        return found


class _PendingOnAll(PendingBackup):
    """A level being written to several storages at once.

    :param storages: name -> the same level on that storage
    """

    def __init__(self, backup: Backup, storages: Mapping[str, PendingBackup]) -> None:
        super().__init__(backup)
        self._storages = storages

    def put_identity(self, identity: bytes) -> None:
        for name, pending in self._storages.items():
            with _named(name):
                pending.put_identity(identity)

    def write(self, blocks: Iterable[Block]) -> WrittenBackup:
        """One thread and queue for each storage; the slowest sets the pace."""
        queues = {name: RichQueue(_QUEUE_BLOCKS) for name in self._storages}
        written: dict[str, WrittenBackup] = {}
        errors: list[BaseException] = []

        def write(name: str) -> None:
            try:
                with _named(name):
                    written[name] = self._storages[name].write(
                        queues[name].get_messages()
                    )
            except BaseException as error:  # noqa: BLE001 - raised below
                errors.append(error)
                self.cancel()
            finally:
                queues[name].close()

        failure: BaseException | None = None
        with ThreadPoolExecutor(len(queues), 'store') as pool:
            # Not Thread.join: before Python 3.13, a thread whose join was interrupted
            # counts as ended while it still runs.
            members = [pool.submit(write, name) for name in queues]

            def end() -> None:
                for queue in queues.values():
                    with contextlib.suppress(ConsumerGone):
                        queue.end(failure)
                wait(members)

            try:
                try:
                    for block in blocks:
                        for queue in queues.values():
                            queue.put(block)
                except ConsumerGone:
                    failure = _OtherFailed('another storage failed')
                end()
            except BaseException as error:
                # Possibly raised while waiting. No thread may write any more when the
                # backup is discarded.
                failure = error
                self.cancel()
                end()
                raise
        first = [error for error in errors if not isinstance(error, _OtherFailed)]
        if first:
            raise first[0]
        if failure is not None:
            raise StorageException(
                'a storage stopped reading before the end: run the backup again'
            )
        return _WrittenOnAll({name: written[name] for name in self._storages})

    def cancel(self) -> None:
        for pending in self._storages.values():
            pending.cancel()

    def discard(self) -> None:
        """On every storage, even after errors; then the first error is raised."""
        errors = []
        for name, pending in self._storages.items():
            try:
                with _named(name):
                    pending.discard()
            except StorageException as error:
                errors.append(error)
        if errors:
            raise errors[0]


class _WrittenOnAll(WrittenBackup):
    def __init__(self, storages: Mapping[str, WrittenBackup]) -> None:
        self._storages = storages

    def commit(
        self,
        engine_metadata: Path,
        marker: Mapping[str, Any],
        index: Path | None = None,
    ) -> None:
        for name, written in self._storages.items():
            with _named(name):
                written.commit(engine_metadata, marker, index)


class _OtherFailed(StorageException):
    """Ends the stream to the storages that did not fail."""


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the name of the storage, if it has one, in front of its errors."""
    try:
        yield
    except StorageException as error:
        if not name or isinstance(error, _OtherFailed):
            raise
        raise type(error)(f'[storage:{name}]: {error.message}') from error


def _newest(chain: Iterable[StoredLevel]) -> tuple[int, int]:
    last = max(chain, key=lambda each: (each.level, each.timestamp))
    return last.level_zero_timestamp, last.timestamp
