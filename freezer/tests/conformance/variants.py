"""Ways to reach a server and to ask it; each has to make no difference.

One list for the suite and for ``tools/matrix.sh``: ``FREEZER_TEST_VARIANT`` chooses the
one in which every test of the suite is run.
"""

import contextlib
import functools
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme

from freezer.tests import servers
from freezer.tests.proxy import Proxy


@dataclass(frozen=True)
class Way:
    """What a storage is given to come to a server.

    :param options: the driver's, by name
    """

    endpoint: str
    proxy: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


# Of a server, and a directory for what it needs.
Variant = Callable[[servers.Server, Path], contextlib.AbstractContextManager[Way]]


@contextlib.contextmanager
def _plain(server: servers.Server, _folder: Path, **options: Any) -> Iterator[Way]:
    yield Way(server.endpoint, options=options)


@contextlib.contextmanager
def _virtual(server: servers.Server, _folder: Path) -> Iterator[Way]:
    """The bucket in the host name, and a proxy to whom that is a name."""
    options = {'s3_addressing_style': 'virtual'}
    with Proxy(server.endpoint) as proxy:
        yield Way(f'http://{servers.DOMAIN}', proxy.endpoint, options)
        domains = {request.host.partition('.')[2] for request in proxy.requests}
        assert domains == {servers.DOMAIN}


@contextlib.contextmanager
def _https(server: servers.Server, folder: Path) -> Iterator[Way]:
    """A certificate of an authority that only the option makes known."""
    authority = trustme.CA()
    bundle = folder / 'authority.pem'
    authority.cert_pem.write_to_path(str(bundle))
    with Proxy(server.endpoint, certified(authority, '127.0.0.1')) as front:
        yield Way(front.endpoint, options={'s3_ca_bundle': str(bundle)})
        assert front.requests


VARIANTS: dict[str, Variant] = {
    'plain': _plain,
    'list-v1': functools.partial(_plain, s3_list_version=1),
    'virtual': _virtual,
    'https': _https,
}


def combinations() -> list[tuple[str, str]]:
    """Each server, with each variant that can be had of it."""
    return [
        (server, variant)
        for server, kind in servers.KINDS.items()
        for variant in VARIANTS
        if variant != 'virtual' or kind.properties.virtual_hosts
    ]


def certified(authority: trustme.CA, *names: str, **times: Any) -> ssl.SSLContext:
    """A server's context with a certificate for these names and addresses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **times).configure_cert(context)
    return context
