"""Action copy: backups from one storage to another."""

import contextlib
import dataclasses
import logging
import shutil
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from freezer.engine.backup import temporary_space
from freezer.exceptions import FreezerError
from freezer.job.job import MAX_LISTED, Job, Outcome, Table, describe_levels, iso
from freezer.storage import copies, layout, levels, manifest, pins
from freezer.storage.backup import Backup, StoredLevel
from freezer.storage.base import Storage
from freezer.storage.exceptions import (
    Archived,
    Cancelled,
    Conflict,
    IntegrityError,
    NotFound,
    Rejected,
    StorageException,
)
from freezer.storage.levels import NoSuchBackup
from freezer.storage.several import named
from freezer.utils import human, signals

LOG = logging.getLogger(__name__)

COPIED = 'copied'
COMPLETED = 'completed'
PRESENT = 'present'
TO_COPY = 'to copy'
TO_COMPLETE = 'to complete'
REFUSED = 'refused'
DAMAGED = 'damaged'
REMOVED = 'removed'
NOT_COPIED = 'not copied'
# What is there, or would be without a dry run.
_GOOD = (COPIED, COMPLETED, PRESENT, TO_COPY, TO_COMPLETE)
# Errors of one level; others concern a storage.
_OF_A_LEVEL = (IntegrityError, NotFound, Conflict, Rejected, Archived)

# Engine, identity and level-0 timestamp.
_Chain = tuple[str, str, int]


@dataclass(eq=False)
class _Item:
    """A level to copy, and what came of it.

    :param chain: all levels of its chain on the source
    :param there: the level of this place and time on the other storage
    :param base: the level below, which is copied before it
    :param result: empty until it is decided
    :param copied: bytes of its streams that were copied
    """

    stored: StoredLevel
    chain: Collection[Backup]
    there: StoredLevel | None
    base: '_Item | None'
    result: str = ''
    reason: str = ''
    size: int | None = None
    copied: int = 0
    digests: bool = True
    decided: threading.Event = field(default_factory=threading.Event)

    @property
    def backup(self) -> Backup:
        return self.stored.backup

    @property
    def is_good(self) -> bool:
        return self.result in _GOOD

    @property
    def is_wrong(self) -> bool:
        """Whether it should be there, and is not."""
        return not self.is_good and self.result != REMOVED

    def count(self, size: int) -> None:
        self.copied += size


class _BaseMissingError(Exception):
    """The level below was not copied."""


