"""Landlock: the kernel keeps a thread, and what it starts, from writing elsewhere.

It stops opening for writing, making, removing, renaming, linking and truncating of
files outside of one directory. It does not stop reading, nor chmod, chown, utime and
setxattr of what is there already. Linux 5.19 and later, where it is switched on:
https://docs.kernel.org/userspace-api/landlock.html
"""

import errno
import functools
import os
import struct
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar('T')

# The numbers of its system calls are the same on all processors but Alpha.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_FOR_VERSION = 1
_BELOW_PATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_WRITE_FILE = 1 << 1
_TRUNCATE = 1 << 14
# All ways to change something, and the version that brought them.
_RIGHTS = (
    # Write, remove directories and files, make things of each of the seven kinds.
    (1, _WRITE_FILE | sum(1 << bit for bit in range(4, 13))),
    # Link and rename into another directory.
    (2, 1 << 13),
    (3, _TRUNCATE),
    # What devices do when asked.
    (5, 1 << 15),
)


def version() -> int:
    """What the kernel speaks.

    :raises OSError: it has no Landlock, does not use it, or may not be asked for it
    """
    return _call(_CREATE_RULESET, None, 0, _ASK_FOR_VERSION)


def why_not(directory: str) -> str | None:
    """Why :func:`below` will not do; None if it will."""
    try:
        below(directory, lambda: None)
    except OSError as error:
        return error.strerror
    return None


def below(directory: str, act: Callable[[], T]) -> T:
    """Act in a thread of its own, which can change nothing but what is below.

    Processes that it starts are held to that for good, and so is what they start; the
    other threads of this process are not. ``/dev/null`` can be written to.

    :raises OSError: the kernel does not do that; nothing was done
    """
    # Few actions restore.
    from concurrent.futures import ThreadPoolExecutor

    def confined() -> T:
        _restrict(directory)
        return act()

    with ThreadPoolExecutor(1, 'landlock') as pool:
        return pool.submit(confined).result()


def _restrict(directory: str) -> None:
    """Hold this thread to what is below a directory, until it ends."""
    speaks = version()
    if speaks < 2:
        # No right would allow it, and archives have such links.
        raise OSError(errno.EOPNOTSUPP, 'its version 1 has no links across directories')
    rights = sum(right for since, right in _RIGHTS if since <= speaks)
    ruleset = _call(_CREATE_RULESET, struct.pack('=Q', rights), 8, 0)
    try:
        _allow(ruleset, directory, rights)
        _allow(ruleset, os.devnull, rights & (_WRITE_FILE | _TRUNCATE))
        # The condition under which this is for anybody and not only for root.
        _checked(_libc().prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _call(_ADD_RULE, ruleset, _BELOW_PATH, struct.pack('=Qi', rights, parent), 0)
    finally:
        os.close(parent)


def _call(number: int, *arguments: int | bytes | None) -> int:
    return _checked(_libc().syscall, number, *arguments)


def _checked(function: Any, *arguments: int | bytes | None) -> int:
    """:raises OSError: errno says why"""
    import ctypes

    longs = (ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    result: int = function(*longs)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


@functools.cache
def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)
