"""Images of a real Glance, backed up and restored."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from freezer.engine.openstack.glance import RESTORING
from freezer.tests import pages
from freezer.tests.agent import (
    HOST,
    ROOT,
    Agent,
    LocalStore,
    Result,
    S3Store,
    Store,
    environment,
    job_file,
    private,
)
from freezer.tests.images import Images, clouds_yaml, random_data
from freezer.tests.pages import Reader
from freezer.tests.proxy import Act, Answer, Ending, Proxy, Reply, Request, Rest
from freezer.tests.servers.cloud import Cloud
from freezer.tests.servers.glance import QUOTA, Glance

pytestmark = pytest.mark.xdist_group('cloud')

MIB = 1 << 20
PAGE = ROOT / 'doc/source/user/openstack.rst'
ALL = ('--mode', 'glance', '--engine', 'glance')
# Of each image by itself.
OWN = (
    *('id', 'created_at', 'updated_at', 'self', 'file', 'owner', 'name', 'protected'),
    'visibility',
)
PROPERTIES = {
    'hw_disk_bus': 'scsi',
    'os_distro': 'debian',
    'owner_specified.note': 'ü "quoted"',
    'empty': '',
}
FIELDS = {
    **PROPERTIES,
    'tags': ['golden', 'ü'],
    'min_disk': 2,
    'min_ram': 64,
    'protected': True,
    'visibility': 'community',
    'os_hidden': True,
}


@pytest.fixture(scope='module')
def users(cloud: Cloud) -> None:
    for name in ('alice', 'bob'):
        cloud.add_user(name)


@pytest.fixture
def alice(glance: Glance, users: None) -> Iterator[Images]:
    images = Images(glance, 'alice')
    yield images
    images.delete_all()


@pytest.fixture
def bob(glance: Glance, users: None) -> Iterator[Images]:
    images = Images(glance, 'bob')
    yield images
    images.delete_all()


@pytest.fixture
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == 'local':
        return LocalStore(tmp_path / 'local store')
    return S3Store(request.getfixturevalue('seaweedfs'))


def agent_on(store: Store, images: Images, *options: object) -> Agent:
    return Agent(store, options=(*ALL, *options), env=images.env)


@pytest.fixture
def here(tmp_path: Path, alice: Images) -> Agent:
    return agent_on(LocalStore(tmp_path / 'local store'), alice)


def restored(result: Result) -> str:
    """The ID of the image that a restore with --json has made."""
    found: str = result.check().document['restored_image_id']
    return found


def shared_fields(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in OWN}


# Backups and restores


@pytest.mark.parametrize(
    'either, options',
    [
        ('local', ()),
        ('local', ('--compression', 'none')),
        ('s3', ()),
        ('s3', ('--encryption', 'age')),
    ],
    indirect=['either'],
)
def test_image_in_the_same_and_another_project(
    either: Store,
    options: tuple[str, ...],
    alice: Images,
    bob: Images,
    tmp_path: Path,
) -> None:
    """N7: Freezer 19 never completes a backup to S3. N17: its restore drops all
    properties, and compares no hash."""
    if options:
        options = (*options, '--encrypt-pass-file', str(tmp_path / 'pass'))
        private(tmp_path / 'pass', 'some words')
    data = random_data(6 * MIB) + bytes(3 * MIB) + b'end'
    image = alice.create('name "ü" $(x)', data, **FIELDS)
    before = alice.record(image)
    agent = agent_on(either, alice, *options, '--max-segment-size', 5 * MIB)
    made = agent.run('backup', '--glance-image-id', image, '--json').check().document
    assert made['glance_image_id'] == image
    assert made['backup_media'] == 'glance'
    assert made['bytes_read'] == len(data)
    (marker,) = either.markers()
    assert marker.split('/')[1:4] == ['glance', f'{HOST}_bk', image]
    agent.run('verify', '--verify-data').check()
    for owner, name in ((alice, before['name']), (bob, 'another name')):
        there = agent.told(**owner.env)
        given = ('--glance-restore-name', name) if owner is bob else ()
        wanted = ('restore', '--glance-image-id', image, *given, '--json')
        new = restored(there.run(*wanted))
        after = owner.record(new)
        assert new != image
        assert shared_fields(after) == shared_fields(before)
        assert after['name'] == name
        assert after['owner'] == owner.project
        assert after['protected']
        assert after['visibility'] == 'community'
        assert owner.data(new) == data
    if 'age' in options:
        stored = b''.join(either.files().values())
        assert b'golden' not in stored
        assert data[:64] not in stored


def test_levels_above_0_have_the_record_alone(here: Agent, alice: Images) -> None:
    data = random_data(MIB)
    image = alice.create('first', data, tags=['one'], old='x')
    chosen = ('--glance-image-id', image, '--json')
    first = here.run('backup', '--incremental', *chosen).check().document
    alice.update(image, name='second', tags=['two'], new='y')
    time.sleep(max(0.0, first['time_stamp'] + 1 - time.time()))
    second = here.run('backup', '--incremental', *chosen).check().document
    assert (first['curr_backup_level'], second['curr_backup_level']) == (0, 1)
    assert second['bytes_read'] == 0
    for date, name, tags in (
        (first['date'], 'first', ['one']),
        (second['date'], 'second', ['two']),
    ):
        new = restored(here.run('restore', *chosen, '--restore-from-date', date))
        record = alice.record(new)
        assert (record['name'], record['tags']) == (name, tags)
        assert record.get('new') == ('y' if name == 'second' else None)
        assert alice.data(new) == data
    # Other data under the same ID, which Glance does not do, is a new level 0.
    alice.alter(image, os_hash_value='0' * 128)
    failed = here.run('backup', '--incremental', *chosen)
    assert 'has other data, or no hash: starting a new chain at level 0' in failed.err
    assert 'its sha512 differs from the recorded one' in failed.error
    assert len(here.store.markers()) == 2


def test_image_by_name_in_a_job_file(
    here: Agent, alice: Images, tmp_path: Path
) -> None:
    """And the name of an image that is not there any more, for the restore."""
    data = random_data(1000)
    image = alice.create('web', data)
    alice.create('web 2', data)
    job = {
        **here.store.section,
        'mode': 'glance',
        'engine_name': 'glance',
        'glance_image_name': 'web',
        'hostname': HOST,
        'backup_name': 'bk',
        'path_to_backup': '',
    }
    config = job_file(tmp_path / 'job.conf', {'action': job})
    bare = Agent(here.store, env=alice.env)
    bare.options = ('--config', config)
    bare.run('backup').check()
    (marker,) = here.store.markers()
    assert image in marker
    alice.call('DELETE', f'/{image}')
    new = restored(bare.run('restore', '--json'))
    assert alice.data(new) == data
    assert alice.record(new)['name'] == 'web'


def test_images_without_data_or_hash(here: Agent, alice: Images) -> None:
    empty = alice.create('empty', b'')
    here.run('backup', '--glance-image-id', empty).check()
    new = restored(here.run('restore', '--glance-image-id', empty, '--json'))
    assert (alice.record(new)['size'], alice.record(new)['status']) == (0, 'active')
    plain = alice.create('plain', b'data')
    alice.alter(plain, os_hash_value=None, os_hash_algo=None, checksum=None)
    for level in (0, 0):
        made = here.run('backup', '--glance-image-id', plain, '--incremental', '--json')
        assert made.check().document['curr_backup_level'] == level
        assert 'has no hash that can be compared: only its size is checked' in made.err
    new = restored(here.run('restore', '--glance-image-id', plain, '--json'))
    assert alice.data(new) == b'data'


def test_public_image_by_someone_who_may_not_publish(
    here: Agent, alice: Images, glance: Glance
) -> None:
    admin = Images(glance, 'admin')
    image = admin.create('base', b'data', visibility='public')
    try:
        here.run('backup', '--glance-image-id', image).check()
        done = here.run('restore', '--glance-image-id', image, '--json')
        assert done.code == 3
        assert 'may not create public images: the image is private' in done.err
        new = done.document['restored_image_id']
        assert alice.record(new)['visibility'] == 'private'
        assert alice.record(new)['tags'] == []
        assert done.document['incomplete'] == 1
    finally:
        admin.delete_all()


def test_backup_that_freezer_19_made(here: Agent, alice: Images) -> None:
    """Its record has the names of openstacksdk."""
    data = random_data(MIB)
    image = alice.create('old', data, tags=['a'], min_ram=32, **PROPERTIES)
    record = alice.record(image)
    sdk = {
        **{key: record[key] for key in ('id', 'name', 'tags', 'min_disk', 'min_ram')},
        **{key: record[key] for key in ('disk_format', 'container_format', 'size')},
        **{key: record[key] for key in ('status', 'visibility', 'checksum', 'owner')},
        'hash_algo': 'sha512',
        'hash_value': record['os_hash_value'],
        'is_hidden': False,
        'is_protected': True,
        'owner_id': record['owner'],
        'hw_disk_bus': 'scsi',
        'os_distro': 'debian',
        'needs_secure_boot': True,
        'properties': {'owner_specified.note': 'ü "quoted"', 'empty': ''},
        **dict.fromkeys(('store', 'locations', 'url', 'kernel_id', 'hw_vif_model')),
        'location': {'cloud': 'envvars'},
    }
    state = {
        'image_name': 'old',
        'image_id': image,
        'disk_format': 'raw',
        'container_format': 'bare',
        'visibility': 'shared',
        'length': str(len(data)),
        'protected': True,
    }
    marker = {'engine_name': 'glance', 'image': sdk, 'encryption': False}
    level = f'glance/{HOST}_bk/{image}/1796000000/0_1796000000'
    here.store.put(f'data/{level}/data', data)
    here.store.put(f'data/{level}/engine_metadata', json.dumps(state).encode())
    here.store.put(f'metadata/{level}/metadata', json.dumps(marker).encode())
    assert image in here.nameless.run('info', '--json').check().out
    for chosen in (('--glance-image-id', image), ('--glance-image-name', 'old')):
        new = restored(here.run('restore', *chosen, '--json'))
        after = alice.record(new)
        assert alice.data(new) == data
        assert after['protected']
        assert after['tags'] == ['a']
        assert after['min_ram'] == 32
        assert PROPERTIES.items() <= after.items()
        assert after['os_secure_boot'] == 'true'
        assert after['name'] == 'old'
    here.store.put(f'data/{level}/data', data[:-1] + bytes([data[-1] ^ 1]))
    before = alice.listed()
    failed = here.run('restore', '--glance-image-id', image)
    assert 'its sha512 differs from the recorded one' in failed.error
    assert alice.listed() == before


# Selection


def test_name_beside_a_damaged_marker(tmp_path: Path) -> None:
    """That of another image. A dry run needs no cloud."""
    here = Agent(LocalStore(tmp_path / 'local store'), options=ALL)
    for image in ('one', 'two'):
        level = f'glance/{HOST}_bk/{image}/1796000000/0_1796000000'
        marker = {'engine_name': 'glance', 'image': {'name': image}}
        here.store.put(f'data/{level}/data', b'data')
        here.store.put(f'metadata/{level}/metadata', json.dumps(marker).encode())
    here.store.put(f'metadata/{level}/metadata', b'{')
    chosen = ('--glance-image-name', 'one')
    made = here.run('restore', *chosen, '--dry-run').check()
    assert 'Would restore level 0' in made.err
    refused = here.run('restore', '--glance-image-name', 'two', '--dry-run')
    assert "no backup of 'two'" in refused.error
    removed = ('--remove-before-date', '2030-01-01', '--dry-run')
    here.run('admin', *removed).check()


def test_what_is_refused_before_any_work(here: Agent, alice: Images) -> None:
    data = random_data(10)
    for _ in range(2):
        alice.create('twice', data)
    queued = alice.create('queued')
    volume = alice.create('volume', b'', block_device_mapping='[{}]')
    off = alice.create('off', data)
    admin = Images(alice.glance, 'admin')
    admin.call('POST', f'/{off}/actions/deactivate')
    try:
        for options, said in (
            (('--glance-image-id', 'missing'), 'No image found with ID missing'),
            (('--glance-image-name', 'missing'), "no image has the name 'missing'"),
            (('--glance-image-name', 'twice'), "2 images have the name 'twice': pass"),
            (('--glance-image-id', queued), 'is queued: only the data of an active'),
            (('--glance-image-id', off), 'is deactivated: only the data of an active'),
            (('--glance-image-id', volume), 'refers to snapshots of volumes'),
            # N5: Freezer 19 took the images whose names do not contain the text.
            (('--glance-image-name-filter', 'zzz'), "no image whose name contains 'z"),
            ((), 'engine glance needs --glance-image-id, --glance-image-name'),
            (('--glance-image-id', 'x', '--path-to-backup', '/etc'), 'leave out --pat'),
            (('--glance-image-id', 'x', '--glance-image-name', 'y'), 'pass one of the'),
        ):
            assert said in here.run('backup', *options).only_error
        tar = Agent(here.store, env=alice.env)
        refused = tar.backup('/etc', '--glance-image-id', queued)
        assert 'glance-image-id belongs to engine glance' in refused.error
        assert here.store.is_untouched()
    finally:
        admin.call('POST', f'/{off}/actions/reactivate')


def test_all_images_of_a_project(store: S3Store, alice: Images, bob: Images) -> None:
    """N4: Freezer 19 exits with 0 and stores nothing that restores."""
    data = {
        alice.create(f'web {number}', content): content
        for number, content in enumerate((random_data(MIB), b'', b'some data'))
    }
    other = alice.create('db', b'database', os_hidden=True)
    alice.create('no data yet')
    foreign = bob.create('web of bob', b'x', visibility='community')
    agent = agent_on(store, alice)
    chosen = ('--glance-image-name-filter', 'web')
    made = agent.run('backup', *chosen, '--json').check()
    assert {each['glance_image_id'] for each in made.document['backups']} == {*data}
    assert made.err.count('Backed up image "web ') == 3
    whole = agent.run('backup', '--project-id', alice.project, '--json').check()
    found = [each['glance_image_id'] for each in whole.document['backups']]
    assert sorted(found) == sorted([*data, other])
    assert foreign not in found
    assert 'image "no data yet"' in whole.err
    assert 'is queued and has no data: left out' in whole.err
    broken = sorted(data)[0]
    alice.alter(broken, os_hash_value='1' * 128)
    failed = agent.run('backup', '--project-id', alice.project, '--json')
    assert failed.code == 1
    assert f'1 of 4 backups failed: {broken}: ' in failed.err
    assert list(failed.document['failed']) == [broken]
    assert len(failed.document['backups']) == 3
    listed = agent.run('info', '--json').check().document['backups']
    levels = {each['backup_name']: 0 for each in listed}
    for each in listed:
        levels[each['backup_name']] += len(each['levels'])
    assert levels == {
        f'bk/{image}': 1 + (image != broken) + (image != other)
        for image in (*data, other)
    }
    refused = agent.run('restore')
    assert 'pass --glance-image-id with one of' in refused.error
    for image, content in data.items():
        new = restored(agent.run('restore', '--glance-image-id', image, '--json'))
        assert alice.data(new) == content
    agent.run('admin', '--keep-last', '1').check()
    assert len(store.markers()) == 4


# Credentials


def test_application_credential(here: Agent, alice: Images) -> None:
    session = alice.cloud.session('alice')
    url = (
        f'{alice.cloud.auth_url}/users/{session.get_user_id()}/application_credentials'
    )
    body = {'application_credential': {'name': f'backup {time.time()}'}}
    made = session.post(url, json=body).json()['application_credential']
    image = alice.create('by application', b'data')
    agent = here.told(
        **{
            **dict.fromkeys(alice.env),
            'OS_AUTH_TYPE': 'v3applicationcredential',
            'OS_AUTH_URL': alice.cloud.auth_url,
            'OS_APPLICATION_CREDENTIAL_ID': made['id'],
            'OS_APPLICATION_CREDENTIAL_SECRET': made['secret'],
        }
    )
    agent.run('backup', '--glance-image-id', image, '--debug').check()
    new = restored(agent.run('restore', '--glance-image-id', image, '--json'))
    assert alice.data(new) == b'data'
    for log in Path(environment()['HOME']).rglob('*.log'):
        assert made['secret'] not in log.read_text()


def test_credentials_that_do_not_work(here: Agent, alice: Images) -> None:
    for changes, said in (
        ({'OS_PASSWORD': 'wrong'}, 'rejects the credentials'),
        (dict.fromkeys(alice.env), 'no credentials of an OpenStack cloud'),
        ({'OS_CLOUD': 'missing'}, 'Cloud missing was not found'),
        ({'OS_REGION_NAME': 'missing'}, 'the catalog has no service of type image'),
        ({'OS_AUTH_URL': 'http://127.0.0.1:1/v3'}, 'Connection refused; gave up after'),
    ):
        agent = here.told('--openstack-retry-budget', '1', **changes)
        assert said in agent.run('backup', '--glance-image-id', 'x').only_error
        assert here.store.is_untouched()


def test_configuration_of_a_cloud_that_is_wrong(tmp_path: Path) -> None:
    here = Agent(
        LocalStore(tmp_path / 'store'),
        options=(*ALL, '--glance-image-id', 'x', '--os-cloud', 'a'),
        env={'OS_CLIENT_CONFIG_FILE': str(tmp_path / 'clouds.yaml')},
    )
    auth = '{auth_url: "https://127.0.0.1:9", username: a, password: b}'
    for content, said in (
        ('clouds: 5', 'has a value of a wrong type'),
        ('clouds: {a: 5}', 'has a value of a wrong type'),
        ('clouds: {a: {auth: 5}}', 'has a value of a wrong type'),
        (f'clouds: {{a: {{cacert: /none, auth: {auth}}}}}', '/none: check OS_CACERT'),
    ):
        (tmp_path / 'clouds.yaml').write_text(content)
        assert said in here.run('backup').only_error


def test_nothing_of_openstack_is_imported_without_need(
    here: Agent, tmp_path: Path
) -> None:
    (tmp_path / 'file').write_text('content')
    script = (
        'import sys; from freezer.main import main\n'
        'try: main()\n'
        'except SystemExit as end: assert not end.code, end.code\n'
        'found = {name.partition(".")[0] for name in sys.modules}\n'
        'assert not found & {"openstack", "keystoneauth1", "requests"}, found\n'
    )
    store = here.store.options
    backup = (*store, '--path-to-backup', tmp_path / 'file', '--backup-name', 'x')
    for argv in (('--help',), backup, (*store, '--action', 'info')):
        words = [sys.executable, '-c', script, *map(str, argv)]
        done = subprocess.run(words, capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stderr
    missing = f'import sys; sys.modules["openstack"] = None\n{script}'
    words = [*map(str, (*ALL, *store, '--glance-image-id', 'x', '--backup-name', 'x'))]
    done = subprocess.run(
        [sys.executable, '-c', missing, *words],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert "pip install 'freezer[openstack]'" in done.stderr


# Faults


class Way:
    """A proxy on the way to Glance, and an agent that goes through it."""

    def __init__(self, proxy: Proxy, agent: Agent) -> None:
        self.proxy = proxy
        self.agent = agent

    def downloads(self) -> list[str]:
        """The range of each request for data."""
        return [
            request.headers.get('range', '')
            for request in self.proxy.requests
            if _downloads(request)
        ]

    def cut(self, *sizes: int, ending: Ending = Ending.CLOSE) -> None:
        """The first responses with data end after so many bytes."""
        left = list(sizes)

        def change(reply: Reply) -> Reply:
            if not left or reply.status >= 400:
                return reply
            cut = left.pop(0)
            return Reply(reply.status, reply.headers, reply.body, cut, ending)

        self.proxy.change(_downloads, change)


class Upload(Act):
    """The service gets other data than was sent."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def request(self, _request: Request) -> bytes:
        return self._body


