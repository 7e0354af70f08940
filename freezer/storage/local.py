"""Backups in a directory."""

import contextlib
import os
import secrets
import shutil
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Self

from freezer.storage import layout, manifest
from freezer.storage.base import Backup, StorageSettings
from freezer.storage.check import CheckReport
from freezer.storage.exceptions import (
    Cancelled,
    Conflict,
    IntegrityError,
    NotFound,
    PartialDelete,
    StorageConfigError,
    StorageException,
)
from freezer.storage.manifested import Manifested
from freezer.storage.verify import Stat
from freezer.utils.blocks import Block, cut
from freezer.utils.rate import UNLIMITED, Rate
from freezer.utils.streaming import RichQueue

# What a file is called until it is whole.
_PARTIAL = '.partial'


class LocalStorage(Manifested):
    """A directory of this machine, or one mounted on it.

    Files appear under their name when they are whole and on disk (fsync, rename).

    :param sending: what the data of backups may be written with
    :param receiving: what it may be read with
    """

    _type = 'local'

    def __init__(
        self,
        storage_path: str,
        max_segment_size: int,
        skip_prepare: bool = False,
        *,
        sending: Rate = UNLIMITED,
        receiving: Rate = UNLIMITED,
    ) -> None:
        self._sending = sending
        self._receiving = receiving
        self._cancelled = threading.Event()
        super().__init__(storage_path, max_segment_size, skip_prepare)

    @classmethod
    def from_settings(cls, settings: StorageSettings) -> Self:
        if not settings.container:
            raise StorageConfigError(
                f'{settings.section}: storage local needs container: the directory '
                f'that holds the backups'
            )
        path = os.path.abspath(os.path.expanduser(settings.container))
        return cls(
            path,
            settings.max_segment_size,
            skip_prepare=True,
            sending=settings.sending,
            receiving=settings.receiving,
        )

    def prepare(self) -> None:
        self.create_dirs(self.storage_path)

    def check(self) -> CheckReport:
        from freezer.storage import local_check

        return local_check.check(self)

    def claim(self, backup: Backup) -> None:
        self._cancelled.clear()
        path = backup.copy(self).data_prefix_path
        with _errors(path):
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            os.mkdir(path, 0o700)

    def write_backup(self, rich_queue: RichQueue, backup: Backup) -> None:
        backup = backup.copy(self)
        folder = backup.data_prefix_path
        self.create_dirs(folder)
        builder = manifest.ManifestBuilder(secrets.token_hex(16))
        digests: list[bytes] = []
        size = 0
        messages = _set_apart(rich_queue.get_messages())
        try:
            with _errors(backup.data_path), _whole_file(backup.data_path) as stream:
                for block in cut(messages, manifest.MAX_PIECE):
                    digests += manifest.digest_part(block)
                    size += len(block)
                    self._write(block, stream)
        except _ProducerFailed as failed:
            raise failed.error from None
        name = layout.digests_name(0)
        lines = manifest.dump_digests(digests)
        self.put_bytes(layout.join(folder, name), lines)
        builder.add(layout.DATA, size, manifest.MAX_PIECE, name, lines)
        self.put_bytes(layout.join(folder, layout.MANIFEST), builder.finish().dump())
        self._tokens[folder] = builder.token

    def _write(self, block: Block, stream: IO[bytes]) -> None:
        view = memoryview(block)
        step = self._sending.step
        for start in range(0, len(view), step):
            part = view[start : start + step]
            self._sending.take(len(part), self._cancelled)
            if self._cancelled.is_set():
                raise Cancelled('given up, because something else failed')
            stream.write(part)

    def cancel(self) -> None:
        self._cancelled.set()

    def backup_blocks(self, backup: Backup) -> Iterator[Block]:
        backup = backup.copy(self)
        found = self.manifest_of(backup)
        try:
            if found is None:
                yield from self._unchecked_blocks(backup.data_path)
            else:
                yield from self._checked_blocks(backup.data_prefix_path, found)
        except NotFound as error:
            raise IntegrityError(f'{error.message}: the backup is damaged') from error

    def _checked_blocks(self, folder: str, found: manifest.Manifest) -> Iterator[Block]:
        for volume in found.volumes:
            path = layout.join(folder, volume.name)
            digests = layout.join(folder, volume.digests)
            lines = self.read_file(digests)
            size = self.stat(path).size
            if size != volume.size:
                raise IntegrityError(
                    f'{path}: has {size} bytes, and {volume.size} were written: the '
                    f'backup is damaged'
                )
            yield from manifest.unwrap(
                self.read_pieces(path, None, volume.pieces(lines, digests))
            )

    def _unchecked_blocks(self, path: str) -> Iterator[Block]:
        pieces = manifest.plain_pieces(self.stat(path).size)
        yield from manifest.unwrap(self.read_pieces(path, None, pieces))

    def read_pieces(
        self, path: str, etag: str | None, pieces: Iterable[manifest.Piece]
    ) -> Generator[manifest.Read, None, None]:
        with _errors(path), open(path, 'rb') as stream:
            for piece in pieces:
                yield manifest.Read(piece, self._read_piece(path, stream, piece))

    def _read_piece(
        self, path: str, stream: IO[bytes], piece: manifest.Piece
    ) -> Block | StorageException:
        try:
            with _errors(path):
                stream.seek(piece.start)
                data = self._read(stream, piece.end - piece.start)
        except StorageException as error:
            where = f'bytes {piece.start} to {piece.end - 1} of'
            failed = type(error)(f'{where} {error.message}')
            failed.__cause__ = error
            return failed
        right = manifest.check_piece(data, piece)
        return data if right else manifest.damaged(path, piece)

    def _read(self, stream: IO[bytes], size: int) -> Block:
        """So many bytes, or as many as there are."""
        data = bytearray()
        while block := stream.read(min(self._receiving.step, size - len(data))):
            data += block
            self._receiving.take(len(block))
        return data

    def list_tree(self, path: str) -> Iterator[tuple[str, int]]:
        def failed(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise error

        with _errors(path):
            # A disk that is not mounted is not a storage without backups.
            os.stat(self.storage_path)
            for folder, _folders, files in os.walk(path, onerror=failed):
                for name in files:
                    full = os.path.join(folder, name)
                    # A file that another agent has just removed is not listed.
                    with contextlib.suppress(FileNotFoundError):
                        yield os.path.relpath(full, path), os.lstat(full).st_size

    def listdir(self, path: str) -> list[str]:
        with _errors(path), contextlib.suppress(FileNotFoundError):
            return sorted(os.listdir(path))
        return []

    def create_dirs(self, path: str) -> None:
        with _errors(path):
            os.makedirs(path, mode=0o700, exist_ok=True)

    def put_file(self, from_path: str, to_path: str) -> None:
        with _errors(to_path):
            os.makedirs(os.path.dirname(to_path), mode=0o700, exist_ok=True)
            with open(from_path, 'rb') as source, _whole_file(to_path) as target:
                shutil.copyfileobj(source, target)

    def put_bytes(self, to_path: str, content: bytes) -> None:
        with _errors(to_path):
            os.makedirs(os.path.dirname(to_path), mode=0o700, exist_ok=True)
            with _whole_file(to_path) as target:
                target.write(content)

    def get_file(self, from_path: str, to_path: str) -> None:
        with _errors(from_path):
            shutil.copyfile(from_path, to_path)

    def read_file(self, path: str, limit: int | None = None) -> bytes:
        with _errors(path), open(path, 'rb') as stream:
            content = stream.read(-1 if limit is None else limit + 1)
        if limit is not None and len(content) > limit:
            raise IntegrityError(f'{path}: larger than {limit} bytes')
        return content

    def stat(self, path: str) -> Stat:
        with _errors(path):
            return Stat(os.stat(path).st_size, None)

    def delete_files(self, paths: Sequence[str]) -> None:
        failed = []
        for path in paths:
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                failed.append(error)
            else:
                self._prune(os.path.dirname(path))
        if failed:
            raise PartialDelete(
                f'{len(failed)} of {len(paths)} files could not be deleted, first '
                f'{failed[0].filename}: {failed[0].strerror}; --action admin tries '
                f'again'
            ) from failed[0]

    def rmtree(self, path: str) -> None:
        with _errors(path), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
        self._prune(os.path.dirname(path))

    def _prune(self, folder: str) -> None:
        """Remove folders that have become empty, up to the container."""
        with contextlib.suppress(OSError):  # not empty, or gone: both are fine
            while folder.startswith(self.storage_path + os.sep):
                os.rmdir(folder)
                folder = os.path.dirname(folder)


class _ProducerFailed(Exception):
    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def _set_apart(messages: Iterator[Block]) -> Iterator[Block]:
    """An OSError of who makes the stream is not one of this storage."""
    try:
        yield from messages
    except OSError as error:
        raise _ProducerFailed(error) from error


@contextlib.contextmanager
def _errors(path: str) -> Iterator[None]:
    """Translate what the file system says."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f'{error.filename or path}: not found') from error
    except FileExistsError as error:
        raise Conflict(
            f'{error.filename or path} is there already: another backup of this name '
            f'started in the same second; run it again'
        ) from error
    except OSError as error:
        raise StorageException(
            f'{error.filename or path}: {error.strerror or error}'
        ) from error


@contextlib.contextmanager
def _whole_file(path: str) -> Iterator[IO[bytes]]:
    """A file that appears at its path when it is whole and on disk, or not at all."""
    partial = Path(path + _PARTIAL)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with open(descriptor, 'wb') as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
