"""A filter between an archive and GNU tar that keeps a restore inside its target.

GNU tar refuses absolute names and ``..`` by itself, and delays symbolic links that
point upwards until the end of an archive. It does not protect a chain of archives:
level 0 leaves ``d -> /etc`` behind, level 1 writes ``d/passwd``, and tar follows the
link. :class:`TargetGuard` reads the same bytes before tar does, member by member, and
passes a member on only if its path stays in the target.

:mod:`freezer.engine.tar.units` parses the archive.

Tar runs behind the guard, and the guard never reads the disk to see how far tar is. It
keeps a *model*: the paths that may be symbolic links. The model has to be a superset of
the links on disk and may contain more, because tar continues after most errors: a hard
link whose target is missing does not replace anything, a rename that fails leaves its
source (and makes tar skip the deletions that the same dumpdir asks for). Therefore:

* a path stays in the model until a *directory* member takes its place: only
  a directory can be a parent, tar writes a member for every directory in every level,
  and extracting one either removes a symbolic link or fails where a later member would
  have to pass. A dumpdir which no longer lists the name, or another file in its place,
  need not clear anything;
* a renamed directory keeps its links under the old name as well.

The guard relies on this (GNU tar 1.34): at the last component of a path tar does not
follow a symbolic link but removes it, for files, directories and hard links alike, and
does not purge a directory through one. Tar has to run with ``LC_ALL=C`` or a UTF-8
locale: in others it converts the names of the posix format, and two different names
could become one on disk. Its working directory has to be the target, because there it
makes the temporary directory of an ``X`` record, whatever ``--directory`` says. File
systems that fold case are not protected, nor is a target in which another process makes
links during the restore.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Final

from freezer.engine.tar.headers import (
    DIRECTORIES,
    Dumpdir,
    RefusedError,
    components,
    disarmed,
    shown,
    writable,
)
from freezer.engine.tar.links import NOT_A_LINK, Links, Node
from freezer.engine.tar.members import Members
from freezer.engine.tar.patterns import Patterns, Place
from freezer.engine.tar.units import Unit
from freezer.exceptions import EngineError
from freezer.utils import tree
from freezer.utils.blocks import Block

_ALWAYS: Final = 1 << 62
# Members that may grant rights: files and devices.
_ARMED: Final = frozenset({b'0', b'S', b'3', b'4'})
_WAS_DIRECTORY: Final = 'it was a directory earlier in the same archive'


class TargetGuard:
    """Checks the archives of one restore, in the order in which tar extracts them.

    One guard checks all levels of a chain: the links that level 0 leaves behind decide
    what level 1 may do. After an error the guard cannot be used again.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | None,
        untrusted: bool = False,
        patterns: Patterns | None = None,
        made_writable: Callable[[], bool] = lambda: False,
        untouched: Container[bytes] = (),
        strict: bool = False,
        parents: Mapping[bytes, Container[bytes]] | None = None,
    ) -> None:
        """Find the symbolic links that the target already contains.

        :param target: the directory that tar extracts into; None for an empty one that
            does not exist, if nothing is extracted
        :param untrusted: remove set-user-ID and set-group-ID from files, and turn
            device nodes into empty files
        :param patterns: the archives contain only what these choose; the rest of the
            target is not scanned
        :param made_writable: whether, before the current archive, each directory that
            it may change was made writable
        :param untouched: paths of directories in which the archives have nothing; they
            are not scanned
        :param strict: also refuse members that tar could not extract, because the kind
            of a file changed while the archive was made; see :meth:`_check_kind`
        :param parents: directories of which the archives have only some names: others
            are not scanned
        :raises EngineError: the target, or a directory in it, is not readable
        """
        self.members = 0
        """Members passed so far, in all archives."""
        self.files = 0
        """How many of them are not directories."""
        self.current = b''
        """Name of the last member."""
        self.untrusted = untrusted
        self._links = Links()
        self._archive = 0
        self._first = True
        # Only root can remove a link from a directory that is not writable.
        self._root = os.geteuid() == 0
        # The paths that tar used as directories in the current archive.
        self._dirs: set[bytes] = set()
        # Of an archive that is checked strictly: the directories that dumpdirs list
        # and that had no member so far; and the members that were refused.
        self._listed: set[bytes] = set()
        self._refused: set[bytes] = set()
        self._strict = strict
        self._patterns = patterns or Patterns([])
        self._made_writable = made_writable
        self._untouched = untouched
        self._parents = parents or {}
        if target is not None:
            self._scan(os.fsencode(target))

    def fork(self) -> TargetGuard:
        """Another guard of the same archives so far, for another one on top of them."""
        new = copy.copy(self)
        new._links = self._links.copy()
        new._dirs = set()
        return new

    def check(self, blocks: Iterable[Block]) -> Iterator[bytes]:
        """Yield the bytes of one archive as far as they are safe.

        The bytes are unchanged (except headers, if the archive is untrusted). No byte
        of a member is yielded before the member is approved; the data of an approved
        member is not held back.

        :raises UnsafeArchiveError: a member would reach outside the target, or is of a
            kind that the guard does not know
        :raises EngineError: the bytes are not a tar archive, or end before its end
            marker
        """
        members = Members(blocks)
        for unit in self.approved(members):
            head = members.head
            if self.untrusted and unit.kind in _ARMED:
                head = head[: unit.header] + disarmed(head[unit.header :])
            yield head
            yield from members.data()

    def approved(self, members: Members) -> Iterator[Unit]:
        """The units of one archive, each once it is approved; raises as :meth:`check`.

        For a reader that extracts nothing.
        """
        self.begin_archive()
        for unit in members:
            try:
                self.admit(unit)
            except RefusedError as refused:
                raise members.refused(refused, unit) from refused
            yield unit

    def begin_archive(self, chosen: Iterable[bytes] = ()) -> None:
        """Go on with the archive of the next level.

        :param chosen: of a strict check: directories that no dumpdir lists
        """
        self._archive += 1
        self._first = True
        self._dirs.clear()
        self._listed = {b'', *chosen}
        self._refused.clear()
        self._links.begin_archive()

    def admit(self, unit: Unit) -> None:
        """Check a unit against the model and update the model.

        Raises :class:`RefusedError`.
        """
        if unit.kind in {b'', b'g'}:
            return
        if unit.kind == b'V':
            components(unit.name, 'the volume label')
            return
        self._member(unit)
        self._first = False
        self.members += 1
        self.files += unit.kind not in DIRECTORIES
        self.current = unit.name.removeprefix(b'./')

    def admit_plain(self, path: bytes, dumpdir: Dumpdir | None) -> None:
        """The same of a file, device, symbolic link or directory, in a strict check,
        which needs no model of the links.

        :param path: its components, joined
        :param dumpdir: None if it is no directory
        """
        if dumpdir is not None:
            self._check_kind(path, is_directory=True)
            self._dirs.add(path)
            self._dumpdir(dumpdir)
            self._list(path, dumpdir)
            self._first = False
            return
        folder = path.rpartition(b'/')[0]
        dirs = self._dirs
        if path in self._listed or path in dirs or (folder and folder not in dirs):
            self._check_kind(path, is_directory=False)
            raise RefusedError(_WAS_DIRECTORY)

    def refuse(self, path: bytes) -> None:
        """Note that a member of a strict check was left out: no link may lead to it."""
        self._refused.add(path)

    # The model

    def _scan(self, target: bytes) -> None:
        names: list[bytes] = []
        try:
            with tree.Folders(target) as folders:
                names = folders.names
                for directory in tree.walk(folders, self._patterns.top):
                    self._scan_directory(directory)
        except OSError as error:
            raise EngineError(
                f'Cannot look for symbolic links in '
                f'{shown(b"/".join([target, *names]))}: {error.strerror}. Restore into '
                f'an empty directory.'
            ) from error

    def _scan_directory(self, directory: tree.Directory[Place]) -> None:
        """Note the links in a directory, and visit its directories."""
        if directory.path in self._untouched:
            return
        with tree.entries(directory.fd) as entries:
            chosen = self._parents.get(directory.path)
            for name, entry in entries:
                if chosen is not None and name not in chosen:
                    continue
                if entry.is_symlink():
                    self._links.own([*directory.names, name]).link = self._archive
                elif entry.is_dir(follow_symlinks=False) and (
                    below := self._patterns.below(directory.state, name)
                ):
                    directory.enter(name, below)
        if not self._root:
            status = os.fstat(directory.fd)
            owner = status.st_uid == os.geteuid()
            if not owner or not writable(status.st_mode):
                self._links.own(directory.names).locked = _ALWAYS

    def _member(self, unit: Unit) -> None:
        path = self._path(unit.name, 'its name')
        if self._strict:
            self._check_kind(b'/'.join(path), unit.kind in DIRECTORIES)
        self._mark_directories(path[:-1])
        if unit.kind in DIRECTORIES:
            self._directory(unit, path)
            return
        if not path or unit.name.endswith((b'/', b'/.')):
            # Tar would create a directory, or replace the target itself.
            raise RefusedError('it has the name of a directory')
        if b'/'.join(path) in self._dirs:
            # Tar sets mode and owner of a directory at the end of the archive, by
            # name, and would do so through a link that has taken its place.
            raise RefusedError(_WAS_DIRECTORY)
        if unit.kind == b'1':
            if unit.linkname.endswith((b'/', b'/.')):
                raise RefusedError('it is a hard link to a directory')
            source = self._path(unit.linkname, 'its link name')
            if b'/'.join(source) in self._refused:
                raise RefusedError('it is a hard link to a file that is left out')
            # Tar may look up the source again at the end of the archive.
            self._mark_directories(source[:-1])
            node = self._links.find(source)
            if node is not None and node.link != NOT_A_LINK:
                self._links.own(path).link = self._archive
        elif unit.kind == b'2':
            self._links.own(path).link = self._archive

    def _check_kind(self, path: bytes, is_directory: bool) -> None:
        """Check a member against the lists of directories that came before it.

        tar reads all directories, and then stores what it finds under their names. If a
        user has exchanged a file and a directory in between, a restore would find the
        one of the level below in the place of the other; or a file where a later member
        needs a directory.
        """
        folder = path.rpartition(b'/')[0]
        if folder and folder not in self._dirs:
            raise RefusedError('the directory it is in has changed')
        if is_directory != (path in self._listed):
            raise RefusedError(
                'it was no directory before' if is_directory else 'it was a directory'
            )

    def _path(self, name: bytes, what: str) -> list[bytes]:
        """The components of a path, checked that tar follows no link to it."""
        path = components(name, what)
        # Then the last component is not the last one for the kernel.
        dot = name.rstrip(b'/').endswith(b'/.')
        link = self._links.link_on_the_way([*path, b'.'] if dot else path)
        if link is not None:
            raise RefusedError(
                f'{what} {shown(name)} goes through the symbolic link {shown(link)}'
            )
        return path

    def _mark_directories(self, path: list[bytes]) -> None:
        while path:
            key = b'/'.join(path)
            if key in self._dirs:
                return
            self._dirs.add(key)
            path = path[:-1]

    def _directory(self, unit: Unit, path: list[bytes]) -> None:
        node = self._links.find(path)
        if node is not None and node.link != NOT_A_LINK:
            if node.link == self._archive:
                # Tar creates some links only at the end of the archive, wherever it
                # still finds the inode of their placeholder.
                raise RefusedError('it was a link earlier in the same archive')
            parent = self._links.find(path[:-1])
            locked = parent is not None and parent.locked >= self._archive
            if locked and not self._made_writable():
                raise RefusedError(
                    'a symbolic link is in its place that only root could remove'
                )
            self._links.own(path).link = NOT_A_LINK
        if not self._root:
            if unit.locked:
                self._links.own(path).locked = _ALWAYS
            elif node is not None and node.locked == _ALWAYS:
                # The mode changes at the end of the archive.
                self._links.own(path).locked = self._archive
        self._mark_directories(path)
        if unit.dumpdir is not None:
            self._dumpdir(unit.dumpdir)
        if self._strict:
            self._list(b'/'.join(path), unit.dumpdir)

    def _list(self, path: bytes, dumpdir: Dumpdir | None) -> None:
        """Note the directories that the list of a directory has."""
        self._listed.discard(path)
        if dumpdir is not None:
            prefix = path + b'/' if path else b''
            self._listed.update(prefix + name for name in dumpdir.directories())

    def _dumpdir(self, dumpdir: Dumpdir) -> None:
        """Check the list of the files of a directory, and apply its renames.

        Entries are a letter and a name or path, ended by a NUL; an empty one ends the
        list. Y, N, D: a file in the archive, a file that is not, a directory; tar
        deletes files that are not listed or no longer of that kind. X: make a temporary
        directory in this one. R, T: rename the directory R to T, both relative to the
        target; an empty name is the temporary directory.
        """
        if dumpdir.is_plain():
            return
        temporary: Node | None = None
        source: bytes | None = None
        for entry in dumpdir.entries():
            code, name = entry[:1], entry[1:]
            if (source is not None) != (code == b'T'):
                raise RefusedError('its dumpdir has an R without a T or a T without R')
            if code in {b'Y', b'N', b'D'}:
                if b'/' in name or name in {b'', b'.', b'..'}:
                    raise RefusedError(f'its dumpdir lists {shown(name)}')
                continue
            if code not in {b'R', b'T', b'X'}:
                raise RefusedError(f'its dumpdir has an unknown entry {shown(entry)}')
            if not self._first:
                # Tar writes renames there, and they are harmless only before it has
                # noted any paths for the end of the archive.
                raise RefusedError('it renames, but is not first in the archive')
            if code == b'X':
                self._path(name + b'/.', 'the temporary directory of its dumpdir')
                temporary = temporary or Node()
            elif code == b'R':
                source = name
            else:
                assert source is not None
                temporary = self._rename(source, name, temporary)
                source = None
        if source is not None:
            raise RefusedError('its dumpdir has an R without a T')

    def _rename(
        self, source: bytes, target: bytes, temporary: Node | None
    ) -> Node | None:
        """Apply a rename to the model. Returns the temporary directory."""
        if (not source or not target) and temporary is None:
            raise RefusedError('its dumpdir renames an empty name')
        paths: list[list[bytes]] = []
        for name in filter(None, (source, target)):
            path = self._path(name, 'the rename in its dumpdir')
            if not path or name.endswith((b'/', b'/.')):
                raise RefusedError(f'its dumpdir renames {shown(name)}')
            self._mark_directories(path[:-1])
            paths.append(path)
        moved = self._links.find(paths[0]) if source else temporary
        if moved is None:
            return temporary
        if target:
            self._links.put(paths[-1], moved)
            return temporary
        assert temporary is not None
        return self._links.merge(temporary, moved)
