"""Files with secrets that others of the machine can read."""

import os
import stat
from collections.abc import Iterable, Iterator

_OTHERS, _GROUP = stat.S_IROTH, stat.S_IRGRP


def warnings(paths: Iterable[str]) -> Iterator[str]:
    """A line for each file that others than its owner can read.

    A group may read what belongs to root: that is how services are given theirs.

    :param paths: of files that hold a secret; what is no regular file is nobody's
    """
    for path in dict.fromkeys(paths):
        try:
            status = os.stat(path)
        except OSError:
            # Who needs it will say so.
            continue
        forbidden = _OTHERS if status.st_uid == 0 else _OTHERS | _GROUP
        if stat.S_ISREG(status.st_mode) and status.st_mode & forbidden:
            mode = stat.S_IMODE(status.st_mode)
            yield (
                f'{path} holds a secret, and others can read it (mode {mode:04o}): '
                f'chmod 600 {path}'
            )
