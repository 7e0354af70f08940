"""Every level of a chain restores, as a whole and in part.

First in process, on local storage, with trees that change at random: this tests what
the engine does to make GNU tar's increments safe, and the archives that
:mod:`freezer.engine.tar.part` makes for it. The seeds are fixed, so that a failure can
be repeated. Then the command, on storages, with compression and encryption.
"""

import base64
import dataclasses
import glob
import json
import os
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from freezer.engine.settings import EngineSettings
from freezer.engine.tar import snapshot
from freezer.exceptions import RestoreError
from freezer.storage.backup import Backup, StoredLevel
from freezer.storage.levels import LevelPolicy
from freezer.storage.local.storage import LocalStorage
from freezer.tests import servers, trees
from freezer.tests.agent import Agent, LocalStore, S3Store, iso, missed, private
from freezer.tests.engines import EngineAgent

LEVELS = 4
MARGIN = 20_000_000

Tree = dict[bytes, trees.Entry]


class Chain:
    """Levels of a tree that changes, and what it was at each."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / 'source'
        self.storage = LocalStorage(str(folder / 'storage'), 32 * 2**20)
        self.states: list[Tree] = []
        self._made: list[Backup] = []

    def agent(self, *include: str) -> EngineAgent:
        settings = EngineSettings(compression='none', include=include)
        return EngineAgent(self.storage, settings)

    def add(self) -> None:
        time.sleep(2 * MARGIN / 10**9)  # the kernel's tick, not a race of ours
        self.states.append(trees.describe(self.source))
        now = int(time.time()) + len(self.states)
        agent = self.agent()
        plan = agent.plan('host_name', LevelPolicy(incremental=True), now)
        made = agent.backup(self.source, plan, now)
        assert made.level == len(self._made)
        self._made.append(made)

    def levels(self, level: int) -> dict[int, StoredLevel]:
        return self.agent().state('host_name', self._made[level].timestamp)

    def restore(self, level: int, target: Path, *include: str) -> None:
        agent = self.agent(*include)
        assert agent.restore(target, self.levels(level)).count == 0


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    monkeypatch.setattr(snapshot, 'MARGIN_NANOSECONDS', MARGIN)
    return Chain(tmp_path)


def is_below(path: bytes, tops: Iterable[bytes]) -> bool:
    return any(path == top or path.startswith(top + b'/') for top in tops)


def part_of(tree: Tree, tops: Sequence[bytes]) -> Tree:
    """What is chosen of a tree."""
    part = {path: entry for path, entry in tree.items() if is_below(path, tops)}
    for path, entry in part.items():
        links = tuple(link for link in entry.links if link in part)
        links = links if len(links) > 1 else ()
        part[path] = dataclasses.replace(entry, links=links)
    return part


def parents_of(tree: Tree, tops: Sequence[bytes]) -> Tree:
    """The directories on the way."""
    return {
        path: entry
        for path, entry in tree.items()
        if any(top.startswith(path + b'/') for top in tops) and not is_below(path, tops)
    }


def pattern(path: bytes) -> str:
    return glob.escape(os.fsdecode(path))


def some_of(tree: Tree, chance: random.Random) -> list[bytes]:
    """Some names, none below another; no sockets, which tar does not keep."""
    names = [p for p, e in tree.items() if p != b'.' and e.kind != 'socket']
    tops = sorted(chance.sample(sorted(names), min(len(names), 3)))
    return [t for t in tops if not is_below(t, [o for o in tops if o != t])]


@pytest.mark.parametrize('seed', range(12))
def test_every_level_restores(seed: int, chain: Chain, tmp_path: Path) -> None:
    trees.make_tree(chain.source, seed, files=30, size=20_000)
    for level in range(LEVELS):
        if level:
            trees.mutate_tree(chain.source, seed * 10 + level)
        chain.add()
    for level, state in enumerate(chain.states):
        assert max(chain.levels(level)) == level
        target = tmp_path / f'target{level}'
        chain.restore(level, target)
        assert missed(state, target) == []


@pytest.mark.parametrize('seed', range(6))
def test_part_of_every_level_restores(seed: int, chain: Chain, tmp_path: Path) -> None:
    chance = random.Random(seed)
    trees.make_tree(chain.source, seed, files=30, size=20_000)
    for level in range(LEVELS):
        if level:
            trees.mutate_tree(chain.source, seed * 10 + level)
        chain.add()
    for level, whole in enumerate(chain.states):
        for number in range(3):
            tops = some_of(whole, chance)
            include = [pattern(top) for top in tops]
            target = tmp_path / f'{level} {number}'
            chain.restore(level, target, *include)
            found = trees.describe(target)
            del found[b'.']
            expected = parents_of(whole, tops) | part_of(whole, tops)
            assert trees.differences(expected, found) == [], include
            check_list(chain, level, include, part_of(whole, tops))

            # In place of something else: another state, with more in it.
            other = chance.randrange(LEVELS)
            target = tmp_path / f'{level} {number} over {other}'
            chain.restore(other, target)
            trees.mutate_tree(target, seed + number)
            before = trees.describe(target)
            if is_in_the_way(before, whole, tops):
                with pytest.raises(RestoreError, match='director'):
                    chain.restore(level, target, *include)
                continue
            try:
                chain.restore(level, target, *include)
            except RestoreError:
                # Who is not root may not write into every directory on the way.
                if trees.is_root():
                    raise
                continue
            after = trees.describe(target)
            assert trees.differences(part_of(whole, tops), part_of(after, tops)) == []
            check_outside(before, after, whole, tops)


@pytest.mark.parametrize('include', [[], ['folder']])
def test_directory_that_replaces_a_link_to_a_read_only_one(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, include: list[str]
) -> None:
    """Once refused to who is not root: as if a link were in the way."""
    folder = chain.source / 'folder'
    folder.mkdir(parents=True)
    (folder / 'name').symlink_to('/')
    folder.chmod(0o555)
    chain.add()
    folder.chmod(0o755)
    (folder / 'name').unlink()
    (folder / 'name').mkdir()
    (folder / 'name' / 'file').write_text('content')
    folder.chmod(0o555)
    chain.add()
    target = tmp_path / 'target'
    user = os.geteuid() or 65534
    monkeypatch.setattr(os, 'geteuid', lambda: user)
    target.mkdir()
    if os.getuid() == 0:
        os.chown(target, user, user)
    chain.restore(0, target)
    chain.restore(1, target, *include)
    chain.restore(1, tmp_path / 'other', *include)
    for restored in (target, tmp_path / 'other'):
        found = trees.describe(restored)
        assert (
            trees.differences(chain.states[1], {**found, b'.': chain.states[1][b'.']})
            == []
        )


def is_in_the_way(before: Tree, whole: Tree, tops: Sequence[bytes]) -> bool:
    """Whether a file is in the place of a directory on the way, or the reverse."""
    ways = parents_of(whole, tops)
    return any(p in before and before[p].kind != 'directory' for p in ways) or any(
        top in before
        and before[top].kind == 'directory'
        and whole[top].kind != 'directory'
        for top in tops
    )


def check_list(
    chain: Chain, level: int, include: Sequence[str], expected: Tree
) -> None:
    opened = chain.agent(*include).open(chain.levels(level))
    found = {row.path: row for rows in opened.rows() for row in rows.each()}
    assert found.keys() == {p for p, e in expected.items() if e.kind != 'socket'}
    for path, row in found.items():
        there = expected[path]
        assert there.kind.startswith('file' if row.kind == 'link' else row.kind) or (
            row.kind == 'link' and there.kind != 'directory'
        )
        assert (row.mode, *row.owner[:2]) == (there.mode, there.uid, there.gid)
        assert row.mtime_ns == there.mtime_ns
        if row.kind == 'file':
            assert row.size == there.size
        if row.kind == 'symlink':
            assert row.target == there.target


def check_outside(
    before: Tree, after: Tree, whole: Tree, tops: Sequence[bytes]
) -> None:
    """All that is not chosen is as it was, but for times of directories that something
    was put into, and links that were cut."""
    parents = parents_of(whole, tops)

    def outside(tree: Tree) -> Tree:
        left = {}
        for path, entry in tree.items():
            if path == b'.' or is_below(path, tops):
                continue
            mtime = 0 if path in parents else entry.mtime_ns
            left[path] = dataclasses.replace(entry, links=(), mtime_ns=mtime)
        return left

    new = outside(after)
    for path in parents:
        if path not in before:
            assert new.pop(path).mode == whole[path].mode
    assert trees.differences(outside(before), new) == []


# The command

KINDS = {
    'local, gzip': (False, 'gzip', None),
    'local, bzip2, openssl': (False, 'bzip2', 'openssl'),
    's3, zstd, age': (True, 'zstd', 'age'),
    's3, none': (True, 'none', None),
}


@dataclasses.dataclass(frozen=True)
class Made:
    """Two levels of one tree, in each of the kinds."""

    agents: dict[str, Agent]
    state: Path
    first: Mapping[str, int]


@pytest.fixture(scope='module')
def made(
    seaweedfs: servers.SeaweedFS, tmp_path_factory: pytest.TempPathFactory
) -> Made:
    folder = tmp_path_factory.mktemp('parts')
    source = folder / 'source'
    (source / 'etc' / 'ssh').mkdir(parents=True)
    (source / 'etc' / 'ssh' / 'key').write_text('key 0')
    (source / 'etc' / 'ssh' / 'old').write_text('goes')
    (source / 'etc' / 'hosts').write_text('hosts 0')
    (source / 'var').mkdir(mode=0o2750)
    (source / 'var' / 'big').write_bytes(os.urandom(1 << 20))
    os.link(source / 'var' / 'big', source / 'var' / 'same')
    (source / os.fsdecode(b'odd\xff\033[1m')).symlink_to('etc')
    secret = private(folder / 'pass', 'Passphrase-7\n')
    agents = {}
    for kind, (on_s3, compression, encryption) in KINDS.items():
        options: list[object] = ['--compression', compression]
        if encryption:
            options += ['--encryption', encryption, '--encrypt-pass-file', secret]
        store = S3Store(seaweedfs) if on_s3 else LocalStore(folder / kind)
        agents[kind] = Agent(store, options=options)
    # Older than the margin: the second level does not have all once more.
    time.sleep(2.1)
    first = {
        kind: agent.increment(source).check().document['time_stamp']
        for kind, agent in agents.items()
    }
    (source / 'etc' / 'ssh' / 'old').unlink()
    (source / 'etc' / 'hosts').write_text('hosts 1')
    (source / 'new').write_text('new')
    for agent in agents.values():
        assert agent.increment(source).check().document['curr_backup_level'] == 1
    return Made(agents, source, first)


@pytest.mark.parametrize('kind', KINDS)
def test_list_of_the_newest_state(made: Made, kind: str) -> None:
    result = made.agents[kind].run('list', '--json').check()
    found = [json.loads(line) for line in result.out.splitlines()]
    tree = trees.describe(made.state)
    names = [
        base64.b64decode(each['path_base64'])
        if 'path_base64' in each
        else each['path'].encode()
        for each in found
    ]
    assert names == sorted(tree.keys() - {b'.'})
    levels = dict(zip(names, (each['level'] for each in found), strict=True))
    assert levels[b'etc/hosts'] == levels[b'new'] == 1
    assert levels[b'etc/ssh/key'] == levels[b'var/big'] == 0
    for name, each in zip(names, found, strict=True):
        entry = tree[name]
        assert each['mtime_ns'] == entry.mtime_ns
        assert int(each['mode'], 8) == entry.mode
        assert (each['uid'], each['gid']) == (entry.uid, entry.gid)
        if each['type'] == 'file':
            assert each['size'] == entry.size
    by_name = dict(zip(names, found, strict=True))
    assert by_name[b'var/same']['type'] == 'link'
    assert by_name[b'var/same']['target'] == 'var/big'
    assert f'{len(found)} entries, ' in result.err


def test_list_of_an_earlier_state(made: Made) -> None:
    agent = made.agents['local, gzip'].told(
        '--restore-from-date', iso(made.first['local, gzip'])
    )
    shown = agent.run('list', '--include', 'etc', '--include', 'odd*').check().out
    header, *lines = shown.splitlines()
    assert header.split() == ['Mode', 'Owner', 'Size', 'Changed', 'L', 'Path']
    paths = [line[header.index('Path') :] for line in lines]
    assert paths == [
        'etc/',
        'etc/hosts',
        'etc/ssh/',
        'etc/ssh/key',
        'etc/ssh/old',
        'odd\\udcff\\x1b[1m -> etc',
    ]
    assert lines[0].startswith('drwxr-xr-x')
    assert '\033' not in shown


@pytest.mark.parametrize('kind', KINDS)
def test_restore_of_a_part(made: Made, kind: str, tmp_path: Path) -> None:
    agent, target = made.agents[kind], tmp_path / 'target'
    include = ('--include', 'etc/ssh', '--include', 'var/s*', '--include', '/new')
    done = agent.restore(target, *include).check()
    assert "Restored 'etc/ssh' 'var/s*' '/new' of level 1" in done.err
    tops = [b'etc/ssh', b'var/same', b'new']
    whole = trees.describe(made.state)
    found = trees.describe(target)
    del found[b'.']
    expected = parents_of(whole, tops) | part_of(whole, tops)
    assert trees.differences(expected, found) == []


def test_restore_of_an_earlier_part(made: Made, tmp_path: Path) -> None:
    agent = made.agents['s3, zstd, age'].told(
        '--restore-from-date', iso(made.first['s3, zstd, age'])
    )
    agent.restore(tmp_path / 'target', '--include', '**/old').check()
    assert (tmp_path / 'target' / 'etc' / 'ssh' / 'old').read_text() == 'goes'


def test_restore_of_a_part_keeps_the_rest(made: Made, tmp_path: Path) -> None:
    agent, target = made.agents['local, gzip'], tmp_path / 'target'
    (target / 'etc' / 'ssh' / 'more').mkdir(parents=True)
    (target / 'etc' / 'motd').write_text('kept')
    (target / 'etc').chmod(0o700)
    (target / 'etc' / 'ssh' / 'key').write_text('changed')
    include = ('--include', 'etc/ssh')
    assert 'not empty' in agent.restore(target, *include).only_error
    said = agent.restore(target, '--overwrite', '--dry-run', *include).check().err
    for done in (said, agent.restore(target, '--overwrite', *include).check().err):
        assert f'1 path not in the backup from {target}:\n  etc/ssh/more\n' in done
    assert sorted(os.listdir(target)) == ['etc']
    assert sorted(os.listdir(target / 'etc')) == ['motd', 'ssh']
    assert os.listdir(target / 'etc' / 'ssh') == ['key']
    assert (target / 'etc' / 'ssh' / 'key').read_text() == 'key 0'
    # It was there, and is on the way only.
    assert (target / 'etc').stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize('action', ['restore', 'list'])
def test_pattern_without_match(made: Made, tmp_path: Path, action: str) -> None:
    agent, target = made.agents['local, gzip'], tmp_path / 'target'
    options = ('--include', 'etc', '--include', 'ssh', '--restore-abs-path', target)
    line = agent.run(action, *options).only_error
    assert "--include 'ssh':" in line
    assert "'etc'" not in line
    assert not target.exists()
    # Once it was: the lists of the newest level say that it is not any more.
    assert "'ssh'" in agent.run(action, '--dry-run', *options).error
    gone = ('--include', '**/old', '--restore-abs-path', target)
    assert "'**/old'" in agent.run(action, *gone).error


def test_options_that_contradict_include(made: Made, tmp_path: Path) -> None:
    agent = made.agents['local, gzip']
    for action in ('backup', 'info', 'verify', 'admin'):
        options = ('--include', 'etc', '--path-to-backup', made.state)
        assert '--include selects files' in agent.run(action, *options).only_error
    target = tmp_path / 'target'
    checked = ('--include', 'etc', '--consistency-checksum', '0' * 64)
    assert 'consistency-checksum' in agent.restore(target, *checked).only_error
    upwards = agent.restore(target, '--include', '../x')
    assert 'cannot contain ".."' in upwards.only_error
    small = ('--include', 'var', '--max-restore-size', '100K')
    assert 'max-restore-size' in agent.restore(target, *small).error
    fits = ('--include', 'etc', '--max-restore-size', '100K')
    agent.restore(tmp_path / 'fits', *fits).check()


@pytest.mark.parametrize('kind', ['local, bzip2, openssl', 's3, zstd, age'])
def test_damage_is_detected(made: Made, kind: str, tmp_path: Path) -> None:
    agent = made.agents[kind]
    (path,) = (
        path for path in agent.store.files() if path.endswith('/data') and '/0_' in path
    )
    content = agent.store.files()[path]
    flipped = bytes([content[5000] ^ 1])
    agent.store.put(path, content[:5000] + flipped + content[5001:])
    try:
        target = tmp_path / 'target'
        result = agent.restore(target, '--include', 'var')
        assert 'data' in result.error
        assert result.out == ''
        assert not (target / 'var' / 'big').exists()
        # The list comes from the index.
        agent.run('list', '--include', 'var').check()
        # What the newest level has is not in the way of that.
        agent.restore(tmp_path / 'new', '--include', 'new').check()
    finally:
        agent.store.put(path, content)
