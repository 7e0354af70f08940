"""Storage ssh against sftp and rclone, on the same server.

    python -m benchmarks.sftp [--mib 256] [--runs 3] [--far]

Each tool writes a stream of random bytes to an OpenSSH server on this machine, and
reads it back. The tools take turns; the table has medians. ``--far`` puts the distance
proxy in between. freezer also computes and compares SHA-256, synchronizes the file to
disk, and compares its size; sftp and rclone do not.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contest import RCLONE, Contest, arguments, drive, start
from benchmarks.helpers import helper
from freezer.tests.servers.sshd import Sshd

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


def driver(
    action: str, path: str, root: str, port: str, user: str, key: str, known: str
) -> None:
    # Only here: the other process measures, and needs none of it.
    from freezer.storage.ssh.options import OPTIONS
    from freezer.storage.ssh.storage import SshStorage

    drive(
        action,
        path,
        SshStorage,
        root,
        OPTIONS,
        ssh_host='127.0.0.1',
        ssh_port=int(port),
        ssh_username=user,
        ssh_key=key,
        ssh_known_hosts=known,
    )


class SftpContest(Contest):
    tools = ('freezer', 'sftp', 'rclone')

    def __init__(self, server: Sshd, port: int, folder: Path, mib: int) -> None:
        super().__init__(folder, mib)
        self._server = server
        self._port = port
        self._rclone = folder / 'rclone.conf'
        self._rclone.write_text(
            _RCLONE.format(
                port=port, user=server.user, key=server.key, known=server.known_hosts
            )
        )

    def _file(self, tool: str) -> str:
        return f'{self._server.root}/{tool}'

    def freezer_command(self, action: str) -> Sequence[str]:
        server = self._server
        root = server.root / 'freezer'
        if action == 'write':
            self.put_aside(root)
        return self.freezer(
            action, root, self._port, server.user, server.key, server.known_hosts
        )

    def sftp_command(self, action: str) -> Sequence[str]:
        batch = self.folder / f'batch-{action}'
        there, back = self._file('sftp'), self.back
        line = f'put {self.source} {there}' if action == 'write' else ''
        batch.write_text(line or f'get {there} {back}')
        known = f'UserKnownHostsFile={self._server.known_hosts}'
        return (
            *('sftp', '-q', '-b', str(batch), '-P', str(self._port)),
            *('-i', str(self._server.key), '-o', known),
            *('-c', 'aes128-gcm@openssh.com', f'{self._server.user}@127.0.0.1'),
        )

    def rclone_command(self, action: str) -> Sequence[str]:
        there = f's:{self._file("rclone")}'
        ends = (str(self.source), there)
        if action == 'read':
            ends = (there, str(self.back))
        return (
            *(RCLONE, f'--config={self._rclone}'),
            *('copyto', '--ignore-times', *ends),
        )


def main() -> None:
    options = arguments(__doc__, '--far')
    with tempfile.TemporaryDirectory() as folder, Sshd() as server:

        def run(port: int) -> None:
            contest = SftpContest(server, port, Path(folder), options.mib)
            contest.run(options.runs)

        if not options.far:
            run(server.port)
            return
        with helper('benchmarks.distance', f'127.0.0.1:{server.port}') as address:
            port = int(address.rpartition(':')[2])
            server.trust(f'[127.0.0.1]:{port}')
            run(port)


if __name__ == '__main__':
    start(main, driver)
