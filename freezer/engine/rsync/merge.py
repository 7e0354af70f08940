"""The final state of a chain: which level has each path."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from freezer.engine.engine import no_match
from freezer.engine.index.record import sort_key
from freezer.engine.opened import OpenedLevel
from freezer.engine.rsync.entry import REMOVED, Entry, LevelReader
from freezer.engine.tar.choose import Chooser
from freezer.engine.tar.patterns import Patterns
from freezer.exceptions import EngineError
from freezer.utils.blocks import Block

OpenReader = Callable[[Iterable[Block]], LevelReader]


class Found(NamedTuple):
    """A path of the final state.

    :ivar base: the level that has all of its contents
    :ivar last: the level that has its attributes. It and those above ``base`` may have
        changes of the contents
    :ivar entry: None if it was not to be kept
    """

    base: int
    last: int
    kind: str
    entry: Entry | None

    def has(self, entry: Entry, level: int) -> bool:
        """Whether an entry of a level is a part of it. Version 1 lists files as removed
        that come back as changes."""
        return self.base <= level <= self.last and entry.kind != REMOVED


State = dict[bytes, Found]


@contextlib.contextmanager
def reading(level: OpenedLevel) -> Iterator[None]:
    """Errors of its archive name the level."""
    try:
        yield
    except EngineError as error:
        raise type(error)(f'{where_of(level)}: {error}') from error


def where_of(level: OpenedLevel) -> str:
    """The name of its archive, for errors."""
    return level.stored.storage.location(level.stored.paths.data)


def merge(
    levels: Iterable[OpenedLevel], reader: OpenReader, keep: bool
) -> tuple[State, int]:
    """The state, and the version of the format.

    :param levels: from level 0 up
    :param keep: keep the entries as well
    :raises EngineError: an archive is damaged, or changes a file that is not there
    """
    found: State = {}
    removed: list[bytes] = []
    version = last = 0
    for level in levels:
        last = level.level
        with reading(level), contextlib.closing(level.data()) as blocks:
            opened = reader(blocks)
            if version not in (0, opened.version):
                raise EngineError(
                    'the archive is not in the format of the levels below: it was '
                    'replaced'
                )
            version = opened.version
            removed.clear()
            for entry in opened.paths():
                if entry.kind != REMOVED:
                    found[entry.path] = _found(found, last, version, entry, keep)
                elif version == 1:
                    removed.append(entry.path)
                else:
                    found.pop(entry.path, None)
    state = _without(found, removed, last) if version == 1 else found
    return state, version


def _found(found: State, level: int, version: int, entry: Entry, keep: bool) -> Found:
    base = level
    if entry.kind == 'file' and entry.is_change:
        below = found.get(entry.path)
        if below is not None and below.kind == 'file':
            base = below.base
        elif version != 1:
            raise EngineError(
                f'the archive has changes of {os.fsdecode(entry.path)!r}, and the '
                f'levels below do not have this file: one of them is damaged'
            )
    return Found(base, level, entry.kind, entry if keep else None)


def _without(found: State, removed: Iterable[bytes], last: int) -> State:
    """The state of version 1. Each level has all directories, and all files that were
    removed since level 0. Only the last list counts: a file may come back as changes of
    the one that was removed."""
    gone = set(removed)
    return {
        path: each
        for path, each in found.items()
        if (each.last == last if each.kind == 'directory' else path not in gone)
    }


class Wanted(NamedTuple):
    """What is to be restored.

    :ivar state: the chosen paths, and the directories that lead to them
    :ivar leading: those of them that are not chosen
    """

    state: State
    leading: frozenset[bytes]


def choose(state: State, patterns: Patterns) -> Wanted:
    """
    :raises RestoreError: a pattern chooses nothing
    """
    if not patterns.texts:
        return Wanted(state, frozenset())
    chooser = Chooser(patterns)
    # The top is never chosen by a pattern.
    paths = sorted(filter(None, state), key=sort_key)
    chosen = {path: state[path] for path in paths if chooser.chooses(path)}
    if chooser.unmatched:
        raise no_match(chooser.unmatched)
    leading = set()
    for path in chosen:
        while path := path.rpartition(b'/')[0]:
            if path in leading:
                break
            leading.add(path)
    leading = {path for path in leading if path in state and path not in chosen}
    return Wanted(chosen | {path: state[path] for path in leading}, frozenset(leading))
