"""The index that the tar engine makes: it is what the archives hold."""

import contextlib
import dataclasses
import errno
import os
import random
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from freezer.engine.engine import Archiving, Base, Warnings
from freezer.engine.index.file import IndexFile, local_copy
from freezer.engine.index.new import NewIndex
from freezer.engine.index.record import Record, Row, removed
from freezer.engine.index.state import merged
from freezer.engine.settings import EngineSettings
from freezer.engine.tar import units
from freezer.engine.tar.describe import names_digest
from freezer.engine.tar.excludes import Excludes
from freezer.engine.tar.guard import TargetGuard
from freezer.engine.tar.headers import Dumpdir
from freezer.engine.tar.indexer import Indexer
from freezer.engine.tar.scanner import Scanner
from freezer.engine.tar.tar import TarEngine
from freezer.exceptions import EngineError
from freezer.storage.levels import LevelPolicy, NoSuchBackup
from freezer.storage.local.storage import LocalStorage
from freezer.tests.archives import (
    END,
    cut,
    directory,
    hard_link,
    member,
    pax,
    symlink,
)
from freezer.tests.engines import EngineAgent, tar_engine
from freezer.tests.trees import make_tree, mutate_tree
from freezer.utils.blocks import Block


@dataclasses.dataclass
class Level:
    level: int
    archive: bytes
    state: Path
    index: IndexFile

    def data(self) -> Generator[Block, None, None]:
        yield self.archive


class LocalFile(NamedTuple):
    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def read(self, start: int, end: int) -> bytes:
        return self.path.read_bytes()[start:end]


def back_up(
    source: Path,
    below: Sequence[Level] = (),
    engine: TarEngine | None = None,
    later: int = 10,
) -> Level:
    """One more level, as if it was made some seconds later, so that no file counts as
    one that may still change."""
    level = len(below)
    folder = source.with_name(f'level-{level}-{random.randbytes(4).hex()}')
    folder.mkdir()
    base = Base(below[-1].state, [each.index for each in below]) if below else None
    index = NewIndex(folder / 'index')
    engine = engine or tar_engine()
    now = time.time_ns() + later * (level + 1) * 10**9
    made = Archiving(
        engine.source([str(source)]),
        base,
        folder / 'state',
        Warnings(),
        level,
        now,
        index,
    )
    archive = b''.join(engine.archive(made))
    path = index.finish({})
    assert path is not None
    copy = local_copy(LocalFile(path), folder / 'copy', 'INDEX')
    return Level(level, archive, made.state, copy)


def state(levels: Sequence[Level]) -> list[tuple[int, Record]]:
    return list(merged([each.index.parts() for each in levels]))


def listed(levels: Sequence[Level]) -> dict[bytes, Row]:
    """By reading the archives."""
    found = tar_engine().entries(reversed(levels))
    return {entry.path: entry for entry in found}


