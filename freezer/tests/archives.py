"""Archives made by hand, and what some of them do to GNU tar."""

import lzma
import os
import zlib
from collections.abc import Iterator

POSIX = b'ustar\x0000'
GNU = b'ustar  \x00'
END = bytes(1024)


def cut(content: bytes, size: int) -> Iterator[bytes]:
    return (content[n : n + size] for n in range(0, len(content), size))


def pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def block(
    name: bytes = b'',
    kind: bytes = b'0',
    *,
    size: int | bytes = 0,
    link: bytes = b'',
    magic: bytes = POSIX,
    mode: int = 0o755,
    tail: bytes = b'',
) -> bytes:
    """A header; ``tail`` are the bytes from 345 on: the prefix in the posix format."""
    head = b''.join(
        (
            name.ljust(100, b'\0'),
            b'%07o\0' % mode,
            b'%07o\0' % os.getuid(),
            b'%07o\0' % os.getgid(),
            size if isinstance(size, bytes) else b'%011o\0' % size,
            b'%011o\0' % 1_700_000_000,
            b' ' * 8,
            kind,
            link.ljust(100, b'\0'),
            magic,
            bytes(80),
            tail,
        )
    ).ljust(512, b'\0')
    assert len(head) == 512
    return checksummed(head)


def checksummed(head: bytes) -> bytes:
    head = head[:148] + b' ' * 8 + head[156:]
    return head[:148] + b'%06o\0 ' % sum(head) + head[156:]


def member(
    name: bytes, data: bytes = b'', kind: bytes = b'0', magic: bytes = POSIX
) -> bytes:
    return block(name, kind, size=len(data), magic=magic) + pad(data)


def record(keyword: bytes, value: bytes) -> bytes:
    length = rest = len(keyword) + len(value) + 3
    while length != rest + len(str(length)):
        length = rest + len(str(length))
    return b'%d %s=%s\n' % (length, keyword, value)


def pax(*records: tuple[bytes, bytes], kind: bytes = b'x') -> bytes:
    return member(b'./PaxHeaders/x', b''.join(record(*r) for r in records), kind)


def long_name(name: bytes, kind: bytes = b'L') -> bytes:
    return member(b'././@LongLink', name + b'\0', kind, GNU)


def directory(name: bytes, *entries: bytes, mode: int = 0o755) -> bytes:
    dumpdir = b''.join(e + b'\0' for e in entries) + b'\0'
    return pax((b'GNU.dumpdir', dumpdir)) + block(name, b'5', mode=mode)


def symlink(name: bytes, to: bytes) -> bytes:
    return block(name, b'2', link=to)


def hard_link(name: bytes, to: bytes) -> bytes:
    return block(name, b'1', link=to)


def with_window(compression: str, log: int, content: bytes) -> bytes:
    """A stream, xz or zstd, that says that 2**log bytes are to be remembered."""
    if compression == 'zstd':
        # No flags, the window, one block, as it is.
        block = (len(content) << 3 | 1).to_bytes(3, 'little')
        return b'\x28\xb5\x2f\xfd\0' + bytes([log - 10 << 3]) + block + content
    stream = lzma.compress(content)
    # The header of the only block: its size, flags, filter, 1, dictionary, zeros.
    header = bytearray(stream[12:20])
    assert header[:4] == b'\x02\x00\x21\x01'
    header[4] = 2 * (log - 12)
    checksum = zlib.crc32(header).to_bytes(4, 'little')
    return stream[:12] + header + checksum + stream[24:]


# Harm that GNU tar really does, and that the guard prevents. Each: what level 0 leaves
# behind, what level 1 then does.

LINK = directory(b'.', b'Yd') + symlink(b'./d', b'../outside')
FILE = member(b'./d/file', b'evil')
BELOW = (
    directory(b'.', b'Dp')
    + directory(b'./p', b'Yd')
    + symlink(b'./p/d', b'../../outside')
)
ESCAPES = {
    'through a link': (LINK, FILE),
    'without dumpdirs': (symlink(b'd', b'../outside'), member(b'd/file')),
    'through a hard link to a link': (
        symlink(b'./a', b'../outside') + hard_link(b'./d', b'./a'),
        FILE,
    ),
    'a subdirectory': (LINK, block(b'./d/file/', b'5')),
    'a symbolic link': (LINK, symlink(b'./d/file', b'x')),
    'a fifo': (LINK, block(b'./d/file', b'6')),
    'a hard link': (LINK, member(b'./f') + hard_link(b'./d/file', b'./f')),
    'a directory renamed': (
        directory(b'.', b'Dfile')
        + directory(b'./file')
        + symlink(b'./d', b'../outside'),
        directory(b'.', b'Nd', b'R./file', b'T./d/file'),
    ),
    'what seems to be replaced by a hard link': (
        LINK,
        hard_link(b'./d', b'./missing') + FILE,
    ),
    'what seems to be deleted': (LINK, directory(b'.', b'R./no', b'T./x') + FILE),
    'what seems to be a directory': (
        LINK,
        directory(b'.', b'R./no', b'T./x', b'Dd') + FILE,
    ),
    'what seems to be renamed away': (
        BELOW,
        directory(b'.', b'R./p', b'T./p/x') + member(b'./p/d/file'),
    ),
    'what is renamed': (
        BELOW,
        directory(b'.', b'R./p', b'T./q', b'Dq') + member(b'./q/d/file'),
    ),
    'what is renamed twice': (
        directory(b'.', b'Dp', b'Dq')
        + directory(b'./p', b'Yd')
        + directory(b'./q')
        + symlink(b'./p/d', b'../../outside'),
        directory(
            b'.', b'X.', b'R./p', b'T', b'R./q', b'T./p', b'R', b'T./q', b'Dp', b'Dq'
        )
        + member(b'./q/d/file'),
    ),
    'what comes back at the end': (
        # Tar makes an upward link at the end of the archive, from a file that keeps the
        # place; the file after it gets the same inode.
        symlink(b'./d', b'../outside') + member(b'./d', b'file'),
        FILE,
    ),
    'what comes back after a directory': (
        symlink(b'./d', b'../outside') + block(b'./d/', b'5') + member(b'./d'),
        FILE,
    ),
    'within one archive': (
        symlink(b'./l', b'../outside'),
        symlink(b'./d', b'l') + FILE,
    ),
}  # fmt: skip

# What records of directories do outside: there is "sub", with a file in it.
RECORDS = {
    'deletes': (LINK, directory(b'./d/sub')),
    'renames into': ESCAPES['a directory renamed'],
    'renames out of': (LINK, directory(b'.', b'Yd', b'R./d/sub', b'T./stolen')),
    'makes a temporary directory': (
        directory(b'.', b'Dx') + directory(b'./x') + symlink(b'./d', b'../outside'),
        directory(b'.', b'Yd', b'X./d', b'R./x', b'T'),
    ),
}  # fmt: skip

MODES = {
    # Tar sets mode, owner and times of a directory at the end of an archive, by name.
    'another spelling': (
        symlink(b'./x', b'../outside') + block(b'./d/', b'5'),
        directory(b'./d', mode=0o777) + symlink(b'd', b'x'),
    ),
    'a late rename': (
        directory(b'.', b'Dp', b'Dz', b'Dy')
        + directory(b'./y')
        + directory(b'./p', b'Dd')
        + directory(b'./p/d')
        + directory(b'./z', b'Yd')
        + symlink(b'./z/d', b'../../outside'),
        directory(b'./p', b'Dd')
        + directory(b'./p/d', mode=0o777)
        + directory(b'./y', b'R./p', b'T./q', b'R./z', b'T./p'),
    ),
}
