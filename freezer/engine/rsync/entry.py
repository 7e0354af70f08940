"""What a level says of one path, and the readers of a level's archive."""

import abc
import math
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from freezer.engine.rsync.byte_reader import ByteReader
from freezer.exceptions import UnsafeArchiveError
from freezer.utils.blocks import Block

REMOVED: Final = 'removed'

NS: Final = 10**9
# The years that dates can be printed of.
_FIRST_SECOND: Final = -62135596800
_LAST_SECOND: Final = 253402300799
LARGEST: Final = 2**63 - 1

_KINDS: Final = {
    stat.S_IFREG: 'file',
    stat.S_IFDIR: 'directory',
    stat.S_IFLNK: 'symlink',
    stat.S_IFIFO: 'fifo',
    stat.S_IFCHR: 'character',
    stat.S_IFBLK: 'block',
}


class Entry(NamedTuple):
    """A path of a level.

    :ivar path: below the directory that was backed up; empty for that itself
    :ivar kind: a word of :data:`freezer.engine.index.record.KINDS`, or ``REMOVED``
    :ivar uid: None if the format does not have it
    :ivar gid: the same
    :ivar size: of a file, bytes
    :ivar atime_ns: None if the format does not have it
    :ivar target: of a symbolic link
    :ivar is_change: the contents are blocks that replace those of the level below
    """

    path: bytes
    kind: str
    mode: int = 0
    uid: int | None = None
    gid: int | None = None
    user: str = ''
    group: str = ''
    size: int = 0
    mtime_ns: int = 0
    atime_ns: int | None = None
    target: bytes = b''
    is_change: bool = False


class LevelReader(abc.ABC):
    """Reads the archive of one level, once.

    :cvar version: of the format
    :ivar problem: set at the end of :meth:`entries` if the archive does not have as
        many bytes as the files in it: the contents of files are then wrong, and only
        their checksums show of which
    """

    version: int

    def __init__(self, stream: ByteReader) -> None:
        self._stream = stream
        self.problem: str | None = None

    @abc.abstractmethod
    def paths(self) -> Iterator[Entry]:
        """The entries, without their contents; reads only as far as it must.

        :raises EngineError: the archive is damaged
        """

    @abc.abstractmethod
    def entries(self) -> Iterator[tuple[Entry, Iterator[tuple[int, Block]]]]:
        """The entries with their contents: offset in the file, and bytes. What is not
        read of them when the next one is requested is skipped.

        :raises EngineError: the archive is damaged
        """


def kind_of(mode: int) -> str | None:
    """The kind of a file by its ``st_mode``; None for an unknown one."""
    return _KINDS.get(stat.S_IFMT(mode)) if 0 <= mode < 1 << 16 else None


def check_path(path: bytes) -> bytes:
    """
    :raises UnsafeArchiveError: it is not a path below a directory
    """
    parts = path.split(b'/')
    if b'\0' in path or any(part in (b'', b'.', b'..') for part in parts):
        raise UnsafeArchiveError(
            f'the archive has the path {path[:200]!r}, which Freezer 19 does not write '
            f'and which could lead out of the target: nothing of it was restored'
        )
    return path


def nanoseconds(seconds: float) -> int | None:
    """None if that is no time."""
    if not math.isfinite(seconds) or not _FIRST_SECOND <= seconds <= _LAST_SECOND:
        return None
    # A float64 has about 240 ns of today; a product would lose some of them.
    whole = math.floor(seconds)
    return whole * NS + round((seconds - whole) * NS)
