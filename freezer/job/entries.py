"""How files of backups are shown: lines of a list, and JSON."""

import base64
import datetime
import functools
import stat
import sys
from collections.abc import Iterable
from typing import Any, Final

from freezer.engine.index.record import Owner, Row
from freezer.job.job import iso
from freezer.utils import human

_TYPES: Final = {
    'file': stat.S_IFREG,
    'link': stat.S_IFREG,
    'directory': stat.S_IFDIR,
    'symlink': stat.S_IFLNK,
    'fifo': stat.S_IFIFO,
    'character': stat.S_IFCHR,
    'block': stat.S_IFBLK,
}
_DAY: Final = 86400
_EPOCH: Final = datetime.date(1970, 1, 1).toordinal()
_ENCODING: Final = sys.getfilesystemencoding()
_NO_OWNER: Final = 5


@functools.cache
def mode(kind: str, bits: int) -> str:
    """As ``ls -l`` shows it."""
    return stat.filemode(_TYPES[kind] | bits)


@functools.cache
def owner(one: Owner) -> str:
    uid, gid, user, group = one
    return f'{user or uid}/{group or gid}'


def owner_width(owners: Iterable[Owner]) -> int:
    """Of a column for all of these."""
    return max((_NO_OWNER, *(len(owner(one)) for one in set(owners))))


# Most files of a backup are small, and many have the same size.
size = functools.lru_cache(1 << 16)(human.size)


def date(mtime_ns: int) -> str:
    """To the second; epoch seconds if the year is outside of 1 to 9999."""
    seconds = mtime_ns // 10**9
    day, second = divmod(seconds, _DAY)
    first = _day(day)
    return first + _clock(second) if first else str(seconds)


@functools.lru_cache(1 << 16)
def _day(number: int) -> str:
    """Days since 1970, as the beginning of a date; empty if no date has them."""
    try:
        return f'{datetime.date.fromordinal(_EPOCH + number).isoformat()}T'
    except (ValueError, OverflowError):
        return ''


@functools.cache
def _clock(second: int) -> str:
    minute, second = divmod(second, 60)
    return f'{minute // 60:02}:{minute % 60:02}:{second:02}Z'


def text(path: bytes) -> str:
    # os.fsdecode, without looking at types.
    return path.decode(_ENCODING, 'surrogateescape')


def name(path: bytes, kind: str, target: bytes) -> str:
    """A path, and where a link leads."""
    if kind == 'file':
        return text(path)
    if kind == 'directory':
        return f'{text(path)}/'
    if kind == 'symlink':
        return f'{text(path)} -> {text(target)}'
    return f'{text(path)} link to {text(target)}' if kind == 'link' else text(path)


# JSON


def document(row: Row, timestamp: int) -> dict[str, Any]:
    """
    :param timestamp: of the level
    """
    uid, gid, user, group = row.owner
    is_link = row.kind in ('symlink', 'link')
    return {
        **text_fields('path', row.path),
        'type': row.kind,
        'mode': f'{row.mode:04o}',
        'uid': uid,
        'gid': gid,
        'user': user,
        'group': group,
        'size': row.size if row.kind == 'file' else 0,
        'mtime': date(row.mtime_ns),
        'mtime_ns': row.mtime_ns,
        **(text_fields('target', row.target) if is_link else {}),
        'level': row.level,
        'level_date': level_date(timestamp),
    }


level_date = functools.lru_cache(iso)


def text_fields(key: str, value: bytes) -> dict[str, str]:
    """A name; if it is not UTF-8, the bytes as well."""
    try:
        return {key: value.decode()}
    except UnicodeDecodeError:
        return {
            key: value.decode(errors='replace'),
            f'{key}_base64': base64.b64encode(value).decode('ascii'),
        }
