"""The scheduler's options, private directories, and locks."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from freezer.exceptions import ConfigError
from freezer.scheduler import config, options, private
from freezer.scheduler.config import Coordination, Settings
from freezer.scheduler.coordination import backend
from freezer.scheduler.documents.document import Document, parse


def load(*argv: str, **environ: str) -> Settings:
    return config.load(argv, environ)


@pytest.mark.parametrize(
    'argv',
    [
        ('start', '--scheduler-no-api', '--scheduler-interval', '5'),
        ('--no-api', '--interval', '5', 'start'),
        ('--no_api', 'start', '--interval=5'),
        ('-n', '-i', '5', 'start'),
        ('-ni5', 'start'),
        ('start', '-i5', '-n'),
    ],
)
def test_spellings(argv: tuple[str, ...]) -> None:
    settings = load(*argv)
    assert (settings.command, settings.no_api, settings.interval) == ('start', True, 5)


@pytest.mark.parametrize('option', ['-f', '--conf', '--jobs-dir', '--jobs_dir'])
def test_jobs_dir(option: str) -> None:
    assert load('start', option, '/jobs').jobs_dir == Path('/jobs')
    assert load('start', FREEZER_SCHEDULER_CONF_D='/env').jobs_dir == Path('/env')
    assert load('start').jobs_dir == Path('/etc/freezer/scheduler/conf.d')


def test_option_names_of_freezer_19() -> None:
    settings = load(
        *('start', '--client-id', 'c', '--no-daemon', '--insecure', '--disable-exec'),
        *('--concurrent-jobs', '4', '--supported-actions', 'backup,info'),
        *('--supported_storages', 's3'),
    )
    assert (settings.client_id, settings.concurrent_jobs) == ('c', 4)
    assert settings.no_daemon
    assert settings.insecure
    assert settings.disable_exec
    assert settings.supported['actions'] == {'backup', 'info'}
    assert settings.supported['storages'] == {'s3'}
    assert settings.supported['modes'] == frozenset()


def test_files_before_or_after_options() -> None:
    for argv in (
        ('validate', '--json', 'a', 'b'),
        ('validate', 'a', 'b', '--json'),
        ('--json', 'validate', '-i', '3', 'a', '--debug', 'b'),
    ):
        settings = load(*argv)
        assert settings.files == ('a', 'b')
        assert settings.json


@pytest.mark.parametrize(
    'argv, text',
    [
        (('start', 'x'), 'takes no file'),
        (('run',), 'needs a job file'),
        (('run', 'a', 'b'), 'only one job file'),
        (('validate',), 'needs a job file'),
        (('begin',), 'begin is not one of start, stop, '),
        (('start', '-i', '0'), '--scheduler-interval: '),
    ],
)
def test_invalid_command_lines(argv: tuple[str, ...], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load(*argv)


def test_malformed_value_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('OS_SCHEDULER__INTERVAL', 'x')
    with pytest.raises(ConfigError, match='OS_SCHEDULER__INTERVAL: scheduler-interval'):
        load('start')


@pytest.mark.parametrize('argv', [(), ('start', '--nonsense')])
def test_parse_errors_are_one_line(
    argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        load(*argv)
    assert caught.value.code == 2
    assert capsys.readouterr().err.count('\n') == 1


def test_scheduler_conf_as_freezer_19_read_it() -> None:
    folder = Path.home() / '.freezer'
    folder.mkdir()
    (folder / 'scheduler.conf').write_text(
        '[scheduler]\nno_api = true\njobs_dir = /from/file\ninterval = 7\n'
        '[capabilities]\nsupported_actions = backup\n'
        '[service_auth]\npassword = secret\n'
    )
    settings = load('start', '--interval', '9')
    assert settings.no_api
    assert settings.jobs_dir == Path('/from/file')
    assert settings.interval == 9
    assert settings.supported['actions'] == {'backup'}


def test_unsupported_options_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / 'scheduler.conf'
    path.write_text('[scheduler]\nenable_v1_api = true')
    with pytest.raises(ConfigError, match='not supported'):
        load('start', '--config-file', str(path))


@pytest.mark.parametrize(
    'uid, xdg, runtime, state',
    [
        (0, '/run/user/7', '/run/freezer-scheduler', '/var/lib/freezer-scheduler'),
        (7, '/run/user/7', '/run/user/7/freezer-scheduler', '~/.freezer/scheduler'),
        (7, '', '~/.freezer/run', '~/.freezer/scheduler'),
    ],
)
def test_default_directories(
    monkeypatch: pytest.MonkeyPatch, uid: int, xdg: str, runtime: str, state: str
) -> None:
    monkeypatch.setattr(os, 'geteuid', lambda: uid)
    settings = load('start', XDG_RUNTIME_DIR=xdg)
    assert settings.runtime_dir == Path(runtime).expanduser()
    assert settings.state_dir == Path(state).expanduser()


@pytest.mark.parametrize('group', options.list_opts(), ids=lambda group: group[0])
def test_options_have_help(group: Any) -> None:
    for option in group[1]:
        assert option.help.endswith('.')
        assert option.secret == (option.name in ('password', 'token', 'backend-url'))


def job(*actions: dict[str, Any], **top: Any) -> Document:
    text = json.dumps(
        {'job_actions': [{'freezer_action': each} for each in actions], **top}
    )
    return parse('/a.conf', text.encode(), 'a')


BACKUP = {'storage': 's3', 'container': 'b', 'path_to_backup': '/etc'}
EXEC = {'action': 'exec', 'command': 'true'}


@pytest.mark.parametrize(
    'option, document, reason',
    [
        ('--supported-actions=backup', job(BACKUP), ''),
        ('--supported-actions=backup', job(BACKUP, EXEC), 'needs exec'),
        ('--supported-modes=fs', job(BACKUP), ''),
        ('--supported-modes=mysql', job(BACKUP), 'needs fs'),
        ('--supported-engines=rsync', job(BACKUP), 'needs tar'),
        ('--supported-storages=local', job(BACKUP), 'needs s3'),
        ('--supported-storages=local', job(EXEC), ''),
        ('--client-id=c', job(EXEC, client_id='d'), 'belongs to client d'),
        ('--client-id=c', job(EXEC, client_id='c'), ''),
        ('--client-id=c', job(EXEC), ''),
        ('--debug', job(EXEC, client_id='d'), ''),
    ],
)
def test_skip_reason(option: str, document: Document, reason: str) -> None:
    found = load('start', option).skip_reason(document)
    assert bool(found) == bool(reason)
    assert reason in found


def test_d31_exec_is_rejected_if_disabled() -> None:
    assert load('start').reject_reason(job(EXEC)) == ''
    assert 'exec' in load('start', '--disable-exec').reject_reason(job(BACKUP, EXEC))
    assert load('start', '--disable-exec').reject_reason(job(BACKUP)) == ''


@pytest.mark.parametrize(
    'name', ['on_success_command', 'on-failure-command', 'encrypt_pass_command']
)
def test_other_commands_are_rejected_if_exec_is_disabled(name: str) -> None:
    document = job({**BACKUP, name: 'touch /tmp/x'})
    assert load('start').reject_reason(document) == ''
    found = load('start', '--disable-exec').reject_reason(document)
    assert name.replace('-', '_') in found
    unset = job({**BACKUP, name: 'None'})
    assert load('start', '--disable-exec').reject_reason(unset) == ''


def test_private_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    created = private.directory(tmp_path / 'a' / 'b')
    assert created.stat().st_mode & 0o777 == 0o700
    assert private.directory(created) == created
    created.chmod(0o770)
    with pytest.raises(ConfigError, match='writable by other users'):
        private.directory(created)
    (tmp_path / 'link').symlink_to(tmp_path / 'a')
    with pytest.raises(ConfigError, match='not a directory'):
        private.directory(tmp_path / 'link')
    # d36: another user made it.
    monkeypatch.setattr(os, 'geteuid', lambda: os.getuid() + 1)
    with pytest.raises(ConfigError, match='belongs to another user'):
        private.directory(tmp_path / 'a')


def test_lock_is_released_with_its_last_process(tmp_path: Path) -> None:
    path = tmp_path / 'lock'
    assert not private.is_locked(path)
    lock = private.Lock(path)
    assert lock.take()
    assert path.stat().st_mode & 0o777 == 0o600
    assert private.is_locked(path)
    other = private.Lock(path)
    assert not other.take()
    child = subprocess.Popen(
        [sys.executable, '-c', 'input()'], stdin=subprocess.PIPE, pass_fds=(lock.fd,)
    )
    lock.close()
    # Like an agent whose scheduler was killed.
    assert private.is_locked(path)
    assert not other.take()
    child.communicate(b'\n')
    assert not private.is_locked(path)
    assert other.take()
    other.close()


def test_lock_that_is_a_symlink(tmp_path: Path) -> None:
    (tmp_path / 'target').write_text('x')
    (tmp_path / 'lock').symlink_to(tmp_path / 'target')
    with pytest.raises(ConfigError):
        private.Lock(tmp_path / 'lock')


def test_log_paths_are_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load('start', '--log-file', 'a$b').conf.log_file == f'{tmp_path}/a$b'
    both = load('start', '--log-file', 'a', '--log-dir', 'd').conf
    assert (both.log_file, both.log_dir) == ('a', f'{tmp_path}/d')


CREDENTIALS = {
    'OS_AUTH_URL': 'http://k/v3',
    'OS_USERNAME': 'u',
    'OS_PASSWORD': 'pw/secret',
    'OS_PROJECT_NAME': 'p',
    'OS_ENDPOINT_TYPE': 'internalURL',
    'OS_CACERT': '/ca.pem',
    'OS_BACKUP_URL': 'http://b',
}


def test_credentials_in_the_environment() -> None:
    service = load('start', **CREDENTIALS | {'OS_PROJECT_NAME': ''}).service
    assert service is not None
    service.check()
    service = load('start', **CREDENTIALS).service
    assert service is not None
    service.check()
    assert (service.auth_url, service.username) == ('http://k/v3', 'u')
    assert (service.password, service.project_name) == ('pw/secret', 'p')
    assert (service.endpoint_type, service.cacert) == ('internal', '/ca.pem')
    assert service.backup_url == 'http://b'
    # Without freezer-api they are ignored.
    for argv in (('start', '-n'), ('status',), ('validate', 'a'), ('run', 'a')):
        assert load(*argv, **CREDENTIALS).service is None


@pytest.mark.parametrize(
    'option', ['--service_auth-username', '--os-username', '--os_username']
)
def test_credentials_on_the_command_line(option: str) -> None:
    service = load('start', option, 'other', **CREDENTIALS).service
    assert service is not None
    assert service.username == 'other'


@pytest.mark.parametrize('missing', ['OS_AUTH_URL', 'OS_USERNAME', 'OS_PASSWORD'])
def test_incomplete_credentials(missing: str) -> None:
    environ = CREDENTIALS | {missing: ''}
    service, token = (
        load('start', **environ | more).service for more in ({}, {'OS_TOKEN': 't'})
    )
    assert service is not None
    assert token is not None
    with pytest.raises(ConfigError, match='freezer-api needs credentials'):
        service.check()
    if missing != 'OS_AUTH_URL':
        token.check()


def test_unknown_endpoint_type() -> None:
    with pytest.raises(ConfigError, match='endpoint-type'):
        load('start', **CREDENTIALS | {'OS_ENDPOINT_TYPE': 'x'})


def test_agents_do_not_get_the_credentials() -> None:
    more = {
        'OS_DEFAULT__HOSTNAME': 'h',
        'OS_SERVICE_AUTH__PASSWORD': 'pw/secret',
        'OS_TOKEN': 't',
        'OS_TRUST_ID': 't',
        'HOME': '/home',
    }
    found = load('start', **CREDENTIALS, **more).environ
    assert found == {'OS_DEFAULT__HOSTNAME': 'h', 'HOME': '/home'}
    found = load('start', '--insecure', **CREDENTIALS).environ
    assert found == {'OS_DEFAULT__INSECURE': 'true'}
    # Without freezer-api they are the operator's, and may be meant for agents.
    assert load('start', '-n', **CREDENTIALS).environ == CREDENTIALS


def test_secrets_are_not_in_repr() -> None:
    settings = load('start', **CREDENTIALS)
    assert 'pw/secret' not in repr(settings.service)
    assert 'pw/secret' not in repr(dataclasses.replace(settings, conf=None))


OPENSTACK_ANSIBLE = """
[DEFAULT]
client_id = node1
conf = /srv/jobs
enable_v1_api = False

