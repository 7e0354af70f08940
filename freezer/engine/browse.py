"""Browses states of chains: names from the indexes, contents by ranges of archives."""

import bisect
import collections
import contextlib
import functools
import threading
import weakref
from collections.abc import Generator, Iterator, Sequence
from typing import Final, NamedTuple

from freezer.engine.engine import FileEngine, MemberMap
from freezer.engine.index.chain import at_once, no_link_target
from freezer.engine.index.file import BlockCache, Part, memory_copy
from freezer.engine.index.record import Owner, Record
from freezer.engine.index.tree import Found, StateTree
from freezer.engine.opened import LevelOpener, OpenedLevel
from freezer.engine.settings import EngineSettings
from freezer.exceptions import EngineError, FreezerError, RestoreError
from freezer.storage import layout, manifest
from freezer.storage.backup import StoredLevel
from freezer.storage.cached import CachedStorage, RecentBytes
from freezer.storage.exceptions import IntegrityError
from freezer.stream import encryption
from freezer.stream.points import Points
from freezer.utils.blocks import Block
from freezer.utils.lazy import fetched
from freezer.utils.ranges import Portions, Range

# Decoded blocks of all indexes: about 40 MiB.
_BLOCKS: Final = 64
# Bytes of an archive that are decompressed and kept at once, about; files of a
# directory are mostly in the same ones. Points are as far apart.
_SEGMENT: Final = 4 << 20
_LONGEST_SEGMENT: Final = 4 * _SEGMENT
# Segments that are read at once when a file is read from start to end.
_AHEAD: Final = 6
# Bytes that are kept: of archives, and of pieces as they are stored, at most 32 MiB
# each.
_KEPT_PLAIN: Final = 48 << 20
_KEPT_STORED: Final = 64 << 20
# Bytes of a member that are read at once to find its map.
_HEAD: Final = 16 << 10
# Device numbers of a state that are remembered.
_DEVICES: Final = 4096


class Attributes(NamedTuple):
    """A file of a state, of any kind.

    :ivar blocks: of 512 bytes, without holes
    :ivar links: names of the file in this state; 1 for directories
    :ivar identity: the same for all names of one file, and for the same stored file in
        several states; of a directory, different in each state
    :ivar target: of a symbolic link
    :ivar device: number of a device
    """

    kind: str
    mode: int
    owner: Owner
    size: int
    blocks: int
    mtime_ns: int
    links: int
    identity: bytes
    target: bytes
    device: int


class Name(NamedTuple):
    """A name in a directory; see :class:`Attributes`."""

    name: bytes
    kind: str
    identity: bytes


class _Level:
    """A level with its index, which is copied here as a whole.

    :param plain: keeps segments of archives
    """

    def __init__(
        self, opened: OpenedLevel, cache: BlockCache, plain: RecentBytes
    ) -> None:
        self.opened = opened
        self.folder = opened.stored.backup.path.encode()
        where = opened.stored.paths.index
        index = opened.index()
        if index is None:
            raise IntegrityError(f'{opened.stored!r} has no index')
        self.index = memory_copy(index, where, cache)
        # A link is stored in the same level as the file.
        self.links, self._end = self.index.links_and_end()
        self._points = Points.load(self.index.properties.get('stream'), where)
        self._plain = plain
        self._lock = threading.Lock()

    def read(self, start: int, end: int, ahead: int = 1) -> bytes:
        """Bytes of the archive, each checked.

        :param ahead: segments to read at once if one is not kept
        :raises StorageException, FreezerError: they are damaged
        """
        if end > self._end:
            raise EngineError(
                f'{self.opened.stored!r}: a member ends after the archive: the index '
                f'is damaged'
            )
        try:
            return b''.join(self._parts(start, end, ahead))
        except (IntegrityError, FreezerError):
            # The damage may be beside it.
            return b''.join(self.opened.archive_ranges([(start, end)], self._points))

    def _parts(self, start: int, end: int, ahead: int) -> Iterator[bytes]:
        while start < end:
            segment = begin, after = self._segment_at(start)
            yield self._segment(segment, ahead)[start - begin : end - begin]
            start = after

    def _segment_at(self, position: int) -> Range:
        start, end = 0, self._end
        if self.opened.compression != 'none':
            start = self._points.before(position).plain
            after = self._points.after(position + 1)
            end = self._end if after is None else min(after.plain, self._end)
            if end - start <= _LONGEST_SEGMENT:
                return start, end
        # Without compression; or a stream that was not written in pieces, which is
        # decompressed from its start for each segment.
        start += (position - start) // _SEGMENT * _SEGMENT
        return start, min(start + _SEGMENT, end)

    def _segment(self, segment: Range, ahead: int) -> bytes:
        data = self._plain.get((self.folder, segment))
        if data is not None:
            return data
        # Only one thread fetches: others may want the same.
        with self._lock:
            data = self._plain.get((self.folder, segment))
            if data is None:
                data = self._fetch(segment, ahead)
            return data

    def _fetch(self, first: Range, ahead: int) -> bytes:
        segments = [first]
        while len(segments) < ahead and segments[-1][1] < self._end:
            segments.append(self._segment_at(segments[-1][1]))
        wanted = [(first[0], segments[-1][1])]
        found = None
        with contextlib.closing(
            self.opened.archive_ranges(wanted, self._points)
        ) as blocks:
            portions = Portions(blocks)
            for start, end in segments:
                data = b''.join(portions.take(end - start))
                if len(data) < end - start:
                    raise EngineError(f'{self.opened.stored!r}: the archive is cut off')
                self._plain.put((self.folder, (start, end)), data)
                found = found or data
        assert found is not None
        return found


