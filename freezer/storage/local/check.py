"""Action check on a directory: tests what its file system can do."""

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator

from freezer.storage import layout
from freezer.storage.check import (
    CheckReport,
    CheckRow,
    Finding,
    Probe,
    note,
    ok,
    problem,
    run_check,
    try_out,
)
from freezer.storage.path_probes import PATH_PROBES, PathScratch, space, write_rows
from freezer.storage.paths import PathStorage

# Freezer's names and their suffix, and a host and backup name of some length.
_SHORT_NAME_BYTES = 200


def check(storage: PathStorage) -> CheckReport:
    """:raises StorageException: the directory cannot be written to at all"""
    container = storage.storage_path
    missing = list(_missing(container))
    folder = layout.join(container, layout.CHECK, secrets.token_hex(16))
    scratch = PathScratch(storage, folder)
    rows = _rows(scratch, bool(missing))
    return run_check(container, rows, lambda: _clean_up(scratch, missing))


def _rows(scratch: PathScratch, creates: bool) -> Iterator[CheckRow]:
    yield from write_rows(scratch, creates)
    yield from try_out(PROBES, scratch)


def _missing(path: str) -> Iterator[str]:
    """The directories that have to be created, innermost first."""
    while not os.path.lexists(path):
        yield path
        path = os.path.dirname(path)


def _clean_up(scratch: PathScratch, made: list[str]) -> Finding:
    """Remove everything; may be called again."""
    try:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(scratch.folder)
        # Other checks that are running keep their folder.
        for folder in (os.path.dirname(scratch.folder), *made):
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(folder)
    except OSError as error:
        if not os.path.lexists(scratch.folder):
            return ok('nothing remains')
        return problem(f'something remains in {scratch.folder}: {error.strerror}')
    return ok('nothing remains')


def _rename(scratch: PathScratch) -> Finding:
    """A file must appear whole, also in place of another that is being read."""
    path = scratch.path('replaced')
    scratch.storage.write_file(path, b'before')
    with open(path, 'rb') as reader:
        scratch.storage.write_file(path, b'after it')
        if reader.read() != b'before':
            return problem('a reader of the old file got bytes of the new one')
    if scratch.storage.read_file(path) != b'after it':
        return problem('a renamed file has the wrong content')
    return ok('a file is replaced as a whole')


def _space(scratch: PathScratch) -> Finding:
    found = os.statvfs(scratch.folder)
    free = found.f_bavail * found.f_frsize
    return space(free, found.f_files, found.f_favail)


def _long_names(scratch: PathScratch) -> Finding:
    longest = os.pathconf(scratch.folder, 'PC_NAME_MAX')
    # Backups of a name are in a directory <host>_<name>.
    os.mkdir(scratch.path('n' * longest))
    message = f'of up to {longest} bytes: host name and backup name together'
    if longest < _SHORT_NAME_BYTES:
        return note(message, 'a short --backup-name', longest)
    return ok(message, longest)


def _odd_names(scratch: PathScratch) -> Finding:
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


def _permissions(scratch: PathScratch) -> Finding:
    """Only the user who made a backup may read it: it holds that user's files."""
    for path in (scratch.path('small'), scratch.folder):
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & 0o077:
            return note(
                f'other users have access: {os.path.basename(path)} has mode {mode:o}',
                'mount it for one user, or --encrypt-pass-file',
            )
    return ok('only this user can read the files')


#: these need the file of PathScratch.write
PROBES = (
    *PATH_PROBES,
    Probe('rename', _rename),
    Probe('space', _space, needed=False),
    Probe('long names', _long_names, needed=False),
    Probe('odd names', _odd_names, needed=False),
    Probe('permissions', _permissions, needed=False),
)
