"""Certificates, and that nothing is told to who has the wrong one."""

import datetime
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from freezer.tests import servers, trees
from freezer.tests.agent import Agent, S3Store, missed
from freezer.tests.conformance.variants import certified
from freezer.tests.proxy import Proxy

PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
# How a TLS connection begins.
HANDSHAKE = b'\x16'


class Listener:
    """Notes how each connection begins, and closes it."""

    def __init__(self) -> None:
        self._socket = socket.create_server(('127.0.0.1', 0))
        self.port = self._socket.getsockname()[1]
        self.beginnings: list[bytes] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _address = self._socket.accept()
            except OSError:
                return
            with connection:
                self.beginnings.append(connection.recv(1))

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.mark.parametrize(
    'names, expires, known, says',
    [
        (['127.0.0.1'], None, False, 'give its authority with --s3-ca-bundle'),
        (['elsewhere.test'], None, True, 'check --endpoint'),
        (['127.0.0.1'], PAST, True, 'certificate has expired'),
    ],
    ids=['untrusted', 'another host', 'expired'],
)
def test_27_invalid_certificate_is_refused(
    seaweedfs: servers.SeaweedFS,
    authority: trustme.CA,
    bundle: Path,
    source: Path,
    tmp_path: Path,
    names: list[str],
    expires: datetime.datetime | None,
    known: bool,
    says: str,
) -> None:
    context = certified(authority, *names, not_after=expires)
    with Proxy(seaweedfs.endpoint, context) as front:
        store = S3Store(seaweedfs, front.endpoint)
        agent = Agent(store)
        checking = agent.told('--s3-ca-bundle', bundle) if known else agent
        target = tmp_path / 'target'
        for result in (
            checking.backup(source),
            checking.restore(target),
            checking.run('info'),
        ):
            error = result.only_error
            assert says in error
            assert front.endpoint in error
            # Where the authority is known, it is not that.
            assert ('--s3-ca-bundle' in error) is not known
            # It would be the same again.
            assert 'gave up' not in error
        # Not even the name of the bucket was told.
        assert front.requests == []
        assert store.is_untouched()
        assert not target.exists()
        # Only who asks for it gets it.
        agent.told('--insecure').backup(source).check()


def test_27_certificate_of_a_given_authority_is_accepted(
    seaweedfs: servers.SeaweedFS,
    authority: trustme.CA,
    bundle: Path,
    source: Path,
    tmp_path: Path,
) -> None:
    target = tmp_path / 'target'
    with Proxy(seaweedfs.endpoint, certified(authority, '127.0.0.1')) as front:
        agent = Agent(S3Store(seaweedfs, front.endpoint))
        agent = agent.told('--s3-ca-bundle', bundle)
        agent.backup(source).check()
        agent.restore(target).check()
        assert front.requests
    assert missed(trees.describe(source), target) == []


def test_27_https_never_falls_back_to_http(
    seaweedfs: servers.SeaweedFS, source: Path, listener: Listener
) -> None:
    endpoint = f'https://127.0.0.1:{listener.port}'
    agent = Agent(S3Store(seaweedfs, endpoint), options=['--s3-retry-budget', '2'])
    assert endpoint in agent.backup(source).only_error
    assert set(listener.beginnings) == {HANDSHAKE}


def test_27_redirect_from_https_to_http_is_refused(
    seaweedfs: servers.SeaweedFS,
    authority: trustme.CA,
    bundle: Path,
    source: Path,
    listener: Listener,
) -> None:
    with Proxy(seaweedfs.endpoint, certified(authority, '127.0.0.1')) as front:
        store = S3Store(seaweedfs, front.endpoint)
        elsewhere = f'http://127.0.0.1:{listener.port}/'
        front.change(
            lambda _request: True,
            lambda reply: reply.but(
                status=307, body=b'', content_length='0', location=elsewhere
            ),
        )
        agent = Agent(store, options=['--s3-ca-bundle', bundle])
        assert front.endpoint in agent.backup(source).only_error
        assert listener.beginnings == []
        assert store.markers() == []