def _downloads(request: Request) -> bool:
    return request.method == 'GET' and request.path.endswith('/file')


def _uploads(request: Request) -> bool:
    return request.method == 'PUT'


@pytest.fixture
def way(here: Agent, alice: Images, tmp_path: Path) -> Iterator[Way]:
    with Proxy(alice.glance.endpoint) as proxy:
        env = clouds_yaml(tmp_path, alice, proxy.endpoint)
        yield Way(proxy, here.told('--openstack-retry-budget', '20', **env))


@pytest.mark.parametrize('ending', [Ending.CLOSE, Ending.RESET])
def test_download_that_breaks_off_is_resumed(
    way: Way, alice: Images, ending: Ending
) -> None:
    data = random_data(5 * MIB)
    image = alice.create('large', data)
    # The second connection sends nothing at all.
    way.cut(2 * MIB + 7, 0, MIB, ending=ending)
    made = way.agent.run('backup', '--glance-image-id', image, '--json').check()
    ranges = way.downloads()
    assert len(ranges) == 4
    assert ranges[0] == ''
    # A connection that is reset may lose what it has received.
    starts = [int(each.removeprefix('bytes=').rstrip('-') or 0) for each in ranges[1:]]
    assert starts == sorted(starts)
    if ending is Ending.CLOSE:
        # What was received is not requested again, but for less than a block.
        assert MIB < starts[0] <= 2 * MIB + 7
        assert starts[0] == starts[1] < starts[2] < 4 * MIB
    assert made.document['retries'] == 3
    new = restored(way.agent.run('restore', '--glance-image-id', image, '--json'))
    assert alice.data(new) == data


