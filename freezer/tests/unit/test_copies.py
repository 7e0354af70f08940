"""Copies of levels: what fits into a chain, what is the same, what is copied."""

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from freezer.storage import copies, levels, manifest, verify
from freezer.storage.backup import Backup, StoredLevel
from freezer.storage.base import StorageSettings
from freezer.storage.exceptions import Cancelled, Conflict, IntegrityError
from freezer.storage.local.storage import LocalStorage
from freezer.tests import killing
from freezer.utils.blocks import Block, PartStart

ZERO = 1_700_000_000
MARKER = {'engine_name': 'tar', 'compression': 'none', 'note': 'ü', 'new key': [1]}


def level(number: int, later: int = 0) -> Backup:
    return Backup('tar', 'host_name', ZERO, ZERO + later, number)


L0, L1, L1_LATER, L2 = level(0), level(1, 10), level(1, 20), level(2, 30)


@pytest.mark.parametrize(
    'backup, source, there, reason',
    [
        (L0, {L0}, set(), ''),
        (L1, {L0, L1}, {L0}, ''),
        (L1, {L0, L1}, {L0, L1}, ''),
        (L1_LATER, {L0, L1, L1_LATER}, {L0, L1}, ''),
        (L1, {L1}, {L0}, 'a level below it is missing'),
        (L1, {L0, L1}, set(), 'builds on 0_'),
        # Made on level 1, and would be restored on the later one.
        (L2, {L0, L1, L2}, {L0, L1, L1_LATER}, f'builds on 1_{ZERO + 10}, and would'),
        # The same of a level that is there.
        (L1_LATER, {L0, L1_LATER}, {L0, L1, L2}, f'2_{ZERO + 30} there, which the'),
    ],
)
def test_misplaced(
    backup: Backup, source: set[Backup], there: set[Backup], reason: str
) -> None:
    found = copies.misplaced(backup, source, there)
    assert reason in found
    assert bool(found) == bool(reason)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., StoredLevel]:
    """Make a level on a storage of this name."""

    def make(
        name: str,
        backup: Backup = L0,
        blocks: Iterable[Block | PartStart] = (b'one', b'two'),
        marker: Any = MARKER,
        state: bytes = b'state',
        index: bytes | None = b'index',
    ) -> StoredLevel:
        storage = storage_at(tmp_path / name)
        storage.prepare()
        written = storage.begin(backup).write(iter(blocks))
        files = tmp_path / 'state', tmp_path / 'index'
        files[0].write_bytes(state)
        if index is not None:
            files[1].write_bytes(index)
        written.commit(files[0], marker, None if index is None else files[1])
        return StoredLevel(storage, backup)

    return make


def storage_at(path: Path) -> LocalStorage:
    return LocalStorage.from_settings(StorageSettings(str(path), 1))


class Copying:
    """Copies a level to another storage."""

    def __init__(self, stored: StoredLevel, folder: Path) -> None:
        self.target = copies.Target(storage_at(folder / 'target'))
        self.target.prepare()
        self.cancellation = copies.Cancellation()
        self.count = 0
        temporary = folder / 'temporary'
        temporary.mkdir(exist_ok=True)
        chain = {each.backup for each in levels.committed(stored.storage)}
        self._copy = copies.LevelCopy(
            *(stored, chain, self.target, temporary, self.cancellation, self._add)
        )
        self.there = StoredLevel(self.target.storage, stored.backup)

    def _add(self, size: int) -> None:
        self.count += size

    def run(self, wait: Callable[[], None] = lambda: None) -> None:
        self._copy.run(wait)

    @property
    def is_empty(self) -> bool:
        root = self.target.storage.storage_path
        return not [*self.target.storage.list_tree(root)]


def test_parts_are_copied(make: Callable[..., StoredLevel], tmp_path: Path) -> None:
    blocks = [PartStart('b'), b'one', b'two', PartStart('a'), PartStart('c'), b'3']
    stored = make('source', blocks=blocks)
    copying = Copying(stored, tmp_path)
    copying.run()
    there = copying.there
    found = [(part, b''.join(each.blocks())) for part, each in there.streams.items()]
    assert found == [('b', b'onetwo'), ('a', b''), ('c', b'3')]
    assert copying.count == 7
    assert copies.content(there.marker) == MARKER
    assert there.checked_engine_metadata() == b'state'
    assert there.index is not None
    assert there.index.read(0, 5) == b'index'
    assert copies.difference(stored, there) == ''
    assert copies.difference(stored, there, data=True) == ''


