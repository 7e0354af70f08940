"""Sorts any number of records in bounded memory, through temporary files."""

import heapq
import itertools
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from freezer.engine.index.file import IndexFile, IndexWriter
from freezer.engine.index.record import Record, sort_key

# Records kept in memory: some 20 MB.
_IN_MEMORY = 50_000


class Sorter:
    """Records in any order, read back sorted by path.

    :param folder: for temporary files; a run of records is a file without a name there
    :param ordered: whether they come sorted, so that they only have to be kept
    """

    def __init__(self, folder: Path, ordered: bool = False) -> None:
        self._folder = folder
        self._ordered = ordered
        self._pending: list[Record] = []
        self._runs: list[IndexFile] = []

    def __bool__(self) -> bool:
        """Whether there are records."""
        return bool(self._pending or self._runs)

    def add(self, record: Record) -> None:
        self._pending.append(record)
        if len(self._pending) >= _IN_MEMORY:
            self._runs.append(self._spill())

    def sorted(self) -> Iterator[Record]:
        """The records, by path; of equal paths, in the order in which they came."""
        self._sort()
        if not self._runs:
            return iter(self._pending)
        runs: list[Iterable[Record]] = [run.records() for run in self._runs]
        if self._ordered:
            return itertools.chain(*runs, self._pending)
        # Both this and the sort keep the order of equal paths.
        return heapq.merge(*runs, self._pending, key=_key)

    def _sort(self) -> None:
        if not self._ordered:
            self._pending.sort(key=_key)

    def _spill(self) -> IndexFile:
        self._sort()
        # Closed with the object that reads it.
        file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        writer = IndexWriter(file)
        for record in self._pending:
            writer.add(record)
        writer.finish({})
        self._pending.clear()

        def read(start: int, end: int) -> bytes:
            file.seek(start)
            return file.read(end - start)

        return IndexFile(read, file.tell(), 'a sorted run')


def _key(record: Record) -> bytes:
    return sort_key(record.path)