[scheduler]
centralized_scheduler = True
client_id = central
jobs_dir = /srv/jobs
concurrent_jobs = 3

[service_auth]
insecure = False
os_auth_url = http://k/v3
os_endpoint_type = internalURL
os_password = pw/secret
os_project_domain_name = d
os_project_name = p
os_region_name = r
os_user_domain_name = e
os_username = u
"""


def load_file(path: Path, text: str, *argv: str) -> Settings:
    path.write_text(text)
    return load('start', '--config-file', str(path), *argv)


def test_scheduler_conf_of_openstack_ansible(tmp_path: Path) -> None:
    settings = load_file(tmp_path / 'scheduler.conf', OPENSTACK_ANSIBLE)
    assert (settings.client_id, settings.concurrent_jobs) == ('central', 3)
    assert settings.jobs_dir == Path('/srv/jobs')
    service = settings.service
    assert service is not None
    service.check()
    assert dataclasses.asdict(service) == dict.fromkeys(CREDENTIALS_UNSET, '') | {
        'auth_url': 'http://k/v3',
        'endpoint_type': 'internal',
        'password': 'pw/secret',
        'project_domain_name': 'd',
        'project_name': 'p',
        'region_name': 'r',
        'user_domain_name': 'e',
        'username': 'u',
    }


CREDENTIALS_UNSET = [each.dest for each in options.SERVICE_AUTH_OPTS]


@pytest.mark.parametrize('option', options.SERVICE_AUTH_OPTS, ids=lambda o: o.name)
@pytest.mark.parametrize('form', ['{}', 'os-{}', '{}_', 'os-{}_'])
def test_spellings_of_credentials(option: Any, form: str, tmp_path: Path) -> None:
    name = form.format(option.name)
    name = name.removesuffix('_').replace('-', '_') if name.endswith('_') else name
    text = f'[service_auth]\n{name} = public\n'
    service = load_file(tmp_path / 'scheduler.conf', text).service
    assert service is not None
    assert getattr(service, option.dest) == 'public'


@pytest.mark.parametrize('key', ['client-id', 'client_id'])
@pytest.mark.parametrize('group', ['DEFAULT', 'scheduler'])
def test_spellings_in_a_file(group: str, key: str, tmp_path: Path) -> None:
    text = f'[{group}]\n{key} = x\n'
    assert load_file(tmp_path / 'scheduler.conf', text).client_id == 'x'


@pytest.mark.parametrize('group', ['DEFAULT', 'scheduler', 'service_auth'])
@pytest.mark.parametrize('key', ['enable_v1_api', 'enable-v1-api'])
def test_version_1_of_the_api_in_any_group(
    group: str, key: str, tmp_path: Path
) -> None:
    path = tmp_path / 'scheduler.conf'
    load_file(path, f'[{group}]\n{key} = false\n')
    with pytest.raises(ConfigError, match='enable_v1_api is not supported'):
        load_file(path, f'[{group}]\n{key} = true\n')


def test_coordination_as_freezer_19_read_it(tmp_path: Path) -> None:
    path = tmp_path / 'scheduler.conf'
    text = '[coordination]\nbackend_url = redis://h:6379\n'
    with pytest.raises(ConfigError, match='needs --scheduler-client-id'):
        load_file(path, text)
    settings = load_file(path, f'{text}[scheduler]\nclient_id = web\n')
    shared = settings.coordination
    assert shared is not None
    assert shared.backend_url == 'redis://h:6379'
    assert shared.name() == 'freezer:web'
    assert shared.name('a') == 'freezer:web:a'
    assert 'redis' not in repr(settings.coordination)


def test_names_of_locks_differ() -> None:
    names = {
        Coordination(backend_url='', prefix=prefix, client_id=client).name(job)
        for prefix, client, job in [
            ('a', 'b', 'c'),
            ('a:b', 'c', ''),
            ('a', 'b:c', ''),
            ('a', 'b', ''),
            ('a', 'b', 'c' * 300),
            ('a', 'b', 'ä/c'),
        ]
    }
    assert len(names) == 6
    assert all(len(name) <= 200 and '/' not in name for name in names)


@pytest.mark.parametrize(
    'url',
    [
        *('etcd://h', 'redis://h?lock_timeout=4', 'file:///x?timeout=a'),
        *('redis://h:x', 'redis://[h', 'redis', 'file://x', 'file://x/y', 'file:x'),
    ],
)
def test_malformed_backends(url: str) -> None:
    with pytest.raises(ConfigError, match=r'\[coordination\] backend-url'):
        backend.check(url)


def test_coordination_without_pidfds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdog could not follow its agents."""
    monkeypatch.delattr(os, 'pidfd_open')
    with pytest.raises(ConfigError, match='needs Linux'):
        backend.check(f'file://{tmp_path / "locks"}')


def test_the_lifetime_of_locks() -> None:
    assert backend.lifetime('redis://h') == 60
    assert backend.lifetime('redis://h?lock_timeout=7') == 7
    assert backend.lifetime('file:///x?timeout=8') == 8


def test_insecure_beside_the_credentials(tmp_path: Path) -> None:
    path = tmp_path / 'scheduler.conf'
    assert load_file(path, '[service_auth]\ninsecure = true\n').insecure
    text = '[scheduler]\ninsecure = false\n[service_auth]\ninsecure = true\n'
    assert not load_file(path, text).insecure
