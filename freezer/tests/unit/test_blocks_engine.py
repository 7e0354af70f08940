"""The engine blocks: its stream, its digests, and what it reads."""

import contextlib
import os
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from freezer.engine.blocks import create, digests, stream
from freezer.engine.blocks.create import LevelWriter, default_block_size
from freezer.engine.blocks.digests import GROUP, SIZE, NewDigests, Run, StoredDigests
from freezer.engine.blocks.engine import BlocksEngine
from freezer.engine.blocks.extract import Chain, ImageExtractor, ImageReader
from freezer.engine.blocks.joined import JoinedImage, JoinedTarget
from freezer.engine.blocks.source import FileSource, Image
from freezer.engine.blocks.state import LevelState
from freezer.engine.blocks.stream import Header, Range, StreamReader, StreamWriter
from freezer.engine.blocks.target import Target, open_target
from freezer.engine.engine import Archiving, Base, Extractor, Source, Warnings
from freezer.engine.index.file import IndexFile
from freezer.engine.index.new import NewIndex
from freezer.engine.settings import EngineSettings
from freezer.exceptions import EngineError, RestoreError
from freezer.utils.progress import Progress

BLOCK = 4096
MIB = 1 << 20


# The stream


def level(header: Header, ranges: Sequence[Range]) -> bytes:
    writer = StreamWriter(header)
    return writer.head + bytes(writer.records(ranges)) + writer.end()


def small_level() -> bytes:
    """With data, zeros and an end that is no whole block."""
    size = 5 * BLOCK + 77
    data = random.Random(1).randbytes(BLOCK)
    return level(
        Header(0, BLOCK, size),
        [
            Range(0, BLOCK, data),
            Range(2 * BLOCK, 2 * BLOCK),
            Range(5 * BLOCK, 77, data[:77]),
        ],
    )


def read(content: bytes, cut: int = 1000) -> list[tuple[int, int, bytes | None]]:
    reader = StreamReader(
        content[start : start + cut] for start in range(0, len(content), cut)
    )
    return [
        (offset, length, None if found is None else bytes(found))
        for offset, length, found in reader.ranges()
    ]


def test_any_changed_or_missing_byte_is_noticed() -> None:
    content = small_level()
    assert read(content, 10**6) == [
        (0, BLOCK, content[64 + 17 : 64 + 17 + BLOCK]),
        (2 * BLOCK, 2 * BLOCK, None),
        (5 * BLOCK, 77, content[64 + 17 : 64 + 17 + 77]),
    ]
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(EngineError):
            read(bytes(damaged), 10**6)
    for end in range(len(content)):
        with pytest.raises(EngineError):
            read(content[:end], 10**6)
    for more in (b'\0', content):
        with pytest.raises(EngineError, match='follow'):
            read(content + more)


RECORD = struct.Struct('>cQQ')


@pytest.mark.parametrize(
    'records',
    [
        [(b'Z', 0, 0)],
        [(b'Z', 1, BLOCK)],
        [(b'Z', 0, 1)],
        [(b'Z', 8 * BLOCK, BLOCK)],
        [(b'Z', 7 * BLOCK, 2 * BLOCK)],
        [(b'Z', 2**64 - BLOCK, 2 * BLOCK)],
        [(b'Z', BLOCK, BLOCK), (b'Z', 0, BLOCK)],
        [(b'Z', 0, 2 * BLOCK), (b'Z', BLOCK, BLOCK)],
        [(b'D', 0, 2**64 - BLOCK)],
        [(b'D', 0, stream.MAX_DATA + BLOCK)],
        [(b'X', 0, BLOCK)],
        [(b'E', 7 * BLOCK, 0)],
        [(b'E', 8 * BLOCK, 1)],
    ],
)
def test_records_in_wrong_places(records: list[tuple[bytes, int, int]]) -> None:
    """However right their digest is."""
    size = 8 * BLOCK if records[0][2] < stream.MAX_DATA else 2**50
    head = StreamWriter(Header(0, BLOCK, size)).head
    body = b''.join(RECORD.pack(*record) for record in records)
    with pytest.raises(EngineError, match=r'damaged: (?!it is cut off)'):
        read(head + body + bytes(BLOCK))


