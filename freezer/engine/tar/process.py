"""GNU tar as a child process: where it is, what it is told, how it is run and ended."""

import contextlib
import fcntl
import functools
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from freezer.engine.tar.excludes import Excludes
from freezer.exceptions import ConfigError
from freezer.utils import signals
from freezer.utils.process import ENVIRONMENT, StderrReader

LOG = logging.getLogger(__name__)

_NAMES = ('gnutar', 'gtar', 'tar')
# The largest pipe that any user may have: agent and tar take turns less often than
# with the default of 64 KiB.
_PIPE_SIZE = 1024 * 1024
_WRITE_BUFFER = 256 * 1024

Start = Callable[[], 'subprocess.Popen[bytes]']
Confine = Callable[[Start], 'subprocess.Popen[bytes]']
"""Starts a process so that Landlock confines it."""

XATTRS = ('--xattrs', '--xattrs-include=*')
METADATA = (*XATTRS, '--acls')
END = 2 * 512
"""Bytes of the end marker."""
FORMAT = (
    '--format=posix',
    # The default name contains tar's process number.
    '--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=ctime',
    *METADATA,
)
# Otherwise a name a\101 means aA, also that of the directory to go to.
_LITERAL = ('--no-unquote',)
_DEREFERENCE = {
    'none': (),
    'soft': ('--dereference',),
    'hard': ('--hard-dereference',),
    'all': ('--dereference', '--hard-dereference'),
}


@functools.cache
def find_tar() -> str:
    """The path of GNU tar.

    :raises ConfigError: it is not installed
    """
    for name in _NAMES:
        path = shutil.which(name)
        if path is None:
            continue
        version = subprocess.run(
            [path, '--version'], capture_output=True, check=False, env=_environment()
        )
        if b'GNU tar' in version.stdout:
            return path
    raise ConfigError(
        f'GNU tar is not installed, or not in PATH: the tar engine needs it, under the '
        f'name {" or ".join(_NAMES)}'
    )


def create_arguments(
    options: Mapping[str, Any],
    excludes: Excludes,
    crosses: bool,
    hidden: Path,
    further: Sequence[str],
    names: Sequence[str],
) -> list[str]:
    """The arguments that archive files.

    :param options: those of the engine
    :param crosses: whether tar goes into other file systems
    :param hidden: see :meth:`Excludes.arguments`
    :param names: what is archived, as arguments
    """
    return [
        '--create',
        *_LITERAL,
        *further,
        *([] if crosses else ['--one-file-system']),
        *_DEREFERENCE[options['dereference_symlink']],
        *excludes.arguments(hidden, crosses=crosses),
        *names,
    ]


def parents_arguments(names: Path) -> list[str]:
    """The arguments that archive directories without what is in them; nothing follows
    the end marker.

    :param names: a file with their names
    """
    return [
        *('--create', '--file=-', *FORMAT, '--blocking-factor=1', '--no-recursion'),
        *_LITERAL,
        *('--null', '--verbatim-files-from', f'--files-from={names}'),
    ]


def extract_arguments(
    target: str, untrusted: bool, options: Mapping[str, Any]
) -> list[str]:
    """The arguments that extract an archive from standard input.

    :param options: those of the engine
    """
    attributes = not options['no_attributes']
    # Archives have ACLs with names, and as extended attributes with numbers.
    by_name = attributes and not options['numeric_owner']
    return [
        '--extract',
        *_LITERAL,
        '--file=-',
        '--listed-incremental=/dev/null',
        # tar does so only once it has seen a directory with a list.
        '--delay-directory-restore',
        '--preserve-permissions',
        *(XATTRS if attributes else ['--no-xattrs']),
        '--acls' if by_name else '--no-acls',
        *(['--numeric-owner'] if options['numeric_owner'] else []),
        # security.capability grants root privileges.
        *(['--xattrs-exclude=security.capability'] if untrusted else []),
        '--warning=no-timestamp',
        f'--directory={target}',
    ]


@contextlib.contextmanager
def running(
    arguments: list[str],
    stdout: int = subprocess.DEVNULL,
    stdin: int = subprocess.DEVNULL,
    cwd: str = '/',
    confine: Confine | None = None,
    keep: Callable[[str], bool] = lambda _line: True,
) -> Iterator[tuple['subprocess.Popen[bytes]', StderrReader]]:
    """Run GNU tar; when the block is left, the process has been ended and reaped.

    It is started from a list of arguments, never through a shell.

    :param cwd: not where the agent was started: that directory may be gone
    :param keep: whether to keep a line of its standard error
    :raises ConfigError: GNU tar is not installed
    :raises OSError: it cannot be confined
    """
    path = find_tar()
    LOG.debug('running %s %s', path, arguments)

    def start() -> 'subprocess.Popen[bytes]':
        return subprocess.Popen(
            ['tar', *arguments],  # noqa: S607 - the name its messages begin with
            # tar gets many small pieces.
            bufsize=_WRITE_BUFFER if stdin == subprocess.PIPE else -1,
            executable=path,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=_environment(),
        )

    process = confine(start) if confine else start()
    assert process.stderr is not None
    stderr = StderrReader(process.stderr, keep)
    for stream in (process.stdin, process.stdout):
        # Popen's pipesize would raise: a user who has many pipes is refused more room.
        with contextlib.suppress(OSError):
            if stream is not None:
                fcntl.fcntl(stream, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    try:
        with signals.on_forced_exit(process.kill):
            yield process, stderr
    finally:
        if process.poll() is None:
            process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        process.wait()
        stderr.lines()


def _environment() -> dict[str, str]:
    """Variables for tar: no secret, and none that changes its work (TAR_OPTIONS)."""
    passed_on = {k: v for k, v in os.environ.items() if k in ENVIRONMENT}
    # In the C locale messages are known texts.
    return {**passed_on, 'LC_ALL': 'C'}
