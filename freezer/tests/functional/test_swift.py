"""The agent with storage swift, with Swift's own login and with Keystone."""

import configparser
import dataclasses
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from freezer.tests import agent, pages, trees
from freezer.tests.agent import ROOT, Agent, LocalStore, SwiftStore, missed
from freezer.tests.pages import Reader
from freezer.tests.proxy import Act, Proxy, Reply, Request
from freezer.tests.servers.cloud import DOMAIN_NAME, PASSWORD
from freezer.tests.servers.swift import SwiftS3
from freezer.tests.servers.swift_keystone import SwiftKeystone

PAGE = ROOT / 'doc' / 'source' / 'user' / 'swift.rst'
_HERE = 'freezer/tests/functional/test_swift.py'
SEGMENTS = ('--max-segment-size', '1M')


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / 'source'
    trees.make_tree(source, seed=5, files=30)
    (source / 'long').write_bytes(os.urandom(5 * 2**20))
    return source


@pytest.fixture
def store(swift: SwiftS3) -> Iterator[SwiftStore]:
    store = SwiftStore(swift)
    yield store
    swift.account.remove(store.bucket)


def test_levels_restore_and_are_removed(
    store: SwiftStore, source: Path, tmp_path: Path
) -> None:
    ours = Agent(store, options=SEGMENTS)
    ours.increment(source).check()
    before = trees.describe(source)
    (source / 'new').write_text('new')
    ours.increment(source).check()
    for level, state in enumerate((before, trees.describe(source))):
        target = tmp_path / f'level {level}'
        date = agent.iso(int(store.markers()[level].split('/')[4].partition('_')[2]))
        ours.restore(target, '--restore-from-date', date).check()
        assert missed(state, target) == []
    part = tmp_path / 'part'
    ours.restore(part, '--include', 'new').check()
    assert (part / 'new').read_text() == 'new'
    ours.run('verify', '--verify-data').check()
    assert ours.nameless.run('info', '--json').check().document['backups']
    ours.backup(source).check()
    ours.run('admin', '--keep-last', '1').check()
    folders = {'/'.join(path.split('/')[:4]) for path in store.sizes()}
    assert len(folders) == 2


def end_while_it_writes(store: SwiftStore, source: Path, how: signal.Signals) -> int:
    slow = Agent(store, options=['--upload-limit', '1000000', *SEGMENTS])
    with slow.start('backup', '--path-to-backup', source) as process:
        end = time.monotonic() + 60
        while not any('/segments/' in path for path in store.sizes()):
            assert time.monotonic() < end, process.output()
            time.sleep(0.05)
        process.send(how)
        return process.wait().code


def test_a_killed_agent_leaves_nothing_for_long(
    store: SwiftStore, source: Path
) -> None:
    end_while_it_writes(store, source, signal.SIGKILL)
    assert store.sizes()
    assert store.markers() == []
    Agent(store, 'next').backup(source).check()
    assert {path.split('/')[2] for path in store.sizes()} == {f'{agent.HOST}_next'}


def test_an_interrupted_agent_leaves_nothing(store: SwiftStore, source: Path) -> None:
    assert end_while_it_writes(store, source, signal.SIGTERM) != 0
    assert store.sizes() == {}


