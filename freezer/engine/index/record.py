"""A record of an index: a name, its identity, and its place in the archive."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

Owner = tuple[int, int, str, str]
"""uid, gid, user, group"""


class Row(NamedTuple):
    """A file of a backup, of any kind, as it would be restored.

    :ivar level: the level that holds it
    :ivar path: below the directory that was backed up
    :ivar kind: a word of :data:`KINDS`
    :ivar mode: permissions, and set-user-ID and the like
    :ivar size: bytes, with holes; of all but files it means nothing
    :ivar mtime_ns: epoch nanoseconds
    :ivar target: of a symbolic link; of a hard link, the name of the same file that has
        the size; of all others it means nothing
    """

    level: int
    path: bytes
    kind: str
    mode: int = 0
    owner: Owner = (0, 0, '', '')
    size: int = 0
    mtime_ns: int = 0
    target: bytes = b''


class Rows(NamedTuple):
    """Some rows in columns: a million files need no object each."""

    levels: Iterable[int]
    paths: Sequence[bytes]
    kinds: Sequence[str]
    modes: Sequence[int]
    owners: Sequence[Owner]
    sizes: Sequence[int]
    mtimes: Sequence[int]
    targets: Sequence[bytes]

    def each(self) -> Iterator[Row]:
        return map(Row._make, zip(*self, strict=True))


def rows_of(rows: Sequence[Row]) -> Rows:
    """The rows, which are at least one, in columns."""
    columns: list[Any] = [list(column) for column in zip(*rows, strict=True)]
    return Rows(*columns)


KINDS = ('file', 'directory', 'symlink', 'link', 'fifo', 'character', 'block')

REMOVED: Final = 'removed'
"""The kind of a record that says: the level below has this name, and everything below
it, and this level has not."""

#: every kind of record; an index stores the number
ALL_KINDS: Final = (*KINDS, REMOVED)


REBUILT: Final = 'rebuilt'
"""A property of an index that was made from the stored level: no identity is known."""


UNSTORED: Final = 'unstored'
"""A property: paths of the source that the level does not have, because they are
excluded, say, or could not be read. Not there if that is not known."""
CHOSEN: Final = 'chosen'
"""A property: the paths of a source that is a part of a directory, a list of texts."""


class Record(NamedTuple):
    """One name of a level.

    :ivar path: below the directory that was backed up, which itself is empty
    :ivar kind: a word of :data:`ALL_KINDS`
    :ivar mode: permissions, and set-user-ID and the like
    :ivar size: bytes, with holes; of a directory, a number that differs if the names
        in it differ; else 0
    :ivar mtime_ns: epoch nanoseconds
    :ivar ctime_ns: the same; 0 if the identity is not known: then the file counts as
        changed
    :ivar inode: its number; 0 if the identity is not known
    :ivar target: of a symbolic link; of a hard link, the name of the same file that has
        the contents; else empty
    :ivar offset: of its member in the archive, bytes
    :ivar length: of its member, bytes, with headers and padding
    """

    path: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    user: str
    group: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    target: bytes
    offset: int
    length: int

    @property
    def end(self) -> int:
        """The byte of the archive after its member."""
        return self.offset + self.length

    def row(self, level: int) -> Row:
        """As a list has it.

        :param level: the level whose index has the record
        """
        owner = self.uid, self.gid, self.user, self.group
        return Row(
            level,
            self.path,
            self.kind,
            self.mode,
            owner,
            self.size,
            self.mtime_ns,
            self.target,
        )


# Faster than calling the class: there is one of each file.
new_record: Final = Record._make


def identity(
    path: bytes, kind: str, size: int, mtime_ns: int, ctime_ns: int, inode: int
) -> Record:
    """What a walk knows of a file; the rest is in the archive."""
    return new_record(
        (path, kind, 0, 0, 0, '', '', size, mtime_ns, ctime_ns, inode, b'', 0, 0)
    )


def removed(path: bytes) -> Record:
    return Record(path, REMOVED, 0, 0, 0, '', '', 0, 0, 0, 0, b'', 0, 0)


def sort_key(path: bytes) -> bytes:
    """The order of an index: component by component, so that a directory comes directly
    before its contents. No name contains a NUL."""
    return path.replace(b'/', b'\0')


def merge_ranges(records: Iterable[Record]) -> list[tuple[int, int]]:
    """The byte ranges of an archive that hold these members, sorted; neighbours are one
    range."""
    found: list[tuple[int, int]] = []
    for start, end in sorted({(each.offset, each.end) for each in records}):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found
