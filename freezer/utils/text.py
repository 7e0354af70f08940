"""Text shown to users."""

import logging
from collections.abc import Callable

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


class SayHandler(logging.Handler):
    """Passes the messages of :data:`NOTICES` to a function that shows them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())
