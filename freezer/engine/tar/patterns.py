"""Which paths of a backup are chosen: patterns, matched component by component.

A pattern is a path from the top of what was backed up. ``*``, ``?`` and ``[…]`` stand
for characters of one component, ``**`` for any number of components. What it matches is
chosen with all that is below. Going down a tree, one keeps for each directory which
parts of the patterns are still to be matched: so a directory that nothing below can
match is known as such without a look at what is in it.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Sequence
from typing import Final

from freezer.exceptions import ConfigError

_ANY_DEPTH: Final = '**'

#: (pattern, component) that are to be matched next; a pattern is matched when its
#: components are used up
Place = frozenset[tuple[int, int]]

NOWHERE: Final[Place] = frozenset()


class Patterns:
    """Any of these; none at all is everything."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """:raises ConfigError: one can match nothing"""
        self.texts = tuple(patterns)
        self._parts = [_parts(pattern) for pattern in patterns]

    @property
    def top(self) -> Place:
        """Where the top of the backup is."""
        if not self._parts:
            return frozenset({(-1, 0)})
        return self._closed((number, 0) for number in range(len(self._parts)))

    def below(self, place: Place, name: bytes) -> Place:
        """Where an entry of a directory is."""
        if all(map(self._ended, place)):
            return place
        return self._closed(self._step(place, name))

    def at(self, path: Iterable[bytes]) -> Place:
        """Where a path is."""
        place = self.top
        for name in path:
            place = self.below(place, name)
        return place

    def chosen(self, place: Place) -> bool:
        """Whether what is there is chosen."""
        return any(self._ended(at) for at in place)

    def matched(self, place: Place) -> Iterable[int]:
        """The numbers of the patterns that choose it."""
        return (at[0] for at in place if at[0] >= 0 and self._ended(at))

    def _ended(self, at: tuple[int, int]) -> bool:
        number, component = at
        return number < 0 or component == len(self._parts[number])

    def _step(self, place: Place, name: bytes) -> Iterable[tuple[int, int]]:
        text = os.fsdecode(name)
        for number, component in place:
            if self._ended((number, component)):
                # The others may match something below: they are not in vain.
                yield number, component
                continue
            part = self._parts[number][component]
            if part is None:
                yield number, component
            elif part.match(text):
                yield number, component + 1

    def _closed(self, found: Iterable[tuple[int, int]]) -> Place:
        """With what follows a ``**`` that stands for nothing; without what is left of a
        pattern that is matched."""
        place = set()
        for number, component in found:
            parts = self._parts[number] if number >= 0 else []
            place.add((number, component))
            while component < len(parts) and parts[component] is None:
                component += 1
                place.add((number, component))
        ended = {at[0] for at in place if self._ended(at)}
        return frozenset(at for at in place if at[0] not in ended or self._ended(at))


def _parts(pattern: str) -> list[re.Pattern[str] | None]:
    """The components; None for any number of them."""
    parts = [part for part in pattern.split('/') if part not in ('', '.')]
    if not parts:
        raise ConfigError(
            f'include {pattern!r} is all of the backup: leave it out, or name '
            f'something below'
        )
    if '..' in parts:
        raise ConfigError(
            f'include {pattern!r}: a path from the top of what was backed up has '
            f'no ".."'
        )
    compiled: list[re.Pattern[str] | None] = []
    for part in parts:
        if part != _ANY_DEPTH:
            compiled.append(re.compile(fnmatch.translate(part)))
        elif not compiled or compiled[-1] is not None:
            compiled.append(None)
    if compiled[-1] is None:
        # "a/**" is what is below a, and not a itself.
        compiled[-1:] = [None, re.compile(fnmatch.translate('*'))]
    return compiled
