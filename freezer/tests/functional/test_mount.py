"""``--action mount``: what is below the mount point is what restores bring. The page
``mount.rst`` shows what it prints."""

import concurrent.futures
import contextlib
import dataclasses
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.job import INCOMPLETE
from freezer.tests import handmade, servers, trees
from freezer.tests.agent import (
    PART,
    ROOT,
    Agent,
    Process,
    Result,
    S3Store,
    Store,
    in_parts,
    iso,
    private,
)
from freezer.tests.functional.waiting import until
from freezer.tests.machine import with_cut
from freezer.tests.proxy import DENIED, Proxy

pytestmark = pytest.mark.skipif(
    not (shutil.which('fusermount3') and os.path.exists('/dev/fuse')),
    reason='needs fusermount3 (package fuse3) and /dev/fuse',
)

LEVELS = 3
MIB = 1 << 20


class Mount:
    """Backups that an agent has mounted."""

    def __init__(self, process: Process, point: Path) -> None:
        self.process = process
        self.point = point

    def state(self, agent: Agent, date: str = 'latest') -> Path:
        return self.point / agent.identity / date

    def end(self, number: signal.Signals = signal.SIGTERM) -> Result:
        self.process.send(number)
        return self.process.wait()


@contextlib.contextmanager
def mounted(agent: Agent, point: Path, *options: object) -> Iterator[Mount]:
    """Backups, mounted; it is unmounted at the end."""
    point.mkdir(exist_ok=True)
    with agent.start('mount', '--mount-point', point, *options) as process:
        try:
            until(lambda: 'Mounted ' in process.output()[1], process)
            yield Mount(process, point)
        finally:
            if not process.ended:
                process.send(signal.SIGINT)
                assert process.wait().code == 0
            unmount(point)
    assert not os.path.ismount(point)


def unmount(point: Path) -> None:
    subprocess.run(
        ['fusermount3', '-u', '-z', str(point)], check=False, capture_output=True
    )


def dates(store: Store) -> list[str]:
    """Of the backups, the oldest first."""
    times = (path.split('/')[4].partition('_')[2] for path in store.markers())
    return [iso(int(each)) for each in sorted(times)]


def shown(tree: Path) -> dict[bytes, trees.Entry]:
    """A tree, without what a mount does not show."""
    return {
        path: dataclasses.replace(entry, xattrs=())
        for path, entry in trees.describe(tree.resolve()).items()
    }


def shown_on_page(backups: int, point: Path) -> str:
    """The line that the page shows."""
    page = (ROOT / 'doc/source/user/mount.rst').read_text()
    (line,) = map(str, re.findall(r'(?m)^   (Mounted \d+ backups at .*)$', page))
    return line.replace('Mounted 2', f'Mounted {backups}').replace(
        '/mnt/backups', str(point)
    )


def make_levels(agent: Agent, source: Path, levels: int = LEVELS) -> None:
    trees.make_tree(source, 7, files=40, size=100_000)
    for level in range(levels):
        if level:
            trees.mutate_tree(source, 70 + level)
        agent.increment(source).check()


PLAIN = ('--compression', 'gzip')
AGE = ('--compression', 'none', '--encryption', 'age')
OPENSSL = ('--compression', 'zstd', '--encryption', 'openssl')


@pytest.mark.parametrize(
    'any_store, form',
    [
        ('local', PLAIN),
        ('local', AGE),
        ('seaweedfs', AGE),
        ('seaweedfs', OPENSSL),
        ('ceph', PLAIN),
    ],
    indirect=['any_store'],
    ids=['local', 'local-age', 'seaweedfs-age', 'seaweedfs-openssl', 'ceph'],
)
def test_each_state_is_what_a_restore_brings(
    any_store: Store, tmp_path: Path, form: tuple[str, ...]
) -> None:
    agent = Agent(any_store, options=form)
    if '--encryption' in form:
        passphrase = private(tmp_path / 'pass', 'secret\n')
        agent = agent.told('--encrypt-pass-file', passphrase)
    make_levels(agent, tmp_path / 'tree')
    with mounted(agent, tmp_path / 'mount') as mount:
        said = shown_on_page(LEVELS, mount.point)
        assert said in mount.process.output()[1].splitlines()
        made = dates(any_store)
        assert os.listdir(mount.point) == [agent.identity]
        below = sorted(os.listdir(mount.point / agent.identity))
        assert below == [*made, 'latest']
        assert os.readlink(mount.state(agent)) == made[-1]
        for date in made:
            target = tmp_path / date
            agent.restore(target, '--restore-from-date', date).check()
            expected, found = shown(target), shown(mount.state(agent, date))
            assert trees.differences(expected, found) == []
            for path, entry in expected.items():
                if entry.links:
                    file = os.fsencode(mount.state(agent, date)) + b'/' + path
                    assert os.lstat(file).st_nlink == len(entry.links)
        assert mount.end().code == 0
        assert f'Unmounted {mount.point}' in mount.process.output()[1]
        assert os.listdir(mount.point) == []


