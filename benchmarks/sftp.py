"""Storage ssh against sftp and rclone, on the same server.

    python -m benchmarks.sftp [--mib 256] [--runs 3] [--far]

Each tool writes a stream of random bytes to an OpenSSH server on this machine, and
reads it back. The tools take turns; the table has medians. ``--far`` puts the distance
proxy in between. freezer also computes and compares SHA-256, synchronizes the file to
disk, and compares its size; sftp and rclone do not.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.helpers import helper
from benchmarks.measure import Cost, measure
from freezer.tests.servers.sshd import Sshd

_MIB = 2**20
_TOOLS = ('freezer', 'sftp', 'rclone')

_RCLONE = """\
[s]
type = sftp
host = 127.0.0.1
port = {port}
user = {user}
key_file = {key}
known_hosts_file = {known}
shell_type = none
disable_hashcheck = true
"""


def driver() -> None:
    """The driver alone, as a process: ``write`` or ``read``, and a name."""
    # Only here: the other process measures, and needs none of it.
    from freezer.storage.backup import Backup
    from freezer.storage.base import StorageSettings
    from freezer.storage.repository import Repository
    from freezer.storage.ssh.options import OPTIONS
    from freezer.storage.ssh.storage import SshStorage

    action, root, port, user, key, known, source = sys.argv[2:]
    options = OPTIONS.defaults() | {
        'ssh_host': '127.0.0.1',
        'ssh_port': int(port),
        'ssh_username': user,
        'ssh_key': key,
        'ssh_known_hosts': known,
    }
    storage = SshStorage.from_settings(
        StorageSettings(root, 32 * _MIB, options=options)
    )
    storage.prepare()
    if action == 'read':
        chain = Repository({'': storage}).find_state('tar', 'host_name')
        with open(source, 'wb') as target:
            for block in chain[0].blocks():
                target.write(block)
    else:
        pending = storage.begin(Backup('tar', 'host_name', 1700000000, 1700000000, 0))
        with open(source, 'rb', buffering=0) as stream:
            written = pending.write(iter(lambda: stream.read(_MIB), b''))
        written.commit(Path(os.devnull), {'engine_name': 'tar'})
    storage.close()


class Contest:
    """One server, and what each tool does with it."""

    def __init__(self, server: Sshd, port: int, folder: Path, mib: int) -> None:
        self._server = server
        self._port = port
        self._folder = folder
        self._source = folder / 'source'
        with self._source.open('wb') as stream:
            for _ in range(mib):
                stream.write(os.urandom(_MIB))
        self._rclone = folder / 'rclone.conf'
        self._rclone.write_text(
            _RCLONE.format(
                port=port, user=server.user, key=server.key, known=server.known_hosts
            )
        )

    def run(self, tool: str, action: str) -> Cost:
        return measure(getattr(self, f'_{tool}_command')(action), os.environ)

    def _file(self, tool: str) -> str:
        return f'{self._server.root}/{tool}'

    def _freezer_command(self, action: str) -> Sequence[str]:
        # A new container for each backup: the names are the same.
        root = self._server.root / 'freezer'
        if action == 'write' and root.exists():
            root.rename(self._folder / f'old{os.urandom(4).hex()}')
        source = self._source if action == 'write' else self._folder / 'back'
        return (
            *(sys.executable, '-m', 'benchmarks.sftp', '--driver', action),
            *(str(root), str(self._port), self._server.user, str(self._server.key)),
            *(str(self._server.known_hosts), str(source)),
        )

    def _sftp_command(self, action: str) -> Sequence[str]:
        batch = self._folder / f'batch-{action}'
        there, back = self._file('sftp'), self._folder / 'back'
        line = f'put {self._source} {there}' if action == 'write' else ''
        batch.write_text(line or f'get {there} {back}')
        known = f'UserKnownHostsFile={self._server.known_hosts}'
        return (
            *('sftp', '-q', '-b', str(batch), '-P', str(self._port)),
            *('-i', str(self._server.key), '-o', known),
            *('-c', 'aes128-gcm@openssh.com', f'{self._server.user}@127.0.0.1'),
        )

    def _rclone_command(self, action: str) -> Sequence[str]:
        there = f's:{self._file("rclone")}'
        ends = (str(self._source), there)
        if action == 'read':
            ends = (there, str(self._folder / 'back'))
        return (
            *(str(Path(sys.executable).parent / 'rclone'), f'--config={self._rclone}'),
            *('copyto', '--ignore-times', *ends),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--mib', type=int, default=256)
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--far', action='store_true')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Sshd() as server:
        if not options.far:
            contest(server, server.port, Path(folder), options.mib, options.runs)
            return
        with helper('benchmarks.distance', f'127.0.0.1:{server.port}') as address:
            port = int(address.rpartition(':')[2])
            server.trust(f'[127.0.0.1]:{port}')
            contest(server, port, Path(folder), options.mib, options.runs)


def contest(server: Sshd, port: int, folder: Path, mib: int, runs: int) -> None:
    contest = Contest(server, port, folder, mib)
    costs: dict[tuple[str, str], list[Cost]] = {}
    for _ in range(runs):
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
        speed = mib * _MIB / wall / 1e6
        print(f'{action} {tool:8}{speed:8.0f}{wall:8.2f}{cpu:8.2f}{peak:6.0f}')


if __name__ == '__main__':
    if sys.argv[1:2] == ['--driver']:
        driver()
    else:
        main()
