"""Converts ``bucket/prefix`` paths to object keys. Pure."""

import os
import re
from urllib.parse import urlsplit

from freezer.storage import layout
from freezer.storage.exceptions import StorageConfigError
from freezer.utils.text import unfit

#: of UTF-8, on AWS and on Ceph
MAX_KEY_BYTES = 1024

# What botocore accepts; AWS is stricter, Ceph and others allow old-style names.
_BUCKET = re.compile(r'[A-Za-z0-9._-]{3,255}\Z')

# What botocore accepts, too.
_HOST = re.compile(
    r'(?=.{1,255}\Z)[A-Z0-9_]([A-Z0-9_-]{0,61}[A-Z0-9_])?'
    r'(\.[A-Z0-9_]([A-Z0-9_-]{0,61}[A-Z0-9_])?)*\.?\Z',
    re.IGNORECASE | re.ASCII,
)


def check_container(container: str) -> None:
    """:raises StorageConfigError: not ``bucket`` or ``bucket/prefix``"""
    if problem := unfit(container):
        raise StorageConfigError(f'container: {problem}: choose another name')
    bucket, *prefix = container.split('/')
    if not _BUCKET.match(bucket):
        raise StorageConfigError(
            f'container {container!r}: {bucket!r} is not a bucket name; the container '
            f'of storage s3 is bucket or bucket/prefix'
        )
    # Some stores change or refuse such keys (SeaweedFS), and list other ones.
    if any(part in ('', '.', '..') for part in prefix):
        raise StorageConfigError(
            f'container {container!r}: the prefix must not have empty parts, . or ..'
        )


def check_folder(path: str) -> None:
    """:raises StorageConfigError: a backup there would have a key that is too long

    Checked before the first object is written, as the longest keys come last.
    """
    if problem := unfit(path):
        raise StorageConfigError(f'{path!r}: {problem}: choose another backup name')
    # The marker's, in a folder of its own, is five bytes shorter.
    size = len(os.fsencode(key_of(layout.join(path, layout.volume_name(1)))))
    if size > MAX_KEY_BYTES:
        raise StorageConfigError(
            f'{path}: keys in it would have up to {size} bytes, and S3 allows '
            f'{MAX_KEY_BYTES}: give the container a shorter prefix, or the backup a '
            f'shorter name'
        )


def check_endpoint(endpoint: str) -> None:
    """:raises StorageConfigError: not ``http(s)://host[:port]``"""
    try:
        parts = urlsplit(endpoint)
        parts.port  # noqa: B018 - raises where it is not a number
    except ValueError as error:
        raise StorageConfigError(f'endpoint: not a URL: {error}') from error
    if parts.username is not None or parts.password is not None:
        # Not repeated: it may hold a password.
        raise StorageConfigError(
            'endpoint: must not hold a user or password; give --access-key and '
            '--secret-key'
        )
    if parts.scheme not in ('http', 'https') or not parts.hostname:
        raise StorageConfigError(
            f'endpoint {endpoint!r}: needs a scheme and a host, as in '
            f'https://s3.example.com:8443'
        )
    if ':' not in parts.hostname and not _HOST.match(parts.hostname):
        raise StorageConfigError(
            f'endpoint {endpoint!r}: {parts.hostname!r} is not a host name; other '
            f'letters than those of ASCII need its xn-- form'
        )
    if parts.path not in ('', '/') or parts.query or parts.fragment:
        raise StorageConfigError(
            f'endpoint {endpoint!r}: only scheme, host and port; bucket and prefix go '
            f'into --container'
        )


def bucket_of(path: str) -> str:
    """The first component of a container or of a path below it."""
    return path.partition('/')[0]


def key_of(path: str) -> str:
    """All after the first component; empty for the bucket itself."""
    return path.partition('/')[2]


def tree_prefix(path: str) -> str:
    """The prefix of all keys below a path, and of none beside it.

    It ends with a slash, else ``name`` would match ``name2`` too; the bucket itself is
    the empty prefix.
    """
    key = key_of(path)
    return f'{key}/' if '/' in path else ''
