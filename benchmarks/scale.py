"""Seconds, requests and memory by the size of a stream and the number of levels.

    python -m benchmarks.scale stream --gib 16 64
    python -m benchmarks.scale levels --levels 1000 10000 [--chain 10]

Both use the null store. A stream gets as many volumes as 1 TiB has with the defaults.
The levels are those of one name, in chains of so many; all but one chain are copies in
the store's memory.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from benchmarks.helpers import helper
from benchmarks.measure import measure
from benchmarks.null_store import noise
from benchmarks.peers import HERE, Place

MIB = 2**20
_DAY = 86_400
# 1 TiB with parts of 8 MiB, of which a volume has at most 9,000.
_VOLUMES = 15
_PART_MIB = 8
_PATIENCE = 3600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('what', choices=['stream', 'levels'])
    parser.add_argument('--gib', type=int, nargs='+', default=[16, 64])
    parser.add_argument('--levels', type=int, nargs='+', default=[1000, 10_000])
    parser.add_argument('--chain', type=int, default=10, help='levels of a chain')
    given = parser.parse_args()
    for size in given.gib if given.what == 'stream' else given.levels:
        with (
            helper('benchmarks.null_store') as endpoint,
            tempfile.TemporaryDirectory(dir='/dev/shm') as scratch,
        ):
            one = _Scale(Place(endpoint, 'key', 'secret', 'scale'), Path(scratch))
            if given.what == 'stream':
                one.stream(size)
            else:
                one.levels(size, given.chain)


class _Scale:
    def __init__(self, place: Place, scratch: Path) -> None:
        self.place = place
        self.scratch = scratch
        self.environment = os.environ | place.environment() | {'HOME': str(scratch)}

    def stream(self, gib: int) -> None:
        source = self.scratch / 'stream'
        with source.open('wb') as stream:
            stream.writelines(noise(1024 * MIB))
        parts = gib * 1024 // _PART_MIB
        # The driver fills nine tenths of a volume.
        most = -(-parts * 10 // (9 * _VOLUMES))
        more = ('--container', self.place.container, '--s3-max-parts', str(most))
        pipe = (sys.executable, str(HERE / 'pipe.py'))
        print(f'{gib} GiB, {parts} parts', flush=True)
        self._report('put', (*pipe, 'put', *more), source=source, times=gib)
        self._report('get', (*pipe, 'get', *more), sink=gib * 1024 * MIB)

    def levels(self, count: int, length: int) -> None:
        tree = self.scratch / 'tree'
        tree.mkdir()
        backup = self._agent('backup', '--path-to-backup', tree, '--max-level', length)
        for number in range(length):
            (tree / f'file{number}').write_bytes(random.Random(number).randbytes(100))
            measure((*backup, '--incremental'), self.environment)
            # The name of a level contains its second.
            time.sleep(1.1)
        chain = self._copy_chain(count // length - 1)
        print(f'{count} levels, chains of {length}', flush=True)
        self._report('info', self._agent('info'))
        self._report('list', self._agent('list'))
        target = self.scratch / 'target'
        self._report('restore', self._agent('restore', '--restore-abs-path', target))
        (tree / 'file0').write_bytes(b'changed')
        self._report('increment', (*backup, '--incremental'))
        if not self._copies:
            return
        keep = time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(self._middle(chain)))
        self._report(
            'removal of half', self._agent('admin', '--remove-before-date', keep)
        )

    def _middle(self, chain: int) -> int:
        """A time in the middle of the chains."""
        return chain - _DAY * (self._copies // 2) + 1

    def _copy_chain(self, copies: int) -> int:
        """Returns the timestamp of the chain that is there."""
        self._copies = copies
        keys = json.loads(self._ask('/-/keys'))
        chain = min(int(key.split('/')[-3]) for key in keys if key.endswith('/data'))
        self._ask('/-/repeat', {'chain': chain, 'times': copies, 'step': _DAY})
        return chain

    def _agent(self, action: str, *more: object) -> tuple[str, ...]:
        return (
            *(sys.executable, '-m', 'freezer.main', '--storage', 's3', '--action'),
            *(action, '--hostname', 'bench', '--backup-name', 'many', '--quiet'),
            *map(str, more),
        )

    def _report(self, title: str, argv: Sequence[str], **more: object) -> None:
        before = json.loads(self._ask('/-/requests'))
        cost = measure(argv, self.environment, patience=_PATIENCE, **more)  # type: ignore[arg-type]
        after = json.loads(self._ask('/-/requests'))
        requests = ', '.join(
            f'{kind} {number - before.get(kind, 0)}'
            for kind, number in sorted(after.items())
            if number > before.get(kind, 0)
        )
        print(
            f'{title:16} {cost.wall:7.2f} s  CPU {cost.cpu:7.2f} s  '
            f'{cost.peak:4.0f} MiB  {requests}',
            flush=True,
        )

    def _ask(self, path: str, body: object = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(self.place.endpoint + path, data) as answer:
            content: bytes = answer.read()
        return content


if __name__ == '__main__':
    main()
