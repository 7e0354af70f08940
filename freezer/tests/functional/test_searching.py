"""``find``, ``diff`` and ``dump``: compared with what the trees were.

The screens are in ``listing.rst``.
"""

import base64
import json
import os
import random
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from freezer.tests import trees
from freezer.tests.agent import (
    Agent,
    LocalStore,
    Process,
    S3Store,
    command,
    environment,
    iso,
    private,
)
from freezer.tests.functional.test_increments_cases import MARGIN
from freezer.tests.functional.test_part import pattern
from freezer.tests.proxy import Proxy
from freezer.tests.servers import SeaweedFS

Tree = dict[bytes, trees.Entry]

KINDS = {
    'local, gzip': (False, 'gzip', None),
    'local, none, openssl': (False, 'none', 'openssl'),
    's3, zstd, age': (True, 'zstd', 'age'),
    's3, gzip, openssl': (True, 'gzip', 'openssl'),
}


class Made:
    """Two chains of a tree that changes."""

    def __init__(self, agent: Agent, folder: Path, seed: int) -> None:
        self.agent = agent
        self.source = folder / 'source'
        self.states: list[Tree] = []
        self.contents: list[dict[bytes, bytes]] = []
        self.dates: list[int] = []
        self.bases: list[int | None] = []
        trees.make_tree(self.source, seed, files=30, size=20_000)
        for number in range(6):
            if number:
                trees.mutate_tree(self.source, seed * 10 + number)
            # The second chain begins.
            back_up = agent.backup if number in (0, 3) else agent.increment
            made = back_up(self.source).check().document
            self.dates.append(made['time_stamp'])
            self.bases.append(None if number in (0, 3) else number - 1)
            tree = trees.describe(self.source)
            del tree[b'.']
            self.states.append({p: e for p, e in tree.items() if e.kind != 'socket'})
            self.contents.append(
                {
                    path: (self.source / os.fsdecode(path)).read_bytes()
                    for path, entry in self.states[-1].items()
                    if entry.kind == 'file'
                }
            )


def names(found: list[dict[str, Any]]) -> list[bytes]:
    return [
        base64.b64decode(each['path_base64'])
        if 'path_base64' in each
        else each['path'].encode()
        for each in found
    ]


def lines(agent: Agent, action: str, *options: object) -> list[dict[str, Any]]:
    out = agent.run(action, '--json', *options).check().out
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture(scope='module', params=KINDS)
def made(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    seaweedfs: SeaweedFS,
) -> Made:
    is_s3, compression, encryption = KINDS[request.param]
    folder = tmp_path_factory.mktemp('searching')
    store = S3Store(seaweedfs) if is_s3 else LocalStore(folder / 'store')
    options: list[object] = ['--compression', compression]
    if encryption:
        secret = private(folder / 'pass', 'correct horse\n')
        options += ['--encryption', encryption, '--encrypt-pass-file', secret]
    seed = list(KINDS).index(request.param)
    return Made(Agent(store, options=options), folder, seed)


def all_names(made: Made) -> list[bytes]:
    return sorted({path for state in made.states for path in state})


def dumped(agent: Agent, path: bytes, *options: object) -> bytes:
    """The contents of a file, byte for byte."""
    with Process(
        *('--action', 'dump', *agent.options, '--include', pattern(path), *options),
        env=agent.env,
    ) as process:
        result = process.wait().check()
        del result
        return os.pread(process._streams[0], 1 << 30, 0)


# find


def test_find_shows_each_version(made: Made) -> None:
    found = lines(made.agent, 'find', '--include', '*')
    assert set(names(found)) == set(all_names(made))
    keys = [path.replace(b'/', b'\0') for path in names(found)]
    assert keys == sorted(keys)
    numbers = {iso(date): number for number, date in enumerate(made.dates)}
    versions: dict[bytes, list[tuple[int, dict[str, Any]]]] = {}
    for path, each in zip(names(found), found, strict=True):
        number = numbers[each['level_date']]
        versions.setdefault(path, []).append((number, each))
    for path, rows in versions.items():
        order = [number for number, _row in rows]
        assert order == sorted(set(order), reverse=True)
        seen = dict(rows)
        for number, state in enumerate(made.states):
            row = seen.get(number)
            was_there = number > 0 and path in made.states[number - 1]
            if path not in state:
                # Told once.
                assert (row is not None) == was_there
                assert row is None or row['type'] == 'removed'
                continue
            if row is None:
                # It is what an earlier level of the chain has stored.
                assert made.bases[number] is not None
                row = next(each for at, each in rows if at < number)
            assert row['mtime_ns'] == state[path].mtime_ns
            assert int(row['mode'], 8) == state[path].mode
            if row['type'] == 'file':
                assert row['size'] == state[path].size


