"""What a store says -> which error, and what its message says."""

import email.utils
import re
import socket
import time
from typing import Any

import pytest
from botocore import exceptions as wire
from botocore.parsers import ResponseParserError
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


ANSWERS = [
    ('NoSuchKey', 404, e.NotFound),
    ('NoSuchBucket', 404, e.BucketNotFound),
    ('NoSuchUpload', 404, e.UploadNotFound),
    ('404', 404, e.NotFound),
    ('SomethingOfNginx', 404, e.NotFound),
    ('InvalidAccessKeyId', 403, e.BadCredentials),
    ('SignatureDoesNotMatch', 403, e.BadCredentials),
    ('ExpiredToken', 400, e.BadCredentials),
    ('401', 401, e.BadCredentials),
    ('AccessDenied', 403, e.AccessDenied),
    ('403', 403, e.AccessDenied),
    ('QuotaExceeded', 403, e.AccessDenied),
    ('RequestTimeTooSkewed', 403, e.ClockSkew),
    ('PreconditionFailed', 412, e.Conflict),
    ('412', 412, e.Conflict),
    ('ConditionalRequestConflict', 409, e.Conflict),
    ('BucketAlreadyExists', 409, e.Conflict),
    ('SlowDown', 503, e.Throttled),
    ('TooManyRequests', 429, e.Throttled),
    ('Anything', 429, e.Throttled),
    ('InternalError', 500, e.ServerError),
    ('InternalError', 200, e.ServerError),
    ('ServiceUnavailable', 503, e.ServerError),
    ('502', 502, e.ServerError),
    ('504', 504, e.ServerError),
    ('Unheard', 599, e.ServerError),
    ('OperationAborted', 409, e.ServerError),
    ('RequestTimeout', 400, e.IncompleteAnswer),
    ('BadDigest', 400, e.IncompleteAnswer),
    ('InvalidRange', 416, e.IntegrityError),
    ('EntityTooSmall', 400, e.Rejected),
    ('InvalidPart', 400, e.Rejected),
    ('MalformedXML', 400, e.Rejected),
    ('NotImplemented', 501, e.Rejected),
    ('PermanentRedirect', 301, e.Rejected),
    ('AuthorizationHeaderMalformed', 400, e.Rejected),
    ('', 418, e.Rejected),
    ('408', 408, e.IncompleteAnswer),
    ('', 429, e.Throttled),
    # Whatever a store calls it, it says that the fault is its own.
    ('AccessDenied', 503, e.ServerError),
    ('NoSuchKey', 500, e.ServerError),
    ('SlowDown', 500, e.Throttled),
    ('SlowDown', 501, e.Rejected),
]


@pytest.mark.parametrize('code, status, expected', ANSWERS)
def test_answers(code: str, status: int, expected: type[Exception]) -> None:
    error = translate(answer(code, status), DOING, ENDPOINT)
    assert type(error) is expected
    for part in (DOING, ENDPOINT, code, 'tx0001-abc', str(status)):
        assert part in error.message


WIRE: list[tuple[Exception, type[Exception]]] = [
    (wire.EndpointConnectionError(endpoint_url=ENDPOINT), e.Unreachable),
    (wire.ConnectTimeoutError(endpoint_url=ENDPOINT), e.Unreachable),
    (wire.ReadTimeoutError(endpoint_url=ENDPOINT), e.Unreachable),
    (wire.ConnectionClosedError(endpoint_url=ENDPOINT), e.Unreachable),
    (wire.ProxyConnectionError(proxy_url='http://proxy'), e.Unreachable),
    (wire.HTTPClientError(error=OSError('x')), e.Unreachable),
    (wire.SSLError(endpoint_url=ENDPOINT, error='WRONG_VERSION'), e.Unreachable),
    (
        wire.SSLError(endpoint_url=ENDPOINT, error='CERTIFICATE_VERIFY_FAILED'),
        e.CertificateError,
    ),
    (
        wire.SSLError(endpoint_url=ENDPOINT, error=CertificateError('other name')),
        e.CertificateError,
    ),
    (wire.ResponseStreamingError(error='broken'), e.IncompleteAnswer),
    (
        wire.IncompleteReadError(actual_bytes=1, expected_bytes=2),
        e.IncompleteAnswer,
    ),
    (ResponseParserError('<html>'), e.ServerError),
    (ConnectionResetError(104, 'Connection reset by peer'), e.Unreachable),
    (socket.gaierror(-2, 'Name or service not known'), e.Unreachable),
    (wire.ParamValidationError(report='Invalid bucket name'), e.Rejected),
]


