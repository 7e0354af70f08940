"""P4 to P7: a tree of files."""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import MIB, Bench, Check, Result, named, ours, ratio
from benchmarks.measure import Cost, measure
from benchmarks.peers import HERE, Place


def make_tree(root: Path, files: int, mib: int) -> tuple[int, int]:
    """Copy the machine's documentation, libraries and programs up to these numbers of
    files and MiB; returns the actual numbers."""
    count = size = 0
    for start in (sys.prefix, '/usr/share', '/usr/lib', '/usr/bin'):
        for folder, _, names in os.walk(start):
            there = root / folder.lstrip('/')
            for name in sorted(names):
                path = Path(folder, name)
                if path.is_symlink() or not path.is_file():
                    continue
                there.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(PermissionError):
                    shutil.copy2(path, there / name)
                    count += 1
                    size += path.stat().st_size
            if count >= files and size >= mib * MIB:
                return count, size // MIB
    return count, size // MIB


def _shell(script: str) -> Sequence[str]:
    return ('bash', '-o', 'pipefail', '-c', script)


_PIPELINE = 'tar | zstd -T0 | rclone'
_BACK = 'rclone | zstd -d | tar'
_UPSTREAM = '19.0.0 (patched)'
_LISTED = 'tar --listed-incremental'
_RESTIC = 'restic'


@dataclass
class _Trees:
    """One tree with one store.

    :param found: actual numbers of files and MiB of the tree
    """

    bench: Bench
    store: str
    place: Place
    tree: Path
    found: tuple[int, int]

    def __post_init__(self) -> None:
        self.environment = self.bench.environment | self.place.environment()
        self.url = f'store:{self.place.container}'
        self.repository = self.environment['RESTIC_REPOSITORY']
        # Folders may have spaces in their names.
        self.rclone = shlex.quote(self.bench.tools['rclone'])
        self.archive = f'tar -cf - -C {shlex.quote(str(self.tree))} .'

    def result(self, work: str, title: str, *rest: list) -> Result:
        files, mib = self.found
        return Result(work, f'{title}: {files} files, {mib} MiB', self.store, *rest)

    def run(self, *argv: object) -> Cost:
        return measure([str(one) for one in argv], self.environment)

    def shell(self, script: str) -> Cost:
        return self.run(*_shell(script))

    def backup(self, compression: str, name: str, *more: str) -> Cost:
        return self.run(
            *self.bench.agent(
                '--action', 'backup', '--path-to-backup', self.tree, '--nosync'
            ),
            *('--backup-name', name, '--compression', compression, *more),
        )

    def upstream(self) -> Cost:
        place = self.place
        return measure(
            (
                *(self.bench.tools['19'], str(HERE / 'freezer19.py')),
                *('--action', 'backup', '--storage', 's3', '--mode', 'fs'),
                *('--access-key', place.access_key),
                *('--secret-key', place.secret_key, '--endpoint', place.endpoint),
                *('--container', place.container, '--path-to-backup', str(self.tree)),
                *('--backup-name', self.bench.fresh('up'), '--nosync'),
            ),
            self.bench.environment
            | {
                f'OS_{name}': 'nowhere'
                for name in ('AUTH_URL', 'USERNAME', 'PASSWORD', 'PROJECT_NAME')
            },
        )

    def restic(self, name: str, *arguments: object) -> Cost:
        restic = self.bench.tools['restic']
        return self.run(restic, '-q', '-r', f'{self.repository}/{name}', *arguments)

    def restic_backup(self) -> Cost:
        name = self.bench.fresh('restic')
        self.restic(name, 'init')
        return self.restic(name, 'backup', self.tree)

    def into_empty(self, restore: Callable[[Path], Cost]) -> Callable[[], Cost]:
        def run() -> Cost:
            # Remove no directory before the end: an ext4 without a journal does not
            # reuse inodes for minutes, and the next restore of such a tree would take
            # 25 s to find others.
            target = self.bench.scratch / self.bench.fresh('restored')
            target.mkdir()
            return restore(target)

        return run


def trees(bench: Bench) -> Iterator[Result]:
    """P4 to P7, which use each other's backups."""
    store = bench.real_store()
    tree = bench.scratch / 'tree'
    found = make_tree(tree, bench.files, bench.tree_mib)
    with bench.store(store) as place:
        of = _Trees(bench, store, place, tree, found)
        yield _p4(of)
        yield _p5(of)
        yield _p6(of)
        yield _p7(of)
    shutil.rmtree(tree)


