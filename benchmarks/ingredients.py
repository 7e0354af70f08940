"""Cost of compression and digests alone: the figures of decisions 0003 and 0005.

    python benchmarks/ingredients.py [--mib 256] [--tree /usr/share /usr/lib …]

Compresses an archive of the machine's files, and digests random data. Prints CPU
seconds per GiB, and the size relative to ``gzip -6``.
"""

import argparse
import hashlib
import io
import subprocess
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from backports import zstd
from zlib_ng import zlib_ng

MIB = 2**20
# The block size in which the agent reads from tar.
_BLOCK = MIB
_GZIP = 31


def archive(trees: list[str], size: int) -> bytes:
    """A tar archive with ``size`` bytes of files."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode='w') as tar:
        for tree in trees:
            for path in sorted(Path(tree).rglob('*')):
                if whole.tell() >= size:
                    return whole.getvalue()
                if path.is_file() and not path.is_symlink():
                    tar.add(path)
    return whole.getvalue()


def compressors() -> Iterator[tuple[str, Callable[[], Any]]]:
    yield 'gzip, zlib level 6', lambda: zlib.compressobj(6, zlib.DEFLATED, _GZIP)
    yield (
        'gzip, zlib-ng level 6',
        lambda: zlib_ng.compressobj(6, zlib.DEFLATED, _GZIP),
    )
    try:
        from isal import isal_zlib

        yield (
            'gzip, ISA-L level 3',
            lambda: isal_zlib.compressobj(3, zlib.DEFLATED, _GZIP),
        )
    except ImportError:
        print('(to measure ISA-L: pip install isal)')
    parameter = zstd.CompressionParameter
    for workers in (0, 1, 2):
        yield (
            f'zstd level 3, {workers} workers',
            lambda workers=workers: zstd.ZstdCompressor(
                options={
                    parameter.compression_level: 3,
                    parameter.checksum_flag: 1,
                    parameter.nb_workers: workers,
                }
            ),
        )


def compress(make: Callable[[], Any], content: memoryview) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds, and compressed bytes."""
    wall, cpu = time.perf_counter(), time.process_time()
    compressor = make()
    size = sum(
        len(compressor.compress(content[start : start + _BLOCK]))
        for start in range(0, len(content), _BLOCK)
    )
    size += len(compressor.flush())
    return time.perf_counter() - wall, time.process_time() - cpu, size


def digests() -> Iterator[tuple[str, Callable[[bytes], object]]]:
    yield 'SHA-256', lambda data: hashlib.sha256(data).digest()
    yield 'MD5', lambda data: hashlib.md5(data, usedforsecurity=False).digest()
    yield 'CRC-32', zlib.crc32
    try:
        from blake3 import blake3

        yield 'BLAKE3', lambda data: blake3(data).digest()
    except ImportError:
        print('(to measure BLAKE3: pip install blake3)')
    try:
        from awscrt import checksums

        yield 'CRC-64/NVME', checksums.crc64nvme
    except ImportError:
        print('(to measure CRC-64/NVME: pip install awscrt)')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--mib', type=int, default=256)
    parser.add_argument('--tree', nargs='+', default=['/usr/lib', '/usr/share'])
    options = parser.parse_args()
    whole = archive(options.tree, options.mib * MIB)
    gib = len(whole) / 2**30
    usual = len(
        subprocess.run(
            ['gzip', '-6'], input=whole, capture_output=True, check=True
        ).stdout
    )
    for name, make in compressors():
        wall, cpu, size = compress(make, memoryview(whole))
        print(
            f'{name:28} {wall / gib:6.2f} s/GiB  CPU {cpu / gib:6.2f} s/GiB  '
            f'{size / usual:5.3f} of gzip -6',
            flush=True,
        )
    for name, digest in digests():
        begun = time.process_time()
        for start in range(0, len(whole), 16 * MIB):
            digest(whole[start : start + 16 * MIB])
        print(f'{name:28} CPU {(time.process_time() - begun) / gib:6.2f} s/GiB')


if __name__ == '__main__':
    main()