def test_find_a_part(made: Made) -> None:
    chance = random.Random(4)
    everything = lines(made.agent, 'find', '--include', '*')
    for path in chance.sample(all_names(made), 4):
        found = lines(made.agent, 'find', '--include', pattern(path))
        assert found == [
            each
            for name, each in zip(names(everything), everything, strict=True)
            if name == path or name.startswith(path + b'/')
        ]
    by_name = lines(made.agent, 'find', '--include', '**/*a*')
    assert by_name == [
        each
        for name, each in zip(names(everything), everything, strict=True)
        if any(b'a' in part for part in name.split(b'/'))
    ]


def test_find_in_a_table(made: Made) -> None:
    path = min(made.contents[-1])
    result = made.agent.run('find', '--include', pattern(path)).check()
    rows = result.out.splitlines()
    assert rows[0].split() == ['Mode', 'Size', 'Changed', 'L', 'Backup', 'Path']
    assert len(rows) == 1 + len(lines(made.agent, 'find', '--include', pattern(path)))
    assert f'{len(rows) - 1} version' in result.err
    assert 'of 1 path in 6 backups' in result.err


def test_find_needs_a_pattern_that_matches(made: Made) -> None:
    assert '--include PATTERN' in made.agent.run('find').only_error
    result = made.agent.run('find', '--include', 'not/there', '--include', '*')
    assert "'not/there'" in result.error


# diff


def differs(old: trees.Entry, new: trees.Entry) -> str:
    """The known differences, as the agent reports them."""
    if old.kind != new.kind:
        return 'changed'
    if old.kind != 'directory' and (
        (old.size, old.mtime_ns, old.target) != (new.size, new.mtime_ns, new.target)
    ):
        return 'changed'
    mtimes = (old.mtime_ns, new.mtime_ns) if old.kind == 'directory' else (0, 0)
    if (old.mode, old.uid, old.gid, mtimes[0]) != (
        new.mode,
        new.uid,
        new.gid,
        mtimes[1],
    ):
        return 'attributes'
    return 'stored'


@pytest.mark.parametrize(
    ('first', 'second'), [(0, 1), (0, 2), (1, 2), (3, 5), (2, 3), (0, 5), (4, 1)]
)
def test_diff_of_two_states(made: Made, first: int, second: int) -> None:
    dates = (
        *('--from-date', iso(made.dates[first])),
        *('--to-date', iso(made.dates[second])),
    )
    found = lines(made.agent, 'diff', *dates)
    changes = dict(zip(names(found), found, strict=True))
    assert len(changes) == len(found)
    old, new = made.states[first], made.states[second]
    for path in old.keys() | new.keys():
        what = changes[path]['change'] if path in changes else None
        if path not in old:
            assert what == 'added'
        elif path not in new:
            assert what == 'removed'
        elif differs(old[path], new[path]) == 'stored':
            assert what in (None, 'stored')
            if old[path].digest != new[path].digest:
                assert what == 'stored'
        else:
            assert what == differs(old[path], new[path]), path
    table = made.agent.run('diff', *dates).check()
    letters = [line[0] for line in table.out.splitlines()[1:]]
    for letter, what in zip(
        '+-MU=', ('added', 'removed', 'changed', 'attributes', 'stored'), strict=True
    ):
        count = sum(each['change'] == what for each in found)
        assert letters.count(letter) == count
        assert f'{count} ' in table.err


def test_diff_of_a_part(made: Made) -> None:
    dates = ('--from-date', iso(made.dates[0]))
    everything = lines(made.agent, 'diff', *dates)
    for path in names(everything)[::5]:
        found = lines(made.agent, 'diff', *dates, '--include', pattern(path))
        assert found == [
            each
            for name, each in zip(names(everything), everything, strict=True)
            if name == path or name.startswith(path + b'/')
        ]
    result = made.agent.run('diff', *dates, '--include', 'not/there')
    assert "'not/there'" in result.error


