"""Two versions of the agent in turn: P4, P5 and P7 of tools/benchmark.sh.

    git archive REVISION --prefix=old/ | tar -x -C /tmp
    python3 -m venv /tmp/old-venv
    PBR_VERSION=20.0.0 /tmp/old-venv/bin/pip install '/tmp/old[zstd]'
    python3 -m venv /tmp/new-venv
    /tmp/new-venv/bin/pip install '.[zstd]'
    python -m benchmarks.revisions /tmp/old-venv/bin/freezer-agent \\
        /tmp/new-venv/bin/freezer-agent

Prints the medians of both versions, and the median of the ratios of the pairs: the two
runs of a pair follow each other, so that background load affects both. After a backup
of level 0, each run of P7 adds a level to its version's chain.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import stores
from benchmarks.measure import Cost, measure
from benchmarks.trees import make_tree

_WORKS = {
    'P4': 'full backup, gzip',
    'P5': 'full backup, zstd',
    'P7': 'increment with nothing changed',
}
_LOCAL = 'local'


@dataclass
class _Version:
    """:param name: of its backups"""

    name: str
    agent: Path
    tree: Path
    environment: dict[str, str]

    def run(self, work: str, number: int) -> Cost:
        if work == 'P7':
            return self.backup('chain', '--incremental', '--compression', 'zstd')
        compression = 'gzip' if work == 'P4' else 'zstd'
        return self.backup(f'{work}-{number}', '--compression', compression)

    def backup(self, name: str, *arguments: str) -> Cost:
        return measure(
            (
                *(str(self.agent), '--action', 'backup', '--hostname', self.name),
                *('--path-to-backup', str(self.tree), '--nosync'),
                *('--backup-name', name, *arguments),
            ),
            self.environment,
        )


def _environment(
    stack: contextlib.ExitStack, store: str, scratch: Path
) -> dict[str, str]:
    found = {'PATH': os.environ['PATH'], 'HOME': str(scratch), 'TMPDIR': str(scratch)}
    if store == _LOCAL:
        container = {'OS_DEFAULT__CONTAINER': str(scratch / 'backups')}
        return found | container | {'OS_DEFAULT__STORAGE': 'local'}
    place = stack.enter_context(stores.started(store, scratch))
    return found | place.environment() | {'OS_DEFAULT__STORAGE': 's3'}


def _compare(work: str, versions: list[_Version], runs: int) -> None:
    """Run both versions, and print their medians."""
    costs: list[tuple[Cost, ...]] = []
    for number in range(runs):
        # Neither is always the one with the warmer cache.
        order = versions if number % 2 else versions[::-1]
        found = {each.name: each.run(work, number) for each in order}
        costs.append(tuple(found[each.name] for each in versions))
    cells = []
    for what in ('cpu', 'wall', 'peak'):
        values = [[getattr(cost, what) for cost in pair] for pair in costs]
        old, new = map(statistics.median, zip(*values, strict=True))
        ratio = statistics.median(each / before for before, each in values)
        cells.append(f'{old:8.2f} {new:8.2f} {100 * (ratio - 1):+6.1f} %')
    print(f'{work}  {_WORKS[work]:32}', *cells, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('old', type=Path, help='its freezer-agent')
    parser.add_argument('new', type=Path, help='its freezer-agent')
    parser.add_argument('--only', default=','.join(_WORKS))
    parser.add_argument('--runs', type=int, default=5)
    parser.add_argument('--files', type=int, default=25_000)
    parser.add_argument('--mib', type=int, default=400)
    parser.add_argument('--store', default='seaweedfs', choices=(_LOCAL, *stores.NAMES))
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tree = scratch / 'tree'
        files, mib = make_tree(tree, given.files, given.mib)
        environment = _environment(stack, given.store, scratch)
        versions = [
            _Version(name, agent, tree, environment)
            for name, agent in (('old', given.old), ('new', given.new))
        ]
        print(f'{files} files, {mib} MiB, {given.store}; old, new, difference of')
        print(f'{"":36} {"CPU s":>26} {"wall s":>26} {"MiB":>26}', flush=True)
        for work in given.only.split(','):
            if work == 'P7':
                for each in versions:
                    each.run(work, 0)
            _compare(work, versions, given.runs)


if __name__ == '__main__':
    main()
