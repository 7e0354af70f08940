"""Extracts archives with GNU tar, kept inside the target."""

import contextlib
import dataclasses
import errno
import functools
import logging
import os
import random
import stat
import subprocess
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from freezer.engine.engine import Extractor, Warnings
from freezer.engine.tar import process, unsupported
from freezer.engine.tar.guard import TargetGuard
from freezer.engine.tar.patterns import Patterns
from freezer.exceptions import RestoreError
from freezer.utils import landlock, tree
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
    :param options: those of the engine
    :param patterns: the archives contain only what these choose
    :param makes_writable: whether each directory that an archive may change is made
        ready before it
    :param untouched: paths of directories in which the archives have nothing
    :param parents: see :class:`TargetGuard`
    :raises RestoreError: the target cannot be created
    """

    def __init__(
        self,
        target: str,
        untrusted: bool,
        warnings: Warnings,
        progress: Progress,
        options: Mapping[str, Any],
        patterns: Patterns | None = None,
        makes_writable: bool = True,
        untouched: Container[bytes] = (),
        parents: Mapping[bytes, Container[bytes]] | None = None,
    ) -> None:
        try:
            os.makedirs(target, exist_ok=True)
        except OSError as error:
            raise RestoreError(f'{target}: {error.strerror}') from error
        self.target = target
        self.directories = TargetDirectories(target, untouched)
        self._warnings = warnings
        self._lost: set[int] = set()
        self._guard = TargetGuard(
            target,
            untrusted,
            patterns,
            lambda: makes_writable and not self.directories.refused,
            untouched,
            parents=parents,
        )
        self._progress = progress
        unavailable = landlock.unavailable_reason(target)
        if unavailable is None:
            number = landlock.version()
            also = f', and Landlock {number} keeps tar from writing outside of {target}'
        else:
            also = f'; Landlock is not available ({unavailable})'
        LOG.info('every member is checked before tar reads it%s', also)
        self._confine = (
            functools.partial(landlock.run_confined, target)
            if unavailable is None
            else None
        )
        self._arguments = process.extract_arguments(target, untrusted, options)

    def warn(self, text: str) -> None:
        """Add a warning to those of the restore."""
        self._warnings.add(text)

    def extract(self, blocks: Iterable[Block]) -> None:
        """Extract one archive.

        :raises EngineError: see :meth:`freezer.engine.engine.Extractor.extract`
        """
        # tar creates the temporary directories of a rename in its working directory.
        with process.running(
            self._arguments,
            stdin=subprocess.PIPE,
            cwd=self.target,
            confine=self._confine,
            keep=unsupported.is_relevant,
        ) as (tar, stderr):
            assert tar.stdin is not None
            # If tar has exited, its status and messages say why.
            with contextlib.suppress(BrokenPipeError):
                for block in self._guard.check(blocks):
                    tar.stdin.write(block)
                    self._progress.files = self._guard.files
                    self._progress.current = self._guard.current
                tar.stdin.close()
            self._progress.current = b''
            status = tar.wait()
            lines = stderr.lines()
        unsupported.check(status, lines, self.target, self._warnings, self._lost)


class _Path(NamedTuple):
    """A path below the target that shares its parents: of a deep tree, full paths would
    take too much memory."""

    parent: '_Path | None'
    name: bytes

    @property
    def names(self) -> list[bytes]:
        """Its components."""
        names: list[bytes] = []
        path: _Path | None = self
        while path is not None:
            names.append(path.name)
            path = path.parent
        return names[::-1]


class _SavedDirectory(NamedTuple):
    """The attributes that a directory of the target had."""

    path: _Path | None
    mode: int
    mtime_ns: int
    attributes: dict[str, bytes] | None


class TargetDirectories:
    """Makes directories ready for an archive, and then restores those not in it.

    They are marked with a modification time that no other file has: tar sets the time
    of each directory in the archive.

    :param untouched: paths of mount points that are not to be entered
    """

    def __init__(self, target: str, untouched: Container[bytes] = ()) -> None:
        self.refused = False
        """A directory could not be made ready: it belongs to another user."""
        self._target = target
        self._untouched = untouched
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
        start: _Path | None = None
        for name in path:
            start = _Path(start, name)
        with tree.Folders(self._target) as folders:
            try:
                folders.open(path)
            except OSError:
                # Missing; in other cases tar will report what it could not do.
                return
            skipped = (*tree.GONE, PermissionError)
            for directory in tree.walk(folders, start, skipped):
                # Another user's directory: tar will report what it could not do there.
                with contextlib.suppress(PermissionError):
                    self._make_one_ready(directory)
                    self._enter_all(directory)

    def _make_one_ready(self, directory: tree.Directory[_Path | None]) -> None:
        status = os.fstat(directory.fd)
        if status.st_mtime_ns == self._mark:
            return
        try:
            with _changeable(directory.fd) as fd:
                os.fchmod(fd, 0o700)
                attributes = _drop_attributes(fd)
                mode = stat.S_IMODE(status.st_mode)
                self._changed.append(
                    _SavedDirectory(
                        directory.state, mode, status.st_mtime_ns, attributes or None
                    )
                )
                os.utime(fd, ns=(status.st_atime_ns, self._mark))
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.EROFS):
                raise
            self.refused = True

    def _enter_all(self, directory: tree.Directory[_Path | None]) -> None:
        with tree.entries(directory.fd) as entries:
            for name, entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    continue
                path = _Path(directory.state, name)
                if not self._untouched or b'/'.join(path.names) not in self._untouched:
                    directory.enter(name, path)

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
        changed, self._changed = self._changed, []
        if not changed:
            return
        with tree.Folders(self._target) as folders:
            # Children before their parent: it may not be accessible afterwards.
            for saved in reversed(changed):
                # Removed; or, without root, in a directory that is not accessible any
                # more.
                with contextlib.suppress(*tree.GONE, PermissionError):
                    fd = folders.open(saved.path.names if saved.path else [])
                    if os.fstat(fd).st_mtime_ns == self._mark:
                        _put_one_back(fd, saved)


def _put_one_back(fd: int, saved: _SavedDirectory) -> None:
    status = os.fstat(fd)
    with _changeable(fd) as directory:
        for name, value in (saved.attributes or {}).items():
            os.setxattr(directory, name, value)
        os.fchmod(directory, saved.mode)
        os.utime(directory, ns=(status.st_atime_ns, saved.mtime_ns))


@contextlib.contextmanager
def _changeable(fd: int) -> Iterator[int]:
    """A block with a descriptor through which a directory can be changed.

    :param fd: as :attr:`tree.Folders.fd`
    """
    with contextlib.ExitStack() as opened:
        try:
            directory = opened.enter_context(tree.readable(fd))
        except PermissionError:
            # Its owner may not read it, and can change that.
            os.chmod(f'/proc/self/fd/{fd}', 0o700)
            directory = opened.enter_context(tree.readable(fd))
        yield directory


def _drop_attributes(directory: int) -> dict[str, bytes]:
    """Remove extended attributes; returns those that were removed."""
    dropped = {}
    try:
        for name in os.listxattr(directory):
            if name != 'security.selinux':
                value = os.getxattr(directory, name)
                os.removexattr(directory, name)
                dropped[name] = value
    except OSError as error:
        # The file system has none, or only root may remove the attribute.
        if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
            raise
    return dropped
