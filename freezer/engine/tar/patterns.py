"""Which paths of a backup are chosen: patterns, matched component by component.

A pattern is a path from the top of the backup. ``*``, ``?`` and ``[…]`` match
characters of one component, ``**`` matches any number of components. A path that
matches is chosen with everything below it. The caller goes down a tree and keeps for
each directory a :data:`Place`: the parts of the patterns that are still to be matched.
A directory below which nothing can match is thus recognised without reading it.
"""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from freezer.exceptions import ConfigError
from freezer.utils import tree

_ANY_DEPTH: Final = '**'

#: (pattern, component) that are to be matched next; a pattern is matched when its
#: components are used up
Place = frozenset[tuple[int, int]]

NOWHERE: Final[Place] = frozenset()


class Patterns:
    """Chooses what any of the patterns matches; everything if there are none."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """:raises ConfigError: a pattern can match nothing"""
        self.texts = tuple(patterns)
        self._parts = [_parts(pattern) for pattern in patterns]

    @property
    def top(self) -> Place:
        """The place of the top of the backup."""
        if not self._parts:
            return frozenset({(-1, 0)})
        return self._closed((number, 0) for number in range(len(self._parts)))

    def below(self, place: Place, name: bytes) -> Place:
        """The place of an entry of a directory."""
        if all(map(self._ended, place)):
            return place
        return self._closed(self._step(place, name))

    def at(self, path: Iterable[bytes]) -> Place:
        """The place of a path."""
        place = self.top
        for name in path:
            place = self.below(place, name)
        return place

    def chosen(self, place: Place) -> bool:
        """Whether the path at this place is chosen."""
        return any(self._ended(at) for at in place)

    def matched(self, place: Place) -> Iterable[int]:
        """The numbers of the patterns that choose it."""
        return (at[0] for at in place if at[0] >= 0 and self._ended(at))

    def last(self, place: Place) -> list[tuple[int, re.Pattern[str]]]:
        """The patterns that choose an entry of a directory if it matches: their numbers
        and last components."""
        found = []
        for number, component in place:
            if not self._ended((number, component)):
                part = self._parts[number][component]
                if part is not None and component + 1 == len(self._parts[number]):
                    found.append((number, part))
        return found

    def roots(self) -> list[bytes]:
        """The paths that everything they can match is at or below; empty for the whole
        backup. None is below another."""
        found: list[bytes] = []
        for pattern in self.texts:
            parts = [part for part in pattern.split('/') if part not in ('', '.')]
            plain = list(itertools.takewhile(_is_plain, parts))
            if not plain:
                return []
            found.append(os.fsencode('/'.join(plain)))
        found.sort()
        return [
            path
            for path in dict.fromkeys(found)
            if not any(path.startswith(other + b'/') for other in found)
        ]

    def _ended(self, at: tuple[int, int]) -> bool:
        number, component = at
        return number < 0 or component == len(self._parts[number])

    def _step(self, place: Place, name: bytes) -> Iterable[tuple[int, int]]:
        text = os.fsdecode(name)
        for number, component in place:
            if self._ended((number, component)):
                # Kept, while other patterns may still match something below.
                yield number, component
                continue
            part = self._parts[number][component]
            if part is None:
                yield number, component
            elif part.match(text):
                yield number, component + 1

    def _closed(self, found: Iterable[tuple[int, int]]) -> Place:
        """Add the positions after a ``**`` that matches no component; drop the rest of
        a pattern that has matched."""
        place = set()
        for number, component in found:
            parts = self._parts[number] if number >= 0 else []
            place.add((number, component))
            while component < len(parts) and parts[component] is None:
                component += 1
                place.add((number, component))
        ended = {at[0] for at in place if self._ended(at)}
        return frozenset(at for at in place if at[0] not in ended or self._ended(at))


def _is_plain(part: str) -> bool:
    return not set(part) & set('*?[')


def _parts(pattern: str) -> list[re.Pattern[str] | None]:
    """The components; None for any number of them."""
    parts = [part for part in pattern.split('/') if part not in ('', '.')]
    if not parts:
        raise ConfigError(
            f'include {pattern!r} matches the whole backup: omit it, or name a path '
            f'below the top'
        )
    if '..' in parts:
        raise ConfigError(
            f'include {pattern!r}: patterns begin at the top of the backup and cannot '
            f'contain ".."'
        )
    compiled: list[re.Pattern[str] | None] = []
    for part in parts:
        if part != _ANY_DEPTH:
            compiled.append(re.compile(fnmatch.translate(part)))
        elif not compiled or compiled[-1] is not None:
            compiled.append(None)
    if compiled[-1] is None:
        # "a/**" is everything below a, without a itself.
        compiled[-1:] = [None, re.compile(fnmatch.translate('*'))]
    return compiled


def walk(root: str) -> Iterator[tuple[bytes, os.stat_result]]:
    """Every path below a directory, and its status.

    Stays on its file system and follows no link. Files that vanish meanwhile are
    skipped, and directories that cannot be read.
    """
    with tree.Folders(root) as folders:
        device = os.fstat(folders.fd).st_dev
        skipped = (*tree.GONE, PermissionError)
        for directory in tree.walk(folders, None, skipped):
            prefix = [directory.path] if directory.names else []
            try:
                with tree.entries(directory.fd) as entries:
                    found = list(entries)
                    for name, entry in found:
                        with contextlib.suppress(FileNotFoundError):
                            status = entry.stat(follow_symlinks=False)
                            yield b'/'.join([*prefix, name]), status
                            same = status.st_dev == device
                            if stat.S_ISDIR(status.st_mode) and same:
                                directory.enter(name, None)
            except skipped:
                continue
