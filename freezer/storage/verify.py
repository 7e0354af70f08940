"""Checks that a stored backup is complete and unmodified. Writes nothing.

It uses only a few methods of a storage with paths, so it is the same for all of them.
"""

import contextlib
import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from freezer.storage import layout, manifest
from freezer.storage.exceptions import IntegrityError, NotFound, StorageException

if TYPE_CHECKING:
    from freezer.storage.base import Backup

T = TypeVar('T')

# The number of problems listed for a backup; all are counted.
LISTED = 20
# A piece that cannot be read has used up the time of a request: after so many in a row
# the rest of the volume is skipped.
_FAILED_IN_A_ROW = 3


class Stat(NamedTuple):
    """Size of a file in bytes, and its properties on the store; None if not reported.

    :param etag: as the store returns it
    :param storage_class: stores do not report their standard class
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
    """The result for one backup.

    :param size: bytes of its stream, as far as known
    :param digests: whether it has any; Freezer 19 wrote none
    :param problems: the first ones; ``count`` is the number of all
    :param restorable: whether its own data can be restored despite the problems
    :param missing: the lower levels of its chain that are missing
    :param warnings: irregularities that do no harm
    :param marker: the content of its marker, empty if it could not be read
    """

    backup: 'Backup'
    size: int
    digests: bool
    problems: tuple[Problem, ...]
    count: int
    restorable: bool
    missing: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    marker: Mapping[str, Any] = field(default_factory=dict)


class Verifiable(Protocol):
    """The methods of a storage that a verification uses."""

    def list_tree(self, path: str) -> Iterator[tuple[str, int]]: ...

    def read_file(self, path: str, limit: int | None = None) -> bytes: ...

    def stat(self, path: str) -> Stat: ...

    def read_pieces(
        self, path: str, etag: str | None, pieces: Iterable[manifest.Piece]
    ) -> Generator[manifest.Read, None, None]: ...

    def manifest_of(
        self, backup: 'Backup', marker: Mapping[str, Any] | None = None
    ) -> manifest.Manifest | None: ...


def examine(storage: Verifiable, backup: 'Backup', data: bool) -> Verification | None:
    """Check all objects of a backup; with ``data``, read every byte.

    An object that cannot be read is a problem of the backup, as long as the storage can
    be listed.

    :returns: None if the backup is not committed any more, because it is being removed
    :raises StorageException: the storage cannot be listed
    """
    try:
        return _Examination(storage, backup, data).run()
    except _Removed:
        return None


class _Removed(Exception):
    pass


_ANYWHERE = Problem('')


class _Examination:
    def __init__(self, storage: Verifiable, backup: 'Backup', data: bool) -> None:
        self._storage = storage
        self._backup = backup
        self._data = data
        self._folder = backup.data_prefix_path
        self._size = 0
        self._problems: list[Problem] = []
        self._count = 0
        self._restorable = True
        self._warnings: list[str] = []

    def run(self) -> Verification:
        backup = self._backup
        found: manifest.Manifest | None = None
        marker = self._attempt(backup.metadata_path, backup.metadata)
        if marker is not None:
            self._check_engine(marker)
            found = self._attempt(
                self._path(layout.MANIFEST),
                lambda: self._storage.manifest_of(backup, marker),
            )
            if found is not None:
                self._check_volumes(found)
            elif manifest.MARKER_KEY not in marker:
                self._check_plain()
        # A restore needs this file only if the level is authenticated.
        sealed = (marker or {}).get(layout.FORMAT_KEY) == layout.AGE
        self._check_file(
            backup.engine_metadata_path,
            fatal=sealed,
            # Read as a restore does, as a whole.
            read=lambda: manifest.check_state(
                backup.engine_metadata(), marker or {}, backup.engine_metadata_path
            ),
        )
        if sealed:
            self._check_file(self._path(layout.IDENTITY), fatal=True)
        # Last, to detect a backup that was removed meanwhile.
        present = self._committed()
        levels = {level for level, _timestamp in present}
        return Verification(
            backup,
            self._size,
            manifest.MARKER_KEY in (marker or {}),
            tuple(self._problems),
            self._count,
            self._restorable,
            tuple(level for level in range(backup.level) if level not in levels),
            tuple(self._warnings),
            marker or {},
        )

    def _path(self, name: str) -> str:
        return layout.join(self._folder, name)

    def _committed(self) -> set[tuple[int, int]]:
        """Level and timestamp of each backup of the chain.

        :raises _Removed: this backup is not among them
        """
        present = set()
        for path, _size in self._storage.list_tree(
            self._backup.increments_metadata_path
        ):
            name, _, rest = path.partition('/')
            level = layout.parse_level_name(name)
            if level is not None and rest == layout.METADATA:
                present.add(level)
        if (self._backup.level, self._backup.timestamp) not in present:
            raise _Removed
        return present

    # Problems

    def _report(self, problem: Problem, error: StorageException | None = None) -> None:
        # A backup that is being removed is not damaged, nor is one on a store that is
        # down: that has used up the time of a request, and the listing will fail.
        if not self._count or (error is not None and error.temporary):
            self._committed()
        self._count += 1
        self._restorable = self._restorable and not problem.fatal
        if len(self._problems) < LISTED:
            self._problems.append(problem)

    def _attempt(
        self, path: str, call: Callable[[], T], where: Problem = _ANYWHERE
    ) -> T | None:
        """The result of a call; None, and a problem reported, if it fails."""
        try:
            return call()
        except StorageException as error:
            missing = isinstance(error, NotFound)
            what = f'{path} is missing' if missing else error.message
            self._report(replace(where, what=what), error)
            return None

    # The objects of a backup

    def _check_engine(self, marker: Mapping[str, Any]) -> None:
        engine = marker.get('engine_name', self._backup.engine.name)
        if engine != self._backup.engine.name:
            self._report(
                Problem(f'{self._backup.metadata_path} is of another engine: {engine}')
            )

    def _check_volumes(self, found: manifest.Manifest) -> None:
        self._size = found.size
        stream = hashlib.sha256()
        whole = True
        for volume in found.volumes:
            lines = self._digests(volume)
            self._check_volume(volume, lines)
            whole = whole and lines is not None
            stream.update(lines or b'')
        if whole and stream.hexdigest() != found.digest:
            self._report(
                Problem(
                    f'{self._path(layout.MANIFEST)}: the digest of the stream does not '
                    f'match the digests of its pieces',
                    fatal=False,
                )
            )

    def _digests(self, volume: manifest.Volume) -> bytes | None:
        """The bytes of the digests object, or None if they are wrong."""
        path = self._path(volume.digests)

        def read() -> bytes:
            lines = self._storage.read_file(path, volume.digests_size)
            try:
                for _piece in volume.pieces(lines):
                    pass
            except IntegrityError as error:
                raise IntegrityError(f'{path}: {error.message}') from error
            return lines

        return self._attempt(path, read, Problem('', volume.name))

    def _check_volume(self, volume: manifest.Volume, lines: bytes | None) -> None:
        path = self._path(volume.name)
        where = Problem('', volume.name)
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
                Problem(
                    f'{path}: has {stat.size} bytes, and {volume.size} were written: '
                    f'bytes {first} to {after - 1} are {odd}',
                    volume.name,
                    volume.part_at(first),
                    first,
                    after - 1,
                )
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
            where = Problem('', volume.name)
            self._read(path, etag, pieces, where, volume)

    def _check_plain(self) -> None:
        """Check the data of a backup by Freezer 19; only its size is known."""
        path = self._path(layout.MANIFEST)
        if self._attempt(path, lambda: self._exists(path)):
            self._report(
                Problem(
                    f'{self._backup.metadata_path} does not name the manifest, but '
                    f'{path} exists'
                )
            )
        path = self._backup.data_path
        where = Problem('', layout.DATA)
        stat = self._attempt(path, lambda: self._storage.stat(path), where)
        if stat is None:
            return
        self._size = stat.size
        if not stat.size:
            what = f'{path} is empty: its upload failed'
            self._report(replace(where, what=what))
        elif self._data:
            pieces = manifest.plain_pieces(stat.size)
            self._read(path, stat.etag, pieces, where)

    def _exists(self, path: str) -> bool:
        try:
            self._storage.stat(path)
        except NotFound:
            return False
        return True

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
            self._read(path, stat.etag, manifest.plain_pieces(stat.size), where)

    def _read(
        self,
        path: str,
        etag: str | None,
        pieces: Iterable[manifest.Piece],
        where: Problem,
        volume: manifest.Volume | None = None,
    ) -> None:
        """Read every piece, also after a wrong one.

        :param volume: the volume of the pieces, if it has parts
        """
        reads = self._storage.read_pieces(path, etag, pieces)
        failed = 0
        with contextlib.closing(reads):
            while read := self._attempt(path, lambda: next(reads, None), where):
                piece, data = read
                if isinstance(data, StorageException):
                    problem = replace(
                        where,
                        what=data.message,
                        part=volume.part_at(piece.start) if volume else None,
                        start=piece.start,
                        end=piece.end - 1,
                    )
                    self._report(problem, data)
                    failed = failed + 1 if data.temporary else 0
                    if failed == _FAILED_IN_A_ROW:
                        what = f'{path}: bytes after {piece.end - 1} were not read'
                        self._report(replace(where, what=what))
                        break
                else:
                    failed = 0
                # Not kept while the next piece is read.
                del read, data
