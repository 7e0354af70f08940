"""``--action verify --verify-data`` reads archives as a restore does, and compares them
with their indexes."""

import os
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest

from freezer.engine.index.record import Record, removed
from freezer.tests import handmade, trees
from freezer.tests.agent import Agent, LocalStore, Result, S3Store, private
from freezer.tests.archives import END, ESCAPES, directory, member, symlink
from freezer.tests.proxy import Proxy

ROUNDS = 4
NOT_READ = 'Only the stored bytes of 2 backups were checked, not the archive: '


def verify(agent: Agent) -> Result:
    return agent.run('verify', '--verify-data', '--json')


def problems(result: Result) -> dict[int, list[str]]:
    """What is said of each level."""
    return {
        entry['level']: [problem['what'] for problem in entry['problems']]
        for entry in result.document['backups']
    }


@pytest.fixture
def chain(local: Agent, tmp_path: Path) -> Agent:
    """Three levels; the first has "same", "old" and "folder"."""
    source = tmp_path / 'tree'
    (source / 'folder').mkdir(parents=True)
    (source / 'same').write_text('same')
    (source / 'old').write_text('old')
    (source / 'large').write_bytes(random.Random(7).randbytes(9 << 20))
    local.increment(source).check()
    (source / 'old').unlink()
    (source / 'folder' / 'new').write_text('new')
    local.increment(source).check()
    (source / 'newer').write_text('newer')
    local.increment(source).check()
    return local


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize(
    'options',
    [('none',), ('gzip',), ('bzip2',), ('xz',), ('gzip', 'openssl'), ('xz', 'age')],
    ids='-'.join,
)
def test_nothing_is_wrong_with_what_the_agent_makes(
    local: Agent, tmp_path: Path, seed: int, options: tuple[str, ...]
) -> None:
    compression, *encryption = options
    agent = local.told('--compression', compression)
    if encryption:
        passphrase = private(tmp_path / 'pass', 'secret\n')
        agent = agent.told('--encrypt-pass-file', passphrase)
        agent = agent.told('--encryption', *encryption)
    source = tmp_path / 'tree'
    trees.make_tree(source, seed, files=40, size=200_000)
    for level in range(ROUNDS):
        if level:
            trees.mutate_tree(source, seed * 10 + level)
        agent.increment(source, '--always-level', 2).check()
    found = verify(agent).check()
    assert set(map(tuple, problems(found).values())) == {()}
    levels = [
        (each['level'], each['archive_read']) for each in found.document['backups']
    ]
    assert levels == [(0, True), (1, True), (2, True), (2, True)]


def test_a_level_that_is_made_anew_on_an_older_one(
    local: Agent, tmp_path: Path
) -> None:
    """A link of the level that it replaces is not in its way."""
    source = tmp_path / 'tree'
    source.mkdir()
    for level in range(4):
        new = source / 'changing'
        if level % 2:
            new.symlink_to('/etc')
        else:
            new.mkdir()
            (new / f'file {level}').write_text('content')
        local.increment(source, '--always-level', 1).check()
        if level % 2:
            new.unlink()
        else:
            (new / f'file {level}').unlink()
            new.rmdir()
    assert problems(verify(local).check()) == {0: [], 1: []}


def change(path: bytes, **values: Any) -> handmade.Change:
    def do(records: list[Record], _properties: dict[str, object]) -> None:
        (number,) = (n for n, each in enumerate(records) if each.path == path)
        records[number] = records[number]._replace(**values)

    return do


def lose(path: bytes) -> handmade.Change:
    def do(records: list[Record], _properties: dict[str, object]) -> None:
        records[:] = [each for each in records if each.path != path]

    return do


def add(record: Record) -> handmade.Change:
    def do(records: list[Record], _properties: dict[str, object]) -> None:
        records.append(record)
        records.sort(key=lambda each: each.path)

    return do


