"""The stores of the benchmark, each over http and over https.

A name with ``-tls`` stands for the same store over https. The null store and the real
stores do TLS themselves, so there is no other process between the tool and the store.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import trustme

from benchmarks.helpers import helper
from benchmarks.peers import Place
from freezer.tests import servers

NULL = 'null'
TLS = '-tls'
# rclone's names of the providers.
_FLAVOURS = {'seaweedfs': 'SeaweedFS', 'ceph': 'Ceph'}
NAMES = tuple(name + tls for name in (*_FLAVOURS, NULL) for tls in ('', TLS))


def kind(name: str) -> str:
    """The name of the store without the protocol."""
    return name.removesuffix(TLS)


def missing(name: str) -> str:
    """The title of a server that is not installed, else nothing."""
    if kind(name) == NULL or servers.KINDS[kind(name)].available():
        return ''
    return servers.KINDS[kind(name)].title


@contextlib.contextmanager
def started(name: str, scratch: Path) -> Iterator[Place]:
    """A new store for each task, because one would fill its disk.

    :param scratch: a directory for the certificates
    """
    authority = certificate = None
    if name.endswith(TLS):
        authority, certificate = scratch / 'authority.pem', scratch / 'certificate.pem'
        issuer = trustme.CA()
        issuer.cert_pem.write_to_path(authority)
        issued = issuer.issue_cert('127.0.0.1', 'localhost')
        issued.private_key_and_cert_chain_pem.write_to_path(certificate)
    if kind(name) == NULL:
        secure = () if certificate is None else ('--certificate', str(certificate))
        with helper('benchmarks.null_store', *secure) as endpoint:
            yield Place(
                endpoint, 'AKFREEZER', 'sk-freezer', 'benchmark', authority=authority
            )
        return
    server: servers.SeaweedFS | servers.CephRGW
    server_class = {'seaweedfs': servers.SeaweedFS, 'ceph': servers.CephRGW}[kind(name)]
    with server_class(certificate=certificate) as server:
        yield Place(
            server.secure_endpoint or server.endpoint,
            server.access_key,
            server.secret_key,
            server.make_bucket('benchmark'),
            flavour=_FLAVOURS[kind(name)],
            authority=authority,
        )
