"""Volumes of a real Cinder, backed up and restored."""

import importlib.machinery
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from freezer.tests.agent import HOST, Agent, LocalStore, S3Store, Store, private
from freezer.tests.images import Images
from freezer.tests.servers.cinder import Cinder
from freezer.tests.servers.glance import Glance
from freezer.tests.volumes import Volumes, change, digest, left_over

pytestmark = [
    pytest.mark.root,
    pytest.mark.xdist_group('cloud'),
    pytest.mark.timeout(900),
]

MIB = 1 << 20
CHUNK = 1 << 16
ALL = ('--mode', 'cinder', '--incremental')
BY_IMAGE = ('--cinder-transfer', 'image')
THOROUGH = bool(os.environ.get('FREEZER_TEST_THOROUGH'))
STORES = [('s3', True), *([('local', False)] if THOROUGH else [])]
# Of each volume by itself.
OWN = ('id', 'created_at', 'updated_at', 'links', 'name', 'user_id')
FIELDS = {
    'name': 'vol "ü" $(x)',
    'description': 'all of it',
    'metadata': {'colour': 'ü', 'empty': ''},
}


@pytest.fixture(scope='module')
def users(cinder: Cinder) -> None:
    for name in ('dora', 'emil'):
        cinder.cloud.add_user(name)


@pytest.fixture
def dora(cinder: Cinder, users: None) -> Iterator[Volumes]:
    volumes = Volumes(cinder, 'dora')
    yield volumes
    volumes.delete_all()


@pytest.fixture
def emil(cinder: Cinder, users: None) -> Iterator[Volumes]:
    volumes = Volumes(cinder, 'emil')
    yield volumes
    volumes.delete_all()


@pytest.fixture
def either(request: pytest.FixtureRequest, cinder: Cinder, tmp_path: Path) -> Store:
    if request.param == 'local':
        return LocalStore(tmp_path / 'local store')
    return S3Store(cinder.cloud.backends.ceph)


def agent_on(store: Store, user: Volumes, librbd: Path, *options: object) -> Agent:
    path = os.pathsep.join((os.environ.get('PYTHONPATH', ''), str(librbd)))
    return Agent(store, options=(*ALL, *options), env={**user.env, 'PYTHONPATH': path})


def allocated(cinder: Cinder, volume: str) -> int:
    """Bytes."""
    found: list[int] = []
    with cinder.volume(volume) as image:
        image.diff_iterate(
            0, image.size(), None, lambda _start, length, _here: found.append(length)
        )
    return sum(found)


def fields(user: Volumes, volume: str) -> dict[str, Any]:
    found = user.get('volume', volume)
    return {key: value for key, value in found.items() if key not in OWN}


@pytest.mark.parametrize('either, encrypted', STORES, indirect=['either'])
def test_five_levels_into_another_project(
    either: Store,
    encrypted: bool,
    dora: Volumes,
    emil: Volumes,
    cinder: Cinder,
    librbd: Path,
    tmp_path: Path,
) -> None:
    """N6: Freezer 19's restore from S3 never works, and it restores neither type,
    description, metadata nor image metadata."""
    options: tuple[object, ...] = ('--cinder-transfer', 'attachment')
    if encrypted:
        private(tmp_path / 'pass', 'some words')
        options = (*options, '--encryption', 'age')
        options = (*options, '--encrypt-pass-file', tmp_path / 'pass')
    volume = dora.create(**FIELDS)
    image = {'os_distro': 'debian', 'min_disk': '1', 'hw_disk_bus': 'scsi'}
    for action, arguments in (
        ('os-set_bootable', {'bootable': True}),
        ('os-set_image_metadata', {'metadata': image}),
    ):
        dora.call('POST', f'/volumes/{volume}/action', json={action: arguments})
    agent = agent_on(either, dora, librbd, *options, '--cinder-vol-id', volume)
    states: list[tuple[dict[str, Any], tuple[int, str]]] = []
    for level in range(5):
        change(cinder, volume, level)
        if level == 2:
            grown = {'os-extend': {'new_size': 2}}
            dora.call('POST', f'/volumes/{volume}/action', json=grown)
            dora.wait('volume', volume)
        if states:
            time.sleep(max(0.0, states[-1][0]['time_stamp'] + 1 - time.time()))
        made = agent.run('backup', '--json').check().document
        assert made['curr_backup_level'] == level
        assert made['backup_media'] == 'cinder'
        assert made['cinder_vol_id'] == volume
        # Only what changed.
        assert made['bytes_read'] < (80 * MIB if not level else 8 * MIB)
        states.append((made, digest(cinder, volume)))
        assert left_over(dora) == []
    assert f'cinder/{HOST}_bk/{volume}/' in either.markers()[0]
    agent.run('verify', '--verify-data').check()
    for user, level, name in ((dora, 4, ()), (emil, 1, ('--cinder-restore-name', 'x'))):
        there = agent.told(**user.env)
        made, expected = states[level]
        date = ('--restore-from-date', made['date'])
        result = there.run('restore', '--json', *date, *name).check()
        new = result.document['restored_volume_id']
        assert new != volume
        assert digest(cinder, new) == expected
        assert allocated(cinder, new) < 100 * MIB
        assert user.get('volume', new)['name'] == (name[1] if name else FIELDS['name'])
        size = {'size': 2 if level > 1 else 1}
        project = {'os-vol-tenant-attr:tenant_id': user.project}
        assert fields(user, new) == fields(dora, volume) | size | project
        assert fields(user, new)['volume_image_metadata'] == image
        assert left_over(user) == []
    # Onto an existing volume, whose old data must not stay.
    old = dora.create(size=2)
    with cinder.volume(old) as target:
        target.write(os.urandom(3 * MIB), 100 * MIB + 77)
        target.write(os.urandom(MIB), 5 * MIB)
    onto = ('restore', '--cinder-restore-vol-id', old)
    assert 'add --overwrite' in agent.run(*onto).error
    agent.run(*onto, '--overwrite').check()
    assert digest(cinder, old) == states[4][1]


