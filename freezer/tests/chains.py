"""Random chains of backups, with changes that increments may miss.

A chain makes a random tree, backs it up five times or more with changes in between, and
restores each level: as a whole, in part, and in place of another level. Each restore is
compared with what the tree was at that level. A seed decides everything but inode
numbers and times of the kernel.
"""

import base64
import dataclasses
import errno
import fnmatch
import json
import mmap
import os
import random
import re
import shutil
import stat
import subprocess
from collections.abc import Container, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import ClassVar

from freezer.tests import machine, trees
from freezer.tests.agent import Agent, LocalStore, iso, private
from freezer.tests.commands import run_command
from freezer.tests.functional.test_part import (
    Tree,
    is_below,
    parents_of,
    part_of,
    pattern,
    some_of,
)

#: How many chains the tests make.
COUNT = int(os.environ.get('FREEZER_TEST_CHAINS', '') or 14)

_LEVELS = (5, 5, 5, 6, 7)
_FILES = 40
_SIZE = 100_000

# Beside the tree: files that are older than any level, and what links lead to.
_OLDER = b'older'
_OUTSIDE = b'outside'

_EXCLUDABLE = (b'a.o', b'b.o', b'core', b'cache', b'notes.tmp')
_PATTERNS = ('*.o', 'core', 'cache', '*.tmp', 'a.?', '[bn]*.[ot]*')

_REPEATED = re.compile(r'((?:\\x..){2}|\\x..|.)\1{20,}')

# Seconds between two clocks, or between two levels of a clock that moves.
_SHIFTS = (1, 3, 30, 3600, 3 * 86400)


# Changes that keep times, sizes or inode numbers, or that the kernel dates late. Each
# returns what it did, or raises LookupError: see trees.Mutation.


def _beside(mutator: trees._Mutator, name: bytes) -> bytes:
    return os.path.join(os.path.dirname(mutator.root), name)


def _older(mutator: trees._Mutator) -> bytes:
    folder = _beside(mutator, _OLDER)
    return os.path.join(folder, mutator.rng.choice(sorted(os.listdir(folder))))


def _keep_times(path: bytes, status: os.stat_result) -> None:
    times = status.st_atime_ns, status.st_mtime_ns
    os.utime(path, ns=times, follow_symlinks=False)


def _rewrite(mutator: trees._Mutator, path: bytes, size: int) -> None:
    # Never the data that was there.
    with open(path, 'r+b') as file:
        file.truncate(0)
        file.write(mutator.rng.randbytes(size))


def rewrite_keeping_times(mutator: trees._Mutator) -> bytes:
    path = mutator.file()
    status = os.lstat(path)
    _rewrite(mutator, path, status.st_size)
    _keep_times(path, status)
    return path


def truncate_and_grow(mutator: trees._Mutator) -> bytes:
    path = mutator.file()
    size = os.lstat(path).st_size
    os.truncate(path, size // 2)
    os.truncate(path, size)
    return path


def write_through_a_mapping(mutator: trees._Mutator) -> bytes:
    path = mutator.file()
    status = os.lstat(path)
    if not status.st_size:
        raise LookupError
    with open(path, 'r+b') as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0] ^= 0x55
    return path


def replace_by_older(mutator: trees._Mutator) -> bytes:
    """Rename an older file over one."""
    path, older = mutator.file(), _older(mutator)
    os.rename(older, path)
    with open(older, 'xb') as file:
        file.write(b'in place of what was taken')
    return path


def copy_older(mutator: trees._Mutator) -> bytes:
    """As ``cp -p`` does: into the file that is there."""
    path, older = mutator.file(), _older(mutator)
    if os.path.samefile(path, older):
        raise LookupError
    shutil.copy2(older, path)
    return path


def link_older(mutator: trees._Mutator) -> bytes:
    """Make a name another name of an older file, which is not in the tree."""
    path = mutator.file()
    os.unlink(path)
    os.link(_older(mutator), path)
    return path


