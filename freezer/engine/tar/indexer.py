"""Makes the index of a level from its archive, and from the walk of the source.

Names, attributes and places come from the archive. Only the identity of a file comes
from the walk, and counts only if the file was still the same when tar read it. So the
next level archives a file again that changes in between.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from freezer.engine.index.new import NewIndex
from freezer.engine.index.record import Record, removed, sort_key
from freezer.engine.index.sorter import Sorter
from freezer.engine.tar.headers import Dumpdir
from freezer.engine.tar.scanner import Scanner
from freezer.utils.blocks import Block

_ABSENT: Final = b''


class Indexer:
    """Notes the members of an archive; then writes the index.

    :param temporary: a directory for temporary files
    :ivar files: members so far that are not directories
    """

    def __init__(self, temporary: Path) -> None:
        self.files = 0
        self._scanner = Scanner(self.note)
        self._members = Sorter(temporary)
        self._lists = _Lists(temporary)

    def feed(self, block: Block) -> None:
        """Note the members in the next block of the archive.

        :raises EngineError: it is not an archive that a restore would accept
        """
        self._scanner.feed(block)

    def finish(self) -> None:
        """:raises EngineError: the archive has no end marker"""
        self._scanner.finish()

    @property
    def members(self) -> int:
        return self._members.count

    def note(self, record: Record, dumpdir: Dumpdir | None) -> None:
        """Record a member that was read elsewhere."""
        self._members.add(record)
        if record.kind != 'directory':
            self.files += 1
        elif dumpdir is not None:
            self._lists.add(record.path, dumpdir)

    def write(
        self,
        index: NewIndex,
        base: Iterable[tuple[int, Record]],
        seen: Iterable[Record],
        unread: Iterable[bytes] = (),
    ) -> None:
        """Write the index; see :meth:`records`.

        :param unread: paths, or last components of paths, that tar did not read wholly:
            the next level archives them again
        """
        again = frozenset(unread)
        for record in self.records(base, seen):
            if again and again & {record.path, record.path.rpartition(b'/')[2]}:
                record = record._replace(ctime_ns=0, inode=0)
            index.add(record)

    def records(
        self, base: Iterable[tuple[int, Record]], seen: Iterable[Record]
    ) -> Iterator[Record]:
        """What differs from the level below, in order.

        :param base: its state
        :param seen: what the walk found, in order
        """
        below = _Cursor(record for _level, record in base)
        walked = _Cursor(seen)
        listing = _Listing(self._lists)
        for member in _last_of_each(self._members.sorted()):
            key = sort_key(member.path)
            for gone in below.before(key):
                if listing.lacks(gone):
                    yield removed(gone.path)
            for _skipped in walked.before(key):
                pass
            old = below.at(key)
            new = _identified(member, walked.at(key))
            if old is None or old.kind != 'directory' or not _same(old, new):
                yield new
            if new.kind == 'directory':
                listing.enter(new.path)
        for gone in below.before(None):
            if listing.lacks(gone):
                yield removed(gone.path)


def _identified(member: Record, walked: Record | None) -> Record:
    """A member with the identity that the walk found, if it is the same file."""
    if (
        walked is None
        or walked.mtime_ns != member.mtime_ns
        or (member.kind == 'file' and walked.size != member.size)
        or (member.kind not in (walked.kind, 'link'))
    ):
        return member
    return member._replace(ctime_ns=walked.ctime_ns, inode=walked.inode)


def _same(old: Record, new: Record) -> bool:
    """Whether nothing of a directory differs but its place."""
    return old[:12] == new[:12]


def _last_of_each(records: Iterator[Record]) -> Iterator[Record]:
    """Of several members of one path, the last: tar extracts it over the others."""
    last: Record | None = None
    for record in records:
        if last is not None and last.path != record.path:
            yield last
        last = record
    if last is not None:
        yield last


class _Cursor:
    """Sorted records, read in step with others."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._records = iter(records)
        self._key: bytes | None = None
        self._record: Record | None = None
        self._advance()

    def _advance(self) -> None:
        self._record = next(self._records, None)
        if self._record is not None:
            self._key = sort_key(self._record.path)

    def before(self, key: bytes | None) -> Iterator[Record]:
        """Those before a key; the rest, if it is None."""
        while (record := self._record) is not None:
            assert self._key is not None
            if key is not None and self._key >= key:
                return
            self._advance()
            yield record

    def at(self, key: bytes) -> Record | None:
        """The one at a key, which is then used up."""
        if self._record is None or self._key != key:
            return None
        record = self._record
        self._advance()
        return record


class _Lists:
    """The lists of the directories' names, on disk: they may be large."""

    def __init__(self, temporary: Path) -> None:
        # Closed with this object.
        self._file = tempfile.TemporaryFile(dir=temporary)  # noqa: SIM115
        self._end = 0
        self._places: dict[bytes, tuple[int, int]] = {}

    def add(self, path: bytes, dumpdir: Dumpdir) -> None:
        start = self._end
        self._end += self._file.write(dumpdir.buffer[dumpdir.start : dumpdir.end])
        self._places[path] = start, self._end - start

    def get(self, path: bytes) -> dict[bytes, bytes] | None:
        """Name -> letter; None if the archive has no list of the directory."""
        place = self._places.get(path)
        if place is None:
            return None
        self._file.seek(place[0])
        content = self._file.read(place[1])
        listed = Dumpdir(content, 0, len(content))
        return {entry[1:]: entry[:1] for entry in listed.entries()}


class _Listing:
    """Which names of the level below the directories no longer have."""

    def __init__(self, lists: _Lists) -> None:
        self._lists = lists
        self._stack: list[tuple[bytes, dict[bytes, bytes] | None]] = []
        self._removed: bytes | None = None

    def enter(self, path: bytes) -> None:
        """Go into a directory; its contents follow."""
        self._leave(path)
        self._stack.append((path, self._lists.get(path)))

    def _leave(self, path: bytes) -> None:
        while self._stack and not _is_below(path, self._stack[-1][0]):
            self._stack.pop()

    def lacks(self, record: Record) -> bool:
        """Whether a record of the level below, without a member, is gone; False if it
        went with a directory that is gone."""
        path = record.path
        if self._removed is not None and _is_below(path, self._removed):
            return False
        self._leave(path)
        if not path or not self._stack:
            return False
        folder, names = self._stack[-1]
        name = path[len(folder) + 1 :] if folder else path
        if names is None or b'/' in name:
            # A directory that tar could not read, or did not go into: what a restore
            # finds there it keeps.
            return False
        letter = names.get(name, _ABSENT)
        gone = not letter or (letter == b'D') != (record.kind == 'directory')
        if letter == b'N' and record.kind == 'directory':
            gone = False
        if gone:
            self._removed = path
        return gone


def _is_below(path: bytes, folder: bytes) -> bool:
    return not folder or path.startswith(folder + b'/')
