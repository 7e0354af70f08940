"""Freezer 19.0.0's agent, patched so that it can complete a backup to S3.

Unpatched, its ``put_file`` calls ``len()`` on an open file, and it needs Keystone.

Run it with the Python of an environment with freezer 19.0.0, and the agent's arguments.
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
