"""Which members of a chain make up a state, and what tar gets of a part of it."""

import contextlib
import dataclasses
import errno
import os
import subprocess
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from freezer import exceptions as e
from freezer.engine.engine import LevelState, Warnings
from freezer.engine.index.record import Row
from freezer.engine.tar import snapshot
from freezer.engine.tar.members import Members
from freezer.engine.tar.patterns import Patterns
from freezer.tests import trees
from freezer.tests.archives import (
    END,
    ESCAPES,
    GNU,
    RECORDS,
    block,
    directory,
    hard_link,
    long_name,
    member,
    pax,
    symlink,
)
from freezer.tests.engines import tar_engine
from freezer.utils.blocks import Block


def chosen(pattern: str, path: str) -> bool:
    patterns = Patterns([pattern])
    return patterns.chosen(patterns.at(os.fsencode(path).split(b'/')))


@pytest.mark.parametrize(
    'pattern, paths, others',
    [
        ('etc', ['etc', 'etc/a', 'etc/a/b'], ['usr/etc', 'etcetera', 'et']),
        ('./etc/', ['etc', 'etc/a'], ['e']),
        ('/etc/a', ['etc/a', 'etc/a/b'], ['etc', 'etc/b']),
        ('etc/*.conf', ['etc/x.conf', 'etc/.conf'], ['etc/a/x.conf', 'x.conf']),
        ('**/*.conf', ['x.conf', 'a/x.conf', 'a/b/x.conf/y'], ['x.config', 'a']),
        ('a/**/z', ['a/z', 'a/b/z', 'a/b/c/z/y'], ['z', 'a/b', 'a']),
        ('a/**', ['a/b', 'a/b/c'], ['a', 'b']),
        ('**', ['a', 'a/b'], []),
        ('**/**/x', ['x', 'a/x', 'a/b/x'], ['a']),
        ('a?/[bc]', ['ab/b', 'ac/c'], ['a/b', 'ab/d']),
        ('a[*]', ['a*'], ['ab']),
        ('new\nline', ['new\nline'], ['new', 'line']),
        ('\udcff?', ['\udcff\udcfe'], ['\udcff']),
    ],
)
def test_patterns(pattern: str, paths: Sequence[str], others: Sequence[str]) -> None:
    assert [path for path in paths if not chosen(pattern, path)] == []
    assert [path for path in others if chosen(pattern, path)] == []


@pytest.mark.parametrize('pattern', ['', '.', '/', './/', '..', 'a/../b'])
def test_patterns_that_choose_nothing_of_their_own(pattern: str) -> None:
    with pytest.raises(e.ConfigError, match='include'):
        Patterns([pattern])


@pytest.mark.parametrize(
    'patterns', [['a', 'a/b'], ['a/**', '**/c'], ['**', 'a/b/c'], ['*', 'a/*/c', 'a/b']]
)
def test_patterns_of_what_others_choose_as_well(patterns: Sequence[str]) -> None:
    those = Patterns(patterns)
    found: set[int] = set()
    for path in ([b'a'], [b'a', b'b'], [b'a', b'b', b'c']):
        found.update(those.matched(those.at(path)))
    assert found == set(range(len(patterns)))


def test_nothing_below_is_known_without_a_look() -> None:
    patterns = Patterns(['a/b', 'c/*/d'])
    assert not patterns.at([b'x'])
    assert not patterns.at([b'a', b'x'])
    assert patterns.at([b'c', b'x'])
    assert not patterns.at([b'c', b'x', b'x'])


def extract(target: Path, levels: Sequence[bytes], *include: str) -> None:
    """A part of a chain, as a restore extracts it; in small blocks."""
    target.mkdir(exist_ok=True)
    engine = tar_engine(include=include)
    plan = None
    if os.listdir(target):
        states = [LevelState(state_of(level), 'level') for level in levels[::-1]]
        plan = engine.plan(str(target), states, False)
    engine.extract_part(str(target), newest_first(levels), iter, Warnings(), plan)


