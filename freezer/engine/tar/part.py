"""A part of a chain, as archives that GNU tar extracts one after the other.

The archives of a chain are read from the newest to the oldest, each member that is
chosen and there in the end is handed on once, under the name it has then
(:mod:`freezer.engine.tar.state`), and no other is: so tar has nothing to delete, to
rename or to replace that an earlier level left. What tar removes is what a chosen
directory holds in the target and did not hold in the backup; lists of other directories
are taken off their members.

Directories come once more, in an archive of their own at the end, for their times and
rights; with them those on the way to what is chosen, where the target has none. Not at
the end of another archive: tar makes some links after all members, and so would change
the times of directories that did not come before their links.

A hard link whose first name is not handed on gets the contents of that name: the level
is then read a second time, because the contents have passed by then.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from freezer.engine.tar.members import DIRECTORIES, Members, renamed
from freezer.engine.tar.patterns import Patterns
from freezer.engine.tar.state import Found, State, contents
from freezer.engine.tar.units import BLOCK, RefusedError, Unit, components
from freezer.exceptions import EngineError, RestoreError
from freezer.utils.blocks import Block

Path = tuple[bytes, ...]

_END: Final = bytes(2 * BLOCK)
_SPOOLED: Final = 8 << 20


class _Link(NamedTuple):
    """A hard link to what was not handed on."""

    path: Path
    unit: Unit
    head: bytes


class Part:
    """Filters the archives of a chain, newest first; see the module.

    :meth:`filter` each; where :attr:`again` says so, :meth:`filter_again` the same one
    before the next; :meth:`directories` after the last.
    """

    def __init__(
        self, target: str, patterns: Patterns, make_ready: Callable[[Path], None]
    ) -> None:
        """
        :param make_ready: lets tar work in a directory of the target, if it is there,
            and in those below
        """
        self._target = os.fsencode(target)
        self._make_ready = make_ready
        self._state = State(patterns)
        self._patterns = patterns
        self._directories = _Directories()
        self._links: dict[Path, list[_Link]] = {}
        # Directories on the way to something that was handed on.
        self._passed: set[Path] = set()
        # Directories that are chosen, and in none that is.
        self._tops: list[Path] = []

    @property
    def wanted(self) -> bool:
        """Whether an older archive may have something of it."""
        return self._state.wanted

    @property
    def again(self) -> bool:
        return bool(self._links)

    @property
    def unmatched(self) -> list[str]:
        """The patterns that have chosen nothing."""
        return [self._patterns.texts[n] for n in sorted(self._state.unmatched)]

    def make_ready(self) -> None:
        """Before each archive: what those before it left is ready for more.

        What its directories have to be in the end, :meth:`directories` say.
        """
        for top in self._tops:
            self._make_ready(top)

    def filter(self, blocks: Iterable[Block]) -> Iterator[bytes]:
        """An archive with what is to be extracted of this one.

        Raises :class:`RestoreError` when something that is no directory is in the way.
        """
        self._state.begin_archive()
        members = Members(blocks)
        while (unit := members.next()) is not None:
            try:
                yield from self._pass_on(unit, members)
            except RefusedError as refused:
                refused.name = refused.name or unit.name
                raise members.refused(refused) from refused
        yield _END

    def filter_again(self, blocks: Iterable[Block]) -> Iterator[bytes]:
        """What the links of the same archive are links to, under their names."""
        links, self._links = self._links, {}
        members = Members(blocks)
        while (unit := members.next()) is not None:
            if unit.kind in DIRECTORIES or unit.kind in {b'g', b'V'}:
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
                f'{lost!r} has a hard link in the archive, and is not there itself: '
                f'another program than GNU tar made it'
            )
        yield _END

    def directories(self) -> Iterator[bytes]:
        """An archive of the directories of what was extracted."""
        yield from self._directories.needed()
        yield _END

    def _pass_on(self, unit: Unit, members: Members) -> Iterator[bytes]:
        if unit.kind in {b'g', b'V'}:
            # About all of the archive.
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
                self._make_ready(found.path)
            self._directories.need(found.path)
            listed = None if unit.dumpdir is None else contents(unit.dumpdir)
            yield renamed(unit, head, name, b'', listed)

    def _pass(self, path: Path, directory: bool = False) -> None:
        """Something is about to be made there: see to its place, and note the
        directories on the way that it needs."""
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
        """Remove what a member will replace, as no list of a directory has tar do it.

        tar by itself looks for what is too much in a directory before it makes it; and
        does not say so when it cannot put a hard link in the place of a file.
        """
        full = b'/'.join((self._target, *path))
        try:
            there = stat.S_ISDIR(os.lstat(full).st_mode)
            if there and not directory:
                raise RestoreError(
                    f'{os.fsdecode(full)} is a directory, and none in the backup: '
                    f'remove it, or restore elsewhere'
                )
            if not there:
                os.unlink(full)
        except FileNotFoundError:
            return
        except OSError as error:
            raise RestoreError(f'{os.fsdecode(full)}: {error.strerror}') from error

    def _clear_directory(self, path: Path) -> None:
        """Remove a directory in the place of a file, below one that is chosen.

        The newest list may not tell a file of an older archive from a directory that
        was excluded; of these tar keeps what is there.
        """
        full = b'/'.join((self._target, *path))
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            if not stat.S_ISDIR(os.lstat(full).st_mode):
                return
            # A name is taken apart, so that no link on the way is followed.
            *parents, name = path
            with contextlib.ExitStack() as opened:
                folder = os.open(self._target, flags)
                opened.callback(os.close, folder)
                for parent in parents:
                    folder = os.open(parent, flags | os.O_NOFOLLOW, dir_fd=folder)
                    opened.callback(os.close, folder)
                shutil.rmtree(name, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError):
            # Nothing is there, or what tar replaces or refuses by itself.
            return
        except OSError as error:
            raise RestoreError(f'{os.fsdecode(full)}: {error.strerror}') from error

    def _is_absent(self, path: Path) -> bool:
        full = b'/'.join((self._target, *path))
        try:
            status = os.lstat(full)
        except FileNotFoundError:
            return True
        except OSError as error:
            raise RestoreError(f'{os.fsdecode(full)}: {error.strerror}') from error
        if not stat.S_ISDIR(status.st_mode):
            raise RestoreError(
                f'{os.fsdecode(full)} is not a directory, and what is chosen is below '
                f'it: only what is chosen is replaced'
            )
        return False


class _Directories:
    """Members of directories without their lists, on disk if they are many."""

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
        """Those that were needed and are there; each before what is in it. Once."""
        for path in sorted(self._needed & self._where.keys()):
            start, length = self._where[path]
            self._file.seek(start)
            yield self._file.read(length)
        self._file.close()


def _name(path: Path) -> bytes:
    """As tar names the members of a directory."""
    return b'./' + b'/'.join(path)
