"""Which file system a path is on, by ``findmnt``."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from freezer.exceptions import FreezerError
from freezer.snapshot import programs
from freezer.utils.file_system import VIRTUAL
from freezer.utils.paths import absolute

FINDMNT: Final = {'findmnt': 'util-linux'}
_COLUMNS: Final = 'ID,TARGET,SOURCE,FSTYPE,FSROOT,MAJ:MIN'


@dataclass(frozen=True)
class Mount:
    """A mounted file system.

    :ivar target: where it is mounted
    :ivar source: of what, such as ``/dev/sda1``
    :ivar kind: such as ``ext4``
    :ivar root: the directory of the file system that is mounted
    :ivar device: major and minor number, ``253:0``
    """

    number: int
    target: str
    source: str
    kind: str
    root: str
    device: str


@dataclass(frozen=True)
class Place:
    """Where a path is.

    :ivar path: without symbolic links, except the last name of a path to one that leads
        to no directory
    :ivar inside: relative to the root of the file system; ``.`` for the root
    """

    path: str
    mount: Mount
    inside: str


def mounted() -> Sequence[Mount]:
    """All mounts, in the order in which they were made.

    :raises FreezerError: they cannot be listed
    """
    command = ('findmnt', '--json', '--list', '--nofsroot', '--output', _COLUMNS)
    return [
        Mount(
            int(each['id']),
            each['target'],
            each['source'] or '',
            each['fstype'],
            each['fsroot'] or '/',
            each['maj:min'].strip(),
        )
        for each in programs.report(*command, key='filesystems')
    ]


def locate(path: str, mounts: Sequence[Mount]) -> Place:
    """:raises FreezerError: the path is missing, or a file that is mounted by itself"""
    real = _real(absolute(path))
    number = _mount_number(real)
    for mount in mounts:
        if mount.number == number:
            below = os.path.relpath(real, mount.target)
            if below == '.' and not os.path.isdir(real):
                # On its file system it may have another name.
                raise FreezerError(
                    f'path-to-backup {path}: a single file is mounted there: give '
                    f'the path of that file on its own file system'
                )
            inside = os.path.normpath(os.path.join(mount.root.lstrip('/'), below))
            return Place(real, mount, inside)
    raise FreezerError(f'{path}: findmnt does not list the file system it is on')


def _real(path: str) -> str:
    # As the engine tar takes them.
    if os.path.isdir(path):
        return os.path.realpath(path)
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _mount_number(path: str) -> int:
    # Paths do not decide: a mount may be hidden below another one.
    try:
        opened = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise FreezerError(f'path-to-backup {path}: {error.strerror}') from error
    try:
        with open(f'/proc/self/fdinfo/{opened}', encoding='ascii') as file:
            found = re.search(r'^mnt_id:\s*(\d+)$', file.read(), re.MULTILINE)
    finally:
        os.close(opened)
    if found is None:
        raise FreezerError(f'{path}: the kernel does not say what it is mounted from')
    return int(found[1])


def below(place: Place, mounts: Sequence[Mount]) -> Iterator[str]:
    """What is mounted below a path, relative to it, except virtual file systems."""
    top = os.path.join(place.path, '')
    for mount in mounts:
        if mount.target.startswith(top) and mount.kind.encode() not in VIRTUAL:
            yield mount.target.removeprefix(top)
