"""A checksum of a tree of files that says whether a restore brought back the same.

It covers the names, the types, the contents of files and the targets of symbolic links;
not owners, modes and times. Names are sorted first, so it does not depend on the order
a directory lists them in, as Freezer 19's does: the two never compare equal, and this
one says so by its prefix.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable

from freezer.exceptions import ConfigError

PREFIX = 'tree-sha256:'
_READ_BLOCK = 1024 * 1024


def checksum(
    folder: str,
    members: Iterable[bytes],
    follow: bool,
    skipped: Callable[[str], None],
) -> str:
    """The checksum of some paths below a folder.

    :param members: paths below it; ``.`` and a trailing slash do not matter
    :param follow: whether what a symbolic link points to counts, in place of the link
    :param skipped: told of each path that cannot be read: an archive lacks it as well
    """
    total = hashlib.sha256()
    names = {member.removeprefix(b'./').rstrip(b'/') for member in members}
    for name in sorted(names - {b'', b'.'}):
        path = os.path.join(os.fsencode(folder), name)
        try:
            kind, digest = _describe(path, follow)
        except OSError as error:
            skipped(f'{os.fsdecode(path)}: {error.strerror}: not in the checksum')
            continue
        # Length first: no name can look like two.
        total.update(b'%d:%s%s%s' % (len(name), name, kind, digest))
    return PREFIX + total.hexdigest()


def compare(expected: str, found: str) -> bool:
    """:raises ConfigError: the expected one was made by another method"""
    if not expected.startswith(PREFIX):
        raise ConfigError(
            f'consistency-checksum: must begin with {PREFIX}; those of Freezer 19 '
            f'depend on the order in which a directory lists its files, and cannot be '
            f'compared with anything'
        )
    return expected == found


def _describe(path: bytes, follow: bool) -> tuple[bytes, bytes]:
    status = os.stat(path, follow_symlinks=follow)
    kind = stat.filemode(status.st_mode)[0].encode()
    if stat.S_ISLNK(status.st_mode):
        return kind, hashlib.sha256(os.readlink(path)).digest()
    if not stat.S_ISREG(status.st_mode):
        return kind, b''
    content = hashlib.sha256()
    with open(path, 'rb') as stream:
        while block := stream.read(_READ_BLOCK):
            content.update(block)
    return kind, content.digest()
