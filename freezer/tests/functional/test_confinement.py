"""What keeps a restore in its target does not keep anything from coming back."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.tests import trees
from freezer.tests.agent import NO_LANDLOCK, Agent, assert_restores, missed
from freezer.utils import landlock

pytestmark = pytest.mark.usefixtures('cold')

# Nobody special: the user stays, as the tests' files are theirs.
NO_RIGHTS = ('setpriv', '--bounding-set=-all', '--inh-caps=-all')


@pytest.fixture
def linked(source: Path) -> Path:
    """Links across directories, and a bit of each kind that anybody can make."""
    for name in ('one', 'two', 'three'):
        (source / name).mkdir()
        (source / name / 'file').write_text(name)
    os.link(source / 'one' / 'file', source / 'two' / 'again')
    os.link(source / 'one' / 'file', source / 'top')
    (source / 'three' / 'up').symlink_to('../..')
    os.mkfifo(source / 'three' / 'fifo')
    return source


def change(source: Path) -> None:
    """Take one thing for another, and move links about."""
    (source / 'top').unlink()
    (source / 'top').mkdir()
    (source / 'three' / 'up').rename(source / 'top' / 'up')
    (source / 'three').rename(source / 'top' / 'three')
    (source / 'two' / 'again').rename(source / 'again')


def test_backup_and_restore_without_landlock(local: Agent, tmp_path: Path) -> None:
    """As it does with it, in all other tests."""
    source = tmp_path / 'tree'
    trees.make_tree(source, seed=3)
    states = []
    for level in range(2):
        if level:
            trees.mutate_tree(source, seed=4)
        states.append(trees.describe(source))
        local.increment(source).check()
        time.sleep(0.05)
    target = tmp_path / 'target'
    local.run_by(*NO_LANDLOCK).restore(target).check()
    assert missed(states[-1], target) == []


@pytest.mark.parametrize('rights', [True, False])
def test_chain_of_somebody_with_and_without_rights(
    local: Agent, linked: Path, tmp_path: Path, rights: bool
) -> None:
    local.increment(linked).check()
    change(linked)
    local.increment(linked).check()
    if trees.is_root() and not rights:
        local = local.run_by(*NO_RIGHTS)
    target, log = tmp_path / 'target', tmp_path / 'log'
    assert_restores(local, linked, target, '--log-file', log)
    # One who has no rights needs Landlock no less.
    held = landlock.unavailable_reason(str(target)) is None
    assert ('keeps tar from writing outside' in log.read_text()) == held


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system where there is one, reached by a link."""
    memory = Path('/dev/shm')
    on = memory if os.access(memory, os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(prefix='freezer-', dir=on) as folder:
        (tmp_path / 'elsewhere').symlink_to(folder)
        yield tmp_path / 'elsewhere'


def test_target_elsewhere(local: Agent, linked: Path, elsewhere: Path) -> None:
    local.increment(linked).check()
    change(linked)
    local.increment(linked).check()
    local.restore(elsewhere).check()
    # With the slash it is the directory and not the link.
    found = trees.describe(f'{elsewhere}/')
    assert trees.differences(trees.describe(linked), found) == []