@pytest.mark.parametrize(
    'header',
    [
        Header(0, 512, 0),
        Header(0, 5000, 0),
        Header(0, 2 * stream.MAX_BLOCK, 0),
        Header(0, BLOCK, 2**63),
        Header(0, BLOCK, 0, b'x' * 32),
    ],
)
def test_headers_that_are_impossible(header: Header) -> None:
    with pytest.raises(EngineError, match='header'):
        read(level(header, []))


def test_levels_of_another_chain_are_noticed() -> None:
    def chain(size: int) -> list[bytes]:
        below = StreamWriter(Header(0, BLOCK, size))
        first = below.head + below.end()
        return [first, level(Header(1, BLOCK, size, below.digest), [])]

    ours, others = chain(BLOCK), chain(2 * BLOCK)
    reader = ImageReader(Chain())
    reader.read([ours[0]], Path())
    for wrong in (ours[0], others[1], level(Header(2, BLOCK, 0, b'x' * 32), [])):
        with pytest.raises(EngineError, match='another level or chain'):
            reader.fork().read([wrong], Path())
    with pytest.raises(EngineError, match='another level or chain'):
        ImageReader(Chain()).read([ours[1]], Path())
    reader.fork().read([ours[1]], Path())
    # Of which the level below is not known.
    ImageReader(Chain(1)).read([ours[1]], Path())
    with pytest.raises(EngineError, match='another level or chain'):
        ImageReader(Chain(1)).read([ours[0]], Path())


# The engine's file


def test_an_engine_file_that_is_damaged() -> None:
    state = LevelState(3, BLOCK, 10**12, b'k' * 64, b'd' * 32)
    content = state.dump()
    assert LevelState.load(content) == state
    for wrong in (
        b'',
        b'[]',
        b'[' * 4000,
        b'\xff',
        content[:-3],
        content.replace(b'"level": 3', b'"level": true'),
        content.replace(b'"level": 3', b'"level": -1'),
        content.replace(b'4096', b'4097'),
        content.replace(b'4096', b'512'),
        content.replace(b'1000000000000', b'1e400'),
        content.replace(b'"version": 1', b'"version": 2'),
        content.replace(b'6b6b', b'6b', 1),
        content + b' ' * 5000,
    ):
        with pytest.raises(EngineError):
            LevelState.load(wrong)


# Digests


def index_of(path: Path, runs: Sequence[tuple[Run, bytes]]) -> IndexFile:
    new = NewIndex(path)
    found = NewDigests(new)
    for run, of_run in runs:
        found.add(run, of_run)
    found.flush()
    new.properties['engine'] = 'blocks'
    new.finish({})
    return opened(path)


def opened(path: Path) -> IndexFile:
    content = path.read_bytes()
    return IndexFile(lambda start, end: content[start:end], len(content), path.name)


def test_digests_of_a_chain_are_overlaid(tmp_path: Path) -> None:
    def some(letter: bytes, count: int) -> bytes:
        return letter * SIZE * count

    first = index_of(
        tmp_path / '0',
        [
            (Run(0, 3, False), some(b'a', 3)),
            (Run(GROUP, GROUP + 9, False), some(b'b', 9)),
        ],
    )
    second = index_of(
        tmp_path / '1',
        [
            (Run(1, 2, True), some(b'\0', 1)),
            (Run(GROUP + 1, GROUP + 2, False), some(b'c', 1)),
        ],
    )
    third = index_of(tmp_path / '2', [(Run(5, 6, False), some(b'd', 1))])
    # The second level has only 4 blocks of the second group, and the third is larger.
    levels = [(first, GROUP + 9), (second, GROUP + 4), (third, GROUP + 9)]
    found = StoredDigests(levels)
    zeros = bytes(SIZE)
    expected = some(b'a', 1) + zeros + some(b'a', 1) + zeros * 2 + some(b'd', 1)
    assert found.between(0, 6) == expected
    expected = some(b'b', 1) + some(b'c', 1) + some(b'b', 2) + zeros * 5
    assert found.between(GROUP, GROUP + 9) == expected
    assert digests.are_zeros(found.between(7 * GROUP, 8 * GROUP))


