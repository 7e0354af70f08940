"""Compression of a stream: gzip, bzip2, xz, zstd, or none."""

import bz2
import lzma
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from freezer.exceptions import ConfigError, EngineError
from freezer.utils.blocks import Block

NAMES = ('gzip', 'bzip2', 'xz', 'zstd', 'none')
# How each begins; also how a wrong passphrase is told from the right one.
MAGIC = {
    'gzip': b'\x1f\x8b\x08',
    'bzip2': b'BZh',
    'xz': b'\xfd7zXZ\x00',
    'zstd': b'\x28\xb5\x2f\xfd',
}

_GZIP_WBITS = 31  # a gzip header and trailer, not zlib's
_OUTPUT_BLOCK = 1024 * 1024
# Decompressors copy the input they have not come to yet, each time they are called.
_INPUT_BLOCK = 64 * 1024
# zstandard cannot be asked for less than all that its input becomes; a zstd block of
# 4 bytes may become 128 KiB, so what is handed to it at once bounds the memory.
_ZSTD_INPUT = 2048


def check_available(name: str) -> None:
    """:raises ConfigError: the name is unknown, or its library is not installed"""
    if name not in NAMES:
        raise ConfigError(
            f'compression {name!r} is not known; there is {", ".join(NAMES)}'
        )
    if name == 'zstd':
        _zstandard()


def compress(name: str, blocks: Iterable[Block]) -> Iterator[Block]:
    """The compressed stream; an empty one is still a whole one."""
    if name == 'none':
        yield from blocks
        return
    compressor = _compressor(name)
    for block in blocks:
        if output := compressor.compress(block):
            yield output
    yield compressor.flush()


def decompress(name: str, blocks: Iterable[Block]) -> Generator[Block, None, None]:
    """The stream as it was, in blocks of about 1 MiB at most.

    :raises EngineError: it is damaged, or ends before its end
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
    except (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError) as error:
        raise EngineError(f'the {name} stream is damaged: {error}') from error
    if not decompressor.eof:
        raise EngineError(f'the {name} stream ends before its end')


def _slices(blocks: Iterable[Block]) -> Iterator[memoryview | bytes]:
    for block in blocks:
        view = memoryview(block)
        for start in range(0, len(view), _INPUT_BLOCK):
            yield view[start : start + _INPUT_BLOCK]


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(_GZIP_WBITS)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return self._inner.eof or not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: Any, max_length: int) -> bytes:
        if tail := self._inner.unconsumed_tail:
            data = tail + bytes(data)
        return self._inner.decompress(data, max_length)


class _Zstd:
    def __init__(self) -> None:
        self._error = _zstandard().ZstdError
        self._inner = _zstandard().ZstdDecompressor().decompressobj()
        self._pending = memoryview(b'')
        self.eof = False
        self.unused_data = b''

    @property
    def needs_input(self) -> bool:
        return self.eof or not self._pending

    def decompress(self, data: Any, max_length: int) -> bytes:
        if data:
            self._pending = memoryview(bytes(self._pending) + bytes(data))
        output = bytearray()
        while self._pending and not self.eof and len(output) < max_length:
            try:
                output += self._inner.decompress(self._pending[:_ZSTD_INPUT])
            except self._error as error:
                raise ValueError(str(error)) from error
            self._pending = self._pending[_ZSTD_INPUT:]
            self.eof = self._inner.eof
        if self.eof:
            self.unused_data = self._inner.unused_data + bytes(self._pending)
        return bytes(output)


# All with the attributes of bz2.BZ2Decompressor.
_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    'gzip': _Gzip,
    'bzip2': bz2.BZ2Decompressor,
    'xz': lzma.LZMADecompressor,
    'zstd': _Zstd,
}


def _compressor(name: str) -> Any:
    if name == 'gzip':
        return zlib.compressobj(6, zlib.DEFLATED, _GZIP_WBITS)
    if name == 'bzip2':
        return bz2.BZ2Compressor()
    if name == 'xz':
        return lzma.LZMACompressor()
    return _zstandard().ZstdCompressor(level=3, write_checksum=True).compressobj()


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise ConfigError(
            'compression zstd needs the package zstandard: pip install freezer[zstd]'
        ) from error
    return zstandard
