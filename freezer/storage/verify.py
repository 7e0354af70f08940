"""Checks that a stored level is complete and undamaged. Writes nothing.

It uses a few verbs of the storage contract, so it is the same for every driver.
"""

import contextlib
import hashlib
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from freezer.storage import layout, levels, manifest
from freezer.storage.backup import Stat, StoredLevel, StoredStream
from freezer.storage.exceptions import IntegrityError, NotFound, StorageException
from freezer.utils.blocks import Block

T = TypeVar('T')
_Bytes = bytes | bytearray | memoryview

# Bytes that are passed on at once.
_BLOCK = 256 * 1024

# The number of problems listed for a backup; all are counted.
LISTED = 20
# A piece that cannot be read has used up the time of a request: after so many in a row
# the rest of the volume is skipped.
_FAILED_IN_A_ROW = 3


@dataclass(frozen=True)
class Problem:
    """A problem of a backup, and its place.

    :param what: a line for the user, with the path
    :param volume: the volume's name below the level's folder; None if it is not in one
    :param part: number of the part in the volume, from 1
    :param start: the first wrong byte of the volume, from 0
    :param end: the last wrong byte
    :param fatal: whether it makes the backup impossible to restore
    """

    what: str
    volume: str | None = None
    part: int | None = None
    start: int | None = None
    end: int | None = None
    fatal: bool = True


@dataclass(frozen=True)
class Verification:
    """What was found of one level.

    :param size: bytes of its streams, as far as known
    :param digests: whether it has any; Freezer 19 wrote none
    :param problems: the first ones; ``count`` is the number of all
    :param restorable: whether its own data can be restored despite the problems
    :param missing: the lower levels of its chain that are missing: first and last of
        each gap
    :param warnings: irregularities that do no harm
    :param marker: the content of its marker, empty if it could not be read
    """

    stored: StoredLevel
    size: int
    digests: bool
    problems: tuple[Problem, ...]
    count: int
    restorable: bool
    missing: tuple[tuple[int, int], ...] = ()
    warnings: tuple[str, ...] = ()
    marker: Mapping[str, Any] = field(default_factory=dict)


#: Reads a stream of a level, of the part with this name, as far as it likes, and finds
#: problems in it. Other exceptions than StorageException pass through.
ReadStream = Callable[[str, Iterator[Block]], Iterable[Problem]]


def examine(
    stored: StoredLevel,
    data: bool,
    read: ReadStream | None = None,
    key_opens: bool = False,
) -> Verification | None:
    """Check everything that a level consists of; with ``data``, read every byte.

    Finds every problem, not only the first. Whatever cannot be read is a problem of
    the level, as long as the storage can be listed. Memory is bounded.

    :param read: gets the blocks of each stream that are read for ``data``, up to the
        first that is damaged
    :param key_opens: whether the passphrase opens the file with the key of the chain,
        which then may be another than the one that was written
    :returns: None if it is not committed any more: another agent removes it
    :raises StorageException: the storage cannot be listed
    """
    try:
        return _Examination(stored, data, read, key_opens).run()
    except _Removed:
        return None


def _gaps(level: int, present: set[int]) -> Iterator[tuple[int, int]]:
    """First and last of each gap in the levels below one."""
    first = 0
    for each in sorted({*(below for below in present if below < level), level}):
        if each > first:
            yield first, each - 1
        first = each + 1


class _Removed(Exception):
    pass


class _Damaged(Exception):
    """The rest of the stream is not passed on."""


_ANYWHERE = Problem('')


