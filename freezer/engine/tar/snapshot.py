"""GNU tar's snapshot file (``--listed-incremental``): read, and made fit for reuse.

Format 2: a line ``GNU tar-<version>-2``, then fields that each end with NUL: seconds
and nanoseconds of the dump, then per directory: NFS flag, mtime seconds and
nanoseconds, device, inode, name, and its entries, each a letter and a name (Y: dumped,
N: not changed, D: a directory), until an empty one; then an empty field.
https://www.gnu.org/software/tar/manual/html_node/Snapshot-Files.html

Handed to the next level as it is, the file loses data, seen with tar 1.34:

* tar takes a directory with a known inode number for a renamed one. After swaps, moves
  below a renamed parent, or a number that was used again, the increment lacks files, or
  cannot be extracted. With device 0 in every record nothing is taken for a rename; a
  directory that was moved is stored again.
* The kernel's clock for time stamps is coarse: a file made just after the dump began
  may carry a time before it, and is never stored. So the dump's time is put back.
* A file that could not be read counts as stored. It is taken out of the record, and so
  is new at the next level.
* What was excluded counts as not changed, stored or not. It gets a letter of its own,
  and is taken out of the record before tar reads it.
* Of a single file there is no record, and another one that is older would count as not
  changed. A record of a directory that tar never looks for has its path.
"""

import dataclasses
from collections.abc import Callable, Container, Iterable

from freezer.exceptions import EngineError

# A tick is 10 ms at most; two seconds also cover file systems that keep whole seconds.
MARGIN_NANOSECONDS = 2 * 10**9
_DIRECTORY_FIELDS = 6
#: what a snapshot file is of, if it is of a directory
TREE = b'.'
_UNCHANGED = b'N'
# Ours; tar takes any letter for a name it knows.
_EXCLUDED = b'I'


@dataclasses.dataclass
class Directory:
    """One record. ``head`` is NFS flag, mtime (2), device, inode; names as tar's."""

    head: list[bytes]
    name: bytes
    entries: list[bytes]


@dataclasses.dataclass
class Snapshot:
    """A snapshot file. ``seconds`` and ``nanoseconds`` are when its dump began."""

    version: bytes
    seconds: int
    nanoseconds: int
    directories: list[Directory]

    def dump(self) -> bytes:
        fields = [b'%d' % self.seconds, b'%d' % self.nanoseconds]
        for directory in self.directories:
            fields += directory.head
            fields.append(directory.name)
            fields += directory.entries
            fields += [b'', b'']
        return self.version + b'\n' + b'\0'.join(fields) + b'\0'

    @property
    def subject(self) -> bytes | None:
        """What it is of: :data:`TREE`, or the path of a single file.

        None if that was not noted, as in those of Freezer 19, of a single file.
        """
        for directory in self.directories:
            if plain_path(directory.name) == b'':
                return TREE
            if directory.name.startswith(b'/'):
                return directory.name
        return None

    def note(self, subject: bytes) -> None:
        """Say what it is of, where tar does not."""
        if subject != TREE:
            self.directories.append(Directory([b'0'] * 5, subject, []))

    def note_excluded(
        self, stored: Container[bytes], is_younger: Callable[[bytes], bool]
    ) -> None:
        """Tell what was excluded from what has not changed.

        :param stored: paths that the level below has
        :param is_younger: whether one has changed since
        """
        for directory in self.directories:
            folder = plain_path(directory.name)
            prefix = folder + b'/' if folder else b''
            for number, entry in enumerate(directory.entries):
                path = prefix + entry[1:]
                if entry[:1] == _UNCHANGED and (path not in stored or is_younger(path)):
                    directory.entries[number] = _EXCLUDED + entry[1:]

    def for_next_level(self, level: int) -> None:
        """Make it what the next level may safely build on.

        :param level: the next one; at level 0 all counts as changed but what was
            excluded
        """
        excluded = (_EXCLUDED, _UNCHANGED) if level == 1 else (_EXCLUDED,)
        time = self.seconds * 10**9 + self.nanoseconds - MARGIN_NANOSECONDS
        self.seconds, self.nanoseconds = divmod(time, 10**9)
        for directory in self.directories:
            directory.head[3] = b'0'
            directory.entries = [e for e in directory.entries if e[:1] not in excluded]

    def forget(self, paths: Iterable[bytes]) -> None:
        """Make the next level store these, and all below them, whatever their times.

        :param paths: as in :meth:`paths`
        """
        gone = set(paths)
        kept = []
        for directory in self.directories:
            folder = plain_path(directory.name)
            if any(folder == path or folder.startswith(path + b'/') for path in gone):
                continue
            prefix = folder + b'/' if folder else b''
            directory.entries = [
                entry for entry in directory.entries if prefix + entry[1:] not in gone
            ]
            kept.append(directory)
        self.directories = kept

    def paths(self) -> set[bytes]:
        """Every path below the archived directory, without ``./``; not itself."""
        found = set()
        for directory in self.directories if self.subject == TREE else ():
            folder = plain_path(directory.name)
            prefix = folder + b'/' if folder else b''
            if folder:
                found.add(folder)
            found.update(prefix + entry[1:] for entry in directory.entries)
        return found

    def left_out(self) -> set[bytes]:
        """At level 0: the paths, as in :meth:`paths`, of what was excluded."""
        found: set[bytes] = set()
        for directory in self.directories if self.subject == TREE else ():
            folder = plain_path(directory.name)
            prefix = folder + b'/' if folder else b''
            found.update(
                prefix + entry[1:]
                for entry in directory.entries
                if entry[:1] == _UNCHANGED
            )
        return found


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
            snapshot.directories.append(Directory(head, name, fields[position:end]))
            position = end + 2
    except (ValueError, IndexError) as error:
        raise EngineError('the engine metadata is a damaged snapshot file') from error
    return snapshot


def plain_path(name: bytes) -> bytes:
    """``./a/b`` -> ``a/b``; ``.`` -> nothing."""
    return b'' if name in (b'.', b'./') else name.removeprefix(b'./').rstrip(b'/')