def recreate(mutator: trees._Mutator) -> bytes:
    """Delete a file and make another, likely with its inode number."""
    path = mutator.file()
    status = os.lstat(path)
    os.unlink(path)
    with open(path, 'xb'):
        pass
    _rewrite(mutator, path, status.st_size)
    os.chmod(path, stat.S_IMODE(status.st_mode))
    _keep_times(path, status)
    return path


def swap_contents(mutator: trees._Mutator) -> bytes:
    one, two = mutator.file(), mutator.file()
    if os.path.samefile(one, two):
        raise LookupError
    statuses = {path: os.lstat(path) for path in (one, two)}
    contents = []
    for path in (one, two):
        with open(path, 'rb') as file:
            contents.append(file.read())
    for path, content in zip((two, one), contents, strict=True):
        with open(path, 'r+b') as file:
            file.truncate(0)
            file.write(content)
        _keep_times(path, statuses[path])
    return one + b' <-> ' + two


def _exchange(mutator: trees._Mutator, one: bytes, two: bytes) -> bytes:
    if trees._within(one, two) or trees._within(two, one):
        raise LookupError
    for path, new in ((one, two), (two, one)):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            longest = max((len(below) for below, _ in trees.walk(path)), default=0)
            if len(new) + longest > trees.MAX_PATH:
                raise LookupError
    try:
        machine.exchange(one, two)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise LookupError from error
        raise
    return one + b' <-> ' + two


def exchange_anything(mutator: trees._Mutator) -> bytes:
    return _exchange(mutator, mutator.one(), mutator.one())


def exchange_files(mutator: trees._Mutator) -> bytes:
    return _exchange(mutator, mutator.file(), mutator.file())


def exchange_directories(mutator: trees._Mutator) -> bytes:
    return _exchange(mutator, *mutator.apart(2))


def exchange_with_older(mutator: trees._Mutator) -> bytes:
    return _exchange(mutator, mutator.file(), _older(mutator))


def rotate_files(mutator: trees._Mutator) -> bytes:
    one, two, three = (mutator.file() for _ in range(3))
    if len({one, two, three}) < 3:
        raise LookupError
    aside = mutator.name(mutator.root)
    for old, new in ((one, aside), (two, one), (three, two), (aside, three)):
        os.rename(old, new)
    return b' -> '.join((three, two, one, three))


def retarget_keeping_times(mutator: trees._Mutator) -> bytes:
    """Replace a link by one of the same length."""
    path = mutator.one(stat.S_IFLNK)
    status = os.lstat(path)
    target = b'?' * len(os.readlink(path))
    os.unlink(path)
    os.symlink(target, path)
    _keep_times(path, status)
    return path


def create_keeping_times(mutator: trees._Mutator) -> bytes:
    """Create a file in a directory whose times then are what they were."""
    folder = mutator.place()
    status = os.lstat(folder)
    path = mutator.name(folder)
    mutator.write(path)
    mutator.times(path)
    _keep_times(folder, status)
    return path


def delete_keeping_times(mutator: trees._Mutator) -> bytes:
    path = mutator.one()
    folder = os.path.dirname(path)
    status = os.lstat(folder)
    mutator.remove(path)
    _keep_times(folder, status)
    return path


def move_into_moved(mutator: trees._Mutator) -> bytes:
    """Move a directory into another, and that into a third."""
    one, two, three = mutator.apart(3)
    inner = mutator.name(two)
    mutator.move(one, inner)
    outer = mutator.name(three)
    mutator.move(two, outer)
    return b' -> '.join((one, two, three))


DECEPTIONS: tuple[trees.Mutation, ...] = (
    rewrite_keeping_times,
    truncate_and_grow,
    write_through_a_mapping,
    replace_by_older,
    copy_older,
    link_older,
    recreate,
    swap_contents,
    exchange_anything,
    exchange_files,
    exchange_directories,
    exchange_with_older,
    rotate_files,
    retarget_keeping_times,
    create_keeping_times,
    delete_keeping_times,
    move_into_moved,
)


# Changes of single variants


