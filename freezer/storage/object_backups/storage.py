"""The verbs of a storage, on a store of objects."""

import abc
import contextlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from freezer.storage import leftovers, manifest
from freezer.storage.backup import Backup, LevelPaths, Stat, StoredLevel
from freezer.storage.housekeeping import CleanUpReport, OldVersions
from freezer.storage.journal import Journal
from freezer.storage.object_backups import keys
from freezer.storage.object_backups.add_index import add_index
from freezer.storage.object_backups.download import read_pieces
from freezer.storage.object_backups.plan import STALE_AFTER
from freezer.storage.object_backups.volumes import UploadPlan
from freezer.storage.objects import BackupStore, ObjectKind
from freezer.storage.physical import PhysicalStorage
from freezer.storage.survey import Survey

# What is being written, for the next run to clean up should this one die.
_JOURNAL = '~/.freezer/uploads'


class ObjectStorage(PhysicalStorage):
    """Backups in one bucket or container, below an optional prefix.

    A driver provides the store, how streams are cut, and ``begin``.
    """

    container: str
    _survey: Survey | None = None

    @property
    @abc.abstractmethod
    def _bucket(self) -> BackupStore: ...

    @property
    @abc.abstractmethod
    def _plan(self) -> UploadPlan: ...

    @abc.abstractmethod
    def _at_once(self, size: int) -> int:
        """How many parts or ranges of so many bytes are under way at once."""

    @property
    @abc.abstractmethod
    def _stale_after(self) -> float | None:
        """Seconds of ``stale-after``; None if it is not set."""

    def prepare(self) -> None:
        self._make_ready()
        self._journal.clean_up(self._bucket)

    @abc.abstractmethod
    def _make_ready(self) -> None:
        """Create the bucket if it is missing."""

    @property
    def _journal(self) -> Journal:
        return Journal(Path(_JOURNAL).expanduser())

    # A backup

    def location(self, path: str) -> str:
        return self._bucket.where(keys.key_of(path))

    def remove_unfinished(self, backup: Backup) -> None:
        paths = LevelPaths(self.storage_path, backup)
        folder, marker = keys.key_of(paths.folder), keys.key_of(paths.marker)
        leftovers.clear(self._bucket, folder, marker)

    def add_index(
        self, stored: StoredLevel, index: Path, marker: Mapping[str, Any]
    ) -> None:
        add_index(self._bucket, stored, index, marker, self._plan, self._journal)

    def read_pieces(
        self, path: str, etag: str | None, pieces: Iterable[manifest.Piece]
    ) -> Generator[manifest.Read, None, None]:
        return read_pieces(self._bucket, keys.key_of(path), etag, pieces, self._at_once)

    def stat(self, path: str) -> Stat:
        head = self._bucket.head(keys.key_of(path))
        return Stat(
            head.size,
            head.etag or None,
            head.storage_class,
            head.lock_mode,
            head.locked_until,
            head.legal_hold,
        )

    def list_tree(self, path: str) -> Iterator[tuple[str, int]]:
        prefix = keys.tree_prefix(path)
        for item in (self._survey or self._bucket).list(prefix):
            yield item.key[len(prefix) :], item.size

    def read_file(self, path: str, limit: int | None = None) -> bytes:
        return self._bucket.get(keys.key_of(path), limit)

    def write_file(self, path: str, content: bytes) -> None:
        self._bucket.put(keys.key_of(path), content, ObjectKind.RECORD)

    def delete_files(self, paths: Sequence[str]) -> None:
        self._bucket.delete([keys.key_of(path) for path in paths])

    # Housekeeping

    def time(self) -> float:
        return self._bucket.store_time()

    @property
    def needs_cleanup(self) -> bool:
        return self._stale_after is not None

    @contextlib.contextmanager
    def housekeeping(self) -> Iterator[None]:
        self._survey = Survey(self._bucket, keys.tree_prefix(self.container))
        try:
            yield
        finally:
            self._survey = None

    def clean_up(self, dry_run: bool = False) -> CleanUpReport:
        bucket = self._bucket
        survey = self._survey or Survey(bucket, keys.tree_prefix(self.container))
        found = self._journal.clean_up(bucket, dry_run=dry_run)
        # In a dry run, do not count again what the journal named.
        live = self._journal.folders(bucket)
        after = STALE_AFTER if self._stale_after is None else self._stale_after
        found += leftovers.clear_stale(bucket, survey, live, after, dry_run=dry_run)
        return CleanUpReport(tuple(found), self._old_versions(dry_run))

    def _old_versions(self, dry_run: bool) -> tuple[OldVersions, ...]:
        return ()
