"""Servers of a real Nova, backed up and restored with all their disks."""

import functools
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from freezer.tests.agent import HOST, Agent, LocalStore, S3Store, Store, private
from freezer.tests.compute import Computer
from freezer.tests.images import Images
from freezer.tests.servers.cinder import Cinder
from freezer.tests.servers.glance import Glance
from freezer.tests.servers.nova import Nova
from freezer.tests.volumes import Volumes, change, digest, left_over

pytestmark = [
    pytest.mark.root,
    pytest.mark.xdist_group('cloud'),
    pytest.mark.timeout(900),
]

MIB = 1 << 20
THOROUGH = bool(os.environ.get('FREEZER_TEST_THOROUGH'))
ALL = ('--mode', 'nova', '--incremental')
# Of each server by itself, or of the host it runs on.
OWN = (
    *('id', 'created', 'updated', 'links', 'hostId', 'addresses', 'image'),
    *('OS-SRV-USG:launched_at', 'os-extended-volumes:volumes_attached'),
)
MADE = {
    'name': 'web "ü" $(x)',
    'description': 'all of it',
    'metadata': {'colour': 'ü'},
    'tags': ['one', 'two'],
    'key_name': 'key',
}


@pytest.fixture(scope='module')
def people(nova: Nova) -> None:
    for name in ('nora', 'otto'):
        nova.cloud.add_user(name)


def computer(nova: Nova, cinder: Cinder, user: str) -> Iterator[Computer]:
    made = Computer(nova, Volumes(cinder, user), user)
    made.call('POST', '/os-keypairs', keypair={'name': 'key'})
    yield made
    made.delete_all()
    made.call('DELETE', '/os-keypairs/key')


@pytest.fixture
def nora(nova: Nova, cinder: Cinder, people: None) -> Iterator[Computer]:
    yield from computer(nova, cinder, 'nora')


@pytest.fixture
def otto(nova: Nova, cinder: Cinder, people: None) -> Iterator[Computer]:
    yield from computer(nova, cinder, 'otto')


@pytest.fixture(scope='module')
def flavor(nova: Nova, people: None, cinder: Cinder) -> Iterator[str]:
    """One of several with the same size."""
    maker = Computer(nova, Volumes(cinder, 'nora'), 'nora')
    made = [
        maker.make_flavor('a', {}),
        maker.make_flavor('b', {'hw:cpu_policy': 'shared'}, ram=128),
        maker.make_flavor('small', {'hw:cpu_policy': 'shared'}),
    ]
    yield made[-1]
    for each in made:
        maker.delete_flavor(each)


def agent_on(store: Store, user: Computer, librbd: Path, *options: object) -> Agent:
    path = os.pathsep.join((os.environ.get('PYTHONPATH', ''), str(librbd)))
    return Agent(store, options=(*ALL, *options), env={**user.env, 'PYTHONPATH': path})


def port_of(user: Computer, network: str, **fields: Any) -> str:
    port = {'network_id': network, **fields}
    found: str = user.network('POST', '/ports', port=port)['id']
    return found


def web_group(user: Computer) -> str:
    group = {'name': 'web'}
    found: str = user.network('POST', '/security-groups', security_group=group)['id']
    return found


def everything(user: Computer) -> set[str]:
    """The IDs of all that a restore could make."""
    return {
        each['id']
        for found in (
            user.listed(),
            user.volumes.listed('volume'),
            user.volumes.listed('snapshot'),
            user.network('GET', f'/ports?project_id={user.project}'),
        )
        for each in found
    }


def fields(user: Computer, server: str) -> dict[str, Any]:
    found = user.get(server)
    return {key: value for key, value in found.items() if key not in OWN}


def server_of_volumes(user: Computer, flavor: str, cinder: Cinder) -> str:
    """It boots from one volume, and has another."""
    boot, data = user.volumes.create(name='boot'), user.volumes.create(name='data')
    bootable = {'os-set_bootable': {'bootable': True}}
    user.volumes.call('POST', f'/volumes/{boot}/action', json=bootable)
    port = port_of(
        user,
        user.make_network('back', '10.9.0.0/24'),
        fixed_ips=[{'ip_address': '10.9.0.77'}],
        mac_address='fa:16:3e:00:00:77',
        security_groups=[web_group(user)],
        description='of web',
    )
    server = user.create(flavor, [port], boot, **MADE)
    user.attach(server, data)
    return server


