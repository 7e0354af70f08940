"""Compression of a stream: gzip, bzip2, xz, zstd, or none."""

import bz2
import collections
import concurrent.futures
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
# The first bytes of each; they also show whether a passphrase is right.
MAGIC = {
    'gzip': b'\x1f\x8b\x08',
    'bzip2': b'BZh',
    'xz': b'\xfd7zXZ\x00',
    'zstd': b'\x28\xb5\x2f\xfd',
}

_GZIP_WBITS = 31  # a gzip header and trailer, not zlib's
_GZIP_LEVEL = 6
# Bytes in one gzip member: the result is 0.2 % larger than with a single member.
_MEMBER = 1024 * 1024
_ZSTD_LEVEL = 3
# Bytes: the default of zstd takes five times the memory, and saves 1 %.
_ZSTD_JOB = 1024 * 1024
# A backup beside production work must not use all processors of a large machine.
_MOST_WORKERS = 4
_OUTPUT_BLOCK = 1024 * 1024
# The window of xz -9 and zstd -21. The stream declares the window that a decompressor
# needs, and may declare gigabytes.
_WINDOW = 64 * 1024 * 1024
# Memory of the xz decompressor beside the window.
_XZ_OVERHEAD = 8 * 1024 * 1024
# Decompressors copy the input they have not used yet on each call.
_INPUT_BLOCK = 64 * 1024


def check_available(name: str) -> None:
    """:raises ConfigError: the name is unknown, or its library is not installed"""
    if name not in NAMES:
        raise ConfigError(
            f'unknown compression {name!r}; available: {", ".join(NAMES)}'
        )
    if name == 'zstd':
        _zstd()


def compress(name: str, blocks: Iterable[Block]) -> Generator[Block, None, None]:
    """Compress a stream; an empty one becomes a valid compressed stream."""
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
    """One gzip file of many members, which are compressed in parallel."""
    module = _zlib()

    def member(block: Block) -> bytes:
        packed: bytes = module.compress(block, _GZIP_LEVEL, _GZIP_WBITS)
        return packed

    pieces = cut(blocks, _MEMBER)
    # An empty stream has a member as well, or it would not be a gzip file.
    first = next(pieces, Buffer())
    workers = _workers()
    pending: collections.deque[concurrent.futures.Future[bytes]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers, 'gzip') as pool:
        for block in itertools.chain([first], pieces):
            if len(pending) > workers:
                yield pending.popleft().result()
            pending.append(pool.submit(member, block))
        for future in pending:
            yield future.result()


def _workers() -> int:
    return min(len(os.sched_getaffinity(0)), _MOST_WORKERS)


def decompress(name: str, blocks: Iterable[Block]) -> Generator[Block, None, None]:
    """Decompress a stream, into blocks of about 1 MiB at most.

    Memory is bounded, whatever the stream contains.

    :raises EngineError: it is damaged or incomplete, or needs too much memory
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
                    # A stream may have several members (gzip, pbzip2).
                    decompressor = make()
                output = decompressor.decompress(data, _OUTPUT_BLOCK)
                data = decompressor.unused_data if decompressor.eof else b''
                if output:
                    yield output
    except _errors(name) as error:
        raise EngineError(
            f'the {name} stream is damaged{_OR_TOO_LARGE.get(name, "")}: {error}; '
            f'--action verify --verify-data shows whether the storage damaged it'
        ) from error
    if not decompressor.eof:
        raise EngineError(
            f'the {name} stream is cut off: --action verify --verify-data shows '
            f'whether the storage lost the rest'
        )


def _slices(blocks: Iterable[Block]) -> Iterator[memoryview | bytes]:
    for block in blocks:
        view = memoryview(block)
        for start in range(0, len(view), _INPUT_BLOCK):
            yield view[start : start + _INPUT_BLOCK]


class _Gzip:
    """Has the interface of bz2.BZ2Decompressor."""

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
# Their exceptions do not distinguish damage from a window that is too large.
_OR_TOO_LARGE = dict.fromkeys(
    ('xz', 'zstd'), f', or needs more than {_WINDOW >> 20} MiB of memory'
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
    """The exceptions of a decompressor whose input is damaged."""
    if name == 'gzip':
        return (_zlib().error,)
    if name == 'zstd':
        return (_zstd().ZstdError,)
    return (lzma.LZMAError, OSError, ValueError, EOFError)


def _zlib() -> Any:
    """The faster zlib-ng if it is installed, else zlib."""
    try:
        # Optional: there are no builds for some processors.
        from zlib_ng import zlib_ng
    except ImportError:
        return zlib
    return zlib_ng


def _zstd() -> Any:
    """zstd of the standard library since Python 3.14, or its backport."""
    try:
        # Optional: the extra freezer[zstd].
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
