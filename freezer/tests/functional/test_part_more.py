"""A part of a backup is that part of all of it, whatever the levels were.

In process, on local storage, with trees that change at random: what is tried is GNU tar
with the archives that :mod:`freezer.engine.tar.part` makes for it.
"""

import dataclasses
import glob
import os
import random
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from freezer.engine.engine import EngineSettings, Source
from freezer.engine.tar import snapshot
from freezer.engine.tar.tar import TarEngine
from freezer.exceptions import RestoreError
from freezer.storage.base import Backup
from freezer.storage.levels import LevelPolicy
from freezer.storage.local import LocalStorage
from freezer.tests import trees

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

    def engine(self, *include: str) -> TarEngine:
        settings = EngineSettings(compression='none', include=include)
        return TarEngine(self.storage, settings)

    def add(self) -> None:
        time.sleep(2 * MARGIN / 10**9)  # the kernel's tick, not a race of ours
        self.states.append(trees.describe(self.source))
        now = int(time.time()) + len(self.states)
        engine = self.engine()
        plan = engine.plan('host_name', LevelPolicy(incremental=True), now)
        made = engine.backup(Source(str(self.source), '.'), plan, now)
        assert made.backup.level == len(self._made)
        self._made.append(made.backup)

    def levels(self, level: int) -> dict[int, Backup]:
        return self.storage.get_latest_level_zero_increments(
            self.engine(), 'host_name', self._made[level].timestamp
        )

    def restore(self, level: int, target: Path, *include: str) -> None:
        target.mkdir(exist_ok=True)
        engine = self.engine(*include)
        assert engine.restore(str(target), self.levels(level)).count == 0


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


def differences(expected: Tree, actual: Tree) -> list[str]:
    """Names of one fifo or device come back as several: tar keeps no links of them."""
    return [
        line
        for line in trees.differences(expected, actual)
        if not (': links ' in line and ('(fifo)' in line or ' device)' in line))
    ]


def pattern(path: bytes) -> str:
    return glob.escape(os.fsdecode(path))


def some_of(tree: Tree, chance: random.Random) -> list[bytes]:
    """Some names, none below another; no sockets, which tar does not keep."""
    names = [p for p, e in tree.items() if p != b'.' and e.kind != 'socket']
    tops = sorted(chance.sample(sorted(names), min(len(names), 3)))
    return [t for t in tops if not is_below(t, [o for o in tops if o != t])]


@pytest.mark.parametrize('seed', range(14, 44))
def test_parts_of_every_state(seed: int, chain: Chain, tmp_path: Path) -> None:
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
            assert differences(expected, found) == [], include
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
            chain.restore(level, target, *include)
            after = trees.describe(target)
            assert differences(part_of(whole, tops), part_of(after, tops)) == []
            check_outside(before, after, whole, tops)


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
    engine = chain.engine(*include)
    levels = chain.levels(level)
    found = {
        entry.path: entry for entry in engine.entries(levels, engine.check(levels))
    }
    assert found.keys() == {p for p, e in expected.items() if e.kind != 'socket'}
    for path, entry in found.items():
        there = expected[path]
        assert there.kind.startswith(
            'file' if entry.kind == 'link' else entry.kind
        ) or (entry.kind == 'link' and there.kind != 'directory')
        assert (entry.mode, entry.uid, entry.gid) == (there.mode, there.uid, there.gid)
        assert entry.mtime_ns == there.mtime_ns
        if entry.kind == 'file':
            assert entry.size == there.size
        if entry.kind == 'symlink':
            assert entry.target == there.target


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
    assert differences(outside(before), new) == []