def paths(level: Level) -> set[bytes]:
    return {record.path for record in level.index.records()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / 'source'
    path.mkdir()
    return path


@pytest.mark.parametrize('seed', range(20))
def test_the_index_is_what_the_archives_hold(source: Path, seed: int) -> None:
    source.rmdir()
    make_tree(source, seed)
    levels: list[Level] = []
    for number in range(4):
        if number:
            mutate_tree(source, 100 * seed + number)
        levels.append(back_up(source, levels))
        found = {
            record.path: record.row(level)
            for level, record in state(levels)
            if record.path
        }
        expected = listed(levels)
        assert found.keys() == expected.keys()
        for path, entry in expected.items():
            # A directory that did not change has a member in each archive.
            level = found[path].level
            assert level == entry.level or entry.kind == 'directory'
            assert found[path]._replace(level=entry.level) == entry


def test_identities_are_those_of_the_files(source: Path) -> None:
    source.rmdir()
    make_tree(source, 1)
    for _level, record in state([back_up(source)]):
        status = os.lstat(os.path.join(os.fsencode(source), record.path))
        assert (record.inode, record.ctime_ns) == (status.st_ino, status.st_ctime_ns)
        assert record.mtime_ns == status.st_mtime_ns


def test_an_increment_holds_changes_only(source: Path) -> None:
    (source / 'a/b').mkdir(parents=True)
    for name in ('a/one', 'a/b/two', 'three'):
        (source / name).write_text(name)
    levels = [back_up(source)]
    levels.append(back_up(source, levels))
    assert paths(levels[1]) == set()
    (source / 'a/one').write_text('changed')
    (source / 'a/b/two').unlink()
    levels.append(back_up(source, levels))
    assert paths(levels[2]) == {b'a/one', b'a/b', b'a/b/two'}


def test_the_same_size_and_mtime(source: Path) -> None:
    file = source / 'file'
    file.write_text('version 1')
    status = file.stat()
    levels = [back_up(source)]
    file.write_text('VERSION 2')
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert b'file' in paths(back_up(source, levels))


def test_an_older_file_in_its_place(source: Path) -> None:
    (source / 'file').write_text('new')
    other = source.with_name('other')
    other.write_text('old')
    os.utime(other, (1, 1))
    levels = [back_up(source)]
    # Some file systems do not change the ctime of a file that is renamed.
    other.rename(source / 'file')
    assert b'file' in paths(back_up(source, levels))


def test_a_file_that_changed_a_moment_ago_is_archived_again(source: Path) -> None:
    """It may have changed again with the same ctime. Once more is enough."""
    (source / 'file').write_text('content')
    levels = [back_up(source, later=0)]
    assert not levels[0].index.find(b'file').inode  # type: ignore[union-attr]
    levels.append(back_up(source, levels))
    assert b'file' in paths(levels[1])
    levels.append(back_up(source, levels))
    assert paths(levels[2]) == set()


def test_a_clock_that_is_behind_archives_a_file_again_once(source: Path) -> None:
    (source / 'file').write_text('content')
    levels = [back_up(source, later=-1000)]
    levels.append(back_up(source, levels, later=-490))
    levels.append(back_up(source, levels, later=-320))
    assert [b'file' in paths(each) for each in levels] == [True, True, False]


def test_links_to_a_file_of_a_directory_that_moved(source: Path) -> None:
    """All names are archived again, or a restore would make two files of them."""
    (source / 'd').mkdir()
    (source / 'd/one').write_text('content')
    os.link(source / 'd/one', source / 'two')
    levels = [back_up(source)]
    (source / 'd').rename(source / 'e')
    levels.append(back_up(source, levels))
    kinds = {r.path: r.kind for _level, r in state(levels)}
    assert kinds.keys() == {b'', b'e', b'e/one', b'two'}
    assert {kinds[b'e/one'], kinds[b'two']} == {'file', 'link'}
    assert {b'e/one', b'two'} <= paths(levels[1])


def test_a_deep_tree(source: Path) -> None:
    """More directories than may be open at once."""
    folder = source.joinpath(*['d'] * 450)
    folder.mkdir(parents=True)
    (folder / 'file').touch()
    levels = [back_up(source)]
    assert len(state(levels)) == 452
    levels.append(back_up(source, levels))
    assert paths(levels[1]) == set()


def test_a_link_that_leads_back(source: Path) -> None:
    (source / 'd').mkdir()
    (source / 'd/up').symlink_to('..')
    engine = tar_engine(options={'dereference_symlink': 'soft'})
    with pytest.raises(EngineError, match=r"d/up' leads back to '.*source'"):
        back_up(source, engine=engine)


def test_a_single_file(source: Path) -> None:
    file = source / 'file'
    file.write_text('content')
    levels = [back_up(file)]
    assert [record.path for _level, record in state(levels)] == [b'file']
    levels.append(back_up(file, levels))
    assert paths(levels[1]) == set()
    file.write_text('changed')
    levels.append(back_up(file, levels))
    assert paths(levels[2]) == {b'file'}


PATTERNS = (
    '*.o', 'b', './b', 'b/c', 'a/*', 'a*d', '*/c', '[ab].o', '[!a].o', '[^a].o', 'x?',
    r'\*', '*', 'b/', '/b', 'é', '\udcff', '[', '.', '..', '**', '.*', 'a b',
)  # fmt: skip


@pytest.mark.parametrize('pattern', PATTERNS)
def test_excluded_is_what_tar_excludes(source: Path, pattern: str) -> None:
    """Above all, nothing counts as excluded that tar archives."""
    for name in (
        'a/d',
        'a.o',
        'b/c/e',
        'b.o',
        'x1/b',
        'é',
        '*',
        'a b',
        '.h',
        '\udcff',
        '[',
    ):
        path = source / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(name.encode(errors='replace').decode())
    engine = tar_engine(options={'exclude': [pattern]})
    everything = {record.path for _level, record in state([back_up(source)])}
    archived: set[bytes] = set()
    with contextlib.suppress(EngineError):  # excludes everything
        level = back_up(source, engine=engine)
        archived = {record.path for _level, record in state([level])}
    excludes = Excludes([pattern])
    assert archived - {b''} == {
        path for path in everything - {b''} if not excludes.matches(path) and archived
    }


def test_what_no_restore_would_accept_is_not_backed_up(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / 'directory').mkdir()
    for number in range(50):
        (source / f'directory/name-{number}').touch()
    monkeypatch.setattr(units, 'MAX_LIST', 100)
    with pytest.raises(EngineError, match=r"'\./.* cannot be backed up, because"):
        back_up(source)


def scanned(found: list[Record]) -> Scanner:
    """A scanner that adds the records to a list, and leaves nothing out."""

    def leave_out(path: bytes, why: str) -> None:
        pytest.fail(f'{path!r}: {why}')

    return Scanner(lambda record, _names: found.append(record), leave_out)


def test_an_archive_without_an_end(source: Path) -> None:
    (source / 'file').write_text('content')
    archive = back_up(source).archive
    scanner = scanned([])
    scanner.feed(archive[:3000])
    with pytest.raises(EngineError, match='without an end'):
        scanner.finish()
    scanner.feed(archive[3000:])
    scanner.finish()


@pytest.mark.parametrize('target', [b'./g', b'./d/f'])
def test_a_hard_link_to_a_file_that_the_archive_does_not_have(
    target: bytes, tmp_path: Path
) -> None:
    """A restore would refuse it, so no index is made, and nothing is committed."""
    first, link = member(b'./f', b'content'), hard_link(b'./g', b'./f')
    good, bad = Indexer(tmp_path), Indexer(tmp_path)
    for indexer, each in ((good, link), (bad, hard_link(b'./g', target + b'-gone'))):
        indexer.feed(b''.join([directory(b'./', b'Yf', b'Yg'), first, each, END]))
        indexer.finish()
    assert [each.path for each in good.records((), ())] == [b'', b'f', b'g']
    with pytest.raises(EngineError, match=r"hard link 'g' to '.*-gone', but not that"):
        list(bad.records((), ()))


TOP = directory(b'./', b'Dd', b'Yf', b'Yg')
LARGE = random.Random(1).randbytes(3000)
CHANGED = [
    # A file where a directory was listed, or the reverse.
    ([TOP, member(b'./d', LARGE)], [b'd']),
    ([TOP, directory(b'./f/')], [b'f']),
    # What is in a directory that is not there any more.
    ([TOP, member(b'./d/f', LARGE), symlink(b'./d/g', b'f')], [b'd/f', b'd/g']),
    ([TOP, symlink(b'./d', b'f'), directory(b'./d/s/')], [b'd', b'd/s']),
    ([TOP, directory(b'./d/'), member(b'./d', LARGE)], [b'd']),
    # A link to a file that is left out.
    ([TOP, member(b'./d', LARGE), hard_link(b'./f', b'./d')], [b'd', b'f']),
    ([TOP, pax((b'mtime', b'1.5')) + member(b'./d', LARGE)], [b'd']),
    ([TOP, pax((b'mtime', b'1.5')) + member(b'./d/f', LARGE)], [b'd/f']),
]


@pytest.mark.parametrize('step', [1, 512, 1000, 1 << 20])
@pytest.mark.parametrize(('members', 'expected'), CHANGED)
def test_what_would_not_restore_is_left_out(
    members: list[bytes], expected: list[bytes], step: int
) -> None:
    kept = [pax((b'mtime', b'1.5')) + member(b'./g', LARGE)]
    left_out: list[bytes] = []
    found: list[Record] = []
    scanner = Scanner(
        lambda record, _names: found.append(record),
        lambda path, _why: left_out.append(path),
    )
    stored = b''
    for part in cut(b''.join([*members, *kept, END]), step):
        stored += b''.join(scanner.feed(part))
    scanner.finish()
    assert left_out == expected
    guard = TargetGuard(None, strict=True)
    assert b''.join(guard.check([stored])) == stored
    again: list[Record] = []
    scanned(again).feed(stored)
    assert again == found
    assert found[-1].path == b'g'


def test_a_file_that_is_a_directory_now_which_tar_could_not_read(
    tmp_path: Path,
) -> None:
    """Its name is listed as before, so the list alone does not show a difference."""
    old, new = (Dumpdir(names, 0, len(names)) for names in (b'Yx\0\0', b'Dx\0\0'))
    assert names_digest(old) == names_digest(new)

    def indexer(list_: Dumpdir) -> Indexer:
        found = Indexer(tmp_path)
        size = names_digest(list_)
        top = Record(b'', 'directory', 0o755, 0, 0, '', '', size, 1, 0, 0, b'', 0, 1536)
        found.note(top, list_)
        return found

    below = indexer(old)
    file = Record(b'x', 'file', 0o644, 0, 0, '', '', 1, 1, 0, 0, b'', 1536, 2048)
    below.note(file, None)
    path = tmp_path / 'index'
    index = NewIndex(path)
    index.records = below.records((), ())
    index.properties['subject'] = '.'
    index.finish({})
    parts = local_copy(LocalFile(path), tmp_path / 'copy', 'INDEX').parts()
    found = list(indexer(new).records(((0, part) for part in parts), ()))
    assert found == [removed(b'x')]


def test_a_backup_without_its_index_is_not_committed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is made after the end of the stream, in the thread that reads tar."""

    def fail(*_arguments: object) -> Iterator[Record]:
        yield removed(b'file')
        raise OSError(errno.ENOSPC, 'the disk is full')

    storage = LocalStorage(str(tmp_path / 'storage'), 2**25)
    agent = EngineAgent(storage, EngineSettings(compression='none'))
    plan = agent.plan('host_name', LevelPolicy(), 1)
    monkeypatch.setattr(Indexer, 'records', fail)
    with pytest.raises(EngineError, match='no space is left for temporary files'):
        agent.backup(source, plan, 1)
    with pytest.raises(NoSuchBackup):
        agent.state('host_name')


@pytest.mark.parametrize('step', [1, 511, 512, 513, 1536, 4096])
def test_an_archive_in_blocks_of_any_size(source: Path, step: int) -> None:
    source.rmdir()
    make_tree(source, 3, files=10, size=3000)
    archive = back_up(source).archive
    whole: list[Record] = []
    scanned(whole).feed(archive)
    found: list[Record] = []
    scanner = scanned(found)
    stored = b''
    for start in range(0, len(archive), step):
        stored += b''.join(scanner.feed(archive[start : start + step]))
    scanner.finish()
    assert stored == archive
    assert found == whole
