"""How much of what increments store was there before, under another name.

    python -m benchmarks.renames git REPOSITORY... [--days 7]
    python -m benchmarks.renames cases

``git``: REPOSITORY is the directory of a Git repository. Its states, so many days
apart, are compared as backups of a working tree would be: a file that is new or changed
is stored. Of these bytes it shows how many the state before had with the same contents;
how many of those went with a renamed file; and how many of those with a renamed
directory, that is, where the old directory is gone and the new one was not there.

``cases`` makes small trees, renames in them, and shows what the agent stores of each,
and what restic does if it is installed.
"""

import argparse
import gzip
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from benchmarks.measure import measure

_MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    git = commands.add_parser('git')
    git.add_argument('repositories', type=Path, nargs='+', metavar='REPOSITORY')
    git.add_argument('--days', type=int, default=7, help='between two states')
    commands.add_parser('cases')
    given = parser.parse_args()
    if given.command == 'cases':
        cases()
        return
    titles = ''.join(f'{title:>9}' for title in ('known', 'renamed', 'in dirs'))
    print(f'{"":24} {"states":>6} {"MiB":>8}{titles}')
    for repository in given.repositories:
        report(repository, given.days)


# Cases: a tree, and what happens in it


def photos(tree: Path, noise: random.Random) -> Callable[[], None]:
    """A directory of 97 MB is renamed."""
    folder = tree / '2024'
    folder.mkdir()
    for number in range(24):
        (folder / f'{number:04}.jpg').write_bytes(noise.randbytes(4 * _MIB))
    return lambda: folder.rename(tree / 'photos-2024') and None


def maildir(tree: Path, noise: random.Random) -> Callable[[], None]:
    """Of 10,000 mails 300 are read: they move from new to cur."""
    new, cur = tree / 'new', tree / 'cur'
    for folder, count in ((new, 400), (cur, 9600)):
        folder.mkdir()
        for number in range(count):
            size = round(noise.lognormvariate(9, 1))
            (folder / f'{folder.name}{number}').write_bytes(noise.randbytes(size))

    def read() -> None:
        for number in range(300):
            (new / f'new{number}').rename(cur / f'new{number}:2,S')

    return read


def logs(tree: Path, noise: random.Random) -> Callable[[], None]:
    """logrotate with numbers, and compression from the second file on."""
    return _rotated(tree, noise, lambda number: tree / f'log.{number}')


def dated_logs(tree: Path, noise: random.Random) -> Callable[[], None]:
    """The same with the option dateext: names do not change any more."""
    today = [0]

    def name(number: int) -> Path:
        return tree / f'log-{today[0] - number:+}'

    return _rotated(tree, noise, name, lambda: today.append(today.pop() + 1))


