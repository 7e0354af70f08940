"""What GNU tar says on standard error while it archives, and what it means.

tar's exit status alone does not tell a file it could not open (2) from a disk that
fails halfway (2), nor from a whole archive that was never written. Its messages do; the
texts are those of the C locale, tar 1.28 to 1.35.
"""

import enum
import re


class Meaning(enum.Enum):
    #: nothing is missing from the archive
    HARMLESS = 'harmless'
    #: something is missing or was changing, and the archive is good
    WARNING = 'warning'
    #: the archive is not what it should be
    FATAL = 'fatal'


_HARMLESS = re.compile(
    r': ('
    r'socket ignored'
    r'|door ignored'
    r'|file is on a different filesystem; not dumped'
    r'|Directory is new'
    r'|Directory has been renamed.*'
    r'|Directory has been (moved|deleted).*'
    r"|Removing leading .* from (member names|hard link targets)"
    r'|Exiting with failure status due to previous errors'
    r')\Z'
)
_WARNING = re.compile(
    r': ('
    r'[Ff]ile changed as we read it'
    r'|File removed before we read it'
    r'|Directory removed before we read it'
    r'|File shrank by \d+ bytes?; padding with zeros'
    r'|(Warning: )?Cannot (open|stat|read|readlink|savedir|opendir)'
    r': (Permission denied|No such file or directory|Operation not permitted'
    r'|Stale file handle|No such device or address|Text file busy|Is a directory'
    r'|Too many levels of symbolic links|Not a directory)'
    r'|Warning: .*'
    r')\Z'
)


def meaning_of(line: str, root: str) -> Meaning:
    """What one line means.

    :param root: the name tar was given: what it cannot open of that is everything
    """
    if _HARMLESS.search(line):
        return Meaning.HARMLESS
    if _WARNING.search(line):
        about = line.removeprefix('tar: ')
        opened = re.match(rf'({re.escape(root)}/?): (Warning: )?Cannot ', about)
        return Meaning.FATAL if opened else Meaning.WARNING
    return Meaning.FATAL
