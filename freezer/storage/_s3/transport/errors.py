"""Translates errors of stores and botocore to :mod:`freezer.storage.exceptions`."""

import errno
import http.client
import traceback
import urllib.parse
from typing import NamedTuple

from botocore import exceptions as wire
from urllib3.exceptions import HTTPError

from freezer.storage import exceptions as e
from freezer.utils.http_dates import retry_after
from freezer.utils.text import printable, shortened


class Meaning(NamedTuple):
    """What an error code means: its class, and what to do about it."""

    error: type[e.StorageException]
    advice: str = ''


_KEYS = 'check the access key and the secret key'
_PERMISSION = 'check the keys and what they are allowed to do in this bucket'
_CLOCK = "set this machine's clock: the store refuses its time"
_ARCHIVED = (
    'its storage class is an archive: restore the objects of this backup there '
    '(RestoreObject), then try again'
)
_REPLACED = 'the object was replaced meanwhile'
_NAME_TAKEN = 'the name belongs to somebody else: choose another bucket'
_SHORTER = 'the object is shorter than it was'
_NO_CLASS = 'the store has no such class: see --s3-storage-class'
_NO_ACL = 'the bucket takes no access lists: leave --s3-acl out'
_VIRTUAL = 'set --s3-addressing-style virtual'
_REGION = 'set --s3-region to the region the store names'

# Error class, advice, and the codes or HTTP statuses that mean this.
_TABLE: tuple[tuple[type[e.StorageException], str, str], ...] = (
    (e.NotFound, '', 'NoSuchKey NotFound 404'),
    (e.BucketNotFound, 'check --container and --endpoint', 'NoSuchBucket'),
    (e.UploadNotFound, '', 'NoSuchUpload'),
    (e.BadCredentials, _KEYS, 'InvalidAccessKeyId SignatureDoesNotMatch 401'),
    (e.BadCredentials, 'check the session token', 'InvalidToken'),
    (e.BadCredentials, 'get a new session token', 'ExpiredToken'),
    (e.AccessDenied, _PERMISSION, 'AccessDenied 403'),
    (e.ClockSkew, _CLOCK, 'RequestTimeTooSkewed'),
    (e.Archived, _ARCHIVED, 'InvalidObjectState'),
    (e.Conflict, _REPLACED, 'PreconditionFailed 412'),
    (e.Conflict, '', 'ConditionalRequestConflict BucketAlreadyOwnedByYou'),
    (e.Conflict, _NAME_TAKEN, 'BucketAlreadyExists'),
    (e.Throttled, '', 'SlowDown TooManyRequests Throttling RequestLimitExceeded 429'),
    (e.Throttled, '', 'KMS.ThrottlingException'),
    (e.ServerError, '', 'InternalError ServiceUnavailable OperationAborted 499'),
    # The store did not receive the bytes that were sent.
    (e.IncompleteAnswer, '', 'RequestTimeout 408 IncompleteBody BadDigest'),
    (e.IncompleteAnswer, '', 'XAmzContentSHA256Mismatch XAmzContentChecksumMismatch'),
    (e.IntegrityError, _SHORTER, 'InvalidRange 416'),
    (e.Rejected, _NO_CLASS, 'InvalidStorageClass'),
    (e.Rejected, 'see --s3-tags', 'InvalidTag'),
    (e.Rejected, _NO_ACL, 'AccessControlListNotSupported'),
    (e.Rejected, _VIRTUAL, 'SecondLevelDomainForbidden'),
    (e.Rejected, _REGION, 'PermanentRedirect AuthorizationHeaderMalformed 301 307'),
    (e.Rejected, _REGION, 'IllegalLocationConstraintException'),
)
MEANINGS = {
    code: Meaning(error, advice)
    for error, advice, codes in _TABLE
    for code in codes.split()
}

# The answer to a HEAD has no body; a header says in which region the bucket is.
_WITHOUT_REASON = frozenset({'301', '307', '400'})

# The permission an operation needs, as policies name it.
_GET = (
    's3:GetObject; without s3:ListBucket, the store refuses missing objects like this '
    'too'
)
_OF_THE_SAME_NAME = (
    'PutObject AbortMultipartUpload DeleteObject CreateBucket PutObjectRetention '
    'PutObjectLegalHold PutObjectTagging GetBucketVersioning'
)
RIGHTS = {operation: f's3:{operation}' for operation in _OF_THE_SAME_NAME.split()} | {
    'HeadBucket': 's3:ListBucket',
    'ListObjects': 's3:ListBucket',
    'ListObjectsV2': 's3:ListBucket',
    'ListObjectVersions': 's3:ListBucketVersions',
    'ListMultipartUploads': 's3:ListBucketMultipartUploads',
    'ListParts': 's3:ListMultipartUploadParts',
    'HeadObject': _GET,
    'GetObject': _GET,
    'CreateMultipartUpload': 's3:PutObject',
    'UploadPart': 's3:PutObject',
    'CompleteMultipartUpload': 's3:PutObject',
    'DeleteObjects': 's3:DeleteObject',
    'GetObjectLockConfiguration': 's3:GetBucketObjectLockConfiguration',
}

