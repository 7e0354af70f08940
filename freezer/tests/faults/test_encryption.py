"""Row 51: a wrong passphrase, and what was changed, are told before success is."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from freezer.tests import servers, trees
from freezer.tests.agent import Agent, S3Store, missed, private

FORMATS = ['openssl', 'age']
NAME = 'the name of a file'


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    return private(tmp_path / 'pass', 'correct horse battery staple\n')


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / 'source'
    path.mkdir()
    # More than a chunk of the format age.
    (path / NAME).write_bytes(os.urandom(200_000))
    return path


def refused(agent: Agent, store: S3Store, target: Path) -> str:
    """The one line of a restore that fails; the backups stay what they are."""
    markers = store.markers()
    result = agent.restore(target)
    assert 'Restored' not in result.err
    error = result.error
    assert store.markers() == markers
    return error


def change(store: S3Store, path: str, position: int) -> str:
    """Change a bit; return the path."""
    content = bytearray(store.files()[path])
    content[position] ^= 0x01
    store.put(path, bytes(content))
    return path


def names(store: S3Store, level: int) -> dict[str, str]:
    """Last part of a path of a level -> the path."""
    return {
        path.rpartition('/')[2]: path
        for path in store.files()
        if path.split('/')[4].startswith(f'{level}_')
    }


@pytest.mark.parametrize('encryption', FORMATS)
def test_51_wrong_passphrase(
    store: S3Store, source: Path, passphrase: Path, tmp_path: Path, encryption: str
) -> None:
    told = Agent(store).told('--encryption', encryption)
    agent = told.told('--encrypt-pass-file', passphrase)
    agent.increment(source).check()
    state = trees.describe(source)
    wrong = private(tmp_path / 'wrong', 'correct horse battery stable\n')
    files = store.files()
    for other in (told.told('--encrypt-pass-file', wrong), Agent(store)):
        error = refused(other, store, tmp_path / 'target')
        assert 'passphrase' in error
        assert 'correct horse' not in error
        target = tmp_path / 'target'
        assert not target.exists() or list(target.iterdir()) == []
    if encryption == 'age':
        # The other format has nothing to tell it by.
        result = told.told('--encrypt-pass-file', wrong).increment(source)
        assert 'identity.age' in result.only_error
    assert store.files() == files
    agent.restore(tmp_path / 'target').check()
    assert missed(state, tmp_path / 'target') == []


Change = Callable[[S3Store], str]


def in_file(name: str, level: int, position: int) -> Change:
    return lambda store: change(store, names(store, level)[name], position)


def in_the_marker(store: S3Store) -> str:
    path = names(store, 1)['metadata']
    return change(store, path, store.files()[path].index(b'"seal"') + 200)


def no_end(store: S3Store) -> str:
    """At the border of a chunk, by somebody who knows what a manifest is."""
    path = names(store, 0)['data']
    unsigned(store)
    store.put(path, store.files()[path][: 184 + 2 * (65536 + 16)])
    return path.rpartition('/')[0]


def exchanged(store: S3Store) -> str:
    """The streams of two levels, by such a one."""
    one, other = names(store, 0)['data'], names(store, 1)['data']
    unsigned(store)
    files = store.files()
    store.put(one, files[other])
    store.put(other, files[one])
    return one.rpartition('/')[0]


def unsigned(store: S3Store) -> None:
    """As if Freezer 19 had made it: the digests are asked no more."""
    for path in store.markers():
        content = store.files()[path]
        start = content.index(b', "manifest": ')
        store.put(path, content[:start] + b'}')


@pytest.fixture(scope='module')
def chain(
    seaweedfs: servers.SeaweedFS, tmp_path_factory: pytest.TempPathFactory
) -> Agent:
    """Two levels that restore, for tests that put back what they change."""
    folder = tmp_path_factory.mktemp('chain')
    source = folder / 'source'
    source.mkdir()
    words = private(folder / 'pass', 'correct horse battery staple\n')
    options = ('--encryption', 'age', '--encrypt-pass-file', words)
    agent = Agent(S3Store(seaweedfs)).told(*options)
    for name in (NAME, 'more'):
        # More than a chunk.
        (source / name).write_bytes(os.urandom(200_000))
        agent.increment(source).check()
    agent.restore(folder / 'target').check()
    assert missed(trees.describe(source), folder / 'target') == []
    return agent


@pytest.mark.parametrize(
    'act',
    [
        in_file('data', 1, -1),
        in_file('engine_metadata', 0, -1),
        *(in_the_marker, no_end, exchanged),
    ],
)
def test_51_changed_by_somebody(chain: Agent, tmp_path: Path, act: Change) -> None:
    store = chain.store
    assert isinstance(store, S3Store)
    before = store.files()
    try:
        where = act(store)
        assert where in refused(chain, store, tmp_path / 'target')
    finally:
        for path, content in before.items():
            store.put(path, content)


def test_51_corrupted_openssl(
    store: S3Store, source: Path, passphrase: Path, tmp_path: Path
) -> None:
    """Digests tell of accidents; who changes them as well is only found out by what the
    stream is made of."""
    agent = Agent(store).told('--encrypt-pass-file', passphrase)
    agent.backup(source).check()
    before = store.files()
    path = names(store, 0)['data']
    change(store, path, 100_000)
    assert path in refused(agent, store, tmp_path / 'target')
    unsigned(store)
    assert 'gzip stream is damaged' in refused(agent, store, tmp_path / 'other')
    for name, content in before.items():
        store.put(name, content)
    agent.restore(tmp_path / 'again').check()
    assert missed(trees.describe(source), tmp_path / 'again') == []
