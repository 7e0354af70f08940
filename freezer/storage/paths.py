"""What drivers share that store files under paths: writing and reading backups.

A driver provides a few verbs on files. Here are pieces and their digests, rates,
cancelling, manifest and commit.
"""

import abc
import collections
import contextlib
import secrets
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from freezer.storage import layout, manifest
from freezer.storage.backup import (
    Backup,
    LevelPaths,
    PendingBackup,
    StoredLevel,
    StreamPaths,
    WrittenBackup,
    check_marker,
    level_removed,
    split_parts,
)
from freezer.storage.exceptions import Cancelled, NotFound, StorageException
from freezer.storage.index_file import OutgoingIndex
from freezer.storage.journal import JournalEntry
from freezer.storage.physical import PhysicalStorage
from freezer.utils.blocks import Block, PartStart, cut
from freezer.utils.ranges import Range
from freezer.utils.rate import UNLIMITED, Rate

#: of a write that nobody cancels
NEVER = threading.Event()


class PathStorage(PhysicalStorage):
    """Backups as files. See :class:`base.Storage` for the rest of the contract.

    :param sending: rate limit of written data
    :param receiving: rate limit of read data
    :cvar request_bytes: how much is written or read at once where no rate is limited
    """

    request_bytes: ClassVar[int] = 64 * 1024

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
    def write_stream(
        self,
        path: str,
        blocks: Iterable[memoryview],
        cancelled: threading.Event = NEVER,
    ) -> None:
        """Write a file of any size. It appears at its path whole, and durable, or not
        at all. An exception of ``blocks`` passes through as it is.

        :param cancelled: once set, a driver that waits for a server gives up soon;
            ``blocks`` raises Cancelled then
        """

    @abc.abstractmethod
    def replace_file(self, path: str, old: bytes, content: bytes) -> None:
        """Write a small file in place of one with this content; atomic and durable.

        A file that another agent deletes meanwhile stays deleted.

        :raises NotFound: there is no such file
        :raises Conflict: it has another content
        """

    @abc.abstractmethod
    def read_ranges(
        self, path: str, ranges: Iterable[Range]
    ) -> Generator[Block | StorageException, None, None]:
        """The bytes of each range, in order; fewer at the end of the file.

        A range that cannot be read is yielded as an error; iteration continues. A
        driver may take ranges in advance, to request several at the same time: as many
        as it can hold in memory.

        :param ranges: of :attr:`request_bytes` at most
        :raises NotFound: there is no such file
        """

    @abc.abstractmethod
    def remove_tree(self, path: str) -> None:
        """Delete all below a path, and nothing beside it; nothing there is no error."""

    def cleaning_up(self) -> Self:
        """The same storage, but it gives up soon: an error waits to be reported."""
        return self

    def begin(self, backup: Backup) -> PendingBackup:
        paths = LevelPaths(self.storage_path, backup)
        entry = self.journal_entry(paths)
        try:
            self.reserve(paths.folder)
        except BaseException:
            entry.close()
            raise
        return _PendingFiles(self, backup, entry)

    def journal_entry(self, paths: LevelPaths) -> JournalEntry:
        """What the next run finds of a backup whose agent was killed: nothing here."""
        return JournalEntry(None)

    def remove_unfinished(self, backup: Backup) -> None:
        paths = LevelPaths(self.storage_path, backup)
        try:
            self.stat(paths.marker)
        except NotFound:
            self.remove_tree(paths.folder)

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
        blocks = self.paced(outgoing.blocks(), cancelled)
        self.write_stream(paths.index, blocks, cancelled)
        return outgoing.record.dump()

    def paced(
        self, blocks: Iterable[Block], cancelled: threading.Event
    ) -> Iterator[memoryview]:
        """The blocks in small steps, as fast as the rate allows.

        :raises Cancelled: the event is set
        """
        size = self._step(self.sending)
        for block in blocks:
            view = memoryview(block)
            for start in range(0, len(view), size):
                step = view[start : start + size]
                self.sending.take(len(step), cancelled)
                if cancelled.is_set():
                    raise Cancelled(
                        'cancelled because another part of the backup failed'
                    )
                yield step

    def _step(self, rate: Rate) -> int:
        return rate.step if rate.per_second else self.request_bytes

    def read_pieces(
        self, path: str, etag: str | None, pieces: Iterable[manifest.Piece]
    ) -> Generator[manifest.Read, None, None]:
        size = self._step(self.receiving)
        # Of each range that was taken: its piece, and whether it is the last of it.
        taken: collections.deque[tuple[manifest.Piece, bool]] = collections.deque()

        def ranges() -> Iterator[Range]:
            for piece in pieces:
                for start in range(piece.start, piece.end, size):
                    end = min(start + size, piece.end)
                    self.receiving.take(end - start)
                    taken.append((piece, end == piece.end))
                    yield start, end

        data = bytearray()
        failed: StorageException | None = None
        with contextlib.closing(self.read_ranges(path, ranges())) as blocks:
            for block in blocks:
                piece, is_last = taken.popleft()
                if isinstance(block, StorageException):
                    failed = failed or block
                else:
                    data += block
                if is_last:
                    yield manifest.Read(piece, self._checked(path, piece, data, failed))
                    data, failed = bytearray(), None

    def _checked(
        self,
        path: str,
        piece: manifest.Piece,
        data: bytearray,
        failed: StorageException | None,
    ) -> Block | StorageException:
        """The piece's bytes if they are right, else the error."""
        if failed is not None:
            error = type(failed)(
                f'bytes {piece.start} to {piece.end - 1} of {failed.message}'
            )
            error.__cause__ = failed
            return error
        right = manifest.check_piece(data, piece)
        return data if right else manifest.damaged(self.location(path), piece)


