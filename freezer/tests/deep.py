"""Trees whose paths are longer than the kernel accepts, as any user can make them."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def inside(folder: Path, names: Sequence[bytes]) -> Iterator[int]:
    """A block with a descriptor of a directory; missing ones are made."""
    folder.mkdir(exist_ok=True)
    here = os.open(folder, os.O_RDONLY)
    for name in names:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    try:
        yield here
    finally:
        os.close(here)


def make_deep(
    folder: Path, names: Sequence[bytes], beside: bytes = b'', content: bytes = b''
) -> None:
    """Directories in one another, with a file in the last.

    :param beside: the name of another directory at each depth
    """
    if beside:
        folder.mkdir(exist_ok=True)
        here = os.open(folder, os.O_RDONLY)
        for name in names:
            os.mkdir(beside, dir_fd=here)
            os.mkdir(name, dir_fd=here)
            below = os.open(name, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(here)
    with inside(folder, names) as here:
        file = os.open('file', os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=here)
        os.write(file, content)
        os.close(file)


def just_below(folder: Path, limit: int = 4096) -> list[bytes]:
    """Names of directories such that the path of a file in the last of them, from
    ``folder``, is accepted, and from a folder with a longer name is not."""
    left = limit - len(os.fsencode(folder)) - 2 * len('/file')
    names = []
    while left > 0:
        names.append(b'n' * min(left - 1 or 1, 200))
        left -= len(names[-1]) + 1
    return names