def create_excludable(mutator: trees._Mutator) -> bytes:
    """Create, move or delete a name that patterns of :class:`Excluding` match."""
    path = os.path.join(mutator.place(), mutator.rng.choice(_EXCLUDABLE))
    if os.path.lexists(path):
        if mutator.rng.random() < 0.5:
            mutator.remove(path)
        else:
            mutator.move(path, mutator.name(mutator.root))
    elif mutator.rng.random() < 0.3:
        mutator.populate(path)
        mutator.write(os.path.join(path, mutator.rng.choice(_EXCLUDABLE)))
    else:
        mutator.write(path)
    return path


def change_outside(mutator: trees._Mutator) -> bytes:
    """Change a file that links lead to, or replace it by an older one."""
    folder = _beside(mutator, _OUTSIDE)
    files = [
        path for path, status in trees.walk(folder) if stat.S_ISREG(status.st_mode)
    ]
    path = os.path.join(folder, mutator.rng.choice(files))
    status = os.lstat(path)
    if mutator.rng.random() < 0.5:
        os.rename(_older(mutator), path)
        with open(_beside(mutator, _OLDER + b'/%d' % status.st_ino), 'wb') as file:
            file.write(b'in place of what was taken')
    else:
        _rewrite(mutator, path, status.st_size)
        _keep_times(path, status)
    return path


def lead_elsewhere(mutator: trees._Mutator) -> bytes:
    """Let a link lead to another file outside, with the times the link had."""
    path = mutator.one(stat.S_IFLNK)
    status = os.lstat(path)
    os.unlink(path)
    target = b'files/%d' % mutator.rng.randrange(6)
    os.symlink(os.path.join(_beside(mutator, _OUTSIDE), target), path)
    _keep_times(path, status)
    return path


@dataclasses.dataclass(frozen=True)
class Level:
    """A level of a chain: when it was made, and what the tree was."""

    timestamp: int
    tree: Tree


