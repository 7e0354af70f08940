"""What a check tries: each probe is given the scratch folder and says what it saw.

What is expected to work is done with the verbs of a backup. Where a refusal is
expected the store's answer is taken as it is; that there was no answer is never taken
for a refusal.
"""

import email.utils
import os
import secrets
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from freezer.storage import exceptions as e
from freezer.storage._s3.check.scratch import ScratchPrefix
from freezer.storage._s3.download import read_stream
from freezer.storage._s3.options import S3Options
from freezer.storage._s3.transport.errors import Refusal
from freezer.storage._s3.transport.objects import Head
from freezer.storage._s3.upload import StreamUpload, UploadPlan
from freezer.storage.check import Finding, Probe, Result, note, ok, problem
from freezer.storage.claims import LISTING_DELAYS
from freezer.storage.objects import ObjectKind, Upload

MIB = 1024 * 1024
# The smallest part that S3 has, but for the last of an object.
_PART = 5 * MIB
# Throughput is measured with so much at most.
_LARGEST_PART = 32 * MIB
_ROUND_TRIPS = 9
# From here on it is worth a note, in seconds.
_SLOW_SECONDS = 0.5
_CLOCK_SECONDS = 60

_SMALL = b'What a check of the storage wrote; it can be deleted.\n'


# The way there


def connection(scratch: ScratchPrefix) -> Finding:
    scheme = urlsplit(scratch.bucket.endpoint).scheme
    if scheme != 'https':
        return note(
            'http: who is in between can read everything', 'an endpoint with https://'
        )
    if scratch.options.insecure:
        return note(
            'https; who the server is, is not checked',
            '--s3-ca-bundle in place of --insecure',
        )
    return ok('https, certificate checked')


def bucket(scratch: ScratchPrefix, make_ready: Callable[[], None]) -> Finding:
    # Known before it is made: who is interrupted now removes it too.
    scratch.made_bucket = not scratch.bucket.exists()
    make_ready()
    if not scratch.made_bucket:
        return ok('there')
    return ok('was not there: made, as a backup makes it, and removed again')


def _clock(scratch: ScratchPrefix) -> Finding:
    before = time.time()
    answer = scratch.probe('head_bucket')
    after = time.time()
    if isinstance(answer, Refusal):
        return _not_told(answer)
    try:
        date = answer['ResponseMetadata']['HTTPHeaders']['date']
        theirs = email.utils.parsedate_to_datetime(date).timestamp()
    except (KeyError, ValueError):
        return ok('not told', None)
    # A Date is cut off to the second.
    offset = theirs + 0.5 - (before + after) / 2
    scratch.clock_offset = offset
    if abs(offset) < 1 + (after - before):
        return ok('that of this machine', round(offset, 1))
    message = (
        f'{abs(offset):.0f} s {"ahead of" if offset > 0 else "behind"} this machine'
    )
    if abs(offset) < _CLOCK_SECONDS:
        return ok(message, round(offset, 1))
    return note(
        f'{message}; many stores refuse requests from 900 s on',
        "set this machine's clock: backups are named by it",
        round(offset, 1),
    )


# What the bucket is set to, as far as it has to be known first


def _versioning(scratch: ScratchPrefix) -> Finding:
    answer = scratch.probe('get_bucket_versioning')
    if isinstance(answer, Refusal):
        return _not_told(answer)
    status = str(answer.get('Status') or 'off')
    scratch.versioned = status != 'off'
    if status == 'Enabled':
        return note(
            'on: what is deleted goes on taking space',
            '--s3-purge-versions, or a lifecycle rule (NoncurrentVersionExpiration)',
            status,
        )
    if status == 'Suspended':
        return note('suspended: old versions may still take space', value=status)
    return ok('off', status)


