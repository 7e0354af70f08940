"""Extracts archives with GNU tar, kept inside the target."""

import contextlib
import dataclasses
import errno
import logging
import os
import random
import stat
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from freezer.engine.engine import Extractor, Warnings
from freezer.engine.tar import messages, process
from freezer.engine.tar.guard import TargetGuard
from freezer.engine.tar.patterns import Patterns
from freezer.exceptions import EngineError, RestoreError
from freezer.utils import landlock
from freezer.utils.blocks import Block
from freezer.utils.progress import Progress

LOG = logging.getLogger(__name__)


@dataclasses.dataclass
class TarExtractor(Extractor):
    """Extracts whole levels, the oldest first."""

    archives: 'ArchiveExtractor'
    whole_tree: bool

    def extract(self, blocks: Iterator[Block]) -> None:
        # Archives have no members for excluded directories: those are put back.
        with self.archives.directories.for_archive():
            if self.whole_tree:
                self.archives.directories.make_ready()
            self.archives.extract(blocks)


class ArchiveExtractor:
    """Runs tar to extract archives into a target, one after the other.

    Two independent protections keep tar inside the target; each is enough without the
    other. A guard checks every member before tar reads it. Landlock, where the kernel
    has it, confines the tar process.

    :param target: created if it is missing
    :param patterns: the archives contain only what these choose
    :param makes_writable: whether each directory that an archive may change is made
        ready before it
    :raises RestoreError: the target cannot be created
    """

    def __init__(
        self,
        target: str,
        untrusted: bool,
        warnings: Warnings,
        progress: Progress,
        patterns: Patterns | None = None,
        makes_writable: bool = True,
    ) -> None:
        try:
            os.makedirs(target, exist_ok=True)
        except OSError as error:
            raise RestoreError(f'{target}: {error.strerror}') from error
        self.target = target
        self.directories = TargetDirectories(target)
        self._warnings = warnings
        self._guard = TargetGuard(
            target,
            untrusted,
            patterns,
            lambda: makes_writable and not self.directories.refused,
        )
        self._progress = progress
        unavailable = landlock.unavailable_reason(target)
        if unavailable is None:
            number = landlock.version()
            also = f', and Landlock {number} keeps tar from writing outside of {target}'
        else:
            also = f'; Landlock is not available ({unavailable})'
        LOG.info('every member is checked before tar reads it%s', also)
        self._confined = unavailable is None
        self._arguments = process.extract_arguments(target, untrusted)

    def extract(self, blocks: Iterable[Block]) -> None:
        """Extract one archive.

        :raises EngineError: see :meth:`freezer.engine.engine.Extractor.extract`
        """
        # tar creates the temporary directories of a rename in its working directory.
        with process.running(
            self._arguments,
            stdin=subprocess.PIPE,
            cwd=self.target,
            confined=self._confined,
        ) as (tar, stderr):
            assert tar.stdin is not None
            # If tar has exited, its status and messages say why.
            with contextlib.suppress(BrokenPipeError):
                for block in self._guard.check(blocks):
                    tar.stdin.write(block)
                    self._progress.files = self._guard.files
                tar.stdin.close()
            status = tar.wait()
            lines = stderr.lines()
        if status != 0:
            raise EngineError(
                f'tar could not extract into {self.target} (status {status}): '
                f'{messages.summary(lines)}'
            )
        for line in lines:
            self._warnings.add(line)


class _SavedDirectory(NamedTuple):
    """The attributes that a directory of the target had."""

    path: bytes
    mode: int
    mtime_ns: int
    attributes: dict[str, bytes] | None


class TargetDirectories:
    """Makes directories ready for an archive, and then restores those not in it.

    They are marked with a modification time that no other file has: tar sets the time
    of each directory in the archive.
    """

    def __init__(self, target: str) -> None:
        self.refused = False
        """A directory could not be made ready: it belongs to another user."""
        self._target = os.fsencode(os.path.realpath(target))
        self._changed: list[_SavedDirectory] = []
        # An even number of seconds: any file system keeps it.
        self._mark = 2 * random.SystemRandom().randrange(2**28, 2**29) * 10**9

    def make_ready(self, path: Sequence[bytes] = ()) -> None:
        """Make a directory and those below writable; drop extended attributes and the
        setgid bit. Skips a path that is missing, not a directory, or contains a link.

        tar sets what is set in the archive; it does not remove extended attributes,
        new directories inherit the setgid bit, and users other than root cannot write
        into a read-only directory.
        """
        folder = self._target
        for name in path:
            folder = os.path.join(folder, name)
            try:
                status = os.lstat(folder)
            except OSError:
                # Missing; in other cases tar will report what it could not do.
                return
            if not stat.S_ISDIR(status.st_mode):
                return
        folders = [folder]
        while folders:
            folder = folders.pop()
            # Another user's directory: tar will report what it could not do there.
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
        self._changed.append(
            _SavedDirectory(folder, mode, status.st_mtime_ns, attributes or None)
        )
        os.utime(folder, ns=(status.st_atime_ns, self._mark))

    @contextlib.contextmanager
    def for_archive(self) -> Iterator[None]:
        """A block that makes ready and extracts. At its end, also if it fails, the
        directories that were not in the archive are put back as they were."""
        try:
            yield
        except BaseException:
            # Report the first error.
            with contextlib.suppress(OSError):
                self._put_back()
            raise
        self._put_back()

    def _put_back(self) -> None:
        # Children before their parent: it may not be accessible afterwards.
        for folder, mode, mtime_ns, attributes in reversed(self._changed):
            # Removed; or, without root, in a directory that is not accessible any more.
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
    """Remove extended attributes; returns those that were removed."""
    dropped = {}
    try:
        for name in os.listxattr(folder, follow_symlinks=False):
            if name != 'security.selinux':
                value = os.getxattr(folder, name, follow_symlinks=False)
                os.removexattr(folder, name, follow_symlinks=False)
                dropped[name] = value
    except OSError as error:
        # The file system has none, or only root may remove the attribute.
        if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
            raise
    return dropped
