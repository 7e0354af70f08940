"""``--action verify``: what it says of good backups, and how exactly of bad ones."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from freezer.tests import servers
from freezer.tests.agent import (
    HOST,
    PART,
    Agent,
    LocalStore,
    Result,
    S3Store,
    Store,
    in_parts,
    iso,
    last_given,
    run,
)
from freezer.tests.proxy import DENIED, Proxy, Request

REAL = pytest.mark.parametrize('s3_server', ['seaweedfs', 'ceph'], indirect=True)
HASTY = ('--s3-retry-budget', '3')
# Of three parts an object may have, two are used.
VOLUME = 2 * PART
VOLUMES = ('data', 'segments/00000001', 'segments/00000002')


def verify(agent: Agent, *arguments: object) -> Result:
    return agent.run('verify', *arguments)


def entries(result: Result) -> dict[int, dict[str, Any]]:
    """What the JSON says of each level."""
    return {entry['level']: entry for entry in result.document['backups']}


def problems(result: Result) -> list[str]:
    return [line for line in result.err.splitlines() if line.startswith('Problem: ')]


def rows(result: Result) -> list[list[str]]:
    """The cells of the table, without its header."""
    lines = [line for line in result.out.splitlines() if line.startswith('|')]
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines][1:]


@dataclass
class Chain:
    """Level 0 of three volumes, and two increments."""

    agent: Agent
    store: S3Store
    times: list[int]

    def folder(self, level: int) -> str:
        zero, time = self.times[0], self.times[level]
        return f'data/tar/{self.agent.identity}/{zero}/{level}_{time}'

    def marker(self, level: int) -> str:
        return f'metadata/{self.folder(level).partition("/")[2]}/metadata'

    def said(self, level: int) -> str:
        return f'{self.agent.identity}, level {level} of {iso(self.times[level])}'

    def read(self, path: str) -> bytes:
        return self.store.server.get(self.store.bucket, f'{self.store.prefix}/{path}')


@pytest.fixture
def chain(s3_server: servers.Server, big: Path) -> Chain:
    store = S3Store(s3_server)
    agent = in_parts(Agent(store)).told('--s3-max-parts', 3)
    times = []
    for level in range(3):
        (big / f'new at {level}').write_text('new')
        times.append(agent.increment(big).check().document['time_stamp'])
    return Chain(agent, store, times)


# Each damages the chain, and returns what must be said of it: on the lines, of the
# problem in the JSON, and which levels are then damaged and which not restorable.


@dataclass
class Expected:
    line: str
    level: int
    problem: dict[str, object]
    damaged: set[int]
    lost: set[int]
    #: whether somebody who reads no data notices
    listed: bool = True


def flipped_byte(chain: Chain) -> Expected:
    path = f'{chain.folder(0)}/segments/00000001'
    content = bytearray(chain.read(path))
    content[PART + 7] ^= 1
    chain.store.put(path, bytes(content))
    return Expected(
        f'{chain.said(0)}: part 2: s3://{chain.store.container}/{path} at '
        f'{chain.store.endpoint}: bytes {PART} to {VOLUME - 1} are not the bytes that '
        f'were written: the backup is damaged there',
        0,
        {'volume': VOLUMES[1], 'part': 2, 'start': PART, 'end': VOLUME - 1},
        damaged={0},
        lost={1, 2},
        listed=False,
    )


def missing_volume(chain: Chain) -> Expected:
    path = f'{chain.folder(0)}/segments/00000001'
    chain.store.delete(path)
    return Expected(
        f'{chain.said(0)}: {chain.store.container}/{path} is missing',
        0,
        {'volume': VOLUMES[1], 'part': None, 'start': 0, 'end': VOLUME - 1},
        damaged={0},
        lost={1, 2},
    )


def truncated_object(chain: Chain) -> Expected:
    path = f'{chain.folder(0)}/data'
    size = PART + 12
    chain.store.put(path, chain.read(path)[:size])
    return Expected(
        f'{chain.said(0)}: part 2: {chain.store.container}/{path}: has {size} bytes, '
        f'and {VOLUME} were written: bytes {size} to {VOLUME - 1} are missing',
        0,
        {'volume': 'data', 'part': 2, 'start': size, 'end': VOLUME - 1},
        damaged={0},
        lost={1, 2},
    )


def missing_increment(chain: Chain) -> Expected:
    for path in chain.store.sizes():
        if '/1_' in path:
            chain.store.delete(path)
    return Expected(
        f'{chain.agent.identity}, chain of {iso(chain.times[0])}: level 1 is missing; '
        f'without it these cannot be restored: level 2 of {iso(chain.times[2])}',
        2,
        dict.fromkeys(('volume', 'part', 'start', 'end'))
        | {'what': 'cannot be restored: level 1 is missing'},
        damaged=set(),
        lost={2},
    )


@REAL
@pytest.mark.parametrize(
    'damage', [flipped_byte, missing_volume, truncated_object, missing_increment]
)
def test_damage_is_located(
    chain: Chain, damage: Callable[[Chain], Expected], tmp_path: Path
) -> None:
    agent = chain.agent
    document = verify(agent, '--verify-data', '--metadata-out', '-').check().document
    assert document['ok']
    expected = damage(chain)
    found = verify(agent, '--verify-data')
    assert f'Problem: {expected.line}' in problems(found), found
    bad = expected.damaged | expected.lost
    assert f'{len(bad)} of {len(rows(found))} backups' in found.error
    results = {int(row[2]): row[-1] for row in rows(found)}
    for level, result in results.items():
        in_words = 'damaged' if level in expected.damaged else 'not restorable'
        assert result == (in_words if level in bad else 'ok')
    read = verify(agent, '--verify-data', '--metadata-out', '-')
    assert read.code == 1
    assert not read.document['ok']
    assert read.document['complete']
    said = entries(read)
    assert {level for level, entry in said.items() if not entry['ok']} == bad
    assert {level for level, entry in said.items() if not entry['restorable']} == bad
    (problem,) = said[expected.level]['problems']
    assert problem | expected.problem == problem
    # A restore of the newest agrees: it asserts that there is an error.
    agent.restore(tmp_path / 'target').error  # noqa: B018
    listed = verify(agent, '--metadata-out', '-')
    assert listed.code == expected.listed
    if not expected.listed:
        # Written again it has another ETag, and that is no proof of anything.
        assert f'Warning: {chain.said(0)}' in listed.err


@REAL
def test_report_of_good_backups(chain: Chain, tmp_path: Path) -> None:
    agent, store = chain.agent, chain.store
    sizes = store.sizes()
    size = sum(sizes[f'{chain.folder(0)}/{name}'] for name in VOLUMES)
    out = tmp_path / 'out.json'
    listed = verify(agent, '--metadata-out', out).check()
    assert listed.out == ''
    assert listed.err.startswith('Verified 3 backups (')
    assert '--verify-data' in listed.err
    document = json.loads(out.read_text())
    assert document['container'] == store.container
    assert document['backups_count'] == len(document['backups']) == 3
    assert (document['ok'], document['problems_count']) == (True, 0)
    first = document['backups'][0]
    assert (first['hostname'], first['backup_name']) == (HOST, 'bk')
    assert first['level_zero_timestamp'] == first['time_stamp'] == chain.times[0]
    assert (first['date'], first['engine']) == (iso(chain.times[0]), 'tar')
    assert (first['size'], first['problems'], first['digests']) == (size, [], True)
    assert document['size'] == sum(entry['size'] for entry in document['backups'])

    read = verify(agent, '--verify-data').check()
    *progress, summary = read.err.splitlines()
    assert progress == [
        f'Reading {level + 1} of 3: {chain.said(level)}' for level in range(3)
    ]
    total = document['size']
    found = f'Verified 3 backups ({total} bytes): no problems found, every byte read'
    assert summary == found
    assert rows(read)[0] == [*(HOST, 'bk', '0', iso(chain.times[0]), str(size), 'ok')]
    assert verify(agent, '--quiet').check().err == ''


# Which backups


@pytest.fixture
def several(local: Agent, source: Path) -> Store:
    """Two names of one host, and one of another."""
    store = local.store
    for name, host in (('one', 'h1'), ('two', 'h1'), ('one', 'h2')):
        Agent(store, name, ('--hostname', host)).backup(source).check()
    return store


@pytest.mark.parametrize(
    'options, found',
    [
        (['-N', 'one', '--hostname', 'h1'], {'h1_one'}),
        (['--hostname', 'h1'], {'h1_one', 'h1_two'}),
        ([], {'h1_one', 'h1_two', 'h2_one'}),
    ],
)
def test_names_limit_what_is_verified(
    several: Store, options: list[str], found: set[str]
) -> None:
    common = ('--action', 'verify', *several.options, *options)
    document = run(*common, '--metadata-out', '-').check().document
    backups = document['backups']
    assert {f'{b["hostname"]}_{b["backup_name"]}' for b in backups} == found


@pytest.mark.parametrize(
    'options, says',
    [
        (
            ['-N', 'one'],
            "These hosts have one of that name: 'h1', 'h2'; add --hostname",
        ),
        (['-N', 'three', '--hostname', 'h1'], "No backup 'three' of host 'h1' in "),
        (['--hostname', 'h'], "No backup of host 'h' in "),
        (['--container', '{empty}'], 'No backup in'),
        (['--container', '{empty}/nothing'], '/nothing'),
    ],
)
def test_nothing_to_verify_is_an_error(
    several: Store, tmp_path: Path, options: list[str], says: str
) -> None:
    empty = tmp_path / 'empty'
    empty.mkdir()
    filled = [option.format(empty=empty) for option in options]
    told = last_given((*several.options, *filled))
    assert says in run('--action', 'verify', *told).only_error


def test_name_as_freezer_19_stored_it_is_found(local: Agent, source: Path) -> None:
    """As a restore does, the name is looked for as it stands, too."""
    template = 'bk_{mode}'
    Agent(local.store, template).backup(source).check()
    for path, content in local.store.files().items():
        local.store.delete(path)
        local.store.put(path.replace('bk_fs', template), content)
    document = verify(Agent(local.store, template), '--metadata-out', '-').check()
    assert document.document['backups'][0]['backup_name'] == template


# What it costs


@pytest.mark.parametrize('data', [False, True], ids=['listed', 'read'])
def test_number_of_requests(
    seaweedfs: servers.SeaweedFS, proxied: S3Store, proxy: Proxy, big: Path, data: bool
) -> None:
    """As many as the documentation says; and none that writes."""
    agent = in_parts(Agent(proxied)).told('--s3-max-parts', 3)
    agent.backup(big).check()
    before = proxied.files()
    proxy.clear()
    verify(agent, *(['--verify-data'] if data else [])).check()
    assert {request.method for request in proxy.requests} == {'GET', 'HEAD'}
    listings = [request for request in proxy.requests if request.lists]
    # The third is for levels without a marker.
    assert len(listings) == 3
    volumes, pieces = 3, 5
    # The index is small: it is fetched once to be checked, and once to be compared.
    expected = 3 + 4 + 2 * volumes + (pieces + 1 + 2 if data else 0)
    assert len(proxy.requests) == expected
    assert proxied.files() == before


# Stores that fail


def of_level(level: int, name: str) -> Callable[[Request], bool]:
    return lambda request: (
        f'/{level}_' in request.path and request.path.endswith(f'/{name}')
    )


def test_unreadable_object_is_a_problem(
    proxied: S3Store, proxy: Proxy, source: Path
) -> None:
    agent = Agent(proxied)
    for _ in range(2):
        agent.increment(source).check()
    proxy.answer(of_level(0, 'digests/00000000'), DENIED)
    found = verify(agent)
    (refused, chain) = problems(found)
    assert 'level 0' in refused
    assert 'AccessDenied' in refused
    assert 'without it these cannot be restored: level 1' in chain
    assert [row[-1] for row in rows(found)] == ['damaged', 'not restorable']


def test_unreachable_store_is_an_error_not_a_problem() -> None:
    options = ('--storage', 's3', '--container', 'bucket', *HASTY)
    keys = ('--access-key', 'a', '--secret-key', 'b')
    where = ('--endpoint', 'http://127.0.0.1:9')
    found = run('--action', 'verify', *options, *keys, *where)
    assert 'http://127.0.0.1:9' in found.only_error


def test_a_store_that_dies_halfway(mortal: servers.SeaweedFS, source: Path) -> None:
    with Proxy(mortal.endpoint) as proxy:
        agent = Agent(S3Store(mortal, proxy.endpoint)).told(*HASTY)
        for _ in range(2):
            agent.increment(source).check()
        proxy.before(of_level(1, 'manifest'), mortal.kill)
        found = verify(agent, '--metadata-out', '-')
        assert 'list s3://' in found.error
        assert problems(found) == []
        # What was verified until then is told.
        document = found.document
        assert (document['ok'], document['complete']) == (False, False)
        assert [entry['ok'] for entry in document['backups']] == [True]
        assert 'Not all was verified' in found.err


# Others at work


@pytest.mark.parametrize('name', ['manifest', 'data'])
def test_backups_removed_meanwhile_are_no_problem(
    proxied: S3Store, proxy: Proxy, source: Path, name: str
) -> None:
    agent = Agent(proxied)
    for _ in range(2):
        agent.increment(source).check()
    proxied.made_earlier(3600 * 24 * 10, agent.identity)
    agent.backup(source).check()
    held = proxy.hold(of_level(0, name))
    with agent.start('verify', '--verify-data') as process:
        held.wait()
        # Not through the proxy: it would be held as well.
        others = Agent(proxied).told('--endpoint', proxied.server.endpoint)
        others.run('admin', '--remove-older-than', '5').check()
        held.release()
        found = process.wait().check()
    assert held.in_time
    assert len(rows(found)) == 1
    assert '2 removed meanwhile' in found.err


def test_backup_at_the_same_time(proxied: S3Store, proxy: Proxy, big: Path) -> None:
    agent = in_parts(Agent(proxied))
    agent.increment(big).check()
    (big / 'more').write_bytes(bytes(2 * PART))
    held = proxy.hold(lambda request: request.part == 2)
    with agent.start('backup', '--path-to-backup', big, '--incremental') as process:
        held.wait()
        assert len(rows(verify(agent, '--verify-data').check())) == 1
        held.release()
        process.wait().check()
    assert held.in_time
    assert len(rows(verify(agent, '--verify-data').check())) == 2


# What only the agent knows


@pytest.mark.parametrize(
    'old, new, named',
    [
        (b'"gzip"', b'"gzi0"', "compression 'gzi0'"),
        (b'false', b'true, "encryption_format": "agf"', "encryption_format 'agf'"),
    ],
)
def test_unknown_way_of_storing_is_a_problem(
    local: Agent, source: Path, old: bytes, new: bytes, named: str
) -> None:
    """A byte of a marker may change, and leave it JSON."""
    local.backup(source).check()
    (path,) = local.store.markers()
    local.store.put(path, local.store.files()[path].replace(old, new))
    found = verify(local)
    (changed, problem) = problems(found)
    assert '/metadata: was modified or damaged' in changed
    assert f'/metadata: unknown {named}' in problem
    assert rows(found)[0][-1] == 'damaged'
    assert '1 of 1 backups' in found.error
    assert '1 of them cannot be restored' in found.error


def test_many_problems_are_counted(local: Agent, tmp_path: Path) -> None:
    """Of those that a level takes along, the first are named."""
    source = tmp_path / 'source'
    source.mkdir()
    store = local.store
    assert isinstance(store, LocalStore)
    local.backup(source).check()
    (path,) = store.markers()
    zero = int(path.split('/')[3])
    files = store.files()
    # What an engine makes of increments is nothing to a verification.
    for level in range(1, 25):
        for path, content in files.items():
            above = path.replace(f'/0_{zero}/', f'/{level}_{zero + level}/')
            store.put(above, content)
    for path in files:
        store.delete(path)
    found = verify(local)
    (line,) = problems(found)
    assert 'level 0 is missing' in line
    assert line.count('level ') == 1 + 20
    assert line.endswith(' and 4 more')
    assert found.error.endswith(
        'Problems in 24 of 24 backups; 24 of them cannot be restored: see the result'
    )