def _object_lock(scratch: ScratchPrefix) -> Finding:
    answer = scratch.probe('get_object_lock_configuration')
    if isinstance(answer, Refusal):
        if answer.code == 'ObjectLockConfigurationNotFoundError':
            return ok('none', 'none')
        return _not_told(answer)
    configuration = answer.get('ObjectLockConfiguration', {})
    retention = configuration.get('Rule', {}).get('DefaultRetention')
    if not retention:
        return ok('possible', 'possible') if configuration else ok('none', 'none')
    scratch.locks = True
    mode = str(retention.get('Mode', 'unknown'))
    years, days = retention.get('Years'), retention.get('Days')
    how_long = f'{years} y' if years else f'{days} d'
    return note(
        f'the bucket locks what is written: {mode}, {how_long}; it cannot be removed '
        f'before',
        value=mode,
    )


# Small objects


def write(scratch: ScratchPrefix) -> Finding:
    scratch.wrote = True
    try:
        key = scratch.key('small')
        scratch.bucket.put(key, _SMALL, ObjectKind.RECORD, scratch.token)
    except e.StorageException as error:
        # Refused, there is nothing to clean up.
        scratch.wrote = error.temporary
        if not scratch.locks:
            raise
        raise type(error)(
            f'{error.message}; this bucket locks objects: that may need --s3-checksum '
            f'crc32, and the right to put a shorter retention (s3:PutObjectRetention), '
            f'without which the check could not remove what it writes'
        ) from error
    return ok('an object was written')


def _read(scratch: ScratchPrefix) -> Finding:
    content = scratch.get('small')
    if content != _SMALL:
        return problem(f'other bytes came back: {_difference(_SMALL, content)}')
    return ok('the same bytes came back')


def _empty(scratch: ScratchPrefix) -> Finding:
    scratch.put('empty', b'')
    return problem('has bytes') if scratch.get('empty') else ok('kept')


def _metadata(scratch: ScratchPrefix) -> Finding:
    head = scratch.bucket.head(scratch.key('small'))
    if head.size != len(_SMALL):
        return problem(f'the size told is {head.size}, not {len(_SMALL)}')
    return _of_token(scratch, head)


def _of_token(scratch: ScratchPrefix, head: Head) -> Finding:
    if head.token == scratch.token:
        return ok('kept')
    return note(
        'lost: an upload whose last answer is lost cannot be recognised, and fails'
    )


def _list(scratch: ScratchPrefix) -> Finding:
    key = scratch.key('small')
    waited = 0.0
    for delay in LISTING_DELAYS:
        time.sleep(delay)
        waited += delay
        sizes = {item.key: item.size for item in scratch.bucket.list(key)}
        if key in sizes:
            break
    else:
        return problem(f'what was written is not listed after {waited:g} s')
    scratch.listed_late = waited
    if sizes[key] != len(_SMALL):
        return problem(f'the size listed is {sizes[key]}, not {len(_SMALL)}')
    if waited:
        return note(f'what was written is listed after {waited:g} s')
    return ok('what was written is listed at once')


def _list_versions(scratch: ScratchPrefix) -> Finding:
    """Both of them, in pages of two: a listing that ends early hides backups."""
    names = [f'paged/{number}' for number in range(5)]
    for name in names:
        scratch.put(name, b'')
    expected = [scratch.key(name) for name in names]
    wrong = {
        version: why
        for version in (1, 2)
        if (why := _listing_wrong(scratch, version, expected))
    }
    used = scratch.options.list_version
    other = 3 - used
    if used in wrong:
        hint = '' if other in wrong else f'--s3-list-version {other}'
        return problem(f'version {used}, which is used: {wrong[used]}', hint)
    if other in wrong:
        return note(f'version {used} works; version {other}: {wrong[other]}')
    return ok('both, page by page')


def _listing_wrong(scratch: ScratchPrefix, version: int, expected: list[str]) -> str:
    """What is wrong with a listing; empty if nothing is."""

    def shorten(params: dict[str, Any], **_event: Any) -> None:
        params['MaxKeys'] = 2

    operation = 'ListObjects' if version == 1 else 'ListObjectsV2'
    bucket = scratch.bucket.listing_with(version)
    try:
        with bucket.hook(f'before-parameter-build.s3.{operation}', shorten):
            found = [item.key for item in bucket.list(scratch.key('paged/'))]
    except e.Unreachable:
        raise
    except e.StorageException as error:
        return error.message
    if sorted(found) != expected:
        return f'{len(found)} keys, not the {len(expected)} that are there'
    return ''


