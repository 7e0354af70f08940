"""One storage against other tools, on one server: writes of a stream, reads, a table.

``ftp``, ``sftp`` and ``swift`` here say which tools, and how each is called.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Cost, measure

if TYPE_CHECKING:
    from freezer.storage.base import Storage
    from freezer.utils.plugin_options import PluginOptions

MIB = 2**20
RCLONE = str(Path(sys.executable).parent / 'rclone')


class Contest:
    """What each tool does with one server: ``NAME_command`` returns its argv.

    :cvar tools: their names
    :ivar back: the file to read to
    """

    tools: Sequence[str]

    def __init__(self, folder: Path, mib: int) -> None:
        self.folder = folder
        self.source = folder / 'source'
        self.back = folder / 'back'
        self._mib = mib
        with self.source.open('wb') as stream:
            for _ in range(mib):
                stream.write(os.urandom(MIB))

    def freezer(self, action: str, *arguments: object) -> Sequence[str]:
        """The driver alone, as a process: of this storage's module, with --driver."""
        module = f'benchmarks.{Path(sys.argv[0]).stem}'
        path = self.source if action == 'write' else self.back
        return (
            *(sys.executable, '-m', module, '--driver', action, str(path)),
            *map(str, arguments),
        )

    def put_aside(self, container: Path) -> None:
        """Make place for another backup, which has the same name."""
        if container.exists():
            container.rename(self.folder / f'old{os.urandom(4).hex()}')

    def run(self, runs: int) -> None:
        """The tools take turns; prints medians."""
        costs: dict[tuple[str, str], list[Cost]] = {}
        for _ in range(runs):
            for action in ('write', 'read'):
                for tool in self.tools:
                    argv = getattr(self, f'{tool}_command')(action)
                    cost = measure(argv, os.environ)
                    costs.setdefault((action, tool), []).append(cost)
        print(f'{"":14}{"MB/s":>8}{"wall s":>8}{"CPU s":>8}{"MiB":>6}')
        for (action, tool), found in costs.items():
            wall, cpu, peak = (
                statistics.median(getattr(cost, name) for cost in found)
                for name in ('wall', 'cpu', 'peak')
            )
            speed = self._mib * MIB / wall / 1e6
            print(f'{action} {tool:8}{speed:8.0f}{wall:8.2f}{cpu:8.2f}{peak:6.0f}')


def drive(
    action: str,
    path: str,
    kind: 'type[Storage]',
    container: str,
    declared: 'PluginOptions',
    **given: object,
) -> None:
    """Write one backup from a file, or read it to one: in a process of its own."""
    # Only here: the other process measures, and needs none of it.
    from freezer.storage.backup import Backup
    from freezer.storage.base import StorageSettings
    from freezer.storage.repository import Repository

    options = declared.defaults() | given
    storage = kind.from_settings(StorageSettings(container, 32 * MIB, options=options))
    storage.prepare()
    if action == 'read':
        chain = Repository({'': storage}).find_state('tar', 'host_name')
        with open(path, 'wb') as target:
            for block in chain[0].stream().blocks():
                target.write(block)
    else:
        pending = storage.begin(Backup('tar', 'host_name', 1700000000, 1700000000, 0))
        with open(path, 'rb', buffering=0) as stream:
            written = pending.write(iter(lambda: stream.read(MIB), b''))
        written.commit(Path(os.devnull), {'engine_name': 'tar'})
    storage.close()


def arguments(document: str, *flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=document)
    parser.add_argument('--mib', type=int, default=256)
    parser.add_argument('--runs', type=int, default=3)
    for flag in flags:
        parser.add_argument(flag, action='store_true')
    return parser.parse_args()


def start(main: Callable[[], None], driver: Callable[..., None]) -> None:
    if sys.argv[1:2] == ['--driver']:
        driver(*sys.argv[2:])
    else:
        main()
