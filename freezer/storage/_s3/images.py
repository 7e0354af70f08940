"""Disk images as Freezer 19's engines store them: one object, and its headers."""

import json
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from freezer.storage import layout
from freezer.storage._s3.transport.bucket import Bucket
from freezer.storage._s3.upload import write_object
from freezer.storage._s3.volumes import UploadPlan
from freezer.storage.journal import JournalEntry
from freezer.storage.objects import ObjectKind
from freezer.utils.blocks import Block


def store_image(
    bucket: Bucket,
    stream: Iterable[Block | str],
    key: str,
    headers: Mapping[str, Any] | None,
    plan: UploadPlan,
    entry: JournalEntry,
) -> None:
    """Store a stream as one object, and then its headers beside it, as JSON.

    :param entry: of the journal; closed here
    :raises StorageException: it is too long for one object
    """
    marker = layout.join(key.rpartition('/')[0], layout.METADATA)
    try:
        write_object(bucket, key, plan, secrets.token_hex(16), entry.add, stream)
        bucket.put(marker, json.dumps(headers).encode(), ObjectKind.RECORD)
    except BaseException:
        # The next run removes what was stored.
        entry.keep()
        raise
    finally:
        entry.close()
