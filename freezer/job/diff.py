"""Action diff: what changed between two states of a backup."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from freezer.engine.engine import FileEngine, no_match, require_files
from freezer.engine.index.record import Row, sort_key
from freezer.engine.restore import RestoreChain
from freezer.exceptions import ConfigError
from freezer.job import entries
from freezer.job.job import Job, Outcome, damage_explained, describe_levels
from freezer.storage.backup import StoredLevel

#: change -> its letter in the table, and words for the summary
CHANGES: Final = {
    'added': ('+', 'added'),
    'removed': ('-', 'removed'),
    'changed': ('M', 'changed'),
    'attributes': ('U', 'with other attributes'),
    'stored': ('=', 'stored again'),
}
# Of two names of one file, either may be stored as a link to the other.
_REGULAR: Final = ('file', 'link')


class DiffJob(Job):
    """Compares two states of a backup: by the indexes, or, of a chain without, by
    reading its data."""

    takes_tag = True
    takes_include = True

    def check_options(self) -> None:
        super().check_options()
        config = self.config
        if config.from_date is None:
            raise ConfigError(
                'action diff needs --from-date, and takes --to-date; --action info '
                'lists the dates'
            )
        if config.restore_from_date is not None:
            raise ConfigError(
                '--restore-from-date cannot be used with action diff: its dates are '
                '--from-date and --to-date'
            )

    def execute(self) -> Outcome:
        engine = require_files(self.engine, 'action diff')
        config = self.config
        self.progress.phase = 'Looking for the backups'
        old = self.find_state_at(config.from_date)
        new = self.find_state_at(config.to_date)
        self.progress.phase = 'Comparing'
        states = [chain[max(chain)] for chain in (old, new)]
        heading = ' to '.join(describe_levels([each]) for each in states)
        with damage_explained():
            changes = _Changes(self._open(old), self._open(new), engine)
        return Outcome(
            text=_table(changes),
            records=map(changes.document, changes),
            lines=changes.summary(heading),
        )

    def _open(self, chain: Mapping[int, StoredLevel]) -> '_State':
        # A pattern need not choose anything in each state, so the chain has none.
        settings = dataclasses.replace(self.settings, include=())
        engine = type(self.engine).from_settings(settings)
        return _State(chain, RestoreChain(chain, engine, settings, listed=True))


class _State(NamedTuple):
    chain: Mapping[int, StoredLevel]
    opened: RestoreChain


class _Change(NamedTuple):
    """A path that differs.

    :ivar what: a key of :data:`CHANGES`
    :ivar old: None if it was added
    :ivar new: None if it was removed
    """

    what: str
    old: Row | None
    new: Row | None

    @property
    def shown(self) -> Row:
        found = self.new or self.old
        assert found is not None
        return found


class _Changes:
    """The paths that differ, sorted. Counts them as they are passed on."""

    def __init__(self, old: _State, new: _State, engine: FileEngine) -> None:
        self._old = old
        self._new = new
        self._engine = engine
        self._counts: collections.Counter[str] = collections.Counter()
        # Of these levels, both states have the same file at a path, or not both.
        self._common = frozenset(
            level
            for level, stored in old.chain.items()
            if level in new.chain and stored.backup == new.chain[level].backup
            # Without an index, a directory that was renamed may be at either path.
            if old.opened.has_index and new.opened.has_index
        )

    def __iter__(self) -> Iterator[_Change]:
        choosers = [self._engine.chooser() for _ in range(2)]
        streams = [
            (
                row
                for rows in state.opened.rows()
                for row in rows.each()
                if chooser.chooses(row.path)
            )
            for state, chooser in zip((self._old, self._new), choosers, strict=True)
        ]
        for old, new in _paired(*streams):
            what = self._compare(old, new)
            if what is not None:
                self._counts[what] += 1
                yield _Change(what, old, new)
        unmatched = set(choosers[0].unmatched) & set(choosers[1].unmatched)
        if unmatched:
            raise no_match(sorted(unmatched))

    def document(self, change: _Change) -> dict[str, Any]:
        return {
            **entries.text_fields('path', change.shown.path),
            'change': change.what,
            'old': _document(change.old, self._old),
            'new': _document(change.new, self._new),
        }

    def _compare(self, old: Row | None, new: Row | None) -> str | None:
        """How two files of one path differ; None if they are the same one."""
        if old is None:
            return 'added'
        if new is None:
            return 'removed'
        if old.level == new.level and old.level in self._common:
            return None
        if self._has_changed(old, new):
            return 'changed'
        if _attributes(old) != _attributes(new):
            return 'attributes'
        is_known = self._old.opened.has_index and self._new.opened.has_index
        return 'stored' if is_known else None

    def _has_changed(self, old: Row, new: Row) -> bool:
        old, new = self._old.opened.resolved(old), self._new.opened.resolved(new)
        if 'link' in (old.kind, new.kind):
            # The first name, which has the size, would have to be searched for.
            is_other = old.kind not in _REGULAR or new.kind not in _REGULAR
            return is_other or old.mtime_ns != new.mtime_ns
        if old.kind != new.kind:
            return True
        if old.kind == 'directory':
            # What is in it has rows of its own.
            return False
        return _identity(old) != _identity(new)

    def summary(self, heading: str) -> Iterator[str]:
        """A line, which is made when the changes have been shown."""
        counts = [
            f'{self._counts[what]} {words}' for what, (_sign, words) in CHANGES.items()
        ]
        yield f'{", ".join(counts)} ({heading})'


def _paired(
    old: Iterable[Row], new: Iterable[Row]
) -> Iterator[tuple[Row | None, Row | None]]:
    """The rows of two sorted streams by path."""
    olds, news = iter(old), iter(new)
    left, right = next(olds, None), next(news, None)
    while left is not None or right is not None:
        order = _order(left, right)
        yield left if order <= 0 else None, right if order >= 0 else None
        if order <= 0:
            left = next(olds, None)
        if order >= 0:
            right = next(news, None)


def _order(left: Row | None, right: Row | None) -> int:
    """Less than 0 if the left one comes first, more if the right one does."""
    if left is None or right is None:
        return 1 if left is None else -1
    if left.path == right.path:
        return 0
    return -1 if sort_key(left.path) < sort_key(right.path) else 1


def _identity(row: Row) -> tuple[object, ...]:
    target = row.target if row.kind == 'symlink' else b''
    return row.size if row.kind == 'file' else 0, row.mtime_ns, target


def _attributes(row: Row) -> tuple[object, ...]:
    # A name that is added to a directory, or removed from it, changes its time.
    return row.mode, row.owner, row.mtime_ns if row.kind == 'directory' else 0


def _table(changes: _Changes) -> Iterator[str]:
    def row(
        sign: str, mode: str, owner: str, size: str, changed: str, name: str
    ) -> str:
        return f'{sign}  {mode:<10}  {owner:<12}  {size:>8}  {changed:<20}  {name}'

    yield row(' ', 'Mode', 'Owner', 'Size', 'Changed', 'Path')
    for change in changes:
        _level, path, kind, mode, owner, size, mtime, target = change.shown
        yield row(
            CHANGES[change.what][0],
            entries.mode(kind, mode),
            entries.owner(owner),
            entries.size(size) if kind == 'file' else '-',
            entries.date(mtime),
            entries.name(path, kind, target),
        )


def _document(row: Row | None, state: _State) -> dict[str, Any] | None:
    if row is None:
        return None
    document = entries.document(row, state.chain[row.level].timestamp)
    # The change has it.
    for key in ('path', 'path_base64'):
        document.pop(key, None)
    return document
