"""Several images as one, such as the disks of a server."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from freezer.engine.blocks.source import Image
from freezer.engine.blocks.target import Target
from freezer.utils.blocks import Block

#: each image begins at a multiple of it, so that no block has bytes of two
ALIGNMENT: Final = 1 << 20


def starts(sizes: Sequence[int]) -> list[int]:
    """Where each image begins. After all but the last, zeros fill the rest.

    :param sizes: bytes of each
    """
    found, end = [], 0
    for size in sizes:
        found.append(end)
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return found


class _Part(NamedTuple):
    """A part of a range that is in one image.

    :ivar number: of the image
    :ivar offset: in the image
    :ivar start: in the range
    :ivar length: bytes
    """

    number: int
    offset: int
    start: int
    length: int


class _Layout:
    def __init__(self, sizes: Sequence[int]) -> None:
        self._places = list(zip(starts(sizes), sizes, strict=True))
        self.size = sum(self._places[-1]) if self._places else 0

    def parts(self, offset: int, length: int) -> Iterator[_Part]:
        """Those of a range; it has more bytes where they do not follow each other."""
        for number, (start, size) in enumerate(self._places):
            first = max(offset, start)
            after = min(offset + length, start + size)
            if first < after:
                yield _Part(number, first - start, first - offset, after - first)

    def within(self, number: int, size: int) -> int:
        """How many of the first bytes of all are in an image."""
        start, own = self._places[number]
        return min(max(size - start, 0), own)


class JoinedImage(Image):
    """
    :param images: open, and closed by the caller
    """

    def __init__(self, images: Sequence[Image]) -> None:
        self._images = images
        sizes = [each.size for each in images]
        self._starts = starts(sizes)
        self._layout = _Layout(sizes)
        self.size = self._layout.size

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        for start, image in zip(self._starts, self._images, strict=True):
            for first, after in image.data_ranges():
                yield start + first, start + after

    def read(self, offset: int, buffer: memoryview) -> None:
        parts = list(self._layout.parts(offset, len(buffer)))
        if sum(part.length for part in parts) < len(buffer):
            buffer[:] = bytes(len(buffer))
        for part in parts:
            view = buffer[part.start : part.start + part.length]
            self._images[part.number].read(part.offset, view)

    def change(self) -> str | None:
        found = [each.change() for each in self._images]
        return '; '.join(filter(None, found)) or None

    def close(self) -> None:
        """Nothing: the images are not of this object."""


class JoinedTarget(Target):
    """Bytes between the images are dropped. Levels below the newest one may have had
    images of other sizes: their bytes are overwritten where the newest differs.

    :param targets: open, and closed by the caller
    :param sizes: bytes of each image in the newest level
    """

    def __init__(self, targets: Sequence[Target], sizes: Sequence[int]) -> None:
        self._targets = targets
        self._layout = _Layout(sizes)

    def check_room(self, size: int) -> None:
        for number, target in enumerate(self._targets):
            target.check_room(self._layout.within(number, size))

    def resize(self, before: int, size: int) -> None:
        within = self._layout.within
        for number, target in enumerate(self._targets):
            target.resize(within(number, before), within(number, size))

    def clear(self, start: int, end: int) -> None:
        for part in self._layout.parts(start, end - start):
            target = self._targets[part.number]
            target.clear(part.offset, part.offset + part.length)

    def write(self, offset: int, content: Block | memoryview) -> None:
        with memoryview(content) as view:
            for part in self._layout.parts(offset, len(view)):
                with view[part.start : part.start + part.length] as piece:
                    self._targets[part.number].write(part.offset, piece)

    def write_zeros(self, offset: int, length: int) -> None:
        for part in self._layout.parts(offset, length):
            self._targets[part.number].write_zeros(part.offset, part.length)

    def sync(self) -> None:
        for target in self._targets:
            target.sync()

    def close(self) -> None:
        """Nothing: the targets are not of this object."""
