"""The messages of GNU tar on standard error, and what they mean for the archive.

tar's exit status alone does not tell a file it could not open (2) from a disk that
fails halfway (2), nor from an archive that was never written. Its messages do: these
are the texts of the C locale, as seen with tar 1.34. Names in them are escaped like C
strings, so a message is one line.
"""

import enum
import itertools
import logging
import re
from collections.abc import Iterable
from typing import NamedTuple

from freezer.engine.engine import Warnings
from freezer.exceptions import EngineError

LOG = logging.getLogger(__name__)


class Severity(enum.Enum):
    """How bad a message is."""

    #: nothing is missing from the archive
    HARMLESS = 'harmless'
    #: a file was changing, or is gone; the archive is good
    WARNING = 'warning'
    #: a file, or an attribute of one, could not be read; all others are archived
    UNREAD = 'unread'
    #: of a file, the archive has zeros from some byte on; all others are archived
    PADDED = 'padded'
    #: the archive cannot be trusted
    FATAL = 'fatal'


class Message(NamedTuple):
    """One line of tar; ``path`` is the file it names, as bytes, or None."""

    severity: Severity
    text: str
    path: bytes | None = None


_ABOUT_FILES = (Severity.WARNING, Severity.UNREAD, Severity.PADDED)
_SUMMARY_LINES = 20
_HARMLESS = re.compile(
    r'tar: (.*): ('
    r'socket ignored'
    r'|(file|directory) is on a different filesystem; not dumped'
    r'|Directory is new'
    r'|Directory has been renamed from .*'
    r')\Z'
    r'|tar: (Removing leading .*|Exiting with failure status due to previous errors)\Z'
)
_WARNING = re.compile(
    # Greedy, so the text begins at the last possible place: names may contain such
    # texts.
    r'tar: (.*)(?:: Warning|(?<!: Warning)): ('
    r'[Ff]ile changed as we read it'
    r'|File removed before we read it'
    r'|File shrank by \d+ bytes?; padding with zeros'
    r'|Read error at byte \d+, while reading \d+ bytes?: .*'
    r'|Cannot [a-z_]+: .*'
    r')\Z'
)
_PADDED = ('File shrank', 'Read error')
# The file was removed, or a symbolic link that is followed leads nowhere.
_GONE = ': No such file or directory'
_GIVES_UP = 'tar: Error is not recoverable: exiting now'
_WRITE = re.compile(r': Cannot (write|close|seek|truncate): ')
_ESCAPE = re.compile(r'\\([0-7]{3}|.)', re.DOTALL)
_CONTROL = {'n': '\n', 't': '\t', 'r': '\r', 'a': '\a', 'b': '\b', 'f': '\f', 'v': '\v'}


def check(
    status: int, lines: Iterable[str], root: str, warnings: Warnings
) -> list[Message]:
    """Check that an archive that tar created is good; its messages, parsed.

    :param root: the name that tar was given
    :param warnings: gets the messages that the user should see; others are logged
    :raises EngineError: the archive is not good
    """
    # Of a path that it was given, tar may print an error twice.
    found = [parse(line, root) for line in dict.fromkeys(lines)]
    fatal = [
        message.text
        for message, following in itertools.zip_longest(found, found[1:])
        if message.severity is Severity.FATAL
        # The reason is in the line before.
        or (following is not None and following.text == _GIVES_UP)
    ]
    warned = any(m.severity in _ABOUT_FILES for m in found)
    if status not in (0, 1) and (status != 2 or fatal or not warned):
        reason = summary(fatal or [m.text for m in found])
        raise EngineError(f'tar failed with status {status}: {reason}')
    for message in found:
        if message.severity is Severity.HARMLESS:
            LOG.info('%s', message.text)
        else:
            lacks = message.severity in (Severity.UNREAD, Severity.PADDED)
            warnings.add(message.text, incomplete=lacks)
    return found


def paths(messages: Iterable[Message]) -> list[bytes]:
    """The paths of files that were changing, are gone, or could not be read.

    Of a file whose attributes could not be read, tar names only the last component.
    """
    return [m.path for m in messages if m.severity in _ABOUT_FILES and m.path]


def padded(messages: Iterable[Message]) -> list[bytes]:
    """The paths of files that end with zeros in the archive."""
    return [m.path for m in messages if m.severity is Severity.PADDED and m.path]


def summary(lines: Iterable[str]) -> str:
    """The last lines, without the one that tar prints after any error."""
    relevant = [line for line in lines if 'Exiting with failure status' not in line]
    return '; '.join(relevant[-_SUMMARY_LINES:]) or 'tar printed no reason'


def parse(line: str, root: str) -> Message:
    """Classify one line.

    :param root: the name tar was given: if it cannot open that, nothing is archived
    """
    if _HARMLESS.match(line):
        return Message(Severity.HARMLESS, line)
    warning = _WARNING.match(line)
    if warning is None or _WRITE.search(line):
        return Message(Severity.FATAL, line)
    path = unescape(warning[1])
    whole = path.rstrip(b'/') == root.encode(errors='surrogateescape')
    if whole and 'Cannot' in warning[2]:
        return Message(Severity.FATAL, line, path)
    if warning[2].startswith(_PADDED):
        return Message(Severity.PADDED, line, path)
    unread = 'Cannot' in warning[2] and not line.endswith(_GONE)
    return Message(Severity.UNREAD if unread else Severity.WARNING, line, path)


def unescape(name: str) -> bytes:
    """The name that tar printed escaped (``--quoting-style=escape``)."""

    def plain(match: re.Match[str]) -> str:
        text = match[1]
        return chr(int(text, 8)) if text.isdigit() else _CONTROL.get(text, text)

    return _ESCAPE.sub(plain, name).encode('latin-1', 'replace')
