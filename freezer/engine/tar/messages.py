"""What GNU tar says on standard error while it archives, and what it means.

tar's exit status alone does not tell a file it could not open (2) from a disk that
fails halfway (2), nor from an archive that was never written. Its messages do: these
are the texts of the C locale, as seen with tar 1.34. Names in them are escaped like C
strings, so a message is one line.
"""

import enum
import re
from typing import NamedTuple


class Kind(enum.Enum):
    """How bad a message is."""

    #: nothing is missing from the archive
    HARMLESS = 'harmless'
    #: something is missing or was changing, and the rest of the archive is good
    WARNING = 'warning'
    #: one name of a file with several is in the archive, and others are not
    MISSING_LINKS = 'missing links'
    #: the archive is not what it should be
    FATAL = 'fatal'


class Message(NamedTuple):
    """A line of tar's; ``path`` is what it is about, as bytes, where it says that."""

    kind: Kind
    text: str
    path: bytes | None = None


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
    # The last place where a text can begin: names may have such texts in them.
    r'tar: (.*)(?:: Warning|(?<!: Warning)): ('
    r'[Ff]ile changed as we read it'
    r'|File removed before we read it'
    r'|File shrank by \d+ bytes?; padding with zeros'
    r'|Cannot [a-z_]+: .*'
    r')\Z'
)
_MISSING_LINKS = re.compile(r"tar: Missing links to '(.*)'\.\Z")
_WRITE = re.compile(r': Cannot (write|close|seek|truncate): ')
_ESCAPE = re.compile(r'\\([0-7]{3}|.)', re.DOTALL)
_CONTROL = {'n': '\n', 't': '\t', 'r': '\r', 'a': '\a', 'b': '\b', 'f': '\f', 'v': '\v'}


def parse(line: str, root: str) -> Message:
    """What one line means.

    :param root: the name tar was given: what it cannot open of that is everything
    """
    if links := _MISSING_LINKS.match(line):
        return Message(Kind.MISSING_LINKS, line, unescape(links[1]))
    if _HARMLESS.match(line):
        return Message(Kind.HARMLESS, line)
    warning = _WARNING.match(line)
    if warning is None or _WRITE.search(line):
        return Message(Kind.FATAL, line)
    path = unescape(warning[1])
    whole = path.rstrip(b'/') == root.encode(errors='surrogateescape')
    if whole and 'Cannot' in warning[2]:
        return Message(Kind.FATAL, line, path)
    return Message(Kind.WARNING, line, path)


def unescape(name: str) -> bytes:
    """What tar made of a name (``--quoting-style=escape``), undone."""

    def plain(match: re.Match[str]) -> str:
        text = match[1]
        return chr(int(text, 8)) if text.isdigit() else _CONTROL.get(text, text)

    return _ESCAPE.sub(plain, name).encode('latin-1', 'replace')
