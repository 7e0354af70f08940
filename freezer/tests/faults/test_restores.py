"""Faults 52 to 57: the disk fails under a restore, or the backup is hostile.

Hostile archives are put into the storage by the agent itself, with a ``tar`` that emits
them: all else about these backups is as it should be. That they do harm to one who is
not protected is shown in ``freezer/tests/unit/test_confinement.py``.
"""

import contextlib
import errno
import os
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.tests import handmade, trees
from freezer.tests.agent import (
    HOST,
    NO_LANDLOCK,
    Agent,
    LocalStore,
    Result,
    missed,
    wrap_tar,
    wrap_tar_on_broken_disk,
)
from freezer.tests.archives import (
    END,
    ESCAPES,
    RECORDS,
    block,
    hard_link,
    member,
    pax,
    symlink,
    with_window,
)
from freezer.tests.handmade import put_level
from freezer.utils import landlock

MIB = 1 << 20


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    log = tmp_path / 'log'
    return Agent(LocalStore(tmp_path / 'store'), options=('--log-file', log))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / 'source'
    path.mkdir()
    for name in ('a', 'b', 'broken', 'c', 'd'):
        (path / name).write_bytes(os.urandom(MIB // 2))
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / 'target'


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / 'outside'
    (path / 'sub').mkdir(parents=True)
    (path / 'victim').write_text('victim')
    (path / 'sub' / 'victim').write_text('victim')
    (path / 'victim').chmod(0o600)
    return path


def put(agent: Agent, folder: Path, *levels: bytes) -> None:
    """Make a chain of backups whose archives are these."""
    source = folder / 'archived'
    source.mkdir()
    (source / 'file').write_text('content')
    for number, level in enumerate(levels):
        archive = folder / f'archive{number}'
        archive.write_bytes(level)
        # The real one makes what the next level goes by.
        script = f'$TAR "$@" | cat >/dev/null; exec cat "{archive}"'
        env = wrap_tar(folder / f'bin{number}', script)
        made = agent.told(**env).increment(source).check()
        assert made.document['curr_backup_level'] == number


def forge(agent: Agent, *levels: bytes) -> None:
    """A chain with these archives, which the agent itself would not write."""
    for number, level in enumerate(levels):
        handmade.put_level(agent.store, agent.identity, number, level)


def described(outside: Path) -> object:
    """A tree, down to what a new hard link changes of a file."""
    return {
        path: (entry, os.lstat(os.fsencode(outside) + b'/' + path).st_ctime_ns)
        for path, entry in trees.describe(outside).items()
    }


def partial(result: Result, target: Path) -> str:
    """The line that says why a restore did not finish; before it, what that means."""
    said, error = result.err.splitlines()
    assert said == (
        f'The restore did not finish; {target} is incomplete, do not use it'
    )
    assert error == result.error
    assert result.out == ''
    return error


def restores(agent: Agent, source: Path, target: Path) -> None:
    agent.restore(target).check()
    assert missed(trees.describe(source), target) == []


# The disk


@pytest.mark.parametrize('error', [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_52_disk_that_fails(
    agent: Agent, source: Path, target: Path, tmp_path: Path, error: int
) -> None:
    agent.backup(source).check()
    env = wrap_tar_on_broken_disk(tmp_path / 'bin', 'write', error)
    said = partial(agent.told(**env).restore(target), target)
    assert './broken: Cannot write' in said
    assert os.strerror(error) in said
    assert str(target) in said
    restores(agent, source, tmp_path / 'elsewhere')


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str | None], str]]:
    """A directory with too little room, what tar needs for that, and what it says.

    A file system of its own where that can be mounted; else files cannot grow.
    """
    target = tmp_path / 'small'
    target.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'freezer', str(target)]
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0:
            try:
                yield target, {}, os.strerror(errno.ENOSPC)
            finally:
                subprocess.run(['umount', '--lazy', target], check=True)
            return
    # Blocks of 512 bytes.
    script = 'trap "" XFSZ; ulimit -f 100; exec $TAR "$@"'
    yield target, wrap_tar(tmp_path / 'bin', script), os.strerror(errno.EFBIG)


