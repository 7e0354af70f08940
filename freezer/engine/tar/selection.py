"""Several paths in a directory."""

import os
from collections.abc import Iterable
from typing import Final

from freezer.engine.index.file import IndexFile
from freezer.engine.index.record import CHOSEN

_SLASH: Final = b'/'


class Selection:
    """The paths that are backed up of a directory, and the directories that lead to
    them, which are backed up without their other contents.

    :param paths: below the directory, none of them in another; with a slash at the end
        if it is a directory. They are sorted, component by component.
    :ivar names: directory that leads to paths -> the names in it that lead there
    """

    def __init__(self, paths: Iterable[bytes]) -> None:
        self.paths: tuple[bytes, ...] = tuple(paths)
        self.names: dict[bytes, dict[bytes, None]] = {b'': {}}
        self._paths = frozenset(self.paths)
        for path in self.paths:
            child = path.rstrip(_SLASH)
            while child:
                parent, _slash, name = child.rpartition(_SLASH)
                names = self.names.setdefault(parent, {})
                if name in names:
                    break
                names[name] = None
                child = parent

    @property
    def directories(self) -> set[bytes]:
        """Every directory that is, or leads to, one of the paths."""
        chosen = {path[:-1] for path in self.paths if path.endswith(_SLASH)}
        return chosen | self.names.keys()

    @property
    def has_files(self) -> bool:
        """Whether one of the paths is no directory."""
        return not all(path.endswith(_SLASH) for path in self.paths)

    def covers(self, path: bytes) -> bool:
        """Whether a path of another selection is among these, or in one of them."""
        if path in self._paths:
            return True
        at = path.find(_SLASH)
        while 0 <= at < len(path) - 1:
            if path[: at + 1] in self._paths:
                return True
            at = path.find(_SLASH, at + 1)
        return False

    def kind_changed(self, path: bytes) -> bool:
        """Whether these have it, but as a file instead of a directory or the
        reverse."""
        other = path[:-1] if path.endswith(_SLASH) else path + _SLASH
        return other in self._paths

    def texts(self) -> list[str]:
        """The paths, for JSON."""
        return [os.fsdecode(path) for path in self.paths]


def chosen_in(index: IndexFile) -> list[bytes]:
    """The paths of the selection that an index was made of; none if it has all."""
    paths = index.properties.get(CHOSEN)
    if not isinstance(paths, list):
        return []
    return [os.fsencode(path) for path in paths if isinstance(path, str)]
