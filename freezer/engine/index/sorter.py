"""Sorts any number of records in bounded memory, through temporary files."""

import heapq
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from freezer.engine.index.file import IndexFile, IndexWriter
from freezer.engine.index.record import Record, sort_key

# Records kept in memory: some 30 MB.
_IN_MEMORY = 50_000


class Sorter:
    """Records in any order, read back sorted by path.

    :param folder: for temporary files; a run of records is a file without a name there
    :ivar count: records so far
    """

    def __init__(self, folder: Path) -> None:
        self.count = 0
        self._folder = folder
        self._pending: list[tuple[bytes, int, Record]] = []
        self._runs: list[IndexFile] = []

    def add(self, record: Record) -> None:
        # Of records with one path, the one that is later in the archive comes last.
        self._pending.append((sort_key(record.path), self.count, record))
        self.count += 1
        if len(self._pending) == _IN_MEMORY:
            self._runs.append(self._spill())

    def sorted(self) -> Iterator[Record]:
        """The records, by path; of equal paths, in the order in which they came."""
        self._pending.sort()
        runs: list[Iterable[tuple[bytes, int, Record]]] = [
            ((sort_key(each.path), number, each) for each in run.records())
            for number, run in enumerate(self._runs, -len(self._runs))
        ]
        for _key, _number, record in heapq.merge(*runs, self._pending):
            yield record

    def _spill(self) -> IndexFile:
        self._pending.sort()
        # Closed with the object that reads it.
        file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        writer = IndexWriter(file)
        for _key, _number, record in self._pending:
            writer.add(record)
        writer.finish({})
        self._pending.clear()

        def read(start: int, end: int) -> bytes:
            file.seek(start)
            return file.read(end - start)

        return IndexFile(read, file.tell(), 'a sorted run')
