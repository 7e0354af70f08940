"""A backup by its name, a level that is stored, and a level that is being written."""

import abc
import contextlib
import functools
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from freezer.storage import layout, manifest
from freezer.storage.exceptions import (
    Conflict,
    IntegrityError,
    ManifestError,
    NotFound,
    StorageException,
)
from freezer.storage.index_file import IndexRecord, StoredIndex
from freezer.utils.blocks import Block, PartStart
from freezer.utils.lazy import fetched
from freezer.utils.ranges import Range, Selection

T = TypeVar('T')

_Reads = Generator[manifest.Read, None, None]

# An age identity file is about 300 bytes; cap what is read of it.
_MAX_IDENTITY_BYTES = 64 * 1024


@dataclass(frozen=True)
class Backup:
    """The name of one level of one chain. Timestamps are epoch seconds.

    :param engine: name of the engine that made it
    :param hostname_backup_name: ``<host name>_<backup name>``
    :param level_zero_timestamp: of the chain's level 0
    """

    engine: str
    hostname_backup_name: str
    level_zero_timestamp: int
    timestamp: int
    level: int

    def __repr__(self) -> str:
        return (
            f'<{self.engine} {self.hostname_backup_name} '
            f'{self.level_zero_timestamp}/{self.level}_{self.timestamp}>'
        )

    @property
    def path(self) -> str:
        """The level's folder, below ``data`` and ``metadata`` alike."""
        return layout.join(
            self.engine,
            self.hostname_backup_name,
            str(self.level_zero_timestamp),
            layout.level_name(self.level, self.timestamp),
        )


class Owner(NamedTuple):
    """Host and backup name, which the path of a backup joins: ``web`` with ``db_main``
    and ``web_db`` with ``main`` share a folder. The marker has them apart."""

    hostname: str
    backup_name: str

    @property
    def identity(self) -> str:
        return f'{self.hostname}_{self.backup_name}'


