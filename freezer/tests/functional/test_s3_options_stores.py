"""Options of storage s3 on stores that do what they are asked, or say why not."""

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path

import botocore.exceptions
import pytest
import trustme

from freezer.storage import exceptions as e
from freezer.storage import layout
from freezer.storage.backup import Backup
from freezer.storage.levels import committed
from freezer.storage.reports import details
from freezer.storage.repository import Repository
from freezer.tests import servers
from freezer.tests.conformance.variants import certified
from freezer.tests.front import (
    CONTENT,
    CUSTOMER_KEY,
    KMS,
    LOCK,
    OLD_BOTOCORE,
    PARTS_PER_VOLUME,
    ZERO,
    Front,
    make_backup,
    restored,
)
from freezer.tests.proxy import Answer, Proxy, error
from freezer.utils.blocks import Block, PartStart

pytestmark = pytest.mark.usefixtures('kept_logging')

REAL = pytest.mark.parametrize('s3_server', ['seaweedfs', 'ceph'], indirect=True)


# On stores that do what they are asked


@pytest.fixture
def real(s3_server: servers.Server) -> Iterator[Front]:
    with Proxy(s3_server.endpoint) as proxy:
        front = Front(s3_server, proxy)
        yield front
        front.close()


@REAL
@pytest.mark.parametrize(
    'options',
    [
        ['--s3-signature-version', 's3'],
        ['--s3-list-version', '1'],
        ['--s3-tags', 'team=data base,plus=4+2', '--s3-acl', 'private'],
        ['--s3-requester-pays', '--s3-expected-bucket-owner', '123456789012'],
        ['--s3-region', 'eu-west-3'],
        *(['--s3-checksum', n] for n in ('crc32', 'crc32c', 'crc64nvme', 'sha256')),
    ],
    ids=' '.join,
)
def test_stores_accept_the_option(real: Front, options: Sequence[str]) -> None:
    driver = real.driver(*options)
    if 'crc64nvme' in options and OLD_BOTOCORE:
        with pytest.raises(e.StorageConfigError):
            driver.prepare()
        return
    driver.prepare()
    backup = make_backup(driver)
    assert restored(driver, backup) == CONTENT
    if '--s3-tags' in options:
        found = real.server.client().get_object_tagging(
            Bucket=real.bucket, Key=backup.paths.data.partition('/')[2]
        )
        tags = {tag['Key']: tag['Value'] for tag in found['TagSet']}
        assert tags == {'team': 'data base', 'plus': '4+2'}
    driver.rmtree(driver.container)
    assert real.server.keys(real.bucket) == {}


@REAL
def test_locked_objects_cannot_be_deleted(real: Front) -> None:
    lock = ('--s3-object-lock-mode', 'GOVERNANCE', '--s3-object-lock-days', '1')
    driver = real.driver(*lock, '--s3-legal-hold')
    driver.prepare()
    backup = make_backup(driver)
    assert restored(driver, backup) == CONTENT
    kept = details(backup).stat
    assert (kept.lock_mode, kept.legal_hold) == ('GOVERNANCE', True)
    client = real.server.client()
    keys = real.server.keys(real.bucket)
    assert len([key for key in keys if layout.SEGMENTS in key]) == 1
    for key in keys:
        head = client.head_object(Bucket=real.bucket, Key=key)
        assert head['ObjectLockMode'] == 'GOVERNANCE', key
        assert head['ObjectLockLegalHoldStatus'] == 'ON', key
        left = head['ObjectLockRetainUntilDate'] - datetime.datetime.now(datetime.UTC)
        assert 23 < left.total_seconds() / 3600 <= 24
        until = head['ObjectLockRetainUntilDate'].timestamp()
        assert kept.locked_until == pytest.approx(until, abs=10)
        with pytest.raises(botocore.exceptions.ClientError, match='AccessDenied'):
            client.delete_object(
                Bucket=real.bucket, Key=key, VersionId=head['VersionId']
            )
    # A deletion hides an object, and so the backup; nothing else can be done.
    driver.delete_files([backup.paths.marker])
    assert committed(driver) == []
    assert client.get_object(Bucket=real.bucket, Key=key, VersionId=head['VersionId'])
    # Another backup, into the bucket that there is now.
    real.driver(*lock).prepare()