@pytest.mark.parametrize(
    'changes, reason',
    [
        ({'marker': {**MARKER, 'note': 'u'}}, 'another note'),
        ({'marker': {k: v for k, v in MARKER.items() if k != 'note'}}, 'another note'),
        ({'state': b'STATE'}, 'engine file'),
        ({'blocks': [b'onetw']}, 'has 5 bytes there, and 6 here'),
        ({'blocks': [b'ONEtwo']}, 'other contents'),
        ({'blocks': [PartStart('a'), b'onetwo']}, 'other parts'),
        ({'index': None}, ''),
        ({'index': b'other'}, ''),
        ({'marker': {**MARKER, manifest.SEAL_KEY: 'x'}}, ''),
        ({}, ''),
    ],
)
def test_difference(
    make: Callable[..., StoredLevel], changes: dict[str, Any], reason: str
) -> None:
    found = copies.difference(make('one'), make('two', **changes))
    assert reason in found
    assert bool(found) == bool(reason)


def test_a_changed_marker_is_not_copied(
    make: Callable[..., StoredLevel], tmp_path: Path
) -> None:
    stored = make('source')
    path = Path(stored.paths.marker)
    path.write_bytes(path.read_bytes().replace(b'"none"', b'"zstd"'))
    copying = Copying(stored, tmp_path)
    with pytest.raises(IntegrityError, match='was modified or damaged'):
        copying.run()
    assert copying.is_empty


def test_files_that_nothing_names(
    make: Callable[..., StoredLevel], tmp_path: Path
) -> None:
    """A level without manifest, as by Freezer 19: all its files must be known."""
    stored = make('source')
    folder = Path(stored.paths.folder)
    marker = Path(stored.paths.marker)
    marker.write_bytes(b'{"engine_name": "tar"}')
    copying = Copying(StoredLevel(stored.storage, L0), tmp_path)
    with pytest.raises(IntegrityError, match='is not a file of a backup by Freezer'):
        copying.run()
    for name in ('digests/00000000', 'manifest', 'index'):
        (folder / name).unlink()
    (folder / 'segments').mkdir()
    (folder / 'segments' / '00000001').write_bytes(b'x')
    with pytest.raises(IntegrityError, match='the segments are not those of its data'):
        Copying(StoredLevel(stored.storage, L0), tmp_path).run()
    (folder / 'segments' / '00000001').unlink()
    copying = Copying(StoredLevel(stored.storage, L0), tmp_path)
    copying.run()
    assert copying.there.stream().manifest is not None
    assert b''.join(copying.there.stream().blocks()) == b'onetwo'
    assert copies.difference(StoredLevel(stored.storage, L0), copying.there) == ''
    (folder / 'data').write_bytes(b'')
    (tmp_path / 'target').rename(tmp_path / 'done')
    with pytest.raises(IntegrityError, match='is empty: its upload failed'):
        Copying(StoredLevel(stored.storage, L0), tmp_path).run()


def test_cancelled_while_it_waits(
    make: Callable[..., StoredLevel], tmp_path: Path
) -> None:
    copying = Copying(make('source'), tmp_path)
    with pytest.raises(Cancelled):
        copying.run(copying.cancellation.set)
    assert copying.is_empty


def test_a_source_that_hangs(make: Callable[..., StoredLevel], tmp_path: Path) -> None:
    stored, hangs = make('source'), threading.Event()
    copying = Copying(stored, tmp_path)

    def blocks() -> Iterable[Block]:
        yield b'one'
        threading.Thread(target=copying.cancellation.set).start()
        hangs.wait(60)

    stored.stream().blocks = blocks  # type: ignore[method-assign, assignment]
    with pytest.raises(Cancelled):
        copying.run()
    hangs.set()
    assert copying.is_empty