_RANGED = bytes(range(256)) * 8


def _range(scratch: ScratchPrefix) -> Finding:
    key = scratch.key('ranged')
    etag = scratch.put('ranged', _RANGED)
    for start, end in ((0, 1), (300, 1701), (2047, 2048)):
        data = scratch.bucket.get_range(key, start, end, etag)
        if data != _RANGED[start:end]:
            different = _difference(_RANGED[start:end], data)
            return problem(f'bytes {start} to {end - 1} came wrong: {different}')
    return ok('the bytes that were asked for, of the object that was asked for')


def _conditional_read(scratch: ScratchPrefix) -> Finding:
    answer = scratch.probe('get_object', 'small', IfMatch='"00000000000000000000"')
    if isinstance(answer, Refusal):
        if answer.status == 412:
            return ok('a read of a replaced object is refused')
        return note(f'If-Match is not known: {answer}')
    answer['Body'].close()
    return note('If-Match is ignored; the agent compares the ETag of each answer')


def _conditional_write(scratch: ScratchPrefix) -> Finding:
    """By its meaning: a store that does not know the header may well take it."""
    first = scratch.probe_put('condition', b'first', IfNoneMatch='*')
    if isinstance(first, Refusal) and not scratch.has('condition'):
        if first.status == 412:
            return problem('If-None-Match: refused where there was nothing')
        return note(f'If-None-Match is not known: {first}; the agent lists instead')
    second = scratch.probe_put('condition', b'second', IfNoneMatch='*')
    if not isinstance(second, Refusal):
        return note('If-None-Match is ignored; the agent lists instead')
    if scratch.get('condition') != b'first':
        return problem('If-None-Match: a write that was refused was done')
    return ok('a second write is refused')


# Deleting


def _delete(scratch: ScratchPrefix) -> Finding:
    key = scratch.key('deleted')
    scratch.put('deleted', _SMALL)
    scratch.bucket.delete([key])
    if scratch.has('deleted'):
        return problem('what was deleted is still there')
    waited = 0.0
    for delay in LISTING_DELAYS:
        time.sleep(delay)
        waited += delay
        if key not in scratch.listed('deleted'):
            break
    else:
        return problem(f'what was deleted is still listed after {waited:g} s')
    if waited:
        return note(f'what was deleted is listed for {waited:g} s more')
    return ok('gone, and no longer listed')


def _multi_delete(scratch: ScratchPrefix) -> Finding:
    names = ('several/1', 'several/2')
    for name in names:
        scratch.put(name, b'')
    request = {'Objects': [{'Key': scratch.key(name)} for name in names]}
    answer = scratch.probe('delete_objects', Delete=request)
    if isinstance(answer, Refusal):
        return note(f'refused: {answer}; the agent deletes one by one')
    if answer.get('Errors'):
        code = answer['Errors'][0].get('Code')
        return problem(f'what may be deleted alone is refused: {code}')
    if any(scratch.has(name) for name in names):
        return problem('said to be deleted, and is there')
    return ok('several objects with one request')


# Multipart uploads


def _if_removable(
    run: Callable[[ScratchPrefix], Finding],
) -> Callable[[ScratchPrefix], Finding]:
    """A probe that is left out where the upload it completes could not be removed.

    Ceph 16.2 takes the retention that is asked for with an upload for none, and gives
    it the bucket's own.
    """

    def run_if_removable(scratch: ScratchPrefix) -> Finding:
        if scratch.locks:
            return note(
                'not tried: the bucket would keep the upload',
                'a check of a bucket that locks nothing, on the same store',
                value=None,
            )
        return run(scratch)

    return run_if_removable


def _two_parts(scratch: ScratchPrefix) -> Finding:
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
        return problem(f'other bytes came back: {_difference(whole, data)}')
    finding = _of_token(scratch, bucket.head(upload.key))
    if finding.result is not Result.OK:
        return replace(finding, message=f'the same bytes; metadata {finding.message}')
    return ok('two parts became one object of the same bytes')