@pytest.mark.parametrize(
    'options',
    [('--compression', 'none'), ('--compression', 'gzip'), ('--compression', 'zstd')],
    ids=['none', 'gzip', 'zstd'],
)
def test_any_part_of_a_file_can_be_read(
    store: S3Store, tmp_path: Path, options: tuple[str, ...]
) -> None:
    agent = in_parts(Agent(store)).told(*options)
    source = tmp_path / 'source'
    source.mkdir()
    rng = random.Random(4)
    size = 23 * MIB + 12345
    # Half of it can be compressed.
    parts = [
        rng.choice((rng.randbytes(1000), b'x' * 1000)) for _ in range(size // 1000)
    ]
    (source / 'large').write_bytes(b''.join(parts))
    with (source / 'sparse').open('wb') as file:
        for _ in range(40):
            file.seek(rng.choice((0, MIB, 70_000)), os.SEEK_CUR)
            file.write(rng.randbytes(rng.randint(1, 9000)))
        file.truncate(file.tell() + MIB)
    agent.backup(source, '--max-segment-size', PART).check()
    with mounted(agent, tmp_path / 'mount') as mount:
        state = mount.state(agent)

        def compare(seed: int) -> None:
            rng = random.Random(seed)
            for name in ('large', 'sparse'):
                expected = (source / name).read_bytes()
                with (state / name).open('rb', buffering=0) as file:
                    for _ in range(60):
                        offset = rng.randrange(-100, len(expected) + 100)
                        size = rng.choice((1, 511, 4096, 70_000, 3 * MIB))
                        offset = max(offset, 0)
                        found = os.pread(file.fileno(), size, offset)
                        assert found == expected[offset : offset + size]

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(compare, range(4)))
        assert (state / 'large').read_bytes() == (source / 'large').read_bytes()


def test_nothing_is_written(
    seaweedfs: servers.SeaweedFS, proxy: Proxy, tmp_path: Path
) -> None:
    agent = Agent(S3Store(seaweedfs, proxy.endpoint))
    make_levels(agent, tmp_path / 'tree')
    before = agent.store.files()
    proxy.clear()
    with mounted(agent, tmp_path / 'mount') as mount:
        state = mount.state(agent)
        shown(state)
        with pytest.raises(OSError, match='Read-only file system'):
            (state / 'new').touch()
        with pytest.raises(OSError, match='Read-only file system'):
            (mount.point / 'new').mkdir()
        with pytest.raises(FileNotFoundError):
            os.stat(mount.point / 'missing')
        with pytest.raises(FileNotFoundError):
            os.stat(state / 'missing' / 'file')
        with pytest.raises(OSError, match='not supported'):
            os.getxattr(state, 'user.label')
    methods = {request.operation for request in proxy.requests}
    assert methods <= {'GetObject', 'HeadObject', 'ListObjectsV2', 'HeadBucket'}
    assert agent.store.files() == before


def test_a_store_that_fails_meanwhile(
    seaweedfs: servers.SeaweedFS, proxy: Proxy, tmp_path: Path
) -> None:
    log = tmp_path / 'log'
    agent = Agent(S3Store(seaweedfs, proxy.endpoint)).told('--log-file', log)
    source = tmp_path / 'source'
    source.mkdir()
    contents = {}
    for name in ('first', 'second'):
        contents[name] = os.urandom(6 * MIB)
        (source / name).write_bytes(contents[name])
    in_parts(agent).backup(source).check()
    with mounted(agent, tmp_path / 'mount') as mount:
        state = mount.state(agent)
        with (state / 'first').open('rb', buffering=0) as file:
            assert file.read(4096) == contents['first'][:4096]
        proxy.answer(lambda request: request.key.endswith('/data'), DENIED)
        names = sorted(os.listdir(state))
        assert names == ['first', 'second']
        assert (state / 'second').stat().st_size == 6 * MIB
        with (state / 'second').open('rb', buffering=0) as file:
            file.seek(5 * MIB)
            with pytest.raises(OSError, match='Input/output error'):
                file.read(4096)
        assert 'second: ' in mount.process.output()[1]
        assert 'Access' in log.read_text()
        # It works again.
        proxy.clear()
        assert (state / 'second').read_bytes() == contents['second']
        assert not mount.process.ended


