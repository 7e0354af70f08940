"""GNU tar's snapshot file, as tar itself makes and reads it."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freezer.engine.tar import snapshot
from freezer.exceptions import EngineError
from freezer.tests.commands import run_command


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / 'tree'
    (root / 'a' / 'deep').mkdir(parents=True)
    (root / 'b').mkdir()
    for path in ('top', 'a/one', 'a/deep/two', 'b/three', 'b/new\nline', 'b/ü'):
        (root / path).write_text('content')
    return root


def dump(tree: Path, state: Path) -> set[str]:
    """Archive what is new since the state, which is changed; the files in it."""
    archive = state.with_name('archive')
    options = ('--no-check-device', f'--listed-incremental={state}')
    run_command('tar', '-cf', archive, *options, '-C', tree, '.', check=True)
    listing = run_command('tar', '-tf', archive, '--quoting-style=escape', check=True)
    names = listing.stdout.splitlines()
    return {name.removeprefix('./') for name in names if not name.endswith('/')}


@pytest.fixture
def state(tree: Path, tmp_path: Path) -> Path:
    """Of a level 0; the files are older than any margin."""
    path = tmp_path / 'state'
    dump(tree, path)
    return path


def load(state: Path) -> snapshot.Snapshot:
    return snapshot.load(state.read_bytes())


def test_round_trip(state: Path) -> None:
    assert load(state).dump() == state.read_bytes()


def test_paths(state: Path) -> None:
    assert load(state).paths() == {
        *(b'top', b'a', b'b', b'a/one', b'a/deep', b'a/deep/two'),
        *(b'b/three', b'b/new\nline', 'b/ü'.encode()),
    }


def test_its_time_is_the_dumps(state: Path) -> None:
    assert abs(load(state).seconds - time.time()) < 60
    assert 0 <= load(state).nanoseconds < 10**9


def test_an_untouched_tree_gives_an_empty_increment(tree: Path, state: Path) -> None:
    time.sleep(0.02)
    found = load(state)
    found.seconds += 10
    state.write_bytes(found.dump())
    assert dump(tree, state) == set()


def test_forgotten_files_are_stored_again(tree: Path, state: Path) -> None:
    found = load(state)
    found.seconds += 10
    found.forget([b'b/three', b'a/deep'])
    assert b'b/three' not in found.paths()
    assert b'a/deep/two' not in found.paths()
    assert b'a/one' in found.paths()
    state.write_bytes(found.dump())
    assert dump(tree, state) == {'b/three', 'a/deep/two'}


def test_forgetting_nothing_and_what_is_not_there(state: Path) -> None:
    found = load(state)
    found.forget([])
    found.forget([b'nothing', b'a/on', b'a/one/more'])
    assert found.dump() == state.read_bytes()


def test_forgetting_does_not_take_names_that_begin_alike(
    tree: Path, tmp_path: Path
) -> None:
    (tree / 'ab').mkdir()
    (tree / 'ab' / 'x').touch()
    dump(tree, tmp_path / 'state')
    found = load(tmp_path / 'state')
    found.forget([b'a'])
    assert b'ab/x' in found.paths()
    assert not any(path.startswith(b'a/') for path in found.paths())


def test_the_next_level_sees_what_came_in_the_same_tick(
    tree: Path, state: Path
) -> None:
    """The kernel's clock for files lags behind the one tar reads."""
    found = load(state)
    before = found.seconds
    (tree / 'b' / 'three').write_text('changed')
    os.utime(tree / 'b' / 'three', (before - 1, before - 1))
    found.for_next_level(1)
    assert found.seconds < before
    state.write_bytes(found.dump())
    assert 'b/three' in dump(tree, state)


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'nonsense',
        b'GNU tar-1.34-1\n1\0002\0',
        b'GNU tar-1.34-2',
        b'GNU tar-1.34-2\n',
        b'GNU tar-1.34-2\nx\0y\0',
        b'GNU tar-1.34-2\n1\0',
        b'GNU tar-1.34-2\n1\0002\0000\0001\0002\0',
    ],
)
def test_what_is_no_snapshot_file(content: bytes) -> None:
    with pytest.raises(EngineError, match='snapshot file'):
        snapshot.load(content)


def test_one_that_is_cut_off_is_refused_or_shorter(state: Path) -> None:
    content = state.read_bytes()
    whole = len(load(state).directories)
    for size in range(len(content)):
        try:
            found = snapshot.load(content[:size])
        except EngineError:
            continue
        assert len(found.directories) <= whole


@given(st.binary())
def test_any_bytes_are_one_or_an_error(body: bytes) -> None:
    try:
        found = snapshot.load(b'GNU tar-1.34-2\n' + body)
    except EngineError:
        return
    found.paths()
    found.dump()


@pytest.mark.parametrize(
    'name, plain',
    [
        (b'.', b''),
        (b'./', b''),
        (b'./a/b', b'a/b'),
        (b'./a/', b'a'),
        (b'a', b'a'),
        (b'./.hidden', b'.hidden'),
    ],
)
def test_plain_path(name: bytes, plain: bytes) -> None:
    assert snapshot.plain_path(name) == plain
