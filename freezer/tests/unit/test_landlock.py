"""The kernel keeps a thread, and what it starts, from writing elsewhere."""

import errno
import functools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from freezer.tests.agent import NO_LANDLOCK, ROOT
from freezer.tests.commands import run_command
from freezer.utils import landlock


def make_place(path: Path) -> Path:
    (path / 'folder').mkdir(parents=True)
    (path / 'file').write_text('content')
    return path


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    return make_place(tmp_path / 'inside')


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    return make_place(tmp_path / 'outside')


def has_landlock() -> bool:
    try:
        return landlock.version() >= 2
    except OSError:
        return False


def acts(place: Path) -> dict[str, Callable[[], object]]:
    """All that changes what names there are, or what files hold."""
    one, two = place / 'file', place / 'folder' / 'new'
    return {
        'write': lambda: one.write_text('changed'),
        'append': lambda: os.close(os.open(one, os.O_WRONLY | os.O_APPEND)),
        'make': lambda: (place / 'new').touch(),
        'make a directory': lambda: (place / 'new').mkdir(),
        'make a symbolic link': lambda: (place / 'new').symlink_to('x'),
        'make a fifo': lambda: os.mkfifo(place / 'new'),
        'remove': lambda: one.unlink(),
        'remove a directory': lambda: (place / 'folder').rmdir(),
        'rename': lambda: one.rename(place / 'new'),
        'rename elsewhere': lambda: one.rename(two),
        'link': lambda: os.link(one, place / 'new'),
        'link elsewhere': lambda: os.link(one, two),
    }


ACTS = sorted(acts(Path()))


@pytest.mark.parametrize('name', ACTS)
def test_inside(inside: Path, name: str) -> None:
    if has_landlock():
        landlock.run_confined(str(inside), acts(inside)[name])
    else:
        assert landlock.unavailable_reason(str(inside))


@pytest.mark.parametrize('name', ACTS)
def test_outside(inside: Path, outside: Path, name: str) -> None:
    act = acts(outside)[name]
    # Without Landlock it is not done either.
    with pytest.raises(OSError) as caught:
        landlock.run_confined(str(inside), act)
    if has_landlock():
        assert caught.value.errno in (errno.EACCES, errno.EXDEV)
    else:
        assert landlock.unavailable_reason(str(inside)) == caught.value.strerror
    assert sorted(os.listdir(outside)) == ['file', 'folder']
    assert (outside / 'file').read_text() == 'content'
    # This thread can.
    act()


@pytest.mark.skipif(os.geteuid() != 0, reason='devices are made by root')
@pytest.mark.root
def test_devices(inside: Path, outside: Path) -> None:
    def node(place: Path) -> Callable[[], None]:
        return lambda: os.mknod(place / 'null', 0o020666, os.makedev(1, 3))

    with pytest.raises(OSError):
        landlock.run_confined(str(inside), node(outside))
    assert not (outside / 'null').exists()
    if has_landlock():
        landlock.run_confined(str(inside), node(inside))


def test_in_and_out(inside: Path, outside: Path) -> None:
    for old, new in ((inside, outside), (outside, inside)):
        for act in (os.rename, os.link):
            move = functools.partial(act, old / 'file', new / 'new')
            with pytest.raises(OSError):
                landlock.run_confined(str(inside), move)
            assert (old / 'file').exists()
            assert not (new / 'new').exists()


def test_children_are_held(inside: Path, outside: Path) -> None:
    """And what these start; reading is free, and so is /dev/null."""
    script = (
        f'cat "{outside}/file" >/dev/null || exit 1\n'
        f'touch "{inside}/made"\n'
        f'sh -c \'touch "{outside}/made"\' || exit 3'
    )

    def act() -> int:
        return run_command('sh', '-c', script).returncode

    if has_landlock():
        assert landlock.run_confined(str(inside), act) == 3
        assert (inside / 'made').exists()
    else:
        with pytest.raises(OSError):
            landlock.run_confined(str(inside), act)
    assert not (outside / 'made').exists()


def test_others_are_not_held(inside: Path, outside: Path) -> None:
    def held() -> list[str]:
        lines = Path('/proc/self/status').read_text().splitlines()
        return [line for line in lines if line.startswith('NoNewPrivs')]

    before = held()
    landlock.unavailable_reason(str(inside))
    assert not [t for t in threading.enumerate() if t.name.startswith('landlock')]
    assert held() == before
    (outside / 'new').touch()
    subprocess.run(['touch', outside / 'newer'], check=True)


def test_target_by_a_link_and_on_another_file_system(
    inside: Path, outside: Path, tmp_path: Path
) -> None:
    (tmp_path / 'link').symlink_to('inside')
    places = [tmp_path / 'link']
    if os.access('/dev/shm', os.W_OK):
        places.append(Path('/dev/shm') / f'freezer-{os.getpid()}')
        places[-1].mkdir()
    try:
        for place in places:
            with pytest.raises(OSError):
                landlock.run_confined(str(place), (outside / 'new').touch)
            if has_landlock():
                landlock.run_confined(str(place), (place / 'new').touch)
                landlock.run_confined(str(place), (place / 'new').unlink)
    finally:
        for place in places[1:]:
            place.rmdir()
    assert not (outside / 'new').exists()


def test_errors_of_the_act_are_its_own(inside: Path) -> None:
    def act() -> None:
        raise KeyError('mine')

    with pytest.raises((KeyError, OSError)) as caught:
        landlock.run_confined(str(inside), act)
    assert isinstance(caught.value, KeyError) == has_landlock()


@pytest.mark.parametrize('number', [errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM])
def test_kernels_without(
    inside: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(landlock, '_call', refuse)
    assert landlock.unavailable_reason(str(inside)) == os.strerror(number)
    with pytest.raises(OSError):
        landlock.run_confined(str(inside), (inside / 'new').touch)
    assert not (inside / 'new').exists()


def test_first_version_is_not_used(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landlock, 'version', lambda: 1)
    assert 'links across directories' in str(landlock.unavailable_reason(str(inside)))


@pytest.mark.parametrize('speaks', range(2, 9))
def test_a_version_is_asked_for_its_rights_only(
    inside: Path, speaks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(_number: int, *arguments: object) -> int:
        if isinstance(arguments[0], bytes):
            asked.append(int.from_bytes(arguments[0], sys.byteorder))
            return os.open('/dev/null', os.O_RDONLY)
        return 0

    monkeypatch.setattr(landlock, 'version', lambda: speaks)
    monkeypatch.setattr(landlock, '_call', answer)
    landlock.run_confined(str(inside), lambda: None)
    last = {2: 13, 3: 14, 4: 14}.get(speaks, 15)
    # But executing and reading.
    assert asked == [(1 << last + 1) - 1 - 0b1101]


def test_pretended_kernel_without() -> None:
    """What the tests of a restore without Landlock stand on."""
    code = 'from freezer.utils import landlock as l; print(l.unavailable_reason("/"))'
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    said = run_command(*NO_LANDLOCK, sys.executable, '-c', code, env=env, check=True)
    assert said.stdout.strip() == os.strerror(errno.ENOSYS)