def test_damage_is_an_error_where_it_is(local: Agent, tmp_path: Path) -> None:
    source = tmp_path / 'source'
    source.mkdir()
    for name in ('first', 'second'):
        (source / name).write_bytes(os.urandom(20 * MIB))
    local.backup(source, '--compression', 'none').check()
    (data,) = (path for path in local.store.files() if path.endswith('/data'))
    content = bytearray(local.store.files()[data])
    content[-MIB] ^= 1
    local.store.put(data, bytes(content))
    with mounted(local, tmp_path / 'mount') as mount:
        state = mount.state(local)
        results = []
        for name in ('first', 'second'):
            try:
                assert (state / name).read_bytes() == (source / name).read_bytes()
                results.append('right')
            except OSError as error:
                results.append(os.strerror(error.errno or 0))
        assert sorted(results) == ['Input/output error', 'right']
        assert 'the backup is damaged' in mount.process.output()[1]


def test_a_damaged_index_of_the_newest(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    """The other backups are mounted."""
    (source / 'file').write_text('content')
    local.told('--backup-name', 'whole').backup(source).check()
    local.told('--backup-name', 'damaged').backup(source).check()
    (damaged,) = tmp_path.glob('**/data/tar/hosta_damaged/*/*/index')
    damaged.unlink()
    everything = local.nameless
    with mounted(everything, tmp_path / 'mount') as mount:
        told = mount.process.output()[1]
        assert 'Damaged: hosta_damaged, level 0 of ' in told
        assert 'index is missing' in told
        assert (mount.point / 'hosta_whole/latest/file').read_text() == 'content'
        with pytest.raises(OSError, match='Input/output error'):
            (mount.point / 'hosta_damaged/latest/file').read_text()


def test_levels_without_index_are_named(local: Agent, tmp_path: Path) -> None:
    old, source = local.told('--backup-name', 'old'), tmp_path / 'tree'
    make_levels(old, source, 2)
    handmade.remove_indexes(local.store)
    local.backup(source).check()
    everything = local.nameless
    with mounted(everything, tmp_path / 'mount') as mount:
        assert os.listdir(mount.point) == [local.identity]
        _out, said = mount.process.output()
        assert said.count('Not mounted: hosta_old, level ') == 2
        assert 'level 0 has no index; --action admin --rebuild-index' in said
    refused = old.run('mount', '--mount-point', tmp_path / 'mount')
    assert 'no backup can be mounted' in refused.error
    old.run('admin', '--rebuild-index').check()
    with mounted(everything, tmp_path / 'mount') as mount:
        assert len(os.listdir(mount.point)) == 2
        found = shown(mount.point / 'hosta_old' / 'latest')
        assert trees.differences(shown(source), found) == []


def test_a_file_that_was_not_read_to_its_end(local: Agent, tmp_path: Path) -> None:
    source = tmp_path / 'source'
    source.mkdir()
    for name in ('broken', 'whole'):
        (source / name).write_bytes(os.urandom(200_000))
    local.increment(source).check()
    time.sleep(2.1)
    (source / 'broken').write_bytes(os.urandom(200_000))
    assert with_cut(local, 'broken', 5).increment(source).code == INCOMPLETE
    with mounted(local, tmp_path / 'mount') as mount:
        first, second = (mount.state(local, date) for date in dates(local.store))
        assert (second / 'whole').read_bytes() == (source / 'whole').read_bytes()
        with pytest.raises(OSError, match='Input/output error'):
            (second / 'broken').open('rb')
        assert len((first / 'broken').read_bytes()) == 200_000
        assert 'broken' in mount.process.output()[1]


def test_a_wrong_passphrase(local: Agent, source: Path, tmp_path: Path) -> None:
    right = private(tmp_path / 'right', 'right\n')
    wrong = private(tmp_path / 'wrong', 'wrong\n')
    (tmp_path / 'mount').mkdir()
    point = '--mount-point', tmp_path / 'mount'
    for number, form in enumerate(('age', 'openssl')):
        agent = local.told('--backup-name', form, '--encryption', form)
        agent.backup(source, '--encrypt-pass-file', right).check()
        agent = local.told('--backup-name', form)
        refused = agent.run('mount', *point, '--encrypt-pass-file', wrong)
        assert 'passphrase' in refused.error
        refused = agent.run('mount', *point)
        assert '--encrypt-pass-file' in refused.err
        assert refused.code == 1, number


def test_selected_backups(local: Agent, source: Path, tmp_path: Path) -> None:
    for name, *more in (
        ('bk', '--tag', 'wanted'),
        ('other',),
        ('deep/name', '--hostname', 'hostb'),
    ):
        local.told('--backup-name', name, *more).backup(source).check()
    point = tmp_path / 'mount'
    everything = local.nameless
    with mounted(everything, point):
        names = {str(path.relative_to(point)) for path in point.glob('*')}
        assert names >= {'hosta_bk', 'hosta_other'}
    with mounted(local, point):
        assert os.listdir(point) == ['hosta_bk']
    with mounted(everything.told('--tag', 'wanted'), point):
        assert os.listdir(point) == ['hosta_bk']
    for option, value in (('--tag', 'no'), ('--restore-from-date', '1999-01-01')):
        refused = local.run('mount', '--mount-point', point, option, value)
        assert 'or --tag selects none' in refused.only_error
    missing = local.told('--backup-name', 'missing')
    refused = missing.run('mount', '--mount-point', point)
    assert "No backup 'missing'" in refused.only_error


def test_one_file(local: Agent, tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('content')
    local.backup(tmp_path / 'file').check()
    with mounted(local, tmp_path / 'mount') as mount:
        state = mount.state(local)
        assert os.listdir(state) == ['file']
        assert (state / 'file').read_text() == 'content'


def test_ways_to_end(local: Agent, source: Path, tmp_path: Path) -> None:
    local.backup(source).check()
    point = tmp_path / 'mount'
    with mounted(local, point) as mount:
        subprocess.run(['fusermount3', '-u', str(point)], check=True)
        assert mount.process.wait().code == 0
    # In use: it goes away all the same.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with mounted(local, point) as mount:
            user = os.open(mount.state(local), os.O_RDONLY)
            try:
                assert mount.end(number).code == 0
                assert not os.path.ismount(point)
            finally:
                os.close(user)
    with mounted(local, point) as mount:
        refused = local.run('mount', '--mount-point', point)
        assert 'mounted there already' in refused.only_error
        mount.process.send(signal.SIGKILL)
        mount.process.wait()
        refused = local.run('mount', '--mount-point', point)
        assert f'fusermount3 -u {point}' in refused.only_error
        subprocess.run(['fusermount3', '-u', str(point)], check=True)
    with mounted(local, point):
        pass


def test_mistakes(local: Agent, source: Path, tmp_path: Path) -> None:
    local.backup(source).check()
    for arguments, words in (
        ((), 'needs --mount-point'),
        (('--mount-point', tmp_path / 'missing'), 'No such file or directory'),
        (('--mount-point', source), 'is not empty'),
        (('--mount-point', tmp_path, '--json'), 'has no result'),
        (('--mount-point', tmp_path, '--include', 'x'), '--include'),
    ):
        assert words in local.run('mount', *arguments).only_error
    refused = local.run('list', '--mount-point', tmp_path)
    assert 'belong to action mount' in refused.only_error


def test_without_the_library(local: Agent, tmp_path: Path) -> None:
    (tmp_path / 'mount').mkdir()
    shadow = tmp_path / 'shadow'
    shadow.mkdir()
    for error, words in (
        ("ModuleNotFoundError(name='mfusepy')", 'pip install freezer[mount]'),
        ("OSError('Unable to find libfuse')", 'install the package fuse3'),
    ):
        (shadow / 'mfusepy.py').write_text(f'raise {error}\n')
        agent = local.told(PYTHONPATH=f'{shadow}:{ROOT}')
        agent.program = (sys.executable, '-m', 'freezer.main')
        refused = agent.run('mount', '--mount-point', tmp_path / 'mount')
        assert words in refused.only_error


def test_new_backups_appear(local: Agent, source: Path, tmp_path: Path) -> None:
    local.increment(source).check()
    eager = local.told()
    eager.program = (
        *(sys.executable, '-c'),
        'import sys\n'
        'from freezer import main\n'
        'from freezer.job import mounted\n'
        'mounted.REFRESH_SECONDS = 0\n'
        'sys.exit(main.main())\n',
    )
    with mounted(eager, tmp_path / 'mount') as mount:
        before = dates(local.store)
        (source / 'new').write_text('new')
        local.increment(source).check()
        assert (mount.state(local) / 'new').read_text() == 'new'
        assert not (mount.state(local, before[0]) / 'new').exists()
        assert len(os.listdir(mount.point / local.identity)) == 3
