"""Makes the index of a level from its archive, and from the walk of the source.

Names, attributes and places come from the archive. Only the identity of a file comes
from the walk, and counts only if the file was still the same when tar read it. So the
next level archives a file again that changes in between.
"""

from __future__ import annotations

import functools
import os
import tempfile
from bisect import bisect_left
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from freezer.engine.index.file import Part
from freezer.engine.index.record import Record, new_record, removed, sort_key
from freezer.engine.index.sorter import Sorter
from freezer.engine.tar.headers import Dumpdir
from freezer.engine.tar.scanner import Scanner
from freezer.exceptions import EngineError
from freezer.utils.blocks import Block

_ABSENT: Final = b''


class Indexer:
    """Notes the members of an archive, and makes the records of its index.

    :param temporary: a directory for temporary files
    :param chosen: directories that are in the archive, but in no list of names
    :ivar files: members so far that are not directories
    :ivar current: path of the last member
    :ivar left_out: path and reason of each member that was not stored
    """

    def __init__(self, temporary: Path, chosen: Collection[bytes] = ()) -> None:
        self.files = 0
        self.current = b''
        self.left_out: list[tuple[bytes, str]] = []
        self._scanner = Scanner(
            self.note, lambda path, why: self.left_out.append((path, why)), chosen
        )
        self._awaited = set(chosen)
        self._members = Sorter(temporary)
        # By the names that hard links lead to; the target is the link.
        self._linked = Sorter(temporary)
        self._lists = _Lists(temporary)

    def feed(self, block: Block) -> Sequence[Block]:
        """Note the members in the next block of the archive.

        :returns: what is to be stored
        :raises EngineError: it is not an archive that a restore would accept
        """
        return self._scanner.feed(block)

    def finish(self) -> None:
        """:raises EngineError: the archive has no end marker"""
        self._scanner.finish()

    @property
    def is_empty(self) -> bool:
        """Whether the archive has had no member so far."""
        return not self._members

    def note(self, record: Record, dumpdir: Dumpdir | None) -> None:
        """Record a member that was read elsewhere."""
        self._members.add(record)
        self.current = record.path
        if record.kind != 'directory':
            self.files += 1
            if record.kind == 'link':
                self._linked.add(
                    record._replace(path=record.target, target=record.path)
                )
        else:
            self._lists.add(record.path, dumpdir)
            self._awaited.discard(record.path)

    def lost(self, unread: Iterable[bytes]) -> Iterator[tuple[bytes, str]]:
        """Path and reason of each chosen directory that the archive does not have. Of a
        file in its place tar compares only the time, and may count it as unchanged.

        :param unread: paths that tar has reported
        """
        known = {*unread, *(path for path, _why in self.left_out)}
        for path in sorted(self._awaited - known):
            yield path, 'it was a directory'

    def records(
        self,
        base: Iterable[tuple[int, Part]],
        seen: Iterable[Record],
        unread: Iterable[bytes] = (),
        padded: Container[bytes] = (),
    ) -> Iterator[Record]:
        """What differs from the level below, in order.

        :param base: its state
        :param seen: what the walk found, in order
        :param unread: paths, or last components of paths, that tar did not read wholly:
            the next level archives them again
        :param padded: paths of members that end with zeros: they have no record, nor
            have hard links to them, so the level below says what is restored
        :raises EngineError: a hard link leads to a name that the archive does not have
        """
        again = frozenset(unread)
        below = _Below(base)
        walk = iter(seen)
        walked = next(walk, None)
        listing = _Listing(self._lists)
        linked = _Linked(self._linked.sorted())
        for member in _last_of_each(self._members.sorted()):
            path = member.path
            key = sort_key(path)
            linked.pass_by(path, key)
            if below.is_before(key):
                yield from _gone(below, key, listing)
            if walked is not None and walked.path != path:
                walked = _first_from(key, walked, walk)
            new = member
            if walked is not None and walked.path == path:
                new = _identified(member, walked)
            if again and again & {path, path.rpartition(b'/')[2]}:
                new = new._replace(ctime_ns=0, inode=0)
            old = below.directory(key)
            if path in padded or (new.kind == 'link' and new.target in padded):
                if old is not None:
                    yield removed(path)
                continue
            if old is None or not _same(old, new):
                yield new
            if new.kind == 'directory':
                listing.enter(new, old)
        yield from _gone(below, None, listing)
        linked.end()


