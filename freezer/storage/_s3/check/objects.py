"""Probes of single objects: reads, writes, conditions, deletes, names, checksums."""

import secrets
import time
from collections.abc import Callable
from typing import Any

from freezer.storage import exceptions as e
from freezer.storage._s3.check.scratch import SMALL, ScratchPrefix, difference
from freezer.storage._s3.transport.errors import Refusal
from freezer.storage.check import Finding, Result, note, ok, problem
from freezer.storage.claims import LISTING_DELAYS
from freezer.storage.objects import Head, ObjectKind

RANGED = bytes(range(256)) * 8


def write(scratch: ScratchPrefix) -> Finding:
    scratch.wrote = True
    try:
        key = scratch.key('small')
        scratch.bucket.put(key, SMALL, ObjectKind.RECORD, scratch.token)
    except e.StorageException as error:
        # If it was refused, there is nothing to clean up.
        scratch.wrote = error.temporary
        if not scratch.locks:
            raise
        raise type(error)(
            f'{error.message}; this bucket locks objects: that may need --s3-checksum '
            f'crc32, and the right to put a shorter retention (s3:PutObjectRetention), '
            f'without which the check could not remove what it writes'
        ) from error
    return ok('an object was written')


def read(scratch: ScratchPrefix) -> Finding:
    content = scratch.get('small')
    if content != SMALL:
        return problem(f'other bytes came back: {difference(SMALL, content)}')
    return ok('the same bytes came back')


def empty(scratch: ScratchPrefix) -> Finding:
    scratch.put('empty', b'')
    return problem('has bytes') if scratch.get('empty') else ok('kept')


def metadata(scratch: ScratchPrefix) -> Finding:
    head = scratch.bucket.head(scratch.key('small'))
    if head.size != len(SMALL):
        return problem(f'the reported size is {head.size}, not {len(SMALL)}')
    return token_kept(scratch, head)


def token_kept(scratch: ScratchPrefix, head: Head) -> Finding:
    if head.token == scratch.token:
        return ok('kept')
    return note(
        'lost: an upload whose last answer is lost cannot be recognised, and fails'
    )


def ranges(scratch: ScratchPrefix) -> Finding:
    key = scratch.key('ranged')
    etag = scratch.put('ranged', RANGED)
    for start, end in ((0, 1), (300, 1701), (2047, 2048)):
        data = scratch.bucket.get_range(key, start, end, etag)
        if data != RANGED[start:end]:
            different = difference(RANGED[start:end], data)
            return problem(f'bytes {start} to {end - 1} are wrong: {different}')
    return ok('the requested bytes, of the requested object')


def conditional_read(scratch: ScratchPrefix) -> Finding:
    answer = scratch.probe('get_object', 'small', IfMatch='"00000000000000000000"')
    if isinstance(answer, Refusal):
        if answer.status == 412:
            return ok('a read of a replaced object is refused')
        return note(f'If-Match is not known: {answer}')
    answer['Body'].close()
    return note('If-Match is ignored; the agent compares the ETag of each answer')


def conditional_write(scratch: ScratchPrefix) -> Finding:
    """Judged by the effect: a store may accept a header that it does not know."""
    first = scratch.probe_put('condition', b'first', IfNoneMatch='*')
    if isinstance(first, Refusal) and not scratch.has('condition'):
        if first.status == 412:
            return problem('If-None-Match: refused where there was nothing')
        return note(f'If-None-Match is not known: {first}; the agent lists instead')
    second = scratch.probe_put('condition', b'second', IfNoneMatch='*')
    if not isinstance(second, Refusal):
        return note('If-None-Match is ignored; the agent lists instead')
    if scratch.get('condition') != b'first':
        return problem('If-None-Match: a refused write took effect')
    return ok('a second write is refused')


