"""Whether chains with tar's records of renames restore exactly.

    python -m benchmarks.rename_records [--chains 100]

Makes chains of four levels with random changes. The snapshot file of each level is
written so that tar records plain renames of directories (decision 0022), and lists a
file as unchanged if inode number, ctime, mtime and size are those of the level below,
under its old name. After each level, tar extracts it into the target of the levels
before, which is then compared with the source.
"""

import argparse
import contextlib
import os
import random
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from freezer.engine.tar import snapshot

_LEVELS = 4
_CHANGES = 8
# Longer than a tick of the clock of the file system.
_TICK = 0.012
_NAMES = 'abcdef'

#: path below the source -> status
Tree = Mapping[str, os.stat_result]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--chains', type=int, default=100)
    given = parser.parse_args()
    wrong = renames = 0
    for seed in range(given.chains):
        with tempfile.TemporaryDirectory() as name:
            found, restores = chain(Path(name), random.Random(seed))
        renames += found
        wrong += not restores
    print(f'{given.chains} chains, {renames} renames, {wrong} not restored')


def chain(scratch: Path, noise: random.Random) -> tuple[int, bool]:
    """The number of renames, and whether each level was restored."""
    source, target = scratch / 'source', scratch / 'target'
    for folder in ('a/c/e', 'b/d'):
        (source / folder).mkdir(parents=True)
        (source / folder / '1').write_text(folder)
    target.mkdir()
    count = 0
    base: Tree = {}
    for level in range(_LEVELS):
        if level:
            for _number in range(noise.randint(1, _CHANGES)):
                with contextlib.suppress(OSError):
                    noise.choice(_OPERATIONS)(source, noise)
        time.sleep(_TICK)
        now = walk(source)
        renamed = plain_renames(now, base)
        count += len(renamed)
        state, archive = scratch / 'state', scratch / f'{level}.tar'
        state.write_bytes(_snapshot(now, base, renamed, source) if level else b'')
        _tar('--create', f'--listed-incremental={state}', archive, source, '.')
        _tar('--extract', '--listed-incremental=/dev/null', archive, target)
        if _contents(target) != _contents(source):
            return count, False
        base = now
        time.sleep(_TICK)
    return count, True


def plain_renames(now: Tree, base: Tree) -> dict[str, str]:
    """New path -> old path of directories that were renamed, and whose renames can be
    made in any order."""
    known = {
        status.st_ino: path
        for path, status in base.items()
        if stat.S_ISDIR(status.st_mode)
    }
    found: dict[str, str] = {}
    for new, status in sorted(now.items()):
        old = known.get(status.st_ino)
        if not stat.S_ISDIR(status.st_mode) or new in base or old is None or old in now:
            continue
        if any(
            _related(one, other)
            for pair in found.items()
            for one in pair
            for other in (new, old)
        ):
            continue
        parent = os.path.dirname(new)
        while parent and parent not in base:
            parent = os.path.dirname(parent)
        if not parent or stat.S_ISDIR(base[parent].st_mode):
            found[new] = old
    return found


def _related(one: str, other: str) -> bool:
    """Whether a path is another one, or above or below it."""
    return f'{one}/'.startswith(f'{other}/') or f'{other}/'.startswith(f'{one}/')


def _snapshot(now: Tree, base: Tree, renamed: Mapping[str, str], source: Path) -> bytes:
    records = []
    folders = ['', *(path for path in now if stat.S_ISDIR(now[path].st_mode))]
    for folder in folders:
        entries = []
        for path in sorted(path for path in now if os.path.dirname(path) == folder):
            name = os.fsencode(os.path.basename(path))
            if stat.S_ISDIR(now[path].st_mode):
                entries.append(b'D' + name)
            elif _unchanged(now[path], base.get(_old_path(path, renamed))):
                entries.append(b'Y' + name)
        status = os.lstat(source / folder)
        old = renamed.get(folder)
        # tar looks for a directory only with its device number, too.
        device = status.st_dev if old is not None else 0
        head = [b'0', b'0', b'0', b'%d' % device, b'%d' % status.st_ino]
        place = folder if old is None else old
        record = os.fsencode(f'./{place}' if place else '.')
        records.append(snapshot.DirectoryRecord(head, record, entries))
    made = snapshot.Snapshot(b'GNU tar-1.34-2', snapshot.FUTURE, 0, records)
    return made.dump()


