"""Walking trees by descriptor: deep ones, links, mount points."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.tests.deep import make_deep
from freezer.tests.mounts import mounting
from freezer.utils import tree

DEPTH = 3000


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """A limit that a descriptor for each component would exceed."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Other tests of this process may have left servers running.
    highest = max(map(int, os.listdir('/proc/self/fd')))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 128, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def walked(top: Path) -> list[int]:
    """The depth of every directory, in the order of a walk."""
    depths = []
    with tree.Folders(str(top)) as folders:
        for directory in tree.walk(folders, None):
            depths.append(len(directory.names))
            with tree.entries(directory.fd) as entries:
                for name, entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        directory.enter(name, None)
    return depths


@pytest.mark.usefixtures('few_descriptors')
def test_deep_tree(tmp_path: Path) -> None:
    """Deeper than PATH_MAX, with a second directory at each depth to return to."""
    make_deep(tmp_path / 'top', [b'd'] * DEPTH, beside=b'e')
    assert sorted(walked(tmp_path / 'top')) == sorted(
        [*range(DEPTH + 1), *range(1, DEPTH + 1)]
    )
    path = [b'd'] * DEPTH
    with tree.Folders(str(tmp_path)) as folders:
        for depth in (DEPTH, 100, DEPTH - 1, 0, 70):
            fd = folders.open([b'top', *path[:depth]])
            expected = [b'd', b'e'] if depth < DEPTH else [b'file']
            with tree.entries(fd) as entries:
                assert sorted(name for name, _ in entries) == expected
        tree.remove(folders, [b'top'])
        tree.remove(folders, [b'top'])
    assert list(tmp_path.iterdir()) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside, top = tmp_path / 'outside', tmp_path / 'top'
    (outside / 'kept').mkdir(parents=True)
    (top / 'd').mkdir(parents=True)
    (top / 'd' / 'link').symlink_to(outside)
    with tree.Folders(str(top)) as folders:
        with pytest.raises(NotADirectoryError):
            folders.open([b'd', b'link'])
        with pytest.raises(NotADirectoryError):
            tree.remove(folders, [b'd', b'link', b'kept'])
        tree.remove(folders, [b'd'])
    assert (outside / 'kept').is_dir()
    assert list(top.iterdir()) == []


def test_links_are_followed_if_that_is_wanted(tmp_path: Path) -> None:
    (tmp_path / 'd' / 'below').mkdir(parents=True)
    (tmp_path / 'link').symlink_to('d')
    with tree.Folders(str(tmp_path), follow=True) as folders:
        assert folders.open([b'link', b'below'])


def test_descriptors_are_closed(tmp_path: Path) -> None:
    make_deep(tmp_path / 'top', [b'd'] * 200)
    before = len(os.listdir('/proc/self/fd'))
    assert len(walked(tmp_path / 'top')) == 201
    assert len(os.listdir('/proc/self/fd')) == before


def test_directory_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / 'd').mkdir()
    with tree.Folders(str(tmp_path)) as folders:
        for directory in tree.walk(folders, None):
            directory.enter(b'missing', None)
            assert directory.names == []


@pytest.mark.root
def test_mount_points(tmp_path: Path) -> None:
    top = tmp_path / 'top \\ with\nall'
    for name in ('a', 'b c\td', 'plain'):
        (top / name).mkdir(parents=True)
    (top / 'file').touch()
    link = tmp_path / 'link'
    link.symlink_to(top)
    with mounting() as mount:
        mount('-t', 'tmpfs', 'none', top / 'b c\td')
        mount('--bind', top / 'plain', top / 'a')
        mount('--bind', top / 'file', top / 'file')
        expected = {b'a', b'b c\td', b'file'}
        assert tree.mount_points(str(top)) == expected
        assert tree.mount_points(str(link)) == expected
        with tree.Folders(str(top)) as folders, pytest.raises(OSError, match='busy'):
            tree.remove(folders, [b'a'])