@pytest.mark.parametrize(
    'content',
    [
        b'D',
        b'D\0\0\0\1' + bytes(15),
        b'X\0\0\0\1' + bytes(16),
        b'Z\0\0\0\0',
        b'Z\0\1\0\1Z\0\0\0\1',
        b'Z' + struct.pack('>HH', GROUP - 1, 2),
    ],
)
def test_digests_that_are_damaged(content: bytes, tmp_path: Path) -> None:
    new = NewIndex(tmp_path / 'index')
    new.attach(0, content)
    new.properties['engine'] = 'blocks'
    new.finish({})
    found = StoredDigests([(opened(tmp_path / 'index'), GROUP)])
    with pytest.raises(EngineError, match='digests'):
        found.between(0, 1)


def test_changes_between_digests() -> None:
    def of(text: str) -> bytes:
        return b''.join(
            (b'\0' if letter == '.' else letter.encode()) * SIZE for letter in text
        )

    before, now = of('abc.de.fg'), of('aXY..e.f.')
    assert list(digests.changes(before, now)) == [
        Run(1, 3, False),
        Run(4, 5, True),
        Run(8, 9, True),
    ]
    assert not list(digests.changes(now, now))


def test_digests_depend_on_the_key() -> None:
    """Or whoever writes to the image could make two blocks with one digest."""
    content = bytearray(b'x' * BLOCK)
    found = {
        digests.Hasher(key * 64, BLOCK).digests(content, BLOCK) for key in (b'a', b'b')
    }
    assert len(found) == 2
    assert {len(each) for each in found} == {SIZE}


@pytest.mark.parametrize(
    ('size', 'expected'),
    [(0, BLOCK), (2**40, BLOCK), (2**40 + 1, 2 * BLOCK), (2**62, stream.MAX_BLOCK)],
)
def test_the_block_size_of_large_images(size: int, expected: int) -> None:
    assert default_block_size(size) == expected


# Whole levels, with a source that is no file


class MemoryImage(Image):
    """A volume that reports which parts are allocated.

    :ivar buffers: into which it was read
    :ivar bytes: that were read
    """

    def __init__(self, size: int, ranges: Sequence[tuple[int, bytes]]) -> None:
        self.size = size
        self._ranges = ranges
        self._lock = threading.Lock()
        self.buffers: set[int] = set()
        self.bytes = 0

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        for start, content in self._ranges:
            yield start, start + len(content)

    def read(self, offset: int, buffer: memoryview) -> None:
        with self._lock:
            self.buffers.add(id(buffer.obj))
            self.bytes += len(buffer)
        buffer[:] = bytes(len(buffer))
        for start, content in self._ranges:
            first, after = (
                max(start, offset),
                min(start + len(content), offset + len(buffer)),
            )
            if first < after:
                buffer[first - offset : after - offset] = content[
                    first - start : after - start
                ]

    def change(self) -> str | None:
        return None

    def close(self) -> None:
        pass