class StreamPaths:
    """Where the files of one stream are on a storage.

    :param folder: of the level, or of a part of it
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.data = self.file(layout.DATA)
        self.manifest = self.file(layout.MANIFEST)

    def file(self, name: str) -> str:
        """A file by its name below the folder."""
        return layout.join(self.folder, name)


class LevelPaths(StreamPaths):
    """Where the files of one level are on a storage, with those of its stream if it has
    no parts.

    :param root: the container
    """

    def __init__(self, root: str, backup: Backup) -> None:
        super().__init__(layout.join(root, layout.DATA, backup.path))
        self.marker = layout.join(root, layout.METADATA, backup.path, layout.METADATA)
        self.pin = layout.join(root, layout.METADATA, backup.path, layout.PINNED)
        self.engine_metadata = self.file(layout.ENGINE_METADATA)
        self.identity = self.file(layout.IDENTITY)
        self.index = self.file(layout.INDEX)
        self.parts = self.file(layout.PARTS)

    def stream(self, part: str) -> StreamPaths:
        """The files of a part; for an empty name, those of the only stream."""
        return StreamPaths(self.file(layout.part_name(part))) if part else self


class Stat(NamedTuple):
    """Size in bytes, and what the store reports of a file; None where it does not.

    :param etag: as the store gives it
    :param storage_class: stores leave out their standard one
    :param lock_mode: GOVERNANCE or COMPLIANCE, until ``locked_until``
    :param locked_until: epoch seconds
    :param legal_hold: locked until the hold is removed
    """

    size: int
    etag: str | None
    storage_class: str | None = None
    lock_mode: str | None = None
    locked_until: int | None = None
    legal_hold: bool = False


class Readable(Protocol):
    """What reading a level needs of a storage; see :class:`base.Storage`."""

    storage_path: str

    def location(self, path: str) -> str: ...

    def list_tree(self, path: str) -> Iterator[tuple[str, int]]: ...

    def stat(self, path: str) -> Stat: ...

    def read_file(self, path: str, limit: int | None = None) -> bytes: ...

    def read_pieces(
        self, path: str, etag: str | None, pieces: Iterable[manifest.Piece]
    ) -> Generator[manifest.Read, None, None]: ...


class StoredLevel:
    """A committed level on a storage. Fetches everything only when it is needed.

    Marker, manifests, sizes and identity are fetched at most once. The engine's file
    may have hundreds of megabytes: :meth:`engine_metadata` fetches it at each call.

    :ivar member: name of the storage among several; empty if there is only one
    :ivar pinned: whether the state was pinned when the level was listed
    """

    def __init__(
        self,
        storage: Readable,
        backup: Backup,
        member: str = '',
        pinned: bool = False,
    ) -> None:
        self.storage = storage
        self.backup = backup
        self.member = member
        self.pinned = pinned
        self.level = backup.level
        self.timestamp = backup.timestamp
        self.level_zero_timestamp = backup.level_zero_timestamp
        self.paths = LevelPaths(storage.storage_path, backup)

    def __repr__(self) -> str:
        return repr(self.backup)

    @fetched
    def marker(self) -> dict[str, Any]:
        """The commit marker: engine_name, compression, encryption and more.

        :raises NotFound: the level is not committed any more
        :raises IntegrityError: the marker is damaged
        """
        where = self.storage.location(self.paths.marker)
        return parse_marker(self.storage.read_file(self.paths.marker), where)

    @property
    def owner(self) -> Owner | None:
        """Whose backup it is; None if the marker does not say, as in older backups, or
        has other names than the path.

        :raises NotFound, IntegrityError: as for :attr:`marker`
        """
        owner = Owner(*(str(self.marker.get(key)) for key in Owner._fields))
        # Somebody may have renamed the folder.
        return owner if owner.identity == self.backup.hostname_backup_name else None

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of ``--tag``; anything else that somebody wrote there is no tag.

        :raises NotFound, IntegrityError: as for :attr:`marker`
        """
        found = self.marker.get(layout.TAGS_KEY)
        tags = found if isinstance(found, list) else []
        return tuple(tag for tag in tags if isinstance(tag, str))

    @property
    def note(self) -> str:
        """The text of ``--note``; empty without.

        :raises NotFound, IntegrityError: as for :attr:`marker`
        """
        note = self.marker.get(layout.NOTE_KEY)
        return note if isinstance(note, str) else ''

    def has_tags(self, tags: Iterable[str]) -> bool:
        """Whether it has all of these tags; False if its marker cannot be read."""
        try:
            return set(tags).issubset(self.tags)
        except (NotFound, IntegrityError):
            return False

    @functools.cached_property
    def streams(self) -> Mapping[str, 'StoredStream']:
        """The streams by name, in the order in which they were written: the parts, or
        one without a name.

        :raises NotFound: the level is not committed any more
        :raises IntegrityError: the marker is damaged
        """
        tokens = manifest.stream_tokens(
            self.marker, self.storage.location(self.paths.marker)
        )
        return {
            part: StoredStream(self.storage, self.paths.stream(part), token, part)
            for part, token in tokens.items()
        }

    def stream(self, part: str = '') -> 'StoredStream':
        """One stream; without a name, the only one of a level without parts.

        :raises NotFound: the level is not committed any more
        :raises IntegrityError: it has other streams, or the marker is damaged
        """
        if part not in self.streams:
            raise IntegrityError(
                f'{self.storage.location(self.paths.folder)}: has other parts than '
                f'expected ({", ".join(self.streams) or "none"}): it was made by '
                f'another engine, or by a newer agent'
            )
        return self.streams[part]

    @functools.cached_property
    def size(self) -> int | None:
        """Bytes of all streams; None if the data is missing.

        :raises IntegrityError: marker or manifest is damaged
        """
        sizes = [stream.size for stream in self.streams.values()]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None

    @fetched
    def identity(self) -> bytes:
        """The encrypted key of the chain, in format age.

        :raises NotFound: there is none
        """
        return self.storage.read_file(self.paths.identity, _MAX_IDENTITY_BYTES)

    @fetched
    def index(self) -> StoredIndex | None:
        """What the engine recorded of the archive; None for a level without index.

        Restores of whole levels do not need it, so a missing or damaged index is an
        error only for who reads it.

        :raises NotFound: the level is not committed any more
        :raises IntegrityError: the marker is damaged
        """
        if manifest.INDEX_KEY not in self.marker:
            return None
        path = self.paths.index
        return StoredIndex(
            IndexRecord.parse(
                self.marker[manifest.INDEX_KEY],
                self.storage.location(self.paths.marker),
            ),
            # Of any ETag: the digests tell whether the bytes are right.
            functools.partial(self.storage.read_pieces, path, None),
            self.storage.location(path),
        )

    def engine_metadata(self) -> bytes:
        """What the engine left for the next increment, as it is stored.

        :raises NotFound: it is missing
        """
        return self.storage.read_file(self.paths.engine_metadata)

    def checked_engine_metadata(self) -> bytes:
        """The same, of a level that is not in format age.

        :raises NotFound: it is missing
        :raises IntegrityError: it is not the one that the marker names
        """
        return manifest.check_state(
            self.engine_metadata(), self.marker, self.paths.engine_metadata
        )


