"""Action check on S3: tries everything, and removes all of it.

A probe gets the scratch prefix and returns what it found. What is expected to work uses
the verbs of a backup. Where a refusal is expected, the store's answer is taken as it
is; no answer never counts as a refusal.
"""

from collections.abc import Callable

from freezer.storage import exceptions as e
from freezer.storage._s3.check import (
    checksums,
    connection,
    listings,
    names,
    objects,
    speed,
    uploads,
)
from freezer.storage._s3.check.scratch import ScratchPrefix
from freezer.storage._s3.transport.bucket import Bucket
from freezer.storage._s3.transport.errors import Refusal
from freezer.storage.check import CheckRow, Probe, Result, try_out
from freezer.utils.text import NOTICES

#: what has to be known before anything is written
BEFORE_WRITING = (
    Probe('clock', connection.clock, needed=False),
    Probe('versioning', connection.versioning, needed=False),
    Probe('object lock', connection.object_lock, needed=False),
)

#: what is tried once an object was written
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
    Probe('checksum MD5', checksums.content_md5, needed=False),
    Probe('checksum CRC32', checksums.crc32, needed=False),
    Probe('checksum SHA-256', checksums.payload_digest, needed=False),
    Probe('odd names', names.odd_names, needed=False),
    Probe('backslash', names.backslash, needed=False),
    Probe('double slash', names.double_slash, needed=False),
    Probe('encryption', connection.encryption, needed=False),
    Probe('round trip', speed.round_trip),
    Probe('upload speed', uploads.if_removable(speed.upload_speed)),
    Probe('download speed', speed.download_speed),
)


def check(
    scratch: ScratchPrefix, make_ready: Callable[[], None]
) -> tuple[CheckRow, ...]:
    """Try everything; the last row says what remains.

    :param make_ready: creates the bucket if it does not exist, as for a backup
    :raises StorageException: the bucket cannot be written to at all
    """
    hook = scratch.bucket.hook
    event = 'before-parameter-build.s3'
    try:
        with (
            hook(f'{event}.PutObject', scratch.unlock_soon),
            hook(f'{event}.CreateMultipartUpload', scratch.unlock_soon),
        ):
            rows = [
                CheckRow('connection', connection.connection(scratch)),
                CheckRow('bucket', connection.bucket(scratch, make_ready)),
            ]
            rows += try_out(BEFORE_WRITING, scratch)
            rows.append(CheckRow('write', objects.write(scratch)))
            rows += try_out(PROBES, scratch)
        rows.append(CheckRow('clean-up', scratch.clean_up()))
    except BaseException:
        # Also after a signal, even one that came during the clean-up.
        left = scratch.clean_up()
        if left.result is not Result.OK:
            NOTICES.warning('%s', left.message)
        raise
    return tuple(rows)


def addressing_style_hint(
    error: e.StorageException,
    bucket: Bucket,
    style: str,
    open_other: Callable[[str], Bucket],
) -> str:
    """Names the addressing style that the store answers to, if it is the other one.

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
