"""Check what is there without restoring it."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from freezer.exceptions import VerifyError
from freezer.job.job import SAID, Job, Outcome, Table, iso, levels_said
from freezer.storage import layout, levels
from freezer.storage.backup import Backup, StoredLevel
from freezer.storage.exceptions import StorageException
from freezer.storage.levels import NoSuchBackup
from freezer.storage.verify import Problem, Verification
from freezer.stream import compression, encryption

LOG = logging.getLogger(__name__)


@dataclass
class _Checked:
    """A stored level, and what was found of it.

    :param gaps: what is wrong below it in its chain
    """

    stored: StoredLevel
    found: Verification
    gaps: list[str] = field(default_factory=list)

    @property
    def backup(self) -> Backup:
        return self.stored.backup

    @property
    def storage(self) -> str:
        return self.stored.member

    @property
    def ok(self) -> bool:
        return not self.found.count and not self.gaps

    @property
    def restorable(self) -> bool:
        return self.found.restorable and not self.gaps

    @property
    def result(self) -> str:
        if self.found.count:
            return 'damaged'
        if self.gaps:
            return 'not restorable'
        return 'ok' if self.found.digests else 'ok, no digests'


class _Gap(NamedTuple):
    """What is missing or damaged in a chain, and the backups it takes along."""

    what: str
    above: list[StoredLevel]


class VerifyJob(Job):
    """Check the backups of a name, or all there are; read their data if asked to."""

    def execute(self) -> Outcome:
        there = self._find()
        checked: list[_Checked] = []
        failure: StorageException | VerifyError | None = None
        for number, stored in enumerate(there, 1):
            self.progress.phase = f'Verifying {number} of {len(there)}'
            if self.config.verify_data:
                self.say(f'Reading {number} of {len(there)}: {self._name(stored)}')
            try:
                found = self.repository.verify(stored, self.config.verify_data)
            except StorageException as error:
                # What was found until now is worth telling.
                failure = error
                break
            if found is not None:
                checked.append(_Checked(stored, _check_names(found)))
        if not checked:
            raise failure or NoSuchBackup(
                'all of it was removed meanwhile: run it again'
            )
        gaps = _find_gaps(checked)
        complete = failure is None
        if complete and not all(one.ok for one in checked):
            failure = VerifyError(
                f'{_verdict(checked)}: the result says which, and why'
            )
        outcome = Outcome(
            self._document(checked, complete), [self._table(checked)], failure=failure
        )
        outcome.lines = [*self._problems(checked, gaps), *self._warnings(checked)]
        if not complete:
            outcome.lines.append(f'Not all was verified. {_verdict(checked)}')
        elif failure is None:
            removed = len(there) - len(checked)
            outcome.lines.append(self._all_is_well(checked, removed))
        return outcome

    # Which

    def _find(self) -> list[StoredLevel]:
        """:raises NoSuchBackup: there is none on the storage, or on a member"""
        found = [
            stored
            for stored in self.repository.committed()
            if self.is_asked_for(stored.backup.hostname_backup_name)
        ]
        there = {stored.member for stored in found}
        for _driver, settings in self.config.storages:
            if settings.name not in there:
                member = f'[storage:{settings.name}]: ' if settings.name else ''
                raise self.no_such_backup(member, settings.container)
        return found

    # What is said

    def _name(self, stored: StoredLevel) -> str:
        return f'{self._identity(stored)}, {levels_said([stored])}'

    def _identity(self, stored: StoredLevel) -> str:
        storage = f'[storage:{stored.member}] ' if stored.member else ''
        return f'{storage}{stored.backup.hostname_backup_name}'

    def _problems(
        self, checked: Sequence[_Checked], gaps: Sequence[_Gap]
    ) -> Iterator[str]:
        """A line each: of the backups, then of the chains."""
        lines = []
        for one in checked:
            name = self._name(one.stored)
            for problem in one.found.problems:
                part = f'part {problem.part}: ' if problem.part else ''
                lines.append(f'{name}: {part}{problem.what}')
            more = one.found.count - len(one.found.problems)
            if more:
                lines.append(f'{name}: {more} problems more')
        for gap in gaps:
            first = gap.above[0]
            more = len(gap.above) - SAID
            lines.append(
                f'{self._identity(first)}, chain of '
                f'{iso(first.level_zero_timestamp)}: {gap.what}; without it cannot be '
                f'restored: {levels_said(gap.above[:SAID])}'
                + (f' and {more} more' if more > 0 else '')
            )
        for line in lines:
            LOG.error('%s', line)
            yield f'Problem: {line}'

    def _warnings(self, checked: Sequence[_Checked]) -> Iterator[str]:
        count = 0
        for one in checked:
            for warning in one.found.warnings:
                line = f'{self._name(one.stored)}: {warning}'
                LOG.warning('%s', line)
                count += 1
                if count <= SAID:
                    yield f'Warning: {line}'
        if count > SAID:
            yield f'Warning: {count} in all; see {self.config.log_file}'

    def _all_is_well(self, checked: Sequence[_Checked], removed: int) -> str:
        size = sum(one.found.size for one in checked)
        said = f'All is well: {len(checked)} backups, {size} bytes'
        said += (
            ', every byte read'
            if self.config.verify_data
            else '; with --verify-data every byte is read as well'
        )
        plain = sum(not one.found.digests for one in checked)
        if plain:
            said += f'; {plain} by Freezer 19, which have no digests'
        if removed:
            said += f'; {removed} were removed meanwhile'
        return said

    def _table(self, checked: Sequence[_Checked]) -> Table:
        several = self.config.storage == 'multiple'
        # A column that says "tar" in every row would not fit into 80 characters.
        engines = len({one.backup.engine for one in checked}) > 1
        return Table(
            (
                *(('Storage',) if several else ()),
                *('Host', 'Name'),
                *(('Engine',) if engines else ()),
                *('Level', 'Date', 'Bytes', 'Result'),
            ),
            [
                (
                    *((one.storage,) if several else ()),
                    *layout.split_identity(one.backup.hostname_backup_name),
                    *((one.backup.engine,) if engines else ()),
                    one.backup.level,
                    iso(one.backup.timestamp),
                    one.found.size,
                    one.result,
                )
                for one in checked
            ],
        )

    def _document(self, checked: Sequence[_Checked], complete: bool) -> dict[str, Any]:
        several = self.config.storage == 'multiple'
        return {
            'container': self.config.container,
            'verify_data': self.config.verify_data,
            'complete': complete,
            'ok': complete and all(one.ok for one in checked),
            'size': sum(one.found.size for one in checked),
            'backups_count': len(checked),
            'problems_count': sum(_problem_count(one) for one in checked),
            'backups': [
                ({'storage': one.storage} if several else {}) | _entry(one)
                for one in checked
            ],
        }


def _check_names(found: Verification) -> Verification:
    """The marker says how the stream was made: it must be a way there is."""
    for key, names in (
        ('compression', compression.NAMES),
        (layout.FORMAT_KEY, encryption.NAMES),
    ):
        name = found.marker.get(key)
        if name is None or name in names:
            continue
        problem = Problem(
            f'{found.stored.paths.marker}: {key} {name!r} is not known: damaged, or '
            f'of a newer agent'
        )
        found = replace(
            found,
            problems=(*found.problems, problem),
            count=found.count + 1,
            restorable=False,
        )
    return found


def _find_gaps(checked: Sequence[_Checked]) -> list[_Gap]:
    """What of the chains is missing or damaged; noted with each backup above it."""
    chains: dict[tuple[str, str, str, int], list[_Checked]] = {}
    for one in checked:
        backup = one.backup
        name = backup.engine, backup.hostname_backup_name
        chain = one.storage, *name, backup.level_zero_timestamp
        chains.setdefault(chain, []).append(one)
    return [gap for chain in chains.values() for gap in _find_gaps_of(chain)]


def _find_gaps_of(chain: Sequence[_Checked]) -> list[_Gap]:
    there = [one.stored for one in chain]
    damaged = [one.stored for one in chain if not one.found.restorable]
    above: dict[str, list[StoredLevel]] = {}
    for one in chain:
        one.gaps = [f'level {level} is missing' for level in one.found.missing]
        one.gaps += (
            f'{levels_said([below])} is damaged'
            for below in reversed(levels.needed(one.stored, there))
            if below in damaged
        )
        for what in one.gaps:
            above.setdefault(what, []).append(one.stored)
    return [_Gap(what, those) for what, those in above.items()]


def _problem_count(one: _Checked) -> int:
    return one.found.count + len(one.gaps)


def _entry(one: _Checked) -> dict[str, Any]:
    """One backup for programs, with the keys of action info."""
    backup, found = one.backup, one.found
    host, name = layout.split_identity(backup.hostname_backup_name)
    problems = [
        *found.problems,
        *(Problem(f'cannot be restored: {gap}') for gap in one.gaps),
    ]
    return {
        'hostname': host,
        'backup_name': name,
        'engine': backup.engine,
        'level_zero': iso(backup.level_zero_timestamp),
        'level_zero_timestamp': backup.level_zero_timestamp,
        'level': backup.level,
        'time_stamp': backup.timestamp,
        'date': iso(backup.timestamp),
        'size': found.size,
        'digests': found.digests,
        'ok': one.ok,
        'restorable': one.restorable,
        'problems_count': _problem_count(one),
        'problems': [
            {
                'volume': problem.volume,
                'part': problem.part,
                'start': problem.start,
                'end': problem.end,
                'what': problem.what,
            }
            for problem in problems
        ],
        'warnings': list(found.warnings),
    }


def _verdict(checked: Sequence[_Checked]) -> str:
    wrong = [one for one in checked if not one.ok]
    lost = [one for one in wrong if not one.restorable]
    return (
        f'{len(wrong)} of {len(checked)} backups are not whole, and {len(lost)} of '
        f'them cannot be restored'
    )
