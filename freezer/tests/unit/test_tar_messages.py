"""What GNU tar says, and what it means."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freezer.engine.engine import Warnings
from freezer.engine.tar.messages import Severity, check, parse, unescape
from freezer.exceptions import EngineError
from freezer.tests.commands import run_command

ENV = {'PATH': os.environ['PATH'], 'LC_ALL': 'C'}

HARMLESS = [
    './socket: socket ignored',
    './mnt/: file is on a different filesystem; not dumped',
    './new: Directory is new',
    "./b: Directory has been renamed from './a'",
    "Removing leading `/' from member names",
    'Exiting with failure status due to previous errors',
]
WARNINGS = {
    './a: file changed as we read it': b'./a',
    './a: File removed before we read it': b'./a',
    './a: Cannot stat: No such file or directory': b'./a',
}
PADDED = {
    './a: File shrank by 10 bytes; padding with zeros': b'./a',
    './a: File shrank by 1 byte; padding with zeros': b'./a',
    './a: Read error at byte 0, while reading 1 byte: Input/output error': b'./a',
    r'./a\:b: Read error at byte 512, while reading 10240 bytes: x': b'./a:b',
}
UNREAD = {
    './a: Cannot open: Permission denied': b'./a',
    './a: Warning: Cannot open: Permission denied': b'./a',
    'a: Warning: Cannot flistxattr: Input/output error': b'a',
    './a: Cannot read: Stale file handle': b'./a',
    './a: Cannot savedir: Permission denied': b'./a',
    r'./a\nb: Cannot open: Permission denied': b'./a\nb',
    r'./\303\274\\: Cannot open: x': b'./\xc3\xbc\\',
    './a: Cannot open: b: Cannot open: Permission denied': b'./a: Cannot open: b',
}
FATAL = {
    'tar: .: Cannot open: Permission denied': b'.',
    'tar: ./: Cannot open: Permission denied': b'./',
    'tar: -: Cannot write: Broken pipe': None,
    'tar: state: Cannot close: No space left on device': None,
    'tar: Error is not recoverable: exiting now': None,
    'tar: memory exhausted': None,
    'something else': None,
    '': None,
}
LINES = [
    *((f'tar: {line}', Severity.HARMLESS, None) for line in HARMLESS),
    *((f'tar: {line}', Severity.WARNING, path) for line, path in WARNINGS.items()),
    *((f'tar: {line}', Severity.UNREAD, path) for line, path in UNREAD.items()),
    *((f'tar: {line}', Severity.PADDED, path) for line, path in PADDED.items()),
    *((line, Severity.FATAL, path) for line, path in FATAL.items()),
]


@pytest.mark.parametrize('line, severity, path', LINES)
def test_parse(line: str, severity: Severity, path: bytes | None) -> None:
    message = parse(line, '.')
    assert (message.severity, message.path, message.text) == (severity, path, line)


def test_what_is_everything_depends_on_what_was_asked() -> None:
    line = 'tar: name: Cannot open: Permission denied'
    assert parse(line, 'name').severity is Severity.FATAL
    assert parse(line, '.').severity is Severity.UNREAD
    line = 'tar: name: Read error at byte 0, while reading 1 byte: x'
    assert parse(line, 'name').severity is Severity.PADDED


def test_a_root_that_changes_is_not_lost() -> None:
    assert parse('tar: .: file changed as we read it', '.').severity is Severity.WARNING


def test_why_tar_gives_up() -> None:
    """Its last line does not say it."""
    lines = [
        'tar: ./a: Cannot open: Permission denied',
        'tar: /nowhere: Cannot open: No such file or directory',
        'tar: Error is not recoverable: exiting now',
    ]
    with pytest.raises(EngineError) as raised:
        check(2, lines, '.', Warnings())
    assert str(raised.value) == f'tar failed with status 2: {"; ".join(lines[1:])}'


def test_an_error_that_tar_prints_twice_is_one() -> None:
    warnings = Warnings()
    check(2, ['tar: ./a: Cannot open: Permission denied'] * 2, '', warnings)
    assert (warnings.count, warnings.incomplete) == (1, 1)


@given(st.text())
def test_any_line_has_a_meaning(line: str) -> None:
    assert parse(line, '.').severity in Severity


NAMES = [b'plain', b'sp ace', b'new\nline', b'tab\t', b'back\\slash', b'qu\'ote"']
NAMES += ['grün€😀'.encode(), b'\xff\xfe', b'\x01\x7f\a\b\f\v\r', b'a: Cannot open: b']


@pytest.mark.parametrize('name', NAMES, ids=repr)
def test_names_as_tar_escapes_them(tmp_path: Path, name: bytes) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b'/' + name)).touch()
    argv = ('tar', '-cvf', '/dev/null', '--quoting-style=escape', '-C', tmp_path, '.')
    lines = run_command(*argv, env=ENV, check=True).stdout.splitlines()
    assert {unescape(line) for line in lines} == {b'./', b'./' + name}


def test_what_tar_says_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    argv = ('tar', '-cf', '/dev/null', '-C', tmp_path, 'no such file')
    first, last = run_command(*argv, env=ENV).stderr.splitlines()
    assert parse(first, 'no such file').severity is Severity.FATAL
    assert parse(first, '.') == (Severity.WARNING, first, b'no such file')
    assert parse(last, '.').severity is Severity.HARMLESS
