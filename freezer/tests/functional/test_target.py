"""What a restore does to a target that is not empty: what it announced, and no more."""

import dataclasses
import os
import random
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from freezer.engine.engine import TargetPlan
from freezer.engine.settings import EngineSettings
from freezer.engine.tar import snapshot
from freezer.engine.tar.options import OPTIONS
from freezer.exceptions import RestoreError
from freezer.job import INCOMPLETE
from freezer.storage.levels import LevelPolicy
from freezer.storage.local.storage import LocalStorage
from freezer.tests import machine, trees
from freezer.tests.agent import Agent, LocalStore, missed, private, wrap_tar
from freezer.tests.deep import inside, just_below, make_deep
from freezer.tests.engines import EngineAgent
from freezer.tests.handmade import remove_indexes
from freezer.tests.mounts import mounting
from freezer.utils import tree

MARGIN = 20_000_000


@dataclasses.dataclass
class World:
    """A source, and a chain of its levels.

    :ivar indexed: whether the levels keep their indexes
    """

    folder: Path
    indexed: bool = True

    def __post_init__(self) -> None:
        self.source = self.folder / 'source'
        self.target = self.folder / 'target'
        self.storage = LocalStorage(str(self.folder / 'storage'), 32 * 2**20)
        self._levels = 0

    def agent(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Any:
        options = OPTIONS.defaults() | {'exclude': list(exclude)}
        settings = EngineSettings(
            compression='none', include=tuple(include), options=options
        )
        return EngineAgent(self.storage, settings)

    def backup(self, exclude: Sequence[str] = ()) -> None:
        time.sleep(2 * MARGIN / 10**9)  # the kernel's tick, not a race of ours
        now = int(time.time()) + self._levels
        agent = self.agent(exclude=exclude)
        plan = agent.plan('host_name', LevelPolicy(incremental=True), now)
        assert agent.backup(self.source, plan, now).level == self._levels
        self._levels += 1
        if not self.indexed and self._levels == 1:
            remove_indexes(LocalStore(self.folder / 'storage'))

    def restore(
        self, *include: str, keep_extra: bool = False
    ) -> tuple[TargetPlan | None, list[str]]:
        """Restore the newest state; the plan, and the warnings."""
        agent = self.agent(include)
        chain = agent.open(agent.state('host_name'))
        plan = chain.plan(str(self.target), keep_extra)
        return plan, chain.restore(str(self.target), plan).kept


@pytest.fixture(params=[True, False], ids=['indexed', 'without-index'])
def world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> World:
    monkeypatch.setattr(snapshot, 'MARGIN_NANOSECONDS', MARGIN)
    made = World(tmp_path, request.param)
    made.source.mkdir()
    made.target.mkdir()
    return made


def write(top: Path, *paths: str, content: str = '') -> None:
    """Files, and for paths that end in a slash directories."""
    for path in paths:
        if path.endswith('/'):
            (top / path).mkdir(parents=True, exist_ok=True)
        else:
            (top / path).parent.mkdir(parents=True, exist_ok=True)
            (top / path).write_text(content)


def below(paths: Iterable[bytes], tops: Iterable[bytes]) -> set[bytes]:
    """Of these paths, those that are one of the others or below it."""
    chosen = set(tops)
    found = set()
    for path in paths:
        parts = path.split(b'/')
        if any(b'/'.join(parts[: n + 1]) in chosen for n in range(len(parts))):
            found.add(path)
    return found


# What is announced is what happens


@pytest.mark.parametrize('seed', range(16))
def test_announced_is_removed(seed: int, world: World, tmp_path: Path) -> None:
    chance = random.Random(seed)
    trees.make_tree(world.source, seed, files=30, size=5000)
    excluded: list[str] = []
    old = chance.randrange(3)
    for level in range(3):
        if level:
            trees.mutate_tree(world.source, seed * 10 + level, size=5000)
        if chance.random() < 0.5:
            names = [os.fsdecode(p) for p, _ in trees.walk(world.source)]
            chosen = chance.choice(names)
            excluded.append(
                './' + chosen.translate({ord(c): f'\\{c}' for c in '\\*?['})
            )
        world.backup(excluded)
        if level == old:
            copy = ['cp', '-a', f'{world.source}/.', str(world.target)]
            subprocess.run(copy, check=True)
    if chance.random() < 0.5:
        trees.make_tree(world.target / 'other', seed + 1, files=10, size=5000)
    trees.mutate_tree(world.target, seed + 2, size=5000)
    include: list[str] = []
    if chance.random() < 0.4:
        tops = [p for p in os.listdir(world.source) if '[' not in p and '*' not in p]
        include = [chance.choice(sorted(tops))]
    before = trees.describe(world.target)
    state = {p for p, e in trees.describe(world.source).items() if e.kind == 'socket'}
    agent = world.agent(include)
    try:
        chain = agent.open(agent.state('host_name'))
        plan = chain.plan(str(world.target))
        assert missed(before, world.target) == []
        chain.restore(str(world.target), plan)
    except RestoreError:
        # It is excluded; or a directory is in the place of the file that is selected.
        if not include:
            raise
        return
    after = trees.describe(world.target)
    removed = before.keys() - after.keys() - state
    announced = below(before, plan.removed) if plan else set()
    assert removed == announced
    # Each is named once.
    assert plan is None or below(plan.removed, plan.removed) == set(plan.removed)


def test_empty_backup_announces_all(world: World) -> None:
    world.backup()
    write(world.target, 'a', 'd/b')
    plan, _ = world.restore()
    assert plan == TargetPlan(removed=(b'a', b'd'))
    assert os.listdir(world.target) == []


def test_excluded_only_since_it_was_stored(world: World) -> None:
    """Level 0 has no cache, level 1 excludes one: tar alone would remove it."""
    write(world.source, 'a')
    world.backup()
    write(world.source, 'cache/mine')
    world.backup(['./cache'])
    write(world.target, 'cache/other', 'extra')
    plan, _ = world.restore()
    assert plan == TargetPlan(removed=(b'extra',))
    assert (world.target / 'cache' / 'other').exists()


def test_excluded_after_it_was_stored(world: World) -> None:
    """The older level's list counts."""
    write(world.source, 'cache/stored', 'cache/f')
    world.backup()
    world.backup(['./cache'])
    write(world.target, 'cache/other', 'cache/f/x')
    plan, _ = world.restore()
    assert plan == TargetPlan(
        removed=(b'cache/f/x', b'cache/other'), replaced=(b'cache/f',)
    )
    assert sorted(os.listdir(world.target / 'cache')) == ['f', 'stored']
    assert (world.target / 'cache' / 'f').is_file()


def test_damaged_data_removes_nothing(world: World) -> None:
    """Not before the first bytes of the backup have arrived."""
    write(world.source, 'a')
    world.backup()
    (data,) = (world.folder / 'storage').rglob('0_*/data')
    data.write_bytes(b'x' * data.stat().st_size)
    write(world.target, 'mine')
    with pytest.raises(Exception, match='data'):
        world.restore()
    assert os.listdir(world.target) == ['mine']


# Mounted file systems


@pytest.mark.root
@pytest.mark.parametrize('include', [(), ('mnt',)], ids=['whole', 'part'])
@pytest.mark.parametrize('kind', ['tmpfs', 'bind', 'subvolume'])
def test_mounted_file_systems_are_not_emptied(
    world: World, kind: str, include: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == 'subvolume':
        # Those of btrfs have a device number of their own, and are not listed.
        monkeypatch.setattr(tree, 'mount_points', lambda top: set())
    write(world.source, 'mnt/usb/', 'mnt/a')
    os.utime(world.source / 'mnt' / 'usb', (1, 1))
    world.backup()
    write(world.target, 'mnt/usb/', 'mnt/extra/deep/here/', 'mnt/extra/gone')
    write(world.folder / 'elsewhere', 'mine')
    with mounting() as mount:
        for path in ('mnt/usb', 'mnt/extra/deep/here'):
            if kind == 'bind':
                mount('--bind', world.folder / 'elsewhere', world.target / path)
            else:
                mount('-t', 'tmpfs', 'none', world.target / path)
            write(world.target, f'{path}/mine', content='precious')
        before = trees.describe(world.target / 'mnt' / 'usb')
        plan, warnings = world.restore(*include)
        assert plan is not None
        assert plan.removed == (b'mnt/extra/gone',)
        assert plan.mounts == (b'mnt/extra/deep/here', b'mnt/usb')
        assert plan.untouched == set(plan.mounts)
        assert [w for w in warnings if 'mnt/usb' in w and 'nothing is removed' in w]
        # Not even the attributes of the mount point change.
        assert trees.describe(world.target / 'mnt' / 'usb') == before
        assert os.listdir(world.target / 'mnt' / 'extra' / 'deep' / 'here') == ['mine']
        assert not (world.target / 'mnt' / 'extra' / 'gone').exists()


@pytest.mark.root
def test_backup_is_restored_into_a_mounted_file_system(world: World) -> None:
    """And what an older level had there does not replace what is there."""
    write(world.source, 'mnt/old', 'mnt/file', content='backup')
    world.backup()
    (world.source / 'mnt' / 'old').unlink()
    world.backup()
    write(world.target, 'mnt/')
    with mounting() as mount:
        mount('-t', 'tmpfs', 'none', world.target / 'mnt')
        write(world.target, 'mnt/old', 'mnt/file', 'mnt/d/x', content='mine')
        plan, _ = world.restore()
        assert plan == TargetPlan(mounts=(b'mnt',))
        found = {
            path.name: path.read_text()
            for path in (world.target / 'mnt').rglob('*')
            if path.is_file()
        }
    assert found == {'old': 'mine', 'file': 'backup', 'x': 'mine'}


@pytest.mark.root
def test_mount_point_in_the_place_of_a_file(world: World) -> None:
    write(world.source, 'a', 'b')
    world.backup()
    write(world.target, 'a', 'b/below/', 'extra', content='mine')
    with mounting() as mount:
        mount('--bind', world.target / 'a', world.target / 'a')
        mount('-t', 'tmpfs', 'none', world.target / 'b' / 'below')
        before = trees.describe(world.target)
        with pytest.raises(RestoreError, match=r'a is a mount point.*b holds a mount'):
            world.restore()
        assert trees.describe(world.target) == before


# --keep-extra


def test_keep_extra(world: World) -> None:
    write(world.source, 'old', 'd/a', 'd/b', content='backup')
    world.backup()
    (world.source / 'old').unlink()
    (world.source / 'd' / 'b').unlink()
    world.backup()
    write(world.target, 'old', 'mine', 'd/a', 'd/b', 'd/e/f', content='mine')
    plan, warnings = world.restore(keep_extra=True)
    assert plan == TargetPlan()
    assert warnings == []
    found = {
        str(path.relative_to(world.target)): path.read_text()
        for path in world.target.rglob('*')
        if path.is_file()
    }
    # An older level's "old" and "d/b" are not restored over those of the target.
    assert found == {
        'old': 'mine',
        'mine': 'mine',
        'd/a': 'backup',
        'd/b': 'mine',
        'd/e/f': 'mine',
    }


@pytest.mark.parametrize('include', [(), ('d',)])
def test_keep_extra_does_not_replace_another_kind(
    world: World, include: tuple[str, ...]
) -> None:
    write(world.source, 'd/file', 'd/folder/x')
    world.backup()
    write(world.target, 'd/file/mine', 'd/folder', 'other')
    before = trees.describe(world.target)
    with pytest.raises(RestoreError) as caught:
        world.restore(*include, keep_extra=True)
    for name in ('d/file is a directory', 'd/folder is not a directory'):
        assert name in str(caught.value)
    assert trees.describe(world.target) == before


def test_attributes_of_the_target_itself(world: World) -> None:
    write(world.source, 'a')
    world.source.chmod(0o750)
    os.utime(world.source, (10**9, 10**9))
    state = trees.describe(world.source)
    world.backup()
    write(world.target, 'extra')
    world.restore()
    assert missed(state, world.target) == []


# Paths that are too long


def test_long_path_in_source_and_target(tmp_path: Path) -> None:
    """A path that is just short enough in the source is too long in the target."""
    world = World(tmp_path / 's')
    world.source.mkdir()
    names = just_below(world.source)
    make_deep(world.source, names, content=b'backup')
    world.backup()
    for include in ((), ('n*',), ('**/file',)):
        world.target = tmp_path / ('target of a longer name' + 'x' * len(str(include)))
        world.target.mkdir()
        for _ in range(2):
            # The second time over what the first has restored.
            plan, warnings = world.restore(*include)
            assert warnings == []
            assert not plan or plan == TargetPlan()
            with inside(world.target, names) as folder:
                file = os.open('file', os.O_RDONLY, dir_fd=folder)
                assert os.read(file, 100) == b'backup'
                os.close(file)
    with inside(world.target, names) as folder:
        os.mkdir('extra', dir_fd=folder)
    plan, _ = world.restore()
    assert plan == TargetPlan(removed=(b'/'.join([*names, b'extra']),))
    engine = world.agent().engine
    digests = {
        engine.checksum(engine.source([str(top)]))
        for top in (world.source, world.target)
    }
    assert len(digests) == 1


def test_deep_tree_in_the_target_is_removed(world: World) -> None:
    write(world.source, 'a')
    world.backup()
    make_deep(world.target / 'extra', [b'd' * 100] * 200)
    plan, _ = world.restore()
    assert plan == TargetPlan(removed=(b'extra',))
    assert os.listdir(world.target) == ['a']


# The command


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(LocalStore(tmp_path / 'store'))


@pytest.mark.parametrize('where', ['is', 'contains', 'is inside', 'link', 'bind'])
@pytest.mark.parametrize('option', ['--overwrite', '--keep-extra'])
def test_container_and_target(
    agent: Agent, tmp_path: Path, where: str, option: str
) -> None:
    source, store = tmp_path / 'source', tmp_path / 'store'
    write(source, 'a')
    agent.backup(source).check()
    (tmp_path / 'link').symlink_to(tmp_path)
    (tmp_path / 'bound').mkdir()
    target = {
        'is': store,
        'contains': tmp_path,
        'is inside': store / 'new' / 'one',
        'link': tmp_path / 'link',
        'bind': tmp_path / 'bound',
    }[where]
    before = agent.store.files()
    with mounting() as mount:
        if where == 'bind':
            mount('--bind', store, target)
        error = agent.restore(target, option).error
        assert str(target) in error
        assert f'container {store}' in error
    assert agent.store.files() == before


def test_files_of_the_run_are_not_removed(agent: Agent, tmp_path: Path) -> None:
    source, target = tmp_path / 'source', tmp_path / 'target'
    write(source, 'a')
    write(target, 'conf/', 'extra')
    agent.backup(source).check()
    job = private(target / 'conf' / 'job.conf', '[job]\naction = restore\n')
    log = target / 'log' / 'agent.log'
    log.parent.mkdir()
    for options, file in (
        (('--config', job), job),
        (('--log-file', log), log),
    ):
        before = sorted(target.rglob('*'))
        result = agent.restore(target, '--overwrite', *options)
        assert f'would remove {file}' in result.error
        assert set(target.rglob('*')) - {log} == set(before) - {log}
        agent.restore(target, '--keep-extra', *options).check()
    agent.restore(target, '--overwrite').check()
    assert os.listdir(target) == ['a']


def test_what_changed_while_it_was_read_is_not_removed(
    agent: Agent, tmp_path: Path
) -> None:
    """tar reports the directory and the file; the snapshot file forgets both."""
    source = tmp_path / 'source'
    write(source, 'd/cache/mine', 'd/f', 'log')
    message = 'file changed as we read it'
    script = (
        f'$TAR "$@"; code=$?; case "$*" in *--create*) '
        f'echo "tar: ./d: {message}" >&2; echo "tar: ./log: {message}" >&2; '
        f'exit 1;; esac; exit $code'
    )
    changing = agent.told(**wrap_tar(tmp_path / 'bin', script))
    changing.backup(source, '--exclude', './d/cache').check()
    write(source, 'extra', 'd/more')
    said = agent.restore(source, '--overwrite').check().err
    assert 'Removing 2 paths' in said
    assert sorted(os.listdir(source)) == ['d', 'log']
    assert sorted(os.listdir(source / 'd')) == ['cache', 'f']
    assert (source / 'd/cache/mine').exists()


def test_what_could_not_be_read_is_not_removed(agent: Agent, tmp_path: Path) -> None:
    source = tmp_path / 'source'
    write(source, 'a', 'broken', content='x')
    made = machine.with_broken(agent, 'broken').backup(source)
    assert made.code == INCOMPLETE
    write(source, 'extra')
    agent.restore(source, '--overwrite').check()
    assert sorted(os.listdir(source)) == ['a', 'broken']


def test_excluded_in_a_directory_that_is_excluded_later(world: World) -> None:
    write(world.source, 'cache/stored', 'cache/tmp/x', 'other')
    world.backup(['./cache/tmp', './other'])
    world.backup(['./cache'])
    (world.source / 'other').unlink()
    write(world.target, 'cache/tmp/mine', 'cache/extra', 'other')
    plan, _ = world.restore()
    assert plan is not None
    # It was in the source when level 1 was made, and level 1 has it.
    assert plan.removed == (b'cache/extra',)


@pytest.mark.parametrize('world', [True], indirect=True)
def test_the_plan_reads_no_snapshot_file(world: World) -> None:
    """The index has the whole state."""
    write(world.source, 'd/a')
    world.backup()
    world.backup()
    for state in (world.folder / 'storage').rglob('engine_metadata'):
        state.unlink()
    write(world.target, 'd/a/x', 'extra')
    plan, _ = world.restore()
    assert plan == TargetPlan(removed=(b'd/a/x', b'extra'), replaced=(b'd/a',))


def test_keep_extra_and_overwrite(agent: Agent, tmp_path: Path) -> None:
    source, target = tmp_path / 'source', tmp_path / 'target'
    write(source, 'a')
    agent.backup(source).check()
    write(target, 'mine')
    assert '--keep-extra' in agent.restore(target).only_error
    both = agent.restore(target, '--keep-extra', '--overwrite')
    assert 'overwrite and keep-extra' in both.only_error
    said = agent.restore(target, '--keep-extra').check().err
    assert 'Remov' not in said
    assert sorted(os.listdir(target)) == ['a', 'mine']
    job = private(tmp_path / 'job', '[job]\nkeep_extra = true\n')
    agent.restore(target, '--config', job).check()
    assert sorted(os.listdir(target)) == ['a', 'mine']