class _Linked:
    """The names that hard links lead to, in order, compared with those of members."""

    def __init__(self, names: Iterator[Record]) -> None:
        self._names = names
        self._next = next(names, None)

    def pass_by(self, path: bytes, key: bytes) -> None:
        """The next member has this path.

        :raises EngineError: a hard link leads to a name before it that no member has
        """
        while self._next is not None and self._next.path == path:
            self._next = next(self._names, None)
        if self._next is not None and sort_key(self._next.path) < key:
            self.end()

    def end(self) -> None:
        """:raises EngineError: no member had the next name"""
        if self._next is not None:
            raise EngineError(
                f'the archive has a hard link {os.fsdecode(self._next.target)!r} to '
                f'{os.fsdecode(self._next.path)!r}, but not that file'
            )


def _first_from(
    key: bytes, record: Record | None, following: Iterator[Record]
) -> Record | None:
    """The first of some records that is not before a key."""
    while record is not None and sort_key(record.path) < key:
        record = next(following, None)
    return record


def _gone(below: _Below, key: bytes | None, listing: _Listing) -> Iterator[Record]:
    """The removals before a key; the rest, if it is None."""
    if listing.is_unchanged:
        below.skip(key)
        return
    for path, kind in below.before(key):
        if listing.lacks(path, kind):
            yield removed(path)


def _identified(member: Record, walked: Record) -> Record:
    """A member with the identity that the walk found, if it is the same file."""
    if (
        walked.mtime_ns != member.mtime_ns
        or (member.kind == 'file' and walked.size != member.size)
        or (member.kind not in (walked.kind, 'link'))
    ):
        return member
    # A third of the time of _replace.
    return new_record((*member[:9], *walked[9:11], *member[11:]))


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


class _Below:
    """The state of the level below, read in step with the members. Its records are not
    made: there are many, and most are skipped."""

    def __init__(self, parts: Iterable[tuple[int, Part]]) -> None:
        self._parts = iter(parts)
        self._part: Part | None
        self._advance()

    def _advance(self) -> None:
        _level, self._part = next(self._parts, (0, None))
        if self._part is not None:
            self._at = self._part.start

    def _next(self) -> None:
        assert self._part is not None
        self._at += 1
        if self._at == self._part.end:
            self._advance()

    def is_before(self, key: bytes | None) -> bool:
        """Whether the next record is before a key; whether there is one, for None."""
        part = self._part
        return part is not None and (key is None or part.block.keys[self._at] < key)

    def before(self, key: bytes | None) -> Iterator[tuple[bytes, str]]:
        """Path and kind of the records before a key; of the rest, for None."""
        while self.is_before(key):
            assert self._part is not None
            block = self._part.block
            found = block.paths[self._at], block.kinds[self._at]
            self._next()
            yield found

    def skip(self, key: bytes | None) -> None:
        """Pass the records before a key; the rest, for None."""
        while self.is_before(key):
            assert self._part is not None
            block, _start, end = self._part
            if key is not None:
                self._at = bisect_left(block.keys, key, self._at, end)
            if key is None or self._at == end:
                self._advance()

    def directory(self, key: bytes) -> Record | None:
        """The directory at a key, without its place; None if there is none. What is at
        the key is then passed."""
        if self._part is None:
            return None
        block, at = self._part.block, self._at
        if block.keys[at] != key:
            return None
        self._next()
        return block.without_place(at) if block.kinds[at] == 'directory' else None


class _List(NamedTuple):
    """The list of a directory's names.

    :ivar start: where it is in the file of the lists
    :ivar directories: how many of its names are directories
    """

    start: int
    length: int
    directories: int