class Chain:
    """A tree, and the levels that are made of it.

    With ``with``: mounted file systems are unmounted at the end.
    """

    mutations: tuple[trees.Mutation, ...] = trees.MUTATIONS + 2 * DECEPTIONS
    #: how the agent's clock may be, by chance
    clocks: ClassVar[tuple[str, ...]] = ('right', 'ahead', 'behind', 'moving')

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed = seed
        self.folder = folder
        self.rng = random.Random(f'{type(self).__name__} {seed}')
        self.clock = self.rng.choice(self.clocks)
        self.shift = 0
        self.levels: list[Level] = []
        #: what was done, for a failure
        self.story = [f'{type(self).__name__}, clock {self.clock}']
        self.opened = ExitStack()
        compression = self.rng.choice(('gzip', 'zstd', 'none'))
        store = LocalStore(folder / 'store')
        self.agent = Agent(store, options=('--compression', compression))

    def __enter__(self) -> 'Chain':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.opened.close()
        if isinstance(error, Exception):
            again = f'pytest -k "test_chain and {self.seed}-"'
            again = f'To repeat this chain: FREEZER_TEST_CHAINS={self.seed + 1} {again}'
            # Names of 255 letters are shortened.
            text = '\n'.join((*self.story, again))
            error.add_note(_REPEATED.sub(r'\1\1\1…', text))

    @property
    def home(self) -> Path:
        """Where the tree is, and what is beside it."""
        return self.folder

    @property
    def source(self) -> Path:
        return self.home / 'tree'

    # What variants change

    @property
    def targets(self) -> Path:
        """Where levels are restored."""
        return self.folder

    def options(self) -> tuple[object, ...]:
        """Options of the next backup."""
        return ()

    def settle(self) -> None:
        """Prepare the changed tree for the next backup."""

    def view(self) -> Path:
        """The directory to back up."""
        return self.source

    def expected(self, view: Path) -> Tree:
        """What a restore has to make."""
        return trees.describe(view)

    def comparable(self, tree: Tree, level: Level) -> Tree:
        """A restored tree without what may differ from what was backed up."""
        return tree

    # Making the levels

    def make(self) -> None:
        older = self.home / os.fsdecode(_OLDER)
        older.mkdir()
        for number in range(12):
            file = older / str(number)
            file.write_bytes(self.rng.randbytes(self.rng.randrange(20_000)))
            time = self.rng.choice(trees.MTIMES_NS)
            os.utime(file, ns=(time, time))
        trees.make_tree(self.source, self.seed, files=_FILES, size=_SIZE)
        for number in range(self.rng.choice(_LEVELS)):
            if number:
                self.change(number)
            self.settle()
            self.back_up()

    def change(self, number: int) -> None:
        seed = self.seed * 100 + number
        done = trees.mutate_tree(
            self.source, seed, size=_SIZE, mutations=self.mutations
        )
        self.story += [f'  {line}' for line in done]

    def back_up(self) -> int:
        """Make a backup; return its level."""
        view = self.view()
        expected = self.expected(view)
        options = self.options()
        result = self.clocked().increment(view, *options).check()
        document = result.document
        self.levels.append(Level(document['time_stamp'], expected))
        number: int = document['curr_backup_level']
        shown = ' '.join(map(str, options))
        clock = f', clock {self.shift:+} s' if self.shift else ''
        self.story.append(f'backup {len(self.levels)}: level {number}{clock} {shown}')
        return number

    def clocked(self) -> Agent:
        """The agent, with its clock of the next backup."""
        step = self.rng.choice(_SHIFTS)
        if self.clock == 'right':
            return self.agent
        if self.clock == 'moving':
            self.shift += self.rng.choice((-1, 1)) * step
        else:
            # A level each second or less often.
            start = self.shift or (step if self.clock == 'ahead' else -step - 10)
            self.shift = start + self.rng.choice((1, 1, 2))
        return machine.with_clock(self.agent, self.shift)

    # Restoring them

    def check(self) -> None:
        """Restore every level."""
        self.agent.run('verify', '--verify-data').check()
        order = list(range(len(self.levels)))
        self.rng.shuffle(order)
        target: Path | None = None
        for number in order:
            in_place = (
                target is not None and trees.is_root() and self.rng.random() < 0.5
            )
            if target is None or not in_place:
                target = self.targets / f'restored {number}'
            self.check_whole(number, target, in_place)
        for number in self.rng.sample(order, 2):
            self.check_part(number)

    def restore(self, number: int, target: Path, *options: object) -> Tree:
        date = iso(self.levels[number].timestamp)
        self.story.append(f'restore of {number + 1} to {target.name}: {options}')
        dated = ('--restore-from-date', date, *options)
        self.agent.restore(target, *dated).check()
        return trees.describe(target)

    def check_whole(self, number: int, target: Path, in_place: bool) -> None:
        level = self.levels[number]
        found = self.restore(number, target, *['--overwrite'] * in_place)
        _assert_same(level.tree, self.comparable(found, level))

    def check_part(self, number: int) -> None:
        level = self.levels[number]
        whole = level.tree
        tops = some_of(whole, self.rng)
        if not tops:
            return
        include = [f'--include={pattern(top)}' for top in tops]
        target = self.targets / f'part of {number}'
        found = self.restore(number, target, *include)
        found = self.comparable(found, level)
        del found[b'.']
        _assert_same(parents_of(whole, tops) | part_of(whole, tops), found)


def _assert_same(expected: Tree, found: Tree) -> None:
    lines = trees.differences(expected, found)
    assert not lines, '\n'.join(lines)


class Plain(Chain):
    """Increments of a tree, with a clock that is right."""

    clocks = ('right',)

    def back_up(self) -> int:
        number = super().back_up()
        assert number == len(self.levels) - 1
        return number


class Clock(Chain):
    """A clock that moves between the levels."""

    clocks = ('moving', 'ahead')


class Xfs(Chain):
    """On xfs, which does not date files that are exchanged."""

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        self._home = self.opened.enter_context(machine.file_system('xfs', folder))

    @property
    def home(self) -> Path:
        return self._home


