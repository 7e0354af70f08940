"""Removes old chains of levels."""

from collections.abc import Iterator, Mapping, Sequence

from freezer.storage import layout, levels
from freezer.storage.backup import Owner, StoredLevel
from freezer.storage.base import Storage

# So many files at a time: the markers of their chains are deleted first, then their
# data. If that is interrupted, data without a marker remains, for ``clean_up`` to find.
_DELETED_AT_ONCE = 10_000


def remove_older_than(
    storage: Storage,
    engine: str,
    hostname_backup_name: str,
    cutoff: int,
    keep: int | None = None,
    dry_run: bool = False,
    member: str = '',
    owner: Owner | None = None,
) -> list[list[StoredLevel]]:
    """Delete each chain whose every level is at or before a time; markers first.

    A level that is being written counts as a level, so a chain that somebody builds on
    stays.

    :param cutoff: epoch seconds
    :param keep: level-0 timestamp of a chain to keep whatever its age
    :param dry_run: delete nothing
    :param owner: whose chains; None for anybody's
    :returns: the chains that were, or would be, deleted; oldest first
    """
    chains = {
        zero: chain
        for zero, chain in levels.chains(
            storage, engine, hostname_backup_name, member
        ).items()
        if zero != keep
        and max(each.timestamp for each in chain) <= cutoff
        and levels.is_owned(chain, owner)
    }
    # One listing for all of them.
    root = layout.join(layout.DATA, engine, hostname_backup_name)
    data: dict[int, list[str]] = {zero: [] for zero in chains}
    listing = storage.list_tree(layout.join(storage.storage_path, root))
    for path, _size in listing if chains else ():
        found = layout.parse(layout.join(root, path))
        if found is None or found.identity != hostname_backup_name:
            continue
        if found.level_zero not in data:
            continue
        if found.timestamp > cutoff:
            # Uncommitted levels count: somebody may be building on this chain.
            del data[found.level_zero]
            continue
        data[found.level_zero].append(layout.join(storage.storage_path, root, path))
    if not dry_run:
        for group in _groups(data):
            # Highest level first: if interrupted, what is left is a chain.
            storage.delete_files(
                [each.paths.marker for zero in group for each in reversed(chains[zero])]
            )
            storage.delete_files([path for zero in group for path in data[zero]])
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
