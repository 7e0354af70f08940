"""What GNU tar says, and what it means."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freezer.engine.tar.messages import Severity, parse, unescape

LINES = [
    ('tar: ./socket: socket ignored', Severity.HARMLESS, None),
    (
        'tar: ./mnt/: file is on a different filesystem; not dumped',
        Severity.HARMLESS,
        None,
    ),
    ('tar: ./new: Directory is new', Severity.HARMLESS, None),
    ("tar: ./b: Directory has been renamed from './a'", Severity.HARMLESS, None),
    ("tar: Removing leading `/' from member names", Severity.HARMLESS, None),
    (
        'tar: Exiting with failure status due to previous errors',
        Severity.HARMLESS,
        None,
    ),
    ('tar: ./a: file changed as we read it', Severity.WARNING, b'./a'),
    ('tar: ./a: File removed before we read it', Severity.WARNING, b'./a'),
    ('tar: ./a: File shrank by 10 bytes; padding with zeros', Severity.WARNING, b'./a'),
    ('tar: ./a: File shrank by 1 byte; padding with zeros', Severity.WARNING, b'./a'),
    ('tar: ./a: Cannot open: Permission denied', Severity.WARNING, b'./a'),
    ('tar: ./a: Cannot stat: No such file or directory', Severity.WARNING, b'./a'),
    ('tar: ./a: Warning: Cannot open: Permission denied', Severity.WARNING, b'./a'),
    ('tar: ./a: Cannot savedir: Permission denied', Severity.WARNING, b'./a'),
    (r'tar: ./a\nb: Cannot open: Permission denied', Severity.WARNING, b'./a\nb'),
    (r'tar: ./\303\274\\: Cannot open: x', Severity.WARNING, b'./\xc3\xbc\\'),
    (
        'tar: ./a: Cannot open: b: Cannot open: Permission denied',
        Severity.WARNING,
        b'./a: Cannot open: b',
    ),
    ("tar: Missing links to './a'.", Severity.MISSING_LINKS, b'./a'),
    ('tar: .: Cannot open: Permission denied', Severity.FATAL, b'.'),
    ('tar: ./: Cannot open: Permission denied', Severity.FATAL, b'./'),
    ('tar: -: Cannot write: Broken pipe', Severity.FATAL, None),
    ('tar: state: Cannot close: No space left on device', Severity.FATAL, None),
    ('tar: Error is not recoverable: exiting now', Severity.FATAL, None),
    ('tar: memory exhausted', Severity.FATAL, None),
    ('something else', Severity.FATAL, None),
    ('', Severity.FATAL, None),
]


@pytest.mark.parametrize('line, severity, path', LINES)
def test_parse(line: str, severity: Severity, path: bytes | None) -> None:
    message = parse(line, '.')
    assert (message.severity, message.path, message.text) == (severity, path, line)


def test_what_is_everything_depends_on_what_was_asked() -> None:
    line = 'tar: name: Cannot open: Permission denied'
    assert parse(line, 'name').severity is Severity.FATAL
    assert parse(line, '.').severity is Severity.WARNING


def test_a_root_that_changes_is_not_lost() -> None:
    assert parse('tar: .: file changed as we read it', '.').severity is Severity.WARNING


@given(st.text())
def test_any_line_has_a_meaning(line: str) -> None:
    assert parse(line, '.').severity in Severity


NAMES = [b'plain', b'sp ace', b'new\nline', b'tab\t', b'back\\slash', b'qu\'ote"']
NAMES += ['grün€😀'.encode(), b'\xff\xfe', b'\x01\x7f\a\b\f\v\r', b'a: Cannot open: b']


@pytest.mark.parametrize('name', NAMES, ids=repr)
def test_names_as_tar_escapes_them(tmp_path: Path, name: bytes) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b'/' + name)).touch()
    listing = subprocess.run(
        ['tar', '-cvf', '/dev/null', '--quoting-style=escape', '-C', tmp_path, '.'],
        env={'PATH': os.environ['PATH'], 'LC_ALL': 'C'},
        capture_output=True,
        check=True,
    ).stdout.decode('ascii')
    assert {unescape(line) for line in listing.splitlines()} == {b'./', b'./' + name}


def test_what_tar_says_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    ended = subprocess.run(
        ['tar', '-cf', '/dev/null', '-C', tmp_path, 'no such file'],
        env={'PATH': os.environ['PATH'], 'LC_ALL': 'C'},
        capture_output=True,
        text=True,
        check=False,
    )
    first, last = ended.stderr.splitlines()
    assert parse(first, 'no such file').severity is Severity.FATAL
    assert parse(first, '.') == (Severity.WARNING, first, b'no such file')
    assert parse(last, '.').severity is Severity.HARMLESS
