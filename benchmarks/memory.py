"""Peak memory of the agent by the size of the backup.

    python benchmarks/memory.py [--store seaweedfs|ceph] [--gib 1 8]

Creates a tree of mixed files, backs it up as level 0 and two increments with changes,
deletions and renames, restores each state and compares. Prints wall time and peak
resident memory of the agent process, without tar, for each size.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from freezer.tests import servers, trees

MIB = 2**20
STORES = {'seaweedfs': servers.SeaweedFS, 'ceph': servers.CephRGW}
# Large files of random data and of text, beside the unusual files of trees.
FILE_MIB = 64


def fill(root: Path, gib: float, seed: int) -> None:
    """Create incompressible and compressible files, half and half."""
    random.seed(seed)
    words = random.randbytes(4096).hex().encode()
    for number in range(int(gib * 1024 / FILE_MIB)):
        with open(root / f'big{number:05d}', 'wb') as stream:
            for _ in range(FILE_MIB):
                noise = random.randbytes(MIB)
                stream.write(noise if number % 2 else (words * 128)[:MIB])


def change(root: Path) -> None:
    """Delete, rename and extend one large file each."""
    big = sorted(root.glob('big*'))
    big[0].unlink()
    big[1].rename(root / f'renamed-{time.time_ns()}')
    with open(big[2], 'ab') as stream:
        stream.write(random.randbytes(3 * MIB))


def run(server: servers.Server, container: str, *arguments: str) -> tuple[float, float]:
    """Wall seconds and peak MiB of one agent run."""
    environment = os.environ | {
        'ACCESS_KEY': server.access_key,
        'SECRET_KEY': server.secret_key,
        'ENDPOINT': server.endpoint,
    }
    argv = [sys.executable, '-m', 'freezer.main', '--storage', 's3', '--container']
    begun = time.monotonic()
    process = subprocess.Popen(
        [*argv, container, '--backup-name', 'memory', *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f'the agent failed: {arguments}')
    # ru_maxrss of the process itself, without its children.
    return time.monotonic() - begun, used.ru_maxrss / 1024


def measure(server: servers.Server, gib: float, folder: Path) -> None:
    source = folder / 'source'
    trees.make_tree(source, seed=1)
    fill(source, gib, seed=1)
    container = f'{server.make_bucket("memory")}/prefix'
    states = []
    for level in range(3):
        if level:
            trees.mutate_tree(source, seed=level)
            change(source)
        states.append((trees.describe(source), time.time()))
        seconds, peak = run(server, container, '-F', str(source), '--incremental')
        print(f'{gib:5} GiB  backup  level {level}  {seconds:7.1f} s  {peak:6.0f} MiB')
        states[-1] = (states[-1][0], time.time())
        time.sleep(2.1)
    for level, (state, moment) in enumerate(states):
        target = folder / f'target{level}'
        date = time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(moment))
        seconds, peak = run(
            server,
            container,
            '--action=restore',
            f'--restore-abs-path={target}',
            f'--restore-from-date={date}',
        )
        wrong = [
            line
            for line in trees.differences(state, trees.describe(target))
            if not (': links ' in line and ('(fifo)' in line or ' device)' in line))
        ]
        same = 'identical' if not wrong else f'{len(wrong)} DIFFERENCES: {wrong[:3]}'
        print(
            f'{gib:5} GiB  restore level {level}  {seconds:7.1f} s  {peak:6.0f} MiB  '
            f'{same}'
        )
        subprocess.run(['rm', '-rf', str(target)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--store', choices=STORES, default='seaweedfs')
    parser.add_argument('--gib', type=float, nargs='+', default=[1])
    options = parser.parse_args()
    for gib in options.gib:
        with (
            tempfile.TemporaryDirectory() as folder,
            STORES[options.store]() as server,
        ):
            os.environ['HOME'] = folder
            measure(server, gib, Path(folder))


if __name__ == '__main__':
    main()
