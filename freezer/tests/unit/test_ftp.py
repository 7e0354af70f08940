"""Listings and replies of FTP servers, and the options of storages ftp and ftps."""

import ftplib

import pytest

from freezer.storage.exceptions import MalformedAnswer, StorageConfigError
from freezer.storage.file_server import Kind, Listed
from freezer.storage.ftp import errors, listing
from freezer.storage.ftp.options import OPTIONS, FtpOptions

FILE = Listed('a b', Kind.FILE, 1234)
FOLDER = Listed('a b', Kind.FOLDER, 0)


@pytest.mark.parametrize(
    ('line', 'expected'),
    [
        ('type=file;size=1234; a b', FILE),
        ('Size=1234;Type=FILE;Unix.Mode=0644; a b', FILE),
        ('type=file;size=1234;  a b', Listed(' a b', Kind.FILE, 1234)),
        ('type=file;size=1234; a b ', Listed('a b ', Kind.FILE, 1234)),
        ('type=file;size=1; a; b=c', Listed('a; b=c', Kind.FILE, 1)),
        ('type=dir;sizd=4096; a b', FOLDER),
        ('type=dir; .a', Listed('.a', Kind.FOLDER, 0)),
        ('type=OS.unix=slink:/etc;size=7; a b', Listed('a b', Kind.OTHER, 7)),
        ('type=cdir;sizd=4096; .', None),
        ('type=pdir; ..', None),
        ('type=dir; .', None),
    ],
)
def test_lines_of_mlsd(line: str, expected: Listed | None) -> None:
    assert listing.machine(line) == expected


@pytest.mark.parametrize(
    'line',
    [
        '',
        'a b',
        'type=file;size=1;',
        'type=file;size=1; ',
        'size=1234; a',
        'type=file;size=-1; a',
        'type=file;size=²; a',
        'type=file;size=1e3; a',
        f'type=file;size={"9" * 5000}; a',
    ],
)
def test_malformed_lines_of_mlsd(line: str) -> None:
    with pytest.raises(MalformedAnswer, match='unknown form'):
        listing.machine(line)


@pytest.mark.parametrize(
    ('line', 'expected'),
    [
        # vsftpd, ProFTPD, Pure-FTPd
        ('-rw-------    1 0        0            1234 Nov 30 13:29 a b', FILE),
        ('-rw-r--r--   1 root     root         1234 Nov 30  2025 a b', FILE),
        ('-rw-r--r--    1 1000       users           1234 Nov  3 13:29 a b', FILE),
        ('-rw-r--r--+   1 user one the group 1234 Nov  3 13:29 a b', FILE),
        ('-rw-r--r--   1 owner    1234 Nov  3 13:29 a b', FILE),
        # Not a size, and a date: these are the group and the size.
        ('-rw-r--r--   1 jan 12 1234 Nov 30 13:29 a b', FILE),
        ('-rw-r--r--   1 12 jan 1234 Nov 30 13:29 a b', FILE),
        ('-rw-r--r--   5 12 jan 1234 30. Nov 2025 a b', FILE),
        # Other dates
        ('-rw-r--r-- 1 root root 1234 2026-11-30 13:29 a b', FILE),
        ('-rw-r--r-- 1 root root 1234 30 Nov 13:29 a b', FILE),
        ('-rw-r--r-- 1 root root 1234 30. März 2025 a b', FILE),
        # Names
        (
            '-rw-r--r-- 1 root root 1234 Nov 30 13:29  a',
            Listed(' a', Kind.FILE, 1234),
        ),
        (
            '-rw-r--r-- 1 root root 1234 Nov 30 13:29 5 Nov 30 13:29 b',
            Listed('5 Nov 30 13:29 b', Kind.FILE, 1234),
        ),
        ('-rw-r--r-- 1 0 0 1 Nov 30 13:29 a -> b', Listed('a -> b', Kind.FILE, 1)),
        ('lrwxrwxrwx 1 0 0 4 Nov 30 13:29 a -> /etc', Listed('a', Kind.OTHER, 4)),
        ('crw-rw-rw- 1 0 0 1, 3 Nov 30 13:29 null', Listed('null', Kind.OTHER, 3)),
        ('drwxr-xr-x 2 0 0 0 Nov 30 13:29 a b', FOLDER),
        ('drwxrwsr-t 2 0 0 0 Nov 30 13:29 .a', Listed('.a', Kind.FOLDER, 0)),
        ('drwxr-xr-x 2 0 0 4096 Nov 30 13:29 .', None),
        ('drwxr-xr-x 2 0 0 4096 Nov 30 13:29 ..', None),
        ('total 12', None),
        # Windows
        ('11-30-26  01:29PM                 1234 a b', FILE),
        ('2026-11-30  13:29       <DIR>          a b', FOLDER),
        ('11-30-26  01:29PM       <JUNCTION>     a b', Listed('a b', Kind.OTHER, 0)),
    ],
)
def test_lines_of_list(line: str, expected: Listed | None) -> None:
    assert listing.human(line) == expected


@pytest.mark.parametrize(
    'line',
    [
        'a b',
        'total',
        'ls: cannot open directory: Permission denied',
        '-rw-r--r-- 1 root root 1234 Nov 30 13:29',
        '-rw-r--r-- 1 root root 1234 Nov 30 13:29 ',
        '-rw-r--r-- 1 root root many Nov 30 13:29 a',
        f'-rw-r--r-- 1 root root {"9" * 5000} Nov 30 13:29 a',
        '11-30-26  01:29PM                 1234 ',
        '\x1b[2J',
    ],
)
def test_malformed_lines_of_list(line: str) -> None:
    with pytest.raises(MalformedAnswer, match='unknown form') as found:
        listing.human(line)
    assert '\x1b' not in found.value.message


@pytest.mark.parametrize('name', ['a/b', '/etc/passwd', '../a', 'a\0b'])
def test_names_that_no_file_has(name: str) -> None:
    with pytest.raises(MalformedAnswer):
        listing.names([None, FILE, Listed(name, Kind.FILE, 1)])
    assert listing.names([FILE, None, FOLDER]) == [FILE, FOLDER]


@pytest.mark.parametrize(
    ('reply', 'full'),
    [
        ('552 Transfer aborted.', True),
        ('452 No.', True),
        ('451 No space left on device', True),
        ("550 Can't create directory: Disk quota exceeded", True),
        ('550 /quota/x: No such file or directory', False),
        ('550 /quota: File exists', False),
        ('550 /quota: Permission denied', False),
        ('550 /quota: Directory not empty', False),
        ('550 Failed to open file.', False),
    ],
)
def test_replies_of_a_full_disk(reply: str, full: bool) -> None:
    assert errors.is_full(ftplib.error_perm(reply)) == full


@pytest.mark.parametrize(
    'host', ['', 'a..b', 'a' * 64, '.a', 'a b', 'a\nb', 'ftp://u:secret@h', '-a', 'a/b']
)
def test_no_hosts(host: str) -> None:
    given = OPTIONS.defaults() | {'ftp_host': host, 'ftp_username': 'anonymous'}
    with pytest.raises(StorageConfigError, match='not the name or address') as found:
        FtpOptions.parse(given, secure=True, insecure=False)
    assert 'secret' not in found.value.message


@pytest.mark.parametrize('host', ['a', 'a.b.', '10.0.0.1', '::1', 'fe80::1%eth0'])
def test_hosts(host: str) -> None:
    given = OPTIONS.defaults() | {'ftp_host': host, 'ftp_username': 'anonymous'}
    assert FtpOptions.parse(given, secure=True, insecure=False).host == host
