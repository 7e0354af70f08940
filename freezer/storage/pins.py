"""Pins: states that no retention removes.

A pin is a small file beside the marker, with a copy of the markers of the state and of
the levels that it builds on. Retention may run at the same time: it deletes markers,
then lists the pins, and writes the markers of pinned states again, from the pin, before
it deletes any data. A pin is written first; then the markers have to be there. So one
of the two notices the other.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Container, Sequence
from typing import Any

from freezer.storage import layout, levels
from freezer.storage.backup import Backup, LevelPaths, StoredLevel, level_removed
from freezer.storage.base import Storage
from freezer.storage.exceptions import IntegrityError, NotFound

_MARKERS = 'markers'
# A chain of a thousand levels, whose markers have 2 KiB each.
_MAX_PIN = 2 * 1024 * 1024


def pin(storage: Storage, stored: StoredLevel, chain: Sequence[StoredLevel]) -> None:
    """Pin a state. Atomic and durable; once more makes no difference.

    :param chain: all levels of its chain
    :raises NotFound: retention removed it, or a level below, meanwhile
    :raises IntegrityError: a marker is damaged
    """
    kept = (*levels.needed(stored, chain), stored)
    levels.fetch_markers(kept)
    markers = {}
    for each in kept:
        try:
            backup = each.backup
            name = layout.level_name(backup.level, backup.timestamp)
            markers[name] = each.marker
        except NotFound as error:
            raise level_removed(each) from error
    content = {'pinned': int(time.time()), _MARKERS: markers}
    storage.write_file(stored.paths.pin, json.dumps(content).encode())
    for each in kept:
        try:
            storage.stat(each.paths.marker)
        except NotFound as error:
            unpin(storage, stored)
            raise level_removed(each) from error


def unpin(storage: Storage, stored: StoredLevel) -> None:
    """Remove the pin of a state; there may be none."""
    storage.delete_files([stored.paths.pin])


def put_back(
    storage: Storage,
    engine: str,
    hostname_backup_name: str,
    known: Container[Backup],
) -> list[Backup]:
    """Write the markers again that pinned states of a name, and the levels that they
    build on, lack although their data is there.

    :param known: pinned states of which no marker was deleted
    :returns: the levels that have their markers again
    :raises IntegrityError: a pin is damaged
    """
    committed, pinned = levels.committed_and_pinned(
        storage, engine, hostname_backup_name
    )
    found: dict[Backup, Any] = {}
    for each in pinned:
        if each in known and each in committed:
            continue
        # Not if it is unpinned meanwhile.
        with contextlib.suppress(NotFound):
            found |= _markers(storage, each)
    back = []
    # Lower levels first: if interrupted, what is listed can be restored.
    for backup in sorted(found.keys() - committed, key=lambda each: each.level):
        paths = LevelPaths(storage.storage_path, backup)
        # Without data, the pin was too late.
        with contextlib.suppress(NotFound):
            storage.stat(paths.engine_metadata)
            storage.write_file(paths.marker, json.dumps(found[backup]).encode())
            back.append(backup)
    return back


def _markers(storage: Storage, pinned: Backup) -> dict[Backup, Any]:
    """The markers that a pin has.

    :raises NotFound: there is no such pin
    :raises IntegrityError: it is damaged
    """
    path = LevelPaths(storage.storage_path, pinned).pin
    content = storage.read_file(path, _MAX_PIN)
    found = {}
    try:
        for name, marker in json.loads(content)[_MARKERS].items():
            level, timestamp = map(int, name.split('_'))
            at = dataclasses.replace(pinned, level=level, timestamp=timestamp)
            found[at] = dict(marker)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f'{storage.location(path)} is damaged, and its state was being removed: '
            f'the markers are deleted, and the data is kept; --action verify lists it'
        ) from error
    return found
