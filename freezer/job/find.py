"""Action find: the versions of files in all backups of a name."""

import logging
from collections.abc import Iterator
from typing import Any

from freezer.engine.engine import require_files
from freezer.engine.index.record import REMOVED
from freezer.engine.search import Search, Unsearched, Version
from freezer.exceptions import ConfigError, VerifyError
from freezer.job import entries
from freezer.job.job import Job, Outcome, damage_explained, describe_levels
from freezer.storage.backup import StoredLevel
from freezer.storage.levels import NoSuchBackup, is_owned
from freezer.utils import human

LOG = logging.getLogger(__name__)


class FindJob(Job):
    """Finds each version of the files that match patterns, in every level of every
    chain of the name. Reads indexes only."""

    takes_include = True

    def check_options(self) -> None:
        super().check_options()
        if not self.config.include:
            raise ConfigError('action find needs --include PATTERN, the files to find')

    def execute(self) -> Outcome:
        engine = require_files(self.engine, 'action find')
        self.progress.phase = 'Looking for backups'
        chains = self._chains()
        count = sum(map(len, chains.values()))
        self.progress.phase = f'Searching {human.number(count, "backup")}'
        with damage_explained():
            search = Search(chains, engine, self.settings)
        for each in search.unsearched:
            self._report(each)
        counted = _Counted(search)
        outcome = Outcome(
            text=_table(counted),
            records=map(_document, counted),
            lines=counted.summary(),
        )
        damaged = sum(each.damage is not None for each in search.unsearched)
        if damaged:
            outcome.failure = VerifyError(
                f'{human.number(damaged, "backup")} could not be searched: the index '
                f'is damaged; --action verify lists all damage'
            )
        return outcome

    def _chains(self) -> dict[int, list[StoredLevel]]:
        """:raises NoSuchBackup: there is none"""
        config = self.config
        cutoff = self.cutoff(config.restore_from_date)
        found: dict[int, list[StoredLevel]] = {}
        for owner in config.owners:
            for zero, chain in self.repository.chains(
                config.engine_name, owner.identity
            ).items():
                in_time = [
                    each for each in chain if cutoff is None or each.timestamp <= cutoff
                ]
                if in_time and is_owned(in_time, owner):
                    found.setdefault(zero, in_time)
        if not found:
            raise NoSuchBackup(self.no_state(cutoff))
        return found

    def _report(self, each: Unsearched) -> None:
        line = f'Not searched: {describe_levels([each.stored])}: {each.why}'
        if each.damage is None:
            line += (
                f'; --action list --restore-from-date '
                f'{entries.level_date(each.stored.timestamp)} reads its data instead'
            )
        LOG.warning('%s', line)
        self.say(line)


class _Counted:
    """Versions that are counted as they are shown."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._versions = self._paths = 0

    def __iter__(self) -> Iterator[Version]:
        last: bytes | None = None
        for version in self._search.versions():
            self._versions += version.row.kind != REMOVED
            self._paths += version.row.path != last
            last = version.row.path
            yield version

    def summary(self) -> Iterator[str]:
        """A line, which is made when the versions have been shown."""
        yield (
            f'{human.number(self._versions, "version")} of '
            f'{human.number(self._paths, "path")} in '
            f'{human.number(self._search.count, "backup")}'
        )


def _table(versions: _Counted) -> Iterator[str]:
    def row(
        mode: str, size: str, changed: str, level: str, date: str, name: str
    ) -> str:
        return f'{mode:<10}  {size:>8}  {changed:<20}  {level}  {date:<20}  {name}'

    yield row('Mode', 'Size', 'Changed', 'L', 'Backup', 'Path')
    for stored, (_level, path, kind, mode, _owner, size, mtime, target) in versions:
        level, date = str(stored.level), entries.level_date(stored.timestamp)
        if kind == REMOVED:
            yield row('removed', '-', '-', level, date, entries.text(path))
            continue
        yield row(
            entries.mode(kind, mode),
            entries.size(size) if kind == 'file' else '-',
            entries.date(mtime),
            level,
            date,
            entries.name(path, kind, target),
        )


def _document(version: Version) -> dict[str, Any]:
    stored, row = version
    if row.kind != REMOVED:
        return entries.document(row, stored.timestamp)
    return {
        **entries.text_fields('path', row.path),
        'type': row.kind,
        'level': row.level,
        'level_date': entries.level_date(stored.timestamp),
    }
