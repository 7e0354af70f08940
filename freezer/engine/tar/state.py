"""What of the archives of a chain makes up the state it restores to.

:class:`State` goes through the archives from the newest to the oldest, and says of each
member whether it is still there when all of them have been extracted, oldest first, as
GNU tar does that; and under which name. It keeps what is *wanted* of the archives to
come:

* a directory member comes with the list of what was in the directory (its dumpdir).
  What is not listed is not wanted of older archives. ``Y`` is a file in this archive;
  ``N`` one of an older archive, or a directory that could not be read, of which tar
  keeps what is there; ``D`` a directory, with a member of its own;
* what an archive has is not wanted any more of the next;
* a directory that no archive has listed until now is wanted with all that is below;
* a rename happens before anything is extracted of its archive: below it, everything has
  the old name.

So a chain is read in one go, each file is met once, and the oldest archives are not
read at all where nothing of them is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from freezer.engine.tar.patterns import NOWHERE, Patterns, Place
from freezer.engine.tar.units import RefusedError, Unit, components, shown, split

_FILE: Final = -1
"""Wanted: anything but a directory."""
_EITHER: Final = -2
"""Wanted: a file, or a directory and what is in it."""


class _Directory:
    """A directory that is wanted, or on the way to something that is.

    :ivar path: its name in the end; None if it is not there then, and only something
        that is renamed out of it
    :ivar kids: name -> what is wanted there; or the number of the archive that had it
    :ivar whole: nothing has listed it yet, so whatever else there is, is wanted
    :ivar given: a member has been met
    """

    __slots__ = ('given', 'kids', 'path', 'place', 'whole')

    def __init__(self, path: tuple[bytes, ...] | None, place: Place) -> None:
        self.path = path
        self.place = place
        self.kids: dict[bytes, _Directory | int] = {}
        self.whole = path is not None
        self.given = False


class Found(NamedTuple):
    """A member that is there in the end.

    :ivar path: its name then, as components
    :ivar chosen: whether a pattern chooses it; a directory that is not may have
        something below that is
    """

    path: tuple[bytes, ...]
    chosen: bool


class State:
    """Goes backwards through the archives of a chain."""

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns
        self._root = _Directory((), patterns.top)
        self._archive = 0
        self._renames: list[tuple[list[bytes], list[bytes]]] = []
        self.unmatched = set(range(len(patterns.texts)))
        """The numbers of the patterns that have chosen nothing yet."""

    def begin_archive(self) -> None:
        """The next older one begins."""
        for source, target in reversed(self._renames):
            self._undo_rename(source, target)
        self._renames = []
        self._archive += 1
        self._tidy()

    @property
    def wanted(self) -> bool:
        """Whether older archives may have something of it."""
        todo = [self._root]
        while todo:
            directory = todo.pop()
            if directory.whole:
                return True
            for kid in directory.kids.values():
                if isinstance(kid, _Directory):
                    todo.append(kid)
                elif kid < 0:
                    return True
        return False

    def admit(self, unit: Unit) -> Found | None:
        """A member of the present archive; None if it is not there in the end.

        Raises :class:`RefusedError` at a name that leaves the target.
        """
        path = components(unit.name, 'its name')
        if unit.kind in {b'5', b'D'}:
            return self._admit_directory(path, unit)
        if not path:
            return None
        parent = self._find(path[:-1])
        if parent is None or parent.path is None:
            return None
        name = path[-1]
        place = self._patterns.below(parent.place, name)
        wanted = parent.kids.get(name)
        if wanted is None:
            wanted = _EITHER if parent.whole else 0
        chosen = self._patterns.chosen(place)
        if wanted not in (_FILE, _EITHER) or not chosen:
            return None
        parent.kids[name] = self._archive
        self.unmatched.difference_update(self._patterns.matched(place))
        return Found((*parent.path, name), chosen)

    def target_of(self, linkname: bytes) -> tuple[bytes, ...] | None:
        """The name in the end of a file that this archive had and :meth:`admit` found;
        None if it had not, or it was not found."""
        path = components(linkname, 'its link name')
        parent = self._find(path[:-1])
        if parent is None or parent.path is None or not path:
            return None
        if parent.kids.get(path[-1]) != self._archive:
            return None
        return (*parent.path, path[-1])

    def _admit_directory(self, path: list[bytes], unit: Unit) -> Found | None:
        directory = self._find(path)
        entries: list[bytes] = []
        if unit.dumpdir is not None:
            for entry in split(unit.dumpdir, b'\0'):
                if entry[:1] in {b'R', b'T', b'X'}:
                    self._note_rename(entry)
                elif entry:
                    entries.append(entry)
        if directory is None or directory.path is None:
            return None
        if unit.dumpdir is not None:
            self._list(directory, entries)
        if directory.given:
            return None
        directory.given = True
        chosen = self._patterns.chosen(directory.place)
        if chosen:
            self.unmatched.difference_update(self._patterns.matched(directory.place))
        return Found(directory.path, chosen)

    def _list(self, directory: _Directory, entries: Iterable[bytes]) -> None:
        """Of what is wanted in a directory, leave what was in it."""
        kids: dict[bytes, _Directory | int] = {}
        for entry in entries:
            code, name = entry[:1], entry[1:]
            kid = directory.kids.get(name)
            if kid is None:
                if directory.whole:
                    kid = self._wanted(directory, code, name)
            elif isinstance(kid, _Directory):
                # A file in its place is no more when the directory is made.
                kid = None if code == b'Y' else kid
            elif code == b'D' and kid < 0:
                kid = None if kid == _FILE else self._below(directory, name)
            elif code == b'Y' and kid < 0:
                kid = _FILE
            if kid is not None:
                kids[name] = kid
        directory.kids = kids
        directory.whole = False

    def _wanted(
        self, directory: _Directory, code: bytes, name: bytes
    ) -> _Directory | int | None:
        if code == b'D':
            return self._below(directory, name)
        place = self._patterns.below(directory.place, name)
        if self._patterns.chosen(place):
            return _FILE if code == b'Y' else _EITHER
        # A directory that could not be read may have something below.
        return _EITHER if code == b'N' and place else None

    def _below(self, directory: _Directory, name: bytes) -> _Directory | None:
        """A directory of which all is wanted that the patterns may choose."""
        place = self._patterns.below(directory.place, name)
        if not place or directory.path is None:
            return None
        return _Directory((*directory.path, name), place)

    def _find(self, path: Iterable[bytes]) -> _Directory | None:
        """The directory of this name in the present archive, if it is wanted."""
        directory = self._root
        for name in path:
            kid = directory.kids.get(name)
            if kid == _EITHER or (kid is None and directory.whole):
                kid = self._below(directory, name)
                if kid is not None:
                    directory.kids[name] = kid
            if not isinstance(kid, _Directory):
                return None
            directory = kid
        return directory

    def _tidy(self) -> None:
        """Forget what the archives have had, where nothing asks for it any more."""
        todo = [self._root]
        while todo:
            directory = todo.pop()
            if not directory.whole:
                directory.kids = {
                    name: kid
                    for name, kid in directory.kids.items()
                    if isinstance(kid, _Directory) or kid < 0
                }
            todo += (k for k in directory.kids.values() if isinstance(k, _Directory))

    # Renames

    def _note_rename(self, entry: bytes) -> None:
        """R is what is renamed, the T after it what it becomes.

        Raises :class:`RefusedError` at a name that is none.
        """
        if entry[:1] == b'R':
            self._renames.append((_steps(entry[1:]), _steps(b'')))
        elif entry[:1] == b'T' and self._renames:
            self._renames[-1] = (self._renames[-1][0], _steps(entry[1:]))

    def _undo_rename(self, source: list[bytes], target: list[bytes]) -> None:
        """What had the new name has the old one in older archives."""
        moved = self._take(target)
        if moved is None:
            self._take(source)
            return
        *parents, name = source
        directory = self._root
        for part in parents:
            kid = directory.kids.get(part)
            if not isinstance(kid, _Directory):
                # It is not there in the end.
                kid = directory.kids[part] = _Directory(None, NOWHERE)
            directory = kid
        directory.kids[name] = moved

    def _take(self, path: list[bytes]) -> _Directory | None:
        """A directory, taken from its place: in older archives nothing is there."""
        parent = self._find(path[:-1])
        found = self._find(path)
        if parent is not None:
            if parent.whole:
                # As if an archive had had it.
                parent.kids[path[-1]] = self._archive
            else:
                parent.kids.pop(path[-1], None)
        return found


def _steps(name: bytes) -> list[bytes]:
    """A name of a rename; that of the temporary directory is none of any file's."""
    if not name:
        return [b'\0']
    path = components(name, 'the rename in its dumpdir')
    if not path:
        raise RefusedError(f'its dumpdir renames {shown(name)}')
    return path


def contents(dumpdir: bytes) -> bytes:
    """What a directory had in it, for tar to remove what else there is.

    Without renames.
    """
    parts = []
    for entry in split(dumpdir, b'\0'):
        if entry[:1] in {b'Y', b'N', b'D'}:
            parts.append(entry)
    return b''.join(part + b'\0' for part in parts) + b'\0'
