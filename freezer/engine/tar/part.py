"""Extracts a part of a chain, or all of it into a target that is not empty: filters its
archives before tar reads them.

The archives are read from the newest to the oldest. A member is passed on once, if it
is chosen and exists in the final state, under its final name
(:mod:`freezer.engine.tar.state`): so tar has nothing to delete, to rename or to replace
that an earlier level left. Directories are passed on without their lists, so tar
removes nothing either: what a plan lists is removed here
(:mod:`freezer.engine.tar.plan`).

Directories are written again, in a separate archive at the end, for their times and
permissions, together with missing parents of what is chosen. They cannot be at the end
of another archive: tar creates some links after all members, which would change the
times of directories that did not come before their links.

A hard link whose first name is not passed on gets the contents of that name: the level
is then read a second time, because the contents came before the link.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from freezer.engine.engine import LevelArchive, TargetPlan
from freezer.engine.tar.extract import ArchiveExtractor
from freezer.engine.tar.headers import (
    BLOCK,
    DIRECTORIES,
    HEADERS,
    RefusedError,
    components,
)
from freezer.engine.tar.members import Members, renamed
from freezer.engine.tar.patterns import Patterns
from freezer.engine.tar.state import Found, State
from freezer.engine.tar.units import Unit
from freezer.exceptions import EngineError, RestoreError
from freezer.utils import tree
from freezer.utils.blocks import Block

Path = tuple[bytes, ...]

_END: Final = bytes(2 * BLOCK)
_SPOOLED: Final = 8 << 20


class _Link(NamedTuple):
    """A hard link to a name that was not passed on."""

    path: Path
    unit: Unit
    head: bytes


class _There(NamedTuple):
    """Something in the target.

    :ivar folder: descriptor of the directory it is in
    """

    folder: int
    is_directory: bool


class PartExtractor:
    """Extracts what the patterns choose of one chain."""

    def __init__(
        self, archives: ArchiveExtractor, patterns: Patterns, plan: TargetPlan
    ) -> None:
        self._archives = archives
        self._plan = plan
        self._is_removed = not plan.removed and not plan.replaced
        self._target_directories = archives.directories
        self._state = State(patterns)
        self._patterns = patterns
        self._directories = _Directories()
        self._links: dict[Path, list[_Link]] = {}
        # Parents of members that were passed on.
        self._passed: set[Path] = set()
        # Chosen directories whose parent is not chosen.
        self._tops: list[Path] = []

    def extract(
        self,
        levels: Iterable[LevelArchive],
        limited: Callable[[Iterable[Block]], Iterator[Block]],
    ) -> None:
        """See :meth:`freezer.engine.engine.FileEngine.extract_part`."""
        with tree.Folders(self._archives.target) as self._folders:
            for level in levels:
                with contextlib.closing(level.data()) as blocks:
                    self._extract(limited(self._filter(self._remove_before(blocks))))
                if self._links:
                    with contextlib.closing(level.data()) as blocks:
                        self._extract(limited(self._linked(blocks)))
                if not self._state.wanted:
                    break
        self._archives.extract(itertools.chain(self._directories.needed(), [_END]))
        self._state.finish()

    def _remove_before(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """The blocks; before the first, which shows that the backup can be read, the
        paths of the plan are removed."""
        for block in blocks:
            if not self._is_removed:
                self._is_removed = True
                self._remove()
            yield block

    def _remove(self) -> None:
        """:raises RestoreError: a path cannot be removed"""
        for path in (*self._plan.removed, *self._plan.replaced):
            names = path.split(b'/')
            depths = range(len(names) + 1)
            top = next(n for n in depths if self._is_chosen(tuple(names[:n])))
            # Of users other than root, directories have to be made writable.
            self._target_directories.make_ready(names[:top])
            try:
                parent = self._folders.open(names[:-1])
                status = os.fstat(parent)
                tree.remove(self._folders, names)
                # It still is a directory that was made ready.
                with contextlib.suppress(PermissionError):
                    with tree.readable(self._folders.open(names[:-1])) as parent:
                        os.utime(parent, ns=(status.st_atime_ns, status.st_mtime_ns))
            except OSError as error:
                raise RestoreError(
                    f'{self._full(names)} could not be removed: {error.strerror}'
                ) from error

    def _extract(self, archive: Iterable[Block]) -> None:
        with self._target_directories.for_archive():
            # Existing directories get their final attributes from the last archive.
            for top in self._tops:
                self._target_directories.make_ready(top)
            self._archives.extract(archive)

    def _filter(self, blocks: Iterable[Block]) -> Iterator[bytes]:
        """The archive with only the members to extract.

        :raises RestoreError: a parent in the target is not a directory
        """
        self._state.begin_archive()
        members = Members(blocks)
        for unit in members:
            try:
                yield from self._pass_on(unit, members)
            except RefusedError as refused:
                raise members.refused(refused, unit) from refused

    def _linked(self, blocks: Iterable[Block]) -> Iterator[bytes]:
        """The contents that the links of the same archive need, under their names."""
        links, self._links = self._links, {}
        members = Members(blocks)
        for unit in members:
            if unit.kind in DIRECTORIES | HEADERS:
                continue
            names = links.pop(tuple(components(unit.name, 'its name')), None)
            if names is None:
                continue
            first = _name(names[0].path)
            yield renamed(unit, members.head, first, unit.linkname)
            yield from members.data()
            for link in names[1:]:
                yield renamed(link.unit, link.head, _name(link.path), first)
        if links:
            lost = os.fsdecode(b'/'.join(next(iter(links))))
            raise EngineError(
                f'the archive has a hard link to {lost!r}, but not that file: it was '
                f'not made by GNU tar'
            )
        yield _END

    def _pass_on(self, unit: Unit, members: Members) -> Iterator[bytes]:
        if unit.kind in HEADERS:
            yield members.head
            yield from members.data()
            return
        found = self._state.admit(unit)
        if found is None or self._is_untouched(found.path, unit):
            return
        if unit.kind in DIRECTORIES:
            yield from self._directory(unit, members.head, found)
            return
        self._pass(found.path)
        head = members.head
        if unit.kind == b'1':
            linked = self._state.target_of(unit.linkname)
            if linked is None:
                first = tuple(components(unit.linkname, 'its link name'))
                self._links.setdefault(first, []).append(_Link(found.path, unit, head))
                return
            head = renamed(unit, head, _name(found.path), _name(linked))
        elif found.path != tuple(components(unit.name, 'its name')):
            head = renamed(unit, head, _name(found.path), unit.linkname)
        yield head
        yield from members.data()

    def _is_untouched(self, path: Path, unit: Unit) -> bool:
        """Whether this is a mount point, or below one, that is not to be changed."""
        untouched = self._plan.untouched
        if not untouched:
            return False
        depths = range(1, len(path) + 1)
        mount = next((n for n in depths if b'/'.join(path[:n]) in untouched), 0)
        if mount and (mount < len(path) or unit.kind not in DIRECTORIES):
            # The plan follows the snapshot file, and the archive has more.
            self._archives.warn(
                f'{self._full(path)}: not restored: it is on a mounted file system'
            )
        return mount > 0

    def _directory(self, unit: Unit, head: bytes, found: Found) -> Iterator[bytes]:
        name = _name(found.path) + b'/' if found.path else b'./'
        if found.path or found.chosen:
            self._directories.add(found.path, renamed(unit, head, name, b''))
        if not self._is_chosen(found.path):
            return
        self._directories.need(found.path)
        if found.path:
            self._pass(found.path, directory=True)
        if not found.path or not self._is_chosen(found.path[:-1]):
            self._tops.append(found.path)
            self._target_directories.make_ready(found.path)
        if found.path:
            yield renamed(unit, head, name, b'')

    def _pass(self, path: Path, directory: bool = False) -> None:
        """Before a member is passed on: clear its place, and note the parents that are
        missing."""
        parents = [path[:depth] for depth in range(1, len(path))]
        if parents and parents[-1] not in self._passed:
            self._passed.update(parents)
            for parent in parents:
                if self._is_chosen(parent):
                    break
                if self._is_absent(parent):
                    self._directories.need(parent)
        if not self._is_chosen(path[:-1]):
            self._clear_place(path, directory)

    def _is_chosen(self, path: Path) -> bool:
        """Whether a path is restored, and a directory with all that is in it."""
        if b'/'.join(path) in self._plan.parents:
            return False
        return self._patterns.chosen(self._patterns.at(path))

    def _clear_place(self, path: Path, directory: bool) -> None:
        """Remove the file that a member replaces.

        tar does not report when it cannot put a hard link in the place of a file.
        """
        there = self._look(path)
        if there is None:
            return
        if not there.is_directory:
            with self._errors(path):
                os.unlink(path[-1], dir_fd=there.folder)
        elif not directory:
            raise RestoreError(
                f'{self._full(path)} is a directory, but not in the backup: remove it, '
                f'or restore into another directory'
            )

    def _is_absent(self, path: Path) -> bool:
        there = self._look(path)
        if there is not None and not there.is_directory:
            raise RestoreError(
                f'{self._full(path)} is not a directory, but paths below it are to be '
                f'restored: remove it, or restore into another directory'
            )
        return there is None

    def _look(self, path: Path) -> _There | None:
        """What the target has at a path; None if there is nothing.

        :raises RestoreError: that cannot be found out
        """
        with self._errors(path), contextlib.suppress(*tree.GONE):
            folder = self._folders.open(path[:-1])
            status = os.stat(path[-1], dir_fd=folder, follow_symlinks=False)
            return _There(folder, stat.S_ISDIR(status.st_mode))
        return None

    @contextlib.contextmanager
    def _errors(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RestoreError(f'{self._full(path)}: {error.strerror}') from error

    def _full(self, path: Sequence[bytes]) -> str:
        return os.path.join(self._archives.target, os.fsdecode(b'/'.join(path)))


class _Directories:
    """Directory members without their lists; on disk if there are many."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_SPOOLED)  # noqa: SIM115
        self._where: dict[Path, tuple[int, int]] = {}
        self._needed: set[Path] = set()

    def add(self, path: Path, member: bytes) -> None:
        start = self._file.seek(0, os.SEEK_END)
        self._file.write(member)
        self._where[path] = (start, len(member))

    def need(self, path: Path) -> None:
        self._needed.add(path)

    def needed(self) -> Iterator[bytes]:
        """The needed members, parents before children. Can be called once."""
        for path in sorted(self._needed & self._where.keys()):
            start, length = self._where[path]
            self._file.seek(start)
            yield self._file.read(length)
        self._file.close()


def _name(path: Path) -> bytes:
    """The name that tar gives to a member."""
    return b'./' + b'/'.join(path)