@pytest.mark.parametrize(
    'error, expected', WIRE, ids=[type(error).__name__ for error, _ in WIRE]
)
def test_what_never_became_an_answer(
    error: Exception, expected: type[Exception]
) -> None:
    translated = translate(error, DOING, ENDPOINT)
    assert type(translated) is expected
    assert DOING in translated.message
    assert ENDPOINT in translated.message


def test_what_was_given_up_on_the_way() -> None:
    error = wire.HTTPClientError(error=e.Cancelled('given up'))
    translated = translate(error, DOING, ENDPOINT)
    assert type(translated) is e.Cancelled
    for part in (DOING, ENDPOINT, 'given up'):
        assert part in translated.message


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


def test_the_innermost_reason_is_told() -> None:
    reason = ConnectionRefusedError(111, 'Connection refused')
    error = wire.EndpointConnectionError(endpoint_url=ENDPOINT, error=reason)
    assert 'Connection refused' in translate(error, DOING, ENDPOINT).message


@pytest.mark.parametrize('before', [Interrupted(15), e.Rejected('what failed first')])
def test_what_went_before_is_not_the_reason(before: BaseException) -> None:
    """A call that fails while it is cleaned up after something else."""
    reason = ConnectionRefusedError(111, 'Connection refused')
    reason.__context__ = before
    error = wire.EndpointConnectionError(endpoint_url=ENDPOINT, error=reason)
    told = translate(error, DOING, ENDPOINT).message
    assert 'cannot be reached: Connection refused; check' in told


@pytest.mark.parametrize('code', [c for c in MEANINGS if MEANINGS[c].advice])
def test_advice_is_in_the_message(code: str) -> None:
    status = int(code) if code.isdigit() else 400
    message = translate(answer(code, status), DOING, ENDPOINT).message
    assert MEANINGS[code].advice in message


@pytest.mark.parametrize(
    'code, message, option',
    [
        ('KMS.NotFoundException', 'no such key', '--s3-sse-kms-key-id'),
        (
            'InvalidRequest',
            'Bucket is missing Object Lock Configuration',
            '--s3-object-lock-mode',
        ),
        (
            'InvalidRequest',
            'Bucket is missing ObjectLockConfiguration',
            '--s3-legal-hold',
        ),
        (
            'InvalidRequest',
            'The object was stored using a form of Server Side Encryption. The correct '
            'parameters must be provided to retrieve the object.',
            '--s3-sse-customer-key-file',
        ),
        (
            'InvalidRequest',
            'The authorization mechanism you have provided is not supported. Please '
            'use AWS4-HMAC-SHA256.',
            '--s3-signature-version',
        ),
        ('InvalidRequest', 'Something else', ''),
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


def test_a_half_empty_answer_has_a_message() -> None:
    error = wire.ClientError({}, 'PutObject')
    translated = translate(error, DOING, ENDPOINT)
    assert DOING in translated.message


def test_no_message_has_the_secret() -> None:
    """Stores answer a wrong signature with all that was signed."""
    error = answer(
        'SignatureDoesNotMatch',
        403,
        StringToSign=f'AWS4 {SECRET}',
        SignatureProvided=SECRET,
        AWSAccessKeyId=SECRET,
    )
    assert SECRET not in translate(error, DOING, ENDPOINT).message


@pytest.mark.parametrize(
    'kind, temporary',
    [
        (e.Unreachable, True),
        (e.Throttled, True),
        (e.ServerError, True),
        (e.IncompleteAnswer, True),
        (e.NotFound, False),
        (e.AccessDenied, False),
        (e.BadCredentials, False),
        (e.Conflict, False),
        (e.CertificateError, False),
        (e.ClockSkew, False),
        (e.Rejected, False),
        (e.IntegrityError, False),
        (e.PartialDelete, False),
        (e.Cancelled, False),
    ],
)
def test_what_may_be_tried_again(
    kind: type[e.StorageException], temporary: bool
) -> None:
    assert kind('x').temporary is temporary


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
