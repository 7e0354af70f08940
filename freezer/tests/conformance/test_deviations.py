"""How stores differ from AWS, and that the driver does right in spite of it.

Each test is a row of the table in ``doc/source/reference/store-differences.rst``. One
that fails because a newer version of a store has mended its ways goes with its row.
"""

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest

from freezer.storage import claims
from freezer.storage import exceptions as e
from freezer.storage._s3.keys import check_container
from freezer.storage._s3.transport.bucket import Bucket
from freezer.storage.exceptions import StorageConfigError
from freezer.storage.objects import ObjectKind, Upload
from freezer.tests import servers
from freezer.tests.conformance.places import PART, S3Place, new_s3_place
from freezer.tests.conformance.variants import Way

NOISE = random.Random(40).randbytes(PART)


def on(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize('s3_server', names, indirect=True)


class Raw:
    """The store, asked without the driver. Bucket and key go without saying."""

    def __init__(self, place: S3Place) -> None:
        self.client = place.server.client()
        self.bucket = place.bucket
        self.prefix = place.prefix
        self.key = f'{place.prefix}/key'
        self._headers: dict[str, str] = {}
        self.client.meta.events.register('before-sign.s3', self._add_headers)

    def _add_headers(self, request: Any, **_kwargs: Any) -> None:
        for name, value in self._headers.items():
            request.headers[name] = value

    @contextlib.contextmanager
    def headers(self, **headers: str) -> Iterator[None]:
        """Headers that this botocore may not know."""
        self._headers = {k.replace('_', '-'): v for k, v in headers.items()}
        yield
        self._headers = {}

    def put(self, key: str, body: bytes = b'') -> Any:
        return self.client.put_object(Bucket=self.bucket, Key=key, Body=body)

    def get(self, **arguments: Any) -> Any:
        return self.client.get_object(Bucket=self.bucket, Key=self.key, **arguments)

    def head(self) -> Any:
        return self.client.head_object(Bucket=self.bucket, Key=self.key)

    def keys(self) -> list[str]:
        answer = self.client.list_objects_v2(Bucket=self.bucket)
        return [item['Key'] for item in answer.get('Contents', ())]

    def begin(self) -> dict[str, str]:
        """Open an upload."""
        where = {'Bucket': self.bucket, 'Key': self.key}
        answer = self.client.create_multipart_upload(**where)
        return {**where, 'UploadId': answer['UploadId']}

    def complete(self, upload: dict[str, str], *bodies: bytes) -> Any:
        """Send the parts and make them an object."""
        parts = []
        for number, body in enumerate(bodies, 1):
            sent = self.client.upload_part(**upload, PartNumber=number, Body=body)
            parts.append({'PartNumber': number, 'ETag': sent['ETag']})
        return self.client.complete_multipart_upload(
            **upload, MultipartUpload={'Parts': parts}
        )


@pytest.fixture
def raw(s3: S3Place, bucket: Bucket) -> Raw:
    return Raw(s3)


@contextlib.contextmanager
def refused(code: str) -> Iterator[None]:
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        yield
    assert caught.value.response['Error']['Code'] == code


def store(bucket: Bucket, key: str, *bodies: bytes) -> tuple[Upload, str | None]:
    """An object in parts, by the driver; its upload and its ETag."""
    upload = bucket.create_upload(key, 'token')
    sent = [bucket.upload_part(upload, *part) for part in enumerate(bodies, 1)]
    return upload, bucket.complete(upload, sent, sum(map(len, bodies)), 'token')


# Uploads in parts


@on('ceph')
def test_complete_has_no_etag(raw: Raw, bucket: Bucket) -> None:
    assert not raw.complete(raw.begin(), NOISE, b'end').get('ETag')
    _upload, etag = store(bucket, raw.key, NOISE, b'end')
    assert etag
    assert etag == raw.head()['ETag']


@on('rclone')
def test_complete_has_another_etag(raw: Raw, bucket: Bucket) -> None:
    assert raw.complete(raw.begin(), NOISE, b'end')['ETag'] != raw.head()['ETag']
    _upload, etag = store(bucket, raw.key, NOISE, b'end')
    assert etag == raw.head()['ETag']


@on('ceph')
def test_complete_ignores_a_condition(raw: Raw, bucket: Bucket) -> None:
    raw.put(raw.key, b'there before')
    upload = raw.begin()
    with raw.headers(If_None_Match='*'):
        raw.complete(upload, b'x')
    assert raw.get()['Body'].read() == b'x'
    # So it is a small object that keeps two agents apart, before the source is read.
    claims.take(bucket, f'{raw.prefix}/folder')
    with pytest.raises(e.Conflict):
        claims.take(bucket, f'{raw.prefix}/folder')


@on('seaweedfs')
def test_abort_of_a_completed_upload_says_it_is_done(raw: Raw, bucket: Bucket) -> None:
    upload = raw.begin()
    raw.complete(upload, NOISE, b'end')
    raw.client.abort_multipart_upload(**upload)
    aborted, etag = store(bucket, raw.key, NOISE, b'end')
    bucket.abort(aborted)
    assert bucket.get_range(raw.key, 0, PART + 3, etag) == NOISE + b'end'


@on('swift')
def test_abort_of_a_completed_upload_knows_no_such_key(
    raw: Raw, bucket: Bucket
) -> None:
    upload = raw.begin()
    raw.complete(upload, NOISE, b'end')
    with refused('NoSuchKey'):
        raw.client.abort_multipart_upload(**upload)
    aborted, etag = store(bucket, raw.key, NOISE, b'end')
    bucket.abort(aborted)
    assert bucket.get_range(raw.key, 0, PART + 3, etag) == NOISE + b'end'


@on('ceph')
def test_a_part_may_have_any_number(raw: Raw) -> None:
    upload = raw.begin()
    raw.client.upload_part(**upload, PartNumber=10001, Body=b'x')
    raw.client.abort_multipart_upload(**upload)


@on('rclone')
def test_a_part_cannot_be_replaced(raw: Raw, bucket: Bucket) -> None:
    upload = raw.begin()
    raw.client.upload_part(**upload, PartNumber=1, Body=NOISE)
    with refused('NotImplemented'):
        raw.client.upload_part(**upload, PartNumber=1, Body=NOISE[::-1])
    ours = bucket.create_upload(raw.key, 'token')
    # As when the first answer was lost.
    bucket.upload_part(ours, 1, NOISE)
    sent = bucket.upload_part(ours, 1, NOISE)
    assert bucket.complete(ours, [sent], PART, 'token') == raw.head()['ETag']


@on('rclone')
def test_no_uploads_are_an_error(raw: Raw, bucket: Bucket) -> None:
    with refused('NoSuchUpload'):
        raw.client.list_multipart_uploads(Bucket=raw.bucket)
    assert list(bucket.list_uploads('')) == []


@on('swift')
def test_parts_are_in_a_container_beside_it(s3: S3Place, bucket: Bucket) -> None:
    assert isinstance(s3.server, servers.SwiftS3)
    store(bucket, 'key', NOISE, b'end')
    assert s3.server.used(f'{s3.bucket}+segments') == PART + 3
    bucket.delete(['key'])
    assert s3.server.used(f'{s3.bucket}+segments') == 0


# Conditions


@on('ceph')
def test_put_refuses_a_condition_that_holds(raw: Raw) -> None:
    etag = raw.put(raw.key, b'1')['ETag']
    with raw.headers(If_Match=etag), refused('PreconditionFailed'):
        raw.put(raw.key, b'2')
    with raw.headers(If_None_Match='*'), refused('PreconditionFailed'):
        raw.put(raw.key, b'2')


@on('rclone')
def test_put_ignores_conditions(raw: Raw, bucket: Bucket) -> None:
    raw.put(raw.key, b'1')
    with raw.headers(If_None_Match='*'):
        raw.put(raw.key, b'2')
    assert '/claim.' in claims.take(bucket, f'{raw.prefix}/folder').key
    with pytest.raises(e.Conflict):
        claims.take(bucket, f'{raw.prefix}/folder')


@on('swift')
def test_put_knows_no_conditions(raw: Raw, bucket: Bucket) -> None:
    with raw.headers(If_None_Match='*'), refused('NotImplemented'):
        raw.put(raw.key, b'1')
    assert '/claim.' in claims.take(bucket, f'{raw.prefix}/folder').key
    with pytest.raises(e.Conflict):
        claims.take(bucket, f'{raw.prefix}/folder')


@on('rclone')
def test_get_ignores_conditions(raw: Raw, bucket: Bucket) -> None:
    raw.put(raw.key, b'0123456789')
    assert raw.get(IfMatch='"another"')['Body'].read() == b'0123456789'
    with pytest.raises(e.Conflict):
        bucket.get_range(raw.key, 2, 5, '"another"')


# What comes back


@on('rclone')
def test_a_range_is_answered_with_200(raw: Raw, bucket: Bucket) -> None:
    etag = raw.put(raw.key, b'0123456789')['ETag']
    answer = raw.get(Range='bytes=2-4')
    assert answer['ResponseMetadata']['HTTPStatusCode'] == 200
    assert answer['ContentRange'] == 'bytes 2-4/10'
    assert bytes(bucket.get_range(raw.key, 2, 5, etag)) == b'234'


@on('rclone')
def test_metadata_keys_have_another_case(raw: Raw, bucket: Bucket) -> None:
    bucket.put(raw.key, b'', ObjectKind.VOLUME, 'token')
    assert 'Freezer-Token' in raw.head()['Metadata']
    assert bucket.head(raw.key).token == 'token'


def test_metadata_do_not_outlive_the_process(tmp_path: Path) -> None:
    with servers.RcloneS3(tmp_path) as server:
        place = new_s3_place(server, Way(server.endpoint))
        storage = place.storage()
        storage.prepare()
        key = f'{place.prefix}/key'
        storage._bucket.put(key, b'content', ObjectKind.VOLUME, 'token')
        server.restart()
        assert storage._bucket.head(key).token is None
        assert storage._bucket.get(key) == b'content'


@on('seaweedfs')
def test_listings_go_by_directory(raw: Raw, bucket: Bucket) -> None:
    for key in ('a/b', 'a b'):
        raw.put(key)
    assert raw.keys() == ['a/b', 'a b']
    assert {item.key for item in bucket.list('a')} == {'a/b', 'a b'}


# Keys


@on('seaweedfs')
def test_slashes_are_folded(raw: Raw, bucket: Bucket) -> None:
    for key, kept in (('a//b', 'a/b'), ('/c', 'c'), ('d\\e', 'd/e')):
        raw.put(key)
        assert raw.client.get_object(Bucket=raw.bucket, Key=kept)
    with pytest.raises(StorageConfigError):
        check_container('bucket/a//b')
    # The container is all right, the name of the backup is not.
    with pytest.raises(e.Rejected, match='choose another backup name'):
        claims.take(bucket, f'{raw.prefix}/a\\b')


@on('rclone')
def test_slashes_must_not_be_doubled(raw: Raw) -> None:
    with refused('InvalidArgument'):
        raw.put('a//b')
    with pytest.raises(StorageConfigError):
        check_container('bucket/a//b')


@on('seaweedfs')
def test_a_key_that_ends_with_a_slash_has_no_content(raw: Raw) -> None:
    raw.put('a/', b'content')
    answer = raw.client.get_object(Bucket=raw.bucket, Key='a/')
    assert answer['Body'].read() == b''


@on('seaweedfs', 'rclone')
def test_dots_are_refused(raw: Raw, s3: S3Place) -> None:
    for key in ('./a', 'a/../b'):
        with pytest.raises(botocore.exceptions.ClientError):
            raw.put(key)
    with pytest.raises(StorageConfigError):
        check_container('bucket/../b')


@on('rclone')
def test_long_names_are_refused(raw: Raw, bucket: Bucket) -> None:
    """Here a name between slashes is the name of a directory."""
    claims.take(bucket, f'{raw.prefix}/{"n" * 255}')
    with refused('InternalError'):
        raw.put('n' * 256 + '/claim')
    with pytest.raises(e.ServerError):
        claims.take(bucket, f'{raw.prefix}/{"n" * 256}')


@on('rclone')
def test_a_key_cannot_be_a_folder_too(raw: Raw) -> None:
    raw.put('a')
    with refused('InternalError'):
        raw.put('a/b')


# The rest


@on('swift')
def test_a_batch_of_deletes_needs_content_md5(raw: Raw, bucket: Bucket) -> None:
    keys = [f'{raw.prefix}/{number}' for number in range(3)]
    for key in keys:
        raw.put(key)
    delete = {'Objects': [{'Key': key} for key in keys]}
    # botocore sends a CRC in its place since 1.36.
    raw.client.meta.events.register('before-sign.s3.DeleteObjects', _without_md5)
    with refused('InvalidRequest'):
        raw.client.delete_objects(Bucket=raw.bucket, Delete=delete)
    bucket.delete(keys)
    assert not bucket.objects._batches_refused
    assert raw.keys() == []


def _without_md5(request: Any, **_kwargs: Any) -> None:
    del request.headers['Content-MD5']


@on('swift')
def test_an_unknown_access_key_has_a_wrong_signature(s3: S3Place, raw: Raw) -> None:
    with refused('SignatureDoesNotMatch'):
        s3.server.client(access_key='unknown').list_buckets()
    with pytest.raises(e.BadCredentials):
        s3.repository(access_key='unknown').report()


@on('moto')
def test_any_keys_do(s3: S3Place, raw: Raw) -> None:
    raw.put(raw.key)
    s3.repository(access_key='unknown', secret_key='wrong').report()


@on('moto')
def test_a_wrong_digest_does(raw: Raw) -> None:
    with raw.headers(Content_MD5='XrY7u+Ae7tCTyyK7j1rNww=='):
        raw.put(raw.key, b'something else')
