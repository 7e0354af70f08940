"""What every option of storage s3 does to the requests that go to the store.

Each test makes the driver as a command line does, and looks at what a recording proxy
saw of it. ``shows`` notes which options a test is about; none may be left over.
"""

import base64
import datetime
import hashlib
import itertools
import re
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import blake3
import pytest
import trustme

from freezer.storage import exceptions as e
from freezer.storage._s3.options import S3_OPTS
from freezer.storage.backup import StoredLevel
from freezer.storage.s3 import S3Storage
from freezer.tests import servers
from freezer.tests.agent import PART
from freezer.tests.front import (
    ACCESS_KEY,
    BODIES,
    BUCKETS,
    COMPLETE,
    CONTENT,
    CREATING,
    CUSTOMER_KEY,
    DELETING,
    EVERY,
    KMS,
    LOCK,
    MADE_UP,
    OLD_BOTOCORE,
    PARTS_PER_VOLUME,
    PUT_RECORDS,
    READING,
    SHOWN,
    VOLUMES,
    ZERO,
    Front,
    What,
    carriers,
    make_backup,
    on,
    restored,
    role,
    shows,
    signed,
    values,
    what,
)
from freezer.tests.functional import test_s3_profiles
from freezer.tests.proxy import BROKEN, Answer, Proxy, Request, error
from freezer.tests.scripted import full

pytestmark = pytest.mark.usefixtures('kept_logging')

# In tests of their own, which need old data.
HOUSEKEEPING = {'stale-after', 'purge-versions'}


# Headers


LOCKED = VOLUMES | PUT_RECORDS
# botocore learnt it later.
PAID = EVERY - BUCKETS - on('ListMultipartUploads', 'bucket')

# option -> (command line, header after x-amz-, value, what has it)
HEADERS: dict[str, tuple[Sequence[str], str, str, set[What]]] = {
    'session-token': (
        ['--s3-session-token', 'token/of+a+session'],
        *('security-token', 'token/of+a+session'),
        EVERY,
    ),
    'requester-pays': (['--s3-requester-pays'], 'request-payer', 'requester', PAID),
    'expected-bucket-owner': (
        ['--s3-expected-bucket-owner', '123456789012'],
        *('expected-bucket-owner', '123456789012'),
        EVERY - on('CreateBucket', 'bucket'),
    ),
    'storage-class': (
        ['--s3-storage-class', 'STANDARD_IA'],
        *('storage-class', 'STANDARD_IA'),
        VOLUMES,
    ),
    'sse': (['--s3-sse', 'AES256'], 'server-side-encryption', 'AES256', CREATING),
    'sse-kms-key-id': (
        KMS,
        *('server-side-encryption-aws-kms-key-id', 'alias/backups'),
        CREATING,
    ),
    'tags': (
        ['--s3-tags', 'team=data base,cost/centre=4+2=6,note='],
        *('tagging', 'team=data%20base&cost%2Fcentre=4%2B2%3D6&note='),
        CREATING,
    ),
    'acl': (
        ['--s3-acl', 'bucket-owner-full-control'],
        *('acl', 'bucket-owner-full-control'),
        CREATING,
    ),
    'object-lock-mode': (LOCK, 'object-lock-mode', 'COMPLIANCE', LOCKED),
    'legal-hold': (['--s3-legal-hold'], 'object-lock-legal-hold', 'ON', LOCKED),
}


@shows(*HEADERS)
@pytest.mark.parametrize('argv, header, value, carrying', HEADERS.values(), ids=HEADERS)
def test_header(
    front: Front, argv: Sequence[str], header: str, value: str, carrying: set[What]
) -> None:
    requests = front.life(front.driver(*argv))
    assert {what(request) for request in requests} - MADE_UP == EVERY
    uploads = on('ListMultipartUploads', 'bucket')
    uncertain = MADE_UP | (uploads if carrying is PAID else set())
    assert carriers(requests, f'x-amz-{header}') - uncertain == carrying
    assert values(requests, f'x-amz-{header}') == {value}


