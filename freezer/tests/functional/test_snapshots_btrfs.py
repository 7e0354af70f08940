"""Snapshots of btrfs, on a file system in a file."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.tests import trees
from freezer.tests.agent import Agent, assert_restores, iso, job_file, missed, run
from freezer.tests.commands import run_command
from freezer.tests.machine import file_system, mounted
from freezer.tests.steps import Steps

PROGRAMS = ('btrfs', 'mount', 'tar', 'umount')


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    with file_system('btrfs', tmp_path) as place:
        yield place


@pytest.fixture
def srv(top: Path, tmp_path: Path) -> Iterator[Path]:
    """A subvolume with files, mounted by itself."""
    subvolume(top / '@srv')
    (tmp_path / 'srv').mkdir()
    device = run_command('findmnt', '-no', 'SOURCE', top, check=True).stdout.strip()
    with mounted(device, tmp_path / 'srv', '-o', 'subvol=@srv') as place:
        (place / 'd').mkdir()
        (place / 'd' / 'file').write_text('before')
        yield place


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path / 'programs', PROGRAMS)


@pytest.fixture
def snapping(local: Agent, steps: Steps) -> Agent:
    return local.told('--snapshot', 'btrfs', **steps.env)


def subvolume(path: Path) -> None:
    run_command('btrfs', 'subvolume', 'create', path, check=True)


def left(top: Path) -> list[str]:
    """Snapshots, and mounts of this file system for them."""
    columns = ('--list', '--noheadings', '--nofsroot', '--output', 'TARGET,SOURCE')
    found = run_command('findmnt', *columns, check=True).stdout.splitlines()
    ours = run_command('findmnt', '-vno', 'SOURCE', top, check=True).stdout.strip()
    mounts = [line for line in found if '/run/freezer' in line and ours in line]
    return [name for name in os.listdir(top) if name[0] == '.'] + mounts


def test_levels(
    snapping: Agent, steps: Steps, top: Path, srv: Path, tmp_path: Path
) -> None:
    """What changes after a snapshot is in the next level."""
    states = []
    for level in (0, 1, 2):
        steps.at('btrfs.after', f'echo {level} >{srv}/d/file; echo >{srv}/d/{level}')
        before = trees.describe(srv)
        made = snapping.increment(srv).check()
        steps.wait('btrfs.after')
        assert made.document['curr_backup_level'] == level
        assert made.document['warnings'] == 0
        assert f'Backed up {srv} as level {level}' in made.err
        assert left(top) == []
        states.append((made.document['time_stamp'], before))
    for date, state in states:
        target = tmp_path / f'target-{date}'
        snapping.restore(target, '--restore-from-date', iso(date)).check()
        assert missed(state, target) == []
    assert (target / 'd' / 'file').read_text() == '1\n'


def test_what_is_not_in_the_snapshot(
    snapping: Agent, srv: Path, tmp_path: Path
) -> None:
    subvolume(srv / 'd' / 'nes ted')
    subvolume(srv / 'elsewhere')
    (srv / 'd' / 'nes ted' / 'file').write_text('lost?')
    (srv / 'd' / 'other').mkdir()
    with mounted('none', srv / 'd' / 'other', '-t', 'tmpfs'):
        made = snapping.backup(srv / 'd').check()
        for name in ('nes ted', 'other'):
            line = f'Warning: {srv}/d/{name} is another file system, which is not in'
            assert made.err.count(line) == 1
        assert made.document['warnings'] == 2, made.err
        for options in (
            ('--one-file-system',),
            ('--exclude', 'nes ted', '--exclude', f'{srv}/d/other/*'),
        ):
            accepted = snapping.backup(srv / 'd', *options).check()
            assert accepted.document['warnings'] == 0
        refused = snapping.backup(srv / 'd', '--cross-mounts')
        assert 'omit --cross-mounts, and make another backup' in refused.error
    target = tmp_path / 'target'
    snapping.restore(target).check()
    assert (target / 'file').read_text() == 'before'


def test_several_paths(
    snapping: Agent, steps: Steps, top: Path, srv: Path, tmp_path: Path
) -> None:
    """Of one file system. The chain is that of backups without a snapshot."""
    (srv / 'one').write_text('one')
    told = snapping.told('--incremental', '--metadata-out', '-')
    paths = ('--path-to-backup', srv / 'd', '--path-to-backup', srv / 'one')
    for level, kind in enumerate(('btrfs', 'none', 'auto')):
        if kind != 'none':
            steps.at('tar.before', f'rm {srv}/one')
        before = trees.describe(srv)
        made = told.run('backup', *paths, '--snapshot', kind).check()
        assert made.document['curr_backup_level'] == level
        (srv / 'one').write_text('one')
    assert_restores(snapping, before, tmp_path / 'target')
    subvolume(srv / 'nested')
    for other in (srv / 'nested', tmp_path):
        refused = told.run('backup', *paths, '--path-to-backup', other)
        assert 'are on different file systems: make a backup for' in refused.only_error
    with mounted(top / '@srv' / 'd', srv / 'one-more', '--bind') as bound:
        listed = tmp_path / 'list'
        listed.write_text(f'{bound}/file\none\n')
        given = ('--path-to-backup', srv, '--files-from', listed)
        assert 'one-more/file' in told.run('backup', *given).error
        # The directory that the mount hides is in the snapshot.
        with mounted(top / '@srv', tmp_path / 'plain', '--bind') as plain:
            (plain / 'one-more' / 'file').write_text('hidden')
        several = (*paths, '--path-to-backup', bound / 'file')
        for options in (given, several):
            refused = told.run('backup', *options)
            assert f'{bound} is another file system, which is not in' in refused.error
    assert left(top) == []


def test_links_and_bind_mounts(
    snapping: Agent, top: Path, srv: Path, tmp_path: Path
) -> None:
    (tmp_path / 'link').symlink_to(srv / 'd')
    with mounted(srv / 'd', tmp_path / 'bound', '--bind') as bound:
        refused = snapping.backup(bound).only_error
        assert f'only a directory of the subvolume is mounted, at {bound}' in refused
    (tmp_path / 'bound-file').touch()
    with mounted(srv / 'd' / 'file', tmp_path / 'bound-file', '--bind') as bound:
        refused = snapping.backup(bound).only_error
        assert f'{bound}: a single file is mounted there: give' in refused
    with mounted(top / '@srv', tmp_path / 'line\nbreak', '--bind') as bound:
        snapping.backup(bound / 'd').check()
    snapping.backup(tmp_path / 'link').check()
    assert_restores(snapping, srv / 'd', tmp_path / 'one')
    for level in (0, 1):
        (srv / 'd' / 'file').write_text(str(level))
        made = snapping.increment(srv / 'd' / 'file').check()
        assert made.document['curr_backup_level'] == level
    snapping.restore(tmp_path / 'two').check()
    assert (tmp_path / 'two' / 'file').read_text() == '1'
    assert left(top) == []


@pytest.mark.parametrize(
    'step, name',
    [
        *(('btrfs.before', 'KILL'), ('btrfs.after', 'KILL'), ('tar.before', 'KILL')),
        *(('mount.after', 'KILL'), ('umount.after', 'KILL')),
        *(('btrfs.after', 'TERM'), ('tar.before', 'TERM'), ('umount.after', 'TERM')),
    ],
)
def test_killed(
    snapping: Agent,
    steps: Steps,
    top: Path,
    srv: Path,
    tmp_path: Path,
    step: str,
    name: str,
) -> None:
    steps.at(step, f'kill -{name} $PPID')
    made = snapping.backup(srv)
    assert made.code == -signal.Signals[f'SIG{name}'], made
    steps.wait(step)
    if name == 'TERM':
        assert left(top) == [] or 'cleaning up took longer' in made.err, made
    else:
        assert left(top) or step == 'umount.after', made
    assert snapping.store.markers() == []
    # Perhaps in the same second.
    again = snapping.told('--backup-name', 'again')
    again.backup(srv).check()
    assert left(top) == []
    assert_restores(again, srv, tmp_path / 'target')


def test_removed_meanwhile(snapping: Agent, steps: Steps, top: Path, srv: Path) -> None:
    """tar finds nothing wrong with files that are gone."""
    gone = f'btrfs subvolume delete {top}/.freezer-snapshot-* >/dev/null'
    steps.at('tar.after', gone)
    error = snapping.backup(srv).error
    assert 'was unmounted or removed while it was read' in error
    assert snapping.store.is_untouched()
    assert left(top) == []


def test_a_link_in_the_place_of_a_leftover(
    snapping: Agent, top: Path, srv: Path
) -> None:
    """The program would delete the subvolume that it leads to."""
    name = f'.freezer-snapshot-{"0" * 8}-0000_1_1_1_00'
    subvolume(top / 'precious')
    (top / name).symlink_to('precious')
    assert f'the snapshot {name}: ' in snapping.backup(srv).error
    assert (top / 'precious').exists()
    (top / name).unlink()
    (top / name).mkdir()
    assert f'the snapshot {name}: not a subvolume' in snapping.backup(srv).error
    (top / name).rmdir()
    snapping.backup(srv).check()


def test_a_job_of_freezer_19(
    local: Agent, steps: Steps, srv: Path, tmp_path: Path
) -> None:
    """Any text is a request; forms carry the defaults of options for LVM."""
    options = {
        'action': 'backup',
        'mode': 'fs',
        'snapshot': True,
        'lvm_snapsize': '1G',
        'lvm_snapperm': 'ro',
        'lvm_srcvol': None,
        'path_to_backup': srv,
    }
    job = job_file(tmp_path / 'job', {'job': options})
    before = trees.describe(srv)
    steps.at('tar.before', f'rm -r {srv}/d')
    run('--config', job, *local.options, env={**local.env, **steps.env}).check()
    assert_restores(local, before, tmp_path / 'target')


def test_refusals(local: Agent, srv: Path, tmp_path: Path) -> None:
    for kind, problem in (
        ('btrfs', f'--snapshot btrfs {tmp_path}: it is on '),
        ('lvm', 'which is no volume of LVM'),
        ('auto', f'--snapshot auto: none can be made of {tmp_path} (btrfs: it is on '),
    ):
        refused = local.backup(tmp_path, '--snapshot', kind)
        assert problem in refused.only_error
    assert 'there is --snapshot btrfs' in local.backup(srv, '--snapshot', 'lvm').error
    missing = local.backup(srv / 'missing', '--snapshot', 'auto')
    assert f'path-to-backup {srv}/missing: No such file' in missing.only_error
    assert local.store.is_untouched()


def test_a_dry_run_makes_no_snapshot(snapping: Agent, srv: Path, top: Path) -> None:
    made = snapping.backup(srv, '--dry-run').check()
    assert 'Would back up' in made.err
    assert left(top) == []
    assert snapping.store.is_untouched()
