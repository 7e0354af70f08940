"""Pools of connections: a body goes to the socket piece by piece.

So a rate limit holds from second to second, a cancelled upload stops where it is, and a
slow connection only has to make progress in time, while the usual ``sendall`` has to
end in time.
"""

import http.client
import os
import socket
import ssl
import urllib.parse
from typing import Any

import urllib3
import urllib3.connection
import urllib3.util.ssl_

from freezer.storage.exceptions import Rejected
from freezer.storage.http.wire import Wire

# OpenSSL only returns when it has sent a whole block, in records of 16 KiB.
_TLS_BLOCK = 256 * 1024
# How many times a server may say that it will answer. Most say it once, or never.
_MAX_INTERIM = 20


def open_pools(
    wire: Wire,
    connections: int,
    patience: float,
    context: ssl.SSLContext | None,
    proxy: str,
) -> urllib3.PoolManager:
    """Connections to one server, kept while they are not used.

    :param connections: how many are kept
    :param patience: seconds in which something of a body has to be sent
    :param context: None if neither server nor proxy speaks TLS
    :param proxy: URL; empty for none
    """
    settings: dict[str, Any] = {'maxsize': connections}
    if context is not None:
        checks = context.verify_mode != ssl.CERT_NONE
        settings['cert_reqs'] = 'CERT_REQUIRED' if checks else 'CERT_NONE'
        settings['ssl_context'] = context
    manager: urllib3.PoolManager
    if proxy:
        user = urllib.parse.urlsplit(proxy)
        if user.username is not None:
            pair = f'{user.username}:{user.password or ""}'
            settings['proxy_headers'] = urllib3.make_headers(
                proxy_basic_auth=urllib.parse.unquote(pair)
            )
        if user.scheme == 'https':
            settings['proxy_ssl_context'] = context
        manager = urllib3.ProxyManager(proxy, **settings)
    else:
        manager = urllib3.PoolManager(**settings)
    manager.pool_classes_by_scheme = _pool_kinds(wire, patience)
    return manager


def tls_context(checked: bool, bundle: str | None = None) -> ssl.SSLContext:
    """How certificates are checked.

    :param checked: False: not at all
    :param bundle: file or directory with authorities; None for those of the system
    :raises OSError: the file cannot be read, or has no certificate
    """
    context: ssl.SSLContext = urllib3.util.ssl_.create_urllib3_context()
    if not checked:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif bundle is None:
        context.load_default_certs()
    elif os.path.isdir(bundle):
        context.load_verify_locations(capath=bundle)
    else:
        context.load_verify_locations(bundle)
    return context


def target(url: str, proxy: str) -> str:
    """What the first line of a request names."""
    parts = urllib.parse.urlsplit(url)
    if proxy and parts.scheme == 'http':
        return url
    return (parts.path or '/') + (f'?{parts.query}' if parts.query else '')


class _Response(http.client.HTTPResponse):
    """An answer, before which a server may only say a few times that it will come."""

    _interim = 0

    def _read_status(self) -> tuple[str, int, str]:
        found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
        if found[1] == http.client.CONTINUE:
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                raise Rejected(
                    'the server says 100 Continue again and again: check the '
                    'endpoint and --proxy'
                )
        return found


def _pool_kinds(wire: Wire, patience: float) -> dict[str, Any]:
    """urllib3's pools, of connections that send bodies as the wire allows.

    :param patience: seconds in which something of a body has to be sent
    """

    class InPieces(http.client.HTTPConnection):
        response_class = _Response

        def send(self, data: Any) -> None:
            # Only bodies are.
            if not isinstance(data, memoryview):
                super().send(data)
                return
            connection = self.sock
            connection.settimeout(patience)
            plain = type(connection) is socket.socket
            step = wire.send_size if plain else min(wire.send_size, _TLS_BLOCK)
            position = 0
            while position < len(data):
                piece = data[position : position + step]
                wire.sending(len(piece))
                position += connection.send(piece)

    class Http(InPieces, urllib3.connection.HTTPConnection):
        pass

    class Https(InPieces, urllib3.connection.HTTPSConnection):
        pass

    class HttpPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Http

    class HttpsPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Https

    return {'http': HttpPool, 'https': HttpsPool}


def receive(body: Any, view: memoryview) -> int:
    """Read from the body of an answer into memory; the number of bytes, 0 at its end.

    urllib3 cannot read into existing memory: its own ``readinto`` allocates for each
    block and copies it. http.client below it can, and counts the bytes of the body as
    well.

    :raises OSError, HTTPError: the connection broke
    """
    source = _source(body)
    if source is None:
        block: bytes = body.read(len(view))
        view[: len(block)] = block
        return len(block)
    return source.readinto(view)


def close(body: Any) -> None:
    """Close an answer; keep the connection if its body was read to its end."""
    source = _source(body)
    if source is not None and source.isclosed():
        body.release_conn()
    body.close()


def _source(body: Any) -> http.client.HTTPResponse | None:
    """The answer of http.client below that of urllib3."""
    source = getattr(body, '_fp', None)
    return source if isinstance(source, http.client.HTTPResponse) else None
