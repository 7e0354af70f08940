"""Marks a temporary resource, such as a snapshot, with the process that made it, so
that a later run can remove what a killed run has left."""

import re
import secrets
from typing import Final

from freezer.exceptions import FreezerError
from freezer.utils import process

_PREFIX: Final = 'freezer-snapshot-'
_MARK: Final = re.compile(
    rf'{_PREFIX}(?P<boot>[0-9a-f-]+)_(?P<namespace>\d+)_(?P<pid>\d+)_(?P<started>\d+)'
    r'_[0-9a-f]+'
)


def new_mark() -> str:
    """A text of this process, different each time.

    It fits into a tag of LVM and into a file name, and contains no dot.

    :raises FreezerError: this process cannot be identified
    """
    me = process.identity()
    if not me:
        raise FreezerError(
            '/proc cannot be read: without it, a snapshot of a killed run would never '
            'be removed: mount /proc'
        )
    namespace = re.sub(r'\D', '', me['namespace'])
    fields = me['boot'], namespace, me['pid'], me['started'], secrets.token_hex(4)
    return _PREFIX + '_'.join(fields)


def is_mark(text: str) -> bool:
    return _MARK.fullmatch(text) is not None


def is_abandoned(text: str) -> bool:
    """Whether a text is the mark of a process that has ended.

    A process of another container cannot be seen, and counts as running.
    """
    found = _MARK.fullmatch(text)
    me = process.identity()
    if found is None or not me:
        return False
    if found['boot'] != me['boot']:
        return True
    if found['namespace'] != re.sub(r'\D', '', me['namespace']):
        return False
    it = me | {'pid': found['pid'], 'started': found['started']}
    return process.is_alive(it) is False
