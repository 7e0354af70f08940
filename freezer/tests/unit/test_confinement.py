"""What keeps tar in its target, each net alone: real tar, with the flags of a restore.

Without any of them each of these archives does harm; else the tests would show nothing.
"""

import contextlib
import errno
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from freezer.engine.engine import Extractor, Warnings
from freezer.engine.tar.guard import TargetGuard
from freezer.exceptions import EngineError, UnsafeArchiveError
from freezer.tests import archives, trees
from freezer.tests.engines import tar_engine
from freezer.utils import landlock
from freezer.utils.blocks import Block

HARM = {
    name: levels
    for name, levels in {**archives.ESCAPES, **archives.RECORDS}.items()
    # Whether an inode is used again is for the file system to say.
    if not name.startswith('what comes back')
}
SAYS = 'every member is checked before tar reads it'


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / 'target'
    path.mkdir()
    return path


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / 'outside'
    (path / 'sub').mkdir(parents=True)
    (path / 'sub' / 'victim').write_text('victim')
    return path


@pytest.fixture
def no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(_guard: TargetGuard, chunks: Iterable[Block]) -> Iterator[bytes]:
        return map(bytes, chunks)

    monkeypatch.setattr(TargetGuard, 'check', check)


@pytest.fixture
def no_landlock(monkeypatch: pytest.MonkeyPatch) -> None:
    def version() -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(landlock, 'version', version)


def extractor(target: Path) -> Extractor:
    return tar_engine().extractor(str(target), None, Warnings())


def extract(target: Path, levels: Iterable[bytes]) -> None:
    """Extract a chain as a restore does."""
    extracts = extractor(target)
    for level in levels:
        extracts.extract(iter([level + archives.END]))


def described(outside: Path) -> object:
    """A tree, down to what a new hard link changes of a file."""
    return {
        path: (entry, os.lstat(os.fsencode(outside) + b'/' + path).st_ctime_ns)
        for path, entry in trees.describe(outside).items()
    }


def contents(outside: Path) -> object:
    """What Landlock protects: names and bytes, not modes and times."""
    return {
        path: (entry.kind, entry.digest, entry.target, entry.links)
        for path, entry in trees.describe(outside).items()
    }


@pytest.mark.parametrize('name', HARM)
@pytest.mark.usefixtures('no_guard', 'no_landlock')
def test_harm_without_any(target: Path, outside: Path, name: str) -> None:
    before = described(outside)
    # Most of them end with status 0.
    with contextlib.suppress(EngineError):
        extract(target, HARM[name])
    assert described(outside) != before


@pytest.mark.parametrize('name', HARM)
@pytest.mark.usefixtures('no_landlock')
def test_guard_alone(
    target: Path, outside: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = described(outside)
    caplog.set_level(logging.INFO)
    with pytest.raises(UnsafeArchiveError):
        extract(target, HARM[name])
    assert described(outside) == before
    reason = 'Landlock is not available (Function not implemented)'
    assert f'{SAYS}; {reason}' in caplog.text


@pytest.mark.parametrize('name', HARM)
@pytest.mark.usefixtures('no_guard')
def test_landlock_alone(
    target: Path, outside: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    why_not = landlock.unavailable_reason(str(target))
    if why_not is not None:
        extractor(target)
        assert f'{SAYS}; Landlock is not available ({why_not})' in caplog.text
        return
    before = contents(outside)
    with pytest.raises(EngineError, match='tar could not extract'):
        extract(target, HARM[name])
    assert contents(outside) == before
    said = f'Landlock {landlock.version()} keeps tar from writing outside of {target}'
    assert f'{SAYS}, and {said}' in caplog.text
    assert caplog.text.count(SAYS) == 1


def test_what_an_archive_may_have_gets_through(target: Path) -> None:
    """With both: links across directories, renames by way of a temporary directory."""
    extract(
        target,
        [
            archives.directory(b'.', b'Da', b'Db')
            + archives.directory(b'./a', b'Yone')
            + archives.directory(b'./b', b'Yup', b'Yone')
            + archives.member(b'./a/one', b'one')
            + archives.hard_link(b'./b/one', b'./a/one')
            + archives.symlink(b'./b/up', b'../..'),
            archives.directory(
                *(b'.', b'X.', b'R./a', b'T', b'R./b', b'T./a', b'R', b'T./b'),
                *(b'Da', b'Db'),
            )
            + archives.member(b'./b/two', b'two'),
        ],
    )
    assert (target / 'a' / 'one').read_text() == 'one'
    assert (target / 'a' / 'one').stat().st_nlink == 2
    assert os.readlink(target / 'a' / 'up') == '../..'
    assert (target / 'b' / 'two').read_text() == 'two'
