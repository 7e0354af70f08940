"""Compression of a stream: gzip, bzip2, xz, zstd, or none."""

import bz2
import collections
import itertools
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from freezer.exceptions import ConfigError, EngineError
from freezer.utils.blocks import Block, Buffer, cut

NAMES = ('gzip', 'bzip2', 'xz', 'zstd', 'none')
# How each begins; also how a wrong passphrase is told from the right one.
MAGIC = {
    'gzip': b'\x1f\x8b\x08',
    'bzip2': b'BZh',
    'xz': b'\xfd7zXZ\x00',
    'zstd': b'\x28\xb5\x2f\xfd',
}

_GZIP_WBITS = 31  # a gzip header and trailer, not zlib's
_GZIP_LEVEL = 6
# Bytes that become one gzip member: 0.2 % larger than all of them in one.
_MEMBER = 1024 * 1024
_ZSTD_LEVEL = 3
# Bytes: zstd's own choice takes five times the memory, and saves 1 %.
_ZSTD_JOB = 1024 * 1024
# Beside production work, an agent is not to take a large machine.
_MOST_WORKERS = 4
_OUTPUT_BLOCK = 1024 * 1024
# What xz -9 and zstd -21 ask for. A stream says itself how much a decompressor is to
# remember, and may say gigabytes.
_WINDOW = 64 * 1024 * 1024
# What the decompressor of xz takes beside that.
_XZ_OVERHEAD = 8 * 1024 * 1024
# Decompressors copy the input they have not come to yet, each time they are called.
_INPUT_BLOCK = 64 * 1024


def check_available(name: str) -> None:
    """:raises ConfigError: the name is unknown, or its library is not installed"""
    if name not in NAMES:
        raise ConfigError(
            f'compression {name!r} is not known; there is {", ".join(NAMES)}'
        )
    if name == 'zstd':
        _zstd()


def compress(name: str, blocks: Iterable[Block]) -> Generator[Block, None, None]:
    """The compressed stream; an empty one is still a whole one."""
    if name == 'none':
        yield from blocks
        return
    if name == 'gzip':
        yield from _gzip_members(blocks)
        return
    compressor = _compressor(name)
    for block in blocks:
        if output := compressor.compress(block):
            yield output
    yield compressor.flush()


def _gzip_members(blocks: Iterable[Block]) -> Iterator[Block]:
    """Members one after the other, made by several processors: one gzip file."""
    from concurrent.futures import Future, ThreadPoolExecutor

    module = _zlib()

    def member(block: Block) -> bytes:
        packed: bytes = module.compress(block, _GZIP_LEVEL, _GZIP_WBITS)
        return packed

    pieces = cut(blocks, _MEMBER)
    # Of nothing there is a member too, or there would be no file.
    first = next(pieces, Buffer())
    workers = _workers()
    under_way: collections.deque[Future[bytes]] = collections.deque()
    with ThreadPoolExecutor(workers, 'gzip') as pool:
        for block in itertools.chain([first], pieces):
            if len(under_way) > workers:
                yield under_way.popleft().result()
            under_way.append(pool.submit(member, block))
        for future in under_way:
            yield future.result()


def _workers() -> int:
    return min(len(os.sched_getaffinity(0)), _MOST_WORKERS)


def decompress(name: str, blocks: Iterable[Block]) -> Generator[Block, None, None]:
    """The stream as it was, in blocks of about 1 MiB at most.

    Memory is bounded, whatever the stream is.

    :raises EngineError: it is damaged, asks for too much memory, or ends before its end
    """
    if name == 'none':
        yield from blocks
        return
    make = _DECOMPRESSORS[name]
    decompressor = make()
    try:
        for data in _slices(blocks):
            while data or not (decompressor.eof or decompressor.needs_input):
                if decompressor.eof:
                    # Members one after the other are one stream (gzip, pbzip2).
                    decompressor = make()
                output = decompressor.decompress(data, _OUTPUT_BLOCK)
                data = decompressor.unused_data if decompressor.eof else b''
                if output:
                    yield output
    except _errors(name) as error:
        raise EngineError(
            f'the {name} stream is damaged{_OR_TOO_LARGE.get(name, "")}: {error}; '
            f'--action verify --verify-data tells whether the storage did it'
        ) from error
    if not decompressor.eof:
        raise EngineError(
            f'the {name} stream ends before its end: --action verify --verify-data '
            f'tells whether the storage has lost it'
        )


def _slices(blocks: Iterable[Block]) -> Iterator[memoryview | bytes]:
    for block in blocks:
        view = memoryview(block)
        for start in range(0, len(view), _INPUT_BLOCK):
            yield view[start : start + _INPUT_BLOCK]


class _Gzip:
    """With the attributes of bz2.BZ2Decompressor."""

    def __init__(self) -> None:
        self._inner = _zlib().decompressobj(wbits=_GZIP_WBITS)

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def needs_input(self) -> bool:
        return self._inner.eof or not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def decompress(self, data: Any, max_length: int) -> bytes:
        if tail := self._inner.unconsumed_tail:
            data = tail + bytes(data)
        return bytes(self._inner.decompress(data, max_length))


_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    'gzip': _Gzip,
    'bzip2': bz2.BZ2Decompressor,
    'xz': lambda: lzma.LZMADecompressor(memlimit=_WINDOW + _XZ_OVERHEAD),
    'zstd': lambda: _zstd().ZstdDecompressor(
        options={
            _zstd().DecompressionParameter.window_log_max: _WINDOW.bit_length() - 1
        }
    ),
}
# Their errors do not tell one from the other but in words.
_OR_TOO_LARGE = dict.fromkeys(
    ('xz', 'zstd'), f', or asks for more than {_WINDOW >> 20} MiB of memory'
)


def _compressor(name: str) -> Any:
    if name == 'bzip2':
        return bz2.BZ2Compressor()
    if name == 'xz':
        return lzma.LZMACompressor()
    zstd = _zstd()
    parameter = zstd.CompressionParameter
    return zstd.ZstdCompressor(
        options={
            parameter.compression_level: _ZSTD_LEVEL,
            parameter.checksum_flag: 1,
            parameter.nb_workers: _workers(),
            parameter.job_size: _ZSTD_JOB,
        }
    )


def _errors(name: str) -> tuple[type[Exception], ...]:
    """What a decompressor raises when its input is damaged."""
    if name == 'gzip':
        return (_zlib().error,)
    if name == 'zstd':
        return (_zstd().ZstdError,)
    return (lzma.LZMAError, OSError, ValueError, EOFError)


def _zlib() -> Any:
    """zlib, or what does the same faster; it is not built for every processor."""
    try:
        from zlib_ng import zlib_ng
    except ImportError:
        return zlib
    return zlib_ng


def _zstd() -> Any:
    """The standard library's module, as of Python 3.14."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise ConfigError(
            'compression zstd needs the package backports.zstd before Python 3.14: '
            'pip install freezer[zstd]'
        ) from error
    return zstd
