"""Translates errors of stores and botocore to :mod:`freezer.storage.exceptions`."""

import time
from collections.abc import Mapping
from typing import NamedTuple

from botocore import exceptions as wire

from freezer.storage import exceptions as e
from freezer.storage._s3.transport.clock import epoch


class Meaning(NamedTuple):
    """What an error code means: its class, and what to do about it."""

    error: type[e.StorageException]
    advice: str = ''


_KEYS = 'check the access key and the secret key'
_REGION = 'set --s3-region to the region the store names'

MEANINGS: dict[str, Meaning] = {
    # There is no such thing.
    'NoSuchKey': Meaning(e.NotFound),
    'NotFound': Meaning(e.NotFound),
    '404': Meaning(e.NotFound),
    'NoSuchBucket': Meaning(e.BucketNotFound, 'check --container and --endpoint'),
    'NoSuchUpload': Meaning(e.UploadNotFound),
    # Who asks.
    'InvalidAccessKeyId': Meaning(e.BadCredentials, _KEYS),
    'SignatureDoesNotMatch': Meaning(e.BadCredentials, _KEYS),
    'InvalidToken': Meaning(e.BadCredentials, 'check the session token'),
    'ExpiredToken': Meaning(e.BadCredentials, 'get a new session token'),
    'AccessDenied': Meaning(
        e.AccessDenied, 'check the keys and what they are allowed to do in this bucket'
    ),
    '403': Meaning(
        e.AccessDenied, 'check the keys and what they are allowed to do in this bucket'
    ),
    '401': Meaning(e.BadCredentials, _KEYS),
    'RequestTimeTooSkewed': Meaning(
        e.ClockSkew, "set this machine's clock: the store refuses its time"
    ),
    'InvalidObjectState': Meaning(
        e.Archived,
        'its storage class is an archive: restore the objects of this backup there '
        '(RestoreObject), then try again',
    ),
    # Something else is there.
    'PreconditionFailed': Meaning(e.Conflict, 'the object was replaced meanwhile'),
    '412': Meaning(e.Conflict, 'the object was replaced meanwhile'),
    'ConditionalRequestConflict': Meaning(e.Conflict),
    'BucketAlreadyExists': Meaning(
        e.Conflict, 'the name belongs to somebody else: choose another bucket'
    ),
    'BucketAlreadyOwnedByYou': Meaning(e.Conflict),
    # Later.
    'SlowDown': Meaning(e.Throttled),
    'TooManyRequests': Meaning(e.Throttled),
    'Throttling': Meaning(e.Throttled),
    'RequestLimitExceeded': Meaning(e.Throttled),
    '429': Meaning(e.Throttled),
    'OperationAborted': Meaning(e.ServerError),
    '499': Meaning(e.ServerError),
    'InternalError': Meaning(e.ServerError),
    'ServiceUnavailable': Meaning(e.ServerError),
    # The bytes did not arrive as they were sent.
    'RequestTimeout': Meaning(e.IncompleteAnswer),
    '408': Meaning(e.IncompleteAnswer),
    'IncompleteBody': Meaning(e.IncompleteAnswer),
    'BadDigest': Meaning(e.IncompleteAnswer),
    'XAmzContentSHA256Mismatch': Meaning(e.IncompleteAnswer),
    'InvalidRange': Meaning(e.IntegrityError, 'the object is shorter than it was'),
    '416': Meaning(e.IntegrityError, 'the object is shorter than it was'),
    'XAmzContentChecksumMismatch': Meaning(e.IncompleteAnswer),
    # What options ask for.
    'InvalidStorageClass': Meaning(
        e.Rejected, 'the store has no such class: see --s3-storage-class'
    ),
    'InvalidTag': Meaning(e.Rejected, 'see --s3-tags'),
    'AccessControlListNotSupported': Meaning(
        e.Rejected, 'the bucket takes no access lists: leave --s3-acl out'
    ),
    'KMS.ThrottlingException': Meaning(e.Throttled),
    # Wrong place.
    'SecondLevelDomainForbidden': Meaning(
        e.Rejected, 'set --s3-addressing-style virtual'
    ),
    'PermanentRedirect': Meaning(e.Rejected, _REGION),
    'AuthorizationHeaderMalformed': Meaning(e.Rejected, _REGION),
    'IllegalLocationConstraintException': Meaning(e.Rejected, _REGION),
    '301': Meaning(e.Rejected, _REGION),
    '307': Meaning(e.Rejected, _REGION),
}

# An answer to HEAD has no body: where the bucket is, a header says.
_WITHOUT_REASON = frozenset({'301', '307', '400'})

