"""A stored level is opened once: how often a restore and a list ask for each object."""

import collections
from pathlib import Path

import pytest

from freezer.tests import servers
from freezer.tests.agent import Agent, S3Store
from freezer.tests.proxy import Proxy

LEVELS = 3
AGE = ('--encryption', 'age')


@pytest.mark.parametrize('encryption', [(), AGE], ids=['plain', 'age'])
@pytest.mark.parametrize(
    'action, options',
    [
        ('restore', ()),
        ('restore', ('--include', 'file 0')),
        ('restore', ('--overwrite',)),
        ('list', ()),
    ],
    ids=['restore', 'part', 'overwrite', 'list'],
)
def test_each_small_object_is_fetched_once(
    seaweedfs: servers.SeaweedFS,
    tmp_path: Path,
    action: str,
    options: tuple[str, ...],
    encryption: tuple[str, ...],
) -> None:
    (tmp_path / 'pass').write_text('correct horse\n')
    source, target = tmp_path / 'source', tmp_path / 'target'
    source.mkdir()
    with Proxy(seaweedfs.endpoint) as proxy:
        agent = Agent(S3Store(seaweedfs, proxy.endpoint))
        if encryption:
            agent = agent.told('--encrypt-pass-file', tmp_path / 'pass', *encryption)
        for level in range(LEVELS):
            (source / f'file {level}').write_text(f'level {level}')
            agent.increment(source).check()
        target.mkdir()
        if '--overwrite' in options:
            (target / 'in the way').touch()
        proxy.clear()
        if action == 'restore':
            options = ('--restore-abs-path', str(target), *options)
        agent.run(action, *options).check()
        fetched = collections.Counter(
            request.key
            for request in proxy.requests
            if request.operation == 'GetObject'
        )
    part = '--include' in options
    # An encrypted stream has its key at the beginning, which a part does not need.
    once = [
        key for key in fetched if not (part and encryption and key.endswith('/data'))
    ]
    assert {fetched[key] for key in once} == {1}
    names = collections.Counter(key.rpartition('/')[2] for key in fetched)
    assert names['metadata'] == LEVELS
    # Only a restore into an empty directory needs levels of which nothing is left.
    whole = action == 'restore' and not {'--include', '--overwrite'} & {*options}
    assert names['manifest'] == LEVELS or not whole
    # Lists, parts and plans of removals read indexes in place of the engine's files.
    indexed = action == 'list' or part or '--overwrite' in options
    assert names['index'] == (LEVELS if indexed else 0)
    if encryption:
        assert names['identity.age'] == LEVELS
        # A whole restore checks them.
        assert names['engine_metadata'] == (0 if action == 'list' or part else LEVELS)
    else:
        assert names['engine_metadata'] == (0 if indexed else 1)