def test_service_that_ignores_ranges_or_forgets_the_token(
    way: Way, alice: Images
) -> None:
    data = random_data(4 * MIB)
    image = alice.create('large', data)
    way.cut(MIB, 2 * MIB)
    seen: list[Request] = []

    def whole(reply: Reply) -> Reply:
        return reply.but(200, data) if reply.status == 206 else reply

    def second(request: Request) -> bool:
        if _downloads(request):
            seen.append(request)
        return _downloads(request) and len(seen) == 2

    way.proxy.change(_downloads, whole)
    expired = Answer(401, b'expired', headers={'WWW-Authenticate': 'Keystone uri="x"'})
    way.proxy.answer(second, expired)
    way.agent.run('backup', '--glance-image-id', image).check()
    assert len(seen) == 4
    # A new one was fetched.
    assert seen[1].headers['x-auth-token'] != seen[2].headers['x-auth-token']
    new = restored(way.agent.run('restore', '--glance-image-id', image, '--json'))
    assert alice.data(new) == data


def _fails(way: Way, image: str, said: str) -> None:
    failed = way.agent.run('backup', '--glance-image-id', image)
    assert said in failed.error
    assert way.agent.store.markers() == []
    assert way.agent.store.files() == {}


def test_downloads_that_fail(way: Way, alice: Images) -> None:
    data = random_data(4 * MIB)
    image = alice.create('large', data)
    way.agent = way.agent.told('--openstack-retry-budget', '2')
    flipped = bytes([data[0] ^ 1]) + data[1:]
    way.proxy.change(_downloads, lambda reply: reply.but(body=flipped))
    _fails(way, image, 'its sha512 differs from the recorded one')
    way.proxy.clear()
    way.proxy.change(_downloads, lambda reply: reply.but(body=data + b'x'))
    _fails(way, image, f'Glance sends more than the {len(data)} bytes')
    way.proxy.clear()
    way.cut(MIB)
    way.proxy.change(
        _downloads, lambda reply: reply.but(content_range=f'bytes 5-9/{len(data)}')
    )
    _fails(way, image, 'answered a request for the bytes from')
    way.proxy.clear()
    way.cut(MIB, *[0] * 1000)
    _fails(way, image, 'gave up after')
    way.proxy.clear()
    way.proxy.answer(_downloads, Answer(503, b'<html><body>busy</body></html>'))
    _fails(way, image, 'Glance: busy (HTTP 503); gave up after')
    way.proxy.clear()
    way.cut(MIB)
    deleted: list[Request] = []

    def delete(request: Request) -> bool:
        if _downloads(request) and 'range' in request.headers and not deleted:
            deleted.append(request)
            alice.call('DELETE', f'/{image}')
        return False

    way.proxy.before(delete, lambda: None)
    _fails(way, image, 'No image found with ID')


