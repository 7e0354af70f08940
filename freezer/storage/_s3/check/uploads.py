"""Probes of multipart uploads."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from freezer.storage._s3.check.objects import token_kept
from freezer.storage._s3.check.scratch import SMALL, ScratchPrefix, difference
from freezer.storage._s3.transport.errors import Refusal
from freezer.storage._s3.transport.multipart import numbered
from freezer.storage.check import Finding, Result, note, ok, problem
from freezer.storage.objects import Sent, Upload

# The smallest part that S3 accepts, but for the last of an object.
_PART = 5 * 2**20


def if_removable(
    run: Callable[[ScratchPrefix], Finding],
) -> Callable[[ScratchPrefix], Finding]:
    """A probe that is skipped if the upload it completes could not be removed.

    Ceph 16.2 ignores the retention that is requested with an upload, and applies the
    bucket's own.
    """

    def run_if_removable(scratch: ScratchPrefix) -> Finding:
        if scratch.locks:
            return note(
                'not tried: the bucket would keep the upload',
                'check a bucket without default retention on the same store',
                value=None,
            )
        return run(scratch)

    return run_if_removable


def two_parts(scratch: ScratchPrefix) -> Finding:
    parts = [os.urandom(_PART), os.urandom(1)]
    upload = scratch.open_upload('two parts')
    bucket = scratch.bucket
    sent = [
        bucket.upload_part(upload, number, part) for number, part in enumerate(parts, 1)
    ]
    whole = b''.join(parts)
    etag = bucket.complete(upload, sent, len(whole), scratch.token)
    scratch.uploads.remove(upload)
    data = bucket.get_range(upload.key, 0, len(whole), etag)
    if data != whole:
        return problem(f'other bytes came back: {difference(whole, data)}')
    finding = token_kept(scratch, bucket.head(upload.key))
    if finding.result is not Result.OK:
        return replace(finding, message=f'the same bytes; metadata {finding.message}')
    return ok('two parts became one object of the same bytes')


def locked(scratch: ScratchPrefix) -> Finding | None:
    """Whether a lock that is requested with an object or an upload takes effect."""
    if not scratch.options.object_lock_mode:
        return None
    lock = scratch.brief_lock()
    answer = scratch.probe_put('locked', SMALL, **lock)
    if isinstance(answer, Refusal):
        return problem(f'refused: {answer}')
    if not _is_locked(scratch, 'locked'):
        return problem('objects are not locked, although this was requested')
    if scratch.locks:
        return ok('objects are locked; uploads, by the bucket')
    answer = _upload_locked(scratch, lock)
    if isinstance(answer, Refusal):
        return problem(f'refused for uploads: {answer}')
    if _is_locked(scratch, 'locked upload'):
        return ok('objects and uploads are locked')
    # Ceph 16.2 locks what is put, and forgets the lock of an upload: the agent locks
    # the object once it is completed.
    retention = {
        'Mode': lock['ObjectLockMode'],
        'RetainUntilDate': lock['ObjectLockRetainUntilDate'],
    }
    scratch.probe('put_object_retention', 'locked upload', Retention=retention)
    if _is_locked(scratch, 'locked upload'):
        return ok('objects are locked, and uploads once they are completed')
    return problem(
        'uploads are not locked, although this was requested',
        'a default retention of the bucket',
    )


def _upload_locked(scratch: ScratchPrefix, lock: dict[str, Any]) -> Any:
    name = 'locked upload'
    answer = scratch.probe('create_multipart_upload', name, **lock)
    if isinstance(answer, Refusal):
        return answer
    upload = Upload(scratch.key(name), answer['UploadId'])
    scratch.uploads.append(upload)
    sent = scratch.bucket.upload_part(upload, 1, SMALL)
    answer = _complete(scratch, upload, name, [sent])
    if not isinstance(answer, Refusal):
        scratch.uploads.remove(upload)
    return answer


def _is_locked(scratch: ScratchPrefix, name: str) -> bool:
    answer = scratch.probe('head_object', name)
    return not isinstance(answer, Refusal) and bool(answer.get('ObjectLockMode'))


def unequal_parts(scratch: ScratchPrefix) -> Finding:
    upload = scratch.open_upload('unequal parts')
    sent = [
        scratch.bucket.upload_part(upload, number, os.urandom(size))
        for number, size in enumerate((_PART, _PART + 1, 1), 1)
    ]
    answer = _complete(scratch, upload, 'unequal parts', sent)
    # Repeated after a lost answer, a store no longer knows the upload.
    if not isinstance(answer, Refusal) or scratch.has('unequal parts'):
        scratch.uploads.remove(upload)
        return ok('parts may be of any size')
    scratch.abort(upload)
    if answer.code == 'NoSuchUpload':
        return note('unknown: an answer was lost', value=None)
    if answer.code == 'InvalidPart':
        return note('all parts but the last must be of one size: those of a backup are')
    return note(f'refused: {answer}; those of a backup are of one size')


def _complete(
    scratch: ScratchPrefix, upload: Upload, name: str, sent: list[Sent]
) -> Any:
    operation, parts = 'complete_multipart_upload', {'Parts': numbered(sent)}
    return scratch.probe(
        operation, name, UploadId=upload.upload_id, MultipartUpload=parts
    )


def part_numbers(scratch: ScratchPrefix) -> Finding:
    most = scratch.options.max_parts
    upload = scratch.open_upload('part numbers')

    def refusal(number: int) -> Refusal | None:
        answer = scratch.probe(
            'upload_part',
            'part numbers',
            UploadId=upload.upload_id,
            PartNumber=number,
            Body=b'x',
        )
        return answer if isinstance(answer, Refusal) else None

    refused = refusal(most)
    if refused is None:
        scratch.abort(upload)
        return ok(f'an upload may have {most}, as --s3-max-parts says', most)
    lower = (number for number in (5000, 1000, 100) if number < most)
    possible = next((number for number in lower if refusal(number) is None), None)
    scratch.abort(upload)
    return problem(
        f'an upload cannot have {most}: {refused}',
        f'--s3-max-parts {possible}' if possible else '--s3-max-parts',
        possible,
    )


def abort(scratch: ScratchPrefix) -> Finding:
    upload = scratch.open_upload('aborted')
    scratch.bucket.upload_part(upload, 1, b'x')
    scratch.abort(upload)
    if scratch.has('aborted'):
        return problem('an aborted upload became an object')
    return ok('an upload can be aborted')


def open_uploads(scratch: ScratchPrefix) -> Finding:
    upload = scratch.open_upload('open')
    listed = _is_listed(scratch, upload)
    scratch.abort(upload)
    if not listed:
        return note(
            'not listed: uploads left by agents on other machines are not found',
            'a lifecycle rule that aborts incomplete uploads',
        )
    if _is_listed(scratch, upload):
        return note('listed, and for some time after they were aborted as well')
    return ok('listed')


def _is_listed(scratch: ScratchPrefix, upload: Upload) -> bool:
    opened = scratch.bucket.list_uploads(upload.key)
    return upload in [each.upload for each in opened]