def _locked(scratch: ScratchPrefix) -> Finding | None:
    """Whether what is asked for with an object or an upload becomes a lock."""
    if not scratch.options.object_lock_mode:
        return None
    lock = scratch.brief_lock()
    answer = scratch.probe_put('locked', _SMALL, **lock)
    if isinstance(answer, Refusal):
        return problem(f'refused: {answer}')
    if not _is_locked(scratch, 'locked'):
        return problem('objects are not locked, although it is asked for')
    if scratch.locks:
        return ok('objects are locked; uploads, by the bucket')
    answer = _upload_locked(scratch, lock)
    if isinstance(answer, Refusal):
        return problem(f'refused for uploads: {answer}')
    if _is_locked(scratch, 'locked upload'):
        return ok('objects and uploads are locked')
    # Ceph 16.2 locks what is put, and forgets the lock of an upload: the agent puts it
    # on what came of the upload.
    retention = {
        'Mode': lock['ObjectLockMode'],
        'RetainUntilDate': lock['ObjectLockRetainUntilDate'],
    }
    scratch.probe('put_object_retention', 'locked upload', Retention=retention)
    if _is_locked(scratch, 'locked upload'):
        return ok('objects are locked, and uploads once they are completed')
    return problem(
        'uploads are not locked, although it is asked for',
        'a default retention of the bucket',
    )


def _upload_locked(scratch: ScratchPrefix, lock: dict[str, Any]) -> Any:
    name = 'locked upload'
    answer = scratch.probe('create_multipart_upload', name, **lock)
    if isinstance(answer, Refusal):
        return answer
    upload = Upload(scratch.key(name), answer['UploadId'])
    scratch.uploads.append(upload)
    sent = scratch.bucket.upload_part(upload, 1, _SMALL)
    part = {'PartNumber': 1, 'ETag': sent.etag, **sent.checksum}
    answer = scratch.probe(
        'complete_multipart_upload',
        name,
        UploadId=upload.upload_id,
        MultipartUpload={'Parts': [part]},
    )
    if not isinstance(answer, Refusal):
        scratch.uploads.remove(upload)
    return answer


def _is_locked(scratch: ScratchPrefix, name: str) -> bool:
    answer = scratch.probe('head_object', name)
    return not isinstance(answer, Refusal) and bool(answer.get('ObjectLockMode'))


def _unequal_parts(scratch: ScratchPrefix) -> Finding:
    sizes = (_PART, _PART + 1, 1)
    upload = scratch.open_upload('unequal parts')
    parts = []
    for number, size in enumerate(sizes, 1):
        sent = scratch.bucket.upload_part(upload, number, os.urandom(size))
        parts.append({'PartNumber': number, 'ETag': sent.etag, **sent.checksum})
    answer = scratch.probe(
        'complete_multipart_upload',
        'unequal parts',
        UploadId=upload.upload_id,
        MultipartUpload={'Parts': parts},
    )
    # Asked again after an answer that was lost, a store no longer knows the upload.
    if not isinstance(answer, Refusal) or scratch.has('unequal parts'):
        scratch.uploads.remove(upload)
        return ok('parts may be of any size')
    scratch.abort(upload)
    if answer.code == 'NoSuchUpload':
        return note('not found out: an answer was lost', value=None)
    if answer.code == 'InvalidPart':
        return note('all parts but the last must be of one size: those of a backup are')
    return note(f'refused: {answer}; those of a backup are of one size')


def _part_numbers(scratch: ScratchPrefix) -> Finding:
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


def _abort(scratch: ScratchPrefix) -> Finding:
    upload = scratch.open_upload('aborted')
    scratch.bucket.upload_part(upload, 1, b'x')
    scratch.abort(upload)
    if scratch.has('aborted'):
        return problem('an upload that was aborted became an object')
    return ok('an upload can be given up')


def _open_uploads(scratch: ScratchPrefix) -> Finding:
    upload = scratch.open_upload('open')
    listed = _is_listed(scratch, upload)
    scratch.abort(upload)
    if not listed:
        return note(
            'not listed: what agents leave on machines that are gone is not found',
            'a lifecycle rule that ends unfinished uploads',
        )
    if _is_listed(scratch, upload):
        return note('listed, and for some time after they were aborted as well')
    return ok('listed')