def state_of(archive: bytes) -> bytes:
    """The snapshot file of an archive made by hand."""
    records = [
        snapshot.DirectoryRecord(
            [b'0'] * 5, unit.name, [e for e in unit.dumpdir.entries() if e]
        )
        for unit in Members([archive])
        if unit.dumpdir is not None
    ]
    return snapshot.Snapshot(b'GNU tar-1.34-2', 1, 0, records).dump()


@dataclasses.dataclass
class Level:
    level: int
    archive: bytes

    def data(self) -> Generator[Block, None, None]:
        for at in range(0, len(self.archive), 700):
            yield self.archive[at : at + 700]


def newest_first(levels: Sequence[bytes]) -> list[Level]:
    return [Level(*each) for each in enumerate(levels)][::-1]


def listed(target: Path, levels: Sequence[bytes], *include: str) -> dict[bytes, Row]:
    found = {}
    for entry in tar_engine(include=include).entries(newest_first(levels)):
        assert entry.path not in found
        found[entry.path] = entry
    return found


def whole(target: Path, levels: Sequence[bytes]) -> None:
    """A chain, by tar alone."""
    target.mkdir()
    for level in levels:
        subprocess.run(
            ['tar', '-x', '--listed-incremental=/dev/null', '-p', f'-C{target}'],
            input=level,
            check=True,
        )


# A directory with a file.
D_X = directory(b'.', b'Dd') + directory(b'./d', b'Yx') + member(b'./d/x', b'0')

# By hand: two levels, and the paths that are there in the end.
CHAINS = {
    'deleted': (
        directory(b'.', b'Ya', b'Yb') + member(b'./a', b'0') + member(b'./b', b'0'),
        directory(b'.', b'Na'),
        {b'a': 0},
    ),
    'changed': (
        directory(b'.', b'Ya') + member(b'./a', b'0'),
        directory(b'.', b'Ya') + member(b'./a', b'1'),
        {b'a': 1},
    ),
    'listed, and not stored': (
        directory(b'.', b'Ya', b'Yb') + member(b'./a', b'0'),
        directory(b'.', b'Ya', b'Nb'),
        {b'a': 0},
    ),
    'unreadable directory': (D_X, directory(b'.', b'Nd'), {b'd': 0, b'd/x': 0}),
    'directory without a list': (
        D_X,
        directory(b'.', b'Dd') + block(b'./d/', b'5', mode=0o700),
        {b'd': 1, b'd/x': 0},
    ),
    'file for directory': (
        D_X,
        directory(b'.', b'Yd') + member(b'./d', b'1'),
        {b'd': 1},
    ),
    'directory for file': (
        directory(b'.', b'Yd') + member(b'./d', b'0'),
        directory(b'.', b'Dd') + directory(b'./d', b'Yx') + member(b'./d/x', b'1'),
        {b'd': 1, b'd/x': 1},
    ),
    'link for directory': (
        D_X,
        directory(b'.', b'Yd') + symlink(b'./d', b'elsewhere'),
        {b'd': 1},
    ),
    'no lists at all': (member(b'a', b'0'), member(b'b', b'1'), {b'a': 0, b'b': 1}),
    'new directory of the same name': (
        D_X,
        directory(b'.', b'Dd') + directory(b'./d', b'Yy') + member(b'./d/y', b'1'),
        {b'd': 1, b'd/y': 1},
    ),
    'renamed': (
        D_X,
        directory(b'.', b'De', b'R./d', b'T./e') + directory(b'./e', b'Nx'),
        {b'e': 1, b'e/x': 0},
    ),
    'renamed, and a new one in its place': (
        D_X,
        directory(b'.', b'Dd', b'De', b'R./d', b'T./e')
        + directory(b'./d', b'Yz')
        + directory(b'./e', b'Nx')
        + member(b'./d/z', b'1'),
        {b'd': 1, b'd/z': 1, b'e': 1, b'e/x': 0},
    ),
    'swapped': (
        directory(b'.', b'Dp', b'Dq')
        + directory(b'./p', b'Yx')
        + directory(b'./q', b'Yy')
        + member(b'./p/x', b'p')
        + member(b'./q/y', b'q'),
        directory(
            b'.', b'X.', b'R./p', b'T', b'R./q', b'T./p', b'R', b'T./q', b'Dp', b'Dq'
        )
        + directory(b'./p', b'Ny')
        + directory(b'./q', b'Nx'),
        {b'p': 1, b'q': 1, b'p/y': 0, b'q/x': 0},
    ),
    'moved out of a deleted directory': (
        directory(b'.', b'Do')
        + directory(b'./o', b'Dd', b'Yf')
        + directory(b'./o/d', b'Yx')
        + member(b'./o/f', b'0')
        + member(b'./o/d/x', b'0'),
        directory(b'.', b'Dd', b'R./o/d', b'T./d') + directory(b'./d', b'Nx'),
        {b'd': 1, b'd/x': 0},
    ),
}