def _old_path(path: str, renamed: Mapping[str, str]) -> str:
    for new, old in renamed.items():
        if path.startswith(f'{new}/'):
            return old + path[len(new) :]
    return path


def _unchanged(status: os.stat_result, before: os.stat_result | None) -> bool:
    fields = ('st_ino', 'st_ctime_ns', 'st_mtime_ns', 'st_size', 'st_mode')
    return before is not None and all(
        getattr(status, field) == getattr(before, field) for field in fields
    )


def walk(source: Path) -> dict[str, os.stat_result]:
    return {str(path.relative_to(source)): path.lstat() for path in source.rglob('*')}


def _contents(folder: Path) -> dict[str, tuple[int, str | bytes]]:
    """Path -> mode, and contents or the target of a link."""
    found: dict[str, tuple[int, str | bytes]] = {}
    for path, status in walk(folder).items():
        full = folder / path
        content: str | bytes = b''
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(full)
        elif stat.S_ISREG(status.st_mode):
            content = full.read_bytes()
        found[path] = status.st_mode, content
    return found


def _tar(action: str, state: str, archive: Path, folder: Path, *names: str) -> None:
    # No error: the comparison shows the difference.
    subprocess.run(
        [
            *('tar', action, state, f'--file={archive}', f'--directory={folder}'),
            *('--format=posix', '--no-check-device', '--preserve-permissions', *names),
        ],
        check=False,
        capture_output=True,
    )


# Changes of the source. Those that are impossible raise OSError.


def _folder(source: Path, noise: random.Random) -> Path:
    return _one(source, noise, lambda path: path.is_dir())


def _file(source: Path, noise: random.Random) -> Path:
    return _one(source, noise, lambda path: path.is_file())


def _one(source: Path, noise: random.Random, wanted: Callable[[Path], bool]) -> Path:
    """One of the paths that are wanted, and are no links."""
    paths = sorted(source.rglob('*'))
    found = [path for path in paths if wanted(path) and not path.is_symlink()]
    if not found:
        raise FileNotFoundError
    return noise.choice(found)


def _place(source: Path, noise: random.Random) -> Path:
    folder = _folder(source, noise) if noise.random() < 0.8 else source
    return folder / noise.choice(_NAMES)


def _create(source: Path, noise: random.Random) -> None:
    _place(source, noise).with_suffix('.f').write_text(str(noise.random()))


def _change(source: Path, noise: random.Random) -> None:
    with _file(source, noise).open('a') as file:
        file.write('x')


def _remove(source: Path, noise: random.Random) -> None:
    _file(source, noise).unlink()


def _rename(source: Path, noise: random.Random) -> None:
    _folder(source, noise).rename(_place(source, noise))


def _swap(source: Path, noise: random.Random) -> None:
    one, other = _folder(source, noise), _folder(source, noise)
    if not _related(str(one), str(other)):
        one.rename(source / 'between')
        other.rename(one)
        (source / 'between').rename(other)


def _replace(source: Path, noise: random.Random) -> None:
    """The new directory may get the inode number of the old one."""
    folder = _folder(source, noise)
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / 'n').write_text('new')


def _to_file(source: Path, noise: random.Random) -> None:
    folder = _folder(source, noise)
    shutil.rmtree(folder)
    folder.write_text('file')


def _to_folder(source: Path, noise: random.Random) -> None:
    path = _file(source, noise)
    path.unlink()
    path.mkdir()
    (path / 'y').write_text('y')


def _symlink(source: Path, noise: random.Random) -> None:
    _place(source, noise).symlink_to(noise.choice(['a', 'b', '../a', '/tmp']))


def _make(source: Path, noise: random.Random) -> None:
    _place(source, noise).mkdir()


_OPERATIONS = [
    *(_create, _create, _change, _remove, _remove, _swap, _replace, _to_file),
    *(_to_folder, _symlink, _make, _rename, _rename, _rename, _rename, _rename),
]


if __name__ == '__main__':
    main()