def move_points(_records: list[Record], properties: dict[str, object]) -> None:
    stream = properties['stream']
    assert isinstance(stream, dict)
    assert stream['compressed']
    stream['compressed'][0] += 1


FILE = Record(b'more', 'file', 0o644, 0, 0, '', '', 3, 0, 0, 0, b'', 512, 1024)


@pytest.mark.parametrize(
    'level, how, said',
    [
        (0, change(b'same', size=5), "the record of 'same' differs in size"),
        (0, change(b'same', offset=512), "the record of 'same' differs in offset"),
        (0, change(b'same', length=512), "the record of 'same' differs in length"),
        (0, change(b'same', mode=0o777), "the record of 'same' differs in mode"),
        (0, change(b'same', kind='fifo'), "the record of 'same' differs in kind"),
        (0, change(b'folder', uid=77), "the record of 'folder' differs in uid"),
        (0, lose(b'old'), "'old' is in the archive, and has no record"),
        (0, lose(b'folder'), "'folder' is in the archive, and has no record"),
        (0, add(FILE), "its record says that 'more' is there, and the archive does"),
        (0, add(removed(b'more')), "says that 'more' is removed, and the archive does"),
        (1, lose(b'old'), "'old' is removed, and has no record"),
        (1, add(removed(b'no')), "says that 'no' is removed, and the archive does"),
        (1, lose(b'folder/new'), "'folder/new' is in the archive, and has no record"),
        (0, move_points, 'decompression cannot begin where it says'),
    ],
)
def test_an_index_of_other_data(
    chain: Agent, tmp_path: Path, level: int, how: handmade.Change, said: str
) -> None:
    """Its digests are right, so nobody else notices."""
    path = handmade.indexes(chain.store)[level]
    handmade.change_index(chain.store, path, tmp_path, how)
    assert chain.run('verify').code == 0
    found = verify(chain)
    (problem,) = problems(found)[level]
    assert f'{path}: the index does not match the data: ' in problem
    assert said in problem
    # The level restores, and so do those above.
    assert [each['restorable'] for each in found.document['backups']] == [True] * 3
    assert found.error
    chain.restore(tmp_path / 'whole').check()


def test_a_level_whose_base_has_lost_its_index(chain: Agent) -> None:
    """Then what it has is compared, and not what it lacks."""
    path = handmade.indexes(chain.store)[0]
    chain.store.put(path, b'x')
    found = verify(chain)
    (problem,) = problems(found)[0]
    assert 'has 1 bytes' in problem
    assert problems(found)[1] == problems(found)[2] == []