def test_no_optional_header_by_default(front: Front) -> None:
    requests = front.life(front.driver())
    assert {what(request) for request in requests} == EVERY
    options = {f'x-amz-{header}' for _argv, header, _value, _what in HEADERS.values()}
    for header in (
        *options,
        *('x-amz-object-lock-retain-until-date', 'x-amz-bucket-object-lock-enabled'),
        *('x-amz-trailer', 'x-amz-decoded-content-length', 'transfer-encoding'),
    ):
        assert carriers(requests, header) == set(), header
    small = PUT_RECORDS | on('PutObject', 'claim')
    # Older botocore has it everywhere, and does not send the parts.
    usual = BODIES - on('UploadPart', 'volume') if OLD_BOTOCORE else small
    assert carriers(requests, 'content-md5') == DELETING | usual
    names = {
        name
        for request in requests
        if what(request) not in DELETING
        for name in request.headers
    }
    assert not [name for name in names if 'checksum' in name or 'customer' in name]
    # Bodies are signed, so the store can tell whether they arrived as they were sent.
    for request in requests:
        if what(request) in BODIES:
            digest = hashlib.sha256(request.body).hexdigest()
            assert request.headers['x-amz-content-sha256'] == digest


def test_kms_without_a_key(front: Front) -> None:
    requests = front.life(front.driver('--s3-sse', 'aws:kms'))
    header = 'x-amz-server-side-encryption'
    assert carriers(requests, header) == CREATING
    assert values(requests, header) == {'aws:kms'}
    assert carriers(requests, f'{header}-aws-kms-key-id') == set()


@shows('object-lock-days')
def test_locks_end_so_many_days_after_the_backup(front: Front) -> None:
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    requests = front.life(front.driver(*LOCK))
    header = 'x-amz-object-lock-retain-until-date'
    assert carriers(requests, header) == LOCKED
    for value in values(requests, header):
        until = datetime.datetime.fromisoformat(value) - datetime.timedelta(days=30)
        assert before <= until <= datetime.datetime.now(datetime.UTC)


@pytest.mark.parametrize('argv', [LOCK, ['--s3-legal-hold']], ids=['mode', 'hold'])
def test_locked_objects_go_with_a_digest_into_a_bucket_that_locks(
    front: Front, argv: Sequence[str]
) -> None:
    requests = front.life(front.driver(*argv))
    made = carriers(requests, 'x-amz-bucket-object-lock-enabled')
    assert made == on('CreateBucket', 'bucket')
    assert carriers(requests, 'content-md5') - MADE_UP == BODIES | DELETING
    for request in requests:
        if 'content-md5' in request.headers:
            digest = base64.b64encode(hashlib.md5(request.body).digest()).decode()
            assert request.headers['content-md5'] == digest
    # What does not stay can be removed.
    left = {key for key in front.server.keys(front.bucket) if '/claim' in key}
    assert left == set()


# Encryption with the user's key


CUSTOMER = 'x-amz-server-side-encryption-customer-'


@shows('sse-customer-key-file')
@pytest.mark.parametrize('form', ['bytes', 'base64'])
def test_customer_key(secure: Front, bundle: Path, tmp_path: Path, form: str) -> None:
    encoded = base64.b64encode(CUSTOMER_KEY)
    path = tmp_path / 'key'
    path.write_bytes(CUSTOMER_KEY if form == 'bytes' else encoded + b'\n')
    driver = secure.driver('--s3-sse-customer-key-file', path, '--s3-ca-bundle', bundle)
    requests = secure.life(driver)
    expected = {
        'algorithm': 'AES256',
        'key': encoded.decode(),
        'key-md5': base64.b64encode(hashlib.md5(CUSTOMER_KEY).digest()).decode(),
    }
    for name, value in expected.items():
        # Complete has them where botocore is new enough.
        assert carriers(requests, CUSTOMER + name) - COMPLETE == (
            CREATING | READING | on('UploadPart', 'volume')
        )
        assert values(requests, CUSTOMER + name) == {value}


# Checksums


def crc32(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4, 'big')


