"""Extracts a part of a chain: filters its archives before tar reads them.

The archives are read from the newest to the oldest. A member is passed on once, if it
is chosen and exists in the final state, under its final name
(:mod:`freezer.engine.tar.state`): so tar has nothing to delete, to rename or to replace
that an earlier level left. tar removes files that a chosen directory has in the target
and did not have in the backup; the lists of other directories are removed from their
members.

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
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from freezer.engine.engine import LevelArchive
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
from freezer.engine.tar.state import Found, State, contents
from freezer.engine.tar.units import Unit
from freezer.exceptions import EngineError, RestoreError
from freezer.utils.blocks import Block

Path = tuple[bytes, ...]

_END: Final = bytes(2 * BLOCK)
_SPOOLED: Final = 8 << 20


class _Link(NamedTuple):
    """A hard link to a name that was not passed on."""

    path: Path
    unit: Unit
    head: bytes


class PartExtractor:
    """Extracts what the patterns choose of one chain."""

    def __init__(
        self,
        archives: ArchiveExtractor,
        patterns: Patterns,
    ) -> None:
        self._archives = archives
        self._target = os.fsencode(archives.target)
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
        for level in levels:
            with contextlib.closing(level.data()) as blocks:
                self._extract(limited(self._filter(blocks)))
            if self._links:
                with contextlib.closing(level.data()) as blocks:
                    self._extract(limited(self._linked(blocks)))
            if not self._state.wanted:
                break
        self._archives.extract(itertools.chain(self._directories.needed(), [_END]))
        self._state.finish()

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
            yield renamed(unit, members.head, first, unit.linkname, None)
            yield from members.data()
            for link in names[1:]:
                yield renamed(link.unit, link.head, _name(link.path), first, None)
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
        if found is None:
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
            head = renamed(unit, head, _name(found.path), _name(linked), None)
        elif found.path != tuple(components(unit.name, 'its name')):
            head = renamed(unit, head, _name(found.path), unit.linkname, None)
        yield head
        yield from members.data()

    def _directory(self, unit: Unit, head: bytes, found: Found) -> Iterator[bytes]:
        if not found.path:
            # The target itself, which is not chosen.
            return
        name = _name(found.path) + b'/'
        self._directories.add(found.path, renamed(unit, head, name, b'', None))
        if found.chosen:
            self._pass(found.path, directory=True)
            if not self._is_chosen(found.path[:-1]):
                self._tops.append(found.path)
                self._target_directories.make_ready(found.path)
            self._directories.need(found.path)
            listed = None if unit.dumpdir is None else contents(unit.dumpdir)
            yield renamed(unit, head, name, b'', listed)

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
        elif not directory:
            self._clear_directory(path)

    def _is_chosen(self, path: Path) -> bool:
        return self._patterns.chosen(self._patterns.at(path))

    def _clear_place(self, path: Path, directory: bool) -> None:
        """Remove the file that a member replaces, as tar gets no list of the parent.

        tar looks for files to delete in a directory before it creates it; and it does
        not report when it cannot put a hard link in the place of a file.
        """
        with self._existing(path) as full:
            exists = stat.S_ISDIR(os.lstat(full).st_mode)
            if exists and not directory:
                raise RestoreError(
                    f'{os.fsdecode(full)} is a directory, but not in the backup: '
                    f'remove it, or restore into another directory'
                )
            if not exists:
                os.unlink(full)

    def _clear_directory(self, path: Path) -> None:
        """Remove a directory in the place of a file, below a chosen directory.

        The newest list cannot always tell a file of an older archive from an excluded
        directory, which tar keeps.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        # Not a directory: tar replaces or refuses it by itself.
        with self._existing(path) as full, contextlib.suppress(NotADirectoryError):
            if not stat.S_ISDIR(os.lstat(full).st_mode):
                return
            # Opened component by component, so that no link is followed.
            *parents, name = path
            with contextlib.ExitStack() as opened:
                folder = os.open(self._target, flags)
                opened.callback(os.close, folder)
                for parent in parents:
                    folder = os.open(parent, flags | os.O_NOFOLLOW, dir_fd=folder)
                    opened.callback(os.close, folder)
                shutil.rmtree(name, dir_fd=folder)

    def _is_absent(self, path: Path) -> bool:
        exists = False
        with self._existing(path) as full:
            exists = bool(status := os.lstat(full))
            if not stat.S_ISDIR(status.st_mode):
                raise RestoreError(
                    f'{os.fsdecode(full)} is not a directory, but paths below it are '
                    f'to be restored: remove it, or restore into another directory'
                )
        return not exists

    @contextlib.contextmanager
    def _existing(self, path: Path) -> Iterator[bytes]:
        """A block about a path in the target; left without an error if it is missing.

        :raises RestoreError: the block failed
        """
        full = b'/'.join((self._target, *path))
        try:
            yield full
        except FileNotFoundError:
            return
        except OSError as error:
            raise RestoreError(f'{os.fsdecode(full)}: {error.strerror}') from error


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
