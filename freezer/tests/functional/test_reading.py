"""A user replaces a directory by a link while root's backup runs: what it leads to is
not backed up."""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from freezer.engine.engine import Archiving, Warnings
from freezer.engine.tar import process, reading
from freezer.engine.tar.walk import Walk
from freezer.exceptions import EngineError
from freezer.job import INCOMPLETE
from freezer.tests import machine, trees
from freezer.tests.agent import NO_LANDLOCK, Agent, Result, missed, wrap_tar
from freezer.tests.commands import run_command
from freezer.tests.engines import tar_engine
from freezer.tests.functional.test_confinement import NO_RIGHTS
from freezer.utils import landlock

SECRET = b'only for root'

pytestmark = pytest.mark.usefixtures('cold')


def has_landlock() -> bool:
    with contextlib.suppress(OSError):
        return landlock.version() >= 1
    return False


needs_landlock = pytest.mark.skipif(
    not has_landlock(), reason='this kernel has no Landlock'
)


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A directory that the source must not lead to. tar archives the names that it has
    listed: a user can make files of these names."""
    path = tmp_path / 'private'
    (path / 'inner' / 'deep').mkdir(parents=True)
    for folder in (path, path / 'inner', path / 'inner' / 'deep'):
        (folder / 'mine').write_bytes(SECRET)
        (folder / 'mine').chmod(0o600)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A source whose first file is larger than what tar writes ahead."""
    path = tmp_path / 'home'
    (path / 'folder' / 'inner' / 'deep').mkdir(parents=True)
    for folder in (path / 'folder', path / 'folder' / 'inner'):
        (folder / 'mine').write_text('mine')
    (path / 'folder' / 'inner' / 'deep' / 'mine').write_text('mine')
    (path / 'big').write_bytes(os.urandom(1 << 20) * 16)
    (path / 'other').mkdir()
    (path / 'other' / 'file').write_text('other')
    return path


def swap(folder: Path, private: Path) -> None:
    folder.rename(folder.with_name('moved'))
    folder.symlink_to(private)


def contents(top: Path) -> set[bytes]:
    return {path.read_bytes() for path in top.rglob('*') if path.is_file()}


def log_of(agent: Agent, path: Path, *options: object) -> tuple[Result, str]:
    log = path.with_name('log')
    log.unlink(missing_ok=True)
    result = agent.increment(path, '--log-file', log, *options)
    return result, log.read_text()


@needs_landlock
@pytest.mark.parametrize(
    ('swapped', 'named'),
    [
        ('folder', 'folder/inner'),
        ('folder/inner', 'folder/inner/deep'),
    ],
)
def test_directory_is_swapped_for_a_link(
    local: Agent, home: Path, private: Path, tmp_path: Path, swapped: str, named: str
) -> None:
    place, led = home / swapped, private if swapped == 'folder' else private / 'inner'
    # tar has listed all directories when it comes to the first file.
    result, log = log_of(machine.with_swap(local, 'big', place, led), home)
    assert place.is_symlink()
    local.restore(tmp_path / 'target').check()
    assert SECRET not in contents(tmp_path / 'target')
    assert result.code == INCOMPLETE, result
    assert f'./{named}: Cannot open: Permission denied' in result.err
    assert f'keeps tar from reading outside of {home}' in log
    assert (tmp_path / 'target' / 'other' / 'file').read_text() == 'other'
    # The next level has all that is there.
    local.increment(home).check()
    local.restore(tmp_path / 'next').check()
    assert missed(trees.describe(home), tmp_path / 'next') == []


@needs_landlock
def test_increment(local: Agent, home: Path, private: Path, tmp_path: Path) -> None:
    local.increment(home).check()
    (home / 'big').write_bytes(os.urandom(1 << 20) * 16)
    (home / 'folder' / 'inner' / 'deep' / 'mine').write_text('changed')
    place = home / 'folder'
    machine.with_swap(local, 'big', place, private).increment(home)
    assert place.is_symlink()
    local.restore(tmp_path / 'target').check()
    assert SECRET not in contents(tmp_path / 'target')


def archived(
    source: Path, tmp_path: Path, act: Callable[[], None], *others: Path
) -> bytes:
    """The archive of a source, with others; the act comes after its first bytes."""
    engine = tar_engine()
    state = tmp_path / 'state'
    state.touch()
    found = engine.source([str(path) for path in (source, *others)])
    run = Archiving(found, None, state, Warnings(), 0, 10**18)
    blocks = engine.archive(run)
    first = bytes(next(blocks))
    act()
    return first + b''.join(map(bytes, blocks))


@needs_landlock
def test_neighbours(home: Path, private: Path, tmp_path: Path) -> None:
    """The link leads by a chain, through /proc, or up from inside."""
    folder = home / 'folder'
    (tmp_path / 'way').symlink_to(private)
    for number, target in enumerate(
        (tmp_path / 'way', f'/proc/self/root{private}', '../private', '../../private')
    ):

        def act(target: object = target, number: int = number) -> None:
            folder.rename(tmp_path / f'moved{number}')
            folder.symlink_to(str(target))

        assert SECRET not in archived(home, tmp_path, act)
        folder.unlink()
        (tmp_path / f'moved{number}').rename(folder)


