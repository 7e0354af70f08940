"""The journal: which backups this machine is writing, to clean up after a crash.

One file for each backup under way, locked by the process that writes it. The kernel
releases the lock when the process ends, however it ends and in whatever container it
runs. A file that can be locked belongs to a dead process, and what it names is removed:
open uploads by their ids (a store's own list may be empty or stale), and what was
stored without a commit marker.
"""

import fcntl
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from freezer.storage import leftovers
from freezer.storage.exceptions import StorageException
from freezer.storage.housekeeping import Leftover
from freezer.storage.objects import ObjectStore, Upload
from freezer.utils import trusted

LOG = logging.getLogger(__name__)

_SUFFIX = '.json'
_NOTHING = Leftover('', 0, 0, 0)


@dataclass(frozen=True)
class Place:
    """Where a backup is written. Keys without a slash at their end."""

    endpoint: str
    bucket: str
    folder: str
    marker: str

    def is_in(self, store: 'Store') -> bool:
        return (self.endpoint, self.bucket) == (store.endpoint, store.name)


class Store(Protocol):
    """Where entries of a journal belong to: an :class:`ObjectStore`, or another."""

    @property
    def endpoint(self) -> str: ...

    @property
    def name(self) -> str: ...


#: removes the remains of one backup, or only counts them in a dry run
Clear = Callable[[Place, list[Upload], bool], Leftover]


class JournalEntry:
    """A backup under way. Does nothing if the journal cannot be written."""

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream
        self._kept = False

    def add(self, upload: Upload) -> None:
        """Record an upload, before any part of it is sent."""
        if self._stream is None:
            return
        try:
            _write(self._stream, [upload.key, upload.upload_id])
        except OSError as error:
            LOG.warning('upload %s is not in the journal: %s', upload.upload_id, error)

    def keep(self) -> None:
        """Leave the entry to the next run: something remains to be cleaned up."""
        self._kept = True

    def close(self) -> None:
        """Remove the entry, unless it is kept."""
        if self._stream is not None:
            if not self._kept:
                Path(self._stream.name).with_suffix(_SUFFIX).unlink(missing_ok=True)
            self._stream.close()


class Journal:
    """:param folder: created when it is first needed"""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, place: Place) -> JournalEntry:
        # Under another name until it is locked, so that nobody considers it dead.
        path = self._folder / f'{secrets.token_hex(8)}.new'
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            trusted.check(self._folder)
            stream = open(path, 'x', encoding='utf-8', opener=_private)  # noqa: SIM115
            fcntl.flock(stream, fcntl.LOCK_EX)
            _write(stream, vars(place))
            path.rename(path.with_suffix(_SUFFIX))
        except OSError as error:
            LOG.warning('no journal of uploads in %s: %s', self._folder, error.strerror)
            return JournalEntry(None)
        return JournalEntry(stream)

    def clean_up(self, bucket: ObjectStore, *, dry_run: bool = False) -> list[Leftover]:
        """Remove what dead processes left in this bucket, and return what it was.

        What cannot be removed now stays in the journal, and is logged.
        """

        def clear(place: Place, uploads: list[Upload], dry_run: bool) -> Leftover:
            return leftovers.clear(
                bucket.cleaning_up(),
                place.folder,
                place.marker,
                uploads,
                dry_run=dry_run,
            )

        return self.undo(bucket, clear, dry_run=dry_run)

    def undo(
        self, store: Store, clear: Clear, *, dry_run: bool = False
    ) -> list[Leftover]:
        """The same for any store."""
        found = []
        for path, stream in self._entries():
            with stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    left = _undo(store, clear, stream, dry_run)
                    if left is not None and not dry_run:
                        path.unlink(missing_ok=True)
                    if left:
                        found.append(left)
                except BlockingIOError:
                    LOG.debug('%s belongs to a live process', path)
                except (OSError, StorageException) as error:
                    LOG.warning('leftovers of a dead backup (%s) stay: %s', path, error)
        return found

    def folders(self, bucket: Store) -> set[str]:
        """The keys of the folders in this bucket that have entries."""
        found = set()
        for _path, stream in self._entries():
            with stream:
                place, _uploads = _read(stream)
                if place is not None and place.is_in(bucket):
                    found.add(place.folder)
        return found

    def _entries(self) -> Iterator[tuple[Path, IO[str]]]:
        try:
            trusted.check(self._folder)
        except OSError as error:
            LOG.warning('no journal of uploads in %s: %s', self._folder, error.strerror)
            return
        for path in sorted(self._folder.glob(f'*{_SUFFIX}')):
            try:
                yield path, path.open(encoding='utf-8')
            except FileNotFoundError:
                continue
            except OSError as error:
                LOG.warning('%s: %s', path, error.strerror)


def _write(stream: IO[str], line: object) -> None:
    stream.write(json.dumps(line) + '\n')
    stream.flush()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _undo(
    store: Store, clear: Clear, stream: IO[str], dry_run: bool
) -> Leftover | None:
    """Remove what a dead process left; None if it was not in this store."""
    place, uploads = _read(stream)
    if place is None:
        return _NOTHING
    if not place.is_in(store):
        return None
    left = clear(place, uploads, dry_run)
    if left and not dry_run:
        LOG.info('removed leftovers of a dead process: %s', left)
    return left


def _read(stream: IO[str]) -> tuple[Place | None, list[Upload]]:
    """An entry's content; its last line may be cut off."""
    lines: Iterator[str] = (line for line in stream if line.endswith('\n'))
    try:
        place = Place(**json.loads(next(lines)))
    except (StopIteration, ValueError, TypeError):
        return None, []
    return place, [Upload(*json.loads(line)) for line in lines]
