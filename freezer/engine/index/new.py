"""The index of a level that is being made."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from freezer.engine.index.file import IndexWriter
from freezer.engine.index.record import Record


class NewIndex:
    """A local file. The engine adds records, in order, and properties; the writer of
    the backup finishes it when the stream is stored.

    :param path: a file that exists, and only its owner may read
    :ivar properties: what the next level needs to know, as JSON has it
    :ivar records: what the engine knows with the end of its archive; :meth:`write` adds
        them, while the end of the stream is sent
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.properties: dict[str, Any] = {}
        self.records: Iterable[Record] = ()
        # Closed by finish, or with this object.
        self._file = open(path, 'wb')  # noqa: SIM115
        self._writer = IndexWriter(self._file)

    def add(self, record: Record) -> None:
        self._writer.add(record)

    def attach(self, number: int, content: bytes) -> None:
        """Add bytes that are no record; numbers grow."""
        self._writer.attach(number, content)

    def write(self) -> None:
        """Add :attr:`records`, if that was not done."""
        records, self.records = self.records, ()
        for record in records:
            self._writer.add(record)

    def finish(self, stream: Mapping[str, Any]) -> Path | None:
        """Complete the file.

        :param stream: how the stream of the level can be entered
        :returns: its path; None if the engine keeps no index
        """
        with self._file:
            self.write()
            if not self.properties:
                return None
            self._writer.finish({**self.properties, 'stream': stream})
        return self.path
