"""Seconds and memory of the actions on a backup of very many small files.

python -m benchmarks.many --files 1000000
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.looking import make_files
from benchmarks.measure import measure

_CHANGED = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--files', type=int, default=1_000_000)
    parser.add_argument('--scratch', type=Path, help='where to make them')
    given = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(dir=given.scratch))
    try:
        _run(scratch, given.files)
    finally:
        shutil.rmtree(scratch)


def _run(scratch: Path, count: int) -> None:
    tree, store = scratch / 'tree', scratch / 'store'
    names = make_files(tree, count)
    agent = (
        *(sys.executable, '-m', 'freezer.main', '--storage', 'local'),
        *('--container', str(store), '--backup-name', 'many'),
        *('--log-file', str(scratch / 'log'), '--action'),
    )
    backup = (*agent, 'backup', '--path-to-backup', str(tree), '--incremental')

    def report(title: str, *argv: str) -> None:
        cost = measure(argv, os.environ, patience=3600.0)
        print(
            f'{title:34} {cost.wall:7.1f} s  CPU {cost.cpu:7.1f} s  '
            f'{cost.peak:4.0f} MiB',
            flush=True,
        )

    print(f'{count} files')
    report('backup, level 0', *backup)
    for name in names[:: len(names) // _CHANGED][:_CHANGED]:
        (tree / name).write_bytes(b'changed')
    report(f'increment, {_CHANGED} files changed', *backup)
    report('list', *agent, 'list')
    target = str(scratch / 'one')
    one = ('--include', names[-1], '--restore-abs-path', target)
    report('restore of one file', *agent, 'restore', *one)
    sizes = [path.stat().st_size for path in store.rglob('index')]
    print('bytes of the indexes:', *sizes)


if __name__ == '__main__':
    main()