class StoredStream:
    """A stream of a committed level: a part, or the only one. Its manifest is fetched
    at most once, when it is needed.

    :param token: of its manifest; None for a level of Freezer 19, which has none
    :param part: its name; empty for the only one
    """

    def __init__(
        self, storage: Readable, paths: StreamPaths, token: str | None, part: str
    ) -> None:
        self.storage = storage
        self.paths = paths
        self.token = token
        self.part = part

    @functools.cached_property
    def manifest(self) -> manifest.Manifest | None:
        """Volumes, sizes and digests; None for a level of Freezer 19, which has none.

        :raises ManifestError: the marker names a manifest that is missing or wrong
        """
        if self.token is None:
            return None
        return read_manifest(self.storage, self.paths, self.token)

    @functools.cached_property
    def size(self) -> int | None:
        """Bytes that :meth:`blocks` yields; None if the data is missing.

        :raises IntegrityError: the manifest is damaged
        """
        if self.manifest is not None:
            return self.manifest.size
        try:
            return self.storage.stat(self.paths.data).size
        except NotFound:
            return None

    def blocks(self) -> Iterator[Block]:
        """The stream, in order, each byte checked where it has a digest.

        :raises IntegrityError: a byte is wrong or missing
        """
        yield from self._read(manifest.unwrap)

    def views(self) -> Iterator[memoryview]:
        """As :meth:`blocks`, not copied: each is valid until the next one is requested.
        For a caller that keeps none of them."""
        yield from self._read(manifest.views)

    def _read(self, unwrap: Callable[[_Reads], Iterator[T]]) -> Iterator[T]:
        try:
            if self.manifest is None:
                yield from unwrap(self._without_digests())
                return
            for volume in self.manifest.volumes:
                pieces = _pieces(self.storage, self.paths, volume)
                path = self.paths.file(volume.name)
                yield from unwrap(self.storage.read_pieces(path, volume.etag, pieces))
        except NotFound as error:
            raise IntegrityError(f'{error.message}: the backup is damaged') from error

    def block_ranges(
        self, ranges: Sequence[Range], checked: bool = True
    ) -> Generator[Block, None, None]:
        """The bytes of ranges of the stream, concatenated.

        Fetches the pieces that hold them, and each only once.

        :param ranges: sorted, without overlap
        :param checked: False fetches the ranges alone, which have no digests: for a
            caller that verifies their bytes
        :raises IntegrityError: a byte is wrong or missing
        """
        try:
            if self.manifest is None:
                size, etag = self.storage.stat(self.paths.data)[:2]
                whole = manifest.MAX_PIECE
                volumes: Sequence[Any] = [
                    manifest.Volume(layout.DATA, size, whole, etag, '', '')
                ]
            else:
                volumes = self.manifest.volumes
            size = sum(volume.size for volume in volumes)
            if ranges and ranges[-1][1] > size:
                where = self.storage.location(self.paths.folder)
                raise IntegrityError(
                    f'{where}: byte {ranges[-1][1]} of a stream of {size} bytes is '
                    f'needed: the backup is damaged'
                )
            selection, begin = Selection(ranges), 0
            for volume in volumes:
                wanted = [
                    (start - begin, end - begin)
                    for start, end in selection.within(begin, begin + volume.size)
                ]
                begin += volume.size
                yield from _volume_ranges(
                    self.storage, self.paths, volume, wanted, checked
                )
        except NotFound as error:
            raise IntegrityError(f'{error.message}: the backup is damaged') from error

    def _without_digests(self) -> _Reads:
        path = self.paths.data
        try:
            stat = self.storage.stat(path)
        except NotFound as error:
            # Freezer 19 lists backups whose upload failed.
            raise IntegrityError(
                f'{error.message}; the backup is listed and has no data: its upload '
                f'failed'
            ) from error
        pieces = manifest.plain_pieces(stat.size)
        return self.storage.read_pieces(path, stat.etag, pieces)


