"""Symbolic links on the way to a file that is written."""

import os
from pathlib import Path

import pytest

from freezer.utils import trusted

NOBODY = 65534
REFUSED = 'another user owns or could have placed'

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason='makes links of others')


def write(path: Path | str, text: str = 'x') -> None:
    with open(path, 'a', opener=trusted.opener) as stream:
        stream.write(text)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / 'victim' / 'file'
    path.parent.mkdir()
    path.write_text('untouched')
    return path


def test_links_of_this_user_are_followed(tmp_path: Path, victim: Path) -> None:
    (tmp_path / 'a').symlink_to('victim')
    (tmp_path / 'b').symlink_to(tmp_path / 'a' / '..' / 'a')
    (tmp_path / 'c').symlink_to('b/file')
    write(tmp_path / 'c', ', 1')
    write(tmp_path / 'b' / 'file', ', 2')
    assert victim.read_text() == 'untouched, 1, 2'
    write(tmp_path / 'b' / 'new')
    assert (victim.parent / 'new').read_text() == 'x'


def test_links_of_root_are_followed(tmp_path: Path) -> None:
    with open(tmp_path / 'out', 'w') as stream:
        write(f'/dev/fd/{stream.fileno()}', 'by its number')
        write(f'/proc/self/fd/{stream.fileno()}', ', twice')
    assert (tmp_path / 'out').read_text() == 'by its number, twice'


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'folder').mkdir()
    monkeypatch.chdir(tmp_path / 'folder')
    write('../file')
    write('./other')
    assert (tmp_path / 'file').exists()
    assert (tmp_path / 'folder' / 'other').exists()


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write(tmp_path / 'no' / 'file')
    assert caught.value.filename == str(tmp_path / 'no' / 'file')
    (tmp_path / 'loop').symlink_to('loop')
    with pytest.raises(OSError, match='Too many levels'):
        write(tmp_path / 'loop')
    trusted.check(tmp_path / 'no' / 'file')


@needs_root
@pytest.mark.parametrize('absolute', [True, False])
def test_a_link_of_another_user(tmp_path: Path, victim: Path, absolute: bool) -> None:
    link = tmp_path / 'link'
    link.symlink_to(victim if absolute else 'victim/file')
    os.lchown(link, NOBODY, NOBODY)
    with pytest.raises(PermissionError, match=REFUSED):
        write(link)
    with pytest.raises(PermissionError, match=REFUSED):
        trusted.check(link)
    assert victim.read_text() == 'untouched'


@needs_root
def test_a_link_that_creates_a_file(tmp_path: Path, victim: Path) -> None:
    link = tmp_path / 'link'
    link.symlink_to('victim/new')
    os.lchown(link, NOBODY, NOBODY)
    with pytest.raises(PermissionError, match=REFUSED):
        write(link)
    with pytest.raises(PermissionError, match=REFUSED):
        trusted.check(link)
    assert not (victim.parent / 'new').exists()


@needs_root
def test_a_directory_of_another_user_on_the_way(tmp_path: Path, victim: Path) -> None:
    """The links are root's, and somebody else can exchange them."""
    home = tmp_path / 'home'
    home.mkdir()
    (home / 'logs').symlink_to(victim.parent)
    os.chown(home, NOBODY, NOBODY)
    with pytest.raises(PermissionError, match=REFUSED):
        write(home / 'logs' / 'file')
    # A file there is followed by no link.
    write(home / 'plain')


@pytest.mark.parametrize(('mode', 'good'), [(0o777, False), (0o1777, True)])
def test_a_directory_of_everyone(
    tmp_path: Path, victim: Path, mode: int, good: bool
) -> None:
    shared = tmp_path / 'shared'
    shared.mkdir()
    shared.chmod(mode)
    (shared / 'link').symlink_to(victim)
    if good:
        write(shared / 'link')
        return
    with pytest.raises(PermissionError, match=REFUSED):
        write(shared / 'link')


@needs_root
def test_a_link_of_another_user_behind_one_of_ours(
    tmp_path: Path, victim: Path
) -> None:
    (tmp_path / 'theirs').symlink_to(victim)
    os.lchown(tmp_path / 'theirs', NOBODY, NOBODY)
    (tmp_path / 'ours').symlink_to('theirs')
    with pytest.raises(PermissionError, match=REFUSED):
        write(tmp_path / 'ours')