def _is_listed(scratch: ScratchPrefix, upload: Upload) -> bool:
    opened = scratch.bucket.list_uploads(upload.key)
    return upload in [each.upload for each in opened]


# Checksums


def _content_md5(scratch: ScratchPrefix) -> Finding:
    return _checksum(scratch, 'ContentMD5', '1B2M2Y8AsgTpgAmY7PhCfg==')


def _crc32(scratch: ScratchPrefix) -> Finding:
    finding = _checksum(scratch, 'ChecksumCRC32', 'AAAAAA==')
    scratch.crc32_checked = finding.result is Result.OK
    return finding


def _checksum(scratch: ScratchPrefix, header: str, of_nothing: str) -> Finding:
    """The checksum of no bytes: right of an empty object, wrong of any other."""
    right = scratch.probe_put(f'right {header}', b'', **{header: of_nothing})
    if isinstance(right, Refusal):
        return note(f'refused: {right}', '--s3-checksum none')
    wrong = scratch.probe_put(f'wrong {header}', _SMALL, **{header: of_nothing})
    if isinstance(wrong, Refusal):
        return ok(f'checked: a wrong one is refused ({wrong.code})')
    return note('not checked: a wrong one is taken')


def _payload_digest(scratch: ScratchPrefix) -> Finding:
    """A byte changes after the request was signed, as on a bad line."""

    def change(request: Any, **_kwargs: Any) -> None:
        request.body = b'X' + _SMALL[1:]

    with scratch.bucket.hook('before-send.s3.PutObject', change):
        answer = scratch.probe_put('wrong payload', _SMALL)
    if isinstance(answer, Refusal):
        return ok(f'checked: a byte changed on the way is refused ({answer.code})')
    return note(
        'not checked: a byte changed on the way is stored, and found on restore',
        '--s3-checksum crc32' if scratch.crc32_checked else '',
    )


# Names


def _odd_names(scratch: ScratchPrefix) -> Finding:
    odd = {'space': 'a b', '+': 'a+b', '%': 'a%20b', 'ü': 'für', '&': 'a&<b>'}
    lost = [shown for shown, name in odd.items() if _becomes(scratch, name)]
    if lost:
        return note(f'not kept: {" ".join(lost)}', 'a --backup-name without them')
    return ok(f'kept: {" ".join(odd)}')


def _backslash(scratch: ScratchPrefix) -> Finding:
    became = _becomes(scratch, 'back\\slash')
    return note(became, 'a --backup-name without it') if became else ok('kept')


def _double_slash(scratch: ScratchPrefix) -> Finding:
    became = _becomes(scratch, 'double//slash')
    return note(f'{became}; the agent makes none') if became else ok('kept')


def _becomes(scratch: ScratchPrefix, name: str) -> str:
    """What becomes of an object with that name; empty if it is kept as it is."""
    # The folder's name is the same, whatever becomes of the rest.
    folder = f'odd/{secrets.token_hex(4)}/'
    content = name.encode()
    answer = scratch.probe_put(folder + name, content)
    if isinstance(answer, Refusal):
        return f'refused: {answer}'
    prefix = scratch.key(folder)
    listed = [key.removeprefix(prefix) for key in scratch.listed(folder)]
    if listed != [name]:
        return f'becomes {" and ".join(listed)}' if listed else 'is not listed'
    if scratch.get(folder + name) != content:
        return 'other bytes came back'
    return ''


# What the bucket is set to


def _encryption(scratch: ScratchPrefix) -> Finding:
    answer = scratch.probe('get_bucket_encryption')
    if isinstance(answer, Refusal):
        if answer.code == 'ServerSideEncryptionConfigurationNotFoundError':
            return ok('none by default', 'none')
        return _not_told(answer)
    rules = answer.get('ServerSideEncryptionConfiguration', {}).get('Rules', ())
    defaults = (rule.get('ApplyServerSideEncryptionByDefault', {}) for rule in rules)
    name = next((default.get('SSEAlgorithm') for default in defaults), 'none')
    return ok(f'{name} by default', name)


