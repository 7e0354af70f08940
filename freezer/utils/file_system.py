"""File systems: their types, and writing their data to the device."""

import ctypes
import os
from collections.abc import Callable
from typing import Final

#: types of file systems without files of their own: the kernel makes them up
VIRTUAL: Final = frozenset(
    b'binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fusectl '
    b'hugetlbfs mqueue nfsd nsfs proc pstore rpc_pipefs securityfs selinuxfs sysfs '
    b'tracefs'.split()
)


def _load() -> Callable[[int], int]:
    function: Callable[[int], int] = ctypes.CDLL(None).syncfs
    return function


_syncfs: Final = _load()


def sync(path: str) -> None:
    """Write out the file system that a directory is on; others are left alone.

    From then on the first change of a mapped page sets the times of its file again.

    :raises OSError: the directory cannot be opened
    """
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # What cannot be written is an error of whoever wrote it.
        _syncfs(directory)
    finally:
        os.close(directory)
