"""Landlock: confines a thread, and the processes it starts, to one directory.

Outside of the directory the kernel refuses to open files for writing, and to make,
remove, rename, link and truncate them. It does not stop reading, nor chmod, chown,
utime and setxattr of existing files. Linux 5.19 and later, where it is switched on:
https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import errno
import functools
import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar('T')

# System call numbers: the same on all processors but Alpha.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_QUERY_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_WRITE_FILE = 1 << 1
_TRUNCATE = 1 << 14
# Access rights that change something, and the Landlock version that introduced them.
_RIGHTS = (
    # Write; remove directories and files; make files of each of the seven kinds.
    (1, _WRITE_FILE | sum(1 << bit for bit in range(4, 13))),
    # Link and rename into another directory.
    (2, 1 << 13),
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

    def confined() -> T:
        _restrict(directory)
        return callback()

    with ThreadPoolExecutor(1, 'landlock') as pool:
        return pool.submit(confined).result()


def _restrict(directory: str) -> None:
    """Confine this thread to a directory, until the thread ends."""
    supported = version()
    if supported < 2:
        # No right of version 1 allows links across directories, and archives have them.
        raise OSError(errno.EOPNOTSUPP, 'its version 1 has no links across directories')
    rights = sum(right for since, right in _RIGHTS if since <= supported)
    ruleset = _call(_CREATE_RULESET, struct.pack('=Q', rights), 8, 0)
    try:
        _allow(ruleset, directory, rights)
        _allow(ruleset, os.devnull, rights & (_WRITE_FILE | _TRUNCATE))
        # Required of users other than root.
        _checked(_libc().prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _call(
            _ADD_RULE,
            ruleset,
            _RULE_PATH_BENEATH,
            struct.pack('=Qi', rights, parent),
            0,
        )
    finally:
        os.close(parent)


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
