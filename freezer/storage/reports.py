"""What a container holds, and how a level is stored."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from freezer.storage import layout
from freezer.storage.backup import Readable, Stat, StoredLevel
from freezer.storage.exceptions import IntegrityError, NotFound


class LevelReport(NamedTuple):
    """One level of a chain; ``size`` is what its objects take, in bytes."""

    level: int
    timestamp: int
    size: int
    pinned: bool = False


@dataclass(frozen=True)
class ChainReport:
    """One chain of levels; ``size`` is what all its objects take, in bytes.

    :param levels: each committed level, sorted
    :param storage: name of the storage among several
    """

    engine: str
    identity: str
    level_zero_timestamp: int
    levels: tuple[LevelReport, ...]
    size: int
    storage: str = ''


@dataclass(frozen=True)
class StorageReport:
    """What a container holds: objects of any kind, and the backups among them.

    :param prefixes: the containers below it that hold backups, sorted
    """

    container: str
    size: int
    objects: int
    chains: tuple[ChainReport, ...] = ()
    prefixes: tuple[str, ...] = ()


def report(storage: Readable, member: str = '') -> StorageReport:
    """Sizes of everything in the container, by one listing."""
    objects = 0
    total = 0
    sizes: dict[tuple[str, str, int], dict[tuple[int, int], int]] = {}
    committed: dict[tuple[str, str, int], list[tuple[int, int]]] = {}
    pinned: set[tuple[str, str, int, int, int]] = set()
    prefixes: set[str] = set()
    for path, size in storage.list_tree(storage.storage_path):
        objects += 1
        total += size
        found = layout.parse(path)
        if found is None:
            if prefix := layout.prefix(path):
                prefixes.add(layout.join(storage.storage_path, prefix))
            continue
        chain = (found.engine, found.identity, found.level_zero)
        level = (found.level, found.timestamp)
        of_level = sizes.setdefault(chain, {})
        of_level[level] = of_level.get(level, 0) + size
        if found.kind == layout.METADATA and found.name == layout.METADATA:
            committed.setdefault(chain, []).append(level)
        elif found.kind == layout.METADATA and found.name == layout.PINNED:
            pinned.add((*chain, *level))
    chains = tuple(
        ChainReport(
            *chain,
            tuple(
                LevelReport(*at, sizes[chain][at], (*chain, *at) in pinned)
                for at in sorted(levels)
            ),
            sum(sizes[chain].values()),
            member,
        )
        for chain, levels in sorted(committed.items())
    )
    return StorageReport(
        storage.storage_path, total, objects, chains, tuple(sorted(prefixes))
    )


@dataclass(frozen=True)
class Details:
    """How a level was made, and how it is stored.

    :param size: bytes of its streams, as stored
    :param volumes: number of objects that the streams became
    :param parts: their names; none if the level has one stream
    :param digests: whether there are any; Freezer 19 wrote none
    :param stat: what the storage reports of the first volume; all are written alike
    :param marker: the content of its marker
    """

    size: int
    volumes: int
    parts: tuple[str, ...]
    digests: bool
    stat: Stat
    marker: Mapping[str, Any]


def details(level: StoredLevel) -> Details:
    """The marker, the manifest of each stream, and the first volume's attributes.

    :raises NotFound: there is no marker: the level was removed
    :raises IntegrityError: marker or manifest is damaged, or the data missing
    """
    streams = list(level.streams.values())
    manifests = [found for each in streams if (found := each.manifest) is not None]
    first = manifests[0].volumes[0].name if manifests else layout.DATA
    try:
        stat = level.storage.stat(streams[0].paths.file(first))
    except NotFound as error:
        raise IntegrityError(
            f'{error.message}: the backup is listed and has no data'
        ) from error
    return Details(
        sum(each.size for each in manifests) if manifests else stat.size,
        sum(len(each.volumes) for each in manifests) if manifests else 1,
        tuple(each.part for each in streams if each.part),
        bool(manifests),
        stat,
        level.marker,
    )