@pytest.mark.parametrize('name', CHAINS)
def test_what_is_there_in_the_end(tmp_path: Path, name: str) -> None:
    low, high, expected = CHAINS[name]
    levels = [low + END, high + END]
    found = listed(tmp_path / 'x', levels)
    assert {path: entry.level for path, entry in found.items()} == expected
    # tar by itself comes to the same, and so do the parts.
    whole(tmp_path / 'whole', levels)
    tree = trees.describe(tmp_path / 'whole')
    assert set(tree) - {b'.'} == set(expected)
    for path in expected:
        target = tmp_path / path.hex()
        extract(target, levels, os.fsdecode(path))
        part = trees.describe(target)
        for below in part:
            if below == path or below.startswith(path + b'/'):
                assert trees.differences({path: tree[below]}, {path: part[below]}) == []
        assert path in part
        assert set(part) == {
            other
            for other in tree
            if other == b'.'
            or other == path
            or other.startswith(path + b'/')
            or path.startswith(other + b'/')
        }


NAME = b'n' * 80 + b'/' + b'm' * 80
LONG = {
    'posix': pax((b'path', b'./o/' + NAME)) + member(b'./o/short', b'0'),
    'gnu': long_name(b'./o/' + NAME) + member(b'./o/short', b'0', magic=GNU),
}


@pytest.mark.parametrize('form', LONG)
def test_long_names_are_renamed(tmp_path: Path, form: str) -> None:
    low = (
        directory(b'.', b'Do')
        + directory(b'./o', b'D' + b'n' * 80)
        + directory(b'./o/' + b'n' * 80, b'Y' + b'm' * 80)
        + LONG[form]
        + END
    )
    high = (
        directory(b'.', b'Dp', b'R./o', b'T./p')
        + directory(b'./p', b'D' + b'n' * 80)
        + directory(b'./p/' + b'n' * 80, b'N' + b'm' * 80)
        + END
    )
    extract(tmp_path / 'target', [low, high], '**/m*')
    assert (tmp_path / 'target' / 'p' / os.fsdecode(NAME)).read_bytes() == b'0'


LINKED = (
    directory(b'.', b'Da', b'Db', b'Yt')
    + directory(b'./a', b'Yone', b'Ytwo')
    + directory(b'./b', b'Yother')
    + member(b'./t', b'content')
    + hard_link(b'./a/one', b'./t')
    + hard_link(b'./a/two', b'./t')
    + hard_link(b'./b/other', b'./t')
    + END
)


def test_links_to_what_is_not_chosen(tmp_path: Path) -> None:
    extract(tmp_path / 'target', [LINKED], 'a')
    one, two = (tmp_path / 'target' / 'a' / name for name in ('one', 'two'))
    assert one.read_bytes() == b'content'
    assert one.samefile(two)
    assert not (tmp_path / 'target' / 't').exists()
    assert not (tmp_path / 'target' / 'b').exists()
    assert (tmp_path / 'target' / 'a').stat().st_mtime == 1_700_000_000


