"""Makes the stream of one level of an image."""

import collections
import contextlib
import os
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from freezer.engine.blocks import digests, stream
from freezer.engine.blocks.digests import GROUP, Hasher, NewDigests, Run, StoredDigests
from freezer.engine.blocks.source import Image
from freezer.engine.blocks.state import KEY_SIZE, LevelState
from freezer.engine.engine import Archiving
from freezer.engine.index.file import IndexFile
from freezer.utils.blocks import Block, Buffer, Buffers
from freezer.utils.progress import Progress

# Bytes that are read at once. A group has a multiple of them.
PIECE: Final = 1 << 20
# More threads are no faster: the source is read by one device, and the level is
# compressed beside them.
_MAX_THREADS: Final = 4
# Pieces that wait, for each thread.
_AHEAD: Final = 2

# Blocks that an image may have before larger blocks are used: their digests come to 4
# GiB in the index of a level 0, if all of them have data.
_MANY_BLOCKS: Final = 2**28


def default_block_size(size: int) -> int:
    """The block size for an image of that many bytes, if none is configured."""
    block_size = stream.MIN_BLOCK
    while size > block_size * _MANY_BLOCKS and block_size < stream.MAX_BLOCK:
        block_size *= 2
    return block_size


@dataclass
class _Span:
    """A part of the image, whole blocks, all in one group.

    :ivar before: the digests of its blocks in the level below
    :ivar has_data: whether it may have other bytes than zeros
    """

    start: int
    end: int
    before: bytes
    has_data: bool


@dataclass
class _Read:
    """A span that was read.

    :ivar content: None if it is all zeros
    """

    span: _Span
    digests: bytes
    runs: Sequence[Run]
    content: Buffer | None


class LevelWriter:
    """Makes one level.

    :param base: the state of the level below; None at level 0
    :param block_size: None for the default; level 0 only
    :ivar state: of the level, once its stream has ended
    """

    state: LevelState

    def __init__(
        self,
        archiving: Archiving,
        image: Image,
        base: LevelState | None,
        block_size: int | None,
        progress: Progress,
    ) -> None:
        self._archiving = archiving
        self._image = image
        self._base = base
        self._progress = progress
        if base is None:
            self._block_size = block_size or default_block_size(image.size)
            self._key = os.urandom(KEY_SIZE)
        else:
            self._block_size, self._key = base.block_size, base.key
        self._before = StoredDigests(self._levels_below())
        self._hasher = Hasher(self._key, self._block_size)
        self._buffers = Buffers()

    def blocks(self) -> Generator[Block, None, None]:
        """The stream.

        :raises EngineError: the image cannot be read
        """
        archiving = self._archiving
        level = 0 if self._base is None else self._base.level + 1
        base = stream.NO_BASE if self._base is None else self._base.digest
        size = self._image.size
        self._progress.files = 0
        if self._base is None:
            ranges = self._image.data_ranges()
            self._progress.total = sum(end - start for start, end in ranges)
        header = stream.Header(level, self._block_size, size, base)
        writer = stream.StreamWriter(header)
        yield writer.head
        new = NewDigests(archiving.index)
        # Closed at once: threads read.
        with contextlib.closing(self._reads()) as reads:
            for read in reads:
                records = writer.records(self._ranges(read))
                for run, of_run in self._numbered(read):
                    new.add(run, of_run)
                if read.content is not None:
                    self._buffers.give_back(read.content)
                if records:
                    yield records
        new.flush()
        if change := self._image.change():
            archiving.warnings.add(change)
        yield writer.end()
        self._progress.files = 1
        self.state = LevelState(level, self._block_size, size, self._key, writer.digest)
        if archiving.index is not None:
            archiving.index.properties.update(
                engine='blocks', size=size, digest=writer.digest.hex()
            )

    def _levels_below(self) -> list[tuple[IndexFile, int]]:
        if self._archiving.base is None:
            return []
        return [
            (index, -(-index.properties['size'] // self._block_size))
            for index in self._archiving.base.indexes
        ]

    def _ranges(self, read: _Read) -> Iterator[stream.Range]:
        """What changed in a span."""
        span, size = read.span, self._block_size
        for run in read.runs:
            start = span.start + run.first * size
            end = min(span.start + run.after * size, self._image.size)
            if run.is_zero or read.content is None:
                yield stream.Range(start, end - start)
                continue
            with memoryview(read.content) as view:
                content = view[start - span.start : end - span.start]
                yield stream.Range(start, end - start, content)

    def _numbered(self, read: _Read) -> Iterator[tuple[Run, bytes]]:
        """The runs of a span, counted from the start of the image; their digests."""
        number = read.span.start // self._block_size
        for first, after, is_zero in read.runs:
            of_run = read.digests[first * digests.SIZE : after * digests.SIZE]
            yield Run(number + first, number + after, is_zero), of_run

    def _reads(self) -> Generator[_Read, None, None]:
        """All spans, in order. Some are read ahead, in threads."""
        threads = min(os.cpu_count() or 1, _MAX_THREADS)
        waiting: collections.deque[_Read | Future[_Read]] = collections.deque()
        pool = ThreadPoolExecutor(threads, 'blocks')
        try:
            for span in self._spans():
                if span.has_data:
                    waiting.append(pool.submit(self._read, span))
                elif not digests.are_zeros(span.before):
                    waiting.append(self._compared(span, bytes(len(span.before)), None))
                while len(waiting) > threads * _AHEAD:
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, span: _Span) -> _Read:
        length = span.end - span.start
        content = self._buffers.take(PIECE)
        with memoryview(content) as view, view[:length] as part:
            self._image.read(span.start, part)
        found = self._hasher.digests(content, length)
        return self._compared(span, found, content)

    @staticmethod
    def _compared(span: _Span, found: bytes, content: Buffer | None) -> _Read:
        return _Read(span, found, list(digests.changes(span.before, found)), content)

    def _spans(self) -> Iterator[_Span]:
        """The image in spans: pieces that may have data, and the holes between them."""
        end = 0
        for start, after in self._pieces():
            yield from self._gap(end, start)
            yield self._span(start, after, True)
            end = after
        yield from self._gap(end, self._image.size)

    def _pieces(self) -> Iterator[tuple[int, int]]:
        """What may have data: parts of pieces, rounded to whole blocks."""
        size, end = self._block_size, 0
        for start, after in self._image.data_ranges():
            # Two ranges may be in one block.
            position = max(start // size * size, end)
            end = min(-(-after // size) * size, self._image.size)
            while position < end:
                border = min((position // PIECE + 1) * PIECE, end)
                yield position, border
                position = border

    def _gap(self, start: int, end: int) -> Iterator[_Span]:
        step = GROUP * self._block_size
        while start < end:
            border = min((start // step + 1) * step, end)
            yield self._span(start, border, False)
            start = border

    def _span(self, start: int, end: int, has_data: bool) -> _Span:
        size = self._block_size
        before = self._before.between(start // size, -(-end // size))
        return _Span(start, end, before, has_data)


def _result(read: _Read | Future[_Read]) -> _Read:
    return read if isinstance(read, _Read) else read.result()
