"""Say what is in a backup."""

import base64
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any

from freezer.engine.engine import Entry, require_files
from freezer.engine.restore import RestoreChain
from freezer.job.job import (
    Job,
    Outcome,
    damage_explained,
    engine_settings,
    iso,
    make_engine,
)
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
    """The files of the newest state, or of that of a date, as a restore would bring
    them. Reads the data, and checks it as a restore does."""

    takes_part = True

    def execute(self) -> Outcome:
        settings = engine_settings(self.config, self.progress)
        engine = require_files(make_engine(self.config, settings), 'action list')
        self.progress.phase = 'Looking for the backup'
        chain = self.find_state()
        # All of them before the first is shown: in order, and none of a backup that
        # turns out to be damaged.
        with damage_explained():
            opened = RestoreChain(chain, engine, settings)
            entries = sorted(opened.entries(), key=_place)
        newest = chain[max(chain)]
        dates = {level: backup.timestamp for level, backup in chain.items()}
        size = sum(entry.size for entry in entries)
        return Outcome(
            text=_table(entries),
            records=(_record(entry, dates[entry.level]) for entry in entries),
            lines=[
                f'{len(entries)} files and directories, {human.size(size)}, of level '
                f'{newest.level} of {iso(newest.timestamp)}'
            ],
        )


def _place(entry: Entry) -> list[bytes]:
    """What sorts a directory before what is in it, and that before its neighbour."""
    return entry.path.split(b'/')


# For people


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
    """To the second; the years before 1970 and after 9999 as they are counted."""
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


# For programs


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
    """A name; of one that is no text the bytes as well."""
    try:
        return {key: name.decode()}
    except UnicodeDecodeError:
        return {
            key: name.decode(errors='replace'),
            f'{key}_base64': base64.b64encode(name).decode('ascii'),
        }
