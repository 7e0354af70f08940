"""Text shown to users."""

import logging
import re
from collections.abc import Callable, Iterable

#: messages shown on the terminal as well as logged
NOTICES = logging.getLogger('freezer.notices')


def printable(text: str) -> str:
    """The text with control characters and other unprintable characters escaped.

    File names may contain bytes that are not text.
    """
    if text.isprintable():
        return text
    return ''.join(
        c if c.isprintable() else c.encode('unicode_escape').decode() for c in text
    )


def columns_of(text: str) -> int:
    """The columns of a terminal that a printable text takes."""
    if text.isascii():
        return len(text)
    # Loading it takes 30 ms, and most runs do not need it.
    from wcwidth import wcwidth

    return sum(max(wcwidth(character), 0) for character in text)


def cut_middle(text: str, columns: int) -> str:
    """A printable text, cut in its middle if it takes more columns of a terminal.

    Characters of two columns, and those that combine with the one before, stay whole.
    """
    if columns_of(text) <= columns:
        return text
    room = columns - 1
    head = _first(_characters(text), room // 2)
    tail = _first(_characters(text)[::-1], room - columns_of(''.join(head)))
    return f'{"".join(head)}…{"".join(reversed(tail))}'


def at_most(text: str, columns: int) -> str:
    """The beginning of a printable text that takes at most so many columns of a
    terminal; at least one character."""
    characters = _characters(text)
    return ''.join(_first(characters, columns) or characters[:1])


def _characters(text: str) -> list[str]:
    """Each with those that combine with it."""
    characters: list[str] = []
    for character in text:
        if characters and not columns_of(character):
            characters[-1] += character
        else:
            characters.append(character)
    return characters


def _first(characters: Iterable[str], columns: int) -> list[str]:
    """The first of these that fit."""
    found = []
    for character in characters:
        columns -= columns_of(character)
        if columns < 0:
            break
        found.append(character)
    return found


# Messages with a few keys of 1,024 bytes stay whole.
_LONGEST = 8_000


def shortened(text: str, longest: int = _LONGEST) -> str:
    """The text, cut if it is longer than so many characters."""
    if len(text) <= longest:
        return text
    return f'{text[:longest]} … ({len(text)} characters)'


# C0, DEL and C1.
_CONTROL = re.compile('[\x00-\x1f\x7f-\x9f]')
_CONTROL_NAMES = {
    '\0': 'a NUL',
    '\t': 'a tab',
    '\n': 'a line feed',
    '\r': 'a carriage return',
}


def control_character(text: str) -> str:
    """The first control character of a text, in words; empty if it has none."""
    found = _CONTROL.search(text)
    if found is None:
        return ''
    character = found[0]
    name = f'the control character U+{ord(character):04X}'
    return _CONTROL_NAMES.get(character, name)


def unfit(text: str) -> str:
    """Why a text cannot be a part of a request; empty if it can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return 'is not UTF-8 text'
    found = control_character(text)
    return f'contains {found}' if found else ''


class SayHandler(logging.Handler):
    """Passes the messages of :data:`NOTICES` to a function that shows them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())
