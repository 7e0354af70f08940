"""Changes that an increment once missed, with exit 0 and a good verify."""

import contextlib
import json
import mmap
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from freezer.job import INCOMPLETE
from freezer.tests import machine, trees
from freezer.tests.agent import Agent, iso, missed, wrap_tar

# Files that are older than this when a level begins once counted as unchanged.
MARGIN = 2.2


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / 'tree'
    path.mkdir()
    return path


@pytest.fixture(params=['here', 'ext4', 'xfs', 'btrfs'])
def tree_on(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory on each file system."""
    with contextlib.ExitStack() as opened:
        place = tmp_path
        if request.param != 'here':
            place = opened.enter_context(machine.file_system(request.param, tmp_path))
        (place / 'tree').mkdir()
        yield place / 'tree'


def level(agent: Agent, path: Path, *options: object) -> int:
    made: int = agent.increment(path, *options).check().document['curr_backup_level']
    return made


def assert_newest(agent: Agent, source: Path, target: Path) -> None:
    """All is well, and the newest level restores to what the source is."""
    agent.run('verify', '--verify-data').check()
    agent.restore(target).check()
    assert missed(trees.describe(source), target) == []


# The clock


@pytest.mark.parametrize('seconds', [30, 3600, -30, -3600])
def test_clock_apart_from_that_of_the_file_system(
    local: Agent, tree: Path, tmp_path: Path, seconds: int
) -> None:
    shifted = machine.with_clock(local, seconds)
    (tree / 'file').write_text('first')
    assert level(shifted, tree) == 0
    for number, content in enumerate(['second', 'third!'], 1):
        time.sleep(MARGIN)
        (tree / 'file').write_text(content)
        assert level(shifted, tree) == number
        assert_newest(local, tree, tmp_path / content)


def test_clock_that_was_ahead_and_is_set_right_after_a_level(
    local: Agent, tree: Path, tmp_path: Path
) -> None:
    (tree / 'file').write_text('first')
    level(machine.with_clock(local, 4), tree)
    (tree / 'file').write_text('second')
    # The time of the level has to be in the past.
    time.sleep(5)
    level(local, tree)
    assert_newest(local, tree, tmp_path / 'target')


@pytest.mark.parametrize('shifts', [(0, 3600), (3600, 0), (-3600, 3600), (3600, -3600)])
def test_clock_that_jumps_between_levels(
    local: Agent, tree: Path, tmp_path: Path, shifts: tuple[int, int]
) -> None:
    made = []
    for number, shift in enumerate((*shifts, *shifts)):
        (tree / 'file').write_text(str(number))
        result = machine.with_clock(local, shift).increment(tree).check()
        made.append((result.document['time_stamp'], trees.describe(tree)))
    for number, (date, state) in enumerate(made):
        dated = ('--restore-from-date', iso(date))
        local.restore(tmp_path / str(number), *dated).check()
        assert missed(state, tmp_path / str(number)) == []


# Snapshots and volumes


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    with machine.file_system('btrfs', tmp_path) as place:
        command = ('btrfs', '-q', 'subvolume', 'create', place / 'live')
        subprocess.run(command, check=True)
        yield place


def test_snapshot_that_is_older_than_the_backup(
    local: Agent, btrfs: Path, tmp_path: Path
) -> None:
    live = btrfs / 'live'
    (live / 'file').write_text('first')
    made = machine.snapshot(live, btrfs / 'one')
    (live / 'file').write_text('after the snapshot, before the backup')
    time.sleep(MARGIN + 1)
    assert level(local, made) == 0
    assert_newest(local, made, tmp_path / 'first')
    made = machine.snapshot(live, btrfs / 'two')
    level(local, made)
    assert_newest(local, made, tmp_path / 'second')


def test_volume_that_is_rolled_back(local: Agent, btrfs: Path, tmp_path: Path) -> None:
    live = btrfs / 'live'
    (live / 'file').write_text('first')
    kept = machine.snapshot(live, btrfs / 'kept')
    (live / 'file').write_text('second')
    time.sleep(MARGIN)
    place = tmp_path / 'place'
    for number, subvolume in enumerate((live, kept, live)):
        with machine.bound(subvolume, place):
            level(local, place)
            assert_newest(local, place, tmp_path / str(number))
        time.sleep(MARGIN)


def test_block_copy_mounted_in_place(local: Agent, tmp_path: Path) -> None:
    """The same inode numbers, and each copy has changed."""
    images = [machine.image('ext4', tmp_path / 'one')]
    place = tmp_path / 'place'
    with machine.loop(images[0], place):
        (place / 'file').write_text('common')
    images.append(tmp_path / 'two')
    shutil.copyfile(*images)
    for image, content in zip(images, ('first!', 'second'), strict=True):
        with machine.loop(image, place):
            (place / 'file').write_text(content)
    time.sleep(MARGIN)
    for number, image in enumerate((*images, *images)):
        with machine.loop(image, place):
            level(local, place)
            assert_newest(local, place, tmp_path / str(number))


# Links that are followed


def versions(tree: Path) -> tuple[Path, Path]:
    """Two files, both older than any level."""
    one, two = tree / 'v1', tree / 'v2'
    one.write_text('version 1')
    two.write_text('VERSION TWO')
    time.sleep(MARGIN)
    return one, two


@pytest.mark.parametrize('links', ['soft', 'all'])
def test_followed_link_leads_elsewhere(
    local: Agent, tree: Path, tmp_path: Path, links: str
) -> None:
    one, two = versions(tree)
    link = tree / 'current'
    followed = local.told('--dereference-symlink', links)
    for number, file in enumerate((one, two, one)):
        link.unlink(missing_ok=True)
        link.symlink_to(file.name)
        level(followed, tree)
        time.sleep(MARGIN)
        local.run('verify', '--verify-data').check()
        local.restore(tmp_path / str(number)).check()
        restored = tmp_path / str(number) / 'current'
        assert restored.read_text() == file.read_text()


def test_followed_link_that_is_backed_up_leads_elsewhere(
    local: Agent, tree: Path, tmp_path: Path
) -> None:
    files = versions(tree)
    link = tmp_path / 'link'
    followed = local.told('--dereference-symlink', 'soft')
    for file in files:
        link.unlink(missing_ok=True)
        link.symlink_to(file)
        level(followed, link)
        time.sleep(MARGIN)
        local.restore(tmp_path / file.name).check()
        assert (tmp_path / file.name / 'link').read_text() == file.read_text()


def test_followed_link_to_a_directory_leads_elsewhere(
    local: Agent, tree: Path, tmp_path: Path
) -> None:
    for name in ('one', 'two'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'file').write_text(name)
    time.sleep(MARGIN)
    followed = local.told('--dereference-symlink', 'soft')
    for name in ('one', 'two', 'one'):
        (tree / 'link').unlink(missing_ok=True)
        (tree / 'link').symlink_to(tmp_path / name)
        level(followed, tree)
        time.sleep(MARGIN)
        target = tmp_path / f'restored {time.monotonic_ns()}'
        local.restore(target).check()
        assert (target / 'link' / 'file').read_text() == name


# One directory under two names


def check_two_names(
    agent: Agent, source: Path, target: Path, names: tuple[str, str], *options: object
) -> None:
    """The backup is refused with both names, or restores with both directories.

    :param names: below the source; an empty one is the source itself
    """
    result = agent.increment(source, *options)
    if result.code:
        assert all((name or str(source)) in result.error for name in names), result
        return
    agent.run('verify', '--verify-data').check()
    whole, parts = target / 'whole', target / 'parts'
    agent.restore(whole).check()
    # The copies may be other names of the same files.
    expected = listed(source)
    assert listed(whole) == expected
    for name in filter(None, names):
        agent.restore(parts / name, f'--include={name}').check()
        assert listed(parts / name / name) == listed(source / name)


def listed(folder: Path) -> dict[str, str]:
    """Paths below a directory, links followed, and the contents of the files."""
    found = {}
    for path, folders, files in os.walk(folder, followlinks=True):
        for name in (*folders, *files):
            file = Path(path, name)
            content = file.read_text() if file.is_file() else 'directory'
            found[str(file.relative_to(folder))] = content
    return found


def test_directory_that_a_followed_link_leads_to(
    local: Agent, tree: Path, tmp_path: Path
) -> None:
    (tree / 'releases').mkdir()
    (tree / 'releases' / 'file').write_text('content')
    (tree / 'current').symlink_to('releases')
    names = ('releases', 'current')
    followed = ('--dereference-symlink', 'soft')
    check_two_names(local, tree, tmp_path, names, *followed)


def test_directory_that_is_bound_to_another(
    local: Agent, tree: Path, tmp_path: Path
) -> None:
    for name in ('original', 'bound'):
        (tree / name).mkdir()
    (tree / 'original' / 'file').write_text('content')
    with machine.bound(tree / 'original', tree / 'bound'):
        check_two_names(local, tree, tmp_path, ('original', 'bound'))


def test_tree_that_is_mounted_below_itself(
    local: Agent, tree: Path, tmp_path: Path
) -> None:
    (tree / 'etc').mkdir()
    (tree / 'etc' / 'file').write_text('content')
    (tree / 'mnt').mkdir()
    with machine.bound(tree, tree / 'mnt'):
        check_two_names(local, tree, tmp_path, ('', 'mnt'))


def test_second_name_in_an_increment(local: Agent, tree: Path, tmp_path: Path) -> None:
    (tree / 'old').mkdir()
    (tree / 'old' / 'file').write_text('content')
    followed = ('--dereference-symlink', 'soft')
    assert level(local, tree, *followed) == 0
    (tree / 'old').rename(tree / 'renamed')
    (tree / 'public').symlink_to('renamed')
    time.sleep(MARGIN)
    check_two_names(local, tree, tmp_path, ('renamed', 'public'), *followed)


# Files that the file system does not date


def test_exchanged_paths(local: Agent, tree_on: Path, tmp_path: Path) -> None:
    outside = tree_on.parent / 'outside'
    outside.write_text('outside the tree')
    for name in ('files', 'directories', 'alone'):
        (tree_on / name).mkdir()
        for number in ('one', 'two'):
            file = tree_on / name / number
            if name == 'directories':
                file.mkdir()
                file /= 'file'
            file.write_text(f'{name} {number}')
    time.sleep(MARGIN)
    assert level(local, tree_on) == 0
    for name in ('files', 'directories'):
        machine.exchange(tree_on / name / 'one', tree_on / name / 'two')
    machine.exchange(tree_on / 'alone' / 'one', outside)
    assert level(local, tree_on) == 1
    assert_newest(local, tree_on, tmp_path / 'target')


def test_bound_file_exchanged_for_an_older_one(
    local: Agent, tree: Path, tmp_path: Path
) -> None:
    outside = tmp_path / 'outside'
    outside.mkdir()
    files = versions(outside)
    (tree / 'file').touch()
    for file in files:
        with machine.bound(file, tree / 'file'):
            level(local, tree)
            time.sleep(MARGIN)
            assert_newest(local, tree, tmp_path / file.name)


def recreate(file: Path) -> None:
    file.unlink()
    file.write_text('SECOND')


CHANGES: dict[str, Callable[[Path], object]] = {
    'rewrite': lambda file: file.write_text('SECOND'),
    'recreate': recreate,
    'mode': lambda file: file.chmod(0o751),
    'attribute': lambda file: os.setxattr(file, 'user.note', b'kept'),
}


def test_changes_that_keep_size_and_modification_time(
    local: Agent, tree_on: Path, tmp_path: Path
) -> None:
    for name in CHANGES:
        (tree_on / name).write_text('first!')
    time.sleep(MARGIN)
    assert level(local, tree_on) == 0
    for name, change in CHANGES.items():
        file = tree_on / name
        times = file.stat()
        change(file)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert level(local, tree_on) == 1
    assert_newest(local, tree_on, tmp_path / 'target')


# Writes to a file through a mapping between the first line of input and the second,
# then once more, and so on.
_MAPPED_WRITER = """
import mmap, select, sys
with open(sys.argv[1], 'r+b') as file:
    mapped = mmap.mmap(file.fileno(), 0)
number = 0
while sys.stdin.readline():
    while not select.select([sys.stdin], [], [], 0.001)[0]:
        number += 1
        mapped[:8] = b'%08d' % number
    mapped[:8] = b'last' + sys.stdin.readline()[:4].encode()
    print('written', flush=True)
"""


def test_mapped_file_that_is_written_without_new_times(
    local: Agent, tmp_path: Path
) -> None:
    """A page is dated when it is first written to, and not again before the kernel
    stores it: what is written after the backup has read it has no time of its own."""
    slow = local.told(**wrap_tar(tmp_path / 'bin', 'sleep 3; exec $TAR "$@"'))
    with contextlib.ExitStack() as opened:
        # Of its own: the kernel stores pages when others sync theirs.
        place = opened.enter_context(machine.file_system('ext4', tmp_path))
        file = place / 'file'
        file.write_bytes(bytes(mmap.PAGESIZE))
        writer = opened.enter_context(
            subprocess.Popen(
                (sys.executable, '-c', _MAPPED_WRITER, file),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert writer.stdin is not None
        assert writer.stdout is not None
        for number in range(1000, 1004):
            print('begin', file=writer.stdin, flush=True)
            level(slow, place)
            ended = time.time()
            print(number, file=writer.stdin, flush=True)
            assert writer.stdout.readline() == 'written\n'
            time.sleep(MARGIN)
            level(local, place)
            assert file.read_bytes().startswith(b'last%d' % number)
            assert_newest(local, place, tmp_path / str(number))
            if ended - file.stat().st_ctime > MARGIN:
                break
        # In a round that goes on, the kernel has stored the page while tar waited.
        writer.stdin.close()


# A clone


def machine_ids(folder: Path) -> tuple[Path, Path]:
    made = folder / 'id of one', folder / 'id of two'
    for number, file in enumerate(made, 1):
        file.write_text(f'{number}' * 32 + '\n')
    return made


def check_clones(
    agents: tuple[Agent, Agent], trees_of: tuple[Path, Path], target: Path
) -> None:
    """Each of two machines begins a chain, and what each has backed up restores."""
    made = []
    for number in range(4):
        agent, tree = agents[number % 2], trees_of[number % 2]
        with contextlib.ExitStack() as opened:
            if tree.is_file():
                tree = opened.enter_context(machine.loop(tree, target / 'place'))
            if number > 1:
                (tree / 'file').write_text(f'{number}')
            document = agent.increment(tree).check().document
            made.append((document['time_stamp'], trees.describe(tree)))
            if number < 2:
                assert document['curr_backup_level'] == 0
        time.sleep(MARGIN)
    for number, (date, state) in enumerate(made):
        dated = ('--restore-from-date', iso(date))
        agents[0].restore(target / f'restored {number}', *dated).check()
        assert missed(state, target / f'restored {number}') == []


def test_second_machine_of_one_name_begins_a_chain(
    local: Agent, tmp_path: Path
) -> None:
    one, two = (machine.with_machine_id(local, f) for f in machine_ids(tmp_path))
    places = tmp_path / 'one', tmp_path / 'two'
    for place in places:
        place.mkdir()
        (place / 'file').write_text(place.name)
    time.sleep(MARGIN)
    check_clones((one, two), places, tmp_path)


def test_machine_from_a_copied_image_begins_a_chain(
    local: Agent, tmp_path: Path
) -> None:
    one, two = (machine.with_machine_id(local, f) for f in machine_ids(tmp_path))
    image = machine.image('ext4', tmp_path / 'image')
    with machine.loop(image, tmp_path / 'place') as place:
        (place / 'file').write_text('common')
        (place / 'host').write_text('one')
    copied = tmp_path / 'copied image'
    shutil.copyfile(image, copied)
    with machine.loop(copied, place):
        (place / 'host').write_text('two')
    time.sleep(MARGIN)
    check_clones((one, two), (image, copied), tmp_path)


def test_same_machine_goes_on_with_its_chain(
    local: Agent, tree: Path, tmp_path: Path
) -> None:
    """That the machine ID is compared, and not only looked for."""
    one, _ = (machine.with_machine_id(local, f) for f in machine_ids(tmp_path))
    (tree / 'file').write_text('content')
    assert [level(one, tree) for _ in range(3)] == [0, 1, 2]


# Files that change their kind while tar reads


@pytest.mark.parametrize('back_at', ['', './z'])
@pytest.mark.parametrize('other', ['file', 'link'])
@pytest.mark.parametrize('first', [0, 1])
def test_file_and_directory_are_exchanged_after_tar_has_listed_them(
    local: Agent, tree: Path, tmp_path: Path, first: int, other: str, back_at: str
) -> None:
    for name in ('a', 'd/sub', 'elsewhere/sub', 'z'):
        (tree / name).mkdir(parents=True)
        (tree / name / 'inner').write_text(name)
    (tree / 'file').write_text('file')
    (tree / 'link').symlink_to('elsewhere')
    time.sleep(MARGIN)
    if first:
        level(local, tree)
    (tree / 'd/changed').write_text('second')
    (tree / 'file').write_text('changed')
    racing = machine.with_exchange(local, tree / 'd', tree / other, './a', back_at)
    result = racing.increment(tree)
    assert result.code == INCOMPLETE, result
    assert 'changed while it was read, and is not in the backup' in result.err
    local.run('verify', '--verify-data').check()
    target = tmp_path / 'incomplete'
    local.restore(target).check()
    rows = local.run('list', '--json').check().out.splitlines()
    listed = {json.loads(row)['path'].rstrip('/') for row in rows}
    assert listed == set(map(os.fsdecode, trees.describe(target))) - {'.'}
    assert level(local, tree) == first + 1
    assert_newest(local, tree, tmp_path / 'next')
