"""Translates answers of Swift, and failed connections, to errors of a storage."""

import errno
import html
import re
from collections.abc import Mapping

import urllib3.exceptions as u

from freezer.storage import exceptions as e
from freezer.utils.http_dates import retry_after
from freezer.utils.text import printable

# HTTP status -> class and advice; others by their hundreds.
_STATUSES: Mapping[int, tuple[type[e.StorageException], str]] = {
    401: (e.BadCredentials, 'the token was rejected: check the credentials'),
    403: (e.AccessDenied, 'check what the user may do in this container'),
    404: (e.NotFound, ''),
    # Swift did not receive the bytes that were sent, or gave up waiting for them.
    408: (e.IncompleteAnswer, ''),
    422: (e.IncompleteAnswer, 'other bytes arrived than were sent'),
    499: (e.IncompleteAnswer, ''),
    # Another request, or a slow repetition of this one, changed it at the same time.
    409: (e.ServerError, ''),
    412: (e.Conflict, ''),
    413: (e.Rejected, 'a quota is used up, or an object would be too large'),
    416: (e.IntegrityError, 'the object is shorter than it was'),
    429: (e.Throttled, ''),
    498: (e.Throttled, ''),
    507: (e.Rejected, 'the store is full'),
}
#: the request id that Swift's log has as well
TRANSACTION = ('x-trans-id', 'x-openstack-request-id')
_LONGEST_REASON = 300
# Texts of OpenSSL for an answer in plain HTTP, of several versions.
_NO_TLS = (
    *('WRONG_VERSION_NUMBER', 'HTTP_REQUEST', 'UNKNOWN_PROTOCOL'),
    *('PACKET_LENGTH_TOO_LONG', 'RECORD_LAYER_FAILURE'),
)
# Of this machine: to try again would fail as well.
_LOCAL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# urllib3 names its objects around the error of the system or of OpenSSL.
_NESTED = re.compile(r'.*?(\[(?:Errno|SSL)[^\]]*\][^\'")]*)')


def of_answer(
    status: int, reason: str, headers: Mapping[str, str], body: bytes, doing: str
) -> e.StorageException:
    """The error for an answer that is none of success.

    :param headers: by their names in lower case
    :param doing: the request, in words
    """
    kind, advice = _STATUSES.get(
        status, (e.ServerError if status >= 500 else e.Rejected, '')
    )
    words = _words(body, reason)
    ids = [headers[name] for name in TRANSACTION if name in headers]
    named = f', {printable(ids[0])[:80]}' if ids else ''
    text = f'{doing}: {status} {words}{named}'
    error = kind(f'{text}; {advice}' if advice else text)
    error.retry_after = retry_after(headers)
    return error


def _words(body: bytes, reason: str) -> str:
    """What the body of an error says: HTML, JSON or text, in one line."""
    text = re.sub(
        r'(?s)<h1>.*?</h1>|<[^>]*>', ' ', body[:4096].decode(errors='replace')
    )
    words = printable(' '.join(html.unescape(text).split())).rstrip('.')
    title = printable(' '.join(reason.split()))
    if title.lower() in words.lower():
        return words[:_LONGEST_REASON]
    return f'{title}: {words}'[:_LONGEST_REASON] if words else title


def of_connection(error: BaseException, doing: str) -> e.StorageException:
    """The error for a connection that failed, or broke."""
    text = reason(error)
    if isinstance(error, u.SSLError):
        if any(known in str(error).upper() for known in _NO_TLS):
            return e.WrongScheme(
                f'{doing}: the server does not speak TLS: check whether its address '
                f'begins with http://'
            )
        return e.CertificateError(
            f'{doing}: TLS failed: {text}; --swift-ca-bundle names a file with the '
            f'certificate of the authority'
        )
    number = _errno(error)
    if number in _LOCAL:
        return e.LocalFailure(f'{doing}: {text}')
    if isinstance(error, u.LocationValueError | u.InvalidHeader | UnicodeError):
        return e.Rejected(f'{doing}: {text}')
    return e.Unreachable(f'{doing}: {text}')


def _errno(error: BaseException | None) -> int | None:
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        error = error.__cause__ or error.__context__
    return None


def reason(error: BaseException) -> str:
    """One line, without the parts that are of no use to the user."""
    if isinstance(error, u.ReadTimeoutError | TimeoutError):
        return 'no answer in time'
    # A refused connection is one as well.
    timed_out = isinstance(error, u.ConnectTimeoutError)
    if timed_out and not isinstance(error, u.NewConnectionError):
        return 'no connection in time'
    text = ' '.join(str(error).split())
    if nested := _NESTED.match(text):
        text = nested[1].strip()
    text = re.sub(r'^<.*?>: ', '', text)
    return printable(text or type(error).__name__).rstrip('.')[:_LONGEST_REASON]
