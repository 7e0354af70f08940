"""Lines of a listing: of MLSD (RFC 3659), or of LIST, which no standard describes."""

import re
from collections.abc import Iterable

from freezer.storage.exceptions import MalformedAnswer
from freezer.storage.file_server import Kind, Listed
from freezer.utils.text import printable

_KINDS = {'d': Kind.FOLDER, '-': Kind.FILE}
# As ls -l prints it: type, number of links, owner, size, date, and after one space the
# name. Owner and group may have spaces. The owner is not optional: a numeric group
# before a size of four digits would be a size before a year.
_UNIX = re.compile(
    r'(?P<type>[-bcdlpsD])[-rwxsStTlL]{9}\S?\s+[0-9]+\s+\S.*?\s'
    r'(?P<size>[0-9]{1,19})\s+'
    r'(?:[^\W\d_]{3,5}\.?\s+\d{1,2}\s+(?:\d{4}|\d{1,2}:\d\d)'
    r'|\d{1,2}\.?\s+[^\W\d_]{3,5}\.?\s+(?:\d{4}|\d{1,2}:\d\d)'
    r'|\d{4}-\d\d-\d\d\s+\d\d:\d\d)'
    r' (?P<name>.+)\Z'
)
_WINDOWS = re.compile(
    r'\d{2,4}-\d\d-\d{2,4}\s+\d\d:\d\d(?:[AP]M)?\s+'
    r'(?:(?P<folder><\w+>)|(?P<size>[0-9]{1,19})) '
    r'(?P<name>.+)\Z'
)
_TOTAL = re.compile(r'total \d+\Z', re.I)
_SIZE = re.compile('[0-9]{1,19}')
_DOTS = ('.', '..')


def machine(line: str) -> Listed | None:
    """An entry of MLSD or MLST; None for the folder itself or its parent.

    :raises MalformedAnswer: it is none
    """
    facts, space, name = line.partition(' ')
    given: dict[str, str] = {}
    for fact in facts.split(';'):
        key, _, value = fact.partition('=')
        given[key.lower()] = value.lower()
    kind = given.get('type', '')
    if not (space and name and kind):
        raise _malformed(line)
    if kind in ('cdir', 'pdir') or name in _DOTS:
        return None
    size = given.get('size', '0')
    if not _SIZE.fullmatch(size):
        raise _malformed(line)
    return Listed(name, _MACHINE_KINDS.get(kind, Kind.OTHER), int(size))


_MACHINE_KINDS = {'file': Kind.FILE, 'dir': Kind.FOLDER}


def human(line: str) -> Listed | None:
    """An entry of LIST; None for a line that is not about one.

    :raises MalformedAnswer: the line is of no known form
    """
    if _TOTAL.match(line) or not line:
        return None
    if found := _UNIX.match(line):
        name = found['name']
        kind = _KINDS.get(found['type'], Kind.OTHER)
        if found['type'] == 'l':
            name = name.partition(' -> ')[0]
        return None if name in _DOTS else Listed(name, kind, int(found['size']))
    if found := _WINDOWS.match(line):
        name = found['name'].lstrip()
        if found['folder'] is None:
            return Listed(name, Kind.FILE, int(found['size']))
        kind = Kind.FOLDER if found['folder'] == '<DIR>' else Kind.OTHER
        return None if name in _DOTS else Listed(name, kind, 0)
    raise _malformed(line)


def names(found: Iterable[Listed | None]) -> list[Listed]:
    """The entries of a folder, without the folder itself.

    :raises MalformedAnswer: one has a name that no file has
    """
    entries = [each for each in found if each is not None]
    for each in entries:
        if '/' in each.name or '\0' in each.name:
            raise _malformed(each.name)
    return entries


def _malformed(line: str) -> MalformedAnswer:
    return MalformedAnswer(
        f'the listing has a line of an unknown form: {printable(line)}'
    )
