"""The files that make tar archive changed files.

Of the directories that it goes through, tar compares each file with the snapshot file.
Several paths are named to it, and of a file with such a name it compares only the time:
it is archived if it is not older than the snapshot file. So if there are such files,
that time is in the past, those that did not change are not named, and all other
unchanged files are excluded by name. tar lists a file as not changed in either case.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from freezer.engine.index.record import sort_key
from freezer.engine.tar import snapshot
from freezer.engine.tar.excludes import pattern_line
from freezer.engine.tar.selection import Selection

# With no more digits than any time has.
_PAST: Final = -1 << 59


class Instructions:
    """Writes these files. A context manager: at its end they are complete.

    :param state: the snapshot file
    :param temporary: a directory for the others
    :param selection: of the source
    """

    def __init__(
        self, state: Path, temporary: Path, selection: Selection | None
    ) -> None:
        self._files = contextlib.ExitStack()
        # Names of files may be secrets.
        self._names, self._literal, self._patterns, self._state = (
            self._files.enter_context(open(path, 'wb', opener=_private))  # noqa: SIM115
            for path in (*_paths(temporary), state)
        )
        # Directories of which only some names are backed up.
        self._parents = selection.names if selection else {}
        self._entered: list[bytes] = []
        self._parents_file = parents(temporary)
        #: whether tar gets a path of the selection
        self.has_names = False
        self._excludes = selection is not None and selection.has_files

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._files.close()
        with open(self._parents_file, 'wb', opener=_private) as file:
            for path in sorted(self._entered, key=sort_key):
                file.write(b'./%s\0' % path)

    def begin(self) -> None:
        """Write the head of the snapshot file. Without it tar archives all."""
        time = _PAST if self._excludes else snapshot.FUTURE
        self._state.write(b'GNU tar-1.34-2\n%d\0000\0' % time)

    def add(
        self, path: bytes, inode: int, unchanged: list[bytes], taken: Iterable[bytes]
    ) -> None:
        """Add a directory.

        :param unchanged: a letter and the name of what is in it and did not change, or
            is a directory; sorted by name
        :param taken: the names in it that are backed up, if those are only some
        """
        prefix = path + b'/' if path else b''
        if path in self._parents:
            self._entered.append(path)
            same = set(unchanged)
            for name in taken:
                if prefix + name not in self._parents and b'Y' + name not in same:
                    self._names.write(b'./%s%s\0' % (prefix, name))
                    self.has_names = True
            return
        if self._excludes:
            for entry in unchanged:
                if entry.startswith(b'Y'):
                    self._exclude(b'./' + prefix + entry[1:])
        # tar looks names up by halving: they are sorted, without their letters.
        self._state.write(
            snapshot.DirectoryRecord(
                [b'0', b'0', b'0', b'0', b'%d' % inode],
                b'./' + path if path else b'.',
                unchanged,
            ).dump()
        )

    def _exclude(self, path: bytes) -> None:
        # A line cannot hold a newline, and tar removes spaces at its end.
        if b'\n' in path or path[-1:].isspace():
            self._patterns.write(pattern_line(path) + b'\n')
        else:
            self._literal.write(path + b'\n')


def arguments(temporary: Path) -> list[str]:
    """The arguments that make tar archive several paths, after all other excludes."""
    names, literal, patterns = _paths(temporary)
    return [
        f'--exclude-from={patterns}',
        # tar looks literal names up, and matches patterns one by one.
        *('--anchored', '--no-wildcards', f'--exclude-from={literal}'),
        *('--null', '--verbatim-files-from', f'--files-from={names}'),
    ]


def files(temporary: Path) -> list[str]:
    """The files that tar reads."""
    return [str(path) for path in _paths(temporary)]


def parents(temporary: Path) -> Path:
    """The file with the directories that lead to the paths, parents first."""
    return temporary / 'parents'


def _paths(temporary: Path) -> tuple[Path, Path, Path]:
    return temporary / 'names', temporary / 'unchanged', temporary / 'unchanged-odd'


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
