"""What a restore does to a target that is not empty.

The plan is made before anything is changed, from the target and the indexes of the
chain, and is carried out as announced: the agent itself removes what the plan lists,
and tar gets no lists of directories (dumpdirs) and so removes nothing.

A path of the target stays if the backup has it, or if it was in the source and is not
in the backup, because it is excluded or could not be read. If an older level stored an
excluded directory, the backup has that; else everything in it stays.

If a level has no index, the snapshot files of the chain are read. A path stays if the
newest level lists it. A directory is compared by the newest level that has stored it:
an excluded directory is listed (``N``, ``I``), and has no list of its own.

If the backup is of several paths, what is beside them, in the directories that lead to
them, stays.

On a mounted file system nothing is removed, nor where ``keep_extra`` is set. There a
file in the place of a directory, or the reverse, is an error. A mount point below which
the backup holds nothing is not entered at all.
"""

from __future__ import annotations

import os
from collections.abc import (
    Callable,
    Container,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from typing import Final, NamedTuple

from freezer.engine.engine import LevelState, TargetPlan
from freezer.engine.index.chain import ChainIndex
from freezer.engine.tar import snapshot
from freezer.engine.tar.patterns import Patterns, Place
from freezer.engine.tar.selection import Selection, chosen_in
from freezer.exceptions import EngineError, RestoreError
from freezer.utils import tree

_SHOWN: Final = 5

# What a level lists of a name.
_FILE: Final = b'Y'
_DIRECTORY: Final = b'D'
_UNSTORED: Final = b'N'
_OLDER: Final = (_UNSTORED, b'I')


# name -> letter, by the path of the directory
_Lists = dict[bytes, dict[bytes, bytes]]


class _Listed(NamedTuple):
    """A directory as the chain has stored it.

    :ivar age: of the level: 0 for the newest, 1 for the one below
    :ivar names: name -> letter
    """

    age: int
    names: dict[bytes, bytes]


class Listing:
    """What a backup has, by the lists of its directories.

    :ivar is_tree: whether it is of a directory; nothing is removed beside a single file
    :ivar parents: see :attr:`TargetPlan.parents`
    """

    def __init__(self) -> None:
        self._levels: list[_Lists] = [{}]
        self.is_tree = True
        self.parents: Mapping[bytes, Container[bytes]] = {}

    def add(self, path: bytes, is_directory: bool) -> None:
        """Add a path."""
        folder, _slash, name = path.rpartition(b'/')
        letter = _DIRECTORY if is_directory else _FILE
        self._levels[0].setdefault(folder, {})[name] = letter

    @property
    def top(self) -> _Listed:
        return _Listed(0, self._levels[0].get(b'', {}))

    def find(self, parent: _Listed, path: bytes, name: bytes) -> _Listed | bytes | None:
        """What the backup has at a path: a directory, ``Y`` for another file, or None
        if no level has stored it.

        :param parent: the directory it is in, which lists the name
        :raises EngineError: the snapshot file of an older level is lost or damaged
        """
        letter, age = parent.names[name], parent.age
        folder = path.rpartition(b'/')[0]
        # Unchanged, or excluded: the level below says more. Nothing is below level 0,
        # where it was excluded.
        while letter in _OLDER:
            age += 1
            listed = self._level(age).get(folder, {})
            if name not in listed:
                return None
            letter = listed[name]
        if letter != _DIRECTORY:
            return _FILE
        return _Listed(age, self._level(age).get(path, {}))

    def _level(self, age: int) -> _Lists:
        return self._levels[age]


class _Chain(Listing):
    """The final state of a chain, by its index or the snapshot files of its levels."""

    def __init__(
        self,
        states: Iterable[LevelState],
        index: ChainIndex | None,
        roots: Sequence[bytes],
    ) -> None:
        super().__init__()
        self._states = iter(states)
        self._levels = []
        # Not of a level of an earlier version.
        unstored = None if index is None else index.unstored()
        chosen: Sequence[bytes]
        subject: bytes | None
        if index is None or unstored is None:
            newest = self._load(next(self._states))
            subject, chosen = newest.subject, newest.chosen
        else:
            self._states = iter(())
            self._levels = [_lists(index, unstored, roots)]
            last = index.indexes[-1]
            subject = os.fsencode(str(last.properties.get('subject')))
            chosen = chosen_in(last)
        self.is_tree = subject == snapshot.TREE
        if chosen:
            self.parents = Selection(chosen).names

    def _level(self, age: int) -> _Lists:
        while len(self._levels) <= age:
            state = next(self._states, None)
            if state is None:
                return {}
            self._load(state)
        return self._levels[age]

    def _load(self, state: LevelState) -> snapshot.Snapshot:
        if state.content is None:
            raise EngineError(f'{state.where} is missing')
        known = snapshot.load(state.content)
        lists = {
            directory.path: {e[1:]: e[:1] for e in directory.entries}
            for directory in known.directories
        }
        for path in known.padded:
            # Restored from an older level, if that has it.
            folder, _slash, name = path.rpartition(b'/')
            lists.setdefault(folder, {})[name] = _OLDER[0]
        self._levels.append(lists)
        return known


def of_chain(
    states: Iterable[LevelState], index: ChainIndex | None, roots: Sequence[bytes]
) -> Listing:
    """
    :param states: the newest first; older ones are fetched only if they are needed
    :param roots: see :meth:`ChainIndex.state`
    :raises EngineError: a snapshot file is lost or damaged
    """
    return _Chain(states, index, roots)


def _lists(
    index: ChainIndex, unstored: Iterable[bytes], roots: Sequence[bytes]
) -> _Lists:
    """The state in the index, as one level.

    :param roots: see :meth:`ChainIndex.state`
    """
    found: _Lists = {}
    for _level, (block, start, end) in index.state(roots):
        for path, kind in zip(
            block.paths[start:end], block.kinds[start:end], strict=True
        ):
            folder, _slash, name = path.rpartition(b'/')
            letter = _DIRECTORY if kind == 'directory' else _FILE
            found.setdefault(folder, {})[name] = letter
    for path in unstored:
        folder, _slash, name = path.rpartition(b'/')
        found.setdefault(folder, {}).setdefault(name, _UNSTORED)
    return found


@dataclass(frozen=True, slots=True)
class _Visit:
    """How a directory of the target is compared.

    :ivar listed: the directory in the backup; None if there is none of this path
    :ivar keep: nothing is removed from it
    :ivar whole: it is, or is in, a selected directory
    :ivar device: of its file system
    """

    listed: _Listed | None
    place: Place
    keep: bool
    whole: bool
    device: int


class Planner:
    """Compares a target with a backup; see the module.

    :param listing: what the backup has; raises EngineError if that cannot be found out
    """

    def __init__(
        self,
        target: str,
        listing: Callable[[], Listing],
        patterns: Patterns,
        keep_extra: bool,
    ) -> None:
        self._target = target
        self._make_listing = listing
        self._patterns = patterns
        self._keep_extra = keep_extra
        self._removed: list[bytes] = []
        self._mounts: list[bytes] = []
        self._untouched: list[bytes] = []
        self._replaced: list[bytes] = []
        self._conflicts: list[str] = []

    def plan(self) -> TargetPlan | None:
        """None if the target is empty, or does not exist.

        :raises RestoreError: the target has something that cannot be replaced, or the
            plan cannot be made
        """
        try:
            if not os.listdir(self._target):
                return None
        except FileNotFoundError:
            return None
        try:
            self._chain = self._make_listing()
            if self._chain.is_tree:
                self._compare()
        except EngineError as error:
            raise RestoreError(
                f'cannot determine what the restore would remove from {self._target} '
                f'({error}): restore into an empty directory'
            ) from error
        except OSError as error:
            raise RestoreError(
                f'cannot determine what the restore would remove from {self._target} '
                f'({error.strerror}): restore into an empty directory'
            ) from error
        for path in self._replaced:
            if any(m == path or m.startswith(path + b'/') for m in self._mounts):
                self._conflict(path, 'holds a mount point, and in the backup is a file')
        if self._conflicts:
            raise RestoreError(self._conflict_message())
        return TargetPlan(
            tuple(sorted(self._without_mounts())),
            tuple(sorted(self._replaced)),
            tuple(sorted(self._mounts)),
            frozenset(self._untouched),
            self._chain.parents,
        )

    def _compare(self) -> None:
        self._mounted = tree.mount_points(self._target)
        top = self._patterns.top
        with tree.Folders(self._target) as folders:
            first = _Visit(
                self._chain.top,
                top,
                self._keep_extra,
                self._patterns.chosen(top),
                os.fstat(folders.fd).st_dev,
            )
            for directory in tree.walk(folders, first):
                self._visit(directory)

    def _visit(self, directory: tree.Directory[_Visit]) -> None:
        visit, path = directory.state, directory.path
        device = os.fstat(directory.fd).st_dev
        if directory.names and (device != visit.device or path in self._mounted):
            entered = self._enter_mount(path, visit, device)
            if entered is None:
                return
            visit = entered
        with tree.entries(directory.fd) as entries:
            for name, entry in entries:
                is_directory = entry.is_dir(follow_symlinks=False)
                full = path + b'/' + name if path else name
                below = self._compare_one(visit, full, name, is_directory)
                if below is not None:
                    directory.enter(name, below)

    def _enter_mount(self, path: bytes, visit: _Visit, device: int) -> _Visit | None:
        """How to go on below a mount point; None if the backup has nothing there."""
        if visit.listed is None or not visit.listed.names:
            self._leave_alone(path)
            return None
        self._mounts.append(path)
        return _Visit(visit.listed, visit.place, True, visit.whole, device)

    def _leave_alone(self, mount: bytes) -> None:
        self._mounts.append(mount)
        self._untouched.append(mount)

    def _compare_one(
        self, visit: _Visit, path: bytes, name: bytes, is_directory: bool
    ) -> _Visit | None:
        """Plan for one entry of a directory; how to go on, if that is to be done."""
        if visit.listed is None or name not in visit.listed.names:
            return self._compare_extra(visit, path, is_directory)
        place = self._patterns.below(visit.place, name)
        chosen = self._patterns.chosen(place)
        if not is_directory:
            if chosen:
                self._compare_file(visit, path, name)
            return None
        found = self._chain.find(visit.listed, path, name) if place else None
        if found is None:
            # Not selected; excluded, or could not be read.
            return None
        if not isinstance(found, _Listed):
            return self._replace_directory(visit, path, place) if chosen else None
        if path in self._mounted and not found.names:
            self._leave_alone(path)
            return None
        return _Visit(found, place, visit.keep, chosen, visit.device)

    def _compare_file(self, visit: _Visit, path: bytes, name: bytes) -> None:
        """A selected path at which the target has something but a directory."""
        assert visit.listed is not None
        mounted = path in self._mounted
        if not mounted and not visit.keep and path not in self._chain.parents:
            return
        found = self._chain.find(visit.listed, path, name)
        if found is not None and mounted:
            self._conflict(path, 'is a mount point, and the backup has it')
        elif isinstance(found, _Listed):
            self._conflict(path, 'is not a directory, and in the backup it is one')

    def _replace_directory(
        self, visit: _Visit, path: bytes, place: Place
    ) -> _Visit | None:
        """A directory of the target in the place of a selected file."""
        # If only the file is selected, all else in its directory stays.
        if visit.keep or not visit.whole or path in self._mounted:
            self._conflict(path, 'is a directory, but not in the backup')
            return None
        self._replaced.append(path)
        return _Visit(None, place, False, True, visit.device)

    def _compare_extra(
        self, visit: _Visit, path: bytes, is_directory: bool
    ) -> _Visit | None:
        """Something that is not in the backup."""
        if not visit.whole or visit.keep:
            return None
        if path.rpartition(b'/')[0] in self._chain.parents:
            # It was beside the paths that are backed up.
            return None
        if path in self._mounted:
            self._leave_alone(path)
            return None
        self._removed.append(path)
        # A directory is visited for the sake of what may be mounted below it.
        return (
            _Visit(None, visit.place, False, True, visit.device)
            if is_directory
            else None
        )

    def _without_mounts(self) -> Iterator[bytes]:
        """The paths to remove: no mount point, and no directory that leads to one; a
        directory that is removed as a whole is listed once."""
        kept: set[bytes] = set()
        for mount in self._mounts:
            path = mount
            while path and path not in kept:
                kept.add(path)
                path = path.rpartition(b'/')[0]
        whole: set[bytes] = set()
        # Parents are listed before their children.
        for path in self._removed:
            if path in kept:
                continue
            whole.add(path)
            if path.rpartition(b'/')[0] not in whole:
                yield path

    def _conflict(self, path: bytes, why: str) -> None:
        self._conflicts.append(f'{os.path.join(self._target, os.fsdecode(path))} {why}')

    def _conflict_message(self) -> str:
        shown = '; '.join(self._conflicts[:_SHOWN])
        more = len(self._conflicts) - _SHOWN
        also = f'; and {more} more' if more > 0 else ''
        return (
            f'{shown}{also}: nothing was changed; move it away, or restore into '
            f'another directory'
        )
