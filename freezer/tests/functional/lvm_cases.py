"""What ``test_snapshots_lvm.py`` runs under another kernel.

That is slow, so backups are restored outside.
"""

import contextlib
import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.snapshot.folder import BASE
from freezer.tests import pages, trees
from freezer.tests.agent import ROOT, Agent, LocalStore, job_file, run
from freezer.tests.commands import run_command
from freezer.tests.machine import mounted
from freezer.tests.steps import Steps

PAGE = ROOT / 'doc' / 'source' / 'user' / 'snapshots.rst'
GROUP = os.environ.get('FREEZER_TEST_VOLUME_GROUP', '')
#: gets for each test a store, and ``dates``: date -> what a restore makes, pickled
RESULTS = Path(os.environ.get('FREEZER_TEST_RESULTS', ''))
PROGRAMS = ('lvcreate', 'mount', 'tar', 'umount', 'lvremove')
# After the snapshot is made, before tar reads it: changes of all kinds.
CHANGES = """
echo later-{level} >{top}/changed
echo later-{level} >{top}/d/new-{level}
mv {top}/moved-{level} {top}/moved-{next}
rm {top}/removed-{level}
cp --preserve=timestamps {top}/old {top}/swapped.new
mv {top}/swapped.new {top}/swapped
rm -r {top}/gone-{level}
"""
FILL = 'dd if=/dev/urandom of={} bs=1M count=8 conv=fsync 2>/dev/null'
FILES = ('changed', 'old', 'swapped', 'moved-0', *(f'removed-{n}' for n in range(3)))


@contextlib.contextmanager
def volume(
    kind: str, size: str, place: Path, name: str = 'srv', *options: str
) -> Iterator[Path]:
    """A new file system on a new volume."""
    create = ('lvcreate', '--quiet', '--yes', *(options or ('--size', size)))
    run_command(*create, '--name', name, GROUP, check=True)
    try:
        run_command(f'mkfs.{kind}', '-q', f'/dev/{GROUP}/{name}', check=True)
        with mounted(f'/dev/{GROUP}/{name}', place):
            for file in FILES:
                (place / file).write_text(file)
            os.utime(place / 'old', (0, 0))
            for level in range(3):
                (place / f'gone-{level}').mkdir()
            (place / 'd').mkdir()
            yield place
    finally:
        run_command('lvremove', '--quiet', '--yes', f'{GROUP}/{name}', check=True)


def left() -> list[str]:
    """Snapshots, which have a tag, and directories for their mounts."""
    fields = ('--noheadings', '-olv_name,lv_tags')
    listed = run_command('lvs', *fields, GROUP, check=True).stdout.splitlines()
    made = [line.strip() for line in listed if len(line.split()) == 2]
    return made + (os.listdir(BASE) if os.path.exists(BASE) else [])


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path / 'programs', PROGRAMS)


@pytest.fixture
def local(request: pytest.FixtureRequest, steps: Steps) -> Agent:
    folder = RESULTS / request.node.name
    folder.mkdir(parents=True)
    return Agent(LocalStore(folder / 'store')).told(**steps.env)


