"""Landlock: confines a thread, and the processes it starts, to some directories.

Either writing is confined, to one directory: outside of it the kernel refuses to open
files for writing, and to make, remove, rename, link and truncate them. It does not stop
reading, nor chmod, chown, utime and setxattr of existing files. Linux 5.19 and later.

Or reading is confined: outside of the directories and files the kernel refuses to open
files for reading, and to list directories. It does not stop stat and readlink. Linux
5.13 and later.

Both only where Landlock is enabled: https://docs.kernel.org/userspace-api/landlock.html
"""

import contextlib
import ctypes
import errno
import functools
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar('T')

# System call numbers: the same on all processors but Alpha.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_QUERY_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_WRITE_FILE = 1 << 1
_READ_FILE = 1 << 2
_READ_DIRECTORY = 1 << 3
_REFER = 1 << 13
_TRUNCATE = 1 << 14
# Access rights that change something, and the Landlock version that introduced them.
_RIGHTS = (
    # Write; remove directories and files; make files of each of the seven kinds.
    (1, _WRITE_FILE | sum(1 << bit for bit in range(4, 13))),
    # Link and rename into another directory.
    (2, _REFER),
    (3, _TRUNCATE),
    # ioctl on devices.
    (5, 1 << 15),
)


def version() -> int:
    """The Landlock version of the kernel.

    :raises OSError: the kernel has no Landlock, or it is disabled or not permitted
    """
    return _call(_CREATE_RULESET, None, 0, _QUERY_VERSION)


def unavailable_reason(directory: str) -> str | None:
    """Why :func:`run_confined` would fail; None if it works."""
    try:
        run_confined(directory, lambda: None)
    except OSError as error:
        return error.strerror
    return None


def run_confined(directory: str, callback: Callable[[], T]) -> T:
    """Call in a thread of its own, which can write only below a directory.

    Processes that it starts are confined for good, and so are theirs; the other threads
    of this process are not. ``/dev/null`` can be written to.

    :raises OSError: the kernel cannot confine it; the callback was not called
    """
    return _run(lambda: _restrict_writing(directory), callback)


def run_reading(
    descriptors: Iterable[int],
    files: Iterable[str],
    listed: Iterable[str],
    callback: Callable[[], T],
) -> T:
    """Call in a thread of its own, which can read only these files, and what is below
    these directories.

    Otherwise as :func:`run_confined`.

    :param descriptors: of files and directories: whatever happens to their names, these
        are meant
    :param files: further files and directories that can be read, if they exist
    :param listed: directories that can be listed, and all below them
    """
    return _run(lambda: _restrict_reading(descriptors, files, listed), callback)


def _run(restrict: Callable[[], None], callback: Callable[[], T]) -> T:
    def confined() -> T:
        restrict()
        return callback()

    with ThreadPoolExecutor(1, 'landlock') as pool:
        return pool.submit(confined).result()


def _restrict_writing(directory: str) -> None:
    """Confine this thread to a directory, until the thread ends."""
    supported = version()
    if supported < 2:
        # No right of version 1 allows links across directories, and archives have them.
        raise OSError(errno.EOPNOTSUPP, 'its version 1 has no links across directories')
    rights = sum(right for since, right in _RIGHTS if since <= supported)
    with _ruleset(rights) as ruleset:
        _allow(ruleset, directory, rights)
        _allow(ruleset, os.devnull, rights & (_WRITE_FILE | _TRUNCATE))


def _restrict_reading(
    descriptors: Iterable[int], files: Iterable[str], listed: Iterable[str]
) -> None:
    """The same for reading."""
    # Without a rule for it, every ruleset forbids links across directories.
    refer = _REFER if version() >= 2 else 0
    with _ruleset(_READ_FILE | _READ_DIRECTORY | refer) as ruleset:
        if refer:
            _allow(ruleset, '/', refer)
        for descriptor in descriptors:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                _allow_descriptor(ruleset, descriptor, _READ_FILE | _READ_DIRECTORY)
            elif stat.S_ISREG(mode):
                # The kernel accepts no other right of a file.
                _allow_descriptor(ruleset, descriptor, _READ_FILE)
        for path in files:
            rights = _READ_FILE | (_READ_DIRECTORY if os.path.isdir(path) else 0)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                _allow(ruleset, path, rights)
        for path in listed:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                _allow(ruleset, path, _READ_DIRECTORY)


@contextlib.contextmanager
def _ruleset(rights: int) -> Iterator[int]:
    """A block that fills a ruleset; at its end the thread is restricted.

    :param rights: those that need a rule
    """
    ruleset = _call(_CREATE_RULESET, struct.pack('=Q', rights), 8, 0)
    try:
        yield ruleset
        # Required of users other than root.
        _checked(_libc().prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _allow_descriptor(ruleset, parent, rights)
    finally:
        os.close(parent)


def _allow_descriptor(ruleset: int, parent: int, rights: int) -> None:
    rule = struct.pack('=Qi', rights, parent)
    _call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)


def _call(number: int, *arguments: int | bytes | None) -> int:
    return _checked(_libc().syscall, number, *arguments)


def _checked(function: Any, *arguments: int | bytes | None) -> int:
    """:raises OSError: the call failed"""
    longs = (ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    result: int = function(*longs)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
