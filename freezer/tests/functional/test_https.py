"""https, beyond what ``test_s3_options.py`` has of its options.

Certificates that do not hold are in ``faults/test_tls.py``.
"""

from pathlib import Path

import trustme

from freezer.tests import servers
from freezer.tests.agent import Agent, S3Store, in_parts
from freezer.tests.conformance.variants import certified
from freezer.tests.proxy import Proxy


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
