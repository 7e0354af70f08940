"""Text for people."""

import logging
from collections.abc import Callable

#: what a person who watches should see at once, beside the log
NOTICES = logging.getLogger('freezer.notices')


def printable(text: str) -> str:
    """The text with what a terminal would obey, or cannot show, as escapes.

    Names of files may not be text.
    """
    return ''.join(
        c if c.isprintable() else c.encode('unicode_escape').decode() for c in text
    )


class SayHandler(logging.Handler):
    """Hands the messages of :data:`NOTICES` on to a person."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())
