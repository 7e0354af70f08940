"""Engines of images: what they share, and the engine blocks, for files and devices."""

import abc
import functools
import logging
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager

from freezer.engine.blocks import stream, target
from freezer.engine.blocks.create import LevelWriter
from freezer.engine.blocks.extract import Chain, ImageExtractor, ImageReader
from freezer.engine.blocks.options import OPTIONS, SIZES
from freezer.engine.blocks.source import FileSource, Image, file_source
from freezer.engine.blocks.state import LevelState
from freezer.engine.blocks.target import open_target
from freezer.engine.engine import (
    Archiving,
    Base,
    Engine,
    Extractor,
    Source,
    Warnings,
)
from freezer.engine.index.file import IndexFile
from freezer.engine.settings import EngineSettings
from freezer.exceptions import EngineError
from freezer.utils.blocks import Block

LOG = logging.getLogger(__name__)


class ImageEngine(Engine):
    """Level 0 has all blocks but zeros; an increment has those that changed."""

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        options = OPTIONS.defaults() | {**settings.options}
        self._block_size = SIZES.get(options['blocks_block_size'])

    @abc.abstractmethod
    def image(self, archiving: Archiving) -> AbstractContextManager[Image]:
        """The image to archive.

        :raises EngineError: it cannot be opened
        """

    def state(self, source: Source, image: Image, level: LevelState) -> bytes:
        """The engine's file of a level."""
        return level.dump()

    def level_state(self, content: bytes) -> LevelState:
        """What an engine's file says of the blocks of its level.

        :raises EngineError: it is damaged, or of a newer agent
        """
        return LevelState.load(content)

    def archive(self, archiving: Archiving) -> Generator[Block, None, None]:
        base = None
        if archiving.base is not None:
            base = self.level_state(archiving.base.state.read_bytes())
        with self.image(archiving) as image:
            writer = LevelWriter(
                archiving, image, base, self._block_size, self._progress
            )
            yield from writer.blocks()
            state = self.state(archiving.source, image, writer.state)
        archiving.state.write_bytes(state)

    def base_problem(self, base: Base, source: Source, now: int) -> str | None:
        try:
            state = self.level_state(base.state.read_bytes())
        except EngineError as error:
            return str(error)
        return _index_problem(base.indexes, state)

    def archive_reader(self, level: int) -> ImageReader:
        return ImageReader(Chain(level))

    def is_archive_start(self, head: bytes) -> bool:
        return head.startswith(stream.MAGIC)


class BlocksEngine(ImageEngine):
    """A file or a block device, such as the disk of a virtual machine."""

    name = 'blocks'

    def source(self, paths: Sequence[str]) -> FileSource:
        return file_source(next(iter(paths), None))

    def image(self, archiving: Archiving) -> Image:
        assert isinstance(archiving.source, FileSource)
        return archiving.source.open()

    def check_target(self, path: str | None, overwrite: bool) -> str:
        return target.check_target(path, overwrite)

    def extractor(
        self, target: str, state: bytes | None, warnings: Warnings
    ) -> Extractor:
        newest = None
        if state is not None:
            try:
                newest = self.level_state(state)
            except EngineError as error:
                # A restore needs only the data.
                LOG.warning('%s', error)
        opened = functools.partial(open_target, target)
        return ImageExtractor(opened, newest, self._progress)


def _index_problem(indexes: Sequence[IndexFile], state: LevelState) -> str | None:
    """Why the indexes of a chain are not those of its newest level."""
    if len(indexes) != state.level + 1:
        return 'a level has no index, which has the digests of its blocks'
    for index in indexes:
        size = index.properties.get('size')
        if type(size) is not int or not 0 <= size <= stream.MAX_SIZE:
            return 'the index of a level does not have the size of its image'
    if indexes[-1].properties.get('digest') != state.digest.hex():
        return 'the index of the previous level does not belong to it'
    return None
