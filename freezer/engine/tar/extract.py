"""Extracts archives with GNU tar, kept inside the target."""

import contextlib
import dataclasses
import logging
import subprocess
from collections.abc import Iterable, Iterator

from freezer.engine.engine import Extractor, Warnings
from freezer.engine.tar import messages, process
from freezer.engine.tar.directories import TargetDirectories
from freezer.engine.tar.guard import TargetGuard
from freezer.exceptions import EngineError
from freezer.utils import landlock
from freezer.utils.blocks import Block
from freezer.utils.progress import Progress

LOG = logging.getLogger(__name__)


class ArchiveExtractor:
    """Runs tar to extract archives into a target, one after the other.

    Two independent protections keep tar inside the target; each is enough without the
    other. A guard checks every member before tar reads it. Landlock, where the kernel
    has it, confines the tar process.
    """

    def __init__(
        self, target: str, guard: TargetGuard, warnings: Warnings, progress: Progress
    ) -> None:
        self.target = target
        self._warnings = warnings
        self._guard = guard
        self._progress = progress
        unavailable = landlock.unavailable_reason(target)
        if unavailable is None:
            number = landlock.version()
            also = f', and Landlock {number} keeps tar from writing outside of {target}'
        else:
            also = f'; Landlock is not available ({unavailable})'
        LOG.info('every member is checked before tar reads it%s', also)
        self._confined = unavailable is None
        self._arguments = process.extract_arguments(target, guard.untrusted)

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


@dataclasses.dataclass
class TarExtractor(Extractor):
    """Extracts whole levels, the oldest first."""

    archives: ArchiveExtractor
    directories: TargetDirectories
    whole_tree: bool

    def extract(self, blocks: Iterator[Block]) -> None:
        # Archives have no members for excluded directories: those are put back.
        with self.directories.for_archive():
            if self.whole_tree:
                self.directories.make_ready()
            self.archives.extract(blocks)