def _not_told(refused: Refusal) -> Finding:
    return ok(f'not told: {refused}', None)


# How fast


def _round_trip(scratch: ScratchPrefix) -> Finding:
    key = scratch.key('small')
    seconds = statistics.median(
        _seconds(partial(scratch.bucket.head, key)) for _ in range(_ROUND_TRIPS)
    )
    message = f'{seconds * 1000:.1f} ms'
    if seconds > _SLOW_SECONDS:
        hint = f'more than {scratch.plan.concurrency} with --s3-concurrency'
        return note(message, hint, seconds)
    return ok(message, seconds)


def _upload_speed(scratch: ScratchPrefix) -> Finding:
    plan = replace(scratch.plan, part_size=min(scratch.plan.part_size, _LARGEST_PART))
    count = min(max(plan.concurrency, 2), S3Options().at_once(plan.part_size))
    noise = os.urandom(plan.part_size - 1)

    def parts() -> Iterator[bytes]:
        for number in range(count):
            yield bytes([number])
            yield noise

    def send() -> None:
        upload = StreamUpload(
            scratch.bucket,
            scratch.key('stream'),
            plan,
            scratch.token,
            opened=scratch.uploads.append,
        )
        scratch.stream = upload.write(parts())
        scratch.uploads.clear()

    return _speed(_seconds(send), count * plan.part_size, plan)


def _download_speed(scratch: ScratchPrefix) -> Finding:
    stream = scratch.stream
    if stream is None:
        return note('not tried: there was no upload', value=None)
    size = 0

    def fetch() -> None:
        nonlocal size
        key = scratch.key('stream')
        at_once = scratch.options.at_once
        for block in read_stream(scratch.bucket, key, stream, at_once):
            size += len(block)

    seconds = _seconds(fetch)
    if size != stream.size:
        return problem(f'{size} bytes came back, not {stream.size}')
    return _speed(seconds, size, scratch.plan)


def _speed(seconds: float, size: int, plan: UploadPlan) -> Finding:
    rate = size / seconds
    return ok(
        f'{rate / MIB:.1f} MiB/s: {size / MIB:.0f} MiB, {plan.concurrency} at once',
        round(rate),
    )


def _seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def _difference(expected: bytes, found: bytes | bytearray | memoryview) -> str:
    if len(expected) != len(found):
        return f'{len(found)} bytes, not {len(expected)}'
    pairs = enumerate(zip(expected, found, strict=True))
    return f'from byte {next(n for n, (a, b) in pairs if a != b)} on'


#: what has to be known before anything is written
BEFORE_WRITING = (
    Probe('clock', _clock, needed=False),
    Probe('versioning', _versioning, needed=False),
    Probe('object lock', _object_lock, needed=False),
)

#: what is tried once an object was written; name, act, and whether a backup needs it
PROBES = (
    Probe('read', _read),
    Probe('empty object', _empty),
    Probe('metadata', _metadata),
    Probe('list', _list),
    Probe('list versions 1, 2', _list_versions),
    Probe('range', _range),
    Probe('conditional read', _conditional_read, needed=False),
    Probe('conditional write', _conditional_write, needed=False),
    Probe('delete', _delete),
    Probe('multi-delete', _multi_delete, needed=False),
    Probe('two-part upload', _if_removable(_two_parts)),
    Probe('locked', _locked, needed=False),
    Probe('part sizes', _if_removable(_unequal_parts), needed=False),
    Probe('part numbers', _part_numbers),
    Probe('abort', _abort),
    Probe('open uploads', _open_uploads, needed=False),
    Probe('checksum MD5', _content_md5, needed=False),
    Probe('checksum CRC32', _crc32, needed=False),
    Probe('checksum SHA-256', _payload_digest, needed=False),
    Probe('odd names', _odd_names, needed=False),
    Probe('backslash', _backslash, needed=False),
    Probe('double slash', _double_slash, needed=False),
    Probe('encryption', _encryption, needed=False),
    Probe('round trip', _round_trip),
    Probe('upload speed', _if_removable(_upload_speed)),
    Probe('download speed', _download_speed),
)
