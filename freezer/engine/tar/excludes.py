"""Which paths ``--exclude`` leaves out, as tar itself decides it.

tar matches a pattern with fnmatch(3) against the name it gives a file (``./a/b``), and
against each part of it that follows a slash. Wildcards match slashes, and a pattern
that matches a directory excludes what is in it.

tar knows no absolute paths, and a slash at the end matches nothing. So a pattern is
translated first: a slash at the end is removed, and an absolute path below the source
becomes a path below ``./``. A pattern that matched nothing is reported, because the
files to exclude may be in the backup.
"""

import ctypes
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
        self._hidden: set[bytes] = set()
        self._emptied: list[bytes] = []

    def arguments(self, *, crosses: bool) -> list[str]:
        """The options that make tar exclude the same.

        :param crosses: whether tar goes into other file systems
        """
        literal = [b'./' + path for path in sorted(self._own | self._hidden)]
        if crosses:
            literal += [b'./' + path + b'/*' for path in self._emptied]
        patterns = [*(pattern for _number, pattern in self._patterns), *literal]
        return [f'--exclude={os.fsdecode(pattern)}' for pattern in patterns]

    def __bool__(self) -> bool:
        return bool(self._patterns or self._own or self._hidden)

    def is_own(self, path: bytes) -> bool:
        """Whether a path below the source is one of the directories left out."""
        return bool(self._own) and _literal(path) in self._own

    def matches(self, path: bytes) -> bool:
        """Whether a path below the source, or a directory it is in, is excluded."""
        if self.is_own(path) or _literal(path) in self._hidden:
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
        """Leave out a path below the source."""
        self._hidden.add(_literal(path))

    def empty(self, path: bytes) -> None:
        """Leave out the contents of a directory below the source, a mount point."""
        self._emptied.append(_literal(path))

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
    """A pattern as tar understands it; several, if ``**`` or several names of a
    directory leave more than one meaning.

    :raises ConfigError: it is empty, or excludes the whole source
    """
    if not text.strip('/') and not text.startswith('/'):
        raise ConfigError('exclude: a pattern is empty')
    parts = [part for part in text.split('/') if part not in ('', '.')]
    if not text.startswith('/'):
        anchor = ['.'] if text.startswith('./') else []
        return {'/'.join([*anchor, *parts]) or '.'}
    if not top:
        return {text}
    found = set()
    for root in {top, os.path.realpath(top)}:
        for given in (parts, _resolved(parts)):
            for rest in _after(given, [part for part in root.split('/') if part]):
                if not rest or rest in (['*'], ['**']):
                    raise ConfigError(f'exclude {text}: excludes all of {top}')
                found.add('/'.join(['.', *rest]))
    return found or {text}


def _resolved(parts: Sequence[str]) -> list[str]:
    """A path with its links followed, as far as it has no wildcards; its last component
    stays, because that itself is excluded."""
    plain = 0
    while plain < len(parts) - 1 and not set(parts[plain]) & set('*?[\\'):
        plain += 1
    folder = os.path.realpath('/' + '/'.join(parts[:plain]))
    return [*(part for part in folder.split('/') if part), *parts[plain:]]


def _after(pattern: Sequence[str], path: Sequence[str]) -> Iterator[list[str]]:
    """The parts of a pattern that follow those that match a path."""
    if not path:
        yield list(pattern)
        if pattern[:1] == ['**']:
            # For tar it matches one directory at least.
            yield list(pattern[1:])
    elif not pattern:
        # A directory above.
        yield []
    elif pattern[0] == '**':
        yield from _after(pattern[1:], path)
        yield from _after(pattern, path[1:])
    elif pattern[0] == path[0] or not _fnmatch(
        os.fsencode(pattern[0]), os.fsencode(path[0]), 0
    ):
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
