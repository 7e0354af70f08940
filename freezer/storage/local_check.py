"""Action check on a directory: what a file system can do, tried out."""

import contextlib
import os
import secrets
import shutil
import stat
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from freezer.storage import layout
from freezer.storage.check import (
    CheckReport,
    CheckRow,
    Finding,
    Probe,
    Result,
    note,
    ok,
    problem,
    try_out,
)
from freezer.utils.text import NOTICES

if TYPE_CHECKING:
    from freezer.storage.local import LocalStorage

GIB = 1024**3
# From here on it is worth a note.
_SLOW_SYNC_SECONDS = 0.5
_LITTLE_SPACE = GIB
_FEW_FILES = 1000
# Freezer's names and their suffix, and a host and backup name of some length.
_SHORT_NAME_BYTES = 200

_CONTENT = bytes(range(256)) * 64


@dataclass(frozen=True)
class _Scratch:
    """:param folder: where things are tried out"""

    storage: 'LocalStorage'
    folder: str

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)


def check(storage: 'LocalStorage') -> CheckReport:
    """:raises StorageException: the directory cannot be written to at all"""
    container = storage.storage_path
    was_there = os.path.isdir(container)
    missing = list(_missing(container))
    folder = layout.join(container, layout.CHECK, secrets.token_hex(16))
    scratch = _Scratch(storage, folder)
    try:
        storage.prepare()
        storage.put_bytes(scratch.path('small'), _CONTENT)
        made = 'was not there: made, as a backup makes it, and removed again'
        rows = [
            CheckRow('directory', ok('there' if was_there else made)),
            CheckRow('write', ok('a file was written')),
        ]
        rows += try_out(PROBES, scratch)
        rows.append(CheckRow('clean-up', _clean_up(scratch, missing)))
    except BaseException:
        # Also of a signal, even one that came while it was cleaned up.
        left = _clean_up(scratch, missing)
        if left.result is not Result.OK:
            NOTICES.warning('%s', left.message)
        raise
    return CheckReport(container, tuple(rows))


def _missing(path: str) -> Iterator[str]:
    """The directories that have to be made, innermost first."""
    while not os.path.lexists(path):
        yield path
        path = os.path.dirname(path)


def _clean_up(scratch: _Scratch, made: list[str]) -> Finding:
    """Remove everything; may be called again."""
    try:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(scratch.folder)
        # The folder of all checks, unless another one is under way.
        for folder in (os.path.dirname(scratch.folder), *made):
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(folder)
    except OSError as error:
        if not os.path.lexists(scratch.folder):
            return ok('nothing remains')
        return problem(f'something remains in {scratch.folder}: {error.strerror}')
    return ok('nothing remains')


def _read(scratch: _Scratch) -> Finding:
    if scratch.storage.read_file(scratch.path('small')) != _CONTENT:
        return problem('other bytes came back')
    return ok('the same bytes came back')


def _list(scratch: _Scratch) -> Finding:
    listed = dict(scratch.storage.list_tree(scratch.folder))
    if listed != {'small': len(_CONTENT)}:
        return problem(f'listed are {listed}')
    return ok('what was written is listed')


def _range(scratch: _Scratch) -> Finding:
    with open(scratch.path('small'), 'rb') as stream:
        for start, end in ((0, 1), (300, 5000), (len(_CONTENT) - 1, len(_CONTENT))):
            stream.seek(start)
            if stream.read(end - start) != _CONTENT[start:end]:
                return problem(f'bytes {start} to {end - 1} came wrong')
    return ok('the bytes that were asked for')


def _rename(scratch: _Scratch) -> Finding:
    """A file must appear whole, also in place of another that is being read."""
    path = scratch.path('replaced')
    scratch.storage.put_bytes(path, b'before')
    with open(path, 'rb') as reader:
        scratch.storage.put_bytes(path, b'after it')
        if reader.read() != b'before':
            return problem('who was reading a file got parts of the one in its place')
    if scratch.storage.read_file(path) != b'after it':
        return problem('a renamed file is not what it was')
    return ok('a file takes the place of another as a whole')


