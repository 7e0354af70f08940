"""The messages of GNU tar while it extracts: what the target cannot hold, and errors.

A file system may have no attributes, ACLs, owners, links or devices, and a user may not
be permitted to set them. tar reports each, and goes on. These are the texts of the C
locale, as seen with tar 1.34.
"""

import re
from collections.abc import Iterable
from typing import Final

from freezer.engine.engine import Warnings
from freezer.engine.tar import messages
from freezer.exceptions import EngineError

# The file system, or the rights of the user. Landlock refuses with other errors.
_REASONS: Final = (
    'Operation not permitted|Operation not supported|Function not implemented'
    '|Invalid argument'
)
_LOST: Final = re.compile(
    # With status 0.
    r'tar: l?setxattr(at)?: Cannot set .*'
    r'|tar: acl_(set_file_at|delete_def_file_at): Cannot .*'
    # With status 2.
    r'|tar: .*: Cannot (change (mode|ownership) to .*|utime|mknod|mkfifo'
    rf'|create symlink to .*|hard link to .*): ({_REASONS})'
)
# Where there are no ACLs, tar reports every file. If a file has one in the archive, it
# is there as an extended attribute as well, and tar reports that.
_NOISE: Final = re.compile(
    r'tar: acl_(set_file_at|delete_def_file_at): Cannot .*: Operation not supported'
)
_SUMMARY: Final = 'tar: Exiting with failure status due to previous errors'


def is_relevant(line: str) -> bool:
    """Whether to keep a line: there may be one for every file of the target."""
    return not _NOISE.fullmatch(line)


def check(
    status: int, lines: Iterable[str], target: str, warnings: Warnings, known: set[int]
) -> None:
    """Check that tar extracted an archive, but for what the target cannot hold.

    :param warnings: gets what was lost, and other messages
    :param known: hashes of the losses that were reported before: several levels may
        have the same file
    :raises EngineError: it did not
    """
    found = [line for line in lines if line != _SUMMARY]
    lost = {line for line in found if _LOST.fullmatch(line)}
    errors = [line for line in found if line not in lost]
    if status != 0 and (status != 2 or errors or not lost):
        raise EngineError(
            f'tar could not extract into {target} (status {status}): '
            f'{messages.summary(errors or found)}'
        )
    for line in found:
        if line not in lost:
            warnings.add(line)
        elif hash(line) not in known:
            known.add(hash(line))
            warnings.add(line, incomplete=True)