class TestByAnImage:
    """With any backend, and without librbd. Moves 1 GiB several times."""

    __test__ = THOROUGH

    def test_restores(
        self,
        dora: Volumes,
        cinder: Cinder,
        glance: Glance,
        librbd: Path,
        tmp_path: Path,
    ) -> None:
        volume = dora.create(**FIELDS)
        change(cinder, volume, 7)
        agent = agent_on(LocalStore(tmp_path / 'store'), dora, librbd)
        agent = agent.told('--cinder-vol-name', str(FIELDS['name']))
        by_image = agent.told(*BY_IMAGE)
        by_image.env['PYTHONPATH'] = None
        first = by_image.run('backup', '--json').check().document
        change(cinder, volume, 8)
        time.sleep(max(0.0, first['time_stamp'] + 1 - time.time()))
        # The next level may be made in the other way.
        second = agent.run('backup', '--json').check().document
        assert second['curr_backup_level'] == 1
        assert second['bytes_read'] < 8 * MIB
        found = by_image.run('restore', '--json').check()
        new = found.document['restored_volume_id']
        assert digest(cinder, new) == digest(cinder, volume)
        assert fields(dora, new) == fields(dora, volume)
        assert left_over(dora) == []
        assert Images(glance, 'dora').listed() == {}


def test_leftovers_and_refusals(
    dora: Volumes, cinder: Cinder, librbd: Path, tmp_path: Path
) -> None:
    """N9, N10: what fails or is killed leaves nothing after the next run."""
    volume = dora.create(**FIELDS)
    change(cinder, volume, 9)
    agent = agent_on(LocalStore(tmp_path / 'store'), dora, librbd)
    chosen = agent.told('--cinder-vol-id', volume)
    # Killed with a snapshot, and with a volume of it.
    for kind in ('snapshot', 'volume'):
        before = len(dora.listed(kind))
        with chosen.start('backup') as process:
            dora.until(
                lambda: process.ended or len(dora.listed(kind)) > before  # noqa: B023
            )
            process.send(signal.SIGKILL)
            process.wait()
        assert left_over(dora)
    assert agent.store.markers() == []
    other = {'freezer': 'temporary', 'freezer_run': 'elsewhere/unknown'}
    kept = dora.create(name='freezer-temporary of another agent', metadata=other)
    chosen.run('backup').check()
    assert left_over(dora) == ['freezer-temporary of another agent']
    dora.delete('volume', kept)
    # Refusals, before and after the first request.
    missing = agent.told('--cinder-vol-id', 'x' * 8)
    assert 'could not be found' in missing.run('backup').error
    assert 'pass --cinder-vol-id' not in chosen.run('restore', '--json').check().err
    failed = chosen.run('restore', '--cinder-restore-type', 'golden')
    assert '--cinder-restore-type and --cinder-restore-az' in failed.error
    assert left_over(dora) == []
    # Damage shows while the volume is written: it is deleted.
    count = len(dora.listed('volume'))
    (path,) = (each for each in agent.store.files() if each.endswith('/data'))
    stored = agent.store.files()[path]
    agent.store.put(path, stored[:-1] + bytes([stored[-1] ^ 1]))
    assert '--action verify lists all damage' in chosen.run('restore').error
    assert len(dora.listed('volume')) == count
    # A quota.
    quota = {'quota_set': {'snapshots': 0}}
    admin = cinder.cloud.session()
    url = f'{cinder.endpoint}/v3/{admin.get_project_id()}/os-quota-sets/{dora.project}'
    admin.put(url, json=quota)
    try:
        said = 'Maximum number of snapshots allowed (0) exceeded'
        assert said in chosen.run('backup').error
    finally:
        admin.delete(url)


def test_without_librbd(dora: Volumes, tmp_path: Path) -> None:
    # Not find_spec() of importlib.util: the tests themselves have imported it.
    if importlib.machinery.PathFinder.find_spec('rbd'):
        pytest.skip('this Python has librbd')
    agent = Agent(LocalStore(tmp_path / 'store'), options=ALL, env=dora.env)
    failed = agent.run(
        'backup', '--cinder-vol-id', 'x', '--cinder-transfer', 'attachment'
    )
    assert 'python3-rbd' in failed.only_error