def test_restores_that_fail_leave_no_image(way: Way, alice: Images) -> None:
    data = random_data(3 * MIB)
    image = alice.create('large', data, protected=True)
    agent = way.agent.told('--glance-image-id', image)
    agent.run('backup', '--compression', 'none').check()
    before = alice.listed()

    def fails(said: str) -> None:
        failed = agent.run('restore')
        assert said in failed.error
        assert alice.listed() == before
        way.proxy.clear()

    def reset(rest: Rest) -> None:
        rest.read(MIB)
        rest.end(Ending.RESET)

    way.proxy.interrupt(_uploads, reset)
    fails('bytes were sent')
    way.proxy.act(_uploads, Upload(bytes(len(data))))
    fails('Glance stored it wrongly: its sha512 differs')
    way.proxy.answer(_uploads, Answer(401, b'expired'))
    fails('the token was rejected')
    way.proxy.answer(lambda each: each.method == 'PATCH', Answer(403, b'no tags'))
    fails('no tags (HTTP 403)')
    filler = alice.create('filler', b'some data')
    alice.alter(filler, size=QUOTA - 5 * MIB)
    before = alice.listed()
    fails('Image exceeds the storage quota')
    alice.call('DELETE', f'/{filler}')
    before = alice.listed()
    (path,) = (each for each in agent.store.files() if each.endswith('/data'))
    stored = agent.store.files()[path]
    agent.store.put(path, stored[:-1] + bytes([stored[-1] ^ 1]))
    fails('--action verify lists all damage')
    agent.store.put(path, stored)
    # A restore that is interrupted, and one that was killed.
    for number, count in ((signal.SIGTERM, 0), (signal.SIGKILL, 1)):
        held = way.proxy.hold(_uploads)
        with agent.start('restore') as process:
            held.wait()
            process.send(number)
            assert process.wait().code == -number
        assert len(alice.listed()) == len(before) + count
        way.proxy.clear()
    (left,) = alice.listed().keys() - before.keys()
    assert alice.record(left)['tags'] == [RESTORING]
    # Another restore may be running: only an old one is a leftover.
    restored(agent.run('restore', '--json'))
    assert left in alice.listed()
    alice.alter(left, updated_at='2026-01-01 00:00:00', status='queued')
    restored(agent.run('restore', '--json'))
    assert left not in alice.listed()