@REAL
def test_all_objects_of_parts_are_locked_and_tagged(
    real: Front, tmp_path: Path
) -> None:
    lock = ('--s3-object-lock-mode', 'GOVERNANCE', '--s3-object-lock-days', '1')
    driver = real.driver(*lock, '--s3-tags', 'team=data')
    driver.prepare()
    pending = driver.begin(Backup('tar', 'host_name', ZERO, ZERO, 0))
    parts: list[Block | PartStart] = [PartStart('a'), CONTENT, PartStart('b'), b'small']
    state = tmp_path / 'state'
    state.touch()
    pending.write(parts).commit(state, {'engine_name': 'tar'})
    (stored,) = committed(driver)
    assert b''.join(stored.stream('a').blocks()) == CONTENT
    assert details(stored).stat.lock_mode == 'GOVERNANCE'
    client = real.server.client()
    keys = [key for key in real.server.keys(real.bucket) if '/parts/' in key]
    assert len([key for key in keys if layout.SEGMENTS in key]) == 1
    for key in keys:
        head = client.head_object(Bucket=real.bucket, Key=key)
        assert head['ObjectLockMode'] == 'GOVERNANCE', key
        found = client.get_object_tagging(Bucket=real.bucket, Key=key)
        assert found['TagSet'] == [{'Key': 'team', 'Value': 'data'}], key


@REAL
def test_pins_of_locked_objects(real: Front) -> None:
    """A pin is locked like everything else; to unpin hides it."""
    driver = real.driver(
        *('--s3-object-lock-mode', 'GOVERNANCE', '--s3-object-lock-days', '1')
    )
    driver.prepare()
    backup = make_backup(driver)
    repository = Repository({'': driver})
    for pinned in (True, True, False, True):
        assert repository.pin(backup.backup, pinned) == 1
        (found,) = committed(driver)
        assert found.pinned is pinned


@REAL
def test_lock_longer_than_that_of_the_bucket(real: Front) -> None:
    driver = real.driver(
        *('--s3-object-lock-mode', 'GOVERNANCE', '--s3-object-lock-days', '3')
    )
    driver.prepare()
    lock_by_default(real)
    make_backup(driver)
    client = real.server.client()
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2)
    keys = [key for key in real.server.keys(real.bucket) if '/claim' not in key]
    assert len(keys) == 8
    for key in keys:
        head = client.head_object(Bucket=real.bucket, Key=key)
        assert head['ObjectLockRetainUntilDate'] > soon, key


def make_bucket_with_locks(front: Front) -> None:
    client = front.server.client()
    client.create_bucket(Bucket=front.bucket, ObjectLockEnabledForBucket=True)


def lock_by_default(front: Front) -> None:
    """Let the bucket lock what is put into it."""
    client = front.server.client()
    rule = {'DefaultRetention': {'Mode': 'GOVERNANCE', 'Days': 1}}
    client.put_object_lock_configuration(
        Bucket=front.bucket,
        ObjectLockConfiguration={'ObjectLockEnabled': 'Enabled', 'Rule': rule},
    )


def test_bucket_that_locks_by_itself_wants_digests(front: Front) -> None:
    """So does moto, but for parts; Amazon for all bodies."""
    make_bucket_with_locks(front)
    lock_by_default(front)
    said = (
        'Content-MD5 OR x-amz-checksum- HTTP header is required for Put Part requests '
        'with Object Lock parameters'
    )
    front.proxy.answer(
        lambda request: bool(request.part) and 'content-md5' not in request.headers,
        error(400, 'InvalidRequest', said),
    )
    driver = front.driver()
    driver.prepare()
    assert restored(driver, make_backup(driver)) == CONTENT
    sent = [request for request in front.requests if request.method == 'PUT']
    without = [r.key for r in sent if 'content-md5' not in r.headers]
    # Parts of the first volume, that were under way when the first of them was refused.
    assert {key.rpartition('/')[2] for key in without} == {'data'}
    assert len(without) <= PARTS_PER_VOLUME
    assert len(sent) > 8


@REAL
def test_bucket_that_locks_by_itself(real: Front) -> None:
    make_bucket_with_locks(real)
    lock_by_default(real)
    driver = real.driver()
    driver.prepare()
    backup = make_backup(driver)
    assert restored(driver, backup) == CONTENT
    client = real.server.client()
    for key in real.server.keys(real.bucket):
        head = client.head_object(Bucket=real.bucket, Key=key)
        assert head['ObjectLockMode'] == 'GOVERNANCE', key


@REAL
@pytest.mark.parametrize('option', [LOCK, ['--s3-legal-hold']], ids=['mode', 'hold'])
def test_bucket_that_cannot_lock(real: Front, option: Sequence[str]) -> None:
    real.driver().prepare()
    real.proxy.clear()
    with pytest.raises(e.StorageConfigError, match='has no object lock'):
        real.driver(*option).prepare()
    asked = [request.operation for request in real.requests]
    assert asked == ['HeadBucket', 'GetObjectLockConfiguration']