def test_diff_of_one_state_is_empty(made: Made) -> None:
    dates = ('--from-date', iso(made.dates[5]))
    assert lines(made.agent, 'diff', *dates) == []
    assert '0 added, 0 removed' in made.agent.run('diff', *dates).check().err


def test_dates_of_diff(made: Made) -> None:
    assert '--from-date' in made.agent.run('diff').only_error
    date = iso(made.dates[1])
    for action, option in (('list', '--from-date'), ('restore', '--to-date')):
        assert 'belong to action diff' in made.agent.run(action, option, date).error
    both = made.agent.run('diff', '--from-date', date, '--restore-from-date', date)
    assert '--restore-from-date' in both.error
    early = made.agent.run('diff', '--from-date', '2000-01-01')
    assert 'at or before 2000-01-01' in early.error


# dump


def test_dump_of_every_file(made: Made) -> None:
    chance = random.Random(7)
    for number in (0, 2, 5):
        contents = made.contents[number]
        date = iso(made.dates[number])
        sparse = [p for p, c in contents.items() if len(c) > 150_000]
        linked = [p for p in contents if made.states[number][p].links]
        some = chance.sample(sorted(contents), 3)
        for path in {*sparse[:2], *linked[:2], *some}:
            assert (
                dumped(made.agent, path, '--restore-from-date', date)
                == (contents[path])
            )


def test_dump_of_anything_else_is_refused(made: Made) -> None:
    state = made.states[-1]
    kinds = {entry.kind: path for path, entry in sorted(state.items())}
    for kind, path in kinds.items():
        if kind == 'file':
            continue
        result = made.agent.run('dump', '--include', pattern(path))
        assert 'no file but a' in result.error
        assert result.out == ''
    result = made.agent.run('dump', '--include', '**/*[a-z]*')
    assert 'matches' in result.error or 'directory' in result.error
    assert result.out == ''
    assert 'not/there' in made.agent.run('dump', '--include', 'not/there').error
    assert '--include PATH' in made.agent.run('dump').only_error
    for option in ('--json', '--metadata-out=-'):
        assert '--json' in made.agent.run('dump', '--include', 'x', option).only_error


# Damage, and levels without an index


@pytest.fixture
def levels(local: Agent, source: Path) -> tuple[Agent, Path]:
    """Three levels; the newest has no index."""
    (source / 'kept').write_text('kept\n' * 1000)
    os.link(source / 'kept', source / 'link')
    local.backup(source).check()
    (source / 'file').write_text('changed')
    (source / 'new').write_text('new')
    local.increment(source).check()
    (source / 'new').unlink()
    local.increment(source).check()
    return local, source


def forget_index(agent: Agent, level: int, damaged: bool = False) -> None:
    """Make a level one of an agent that made no indexes, or damage its index."""
    (marker,) = (p for p in agent.store.markers() if f'/{level}_' in p)
    index = marker.replace('metadata', 'data', 1).replace('metadata', 'index')
    if damaged:
        agent.store.put(index, b'?' + agent.store.files()[index][1:])
        return
    document = json.loads(agent.store.files()[marker])
    del document['index']
    agent.store.put(marker, json.dumps(document).encode())
    agent.store.delete(index)


def test_levels_without_index(levels: tuple[Agent, Path]) -> None:
    agent, _source = levels
    dates = [agent.store.markers()[n].split('/')[4].split('_')[1] for n in range(3)]
    expected = [
        agent.run(action, *options, '--restore-from-date', iso(int(dates[1]))).out
        for action, *options in (('list',), ('dump', '--include', 'link'))
    ]
    diff = ('--from-date', iso(int(dates[0])))
    changes = lines(agent, 'diff', *diff)
    forget_index(agent, 1)
    # Level 1 is read, and level 0 for what it lacks.
    assert expected == [
        agent.run(action, *options, '--restore-from-date', iso(int(dates[1]))).out
        for action, *options in (('list',), ('dump', '--include', 'link'))
    ]
    assert agent.run('dump', '--include', 'file').check().out == 'changed'
    assert agent.run('dump', '--include', 'link').check().out == 'kept\n' * 1000
    assert 'matches 2 paths' in agent.run('dump', '--include', '*i*').error
    assert [each for each in changes if each['change'] != 'stored'] == (
        lines(agent, 'diff', *diff)
    )
    result = agent.run('find', '--include', '*').check()
    assert f'Not searched: level 1 of {iso(int(dates[1]))}: has no index' in result.err
    assert f'Not searched: level 2 of {iso(int(dates[2]))}: level 1' in result.err
    assert '1 backup' in result.err
    assert {each['level'] for each in lines(agent, 'find', '--include', '*')} == {0}