def test_link_to_what_a_newer_level_has_otherwise(tmp_path: Path) -> None:
    high = (
        directory(b'.', b'Da', b'Yt')
        + directory(b'./a', b'None')
        + member(b'./t', b'new')
        + END
    )
    extract(tmp_path / 'target', [LINKED, high], 'a/one', 't')
    assert (tmp_path / 'target' / 'a' / 'one').read_bytes() == b'content'
    assert (tmp_path / 'target' / 't').read_bytes() == b'new'


def test_link_to_nothing(tmp_path: Path) -> None:
    level = directory(b'.', b'Yl') + hard_link(b'./l', b'./nowhere') + END
    with pytest.raises(e.EngineError, match='nowhere'):
        extract(tmp_path / 'target', [level], 'l')


def test_older_levels_are_not_read_for_nothing(tmp_path: Path) -> None:
    high = directory(b'.', b'Ya', b'Nb') + member(b'./a', b'1') + END
    extract(tmp_path / 'target', [b'no archive', high], 'a')
    assert (tmp_path / 'target' / 'a').read_bytes() == b'1'
    with pytest.raises(e.EngineError, match='stops'):
        extract(tmp_path / 'target', [b'no archive', high], 'b')


@pytest.mark.parametrize('name', [b'../x', b'/x', b'.', b'./'])
def test_renames_of_what_is_not_there(tmp_path: Path, name: bytes) -> None:
    low = directory(b'.', b'Ya') + member(b'./a', b'0') + END
    for high in (
        directory(b'.', b'Na', b'R' + name, b'T./b') + END,
        directory(b'.', b'Na', b'R./b', b'T' + name) + END,
    ):
        with pytest.raises(e.UnsafeArchiveError, match='Refused'):
            listed(tmp_path / 'x', [low, high])


def test_nothing_matches(tmp_path: Path) -> None:
    level = directory(b'.', b'Ya') + member(b'./a', b'0') + END
    with pytest.raises(e.RestoreError, match="'x'"):
        extract(tmp_path / 'target', [level], 'a', 'x')


HARM = {**ESCAPES, **RECORDS}


@pytest.mark.parametrize('name', HARM)
def test_nothing_reaches_outside(tmp_path: Path, name: str) -> None:
    outside = tmp_path / 'outside'
    (outside / 'sub').mkdir(parents=True)
    (outside / 'sub' / 'victim').write_text('victim')
    before = trees.describe(outside)
    levels = [level + END for level in HARM[name]]
    for number, include in enumerate(['**', 'd', 'd/file', '**/file', 'q', 'x']):
        with contextlib.suppress(e.EngineError, e.RestoreError):
            extract(tmp_path / f'target{number}', levels, include)
        assert trees.describe(outside) == before


@pytest.mark.parametrize('include', ['d/file', 'd/s', '**/file'])
def test_a_link_on_the_way_is_not_followed(tmp_path: Path, include: str) -> None:
    level = (
        directory(b'.', b'Dd')
        + directory(b'./d', b'Yfile', b'Ds')
        + directory(b'./d/s', b'Yfile')
        + member(b'./d/file', b'0')
        + member(b'./d/s/file', b'0')
        + END
    )
    outside, target = tmp_path / 'outside', tmp_path / 'target'
    outside.mkdir()
    (outside / 's').mkdir(mode=0o711)
    target.mkdir()
    (target / 'd').symlink_to(outside)
    before = trees.describe(outside)
    with pytest.raises(e.RestoreError, match='target/d is not a directory'):
        extract(target, [level], include)
    assert trees.describe(outside) == before
    # Who chooses the link gets a directory in its place.
    extract(target, [level], 'd')
    assert (target / 'd' / 's' / 'file').read_bytes() == b'0'
    assert not (target / 'd').is_symlink()
    assert trees.describe(outside) == before


