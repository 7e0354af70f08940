"""Writes levels as engines rsync and rsyncv2 of Freezer 19 do: from descriptions of
files, so that a test can describe what those engines would not write."""

import hashlib
import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ZERO = 1_700_000_000
NAME = 'host_name'
FILE, DIRECTORY, SYMLINK, FIFO, DEVICE = 0o100644, 0o40755, 0o120777, 0o10644, 0o60600
V1_LETTERS = {0o10: 'r', 0o4: 'd', 0o12: 'l', 0o1: 'p', 0o6: 'b'}


def packed(value: Any) -> bytes:
    """A value in msgpack."""
    if value is None or isinstance(value, bool):
        return bytes([{None: 0xC0, False: 0xC2, True: 0xC3}[value]])
    if isinstance(value, int):
        return bytes([value]) if 0 <= value < 128 else struct.pack('>Bq', 0xD3, value)
    if isinstance(value, float):
        return struct.pack('>Bd', 0xCB, value)
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return struct.pack('>BI', 0xDB, len(value)) + value
    if isinstance(value, Mapping):
        pairs = [packed(each) for pair in value.items() for each in pair]
        return struct.pack('>BI', 0xDF, len(value)) + b''.join(pairs)
    return struct.pack('>BI', 0xDD, len(value)) + b''.join(map(packed, value))


def entry(
    path: str | bytes, mode: int = FILE, size: int = 0, **more: object
) -> dict[str, Any]:
    """An entry of version 2."""
    times = {'atime': 1e9 + 0.25, 'mtime': 1e9 + 0.5}
    owner = {'dev': 64, 'uname': 'root', 'gname': 'root'}
    return {
        'path': path,
        'inode': {'mode': mode, 'size': size, **owner, **times},
        **more,
    }


def level2(entries: Sequence[Mapping[str, Any]], contents: bytes = b'') -> bytes:
    return packed(entries) + contents


def header(
    path: str,
    mode: int = FILE,
    size: int = 0,
    *,
    target: str = '',
    changed: bool = False,
    removed: bool = False,
) -> bytes:
    """A header of version 1."""
    flags = ['1111' if each else '0000' for each in (changed, removed)]
    fields = [
        *(path, 1, mode, 0, 0, size, 10**9, 10**9, 'root', 'root'),
        *(V1_LETTERS[mode >> 12], target, 5, 1, 0, 254, 4096, *flags),
    ]
    text = ''.join(f'\0{each}' for each in fields).encode()
    length = len(text) + 1
    while len(str(length)) + len(text) != length:
        length += 1
    return str(length).encode() + text


def changes(blocks: Mapping[int, bytes]) -> bytes:
    """The contents of a changed file of version 1."""
    total = sum(map(len, blocks.values()))
    text = b''.join(b'\0%d' % number for number in blocks) + b'\0'
    lengths = b'\0%d\0%d\0' % (total, len(text) + 1)
    return lengths + text + b''.join(blocks.values())


def digests(content: bytes, size: int) -> list[str]:
    starts = range(0, len(content), size)
    return [hashlib.sha1(content[at : at + size]).hexdigest() for at in starts]


def state2(files: Mapping[str, bytes | None], size: int = 4096) -> bytes:
    """An engine file of version 2: contents by path, None for a directory."""
    found: dict[str, Any] = {}
    for path, content in files.items():
        found[path] = {'mode': DIRECTORY if content is None else FILE}
        if content is not None:
            sums = digests(content, size)
            found[path]['signature'] = [[1] * len(sums), sums]
    return packed({'files': found, 'platform': 'linux', 'rsync_block_size': size})


def state1(files: Mapping[str, bytes | None], removed: Iterable[str] = ()) -> bytes:
    """The same of version 1."""
    known: dict[str, Any] = {'files': {}, 'directories': {}, 'rsync_struct_ver': 1}
    for path, content in files.items():
        mode = DIRECTORY if content is None else FILE
        said = {'inode': {'mode': mode, 'deleted': '0000'}}
        if content is None:
            known['directories'][path if path == '.' else f'./{path}'] = said
            continue
        sums = digests(content, 4096)
        known['files'][path] = {**said, 'signature': [[7] * len(sums), sums]}
    for path in removed:
        known['files'][path] = {'inode': {'mode': FILE, 'deleted': '1111'}}
    return json.dumps(known).encode()


def store(
    folder: Path,
    level: int,
    archive: bytes,
    state: bytes | None,
    marker: Mapping[str, Any] | None = None,
) -> None:
    """Put a level into a directory of storage local."""
    path = f'rsync/{NAME}/{ZERO}/{level}_{ZERO + level}'
    data, metadata = folder / 'data' / path, folder / 'metadata' / path
    data.mkdir(parents=True)
    metadata.mkdir(parents=True)
    (data / 'data').write_bytes(zlib.compress(archive, 9))
    if state is not None:
        (data / 'engine_metadata').write_bytes(zlib.compress(state))
    known = {'engine_name': 'rsync', 'compression': 'gzip', 'encryption': False}
    text = json.dumps({**known, **(marker or {'rsync_block_size': 4096})})
    (metadata / 'metadata').write_text(text)