class Levels:
    """A chain of levels of images in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self.streams: list[bytes] = []

    def add(self, image: Image, block_size: int | None = None) -> bytes:
        number = self._count
        base = state = None
        if number:
            below = self._folder / f'state {number - 1}'
            indexes = [opened(self._folder / f'index {n}') for n in range(number)]
            base = Base(below, indexes)
            state = LevelState.load(below.read_bytes())
        index = NewIndex(self._folder / f'index {number}')
        archiving = Archiving(
            Source('volume'),
            base,
            self._folder / f'state {number}',
            Warnings(),
            number,
            time.time_ns(),
            index,
        )
        writer = LevelWriter(archiving, image, state, block_size, Progress())
        content = b''.join(map(bytes, writer.blocks()))
        archiving.state.write_bytes(writer.state.dump())
        index.finish({})
        self._count += 1
        self.streams.append(content)
        return content

    def index_size(self, number: int) -> int:
        return (self._folder / f'index {number}').stat().st_size

    def restore(self, target: Path) -> None:
        engine = BlocksEngine(EngineSettings())
        self.extract(engine.extractor(str(target), self._newest, Warnings()))

    def restore_joined(self, paths: Sequence[Path], sizes: Sequence[int]) -> None:
        """:param paths: of the targets"""

        @contextlib.contextmanager
        def joined(is_new: bool) -> Iterator[Target]:
            with contextlib.ExitStack() as stack:
                targets = [
                    stack.enter_context(open_target(str(each), is_new))
                    for each in paths
                ]
                yield JoinedTarget(targets, sizes)

        newest = LevelState.load(self._newest)
        self.extract(ImageExtractor(joined, newest, Progress()))

    @property
    def _newest(self) -> bytes:
        return (self._folder / f'state {self._count - 1}').read_bytes()

    def extract(self, extractor: Extractor) -> None:
        for each in self.streams:
            extractor.extract(iter([each]))


@pytest.mark.parametrize('seed', range(20))
def test_joined_images_that_come_go_and_grow(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    levels = Levels(tmp_path)
    disks: list[bytearray] = []
    for _level in range(4):
        for disk in disks:
            # Another byte, or another size.
            if disk and chance.random() < 0.7:
                disk[chance.randrange(len(disk))] ^= 255
            size = chance.randrange(3 << 20)
            if chance.random() < 0.3:
                disk[:] = disk[:size].ljust(size, b'\0')
        if disks and chance.random() < 0.3:
            disks.pop(chance.randrange(len(disks)))
        while not disks or chance.random() < 0.4:
            content = chance.randbytes(chance.randrange(1 << 21))
            disks.insert(chance.randrange(len(disks) + 1), bytearray(content))
        images = [
            MemoryImage(len(disk), [(0, bytes(disk))] if disk else []) for disk in disks
        ]
        levels.add(JoinedImage(images))
    paths = [tmp_path / f'disk {number}' for number in range(len(disks))]
    levels.restore_joined(paths, [len(disk) for disk in disks])
    assert [path.read_bytes() for path in paths] == disks


def test_a_sparse_volume_of_a_tebibyte(tmp_path: Path) -> None:
    """Nothing depends on its size but a few numbers."""
    size = 2**40 - 100
    generator = random.Random(3)
    ranges = [
        (place, generator.randbytes(5000))
        for place in sorted(generator.sample(range(0, size - MIB, 7777), 20))
    ]
    ranges.append((size - 99, generator.randbytes(99)))
    levels = Levels(tmp_path)
    image = MemoryImage(size, ranges)
    first = levels.add(image)
    assert len(first) < 22 * 4 * BLOCK
    assert image.bytes < 22 * 4 * BLOCK
    # One part is gone, one is new.
    ranges[3:4] = [(ranges[3][0] + 9 * BLOCK, b'new')]
    second = levels.add(MemoryImage(size, ranges))
    assert len(second) < 2 * BLOCK
    target = tmp_path / 'target'
    levels.restore(target)
    assert target.stat().st_size == size
    assert target.stat().st_blocks * 512 < MIB
    with target.open('rb') as file:
        for start, content in ranges:
            file.seek(start)
            assert file.read(len(content)) == content


def test_memory_does_not_grow_with_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buffers for what is read ahead are few, and used again."""
    monkeypatch.setattr(create, 'PIECE', 64 * 1024)
    monkeypatch.setattr(os, 'cpu_count', lambda: 2)
    content = random.Random(4).randbytes(64 * 64 * 1024)
    image = MemoryImage(len(content), [(0, content)])
    Levels(tmp_path).add(image)
    # Two threads, two pieces each that wait, one that is taken, and one more is read.
    assert len(image.buffers) <= 2 * 2 + 2


@pytest.mark.parametrize('block_size', [None, 16 << 10, 256 << 10])
def test_an_increment_has_the_changed_blocks(
    block_size: int | None, tmp_path: Path
) -> None:
    content = bytearray(random.Random(5).randbytes(3 * MIB + 5))
    levels = Levels(tmp_path)
    levels.add(MemoryImage(len(content), [(0, bytes(content))]), block_size)
    size = block_size or BLOCK
    content[MIB + 3] ^= 1
    content[2 * MIB : 2 * MIB + size] = bytes(size)
    # The block size of the chain holds.
    found = read(
        levels.add(MemoryImage(len(content), [(0, bytes(content))]), None), 10**9
    )
    assert found == [
        (MIB, size, bytes(content[MIB : MIB + size])),
        (2 * MIB, size, None),
    ]
    assert levels.index_size(1) < 1000
    third = levels.add(MemoryImage(len(content), [(0, bytes(content))]))
    assert read(third) == []
    levels.restore(tmp_path / 'target')
    assert (tmp_path / 'target').read_bytes() == content


