"""Trees have what a backup can meet, and each difference between two is seen."""

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


def test_a_seed_makes_the_same_tree_and_the_same_changes(tmp_path: Path) -> None:
    found = []
    for name, seed in (('one', 7), ('two', 7), ('other', 2)):
        trees.make_tree(tmp_path / name, seed)
        done = trees.mutate_tree(tmp_path / name, seed + 1, count=40)
        found.append((done, without_times(trees.describe(tmp_path / name))))
    assert found[0] == found[1] != found[2]


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
    assert any(len(name) == 255 for name in names)
    times = {entry.mtime_ns for entry in entries.values()}
    assert min(times) < 0 < 2**31 * 10**9 < max(times)
    files = [entry for entry in entries.values() if entry.kind == 'file']
    assert any(entry.size == 0 for entry in files)
    assert any(entry.allocated < entry.size // 2 for entry in files)
    for kind in ('file', 'symlink'):
        assert any(entry.links for entry in entries.values() if entry.kind == kind)
    modes = {entry.mode for entry in entries.values()}
    assert any(mode & stat.S_ISUID for mode in modes)


@pytest.mark.parametrize('mutation', trees.MUTATIONS, ids=lambda m: m.__name__)
def test_each_change_shows(tmp_path: Path, mutation: trees.Mutation) -> None:
    trees.make_tree(tmp_path / 'tree', 3, files=60)
    before = trees.describe(tmp_path / 'tree')
    assert trees.differences(before, trees.describe(tmp_path / 'tree')) == []
    done = trees.mutate_tree(tmp_path / 'tree', 3, count=20, mutations=[mutation])
    if not done and not trees.is_root():
        pytest.skip('an ordinary user may not do this')
    assert done
    assert trees.differences(before, trees.describe(tmp_path / 'tree'))


@pytest.mark.skipif(not trees.is_root(), reason='cp -a keeps owners for root only')
def test_a_faithful_copy_has_no_differences(tmp_path: Path) -> None:
    tree, copy = tmp_path / 'tree', tmp_path / 'copy'
    trees.make_tree(tree, 1)
    subprocess.run(['cp', '-a', '--sparse=always', tree, copy], check=True)
    assert trees.differences(trees.describe(tree), trees.describe(copy)) == []


FILE = trees.Entry('file', 0o644, 1, 1, 5, 9, 'abc')


@pytest.mark.parametrize(
    'changes, line',
    [
        ({'kind': 'fifo'}, "kind 'file' expected, is 'fifo'"),
        ({'mode': 0o4755}, 'mode 0o644 expected, is 0o4755'),
        ({'uid': 2}, 'uid 1 expected, is 2'),
        ({'gid': 2}, 'gid 1 expected, is 2'),
        ({'mtime_ns': -1}, 'mtime_ns 5 expected, is -1'),
        ({'size': 8}, 'size 9 expected, is 8'),
        ({'digest': 'abd'}, "digest 'abc' expected, is 'abd'"),
        ({'links': (b'a', b'b')}, "links () expected, is (b'a', b'b')"),
        ({'xattrs': (('u.x', b'1'),)}, "xattrs () expected, is (('u.x', b'1'),)"),
        ({'target': b'\xff'}, "target b'' expected, is b'\\xff'"),
        ({'device': (1, 3)}, 'device (0, 0) expected, is (1, 3)'),
        ({'allocated': 2**20}, 'not sparse: 0 bytes on disk expected, is 1048576 of 9'),
    ],
)
def test_a_difference_is_a_line(changes: dict[str, Any], line: str) -> None:
    other = dataclasses.replace(FILE, **changes)
    assert trees.differences({b'a': FILE}, {b'a': other}) == [f"'a' (file): {line}"]
    # More holes are none.
    if 'allocated' in changes:
        assert trees.differences({b'a': other}, {b'a': FILE}) == []


def test_missing_and_unexpected_names_are_lines() -> None:
    assert trees.differences({b'a\n': FILE}, {b'\xffb': FILE}) == [
        "'a\\n': missing (file)",
        "'\\xffb': not expected (file)",
    ]
