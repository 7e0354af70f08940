"""Reads a storage, and caches the last reads: for random reads of a few files."""

import collections
import contextlib
import itertools
import threading
from collections.abc import Generator, Hashable, Iterable, Iterator
from typing import Final

from freezer.storage import manifest
from freezer.storage.backup import Readable, Stat
from freezer.storage.exceptions import StorageException

# Four pieces of the largest size.
_KEPT_BYTES: Final = 4 * manifest.MAX_PIECE


class RecentBytes:
    """The bytes that were used last, up to a limit, by key. For several threads.

    :param limit: bytes
    """

    def __init__(self, limit: int = _KEPT_BYTES) -> None:
        self._limit = limit
        self._size = 0
        self._kept: collections.OrderedDict[Hashable, bytes] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> bytes | None:
        with self._lock:
            data = self._kept.get(key)
            if data is not None:
                self._kept.move_to_end(key)
            return data

    def put(self, key: Hashable, data: bytes) -> None:
        with self._lock:
            self._size += len(data) - len(self._kept.pop(key, b''))
            self._kept[key] = data
            while self._size > self._limit:
                _key, dropped = self._kept.popitem(last=False)
                self._size -= len(dropped)


class CachedStorage:
    """The reading half of a storage. Files of committed levels do not change.

    :param recent: may be shared by several storages
    :param name: of this one in it
    """

    def __init__(self, storage: Readable, recent: RecentBytes, name: str = '') -> None:
        self._storage = storage
        self._recent = recent
        self._name = name
        self.storage_path = storage.storage_path

    def location(self, path: str) -> str:
        return self._storage.location(path)

    def list_tree(self, path: str) -> Iterator[tuple[str, int]]:
        return self._storage.list_tree(path)

    def stat(self, path: str) -> Stat:
        return self._storage.stat(path)

    def read_file(self, path: str, limit: int | None = None) -> bytes:
        key = self._name, path
        content = self._recent.get(key)
        if content is None:
            content = self._storage.read_file(path, limit)
            self._recent.put(key, content)
        return content

    def read_pieces(
        self, path: str, etag: str | None, pieces: Iterable[manifest.Piece]
    ) -> Generator[manifest.Read, None, None]:
        """As :meth:`base.Storage.read_pieces`; only checked bytes are kept."""
        # Looked up at once: later pieces may push out earlier ones.
        found = [(each, self._recent.get((self._name, path, each))) for each in pieces]
        for is_kept, run in itertools.groupby(found, lambda one: one[1] is not None):
            if is_kept:
                for piece, data in run:
                    assert data is not None
                    yield manifest.Read(piece, data)
                continue
            missing = (piece for piece, _data in run)
            with contextlib.closing(
                self._storage.read_pieces(path, etag, missing)
            ) as reads:
                for piece, read in reads:
                    if not isinstance(read, StorageException):
                        read = bytes(read)
                        self._recent.put((self._name, path, piece), read)
                    yield manifest.Read(piece, read)