def test_wrong_passphrase(here: Agent, alice: Images, tmp_path: Path) -> None:
    image = alice.create('secret', random_data(MIB))
    right = private(tmp_path / 'right', 'right')
    wrong = private(tmp_path / 'wrong', 'wrong')
    agent = here.told('--glance-image-id', image)
    plain = ('--compression', 'none', '--encrypt-pass-file')
    agent.run('backup', *plain, right).check()
    before = alice.listed()
    failed = agent.run('restore', *plain, wrong)
    assert 'the passphrase is wrong, or the backup is damaged' in failed.error
    assert alice.listed() == before


# The documentation


def test_page(seaweedfs: Any, alice: Images, bob: Images, tmp_path: Path) -> None:
    alice.create('web1-root', random_data(2 * MIB), tags=['golden'])
    blocks = [
        block
        for block in pages.blocks(PAGE)
        if block.said.get('run by', '').endswith(Path(__file__).name)
    ]
    assert blocks
    store = {
        'ENDPOINT': seaweedfs.endpoint,
        'ACCESS_KEY': seaweedfs.access_key,
        'SECRET_KEY': seaweedfs.secret_key,
        **{key: str(value) for key, value in alice.env.items()},
    }
    seaweedfs.remove_bucket('backups')
    try:
        with Reader(tmp_path / 'web1', store, [Path(sys.executable).parent]) as reader:
            for block in blocks:
                reader.follow(block)
    finally:
        seaweedfs.remove_bucket('backups')
