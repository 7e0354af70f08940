"""Freezer 19.0.0's agent, patched so that it can finish a backup to S3.

Its ``put_file`` takes the length of an open file, and it asks Keystone first.

Run by the Python of an environment that has freezer 19.0.0, with its arguments.
"""

import clouds

clouds.pretend()

from freezer import main  # noqa: E402
from freezer.storage.s3 import S3Storage  # noqa: E402


def _put_file(self: S3Storage, from_path: str, to_path: str) -> None:
    bucket, _, key = to_path.partition('/')
    with open(from_path, 'rb') as stream:
        self.put_object(bucket_name=bucket, key=key, data=stream.read())


S3Storage.put_file = _put_file
main.main()
