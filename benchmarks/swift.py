"""Storage swift against rclone, on the same server.

    python -m benchmarks.swift [--mib 256] [--runs 3]

Each tool writes a stream of random bytes to a Swift on this machine, with its own login
(tempauth), and reads it back. The tools take turns; the table has medians. Both compare
the MD5 of what they write. freezer also computes SHA-256, and compares it when it
reads; rclone compares the MD5 then.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contest import RCLONE, Contest, arguments, drive, start
from freezer.tests.servers.swift import SwiftS3

_RCLONE = """\
[s]
type = swift
user = {user}
key = {key}
auth = {auth}
chunk_size = 32M
"""


def driver(
    action: str, path: str, container: str, auth: str, user: str, key: str
) -> None:
    # Only here: the other process measures, and needs none of it.
    from freezer.storage.swift.options import OPTIONS
    from freezer.storage.swift.storage import SwiftStorage

    drive(
        action,
        path,
        SwiftStorage,
        container,
        OPTIONS,
        swift_auth_url=auth,
        swift_username=user,
        swift_password=key,
    )


class SwiftContest(Contest):
    tools = ('freezer', 'rclone')

    def __init__(self, server: SwiftS3, folder: Path, mib: int) -> None:
        super().__init__(folder, mib)
        self._login = server.options()
        self._container = ''
        self._rclone = folder / 'rclone.conf'
        self._rclone.write_text(
            _RCLONE.format(
                user=self._login['swift_username'],
                key=self._login['swift_password'],
                auth=self._login['swift_auth_url'],
            )
        )

    def freezer_command(self, action: str) -> Sequence[str]:
        if action == 'write':
            # A new one for each backup: the names are the same.
            self._container = f'freezer-{os.urandom(4).hex()}'
        return self.freezer(action, self._container, *self._login.values())

    def rclone_command(self, action: str) -> Sequence[str]:
        ends = (str(self.source), 's:rclone/data')
        if action == 'read':
            ends = ('s:rclone/data', str(self.back))
        return (
            *(RCLONE, f'--config={self._rclone}'),
            *('copyto', '--ignore-times', *ends),
        )


def main() -> None:
    options = arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder, SwiftS3() as server:
        SwiftContest(server, Path(folder), options.mib).run(options.runs)


if __name__ == '__main__':
    start(main, driver)
