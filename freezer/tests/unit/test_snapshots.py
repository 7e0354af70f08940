"""Snapshots, where no file system is needed: options, marks, programs."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from freezer.exceptions import ConfigError, FreezerError
from freezer.job.source import at_rest, choose_snapshot
from freezer.mode.fs import FsMode
from freezer.snapshot import folder, mounts, programs
from freezer.snapshot.btrfs import BtrfsSnapshot
from freezer.snapshot.lvm import LvmSnapshot, SnapshotSize, Volume
from freezer.snapshot.lvm_options import OPTIONS
from freezer.snapshot.snapshot import Snapshot, SnapshotSettings
from freezer.tests.plugins.freezer_sqlite.snapshot import CopySnapshot
from freezer.utils import owner, signals

GIB = 1 << 30
VOLUME = Volume(
    *('vg0', 'srv', 'Ab-1', '/dev/vg0/srv', '253:0', 10 * GIB, []),
    *('', False, False, ''),
    *(5 * GIB, 20 * GIB, 4 << 20),
)


def lvm(**options: Any) -> LvmSnapshot:
    settings = SnapshotSettings({**OPTIONS.defaults(), **options})
    return LvmSnapshot.from_settings(settings)


@pytest.mark.parametrize(
    'text, arguments, needed',
    [
        ('1G', ('--size', '1G'), GIB),
        ('1g', ('--size', '1g'), GIB),
        ('1.5GiB', ('--size', '1.5G'), 3 * GIB // 2),
        ('512MB', ('--size', '512M'), GIB // 2),
        ('100', ('--size', '100m'), 100 << 20),
        ('2048s', ('--size', '2048s'), 1 << 20),
        ('4096b', ('--size', '4096b'), 4096),
        ('1T', ('--size', '1T'), 10 * GIB),
        ('80%FREE', ('--extents', '80%FREE'), 4 << 20),
        ('20%origin', ('--extents', '20%ORIGIN'), 2 * GIB),
        ('10%VG', ('--extents', '10%VG'), 2 * GIB),
    ],
)
def test_sizes(text: str, arguments: tuple[str, str], needed: int) -> None:
    size = SnapshotSize(text)
    assert size.arguments == arguments
    assert size.needed(VOLUME) == needed


@pytest.mark.parametrize(
    'text', ['', '0', '0G', '-1G', '5X', '80%', '5G;rm', 'G', '5 G']
)
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match='neither a size nor a percentage'):
        lvm(lvm_snapsize=text)


@pytest.mark.parametrize('name', ['-x', 'a b', 'a/b', 'ü', '$(x)'])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ConfigError, match='a volume cannot have this name'):
        lvm(lvm_snapname=name)


def test_marks() -> None:
    mark = owner.new_mark()
    assert owner.is_mark(mark)
    assert mark != owner.new_mark()
    assert not owner.is_abandoned(mark)
    code = 'from freezer.utils import owner; print(owner.new_mark())'
    ended = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert owner.is_abandoned(ended)
    prefix, boot = ended.rsplit('-', 5)[0], ended.split('_')[0]
    assert boot.startswith(prefix)
    # The process ID is used again after another start of the machine.
    other = '_'.join([f'{prefix}-0-0-0-0-0', *mark.split('_')[1:]])
    assert owner.is_abandoned(other)
    # Of another container, which may run.
    fields = ended.split('_')
    assert not owner.is_abandoned('_'.join([fields[0], '1', *fields[2:]]))
    for text in ('', 'freezer-snapshot-', 'lost+found', f'{ended}x'):
        assert not owner.is_abandoned(text)


def test_a_program_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / 'lvs'
    script.write_text('#!/bin/sh\necho "  No such volume" >&2; exit 5\n')
    script.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    with pytest.raises(programs.ProgramError, match=r'^lvs: No such volume$'):
        programs.run('lvs')
    script.write_text('#!/bin/sh\necho text\n')
    with pytest.raises(programs.ProgramError, match='prints no report in JSON'):
        programs.report('lvs', key='report')
    script.write_text('#!/bin/sh\necho "$SECRET_KEY$1$LVM_SYSTEM_DIR"\n')
    monkeypatch.setenv('SECRET_KEY', 'secret')
    monkeypatch.setenv('LVM_SYSTEM_DIR', '/lvm')
    assert programs.run('lvs', '$(id) ;') == '$(id) ;/lvm\n'


def test_a_signal_does_not_stop_a_program(tmp_path: Path) -> None:
    """It is waited for, and then the exception goes on."""
    done = tmp_path / 'done'
    code = (
        'import signal, os\n'
        'from freezer.snapshot import programs\n'
        'from freezer.utils import signals\n'
        'with signals.as_exceptions(lambda _: None):\n'
        '    try:\n'
        f'        programs.run("sh", "-c", "kill -TERM $PPID; sleep 1; touch {done}")\n'
        '    except signals.Interrupted:\n'
        f'        print(os.path.exists("{done}"))\n'
    )
    ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert ended.stdout == 'True\n', ended.stderr


def test_a_program_outlives_a_killed_agent(tmp_path: Path) -> None:
    """Also if it writes messages then."""
    done = tmp_path / 'done'
    script = f'kill -KILL $PPID; sleep 0.3; echo x; echo x >&2; touch {done}'
    code = (
        f'from freezer.snapshot import programs; programs.run("sh", "-c", "{script}")'
    )
    ended = subprocess.run([sys.executable, '-c', code], stderr=subprocess.PIPE)
    assert ended.returncode == -9, ended.stderr
    limit = time.monotonic() + 30
    while not done.exists():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.parametrize('snapshot', [lvm(), BtrfsSnapshot()], ids=['lvm', 'btrfs'])
def test_what_the_machine_lacks(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, 'geteuid', lambda: 1000)
    with pytest.raises(FreezerError, match='needs root: run the agent as root'):
        snapshot.validate(str(tmp_path))
    monkeypatch.setattr(os, 'geteuid', lambda: 0)
    monkeypatch.setattr(programs, '_FOLDERS', ())
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(FreezerError, match=r'needs the program \w+, which is not in'):
        snapshot.validate(str(tmp_path))


def test_a_folder_of_others(tmp_path: Path) -> None:
    """They could exchange what is mounted in it."""
    base = tmp_path / 'base'
    base.mkdir()
    base.chmod(0o777)
    private = folder.PrivateFolder(str(base), owner.new_mark())
    with pytest.raises(FreezerError, match='other users can write to it'):
        private.mount('root', 'tmpfs', 'none', 'ro')
    assert list(base.iterdir()) == []
    private.remove()


ABANDONED = 'freezer-snapshot-00000000-0000_1_1_1_00'


def test_a_link_in_the_place_of_an_abandoned_folder(tmp_path: Path) -> None:
    """Anyone can put one in /tmp."""
    base, other = tmp_path / 'base', tmp_path / 'other'
    (base / ABANDONED[:-2]).mkdir(parents=True)
    (base / f'{ABANDONED}0').mkdir()
    (other / 'empty').mkdir(parents=True)
    (base / ABANDONED).symlink_to(other)
    folder.remove_abandoned(str(base))
    assert (other / 'empty').exists()
    assert sorted(os.listdir(base)) == [ABANDONED[:-2], ABANDONED]


def test_an_interrupted_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interruptions = [signals.Interrupted(15)]

    def mounted() -> list[mounts.Mount]:
        if interruptions:
            raise interruptions.pop()
        return []

    monkeypatch.setattr(mounts, 'mounted', mounted)
    monkeypatch.setattr(programs, 'run', lambda *_argv: '')
    with pytest.raises(signals.Interrupted), folder.temporary(str(tmp_path)) as made:
        made.mount('top', 'btrfs', 'none', 'ro')
    assert interruptions == []
    assert os.listdir(tmp_path) == []


def test_where_a_path_is(tmp_path: Path) -> None:
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'link').symlink_to('folder')
    (tmp_path / 'dangling').symlink_to('nowhere')
    mounted = mounts.mounted()
    one = mounts.locate(str(tmp_path / 'folder'), mounted)
    assert mounts.locate(str(tmp_path / 'link'), mounted) == one
    other = mounts.locate(str(tmp_path / 'dangling'), mounted)
    assert other.path == os.path.realpath(tmp_path) + '/dangling'
    assert other.mount == one.mount
    with pytest.raises(FreezerError, match='No such file'):
        mounts.locate(str(tmp_path / 'missing'), mounted)
    virtual = mounts.locate('/', mounted)
    assert not {'proc', 'sys'}.intersection(mounts.below(virtual, mounted))


class Fitting(CopySnapshot):
    name = 'fitting'

    def path_problem(self, path: str) -> str | None:
        return None


def test_auto() -> None:
    copy, fitting = CopySnapshot(None), Fitting(None)
    assert choose_snapshot([copy], '/x') is copy
    assert choose_snapshot([copy, fitting], '/x') is fitting
    with pytest.raises(FreezerError, match='copy: it has to be chosen by name'):
        choose_snapshot([copy, copy], '/x')


class Full(CopySnapshot):
    def check(self) -> None:
        raise FreezerError('full')


def test_an_invalid_snapshot_explains_an_error(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    started = time.time_ns()
    with pytest.raises(FreezerError, match='full') as caught:
        with at_rest(FsMode(), Full(None), str(tmp_path / 'file')) as rest:
            raise FreezerError('tar failed')
    assert rest.taken >= started
    assert str(caught.value.__cause__) == 'tar failed'
