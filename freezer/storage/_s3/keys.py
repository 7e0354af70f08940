"""Checks of container and endpoint. Pure."""

import re
from urllib.parse import urlsplit

from freezer.storage.exceptions import StorageConfigError
from freezer.utils.text import unfit

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