class _Examination:
    def __init__(
        self,
        stored: StoredLevel,
        data: bool,
        read: ReadStream | None,
        key_opens: bool,
    ) -> None:
        self._key_opens = key_opens
        self._stored = stored
        self._storage = stored.storage
        self._paths = stored.paths
        self._data = data
        self._reader = read
        self._size = 0
        self._digests_known = False
        self._problems: list[Problem] = []
        self._count = 0
        self._restorable = True
        self._warnings: list[str] = []

    def run(self) -> Verification:
        stored, paths = self._stored, self._paths
        marker = self._attempt(paths.marker, lambda: stored.marker)
        if marker is not None:
            self._check_engine(marker)
            if not manifest.is_whole(marker):
                # Where the passphrase is known, the seal shows whether it restores.
                fatal = manifest.SEAL_KEY in marker and not self._key_opens
                where = replace(_ANYWHERE, fatal=fatal)
                self._report(f'{paths.marker}: was modified or damaged', where)
            streams = self._attempt(paths.marker, lambda: stored.streams) or {}
            for stream in streams.values():
                self._check_stream(stream)
            if manifest.PARTS_KEY in marker and streams:
                self._check_surplus(streams)
        # A restore needs this file only if the level is authenticated.
        sealed = (marker or {}).get(layout.FORMAT_KEY) == layout.AGE
        self._check_file(
            paths.engine_metadata,
            fatal=sealed,
            # As a restore does, all of it at once.
            read=stored.checked_engine_metadata if marker else stored.engine_metadata,
        )
        if sealed and not self._key_opens:
            self._check_identity()
        if marker is not None:
            self._check_index()
        # Last, so that it detects what was removed meanwhile.
        present = self._committed()
        below = {level for level, _timestamp in present}
        return Verification(
            stored,
            self._size,
            self._digests_known,
            tuple(self._problems),
            self._count,
            self._restorable,
            tuple(_gaps(stored.level, below)),
            tuple(self._warnings),
            marker or {},
        )

    def _committed(self) -> set[tuple[int, int]]:
        """Level and timestamp of each backup of the chain.

        :raises _Removed: this backup is not among them
        """
        chain = self._paths.marker.rpartition('/')[0].rpartition('/')[0]
        present = set()
        for path, _size in self._storage.list_tree(chain):
            name, _, rest = path.partition('/')
            level = layout.parse_level_name(name)
            if level is not None and rest == layout.METADATA:
                present.add(level)
        if (self._stored.level, self._stored.timestamp) not in present:
            raise _Removed
        return present

    # Problems

    def _report(
        self,
        what: str,
        where: Problem = _ANYWHERE,
        error: StorageException | None = None,
    ) -> None:
        # A backup that is being removed is not damaged, nor is one on a store that is
        # down: that has used up the time of a request, and the listing will fail.
        if not self._count or (error is not None and error.temporary):
            self._committed()
        self._count += 1
        self._restorable = self._restorable and not where.fatal
        if len(self._problems) < LISTED:
            self._problems.append(replace(where, what=what))

    def _attempt(
        self, path: str, call: Callable[[], T], where: Problem = _ANYWHERE
    ) -> T | None:
        """The result of a call; None, and a problem reported, if it fails."""
        try:
            return call()
        except StorageException as error:
            missing = isinstance(error, NotFound)
            what = f'{path} is missing' if missing else error.message
            self._report(what, where, error)
            return None

    # The objects of a backup

    def _check_engine(self, marker: Mapping[str, Any]) -> None:
        expected = self._stored.backup.engine
        engine = marker.get('engine_name', expected)
        if engine != expected:
            self._report(f'{self._paths.marker} is of another engine: {engine}')

    def _check_stream(self, stream: StoredStream) -> None:
        if stream.token is None:
            self._read_stream('', self._plain())
            return
        self._digests_known = True
        found = self._attempt(stream.paths.manifest, lambda: stream.manifest)
        if found is not None:
            self._read_stream(stream.part, self._volumes(stream, found))

    def _check_surplus(self, streams: Collection[str]) -> None:
        """Check that there are no parts that the marker does not name."""
        folder = self._paths.parts
        found = self._attempt(folder, lambda: [*self._storage.list_tree(folder)]) or ()
        there = {path.partition('/')[0] for path, _size in found}
        for part in sorted(there.difference(streams)):
            self._report(
                f'{layout.join(folder, part)}: {self._paths.marker} has no such part: '
                f'no restore reads it',
                replace(_ANYWHERE, fatal=False),
            )

    def _read_stream(self, part: str, blocks: Generator[_Bytes, None, None]) -> None:
        """Read a stream to its end, and pass it on while it is undamaged."""
        with contextlib.closing(blocks):
            if self._data and self._reader is not None:
                try:
                    for problem in self._reader(part, self._undamaged(blocks)):
                        self._report(problem.what, problem)
                except _Damaged:
                    pass
                except StorageException as error:
                    self._report(error.message, error=error)
            for _block in blocks:
                pass

    def _undamaged(self, blocks: Iterator[_Bytes]) -> Iterator[Block]:
        """:raises _Damaged: there was a problem"""
        before = self._count
        for block in blocks:
            if self._count != before:
                raise _Damaged
            view = memoryview(block)
            for start in range(0, len(view), _BLOCK):
                # The memory of a piece is used again for the next.
                yield bytes(view[start : start + _BLOCK])
        if self._count != before:
            raise _Damaged

    def _volumes(
        self, stream: StoredStream, found: manifest.Manifest
    ) -> Generator[_Bytes, None, None]:
        """Check the volumes; the blocks are those that are undamaged."""
        self._size += found.size
        digest = hashlib.sha256()
        whole = True
        for volume in found.volumes:
            lines = self._digests(stream, volume)
            yield from self._volume(stream, volume, lines)
            whole = whole and lines is not None
            digest.update(lines or b'')
        if whole and digest.hexdigest() != found.digest:
            self._report(
                f'{stream.paths.manifest}: the digest of the stream is not the one of '
                f'its digests',
                replace(_ANYWHERE, fatal=False),
            )

    def _where(self, path: str) -> Problem:
        """The place of a problem: a volume, by its name below the level's folder."""
        return Problem('', path.removeprefix(layout.join(self._paths.folder, '')))

    def _digests(self, stream: StoredStream, volume: manifest.Volume) -> bytes | None:
        """The digests object's bytes, if they are right."""
        path = stream.paths.file(volume.digests)

        def read() -> bytes:
            lines = self._storage.read_file(path, volume.digests_size)
            try:
                for _piece in volume.pieces(lines):
                    pass
            except IntegrityError as error:
                raise IntegrityError(f'{path}: {error.message}') from error
            return lines

        return self._attempt(path, read, self._where(stream.paths.file(volume.name)))

    def _volume(
        self, stream: StoredStream, volume: manifest.Volume, lines: bytes | None
    ) -> Iterator[_Bytes]:
        path = stream.paths.file(volume.name)
        volume_only = where = self._where(path)
        if volume.size:
            where = replace(where, start=0, end=volume.size - 1)
        stat = self._attempt(path, lambda: self._storage.stat(path), where)
        if stat is None:
            return
        same = not (stat.etag and volume.etag) or stat.etag == volume.etag
        if stat.size != volume.size:
            first, after = sorted((stat.size, volume.size))
            odd = 'missing' if first == stat.size else 'surplus'
            self._report(
                f'{path}: has {stat.size} bytes, and {volume.size} were written: '
                f'bytes {first} to {after - 1} are {odd}',
                replace(
                    volume_only, part=volume.part_at(first), start=first, end=after - 1
                ),
            )
        elif not same and not self._data:
            self._warnings.append(
                f'{path}: its ETag is {stat.etag}, but was {volume.etag}: it was '
                f'copied or rewritten'
            )
        if self._data and lines is not None:
            # If the ETag differs, only digests count: a copied bucket has other ETags.
            etag = volume.etag if same else None
            pieces = (p for p in volume.pieces(lines) if p.end <= stat.size)
            reads = self._storage.read_pieces(path, etag, pieces)
            yield from self._read(path, reads, volume_only, volume)

    def _plain(self) -> Generator[_Bytes, None, None]:
        """The data of a backup by Freezer 19, of which only the size is known."""
        path = self._paths.manifest
        if self._attempt(path, lambda: self._exists(path)):
            self._report(
                f'{self._paths.marker} does not name the manifest, and there is one: '
                f'{path}'
            )
        path = self._paths.data
        where = Problem('', layout.DATA)
        stat = self._attempt(path, lambda: self._storage.stat(path), where)
        if stat is None:
            return
        self._size += stat.size
        if not stat.size:
            self._report(f'{path} is empty: its upload failed', where)
        elif self._data:
            yield from self._read_plain(path, stat, where)

    def _exists(self, path: str) -> bool:
        try:
            self._storage.stat(path)
        except NotFound:
            return False
        return True

    def _check_identity(self) -> None:
        """Check the file with the key of the chain, which is small."""
        stored, path = self._stored, self._paths.identity
        error: StorageException | None = None
        try:
            if manifest.is_identity(stored.identity, stored.marker):
                return
            what = (
                f'{path} differs from the file that was written: it is damaged, unless '
                f'its passphrase was changed, which --encrypt-pass-file shows'
            )
        except NotFound as missing:
            error, what = missing, f'{path} is missing'
        except StorageException as failed:
            error, what = failed, failed.message
        for other, file in levels.identities_elsewhere(stored):
            if manifest.is_identity(file, stored.marker):
                what += f'; a restore uses {other.paths.identity}, which is the same'
                self._report(what, replace(_ANYWHERE, fatal=False), error)
                return
        self._report(what, error=error)

    def _check_file(
        self, path: str, fatal: bool, read: Callable[[], bytes] | None = None
    ) -> None:
        """Check a required file.

        :param read: reads and verifies it, if its digest is known
        """
        where = Problem('', fatal=fatal)
        stat = self._attempt(path, lambda: self._storage.stat(path), where)
        if stat is None or not self._data:
            return
        if read is not None:
            self._attempt(path, read, where)
        else:
            self._read_all(self._read_plain(path, stat, where))

    def _check_index(self) -> None:
        """Check the index, which a restore of the whole level does not need."""
        path, where = self._paths.index, replace(_ANYWHERE, fatal=False)
        index = self._attempt(path, lambda: self._stored.index, where)
        if index is None:
            return
        stat = self._attempt(path, lambda: self._storage.stat(path), where)
        if stat is None:
            return
        written = index.record.stored_size
        if stat.size != written:
            self._report(
                f'{path}: has {stat.size} bytes, and {written} were written', where
            )
        elif self._data:
            self._read_all(self._read(path, index.pieces(), where))

    def _read_plain(self, path: str, stat: Stat, where: Problem) -> Iterator[_Bytes]:
        """Read a file without digests."""
        pieces = manifest.plain_pieces(stat.size)
        reads = self._storage.read_pieces(path, stat.etag, pieces)
        return self._read(path, reads, where)

    def _read_all(self, blocks: Iterator[_Bytes]) -> None:
        for _block in blocks:
            pass

    def _read(
        self,
        path: str,
        reads: Generator[manifest.Read, None, None],
        where: Problem,
        volume: manifest.Volume | None = None,
    ) -> Iterator[_Bytes]:
        """Read every piece, also after a wrong one.

        :param volume: the volume of the pieces, if it has parts
        :returns: blocks that are undamaged; each is valid until the next is requested
        """
        failed = 0
        with contextlib.closing(reads):
            while read := self._attempt(path, lambda: next(reads, None), where):
                piece, data = read
                if isinstance(data, StorageException):
                    part = volume.part_at(piece.start) if volume else None
                    start, end = piece.start, piece.end - 1
                    there = replace(where, part=part, start=start, end=end)
                    self._report(data.message, there, data)
                    failed = failed + 1 if data.temporary else 0
                    if failed == _FAILED_IN_A_ROW:
                        self._report(f'{path}: bytes after {end} were not read', where)
                        break
                else:
                    failed = 0
                    yield data
                # Not kept while the next piece is read.
                del read, data
