"""Compression of a stream."""

import bz2
import gzip
import itertools
import lzma
import os
import shutil
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zlib_ng import zlib_ng

from freezer.exceptions import ConfigError, EngineError
from freezer.stream import compression
from freezer.stream.points import Points
from freezer.tests import ranged
from freezer.tests.archives import cut, with_window
from freezer.utils.ranges import Range

MIB = 1024 * 1024
REAL = [name for name in compression.NAMES if name != 'none']
GZIP = {'zlib_ng': zlib_ng, 'zlib': zlib}


PLAIN: dict[str, Callable[[bytes], bytes]] = {
    'gzip': gzip.compress,
    'bzip2': bz2.compress,
    'xz': lzma.compress,
    # zstd 1.5.4 -3, of these very bytes.
    'zstd': {
        b'content': bytes.fromhex('28b52ffd0458390000636f6e74656e74fca9c531')
    }.__getitem__,
}


TOOLS = {
    'gzip': ('gunzip', '-c'),
    'bzip2': ('bunzip2', '-c'),
    'xz': ('xz', '-dc'),
    'zstd': ('zstd', '-dcq'),
}


def packed(name: str, *blocks: bytes, points: Points | None = None) -> bytes:
    return b''.join(compression.compress(name, blocks, points))


def unpacked(name: str, content: bytes, size: int = 1000) -> bytes:
    return b''.join(compression.decompress(name, cut(content, size)))


@pytest.mark.parametrize('name', compression.NAMES)
@settings(deadline=None, max_examples=40)
@given(blocks=st.lists(st.binary(max_size=300), max_size=10), size=st.integers(1, 100))
def test_round_trip(name: str, blocks: list[bytes], size: int) -> None:
    assert unpacked(name, packed(name, *blocks), size) == b''.join(blocks)


