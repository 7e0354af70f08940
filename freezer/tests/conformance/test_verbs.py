"""What the driver asks of a store, verb by verb, on every server."""

import random

import pytest

from freezer.storage import claims
from freezer.storage import exceptions as e
from freezer.storage._s3.transport.bucket import Bucket
from freezer.storage.objects import Upload
from freezer.tests.conformance.checks import asks_conditional_writes
from freezer.tests.conformance.places import PART, S3Place
from freezer.tests.conftest import on_servers

NOISE = random.Random(30).randbytes(PART)


def test_a_bucket_that_is_there(bucket: Bucket) -> None:
    """Another agent may have made it in between."""
    assert bucket.exists()
    bucket.create()


def test_a_claim(s3: S3Place, bucket: Bucket) -> None:
    """One object where only one agent can write it, and else one of each agent."""
    folder = f'{s3.prefix}/folder'
    taken = claims.take(bucket, folder)
    asked = asks_conditional_writes(s3.server.client())
    honoured = asked and s3.server.properties.conditional_put
    assert (taken.key == f'{folder}/claim') is honoured
    assert taken.is_held(bucket)
    with pytest.raises(e.Conflict):
        claims.take(bucket, folder)


def test_a_replaced_object_is_not_read_on(s3: S3Place, bucket: Bucket) -> None:
    key = f'{s3.prefix}/key'
    s3.write('key', b'0123456789')
    etag = bucket.head(key).etag
    assert bytes(bucket.get_range(key, 2, 5, etag)) == b'234'
    s3.write('key', b'9876543210')
    with pytest.raises(e.Conflict):
        bucket.get_range(key, 5, 8, etag)


def test_open_uploads(s3: S3Place, bucket: Bucket) -> None:
    def listed(prefix: str) -> set[Upload]:
        return {opened.upload for opened in bucket.list_uploads(prefix)}

    assert listed('') == set()
    one, other = (bucket.create_upload(f'{s3.prefix}/{n}', 'token') for n in 'ab')
    assert listed(f'{s3.prefix}/') == {one, other}
    assert listed(one.key) == {one}
    bucket.upload_part(one, 1, b'content')
    assert bucket.parts(one).size == 7
    for _ in range(2):
        bucket.abort(one)
        assert listed('') == {other}
    with pytest.raises(e.NotFound):
        bucket.parts(one)
    bucket.abort(other)
    assert listed('') == set()


def test_a_completed_upload(s3: S3Place, bucket: Bucket) -> None:
    upload = bucket.create_upload(f'{s3.prefix}/key', 'token')
    parts = [NOISE, b'the end']
    sent = [bucket.upload_part(upload, *part) for part in enumerate(parts, 1)]
    content = b''.join(parts)
    etag = bucket.complete(upload, sent, len(content), 'token')
    assert etag == bucket.head(upload.key).etag
    # As when the first answer was lost.
    assert bucket.complete(upload, sent, len(content), 'token') == etag
    bucket.abort(upload)
    assert bucket.get_range(upload.key, 0, len(content), etag) == content
    assert list(bucket.list_uploads('')) == []
    bucket.delete([upload.key])
    assert s3.files() == {}


@on_servers(lambda kind: kind.properties.part_limit is not None)
def test_a_part_beyond_the_limit(s3: S3Place, bucket: Bucket) -> None:
    upload = bucket.create_upload(f'{s3.prefix}/key', 'token')
    limit = s3.server.properties.part_limit
    assert limit is not None
    with pytest.raises(e.Rejected, match=f'{limit} parts.*set --s3-max-parts'):
        bucket.upload_part(upload, limit + 1, b'x')
    bucket.upload_part(upload, limit, b'x')
    bucket.abort(upload)
