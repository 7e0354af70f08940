"""Adds an index to a level that is committed."""

import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freezer.storage import manifest
from freezer.storage.backup import (
    StoredLevel,
    check_marker,
    level_removed,
    marker_replaced,
)
from freezer.storage.exceptions import BucketNotFound, Conflict, NotFound, Rejected
from freezer.storage.index_file import OutgoingIndex
from freezer.storage.journal import Journal, Place
from freezer.storage.object_backups import keys
from freezer.storage.object_backups.read_probe import ReadProbe
from freezer.storage.object_backups.upload import confirm_object, store_object
from freezer.storage.object_backups.volumes import UploadPlan, VolumeWriter
from freezer.storage.objects import BackupStore, ObjectKind


def add_index(
    bucket: BackupStore,
    stored: StoredLevel,
    index: Path,
    marker: Mapping[str, Any],
    plan: UploadPlan,
    journal: Journal,
) -> None:
    """See :meth:`freezer.storage.base.Storage.add_index`."""
    folder, key, index_key = (
        keys.key_of(path)
        for path in (stored.paths.folder, stored.paths.marker, stored.paths.index)
    )
    etag = _check(bucket, stored, key)
    outgoing = OutgoingIndex(index)
    entry = journal.begin(Place(bucket.endpoint, bucket.name, folder, key))
    token = secrets.token_hex(16)
    writer = VolumeWriter(bucket, plan, token, entry.add, kind=ObjectKind.RECORD)
    try:
        written = store_object(writer, index_key, outgoing.blocks())
        confirm_object(bucket, written, token, ReadProbe())
        record = outgoing.record.dump()
        document = manifest.indexed_marker(stored.marker, marker, record)
        if not _replace(bucket, key, document, etag):
            bucket.delete([index_key])
            raise level_removed(stored)
        (first, *_others) = stored.streams.values()
        if not bucket.has(keys.key_of(first.paths.data)):
            # The store ignores the condition, and has a marker without data now.
            bucket.delete([key, index_key])
            raise level_removed(stored)
    finally:
        if writer.left_behind:
            entry.keep()
        entry.close()


def _replace(bucket: BackupStore, key: str, document: bytes, etag: str) -> bool:
    """Replace the marker; False if it was deleted meanwhile."""
    try:
        bucket.replace(key, document, ObjectKind.RECORD, etag)
    except BucketNotFound:
        raise
    except NotFound:
        return False
    except Conflict as error:
        # Some stores refuse the condition like this for a missing object, too.
        if bucket.has(key):
            raise marker_replaced(bucket.where(key)) from error
        return False
    return True


def _check(bucket: BackupStore, stored: StoredLevel, key: str) -> str:
    """Check that the marker is still there, is the same, and may be replaced.

    :returns: its ETag
    """
    try:
        head = bucket.head(key)
        document = bucket.get_range(key, 0, head.size, head.etag or None)
    except NotFound as error:
        raise level_removed(stored) from error
    check_marker(stored, bytes(document))
    if head.legal_hold or (head.locked_until or 0) > time.time():
        raise Rejected(
            f'{bucket.where(key)} is locked: an index can be added to this backup when '
            f'its lock has ended'
        )
    return head.etag
