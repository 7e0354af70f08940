"""Action list: the files in a backup."""

from collections.abc import Iterator, Mapping
from typing import Any

from freezer.engine.engine import require_files
from freezer.engine.index.record import Owner, Rows
from freezer.engine.restore import RestoreChain
from freezer.job import entries
from freezer.job.job import Job, Outcome, damage_explained, iso
from freezer.storage.backup import StoredLevel
from freezer.utils import human


class ListJob(Job):
    """Lists the files that a restore would bring, of the newest state or that of a
    date: from the indexes, or, if a level has none, by reading the data."""

    takes_tag = True
    takes_include = True

    def execute(self) -> Outcome:
        engine = require_files(self.engine, 'action list')
        self.progress.phase = 'Looking for the backup'
        chain = self.find_state()
        self.progress.phase = 'Listing'
        # Before anything is shown, the indexes have been fetched and checked, or the
        # data has: a damaged backup has no list.
        with damage_explained():
            opened = RestoreChain(chain, engine, self.settings, listed=True)
            owners = opened.owners()
            rows = opened.rows()
            if owners is None:
                # Also the width of the column is then known at the end only.
                kept = list(rows)
                owners = (owner for each in kept for owner in each.owners)
                rows = iter(kept)
        counted = _Counted(rows)
        return Outcome(
            text=_table(counted, entries.owner_width(owners)),
            records=_records(counted, chain),
            lines=counted.summary(chain[max(chain)]),
        )


class _Counted:
    """Rows that are counted as they are shown."""

    def __init__(self, rows: Iterator[Rows]) -> None:
        self._rows = rows
        self._count = self._size = 0

    def __iter__(self) -> Iterator[Rows]:
        for rows in self._rows:
            self._count += len(rows.paths)
            self._size += sum(
                size
                for kind, size in zip(rows.kinds, rows.sizes, strict=True)
                if kind == 'file'
            )
            yield rows

    def summary(self, newest: StoredLevel) -> Iterator[str]:
        """A line, which is made when the rows have been shown."""
        count = '1 entry' if self._count == 1 else f'{self._count} entries'
        yield (
            f'{count}, {human.size(self._size)} '
            f'(level {newest.level}, {iso(newest.timestamp)})'
        )


# Every microsecond counts here: a list may have a million lines.
def _table(parts: _Counted, width: int) -> Iterator[str]:
    yield f'{"Mode":<10}  {"Owner":<{width}}  {"Size":>8}  {"Changed":<20}  L  Path'
    heads = _Heads(width)
    size, date, text, special = entries.size, entries.date, entries.text, entries.name
    for rows in parts:
        for level, path, kind, mode, owner, bytes_, mtime, target in zip(
            *rows, strict=True
        ):
            if kind == 'file':
                shown, name = size(bytes_), text(path)
            else:
                shown, name = '-', special(path, kind, target)
            head = heads[kind, mode, owner]
            yield f'{head}{shown:>8}  {date(mtime):<20}  {level}  {name}'


class _Heads(dict[tuple[str, int, Owner], str]):
    """The first columns of a row; a backup has few different ones."""

    def __init__(self, width: int) -> None:
        self._width = width

    def __missing__(self, key: tuple[str, int, Owner]) -> str:
        kind, mode, owner = key
        made = f'{entries.mode(kind, mode)}  {entries.owner(owner):<{self._width}}  '
        self[key] = made
        return made


def _records(
    parts: _Counted, chain: Mapping[int, StoredLevel]
) -> Iterator[dict[str, Any]]:
    dates = {level: stored.timestamp for level, stored in chain.items()}
    for rows in parts:
        for row in rows.each():
            yield entries.document(row, dates[row.level])