@pytest.mark.parametrize('name', REAL)
def test_large_and_random(name: str) -> None:
    content = os.urandom(MIB // 4) + bytes(MIB) + b'text ' * (MIB // 4)
    assert unpacked(name, packed(name, *cut(content, 100_000)), 4096) == content


@pytest.mark.parametrize('name', REAL)
def test_other_tools_understand_each_other(name: str) -> None:
    assert unpacked(name, PLAIN[name](b'content')) == b'content'
    assert packed(name, b'content').startswith(compression.MAGIC[name])
    if name != 'zstd':
        module = {'gzip': gzip, 'bzip2': bz2, 'xz': lzma}[name]
        assert module.decompress(packed(name, b'con', b'tent')) == b'content'


@pytest.mark.parametrize('name', REAL)
def test_nothing_is_a_whole_stream(name: str) -> None:
    assert packed(name) != b''
    assert unpacked(name, packed(name)) == b''


@pytest.mark.parametrize('name', REAL)
def test_truncation_is_seen(name: str) -> None:
    content = packed(name, os.urandom(1000))
    for size in (0, 1, 10, len(content) // 2, len(content) - 1):
        with pytest.raises(EngineError, match=name):
            unpacked(name, content[:size], 77)


@pytest.mark.parametrize('name', REAL)
def test_damage_is_seen(name: str) -> None:
    content = bytearray(packed(name, os.urandom(1000)))
    content[len(content) // 2] ^= 1
    with pytest.raises(EngineError, match=name):
        unpacked(name, bytes(content))
    with pytest.raises(EngineError, match=name):
        unpacked(name, b'this is something else, and long enough to see it')


@pytest.mark.parametrize('name', REAL)
@pytest.mark.parametrize('size', [1, 7, 10_000])
def test_members_one_after_the_other_are_one_stream(name: str, size: int) -> None:
    content = packed(name, b'first ') + packed(name) + packed(name, b'second')
    assert unpacked(name, content, size) == b'first second'


@pytest.mark.parametrize('name', REAL)
def test_garbage_after_the_end_is_seen(name: str) -> None:
    with pytest.raises(EngineError):
        unpacked(name, packed(name, b'content') + b'garbage that is no member')


@pytest.mark.parametrize('name', REAL)
def test_a_bomb_takes_no_memory(name: str) -> None:
    size = 32 * MIB
    bomb = packed(name, *(bytes(MIB) for _ in range(size // MIB)))
    found = longest = 0
    tracemalloc.start()
    try:
        # All of it at once: what one block becomes is bounded as well.
        for block in compression.decompress(name, [bomb]):
            found += len(block)
            longest = max(longest, len(block))
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == size
    assert longest <= MIB
    assert peak < 16 * MIB


@pytest.mark.parametrize('name', ['xz', 'zstd'])
def test_memory_is_not_had_for_the_asking(name: str) -> None:
    for log in (20, 26):
        assert unpacked(name, with_window(name, log, bytes(1000))) == bytes(1000)
    for log in (27, 30, 31):
        with pytest.raises(EngineError, match=f'{name}.*more than 64 MiB of memory'):
            unpacked(name, with_window(name, log, bytes(1000)))
    # Also later on.
    with pytest.raises(EngineError, match='more than 64 MiB of memory'):
        unpacked(name, packed(name, b'content') + with_window(name, 31, bytes(1000)))


def test_what_xz_makes_at_most_is_read() -> None:
    content = lzma.compress(bytes(1000), preset=9 | lzma.PRESET_EXTREME)
    assert unpacked('xz', content) == bytes(1000)


@pytest.mark.parametrize('writer', GZIP)
@pytest.mark.parametrize('reader', GZIP)
@settings(deadline=None, max_examples=25)
@given(
    blocks=st.lists(st.binary(max_size=300), max_size=5),
    zeros=st.integers(0, 3 * MIB),
    size=st.integers(1, 100_000),
    cut_off=st.integers(1, 100_000),
)
def test_gzip_with_and_without_zlib_ng(
    writer: str, reader: str, blocks: list[bytes], zeros: int, size: int, cut_off: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, '_zlib', lambda: GZIP[writer])
        stored = packed('gzip', *blocks, bytes(zeros), os.urandom(size))
        patch.setattr(compression, '_zlib', lambda: GZIP[reader])
        plain = unpacked('gzip', stored + stored, size)
        assert len(plain) == 2 * (len(b''.join(blocks)) + zeros + size)
        assert plain.startswith(b''.join(blocks) + bytes(zeros))
        assert plain[: len(plain) // 2] == plain[len(plain) // 2 :]
        with pytest.raises(EngineError, match='gzip'):
            unpacked('gzip', stored[:-cut_off], size)


# Pieces


@pytest.fixture(scope='module')
def small_pieces() -> Iterator[None]:
    """Cut streams into pieces of some kilobytes, and record each."""
    sizes = {'gzip': (700, 700), 'bzip2': (800, 800), 'zstd': (900, 900)}
    with pytest.MonkeyPatch.context() as patch:
        for name, form in compression._FORMATS.items():
            piece, block = sizes.get(name, (3000, 1000))
            patch.setitem(
                compression._FORMATS, name, form._replace(piece=piece, block=block)
            )
        patch.setattr('freezer.stream.points._SPACING', 1)
        yield


def content_of(size: int) -> bytes:
    """Some of it compresses."""
    return b''.join(
        os.urandom(300) + b'the same words ' * 20 for _ in range(size // 600 + 1)
    )[:size]


CONTENT = content_of(20_000)


@pytest.mark.parametrize('name', REAL)
@pytest.mark.parametrize('size', [0, 1, 699, 700, 701, 3000, 6000, 19_999])
@pytest.mark.usefixtures('small_pieces')
def test_decompression_begins_at_each_piece(name: str, size: int) -> None:
    points = Points()
    content = CONTENT[:size]
    stream = packed(name, *cut(content, 333), points=points)
    assert unpacked(name, stream) == content
    piece = compression._FORMATS[name].piece
    assert len(points) == max(1, -(-size // piece))
    for start in range(0, size, piece):
        plain, compressed = points.before(start)
        assert plain == start
        assert unpacked(name, stream[compressed:]) == content[start:]
    found = Points()
    again = b''.join(compression.decompress(name, cut(stream, 77), found))
    assert again == content
    assert found.dump() == points.dump()


@pytest.mark.parametrize('name', REAL)
@pytest.mark.usefixtures('small_pieces')
def test_the_usual_tools_read_all_pieces(name: str) -> None:
    tool = TOOLS[name]
    assert shutil.which(tool[0]), f'no {tool[0]}'
    for content in (CONTENT, CONTENT[:9000], b''):
        stream = packed(name, *cut(content, 1234))
        done = subprocess.run(tool, input=stream, capture_output=True, check=True)
        assert done.stdout == content
        assert done.stderr == b''


@pytest.mark.parametrize('name', REAL)
def test_pieces_of_full_size(name: str) -> None:
    """As they are in backups; what does not compress, and zeros."""
    points = Points()
    piece = compression._FORMATS[name].piece
    content = os.urandom(MIB) + bytes(piece + MIB) + os.urandom(3 * MIB)
    stream = packed(name, *cut(content, 100_000), points=points)
    done = subprocess.run(TOOLS[name], input=stream, capture_output=True, check=True)
    assert done.stdout == content
    assert len(points) >= 2
    plain, compressed = points.before(len(content))
    assert plain % piece == 0
    assert unpacked(name, stream[compressed:]) == content[plain:]


def test_nothing_is_recorded_without_compression() -> None:
    points = Points()
    assert packed('none', bytes(9 * MIB), points=points) == bytes(9 * MIB)
    assert len(points) == 1


def test_zstd_frames_have_checksums() -> None:
    stream = packed('zstd', b'content')
    # The frame header descriptor: a checksum follows the content.
    assert stream[4] & 4


# Ranges


def ranges_of(
    name: str, stream: ranged.MemoryStream, points: Points | None, *wanted: Range
) -> bytes:
    blocks = compression.decompress_ranges(name, stream, points, wanted)
    return b''.join(blocks)


@pytest.mark.parametrize('name', compression.NAMES)
@pytest.mark.parametrize('entered', [True, False])
@pytest.mark.usefixtures('small_pieces')
@settings(deadline=None, max_examples=60)
@given(wanted=ranged.ranges_of(len(CONTENT)), block=st.integers(1, 5000))
def test_ranges(name: str, entered: bool, wanted: list[Range], block: int) -> None:
    points = Points()
    stream = ranged.MemoryStream(packed(name, CONTENT, points=points), block)
    found = ranges_of(name, stream, points if entered else None, *wanted)
    assert found == ranged.joined(CONTENT, wanted)
    fetched = [one for call in stream.fetched for one in call]
    assert stream.closed == len(stream.fetched) <= 1
    if name == 'none':
        assert fetched == wanted
    elif entered:
        # Only the pieces that hold the ranges, each once.
        piece = compression._FORMATS[name].piece
        needed = {
            number
            for start, end in wanted
            if start < end
            for number in range(start // piece, (end - 1) // piece + 1)
        }
        expected = 0
        for number in needed:
            end = points.after((number + 1) * piece)
            begin = points.before(number * piece).compressed
            expected += (end.compressed if end else stream.size) - begin
        assert sum(end - start for start, end in fetched) == expected


@pytest.mark.parametrize('name', REAL)
@pytest.mark.usefixtures('small_pieces')
def test_ranges_that_do_not_exist(name: str) -> None:
    points = Points()
    stream = ranged.MemoryStream(packed(name, CONTENT, points=points))
    size = len(CONTENT)
    for some in (points, None):
        for wanted in ((size - 1, size + 1), (size, size + 1), (9**9, 10**10)):
            with pytest.raises(EngineError, match=f'{name} stream ends before byte'):
                ranges_of(name, stream, some, wanted)


@pytest.mark.parametrize('name', REAL)
@pytest.mark.usefixtures('small_pieces')
def test_points_of_another_stream(name: str) -> None:
    points, others = Points(), Points()
    stream = ranged.MemoryStream(packed(name, CONTENT, points=points))
    packed(name, CONTENT, os.urandom(50_000), points=others)
    with pytest.raises(EngineError, match='of another backup'):
        ranges_of(name, stream, others, (60_000, 60_001))
    # The right places in the compressed stream, and wrong ones in the plain stream.
    for change in (-1, 1):
        document = points.dump()
        document['plain'][1] += change
        document['plain'][2] -= change
        shifted = Points.load(document, 'x')
        third = sum(document['plain'][:3])
        assert (
            ranges_of(name, stream, shifted, (third, third + 1))
            == (CONTENT[third : third + 1])
        )
        wrong = third - 500
        with pytest.raises(EngineError, match='of another backup'):
            ranges_of(name, stream, shifted, (wrong, wrong + 1))


@pytest.mark.parametrize('name', REAL)
@pytest.mark.usefixtures('small_pieces')
def test_ranges_are_given_up(name: str) -> None:
    stream = ranged.MemoryStream(packed(name, CONTENT))
    blocks = compression.decompress_ranges(name, stream, None, [(0, len(CONTENT))])
    next(blocks)
    before = stream.closed
    blocks.close()
    assert (before, stream.closed) == (0, 1)


class SourceError(Exception):
    pass


@pytest.mark.parametrize('name', compression.NAMES)
def test_an_error_of_the_source_is_told(name: str) -> None:
    def source() -> Iterator[bytes]:
        for _ in range(20):
            yield os.urandom(MIB)
        raise SourceError

    with pytest.raises(SourceError):
        b''.join(compression.compress(name, source()))


@pytest.mark.parametrize('name', compression.NAMES)
def test_no_thread_is_left_when_it_is_given_up(name: str) -> None:
    before = threading.active_count()
    stream = compression.compress(name, itertools.repeat(os.urandom(MIB)))
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_without_zlib_ng(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'zlib_ng', None)
    assert unpacked('gzip', packed('gzip', b'content')) == b'content'


def test_unknown_and_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r'lz4.*gzip'):
        compression.check_available('lz4')
    for name in compression.NAMES:
        compression.check_available(name)
    monkeypatch.setitem(sys.modules, 'backports', None)
    monkeypatch.setitem(sys.modules, 'compression', None)
    with pytest.raises(ConfigError, match=r'pip install freezer\[zstd\]'):
        compression.check_available('zstd')
