"""Which paths are left out: by ``--exclude``, by name, and the agent's own.

tar cannot take a pattern back. What a file with negated patterns excludes, the walk
decides, and tar gets the names.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from freezer.engine.tar.exclude_patterns import ExcludePatterns
from freezer.engine.tar.pattern_file import PatternFile

# Matches a newline only, in the C locale, in which tar runs.
_NEWLINE: Final = b'[!\1-\11\13-\377]'


class Excludes:
    """:param patterns: as the user gave them
    :param top: the absolute path of the source
    :param own: directories that are left out, absolute
    :param files: further patterns
    :raises ConfigError: a pattern excludes the whole source
    """

    def __init__(
        self,
        patterns: Sequence[str],
        top: str = '',
        own: Iterable[str] = (),
        files: Sequence[PatternFile] = (),
    ) -> None:
        self.patterns = ExcludePatterns(patterns, top, files)
        self._own = {os.fsencode(path) for path in _below(own, top)}
        self._hidden: set[bytes] = set()
        self._emptied: list[bytes] = []

    def arguments(self, hidden: Path, *, crosses: bool) -> list[str]:
        """The options that make tar exclude the same.

        :param hidden: a file to write, for the paths that are left out by name: there
            may be more than a command line holds
        :param crosses: whether tar goes into other file systems
        """
        # Names of files may be secrets.
        hidden.touch(mode=0o600)
        with open(hidden, 'wb') as file:
            file.writelines(
                b'./' + pattern_line(path) + b'\n' for path in sorted(self._hidden)
            )
        literal = [b'./' + path for path in sorted(self._own)]
        if crosses:
            literal += [b'./' + path + b'/*' for path in self._emptied]
        patterns = [*self.patterns.of_tar, *literal]
        return [
            *(f'--exclude={os.fsdecode(pattern)}' for pattern in patterns),
            f'--exclude-from={hidden}',
        ]

    def __bool__(self) -> bool:
        return bool(self.patterns or self._own or self._hidden)

    def is_own(self, path: bytes) -> bool:
        """Whether a path below the source is one of the directories left out."""
        return bool(self._own) and _literal(path) in self._own

    def matches(self, path: bytes) -> bool:
        """Whether a path below the source, or a directory it is in, is excluded.

        With negated patterns only if that directory is: one may take back a path in a
        directory that another pattern matches.
        """
        if self.is_own(path) or path in self._hidden:
            return True
        if not self.patterns:
            return False
        found = self.patterns.match(path)
        if self.patterns.exclude_by_name(path):
            # tar cannot take a pattern back: it gets the name.
            self.hide(path)
            found = True
        if found:
            self.patterns.skip(path)
        return found

    def hide(self, path: bytes) -> None:
        """Leave out a path below the source."""
        self._hidden.add(path)

    def empty(self, path: bytes) -> None:
        """Leave out the contents of a directory below the source, a mount point."""
        self._emptied.append(_literal(path))


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


def pattern_line(path: bytes) -> bytes:
    """A pattern that matches this path only, for a line of a file, of which tar removes
    spaces at the end."""
    pattern = _literal(path).replace(b'\n', _NEWLINE)
    if pattern[-1:].isspace():
        pattern = pattern[:-1] + b'[' + pattern[-1:] + b']'
    return pattern