def sha256(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


def of_awscrt(name: str, size: int) -> Callable[[bytes], bytes]:
    from awscrt import checksums

    return lambda body: int(getattr(checksums, name)(body)).to_bytes(size, 'big')


CHECKSUMS = {
    'crc32': crc32,
    'sha256': sha256,
    'crc32c': of_awscrt('crc32c', 4),
    'crc64nvme': of_awscrt('crc64nvme', 8),
}


@shows('checksum')
@pytest.mark.parametrize('name', CHECKSUMS)
def test_checksum(front: Front, name: str) -> None:
    if name == 'crc64nvme' and OLD_BOTOCORE:
        with pytest.raises(e.StorageConfigError, match=r'not supported by botocore'):
            front.life(front.driver('--s3-checksum', name))
        assert front.requests == []
        return
    requests = front.life(front.driver('--s3-checksum', name))
    header = f'x-amz-checksum-{name}'
    assert carriers(requests, header) - DELETING == BODIES
    sent = {}
    for request in requests:
        if what(request) not in BODIES:
            continue
        value = base64.b64encode(CHECKSUMS[name](request.body)).decode()
        assert request.headers[header] == value
        # It is in the header, and the body is the body.
        assert 'x-amz-trailer' not in request.headers
        assert 'aws-chunked' not in request.headers.get('content-encoding', '')
        assert int(request.headers['content-length']) == len(request.body)
        if request.part:
            sent[request.key, request.query['uploadId'], request.part] = value
    algorithm = 'x-amz-checksum-algorithm'
    assert carriers(requests, algorithm) == on('CreateMultipartUpload', 'volume')
    assert values(requests, algorithm) == {name.upper()}
    completes = [r for r in requests if r.completes]
    assert completes
    for request in completes:
        told = re.findall(
            rf'<PartNumber>(\d+)</PartNumber>.*?<Checksum{name.upper()}>([^<]*)<',
            re.sub(r'(<Part>)(.*?)(</Part>)', _number_first, request.body.decode()),
        )
        upload = (request.key, request.query['uploadId'])
        assert {int(number): value for number, value in told} == {
            part: value for (*of, part), value in sent.items() if tuple(of) == upload
        }
        assert len(told) == PARTS_PER_VOLUME


def _number_first(part: re.Match[str]) -> str:
    """A part of a Complete; botocore writes its members in any order."""
    number = re.search(r'<PartNumber>\d+</PartNumber>', part[2])
    assert number
    return part[1] + number[0] + part[2].replace(number[0], '') + part[3]


def test_checksum_and_md5_where_objects_are_locked(front: Front) -> None:
    requests = front.life(front.driver(*LOCK, '--s3-checksum', 'crc32'))
    assert carriers(requests, 'x-amz-checksum-crc32') - DELETING - MADE_UP == BODIES
    assert carriers(requests, 'content-md5') - MADE_UP == BODIES | DELETING


# Signatures and addresses


@shows('digest')
def test_digest(secure: Front, bundle: Path) -> None:
    """Of the parts, which are then signed without their content."""
    driver = secure.driver('--s3-digest', 'blake3', '--s3-ca-bundle', bundle)
    requests = secure.life(driver)
    parts, digests = [], []
    for request in requests:
        if '/digests/' in request.path and request.method == 'PUT':
            digests += request.body.decode().split()
        elif what(request) in BODIES and role(request) == 'volume':
            assert request.headers['x-amz-content-sha256'] == 'UNSIGNED-PAYLOAD'
            parts.append(blake3.blake3(request.body).hexdigest())
    assert sorted(parts) == sorted(digests) != []


@shows('region')
@pytest.mark.parametrize('region', ['us-east-1', 'eu-west-3'])
def test_region(front: Front, region: str) -> None:
    requests = front.life(front.driver('--s3-region', region))
    assert signed(requests) == {(ACCESS_KEY, region)}
    (made,) = [r for r in requests if r.operation == 'CreateBucket']
    # The one that has no name as a location.
    located = f'<LocationConstraint>{region}</LocationConstraint>'.encode()
    assert (located in made.body) == (region != 'us-east-1')
    assert bool(made.body) == (region != 'us-east-1')


def test_default_region(front: Front) -> None:
    assert signed(front.life(front.driver())) == {(ACCESS_KEY, 'us-east-1')}


@pytest.mark.parametrize(
    'code', ['InvalidLocationConstraint', 'IllegalLocationConstraintException']
)
def test_bucket_is_created_without_a_refused_location(front: Front, code: str) -> None:
    def located(request: Request) -> bool:
        return b'LocationConstraint' in request.body

    front.proxy.answer(located, error(400, code))
    # moto wants one for every region but the first.
    front.proxy.answer(lambda r: r.operation == 'CreateBucket', Answer(200))
    front.driver('--s3-region', 'my-zone').prepare()
    first, second = (r for r in front.requests if r.operation == 'CreateBucket')
    assert b'my-zone' in first.body
    assert second.body == b''


def test_refused_location_names_the_option(front: Front) -> None:
    code = 'IllegalLocationConstraintException'
    front.proxy.answer(lambda r: r.operation == 'CreateBucket', error(400, code))
    with pytest.raises(e.Rejected, match=rf'{code}.*--s3-region'):
        front.driver().prepare()
    assert len([r for r in front.requests if r.operation == 'CreateBucket']) == 1


def test_location_is_sent_again_after_a_failure(front: Front) -> None:
    failures = itertools.chain([True], itertools.repeat(False))
    front.proxy.answer(
        lambda r: r.operation == 'CreateBucket' and next(failures), BROKEN
    )
    front.driver('--s3-region', 'eu-west-3').prepare()
    made = [r for r in front.requests if r.operation == 'CreateBucket']
    assert len(made) == 2
    assert all(b'eu-west-3' in request.body for request in made)


@shows('signature-version')
def test_signature_version(front: Front) -> None:
    requests = front.life(front.driver('--s3-signature-version', 's3'))
    v2 = re.compile(rf'AWS {ACCESS_KEY}:[A-Za-z0-9+/]{{27}}=')
    assert all(v2.fullmatch(r.headers['authorization']) for r in requests)
    front.proxy.clear()
    front.driver('--s3-signature-version', 's3v4').prepare()
    assert signed(front.requests) == {(ACCESS_KEY, 'us-east-1')}


AWS = 's3.eu-west-1.amazonaws.com'


def by_proxy(front: Front, style: str, host: str) -> S3Storage:
    """The name is known to nobody but the proxy."""
    front.endpoint = f'http://{host}'
    return front.driver(
        *('--s3-addressing-style', style, '--proxy', front.proxy.endpoint)
    )


@shows('addressing-style')
@pytest.mark.parametrize(
    'style, host, in_host',
    [
        ('path', 's3.example.com', False),
        ('virtual', 's3.example.com', True),
        ('auto', 's3.example.com', False),
        ('path', AWS, False),
        ('virtual', AWS, True),
        ('auto', AWS, True),
        ('auto', f'{AWS}.example.com', False),
    ],
)
def test_addressing_style(front: Front, style: str, host: str, in_host: bool) -> None:
    front.proxy.answer(lambda _request: True, Answer(200))
    by_proxy(front, style, host).prepare()
    (request,) = front.requests
    if in_host:
        assert request.headers['host'] == f'{front.bucket}.{host}'
        assert request.path == '/'
    else:
        assert request.headers['host'] == host
        assert request.path == f'/{front.bucket}'


@shows('proxy')
def test_all_requests_go_through_the_proxy(front: Front) -> None:
    front.server.client().create_bucket(Bucket=front.bucket)
    driver = by_proxy(front, 'virtual', 's3.example.com')
    driver.prepare()
    assert restored(driver, make_backup(driver)) == CONTENT
    hosts = {request.headers['host'] for request in front.requests}
    assert hosts == {f'{front.bucket}.s3.example.com'}
    assert not [r for r in front.requests if r.path.startswith(f'/{front.bucket}')]
    assert [key for key in front.server.keys(front.bucket) if key.endswith('/metadata')]


def test_no_proxy_by_default(front: Front) -> None:
    front.endpoint = 'http://s3.example.invalid'
    with pytest.raises(e.Unreachable):
        front.driver('--s3-retry-budget', '0').prepare()
    assert front.requests == []


# Certificates


@shows('ca-bundle', 'insecure')
def test_certificates(secure: Front, bundle: Path) -> None:
    with pytest.raises(e.CertificateError, match='--s3-ca-bundle'):
        secure.driver().prepare()
    assert secure.requests == []
    moments = itertools.count(ZERO)
    for option in (['--s3-ca-bundle', str(bundle)], ['--insecure']):
        driver = secure.driver(*option)
        driver.prepare()
        make_backup(driver, next(moments))
        assert secure.requests
        secure.proxy.clear()


def test_unknown_authority_is_refused(secure: Front, tmp_path: Path) -> None:
    other = tmp_path / 'other.pem'
    trustme.CA().cert_pem.write_to_path(other)
    with pytest.raises(e.CertificateError):
        secure.driver('--s3-ca-bundle', other).prepare()
    assert secure.requests == []


# Time and size


@shows('connect-timeout')
def test_connect_timeout(front: Front) -> None:
    with full() as front.endpoint:
        driver = front.driver('--s3-connect-timeout', '0.3', '--s3-retry-budget', '0')
        begun = time.monotonic()
        with pytest.raises(e.Unreachable, match='no answer in time'):
            driver.prepare()
    assert 0.3 <= time.monotonic() - begun < 5


@shows('read-timeout')
def test_read_timeout(front: Front) -> None:
    held = front.proxy.hold(lambda request: request.operation == 'HeadBucket')
    driver = front.driver('--s3-read-timeout', '0.3', '--s3-retry-budget', '0')
    begun = time.monotonic()
    with pytest.raises(e.Unreachable, match='no answer in time'):
        driver.prepare()
    assert 0.3 <= time.monotonic() - begun < 5
    held.release()


def test_read_timeout_does_not_shorten_complete(front: Front) -> None:
    driver = front.driver('--s3-read-timeout', '0.5', '--s3-retry-budget', '0')
    driver.prepare()
    front.proxy.before(lambda request: request.completes, lambda: time.sleep(1.5))
    make_backup(driver)
    assert len([r for r in front.requests if r.completes]) == 1


@shows('retry-budget')
@pytest.mark.parametrize('budget', [0, 2])
def test_retry_budget(front: Front, budget: int) -> None:
    front.proxy.answer(lambda _request: True, error(503, 'SlowDown'))
    begun = time.monotonic()
    with pytest.raises(e.ServerError, match='gave up after'):
        front.driver('--s3-retry-budget', budget).prepare()
    assert time.monotonic() - begun < 8
    assert (len(front.requests) == 1) == (budget == 0)


@shows('concurrency')
@pytest.mark.parametrize('number', [1, 2])
def test_concurrency(front: Front, number: int) -> None:
    driver = front.driver('--s3-concurrency', number)
    driver.prepare()

    def under_way(matches: Callable[[Request], bool], act: Callable[[], Any]) -> int:
        """How many such requests come while none of them is answered."""

        def count() -> int:
            return len([request for request in front.requests if matches(request)])

        held = front.proxy.hold(matches)
        thread = threading.Thread(target=act)
        thread.start()
        held.wait()
        deadline = time.monotonic() + 10
        while count() < number and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)  # for those that should not come
        came = count()
        held.release()
        thread.join()
        assert held.in_time
        front.proxy.clear()
        return came

    made: list[StoredLevel] = []
    read: list[bytes] = []
    assert number == under_way(
        lambda request: request.part > 0, lambda: made.append(make_backup(driver))
    )
    # Ranges of 32 MiB or a part: one for each part.
    assert number == under_way(
        lambda request: 'range' in request.headers and role(request) == 'volume',
        lambda: read.append(restored(driver, made[0])),
    )
    assert read == [CONTENT]