def test_52_disk_that_is_full(
    agent: Agent,
    source: Path,
    small: tuple[Path, dict[str, str | None], str],
    tmp_path: Path,
) -> None:
    agent.backup(source).check()
    target, env, why = small
    assert why in partial(agent.told(**env).restore(target), target)
    # What is there can be told from what should be.
    assert missed(trees.describe(source), target)
    restores(agent, source, tmp_path / 'elsewhere')


# What is there


@pytest.mark.parametrize('kind', ['full', 'file', 'link to a file'])
def test_53_existing_files_stay(
    agent: Agent, source: Path, target: Path, tmp_path: Path, kind: str
) -> None:
    agent.backup(source).check()
    mine = tmp_path / 'mine'
    mine.mkdir()
    (mine / 'mine').write_text('mine')
    target = mine
    if kind != 'full':
        target = mine / 'mine'
    if kind == 'link to a file':
        target = mine / 'link'
        target.symlink_to('mine')
    before = described(mine)
    error = agent.restore(target).only_error
    assert f'restore-abs-path {target}' in error
    assert ('--overwrite' in error) == (kind == 'full')
    assert described(mine) == before


def test_53_overwrite_lists_what_it_removes(
    agent: Agent, source: Path, target: Path
) -> None:
    agent.backup(source).check()
    restores(agent, source, target)
    (target / 'mine').write_text('mine')
    (target / 'a').write_text('changed')
    before = described(target)
    tried = agent.restore(target, '--overwrite', '--dry-run').check()
    assert tried.err.splitlines()[:2] == [
        f'Would remove 1 path not in the backup from {target}:',
        '  mine',
    ]
    assert described(target) == before
    done = agent.restore(target, '--overwrite').check()
    assert done.err.splitlines()[:2] == [
        f'Removing 1 path not in the backup from {target}:',
        '  mine',
    ]
    assert missed(trees.describe(source), target) == []


@pytest.mark.parametrize('part', [(), ('--include', 'kept')])
def test_53_directories_of_a_restore_that_fails(
    agent: Agent, source: Path, target: Path, part: tuple[str, ...]
) -> None:
    for parent in (source, target):
        (parent / 'kept' / 'deep').mkdir(parents=True)
    (target / 'kept' / 'deep').chmod(0o750)
    (target / 'kept').chmod(0o555)
    os.utime(target / 'kept' / 'deep', (1, 10**9))
    before = trees.describe(target)
    agent.backup(source).check()
    said = agent.restore(target, '--overwrite', '--max-restore-size', 1, *part)
    assert '--max-restore-size' in said.error
    assert trees.describe(target) == before
    (target / 'kept').chmod(0o755)


# Names and kinds


@pytest.mark.parametrize(
    'name, kind',
    [
        ('../outside/new', b'0'),
        ('./a/../../outside/new', b'0'),
        ('{outside}/new', b'0'),
        ('{outside}/new', b'5'),
        ('..', b'5'),
        ('/', b'5'),
        # Another name for what is outside.
        ('../outside/victim', b'1'),
        ('{outside}/victim', b'1'),
    ],
)
def test_54_names_outside_of_the_target(
    agent: Agent,
    target: Path,
    outside: Path,
    name: str,
    kind: bytes,
) -> None:
    path = name.format(outside=outside).encode()
    if kind == b'1':
        bad = pax((b'linkpath', path)) + hard_link(b'./link', b'x')
    else:
        bad = pax((b'path', path)) + block(b'x', kind)
    # No agent would make such a backup.
    archive = member(b'./good', b'good') + bad + END
    put_level(agent.store, f'{HOST}_bk', 0, archive)
    before = described(outside)
    error = partial(agent.restore(target), target)
    assert 'Refused ' in error
    assert ' is absolute' in error or ' contains ".."' in error
    assert described(outside) == before
    assert os.listdir(target) in ([], ['good'])


