"""The patterns of ``--exclude`` and ``--exclude-from``, as tar decides them.

tar matches a pattern with fnmatch(3) against the name it gives a file (``./a/b``), and
against each part of it that follows a slash. Wildcards match slashes, and a pattern
that matches a directory excludes what is in it.

tar knows no absolute paths, and a slash at the end matches nothing. So a pattern is
translated first: a slash at the end is removed, and an absolute path below the source
becomes a path below ``./``. A pattern that matched nothing is reported, because the
files to exclude may be in the backup.
"""

import ctypes
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from freezer.engine.tar.pattern_file import Line, PatternFile
from freezer.exceptions import ConfigError

# In GNU's fnmatch.h: a slash and anything may follow what the pattern matches.
_LEADING_DIR: Final = 8
_SLASH: Final = ord('/')
# Patterns of a file that a warning names.
_NAMED: Final = 3


@dataclasses.dataclass(frozen=True)
class _Pattern:
    """A pattern as tar understands it.

    :ivar number: of the text that it is a translation of
    """

    number: int
    pattern: bytes
    is_negated: bool = False


class ExcludePatterns:
    """Decides about paths below the source, and remembers which patterns matched.

    :param patterns: as the user gave them
    :param top: the absolute path of the source
    :param files: further patterns
    :raises ConfigError: a pattern excludes the whole source
    """

    def __init__(
        self, patterns: Sequence[str], top: str, files: Sequence[PatternFile]
    ) -> None:
        self._top = top
        self._texts = [*patterns]
        self._patterns = [
            _Pattern(number, pattern)
            for number, text in enumerate(patterns)
            for pattern in _encoded(_translated(text, top))
        ]
        #: number of the text -> line, of each file
        self._lines: list[tuple[PatternFile, dict[int, Line]]] = []
        # The patterns of each file with a negated one, which tar has not.
        self._ordered: list[list[_Pattern]] = []
        for file in files:
            self._add(file)
        self._unmatched = set(range(len(self._texts)))

    def _add(self, file: PatternFile) -> None:
        lines: dict[int, Line] = {}
        found = []
        for line in file.lines:
            number = len(self._texts)
            self._texts.append(line.text)
            lines[number] = line
            try:
                translated = _translated(line.text, self._top, file.negates)
            except ConfigError as error:
                raise ConfigError(
                    f'exclude-from {file.path}, line {line.number}: {error}'
                ) from error
            for pattern in _encoded(translated):
                found.append(_Pattern(number, pattern, line.is_negated))
        self._lines.append((file, lines))
        if file.negates:
            self._ordered.append(found)
        else:
            self._patterns += found

    def __bool__(self) -> bool:
        return bool(self._patterns or self._ordered)

    @property
    def of_tar(self) -> list[bytes]:
        """Those that tar can have."""
        return [each.pattern for each in self._patterns]

    def match(self, path: bytes) -> bool:
        """Whether one that tar has matches a path, or a directory it is in."""
        found = False
        for each in self._patterns:
            if (not found or each.number in self._unmatched) and _matches(
                each.pattern, path
            ):
                found = True
                self._unmatched.discard(each.number)
        return found

    def exclude_by_name(self, path: bytes) -> bool:
        """Whether the patterns of a file with negated ones exclude a path."""
        found = False
        for patterns in self._ordered:
            # Each of them, as it notes which of its patterns match.
            found |= self._decides(patterns, path)
        return found

    def _decides(self, patterns: Sequence[_Pattern], path: bytes) -> bool:
        """Whether the last pattern that matches a path excludes it."""
        found = False
        for each in patterns:
            if (
                found == each.is_negated or each.number in self._unmatched
            ) and _matches(each.pattern, path):
                self._unmatched.discard(each.number)
                found = not each.is_negated
        return found

    def skip(self, path: bytes) -> bool:
        """Note that a directory is not read; patterns for what is in it did not fail to
        match. Returns whether one excludes all that is in it, as ``proc/*``."""
        is_empty = False
        for each in itertools.chain(self._patterns, *self._ordered):
            pattern = each.pattern
            slashes = [place for place, byte in enumerate(pattern) if byte == _SLASH]
            for place in slashes:
                parent = pattern[:place]
                if parent not in (b'', b'.') and _matches(parent, path):
                    self._unmatched.discard(each.number)
                    is_empty |= pattern[place + 1 :] in (b'*', b'**')
        return is_empty

    def unmatched(self) -> Iterator[str]:
        """A sentence for each pattern that has matched nothing; one for all of a
        file."""
        of_files = {number for _file, lines in self._lines for number in lines}
        for number in sorted(self._unmatched - of_files):
            yield f'--exclude {self._texts[number]!r} excluded nothing: ' + self._why(
                number
            )
        for file, lines in self._lines:
            found = [
                f'{line.text!r} in line {line.number}'
                for number, line in lines.items()
                if number in self._unmatched and not line.is_negated
            ]
            if found:
                more = f' and {len(found) - _NAMED} more' if len(found) > _NAMED else ''
                yield (
                    f'--exclude-from {file.path}: patterns that excluded nothing: '
                    f'{", ".join(found[:_NAMED])}{more}'
                )

    def _why(self, number: int) -> str:
        translated = [p.pattern for p in self._patterns if p.number == number]
        if translated[0].startswith(b'/'):
            return f'the path is not below {self._top}'
        if ',' in self._texts[number]:
            return 'a comma does not separate patterns: repeat the option for each'
        return 'nothing has such a name at present'


def _encoded(patterns: Iterable[str]) -> list[bytes]:
    return [os.fsencode(pattern) for pattern in sorted(patterns)]


def _translated(text: str, top: str, negates: bool = False) -> set[str]:
    """A pattern as tar understands it; several, if ``**`` or several names of a
    directory leave more than one meaning.

    :param negates: other patterns may take back a part of what it excludes

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
                if not rest or (rest in (['*'], ['**']) and not negates):
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
