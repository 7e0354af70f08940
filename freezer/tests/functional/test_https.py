"""https, beyond what ``test_s3_options.py`` has of its options."""

import datetime
from pathlib import Path

import pytest
import trustme

from freezer.tests import servers
from freezer.tests.agent import Agent, S3Store, in_parts
from freezer.tests.conformance.variants import certified
from freezer.tests.proxy import Proxy

PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    'names, expires, says',
    [
        (['elsewhere.test'], None, 'check --endpoint'),
        (['127.0.0.1'], PAST, 'certificate has expired'),
    ],
    ids=['another host', 'expired'],
)
def test_a_certificate_that_does_not_hold(
    seaweedfs: servers.SeaweedFS,
    authority: trustme.CA,
    bundle: Path,
    source: Path,
    names: list[str],
    expires: datetime.datetime | None,
    says: str,
) -> None:
    context = certified(authority, *names, not_after=expires)
    with Proxy(seaweedfs.endpoint, context) as front:
        agent = Agent(S3Store(seaweedfs, front.endpoint))
        error = agent.told('--s3-ca-bundle', bundle).backup(source).only_error
        assert says in error
        assert front.endpoint in error
        # The authority is known: it is not that.
        assert '--s3-ca-bundle' not in error
        assert 'gave up' not in error
        # Not even the name of the bucket was told.
        assert front.requests == []
        # Only who asks for it gets it.
        agent.told('--insecure').backup(source).check()


def test_buckets_in_host_names_through_a_proxy(
    seaweedfs: servers.SeaweedFS,
    authority: trustme.CA,
    bundle: Path,
    big: Path,
    tmp_path: Path,
) -> None:
    """The proxy gets to know the name, and nothing else."""
    domain = servers.DOMAIN
    context = certified(authority, domain, f'*.{domain}')
    with Proxy(seaweedfs.endpoint, context) as front, Proxy(front.endpoint) as proxy:
        store = S3Store(seaweedfs, f'https://{domain}')
        options = ('--s3-addressing-style', 'virtual', '--s3-ca-bundle', bundle)
        agent = Agent(store).told(*options, '--proxy', proxy.endpoint)
        in_parts(agent).backup(big).check()
        agent.restore(tmp_path / 'target').check()
        restored = tmp_path / 'target' / 'file'
        assert restored.read_bytes() == (big / 'file').read_bytes()
        asked = {(request.method, request.host) for request in proxy.requests}
        assert asked == {('CONNECT', f'{store.bucket}.{domain}:443')}
        hosts = {request.host for request in front.requests}
        assert hosts == {f'{store.bucket}.{domain}'}