@pytest.mark.parametrize('kind', ['s3'])
def test_a_server_that_boots_from_a_volume(
    kind: str,
    nora: Computer,
    otto: Computer,
    flavor: str,
    cinder: Cinder,
    librbd: Path,
    tmp_path: Path,
) -> None:
    """N1, N3, N14: Freezer 19 stores nothing of it and exits with 0, and restores into
    another project without a network."""
    store: Store = LocalStore(tmp_path / 'store')
    if kind == 's3':
        store = S3Store(cinder.cloud.backends.ceph)
    server = server_of_volumes(nora, flavor, cinder)
    agent = agent_on(store, nora, librbd, '--nova-inst-id', server)
    levels = []
    for level in range(3):
        for number, volume in enumerate(nora.attached(server)):
            change(cinder, volume, 10 * level + number)
        made = agent.run('backup', '--json').check().document
        assert made['curr_backup_level'] == level
        assert (made['backup_media'], made['nova_inst_id']) == ('nova', server)
        assert made['bytes_read'] < (200 if not level else 20) * MIB
        disks = [digest(cinder, volume) for volume in nora.attached(server)]
        levels.append((made, disks))
        assert left_over(nora.volumes) == []
    assert f'nova/{HOST}_bk/{server}/' in store.markers()[0]
    agent.run('verify', '--verify-data').check()
    # Its addresses are in use.
    before = everything(nora)
    failed = agent.run('restore').error
    for text in ('MAC address fa:16:3e:00:00:77', '10.9.0.77'):
        assert f'{text} belongs to port {nora.ports(server)[0]["id"]}' in failed
    assert '--nova-leave-out addresses' in failed
    assert everything(nora) == before
    expected = fields(nora, server)
    port = nora.ports(server)[0]
    copy = agent.run(
        *('restore', '--json', '--nova-leave-out', 'addresses'),
        *('--nova-restore-name', 'copy'),
    ).check()
    new = copy.document['restored_server_id']
    assert [digest(cinder, each) for each in nora.attached(new)] == levels[2][1]
    assert fields(nora, new) == expected | {'name': 'copy'}
    names = [nora.volumes.get('volume', each)['name'] for each in nora.attached(new)]
    assert names == ['boot', 'data']
    for each in (new, server):
        nora.delete(each)
    # Nova deletes only ports that it has created.
    assert 'which no server uses' in agent.run('restore').error
    nora.network('DELETE', f'/ports/{port["id"]}')
    # With the addresses it had.
    again = agent.run('restore', '--json').check().document['restored_server_id']
    assert fields(nora, again) == expected
    (found,) = nora.ports(again)
    for key in ('mac_address', 'fixed_ips', 'security_groups', 'description'):
        assert found[key] == port[key]
    assert left_over(nora.volumes) == []
    # Elsewhere, an error lists all missing things, and nothing is created.
    there = agent.told(**otto.env)
    otto.call('DELETE', '/os-keypairs/key')
    before = everything(otto)
    failed = there.run('restore').error
    assert 'no network back: pass --nova-restore-network' in failed
    assert 'no key pair key of this user: pass --nova-leave-out keypair' in failed
    assert everything(otto) == before
    otto.call('POST', '/os-keypairs', keypair={'name': 'key'})
    otto.make_network('front', '10.9.0.0/16')
    group = web_group(otto)
    date = ('--restore-from-date', levels[1][0]['date'])
    moved = there.run(
        *('restore', '--json', '--nova-restore-network', 'back=front', *date)
    ).check()
    new = moved.document['restored_server_id']
    assert [digest(cinder, each) for each in otto.attached(new)] == levels[1][1]
    own = {'tenant_id': otto.project, 'user_id': otto.get(new)['user_id']}
    assert fields(otto, new) == expected | own
    (found,) = otto.ports(new)
    assert found['security_groups'] == [group]
    assert found['fixed_ips'][0]['ip_address'] == '10.9.0.77'


def test_a_server_that_boots_from_an_image(
    nora: Computer,
    flavor: str,
    cinder: Cinder,
    glance: Glance,
    librbd: Path,
    tmp_path: Path,
) -> None:
    """N2: Freezer 19 restores it twice, and no third time; its image stays."""
    images = Images(glance, 'nora')
    root = bytearray(random.Random(1).randbytes(3 * MIB + 12345))
    image = images.create('root', bytes(root), hw_disk_bus='scsi', min_disk=1)
    server = nora.create(flavor, imageRef=image, name='from image')
    data = nora.volumes.create(name='data')
    nora.attach(server, data)
    passphrase = private(tmp_path / 'pass', 'some words')
    agent = agent_on(
        *(LocalStore(tmp_path / 'local store'), nora, librbd),
        *('--nova-inst-name', 'from image'),
        *('--encryption', 'age', '--encrypt-pass-file', passphrase),
    )
    levels = []
    for level in range(2):
        change(cinder, data, level)
        root[MIB : MIB + 9] = b'level %03d' % level
        nora.nova.disk(server).write_bytes(root)
        made = agent.run('backup', '--json').check().document
        assert made['curr_backup_level'] == level
        levels.append((made['date'], bytes(root), digest(cinder, data)))
        assert list(images.listed()) == [image]
    for date, content, expected in (levels[1], levels[0], levels[1]):
        dated = ('--restore-from-date', date)
        made = agent.run('restore', '--json', *dated).check().document
        new = made['restored_server_id']
        assert nora.nova.disk(new).read_bytes() == content
        (volume,) = nora.attached(new)
        assert made['restored_volume_ids'] == volume
        assert digest(cinder, volume) == expected
        assert fields(nora, new) == fields(nora, server)
        assert list(images.listed()) == [image]
    several = agent.run('backup').error
    assert "servers have the name 'from image': pass --nova-inst-id" in several
    images.delete_all()