class Browser:
    """Opens states. They share levels, and what was read last. For several threads.

    :raises ConfigError: the passphrase cannot be read
    """

    def __init__(self, engine: FileEngine, settings: EngineSettings) -> None:
        self.engine = engine
        #: held while an index is read
        self.lock = threading.RLock()
        self._opener = LevelOpener(settings, engine)
        self._stored = RecentBytes(_KEPT_STORED)
        self._plain = RecentBytes(_KEPT_PLAIN)
        self._cache = BlockCache(_BLOCKS)
        self._opening = threading.Lock()
        self._levels: weakref.WeakValueDictionary[tuple[str, str], _Level]
        self._levels = weakref.WeakValueDictionary()

    def problem(self, levels: Sequence[StoredLevel]) -> str | None:
        """Why a state cannot be browsed, as far as the markers show; None if it can.

        :param levels: from level 0 up
        :raises StorageException: a marker cannot be read
        """
        for stored in levels:
            if manifest.INDEX_KEY not in stored.marker:
                return (
                    f'level {stored.level} has no index; --action admin '
                    f'--rebuild-index makes it'
                )
            try:
                self._opener.open(stored)
            except RestoreError as error:
                return str(error)
        return None

    def open(self, levels: Sequence[StoredLevel]) -> 'BrowsedState':
        """
        :param levels: from level 0 up
        :raises StorageException, EncryptionError, EngineError: an index is missing or
            damaged, or does not open
        """
        with self._opening:
            opened = [self._open(stored) for stored in levels]
            made = list(
                at_once([functools.partial(self._level, one) for one in opened])
            )
            below = [None, *levels]
            for level, base in zip(opened, below, strict=False):
                if level.format == layout.AGE:
                    level.check_base(base)
            return BrowsedState(self, made)

    def _open(self, stored: StoredLevel) -> OpenedLevel:
        reads = CachedStorage(stored.storage, self._stored, stored.member)
        return self._opener.open(StoredLevel(reads, stored.backup, stored.member))

    def _level(self, opened: OpenedLevel) -> _Level:
        key = opened.stored.member, opened.stored.backup.path
        level = self._levels.get(key)
        if level is None:
            level = self._levels[key] = _Level(opened, self._cache, self._plain)
        return level