@needs_landlock
def test_source_itself_is_swapped(
    home: Path, private: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the agent's walk and tar's."""
    write = Walk.write_state

    def write_and_swap(walk: Walk, state: Path) -> None:
        write(walk, state)
        swap(home, private)

    monkeypatch.setattr(Walk, 'write_state', write_and_swap)
    with pytest.raises(EngineError, match='tar failed with status 2'):
        archived(home, tmp_path, lambda: None)


@needs_landlock
@pytest.mark.parametrize('before_tar', [True, False])
def test_parent_of_several_paths_is_swapped(
    home: Path,
    private: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before_tar: bool,
) -> None:
    """Files and directories that are named to tar, below what is a link by then."""
    write = Walk.write_state

    def write_and_swap(walk: Walk, state: Path) -> None:
        write(walk, state)
        if before_tar:
            swap(home / 'folder', private)

    def act() -> None:
        if not before_tar:
            swap(home / 'folder', private)

    monkeypatch.setattr(Walk, 'write_state', write_and_swap)
    paths = (home / 'folder' / 'mine', home / 'folder' / 'inner', home / 'other')
    archive = archived(home / 'big', tmp_path, act, *paths)
    assert SECRET not in archive
    assert b'other' in archive


@needs_landlock
def test_file_as_source(local: Agent, home: Path, tmp_path: Path) -> None:
    path = home / 'folder' / 'mine'
    result, log = log_of(local, path)
    result.check()
    assert f'keeps tar from reading outside of {path.parent}' in log
    local.restore(tmp_path / 'target').check()
    assert (tmp_path / 'target' / 'mine').read_text() == 'mine'


def test_script_in_the_place_of_tar(local: Agent, home: Path, tmp_path: Path) -> None:
    """It may read whatever it needs."""
    (tmp_path / 'settings').write_text('read')
    script = f'[ "$(cat {tmp_path}/settings)" = read ] && exec $TAR "$@"'
    result, log = log_of(local.told(**wrap_tar(tmp_path / 'bin', script)), home)
    result.check()
    reason = f'{tmp_path}/bin/tar is a script'
    assert f'tar is not kept from reading outside of {home}: {reason}' in log


def test_kernel_without(local: Agent, home: Path, tmp_path: Path) -> None:
    result, log = log_of(local.run_by(*NO_LANDLOCK), home)
    result.check()
    reason = 'Landlock is not available (Function not implemented)'
    assert f'tar is not kept from reading outside of {home}: {reason}' in log
    local.restore(tmp_path / 'target').check()
    assert missed(trees.describe(home), tmp_path / 'target') == []


@pytest.mark.parametrize(
    ('links', 'held'), [('soft', False), ('all', False), ('hard', True)]
)
def test_followed_links(
    local: Agent, home: Path, private: Path, tmp_path: Path, links: str, held: bool
) -> None:
    """Links are followed out of the source on purpose."""
    (home / 'link').symlink_to(private / 'inner')
    result, log = log_of(local, home, '--dereference-symlink', links)
    result.check()
    reason = '--dereference-symlink follows links out of it'
    assert (reason in log) != held
    local.restore(tmp_path / 'target').check()
    assert (SECRET in contents(tmp_path / 'target')) != held


@pytest.mark.parametrize('rights', [True, False])
def test_nothing_is_lost(
    local: Agent, tmp_path: Path, home: Path, rights: bool
) -> None:
    """Names of owners, attributes, ACLs, holes and links, as without Landlock."""
    source = tmp_path / 'tree'
    trees.make_tree(source, seed=7)
    agent = local
    if trees.is_root():
        os.chown(source, 1, 1)
        if not rights:
            agent = local.run_by(*NO_RIGHTS)
    expected = trees.describe(source)
    result = agent.increment(source)
    if trees.is_root() and not rights:
        # It cannot read what belongs to others.
        assert result.code in (0, INCOMPLETE), result
        return
    result.check()
    local.restore(tmp_path / 'target').check()
    assert missed(expected, tmp_path / 'target') == []
    rows = local.run('list', '--json').check().out.splitlines()
    for row in map(json.loads, rows):
        if row['uid'] in (0, 1):
            assert row['user'] == ('root', 'daemon')[row['uid']]


@needs_landlock
@pytest.mark.parametrize('user', [0, 2])
def test_tar_with_rights_of_its_own(
    home: Path,
    tmp_path: Path,
    user: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Landlock would remove them from users other than root."""
    tar = tmp_path / 'tar'
    shutil.copy(process.find_tar(), tar)
    tar.chmod(0o4755)
    monkeypatch.setattr(process, 'find_tar', lambda: str(tar))
    monkeypatch.setattr(os, 'geteuid', lambda: user)
    caplog.set_level(logging.INFO)
    folder = os.open(home, os.O_PATH)
    confine = reading.confinement([folder], str(home), False, ())
    os.close(folder)
    assert (
        (confine is None) == ('tar has rights of its own' in caplog.text) == bool(user)
    )


@needs_landlock
def test_checksum(local: Agent, home: Path, tmp_path: Path) -> None:
    made = local.backup(home, '--consistency-check').check().document
    digest = made['consistency_checksum']
    target = tmp_path / 'target'
    local.restore(target, '--consistency-checksum', digest).check()


@needs_landlock
def test_only_reading_is_confined(tmp_path: Path) -> None:
    inside, outside = tmp_path / 'inside', tmp_path / 'outside'
    for path in (inside, outside):
        (path / 'folder').mkdir(parents=True)
        (path / 'file').write_text('content')
    folder = os.open(inside, os.O_PATH)

    def act() -> list[int]:
        return [
            run_command(*command).returncode
            for command in (
                ('cat', inside / 'file'),
                ('cat', outside / 'file'),
                ('ls', outside),
                ('touch', outside / 'new'),
                ('mv', '-n', outside / 'file', outside / 'folder' / 'file'),
            )
        ]

    codes = landlock.run_reading([folder], ('/usr', '/lib', '/lib64', '/bin'), (), act)
    os.close(folder)
    assert [bool(code) for code in codes] == [False, True, True, False, False]
    assert (outside / 'folder' / 'file').exists()