def volumes(front: Front) -> list[tuple[str, int]]:
    return [
        (key.partition('/0_')[2].partition('/')[2], size)
        for key, size in sorted(front.server.keys(front.bucket).items())
        if key.endswith('/data') or '/segments/' in key
    ]


@shows('max-parts', 'max-object-size')
@pytest.mark.parametrize(
    'argv',
    [
        # Nine tenths of it.
        ['--s3-max-parts', '3'],
        ['--s3-max-object-size', '14M', '--s3-max-parts', '10'],
    ],
    ids=['parts', 'size'],
)
def test_volumes(front: Front, argv: Sequence[str]) -> None:
    driver = front.driver(*argv)
    driver.prepare()
    assert restored(driver, make_backup(driver)) == CONTENT
    assert volumes(front) == [('data', 2 * PART), ('segments/00000001', PART + 1000)]
    parts = [request.part for request in front.requests if request.part]
    assert sorted(parts) == [1, 1, 2, 2]


def test_one_volume_by_default(front: Front) -> None:
    driver = front.driver('--s3-max-parts', '10000')
    driver.prepare()
    make_backup(driver)
    assert volumes(front) == [('data', len(CONTENT))]


# The bucket, and listings


@shows('create-bucket')
def test_create_bucket(front: Front) -> None:
    with pytest.raises(e.BucketNotFound, match=r'does not exist.*s3-create-bucket'):
        front.driver('--s3-nocreate-bucket').prepare()
    assert [request.operation for request in front.requests] == ['HeadBucket']
    front.driver().prepare()
    assert 'CreateBucket' in [request.operation for request in front.requests]
    front.proxy.clear()
    front.driver('--s3-nocreate-bucket').prepare()
    assert [request.operation for request in front.requests] == ['HeadBucket']


