"""The check of an S3 storage that errs: each fault has its row, and is not another's.

moto answers, through a proxy that meddles.
"""

import datetime
import hashlib
import socket
import time
from collections.abc import Callable, Iterator
from email.utils import format_datetime
from typing import Any

import pytest

from freezer.storage import exceptions as e
from freezer.storage import layout
from freezer.storage._s3.check import listings, objects, run, scratch, speed
from freezer.storage.check import CheckReport, Finding, Probe, Result
from freezer.tests import servers
from freezer.tests.conformance.checks import buckets, check, names, row
from freezer.tests.conformance.places import S3Place, new_s3_place
from freezer.tests.proxy import (
    BROKEN,
    DENIED,
    Answer,
    Change,
    Proxy,
    Reply,
    Request,
    error,
)
from freezer.utils.signals import Interrupted

OK, NOTE, PROBLEM = Result.OK, Result.NOTE, Result.PROBLEM


@pytest.fixture
def moto_place(moto: servers.Moto) -> Iterator[S3Place]:
    place = new_s3_place(moto)
    moto.client().create_bucket(Bucket=place.bucket)
    yield place
    place.remove()


@pytest.fixture
def proxy(moto: servers.Moto) -> Iterator[Proxy]:
    with Proxy(moto.endpoint) as proxy:
        yield proxy


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for a listing that will not come."""
    for module in (listings, objects, scratch):
        monkeypatch.setattr(module, 'LISTING_DELAYS', (0, 0.01))


TryOnly = Callable[..., CheckReport]


@pytest.fixture
def try_only(
    monkeypatch: pytest.MonkeyPatch, moto_place: S3Place, proxy: Proxy, quick: None
) -> TryOnly:
    """A check with no other probes than those named."""

    def try_only(*names: str, **options: Any) -> CheckReport:
        some = [probe for probe in run.PROBES if probe.name in names]
        assert len(some) == len(names)
        monkeypatch.setattr(run, 'PROBES', some)
        given = {'endpoint': proxy.endpoint, 's3_retry_budget': 1.0} | options
        return check(moto_place, **given)

    return try_only


Matches = Callable[[Request], bool]


def on(method: str, end: str) -> Matches:
    """Requests for keys that end so."""
    return lambda request: request.method == method and request.path.endswith(end)


def lists(version: int, end: str) -> Matches:
    """Listings of prefixes that end so."""

    def matches(request: Request) -> bool:
        return (
            request.method == 'GET'
            and request.query.get('prefix', '').endswith(end)
            and not {'uploads', 'versions'} & request.query.keys()
            and (request.query.get('list-type') == '2') == (version == 2)
        )

    return matches


def lists_uploads(request: Request) -> bool:
    return request.method == 'GET' and 'uploads' in request.query


def multi_deletes(request: Request) -> bool:
    return request.method == 'POST' and 'delete' in request.query


def aborts(request: Request) -> bool:
    return request.method == 'DELETE' and 'uploadId' in request.query


def completes_unequal_parts(request: Request) -> bool:
    return request.completes and request.path.endswith('/unequal parts')


def first(matches: Matches) -> Matches:
    """The first of such requests."""
    calls = iter([True])
    return lambda request: matches(request) and next(calls, False)


def nothing(_reply: Reply) -> None:
    """The connection breaks before the answer."""


def other_byte(reply: Reply) -> Reply:
    return reply.but(body=bytes([reply.body[0] ^ 1]) + reply.body[1:])


def lost_byte(reply: Reply) -> Reply:
    return reply.but(body=reply.body[1:])


def one_byte(_reply: Reply) -> Reply:
    return Reply(200, {'etag': '"e"'}, b'x')


def shorter(reply: Reply) -> Reply:
    return reply.but(content_length='53')


def no_metadata(reply: Reply) -> Reply:
    kept = {k: v for k, v in reply.headers.items() if 'x-amz-meta' not in k}
    return Reply(reply.status, kept, reply.body)


def range_ignored(reply: Reply) -> Reply:
    kept = {k: v for k, v in reply.headers.items() if k != 'content-range'}
    return Reply(200, kept, objects.RANGED)


def other_range(reply: Reply) -> Reply:
    return reply.but(content_range='bytes 7-7/2048')


def without(name: bytes) -> Change:
    """The answer, but for an element."""

    def change(reply: Reply) -> Reply:
        start, _, rest = reply.body.partition(b'<' + name + b'>')
        return reply.but(body=start + rest.rpartition(b'</' + name + b'>')[2])

    return change


def ends_early(reply: Reply) -> Reply:
    true, false = b'<IsTruncated>true<', b'<IsTruncated>false<'
    return reply.but(body=reply.body.replace(true, false))


NOT_KNOWN = error(501, 'NotImplemented')


def meddle(proxy: Proxy, at: Matches, act: Answer | Change) -> None:
    if isinstance(act, Answer):
        proxy.answer(at, act)
    else:
        proxy.change(at, act)


# The probe, the requests, what is answered or becomes of an answer, the result of the
# check, and a part of its message or hint.
FAULTS = [
    ('read', on('GET', '/small'), lost_byte, PROBLEM, '53 bytes, not 54'),
    ('read', on('GET', '/small'), other_byte, PROBLEM, 'from byte 0 on'),
    ('empty object', on('GET', '/empty'), one_byte, PROBLEM, 'has bytes'),
    ('metadata', on('HEAD', '/small'), no_metadata, NOTE, 'lost'),
    ('metadata', on('HEAD', '/small'), shorter, PROBLEM, 'size is 53'),
    ('list', lists(2, '/small'), without(b'Contents'), PROBLEM, 'not listed'),
    (
        *('list versions 1, 2', lists(2, '/paged/'), without(b'NextContinuationToken')),
        *(PROBLEM, '--s3-list-version 1'),
    ),
    (
        *('list versions 1, 2', lists(2, '/paged/'), ends_early),
        *(PROBLEM, '--s3-list-version 1'),
    ),
    ('list versions 1, 2', lists(1, '/paged/'), NOT_KNOWN, NOTE, 'version 1: '),
    ('range', on('GET', '/ranged'), other_range, PROBLEM, 'sent bytes 7-7'),
    ('range', on('GET', '/ranged'), range_ignored, PROBLEM, 'something else'),
    ('range', on('GET', '/ranged'), other_byte, PROBLEM, 'bytes 0 to 0 are wrong'),
    ('conditional read', on('GET', '/small'), one_byte, NOTE, 'is ignored'),
    ('conditional write', on('PUT', '/condition'), Answer(200), NOTE, 'is ignored'),
    ('conditional write', on('PUT', '/condition'), NOT_KNOWN, NOTE, 'is not known'),
    (
        *('conditional write', on('PUT', '/condition')),
        *(error(412, 'PreconditionFailed'), PROBLEM, 'refused where there was nothing'),
    ),
    ('delete', on('DELETE', '/deleted'), Answer(204), PROBLEM, 'still exists'),
    ('multi-delete', multi_deletes, NOT_KNOWN, NOTE, 'one by one'),
    ('two-part upload', on('GET', '/two parts'), other_byte, PROBLEM, 'from byte 0'),
    ('two-part upload', on('HEAD', '/two parts'), no_metadata, NOTE, 'metadata lost'),
    (
        *('two-part upload', on('GET', '/two parts')),
        *(error(403, 'InvalidObjectState'), NOTE, 'is an archive'),
    ),
    ('open uploads', lists_uploads, without(b'Upload'), NOTE, 'lifecycle'),
    (
        *('checksum CRC32', on('PUT', '/right ChecksumCRC32')),
        *(error(400, 'InvalidRequest'), NOTE, '--s3-checksum none'),
    ),
    (
        *('checksum SHA-256', on('PUT', '/wrong payload')),
        *(error(400, 'XAmzContentSHA256Mismatch'), OK, 'XAmzContentSHA256Mismatch'),
    ),
    ('odd names', on('PUT', '/a+b'), error(400, 'InvalidURI'), NOTE, 'not kept: +'),
]


@pytest.mark.parametrize('probe, at, act, result, said', FAULTS)
def test_a_store_that_errs(
    probe: str,
    at: Matches,
    act: Answer | Change,
    result: Result,
    said: str,
    try_only: TryOnly,
    proxy: Proxy,
) -> None:
    meddle(proxy, at, act)
    report = try_only(probe)
    found = row(report, probe)
    assert found.result is result, found
    assert said in f'{found.message}; {found.hint}'
    assert bool(found.value) == (found.result is OK)
    assert row(report, 'clean-up').result is OK


def test_a_byte_changed_on_the_way(try_only: TryOnly, proxy: Proxy) -> None:
    """What is stored is not what was signed: moto takes it."""
    stored = []

    def note_etag(reply: Reply) -> Reply:
        stored.append(reply.headers['etag'])
        return reply

    proxy.change(on('PUT', '/wrong payload'), note_etag)
    found = row(try_only('checksum SHA-256'), 'checksum SHA-256')
    assert (found.result, found.hint) == (NOTE, '')
    assert 'is stored' in found.message
    (etag,) = stored
    assert etag != f'"{hashlib.md5(scratch.SMALL).hexdigest()}"'


def test_what_helps_against_changed_bytes(try_only: TryOnly, proxy: Proxy) -> None:
    refusal = error(400, 'BadDigest')
    proxy.answer(on('PUT', '/wrong ChecksumCRC32'), refusal)
    report = try_only('checksum CRC32', 'checksum SHA-256')
    assert row(report, 'checksum CRC32').result is OK
    assert row(report, 'checksum SHA-256').hint == '--s3-checksum crc32'


@pytest.mark.parametrize('status', [400, 200])
def test_uploads_of_equal_parts_only(
    status: int, try_only: TryOnly, proxy: Proxy
) -> None:
    """With status 200 where the store began to answer before it was done (Swift)."""
    proxy.answer(completes_unequal_parts, error(status, 'InvalidPart'))
    found = row(try_only('part sizes'), 'part sizes')
    assert (found.result, found.value) == (NOTE, False)
    assert 'of one size' in found.message


@pytest.mark.parametrize('limit, found', [(1000, 1000), (4999, 1000), (50, None)])
def test_fewer_parts(
    limit: int, found: int | None, try_only: TryOnly, proxy: Proxy
) -> None:
    refusal = error(400, 'InvalidArgument')
    proxy.answer(lambda request: request.part > limit, refusal)
    seen = row(try_only('part numbers', s3_max_parts=10000), 'part numbers')
    assert (seen.result, seen.value) == (PROBLEM, found)
    assert seen.hint == f'--s3-max-parts {found or ""}'.strip()
    seen = row(try_only('part numbers', s3_max_parts=50), 'part numbers')
    assert (seen.result, seen.value) == (OK, 50)


def test_uploads_that_cannot_be_aborted(
    try_only: TryOnly, proxy: Proxy, moto_place: S3Place, moto: servers.Moto
) -> None:
    proxy.answer(aborts, DENIED)
    report = try_only('abort')
    assert row(report, 'abort').result is PROBLEM
    left = row(report, 'clean-up')
    assert left.result is PROBLEM
    assert f's3://{moto_place.bucket}/{moto_place.prefix}/check/' in left.message
    assert moto_place.files() == {}
    ((key, upload_id),) = moto.uploads(moto_place.bucket)
    what = {'Bucket': moto_place.bucket, 'Key': key, 'UploadId': upload_id}
    moto.client().abort_multipart_upload(**what)


def test_a_deletion_that_is_only_said_to_be_done(
    try_only: TryOnly, proxy: Proxy
) -> None:
    """The first answer to a multi-delete is a lie; that of the cleaning up is not."""
    lie = Answer(200, b'<DeleteResult></DeleteResult>')
    proxy.answer(first(multi_deletes), lie)
    report = try_only('multi-delete')
    assert row(report, 'multi-delete').result is PROBLEM
    assert row(report, 'clean-up').result is OK


def test_a_listing_that_is_late(try_only: TryOnly, proxy: Proxy) -> None:
    proxy.change(first(lists(2, '/small')), without(b'Contents'))
    found = row(try_only('list'), 'list')
    assert found.result is NOTE
    assert found.message == 'a written object is listed after 0.01 s'


@pytest.mark.parametrize(
    'minutes, result, said',
    [(20, NOTE, '1200 s ahead of'), (-20, NOTE, '1200 s behind'), (0, OK, 'that of')],
)
def test_clock(
    minutes: int, result: Result, said: str, try_only: TryOnly, proxy: Proxy
) -> None:
    def shift(reply: Reply) -> Reply:
        now = datetime.datetime.now(datetime.UTC)
        there = now + datetime.timedelta(minutes=minutes)
        return reply.but(date=format_datetime(there, usegmt=True))

    proxy.change(lambda request: request.method == 'HEAD', shift)
    found = row(try_only(), 'clock')
    assert found.result is result
    assert found.message.startswith(said)
    assert isinstance(found.value, float)
    assert abs(found.value - 60 * minutes) < 3


def test_a_store_that_is_far_away(
    try_only: TryOnly, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, '_SLOW_SECONDS', 0.0)
    found = row(try_only('round trip'), 'round trip')
    assert found.result is NOTE
    assert '--s3-concurrency' in found.hint


def test_round_trip(try_only: TryOnly, proxy: Proxy) -> None:
    proxy.before(on('HEAD', '/small'), lambda: time.sleep(0.05))
    found = row(try_only('round trip'), 'round trip')
    assert found.result is OK
    assert isinstance(found.value, float)
    assert 0.05 < found.value < 0.5


def test_throughput_of_wrong_bytes(try_only: TryOnly, proxy: Proxy) -> None:
    proxy.change(on('GET', '/stream/data'), other_byte)
    report = try_only('upload speed', 'download speed')
    assert row(report, 'upload speed').result is OK
    assert row(report, 'download speed').result is PROBLEM


def test_encryption_of_the_bucket(
    try_only: TryOnly, moto_place: S3Place, moto: servers.Moto
) -> None:
    assert row(try_only('encryption'), 'encryption').value == 'none'
    rule = {'ApplyServerSideEncryptionByDefault': {'SSEAlgorithm': 'AES256'}}
    moto.client().put_bucket_encryption(
        Bucket=moto_place.bucket, ServerSideEncryptionConfiguration={'Rules': [rule]}
    )
    assert row(try_only('encryption'), 'encryption').value == 'AES256'


# Locks


def not_locked(reply: Reply) -> Reply:
    kept = {k: v for k, v in reply.headers.items() if 'object-lock' not in k}
    return Reply(reply.status, kept, reply.body)


@pytest.mark.parametrize(
    'at, act, said',
    [
        (on('HEAD', '/locked'), not_locked, 'objects are not locked'),
        (on('HEAD', '/locked upload'), not_locked, 'uploads are not locked'),
        (on('PUT', '/locked'), NOT_KNOWN, 'refused: NotImplemented'),
        (on('POST', '/locked upload'), NOT_KNOWN, 'refused for uploads'),
    ],
)
def test_locks_that_do_not_come_about(
    at: Matches,
    act: Answer | Change,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    moto: servers.Moto,
    proxy: Proxy,
) -> None:
    place = new_s3_place(moto)
    some = [probe for probe in run.PROBES if probe.name == 'locked']
    monkeypatch.setattr(run, 'PROBES', some)
    meddle(proxy, at, act)
    lock = {'s3_object_lock_mode': 'GOVERNANCE', 's3_object_lock_days': 1}
    report = check(place, endpoint=proxy.endpoint, **lock)
    found = row(report, 'locked')
    assert found.result is PROBLEM
    assert found.message.startswith(said)
    assert row(report, 'clean-up').result is OK
    assert place.bucket not in buckets(moto)


# No answer is no refusal


@pytest.mark.parametrize(
    'name, at',
    [
        ('conditional write', on('PUT', '/condition')),
        ('conditional read', on('GET', '/small')),
        ('multi-delete', multi_deletes),
        ('checksum MD5', on('PUT', '/wrong ContentMD5')),
        ('checksum SHA-256', on('PUT', '/wrong payload')),
        ('part numbers', on('PUT', '/part numbers')),
        ('odd names', on('PUT', '/a b')),
    ],
)
def test_no_answer(name: str, at: Matches, try_only: TryOnly, proxy: Proxy) -> None:
    """As if the network broke: it is not the store that cannot do it."""
    calls = iter(range(1000))
    gone = lambda request: at(request) and next(calls) < 20  # noqa: E731
    proxy.change(gone, nothing)
    found = row(try_only(name, 'encryption'), name)
    assert found.result is PROBLEM
    assert found.value is None
    assert 'cannot be reached' in found.message
    assert 'the check stopped here' in found.message


@pytest.mark.parametrize(
    'name, at',
    [
        ('conditional write', on('PUT', '/condition')),
        ('conditional read', on('GET', '/small')),
        ('checksum SHA-256', on('PUT', '/wrong payload')),
        ('encryption', lambda request: 'encryption' in request.query),
    ],
)
def test_a_store_in_trouble(
    name: str, at: Matches, try_only: TryOnly, proxy: Proxy
) -> None:
    """It says so itself: whether it can do it is not known, and not needed."""
    proxy.answer(at, BROKEN)
    report = try_only(name, 'round trip')
    found = row(report, name)
    assert (found.result, found.value) == (NOTE, None)
    assert 'InternalError' in found.message
    assert names(report)[-2:] == ['round trip', 'clean-up']


def test_answers_that_were_lost(try_only: TryOnly, proxy: Proxy) -> None:
    """What was asked again finds what it did itself."""

    proxy.change(first(on('PUT', '/condition')), nothing)
    lost = first(completes_unequal_parts)
    proxy.answer(
        lambda request: completes_unequal_parts(request) and not lost(request),
        error(404, 'NoSuchUpload'),
    )
    proxy.change(first(completes_unequal_parts), nothing)
    report = try_only('conditional write', 'part sizes')
    assert row(report, 'conditional write').result is OK
    assert row(report, 'part sizes').result is OK


def test_an_answer_that_was_lost_for_good(try_only: TryOnly, proxy: Proxy) -> None:
    proxy.answer(completes_unequal_parts, error(404, 'NoSuchUpload'))
    found = row(try_only('part sizes'), 'part sizes')
    assert (found.result, found.value) == (NOTE, None)


# Who asks, and where


def test_a_store_that_refuses_at_once(
    try_only: TryOnly, proxy: Proxy, moto_place: S3Place
) -> None:
    proxy.answer(on('PUT', '/small'), DENIED)
    with pytest.raises(e.AccessDenied, match=moto_place.bucket):
        try_only()
    after = [r for r in proxy.requests if r.method == 'DELETE' or lists_uploads(r)]
    assert after == []


def test_the_other_addressing_style(
    moto_place: S3Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = moto_place.server.endpoint.rpartition(':')[2]
    find = socket.getaddrinfo

    def getaddrinfo(host: str, *arguments: Any, **named: Any) -> Any:
        if str(host).startswith(moto_place.bucket):
            raise socket.gaierror(socket.EAI_NONAME, 'no such host')
        return find('127.0.0.1', *arguments, **named)

    monkeypatch.setattr(socket, 'getaddrinfo', getaddrinfo)
    options = {'s3_addressing_style': 'virtual', 's3_retry_budget': 0.0}
    with pytest.raises(e.Unreachable, match='answers with --s3-addressing-style path'):
        check(moto_place, endpoint=f'http://localhost:{port}', **options)


# However it ends


@pytest.mark.parametrize('failure', [RuntimeError, Interrupted])
def test_nothing_remains_of_a_check_that_breaks_off(
    failure: type[BaseException], monkeypatch: pytest.MonkeyPatch, moto: servers.Moto
) -> None:
    place = new_s3_place(moto)

    def break_off(scratch: scratch.ScratchPrefix) -> Finding:
        upload = scratch.open_upload('left')
        scratch.bucket.upload_part(upload, 1, b'x')
        assert place.files()
        assert place.uploads()
        raise failure(15)

    broken = [Probe('odd names', break_off)]
    monkeypatch.setattr(run, 'PROBES', [*run.PROBES[:3], *broken])
    with pytest.raises(failure):
        check(place)
    assert place.bucket not in buckets(moto)


def test_what_remains_is_said(
    try_only: TryOnly,
    proxy: Proxy,
    moto_place: S3Place,
    caplog: pytest.LogCaptureFixture,
) -> None:
    proxy.answer(lambda request: request.method == 'DELETE', DENIED)
    proxy.answer(multi_deletes, DENIED)
    report = try_only('read')
    found = row(report, 'clean-up')
    assert found.result is PROBLEM
    assert found.message.startswith(
        f'something may remain below s3://{moto_place.bucket}/{moto_place.prefix}/check'
    )
    assert next(iter(moto_place.files())).startswith(f'{layout.CHECK}/')
