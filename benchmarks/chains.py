"""What chains of daily backups cost: measured levels, and what a retention keeps.

    python -m benchmarks.chains levels --shape scattered [--mib 1600] [--levels 31]
    python -m benchmarks.chains kept [--keep-daily 7] [--change 0.015]

``levels`` makes a chain in a directory, of a tree of which some files change each day,
and then one more level 0. The tree is a copy of this machine's /usr, or small files, or
photos. Of each level it shows what the newest state
needs of it; and how many bytes of the chain a store could copy into a new level 0.
``kept`` applies the rules of the agent to daily backups of three years, and shows what
is stored at the end.
"""

import argparse
import itertools
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.looking import make_files
from benchmarks.measure import measure
from benchmarks.trees import make_tree
from freezer.engine.index.file import IndexFile, Part, RecordBlock, memory_copy
from freezer.engine.index.record import merge_ranges
from freezer.engine.index.state import merged_parts
from freezer.storage import keep
from freezer.storage.backup import Backup
from freezer.storage.levels import LevelPolicy, base_for_next, bases, resolve
from freezer.stream.points import Points

MIB = 2**20
_DAY = 86_400
_CHANGE = 0.015
# The smallest part of an S3 upload, and the piece of the manifest that has a digest.
_PART, _PIECE = 5 * MIB, 32 * MIB
_PHOTO = 4 * MIB
# Bytes of a file of benchmarks.looking, in the mean.
_SMALL = 6400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    levels = commands.add_parser('levels')
    levels.add_argument('--shape', choices=SHAPES, default='scattered')
    levels.add_argument('--mib', type=int, default=1600)
    levels.add_argument('--levels', type=int, default=31)
    levels.add_argument('--change', type=float, default=_CHANGE)
    levels.add_argument('--scratch', type=Path, help='directory to keep the files in')
    kept = commands.add_parser('kept')
    kept.add_argument('--change', type=float, default=_CHANGE)
    for period, number in (('daily', 7), ('weekly', 4), ('monthly', 12), ('yearly', 0)):
        kept.add_argument(f'--keep-{period}', type=int, default=number, dest=period)
    given = parser.parse_args()
    if given.command == 'kept':
        show_kept(
            given.change,
            keep.Rules(
                daily=given.daily,
                weekly=given.weekly,
                monthly=given.monthly,
                yearly=given.yearly,
            ),
        )
        return
    scratch = given.scratch or Path(tempfile.mkdtemp())
    scratch.mkdir(exist_ok=True)
    try:
        _Chain(scratch, given.shape, given.mib, given.change).run(given.levels)
    finally:
        if not given.scratch:
            shutil.rmtree(scratch)


# Days


def scattered(tree: Path, share: float, day: int) -> None:
    """Files anywhere change."""
    chance = random.Random(day)
    files = sorted(path for path in tree.rglob('*') if path.is_file())
    chance.shuffle(files)
    _change(files, share * _size(files), chance)