# What the keys have to be allowed, by operation, in the words of a policy.
_GET = (
    's3:GetObject, and where s3:ListBucket is not allowed what is not there is refused '
    'like this too'
)
RIGHTS = {
    'HeadBucket': 's3:ListBucket',
    'ListObjects': 's3:ListBucket',
    'ListObjectsV2': 's3:ListBucket',
    'ListObjectVersions': 's3:ListBucketVersions',
    'ListMultipartUploads': 's3:ListBucketMultipartUploads',
    'ListParts': 's3:ListMultipartUploadParts',
    'HeadObject': _GET,
    'GetObject': _GET,
    'PutObject': 's3:PutObject',
    'CreateMultipartUpload': 's3:PutObject',
    'UploadPart': 's3:PutObject',
    'CompleteMultipartUpload': 's3:PutObject',
    'AbortMultipartUpload': 's3:AbortMultipartUpload',
    'DeleteObject': 's3:DeleteObject',
    'DeleteObjects': 's3:DeleteObject',
    'CreateBucket': 's3:CreateBucket',
    'PutObjectRetention': 's3:PutObjectRetention',
    'PutObjectLegalHold': 's3:PutObjectLegalHold',
    'PutObjectTagging': 's3:PutObjectTagging',
    'GetBucketVersioning': 's3:GetBucketVersioning',
    'GetObjectLockConfiguration': 's3:GetBucketObjectLockConfiguration',
}

_NOT_ARRIVED = frozenset({'RequestTimeout', 'IncompleteBody'})
# Errors that come with status 200 or 500 as well: a Complete is answered before it is
# done (Swift).
_REFUSED_LATE = frozenset({'InvalidPart', 'InvalidPartOrder', 'EntityTooSmall'})


class Refusal(NamedTuple):
    """That a store will not do what it was asked, in its own words."""

    code: str
    status: int

    def __str__(self) -> str:
        return f'{self.code}, HTTP {self.status}' if self.status else self.code


def refusal(error: wire.ClientError) -> Refusal | None:
    """The refusal in a store's answer; None where the same may be granted at another
    time, or to other keys."""
    code, status, meaning = _meaning(error)
    later = (e.Unreachable, e.Throttled, e.ServerError, e.BadCredentials, e.ClockSkew)
    if code in _REFUSED_LATE:
        return Refusal(code, status)
    if code in _NOT_ARRIVED or status == 408 or issubclass(meaning.error, later):
        return None
    return Refusal(code or 'no reason given', status) if status >= 400 else None


def wants_md5(error: Exception) -> bool:
    """Whether a request was refused because it had no Content-MD5."""
    if not isinstance(error, wire.ClientError):
        return False
    message = str(error.response.get('Error', {}).get('Message') or '')
    return _meaning(error)[1] == 400 and 'content-md5' in message.lower()


def translate(error: Exception, doing: str, endpoint: str) -> e.StorageException:
    """The storage error for what a call raised.

    :param doing: what was tried and where: ``put s3://bucket/key``
    :returns: an error that names operation, bucket, key, endpoint and request id; the
        caller raises it ``from`` the original
    """
    where = f'{doing} at {endpoint}'
    if isinstance(error, wire.ClientError):
        return _from_answer(error, where)
    if isinstance(error, wire.SSLError) and (advice := _of_certificate(error)):
        return e.CertificateError(
            f"{where}: the server's certificate is not trusted: {_reason(error)}; "
            f'{advice}'
        )
    if isinstance(error, wire.ReadTimeoutError | wire.ConnectTimeoutError):
        return e.Unreachable(
            f'{where}: no answer in time; check --endpoint, and --s3-read-timeout'
        )
    if isinstance(error, wire.ResponseStreamingError | wire.IncompleteReadError):
        return e.IncompleteAnswer(f'{where}: the answer ended early')
    given_up = getattr(error, 'kwargs', {}).get('error')
    if isinstance(given_up, e.Cancelled):
        return e.Cancelled(f'{where}: {given_up.message}')
    if isinstance(error, wire.HTTPClientError | wire.ConnectionError):
        return e.Unreachable(
            f'{where}: cannot be reached: {_reason(error)}; check --endpoint, --proxy '
            f'and the network'
        )
    if type(error).__name__ == 'ResponseParserError':
        return e.ServerError(
            f'{where}: the answer is not what S3 answers; check --endpoint and --proxy'
        )
    if isinstance(error, OSError):
        return e.Unreachable(f'{where}: {_reason(error)}')
    return e.Rejected(f'{where}: {_reason(error)}')