_NOT_ARRIVED = frozenset({'RequestTimeout', 'IncompleteBody'})
# May come with status 200 or 500: Swift answers a Complete before it is done.
_REFUSED_LATE = frozenset({'InvalidPart', 'InvalidPartOrder', 'EntityTooSmall'})


class Refusal(NamedTuple):
    """A store's refusal, in its own words."""

    code: str
    status: int

    def __str__(self) -> str:
        return f'{self.code}, HTTP {self.status}' if self.status else self.code


def refusal(error: wire.ClientError) -> Refusal | None:
    """The refusal in an answer; None if it may be granted later or to other keys."""
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


def translate(
    error: Exception, doing: str, endpoint: str, proxy: str = ''
) -> e.StorageException:
    """The StorageException for what a call raised.

    :param doing: what was tried and where: ``put s3://bucket/key``
    :param proxy: URL of the proxy that was used, without a password
    :returns: an error that names operation, bucket, key, endpoint and request id; the
        caller raises it ``from`` the original
    """
    where = f'{doing} at {endpoint}'
    if proxy:
        where += f' through the proxy {proxy}'
    if isinstance(error, wire.ClientError):
        return _from_answer(error, where)
    ours = getattr(error, 'kwargs', {}).get('error')
    if isinstance(ours, e.StorageException):
        # Of the code that sends and receives.
        return type(ours)(f'{where}: {ours.message}')
    if type(error).__name__ == 'ResponseParserError':
        return e.ServerError(f'{where}: {_NOT_S3}')
    if is_of_parser(error):
        return e.MalformedAnswer(f'{where}: {_NOT_S3}')
    if reason := _on_this_machine(error):
        return e.LocalFailure(f'{where}: {reason}')
    if isinstance(error, wire.ProxyConnectionError) and _PLAIN_PROXY in str(error):
        return e.WrongScheme(f'{where}: the proxy speaks http: set --proxy http://…')
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
    if isinstance(error, wire.HTTPClientError | wire.ConnectionError):
        return e.Unreachable(
            f'{where}: cannot be reached: {_reason(error)}; check --endpoint, --proxy '
            f'and the network'
        )
    if isinstance(error, OSError):
        return e.Unreachable(f'{where}: {_reason(error)}')
    return e.Rejected(f'{where}: {_reason(error)}')


_NOT_S3 = 'the answer is not what S3 answers; check --endpoint and --proxy'
# Its text in urllib3.
_PLAIN_PROXY = 'appears to only use HTTP and not HTTPS'
# Resources of this machine. Other system errors are those of the network.
_LACKS = {
    errno.EMFILE: 'raise its limit of open files (ulimit -n)',
    errno.ENFILE: 'too many files are open on it',
    errno.ENOMEM: 'it is out of memory',
    errno.ENOSPC: 'free some space',
    errno.EROFS: 'write it elsewhere',
    errno.EINVAL: 'check --endpoint and --proxy',
    errno.EAFNOSUPPORT: 'it has no network of that kind',
}


def is_of_parser(error: Exception) -> bool:
    """Whether botocore failed to read a value in an answer, e.g. a date.

    It raises whatever the conversion raised.
    """
    frames = (frame for frame, _line in traceback.walk_tb(error.__traceback__))
    return any(
        frame.f_globals.get('__name__') == 'botocore.parsers' for frame in frames
    )


def _on_this_machine(error: Exception) -> str:
    """What failed here, and what to do; empty if the network or the store failed.

    Without the text of errors that may repeat a header.
    """
    inner = _innermost(error)
    if isinstance(inner, OSError):
        of_file = isinstance(
            inner, FileNotFoundError | NotADirectoryError | IsADirectoryError
        )
        if of_file or inner.filename is not None or inner.errno in _LACKS:
            name = f'{inner.filename}: ' if inner.filename is not None else ''
            advice = _LACKS.get(inner.errno or 0, 'check --s3-ca-bundle')
            return f'failed on this machine: {name}{inner.strerror}; {advice}'
    # botocore wraps every exception of its HTTP client alike.
    wrapped = type(error) is wire.HTTPClientError
    cause = getattr(error, 'kwargs', {}).get('error') if wrapped else error
    local = isinstance(cause, ValueError) and not isinstance(cause, OSError)
    expected = OSError | HTTPError | http.client.HTTPException
    if wrapped and isinstance(cause, Exception):
        local |= not isinstance(cause, expected)
    if local:
        return (
            f'the request could not be made on this machine ({type(cause).__name__}): '
            f'check the options of the storage for characters that a header or a URL '
            f'cannot have'
        )
    return ''