@shows('list-version')
def test_list_version_1(front: Front) -> None:
    requests = front.life(front.driver('--s3-list-version', '1'))
    listing = on('ListObjectsV2', 'bucket')
    assert {what(r) for r in requests} == EVERY - listing | on('ListObjects', 'bucket')
    names = {name for request in requests for name in request.query}
    assert not names & {'list-type', 'continuation-token', 'start-after'}


@pytest.mark.parametrize('s3_server', ['seaweedfs', 'ceph'], indirect=True)
@pytest.mark.parametrize('version', [1, 2])
def test_pages(s3_server: servers.Server, version: int) -> None:
    """With names that look as if they were encoded, on pages of five keys."""
    names = [f'{number:02d}ü{"+%2B%41 "[number % 4 :]}x' for number in range(12)]
    with Proxy(s3_server.endpoint) as proxy:
        front = Front(s3_server, proxy)
        client = s3_server.client()
        client.create_bucket(Bucket=front.bucket)
        client.put_bucket_versioning(
            Bucket=front.bucket, VersioningConfiguration={'Status': 'Enabled'}
        )
        for name in names * 2:
            s3_server.put(front.bucket, f'a/prefix/{name}/x', b'')
        driver = front.driver('--s3-list-version', version)
        driver._bucket.requests.client.meta.events.register(
            'before-parameter-build.s3', lambda params, **_: params.update(MaxKeys=5)
        )
        root = f'{front.bucket}/a/prefix'
        found = sorted(path for path, _size in driver.list_tree(root))
        assert found == [f'{name}/x' for name in names]
        assert driver.listdir(root) == names
        operation = {1: 'ListObjects', 2: 'ListObjectsV2'}[version]
        assert [request.operation for request in front.requests] == [operation] * 6
        versions = list(driver._bucket.list_versions('a/prefix/'))
        assert len({(v.key, v.version_id) for v in versions}) == len(versions) == 24
        front.close()


# All of them


def test_every_option_has_a_test() -> None:
    assert test_s3_profiles  # shows one of them
    everywhere = {'insecure', 'proxy'}
    assert {option.name for option in S3_OPTS} | everywhere == SHOWN | HOUSEKEEPING
    assert not SHOWN & HOUSEKEEPING