def _from_answer(error: wire.ClientError, where: str) -> e.StorageException:
    answer = error.response
    detail = answer.get('Error', {})
    meta = answer.get('ResponseMetadata', {})
    code, status, meaning = _meaning(error)
    message = str(detail.get('Message') or '')
    headers = meta.get('HTTPHeaders', {})
    region = detail.get('Region')
    if not meaning.advice:
        meaning = meaning._replace(advice=_advice(code, message))
    if code in _WITHOUT_REASON:
        region = headers.get('x-amz-bucket-region')
        if region and not meaning.advice:
            meaning = meaning._replace(advice=_REGION)
    right = RIGHTS.get(str(getattr(error, 'operation_name', '')))
    if meaning.error is e.AccessDenied and right:
        meaning = meaning._replace(advice=f'{meaning.advice}: it takes {right}')
    said = ' '.join(part for part in (code, message) if part and part != 'Unknown')
    request = meta.get('RequestId') or meta.get('HostId') or 'unknown'
    line = f'{where}: {said or "failed"} (HTTP {status}, request {request})'
    if region:
        line += f'; the bucket is in region {region}'
    made = meaning.error(f'{line}; {meaning.advice}' if meaning.advice else line)
    made.retry_after = _retry_after(headers)
    return made


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; None where the store asks for nothing, or for nothing we can read."""
    asked = headers.get('retry-after', '').strip()
    if asked.isdecimal():
        return float(asked)
    moment = epoch(asked)
    if moment is None:
        return None
    # By the store's clock, where it tells its time.
    now = epoch(headers.get('date', ''))
    return max(0.0, moment - (time.time() if now is None else now))


def _meaning(error: wire.ClientError) -> tuple[str, int, Meaning]:
    """Error code, HTTP status, and what they mean."""
    answer = error.response
    code = str(answer.get('Error', {}).get('Code') or '')
    status = int(answer.get('ResponseMetadata', {}).get('HTTPStatusCode') or 0)
    meaning = MEANINGS.get(code) or MEANINGS.get(str(status))
    if meaning is None:
        meaning = Meaning(e.ServerError if status >= 500 else e.Rejected)
    if status == 501:
        meaning = Meaning(e.Rejected, 'the store does not implement this')
    elif status >= 500 and not meaning.error.temporary:
        # Whatever it calls it: it says that the fault is its own.
        meaning = Meaning(e.ServerError)
    return code, status, meaning


# How codes of many meanings begin, what the message has, and what to do.
_OF_OPTIONS = (
    ('KMS.', '', 'see --s3-sse-kms-key-id, and what the keys may do with it'),
    ('', 'object lock', 'see --s3-object-lock-mode and --s3-legal-hold'),
    ('', 'objectlock', 'see --s3-object-lock-mode and --s3-legal-hold'),
    ('', 'server side encryption', 'see --s3-sse-customer-key-file and --s3-sse'),
    ('', 'server-side encryption', 'see --s3-sse-customer-key-file and --s3-sse'),
    ('', 'use aws4-hmac-sha256', 'set --s3-signature-version s3v4'),
)


def _advice(code: str, message: str) -> str:
    """Which option a refusal is about, where the store says so in words only."""
    for start, text, advice in _OF_OPTIONS:
        if code.startswith(start) and text in message.lower():
            return advice
    return ''


def _of_certificate(error: wire.SSLError) -> str:
    """What to do about a certificate; empty where TLS failed for another reason."""
    said = f'{error} {_reason(error)}'
    # urllib3 compares names by itself.
    if type(_innermost(error)).__name__ == 'CertificateError' or 'mismatch' in said:
        return 'it is for another host: check --endpoint'
    if 'CERTIFICATE' not in said.upper():
        return ''
    if 'expired' in said:
        return "it has to be renewed there, unless it is this machine's clock"
    return 'give its authority with --s3-ca-bundle'


def _reason(error: Exception) -> str:
    """The innermost cause's text."""
    inner = _innermost(error)
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return str(inner) or type(inner).__name__


def _innermost(error: Exception) -> Exception:
    """Where it began: botocore wraps urllib3 wraps the system."""
    inner = error
    seen = {id(inner)}
    while True:
        following = inner.__cause__ or inner.__context__
        wrapped = getattr(inner, 'reason', None) or getattr(inner, 'kwargs', {}).get(
            'error'
        )
        if isinstance(wrapped, BaseException) and id(wrapped) not in seen:
            following = wrapped
        if not isinstance(following, Exception) or id(following) in seen:
            break
        if isinstance(following, e.StorageException):
            # What is being cleaned up after is not the reason of what happens then; nor
            # is a signal, which is no Exception.
            break
        seen.add(id(following))
        inner = following
    return inner