def test_what_is_in_the_way(tmp_path: Path) -> None:
    level = directory(b'.', b'Ya', b'Dd') + member(b'./a', b'0')
    level += directory(b'./d', b'Yx') + member(b'./d/x', b'0') + END
    target = tmp_path / 'target'
    (target / 'a' / 'kept').mkdir(parents=True)
    with pytest.raises(e.RestoreError, match='target/a is a directory'):
        extract(target, [level], 'a')
    assert (target / 'a' / 'kept').exists()
    (target / 'd' / 'x' / 'gone').mkdir(parents=True)
    (target / 'd' / 'y').touch()
    (target / 'beside').touch()
    extract(target, [level], 'd')
    assert sorted(os.listdir(target / 'd')) == ['x']
    assert (target / 'd' / 'x').read_bytes() == b'0'
    assert sorted(os.listdir(target)) == ['a', 'beside', 'd']


def test_a_directory_that_was_excluded_stays(tmp_path: Path) -> None:
    low = directory(b'.', b'Dd') + directory(b'./d', b'Yf', b'Nx', b'Yl')
    low += member(b'./d/f', b'0') + member(b'./d/l', b'1') + END
    high = directory(b'.', b'Dd') + directory(b'./d', b'Nf', b'Nx', b'Nl') + END
    target = tmp_path / 'target'
    for name in ('x', 'f', 'gone'):
        (target / 'd' / name / 'in it').mkdir(parents=True)
    extract(target, [low, high], 'd')
    assert sorted(os.listdir(target / 'd')) == ['f', 'l', 'x']
    assert (target / 'd' / 'x' / 'in it').is_dir()
    assert (target / 'd' / 'f').read_bytes() == b'0'


def test_what_cannot_be_replaced_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tar would leave another file in the place of a hard link, and say nothing."""
    target = tmp_path / 'target'
    (target / 'a').mkdir(parents=True)
    (target / 'a' / 'one').write_text('another')

    def refused(path: object, dir_fd: int) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, 'unlink', refused)
    with pytest.raises(e.RestoreError, match='a/one: Permission denied'):
        extract(target, [LINKED], 'a/one', 't')


def test_real_renames(tmp_path: Path) -> None:
    """As Freezer 19 has them, in both formats: with the snapshot file as it is."""
    for form in ('gnu', 'posix'):
        folder = tmp_path / form
        source, state = folder / 'source', folder / 'state'
        (source / 'a' / 'sub').mkdir(parents=True)
        (source / 'c').mkdir()
        long = 'l' * 120
        (source / 'a' / 'sub' / long).write_text('long')
        (source / 'a' / 'one').write_text('one')
        os.link(source / 'a' / 'one', source / 'a' / 'two')
        with (source / 'a' / 'holes').open('wb') as stream:
            stream.truncate(1 << 20)
            stream.seek(1 << 19)
            stream.write(b'x')
        levels = []
        for level in range(3):
            time.sleep(0.05)  # the kernel's tick: what is older was stored
            if level == 1:
                (source / 'a').rename(source / 'b')
            if level == 2:
                (source / 'b' / 'sub').rename(source / 'c' / 'bus')
                (source / 'b' / 'one').unlink()
            made = subprocess.run(
                [
                    *('tar', '-c', f'--format={form}', '--sparse', '--no-check-device'),
                    *(f'--listed-incremental={state}', f'-C{source}', '.'),
                ],
                check=True,
                stdout=subprocess.PIPE,
            )
            levels.append(made.stdout)
        assert b'T./b\0' in levels[1]
        whole(folder / 'whole', levels)
        tree = trees.describe(source)
        del tree[b'.']
        found = listed(folder, levels)
        assert set(found) == set(tree)
        assert found[b'b/holes'].level == 0
        for include in ('b', 'c/bus', 'c', 'b/two', '**/l*'):
            target = folder / include.replace('/', '-')
            extract(target, levels, include)
            part = trees.describe(target)
            del part[b'.']
            names = {p for p in tree if chosen(include, os.fsdecode(p))}
            ways = {p for p in tree if any(n.startswith(p + b'/') for n in names)}
            assert part.keys() == names | ways
            for path, entry in part.items():
                assert entry.digest == tree[path].digest
                assert entry.mode == tree[path].mode
                assert entry.mtime_ns // 10**9 == tree[path].mtime_ns // 10**9