def test_what_is_refused(
    nora: Computer, cinder: Cinder, librbd: Path, tmp_path: Path
) -> None:
    """N16: Freezer 19 takes a flavor of the same name, whatever it is."""
    odd = nora.make_flavor('odd', {}, ram=72)
    server = server_of_volumes(nora, odd, cinder)
    agent = agent_on(LocalStore(tmp_path / 'store'), nora, librbd)
    agent = agent.told('--nova-inst-id', server)
    agent.run('backup').check()
    (port,) = nora.ports(server)
    nora.delete(server)
    nora.network('DELETE', f'/ports/{port["id"]}')
    nora.delete_flavor(odd)
    flavors = [nora.make_flavor('odd', {}, ram=80)]
    before = everything(nora)
    for options, text in (
        ((), 'no flavor has vcpus 1, ram 72, disk 1'),
        (('--nova-restore-flavor', 'none'), 'no flavor none'),
        (('--nova-restore-az', 'mars'), 'no availability zone mars: pass'),
        (('--nova-restore-network', 'mars'), 'no network mars: pass'),
        (('--nova-restore-network', 'x=y', '--nova-restore-network', 'x=z'), 'two'),
        (('--nova-leave-out', 'disks'), 'nova-leave-out disks: must be one of'),
        (('--restore-abs-path', '/x'), 'leave out --restore-abs-path'),
    ):
        assert text in agent.run('restore', *options).error
        assert everything(nora) == before
    # What only Nova decides is undone, before the server exists and after.
    flavors.append(nora.make_flavor('huge', {}, ram=1 << 20))
    nora.set_quota(ram=-1)
    for flavor, instances, text in (
        ('huge', 10, 'has status ERROR: No valid host was found'),
        *([('odd', 0, 'Quota exceeded')] if THOROUGH else []),
    ):
        nora.set_quota(instances=instances)
        try:
            failed = agent.run('restore', '--nova-restore-flavor', flavor).error
        finally:
            nora.set_quota(instances=10)
        assert text in failed
        assert everything(nora) == before
    for each in flavors:
        nora.delete_flavor(each)


def test_killed_runs(
    nora: Computer, flavor: str, cinder: Cinder, librbd: Path, tmp_path: Path
) -> None:
    """N10: the next run removes the leftovers."""
    server = server_of_volumes(nora, flavor, cinder)
    agent = agent_on(LocalStore(tmp_path / 'store'), nora, librbd)
    agent = agent.told('--nova-inst-id', server)
    before = everything(nora)
    with agent.start('backup') as process:
        snapshots = functools.partial(nora.volumes.listed, 'snapshot')
        nora.volumes.until(lambda: process.ended or len(snapshots()) == 2)
        process.send(signal.SIGKILL)
        process.wait()
    assert agent.store.markers() == []
    assert everything(nora) > before
    agent.run('backup').check()
    assert everything(nora) == before
    with (
        nora.nova.stopped_compute(),
        agent.start('restore', '--nova-leave-out', 'addresses') as process,
    ):
        nora.volumes.until(lambda: process.ended or len(nora.listed()) == 2)
        process.send(signal.SIGKILL)
        process.wait()
    # A server, a port and two volumes.
    assert len(everything(nora) - before) == 4
    agent.run('backup').check()
    assert everything(nora) == before


def test_a_whole_project(
    nora: Computer, flavor: str, cinder: Cinder, librbd: Path, tmp_path: Path
) -> None:
    """N4: Freezer 19 exits with 0 if one of them fails."""
    made: list[str] = []
    for name in ('one', 'two'):
        boot = nora.volumes.create(name=name)
        bootable = {'os-set_bootable': {'bootable': True}}
        nora.volumes.call('POST', f'/volumes/{boot}/action', json=bootable)
        change(cinder, boot, len(made))
        made.append(nora.create(flavor, volume=boot, name=name))
    project = agent_on(
        LocalStore(tmp_path / 'store'), nora, librbd, '--project-id', nora.project
    )
    done = project.run('backup').check()
    for name, server in zip(('one', 'two'), made, strict=True):
        assert f'server "{name}" ({server})' in done.err
    listed = project.nameless.run('info').check().out
    for server in made:
        assert server in listed
    nora.call('POST', f'/servers/{made[0]}/action', shelve=None)
    nora.volumes.until(lambda: 'SHELVED' in nora.get(made[0])['status'])
    failed = project.run('backup')
    assert failed.code == 1
    assert f'server "one" ({made[0]}) has status' in failed.err
    assert len(agent_levels(project, made[1])) == 2


def agent_levels(agent: Agent, server: str) -> list[str]:
    """The markers of the levels of a server."""
    return [each for each in agent.store.markers() if f'/{server}/' in each]
