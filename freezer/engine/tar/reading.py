"""Keeps tar from reading outside of the source.

tar follows a symbolic link in any component of a path but the last. A user who can
write to the source can replace a directory by a link to another directory while tar
runs; without Landlock, files that only root can read would get into the backup, in the
user's directory.
"""

import contextlib
import functools
import glob
import logging
import os
import re
import stat
import subprocess
from collections.abc import Iterable, Sequence
from typing import Final

from freezer.engine.tar import process
from freezer.engine.tar.process import Confine
from freezer.utils import landlock

LOG = logging.getLogger(__name__)

_NAMES: Final = ('/etc/passwd', '/etc/group')
# Needed by tar: libraries, and the names of users and groups.
_READ: Final = (
    *('/lib', '/lib32', '/lib64', '/libx32'),
    *('/usr/lib', '/usr/lib32', '/usr/lib64', '/usr/libx32', '/usr/local/lib'),
    *('/usr/share/zoneinfo', '/etc/localtime'),
    *('/nix/store', '/gnu/store', '/dev/null'),
    *('/etc/ld.so.cache', '/etc/ld.so.preload'),
    *('/etc/nsswitch.conf', *_NAMES),
    # Of the services sss, extrausers, cache and db.
    '/var/lib/sss/mc',
    *('/var/lib/extrausers/passwd', '/var/lib/extrausers/group'),
    *('/etc/passwd.cache', '/etc/passwd.cache.ixuid', '/etc/passwd.cache.ixname'),
    *('/etc/group.cache', '/etc/group.cache.ixgid', '/etc/group.cache.ixname'),
    *('/var/db/passwd.db', '/var/db/group.db'),
    *('/var/lib/misc/passwd.db', '/var/lib/misc/group.db'),
)
# Of the service systemd: users and groups, each in a file; others in the same
# directories hold the hashes of passwords.
_USERDB: Final = tuple(
    f'{folder}/*.{kind}'
    for folder in (
        *('/etc/userdb', '/run/userdb', '/run/host/userdb', '/usr/lib/userdb'),
        '/run/systemd/userdb',
    )
    for kind in ('user', 'group', 'membership')
)
# Services of nsswitch.conf that read nothing but the above, or that ask a daemon.
_SERVICES: Final = (
    *('files', 'compat', 'systemd', 'sss', 'cache', 'db', 'extrausers', 'winbind'),
    'mymachines',
)
_NSSWITCH: Final = '/etc/nsswitch.conf'
# tar reads extended attributes by way of /proc/self/fd.
_LISTED: Final = ('/proc',)


def confinement(
    descriptors: Iterable[int],
    name: str,
    follows_links: bool,
    files: Iterable[str],
) -> Confine | None:
    """How to start tar, so that it reads nothing but the source; None where that is not
    possible. The log says which.

    :param descriptors: of the directories and files that tar may read; iterated over
        each time that tar is started
    :param name: of the source, for the log
    :param files: further files that tar reads
    """
    tar = process.find_tar()
    confine = _reading(descriptors, files, _LISTED)
    reason = (
        '--dereference-symlink follows links out of it'
        if follows_links
        else _reason(tar, confine)
    )
    if reason is not None:
        LOG.info('tar is not kept from reading outside of %s: %s', name, reason)
        return None
    number = landlock.version()
    LOG.info('Landlock %d keeps tar from reading outside of %s', number, name)
    return confine


def confined_to_directories(folder: int, files: Iterable[str]) -> Confine:
    """How to start tar, so that it reads directories below a folder, and no files.

    :param folder: its descriptor
    :param files: further files that tar reads
    """
    return _reading((), files, (*_LISTED, f'/proc/self/fd/{folder}'))


def _reading(
    descriptors: Iterable[int], files: Iterable[str], listed: Iterable[str]
) -> Confine:
    userdb = (path for pattern in _USERDB for path in glob.glob(pattern))
    own = (*_READ, *userdb, process.find_tar(), *_libraries())
    return functools.partial(landlock.run_reading, descriptors, (*own, *files), listed)


def _reason(tar: str, confine: Confine) -> str | None:
    """Why tar cannot be confined; None if it can."""
    if _is_script(tar):
        return f'{tar} is a script, which may have to read other files'
    if others := sorted(_services().difference(_SERVICES)):
        return f'{", ".join(others)} in {_NSSWITCH} may have to read other files'
    if os.geteuid() != 0 and _has_rights(tar):
        return 'tar has rights of its own, which Landlock would remove'
    try:
        with process.running(['--version'], subprocess.PIPE, confine=confine) as (
            started,
            _stderr,
        ):
            assert started.stdout is not None
            runs = b'GNU tar' in started.stdout.read()
    except OSError as error:
        return f'Landlock is not available ({error.strerror})'
    return None if runs else 'tar does not run under Landlock'


def names_version() -> tuple[int, ...]:
    """Changes if the names of users or groups do: a new file takes the place of the old
    one, and a confined tar may not read it."""
    return tuple(os.stat(path).st_ino for path in _NAMES if os.path.exists(path))


def _services() -> set[str]:
    """The services that know users and groups."""
    found: set[str] = set()
    with contextlib.suppress(OSError), open(_NSSWITCH, encoding='utf-8') as file:
        for line in file:
            database, colon, services = line.partition('#')[0].partition(':')
            if colon and database.strip() in ('passwd', 'group'):
                # Without conditions, as in [NOTFOUND=return].
                found.update(re.sub(r'\[[^]]*\]', ' ', services).split())
    return found


def _is_script(tar: str) -> bool:
    try:
        with open(tar, 'rb') as file:
            return file.read(2) == b'#!'
    except PermissionError:
        # It can be executed, but not read.
        return False


def _has_rights(tar: str) -> bool:
    """Whether the program has rights that its caller need not have."""
    try:
        os.getxattr(tar, 'security.capability')
    except OSError:
        return bool(os.stat(tar).st_mode & (stat.S_ISUID | stat.S_ISGID))
    return True


def _libraries() -> Sequence[str]:
    """The files and directories that the environment makes the linker read."""
    paths = os.environ.get('LD_LIBRARY_PATH', '').replace(';', ':').split(':')
    loaded = os.environ.get('LD_PRELOAD', '').replace(':', ' ').split()
    return [path for path in (*paths, *loaded) if os.path.isabs(path)]