# Sources and targets


def archived(
    path: Path, folder: Path, act: Callable[[], object] | None = None
) -> Warnings:
    source = BlocksEngine(EngineSettings()).source([str(path)])
    state = folder / 'state'
    made = Archiving(source, None, state, Warnings(), 0, time.time_ns())
    for _block in BlocksEngine(EngineSettings()).archive(made):
        if act is not None:
            act()
            act = None
    return made.warnings


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / 'image'
    path.write_bytes(os.urandom(BLOCK))
    assert not archived(path, tmp_path).count

    def touch() -> None:
        os.utime(path, ns=(1, 1))

    changed = archived(path, tmp_path, touch)
    assert (changed.count, changed.incomplete) == (1, 0)
    assert 'changed while it was read' in changed.kept[0]
    grown = archived(path, tmp_path, lambda: os.truncate(path, 10 * MIB))
    assert 'grew' in grown.kept[0]
    with pytest.raises(EngineError, match='shrank'):
        archived(path, tmp_path, lambda: os.truncate(path, 3 * MIB))


def test_a_file_that_shrinks_after_it_was_read(tmp_path: Path) -> None:
    """Its hole is not read, so only its size shows it."""
    path = tmp_path / 'image'
    path.touch()
    os.truncate(path, 10 * MIB)
    with pytest.raises(EngineError, match='shrank'):
        archived(path, tmp_path, lambda: os.truncate(path, 9 * MIB))


def test_what_is_no_image(tmp_path: Path) -> None:
    engine = BlocksEngine(EngineSettings())
    os.mkfifo(tmp_path / 'fifo')
    for path in (tmp_path, tmp_path / 'fifo', Path('/dev/null')):
        with pytest.raises(EngineError, match='neither'):
            engine.source([str(path)])
    (tmp_path / 'file').touch()
    (tmp_path / 'link').symlink_to('file')
    assert isinstance(engine.source([str(tmp_path / 'link')]), FileSource)


def test_targets_that_are_refused(tmp_path: Path) -> None:
    engine = BlocksEngine(EngineSettings())
    os.mkfifo(tmp_path / 'fifo')
    file = tmp_path / 'file'
    file.write_bytes(b'content')
    for path, overwrite, why in (
        (tmp_path, True, 'is a directory'),
        (tmp_path / 'fifo', True, 'neither'),
        (Path('/dev/missing/volume'), True, 'no such device'),
        (file, False, 'not empty'),
        (file / 'below', True, 'cannot be used'),
    ):
        with pytest.raises(RestoreError, match=why):
            engine.check_target(str(path), overwrite)
    assert engine.check_target(str(file), True) == str(file)
    assert engine.check_target(str(tmp_path / 'a/new'), False) == str(
        tmp_path / 'a/new'
    )
    assert file.read_bytes() == b'content'
    assert {each.name for each in tmp_path.iterdir()} == {'fifo', 'file'}


def test_a_restore_that_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = Levels(tmp_path)
    levels.add(MemoryImage(BLOCK, [(0, b'x')]))

    def failing(_file: int) -> None:
        raise OSError(5, 'Input/output error')

    monkeypatch.setattr(os, 'fsync', failing)
    with pytest.raises(EngineError, match='Input/output error'):
        levels.restore(tmp_path / 'target')


def test_attachments_of_an_index(tmp_path: Path) -> None:
    new = NewIndex(tmp_path / 'index')
    new.attach(3, b'three')
    new.attach(70, b'')
    new.properties['engine'] = 'blocks'
    new.finish({})
    index = opened(tmp_path / 'index')
    assert [index.attachment(n) for n in (3, 70, 4)] == [b'three', b'', None]
    assert list(index.records()) == []


@pytest.mark.parametrize('place', [[3, 2**40, 5], [3, 16, 2**40], [3, -1, 5], [3, 16]])
def test_attachments_outside_of_an_index(
    place: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = NewIndex(tmp_path / 'index')
    new.attach(3, b'three')
    new.properties['engine'] = 'blocks'
    monkeypatch.setattr(new._writer, '_attachments', [place])
    new.finish({})
    with pytest.raises(EngineError, match='the index is damaged'):
        opened(tmp_path / 'index')
