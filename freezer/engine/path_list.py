"""Files that list the paths to back up (``--files-from``)."""

import dataclasses
import os
import sys

from freezer.exceptions import ConfigError
from freezer.utils.paths import absolute

_STANDARD_INPUT = '-'


@dataclasses.dataclass(frozen=True)
class ListedPath:
    """One path of a list, as it is written there.

    :ivar where: the list and the line, for errors
    """

    where: str
    text: str


def read(path: str, *, by_null: bool = False) -> list[ListedPath]:
    """Read a list. Names are bytes: no encoding is required, and nothing in a line has
    a meaning, so any name can be listed. Empty lines are skipped.

    :param path: of the list; ``-`` is standard input
    :param by_null: whether a null byte follows each path, instead of a newline
    :raises ConfigError: it cannot be read, or has a line that is no path
    """
    option = 'files-from0' if by_null else 'files-from'
    name = path if path == _STANDARD_INPUT else absolute(path)
    try:
        if name == _STANDARD_INPUT:
            if sys.stdin is None:
                raise ConfigError(f'{option} {name}: standard input is closed')
            content = sys.stdin.buffer.read()
        else:
            with open(name, 'rb') as file:
                content = file.read()
    except OSError as error:
        raise ConfigError(f'{option} {name}: {error.strerror}') from error
    word = 'path' if by_null else 'line'
    found = []
    for number, raw in enumerate(content.split(b'\0' if by_null else b'\n'), start=1):
        where = f'{option} {name}, {word} {number}'
        if b'\0' in raw:
            raise ConfigError(
                f'{where}: contains a null byte: for a list of paths that end with '
                f'null bytes, use --files-from0'
            )
        if raw:
            found.append(ListedPath(where, os.fsdecode(raw)))
    return found
