"""The benchmark: freezer and alternative tools, in the same run.

Run by tools/benchmark.sh, which installs the dependencies:

    tools/benchmark.sh [--quick] [--only P1,P2 …] [--stores null,null-tls …] [--runs N]
                       [--output DIRECTORY]
"""

import argparse
import contextlib
import functools
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import looking, report, small, stores, streams, trees
from benchmarks.bench import Bench

WORKS = {
    'P1': streams.p1,
    'P2': streams.p2,
    'P3': streams.p3,
    'P4-P7': trees.trees,
    'P8': small.p8,
    'P9': small.p9,
    'P10': small.p10,
    'P11': looking.p11,
}


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _available(names: list[str]) -> Iterator[str]:
    for name in names:
        if title := stores.missing(name):
            log(f'{title} is not installed: {name} skipped')
        else:
            yield name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--quick', action='store_true', help='less than five minutes')
    parser.add_argument('--only', default=','.join(WORKS), help='P1,P2 …')
    parser.add_argument('--stores', help='null,null-tls … (all; quick: not ceph)')
    parser.add_argument('--runs', type=int, help='runs of each tool (5; quick: 1)')
    parser.add_argument('--output', type=Path, default=Path('benchmark-results'))
    parser.add_argument('--tools', type=json.loads, required=True)
    options = parser.parse_args()
    # So that servers and directories are cleaned up.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    quick = options.quick
    wanted = options.only.split(',')
    if unknown := set(wanted) - set(WORKS):
        parser.error(f'no such task: {", ".join(sorted(unknown))}')
    chosen = (options.stores or ','.join(stores.NAMES)).split(',')
    if unknown := set(chosen) - set(stores.NAMES):
        parser.error(f'no such store: {", ".join(sorted(unknown))}')
    if quick and not options.stores:
        chosen = [name for name in chosen if stores.kind(name) != 'ceph']
    memory = '/dev/shm' if os.access('/dev/shm', os.W_OK) else None
    results = []
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix='benchmark'))
        fast = stack.enter_context(
            tempfile.TemporaryDirectory(prefix='benchmark', dir=memory)
        )
        os.environ['HOME'] = scratch
        bench = Bench(
            tools={
                name: path for name, path in options.tools.items() if shutil.which(path)
            },
            stores=tuple(_available(chosen)),
            store=functools.partial(stores.started, scratch=Path(scratch)),
            scratch=Path(scratch),
            memory=Path(fast),
            runs=options.runs or (1 if quick else 5),
            mib=256 if quick else 1024,
            gib=(1, 2) if quick else (1, 20),
            chains=100 if quick else 1000,
            files=5_000 if quick else 25_000,
            tree_mib=80 if quick else 400,
            log=log,
        )
        for name in wanted:
            log(f'{name}:')
            for result in WORKS[name](bench):
                result.notes += bench.notes
                bench.notes.clear()
                results.append(result)
                log(report.table([result]))
                report.write(results, options.output, bench.tools.get('python'))
    print(report.machine())
    print()
    print(report.table(results))
    return 0 if all(result.passed for result in results) else 1


if __name__ == '__main__':
    sys.exit(main())
