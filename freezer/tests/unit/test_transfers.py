"""Parts and ranges are requested as botocore's client requests them."""

import io
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from freezer.storage._s3.options import S3Options
from freezer.storage._s3.transport.bucket import Bucket, open_bucket
from freezer.storage.objects import Upload
from freezer.tests.front import OLD_BOTOCORE

# They name the attempt, and the features of botocore that are used.
OF_BOTOCORE = ('amz-sdk-invocation-id', 'amz-sdk-request', 'user-agent')
CONTENT = bytes(range(256)) * 100
KEYS = ('plain', 'a b/ü+%2B/~x', "it's (1)!*", 'two//slashes/', '.../..x')


class Recorder:
    """Records requests in place of sending them."""

    def __init__(self, bucket: Bucket) -> None:
        self.seen: list[dict[str, Any]] = []
        bucket.requests._sender.send = self._send  # type: ignore

    def _send(self, request: Any) -> AWSResponse:
        headers = {
            name.lower(): value.decode() if isinstance(value, bytes) else value
            for name, value in request.headers.items()
            if name.lower() not in OF_BOTOCORE
        }
        path, _, query = request.url.partition('?')
        body = request.body
        self.seen.append(
            {
                'method': request.method,
                'url': path,
                'query': sorted(query.split('&')),
                'body': bytes(body.read() if hasattr(body, 'read') else body or b''),
                'headers': headers,
            }
        )
        answer = AWSResponse(
            request.url,
            200,
            {
                'ETag': '"e"',
                'Content-Length': '2',
                'Content-Range': 'bytes 3-4/100',
            },
            io.BytesIO(b'ab'),
        )
        answer._content = b''
        return answer


def requests(key: str, bucket: Bucket) -> list[dict[str, Any]]:
    recorder = Recorder(bucket)
    upload = Upload(key, 'id/+=&~')
    bucket.upload_part(upload, 12, bytearray(CONTENT))
    bucket.get_range(key, 3, 5, '"e"')
    bucket.get_range(key, 3, 5, None)
    return recorder.seen


def compare(key: str, endpoint: str, **options: Any) -> None:
    ours, theirs = (
        open_bucket('bucket', endpoint, 'ak', 'sk', S3Options(**options))
        for _ in range(2)
    )
    theirs.requests._transfers._direct = False
    if OLD_BOTOCORE and 'checksum' not in options:
        # It adds it to every part.
        ours.requests.parameters.with_md5 = True
    # Signatures have the second in which they are made.
    for _attempt in range(10):
        made = requests(key, ours) + requests(key, theirs)
        if len({_date(request) for request in made}) == 1:
            break
    assert len(made) == 6
    assert made[:3] == made[3:]


def _date(request: dict[str, Any]) -> str:
    headers = request['headers']
    date: str = headers.get('x-amz-date') or headers['date']
    return date


@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize('style', ['path', 'virtual'])
@pytest.mark.parametrize('endpoint', ['http://s3.example.com:9000', 'https://s3.x.net'])
def test_keys(key: str, style: str, endpoint: str) -> None:
    compare(key, endpoint, addressing_style=style)


@pytest.mark.parametrize('endpoint', ['http://[::1]:9000', 'https://s3.x.net'])
@pytest.mark.parametrize(
    'options',
    [
        {'region': 'eu-west-9'},
        {'session_token': 'token/+='},
        {'requester_pays': True},
        {'expected_bucket_owner': '123456789012'},
        {'checksum': 'crc32'},
        {'checksum': 'sha256'},
        {'storage_class': 'GLACIER', 'sse': 'AES256', 'acl': 'private'},
        {'object_lock_mode': 'GOVERNANCE', 'object_lock_days': 1},
        {'signature_version': 's3'},
    ],
    ids=lambda options: next(iter(options)) if isinstance(options, dict) else None,
)
def test_options(options: dict[str, Any], endpoint: str) -> None:
    compare('some/key', endpoint, **options)


def test_a_customer_key(tmp_path: Path) -> None:
    key = tmp_path / 'key'
    key.write_bytes(bytes(range(32)))
    compare('some/key', 'https://s3.x.net', sse_customer_key_file=str(key))