def wrong_scheme(endpoint: str) -> str:
    """What to do if a server speaks the other of http and https."""
    scheme, _, rest = endpoint.partition('://')
    other = 'http' if scheme == 'https' else 'https'
    return f'the server speaks {other} there: set --endpoint {other}://{rest}'


# Characters of a store's own words.
_LONGEST_REASON = 1_000


def _from_answer(error: wire.ClientError, where: str) -> e.StorageException:
    answer = error.response
    detail = answer.get('Error', {})
    meta = answer.get('ResponseMetadata', {})
    code, status, (kind, advice) = _meaning(error)
    message = shortened(str(detail.get('Message') or ''), _LONGEST_REASON)
    headers = meta.get('HTTPHeaders', {})
    region = detail.get('Region')
    advice = advice or _advice(code, message)
    if code in _WITHOUT_REASON:
        region = headers.get('x-amz-bucket-region')
        advice = advice or (_REGION if region else '')
    right = RIGHTS.get(str(getattr(error, 'operation_name', '')))
    if kind is e.AccessDenied and right:
        advice += f': it needs {right}'
    parts = shortened(code, _LONGEST_REASON), message
    reason = ' '.join(part for part in parts if part and part != 'Unknown')
    request = meta.get('RequestId') or meta.get('HostId') or 'unknown'
    line = f'{where}: {reason or "failed"} (HTTP {status}, request {request})'
    if region:
        line += f'; the bucket is in region {region}'
    if 300 <= status < 400 and (location := _origin(headers.get('location', ''))):
        # Not followed: the keys are not for another server.
        line += f'; it points to {location}'
        advice = advice if region else 'if that is your store, set --endpoint to it'
    made = kind(f'{line}; {advice}' if advice else line)
    made.retry_after = retry_after(headers)
    return made


def _origin(url: str) -> str:
    """A URL without user, password and query; empty if it is none."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return ''
    if not parts.hostname:
        return ''
    host = parts.netloc.rpartition('@')[2]
    text = printable(f'{parts.scheme or "http"}://{host}{parts.path}')
    return shortened(text, _LONGEST_REASON)


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
        # Whatever the code, the store says that it is its own failure.
        meaning = Meaning(e.ServerError)
    return code, status, meaning


# Start of the code, a part of the message, and the advice.
_OF_OPTIONS = (
    ('KMS.', '', 'see --s3-sse-kms-key-id, and what the keys may do with it'),
    ('', 'object lock', 'see --s3-object-lock-mode and --s3-legal-hold'),
    ('', 'objectlock', 'see --s3-object-lock-mode and --s3-legal-hold'),
    ('', 'server side encryption', 'see --s3-sse-customer-key-file and --s3-sse'),
    ('', 'server-side encryption', 'see --s3-sse-customer-key-file and --s3-sse'),
    ('', 'use aws4-hmac-sha256', 'set --s3-signature-version s3v4'),
)


def _advice(code: str, message: str) -> str:
    """Names the option a refusal is about, if only the message tells."""
    for start, text, advice in _OF_OPTIONS:
        if code.startswith(start) and text in message.lower():
            return advice
    return ''


def _of_certificate(error: wire.SSLError) -> str:
    """What to do about a certificate; empty if TLS failed for another reason."""
    text = f'{error} {_reason(error)}'
    # urllib3 compares the names itself.
    if type(_innermost(error)).__name__ == 'CertificateError' or 'mismatch' in text:
        return 'it is for another host: check --endpoint'
    if 'CERTIFICATE' not in text.upper():
        return ''
    if 'expired' in text:
        return "it has to be renewed there, unless it is this machine's clock"
    return 'give its authority with --s3-ca-bundle'


def _reason(error: Exception) -> str:
    """The innermost cause's text."""
    inner = _innermost(error)
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return str(inner) or type(inner).__name__


def _innermost(error: Exception) -> Exception:
    """The original error: botocore wraps urllib3, which wraps the system's."""
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
            # The error that is being cleaned up after is not the reason; nor is a
            # signal, which is no Exception.
            break
        seen.add(id(following))
        inner = following
    return inner
