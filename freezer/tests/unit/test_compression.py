"""Compression of a stream."""

import bz2
import gzip
import itertools
import lzma
import os
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
from freezer.tests.archives import cut, with_window

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


def packed(name: str, *blocks: bytes) -> bytes:
    return b''.join(compression.compress(name, blocks))


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
