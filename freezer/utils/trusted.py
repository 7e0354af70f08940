"""Opens files that this user writes, without following symbolic links of other users.

Another user who can make a link where root writes a log could let root write to any
file. A link is followed if it belongs to root or to this user, and so does the
directory that it is in. In a directory that everyone may write to, as /tmp, the sticky
bit keeps others from moving such links.
"""

import collections
import contextlib
import errno
import os
import stat
from typing import Final

_MOST_LINKS: Final = 40
_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def opener(path: str, flags: int) -> int:
    """For ``open(path, opener=)``."""
    return open_file(path, flags)


def check(path: str | os.PathLike[str]) -> None:
    """Check the path of a file or directory that need not exist.

    :raises PermissionError: it leads through a link of another user
    """
    with contextlib.suppress(FileNotFoundError):
        os.close(open_file(path, os.O_PATH))


def open_file(path: str | os.PathLike[str], flags: int, mode: int = 0o666) -> int:
    """As :func:`os.open`.

    :raises PermissionError: the path leads through a link of another user
    """
    path = os.fspath(path)
    if not os.path.isabs(path):
        path = os.path.join(os.getcwd(), path)
    try:
        return _open(path, flags | os.O_CLOEXEC, mode)
    except OSError as error:
        # It names a component.
        error.filename = path
        raise


def _open(path: str, flags: int, mode: int) -> int:
    names = collections.deque(path.split('/'))
    links = 0
    folder = os.open('/', _FOLDER)
    try:
        while True:
            name = names.popleft() or '.'
            link = _link(folder, name)
            if link is None or _is_magic(link):
                if not names:
                    kept = flags if link else flags | os.O_NOFOLLOW
                    return os.open(name, kept, mode, dir_fd=folder)
                folder = _enter(folder, name, follow=link is not None)
                continue
            _check(link, os.fstat(folder))
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            target = os.readlink(name, dir_fd=folder)
            names.extendleft(reversed(target.split('/')))
            if target.startswith('/'):
                folder = _enter(folder, '/')
    finally:
        os.close(folder)


def _link(folder: int, name: str) -> os.stat_result | None:
    """The status of a symbolic link; None for anything else, or nothing."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found if stat.S_ISLNK(found.st_mode) else None


def _is_magic(link: os.stat_result) -> bool:
    """Whether it is a link of /proc, which leads to an open file and not to a path."""
    try:
        ours = os.stat('/proc/self', follow_symlinks=False)
    except FileNotFoundError:
        return False
    return link.st_dev == ours.st_dev and link.st_uid in (0, os.geteuid())


def _enter(folder: int, name: str, follow: bool = False) -> int:
    flags = _FOLDER if follow else _FOLDER | os.O_NOFOLLOW
    entered = os.open(name, flags, dir_fd=folder)
    os.close(folder)
    return entered


def _check(link: os.stat_result, folder: os.stat_result) -> None:
    """:param folder: the directory that the link is in"""
    trusted = {0, os.geteuid()}
    is_shared = folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX
    if link.st_uid in trusted and folder.st_uid in trusted and not is_shared:
        return
    raise PermissionError(
        errno.EPERM,
        'leads through a symbolic link that another user owns or could have placed',
    )
