"""The contents of one file, from archives of GNU tar."""

import os
import random
import stat
import subprocess
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

import pytest

from freezer.engine.tar import contents
from freezer.engine.tar.patterns import Patterns
from freezer.exceptions import EngineError, RestoreError
from freezer.tests.archives import END, cut, directory, hard_link, member, symlink
from freezer.utils.blocks import Block

FORMATS = {
    'old GNU': ('--format=gnu',),
    'pax 0.0': ('--format=posix', '--sparse-version=0.0'),
    'pax 0.1': ('--format=posix', '--sparse-version=0.1'),
    'pax 1.0': ('--format=posix', '--sparse-version=1.0'),
}


def sparse_file(path: Path, seed: int, pieces: int) -> bytes:
    """A file with this many pieces of data between holes; returns its contents."""
    rng = random.Random(seed)
    with path.open('wb') as file:
        for _ in range(pieces):
            file.seek(rng.choice((0, 65536, 1 << 20)), os.SEEK_CUR)
            file.write(rng.randbytes(4096 * rng.randint(1, 3)))
        file.truncate(file.tell() + rng.choice((0, 1, 100_000)))
    return path.read_bytes()


def tar(folder: Path, *arguments: str) -> bytes:
    command = ['tar', f'--directory={folder}', '--create', '--file=-', *arguments]
    return subprocess.run(command, capture_output=True, check=True).stdout


def joined(blocks: Iterable[Block]) -> bytes:
    return b''.join(blocks)


@pytest.mark.parametrize('pieces', [0, 1, 3, 4, 5, 26, 200])
@pytest.mark.parametrize('name', FORMATS)
def test_sparse_files(name: str, pieces: int, tmp_path: Path) -> None:
    content = sparse_file(tmp_path / 'sparse', pieces, pieces)
    archive = tar(tmp_path, '--sparse', *FORMATS[name], './sparse')
    if pieces > 1:
        assert len(archive) < len(content)
    for size in (512, 10_000, len(archive)):
        assert joined(contents.of_member(cut(archive, size), b'sparse')) == content


@pytest.mark.parametrize('size', [0, 1, 511, 512, 513, 3_000_000])
@pytest.mark.parametrize('name', ['old GNU', 'pax 1.0'])
def test_plain_files(name: str, size: int, tmp_path: Path) -> None:
    content = random.Random(size).randbytes(size)
    long = 'n' * 200
    (tmp_path / long).write_bytes(content)
    archive = tar(tmp_path, *FORMATS[name], f'./{long}')
    found = joined(contents.of_member(cut(archive, 1000), long.encode()))
    assert found == content


def test_an_archive_of_something_else() -> None:
    for archive, words in {
        member(b'./other', b'1') + END: 'not of this archive',
        symlink(b'./file', b'1') + END: 'not of this archive',
        member(b'./file', b'1') * 2 + END: 'not of this archive',
        END: "does not have 'file'",
        member(b'./file', b'1'): 'cut off',
        member(b'/file', b'1') + END: 'absolute',
    }.items():
        with pytest.raises(EngineError, match=words):
            joined(contents.of_member([archive], b'file'))


class Level:
    """A level that is read again and again."""

    def __init__(self, level: int, *members: bytes) -> None:
        self.level = level
        self._archive = b''.join([*members, END])
        self.reads = 0

    def data(self) -> Generator[Block, None, None]:
        self.reads += 1
        yield from cut(self._archive, 700)


def of_chosen(levels: Sequence[Level], *include: str) -> bytes:
    return joined(contents.of_chosen(levels[::-1], Patterns(include)))


def test_chosen_without_an_index() -> None:
    levels = [
        Level(
            0,
            directory(b'./', b'Dd', b'Yold', b'Yone'),
            directory(b'./d', b'Yfile', b'Ylink', b'Ysymlink'),
            member(b'./d/file', b'first'),
            hard_link(b'./d/link', b'd/file'),
            symlink(b'./d/symlink', b'file'),
            member(b'./old', b'old'),
            member(b'./one', b'1' * 100_000),
        ),
        Level(
            1,
            directory(b'./', b'Dd', b'None'),
            directory(b'./d', b'Yfile', b'Nlink', b'Nsymlink'),
            member(b'./d/file', b'second'),
        ),
    ]
    assert of_chosen(levels, 'd/file') == b'second'
    assert of_chosen(levels, 'one') == b'1' * 100_000
    assert [level.reads for level in levels] == [1, 2]
    assert of_chosen(levels, 'd/link') == b'first'
    assert [level.reads for level in levels] == [3, 3]
    for include, words in {
        ('old',): 'nothing in the backup',
        ('d/symlink',): 'no file but a symbolic link',
        ('d',): 'no file but a directory',
        ('d/*',): "matches 3 paths, .*'d/file', 'd/",
        ('one', 'd/file'): 'matches 2 paths',
    }.items():
        with pytest.raises(RestoreError, match=words):
            of_chosen(levels, *include)


def test_a_link_to_a_symbolic_link_is_no_file() -> None:
    level = Level(
        0,
        directory(b'./', b'Ya', b'Yb'),
        symlink(b'./a', b'x'),
        hard_link(b'./b', b'a'),
    )
    with pytest.raises(RestoreError, match='no file but a symbolic link'):
        of_chosen([level], 'b')


def test_a_link_to_nothing() -> None:
    level = Level(0, directory(b'./', b'Yb'), hard_link(b'./b', b'a'))
    with pytest.raises(EngineError, match='not made by GNU tar'):
        of_chosen([level], 'b')


@pytest.mark.parametrize('pieces', [0, 1, 3, 4, 5, 26, 200])
@pytest.mark.parametrize('name', FORMATS)
def test_the_map_of_a_member(name: str, pieces: int, tmp_path: Path) -> None:
    content = sparse_file(tmp_path / 'sparse', pieces, pieces)
    archive = tar(tmp_path, '--sparse', *FORMATS[name], './sparse')
    found = contents.member_map(cut(archive, 600), b'sparse')
    read = bytearray(len(content))
    for start, length, place in zip(
        found.starts, found.lengths, found.places, strict=True
    ):
        read[start : start + length] = archive[place : place + length]
    assert read == content
    assert list(found.starts) == sorted(found.starts)


def test_the_map_of_a_device(tmp_path: Path) -> None:
    for letter, format_ in ((b'3', '--format=gnu'), (b'4', '--format=posix')):
        path = tmp_path / 'device'
        kind = stat.S_IFCHR if letter == b'3' else stat.S_IFBLK
        try:
            os.mknod(path, 0o600 | kind, os.makedev(8, 300))
        except PermissionError:
            pytest.skip('devices can be made by root only')
        archive = tar(tmp_path, format_, './device')
        path.unlink()
        found = contents.member_map([archive], b'device')
        assert (os.major(found.device), os.minor(found.device)) == (8, 300)


def test_the_map_of_something_else() -> None:
    for archive, words in {
        member(b'./other', b'1') + END: 'not of this archive',
        END: 'not of this archive',
        b'': 'stops after 0 bytes',
    }.items():
        with pytest.raises(EngineError, match=words):
            contents.member_map([archive], b'file')
