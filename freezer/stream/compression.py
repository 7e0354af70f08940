"""Compression of a stream: gzip, bzip2, xz, zstd, or none.

A stream is cut into pieces, which are compressed one by one: a gzip file of several
members, a bzip2 file of several streams, an xz file of several streams, a zstd file of
several frames. Their usual tools read them as one, and decompression can begin at each.
"""

import bz2
import collections
import concurrent.futures
import contextlib
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from freezer.exceptions import ConfigError, EngineError
from freezer.stream.points import Points
from freezer.utils.blocks import Block, Buffer, Buffers, cut
from freezer.utils.ranges import Portions, Range, RangedStream, select

NAMES = ('gzip', 'bzip2', 'xz', 'zstd', 'none')
# Only read: some engines of Freezer 19 wrote it, with level 9.
ZLIB = 'zlib'
# The first bytes of each; they also show whether a passphrase is right.
MAGIC = {
    'gzip': b'\x1f\x8b\x08',
    ZLIB: b'\x78\xda',
    'bzip2': b'BZh',
    'xz': b'\xfd7zXZ\x00',
    'zstd': b'\x28\xb5\x2f\xfd',
}

_MIB = 1024 * 1024
_GZIP_WBITS = 31  # a gzip header and trailer, not zlib's
_GZIP_LEVEL = 6
_ZSTD_LEVEL = 3
# A backup beside production work must not use all processors of a large machine.
_MOST_WORKERS = 4
_OUTPUT_BLOCK = _MIB
# The window of xz -9 and zstd -21. The stream declares the window that a decompressor
# needs, and may declare gigabytes.
_WINDOW = 64 * _MIB
# Memory of the xz decompressor beside the window.
_XZ_OVERHEAD = 8 * _MIB
# Decompressors copy the input they have not used yet on each call.
_INPUT_BLOCK = 64 * 1024


def check_available(name: str) -> None:
    """:raises ConfigError: the name is unknown, or its library is not installed"""
    if name not in (*NAMES, ZLIB):
        raise ConfigError(
            f'unknown compression {name!r}; available: {", ".join(NAMES)}'
        )
    if name == 'zstd':
        _zstd()


def compress(
    name: str, blocks: Iterable[Block], points: Points | None = None
) -> Generator[Block, None, None]:
    """Compress a stream; an empty one becomes a valid compressed stream.

    :param points: records where decompression can begin; nothing for none, in which
        every byte is such a place
    """
    if name == 'none':
        yield from blocks
        return
    compressed = 0
    for start, output in _compressed(_FORMATS[name], blocks):
        if points is not None and start is not None:
            points.add(start, compressed)
        compressed += len(output)
        if output:
            yield output


class _Format(NamedTuple):
    """How a stream is cut.

    :param make: makes a compressor for one piece
    :param piece: plain bytes that are compressed on their own; whole blocks
    :param block: plain bytes that are passed to the compressor at once
    :param parallel: whether several threads may compress; a block is then a whole piece
    """

    make: Callable[[], Any]
    piece: int
    block: int
    parallel: bool = True


class _Piece:
    """Compresses the blocks of one piece."""

    def __init__(self, make: Callable[[], Any], buffers: Buffers) -> None:
        self._make = make
        self._buffers = buffers
        self._compressor: Any = None

    def add(self, block: Buffer, last: bool) -> bytes:
        # Made and dropped here: one of xz takes 94 MiB, and of those of pieces that
        # wait none is needed.
        self._compressor = self._compressor or self._make()
        output: bytes = self._compressor.compress(block)
        self._buffers.give_back(block)
        if last:
            output += self._compressor.flush()
            self._compressor = None
        return output


def _compressed(
    form: _Format, blocks: Iterable[Block]
) -> Iterator[tuple[int | None, bytes]]:
    """The compressed blocks, the first one of each piece with the piece's start."""
    workers = _workers() if form.parallel else 1
    pending: collections.deque[tuple[int | None, concurrent.futures.Future[bytes]]]
    pending = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(workers, 'compression')
    try:
        for start, piece, block, last in _cut(form, blocks):
            if len(pending) > workers:
                position, future = pending.popleft()
                yield position, future.result()
            pending.append((start, pool.submit(piece.add, block, last)))
        for position, future in pending:
            yield position, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _cut(
    form: _Format, blocks: Iterable[Block]
) -> Iterator[tuple[int | None, _Piece, Buffer, bool]]:
    """Each block: the start of its piece if it is the first, and whether the last."""
    buffers = Buffers()
    piece = _Piece(form.make, buffers)
    position = size = 0
    for block in cut(blocks, form.block, buffers):
        start = position if size == 0 else None
        position += len(block)
        size += len(block)
        # Only the last block of the stream is shorter.
        last = size == form.piece or len(block) < form.block
        yield start, piece, block, last
        if last:
            piece, size = _Piece(form.make, buffers), 0
    # An empty stream has a piece as well.
    if size or not position:
        yield (None if size else 0), piece, Buffer(), True


def _workers() -> int:
    return min(len(os.sched_getaffinity(0)), _MOST_WORKERS)


