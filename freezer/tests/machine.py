"""Change what an agent sees of its machine: the clock, the machine ID, broken files,
file systems.

Clock, machine ID and files are changed by a small library that is preloaded into the
agent and into tar. File systems are made in files and mounted through loop devices;
that needs root.
"""

import atexit
import contextlib
import ctypes
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.tests import trees
from freezer.tests.agent import Agent
from freezer.tests.commands import run_command

_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# xfs makes no smaller file system. The file has holes.
_IMAGE_SIZE = 400 << 20

#: How each kind of file system is made in a file.
_MKFS = {
    'btrfs': ('mkfs.btrfs', '-q'),
    'ext4': ('mkfs.ext4', '-q', '-F'),
    'xfs': ('mkfs.xfs', '-q'),
}


@functools.cache
def _folder() -> Path:
    """A directory for libraries, until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix='freezer-machine-'))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def _library(*defines: str) -> str:
    """Compile ``machine.c``; a missing gcc fails the test."""
    made = _folder() / f'{len(os.listdir(_folder()))}.so'
    source = Path(__file__).with_suffix('.c')
    flags = [f'-D{define}' for define in defines]
    command = ('gcc', '-shared', '-fPIC', '-Wall', *flags, '-o', made, source)
    run_command(*command, '-ldl', check=True)
    return str(made)


def with_clock(agent: Agent, seconds: int) -> Agent:
    """The agent, with its clock ahead of the file system's; behind, if negative."""
    return agent.told(LD_PRELOAD=_library(f'CLOCK=({seconds})'))


def with_machine_id(agent: Agent, file: Path) -> Agent:
    """The agent, on a machine whose ``/etc/machine-id`` is this file."""
    return agent.told(LD_PRELOAD=_library(f'MACHINE_ID="{file}"'))


def with_broken(agent: Agent, name: str, *, attributes: bool = False) -> Agent:
    """The agent, where files and directories of this name have input/output errors.

    :param attributes: only their extended attributes
    """
    define = f'{"NO_XATTRS" if attributes else "BROKEN"}="{name}"'
    return agent.told(LD_PRELOAD=_library(define))


def with_cut(agent: Agent, name: str, error: int) -> Agent:
    """The agent, where files of this name cannot be read beyond 64 KiB.

    :param error: the errno then; 0 if the files end there
    """
    return agent.told(LD_PRELOAD=_library(f'CUT="{name}"', f'CUT_ERROR={error}'))


def with_swap(agent: Agent, name: str, folder: Path, target: Path) -> Agent:
    """The agent, where a directory is replaced by a link when a file of this name is
    opened first."""
    defines = f'SWAP_AT="{name}"', f'SWAPPED="{folder}"', f'LINKED="{target}"'
    return agent.told(LD_PRELOAD=_library(*defines))


def with_exchange(
    agent: Agent, one: Path, two: Path, at: str, back_at: str = ''
) -> Agent:
    """The agent, where two files of one directory are exchanged while tar runs.

    :param at: when tar opens this first, as it names it
    :param back_at: when it then opens this, they are exchanged back
    """
    defines = f'EXCHANGE_AT="{at}"', f'ONE="{one}"', f'TWO="{two}"'
    return agent.told(LD_PRELOAD=_library(*defines, f'BACK_AT="{back_at}"'))


def exchange(one: Path | bytes, two: Path | bytes) -> None:
    """Exchange two paths in one step.

    :raises OSError: EINVAL if the file system cannot do that
    """
    names = os.fsencode(one), os.fsencode(two)
    places = (_AT_FDCWD, names[0], _AT_FDCWD, names[1])
    if _LIBC.renameat2(*places, _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), *names[:1], None, *names[1:])


@contextlib.contextmanager
def mounted(source: object, place: Path, *options: str) -> Iterator[Path]:
    """Mount something at a new or an existing path; unmount it at the end.

    The test is skipped if this user or this machine cannot mount it.
    """
    if not trees.is_root():
        pytest.skip('only root mounts file systems')
    if not place.exists():
        place.mkdir()
    mount = run_command('mount', *options, source, place)
    if mount.returncode:
        pytest.skip(f'cannot mount {source}: {mount.stderr.strip()}')
    try:
        yield place
    finally:
        run_command('umount', place, check=True)


def bound(source: Path, place: Path) -> contextlib.AbstractContextManager[Path]:
    """Let a directory or a file be seen at another path, which exists, as well."""
    return mounted(source, place, '--bind')


def image(kind: str, file: Path) -> Path:
    """Make a file system in a file; skip the test if its tools are not installed."""
    if shutil.which(_MKFS[kind][0]) is None:
        pytest.skip(f'no {_MKFS[kind][0]}')
    file.touch()
    os.truncate(file, _IMAGE_SIZE)
    run_command(*_MKFS[kind], file, check=True)
    return file


def loop(file: Path, place: Path) -> contextlib.AbstractContextManager[Path]:
    """Mount the file system in a file."""
    return mounted(file, place, '-o', 'loop')


@contextlib.contextmanager
def file_system(kind: str, folder: Path) -> Iterator[Path]:
    """Mount a new file system of this kind.

    :param folder: for the file it is in and the mount point
    """
    if not trees.is_root():
        pytest.skip('only root mounts file systems')
    with loop(image(kind, folder / f'{kind}.img'), folder / kind) as place:
        yield place


def snapshot(subvolume: Path, place: Path) -> Path:
    """Make a read-only btrfs snapshot."""
    command = ('btrfs', 'subvolume', 'snapshot', '-r', subvolume, place)
    run_command(*command, check=True)
    return place
