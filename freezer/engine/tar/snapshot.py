"""Reads GNU tar's snapshot file (``--listed-incremental``), and writes it for tar.

Format 2: a line ``GNU tar-<version>-2``, then fields that each end with NUL: seconds
and nanoseconds of the dump, then per directory: NFS flag, mtime seconds and
nanoseconds, device, inode, name, and its entries, each a letter and a name (Y: dumped,
N: not changed, D: a directory), until an empty one; then an empty field.
https://www.gnu.org/software/tar/manual/html_node/Snapshot-Files.html

An increment on a level with an index does not read that level's file. Levels of Freezer
19, and of earlier versions of this agent, have no index, and their file is corrected
before it is used. Used as it is, it would lose data, seen with tar 1.34:

* The kernel's clock for time stamps is coarse: a file made just after the dump began
  may carry a time before it, and is never stored. So the dump's time is set back.
* The source may be a snapshot that is older than the archive: what changed in between
  would never be stored. So the dump's time is that of the snapshot.
* A file that could not be read counts as stored. It is removed from the record, so it
  is new at the next level.
* An excluded file counts as not changed, whether it was ever stored or not. It gets a
  letter of its own, and counts as new.
* A single file has no record, so another file that is older would count as not changed.
  The path is stored as the record of a directory that tar never looks for.

Another such record has the names of files that tar could not read to their ends. In the
archive their members end with zeros, and this agent does not restore them. A third one
has the path that was backed up, if the level has no index, which would have it. A
fourth one has the paths in a directory, if not all of it was backed up.
"""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

from freezer.engine.tar.selection import Selection
from freezer.exceptions import EngineError

# A tick is 10 ms at most; two seconds also cover file systems that keep whole seconds.
MARGIN_NANOSECONDS = 2 * 10**9
#: epoch seconds after any time of a file: then the names alone decide
FUTURE = 1 << 62
_DIRECTORY_FIELDS = 6
#: the subject of the snapshot file of a directory
TREE = b'.'
_UNCHANGED = b'N'
# Not a letter of tar; tar treats a name with any letter as known.
_EXCLUDED = b'I'
# Names of records. No absolute path of a file has such a component.
_PADDED = b'/./padded'
_SOURCE = b'/./source'
_CHOSEN = b'/./chosen'


@dataclasses.dataclass
class DirectoryRecord:
    """``head`` is NFS flag, mtime (2), device, inode; names are as in tar's file."""

    head: list[bytes]
    name: bytes
    entries: list[bytes]

    def dump(self) -> bytes:
        """The record as it is in the file."""
        return b'\0'.join([*self.head, self.name, *self.entries, b'', b'', b''])

    @property
    def path(self) -> bytes:
        return plain_path(self.name)

    @property
    def prefix(self) -> bytes:
        """The beginning of the paths of its entries."""
        return self.path + b'/' if self.path else b''


