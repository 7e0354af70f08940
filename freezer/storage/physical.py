"""Storages on which a path means something: files, or objects with keys.

What all of them share is here: finding backups, and retention. How they are committed
is in :mod:`freezer.storage.manifested`. A driver provides a few verbs on paths. Paths
are ``storage_path`` joined with a path of :mod:`freezer.storage.layout`, so they
include the container.
"""

import abc
from collections.abc import Iterator, Mapping, Sequence

from freezer.storage import layout
from freezer.storage.base import (
    Backup,
    ChainReport,
    EngineName,
    LevelReport,
    Named,
    Storage,
    StorageReport,
)

# Files whose markers go first. If that is stopped in between, they are data without a
# marker, for ``tidy`` to find.
_DELETED_AT_ONCE = 10_000


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

    def report(self) -> StorageReport:
        objects = 0
        total = 0
        sizes: dict[tuple[str, str, int], dict[tuple[int, int], int]] = {}
        committed: dict[tuple[str, str, int], list[tuple[int, int]]] = {}
        for path, size in self.list_tree(self.storage_path):
            objects += 1
            total += size
            found = layout.parse(path)
            if found is None:
                continue
            chain = (found.engine, found.identity, found.level_zero)
            level = (found.level, found.timestamp)
            of_level = sizes.setdefault(chain, {})
            of_level[level] = of_level.get(level, 0) + size
            if found.kind == layout.METADATA and found.name == layout.METADATA:
                committed.setdefault(chain, []).append(level)
        chains = tuple(
            ChainReport(
                *chain,
                tuple(LevelReport(*at, sizes[chain][at]) for at in sorted(levels)),
                sum(sizes[chain].values()),
            )
            for chain, levels in sorted(committed.items())
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
        chains = {
            zero: chain
            for zero, chain in self.get_chains(engine, hostname_backup_name).items()
            if zero != keep
            and max(backup.timestamp for backup in chain) <= remove_older_timestamp
        }
        # One listing for all of them.
        root = layout.join(
            self.storage_path, layout.DATA, engine.name, hostname_backup_name
        )
        data: dict[int, list[str]] = {zero: [] for zero in chains}
        for path, _size in self.list_tree(root) if chains else ():
            found = layout.parse(layout.join(layout.DATA, engine.name, 'H', path))
            if found is None or found.identity != 'H' or found.level_zero not in data:
                continue
            if found.timestamp > remove_older_timestamp:
                # Uncommitted levels count: somebody may be building on this chain.
                del data[found.level_zero]
                continue
            data[found.level_zero].append(layout.join(root, path))
        if not dry_run:
            for group in _groups(data):
                # Highest level first: stopped halfway, what is left is a chain.
                self.delete_files(
                    [b.metadata_path for zero in group for b in reversed(chains[zero])]
                )
                self.delete_files([path for zero in group for path in data[zero]])
        return [chains[zero] for zero in data]


def _groups(data: Mapping[int, Sequence[str]]) -> Iterator[list[int]]:
    """The chains, as many at a time as make up some full batches of deletes."""
    group: list[int] = []
    size = 0
    for zero, paths in data.items():
        group.append(zero)
        size += len(paths)
        if size >= _DELETED_AT_ONCE:
            yield group
            group, size = [], 0
    if group:
        yield group
