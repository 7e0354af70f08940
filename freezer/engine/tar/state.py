"""Computes which members of a chain's archives exist in the final state.

:class:`State` goes through the archives from the newest to the oldest. For each member
it says whether it exists, and under which name, when GNU tar has extracted all of them,
oldest first. It keeps what is *wanted* from the older archives:

* a directory member has a list of the directory's entries (its dumpdir). What is not
  listed is not wanted from older archives. ``Y`` is a file in this archive; ``N`` one
  of an older archive, or a directory that could not be read, where tar keeps the
  existing files; ``D`` a directory, which has its own member;
* a member of an archive is not wanted from older ones;
* a directory that no archive has listed yet is wanted with everything below;
* tar renames before it extracts anything of an archive: so in older archives everything
  below the directory has the old name.

So a chain is read in one pass, each file is found once, and the oldest archives are not
read at all if nothing in them is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from freezer.engine.engine import no_match
from freezer.engine.tar.headers import RefusedError, components, shown
from freezer.engine.tar.patterns import NOWHERE, Patterns, Place
from freezer.engine.tar.units import Unit

_FILE: Final = -1
"""Wanted: anything but a directory."""
_RENAMES: Final = frozenset({b'R', b'T', b'X'})
"""Letters of the entries of a list that are not names in the directory."""

_EITHER: Final = -2
"""Wanted: a file, or a directory with its contents."""


class _Wanted:
    """A directory that is wanted, or contains something that is.

    :ivar path: its final name; None if it does not exist in the final state, but
        something is renamed out of it
    :ivar kids: name -> what is wanted there; or the number of the archive that had it
    :ivar whole: no archive has listed it yet, so all other entries are wanted as well
    :ivar given: a member for it was found
    """

    __slots__ = ('given', 'kids', 'path', 'place', 'whole')

    def __init__(self, path: tuple[bytes, ...] | None, place: Place) -> None:
        self.path = path
        self.place = place
        self.kids: dict[bytes, _Wanted | int] = {}
        self.whole = path is not None
        self.given = False


class Found(NamedTuple):
    """A member that exists in the final state.

    :ivar path: its final name, as components
    :ivar chosen: whether a pattern chooses it; a directory that is not chosen may
        contain chosen paths
    """

    path: tuple[bytes, ...]
    chosen: bool


class State:
    """Follows a chain from its newest archive to the oldest; see the module."""

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns
        self._root = _Wanted((), patterns.top)
        self._archive = 0
        self._renames: list[tuple[list[bytes], list[bytes]]] = []
        self._unmatched = set(range(len(patterns.texts)))

    def begin_archive(self) -> None:
        """Begin the newest, or the next older, archive."""
        for source, target in reversed(self._renames):
            self._undo_rename(source, target)
        self._renames = []
        self._archive += 1
        self._forget_found()

    @property
    def wanted(self) -> bool:
        """Whether older archives may contain wanted members."""
        todo = [self._root]
        while todo:
            directory = todo.pop()
            if directory.whole:
                return True
            for kid in directory.kids.values():
                if isinstance(kid, _Wanted):
                    todo.append(kid)
                elif kid < 0:
                    return True
        return False

    def finish(self) -> None:
        """:raises RestoreError: a pattern has matched nothing"""
        if self._unmatched:
            raise no_match(self._patterns.texts[n] for n in sorted(self._unmatched))

    def admit(self, unit: Unit) -> Found | None:
        """Look up a member of the current archive; None if it is not wanted.

        Raises :class:`RefusedError` if its name leaves the target.
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
        self._unmatched.difference_update(self._patterns.matched(place))
        return Found((*parent.path, name), chosen)

    def target_of(self, linkname: bytes) -> tuple[bytes, ...] | None:
        """The final name of a file that :meth:`admit` found in this archive."""
        path = components(linkname, 'its link name')
        parent = self._find(path[:-1])
        if parent is None or parent.path is None or not path:
            return None
        if parent.kids.get(path[-1]) != self._archive:
            return None
        return (*parent.path, path[-1])

    def _admit_directory(self, path: list[bytes], unit: Unit) -> Found | None:
        directory = self._find(path)
        if unit.dumpdir is not None:
            for entry in unit.dumpdir.entries():
                if entry[:1] in _RENAMES:
                    self._note_rename(entry)
        if directory is None or directory.path is None:
            return None
        if unit.dumpdir is not None:
            self._list(directory, unit.dumpdir.entries())
        if directory.given:
            return None
        directory.given = True
        chosen = self._patterns.chosen(directory.place)
        if chosen:
            self._unmatched.difference_update(self._patterns.matched(directory.place))
        return Found(directory.path, chosen)

    def _list(self, directory: _Wanted, entries: Iterable[bytes]) -> None:
        """Reduce what is wanted in a directory to its entries."""
        kids: dict[bytes, _Wanted | int] = {}
        for entry in entries:
            code, name = entry[:1], entry[1:]
            if code in _RENAMES:
                continue
            kid = directory.kids.get(name)
            if kid is None:
                if directory.whole:
                    kid = self._want(directory, code, name)
            elif isinstance(kid, _Wanted):
                # A file in its place is gone before the directory is created.
                kid = None if code == b'Y' else kid
            elif code == b'D' and kid < 0:
                kid = None if kid == _FILE else self._below(directory, name)
            elif code == b'Y' and kid < 0:
                kid = _FILE
            if kid is not None:
                kids[name] = kid
        directory.kids = kids
        directory.whole = False

    def _want(
        self, directory: _Wanted, code: bytes, name: bytes
    ) -> _Wanted | int | None:
        if code == b'D':
            return self._below(directory, name)
        place = self._patterns.below(directory.place, name)
        if self._patterns.chosen(place):
            return _FILE if code == b'Y' else _EITHER
        # It may be a directory that could not be read, with chosen paths below.
        return _EITHER if code == b'N' and place else None

    def _below(self, directory: _Wanted, name: bytes) -> _Wanted | None:
        """A subdirectory; everything in it that the patterns may choose is wanted."""
        place = self._patterns.below(directory.place, name)
        if not place or directory.path is None:
            return None
        return _Wanted((*directory.path, name), place)

    def _find(self, path: Iterable[bytes]) -> _Wanted | None:
        """The directory of this name in the current archive, if it is wanted."""
        directory = self._root
        for name in path:
            kid = directory.kids.get(name)
            if kid == _EITHER or (kid is None and directory.whole):
                kid = self._below(directory, name)
                if kid is not None:
                    directory.kids[name] = kid
            if not isinstance(kid, _Wanted):
                return None
            directory = kid
        return directory

    def _forget_found(self) -> None:
        """Forget the members that were found, in directories that have been listed."""
        todo = [self._root]
        while todo:
            directory = todo.pop()
            if not directory.whole:
                directory.kids = {
                    name: kid
                    for name, kid in directory.kids.items()
                    if isinstance(kid, _Wanted) or kid < 0
                }
            todo += (k for k in directory.kids.values() if isinstance(k, _Wanted))

    # Renames

    def _note_rename(self, entry: bytes) -> None:
        """R is the old name, the T after it the new one.

        Raises :class:`RefusedError` if a name is malformed.
        """
        if entry[:1] == b'R':
            self._renames.append((_steps(entry[1:]), _steps(b'')))
        elif entry[:1] == b'T' and self._renames:
            self._renames[-1] = (self._renames[-1][0], _steps(entry[1:]))

    def _undo_rename(self, source: list[bytes], target: list[bytes]) -> None:
        """Move the directory to the name that it has in older archives."""
        moved = self._take(target)
        if moved is None:
            self._take(source)
            return
        *parents, name = source
        directory = self._root
        for part in parents:
            kid = directory.kids.get(part)
            if not isinstance(kid, _Wanted):
                # It does not exist in the final state.
                kid = directory.kids[part] = _Wanted(None, NOWHERE)
            directory = kid
        directory.kids[name] = moved

    def _take(self, path: list[bytes]) -> _Wanted | None:
        """Take a directory from its place, which is empty in older archives."""
        parent = self._find(path[:-1])
        found = self._find(path)
        if parent is not None:
            if parent.whole:
                # As if an archive had contained it.
                parent.kids[path[-1]] = self._archive
            else:
                parent.kids.pop(path[-1], None)
        return found


def _steps(name: bytes) -> list[bytes]:
    """The components of a name; for the temporary directory, one no file can have."""
    if not name:
        return [b'\0']
    path = components(name, 'the rename in its dumpdir')
    if not path:
        raise RefusedError(f'its dumpdir renames {shown(name)}')
    return path