@dataclasses.dataclass
class Snapshot:
    """A snapshot file; ``seconds`` and ``nanoseconds`` are the time its dump began.

    :ivar padded: paths of files that end with zeros in the archive
    :ivar source: the path that was backed up; None if it is not known
    :ivar chosen: the paths of a :class:`Selection`; empty if all was backed up
    """

    version: bytes
    seconds: int
    nanoseconds: int
    directories: list[DirectoryRecord]
    padded: frozenset[bytes] = frozenset()
    source: bytes | None = None
    chosen: tuple[bytes, ...] = ()

    def dump(self) -> bytes:
        fields = [b'%d' % self.seconds, b'%d' % self.nanoseconds]
        head = self.version + b'\n' + b''.join(field + b'\0' for field in fields)
        sources = () if self.source is None else (self.source,)
        added = [
            DirectoryRecord([b'0'] * 5, name, [_UNCHANGED + path for path in paths])
            for name, paths in (
                (_PADDED, sorted(self.padded)),
                (_SOURCE, sources),
                (_CHOSEN, self.chosen),
            )
            if paths
        ]
        records = [*self.directories, *added]
        return head + b''.join(record.dump() for record in records)

    @property
    def top_names(self) -> set[bytes]:
        """The names in the directory that was archived."""
        top = (each.entries for each in self.directories if not each.path)
        return {entry[1:] for entry in next(top, [])}

    @property
    def subject(self) -> bytes | None:
        """What was archived: :data:`TREE`, or the path of a single file.

        None if that was not recorded: Freezer 19 does not for a single file.
        """
        for directory in self.directories:
            if not directory.path:
                return TREE
            if directory.name.startswith(b'/'):
                return directory.name
        return None

    def note(self, subject: bytes) -> None:
        """Record the subject, if tar does not."""
        if subject != TREE:
            self.directories.append(DirectoryRecord([b'0'] * 5, subject, []))

    def note_chosen(self, selection: Selection) -> None:
        """Record the paths, and the directories that lead to them."""
        self.chosen = selection.paths
        directories = selection.directories
        for path, names in selection.names.items():
            prefix = path + b'/' if path else b''
            entries = [
                (b'D' if prefix + name in directories else b'Y') + name
                for name in names
            ]
            self.directories.append(
                DirectoryRecord([b'0'] * 5, b'./' + path if path else b'.', entries)
            )

    def note_excluded(self, is_excluded: Callable[[bytes], bool]) -> None:
        """Mark excluded files, which tar records as not changed, stored or not."""
        for directory in self.directories:
            prefix = directory.prefix
            for number, entry in enumerate(directory.entries):
                if entry[:1] == _UNCHANGED and is_excluded(prefix + entry[1:]):
                    directory.entries[number] = _EXCLUDED + entry[1:]

    def for_next_level(self, level: int) -> None:
        """Correct it so that the next level can safely build on it.

        :param level: the next one. For level 1 unchanged files are dropped as well:
            at level 0 only excluded ones are recorded so
        """
        excluded = (_EXCLUDED, _UNCHANGED) if level == 1 else (_EXCLUDED,)
        time = self.seconds * 10**9 + self.nanoseconds - MARGIN_NANOSECONDS
        self.seconds, self.nanoseconds = divmod(time, 10**9)
        for directory in self.directories:
            directory.entries = [e for e in directory.entries if e[:1] not in excluded]

    def forget(self, paths: Iterable[bytes]) -> None:
        """Make the next level store these, and all below them, whatever their times.

        :param paths: as in :meth:`paths`
        """
        gone = set(paths)
        kept = []
        for directory in self.directories:
            names = directory.path.split(b'/')
            above = (b'/'.join(names[:depth]) for depth in range(1, len(names) + 1))
            if not gone.isdisjoint(above):
                continue
            prefix = directory.prefix
            directory.entries = [
                entry for entry in directory.entries if prefix + entry[1:] not in gone
            ]
            kept.append(directory)
        self.directories = kept

    def paths(self) -> set[bytes]:
        """Every path below the archived directory, without ``./``; not itself."""
        if self.subject != TREE:
            return set()
        found = {each.path for each in self.directories if each.path}
        return found | {
            directory.prefix + entry[1:]
            for directory in self.directories
            for entry in directory.entries
        }


EMPTY = Snapshot(b'', 0, 0, [])


def load(content: bytes) -> Snapshot:
    """:raises EngineError: not a snapshot file of this format, or cut off"""
    version, newline, body = content.partition(b'\n')
    if not newline or not version.startswith(b'GNU tar-') or version[-2:] != b'-2':
        raise EngineError('the engine metadata is not a snapshot file of GNU tar')
    fields = body.split(b'\0')
    try:
        snapshot = Snapshot(version, int(fields[0]), int(fields[1]), [])
        position = 2
        while position < len(fields) - 1:
            head = fields[position : position + _DIRECTORY_FIELDS - 1]
            name = fields[position + _DIRECTORY_FIELDS - 1]
            position += _DIRECTORY_FIELDS
            end = fields.index(b'', position)
            record = DirectoryRecord(head, name, fields[position:end])
            paths = [entry[1:] for entry in record.entries]
            if name == _PADDED:
                snapshot.padded = frozenset(paths)
            elif name == _SOURCE:
                (snapshot.source,) = paths
            elif name == _CHOSEN:
                snapshot.chosen = tuple(paths)
            else:
                snapshot.directories.append(record)
            position = end + 2
    except (ValueError, IndexError) as error:
        raise EngineError('the engine metadata is a damaged snapshot file') from error
    return snapshot


def set_seconds(path: Path, seconds: int) -> None:
    """Change the time of a dump in place, as the file may be large."""
    with open(path, 'r+b') as file:
        start = len(file.readline())
        width = file.read(20).index(b'\0')
        file.seek(start)
        file.write(b'%0*d' % (width, seconds))


def plain_path(name: bytes) -> bytes:
    """``./a/b`` -> ``a/b``; ``.`` -> nothing."""
    return b'' if name in (b'.', b'./') else name.removeprefix(b'./').rstrip(b'/')