def hot(tree: Path, share: float, day: int) -> None:
    """Four fifths of what changes are in the same twentieth of the files."""
    chance = random.Random(day)
    files = sorted(path for path in tree.rglob('*') if path.is_file())
    total = _size(files)
    often = random.Random(0).sample(files, len(files) // 20)
    chance.shuffle(often)
    chance.shuffle(files)
    _change(often, 0.8 * share * total, chance)
    _change(files, 0.2 * share * total, chance)


def photos(tree: Path, share: float, day: int) -> None:
    """New files are added, and a third as many are removed."""
    chance = random.Random(day)
    files = sorted(path for path in tree.rglob('*') if path.is_file())
    count = max(1, round(share * _size(files) / _PHOTO))
    for path in chance.sample(files, count // 3):
        path.unlink()
    folder = tree / f'day{day:04}'
    folder.mkdir()
    for number in range(count):
        (folder / f'{number:04}').write_bytes(chance.randbytes(_PHOTO))


SHAPES = {'scattered': scattered, 'small': scattered, 'hot': hot, 'photos': photos}


def _size(files: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def _change(files: Sequence[Path], size: float, chance: random.Random) -> None:
    """Change some bytes of each, until so many bytes are in changed files."""
    for path in files:
        if path.stat().st_size > size:
            continue
        content = bytearray(path.read_bytes())
        size -= len(content)
        at = chance.randrange(len(content) + 1)
        content[at : at + 64] = chance.randbytes(64)
        path.write_bytes(content)


# Levels that are measured


class _Chain:
    def __init__(self, scratch: Path, shape: str, mib: int, change: float) -> None:
        self._scratch = scratch
        self._tree = scratch / 'tree'
        self._change: Callable[[Path, float, int], None] = SHAPES[shape]
        self._share = change
        if shape == 'photos':
            chance = random.Random(0)
            for number in range(mib * MIB // _PHOTO):
                folder = self._tree / f'{number // 50:03}'
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f'{number:05}').write_bytes(chance.randbytes(_PHOTO))
        elif shape == 'small':
            make_files(self._tree, mib * MIB // _SMALL)
        else:
            make_tree(self._tree, 0, mib)

    def run(self, levels: int) -> None:
        # A file that changed in the two seconds before is stored twice.
        time.sleep(3)
        for level in range(levels):
            if level:
                self._change(self._tree, self._share, level)
                # The name of a level contains its second.
                time.sleep(1.1)
            seconds = self._backup('chain', '--incremental')
            size = self._levels('chain')[-1].size
            print(
                f'level {level:<3} {seconds:6.1f} s {size / MIB:9.1f} MiB', flush=True
            )
        seconds = self._backup('fresh')
        (fresh,) = self._levels('fresh')
        chain = self._levels('chain')
        total = sum(each.size for each in chain)
        print(f'fresh level 0: {seconds:.1f} s, {fresh.size / MIB:.1f} MiB')
        print(f'chain of {levels}: {total / MIB:.1f} MiB')
        target = self._scratch / 'restored'
        cost = measure(
            self._agent('restore', 'chain', '--restore-abs-path', str(target)),
            os.environ,
        )
        print(f'restore of the newest state: {cost.wall:.1f} s')
        shutil.rmtree(target)
        show_copyable(chain)

    def _backup(self, name: str, *more: str) -> float:
        argv = self._agent(
            'backup', name, '--path-to-backup', str(self._tree), '--compression', 'zstd'
        )
        return measure((*argv, *more), os.environ).wall

    def _agent(self, action: str, name: str, *more: str) -> tuple[str, ...]:
        return (
            *(sys.executable, '-m', 'freezer.main', '--storage', 'local', '--quiet'),
            *('--container', str(self._scratch / 'store'), '--action', action),
            *('--hostname', 'bench', '--backup-name', name, *more),
            *('--log-file', str(self._scratch / 'log')),
        )

    def _levels(self, name: str) -> list['Stored']:
        folders = self._scratch.glob(f'store/data/tar/bench_{name}/*/*')
        found = sorted(folders, key=lambda each: int(each.name.partition('_')[0]))
        return [Stored(each) for each in found]


class Stored:
    """A level in a directory."""

    def __init__(self, folder: Path) -> None:
        self.stream = folder / 'data'
        self.size = self.stream.stat().st_size
        content = (folder / 'index').read_bytes()
        self.index = _open(content, folder)
        self.points = Points.load(self.index.properties['stream'], str(folder))


class _Bytes:
    def __init__(self, content: bytes) -> None:
        # Without the digests, whose number follows from the size: see index_file.py.
        pieces = -(-len(content) // (64 * 1024 + 32))
        self.size = len(content) - 32 * pieces
        self._content = content

    def read(self, start: int, end: int) -> bytes:
        return self._content[start:end]


def _open(content: bytes, folder: Path) -> IndexFile:
    return memory_copy(_Bytes(content), str(folder))


def state(levels: Sequence[Stored]) -> Iterator[tuple[int, RecordBlock, int]]:
    """Level, block and number of each record of the newest state."""
    part: Part
    for level, part in merged_parts([each.index.parts() for each in levels]):
        for at in range(part.start, part.end):
            yield level, part.block, at


@dataclass(frozen=True)
class Run:
    """Bytes of a compressed stream between two points; all that they hold is needed."""

    start: int
    end: int
    plain_start: int
    plain_end: int

    @property
    def size(self) -> int:
        return self.end - self.start


def runs(
    stored: Stored, live: Sequence[tuple[int, int]], share: float
) -> Iterator[Run]:
    """The longest runs in which at least this share of the plain bytes is live.

    :param live: ranges of the archive
    """
    points = [(0, 0)]
    while (
        point := stored.points.after(points[-1][0] + 1)
    ) is not None and point.plain > points[-1][0]:
        points.append((point.plain, point.compressed))
    found: Run | None = None
    ranges = iter(live)
    start, end = next(ranges, (1 << 62, 1 << 62))
    for (plain, packed), (plain_end, packed_end) in itertools.pairwise(points):
        inside = 0
        while start < plain_end:
            inside += min(end, plain_end) - max(start, plain)
            if end > plain_end:
                break
            start, end = next(ranges, (1 << 62, 1 << 62))
        if inside < share * (plain_end - plain):
            if found is not None:
                yield found
            found = None
        elif found is None:
            found = Run(packed, packed_end, plain, plain_end)
        else:
            found = Run(found.start, packed_end, found.plain_start, plain_end)
    if found is not None:
        yield found


def show_copyable(levels: Sequence[Stored]) -> None:
    """What a store could copy of a chain into a new level 0."""
    needed: list[list] = [[] for _level in levels]
    for level, block, at in state(levels):
        record = block.records[at]
        if record.kind != 'directory':
            needed[level].append(record)
    live = [merge_ranges(records) for records in needed]
    plain = sum(end - start for ranges in live for start, end in ranges)
    print(f'the newest state needs {plain / MIB:.1f} MiB of plain bytes')
    for share, title in ((1.0, 'all'), (0.95, '95 %'), (0.8, '80 %')):
        copied = pieces = requests = 0
        for stored, ranges in zip(levels, live, strict=True):
            for run in runs(stored, ranges, share):
                if run.size >= _PART:
                    copied += run.size
                    requests += 1
                first, last = -(-run.start // _PIECE), run.end // _PIECE
                pieces += max(0, last - first) * _PIECE
        print(
            f'between points with {title} needed: {copied / MIB:7.1f} MiB in runs of '
            f'5 MiB and more ({requests}), {pieces / MIB:7.1f} MiB in whole pieces'
        )


# What a retention keeps

_YEARS = 3
_FILES = 5000
_FIRST = 1_767_232_800  # 2026-01-01T02:00:00Z
_POLICIES: dict[str, dict[str, float]] = {
    '--incremental alone': {},
    '--max-level 30': {'max_level': 30},
    '--max-level 13': {'max_level': 13},
    '--max-level 6': {'max_level': 6},
    '--restart-always-level 29.9': {'restart_always_level': 29.9},
    '--restart-always-level 6.9': {'restart_always_level': 6.9},
    '--always-level 1': {'always_level': 1},
    '... --restart-always-level 89.9': {
        'always_level': 1,
        'restart_always_level': 89.9,
    },
    '... --restart-always-level 29.9': {
        'always_level': 1,
        'restart_always_level': 29.9,
    },
    '... --restart-always-level 13.9': {
        'always_level': 1,
        'restart_always_level': 13.9,
    },
    'level 0 each day': {'incremental': False},
}


@dataclass(frozen=True)
class _State:
    """A level, for the rules."""

    backup: Backup
    incomplete: bool = False

    @property
    def timestamp(self) -> int:
        return self.backup.timestamp


def show_kept(change: float, rules: keep.Rules) -> None:
    """Sizes are in those of a level 0, whose size does not change."""
    print(f'{change:.1%} of the files change each day, anywhere | in the same files')
    for title, options in _POLICIES.items():
        policy = LevelPolicy(**{'incremental': True, **options})
        cells = []
        for is_hot in (False, True):
            stored, levels, sent, read = _kept(policy, rules, change, is_hot)
            cells.append(f'{stored:6.2f} {levels:5} {sent:6.2f} {read:4}')
        print(f'{title:34} {" | ".join(cells)}', flush=True)


def _kept(
    policy: LevelPolicy, rules: keep.Rules, change: float, is_hot: bool
) -> tuple[float, int, float, int]:
    """Stored bytes and levels, in the mean of the last year; sent in a
    month; and the most levels that a restore of a kept state reads in that year."""
    chance = random.Random(0)
    changed = [0] * _FILES
    sizes: dict[Backup, float] = {}
    stored, levels, most = 0.0, 0, 0
    sent = 0.0
    for day in range(_YEARS * 365):
        for _number in range(round(change * _FILES)):
            often = is_hot and chance.random() < 0.8
            changed[chance.randrange(_FILES // 20 if often else _FILES)] = day
        now = _FIRST + day * _DAY
        newest = max((each.level_zero_timestamp for each in sizes), default=0)
        chain = [each for each in sizes if each.level_zero_timestamp == newest]
        base = base_for_next(resolve(chain), policy, now)
        if base is None:
            made, size = Backup('tar', 'bench', now, now, 0), 1.0
        else:
            made = Backup('tar', 'bench', newest, now, base.level + 1)
            since = (base.timestamp - _FIRST) // _DAY
            size = sum(each > since for each in changed) / _FILES
        sizes[made] = size
        sent += size
        stay, read = _stay(sizes, rules)
        sizes = {each: sizes[each] for each in stay}
        if day >= (_YEARS - 1) * 365:
            stored += sum(sizes.values()) / 365
            levels += len(sizes)
            most = max(most, read)
    return stored, round(levels / 365), sent / (_YEARS * 365) * 30, most


def _stay(backups: Iterable[Backup], rules: keep.Rules) -> tuple[set[Backup], int]:
    """The levels that the rules keep, and those that these build on; and the most that
    one of the states needs."""
    ordered = sorted(backups, key=lambda each: each.timestamp)
    below = _bases(ordered)
    needed = [
        set(_with_bases(state.backup, below))
        for state, reasons in keep.kept([_State(each) for each in ordered], rules)
        if reasons
    ]
    return set().union(*needed), max(map(len, needed))


def _bases(backups: Iterable[Backup]) -> dict[Backup, Backup]:
    """The base of each level above 0."""
    chains: dict[int, list[Backup]] = {}
    for each in backups:
        chains.setdefault(each.level_zero_timestamp, []).append(each)
    found: dict[Backup, Backup] = {}
    for chain in chains.values():
        found |= bases(chain)
    return found


def _with_bases(backup: Backup, below: Mapping[Backup, Backup]) -> Iterator[Backup]:
    yield backup
    while backup in below:
        backup = below[backup]
        yield backup


if __name__ == '__main__':
    main()