class Snapshots(Chain):
    """Snapshots of btrfs, of a tree that goes on changing before they are read."""

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        self._file_system = folder / 'btrfs'
        self.opened.enter_context(machine.file_system('btrfs', folder))
        run_command('btrfs', 'subvolume', 'create', self.home, check=True)
        self._device = run_command(
            'findmnt', '-no', 'SOURCE', self._file_system, check=True
        ).stdout.strip()
        self._mounts = self.rng.random() < 0.5
        self._mounted = self.opened.enter_context(ExitStack())

    @property
    def home(self) -> Path:
        return self._file_system / 'live'

    @property
    def targets(self) -> Path:
        # ext4 cannot store all times that btrfs can.
        return self._file_system

    def view(self) -> Path:
        number = len(self.levels)
        made = machine.snapshot(self.home, self._file_system / f'snapshot {number}')
        self.story.append('snapshot')
        self.change(50 + number)
        self.settle()
        if not self._mounts:
            return made / 'tree'
        # At the same path each time.
        self._mounted.close()
        place = self.folder / 'mounted'
        option = f'subvol={made.name}'
        self._mounted.enter_context(machine.mounted(self._device, place, '-o', option))
        return place / 'tree'


class Following(Chain):
    """Links are followed, and lead elsewhere or to something else each time.

    A link that cannot be followed without storing something twice, or without end, is
    made to lead to a file outside the tree.
    """

    links = 'soft'
    mutations = Chain.mutations + 8 * (change_outside, lead_elsewhere)

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        # Of each level.
        self._followed: list[set[bytes]] = []

    def options(self) -> tuple[object, ...]:
        return '--dereference-symlink', self.links

    def make(self) -> None:
        outside = self.home / os.fsdecode(_OUTSIDE)
        for name in ('files', 'folder 0', 'folder 1', 'folder 2'):
            (outside / name).mkdir(parents=True)
            for number in range(6):
                content = self.rng.randbytes(self.rng.randrange(5000))
                (outside / name / str(number)).write_bytes(content)
        super().make()

    def settle(self) -> None:
        outside = self.home / os.fsdecode(_OUTSIDE)
        folders = [os.fsencode(outside / f'folder {number}') for number in range(3)]
        for name, status in list(trees.walk(self.source)):
            path = os.path.join(os.fsencode(self.source), name)
            if not stat.S_ISLNK(status.st_mode):
                continue
            real = os.path.realpath(path)
            if real in folders:
                folders.remove(real)
            elif not os.path.isfile(path):
                target = (
                    folders.pop()
                    if folders
                    else b'%s/files/%d'
                    % (
                        os.fsencode(outside),
                        self.rng.randrange(6),
                    )
                )
                os.unlink(path)
                os.symlink(target, path)

    def expected(self, view: Path) -> Tree:
        tree, followed = _follow(trees.describe(view), os.fsencode(view))
        self._followed.append(followed)
        return _unlinked(tree, followed)

    def comparable(self, tree: Tree, level: Level) -> Tree:
        # What a link leads to may come back as another name of a file, or as a copy.
        return _unlinked(tree, self._followed[self.levels.index(level)])


def _follow(tree: Tree, root: bytes) -> tuple[Tree, set[bytes]]:
    """A tree with files and directories in place of links, and the paths of these."""
    found: Tree = {}
    followed = set()
    for path, entry in tree.items():
        if entry.kind != 'symlink':
            found[path] = entry
            continue
        folder, name = os.path.split(os.path.realpath(os.path.join(root, path)))
        for below, seen in trees.describe(folder).items():
            if below == name or below.startswith(name + b'/'):
                found[path + below[len(name) :]] = seen
                followed.add(path + below[len(name) :])
    return found, followed


def _unlinked(tree: Tree, paths: Container[bytes]) -> Tree:
    """A tree in which these are no other names of anything."""
    changed = {}
    for path, entry in tree.items():
        links = tuple(link for link in entry.links if link not in paths)
        links = () if path in paths or len(links) < 2 else links
        changed[path] = dataclasses.replace(entry, links=links)
    return changed


class FollowingAll(Following):
    """Neither symbolic links nor hard links are kept."""

    links = 'all'

    def expected(self, view: Path) -> Tree:
        tree = super().expected(view)
        return _unlinked(tree, tree)


class Apart(Chain):
    """Each name of a file is stored as a file."""

    def options(self) -> tuple[object, ...]:
        return '--dereference-symlink', 'hard'

    def expected(self, view: Path) -> Tree:
        tree = super().expected(view)
        return _unlinked(tree, tree)


