"""Replies of FTP servers, and errors of connections, as exceptions of storages."""

import ftplib
import re
import socket
import ssl

from freezer.storage import exceptions as e
from freezer.utils.text import printable

_FULL = re.compile(r'no space|disk.*full|quota|insufficient.*(space|storage)', re.I)
# Replies have the path, and it may have these words.
_OF_PATH = re.compile(
    r'no such|not found|exist|permission denied|not a directory|not empty', re.I
)
_TLS = re.compile(r'\b(tls|ssl|encrypt\w*|secure)\b', re.I)
_TOO_MANY = '421'
_FULL_CODES = ('452', '552')
# X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_OTHER_NAME = (62, 64)
#: the server does not know the command, or not in this form
UNKNOWN_CODES = ('500', '501', '502', '504')
#: a file or folder is not there, or not for this user: the reply does not say which
UNAVAILABLE_CODES = ('450', '501', '521', '550', '553')


def code(error: Exception) -> str:
    """Of a reply that is an error."""
    return str(error)[:3]


def reply(error: Exception) -> str:
    return printable(' '.join(str(error).split()))


def translate(error: Exception, where: str, server: str) -> e.StorageException:
    """The exception for a failed call; the caller chains it.

    :param where: the file, for people
    :param server: user, host and port, for people
    """
    if isinstance(error, e.StorageException):
        return error
    if isinstance(error, ftplib.Error):
        return _refused(error, where, server)
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = 'name its authority with ftp-ca-bundle'
        if error.verify_code in _OTHER_NAME:
            hint = 'ftp-host must be a name in the certificate'
        return e.CertificateError(
            f'the TLS certificate of {server} is not trusted: '
            f'{error.verify_message.rstrip(".")}; {hint}'
        )
    if isinstance(error, ssl.SSLError) and not _is_end(error):
        return e.Rejected(f'{server}: TLS failed: {error.reason or error}')
    if isinstance(error, (OSError, EOFError)):
        return e.Unreachable(f'{server}: {_reason(error)}')
    raise error


def _is_end(error: ssl.SSLError) -> bool:
    """Whether a connection with TLS was cut."""
    ended = isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
    return ended or error.reason == 'UNEXPECTED_EOF_WHILE_READING'


def _refused(error: ftplib.Error, where: str, server: str) -> e.StorageException:
    number = code(error)
    if not number.isdigit():
        return e.Unreachable(f'{server}: not a reply of FTP: {reply(error)}')
    if number == _TOO_MANY:
        return e.Throttled(f'{server} ends the connection: {reply(error)}')
    if is_full(error):
        return no_space(where)
    if number == '522':
        return e.Rejected(
            f'{server} refuses the TLS session of the data connection: {reply(error)}'
        )
    if number == '530':
        return e.AccessDenied(f'{where}: {server} may not do this: {reply(error)}')
    if isinstance(error, ftplib.error_temp):
        return e.ServerError(f'{where}: the server reports: {reply(error)}')
    if number in UNKNOWN_CODES:
        return e.Rejected(
            f'{where}: the server does not support this operation: {reply(error)}'
        )
    return e.Rejected(f'{where}: the server reports: {reply(error)}')


def is_full(error: Exception) -> bool:
    text = str(error)
    if code(error) in _FULL_CODES:
        return True
    return bool(_FULL.search(text)) and not _OF_PATH.search(text)


def no_space(where: str) -> e.StorageException:
    return e.Rejected(
        f'{where}: no space is left on the server: free some, or use another container'
    )


def denied(error: Exception, where: str, server: str) -> e.StorageException:
    return e.AccessDenied(f'{where}: {server} may not do this: {reply(error)}')


def bad_login(error: Exception, server: str, secure: bool) -> e.StorageException:
    if not secure and _TLS.search(str(error)):
        return e.Rejected(
            f'{server} accepts encrypted logins only: {reply(error)}; set storage ftps'
        )
    return e.BadCredentials(
        f'{server} does not accept the login: {reply(error)}; check ftp-username and '
        f'ftp-password'
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return 'no answer in time'
    if isinstance(error, socket.gaierror):
        return f'{error.strerror}; check ftp-host'
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    return 'the connection ended'
