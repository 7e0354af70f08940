"""Which messages of an extracting tar are losses, and which are errors."""

import pytest

from freezer.engine.engine import Warnings
from freezer.engine.tar import unsupported
from freezer.exceptions import EngineError

SUMMARY = 'tar: Exiting with failure status due to previous errors'
LOST = (
    "tar: setxattrat: Cannot set 'user.a b' extended attribute for file './f': "
    'No space left on device',
    "tar: lsetxattr: Cannot set 'trusted.x' extended attribute for file './link': "
    'Operation not permitted',
    "tar: acl_set_file_at: Cannot set POSIX ACLs for file './f': Invalid argument",
    'tar: ./f: Cannot change ownership to uid 1, gid 1: Operation not permitted',
    'tar: ./f: Cannot change ownership to uid 99999, gid 1: Invalid argument',
    'tar: ./f: Cannot change mode to rwsr-xr-x: Operation not permitted',
    'tar: ./f: Cannot utime: Operation not permitted',
    'tar: ./dev/null: Cannot mknod: Operation not permitted',
    'tar: ./fifo: Cannot mkfifo: Operation not supported',
    "tar: ./a\\nb: Cannot create symlink to 'b: c': Operation not permitted",
    "tar: ./a: Cannot hard link to './b': Function not implemented",
)
ERRORS = (
    'tar: ./f: Cannot open: Permission denied',
    # Landlock refuses with these.
    "tar: ./f: Cannot create symlink to 'x': Permission denied",
    "tar: ./a: Cannot hard link to './b': Invalid cross-device link",
    'tar: ./f: Cannot mknod: Permission denied',
    'tar: ./f: Cannot write: No space left on device',
    'tar: ./f: Cannot utime: Input/output error',
    'tar: ./f: Cannot change mode to rwxr-xr-x: Read-only file system',
    "tar: ./a: Cannot hard link to './b': No such file or directory",
)


@pytest.mark.parametrize('line', LOST)
def test_losses(line: str) -> None:
    warnings, known = Warnings(), set[int]()
    for status in (0, 2):
        lines = [line, SUMMARY] if status else [line]
        unsupported.check(status, lines, '/target', warnings, known)
    # The second level has the same file.
    assert (warnings.kept, warnings.incomplete) == ([line], 1)


@pytest.mark.parametrize('line', ERRORS)
def test_errors(line: str) -> None:
    warnings = Warnings()
    with pytest.raises(EngineError, match='could not extract into /target') as caught:
        unsupported.check(2, [LOST[0], line, SUMMARY], '/target', warnings, set())
    assert line in str(caught.value)


@pytest.mark.parametrize('status', [1, 2, -9])
def test_without_a_reason(status: int) -> None:
    with pytest.raises(EngineError):
        unsupported.check(status, [SUMMARY], '/target', Warnings(), set())
    if status != 2:
        with pytest.raises(EngineError):
            unsupported.check(status, [LOST[3]], '/target', Warnings(), set())


def test_others_are_warnings() -> None:
    warnings = Warnings()
    line = "tar: Ignoring unknown extended header keyword 'X.y'"
    unsupported.check(0, [line], '/target', warnings, set())
    assert (warnings.kept, warnings.incomplete) == ([line], 0)


def test_every_file_without_acls() -> None:
    name = "for file './f': Operation not supported"
    for noise in (
        f'tar: acl_set_file_at: Cannot set POSIX ACLs {name}',
        f'tar: acl_delete_def_file_at: Cannot drop default POSIX ACLs {name}',
    ):
        assert not unsupported.is_relevant(noise)
    for line in (*LOST, *ERRORS):
        assert unsupported.is_relevant(line)