class Excluding(Chain):
    """Other patterns are excluded each time."""

    mutations = Chain.mutations + 12 * (create_excludable,)

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        # Of each level.
        self._patterns: list[Sequence[str]] = []

    def settle(self) -> None:
        self._patterns.append(self.rng.sample(_PATTERNS, self.rng.randrange(4)))

    def options(self) -> tuple[object, ...]:
        return tuple(
            word for text in self._patterns[-1] for word in ('--exclude', text)
        )

    def expected(self, view: Path) -> Tree:
        return _without(trees.describe(view), self._patterns[-1])

    def comparable(self, tree: Tree, level: Level) -> Tree:
        # A name that is excluded later stays as it was stored before, and one in a
        # directory that is restored in place stays as it is there.
        return _without(tree, self._patterns[self.levels.index(level)])


def _without(tree: Tree, patterns: Sequence[str]) -> Tree:
    """A tree without what is excluded."""
    texts = [os.fsencode(text) for text in patterns]

    def kept(path: bytes) -> bool:
        parts = path.split(b'/')
        # Wildcards match slashes, as in [bn]* for a file below a directory new.
        return not any(
            fnmatch.fnmatchcase(b'/'.join(parts[start:end]), text)
            for start in range(len(parts))
            for end in range(start + 1, len(parts) + 1)
            for text in texts
        )

    left = {path: entry for path, entry in tree.items() if path == b'.' or kept(path)}
    return _unlinked(left, tree.keys() - left.keys())


class Sealed(Chain):
    """Compressed and encrypted in each way."""

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        passphrase = private(folder / 'passphrase', 'correct horse battery staple')
        self.agent = self.agent.told(
            *('--compression', self.rng.choice(('gzip', 'zstd', 'bzip2', 'xz'))),
            *('--encryption', self.rng.choice(('age', 'openssl'))),
            *('--encrypt-pass-file', passphrase),
        )


class Policy(Chain):
    """Levels that begin anew, or stay at one."""

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        option = self.rng.choice(('--max-level', '--always-level'))
        self._policy = (option, self.rng.choice((1, 2, 3)))

    def options(self) -> tuple[object, ...]:
        return self._policy


