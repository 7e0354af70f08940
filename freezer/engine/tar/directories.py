"""The directories of a restore's target, before an archive and after it."""

import contextlib
import errno
import os
import random
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class _Was(NamedTuple):
    """A directory of the target as it was."""

    path: bytes
    mode: int
    mtime_ns: int
    attributes: dict[str, bytes] | None


class TargetDirectories:
    """The directories of a target: made ready for an archive, and as they were again
    if it has nothing to say of them.

    Those have a time that nothing else has: tar sets that of each directory it meets.
    """

    def __init__(self, target: str) -> None:
        self.refused = False
        """One of them was not ours to make ready."""
        self._target = os.fsencode(os.path.realpath(target))
        self._changed: list[_Was] = []
        # Whole seconds of even number: any file system keeps them.
        self._mark = 2 * random.SystemRandom().randrange(2**28, 2**29) * 10**9

    def make_ready(self, path: Sequence[bytes] = ()) -> None:
        """Take from a directory and each below what would stay, spread, or be in the
        way. Nothing if it is not there, no directory, or a link is on the way.

        tar sets what is set in the archive; it does not take away extended attributes,
        new directories inherit the setgid bit, and who is not root cannot write into a
        directory that is read-only.
        """
        folder = self._target
        for name in path:
            folder = os.path.join(folder, name)
            try:
                status = os.lstat(folder)
            except OSError:
                # Not there, or tar will say what it could not do there.
                return
            if not stat.S_ISDIR(status.st_mode):
                return
        folders = [folder]
        while folders:
            folder = folders.pop()
            # Somebody else's directory: tar will say what it could not do there.
            try:
                self._make_one_ready(folder)
            except PermissionError:
                self.refused = True
            with os.scandir(folder) as entries:
                folders += [e.path for e in entries if e.is_dir(follow_symlinks=False)]

    def _make_one_ready(self, folder: bytes) -> None:
        status = os.lstat(folder)
        if status.st_mtime_ns == self._mark:
            return
        os.chmod(folder, 0o700)
        attributes = _drop_attributes(folder)
        mode = stat.S_IMODE(status.st_mode)
        self._changed.append(_Was(folder, mode, status.st_mtime_ns, attributes or None))
        os.utime(folder, ns=(status.st_atime_ns, self._mark))

    @contextlib.contextmanager
    def for_archive(self) -> Iterator[None]:
        """A block that makes ready and extracts; in the end, and also if it fails, what
        the archive has said nothing of is as it was."""
        try:
            yield
        except BaseException:
            # The first error is the one to tell.
            with contextlib.suppress(OSError):
                self._put_back()
            raise
        self._put_back()

    def _put_back(self) -> None:
        # What is in a directory before itself, which may not be open afterwards.
        for folder, mode, mtime_ns, attributes in reversed(self._changed):
            # Gone; or in one that is closed by now to who is not root.
            with contextlib.suppress(
                FileNotFoundError, NotADirectoryError, PermissionError
            ):
                status = os.lstat(folder)
                if status.st_mtime_ns != self._mark:
                    continue
                for name, value in (attributes or {}).items():
                    os.setxattr(folder, name, value)
                os.chmod(folder, mode)
                os.utime(folder, ns=(status.st_atime_ns, mtime_ns))
        self._changed = []


def _drop_attributes(folder: bytes) -> dict[str, bytes]:
    """Those that were dropped."""
    dropped = {}
    try:
        for name in os.listxattr(folder, follow_symlinks=False):
            if name != 'security.selinux':
                value = os.getxattr(folder, name, follow_symlinks=False)
                os.removexattr(folder, name, follow_symlinks=False)
                dropped[name] = value
    except OSError as error:
        # The file system has none, or the attribute is only root's to take away.
        if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
            raise
    return dropped
