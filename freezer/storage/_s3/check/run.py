"""Action check on S3: everything is tried out, and nothing of it remains."""

from collections.abc import Callable

from freezer.storage import exceptions as e
from freezer.storage._s3.check import probes
from freezer.storage._s3.check.scratch import ScratchPrefix
from freezer.storage._s3.transport.bucket import Bucket
from freezer.storage._s3.transport.errors import Refusal
from freezer.storage.check import CheckRow, Result, try_out
from freezer.utils.text import NOTICES

# How long a probe may go on asking a store that fails, in seconds.
PROBE_SECONDS = 15.0


def check(
    scratch: ScratchPrefix, make_ready: Callable[[], None]
) -> tuple[CheckRow, ...]:
    """Try everything out; the last row says what remains.

    :param make_ready: makes the bucket if it is not there, as for a backup
    :raises StorageException: the bucket cannot be written to at all
    """
    bucket = scratch.bucket
    event = 'before-parameter-build.s3'
    try:
        with (
            bucket.at_most(PROBE_SECONDS),
            bucket.hook(f'{event}.PutObject', scratch.unlock_soon),
            bucket.hook(f'{event}.CreateMultipartUpload', scratch.unlock_soon),
        ):
            rows = [
                CheckRow('connection', probes.connection(scratch)),
                CheckRow('bucket', probes.bucket(scratch, make_ready)),
            ]
            rows += try_out(probes.BEFORE_WRITING, scratch)
            rows.append(CheckRow('write', probes.write(scratch)))
            rows += try_out(probes.PROBES, scratch)
        rows.append(CheckRow('clean-up', scratch.clean_up()))
    except BaseException:
        # Also of a signal, even one that came while it was cleaned up.
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
    """Names the addressing style to which the store answers, if it is the other one.

    :param error: what came of the check
    :param style: the one that ``bucket`` is addressed by
    :param open_other: the same bucket, addressed by another style; closed here
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
    """Whether the store shows this bucket; asked once."""
    try:
        with bucket.at_most(0):
            return not isinstance(bucket.probe('head_bucket'), Refusal)
    except e.StorageException:
        return False