class Several(Chain):
    """Several paths, of which some are added or taken away from level to level."""

    def __init__(self, seed: int, folder: Path) -> None:
        super().__init__(seed, folder)
        #: below the tree; none is in another
        self._paths: list[bytes] = []
        #: of each level, below their common parent
        self._tops: list[list[bytes]] = []

    def settle(self) -> None:
        tree = trees.describe(self.source)
        kept = [path for path in self._paths if path in tree]
        if kept and self.rng.random() < 0.2:
            kept.remove(self.rng.choice(kept))
        if not kept or self.rng.random() < 0.4:
            kept += some_of(tree, self.rng)
        others = (path for path in sorted(tree) if tree[path].kind != 'socket')
        while len(_outermost(kept)) < 2:
            kept.append(next(path for path in others if path != b'.'))
        self._paths = _outermost(kept)

    @property
    def _absolute(self) -> list[str]:
        return [os.path.join(self.source, os.fsdecode(path)) for path in self._paths]

    def view(self) -> Path:
        return Path(self._absolute[0])

    def options(self) -> tuple[object, ...]:
        return tuple(
            word for path in self._absolute[1:] for word in ('--path-to-backup', path)
        )

    def top(self) -> Path:
        """The directory that paths in the backup are relative to."""
        return Path(os.path.commonpath(self._absolute))

    def expected(self, view: Path) -> Tree:
        top = os.fsencode(os.path.join(self.top(), ''))
        paths = map(os.fsencode, self._absolute)
        tops = [path.removeprefix(top) for path in paths]
        self._tops.append(tops)
        tree = trees.describe(self.top())
        return {b'.': tree[b'.']} | parents_of(tree, tops) | part_of(tree, tops)

    def check(self) -> None:
        super().check()
        self._check_lists()
        self._check_with_tar(self.rng.randrange(len(self.levels)))
        # Rebuilt indexes, and none.
        store = self.folder / 'store'
        for index in store.glob('**/index'):
            index.unlink()
        number = self.rng.randrange(len(self.levels))
        self.check_whole(number, self.targets / f'without index {number}', False)
        other = self.rng.randrange(len(self.levels))
        self.check_whole(other, self.targets / f'without index {number}', True)
        self.agent.run('admin', '--rebuild-index').check()
        self._check_lists()

    def _check_lists(self) -> None:
        for level in self.levels:
            date = iso(level.timestamp)
            found = self.agent.run('list', '--json', '--restore-from-date', date)
            lines = found.check().out.splitlines()
            names = {_name(json.loads(line)) for line in lines}
            kept = (path for path, each in level.tree.items() if each.kind != 'socket')
            assert names == set(kept) - {b'.'}

    def _check_with_tar(self, number: int) -> None:
        """Extract a level as a person with nothing but tar does."""
        level = self.levels[number]
        target = self.targets / f'by tar {number}'
        target.mkdir()
        data = (self.folder / 'store' / 'data').glob('*/*/*/*_*/data')
        made = sorted(data, key=lambda path: int(path.parent.name.split('_')[1]))
        (last,) = (p for p in made if p.parent.name.endswith(f'_{level.timestamp}'))
        for path in made:
            if path.parent.parent == last.parent.parent:
                options = ('--listed-incremental=/dev/null', '-C', target)
                command = ('tar', '--extract', '--file', path, *options)
                subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            if path == last:
                break
        _assert_same(_contents(level.tree), _contents(trees.describe(target)))

    def check_whole(self, number: int, target: Path, in_place: bool) -> None:
        """What is beside the paths stays in the target."""
        if not in_place:
            super().check_whole(number, target, in_place)
            return
        level, tops = self.levels[number], self._tops[number]
        before = trees.describe(target)
        parents = parents_of(level.tree, tops)
        dated = ('--restore-from-date', iso(level.timestamp), '--overwrite')
        result = self.agent.restore(target, *dated)
        if any(path in before and before[path].kind != 'directory' for path in parents):
            assert 'nothing was changed' in result.error
            _assert_same(before, trees.describe(target))
            return
        result.check()
        found = trees.describe(target)
        _assert_same(part_of(level.tree, tops), part_of(found, tops))
        _assert_same(_apart_from(before, tops), _apart_from(found, tops))


def _name(listed: dict[str, str]) -> bytes:
    encoded = listed.get('path_base64')
    return base64.b64decode(encoded) if encoded else listed['path'].encode()


def _contents(tree: Tree) -> Tree:
    """A tree without attributes, of which the agent restores more than tar does."""
    return {
        path: dataclasses.replace(each, mode=0, uid=0, gid=0, mtime_ns=0, xattrs=())
        for path, each in tree.items()
    }


def _outermost(paths: Sequence[bytes]) -> list[bytes]:
    """Paths without those that are in others."""
    found = set(paths)
    return sorted(p for p in found if not is_below(p, found - {p}))


def _apart_from(tree: Tree, tops: Sequence[bytes]) -> Tree:
    """What is in a tree beside some paths, without the directories above these."""
    left = {path: e for path, e in tree.items() if not is_below(path, tops)}
    for path in (b'.', *parents_of(tree, tops)):
        left.pop(path, None)
    return _unlinked(left, tree.keys() - left.keys())


class Listed(Several):
    """Several paths in one directory, listed in a file."""

    def view(self) -> Path:
        return self.source

    def top(self) -> Path:
        return self.source

    def options(self) -> tuple[object, ...]:
        listed = self.folder / 'listed'
        paths = map(os.fsencode, self._absolute)
        lines = self.rng.choice((list(paths), self._paths))
        listed.write_bytes(b''.join(line + b'\0' for line in lines))
        return '--files-from0', listed


VARIANTS: tuple[type[Chain], ...] = (
    Plain,
    Clock,
    Snapshots,
    Xfs,
    Following,
    Excluding,
    Apart,
    Sealed,
    FollowingAll,
    Policy,
    Several,
    Listed,
)


def variant(seed: int) -> type[Chain]:
    """The kind of chain that a seed makes; each kind comes up in turn."""
    return VARIANTS[seed % len(VARIANTS)]
