import dataclasses
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from freezer.tests import trees


def without_times(entries: dict[bytes, trees.Entry]) -> dict[bytes, trees.Entry]:
    """What is not given a time has that of the moment."""
    return {
        path: dataclasses.replace(entry, mtime_ns=0, allocated=0)
        for path, entry in entries.items()
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    trees.make_tree(tmp_path / 'tree', 1)
    return tmp_path / 'tree'


def test_the_same_seed_makes_the_same_tree(tmp_path: Path) -> None:
    for name in ('one', 'two'):
        trees.make_tree(tmp_path / name, 7, files=60)
    one, two = (trees.describe(tmp_path / name) for name in ('one', 'two'))
    assert trees.differences(without_times(one), without_times(two)) == []


def test_another_seed_makes_another_tree(tmp_path: Path, tree: Path) -> None:
    trees.make_tree(tmp_path / 'other', 2)
    assert trees.differences(trees.describe(tree), trees.describe(tmp_path / 'other'))


def test_the_same_seed_makes_the_same_changes(tmp_path: Path) -> None:
    done = []
    for name in ('one', 'two'):
        trees.make_tree(tmp_path / name, 7)
        done.append(trees.mutate_tree(tmp_path / name, 8, count=40))
    assert done[0] == done[1]
    one, two = (trees.describe(tmp_path / name) for name in ('one', 'two'))
    assert trees.differences(without_times(one), without_times(two)) == []


def test_describing_changes_nothing_but_access_times(tree: Path) -> None:
    before = {path: status.st_ctime_ns for path, status in trees.walk(tree)}
    assert trees.differences(trees.describe(tree), trees.describe(tree)) == []
    assert before == {path: status.st_ctime_ns for path, status in trees.walk(tree)}


def test_trees_have_everything(tmp_path: Path) -> None:
    entries: dict[bytes, trees.Entry] = {}
    for seed in range(5):
        trees.make_tree(tmp_path / str(seed), seed, files=100)
        found = trees.describe(tmp_path / str(seed))
        assert max(map(len, found)) > 1024
        entries |= {b'%d/%s' % (seed, path): entry for path, entry in found.items()}
    kinds = {entry.kind for entry in entries.values()}
    assert kinds >= {'file', 'directory', 'symlink', 'fifo'}
    names = {os.path.basename(path) for path in entries}
    for wanted in (b'\n', b'\\', b'"', b"'", b'*', b'\xff', b'\t'):
        assert any(wanted in name for name in names)
    assert any(name.startswith(b'-') for name in names)
    assert any(name.endswith(b' ') for name in names)
    assert any(len(name) == 255 for name in names)
    times = {entry.mtime_ns for entry in entries.values()}
    assert min(times) < 0
    assert max(times) > 2**31 * 10**9
    assert any(time % 10**9 for time in times)
    files = [entry for entry in entries.values() if entry.kind == 'file']
    assert any(entry.size == 0 for entry in files)
    assert any(entry.allocated < entry.size // 2 for entry in files)
    assert any(entry.links for entry in files)
    assert any(entry.links for entry in entries.values() if entry.kind == 'symlink')
    modes = {entry.mode for entry in entries.values()}
    assert any(mode & stat.S_ISUID for mode in modes)
    assert any(mode & stat.S_ISVTX for mode in modes)


@pytest.mark.parametrize('seed', range(4))
def test_every_change_can_happen(tmp_path: Path, seed: int) -> None:
    trees.make_tree(tmp_path / 'tree', seed)
    done: set[str] = set()
    for round_ in range(15):
        lines = trees.mutate_tree(tmp_path / 'tree', seed * 100 + round_, count=20)
        done |= {line.split(':')[0] for line in lines}
        trees.describe(tmp_path / 'tree')
    assert len(done) > len(trees.MUTATIONS) * 3 // 4


@pytest.mark.parametrize('mutation', trees.MUTATIONS, ids=lambda m: m.__name__)
def test_each_change_shows(tmp_path: Path, mutation: trees.Mutation) -> None:
    trees.make_tree(tmp_path / 'tree', 3, files=60)
    before = trees.describe(tmp_path / 'tree')
    done = trees.mutate_tree(tmp_path / 'tree', 3, count=20, mutations=[mutation])
    if not done and not trees.is_root():
        pytest.skip('an ordinary user may not do this')
    assert done
    assert trees.differences(before, trees.describe(tmp_path / 'tree'))


@pytest.mark.skipif(not trees.is_root(), reason='cp -a keeps owners for root only')
def test_a_faithful_copy_has_no_differences(tmp_path: Path, tree: Path) -> None:
    subprocess.run(
        ['cp', '-a', '--sparse=always', tree, tmp_path / 'copy'],
        check=True,
    )
    assert (
        trees.differences(trees.describe(tree), trees.describe(tmp_path / 'copy')) == []
    )


FILE = trees.Entry('file', 0o644, 1, 1, 5, 9, 'abc')


@pytest.mark.parametrize(
    'changes, line',
    [
        ({'kind': 'fifo'}, "'a': file expected, is a fifo"),
        ({'mode': 0o4755}, "'a' (file): mode 0644 expected, is 4755"),
        ({'uid': 2}, "'a' (file): uid 1 expected, is 2"),
        ({'gid': 2}, "'a' (file): gid 1 expected, is 2"),
        (
            {'mtime_ns': -1},
            "'a' (file): mtime_ns 0+000000005ns expected, is -1+999999999ns",
        ),
        ({'size': 8}, "'a' (file): size 9 expected, is 8"),
        ({'digest': 'abd'}, "'a' (file): digest abc expected, is abd"),
        ({'links': (b'a', b'b')}, "'a' (file): links none expected, is 'a', 'b'"),
        (
            {'xattrs': (('user.x', b'1'),)},
            "'a' (file): xattrs () expected, is (('user.x', b'1'),)",
        ),
        ({'target': b'\xff'}, "'a' (file): target b'' expected, is b'\\xff'"),
        ({'device': (1, 3)}, "'a' (file): device (0, 0) expected, is (1, 3)"),
        (
            {'allocated': 2**20},
            "'a' (file): not sparse: 0 bytes on disk expected, is 1048576 of 9",
        ),
    ],
)
def test_a_difference_is_a_line(changes: dict[str, Any], line: str) -> None:
    other = dataclasses.replace(FILE, **changes)
    assert trees.differences({b'a': FILE}, {b'a': other}) == [line]


def test_missing_and_unexpected_names_are_lines() -> None:
    assert trees.differences({b'a\n': FILE}, {b'\xffb': FILE}) == [
        "'a\\n': missing (file)",
        "'\\xffb': not expected (file)",
    ]


def test_more_holes_than_expected_are_no_difference() -> None:
    dense = dataclasses.replace(FILE, allocated=2**20)
    assert trees.differences({b'a': dense}, {b'a': FILE}) == []
    assert trees.differences({b'a': FILE}, {b'a': dense}, slack=2**20) == []
