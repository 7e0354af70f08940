"""What drivers share that store files under paths: writing and reading backups.

A driver provides a few verbs on files. Here are pieces and their digests, rates,
cancelling, manifest and commit.
"""

import abc
import contextlib
import secrets
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from freezer.storage import layout, manifest
from freezer.storage.backup import (
    Backup,
    LevelPaths,
    PendingBackup,
    StoredLevel,
    WrittenBackup,
    check_marker,
    level_removed,
)
from freezer.storage.exceptions import Cancelled, NotFound, StorageException
from freezer.storage.index_file import OutgoingIndex
from freezer.storage.physical import PhysicalStorage
from freezer.utils.blocks import Block, cut
from freezer.utils.rate import UNLIMITED, Rate

#: reads bytes from start to end (exclusive) of a file; fewer at its end
ReadRange = Callable[[int, int], Block]


class PathStorage(PhysicalStorage):
    """Backups as files. See :class:`base.Storage` for the rest of the contract.

    :param sending: rate limit of written data
    :param receiving: rate limit of read data
    """

    def __init__(
        self,
        storage_path: str,
        max_segment_size: int,
        skip_prepare: bool = False,
        *,
        sending: Rate = UNLIMITED,
        receiving: Rate = UNLIMITED,
    ) -> None:
        self.sending = sending
        self.receiving = receiving
        super().__init__(storage_path, max_segment_size, skip_prepare)

    @abc.abstractmethod
    def reserve(self, folder: str) -> None:
        """Make a level's folder, and its parents.

        Atomic: of two agents one succeeds.

        :raises Conflict: it exists
        """

    @abc.abstractmethod
    def write_stream(self, path: str, blocks: Iterable[memoryview]) -> None:
        """Write a file of any size. It appears at its path whole, and durable, or not
        at all. An exception of ``blocks`` passes through as it is."""

    @abc.abstractmethod
    def write_file(self, path: str, content: bytes) -> None:
        """Write a small file, in place of one that is there; atomic and durable."""

    @abc.abstractmethod
    def replace_file(self, path: str, old: bytes, content: bytes) -> None:
        """Write a small file in place of one with this content; atomic and durable.

        A file that another agent deletes meanwhile stays deleted.

        :raises NotFound: there is no such file
        :raises Conflict: it has another content
        """

    @abc.abstractmethod
    def open_range(self, path: str) -> contextlib.AbstractContextManager[ReadRange]:
        """A block in which ranges of a file can be read.

        :raises NotFound: there is no such file
        """

    @abc.abstractmethod
    def remove_tree(self, path: str) -> None:
        """Delete all below a path, and nothing beside it; nothing there is no error."""

    def begin(self, backup: Backup) -> PendingBackup:
        self.reserve(LevelPaths(self.storage_path, backup).folder)
        return _PendingFiles(self, backup)

    def add_index(
        self, stored: StoredLevel, index: Path, marker: Mapping[str, Any]
    ) -> None:
        paths = stored.paths
        try:
            old = self.read_file(paths.marker)
        except NotFound as error:
            raise level_removed(stored) from error
        check_marker(stored, old)
        try:
            record = self.store_index(paths, index, threading.Event())
            document = manifest.indexed_marker(stored.marker, marker, record)
            self.replace_file(paths.marker, old, document)
        except NotFound as error:
            self.delete_files([paths.index])
            raise level_removed(stored) from error

    def store_index(
        self, paths: LevelPaths, index: Path, cancelled: threading.Event
    ) -> dict[str, Any]:
        """Returns what the marker records of it."""
        outgoing = OutgoingIndex(index)
        self.write_stream(paths.index, self.paced(outgoing.blocks(), cancelled))
        return outgoing.record.dump()

    def paced(
        self, blocks: Iterable[Block], cancelled: threading.Event
    ) -> Iterator[memoryview]:
        """The blocks in small steps, as fast as the rate allows.

        :raises Cancelled: the event is set
        """
        for block in blocks:
            view = memoryview(block)
            for start in range(0, len(view), self.sending.step):
                step = view[start : start + self.sending.step]
                self.sending.take(len(step), cancelled)
                if cancelled.is_set():
                    raise Cancelled(
                        'cancelled because another part of the backup failed'
                    )
                yield step

    def read_pieces(
        self, path: str, etag: str | None, pieces: Iterable[manifest.Piece]
    ) -> Generator[manifest.Read, None, None]:
        with self.open_range(path) as read:
            for piece in pieces:
                yield manifest.Read(piece, self._read_piece(path, read, piece))

    def _read_piece(
        self, path: str, read: ReadRange, piece: manifest.Piece
    ) -> Block | StorageException:
        try:
            data = bytearray()
            for start in range(piece.start, piece.end, self.receiving.step):
                block = read(start, min(start + self.receiving.step, piece.end))
                self.receiving.take(len(block))
                data += block
        except StorageException as error:
            failed = type(error)(
                f'bytes {piece.start} to {piece.end - 1} of {error.message}'
            )
            failed.__cause__ = error
            return failed
        right = manifest.check_piece(data, piece)
        return data if right else manifest.damaged(self.location(path), piece)


class _PendingFiles(PendingBackup):
    """A level whose folder is reserved."""

    def __init__(self, storage: PathStorage, backup: Backup) -> None:
        super().__init__(backup)
        self.storage = storage
        self.paths = LevelPaths(storage.storage_path, backup)
        self.cancelled = threading.Event()

    def put_identity(self, identity: bytes) -> None:
        self.storage.write_file(self.paths.identity, identity)

    def write(self, blocks: Iterable[Block]) -> WrittenBackup:
        digests: list[bytes] = []
        size = 0

        def digested() -> Iterator[Block]:
            nonlocal size
            for piece in cut(blocks, manifest.MAX_PIECE):
                digests.extend(manifest.digest_part(piece))
                size += len(piece)
                yield piece

        paced = self.storage.paced(digested(), self.cancelled)
        self.storage.write_stream(self.paths.data, paced)
        name = layout.digests_name(0)
        lines = manifest.dump_digests(digests)
        self.storage.write_file(self.paths.file(name), lines)
        builder = manifest.ManifestBuilder(secrets.token_hex(16))
        builder.add(layout.DATA, size, manifest.MAX_PIECE, name, lines)
        self.storage.write_file(self.paths.manifest, builder.finish().dump())
        return _WrittenFiles(self, builder.token)

    def cancel(self) -> None:
        self.cancelled.set()

    def discard(self) -> None:
        self.storage.delete_files([self.paths.marker])
        self.storage.remove_tree(self.paths.folder)


class _WrittenFiles(WrittenBackup):
    def __init__(self, pending: _PendingFiles, token: str) -> None:
        self._pending = pending
        self._storage = pending.storage
        self._paths = pending.paths
        self._token = token

    def commit(
        self,
        engine_metadata: Path,
        marker: Mapping[str, Any],
        index: Path | None = None,
    ) -> None:
        state = engine_metadata.read_bytes()
        self._storage.write_file(self._paths.engine_metadata, state)
        record = None
        if index is not None:
            cancelled = self._pending.cancelled
            record = self._storage.store_index(self._paths, index, cancelled)
        document = manifest.commit_marker(marker, self._token, state, record)
        self._storage.write_file(self._paths.marker, document)
