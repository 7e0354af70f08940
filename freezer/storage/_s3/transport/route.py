"""The way to a store: the proxy, if there is one, and whether the scheme is right."""

import socket
import urllib.parse

from botocore import exceptions as wire
from botocore.utils import get_environ_proxies

from freezer.storage.exceptions import StorageConfigError

# Seconds for the TLS handshake that shows the protocol of a server.
_PATIENCE = 2.0
# Texts of OpenSSL for an answer in plain HTTP, of several versions.
_NO_TLS = (
    *('WRONG_VERSION_NUMBER', 'HTTP_REQUEST', 'UNKNOWN_PROTOCOL'),
    *('PACKET_LENGTH_TOO_LONG', 'RECORD_LAYER_FAILURE'),
)


class Route:
    """How requests get to a store.

    :param proxy: URL of the option; without it, the environment's counts
    :ivar proxy: the one that is used, without user and password; empty for none
    :ivar answered: whether a request has succeeded
    :raises StorageConfigError: the proxy is of an unknown kind
    """

    def __init__(self, endpoint: str, proxy: str | None) -> None:
        self._url = urllib.parse.urlsplit(endpoint)
        used = proxy_of(endpoint, proxy)
        self.proxy = _without_user(used)
        kind, found, _rest = used.partition('://')
        if found and kind.lower() not in ('http', 'https'):
            # botocore would take the kind for the name of a host.
            raise StorageConfigError(
                f'the proxy {self.proxy} for {endpoint} (the variable '
                f'{self._url.scheme}_proxy of the environment) is none for HTTP: set '
                f'--proxy http://host:port, or the variable no_proxy'
            )
        self.answered = False
        self._asked = False

    def is_wrong_scheme(self, error: Exception) -> bool:
        """Whether a request failed because the server speaks the other of http and
        https."""
        if self.proxy or self.answered:
            return False
        if self._url.scheme == 'https':
            # Nothing is ever sent there without TLS, not even a question.
            text = str(error).upper()
            return isinstance(error, wire.SSLError) and any(t in text for t in _NO_TLS)
        if self._asked or not _may_be_tls(error):
            return False
        # The server is asked, once, as most of them just close the connection.
        self._asked = True
        address = self._url.hostname or '', self._url.port or 80
        try:
            with socket.create_connection(address, _PATIENCE) as connection:
                return _speaks_tls(connection)
        except (OSError, ValueError):
            return False


def proxy_of(endpoint: str, given: str | None) -> str:
    """URL of the proxy to an endpoint; empty for none.

    :param given: URL of the option; without it, the environment's counts
    """
    scheme = urllib.parse.urlsplit(endpoint).scheme
    found = given or get_environ_proxies(endpoint).get(scheme) or ''
    return found if '://' in found or not found else f'http://{found}'


def _speaks_tls(connection: socket.socket) -> bool:
    # Takes 5 ms to import, and is seldom needed.
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        # Nothing is sent over it.
        with context.wrap_socket(connection):
            return True
    except ssl.SSLError as refused:
        # It wants something else of it, such as a client's certificate.
        return 'alert' in str(refused).lower()


def _may_be_tls(error: Exception) -> bool:
    """Whether a server that speaks TLS may have caused it."""
    if isinstance(error, wire.ClientError):
        meta = error.response.get('ResponseMetadata', {})
        headers = meta.get('HTTPHeaders', {})
        # No store: those name each request.
        named = any(name.startswith('x-amz-') for name in headers)
        return meta.get('HTTPStatusCode') == 400 and not named
    return isinstance(error, wire.HTTPClientError) or (
        type(error).__name__ == 'ResponseParserError'
    )


def _without_user(url: str) -> str:
    """A URL without user and password; it may lack a scheme."""
    scheme, found, rest = url.rpartition('://')
    authority, slash, path = rest.partition('/')
    return f'{scheme}{found}{authority.rpartition("@")[2]}{slash}{path}'.rstrip('/')