def _exclusive(scratch: _Scratch) -> Finding:
    """Of two agents only one may get a place."""
    os.mkdir(scratch.path('claimed'))
    try:
        os.mkdir(scratch.path('claimed'))
    except FileExistsError:
        return ok('a directory is made once')
    return problem('two agents could take the same place')


def _delete(scratch: _Scratch) -> Finding:
    path = scratch.path('deleted/file')
    scratch.storage.put_bytes(path, _CONTENT)
    scratch.storage.delete_files([path])
    if os.path.lexists(scratch.path('deleted')):
        return problem('what was deleted is still there')
    return ok('gone')


def _sync(scratch: _Scratch) -> Finding:
    """How long it takes until a small file is on disk."""
    path = scratch.path('synced')
    times = []
    for _ in range(5):
        started = time.perf_counter()
        scratch.storage.put_bytes(path, b'x' * 4096)
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    seen = f'{seconds * 1000:.1f} ms until a small file is on disk'
    if seconds > _SLOW_SYNC_SECONDS:
        return note(seen, value=seconds)
    return ok(seen, seconds)


def _space(scratch: _Scratch) -> Finding:
    found = os.statvfs(scratch.folder)
    free = found.f_bavail * found.f_frsize
    seen = f'{free / GIB:.1f} GiB free'
    # Some file systems do not count files.
    if found.f_files and found.f_favail < _FEW_FILES:
        seen += f', for {found.f_favail} files'
    elif free >= _LITTLE_SPACE:
        return ok(seen, free)
    return note(seen, 'another --container, or --remove-older-than', free)


def _long_names(scratch: _Scratch) -> Finding:
    longest = os.pathconf(scratch.folder, 'PC_NAME_MAX')
    # Backups of a name are in a directory <host>_<name>.
    os.mkdir(scratch.path('n' * longest))
    seen = f'of up to {longest} bytes: host name and backup name together'
    if longest < _SHORT_NAME_BYTES:
        return note(seen, 'a short --backup-name', longest)
    return ok(seen, longest)


def _odd_names(scratch: _Scratch) -> Finding:
    odd = {
        'space': ['a b'],
        '+': ['a+b'],
        '%': ['a%20b'],
        'ü': ['für'],
        'backslash': ['a\\b'],
        ':': ['a:b'],
        'upper and lower case': ['case', 'CASE'],
    }
    lost = [
        shown
        for number, (shown, names) in enumerate(odd.items())
        if not _are_kept(scratch.path(f'odd{number}'), names)
    ]
    if lost:
        return note(f'not kept: {", ".join(lost)}', 'a --backup-name without them')
    return ok(f'kept: {", ".join(odd)}')


def _are_kept(folder: str, names: list[str]) -> bool:
    os.mkdir(folder)
    try:
        for name in names:
            os.mkdir(os.path.join(folder, name))
    except OSError:
        return False
    return sorted(os.listdir(folder)) == sorted(names)


def _permissions(scratch: _Scratch) -> Finding:
    """Backups are for who made them: they hold what others may not read."""
    for path in (scratch.path('small'), scratch.folder):
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & 0o077:
            return note(
                f'others get in: {os.path.basename(path)} has mode {mode:o}',
                'mount it for one user, or --encrypt-pass-file',
            )
    return ok('only this user can read what is written')


#: what is tried once a file was written; name, act, and whether a backup needs it
PROBES = (
    Probe('read', _read),
    Probe('list', _list),
    Probe('range', _range),
    Probe('rename', _rename),
    Probe('exclusive', _exclusive),
    Probe('delete', _delete),
    Probe('sync', _sync),
    Probe('space', _space, needed=False),
    Probe('long names', _long_names, needed=False),
    Probe('odd names', _odd_names, needed=False),
    Probe('permissions', _permissions, needed=False),
)