class CopyJob(Job):
    """Copies the selected backups to the storage of ``--copy-to``. Levels that are
    there are compared; nothing is ever replaced or deleted there."""

    takes_tag = True

    def check_options(self) -> None:
        super().check_options()
        # Its options may be malformed.
        _target = self._target

    @cached_property
    def _target(self) -> copies.Target:
        assert self.config.copy_target is not None
        driver, settings = self.config.copy_target
        storage: Storage = driver.from_settings(
            dataclasses.replace(
                settings,
                sending=self.progress.sending,
                receiving=self.progress.receiving,
                progress=self.progress,
            )
        )
        return copies.Target(storage)

    @property
    def _where(self) -> str:
        return f'[storage:{self.config.copy_to}]'

    def execute(self) -> Outcome:
        with contextlib.closing(self._target.storage):
            return self._execute()

    def _execute(self) -> Outcome:
        config = self.config
        self.progress.phase = 'Looking for backups'
        chains = self._chains()
        with named(config.copy_to or ''):
            if not config.dry_run:
                self._target.prepare()
            items = self._plan(chains, self._present())
        failure: StorageException | FreezerError | None = self._copy(items)
        outcome = Outcome(self._document(items, failure is None))
        outcome.tables = [self._table(items)]
        outcome.lines = [*_problems(items, config.log_file), self._summary(items)]
        wrong = [each for each in items if each.is_wrong]
        if failure is None and wrong:
            failure = FreezerError(
                f'{len(wrong)} of {human.number(len(items), "backup")} '
                f'{"is" if len(wrong) == 1 else "are"} not on {self._where}: see the '
                f'result'
            )
        outcome.failure = failure
        return outcome

    # Choosing

    def _chains(self) -> dict[_Chain, tuple[list[StoredLevel], list[StoredLevel]]]:
        """Of each chain that has selected levels: these, from level 0 up, and all.

        :raises NoSuchBackup: none is selected
        """
        config = self.config
        committed = self.repository.committed()
        mine = [
            each
            for each in committed
            if self.may_be_selected(each.backup.hostname_backup_name)
        ]
        levels.fetch_markers(mine)
        mine = [each for each in mine if self.is_selected(each)]
        chains: dict[_Chain, list[StoredLevel]] = {}
        for (chain, _member), found in _by_member(mine).items():
            if chain not in chains or _newest(found) > _newest(chains[chain]):
                chains[chain] = found
        selected = {
            chain: chosen
            for chain, found in chains.items()
            if (chosen := self._selected(chains, chain, found))
        }
        if not selected:
            container = ', '.join(each.container for _, each in config.storages)
            present = [each.backup.hostname_backup_name for each in committed]
            raise NoSuchBackup(
                f'No backup in {container} has this tag, or is as old as that'
                if mine
                else self.none_selected(container, present)
            )
        return {
            chain: (selected[chain], chains[chain])
            for chain in sorted(selected, key=lambda each: each[2], reverse=True)
        }

    def _selected(
        self,
        chains: dict[_Chain, list[StoredLevel]],
        chain: _Chain,
        found: list[StoredLevel],
    ) -> list[StoredLevel]:
        """The selected levels of a chain, and all that they need, from level 0 up."""
        config = self.config
        chosen = [each for each in found if not config.tag or each.has_tags(config.tag)]
        cutoff = self.cutoff(config.restore_from_date)
        same = [each for name, each in chains.items() if name[:2] == chain[:2]]
        times = sorted(
            each.timestamp
            for some in same
            for each in some
            if (cutoff is None or each.timestamp <= cutoff)
            and (not config.tag or each.has_tags(config.tag))
        )
        newest = config.last or (cutoff is not None)
        if newest:
            chosen = [each for each in chosen if each.timestamp in times[-newest:]]
        needed = {
            below.backup for each in chosen for below in levels.needed(each, found)
        }
        needed |= {each.backup for each in chosen}
        return sorted(
            (each for each in found if each.backup in needed),
            key=lambda each: (each.level, each.timestamp),
        )

    def _present(self) -> dict[Backup, StoredLevel]:
        """The levels on the other storage."""
        try:
            there = levels.committed(self._target.storage)
        except NotFound:
            if not self.config.dry_run:
                raise
            there = []
        return {each.backup: each for each in there}

    def _plan(
        self,
        chains: dict[_Chain, tuple[list[StoredLevel], list[StoredLevel]]],
        present: dict[Backup, StoredLevel],
    ) -> list[_Item]:
        """The levels in the order in which they are copied: each after its base, those
        of the newest chains first."""
        items = []
        for chain, (selected, every) in chains.items():
            source = {each.backup for each in every}
            bases = levels.bases(source)
            there = {each for each in present if _chain_of(each) == chain}
            made: dict[Backup, _Item] = {}
            for stored in selected:
                backup = stored.backup
                base = bases.get(backup)
                item = _Item(
                    *(stored, source, present.get(backup)),
                    base=made.get(base) if base else None,
                )
                item.reason = copies.misplaced(backup, source, there)
                if item.reason:
                    item.result = REFUSED
                else:
                    there.add(backup)
                made[backup] = item
                items.append(item)
        return items

    # Copying

    def _copy(self, items: Sequence[_Item]) -> StorageException | None:
        """Decide all items. :returns: the error that ended it early"""
        cancellation = copies.Cancellation()
        self.progress.begin()
        with temporary_space(), _folder() as folder:
            with ThreadPoolExecutor(self.config.copy_parallel, 'copy') as pool:
                futures = [
                    pool.submit(self._decide, each, folder / str(number), cancellation)
                    for number, each in enumerate(items)
                ]
                try:
                    self._wait(futures)
                finally:
                    # After an error or a signal, the copies under way are discarded.
                    cancellation.set()
                    pool.shutdown(wait=True, cancel_futures=True)
            for item in items:
                item.result = item.result or NOT_COPIED
            return _failure(futures)

    def _wait(self, futures: Sequence['Future[None]']) -> None:
        """Until all are done, or one has failed."""
        waiting = set(futures)
        while waiting:
            count = len(futures) - len(waiting)
            self.progress.phase = f'Copying, {count} of {len(futures)} done'
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            if any(each.exception() for each in done):
                return

    def _decide(
        self, item: _Item, folder: Path, cancellation: copies.Cancellation
    ) -> None:
        """:raises StorageException: a storage fails"""
        if cancellation.is_set:
            return
        try:
            with self._errors_of(item):
                self._copy_one(item, folder, cancellation)
        finally:
            item.decided.set()
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def _errors_of(self, item: _Item) -> Iterator[None]:
        """A block whose error is the result of the item, if it is of that alone."""
        try:
            yield
        except _BaseMissingError:
            item.result = NOT_COPIED
            item.reason = 'the level below was not copied'
        except _OF_A_LEVEL as error:
            LOG.debug('where it was raised', exc_info=True)
            # That is no damage.
            if isinstance(error, IntegrityError | NotFound) and _is_removed(item):
                item.result, item.reason = REMOVED, 'removed from the source meanwhile'
                return
            damaged = isinstance(error, IntegrityError)
            item.result = DAMAGED if damaged else NOT_COPIED
            item.reason = error.message

    def _copy_one(
        self, item: _Item, folder: Path, cancellation: copies.Cancellation
    ) -> None:
        stored = item.stored
        folder.mkdir(mode=0o700)
        if item.base is not None and item.base.decided.is_set():
            _require(item.base)
        if item.result:
            return
        with named(stored.member):
            item.size = stored.size
            item.digests = all(each.token for each in stored.streams.values())

        def count(size: int) -> None:
            item.count(size)
            self.progress.add_stored(size)

        def wait_for_base() -> None:
            if item.base is not None:
                with cancellation.calls(item.base.decided.set):
                    item.base.decided.wait()
                cancellation.check()
                _require(item.base)

        copy = copies.LevelCopy(
            *(stored, item.chain, self._target, folder, cancellation, count)
        )
        if item.there is None:
            copy.checked_marker()
            if self.config.dry_run:
                wait_for_base()
                item.result = TO_COPY
                return
            try:
                copy.run(wait_for_base)
                item.result = COPIED
                LOG.info('copied %r to %s', stored, self._where)
            except Conflict:
                # Perhaps another copy has just finished it.
                item.there = self._now_there(item)
                if item.there is None:
                    raise
        if item.there is not None:
            self._compare(item, item.there, copy)
            wait_for_base()
        self._pin(item)

    def _now_there(self, item: _Item) -> StoredLevel | None:
        stored = StoredLevel(self._target.storage, item.backup)
        try:
            self._target.storage.stat(stored.paths.marker)
        except NotFound:
            return None
        return stored

    def _compare(self, item: _Item, there: StoredLevel, copy: copies.LevelCopy) -> None:
        stored = item.stored
        reason = copies.difference(stored, there, self.config.verify_data)
        if reason:
            item.result = REFUSED
            item.reason = f'{self._where} has another backup of this time: {reason}'
            return
        item.result = PRESENT
        missing = manifest.INDEX_KEY in stored.marker and (
            manifest.INDEX_KEY not in there.marker
        )
        if not missing:
            return
        item.result = TO_COMPLETE if self.config.dry_run else COMPLETED
        if not self.config.dry_run:
            index = copy.index()
            assert index is not None
            self._target.storage.add_index(there, index, copies.content(stored.marker))

    def _pin(self, item: _Item) -> None:
        """Pin a state that is pinned on the source."""
        there = item.there
        if not item.is_good or not item.stored.pinned or (there and there.pinned):
            return
        if there is not None:
            item.result = TO_COMPLETE if self.config.dry_run else COMPLETED
        if self.config.dry_run:
            return
        storage, backup = self._target.storage, item.backup
        found = levels.chains(storage, backup.engine, backup.hostname_backup_name)
        chain = found.get(backup.level_zero_timestamp, [])
        for each in chain:
            if each.backup == backup:
                pins.pin(storage, each, chain)

    # The result

    def _summary(self, items: Sequence[_Item]) -> str:
        def number(*results: str) -> int:
            return sum(each.result in results for each in items)

        new = number(TO_COPY, COPIED)
        size = sum(each.copied for each in items)
        if self.config.dry_run:
            size = sum(each.size or 0 for each in items if each.result == TO_COPY)
        text = (
            f'{"Would copy" if self.config.dry_run else "Copied"} '
            f'{human.number(new, "backup")} ({size} bytes) to {self._where}'
        )
        if there := number(PRESENT, COMPLETED, TO_COMPLETE):
            text += f'; {there} there already'
        if removed := number(REMOVED):
            text += f'; {removed} removed from the source meanwhile'
        if plain := sum(not each.digests and each.is_good for each in items):
            text += (
                f'; {plain} made by Freezer 19 without digests: only the size was '
                f'checked'
            )
        return text

    def _table(self, items: Sequence[_Item]) -> Table:
        several = self.config.storage == 'multiple'
        engines = len({each.backup.engine for each in items}) > 1
        return Table(
            (
                *(('Storage',) if several else ()),
                *('Host', 'Name'),
                *(('Engine',) if engines else ()),
                *('Level', 'Date', 'Bytes', 'Result'),
            ),
            [
                (
                    *((each.stored.member,) if several else ()),
                    *layout.split_identity(each.backup.hostname_backup_name),
                    *((each.backup.engine,) if engines else ()),
                    each.backup.level,
                    iso(each.backup.timestamp),
                    '' if each.size is None else each.size,
                    each.result,
                )
                for each in items
            ],
        )

    def _document(self, items: Sequence[_Item], complete: bool) -> dict[str, Any]:
        config = self.config
        several = config.storage == 'multiple'
        assert config.copy_target is not None
        return {
            'container': config.container,
            'copy_to': config.copy_to,
            'copy_container': config.copy_target[1].container,
            'dry_run': config.dry_run,
            'complete': complete,
            'ok': complete and not any(each.is_wrong for each in items),
            'copied_size': sum(each.copied for each in items),
            'copied_count': sum(each.result == COPIED for each in items),
            'backups_count': len(items),
            'backups': [
                ({'storage': each.stored.member} if several else {}) | _entry(each)
                for each in items
            ],
        }


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A directory for temporary files."""
    with (
        tempfile.TemporaryDirectory(prefix='freezer-') as name,
        signals.on_forced_exit(lambda: shutil.rmtree(name, ignore_errors=True)),
    ):
        yield Path(name)


def _failure(futures: Iterable['Future[None]']) -> StorageException | None:
    """The error of a storage that ended the run early.

    :raises Exception: it was another error
    """
    errors = [f.exception() for f in futures if not f.cancelled()]
    # Those that were cancelled failed because of another one.
    for error in sorted(filter(None, errors), key=lambda e: isinstance(e, Cancelled)):
        if not isinstance(error, StorageException):
            raise error
        return error
    return None


def _chain_of(backup: Backup) -> _Chain:
    return backup.engine, backup.hostname_backup_name, backup.level_zero_timestamp


def _by_member(
    found: Iterable[StoredLevel],
) -> dict[tuple[_Chain, str], list[StoredLevel]]:
    chains: dict[tuple[_Chain, str], list[StoredLevel]] = {}
    for each in found:
        chains.setdefault((_chain_of(each.backup), each.member), []).append(each)
    return chains


def _newest(chain: Iterable[StoredLevel]) -> tuple[int, int]:
    return max((each.level, each.timestamp) for each in chain)


def _require(base: _Item) -> None:
    """:raises _BaseMissingError: it was not copied"""
    if not base.is_good:
        raise _BaseMissingError


def _is_removed(item: _Item) -> bool:
    """Whether the source has it no more, but others: a disk that is not mounted any
    more has none.

    :raises StorageException: the storage is gone
    """
    stored = item.stored
    try:
        stored.storage.stat(stored.paths.marker)
    except NotFound:
        left = {each.backup for each in levels.committed(stored.storage)}
        return bool(left) and item.backup not in left
    return False


def _entry(item: _Item) -> dict[str, Any]:
    """A backup in the document, with the keys of action info."""
    backup = item.backup
    host, name = layout.split_identity(backup.hostname_backup_name)
    return {
        'hostname': host,
        'backup_name': name,
        'engine': backup.engine,
        'level_zero': iso(backup.level_zero_timestamp),
        'level_zero_timestamp': backup.level_zero_timestamp,
        'level': backup.level,
        'time_stamp': backup.timestamp,
        'date': iso(backup.timestamp),
        'size': item.size,
        'pinned': item.stored.pinned,
        'digests': item.digests,
        'result': item.result,
        'reason': item.reason,
    }


def _problems(items: Iterable[_Item], log: str) -> Iterator[str]:
    """A line for each level that is not there; the log has those that are not shown."""
    lines = []
    for item in items:
        if not item.is_wrong or not item.reason:
            continue
        name = item.backup.hostname_backup_name
        where = f'[storage:{item.stored.member}] ' if item.stored.member else ''
        lines.append(
            f'{where}{name}, {describe_levels([item.stored])}: {item.result}: '
            f'{item.reason}'
        )
    for line in lines:
        LOG.error('%s', line)
    yield from (f'Problem: {line}' for line in lines[:MAX_LISTED])
    if len(lines) > MAX_LISTED:
        yield f'{len(lines)} problems in total; see {log}'
