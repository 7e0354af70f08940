"""What a store says -> which error, and what its message says."""

import email.utils
import errno
import http.client
import re
import socket
import ssl
import time
from typing import Any

import pytest
from botocore import exceptions as wire
from botocore.parsers import ResponseParserError
from urllib3.exceptions import LocationParseError
from urllib3.util.ssl_match_hostname import CertificateError

from freezer.storage import exceptions as e
from freezer.storage._s3.transport.errors import MEANINGS, RIGHTS, translate
from freezer.tests.agent import ROOT
from freezer.utils.signals import Interrupted

DOING = 'put s3://bucket/some/key'
ENDPOINT = 'https://s3.example.com:8443'
SECRET = 'sk/very+secret'


def answer(code: str, status: int = 400, **detail: str) -> wire.ClientError:
    error: Any = {'Code': code, 'Message': 'what the store says', **detail}
    meta: Any = {'HTTPStatusCode': status, 'RequestId': 'tx0001-abc'}
    return wire.ClientError({'Error': error, 'ResponseMetadata': meta}, 'PutObject')


ANSWERS = {
    e.NotFound: 'NoSuchKey 404 | 404 404 | SomethingOfNginx 404',
    e.BucketNotFound: 'NoSuchBucket 404',
    e.UploadNotFound: 'NoSuchUpload 404',
    e.BadCredentials: 'InvalidAccessKeyId 403 | SignatureDoesNotMatch 403'
    '| ExpiredToken 400 | 401 401',
    e.AccessDenied: 'AccessDenied 403 | 403 403 | QuotaExceeded 403',
    e.ClockSkew: 'RequestTimeTooSkewed 403',
    e.Conflict: 'PreconditionFailed 412 | 412 412 | ConditionalRequestConflict 409'
    '| BucketAlreadyExists 409',
    # Whatever a store calls it, a 5xx says that the fault is its own.
    e.Throttled: 'SlowDown 503 | TooManyRequests 429 | Anything 429 | SlowDown 500'
    '| 429',
    e.ServerError: 'InternalError 500 | InternalError 200 | ServiceUnavailable 503'
    '| 502 502 | 504 504 | Unheard 599 | OperationAborted 409 | AccessDenied 503'
    '| NoSuchKey 500',
    e.IncompleteAnswer: 'RequestTimeout 400 | BadDigest 400 | 408 408',
    e.IntegrityError: 'InvalidRange 416',
    e.Rejected: 'EntityTooSmall 400 | InvalidPart 400 | MalformedXML 400'
    '| NotImplemented 501 | PermanentRedirect 301 | AuthorizationHeaderMalformed 400'
    '| 418 | SlowDown 501',
}


@pytest.mark.parametrize(
    'told, expected',
    [(told, kind) for kind, all_ in ANSWERS.items() for told in all_.split('|')],
)
def test_answers(told: str, expected: type[Exception]) -> None:
    *codes, status = told.split()
    error = translate(answer(' '.join(codes), int(status)), DOING, ENDPOINT)
    assert type(error) is expected
    for part in (DOING, ENDPOINT, *codes, 'tx0001-abc', status):
        assert part in error.message


def said_by_the_server() -> Exception:
    error = http.client.BadStatusLine('HTTP/1.1 abc')
    error.__context__ = ValueError('invalid literal for int()')
    return error


