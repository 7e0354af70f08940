"""The benchmark: freezer and alternative tools, in the same run.

Run by tools/benchmark.sh, which installs the dependencies:

    tools/benchmark.sh [--quick] [--only P1,P2 …] [--runs N] [--output DIRECTORY]
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import looking, report, small, streams, trees
from benchmarks.bench import Bench
from benchmarks.helpers import helper
from benchmarks.peers import Place
from freezer.tests import servers

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
FLAVOURS = {'seaweedfs': 'SeaweedFS', 'ceph': 'Ceph', 'null': 'Other'}


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _store(name: str) -> Iterator[Place]:
    """A new store for each task, because one would fill its disk."""
    if name == 'null':
        with helper('benchmarks.null_store') as endpoint:
            yield Place(endpoint, 'AKFREEZER', 'sk-freezer', 'benchmark')
        return
    with servers.KINDS[name]() as server:
        yield Place(
            server.endpoint,
            server.access_key,
            server.secret_key,
            server.make_bucket('benchmark'),
            flavour=FLAVOURS[name],
        )


def _available(names: list[str]) -> Iterator[str]:
    for name in names:
        if name == 'null' or servers.KINDS[name].available():
            yield name
        else:
            log(f'{servers.KINDS[name].title} is not installed: skipped')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--quick', action='store_true', help='less than five minutes')
    parser.add_argument('--only', default=','.join(WORKS), help='P1,P2 …')
    parser.add_argument('--stores', default='seaweedfs,ceph,null')
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
    stores = options.stores.split(',')
    if quick and 'ceph' in stores:
        stores.remove('ceph')
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
            stores=tuple(_available(stores)),
            store=_store,
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
