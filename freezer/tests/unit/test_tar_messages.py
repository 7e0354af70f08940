"""What GNU tar says, and what it means."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freezer.engine.tar.messages import Kind, parse, unescape

LINES = [
    ('tar: ./socket: socket ignored', Kind.HARMLESS, None),
    ('tar: ./mnt/: file is on a different filesystem; not dumped', Kind.HARMLESS, None),
    ('tar: ./new: Directory is new', Kind.HARMLESS, None),
    ("tar: ./b: Directory has been renamed from './a'", Kind.HARMLESS, None),
    ("tar: Removing leading `/' from member names", Kind.HARMLESS, None),
    (
        'tar: Exiting with failure status due to previous errors',
        Kind.HARMLESS,
        None,
    ),
    ('tar: ./a: file changed as we read it', Kind.WARNING, b'./a'),
    ('tar: ./a: File removed before we read it', Kind.WARNING, b'./a'),
    ('tar: ./a: File shrank by 10 bytes; padding with zeros', Kind.WARNING, b'./a'),
    ('tar: ./a: File shrank by 1 byte; padding with zeros', Kind.WARNING, b'./a'),
    ('tar: ./a: Cannot open: Permission denied', Kind.WARNING, b'./a'),
    ('tar: ./a: Cannot stat: No such file or directory', Kind.WARNING, b'./a'),
    ('tar: ./a: Warning: Cannot open: Permission denied', Kind.WARNING, b'./a'),
    ('tar: ./a: Cannot savedir: Permission denied', Kind.WARNING, b'./a'),
    (r'tar: ./a\nb: Cannot open: Permission denied', Kind.WARNING, b'./a\nb'),
    (r'tar: ./\303\274\\: Cannot open: x', Kind.WARNING, b'./\xc3\xbc\\'),
    (
        'tar: ./a: Cannot open: b: Cannot open: Permission denied',
        Kind.WARNING,
        b'./a: Cannot open: b',
    ),
    ("tar: Missing links to './a'.", Kind.MISSING_LINKS, b'./a'),
    ('tar: .: Cannot open: Permission denied', Kind.FATAL, b'.'),
    ('tar: ./: Cannot open: Permission denied', Kind.FATAL, b'./'),
    ('tar: -: Cannot write: Broken pipe', Kind.FATAL, None),
    ('tar: state: Cannot close: No space left on device', Kind.FATAL, None),
    ('tar: Error is not recoverable: exiting now', Kind.FATAL, None),
    ('tar: memory exhausted', Kind.FATAL, None),
    ('something else', Kind.FATAL, None),
    ('', Kind.FATAL, None),
]


@pytest.mark.parametrize('line, kind, path', LINES)
def test_parse(line: str, kind: Kind, path: bytes | None) -> None:
    message = parse(line, '.')
    assert (message.kind, message.path, message.text) == (kind, path, line)


def test_what_is_everything_depends_on_what_was_asked() -> None:
    line = 'tar: name: Cannot open: Permission denied'
    assert parse(line, 'name').kind is Kind.FATAL
    assert parse(line, '.').kind is Kind.WARNING


def test_a_root_that_changes_is_not_lost() -> None:
    assert parse('tar: .: file changed as we read it', '.').kind is Kind.WARNING


@given(st.text())
def test_any_line_has_a_meaning(line: str) -> None:
    assert parse(line, '.').kind in Kind


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
    assert parse(first, 'no such file').kind is Kind.FATAL
    assert parse(first, '.') == (Kind.WARNING, first, b'no such file')
    assert parse(last, '.').kind is Kind.HARMLESS