WIRE: dict[type[Exception], list[Exception]] = {
    e.Unreachable: [
        wire.EndpointConnectionError(endpoint_url=ENDPOINT),
        wire.ConnectTimeoutError(endpoint_url=ENDPOINT),
        wire.ReadTimeoutError(endpoint_url=ENDPOINT),
        wire.ConnectionClosedError(endpoint_url=ENDPOINT),
        wire.ProxyConnectionError(proxy_url='http://proxy'),
        wire.HTTPClientError(error=OSError('x')),
        wire.SSLError(endpoint_url=ENDPOINT, error='WRONG_VERSION'),
        ConnectionResetError(104, 'Connection reset by peer'),
        # What a server says: http.client makes it of a ValueError.
        wire.ConnectionClosedError(endpoint_url=ENDPOINT, error=said_by_the_server()),
        wire.HTTPClientError(error=said_by_the_server()),
        # What a firewall says.
        wire.HTTPClientError(error=OSError(errno.EPERM, 'Operation not permitted')),
        wire.HTTPClientError(error=ssl.SSLCertVerificationError('x')),
        socket.gaierror(-2, 'Name or service not known'),
    ],
    e.CertificateError: [
        wire.SSLError(endpoint_url=ENDPOINT, error='CERTIFICATE_VERIFY_FAILED'),
        wire.SSLError(endpoint_url=ENDPOINT, error=CertificateError('other name')),
    ],
    e.IncompleteAnswer: [
        wire.ResponseStreamingError(error='broken'),
        wire.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    ],
    e.ServerError: [ResponseParserError('<html>')],
    e.Rejected: [
        wire.ParamValidationError(report='Invalid bucket name'),
        wire.ClientError({}, 'PutObject'),
    ],
    e.Cancelled: [wire.HTTPClientError(error=e.Cancelled('given up'))],
    e.LocalFailure: [
        wire.HTTPClientError(error=ValueError(f'Invalid header value {SECRET}')),
        wire.HTTPClientError(error=UnicodeError(f'label empty or too long {SECRET}')),
        wire.HTTPClientError(error=TypeError(f'cannot send {SECRET}')),
        wire.HTTPClientError(error=LocationParseError(SECRET)),
        wire.HTTPClientError(error=OSError(errno.ENOSPC, 'No space left on device')),
        wire.EndpointConnectionError(
            endpoint_url=ENDPOINT, error=OSError(errno.EMFILE, 'Too many open files')
        ),
        wire.SSLError(
            endpoint_url=ENDPOINT, error=FileNotFoundError(errno.ENOENT, 'No such file')
        ),
        OSError(errno.EMFILE, 'Too many open files'),
        PermissionError(errno.EACCES, 'Permission denied', '/a/file'),
    ],
}


@pytest.mark.parametrize(
    'error, expected', [(error, kind) for kind, all_ in WIRE.items() for error in all_]
)
def test_errors_of_botocore(error: Exception, expected: type[Exception]) -> None:
    translated = translate(error, DOING, ENDPOINT)
    assert type(translated) is expected
    for part in (DOING, ENDPOINT, 'given up' if expected is e.Cancelled else ''):
        assert part in translated.message
    assert SECRET not in translated.message


NOW = 1_700_000_000
DATES = {
    seconds: email.utils.formatdate(NOW + seconds, usegmt=True)
    for seconds in (-60, 0, 60, 10**6)
}


