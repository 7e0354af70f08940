"""Action check on S3: all probes, in order.

A probe gets the scratch prefix and returns a finding. Where success is expected, it
calls the verbs of a backup. Where a refusal is expected, it evaluates the store's
answer; a missing answer never counts as a refusal.
"""

from collections.abc import Callable, Iterator

from freezer.storage import exceptions as e
from freezer.storage._s3.check import (
    connection,
    listings,
    objects,
    speed,
    uploads,
)
from freezer.storage._s3.check.scratch import ScratchPrefix
from freezer.storage._s3.transport.bucket import Bucket
from freezer.storage._s3.transport.errors import Refusal
from freezer.storage.check import CheckRow, Probe, try_out

#: these must run before anything is written
BEFORE_WRITING = (
    Probe('clock', connection.clock, needed=False),
    Probe('versioning', connection.versioning, needed=False),
    Probe('object lock', connection.object_lock, needed=False),
)

#: these run once an object was written
PROBES = (
    Probe('read', objects.read),
    Probe('empty object', objects.empty),
    Probe('metadata', objects.metadata),
    Probe('list', listings.written),
    Probe('list versions 1, 2', listings.versions),
    Probe('range', objects.ranges),
    Probe('conditional read', objects.conditional_read, needed=False),
    Probe('conditional write', objects.conditional_write, needed=False),
    Probe('delete', objects.delete),
    Probe('multi-delete', objects.multi_delete, needed=False),
    Probe('two-part upload', uploads.if_removable(uploads.two_parts)),
    Probe('locked', uploads.locked, needed=False),
    Probe('part sizes', uploads.if_removable(uploads.unequal_parts), needed=False),
    Probe('part numbers', uploads.part_numbers),
    Probe('abort', uploads.abort),
    Probe('open uploads', uploads.open_uploads, needed=False),
    Probe('checksum MD5', objects.content_md5, needed=False),
    Probe('checksum CRC32', objects.crc32, needed=False),
    Probe('checksum SHA-256', objects.payload_digest, needed=False),
    Probe('odd names', objects.odd_names, needed=False),
    Probe('backslash', objects.backslash, needed=False),
    Probe('double slash', objects.double_slash, needed=False),
    Probe('encryption', connection.encryption, needed=False),
    Probe('round trip', speed.round_trip),
    Probe('upload speed', uploads.if_removable(speed.upload_speed)),
    Probe('download speed', speed.download_speed),
)


def rows(scratch: ScratchPrefix, make_ready: Callable[[], None]) -> Iterator[CheckRow]:
    """Run the check.

    :param make_ready: creates the bucket if it does not exist, as for a backup
    :raises StorageException: the bucket cannot be written to at all
    """
    hook = scratch.bucket.hook
    event = 'before-parameter-build.s3'
    with (
        hook(f'{event}.PutObject', scratch.unlock_soon),
        hook(f'{event}.CreateMultipartUpload', scratch.unlock_soon),
    ):
        yield CheckRow('connection', connection.connection(scratch))
        yield CheckRow('bucket', connection.bucket(scratch, make_ready))
        yield from try_out(BEFORE_WRITING, scratch)
        yield CheckRow('write', objects.write(scratch))
        yield from try_out(PROBES, scratch)


def addressing_style_hint(
    error: e.StorageException,
    bucket: Bucket,
    style: str,
    open_other: Callable[[str], Bucket],
) -> str:
    """Advice to use the other addressing style, if the store answers to that one only.

    :param error: why the check failed
    :param style: the one that ``bucket`` uses
    :param open_other: returns the same bucket with another style; closed here
    """
    other_style = 'virtual' if style == 'path' else 'path'
    if other_style == 'virtual' and isinstance(error, e.Unreachable):
        # A host name of its own for the bucket would not be found either.
        return ''
    other = open_other(other_style)
    try:
        if not _answers(bucket) and _answers(other):
            return f'it answers with --s3-addressing-style {other_style}'
    finally:
        other.close()
    return ''


def _answers(bucket: Bucket) -> bool:
    """Whether the store shows this bucket; one attempt."""
    try:
        return not isinstance(bucket.within(0).probe('head_bucket'), Refusal)
    except e.StorageException:
        return False