def _p4(of: _Trees) -> Result:
    bench = of.bench
    candidates = {'freezer gzip': lambda: of.backup('gzip', bench.fresh('gz'))}
    if '19' in bench.tools:
        candidates[_UPSTREAM] = of.upstream
    for packer in ('gzip -6', 'pigz -6'):
        candidates[f'tar | {packer} | rclone'] = lambda packer=packer: of.shell(
            f'{of.archive} | {packer} | {of.rclone} rcat {of.url}/{bench.fresh()}'
        )
    rows = bench.interleaved(candidates)
    stored = _stored(bench, of.place, bench.newest('gz'))
    usual = int(
        subprocess.run(
            _shell(f'{of.archive} | gzip -6 | wc -c'), check=True, capture_output=True
        ).stdout
    )
    checks = [Check('size / gzip -6', stored / usual, 1.1)]
    if '19' in bench.tools:
        checks.insert(0, Check(f'wall / {_UPSTREAM}', ratio(rows, _UPSTREAM), 0.5))
    return of.result('P4', 'full backup, gzip', rows, checks)


def _p5(of: _Trees) -> Result:
    bench = of.bench

    def pipeline() -> Cost:
        name = bench.fresh('pipe')
        packed = f'{of.archive} | zstd -T0 -q'
        return of.shell(f'{packed} | {of.rclone} rcat {of.url}/{name}')

    rows = bench.interleaved(
        {
            'freezer zstd': lambda: of.backup('zstd', bench.fresh('zst')),
            _PIPELINE: pipeline,
            _RESTIC: of.restic_backup,
        }
    )
    checks = [
        Check('wall / pipeline', ratio(rows, _PIPELINE), 1.0),
        Check('wall / restic', ratio(rows, _RESTIC), 0.5),
    ]
    return of.result('P5', 'full backup, zstd', rows, checks)


def _p6(of: _Trees) -> Result:
    bench = of.bench

    def restore(target: Path) -> Cost:
        return of.run(
            *bench.agent('--action', 'restore', '--backup-name', bench.newest('zst')),
            *('--restore-abs-path', target),
        )

    def pipeline(target: Path) -> Cost:
        return of.shell(
            f'{of.rclone} cat {of.url}/{bench.newest("pipe")} | zstd -dq | '
            f'tar -xf - -C {shlex.quote(str(target))}'
        )

    def restic(target: Path) -> Cost:
        return of.restic(
            bench.newest('restic'), 'restore', 'latest', '--target', target
        )

    rows = bench.interleaved(
        {
            'freezer zstd': of.into_empty(restore),
            _BACK: of.into_empty(pipeline),
            _RESTIC: of.into_empty(restic),
        }
    )
    checks = [
        Check('wall / pipeline', ratio(rows, _BACK), 1.1),
        Check('wall / restic', ratio(rows, _RESTIC), 1.0),
    ]
    return of.result('P6', 'restore of P5', rows, checks)


def _p7(of: _Trees) -> Result:
    snapshot = of.bench.scratch / 'snapshot'
    quoted = [shlex.quote(str(path)) for path in (snapshot, of.tree)]
    listing = 'tar -cf /dev/null --listed-incremental={} -C {} .'.format(*quoted)
    of.shell(listing)
    name = of.bench.fresh('inc')
    of.backup('zstd', name, '--incremental')
    rows = of.bench.interleaved(
        {
            'freezer zstd': lambda: of.backup('zstd', name, '--incremental'),
            _LISTED: lambda: of.shell(listing),
        }
    )
    limit = 1.3 * named(rows, _LISTED).median('wall') + 1
    share = ours(rows).median('wall') / limit
    checks = [Check('wall / (1.3 x tar + 1 s)', share, 1.0)]
    return of.result('P7', 'increment with nothing changed', rows, checks)


def _stored(bench: Bench, place: Place, name: str) -> int:
    """Stored bytes of one backup."""
    done = subprocess.run(
        [
            *(bench.tools['rclone'], 'lsf', '-R', '--files-only', '--format', 'sp'),
            f'store:{place.container}/data',
        ],
        env=bench.environment | place.environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    lines = (line.split(';', 1) for line in done.stdout.splitlines())
    return sum(
        int(size) for size, path in lines if f'_{name}/' in path and size != '-1'
    )