def test_the_chain_changes_meanwhile(
    make: Callable[..., StoredLevel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the commit: retention removes the base, or another agent adds a base."""
    monkeypatch.setattr(copies, 'LISTING_DELAYS', (0, 0))
    zero, one, two = (make('source', each) for each in (L0, L1, L2))
    with pytest.raises(Conflict, match='would be restored with nothing there'):
        Copying(one, tmp_path).run()
    copying = Copying(zero, tmp_path)
    assert copying.is_empty
    copying.run()
    Copying(one, tmp_path).run()
    with pytest.raises(Conflict, match=f'would be restored with 1_{ZERO + 20} there'):
        Copying(two, tmp_path).run(lambda: _commit(make, L1_LATER))
    found = levels.committed(copying.target.storage)
    assert [each.backup for each in found] == [L0, L1, L1_LATER]


def _commit(make: Callable[..., StoredLevel], backup: Backup) -> None:
    make('target', backup)


def test_a_file_is_removed_meanwhile(
    make: Callable[..., StoredLevel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an agent that takes the copy for dead: no level is listed that is not whole,
    and there is no exit 0."""
    monkeypatch.setattr(copies, 'LISTING_DELAYS', (0, 0))
    copying = Copying(make('source'), tmp_path)
    with pytest.raises(Conflict, match='manifest is missing'):
        copying.run(lambda: copying.target.storage.remove_unfinished(L0))
    assert copying.is_empty


def test_a_store_that_lists_late(
    make: Callable[..., StoredLevel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, 'LISTING_DELAYS', (0, 0, 0))
    stored = [make('source', each) for each in (L0, L1)]
    Copying(stored[0], tmp_path).run()
    listed, calls = levels.chains, 0

    def late(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        return listed(*given) if calls == 3 else {}

    monkeypatch.setattr(levels, 'chains', late)
    Copying(stored[1], tmp_path).run()
    assert calls == 3


def test_a_live_copy_is_left_alone(
    make: Callable[..., StoredLevel], tmp_path: Path
) -> None:
    """Its entry in the journal is locked; that of a dead one is not."""
    stored = make('source')
    copying = Copying(stored, tmp_path)
    _pending, entry = copying.target.begin(L0)
    copying.target.prepare()
    with pytest.raises(Conflict, match='being written by another agent, or was'):
        copying.run()
    assert entry._stream is not None
    entry._stream.close()
    copying.target.prepare()
    copying.run()
    assert not list((Path.home() / '.freezer' / 'copies').iterdir())


def test_killed_at_each_step(make: Callable[..., StoredLevel], tmp_path: Path) -> None:
    """Just before each change of the file system: what is listed is whole, and the next
    copy goes on there, without doing anything twice."""
    stored = [make('source', each) for each in (L0, L1)]
    (tmp_path / 'target').mkdir()
    target = storage_at(tmp_path / 'target')
    kept: dict[str, int] = {}
    for step in itertools.count(1):
        status = _in_fork(lambda step=step: _copy_all(stored, tmp_path, step))  # type: ignore[misc]
        there = levels.committed(target)
        for each in there:
            found = verify.examine(each, data=True)
            assert found is not None
            assert found.problems == ()
            assert found.missing == ()
        markers = {each.paths.marker: os.stat(each.paths.marker) for each in there}
        assert kept.items() <= {k: v.st_mtime_ns for k, v in markers.items()}.items()
        kept = {k: v.st_mtime_ns for k, v in markers.items()}
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert step > 15
    assert [each.backup for each in there] == [L0, L1]
    names = [path for path, _size in target.list_tree(target.storage_path)]
    assert not [name for name in names if name.endswith('.partial')]
    assert not list((Path.home() / '.freezer' / 'copies').glob('*.json'))


def _in_fork(act: Callable[[], None]) -> int:
    """Act in another process. :returns: its status"""
    process = os.fork()
    if not process:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(process, 0)[1]


def _copy_all(stored: Sequence[StoredLevel], folder: Path, step: int) -> None:
    killing.kill_before(step)
    for each in stored:
        copying = Copying(each, folder)
        there = {one.backup for one in levels.committed(copying.target.storage)}
        if each.backup not in there:
            copying.run()
