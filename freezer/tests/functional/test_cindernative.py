"""Backups that a real Cinder makes of its volumes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.tests.agent import HOST, Agent, LocalStore, job_file
from freezer.tests.servers.cinder import Cinder
from freezer.tests.volumes import Volumes

pytestmark = [
    pytest.mark.root,
    pytest.mark.xdist_group('cloud'),
]

MIB = 1 << 20
MODE = ('--mode', 'cindernative', '--backup-name', 'bk')


@pytest.fixture(scope='module')
def user(cinder: Cinder) -> str:
    cinder.cloud.add_user('carol')
    return 'carol'


@pytest.fixture
def carol(cinder: Cinder, user: str) -> Iterator[Volumes]:
    volumes = Volumes(cinder, user)
    yield volumes
    volumes.delete_all()


@pytest.fixture
def native(tmp_path: Path, carol: Volumes) -> Agent:
    """Its storage is not used."""
    agent = Agent(LocalStore(tmp_path / 'unused'), env=carol.env)
    agent.options = MODE
    return agent


def digest(cinder: Cinder, volume: str) -> tuple[int, bytes, bytes]:
    """Size, and the bytes at both places that the test writes."""
    with cinder.volume(volume) as image:
        return (
            image.size(),
            bytes(image.read(5 * MIB, MIB)),
            bytes(image.read(700 * MIB, MIB)),
        )


def test_backups_restores_and_rotation(
    native: Agent, carol: Volumes, cinder: Cinder, tmp_path: Path
) -> None:
    """N8: Freezer 19 reports success while Cinder is still at it. N13: it restores onto
    the volume that was backed up."""
    volume = carol.create(name='data')
    first, second = os.urandom(MIB), os.urandom(MIB)
    with cinder.volume(volume) as image:
        image.write(first, 5 * MIB)
    chosen = ('--cindernative-vol-id', volume, '--json')
    full = native.run('backup', '--incremental', *chosen).check().document
    assert (full['curr_backup_level'], full['status']) == (0, 'available')
    assert full['backup_media'] == 'cindernative'
    assert carol.get('backup', full['cinder_backup_id'])['status'] == 'available'
    before = digest(cinder, volume)
    with cinder.volume(volume) as image:
        image.write(second, 700 * MIB)
    # As a job of Freezer 19 has it.
    job = {
        'action': 'backup',
        'mode': 'cindernative',
        'cindernative_vol_id': volume,
        'backup_name': 'bk',
        'hostname': HOST,
        'incremental': 'True',
        'path_to_backup': '',
        'fullbackup_rotation': '1',
        'cindernative_freezer_only': 'True',
        'cindernative_backup_container': '',
    }
    bare = Agent(native.store, env=carol.env)
    bare.options = ('--config', job_file(tmp_path / 'job.conf', {'action': job}))
    made = bare.run('backup', '--json').check().document
    assert (made['curr_backup_level'], made['status']) == (1, 'available')
    listed = native.run('info', '--json').check().document['backups']
    assert [(each['id'], each['incremental']) for each in listed] == [
        (full['cinder_backup_id'], False),
        (made['cinder_backup_id'], True),
    ]
    after = digest(cinder, volume)
    assert after != before
    restored = native.run('restore', *chosen, '--cindernative-restore-name', 'back')
    new = restored.check().document['restored_volume_id']
    assert new != volume
    assert digest(cinder, new) == after
    assert carol.get('volume', new)['name'] == 'back'
    # Both backups become full ones, which saves the test a second one.
    cinder.cloud.backends.mariadb.execute('UPDATE cinder.backups SET parent_id = NULL')
    would = native.run('admin', '--fullbackup-rotation', '1', '--dry-run', *chosen)
    assert 'Would delete backup "bk"' in would.check().err
    gone = native.run('admin', '--fullbackup-rotation', '1', *chosen).check()
    assert gone.document['deleted_cinder_backup_ids'] == [full['cinder_backup_id']]
    left = [each['id'] for each in carol.listed('backup')]
    assert left == [made['cinder_backup_id']]
    assert native.store.is_untouched()


def test_what_is_refused(native: Agent, carol: Volumes, cinder: Cinder) -> None:
    volume = carol.create()
    admin = Volumes(cinder, 'admin')
    admin.call(
        'PUT',
        f'/os-quota-sets/{carol.project}',
        json={'quota_set': {'backups': 0}},
    )
    chosen = ('--cindernative-vol-id', volume)
    for action, options, said in (
        ('backup', (), 'needs --cindernative-vol-id'),
        ('backup', ('--cindernative-vol-id', 'missing'), 'missing could not be found'),
        ('backup', chosen, 'Maximum number of backups allowed (0) exceeded'),
        ('backup', (*chosen, '--path-to-backup', '/etc'), 'leave out --path-to-backup'),
        ('backup', (*chosen, '--cindernative-backup-container', 'a/b'), 'has a slash'),
        ('restore', chosen, f'no available backup of volume {volume}'),
        ('restore', (), 'needs --cindernative-vol-id or --cindernative-backup-id'),
        ('verify', chosen, 'mode cindernative has no action verify'),
    ):
        assert said in native.run(action, *options).only_error
    files = Agent(native.store, env=carol.env)
    refused = files.backup('/etc', *chosen)
    assert 'cindernative-vol-id belongs to mode cindernative' in refused.error
    assert carol.listed('backup') == []