def test_damage_is_named_once(chain: Agent, tmp_path: Path) -> None:
    """Nothing is said of an archive that cannot be whole."""
    (path,) = (p for p in chain.store.files() if '/0_' in p and p.endswith('/data'))
    content = bytearray(chain.store.files()[path])
    content[len(content) // 2] ^= 1
    chain.store.put(path, bytes(content))
    found = verify(chain)
    entries = found.document['backups']
    assert [each['archive_read'] for each in entries] == [False, True, True]
    (problem,) = entries[0]['problems']
    assert re.search(r'bytes 0 to \d+ are not the bytes that were', problem['what'])
    assert [each['restorable'] for each in entries] == [False] * 3


def test_bytes_that_were_written_wrong(local: Agent) -> None:
    """Freezer 19 has no digests; so only the archive shows it."""
    whole = directory(b'.', b'Yfile') + member(b'./file', b'content')
    for number, (archive, said) in enumerate(
        (
            (whole + END, ''),
            (whole, 'The archive stops after'),
            (whole + END + b'more'.ljust(512), 'has data after its end marker'),
            (b'x' * 512, 'is damaged or not a tar archive'),
        )
    ):
        handmade.put_level(local.store, f'hosta_{number}', 0, archive)
        found = local.told('--backup-name', number).run(
            'verify', '--verify-data', '--json'
        )
        (entry,) = found.document['backups']
        assert entry['restorable'] is not bool(said), found
        assert [said in problem['what'] for problem in entry['problems']] == [
            True for _ in range(bool(said))
        ]


@pytest.mark.parametrize('case', ESCAPES)
def test_an_archive_that_a_restore_refuses(local: Agent, case: str) -> None:
    below, above = ESCAPES[case]
    handmade.put_level(local.store, local.identity, 0, below + END)
    handmade.put_level(local.store, local.identity, 1, above + END)
    found = verify(local)
    # In some cases it is refused at once.
    said = problems(found)
    assert 'Refused' in [*said[0], *said[1]][0], said
    zero, one = found.document['backups']
    assert (zero['restorable'], one['restorable']) == (not said[0], False)


def test_two_levels_on_one_that_has_a_link(local: Agent) -> None:
    """Each is read as if the other were not there."""
    store, identity = local.store, local.identity
    handmade.put_level(store, identity, 0, directory(b'.') + END)
    link = directory(b'.', b'Yd') + symlink(b'./d', b'/etc')
    handmade.put_level(store, identity, 1, link + END)
    for path, content in store.files().items():
        if '/1_' in path:
            store.put(path.replace('/1_1700000001/', '/1_1700000009/'), content)
    below = directory(b'.', b'Dd') + member(b'./d/file', b'content')
    handmade.put_level(store, identity, 1, below + END)
    assert verify(local).check().document['ok']


def test_an_encrypted_archive_without_its_passphrase(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    passphrase = private(tmp_path / 'pass', 'secret\n')
    told = local.told('--encrypt-pass-file', passphrase)
    for _ in range(2):
        told.increment(source).check()
    found = verify(local).check()
    assert f'{NOT_READ}encrypted, and no --encrypt-pass-file is given' in found.err
    assert {each['archive_read'] for each in found.document['backups']} == {False}
    found = verify(told).check()
    assert 'Only the stored bytes' not in found.err
    assert {each['archive_read'] for each in found.document['backups']} == {True}
    wrong = private(tmp_path / 'wrong', 'another\n')
    found = verify(local.told('--encrypt-pass-file', wrong))
    assert ['wrong passphrase' in said[0] for said in problems(found).values()] == [
        True,
        True,
    ]


def test_levels_of_a_sealed_chain_that_were_exchanged(
    local: Agent, tmp_path: Path
) -> None:
    """The digests are right; the seal of the level above names another one."""
    passphrase = private(tmp_path / 'pass', 'secret\n')
    agent = local.told('--encrypt-pass-file', passphrase, '--encryption', 'age')
    source = tmp_path / 'tree'
    source.mkdir()
    store = agent.store
    assert isinstance(store, LocalStore)
    for name in 'ab':
        (source / name).write_text(name)
        agent.increment(source).check()
    assert verify(agent).check().document['ok']
    above = {p: c for p, c in store.files().items() if '/1_' in p}
    for path in above:
        store.delete(path)
    (source / 'c').write_text('c')
    # In the same second it would have the same name.
    time.sleep(1.1)
    agent.increment(source).check()
    # On the new level 1 comes a level 2, which then is on the old one.
    (source / 'd').write_text('d')
    agent.increment(source).check()
    for path in [p for p in store.files() if '/1_' in p]:
        store.delete(path)
    for path, content in above.items():
        store.put(path, content)
    said = problems(verify(agent))
    assert (said[0], said[1]) == ([], [])
    assert 'deleted or replaced' in said[2][0]


def test_the_data_is_fetched_once(
    proxied: S3Store, proxy: Proxy, tmp_path: Path
) -> None:
    agent = Agent(proxied)
    source = tmp_path / 'tree'
    source.mkdir()
    (source / 'file').write_bytes(os.urandom(1 << 20))
    for _ in range(2):
        agent.increment(source).check()
    proxy.requests.clear()
    verify(agent).check()
    fetched = [
        request.path
        for request in proxy.requests
        if request.operation == 'GetObject' and request.path.endswith('/data')
    ]
    assert len(fetched) == len(set(fetched)) == 2
