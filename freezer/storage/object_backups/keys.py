"""Converts ``bucket/prefix`` paths to object keys. Pure."""

import os

from freezer.storage import layout
from freezer.storage.exceptions import StorageConfigError
from freezer.utils.text import unfit

#: of UTF-8, on AWS, on Ceph and on Swift
MAX_KEY_BYTES = 1024


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
            f'{path}: keys in it would have up to {size} bytes, and the store allows '
            f'{MAX_KEY_BYTES}: give the container a shorter prefix, or the backup a '
            f'shorter name'
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
