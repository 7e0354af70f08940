"""Storages on which a path means something: files, or objects with keys.

What all of them share is here: finding backups, committing, retention. A driver
provides a few verbs on paths. Paths are ``storage_path`` joined with a path of
:mod:`freezer.storage.layout`, so they include the container.
"""

import abc
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from freezer.storage import layout, manifest
from freezer.storage.base import (
    Backup,
    ChainReport,
    EngineName,
    Named,
    Storage,
    StorageReport,
)
from freezer.storage.exceptions import ManifestError, NotFound
from freezer.storage.verify import Stat, Verification, examine


class PhysicalStorage(Storage):
    """Backups as paths.

    :param storage_path: the container as typed
    :param max_segment_size: bytes of a segment or part
    """

    def __init__(
        self, storage_path: str, max_segment_size: int, skip_prepare: bool = False
    ) -> None:
        self.storage_path = storage_path
        self.max_segment_size = max_segment_size
        # Level folder -> token of the manifest that write_backup left there.
        self._tokens: dict[str, str] = {}
        super().__init__(skip_prepare=skip_prepare)

    @abc.abstractmethod
    def list_tree(self, path: str) -> Iterator[tuple[str, int]]:
        """Every file below a path, as (path relative to it, bytes), in any order.

        Nothing there is an empty listing; any failure to list raises.
        """

    @abc.abstractmethod
    def listdir(self, path: str) -> list[str]:
        """The immediate children's names, sorted; nothing there is empty."""

    @abc.abstractmethod
    def create_dirs(self, path: str) -> None:
        """Make a directory and its parents, where such things exist."""

    @abc.abstractmethod
    def put_file(self, from_path: str, to_path: str) -> None:
        """Copy a small local file to the storage; atomic: whole or not at all."""

    @abc.abstractmethod
    def put_bytes(self, to_path: str, content: bytes) -> None:
        """Write a small file on the storage; atomic: whole or not at all."""

    @abc.abstractmethod
    def read_file(self, path: str, limit: int | None = None) -> bytes:
        """A small file's content.

        :param limit: bytes; more than that is an IntegrityError
        :raises NotFound: there is none
        """

    @abc.abstractmethod
    def stat(self, path: str) -> Stat:
        """A file's size and ETag.

        :raises NotFound: there is none
        """

    @abc.abstractmethod
    def read_pieces(
        self, path: str, etag: str | None, pieces: Iterable[manifest.Piece]
    ) -> Generator[manifest.Read, None, None]:
        """Pieces of a file, in order, each checked; one that is wrong ends nothing.

        Holds a bounded number of pieces in memory.

        :param etag: of the file to be read, where there are such; None for whichever
            is there
        """

    @abc.abstractmethod
    def delete_files(self, paths: Sequence[str]) -> None:
        """Delete in this order; one that is not there is no error.

        :raises PartialDelete: some are still there
        """

    @abc.abstractmethod
    def rmtree(self, path: str) -> None:
        """Delete all below a path, and nothing beside it; nothing there is no error."""

    def get_chains(
        self, engine: Named, hostname_backup_name: str
    ) -> dict[int, list[Backup]]:
        root = layout.join(
            self.storage_path, layout.METADATA, engine.name, hostname_backup_name
        )
        chains: dict[int, list[Backup]] = {}
        for path, _size in self.list_tree(root):
            found = layout.parse(layout.join(layout.METADATA, engine.name, 'H', path))
            if found is None or found.name != layout.METADATA:
                continue
            if found.identity != 'H':
                # Of another name, which begins with this one and a slash.
                continue
            chains.setdefault(found.level_zero, []).append(
                Backup(
                    engine,
                    hostname_backup_name,
                    found.level_zero,
                    found.timestamp,
                    found.level,
                    self,
                )
            )
        return {
            zero: sorted(chain, key=lambda b: (b.level, b.timestamp))
            for zero, chain in sorted(chains.items())
        }

    def backups(self) -> list[Backup]:
        root = layout.join(self.storage_path, layout.METADATA)
        paths = (layout.join(layout.METADATA, path) for path, _ in self.list_tree(root))
        return [
            Backup(
                EngineName(found.engine),
                found.identity,
                found.level_zero,
                found.timestamp,
                found.level,
                self,
            )
            for found in sorted(filter(None, map(layout.parse, paths)))
            if found.name == layout.METADATA
        ]

    def put_metadata(
        self, engine_metadata_path: str, freezer_metadata_path: str, backup: Backup
    ) -> None:
        backup = backup.copy(self)
        self.create_dirs(backup.data_prefix_path)
        self.put_file(engine_metadata_path, backup.engine_metadata_path)
        with open(freezer_metadata_path, 'rb') as marker_file:
            marker = marker_file.read()
        token = self._tokens.pop(backup.data_prefix_path, None)
        if token is not None:
            marker = manifest.add_token(marker, token)
        self.put_bytes(backup.metadata_path, marker)

    def manifest_of(
        self, backup: Backup, marker: Mapping[str, Any] | None = None
    ) -> manifest.Manifest | None:
        """A backup's manifest; None for one that Freezer 19 wrote, which has none.

        :param marker: what is in the backup's marker, where that is known
        :raises ManifestError: the backup must have one and it is missing or wrong
        """
        backup = backup.copy(self)
        marker = backup.metadata() if marker is None else marker
        token = marker.get(manifest.MARKER_KEY)
        if token is None:
            return None
        path = layout.join(backup.data_prefix_path, layout.MANIFEST)
        try:
            document = self.read_file(path, manifest.MAX_MANIFEST_BYTES)
        except NotFound as error:
            raise ManifestError(f'{path} is missing: the backup is damaged') from error
        found = manifest.load(document, path)
        if found.token != token:
            raise ManifestError(f'{path} belongs to another backup')
        return found

    def verify(self, backup: Backup, data: bool) -> Verification | None:
        return examine(self, backup.copy(self), data)

    def discard(self, backup: Backup) -> None:
        backup = backup.copy(self)
        self.delete_files([backup.metadata_path])
        self.rmtree(backup.data_prefix_path)
        self._tokens.pop(backup.data_prefix_path, None)

    def report(self) -> StorageReport:
        objects = 0
        total = 0
        sizes: dict[tuple[str, str, int], int] = {}
        levels: dict[tuple[str, str, int], list[tuple[int, int]]] = {}
        for path, size in self.list_tree(self.storage_path):
            objects += 1
            total += size
            found = layout.parse(path)
            if found is None:
                continue
            chain = (found.engine, found.identity, found.level_zero)
            sizes[chain] = sizes.get(chain, 0) + size
            if found.kind == layout.METADATA and found.name == layout.METADATA:
                levels.setdefault(chain, []).append((found.level, found.timestamp))
        chains = tuple(
            ChainReport(*chain, tuple(sorted(levels[chain])), sizes[chain])
            for chain in sorted(levels)
        )
        return StorageReport(self.storage_path, total, objects, chains)

    def remove_older_than(
        self,
        engine: Named,
        remove_older_timestamp: int,
        hostname_backup_name: str,
        keep: int | None = None,
        dry_run: bool = False,
    ) -> list[list[Backup]]:
        removed = []
        for zero, chain in self.get_chains(engine, hostname_backup_name).items():
            newest = max(backup.timestamp for backup in chain)
            if zero == keep or newest > remove_older_timestamp:
                continue
            root = chain[0].increments_data_path
            data = {
                path: level
                for path, _size in self.list_tree(root)
                if (level := layout.parse_level_name(path.partition('/')[0]))
            }
            # Uncommitted levels count: somebody may be building on this chain.
            if any(stamp > remove_older_timestamp for _level, stamp in data.values()):
                continue
            if not dry_run:
                # Highest level first: stopped halfway, what is left is a chain.
                self.delete_files([b.metadata_path for b in reversed(chain)])
                self.delete_files([layout.join(root, path) for path in data])
            removed.append(chain)
        return removed
