"""Old versions of deleted and overwritten keys, in a bucket that keeps them."""

import itertools
from collections.abc import Iterator

from freezer.storage import layout
from freezer.storage._s3.transport.bucket import Bucket
from freezer.storage._s3.transport.listings import Version
from freezer.storage._s3.transport.objects import DELETE_BATCH
from freezer.storage.exceptions import PartialDelete


def old_versions(bucket: Bucket, root: str) -> Iterator[Version]:
    """Versions of the container's keys that are no longer current."""
    for version in bucket.list_versions(root):
        ours = layout.parse(version.key[len(root) :]) is not None
        if ours and not version.is_latest and not version.is_marker:
            yield version


def purge(bucket: Bucket, root: str) -> None:
    """Delete old versions for good, then the delete markers that hide nothing.

    In this order: without its delete marker, a key would reappear.
    """
    _in_batches(bucket, old_versions(bucket, root))
    _in_batches(bucket, _bare_markers(bucket, root))


def _bare_markers(bucket: Bucket, root: str) -> Iterator[Version]:
    """The delete markers that hide no version."""
    versions = bucket.list_versions(root)
    for key, group in itertools.groupby(versions, key=lambda version: version.key):
        if layout.parse(key[len(root) :]) is None:
            continue
        same = list(group)
        bare = all(version.is_marker for version in same)
        yield from (v for v in same if v.is_marker and (bare or not v.is_latest))


def _in_batches(bucket: Bucket, versions: Iterator[Version]) -> None:
    """:raises PartialDelete: some still exist; the others were deleted"""
    failure: PartialDelete | None = None
    while batch := list(itertools.islice(versions, DELETE_BATCH)):
        try:
            bucket.delete_versions(batch)
        except PartialDelete as error:
            failure = failure or error
    if failure is not None:
        raise failure
