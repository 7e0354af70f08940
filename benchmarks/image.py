"""Backups of an image of which one percent changed, by several tools.

    python -m benchmarks.image [--mib 2048] [--runs 3] [--only freezer-blocks restic …]

The image is the start of a tar archive of ``/usr``, or of another directory. In every
hundredth block of 4096 bytes, at random, new bytes are written; then the same number of
blocks is changed in 20 runs. Each tool makes a full backup and two increments to a
directory on the same disk, and restores the newest. All compress with zstd (borg: level
1) as fast as they can. Prints a table: wall and CPU seconds, and MB that were added to
the store.

freezer-tar, restic and borg are used if they are installed.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import Cost, measure

MIB = 2**20
_BLOCK = 4096
_COPY = 8 * MIB
_RUNS = 20
STEPS = ('full', 'scattered', 'runs', 'restore')


@dataclass
class Tool:
    """Commands of a tool; each gets the store and the image.

    :ivar begin: makes the store
    :ivar restore: gets the store and an empty directory
    """

    name: str
    program: str
    backup: Callable[[Path, Path], Sequence[str]]
    restore: Callable[[Path, Path], Sequence[str]]
    begin: Callable[[Path], Sequence[str]] | None = None
    environment: dict[str, str] = field(default_factory=dict)


def freezer(engine: str, block_size: str = '') -> Tool:
    """:param block_size: for engine blocks; the default if empty"""
    size = ('--blocks-block-size', block_size) if block_size else ()
    agent = (sys.executable, '-m', 'freezer.main')

    def command(store: Path, *arguments: str) -> Sequence[str]:
        return (
            *agent,
            *('--engine', engine, '--storage', 'local', '--container', str(store)),
            *('--backup-name', 'image', '--compression', 'zstd'),
            *('--log-file', str(store.parent / 'freezer.log'), *arguments),
        )

    def restore(store: Path, target: Path) -> Sequence[str]:
        path = target / 'image' if engine == 'blocks' else target
        return command(store, '--action', 'restore', '--restore-abs-path', str(path))

    name = f'freezer {engine}'
    return Tool(
        f'{name} {block_size}' if block_size else name,
        sys.executable,
        lambda store, image: command(
            store, '--incremental', '--path-to-backup', str(image), *size
        ),
        restore,
    )


TOOLS = (
    freezer('blocks'),
    freezer('blocks', '64K'),
    freezer('tar'),
    Tool(
        'restic',
        'restic',
        lambda store, image: ('restic', '-r', str(store), 'backup', str(image)),
        lambda store, target: (
            *('restic', '-r', str(store), 'restore', 'latest'),
            *('--target', str(target)),
        ),
        lambda store: ('restic', '-r', str(store), 'init'),
        {'RESTIC_PASSWORD': 'benchmark'},
    ),
    Tool(
        'borg',
        'borg',
        lambda store, image: (
            *('borg', 'create', '--compression', 'zstd,1', '--noatime'),
            *(f'{store}::{{now:%s%f}}', str(image)),
        ),
        lambda store, target: (
            *(
                'sh',
                '-c',
                'cd "$2" && borg extract "$1::$(borg list --last 1 --short "$1")"',
            ),
            *('sh', str(store), str(target)),
        ),
        lambda store: ('borg', 'init', '--encryption', 'none', str(store)),
        {'BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK': 'yes'},
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--mib', type=int, default=2048)
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--content', default='/usr', help='a directory')
    parser.add_argument('--only', nargs='+', choices=[each.name for each in TOOLS])
    parser.add_argument('--scratch', help='a directory with room')
    parser.add_argument('--json', type=Path)
    given = parser.parse_args()
    tools = [
        tool
        for tool in TOOLS
        if shutil.which(tool.program) and tool.name in (given.only or [tool.name])
    ]
    found: dict[str, list[dict[str, tuple[Cost, int]]]] = {}
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        for number in range(given.runs):
            # The tools take turns, so that what else the machine does hits all alike.
            for tool in tools:
                folder = Path(scratch, 'run')
                folder.mkdir()
                image = folder / 'image'
                make_image(image, given.mib * MIB, given.content)
                costs = dict(run(tool, folder, image, number))
                found.setdefault(tool.name, []).append(costs)
                shutil.rmtree(folder)
    if given.json:
        given.json.write_text(json.dumps(found, default=vars, indent=1))
    for line in table(found):
        print(line)


def make_image(path: Path, size: int, content: str) -> None:
    with path.open('wb') as file:
        tar = subprocess.Popen(
            ['tar', '-C', content, '-cf', '-', '.'],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert tar.stdout is not None
        left = size
        while left and (piece := tar.stdout.read(min(_COPY, left))):
            left -= file.write(piece)
        tar.kill()
        tar.communicate()
        file.truncate(size)


def scatter(path: Path, seed: int) -> None:
    """Change one percent of the blocks, anywhere."""
    chance = random.Random(seed)
    blocks = path.stat().st_size // _BLOCK
    with path.open('r+b') as file:
        for number in chance.sample(range(blocks), blocks // 100):
            file.seek(number * _BLOCK)
            file.write(chance.randbytes(_BLOCK))


def change_runs(path: Path, seed: int) -> None:
    """Change one percent of the blocks, in a few places."""
    chance = random.Random(seed)
    blocks = path.stat().st_size // _BLOCK
    length = blocks // 100 // _RUNS
    with path.open('r+b') as file:
        for _ in range(_RUNS):
            file.seek(chance.randrange(blocks - length) * _BLOCK)
            file.write(chance.randbytes(length * _BLOCK))


def run(
    tool: Tool, folder: Path, image: Path, number: int
) -> Iterator[tuple[str, tuple[Cost, int]]]:
    """Step, its cost, and bytes added to the store."""
    home, store, target = (folder / name for name in ('home', 'store', 'target'))
    home.mkdir()
    environment = os.environ | {'HOME': str(home)} | tool.environment
    if tool.begin is not None:
        measure(tool.begin(store), environment)
    before = stored(store)
    for step in STEPS[:3]:
        if step == 'scattered':
            scatter(image, number)
        elif step == 'runs':
            change_runs(image, 1000 + number)
        cost = measure(tool.backup(store, image), environment)
        now = stored(store)
        yield step, (cost, now - before)
        before = now
    target.mkdir()
    yield 'restore', (measure(tool.restore(store, target), environment), 0)
    (restored,) = target.rglob('image')
    subprocess.run(['cmp', str(image), str(restored)], check=True)


def stored(store: Path) -> int:
    return sum(path.stat().st_size for path in store.rglob('*') if path.is_file())


def table(found: dict[str, list[dict[str, tuple[Cost, int]]]]) -> Iterator[str]:
    head = f'{"":20}'
    yield head + ''.join(f'{step:>24}' for step in STEPS)
    yield (
        head + f'{"wall s":>8}{"CPU s":>7}{"MB":>9}' * 3 + f'{"wall s":>15}{"CPU s":>7}'
    )
    for name, runs in found.items():
        line = f'{name:20}'
        for step in STEPS:
            wall, cpu, size = (
                statistics.median(pick(each[step]) for each in runs)
                for pick in (
                    lambda each: each[0].wall,
                    lambda each: each[0].cpu,
                    lambda each: each[1] / 10**6,
                )
            )
            width = 15 if step == 'restore' else 8
            line += f'{wall:{width}.1f}{cpu:7.1f}'
            line += '' if step == 'restore' else f'{size:9.1f}'
        yield line


if __name__ == '__main__':
    main()