def test_leftovers_of_another_machine(
    store: SwiftStore, source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    end_while_it_writes(store, source, signal.SIGKILL)
    monkeypatch.setenv('HOME', str(tmp_path / 'another'))
    ours = Agent(store)
    ours.nameless.run('admin', '--swift-stale-after', '1d').check()
    assert store.sizes()
    ours.nameless.run('admin', '--swift-stale-after', '0', '--dry-run').check()
    assert store.sizes()
    ours.nameless.run('admin', '--swift-stale-after', '0').check()
    assert store.sizes() == {}


def test_swift_and_local_in_one_job(
    store: SwiftStore, source: Path, tmp_path: Path
) -> None:
    """A section has its own credentials, whatever the environment says."""
    local = LocalStore(tmp_path / 'local')
    job = configparser.ConfigParser(interpolation=None)
    names = {'backup_name': 'bk', 'hostname': agent.HOST, 'path_to_backup': source}
    job.read_dict(
        {
            'storage:swift': store.section,
            'storage:local': local.section,
            'default': names,
        }
    )
    path = tmp_path / 'job.conf'
    with path.open('w') as stream:
        job.write(stream)
    path.chmod(0o600)
    env = {'OS_USERNAME': 'nobody', 'OS_AUTH_URL': 'http://127.0.0.1:1'}
    agent.run('--config', path, '--action', 'backup', env=env).check()
    for each in (store, local):
        target = tmp_path / type(each).__name__
        Agent(each).restore(target).check()
        assert missed(trees.describe(source), target) == []
    job.remove_option('storage:swift', 'swift_password')
    with path.open('w') as stream:
        job.write(stream)
    line = agent.run('--config', path, '--action', 'backup').error
    assert 'storage swift needs swift-password in this section' in line


def test_mistakes_are_one_line(swift: SwiftS3, source: Path) -> None:
    def error(**changes: Any) -> str:
        return Agent(SwiftStore(swift, **changes)).run('info').only_error

    assert 'rejects the credentials' in error(swift_password='wrong')
    refused = error(swift_auth_url='http://127.0.0.1:1/v1.0', swift_retry_budget=0)
    assert 'Connection refused' in refused
    assert 'is none of public, internal' in error(swift_interface='private')
    assert 'is none of password, token' in error(swift_auth_type='kerberos')
    assert 'needs a scheme and a host' in error(swift_auth_url='swift.example.com')
    tls = swift.endpoint.replace('http', 'https') + '/auth/v1.0'
    assert 'does not speak TLS' in error(swift_auth_url=tls, swift_retry_budget=0)
    assert 'the container does not exist' in error()
    store = SwiftStore(swift, swift_create_container=False)
    line = Agent(store).backup(source).only_error
    assert 'swift-create-container is off' in line
    bare = agent.run('--action', 'info', '--storage', 'swift', '--container', 'c')
    assert 'storage swift needs swift-auth-url, swift-username' in bare.error
    assert 'OS_PASSWORD, OS_PROJECT_NAME in the environment' in bare.error


def test_a_user_who_may_only_read(store: SwiftStore, source: Path) -> None:
    Agent(store).backup(source).check()
    swift = store.server
    reader = Agent(store).told(
        OS_USERNAME=swift.readonly_access_key, OS_PASSWORD=swift.readonly_secret_key
    )
    reader.run('verify').check()
    line = reader.backup(source).only_error
    assert '403 Forbidden' in line
    assert ', tx' in line


def test_no_secret_is_shown(store: SwiftStore, source: Path) -> None:
    ours = Agent(store).told('--debug')
    done = ours.backup(source).check()
    log = Path(os.environ['HOME'], '.freezer', 'freezer.log').read_text()
    for text in (done.out, done.err, log, str(store.files())):
        assert store.server.secret_key not in text
        assert 'AUTH_tk' not in text


# -- Keystone -------------------------------------------------------------------------


@pytest.fixture
def keystone(swift_keystone: SwiftKeystone) -> Iterator[SwiftStore]:
    store = SwiftStore(swift_keystone)
    yield store
    swift_keystone.account.remove(store.bucket)


def _application_credential(server: SwiftKeystone) -> dict[str, str | None]:
    admin = server.cloud.admin
    user = admin.get_user_id()
    made = admin.post(
        f'{server.cloud.auth_url}/users/{user}/application_credentials',
        json={'application_credential': {'name': os.urandom(4).hex()}},
    ).json()['application_credential']
    return {
        'OS_AUTH_URL': server.cloud.auth_url,
        'OS_APPLICATION_CREDENTIAL_ID': made['id'],
        'OS_APPLICATION_CREDENTIAL_SECRET': made['secret'],
    }


def _token(server: SwiftKeystone) -> dict[str, str | None]:
    return {
        'OS_AUTH_URL': server.cloud.auth_url,
        'OS_TOKEN': server.cloud.session().get_token(),
        'OS_PROJECT_NAME': 'admin',
    }


def _trust(server: SwiftKeystone) -> dict[str, str | None]:
    cloud = server.cloud
    name = f'trustee-{os.urandom(4).hex()}'
    cloud.add_user(name)
    users = cloud.admin.get(f'{cloud.auth_url}/users?name={name}').json()['users']
    made = cloud.admin.post(
        f'{cloud.auth_url}/OS-TRUST/trusts',
        json={
            'trust': {
                'trustor_user_id': cloud.admin.get_user_id(),
                'trustee_user_id': users[0]['id'],
                'project_id': cloud.project_id,
                'impersonation': True,
                'roles': [{'name': 'admin'}],
            }
        },
    ).json()['trust']
    return {
        'OS_AUTH_URL': cloud.auth_url,
        'OS_USERNAME': name,
        'OS_PASSWORD': PASSWORD,
        'OS_TRUST_ID': made['id'],
    }


def _clouds_yaml(server: SwiftKeystone) -> dict[str, str | None]:
    path = Path(os.environ['HOME'], 'clouds.yaml')
    path.write_text(
        f"""
clouds:
  mine:
    region_name: RegionOne
    auth:
      auth_url: {server.cloud.auth_url}
      username: admin
      password: {PASSWORD}
      project_name: admin
      user_domain_name: {DOMAIN_NAME}
      project_domain_name: {DOMAIN_NAME}
"""
    )
    return {'OS_CLOUD': 'mine', 'OS_CLIENT_CONFIG_FILE': str(path)}


LOGINS: tuple[Callable[[SwiftKeystone], dict[str, str | None]], ...] = (
    *(_application_credential, _token, _trust, _clouds_yaml),
)


@pytest.mark.parametrize('login', LOGINS, ids=lambda login: login.__name__)
def test_logins_of_keystone(
    keystone: SwiftStore,
    source: Path,
    tmp_path: Path,
    login: Callable[[SwiftKeystone], dict[str, str | None]],
) -> None:
    server = keystone.server
    assert isinstance(server, SwiftKeystone)
    ours = Agent(keystone)
    ours.env = login(server)
    ours.backup(source).check()
    ours.restore(tmp_path / 'target').check()
    assert missed(trees.describe(source), tmp_path / 'target') == []


def test_keystone_by_a_configuration_file(
    keystone: SwiftStore, source: Path, tmp_path: Path
) -> None:
    lines = [
        f'{key.removeprefix("swift_")} = {value}'
        for key, value in keystone.given.items()
    ]
    config = tmp_path / 'freezer.conf'
    config.write_text('[swift]\n' + '\n'.join(lines) + '\n')
    config.chmod(0o600)
    ours = Agent(keystone).told('--config-file', config)
    ours.env = {}
    ours.backup(source).check()


def test_mistakes_with_keystone(swift_keystone: SwiftKeystone) -> None:
    def error(**changes: Any) -> str:
        return Agent(SwiftStore(swift_keystone, **changes)).run('info').only_error

    assert 'rejects the credentials' in error(swift_password='wrong')
    assert 'no object-store in region Nowhere' in error(swift_region_name='Nowhere')
    assert 'rejects the credentials' in error(swift_project_name='nobody')
    dead = error(swift_auth_url='http://127.0.0.1:1/v3', swift_retry_budget=0)
    assert dead.startswith('Error: log in at http://127.0.0.1:1/v3')


class _Revoke(Act):
    """The token of the request is revoked before it arrives."""

    def __init__(self, server: SwiftKeystone) -> None:
        self._server = server

    def request(self, request: Request) -> bytes | None:
        cloud = self._server.cloud
        token = request.headers['x-auth-token']
        cloud.admin.delete(
            f'{cloud.auth_url}/auth/tokens', headers={'X-Subject-Token': token}
        )
        return None

    def reply(self, reply: Reply) -> Reply:
        return reply


def test_a_token_that_is_rejected_in_the_middle(
    keystone: SwiftStore, source: Path, tmp_path: Path
) -> None:
    server = keystone.server
    assert isinstance(server, SwiftKeystone)
    url = f'/v1/AUTH_{server.cloud.project_id}'
    with Proxy(server.endpoint) as proxy:
        tokens = set()
        fired: list[bool] = []

        def third_segment(request: Request) -> bool:
            tokens.add(request.headers.get('x-auth-token'))
            found = request.path.endswith('/segments/00000002') and not fired
            fired.extend([True] * found)
            return found

        proxy.act(third_segment, _Revoke(server))
        given = {'swift_storage_url': proxy.endpoint + url}
        store = SwiftStore(server, **given)
        store.bucket, store.prefix = keystone.bucket, keystone.prefix
        store.container = keystone.container
        store.options = keystone.options
        ours = Agent(store, options=SEGMENTS)
        ours.backup(source).check()
        assert fired
        assert len(tokens) == 2
    Agent(keystone).restore(tmp_path / 'target').check()
    assert missed(trees.describe(source), tmp_path / 'target') == []


class _Cloud(Reader):
    """Knows the cloud of the page."""

    def __init__(self, server: SwiftKeystone, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._server = server

    def _there(self, text: str) -> str:
        cloud = self._server.cloud
        text = text.replace('https://keystone.example.com:5000/v3', cloud.auth_url)
        text = text.replace('OS_USERNAME=backup', 'OS_USERNAME=admin')
        text = text.replace('OS_PASSWORD=secret', f'OS_PASSWORD={PASSWORD}')
        text = text.replace('OS_PROJECT_NAME=backups', 'OS_PROJECT_NAME=admin')
        return super()._there(text)

    def _here(self, text: str) -> str:
        # There is no TLS here.
        plain = (
            f'| connection | note   | {"plain HTTP: traffic is not encrypted":55}|\n'
            f'|            |        | {"Hint: an endpoint with https://":55}|\n'
        )
        checked = f'| connection | ok     | {"https, certificate checked":55}|\n'
        return super()._here(text.replace(plain, checked))


def test_the_page(swift_keystone: SwiftKeystone, tmp_path: Path) -> None:
    todo = [
        dataclasses.replace(
            block, said={k: v for k, v in block.said.items() if k != 'run by'}
        )
        for block in pages.blocks(PAGE)
        if block.said.get('run by') == _HERE
    ]
    assert len(todo) == 3
    machine, programs = tmp_path / 'web1', tmp_path / 'bin'
    (machine / 'etc').mkdir(parents=True)
    (machine / 'etc' / 'hosts').write_text('127.0.0.1 localhost\n')
    programs.mkdir()
    script = programs / 'freezer-agent'
    script.write_text(f'#!/bin/sh\nexec {shlex.join(agent.command())} "$@"\n')
    script.chmod(0o755)
    nowhere = {'ENDPOINT': 'http://nowhere', 'ACCESS_KEY': '', 'SECRET_KEY': ''}
    try:
        with _Cloud(swift_keystone, machine, nowhere, [programs]) as reader:
            for block in todo:
                reader.follow(block)
    finally:
        swift_keystone.account.remove('backups')