def test_keys_that_may_not_ask_whether_a_bucket_locks(front: Front) -> None:
    make_bucket_with_locks(front)
    asked = 'GetObjectLockConfiguration'
    front.proxy.answer(lambda r: r.operation == asked, error(403, 'AccessDenied'))
    owner = ('--s3-expected-bucket-owner', '123456789012')
    front.life(front.driver(*LOCK, *owner))
    (request,) = [r for r in front.requests if r.operation == asked]
    assert request.headers['x-amz-expected-bucket-owner'] == '123456789012'


@pytest.mark.parametrize('s3_server', ['seaweedfs'], indirect=True)
def test_reading_needs_the_customer_key(
    s3_server: servers.Server, authority: trustme.CA, bundle: Path, tmp_path: Path
) -> None:
    key, other = tmp_path / 'key', tmp_path / 'other'
    key.write_bytes(CUSTOMER_KEY)
    other.write_bytes(bytes(32))
    with Proxy(s3_server.endpoint, certified(authority, '127.0.0.1')) as proxy:
        front = Front(s3_server, proxy, '--s3-ca-bundle', str(bundle))
        driver = front.driver('--s3-sse-customer-key-file', key)
        driver.prepare()
        backup = make_backup(driver)
        assert restored(driver, backup) == CONTENT
        for options in ([], ['--s3-sse-customer-key-file', other]):
            with pytest.raises(e.StorageException):
                restored(front.driver(*options), backup)
        front.close()


# What the user is told


def test_archived_objects(front: Front, source: Path, tmp_path: Path) -> None:
    agent = front.agent('--s3-storage-class', 'GLACIER')
    agent.backup(source).check()
    told = agent.restore(tmp_path / 'target').error
    assert 'InvalidObjectState' in told
    assert 'RestoreObject' in told
    assert '/data at' in told
    # All else is at hand: what there is, and what the next level needs.
    assert 'class GLACIER' in agent.run('info', '--long').check().out
    level = agent.increment(source).check().document['curr_backup_level']
    assert level == 1


@pytest.mark.parametrize(
    'options, answer, says',
    [
        (
            ['--s3-storage-class', 'NONE_SUCH'],
            error(400, 'InvalidStorageClass'),
            '--s3-storage-class',
        ),
        (['--s3-tags', 'a=b'], error(400, 'InvalidTag'), '--s3-tags'),
        (KMS, error(400, 'KMS.NotFoundException'), '--s3-sse-kms-key-id'),
        (KMS, error(400, 'KMS.DisabledException'), '--s3-sse-kms-key-id'),
        (
            ['--s3-acl', 'private'],
            error(400, 'AccessControlListNotSupported'),
            '--s3-acl',
        ),
        (
            ['--s3-signature-version', 's3'],
            error(
                400,
                'InvalidRequest',
                'The authorization mechanism you have provided is not supported. '
                'Please use AWS4-HMAC-SHA256.',
            ),
            '--s3-signature-version s3v4',
        ),
        # Stores that do not know what was asked for may say no more than this.
        (['--s3-sse', 'AES256'], error(400, 'InvalidRequest', ''), 's3-sse'),
        (['--s3-checksum', 'crc32'], error(501, 'NotImplemented', ''), 's3-checksum'),
        (
            ['--s3-expected-bucket-owner', '123456789012'],
            error(403, 'AccessDenied', ''),
            's3-expected-bucket-owner',
        ),
        (['--s3-session-token', 'x'], error(400, 'ExpiredToken'), 'new session token'),
    ],
)
def test_refusals_name_the_option(
    front: Front, options: Sequence[str], answer: Answer, says: str
) -> None:
    front.driver().prepare()
    front.proxy.answer(lambda request: request.method in ('PUT', 'POST'), answer)
    with pytest.raises(e.StorageException) as caught:
        make_backup(front.driver(*options))
    assert says in caught.value.message
    # Not of what was not asked for.
    with pytest.raises(e.StorageException) as caught:
        make_backup(front.driver())
    if ' ' not in says and answer.status != 400:
        assert says not in caught.value.message


def test_unknown_profile_in_one_line(front: Front, source: Path) -> None:
    agent = front.agent('--s3-profile', 'no-such', ACCESS_KEY=None, SECRET_KEY=None)
    assert 's3-profile no-such' in agent.backup(source).only_error


def test_keys_and_a_profile(front: Front, source: Path) -> None:
    told = front.agent('--s3-profile', 'backups').backup(source).only_error
    assert 's3-profile' in told
    assert 'ACCESS_KEY' in told
    assert front.requests == []


def test_insecure_is_in_the_log_and_not_on_the_terminal(
    secure: Front, source: Path, tmp_path: Path
) -> None:
    log = tmp_path / 'log'
    done = secure.agent('--insecure', '--log-file', log).backup(source).check()
    assert done.notices == []
    assert 'is not checked (insecure)' in log.read_text()