def _rotated(
    tree: Path,
    noise: random.Random,
    name: Callable[[int], Path],
    at_midnight: Callable[[], None] = lambda: None,
) -> Callable[[], None]:
    """
    :param name: of the log of so many days ago, without the ending of a compressed one
    """

    def lines(size: int) -> bytes:
        return b''.join(
            b'%d host GET /%x 200\n' % (number, noise.getrandbits(64))
            for number in range(size // 35)
        )

    def packed(number: int) -> Path:
        return name(number).with_name(name(number).name + '.gz')

    log = tree / 'log'
    log.write_bytes(lines(10 * _MIB))
    name(1).write_bytes(lines(10 * _MIB))
    for number in range(2, 15):
        packed(number).write_bytes(gzip.compress(lines(10 * _MIB)))

    def rotate() -> None:
        old = [packed(number) for number in range(14, 1, -1)]
        yesterday = name(1)
        at_midnight()
        for path, number in zip(old, range(15, 2, -1), strict=True):
            path.rename(packed(number))
        packed(2).write_bytes(gzip.compress(yesterday.read_bytes()))
        yesterday.unlink()
        log.rename(name(1))
        log.write_bytes(lines(10 * _MIB))

    return rotate


def cases() -> None:
    restic = shutil.which('restic')
    print(f'{"bytes stored":10} {"level 0":>12} {"level 1":>12} {"restic":>12}')
    for case in (photos, maildir, logs, dated_logs):
        with tempfile.TemporaryDirectory() as name:
            scratch = Path(name)
            tree = scratch / 'tree'
            tree.mkdir()
            change = case(tree, random.Random(0))
            # A file that changed in the two seconds before is stored twice.
            time.sleep(3)
            first, theirs = _backup(scratch), 0
            if restic:
                _restic(scratch, restic, 'init')
                theirs = _restic(scratch, restic, 'backup', str(tree))
            change()
            second = _backup(scratch)
            if restic:
                theirs = _restic(scratch, restic, 'backup', str(tree)) - theirs
        print(f'{case.__name__:10} {first:12} {second - first:12} {theirs:12}')


def _backup(scratch: Path) -> int:
    """Bytes of the store after a backup."""
    store = scratch / 'store'
    agent = (
        *(sys.executable, '-m', 'freezer.main', '--storage', 'local', '--quiet'),
        *('--container', str(store), '--backup-name', 'renames', '--incremental'),
        *('--action', 'backup', '--path-to-backup', str(scratch / 'tree')),
        *('--compression', 'zstd', '--log-file', str(scratch / 'log')),
    )
    measure(agent, os.environ)
    return _size(store)


def _restic(scratch: Path, restic: str, *arguments: str) -> int:
    """Bytes of the repository after a command."""
    store = scratch / 'restic'
    environment = os.environ | {
        'RESTIC_PASSWORD': 'password',
        'RESTIC_CACHE_DIR': str(scratch / 'cache'),
    }
    measure((restic, '-q', '-r', str(store), *arguments), environment)
    return _size(store)


def _size(folder: Path) -> int:
    return sum(each.stat().st_size for each in folder.rglob('*') if each.is_file())


# Histories


@dataclass
class _Sums:
    """Bytes."""

    stored: int = 0
    known: int = 0
    renamed: int = 0
    in_directories: int = 0


def report(repository: Path, days: int) -> None:
    sums = _Sums()
    count = 0
    before: dict[str, tuple[str, int]] = {}
    for after in _states(repository, days):
        count += 1
        if before:
            compare(before, after, sums)
        before = after
    shares = (
        f'{part / max(sums.stored, 1):>8.2%}'
        for part in (sums.known, sums.renamed, sums.in_directories)
    )
    print(
        f'{repository.parent.name:24} {count:6} {sums.stored / _MIB:8.1f} '
        f'{" ".join(shares)}',
        flush=True,
    )


def compare(
    before: Mapping[str, tuple[str, int]],
    after: Mapping[str, tuple[str, int]],
    sums: _Sums,
) -> None:
    """Add up what an increment stores.

    :param before: path -> object and size
    """
    known = {blob for blob, _size in before.values()}
    gone: dict[str, list[str]] = {}
    for path in before.keys() - after.keys():
        gone.setdefault(before[path][0], []).append(path)
    old_folders, new_folders = _folders(before), _folders(after)
    for path, (blob, size) in after.items():
        if before.get(path) == (blob, size):
            continue
        sums.stored += size
        if blob in known:
            sums.known += size
        if path not in before and blob in gone:
            sums.renamed += size
            if any(
                old not in new_folders and new not in old_folders
                for source in gone[blob]
                for old, new in _moves(source, path)
            ):
                sums.in_directories += size


def _moves(source: str, target: str) -> Iterator[tuple[str, str]]:
    """The directories that may have been renamed, if a file has moved with one."""
    old, new = source.split('/'), target.split('/')
    while len(old) > 1 and len(new) > 1 and old.pop() == new.pop():
        yield '/'.join(old), '/'.join(new)


def _folders(paths: Mapping[str, object]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        while path := path.rpartition('/')[0]:
            if path in found:
                break
            found.add(path)
    return found


def _states(repository: Path, days: int) -> Iterator[dict[str, tuple[str, int]]]:
    """The trees at the last commit of each period: path -> object and size."""
    lines = _git(repository, 'log', '--first-parent', '--reverse', '--format=%H %cs')
    last: dict[date, str] = {}
    for line in lines.splitlines():
        commit, day = line.split()
        since = date.fromisoformat(day) - date.min
        last[date.min + timedelta(days=since.days // days * days)] = commit
    for _day, commit in sorted(last.items()):
        tree = _git(repository, 'ls-tree', '-r', '-l', '-z', commit)
        entries = (entry.split('\t', 1) for entry in tree.split('\0') if entry)
        yield {
            path: (blob, int(size))
            for head, path in entries
            for _mode, kind, blob, size in [head.split()]
            # Of an object that is missing, Git does not know the size.
            if kind == 'blob' and size.isdecimal()
        }


def _git(repository: Path, *arguments: str) -> str:
    return subprocess.run(
        ['git', '-C', str(repository), *arguments],
        capture_output=True,
        check=True,
        text=True,
        errors='surrogateescape',
    ).stdout


if __name__ == '__main__':
    main()
