"""The checksum of a tree of files."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from freezer.exceptions import ConfigError
from freezer.utils.checksum import PREFIX, checksum, compare


def make_tree(root: Path) -> Path:
    (root / 'folder').mkdir(parents=True)
    (root / 'folder' / 'file').write_bytes(b'content')
    (root / 'empty').mkdir()
    (root / 'link').symlink_to('folder/file')
    (root / os.fsdecode(b'\xff name\n')).write_bytes(b'')
    return root


def members(root: Path) -> list[bytes]:
    return [b'./' + bytes(path.relative_to(root)) for path in root.rglob('*')]


def nothing_skipped(text: str) -> None:
    raise AssertionError(text)


def of(root: Path, follow: bool = False) -> str:
    return checksum(str(root), members(root), follow, nothing_skipped)


def test_the_same_tree_elsewhere(tmp_path: Path) -> None:
    first, second = make_tree(tmp_path / 'a'), make_tree(tmp_path / 'b')
    assert of(first).startswith(PREFIX)
    assert of(first) == of(second)
    os.utime(second / 'folder' / 'file', (1, 1))
    (second / 'folder' / 'file').chmod(0o600)
    assert of(first) == of(second)


def test_order_and_spelling_do_not_matter(tmp_path: Path) -> None:
    root = make_tree(tmp_path)
    spelled = [b'.', b'./', *reversed(members(root)), b'folder/', b'./folder/file']
    assert checksum(str(root), spelled, False, nothing_skipped) == of(root)


def instead(path: Path) -> Path:
    """Make room for something else of that name."""
    if path.is_symlink():
        path.unlink()
    else:
        path.rmdir()
    return path


CHANGES: dict[str, Callable[[Path], object]] = {
    'content': lambda root: (root / 'folder/file').write_bytes(b'contenT'),
    'length': lambda root: (root / 'folder/file').write_bytes(b'content\0'),
    'new file': lambda root: (root / 'new').touch(),
    'missing file': lambda root: (root / 'folder/file').unlink(),
    'missing folder': lambda root: (root / 'empty').rmdir(),
    'name': lambda root: (root / 'empty').rename(root / 'empty2'),
    'moved': lambda root: (root / 'folder/file').rename(root / 'empty/file'),
    'target of a link': lambda root: instead(root / 'link').symlink_to('empty'),
    'link made a file': lambda root: instead(root / 'link').write_bytes(b'folder/file'),
    'folder made a file': lambda root: instead(root / 'empty').touch(),
}


@pytest.mark.parametrize('change', CHANGES.values(), ids=CHANGES)
def test_changes_show(tmp_path: Path, change: Callable[[Path], object]) -> None:
    root = make_tree(tmp_path)
    before = of(root)
    change(root)
    assert of(root) != before


def test_followed_links_are_what_they_point_to(tmp_path: Path) -> None:
    linked, plain = make_tree(tmp_path / 'a'), make_tree(tmp_path / 'b')
    (plain / 'link').unlink()
    (plain / 'link').write_bytes(b'content')
    assert of(linked, follow=True) == of(plain, follow=False)
    assert of(linked) != of(plain)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    root = make_tree(tmp_path)
    skipped: list[str] = []
    found = checksum(str(root), [*members(root), b'gone'], False, skipped.append)
    assert found == of(root)
    assert len(skipped) == 1
    assert 'gone' in skipped[0]


def test_compare() -> None:
    assert compare(PREFIX + 'a', PREFIX + 'a')
    assert not compare(PREFIX + 'a', PREFIX + 'b')
    with pytest.raises(ConfigError, match='Freezer 19'):
        compare('a' * 64, PREFIX + 'a')