class BrowsedState:
    """A state, opened."""

    def __init__(self, browser: Browser, levels: Sequence[_Level]) -> None:
        self._browser = browser
        self._levels = levels
        self._tree = StateTree([level.index for level in levels])
        newest = levels[-1]
        self._folder = newest.folder
        self._padded = newest.opened.padded
        self._devices: collections.OrderedDict[bytes, int] = collections.OrderedDict()

    @property
    def padded(self) -> frozenset[bytes]:
        """Files that could not be read to their ends when the backup was made."""
        return self._padded

    def check(self) -> None:
        """Check that the passphrase opens the newest archive.

        Reads its beginning. In format age the index is encrypted as well.

        :raises StorageException, FreezerError: it does not
        """
        newest = self._levels[-1]
        if newest.opened.format == encryption.OPENSSL:
            newest.read(0, 512)

    def attributes(self, path: bytes) -> Attributes | None:
        """None if the state does not have the path.

        :param path: below the directory that was backed up
        :raises StorageException, FreezerError: the backup is damaged
        """
        with self._browser.lock:
            found = self._tree.find(path)
            if found is None:
                return None
            block, at, _end = found.part
            stored = self._stored(found)
            kind = stored.kind
            size = stored.part.block.sizes[stored.part.start] if kind == 'file' else 0
            length = stored.part.block.lengths[stored.part.start]
            target = stored.part.block.targets[stored.part.start]
            attributes = Attributes(
                kind,
                block.modes[at],
                block.owners[at],
                len(target) if kind == 'symlink' else size,
                min(-(-size // 512), length // 512),
                block.mtimes[at],
                self._count_links(stored),
                self._identity(path, kind, stored),
                target,
                0,
            )
        if kind in ('character', 'block'):
            return attributes._replace(device=self._device(attributes, stored))
        return attributes

    def names(self, path: bytes) -> Iterator[Name]:
        """The names in a directory, sorted; nothing if it is none.

        :raises EngineError: an index is damaged
        """
        parts = self._tree.children(path)
        size = len(path) + bool(path)
        while True:
            # Not while the caller has the names.
            with self._browser.lock:
                level, part = next(parts, (0, None))
                if part is None:
                    return
                found = [
                    self._name(Found(level, Part(part.block, at, at + 1)), size)
                    for at in range(part.start, part.end)
                ]
            yield from found

    def _name(self, found: Found, size: int) -> Name:
        path = found.part.block.paths[found.part.start]
        stored = self._stored(found)
        return Name(path[size:], stored.kind, self._identity(path, stored.kind, stored))

    def open(self, path: bytes) -> 'FileReader | None':
        """Open a file; see :class:`FileReader`. None if the state does not have it.

        :raises FreezerError: the backup is damaged, or does not have all of the file
        """
        with self._browser.lock:
            found = self._tree.find(path)
            if found is None:
                return None
            stored = self._stored(found)
            record = self._record(stored)
        if not self._padded.isdisjoint((path, record.path)):
            raise EngineError(
                f'could not be read to its end when level '
                f'{self._levels[-1].opened.level} was made: see an earlier state'
            )
        return FileReader(self._browser, self._levels[stored.level], record)

    def _stored(self, found: Found) -> Found:
        """What a hard link is a name of; all else is that itself."""
        block, at, _end = found.part
        if found.kind != 'link':
            return found
        part = self._levels[found.level].index.locate(block.targets[at])
        if part is None:
            raise no_link_target(block.paths[at], block.targets[at], found.level)
        return Found(found.level, part)

    @staticmethod
    def _record(found: Found) -> Record:
        return found.part.block.records[found.part.start]

    def _identity(self, path: bytes, kind: str, stored: Found) -> bytes:
        if kind == 'directory':
            return self._folder + b'\0' + path
        name = stored.part.block.paths[stored.part.start]
        return self._levels[stored.level].folder + b'\0' + name

    def _count_links(self, stored: Found) -> int:
        """The names of a file in this state."""
        path = stored.part.block.paths[stored.part.start]
        others = self._levels[stored.level].links.get(path)
        if others is None:
            return 1
        found = (self._tree.find(name) for name in (path, *others))
        count = sum(one is not None and one.level == stored.level for one in found)
        return max(count, 1)

    def _device(self, attributes: Attributes, stored: Found) -> int:
        """The number, which only the archive has."""
        key = attributes.identity
        device = self._devices.get(key)
        if device is None:
            with self._browser.lock:
                record = self._record(stored)
            reader = FileReader(self._browser, self._levels[stored.level], record)
            device = self._devices[key] = reader.map.device
            while len(self._devices) > _DEVICES:
                self._devices.popitem(last=False)
        return device


class FileReader:
    """Reads a file of a backup anywhere. For several threads.

    Each byte is checked before it is returned. Nothing is fetched before the first
    read.
    """

    def __init__(self, browser: Browser, level: _Level, record: Record) -> None:
        self.size = record.size
        self._engine = browser.engine
        self._level = level
        self._record = record
        # The end of the last read, and how much is read ahead.
        self._next = 0
        self._ahead = 1

    @fetched
    def map(self) -> MemberMap:
        """:raises StorageException, FreezerError: the backup is damaged"""
        with contextlib.closing(self._head()) as blocks:
            return self._engine.member_map(blocks, self._record.path)

    def _head(self) -> Generator[Block, None, None]:
        start, end = self._record.offset, self._record.end
        for position in range(start, end, _HEAD):
            yield self._level.read(position, min(position + _HEAD, end))

    def read(self, offset: int, size: int) -> bytes:
        """Fewer bytes at the end of the file; holes are zeros.

        :raises StorageException, FreezerError: the backup is damaged
        """
        end = min(offset + size, self.size)
        if offset >= end:
            return b''
        # Requests of several threads may change places.
        is_near = offset and abs(offset - self._next) < _SEGMENT
        self._ahead = min(2 * self._ahead, _AHEAD) if is_near else 1
        self._next = end
        return b''.join(self._parts(offset, end))

    def _parts(self, position: int, end: int) -> Iterator[bytes]:
        starts, lengths, places = self.map.starts, self.map.lengths, self.map.places
        begin = self._record.offset
        number = max(bisect.bisect_right(starts, position) - 1, 0)
        while position < end and number < len(starts) and starts[number] < end:
            start, length = starts[number], lengths[number]
            yield bytes(max(start - position, 0))
            position = max(position, start)
            stop = min(end, start + length)
            if position < stop:
                place = begin + places[number] - start
                yield self._level.read(place + position, place + stop, self._ahead)
                position = stop
            number += 1
        yield bytes(end - position)
