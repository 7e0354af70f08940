"""One listing of a container, shared by retention and the search for leftovers.

A container of many backups takes many pages. Metadata and data are each listed once:
the first caller that needs a part of them records the rest for the others.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from freezer.storage import claims, layout
from freezer.storage.exceptions import AccessDenied, Rejected
from freezer.storage.objects import ListedObject, ObjectStore
from freezer.utils.text import NOTICES

# Left by a check that was killed.
_SCRATCH = re.compile(rf'{layout.CHECK}/[0-9a-f]{{32}}(?=/)')


@dataclass
class Suspect:
    """A folder that may be a leftover.

    :ivar marker: key of the marker that would make it a backup; None if it has none
    :ivar newest: time of its last write, in epoch seconds of the store's clock
    """

    marker: str | None
    newest: float = 0.0


class Survey:
    """The state of a container when it was listed; later changes are not in it.

    :param root: the prefix of all keys of the container, empty or ending with a slash
    """

    def __init__(self, bucket: ObjectStore, root: str) -> None:
        self._bucket = bucket
        self._root = root
        self._listed: set[str] = set()
        self._committed: set[str] = set()
        self._suspects: dict[str, Suspect] = {}

    @functools.cached_property
    def began(self) -> float:
        """The time before the first listing, in epoch seconds of the store's clock."""
        return self._bucket.store_time()

    def list(self, prefix: str) -> Iterator[ListedObject]:
        """Every object whose key starts with the prefix.

        The first caller's listing is recorded; later callers get a new one.
        """
        for kind in (layout.METADATA, layout.DATA):
            if kind not in self._listed and prefix.startswith(f'{self._root}{kind}/'):
                return self._list(kind, prefix)
        return self._bucket.list(prefix)

    def suspects(self) -> dict[str, Suspect]:
        """Every folder without a marker, or with a claim or open upload."""
        self._ensure_listed(layout.METADATA)
        self._ensure_listed(layout.DATA)
        for item in self._bucket.list(f'{self._root}{layout.CHECK}/'):
            self._record(item.key, item.modified)
        try:
            for upload, initiated in self._bucket.list_uploads(self._root):
                self._record(upload.key, initiated, force=True)
        except (AccessDenied, Rejected) as error:
            # rclone serve s3 has no such list: then only the journal knows of them.
            NOTICES.warning('Open uploads cannot be listed: %s', error.message)
        return self._suspects

    def _ensure_listed(self, kind: str) -> None:
        if kind not in self._listed:
            for _item in self._list(kind, ''):
                pass

    def _list(self, kind: str, prefix: str) -> Iterator[ListedObject]:
        """Record everything of a kind; yield what is below the prefix."""
        # Before the listing: what is written meanwhile must not count as old.
        _ = self.began
        if kind == layout.DATA:
            # Data is judged by its metadata.
            self._ensure_listed(layout.METADATA)
        for item in self._bucket.list(f'{self._root}{kind}/'):
            if kind == layout.METADATA:
                self._commit(item.key)
            else:
                self._record(item.key, item.modified, claims.is_claim(item.key))
            if item.key.startswith(prefix):
                yield item
        self._listed.add(kind)

    def _commit(self, key: str) -> None:
        folder = self._folder(key, layout.METADATA)
        if folder is not None and key == f'{folder}/{layout.METADATA}':
            self._committed.add(self._beside(folder, layout.DATA))

    def _record(self, key: str, when: float, force: bool = False) -> None:
        """:param force: record it even if the level has a marker"""
        if scratch := _SCRATCH.match(key, len(self._root)):
            folder, marker = self._root + scratch[0], None
        else:
            found = self._folder(key, layout.DATA)
            if found is None or (found in self._committed and not force):
                return
            folder = found
            marker = f'{self._beside(found, layout.METADATA)}/{layout.METADATA}'
        one = self._suspects.setdefault(folder, Suspect(marker))
        one.newest = max(one.newest, when)

    def _folder(self, key: str, kind: str) -> str | None:
        """The level's folder of a key; None if it does not belong to a backup."""
        found = layout.parse(key[len(self._root) :])
        if found is None or found.kind != kind:
            return None
        return key[: -len(found.name) - 1]

    def _beside(self, folder: str, kind: str) -> str:
        """The data or metadata folder of the same level."""
        return self._root + kind + folder[folder.index('/', len(self._root)) :]
