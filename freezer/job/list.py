"""Action list: the files in a backup."""

import base64
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any

from freezer.engine.engine import Entry, require_files
from freezer.engine.restore import RestoreChain
from freezer.job.job import Job, Outcome, damage_explained, iso
from freezer.utils import human

_TYPES = {
    'file': stat.S_IFREG,
    'link': stat.S_IFREG,
    'directory': stat.S_IFDIR,
    'symlink': stat.S_IFLNK,
    'fifo': stat.S_IFIFO,
    'character': stat.S_IFCHR,
    'block': stat.S_IFBLK,
}


class ListJob(Job):
    """Lists the files that a restore would bring, of the newest state or that of a
    date. Reads the data, and checks it as a restore does."""

    takes_include = True

    def execute(self) -> Outcome:
        engine = require_files(self.engine, 'action list')
        self.progress.phase = 'Looking for the backup'
        chain = self.find_state()
        # Nothing is shown before all is read: the list is sorted, and a backup that
        # turns out to be damaged has none. A directory comes before its contents.
        with damage_explained():
            opened = RestoreChain(chain, engine, self.settings)
            entries = sorted(opened.entries(), key=lambda each: each.path.split(b'/'))
        newest = chain[max(chain)]
        count = '1 entry' if len(entries) == 1 else f'{len(entries)} entries'
        size = human.size(sum(entry.size for entry in entries))
        return Outcome(
            text=_table(entries),
            records=(_record(each, chain[each.level].timestamp) for each in entries),
            lines=[f'{count}, {size} (level {newest.level}, {iso(newest.timestamp)})'],
        )


# Table


def _table(entries: Sequence[Entry]) -> Iterator[str]:
    owners = [_owner(entry) for entry in entries]
    width = max((5, *map(len, owners)))

    def row(mode: str, owner: str, size: str, date: str, level: str, path: str) -> str:
        return f'{mode:<10}  {owner:<{width}}  {size:>8}  {date:<20}  {level}  {path}'

    yield row('Mode', 'Owner', 'Size', 'Changed', 'L', 'Path')
    for entry, owner in zip(entries, owners, strict=True):
        yield row(
            stat.filemode(_TYPES[entry.kind] | entry.mode),
            owner,
            human.size(entry.size) if entry.kind == 'file' else '-',
            _date(entry),
            str(entry.level),
            _name(entry),
        )


def _owner(entry: Entry) -> str:
    return f'{entry.user or entry.uid}/{entry.group or entry.gid}'


def _date(entry: Entry) -> str:
    """To the second; epoch seconds if the year is outside of 1 to 9999."""
    seconds = entry.mtime_ns // 10**9
    try:
        return iso(seconds)
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def _name(entry: Entry) -> str:
    path = os.fsdecode(entry.path)
    target = os.fsdecode(entry.target or b'')
    if entry.kind == 'directory':
        return f'{path}/'
    if entry.kind == 'symlink':
        return f'{path} -> {target}'
    return f'{path} link to {target}' if entry.kind == 'link' else path


# JSON


def _record(entry: Entry, timestamp: int) -> dict[str, Any]:
    return {
        **_text('path', entry.path),
        'type': entry.kind,
        'mode': f'{entry.mode:04o}',
        'uid': entry.uid,
        'gid': entry.gid,
        'user': entry.user,
        'group': entry.group,
        'size': entry.size,
        'mtime': _date(entry),
        'mtime_ns': entry.mtime_ns,
        **(_text('target', entry.target) if entry.target is not None else {}),
        'level': entry.level,
        'level_date': iso(timestamp),
    }


def _text(key: str, name: bytes) -> dict[str, str]:
    """A name; if it is not UTF-8, the bytes as well."""
    try:
        return {key: name.decode()}
    except UnicodeDecodeError:
        return {
            key: name.decode(errors='replace'),
            f'{key}_base64': base64.b64encode(name).decode('ascii'),
        }
