"""Clients are made from less of botocore's data, and send the same requests."""

import itertools
from pathlib import Path
from typing import Any

import botocore.awsrequest
import botocore.config
import botocore.exceptions
import botocore.loaders
import botocore.session
import pytest

from freezer.storage._s3.options import S3Options
from freezer.storage._s3.transport.client import Credentials, make_client

ACCESS_KEY, SECRET_KEY, TOKEN = 'AKFREEZER', 'sk/freezer+secret', 'token=='
ENDPOINTS = (
    'http://127.0.0.1:9000',
    'http://[::1]:9000',
    'http://localhost:9000/below/a/path',
    'https://s3.example.com',
    'https://s3.example.com:8443/path/',
    'https://s3.eu-west-1.amazonaws.com',
    'https://s3.dualstack.eu-west-1.amazonaws.com',
    'https://s3-fips.us-gov-west-1.amazonaws.com',
    'https://s3-accelerate.amazonaws.com',
    'https://bucket.vpce-1a2b-3c4d.s3.us-east-1.vpce.amazonaws.com',
)
REGIONS = (
    *('us-east-1', 'eu-west-1', 'aws-global', 'us-gov-west-1', 'cn-north-1'),
    *('s3-external-1', 'fips-us-gov-west-1', 'default', 'RegionOne', 'eu-nowhere-7'),
)
STYLES = ('path', 'virtual')
BUCKETS = ('bucket', 'dotted.bucket')
KEY = 'a/prefix with spaces/ü+~'
CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ('head_bucket', {}),
    ('list_objects_v2', {'Prefix': KEY, 'MaxKeys': 7}),
    ('get_object', {'Key': KEY, 'Range': 'bytes=0-9', 'IfMatch': '"etag"'}),
    ('put_object', {'Key': KEY, 'Body': b'content'}),
    ('create_multipart_upload', {'Key': KEY, 'Metadata': {'token': 'x'}}),
    ('upload_part', {'Key': KEY, 'UploadId': 'u', 'PartNumber': 1, 'Body': b'content'}),
)


class _Captured(Exception):
    """Carries a request that is not sent."""


def _capture(request: botocore.awsrequest.AWSPreparedRequest, **_rest: Any) -> None:
    headers = {name: _text(value) for name, value in request.headers.items()}
    # Random; and botocore's log of where keys come from.
    for name in ('amz-sdk-invocation-id', 'User-Agent'):
        headers.pop(name)
    raise _Captured(request.method, request.url, headers)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _requests(client: Any, bucket: str) -> list[Any]:
    """The requests of every call, or their errors."""
    client.meta.events.register_first('before-send.s3', _capture)
    found: list[Any] = []
    for name, arguments in CALLS:
        try:
            getattr(client, name)(Bucket=bucket, **arguments)
        except _Captured as captured:
            found.append(captured.args)
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            found.append(str(error))
    return found


@pytest.fixture(scope='module')
def session() -> botocore.session.Session:
    """A plain one, which caches what it has read."""
    plain = botocore.session.Session()
    plain.set_credentials(ACCESS_KEY, SECRET_KEY, TOKEN)
    return plain


def _both(
    session: botocore.session.Session, endpoint: str, bucket: str, options: S3Options
) -> tuple[list[Any], list[Any]]:
    ours = make_client(Credentials(ACCESS_KEY, SECRET_KEY, options), endpoint, options)
    plain = session.create_client(
        's3', region_name=options.region, endpoint_url=endpoint, config=ours.meta.config
    )
    return _requests(ours, bucket), _requests(plain, bucket)


@pytest.mark.parametrize('endpoint', ENDPOINTS)
def test_requests_are_those_of_a_plain_client(
    session: botocore.session.Session, endpoint: str
) -> None:
    cases = itertools.product(STYLES, BUCKETS, ('s3v4', 's3'))
    first = ENDPOINTS.index(endpoint)
    regions = (*REGIONS[first:], *REGIONS[:first])
    for (style, bucket, version), region in zip(cases, regions, strict=False):
        options = S3Options(
            session_token=TOKEN,
            region=region,
            addressing_style=style,
            signature_version=version,
        )
        ours, plain = _both(session, endpoint, bucket, options)
        while _dates(ours) != _dates(plain):
            ours, plain = _both(session, endpoint, bucket, options)
        if version == 's3':
            # Ours corrects these signatures.
            for request in (*ours, *plain):
                if isinstance(request, tuple):
                    request[2].pop('Authorization')
        assert ours == plain


def _dates(requests: list[Any]) -> set[str]:
    """The seconds in which they were signed."""
    return {
        request[2].get('X-Amz-Date') or request[2].get('Date', '')
        for request in requests
        if isinstance(request, tuple)
    }


def test_data_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of AWS's endpoints is the largest file of botocore, and not needed."""
    read = set()
    load = botocore.loaders.JSONFileLoader.load_file

    def recorded(self: Any, path: str) -> Any:
        if (found := load(self, path)) is not None:
            read.add(Path(path).name)
        return found

    monkeypatch.setattr(botocore.loaders.JSONFileLoader, 'load_file', recorded)
    options = S3Options()
    make_client(Credentials('a', 'b', options), 'http://127.0.0.1:1', options)
    assert 'service-2' in read
    assert 'endpoints' not in read