# What gives somebody rights: file, and what becomes of it in an untrusted backup.
SET_ID = {'user': 0o4755, 'group': 0o2711, 'both': 0o6777, 'sticky': 0o1644}
CAPABILITY = 'security.capability'
# cap_net_raw, permitted and effective.
NET_RAW = struct.pack('<5I', 0x02000001, 1 << 13, 0, 0, 0)


@pytest.fixture
def armed(tmp_path: Path) -> Path:
    """A tree with all of it that can be made here."""
    path = tmp_path / 'armed'
    path.mkdir()
    for name, mode in SET_ID.items():
        (path / name).write_text(name)
        (path / name).chmod(mode)
    (path / 'folder').mkdir()
    (path / 'folder').chmod(0o3777)
    if trees.is_root():
        with contextlib.suppress(PermissionError):
            os.mknod(path / 'null', 0o020666, os.makedev(1, 3))
        with contextlib.suppress(OSError):
            os.setxattr(path / 'user', CAPABILITY, NET_RAW)
    return path


def test_54_rights_come_back(agent: Agent, armed: Path, target: Path) -> None:
    """The policy: a backup of a system has devices and set-user-ID programs."""
    agent.backup(armed).check()
    restores(agent, armed, target)


def test_54_rights_are_taken_from_the_untrusted(
    agent: Agent, armed: Path, target: Path
) -> None:
    agent.backup(armed).check()
    agent.restore(target, '--untrusted').check()
    found = trees.describe(target)
    expected = trees.describe(armed)
    assert found.keys() == expected.keys()
    for path, entry in found.items():
        was = expected[path]
        names = {name for name, _value in entry.xattrs}
        assert names == {name for name, _value in was.xattrs} - {CAPABILITY}
        if was.kind == 'directory':
            assert (entry.kind, entry.mode) == (was.kind, was.mode)
            continue
        assert entry.kind == 'file'
        assert entry.mode == was.mode & 0o1777
        assert entry.digest == was.digest or (was.kind != 'file' and entry.size == 0)
        assert (entry.uid, entry.gid) == (was.uid, was.gid)
        assert entry.mtime_ns == was.mtime_ns


@pytest.mark.parametrize('kind', [b'3', b'4'])
def test_54_devices_of_the_untrusted(
    agent: Agent, target: Path, tmp_path: Path, kind: bytes
) -> None:
    """Also for who could not make them."""
    device = block(b'./device', kind, mode=0o666)
    put(agent, tmp_path, device + hard_link(b'./again', b'./device') + END)
    agent.restore(target, '--untrusted').check()
    for name in ('device', 'again'):
        status = (target / name).lstat()
        assert stat.S_ISREG(status.st_mode)
        assert status.st_size == 0


# Links


@pytest.mark.parametrize('name', ESCAPES)
def test_55_links(agent: Agent, target: Path, outside: Path, name: str) -> None:
    forge(agent, *(level + END for level in ESCAPES[name]))
    before = described(outside)
    assert 'Refused ' in partial(agent.restore(target), target)
    assert described(outside) == before


@pytest.mark.parametrize('first', [True, False], ids=['one level', 'two levels'])
@pytest.mark.parametrize('held', [True, False], ids=['landlock', 'no landlock'])
def test_55_the_log_says_what_is_in_force(
    agent: Agent,
    target: Path,
    outside: Path,
    tmp_path: Path,
    first: bool,
    held: bool,
) -> None:
    """On a kernel without Landlock, or what looks like one, the guard is alone."""
    target.mkdir()
    why_not = landlock.unavailable_reason(str(target))
    if not held:
        agent = agent.run_by(*NO_LANDLOCK)
        why_not = os.strerror(errno.ENOSYS)
    levels = [symlink(b'./d', b'../outside'), member(b'./d/victim', b'evil')]
    if first:
        levels = [b''.join(levels)]
    forge(agent, *(level + END for level in levels))
    before = described(outside)
    error = partial(agent.restore(target), target)
    assert 'through the symbolic link' in error
    assert described(outside) == before
    lines = (tmp_path / 'log').read_text().splitlines()
    (said,) = [line for line in lines if 'every member is checked' in line]
    assert ' INFO ' in said
    if why_not is None:
        assert f'Landlock {landlock.version()} keeps tar from writing' in said
    else:
        assert f'Landlock is not available ({why_not})' in said


