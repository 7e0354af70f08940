"""Action dump: the contents of a file in a backup, or a backup that is one stream."""

import logging
import os
from collections.abc import Generator, Iterator, Mapping

from freezer.engine.engine import StreamedEngine, require_files
from freezer.engine.restore import Contents, RestoreChain
from freezer.exceptions import ConfigError, FreezerError
from freezer.job.job import Job, Outcome, damage_explained, iso
from freezer.storage.backup import StoredLevel
from freezer.storage.exceptions import StorageException
from freezer.utils import human
from freezer.utils.blocks import Block

LOG = logging.getLogger(__name__)


class DumpJob(Job):
    """Writes the contents of one file, or one stream, to standard output, and nothing
    else there."""

    takes_tag = True
    takes_include = True

    def check_options(self) -> None:
        super().check_options()
        if isinstance(self.engine, StreamedEngine):
            if self.config.include:
                require_files(self.engine, 'include')
        elif not self.config.include:
            raise ConfigError('action dump needs --include PATH, the file to print')
        if self.config.metadata_out:
            raise ConfigError(
                'action dump prints the contents of a file and has no other result: '
                'omit --json and --metadata-out'
            )

    def execute(self) -> Outcome:
        self.progress.phase = 'Looking for the backup'
        if not isinstance(self.engine, StreamedEngine):
            require_files(self.engine, 'action dump')
        chain = self.find_state()
        with damage_explained():
            found = self._contents(chain)
        self.progress.phase = 'Reading'
        written = _Written()
        return Outcome(
            content=self._checked(found.blocks, written),
            lines=_summary(found, written, chain[max(chain)]),
        )

    def _contents(self, chain: Mapping[int, StoredLevel]) -> Contents:
        if isinstance(self.engine, StreamedEngine):
            opened = RestoreChain(chain, self.engine, self.settings)
            return Contents(None, opened.streamed())
        opened = RestoreChain(chain, self.engine, self.settings, listed=True)
        return opened.contents()

    def _checked(
        self, blocks: Iterator[Block], written: '_Written'
    ) -> Generator[Block, None, None]:
        try:
            with damage_explained():
                for block in blocks:
                    written.size += len(block)
                    yield block
        except (FreezerError, StorageException):
            if written.size:
                self.say('The output is incomplete: do not use it')
            raise


class _Written:
    """What has been passed on.

    :ivar size: bytes
    """

    size = 0


def _summary(found: Contents, written: _Written, newest: StoredLevel) -> Iterator[str]:
    """A line, which is made when all has been written."""
    path = f'{os.fsdecode(found.path)}: ' if found.path else ''
    yield (
        f'{path}{human.size(written.size)} '
        f'(level {newest.level}, {iso(newest.timestamp)})'
    )