class _PendingFiles(PendingBackup):
    """A level whose folder is reserved."""

    def __init__(
        self, storage: PathStorage, backup: Backup, entry: JournalEntry
    ) -> None:
        super().__init__(backup)
        self.storage = storage
        self.entry = entry
        self.paths = LevelPaths(storage.storage_path, backup)
        self.cancelled = threading.Event()

    def put_identity(self, identity: bytes) -> None:
        self.storage.write_file(self.paths.identity, identity)

    def write(self, blocks: Iterable[Block | PartStart]) -> WrittenBackup:
        tokens = {
            part: self._write_stream(self.paths.stream(part), content)
            for part, content in split_parts(blocks)
        }
        return _WrittenFiles(self, tokens)

    def _write_stream(self, paths: StreamPaths, blocks: Iterable[Block]) -> str:
        """Returns the token of its manifest."""
        digests: list[bytes] = []
        size = 0

        def digested() -> Iterator[Block]:
            nonlocal size
            for piece in cut(blocks, manifest.MAX_PIECE):
                digests.extend(manifest.digest_part(piece))
                size += len(piece)
                yield piece

        paced = self.storage.paced(digested(), self.cancelled)
        self.storage.write_stream(paths.data, paced, self.cancelled)
        name = layout.digests_name(0)
        lines = manifest.dump_digests(digests)
        self.storage.write_file(paths.file(name), lines)
        builder = manifest.ManifestBuilder(secrets.token_hex(16))
        builder.add(layout.DATA, size, manifest.MAX_PIECE, name, lines)
        self.storage.write_file(paths.manifest, builder.finish().dump())
        return builder.token

    def cancel(self) -> None:
        self.cancelled.set()

    def discard(self) -> None:
        storage = self.storage.cleaning_up()
        storage.delete_files([self.paths.marker])
        storage.remove_tree(self.paths.folder)
        # Not reached if something remains: the next run finds it in the journal.
        self.entry.close()


class _WrittenFiles(WrittenBackup):
    def __init__(self, pending: _PendingFiles, tokens: Mapping[str, str]) -> None:
        self._pending = pending
        self._storage = pending.storage
        self._paths = pending.paths
        self._tokens = tokens

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
        document = manifest.commit_marker(marker, self._tokens, state, record)
        self._storage.write_file(self._paths.marker, document)
        self._pending.entry.close()
