"""Disk images as Freezer 19's engines store them: one object, and its headers."""

import json
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from freezer.storage import layout
from freezer.storage._s3.threads import threads
from freezer.storage._s3.transport.bucket import Bucket
from freezer.storage._s3.volumes import UploadPlan, VolumeWriter
from freezer.storage.exceptions import StorageException
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

    Their reader knows neither volumes nor manifest.

    :param entry: of the journal; closed here
    :raises StorageException: it is too long for one object, which is deleted again
    """
    marker = layout.join(key.rpartition('/')[0], layout.METADATA)
    writer = VolumeWriter(bucket, plan, secrets.token_hex(16), entry.add)
    blocks = writer.blocks(stream)
    try:
        with threads(plan.concurrency, 's3-upload') as pool:
            with writer.volume(key, blocks, pool, may_be_empty=True) as volume:
                assert volume is not None
                volume.store()
        if not volume.is_last and blocks.take() is not None:
            bucket.delete([key])
            raise StorageException(
                f'{bucket.url(key)}: is longer than {plan.parts_per_volume} parts of '
                f'{plan.part_size} bytes, and has to be one object: raise '
                f'--max-segment-size'
            )
        bucket.put(marker, json.dumps(headers).encode(), ObjectKind.RECORD)
    except BaseException:
        # The next run removes what was stored.
        entry.keep()
        raise
    finally:
        entry.close()
