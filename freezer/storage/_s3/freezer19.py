"""What an installed Freezer 19 calls of its S3 driver; this agent does not.

Its agent, its engines nova and glance, and its mode cinder call these with the names
and keywords that are used here.
"""

import abc
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import six

from freezer.storage import layout
from freezer.storage._s3.options import S3Options
from freezer.storage._s3.transport.bucket import Bucket
from freezer.storage.backup import Backup, PendingBackup, StoredLevel, WrittenBackup
from freezer.storage.exceptions import StorageException
from freezer.storage.journal import Place
from freezer.storage.object_backups import keys
from freezer.storage.object_backups.download import as_file, read_object
from freezer.storage.object_backups.storage import ObjectStorage
from freezer.storage.object_backups.upload import store_object
from freezer.storage.object_backups.volumes import VolumeWriter
from freezer.storage.objects import ObjectKind
from freezer.utils.blocks import Block

if TYPE_CHECKING:
    # Not at run time: Freezer 19 has a module of this name, without it.
    from freezer.utils.streaming import RichQueue


def _backup(named: Any) -> Backup:
    """Of Freezer 19's class of the same name, whose ``engine`` is an object."""
    return Backup(
        getattr(named.engine, 'name', named.engine),
        named.hostname_backup_name,
        int(named.level_zero_timestamp),
        int(named.timestamp),
        int(named.level),
    )


class Freezer19Calls(ObjectStorage):
    """Freezer 19's names for what the driver does."""

    options: S3Options

    def __init__(
        self, storage_path: str, max_segment_size: int, skip_prepare: bool = False
    ) -> None:
        # Between Freezer 19's calls, which name a backup and hold no object.
        self._freezer19_pending: dict[Backup, PendingBackup] = {}
        self._freezer19_written: dict[Backup, WrittenBackup] = {}
        super().__init__(storage_path, max_segment_size, skip_prepare)

    @property
    @abc.abstractmethod
    def _bucket(self) -> Bucket: ...

    # Backup and restore

    def write_backup(self, rich_queue: 'RichQueue', backup: Any) -> None:
        """Claim the level and store its stream.

        A failed one is removed by the next run: Freezer 19 discards nothing.
        """
        name = _backup(backup)
        self._freezer19_pending[name] = pending = self.begin(name)
        self._freezer19_written[name] = pending.write(rich_queue.get_messages())

    def put_metadata(
        self,
        engine_metadata_path: str,
        freezer_metadata_path: str,
        backup: Any,
    ) -> None:
        """Commit, with the engine's file and the marker from local files."""
        name = _backup(backup)
        marker = json.loads(Path(freezer_metadata_path).read_bytes())
        self._freezer19_written.pop(name).commit(Path(engine_metadata_path), marker)
        del self._freezer19_pending[name]

    def backup_blocks(self, backup: Any) -> Iterator[Block]:
        return StoredLevel(self, _backup(backup)).stream().blocks()

    # Paths

    def listdir(self, path: str) -> list[str]:
        return sorted(set(self._bucket.list_children(keys.tree_prefix(path))))

    def create_dirs(self, path: str) -> None:
        """Nothing: keys have no directories."""

    def put_file(self, from_path: str, to_path: str) -> None:
        content = Path(from_path).read_bytes()
        self._bucket.put(keys.key_of(to_path), content, ObjectKind.RECORD)

    def get_file(self, from_path: str, to_path: str) -> None:
        Path(to_path).write_bytes(self.read_file(from_path))

    def rmtree(self, path: str) -> None:
        prefix = keys.tree_prefix(path)
        self._bucket.delete([item.key for item in self._bucket.list(prefix)])

    def info(self) -> list[dict[str, Any]]:
        """What the container holds; sizes in bytes."""
        sizes = [size for _path, size in self.list_tree(self.storage_path)]
        return [
            {
                'container_name': self.storage_path,
                'size': sum(sizes),
                'objects_count': len(sizes),
            }
        ]

    # Engines nova and glance, mode cinder

    def get_storage_info(self) -> tuple[str, str]:
        """Bucket and prefix."""
        return keys.bucket_of(self.container), keys.key_of(self.container)

    def get_bucket_name(self) -> str:
        return self.get_storage_info()[0]

    def get_object_prefix(self) -> str:
        return self.get_storage_info()[1]

    def _checked(self, bucket_name: str) -> Bucket:
        if bucket_name != self._bucket.name:
            raise StorageException(
                f'{bucket_name}: this storage is in bucket {self._bucket.name}'
            )
        return self._bucket

    def get_object(self, bucket_name: str, key: str) -> dict[str, Any]:
        """An object of any size: its ``ContentLength`` in bytes, and its ``Body``, a
        file to read from.

        :raises NotFound: there is none
        """
        bucket = self._checked(bucket_name)
        head = bucket.head(key)
        blocks = read_object(bucket, key, head, self.options.at_once)
        return {'Body': as_file(blocks), 'ContentLength': head.size}

    def put_object(self, bucket_name: str, key: str, data: bytes | str) -> None:
        """Write a small object. Atomic: whole or not at all."""
        bucket = self._checked(bucket_name)
        bucket.put(key, six.ensure_binary(data), ObjectKind.RECORD)

    def list_all_objects(self, bucket_name: str, prefix: str) -> list[dict[str, Any]]:
        """``Key`` and ``Size`` of every object whose key starts with the prefix."""
        return [
            {'Key': item.key, 'Size': item.size}
            for item in self._checked(bucket_name).list(prefix)
        ]

    def add_stream(
        self,
        stream: Iterable[Block | str],
        package_name: str,
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        """Store an image as one object, and then its headers beside it, as JSON.

        Their reader knows neither volumes nor manifest. What a failed call has stored
        is removed by the next run.

        :param package_name: ``<volume id>/<timestamp>``; the image is
            ``<volume id>/<timestamp>/<volume id>`` below the container
        :raises StorageException: it is too long for one object
        """
        bucket, plan = self._bucket, self._plan
        folder = keys.key_of(layout.join(self.container, package_name))
        key = layout.join(folder, package_name.rpartition('/')[0])
        marker = layout.join(folder, layout.METADATA)
        entry = self._journal.begin(Place(bucket.endpoint, bucket.name, folder, marker))
        writer = VolumeWriter(bucket, plan, secrets.token_hex(16), entry.add)
        try:
            store_object(writer, key, stream)
            bucket.put(marker, json.dumps(headers).encode(), ObjectKind.RECORD)
        except BaseException:
            entry.keep()
            raise
        finally:
            entry.close()
