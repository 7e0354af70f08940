"""A checksum of a tree of files, to verify that a restore returned the same tree.

It covers the names, the types, the contents of files and the targets of symbolic links,
but not owners, modes and times. Names are sorted first, so it does not depend on the
order in which a directory lists them. That of Freezer 19 does: the two never compare
equal, and a prefix distinguishes them.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable

from freezer.exceptions import ConfigError
from freezer.utils import tree

PREFIX = 'tree-sha256:'
_READ_BLOCK = 1024 * 1024


def checksum(
    folder: str,
    members: Iterable[bytes],
    follow: bool,
    skipped: Callable[[str], None],
) -> str:
    """The checksum of paths below a folder.

    :param members: paths below it; ``.`` and a trailing slash do not matter
    :param follow: whether to use the target of a symbolic link instead of the link
    :param skipped: called for each path that cannot be read; archives lack those, too
    """
    total = hashlib.sha256()
    names = {member.removeprefix(b'./').rstrip(b'/') for member in members}
    with tree.Folders(folder, follow=follow) as folders:
        for name in sorted(names - {b'', b'.'}):
            try:
                *parents, last = name.split(b'/')
                kind, digest = _describe(last, folders.open(parents), follow)
            except OSError as error:
                path = os.path.join(folder, os.fsdecode(name))
                skipped(f'{path}: {error.strerror}: not in the checksum')
                continue
            # With the length first, no name can look like two.
            total.update(b'%d:%s%s%s' % (len(name), name, kind, digest))
    return PREFIX + total.hexdigest()


def compare(expected: str, found: str) -> bool:
    """:raises ConfigError: the expected one was made by another method"""
    if not expected.startswith(PREFIX):
        raise ConfigError(
            f'consistency-checksum: must begin with {PREFIX}; a checksum of Freezer 19 '
            f'depends on the order in which a directory lists its files, and cannot be '
            f'verified'
        )
    return expected == found


def _describe(name: bytes, folder: int, follow: bool) -> tuple[bytes, bytes]:
    """:param folder: descriptor of the directory it is in"""
    status = os.stat(name, dir_fd=folder, follow_symlinks=follow)
    kind = stat.filemode(status.st_mode)[0].encode()
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(name, dir_fd=folder)
        return kind, hashlib.sha256(target).digest()
    if not stat.S_ISREG(status.st_mode):
        return kind, b''
    content = hashlib.sha256()
    # Opening a fifo, which may have taken the file's place, would wait.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    flags |= 0 if follow else os.O_NOFOLLOW
    with open(os.open(name, flags, dir_fd=folder), 'rb') as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.ESTALE, 'it is another file now')
        while block := stream.read(_READ_BLOCK):
            content.update(block)
    return kind, content.digest()
