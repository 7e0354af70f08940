"""Chooses records of an index by patterns."""

import os
from collections.abc import Iterable, Iterator

from freezer.engine.engine import Chosen, no_match
from freezer.engine.index.file import Part, RecordBlock
from freezer.engine.tar.patterns import Patterns


def choose(patterns: Patterns, parts: Iterable[tuple[int, Part]]) -> Iterator[Chosen]:
    """What the patterns choose of a state, with the directories above.

    :param parts: level and records, sorted by path
    :raises RestoreError: after the last, if a pattern chooses nothing
    """
    chooser = Chooser(patterns)
    above: list[_Directory] = []
    for level, (block, start, end) in parts:
        paths, kinds = block.paths, block.kinds
        for at in range(start, end):
            path = paths[at]
            is_chosen = chooser.chooses(path)
            is_directory = kinds[at] == 'directory'
            if not is_chosen and not is_directory:
                continue
            while above and not _contains(above[-1].path, path):
                above.pop()
            if is_chosen:
                for directory in above:
                    if not directory.passed:
                        directory.passed = True
                        record = directory.block.records[directory.at]
                        yield Chosen(directory.level, record, False)
                yield Chosen(level, block.records[at], True)
            if is_directory:
                above.append(_Directory(level, block, at, path, is_chosen))
    if chooser.unmatched:
        raise no_match(chooser.unmatched)


class Chooser:
    """See :class:`freezer.engine.engine.Chooser`."""

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns
        self._unmatched = set(range(len(patterns.texts)))
        # The directories above the last path, from the top down, and their places.
        self._above = [(b'', patterns.top)]
        self._enter(b'')

    def chooses(self, path: bytes) -> bool:
        folder, _slash, name = path.rpartition(b'/')
        if folder != self._folder:
            self._enter(folder)
        found = self._whole
        if self._last:
            text = os.fsdecode(name)
            for number, pattern in self._last:
                if pattern.match(text):
                    self._unmatched.discard(number)
                    found = True
        return found and path != b''

    @property
    def unmatched(self) -> list[str]:
        return [self._patterns.texts[number] for number in sorted(self._unmatched)]

    def _enter(self, folder: bytes) -> None:
        above = self._above
        while not _contains(above[-1][0], folder):
            above.pop()
        path, place = above[-1]
        if path != folder:
            for name in folder[len(path) :].lstrip(b'/').split(b'/'):
                path = path + b'/' + name if path else name
                place = self._patterns.below(place, name)
                above.append((path, place))
        self._folder = folder
        self._whole = self._patterns.chosen(place)
        self._unmatched.difference_update(self._patterns.matched(place))
        self._last = self._patterns.last(place)


class _Directory:
    """A directory that the next records may be in.

    :ivar passed: whether it was yielded
    """

    __slots__ = ('at', 'block', 'level', 'passed', 'path')

    def __init__(
        self, level: int, block: RecordBlock, at: int, path: bytes, passed: bool
    ) -> None:
        self.level = level
        self.block = block
        self.at = at
        self.path = path
        self.passed = passed


def _contains(folder: bytes, path: bytes) -> bool:
    """Whether a path is a directory or below it."""
    return not folder or path == folder or path.startswith(folder + b'/')
