"""Storages ftp and ftps against rclone, lftp and curl, on the same server.

    python -m benchmarks.ftp [--mib 256] [--runs 3] [--tls]

Each tool writes a stream of random bytes to vsftpd on this machine, and reads it back.
The tools take turns; the table has medians. freezer also computes and compares SHA-256,
and compares the size of the file; the others do not. rclone's data connections do not
resume TLS sessions, which vsftpd demands, so it has no row with ``--tls``.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Cost, measure
from freezer.tests.servers.ftpd import Vsftpd

_MIB = 2**20
_TOOLS = ('freezer', 'rclone', 'lftp', 'curl')


def driver() -> None:
    """The driver alone, as a process: ``write`` or ``read``."""
    # Only here: the other process measures, and needs none of it.
    from freezer.storage.backup import Backup
    from freezer.storage.base import StorageSettings
    from freezer.storage.ftp.options import OPTIONS
    from freezer.storage.ftp.storage import FtpsStorage, FtpStorage
    from freezer.storage.repository import Repository

    action, root, port, user, password, bundle, source = sys.argv[2:]
    options = OPTIONS.defaults() | {
        'ftp_host': '127.0.0.1',
        'ftp_port': int(port),
        'ftp_username': user,
        'ftp_password': password,
        'ftp_ca_bundle': bundle,
    }
    kind = FtpsStorage if bundle else FtpStorage
    storage = kind.from_settings(StorageSettings(root, 32 * _MIB, options=options))
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

    def __init__(self, server: Vsftpd, folder: Path, mib: int) -> None:
        self._server = server
        self._folder = folder
        self._source = folder / 'source'
        with self._source.open('wb') as stream:
            for _ in range(mib):
                stream.write(os.urandom(_MIB))

    def run(self, tool: str, action: str) -> Cost:
        return measure(getattr(self, f'_{tool}_command')(action), os.environ)

    def _ends(self, tool: str) -> tuple[str, str]:
        return f'{self._server.root}/{tool}', str(self._folder / 'back')

    def _freezer_command(self, action: str) -> Sequence[str]:
        # A new container for each backup: the names are the same.
        server = self._server
        root = server.root / 'freezer'
        if action == 'write' and root.exists():
            root.rename(self._folder / f'old{os.urandom(4).hex()}')
        source = self._source if action == 'write' else self._folder / 'back'
        bundle = str(server.ca) if server.tls else ''
        return (
            *(sys.executable, '-m', 'benchmarks.ftp', '--driver', action),
            *(str(root), str(server.port), server.user, server.password),
            *(bundle, str(source)),
        )

    def _rclone_command(self, action: str) -> Sequence[str]:
        rclone = str(Path(sys.executable).parent / 'rclone')
        obscured = subprocess.run(
            [rclone, 'obscure', self._server.password],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        there, back = self._ends('rclone')
        there = (
            f':ftp,host=127.0.0.1,port={self._server.port},user={self._server.user},'
            f'pass={obscured}:{there}'
        )
        ends = (str(self._source), there) if action == 'write' else (there, back)
        return (rclone, '--config=', 'copyto', '--ignore-times', *ends)

    def _lftp_command(self, action: str) -> Sequence[str]:
        server = self._server
        there, back = self._ends('lftp')
        line = f'put {self._source} -o {there}'
        if action == 'read':
            line = f'set xfer:clobber yes; get {there} -o {back}'
        ca = f'set ssl:ca-file {server.ca}; ' if server.tls else ''
        force = 'yes' if server.tls else 'no'
        login = f'open -u {server.user},{server.password} -p {server.port} 127.0.0.1'
        return (
            *('lftp', '--norc', '-c'),
            f'{ca}set ftp:ssl-force {force}; set ftp:ssl-protect-data {force}; '
            f'set ftp:ssl-allow {force}; {login}; {line}',
        )

    def _curl_command(self, action: str) -> Sequence[str]:
        server = self._server
        there, back = self._ends('curl')
        ends = ('--output', back)
        if action == 'write':
            ends = ('--upload-file', str(self._source))
        tls = ('--ssl-reqd', '--cacert', str(server.ca)) if server.tls else ()
        return (
            *('curl', '--silent', '--show-error', '--fail', *tls),
            *('--user', f'{server.user}:{server.password}', *ends),
            f'ftp://127.0.0.1:{server.port}/{there}',
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--mib', type=int, default=256)
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--tls', action='store_true')
    options = parser.parse_args()
    tools = [each for each in _TOOLS if each != 'rclone' or not options.tls]
    costs: dict[tuple[str, str], list[Cost]] = {}
    with tempfile.TemporaryDirectory() as folder, Vsftpd(tls=options.tls) as server:
        contest = Contest(server, Path(folder), options.mib)
        for _ in range(options.runs):
            for action in ('write', 'read'):
                for tool in tools:
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