def parse_marker(document: bytes, where: str) -> dict[str, Any]:
    """The content of a marker.

    :param where: its name in errors
    :raises IntegrityError: it is damaged
    """
    try:
        # Freezer 19 reads only the first line, too.
        marker = json.loads(document.split(b'\n', 1)[0])
    except ValueError as error:
        raise IntegrityError(f'{where} is damaged: {error}') from error
    if not isinstance(marker, dict):
        raise IntegrityError(f'{where} is damaged: not a JSON object')
    return marker


def check_marker(stored: StoredLevel, document: bytes) -> None:
    """Check that a level's marker is still the one that was read.

    :param document: the marker as it is stored now
    :raises Conflict: it is another one
    """
    where = stored.storage.location(stored.paths.marker)
    if parse_marker(document, where) != stored.marker:
        raise marker_replaced(where)


def marker_replaced(where: str) -> Conflict:
    """The error for a marker that another agent has replaced."""
    return Conflict(f'{where} was replaced by another agent: run it again')


def level_removed(stored: StoredLevel) -> NotFound:
    """The error for a level that another agent has removed."""
    where = stored.storage.location(stored.paths.folder)
    return NotFound(f'{where}: this backup was removed meanwhile')


def _pieces(
    storage: Readable, paths: StreamPaths, volume: manifest.Volume
) -> Iterator[manifest.Piece]:
    """The pieces of a volume, with their digests if it has any."""
    if not volume.digests:
        return manifest.plain_pieces(volume.size)
    digests = paths.file(volume.digests)
    lines = _read_required(storage, digests, volume.digests_size)
    return volume.pieces(lines, storage.location(digests))


def _volume_ranges(
    storage: Readable,
    paths: StreamPaths,
    volume: manifest.Volume,
    wanted: Sequence[Range],
    checked: bool,
) -> Iterator[Block]:
    """The bytes of ranges of one volume; see :meth:`StoredStream.block_ranges`."""
    if not wanted:
        return
    pieces: Iterable[manifest.Piece] = (
        manifest.Piece(start + piece.start, start + piece.end, None)
        for start, end in wanted
        for piece in manifest.plain_pieces(end - start)
    )
    if checked:
        needed = Selection(wanted)
        pieces = (
            piece
            for piece in _pieces(storage, paths, volume)
            if needed.touches(piece.start, piece.end)
        )
    # Without digests, a copied bucket's other ETags would be taken for other bytes.
    etag = volume.etag if checked else None
    reads = storage.read_pieces(paths.file(volume.name), etag, pieces)
    yield from manifest.unwrap(_parts(reads, wanted))


