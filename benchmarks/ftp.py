"""Storages ftp and ftps against rclone, lftp and curl, on the same server.

    python -m benchmarks.ftp [--mib 256] [--runs 3] [--tls]

Each tool writes a stream of random bytes to vsftpd on this machine, and reads it back.
The tools take turns; the table has medians. freezer also computes and compares SHA-256,
and compares the size of the file; the others do not. rclone's data connections do not
resume TLS sessions, which vsftpd demands, so it has no row with ``--tls``.
"""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contest import RCLONE, Contest, arguments, drive, start
from freezer.tests.servers.ftpd import Vsftpd


def driver(
    action: str, path: str, root: str, port: str, user: str, password: str, bundle: str
) -> None:
    # Only here: the other process measures, and needs none of it.
    from freezer.storage.ftp.options import OPTIONS
    from freezer.storage.ftp.storage import FtpsStorage, FtpStorage

    drive(
        action,
        path,
        FtpsStorage if bundle else FtpStorage,
        root,
        OPTIONS,
        ftp_host='127.0.0.1',
        ftp_port=int(port),
        ftp_username=user,
        ftp_password=password,
        ftp_ca_bundle=bundle,
    )


class FtpContest(Contest):
    def __init__(self, server: Vsftpd, folder: Path, mib: int) -> None:
        super().__init__(folder, mib)
        self._server = server
        # It does not resume TLS sessions.
        self.tools = ('freezer', *(() if server.tls else ('rclone',)), 'lftp', 'curl')

    def _ends(self, tool: str) -> tuple[str, str]:
        return f'{self._server.root}/{tool}', str(self.back)

    def freezer_command(self, action: str) -> Sequence[str]:
        server = self._server
        root = server.root / 'freezer'
        if action == 'write':
            self.put_aside(root)
        bundle = str(server.ca) if server.tls else ''
        return self.freezer(
            action, root, server.port, server.user, server.password, bundle
        )

    def rclone_command(self, action: str) -> Sequence[str]:
        obscured = subprocess.run(
            [RCLONE, 'obscure', self._server.password],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        there, back = self._ends('rclone')
        there = (
            f':ftp,host=127.0.0.1,port={self._server.port},user={self._server.user},'
            f'pass={obscured}:{there}'
        )
        ends = (str(self.source), there) if action == 'write' else (there, back)
        return (RCLONE, '--config=', 'copyto', '--ignore-times', *ends)

    def lftp_command(self, action: str) -> Sequence[str]:
        server = self._server
        there, back = self._ends('lftp')
        line = f'put {self.source} -o {there}'
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

    def curl_command(self, action: str) -> Sequence[str]:
        server = self._server
        there, back = self._ends('curl')
        ends = ('--output', back)
        if action == 'write':
            ends = ('--upload-file', str(self.source))
        tls = ('--ssl-reqd', '--cacert', str(server.ca)) if server.tls else ()
        return (
            *('curl', '--silent', '--show-error', '--fail', *tls),
            *('--user', f'{server.user}:{server.password}', *ends),
            f'ftp://127.0.0.1:{server.port}/{there}',
        )


def main() -> None:
    options = arguments(__doc__, '--tls')
    with tempfile.TemporaryDirectory() as folder, Vsftpd(tls=options.tls) as server:
        FtpContest(server, Path(folder), options.mib).run(options.runs)


if __name__ == '__main__':
    start(main, driver)