def decompress(
    name: str, blocks: Iterable[Block], points: Points | None = None
) -> Generator[Block, None, None]:
    """Decompress a stream, into blocks of about 1 MiB at most.

    Memory is bounded, whatever the stream contains.

    :param points: records where decompression can begin, as :func:`compress` does
    :raises EngineError: it is damaged or incomplete, or needs too much memory
    """
    if name == 'none':
        yield from blocks
        return
    make = _DECOMPRESSORS[name]
    decompressor = make()
    compressed = plain = 0
    try:
        for data in _slices(blocks):
            compressed += len(data)
            while data or not (decompressor.eof or decompressor.needs_input):
                if decompressor.eof:
                    decompressor = make()
                    if points is not None:
                        points.add(plain, compressed - len(data))
                output = decompressor.decompress(data, _OUTPUT_BLOCK)
                data = decompressor.unused_data if decompressor.eof else b''
                if output:
                    plain += len(output)
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


class _Run(NamedTuple):
    """Pieces in sequence that hold wanted ranges.

    :param plain: bytes of the plain stream; ends at sys.maxsize if it is not known
    :param compressed: the same bytes of the compressed stream
    """

    plain: Range
    compressed: Range


def decompress_ranges(
    name: str, stream: RangedStream, points: Points | None, wanted: Sequence[Range]
) -> Generator[Block, None, None]:
    """The bytes of ranges of the plain stream, concatenated.

    Reads the pieces that hold them, and each only once.

    :param stream: the compressed one
    :param points: where decompression can begin; None: only at the start
    :raises EngineError: the stream is damaged or incomplete, or ends before the ranges,
        or the points are of another one
    """
    if name == 'none':
        yield from stream.ranges(wanted)
        return
    runs = _runs(points or Points(), wanted, stream.size)
    with contextlib.closing(stream.ranges([run.compressed for run in runs])) as blocks:
        plain = _decompress_runs(name, runs, blocks)
        try:
            yield from select(plain, [run.plain for run in runs], wanted)
            if points is not None:
                # At the end of the pieces are their checksums; and their length shows
                # whether the points are right.
                collections.deque(plain, maxlen=0)
        except EOFError as error:
            raise EngineError(
                f'the {name} stream ends before byte {wanted[-1][1]} of its content: '
                f'the index is damaged, or of another backup'
            ) from error


def _runs(points: Points, wanted: Sequence[Range], size: int) -> list[_Run]:
    """:param size: of the compressed stream"""
    runs: list[_Run] = []
    for start, end in wanted:
        if start == end:
            continue
        first, after = points.before(start), points.after(end)
        if runs and first.compressed <= runs[-1].compressed[1]:
            last = runs.pop()
            first = first._replace(plain=last.plain[0], compressed=last.compressed[0])
        plain_end, compressed_end = after or (sys.maxsize, size)
        if not first.compressed <= compressed_end <= size:
            raise _other_points()
        runs.append(_Run((first.plain, plain_end), (first.compressed, compressed_end)))
    return runs


def _decompress_runs(
    name: str, runs: Iterable[_Run], blocks: Iterable[Block]
) -> Iterator[Block]:
    """:param blocks: the compressed bytes of all runs, concatenated"""
    portions = Portions(blocks)
    for run in runs:
        position, end = run.plain
        for block in decompress(
            name, portions.take(run.compressed[1] - run.compressed[0])
        ):
            position += len(block)
            if position > end:
                raise _other_points()
            yield block
        if position < end < sys.maxsize:
            raise _other_points()


def _other_points() -> EngineError:
    return EngineError(
        'the places where decompression can begin are not those of this stream: the '
        'index is damaged, or of another backup'
    )


def _slices(blocks: Iterable[Block]) -> Iterator[memoryview | bytes]:
    for block in blocks:
        view = memoryview(block)
        for start in range(0, len(view), _INPUT_BLOCK):
            yield view[start : start + _INPUT_BLOCK]


class _Gzip:
    """Has the interface of bz2.BZ2Decompressor."""

    def __init__(self, wbits: int = _GZIP_WBITS) -> None:
        self._inner = _zlib().decompressobj(wbits=wbits)

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
    ZLIB: lambda: _Gzip(zlib.MAX_WBITS),
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


def _gzip_compressor() -> Any:
    return _zlib().compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WBITS)


class _ZstdFrame:
    """Has the interface of bz2.BZ2Compressor, for one block.

    A frame that is made in one call is smaller: the library knows its size.
    """

    def __init__(self) -> None:
        zstd = _zstd()
        parameter = zstd.CompressionParameter
        self._inner = zstd.ZstdCompressor(
            options={
                parameter.compression_level: _ZSTD_LEVEL,
                parameter.checksum_flag: 1,
            }
        )

    def compress(self, block: Block) -> bytes:
        return bytes(self._inner.compress(block, self._inner.FLUSH_FRAME))

    def flush(self) -> bytes:
        return b''


# The pieces are as small as possible: the stream is at most 1 % larger than in one
# piece. Decision 0020 has the measurements.
_FORMATS = {
    'gzip': _Format(_gzip_compressor, _MIB, _MIB),
    # Two of bzip2's own blocks.
    'bzip2': _Format(bz2.BZ2Compressor, 1_800_000, 1_800_000),
    'xz': _Format(lzma.LZMACompressor, 16 * _MIB, _MIB, parallel=False),
    'zstd': _Format(_ZstdFrame, 2 * _MIB, 2 * _MIB),
}


def _errors(name: str) -> tuple[type[Exception], ...]:
    """The exceptions of a decompressor whose input is damaged."""
    if name in ('gzip', ZLIB):
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