class _Lists:
    """The lists of the directories' names, on disk: they may be large."""

    def __init__(self, temporary: Path) -> None:
        # Closed with this object.
        self._file = tempfile.TemporaryFile(dir=temporary)  # noqa: SIM115
        self._end = 0
        self._lists: dict[bytes, _List] = {}
        # Directory -> how many directories in it have a member.
        self._members: dict[bytes, int] = {}

    def add(self, path: bytes, dumpdir: Dumpdir | None) -> None:
        """Record a directory, with its list if the archive has it."""
        parent = path.rpartition(b'/')[0] if path else None
        if parent is not None:
            self._members[parent] = self._members.get(parent, 0) + 1
        if dumpdir is None:
            return
        content = dumpdir.buffer[dumpdir.start : dumpdir.end]
        directories = content.startswith(b'D') + content.count(b'\0D')
        length = self._file.write(content)
        self._lists[path] = _List(self._end, length, directories)
        self._end += length

    def is_complete(self, path: bytes) -> bool:
        """Whether the list of a directory, if any, lists no directory without a
        member."""
        listed = self._lists.get(path)
        return listed is None or listed.directories == self._members.get(path, 0)

    def get(self, path: bytes) -> dict[bytes, bytes] | None:
        """Name -> letter; None if the archive has no list of the directory."""
        listed = self._lists.get(path)
        if listed is None:
            return None
        self._file.seek(listed.start)
        content = self._file.read(listed.length)
        entries = Dumpdir(content, 0, len(content)).entries()
        return {entry[1:]: entry[:1] for entry in entries}


class _Entered:
    """A directory whose contents follow.

    :ivar unchanged: whether it has the same names as in the level below, and all
        directories above it have
    """

    def __init__(self, path: bytes, unchanged: bool, lists: _Lists) -> None:
        self.path = path
        self.unchanged = unchanged
        self._lists = lists

    @functools.cached_property
    def names(self) -> dict[bytes, bytes] | None:
        """Name -> letter; None if the archive has no list of the directory."""
        return self._lists.get(self.path)


class _Listing:
    """Which names of the level below the directories no longer have."""

    def __init__(self, lists: _Lists) -> None:
        self._lists = lists
        self._stack: list[_Entered] = []
        self._removed: bytes | None = None

    def enter(self, new: Record, old: Record | None) -> None:
        """Go into a directory; its contents follow.

        :param old: of the level below
        """
        path = new.path
        self._leave(path)
        unchanged = (
            (not self._stack or self._stack[-1].unchanged)
            and old is not None
            # It tells whether the names differ. What was a file may be a directory now,
            # which tar could not read.
            and old.size == new.size
            and self._lists.is_complete(path)
        )
        self._stack.append(_Entered(path, unchanged, self._lists))

    @property
    def is_unchanged(self) -> bool:
        """Whether nothing is gone of what is next in the level below."""
        return not self._stack or self._stack[-1].unchanged

    def _leave(self, path: bytes) -> None:
        while self._stack and not _is_below(path, self._stack[-1].path):
            self._stack.pop()

    def lacks(self, path: bytes, kind: str) -> bool:
        """Whether a name of the level below, without a member, is gone; False if it
        went with a directory that is gone."""
        if self._removed is not None and _is_below(path, self._removed):
            return False
        self._leave(path)
        if not path or not self._stack:
            return False
        folder = self._stack[-1]
        name = path[len(folder.path) + 1 :] if folder.path else path
        if folder.unchanged or folder.names is None or b'/' in name:
            # A directory that tar could not read, or did not go into: what a restore
            # finds there it keeps.
            return False
        letter = folder.names.get(name, _ABSENT)
        gone = not letter or (letter == b'D') != (kind == 'directory')
        if letter == b'N' and kind == 'directory':
            gone = False
        if gone:
            self._removed = path
        return gone


def _is_below(path: bytes, folder: bytes) -> bool:
    return not folder or path.startswith(folder + b'/')
