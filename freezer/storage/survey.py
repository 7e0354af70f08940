"""One look at a container for all that goes by it: retention, and what is left over.

A container of many backups takes many pages. Its metadata and its data are listed once
each, and whoever asks for a part of them first shows the rest to the others.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from freezer.storage import claims, layout
from freezer.storage.exceptions import AccessDenied, Rejected
from freezer.storage.objects import ListedObject, ObjectStore
from freezer.utils.text import NOTICES

# What a check that was killed has left.
_SCRATCH = re.compile(rf'{layout.CHECK}/[0-9a-f]{{32}}(?=/)')


@dataclass
class Suspect:
    """A folder that may be left over.

    :ivar marker: key of the object that would make it a backup; None if nothing does
    :ivar newest: when something of it was written last, seconds of the store's clock
    """

    marker: str | None
    newest: float = 0.0


class Survey:
    """What was there when it was looked at. What others do since is not in it.

    :param root: the prefix of all keys of the container, empty or ending with a slash
    """

    def __init__(self, bucket: ObjectStore, root: str) -> None:
        self._bucket = bucket
        self._root = root
        self._looked: set[str] = set()
        self._committed: set[str] = set()
        self._suspects: dict[str, Suspect] = {}

    @functools.cached_property
    def began(self) -> float:
        """Before the first look; seconds of the store's clock."""
        return self._bucket.store_time()

    def list(self, prefix: str) -> Iterator[ListedObject]:
        """Every object whose key starts with the prefix, as it was when it was first
        asked for, or as it is now if it was before."""
        for kind in (layout.METADATA, layout.DATA):
            if kind not in self._looked and prefix.startswith(f'{self._root}{kind}/'):
                return self._list(kind, prefix)
        return self._bucket.list(prefix)

    def suspects(self) -> dict[str, Suspect]:
        """Every folder without a marker, or with what has no place beside one."""
        self._ensure_listed(layout.METADATA)
        self._ensure_listed(layout.DATA)
        for item in self._bucket.list(f'{self._root}{layout.CHECK}/'):
            self._record(item.key, item.modified)
        try:
            for upload, initiated in self._bucket.list_uploads(self._root):
                self._record(upload.key, initiated, force=True)
        except (AccessDenied, Rejected) as error:
            # rclone serve s3 has no such list: then the journal is all there is.
            NOTICES.warning('Open uploads cannot be listed: %s', error.message)
        return self._suspects

    def _ensure_listed(self, kind: str) -> None:
        if kind not in self._looked:
            for _item in self._list(kind, ''):
                pass

    def _list(self, kind: str, prefix: str) -> Iterator[ListedObject]:
        """At all of a kind; what is below the prefix is shown."""
        # The first thing: what is written meanwhile is not to be old.
        _ = self.began
        if kind == layout.DATA:
            # By which it is judged.
            self._ensure_listed(layout.METADATA)
        for item in self._bucket.list(f'{self._root}{kind}/'):
            if kind == layout.METADATA:
                self._commit(item.key)
            else:
                self._record(item.key, item.modified, claims.is_claim(item.key))
            if item.key.startswith(prefix):
                yield item
        self._looked.add(kind)

    def _commit(self, key: str) -> None:
        folder = self._folder(key, layout.METADATA)
        if folder is not None and key == f'{folder}/{layout.METADATA}':
            self._committed.add(self._beside(folder, layout.DATA))

    def _record(self, key: str, when: float, force: bool = False) -> None:
        """:param force: it has no place beside a marker either"""
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
        """The level's folder a key is in; None for what is not of a backup."""
        found = layout.parse(key[len(self._root) :])
        if found is None or found.kind != kind:
            return None
        return key[: -len(found.name) - 1]

    def _beside(self, folder: str, kind: str) -> str:
        """The folder of the same level among the data, or among the metadata."""
        return self._root + kind + folder[folder.index('/', len(self._root)) :]