@pytest.fixture(scope='module')
def srv(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with volume('ext4', '40M', tmp_path_factory.mktemp('ext4') / 'srv') as place:
        yield place


Tree = dict[bytes, trees.Entry]


def expect(local: Agent, dates: dict[int, Tree]) -> None:
    """Let these backups be restored, and the trees be compared."""
    store = local.store
    assert isinstance(store, LocalStore)
    store.directory.with_name('dates').write_bytes(pickle.dumps(dates))


def test_lvm_guide(tmp_path: Path, local: Agent, steps: Steps, srv: Path) -> None:
    """Increments, by the job file of the page. What changes after a snapshot is in the
    next level."""
    (block,) = (
        each
        for each in pages.blocks(PAGE)
        if each.said.get('run by', '').endswith(Path(__file__).name)
    )
    job = tmp_path / 'job.conf'
    text = block.text.replace('path_to_backup = /srv', f'path_to_backup = {srv}')
    assert text != block.text
    job.write_text(text.replace('lvm_snapsize = 5G', 'lvm_snapsize = 8M'))
    states: dict[int, Tree] = {}
    for level in range(3):
        steps.at('lvcreate.after', CHANGES.format(level=level, next=level + 1, top=srv))
        before = trees.describe(srv)
        options = ('--config', job, *local.options, '--metadata-out', '-')
        made = run(*options, env=local.env).check()
        steps.wait('lvcreate.after')
        assert made.document['curr_backup_level'] == level
        assert made.document['warnings'] == 0
        assert f'Backed up {srv} as level {level}' in made.err
        assert left() == []
        states[made.document['time_stamp']] = before
        (srv / 'swapped').write_text(str(level))
    # What the test relies on.
    assert before[b'changed'] != trees.describe(srv)[b'changed']
    expect(local, states)


def test_lvm_job_of_freezer_19(tmp_path: Path, local: Agent, steps: Steps) -> None:
    """With all its options; xfs, which refuses to be mounted twice."""
    with volume('xfs', '304M', tmp_path / 'srv', 'xfs') as srv:
        options = {
            'action': 'backup',
            'snapshot': True,
            'lvm_srcvol': f'/dev/{GROUP}/xfs',
            'lvm_volgroup': GROUP,
            'lvm_snapname': 'nightly',
            'lvm_snapsize': '5%ORIGIN',
            'lvm_snapperm': 'rw',
            'lvm_dirmount': tmp_path / 'mounts',
            'path_to_backup': srv / 'd',
            'max_level': 0,
            'metadata_out': '-',
        }
        job = job_file(tmp_path / 'job', {'job': options})
        (srv / 'd' / 'file').write_text('before')
        before = trees.describe(srv / 'd')
        look = f'findmnt {tmp_path}/mounts/*/root >{tmp_path}/seen; '
        look += f'stat --format=%a {tmp_path}/mounts/* >>{tmp_path}/seen'
        steps.at('mount.after', f'{look}; echo later >{srv}/d/file')
        made = run('--config', job, *local.options, env=local.env).check()
        steps.wait('mount.after')
        seen = (tmp_path / 'seen').read_text()
        for word in ('ro,nosuid,nodev,noexec', 'nouuid', f'{GROUP}-nightly', '700'):
            assert word in seen
        assert left() == []
        assert os.listdir(tmp_path / 'mounts') == []
        steps.at('tar.before', FILL.format(srv / 'filler'))
        full = local.backup(srv, '--snapshot', 'lvm', '--lvm-snapsize', '4M')
        assert 'is full: more than 4.0 MiB changed on' in full.error
        assert left() == []
        expect(local, {made.document['time_stamp']: before})


def test_lvm_thin_pool(tmp_path: Path, local: Agent, steps: Steps) -> None:
    """Several paths, in one snapshot that needs no size; the kind is found."""
    pool = ('--type', 'thin-pool', '--size', '100M', '--name', 'pool')
    run_command('lvcreate', '--yes', *pool, GROUP, check=True)
    try:
        thin = ('--virtualsize', '304M', '--thinpool', 'pool')
        with volume('xfs', '', tmp_path / 'srv', 'thin', *thin) as srv:
            (srv / 'd' / 'e').mkdir()
            paths = ('--path-to-backup', srv / 'd', '--path-to-backup', srv / 'old')
            told = local.told('--incremental', '--snapshot', 'yes', *paths)
            states = {}
            for level in (0, 1):
                tree = trees.describe(srv)
                steps.at('lvcreate.after', f'echo {level} >{srv}/d/f; rm {srv}/old')
                made = told.run('backup', '--metadata-out', '-').check()
                steps.wait('lvcreate.after')
                assert made.document['curr_backup_level'] == level
                assert f'relative to {srv}\n' in made.err
                assert left() == []
                (srv / 'old').write_text(f'after {level}')
                states[made.document['time_stamp']] = {
                    path: entry
                    for path, entry in tree.items()
                    if path.split(b'/')[0] in (b'.', b'', b'd', b'old')
                }
            expect(local, states)
    finally:
        run_command('lvremove', '--yes', f'{GROUP}/pool', check=True)


# SIGTERM leaves nothing, nor what SIGKILL has left before.
KILLED: tuple[tuple[str, str], ...] = (
    *(('lvcreate.before', 'KILL'), ('lvcreate.after', 'TERM')),
    *(('umount.after', 'TERM'), ('lvremove.after', 'KILL'), ('tar.before', 'KILL')),
)
if os.environ.get('FREEZER_TEST_ALL_STEPS'):
    KILLED = (
        *(('lvcreate.before', 'KILL'), ('lvcreate.after', 'TERM')),
        *(('lvcreate.after', 'KILL'), ('mount.after', 'TERM')),
        *(('mount.after', 'KILL'), ('tar.before', 'TERM')),
        *(('tar.before', 'KILL'), ('lvcreate.before', 'TERM')),
        *(('umount.after', 'KILL'), ('umount.after', 'TERM')),
        *(('lvremove.after', 'KILL'), ('lvremove.after', 'TERM')),
    )
# On a slow machine: what is left then, the next run removes.
LATE = 'cleaning up took longer than'


def test_lvm_killed(local: Agent, steps: Steps, srv: Path) -> None:
    """At each step: what is listed restores."""
    told = local.told('--snapshot', 'lvm', '--lvm-snapsize', '8M')
    for step, name in KILLED:
        number = signal.Signals[f'SIG{name}']
        steps.at(step, f'kill -{name} $PPID')
        made = told.backup(srv)
        assert made.code == -number, (step, made)
        steps.wait(step)
        if name == 'TERM':
            assert left() == [] or LATE in made.err, (step, made)
        elif step != 'lvremove.after':
            assert left(), (step, made)
    # Two backups of one second have one folder.
    time.sleep(1)
    told.backup(srv).check()
    assert left() == []
    dates = {int(path.split('/')[-2].split('_')[1]) for path in local.store.markers()}
    assert dates
    expect(local, dict.fromkeys(dates, trees.describe(srv)))


def test_lvm_full(local: Agent, steps: Steps, srv: Path) -> None:
    """More changes than fit while the snapshot is read, or just after that."""
    told = local.told('--snapshot', 'lvm', '--lvm-snapsize', '4M')
    (srv / 'd' / 'data').write_bytes(os.urandom(8 << 20))
    for step in ('tar.before', 'tar.after'):
        steps.at(step, FILL.format(srv / step))
        error = told.backup(srv).error
        assert 'is full: more than 4.0 MiB changed on' in error, step
        assert local.store.is_untouched()
        assert left() == []


def test_lvm_in_use(local: Agent, steps: Steps, srv: Path) -> None:
    """A snapshot that cannot be removed is an error; the backup is there."""
    hold = f'tail -f {BASE}/*/root/changed >/dev/null 2>&1 & echo $! >{srv}/pid'
    steps.at('tar.after', f'cd /; {hold}')
    error = local.backup(srv, '--snapshot', 'lvm', '--lvm-snapsize', '8M').error
    assert 'target is busy' in error
    assert 'unmount it' in error
    assert len(local.store.markers()) == 1
    assert len(left()) == 2
    os.kill(int((srv / 'pid').read_text()), signal.SIGKILL)
    local.backup(srv, '--snapshot', 'lvm', '--lvm-snapsize', '8M').check()
    assert left() == []


def test_lvm_refusals(tmp_path: Path, local: Agent, srv: Path) -> None:
    """Before any work."""
    other = f'/dev/{GROUP}/other'
    for options, problem in (
        (('--lvm-srcvol', other), f'lvm-srcvol {other}: {srv} is on the volume'),
        (('--lvm-volgroup', 'vg1'), f'{srv} is on the volume {GROUP}/srv: omit'),
        (('--lvm-snapsize', '100%VG'), 'make room, or choose a smaller lvm-snapsize'),
        (('--lvm-snapname', 'srv'), f'{GROUP} has a volume of this name'),
        (('--lvm-dirmount', srv.parent), 'give the path where the volume itself'),
    ):
        refused = local.backup(srv, '--snapshot', 'lvm', *options)
        assert problem in refused.only_error
    for kind, problem in (
        ('lvm', 'which is no volume of LVM'),
        ('btrfs', 'it is on tmpfs, not on btrfs'),
        ('auto', 'choose --snapshot none to back up the files as they are'),
    ):
        assert problem in local.backup(tmp_path, '--snapshot', kind).only_error
    assert local.store.is_untouched()
    assert left() == []
