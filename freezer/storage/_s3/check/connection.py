"""Probes of the way to the bucket, and of what the bucket is set to."""

import time
from collections.abc import Callable
from urllib.parse import urlsplit

from freezer.storage._s3.check.scratch import ScratchPrefix
from freezer.storage._s3.transport.errors import Refusal
from freezer.storage.check import Finding, note, ok
from freezer.utils.http_dates import epoch

# A difference from here on is worth a note, in seconds.
_CLOCK_SECONDS = 60


def connection(scratch: ScratchPrefix) -> Finding:
    if urlsplit(scratch.bucket.endpoint).scheme != 'https':
        return note('plain HTTP: traffic is not encrypted', 'an endpoint with https://')
    if scratch.options.insecure:
        return note(
            'https, certificate not checked', '--s3-ca-bundle instead of --insecure'
        )
    return ok('https, certificate checked')


def bucket(scratch: ScratchPrefix, make_ready: Callable[[], None]) -> Finding:
    # Known before it is made, so that an interruption now removes it too.
    scratch.made_bucket = not scratch.bucket.exists()
    make_ready()
    if not scratch.made_bucket:
        return ok('exists')
    return ok('did not exist: created, as a backup creates it, and removed again')


def clock(scratch: ScratchPrefix) -> Finding:
    before = time.time()
    answer = scratch.probe('head_bucket')
    after = time.time()
    if isinstance(answer, Refusal):
        return _unknown(answer)
    theirs = epoch(answer['ResponseMetadata']['HTTPHeaders'].get('date', ''))
    if theirs is None:
        return ok('not reported', None)
    # A Date is cut off to the second.
    offset = theirs + 0.5 - (before + after) / 2
    scratch.clock_offset = offset
    value = round(offset, 1)
    if abs(offset) < 1 + (after - before):
        return ok('that of this machine', value)
    side = 'ahead of' if offset > 0 else 'behind'
    message = f'{abs(offset):.0f} s {side} this machine'
    if abs(offset) < _CLOCK_SECONDS:
        return ok(message, value)
    return note(
        f'{message}; many stores refuse requests from 900 s on',
        "set this machine's clock: backups are named by it",
        value,
    )


def versioning(scratch: ScratchPrefix) -> Finding:
    answer = scratch.probe('get_bucket_versioning')
    if isinstance(answer, Refusal):
        return _unknown(answer)
    status = str(answer.get('Status') or 'off')
    scratch.versioned = status != 'off'
    if status == 'Enabled':
        return note(
            'on: deleted objects go on taking space',
            '--s3-purge-versions, or a lifecycle rule (NoncurrentVersionExpiration)',
            status,
        )
    if status == 'Suspended':
        return note('suspended: old versions may still take space', value=status)
    return ok('off', status)


def object_lock(scratch: ScratchPrefix) -> Finding:
    answer = scratch.probe('get_object_lock_configuration')
    if isinstance(answer, Refusal):
        if answer.code == 'ObjectLockConfigurationNotFoundError':
            return ok('none', 'none')
        return _unknown(answer)
    configuration = answer.get('ObjectLockConfiguration', {})
    retention = configuration.get('Rule', {}).get('DefaultRetention')
    if not retention:
        return ok('possible', 'possible') if configuration else ok('none', 'none')
    scratch.locks = True
    mode = str(retention.get('Mode', 'unknown'))
    years, days = retention.get('Years'), retention.get('Days')
    how_long = f'{years} y' if years else f'{days} d'
    return note(
        f'the bucket locks every object: {mode}, {how_long}; it cannot be removed '
        f'earlier',
        value=mode,
    )


def encryption(scratch: ScratchPrefix) -> Finding:
    answer = scratch.probe('get_bucket_encryption')
    if isinstance(answer, Refusal):
        if answer.code == 'ServerSideEncryptionConfigurationNotFoundError':
            return ok('none by default', 'none')
        return _unknown(answer)
    rules = answer.get('ServerSideEncryptionConfiguration', {}).get('Rules', ())
    defaults = (rule.get('ApplyServerSideEncryptionByDefault', {}) for rule in rules)
    name = next((default.get('SSEAlgorithm') for default in defaults), 'none')
    return ok(f'{name} by default', name)


def _unknown(refused: Refusal) -> Finding:
    return ok(f'not reported: {refused}', None)