def _parts(
    reads: Generator[manifest.Read, None, None], wanted: Iterable[Range]
) -> Generator[manifest.Read, None, None]:
    """The parts of pieces that are in the ranges."""
    selection = Selection(wanted)
    with contextlib.closing(reads):
        for piece, data in reads:
            if isinstance(data, StorageException):
                yield manifest.Read(piece, data)
                continue
            view = memoryview(data)
            for start, end in selection.within(piece.start, piece.end):
                part = view[start - piece.start : end - piece.start]
                yield manifest.Read(piece, part)


def read_manifest(
    storage: Readable, paths: StreamPaths, token: str
) -> manifest.Manifest:
    """The manifest that a token names.

    :raises ManifestError: it is missing, malformed, or of another backup
    """
    where = storage.location(paths.manifest)
    document = _read_required(storage, paths.manifest, manifest.MAX_MANIFEST_BYTES)
    found = manifest.load(document, where)
    if found.token != token:
        raise ManifestError(f'{where} belongs to another backup')
    return found


def _read_required(storage: Readable, path: str, limit: int) -> bytes:
    """The manifest, or the digests of a volume.

    :raises ManifestError: it is missing
    """
    try:
        return storage.read_file(path, limit)
    except NotFound as error:
        where = storage.location(path)
        raise ManifestError(f'{where} is missing: the backup is damaged') from error


def split_parts(
    blocks: Iterable[Block | PartStart],
) -> Iterator[tuple[str, Iterator[Block]]]:
    """The parts of a stream by name, in order; without parts, all of it under an empty
    name.

    Each has to be read to its end before the next one is requested.

    :raises StorageException: it was not
    """
    rest = iter(blocks)
    item = next(rest, None)

    def part() -> Iterator[Block]:
        nonlocal item
        while item is not None and not isinstance(item, PartStart):
            yield item
            item = next(rest, None)

    if not isinstance(item, PartStart):
        yield '', part()
    while isinstance(item, PartStart):
        name, item = item.name, next(rest, None)
        yield name, part()
    if item is not None:
        raise StorageException(
            'the storage stopped reading before the end: run the backup again'
        )


class WrittenBackup(abc.ABC):
    """A level whose streams are stored, and which is not visible yet."""

    @abc.abstractmethod
    def commit(
        self,
        engine_metadata: Path,
        marker: Mapping[str, Any],
        index: Path | None = None,
    ) -> None:
        """Store engine's file and index, then the marker, which makes it visible.

        :param engine_metadata: a local file
        :param index: a local file of up to 64 GiB, never in memory as a whole
        :raises StorageException: it may be visible or not: discard it
        """


class PendingBackup(abc.ABC):
    """A level being written, from its claim on.

    Only :meth:`write` gives the object that can commit, so nothing is committed that
    was not written. Whatever fails, the caller ends with :meth:`discard`.
    """

    def __init__(self, backup: Backup) -> None:
        self.backup = backup

    @abc.abstractmethod
    def put_identity(self, identity: bytes) -> None:
        """Store the encrypted key of the chain beside the data."""

    @abc.abstractmethod
    def write(self, blocks: Iterable[Block | PartStart]) -> WrittenBackup:
        """Store the stream, or each part of it: see :func:`split_parts`. Holds a
        bounded number of bytes, in memory only.

        An exception of the stream's producer passes through as it is. A failed write
        leaves no open upload, or the log says which one; :meth:`discard` removes
        the rest.
        """

    @abc.abstractmethod
    def cancel(self) -> None:
        """Make a :meth:`write` in another thread fail soon with Cancelled."""

    @abc.abstractmethod
    def discard(self) -> None:
        """Remove the level: its claim, its data, and its marker if there is one."""