# Records of directories


@pytest.mark.parametrize('name', RECORDS)
def test_56_records_of_directories(
    agent: Agent, target: Path, outside: Path, name: str
) -> None:
    forge(agent, *(level + END for level in RECORDS[name]))
    before = described(outside)
    assert 'Refused ' in partial(agent.restore(target), target)
    assert described(outside) == before


@pytest.mark.parametrize(
    'record',
    [
        'R{outside}/sub|T./x',
        'R./x|T{outside}/x',
        'R../outside/sub|T./x',
        'R./x|T./../outside/x',
        'X/',
        'X..',
    ],
)
def test_56_records_with_names_outside_of_the_target(
    agent: Agent, target: Path, outside: Path, record: str
) -> None:
    """Those of renames tar changes by itself, and goes on."""
    entries = record.format(outside=outside).encode().split(b'|')
    dumpdir = b''.join(entry + b'\0' for entry in [*entries, b''])
    bad = pax((b'GNU.dumpdir', dumpdir)) + block(b'.', b'5')
    forge(agent, bad + END)
    before = described(outside)
    error = partial(agent.restore(target), target)
    assert ' is absolute' in error or ' contains ".."' in error
    assert described(outside) == before


# Bombs

BOMB = 24 * MIB


@pytest.mark.parametrize('compression', ['gzip', 'bzip2', 'xz', 'zstd', 'none'])
def test_57_bombs_are_bounded(
    agent: Agent, target: Path, tmp_path: Path, compression: str
) -> None:
    agent = agent.told('--compression', compression)
    put(agent, tmp_path, member(b'./bomb', bytes(BOMB)) + END)
    if compression != 'none':
        assert max(map(len, agent.store.files().values())) < BOMB // 100
    bounded = agent.restore(target, '--max-restore-size', '8M')
    error = partial(bounded, target)
    assert f'larger than the {8 * MIB} bytes that --max-restore-size allows' in error
    assert (target / 'bomb').stat().st_size <= 8 * MIB
    # It would have been one.
    agent.restore(tmp_path / 'elsewhere').check()
    assert (tmp_path / 'elsewhere' / 'bomb').stat().st_size == BOMB


def test_57_limit_counts_all_levels(agent: Agent, target: Path, tmp_path: Path) -> None:
    levels = [member(b'./%d' % n, bytes(5000)) + END for n in range(3)]
    put(agent, tmp_path, *levels)
    size = sum(map(len, levels))
    error = partial(agent.restore(target, '--max-restore-size', size - 1), target)
    assert f'{size - 1} bytes' in error
    assert sorted(os.listdir(target)) == ['0', '1']
    exactly = tmp_path / 'exactly'
    agent.restore(exactly, '--max-restore-size', size).check()
    assert sorted(os.listdir(exactly)) == ['0', '1', '2']


def test_57_holes_do_not_count(agent: Agent, source: Path, target: Path) -> None:
    for path in source.iterdir():
        path.unlink()
    with (source / 'hollow').open('wb') as stream:
        stream.truncate(128 * MIB)
        stream.write(b'content')
    agent.backup(source).check()
    agent.restore(target, '--max-restore-size', '1M').check()
    assert missed(trees.describe(source), target) == []


@pytest.mark.parametrize('compression', ['xz', 'zstd'])
def test_57_declared_window_size_does_not_take_memory(
    agent: Agent, target: Path, compression: str
) -> None:
    archive = with_window(compression, 31, END)
    put_level(agent.store, f'{HOST}_bk', 0, archive, compressed=compression)
    error = partial(agent.restore(target), target)
    assert f'the {compression} stream is damaged, or needs more than 64 MiB' in error
    assert os.listdir(target) == []
