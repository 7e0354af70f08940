"""Action verify: check backups without restoring them."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from freezer.exceptions import VerifyError
from freezer.job.archives import Archives
from freezer.job.job import MAX_LISTED, Job, Outcome, Table, describe_levels, iso
from freezer.storage import layout, levels
from freezer.storage.backup import Backup, StoredLevel
from freezer.storage.exceptions import StorageException
from freezer.storage.levels import NoSuchBackup
from freezer.storage.verify import Problem, Verification
from freezer.stream import compression, encryption
from freezer.utils import human
from freezer.utils.text import NOTICES

LOG = logging.getLogger(__name__)


@dataclass
class _Checked:
    """A stored level and its verification.

    :param archive: whether its archive was read, and not only the stored bytes
    :param gaps: problems of the levels below that it needs
    """

    stored: StoredLevel
    found: Verification
    archive: bool = False
    gaps: list[str] = field(default_factory=list)

    @property
    def backup(self) -> Backup:
        return self.stored.backup

    @property
    def problem_count(self) -> int:
        return self.found.count + len(self.gaps)

    @property
    def ok(self) -> bool:
        return not self.problem_count

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
    """A problem of a chain, and the levels that cannot be restored because of it."""

    what: str
    above: list[StoredLevel]


class VerifyJob(Job):
    """Checks the backups of a name, or all; with ``--verify-data`` reads their data."""

    def execute(self) -> Outcome:
        # Before the markers, which are written after them.
        data = self.repository.complete_data()
        present = self.repository.committed()
        lost = self._without_marker(data, present)
        for line in _lost(lost, self.config.log_file):
            NOTICES.warning('Warning: %s', line)
        present = self._find(present)
        checked: list[_Checked] = []
        failure: StorageException | VerifyError | None = None
        with Archives(self, present) as archives:
            try:
                for one in self._check(present, archives):
                    checked.append(one)
            except StorageException as error:
                # The results so far are reported.
                failure = error
        if not checked:
            raise failure or NoSuchBackup(
                'all these backups were removed meanwhile: run it again'
            )
        gaps = _find_gaps(checked)
        complete = failure is None
        if complete and not all(one.ok for one in checked):
            failure = VerifyError(f'{_verdict(checked)}: see the result')
        outcome = Outcome(
            self._document(checked, complete, lost),
            [self._table(checked)],
            failure=failure,
        )
        outcome.lines = [
            *_problems(checked, gaps),
            *self._warnings(checked),
            *archives.notes(),
        ]
        if not complete:
            outcome.lines.append(f'Not all was verified. {_verdict(checked)}')
        elif failure is None:
            outcome.lines.append(self._success(checked, len(present) - len(checked)))
        return outcome

    def _check(
        self, present: Sequence[StoredLevel], archives: Archives
    ) -> Iterator[_Checked]:
        """Those that are still there.

        :raises StorageException: the storage is gone
        """
        for number, stored in enumerate(present, 1):
            self.progress.phase = f'Verifying {number} of {len(present)}'
            if self.config.verify_data:
                self.say(f'Reading {number} of {len(present)}: {_name(stored)}')
            found = self.repository.verify(
                stored,
                self.config.verify_data,
                archives.reader(stored),
                archives.key_opens(stored),
            )
            if found is not None:
                archive = stored in archives.read
                found = _check_names(found)
                if found.restorable:
                    found = _with_problems(found, archives.seal_problems(stored))
                yield _Checked(stored, found, archive)

    def _without_marker(
        self, data: Iterable[StoredLevel], present: Iterable[StoredLevel]
    ) -> list[StoredLevel]:
        """The selected levels that should have a marker, and have none."""
        committed = {(each.member, each.backup) for each in present}
        found = [
            each
            for each in data
            if (each.member, each.backup) not in committed
            and self.may_be_selected(each.backup.hostname_backup_name)
        ]
        return sorted(found, key=lambda each: (each.member, each.backup.path))

    def _find(self, present: Sequence[StoredLevel]) -> list[StoredLevel]:
        """:raises NoSuchBackup: a storage has none that is selected"""
        selected = [stored for stored in present if self.is_selected(stored)]
        members = {stored.member for stored in selected}
        for _driver, settings in self.config.storages:
            if settings.name not in members:
                member = f'[storage:{settings.name}]: ' if settings.name else ''
                identities = [each.backup.hostname_backup_name for each in present]
                text = self.none_selected(settings.container, identities)
                raise NoSuchBackup(f'{member}{text}')
        return selected

    def _warnings(self, checked: Sequence[_Checked]) -> Iterator[str]:
        lines = [
            f'{_name(one.stored)}: {warning}'
            for one in checked
            for warning in one.found.warnings
        ]
        for line in lines:
            LOG.warning('%s', line)
        yield from (f'Warning: {line}' for line in lines[:MAX_LISTED])
        if len(lines) > MAX_LISTED:
            log = self.config.log_file
            yield f'Warning: {len(lines)} warnings in total; see {log}'

    def _success(self, checked: Sequence[_Checked], removed: int) -> str:
        count = human.number(len(checked), 'backup')
        size = sum(one.found.size for one in checked)
        text = f'Verified {count} ({size} bytes): no problems found'
        text += (
            ', every byte read'
            if self.config.verify_data
            else '; --verify-data also reads every byte'
        )
        plain = sum(not one.found.digests for one in checked)
        if plain:
            text += f'; {plain} made by Freezer 19 without digests'
        if removed:
            text += f'; {removed} removed meanwhile'
        return text

    def _table(self, checked: Sequence[_Checked]) -> Table:
        several = self.config.storage == 'multiple'
        # A column with the same engine in every row would not fit into 80 characters.
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
                    *((one.stored.member,) if several else ()),
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

    def _document(
        self,
        checked: Sequence[_Checked],
        complete: bool,
        lost: Sequence[StoredLevel],
    ) -> dict[str, Any]:
        several = self.config.storage == 'multiple'
        return {
            'container': self.config.container,
            'verify_data': self.config.verify_data,
            'complete': complete,
            'ok': complete and all(one.ok for one in checked),
            'size': sum(one.found.size for one in checked),
            'backups_count': len(checked),
            'problems_count': sum(one.problem_count for one in checked),
            'backups': [
                ({'storage': one.stored.member} if several else {}) | _entry(one)
                for one in checked
            ],
            'without_marker': [
                ({'storage': each.member} if several else {}) | _name_keys(each.backup)
                for each in lost
            ],
        }


def _lost(levels: Sequence[StoredLevel], log: str) -> Iterator[str]:
    """A line for each level without a marker; the log has those that are not shown."""
    lines = [
        f'{_name(each)}: data, manifest and engine file are there, but no marker: the '
        f'backup was interrupted, or its marker '
        f'{each.storage.location(each.paths.marker)} was lost'
        for each in levels
    ]
    for line in lines[MAX_LISTED:]:
        LOG.warning('%s', line)
    yield from lines[:MAX_LISTED]
    if len(lines) > MAX_LISTED:
        yield f'{len(lines)} levels have no marker; see {log}'


def _check_names(found: Verification) -> Verification:
    """Add a problem if the marker names an unknown compression or encryption."""
    for key, names in (
        ('compression', compression.NAMES),
        (layout.FORMAT_KEY, encryption.NAMES),
    ):
        name = found.marker.get(key)
        if name is None or name in names:
            continue
        problem = Problem(
            f'{found.stored.paths.marker}: unknown {key} {name!r}: damaged, or made by '
            f'a newer agent'
        )
        found = _with_problems(found, [problem])
    return found


def _with_problems(found: Verification, more: Iterable[Problem]) -> Verification:
    problems = tuple(more)
    return replace(
        found,
        problems=(*found.problems, *problems),
        count=found.count + len(problems),
        restorable=found.restorable and not any(each.fatal for each in problems),
    )


def _find_gaps(checked: Sequence[_Checked]) -> list[_Gap]:
    """The missing or damaged levels; also noted in each level above them."""
    chains: dict[tuple[str, str, str, int], list[_Checked]] = {}
    for one in checked:
        backup = one.backup
        name = backup.engine, backup.hostname_backup_name
        chain = one.stored.member, *name, backup.level_zero_timestamp
        chains.setdefault(chain, []).append(one)
    return [gap for chain in chains.values() for gap in _find_gaps_of(chain)]


def _find_gaps_of(chain: Sequence[_Checked]) -> list[_Gap]:
    there = [one.stored for one in chain]
    damaged = [one.stored for one in chain if not one.found.restorable]
    above: dict[str, list[StoredLevel]] = {}
    for one in chain:
        one.gaps = [
            f'level {first} is missing'
            if first == last
            else f'levels {first} to {last} are missing'
            for first, last in one.found.missing
        ]
        one.gaps += (
            f'{describe_levels([below])} is damaged'
            for below in reversed(levels.needed(one.stored, there))
            if below in damaged
        )
        for what in one.gaps:
            above.setdefault(what, []).append(one.stored)
    return [_Gap(what, those) for what, those in above.items()]


def _name_keys(backup: Backup) -> dict[str, Any]:
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
    }


def _entry(one: _Checked) -> dict[str, Any]:
    """A backup in the document, with the keys of action info."""
    found = one.found
    problems = [
        *found.problems,
        *(Problem(f'cannot be restored: {gap}') for gap in one.gaps),
    ]
    return _name_keys(one.backup) | {
        'size': found.size,
        'digests': found.digests,
        'archive_read': one.archive,
        'ok': one.ok,
        'restorable': one.restorable,
        'problems_count': one.problem_count,
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


def _identity(stored: StoredLevel) -> str:
    storage = f'[storage:{stored.member}] ' if stored.member else ''
    return f'{storage}{stored.backup.hostname_backup_name}'


def _name(stored: StoredLevel) -> str:
    return f'{_identity(stored)}, {describe_levels([stored])}'


def _problems(checked: Sequence[_Checked], gaps: Sequence[_Gap]) -> Iterator[str]:
    """A line for each problem: of the levels, then of the chains."""
    lines = []
    for one in checked:
        name = _name(one.stored)
        for problem in one.found.problems:
            part = f'part {problem.part}: ' if problem.part else ''
            lines.append(f'{name}: {part}{problem.what}')
        more = one.found.count - len(one.found.problems)
        if more:
            lines.append(f'{name}: {human.number(more, "more problem")}')
    for gap in gaps:
        first = gap.above[0]
        more = len(gap.above) - MAX_LISTED
        lines.append(
            f'{_identity(first)}, chain of {iso(first.level_zero_timestamp)}: '
            f'{gap.what}; without it these cannot be restored: '
            f'{describe_levels(gap.above[:MAX_LISTED])}'
            + (f' and {more} more' if more > 0 else '')
        )
    for line in lines:
        LOG.error('%s', line)
        yield f'Problem: {line}'


def _verdict(checked: Sequence[_Checked]) -> str:
    wrong = [one for one in checked if not one.ok]
    lost = [one for one in wrong if not one.restorable]
    return (
        f'Problems in {len(wrong)} of {len(checked)} backups; {len(lost)} of them '
        f'cannot be restored'
    )
