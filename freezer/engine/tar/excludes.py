"""Which paths ``--exclude`` leaves out, as tar itself decides it.

tar matches a pattern with fnmatch(3) against the name it gives a file (``./a/b``), and
against each part of it that follows a slash. Wildcards match slashes, and a pattern
that matches a directory excludes what is in it.

tar knows no absolute paths, and a slash at the end matches nothing. So a pattern is
translated first: a slash at the end is removed, and an absolute path below the source
becomes a path below ``./``. A pattern that matched nothing is reported, because what it
should have excluded may be in the backup.
"""

import ctypes
import fnmatch
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from freezer.exceptions import ConfigError

# In GNU's fnmatch.h: a slash and anything may follow what the pattern matches.
_LEADING_DIR: Final = 8
_SLASH: Final = ord('/')


class Excludes:
    """:param patterns: as the user gave them
    :param top: the absolute path of the source
    :param own: directories that are left out, absolute
    :raises ConfigError: a pattern excludes the whole source
    """

    def __init__(
        self, patterns: Sequence[str], top: str = '', own: Iterable[str] = ()
    ) -> None:
        self._texts = tuple(patterns)
        self._top = top
        #: number of the text, and a pattern of tar
        self._patterns = [
            (number, os.fsencode(pattern))
            for number, text in enumerate(patterns)
            for pattern in sorted(_translated(text, top))
        ]
        self._unmatched = set(range(len(patterns)))
        self._own = {os.fsencode(path) for path in _below(own, top)}
        self._hidden: list[bytes] = []

    @property
    def arguments(self) -> list[str]:
        """The options that make tar exclude the same."""
        literal = [b'./' + path for path in sorted(self._own)]
        # What is in these directories; they themselves are mount points.
        literal += [b'./' + path + b'/*' for path in self._hidden]
        patterns = [*(pattern for _number, pattern in self._patterns), *literal]
        return [f'--exclude={os.fsdecode(pattern)}' for pattern in patterns]

    def __bool__(self) -> bool:
        return bool(self._patterns or self._own)

    def is_own(self, path: bytes) -> bool:
        """Whether a path below the source is one of the directories left out."""
        return bool(self._own) and _literal(path) in self._own

    def matches(self, path: bytes) -> bool:
        """Whether a path below the source, or a directory it is in, is excluded."""
        if self.is_own(path):
            return True
        found = False
        for number, pattern in self._patterns:
            if (not found or number in self._unmatched) and _matches(pattern, path):
                found = True
                self._unmatched.discard(number)
        if found:
            self.skip(path)
        return found

    def skip(self, path: bytes) -> bool:
        """Note that a directory is not read; patterns for what is in it did not fail to
        match. Returns whether one excludes all that is in it, as ``proc/*``."""
        is_empty = False
        for number, pattern in self._patterns:
            slashes = [place for place, byte in enumerate(pattern) if byte == _SLASH]
            for place in slashes:
                parent = pattern[:place]
                if parent not in (b'', b'.') and _matches(parent, path):
                    self._unmatched.discard(number)
                    is_empty |= pattern[place + 1 :] in (b'*', b'**')
        return is_empty

    def hide(self, path: bytes) -> None:
        """Leave out what is in a directory below the source."""
        self._hidden.append(_literal(path))

    def unmatched(self) -> Iterator[str]:
        """A sentence for each pattern that has matched nothing."""
        for number in sorted(self._unmatched):
            text = self._texts[number]
            translated = [p for each, p in self._patterns if each == number]
            if translated[0].startswith(b'/'):
                why = f'the path is not below {self._top}'
            elif ',' in text:
                why = 'a comma does not separate patterns: repeat the option for each'
            else:
                why = 'nothing has such a name at present'
            yield f'--exclude {text!r} excluded nothing: {why}'


def _translated(text: str, top: str) -> set[str]:
    """A pattern as tar understands it; several, if ``**`` or two names of the source
    leave more than one meaning."""
    plain = text.rstrip('/')
    if not text.startswith('/') or not top:
        return {plain}
    parts = plain.split('/')[1:]
    found = set()
    for root in {top, os.path.realpath(top)}:
        for rest in _after(parts, [part for part in root.split('/') if part]):
            if not rest or rest == ['**']:
                raise ConfigError(f'exclude {text}: excludes all of {top}')
            found.add('/'.join(['.', *rest]))
    return found or {plain}


def _after(pattern: list[str], path: list[str]) -> Iterator[list[str]]:
    """The parts of a pattern that follow those that match a path."""
    if not path:
        yield pattern
        if pattern[:1] == ['**']:
            # For tar it matches one directory at least.
            yield pattern[1:]
    elif pattern[:1] == ['**']:
        yield from _after(pattern[1:], path)
        yield from _after(pattern, path[1:])
    elif pattern and fnmatch.fnmatchcase(path[0], pattern[0]):
        yield from _after(pattern[1:], path[1:])


def _below(paths: Iterable[str], top: str) -> Iterator[str]:
    """Those that are in a directory, relative to it, as patterns."""
    root = os.path.join(os.path.realpath(top), '')
    for path in paths:
        real = os.path.realpath(path)
        if top and real.startswith(root):
            yield os.fsdecode(_literal(os.fsencode(real.removeprefix(root))))


def _literal(path: bytes) -> bytes:
    """A pattern that matches this path only."""
    for character in (b'\\', b'*', b'?', b'['):
        path = path.replace(character, b'\\' + character)
    return path


def _matches(pattern: bytes, path: bytes) -> bool:
    """Whether a pattern matches the name of a file, or a part of it after a slash."""
    name = b'./' + path
    while name:
        if not _fnmatch(pattern, name, _LEADING_DIR):
            return True
        name = name.partition(b'/')[2]
    return False


def _load() -> Callable[[bytes, bytes, int], int]:
    function: Callable[[bytes, bytes, int], int] = ctypes.CDLL(None).fnmatch
    return function


_fnmatch: Final = _load()