def delete(scratch: ScratchPrefix) -> Finding:
    key = scratch.key('deleted')
    scratch.put('deleted', SMALL)
    scratch.bucket.delete([key])
    if scratch.has('deleted'):
        return problem('a deleted object still exists')
    waited = wait_until(lambda: key not in scratch.listed('deleted'))
    if waited is None:
        most = sum(LISTING_DELAYS)
        return problem(f'a deleted object is still listed after {most:g} s')
    if waited:
        return note(f'a deleted object is listed for {waited:g} s more')
    return ok('gone, and no longer listed')


def multi_delete(scratch: ScratchPrefix) -> Finding:
    names = ('several/1', 'several/2')
    for name in names:
        scratch.put(name, b'')
    request = {'Objects': [{'Key': scratch.key(name)} for name in names]}
    answer = scratch.probe('delete_objects', Delete=request)
    if isinstance(answer, Refusal):
        return note(f'refused: {answer}; the agent deletes one by one')
    if answer.get('Errors'):
        code = answer['Errors'][0].get('Code')
        return problem(f'objects that can be deleted singly are refused: {code}')
    if any(scratch.has(name) for name in names):
        return problem('the store reported the objects deleted, but they still exist')
    return ok('several objects with one request')


def wait_until(is_so: Callable[[], bool]) -> float | None:
    """Seconds until a listing was as expected; None if it was not in time."""
    waited = 0.0
    for delay in LISTING_DELAYS:
        time.sleep(delay)
        waited += delay
        if is_so():
            return waited
    return None


# Unusual characters in keys


def odd_names(scratch: ScratchPrefix) -> Finding:
    odd = {'space': 'a b', '+': 'a+b', '%': 'a%20b', 'ü': 'für', '&': 'a&<b>'}
    lost = [shown for shown, name in odd.items() if _change_of(scratch, name)]
    if lost:
        return note(f'not kept: {" ".join(lost)}', 'a --backup-name without them')
    return ok(f'kept: {" ".join(odd)}')


def backslash(scratch: ScratchPrefix) -> Finding:
    change = _change_of(scratch, 'back\\slash')
    return note(change, 'a --backup-name without it') if change else ok('kept')


def double_slash(scratch: ScratchPrefix) -> Finding:
    change = _change_of(scratch, 'double//slash')
    return note(f'{change}; the agent makes none') if change else ok('kept')


def _change_of(scratch: ScratchPrefix, name: str) -> str:
    """What the store makes of a key with that name; empty if it keeps it."""
    # The folder's name is plain, so that its listing finds whatever the rest becomes.
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


# Checksums: whether the store verifies what arrives


def content_md5(scratch: ScratchPrefix) -> Finding:
    return _checksum(scratch, 'ContentMD5', '1B2M2Y8AsgTpgAmY7PhCfg==')


def crc32(scratch: ScratchPrefix) -> Finding:
    finding = _checksum(scratch, 'ChecksumCRC32', 'AAAAAA==')
    scratch.crc32_checked = finding.result is Result.OK
    return finding


def _checksum(scratch: ScratchPrefix, header: str, of_nothing: str) -> Finding:
    """The checksum of no bytes: right for an empty object, wrong for any other."""
    right = scratch.probe_put(f'right {header}', b'', **{header: of_nothing})
    if isinstance(right, Refusal):
        return note(f'refused: {right}', '--s3-checksum none')
    wrong = scratch.probe_put(f'wrong {header}', SMALL, **{header: of_nothing})
    if isinstance(wrong, Refusal):
        return ok(f'checked: a wrong one is refused ({wrong.code})')
    return note('not checked: a wrong one is accepted')


def payload_digest(scratch: ScratchPrefix) -> Finding:
    """A byte changes after the request was signed, as on a bad line."""

    def change(request: Any, **_kwargs: Any) -> None:
        request.body = b'X' + SMALL[1:]

    with scratch.bucket.hook('before-send.s3.PutObject', change):
        answer = scratch.probe_put('wrong payload', SMALL)
    if isinstance(answer, Refusal):
        return ok(f'checked: a byte changed in transit is refused ({answer.code})')
    return note(
        'not checked: a byte changed in transit is stored, and found on restore',
        '--s3-checksum crc32' if scratch.crc32_checked else '',
    )