def test_a_damaged_index(levels: tuple[Agent, Path]) -> None:
    agent, _source = levels
    listed = agent.run('list').check().out
    forget_index(agent, 2, damaged=True)
    result = agent.run('list').check()
    assert result.out == listed
    assert 'reading the data of all levels instead' in result.err
    assert agent.run('dump', '--include', 'file').check().out == 'changed'
    found = agent.run('find', '--include', 'new')
    assert 'index is damaged' in found.error
    assert 'Not searched: level 2' in found.err
    # The others are.
    assert ' new' in found.out
    assert 'removed' not in found.out


def test_damaged_data_is_not_dumped(local: Agent, source: Path) -> None:
    big = random.Random(2).randbytes(80 << 20)
    (source / 'big').write_bytes(big)
    (source / 'small').write_bytes(b'small')
    local.backup(source, '--compression', 'none').check()
    (data,) = (path for path in local.store.files() if path.endswith('/data'))
    content = local.store.files()[data]
    # Another piece than those with the ends of the big file.
    at = content.index(big[40 << 20 : (40 << 20) + 100])
    local.store.put(data, content[:at] + b'?' + content[at + 1 :])
    assert local.run('dump', '--include', 'small').check().out == 'small'
    with local.start('dump', '--include', 'big') as process:
        result = process.wait()
        written = os.pread(process._streams[0], 1 << 30, 0)
    assert 'data' in result.error
    assert 'The output is incomplete: do not use it' in result.err
    assert len(written) < len(big)
    assert big.startswith(written)


def test_only_the_range_of_a_file_is_read(seaweedfs: SeaweedFS, source: Path) -> None:
    for number in range(20):
        (source / f'big{number}').write_bytes(random.Random(number).randbytes(4 << 20))
    with Proxy(seaweedfs.endpoint) as proxy:
        agent = Agent(S3Store(seaweedfs, proxy.endpoint))
        agent.backup(source).check()
        proxy.requests.clear()
        assert agent.run('dump', '--include', 'file').check().out == 'content'
        received = 0
        for request in proxy.requests:
            if request.key.endswith('/data'):
                start, end = request.headers['range'].removeprefix('bytes=').split('-')
                received += int(end) - int(start) + 1
        assert 0 < received < 20 << 20


@pytest.mark.parametrize('levels', [1, 3])
def test_a_part_reads_each_piece_once(
    seaweedfs: SeaweedFS, source: Path, tmp_path: Path, levels: int
) -> None:
    """Directories and files of a level are in one piece."""
    for name in ('d/one', 'd/two', 'd-x', 'd/sub/inner', 'other'):
        (source / name).mkdir(parents=True)
        (source / name / 'file').write_text(name)
    # So that level 1 does not have it once more.
    time.sleep(MARGIN)
    with Proxy(seaweedfs.endpoint) as proxy:
        agent = Agent(S3Store(seaweedfs, proxy.endpoint))
        for level in range(levels):
            (source / 'd' / f'new{level}').mkdir()
            (source / 'd' / f'new{level}' / 'file').write_text(str(level))
            agent.increment(source).check()
        proxy.requests.clear()
        agent.restore(tmp_path / 'target', '--include', 'd').check()
        read = [each.key for each in proxy.requests if each.key.endswith('/data')]
    assert len(set(read)) >= min(levels, 2)
    assert len(read) == len(set(read))
    expected = {p: e for p, e in trees.describe(source / 'd').items() if p != b'.'}
    found = trees.describe(tmp_path / 'target' / 'd')
    assert {p: e for p, e in found.items() if p != b'.'} == expected


def test_reader_that_has_enough(local: Agent, source: Path) -> None:
    """Neither an error nor a summary of what nobody read."""
    (source / 'big').write_bytes(bytes(4 << 20))
    local.backup(source).check()
    options = map(str, local.options)
    argv = (*command(), '--action', 'dump', *options, '--include', 'big')
    pipe = f'{shlex.join(argv)} | head -c 9'
    result = subprocess.run(
        ['bash', '-o', 'pipefail', '-c', pipe],
        capture_output=True,
        check=False,
        env=environment(local.env),
    )
    assert (result.returncode, result.stdout) == (0, bytes(9))
    assert result.stderr == b''
