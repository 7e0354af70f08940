"""Speed and memory by part size and concurrency.

    python -m benchmarks.sizing measure sizing.json [--mib 512]
    python -m benchmarks.sizing draw sizing.json sizing.svg [--speed]     # matplotlib

Copies a stream from a pipe to a null store 40 ms away, with 25 MB/s per connection
(``distance.py``), and back, and verifies every digest. Memory is the peak of the
driver's process, with the agent's settings.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from benchmarks.null_store import noise

MIB = 2**20
PARTS = (5, 8, 32, 64)
CONCURRENCY = (1, 4, 16)
# More memory than this is impractical for an agent.
MOST_MIB = 320


def start(module: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a module that prints its address, and exits at end of input."""
    return subprocess.Popen(
        [sys.executable, '-m', module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def run(action: str, environment: dict[str, str], part: int, at_once: int) -> Any:
    """Run ``pipe.py put`` or ``get`` with this process at the other end of the pipe:
    seconds and peak MiB."""
    size = int(environment['STREAM_BYTES'])
    begun = time.monotonic()
    process = subprocess.Popen(
        [
            *(sys.executable, 'benchmarks/pipe.py', action),
            *('--max-segment-size', str(part * MIB), '--s3-concurrency', str(at_once)),
        ],
        env=environment,
        stdin=subprocess.PIPE if action == 'put' else subprocess.DEVNULL,
        stdout=subprocess.PIPE if action == 'get' else None,
    )
    if process.stdin is not None:
        for block in noise(size):
            process.stdin.write(block)
        process.stdin.close()
    else:
        drain(process.stdout, size)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f'{action} failed: parts of {part} MiB, {at_once} in flight')
    return {'seconds': time.monotonic() - begun, 'peak': used.ru_maxrss / 1024}


def drain(stream: IO[bytes] | None, size: int) -> None:
    assert stream is not None
    came = 0
    while block := stream.read(MIB):
        came += len(block)
    if came != size:
        raise SystemExit(f'received {came} of {size} bytes')


def measure(path: Path, mib: int) -> None:
    results = []
    store = start('benchmarks.null_store')
    endpoint = first_line(store)
    far = start('benchmarks.distance', endpoint.rpartition('/')[2])
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {
            'ACCESS_KEY': 'key',
            'SECRET_KEY': 'secret',
            'ENDPOINT': f'http://{first_line(far)}',
            'STREAM_BYTES': str(mib * MIB),
            'PYTHONPATH': os.getcwd(),
            'HOME': home,
        }
        try:
            for part in PARTS:
                for at_once in CONCURRENCY:
                    if part * at_once > MOST_MIB:
                        continue
                    environment['OS_DEFAULT__CONTAINER'] = f'sizing/{part}-{at_once}'
                    result = {'part': part, 'concurrency': at_once}
                    for action in ('put', 'get'):
                        result[action] = run(action, environment, part, at_once)
                    print(result, flush=True)
                    results.append(result)
        finally:
            for process in (far, store):
                process.communicate('')
    path.write_text(json.dumps({'mib': mib, 'results': results}, indent=1) + '\n')


def draw(data: Path, picture: Path, speed: bool) -> None:
    """Draw memory, and below it speed, of backup and restore, a line per part size."""
    import matplotlib as mpl

    mpl.use('svg')
    mpl.rcParams['svg.hashsalt'] = 'freezer'
    from matplotlib import pyplot

    found = json.loads(data.read_text())
    rows = ['peak MiB', 'MiB/s'] if speed else ['peak MiB']
    figure, panels = pyplot.subplots(
        len(rows), 2, figsize=(9, 3.4 * len(rows)), layout='constrained', squeeze=False
    )
    for row, unit in zip(panels, rows, strict=True):
        for panel, action in zip(row, ('put', 'get'), strict=True):
            for part in PARTS:
                results = [r for r in found['results'] if r['part'] == part]
                values = [
                    r[action]['peak']
                    if unit == 'peak MiB'
                    else found['mib'] / r[action]['seconds']
                    for r in results
                ]
                at_once = [r['concurrency'] for r in results]
                panel.plot(at_once, values, marker='o', label=f'{part} MiB')
            panel.set_xscale('log', base=2)
            panel.set_xticks(CONCURRENCY, [str(n) for n in CONCURRENCY])
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
            panel.set_title({'put': 'backup', 'get': 'restore'}[action])
            panel.set_ylabel(unit)
            panel.set_xlabel('--s3-concurrency')
    panels[0][0].legend(title='--max-segment-size', fontsize=8)
    figure.savefig(picture, metadata={'Date': None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('action', choices=['measure', 'draw'])
    parser.add_argument('data', type=Path)
    parser.add_argument('picture', type=Path, nargs='?')
    parser.add_argument('--mib', type=int, default=512)
    parser.add_argument('--speed', action='store_true', help='also draw the speed')
    options = parser.parse_args()
    if options.action == 'measure':
        measure(options.data, options.mib)
    elif options.picture is None:
        parser.error('draw needs the file name of the picture')
    else:
        draw(options.data, options.picture, options.speed)


if __name__ == '__main__':
    main()