@pytest.mark.parametrize(
    'headers, seconds',
    [
        ({'retry-after': '0'}, 0),
        ({'retry-after': ' 120 '}, 120),
        ({'retry-after': DATES[60], 'date': DATES[0]}, 60),
        ({'retry-after': DATES[60], 'date': DATES[-60]}, 120),
        ({'retry-after': DATES[10**6], 'date': 'today'}, 10**6),
        ({'retry-after': DATES[60]}, 60),
        ({'retry-after': DATES[-60]}, 0),
        ({'retry-after': 'soon'}, None),
        ({'retry-after': '-1'}, None),
        ({'retry-after': ''}, None),
        ({'retry-after': 'Mon, 32 Foo 2023 25:00:00 GMT'}, None),
        ({}, None),
    ],
    ids=repr,
)
def test_retry_after(
    headers: dict[str, str], seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds or a date, which is by the store's clock where that is told."""
    monkeypatch.setattr(time, 'time', lambda: NOW)
    error = answer('SlowDown', 503)
    error.response['ResponseMetadata']['HTTPHeaders'] = headers
    assert translate(error, DOING, ENDPOINT).retry_after == seconds


@pytest.mark.parametrize(
    'before', [None, Interrupted(15), e.Rejected('what failed first')]
)
def test_the_innermost_reason_is_in_the_message(before: BaseException | None) -> None:
    """But not the error that was being handled when the call failed."""
    reason = ConnectionRefusedError(111, 'Connection refused')
    reason.__context__ = before
    error = wire.EndpointConnectionError(endpoint_url=ENDPOINT, error=reason)
    message = translate(error, DOING, ENDPOINT).message
    assert 'cannot be reached: Connection refused; check' in message


@pytest.mark.parametrize('code', [c for c in MEANINGS if MEANINGS[c].advice])
def test_advice_is_in_the_message(code: str) -> None:
    status = int(code) if code.isdigit() else 400
    message = translate(answer(code, status), DOING, ENDPOINT).message
    assert MEANINGS[code].advice in message


REFUSED = 'InvalidRequest'
NO_LOCK = 'Bucket is missing'


@pytest.mark.parametrize(
    'code, message, option',
    [
        ('KMS.NotFoundException', 'no such key', '--s3-sse-kms-key-id'),
        (REFUSED, f'{NO_LOCK} Object Lock Configuration', '--s3-object-lock-mode'),
        (REFUSED, f'{NO_LOCK} ObjectLockConfiguration', '--s3-legal-hold'),
        (
            REFUSED,
            'The object was stored using a form of Server Side Encryption. The correct '
            'parameters must be provided to retrieve the object.',
            '--s3-sse-customer-key-file',
        ),
        (
            REFUSED,
            'The authorization mechanism you have provided is not supported. Please '
            'use AWS4-HMAC-SHA256.',
            '--s3-signature-version',
        ),
        (REFUSED, 'Something else', ''),
    ],
)
def test_the_option_a_refusal_is_about(code: str, message: str, option: str) -> None:
    error = translate(answer(code, Message=message), DOING, ENDPOINT)
    assert type(error) is e.Rejected
    assert option in error.message
    assert bool(option) == ('--s3-' in error.message)


@pytest.mark.parametrize('operation, right', RIGHTS.items())
def test_the_right_that_is_missing_is_named(operation: str, right: str) -> None:
    detail: Any = answer('AccessDenied', 403).response
    error = translate(wire.ClientError(detail, operation), DOING, ENDPOINT)
    assert type(error) is e.AccessDenied
    assert error.message.endswith(f'in this bucket: it needs {right}')


def test_the_region_a_store_names_is_told() -> None:
    error = answer('AuthorizationHeaderMalformed', Region='eu-west-9')
    assert 'eu-west-9' in translate(error, DOING, ENDPOINT).message


def test_no_message_has_the_secret() -> None:
    """Stores answer a wrong signature with all that was signed."""
    told = {'StringToSign': f'AWS4 {SECRET}', 'SignatureProvided': SECRET}
    error = answer('SignatureDoesNotMatch', 403, **told, AWSAccessKeyId=SECRET)
    assert SECRET not in translate(error, DOING, ENDPOINT).message


def test_what_may_be_tried_again() -> None:
    kinds: set[Any] = {*ANSWERS, *WIRE, e.PartialDelete}
    again = {e.Unreachable, e.Throttled, e.ServerError, e.IncompleteAnswer}
    assert {kind for kind in kinds if kind('x').temporary} == again


def written() -> dict[str, str]:
    """code -> again, final or once, as the documentation has it."""
    page = (ROOT / 'doc/source/reference/s3-errors.rst').read_text()
    rows = re.findall(r'^   \* - ((?:.+\n)+?)     - (again|final|once)$', page, re.M)
    return {
        code: kind for codes, kind in rows for code in re.findall('``(.+?)``', codes)
    }


def test_the_documentation_says_what_is_final() -> None:
    kinds: dict[Any, str] = {e.ClockSkew: 'once'}
    assert written() == {
        code: kinds.get(error, 'again' if error.temporary else 'final')
        for code, (error, _advice) in MEANINGS.items()
    }
