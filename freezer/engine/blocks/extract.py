"""Restores the levels of a chain, and checks them without restoring."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

from freezer.engine.blocks.state import LevelState
from freezer.engine.blocks.stream import NO_BASE, Header, StreamReader
from freezer.engine.blocks.target import Target
from freezer.engine.engine import ArchiveReader, Extractor
from freezer.engine.index.file import Part
from freezer.engine.index.record import Record
from freezer.exceptions import EngineError
from freezer.utils.blocks import Block
from freezer.utils.progress import Progress


class Chain:
    """The levels that were read.

    :param level: the first one; nothing is known of those below
    :ivar size: bytes of the image in the newest of them; 0 before the first
    :ivar block_size: of all; 0 before the first
    """

    def __init__(self, level: int = 0) -> None:
        self._next = level
        self.size = self.block_size = 0
        self._digest = None if level else NO_BASE

    def check_next(self, header: Header) -> None:
        """:raises EngineError: a level is not made on those that were read"""
        if (
            header.level != self._next
            or self._digest not in (None, header.base)
            or self.block_size not in (0, header.block_size)
        ):
            raise EngineError(
                f'the archive of level {self._next} is that of another level or '
                f'chain: the backup is damaged'
            )

    def add(self, header: Header, digest: bytes) -> None:
        self._next += 1
        self._digest = digest
        self.size, self.block_size = header.size, header.block_size

    def copy(self) -> 'Chain':
        found = Chain()
        vars(found).update(vars(self))
        return found


class ImageExtractor(Extractor):
    """Writes one level after the other: first level 0, then what changed.

    :param opened: opens the target, for level 0 if its argument is True
    :param newest: the state of the newest level; None if that is lost
    """

    def __init__(
        self,
        opened: Callable[[bool], AbstractContextManager[Target]],
        newest: LevelState | None,
        progress: Progress,
    ) -> None:
        self._opened = opened
        self._newest = newest
        self._progress = progress
        self._chain = Chain()

    def extract(self, blocks: Iterator[Block]) -> None:
        reader = StreamReader(blocks)
        header = reader.header
        self._chain.check_next(header)
        with self._opened(header.level == 0) as target:
            # Before anything is overwritten.
            target.check_room(self._needed(header))
            target.resize(self._chain.size, header.size)
            self._write(reader, target)
            target.sync()
        self._chain.add(header, reader.digest)
        self._progress.files = 1

    def _needed(self, header: Header) -> int:
        """The room for the newest level, which may be smaller than others."""
        newest = self._newest
        if newest is None or header.level >= newest.level:
            return header.size
        return newest.size

    def _write(self, reader: StreamReader, target: Target) -> None:
        # The level below ends here: what follows is zeros, unless a record has it.
        end = self._chain.size
        for offset, length, content in reader.ranges():
            target.clear(end, offset)
            end = max(end, offset + length)
            if content is None:
                target.write_zeros(offset, length)
            else:
                target.write(offset, content)
        target.clear(end, reader.header.size)


class ImageReader(ArchiveReader):
    """Checks the streams of a chain."""

    no_index = (
        'its engine is blocks: the digests of its blocks are not made from a stored '
        'level; the next backup is a new level 0'
    )

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def fork(self) -> Self:
        return type(self)(self._chain.copy())

    def read(
        self,
        blocks: Iterable[Block],
        temporary: Path,
        padded: Container[bytes] = (),
    ) -> 'ImageContents':
        reader = StreamReader(blocks)
        self._chain.check_next(reader.header)
        for _range in reader.ranges():
            pass
        self._chain.add(reader.header, reader.digest)
        return ImageContents()

    def properties(self, state: bytes | None) -> Mapping[str, Any]:
        return {}


class ImageContents:
    """An image has no members."""

    no_index: str | None = ImageReader.no_index

    def records(
        self, base: Iterable[tuple[int, Part]], seen: Iterable[Record]
    ) -> Iterator[Record]:
        return iter(())
