"""Storage swift against rclone, on the same server.

    python -m benchmarks.swift [--mib 256] [--runs 3]

Each tool writes a stream of random bytes to a Swift on this machine, with its own login
(tempauth), and reads it back. The tools take turns; the table has medians. Both compare
the MD5 of what they write. freezer also computes SHA-256, and compares it when it
reads; rclone compares the MD5 then.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Cost, measure
from freezer.tests.servers.swift import SwiftS3

_MIB = 2**20
_TOOLS = ('freezer', 'rclone')

_RCLONE = """\
[s]
type = swift
user = {user}
key = {key}
auth = {auth}
chunk_size = 32M
"""


def driver() -> None:
    """The driver alone, as a process: ``write`` or ``read``, and a container."""
    # Only here: the other process measures, and needs none of it.
    from freezer.storage.backup import Backup
    from freezer.storage.base import StorageSettings
    from freezer.storage.repository import Repository
    from freezer.storage.swift.options import OPTIONS
    from freezer.storage.swift.storage import SwiftStorage

    action, container, auth, user, key, source = sys.argv[2:]
    options = OPTIONS.defaults() | {
        'swift_auth_url': auth,
        'swift_username': user,
        'swift_password': key,
    }
    storage = SwiftStorage.from_settings(
        StorageSettings(container, 32 * _MIB, options=options)
    )
    storage.prepare()
    if action == 'read':
        chain = Repository({'': storage}).find_state('tar', 'host_name')
        with open(source, 'wb') as target:
            for block in chain[0].stream().blocks():
                target.write(block)
    else:
        pending = storage.begin(Backup('tar', 'host_name', 1700000000, 1700000000, 0))
        with open(source, 'rb', buffering=0) as stream:
            written = pending.write(iter(lambda: stream.read(_MIB), b''))
        written.commit(Path(os.devnull), {'engine_name': 'tar'})
    storage.close()


class Contest:
    """One server, and what each tool does with it."""

    def __init__(self, server: SwiftS3, folder: Path, mib: int) -> None:
        self._login = server.options()
        self._folder = folder
        self._container = ''
        self._source = folder / 'source'
        with self._source.open('wb') as stream:
            for _ in range(mib):
                stream.write(os.urandom(_MIB))
        self._rclone = folder / 'rclone.conf'
        self._rclone.write_text(
            _RCLONE.format(
                user=self._login['swift_username'],
                key=self._login['swift_password'],
                auth=self._login['swift_auth_url'],
            )
        )

    def run(self, tool: str, action: str) -> Cost:
        return measure(getattr(self, f'_{tool}_command')(action), os.environ)

    def _freezer_command(self, action: str) -> Sequence[str]:
        if action == 'write':
            # A new one for each backup: the names are the same.
            self._container = f'freezer-{os.urandom(4).hex()}'
        source = self._source if action == 'write' else self._folder / 'back'
        return (
            *(sys.executable, '-m', 'benchmarks.swift', '--driver', action),
            *(self._container, *self._login.values(), str(source)),
        )

    def _rclone_command(self, action: str) -> Sequence[str]:
        ends = (str(self._source), 's:rclone/data')
        if action == 'read':
            ends = ('s:rclone/data', str(self._folder / 'back-rclone'))
        return (
            *(str(Path(sys.executable).parent / 'rclone'), f'--config={self._rclone}'),
            *('copyto', '--ignore-times', *ends),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--mib', type=int, default=256)
    parser.add_argument('--runs', type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, SwiftS3() as server:
        contest = Contest(server, Path(folder), options.mib)
        costs: dict[tuple[str, str], list[Cost]] = {}
        for _ in range(options.runs):
            for action in ('write', 'read'):
                for tool in _TOOLS:
                    cost = contest.run(tool, action)
                    costs.setdefault((action, tool), []).append(cost)
    print(f'{"":14}{"MB/s":>8}{"wall s":>8}{"CPU s":>8}{"MiB":>6}')
    for (action, tool), found in costs.items():
        wall, cpu, peak = (
            statistics.median(getattr(cost, name) for cost in found)
            for name in ('wall', 'cpu', 'peak')
        )
        speed = options.mib * _MIB / wall / 1e6
        print(f'{action} {tool:8}{speed:8.0f}{wall:8.2f}{cpu:8.2f}{peak:6.0f}')


if __name__ == '__main__':
    if sys.argv[1:2] == ['--driver']:
        driver()
    else:
        main()
