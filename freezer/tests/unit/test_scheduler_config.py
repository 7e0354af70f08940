"""The scheduler's options, private directories, and locks."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from freezer.exceptions import ConfigError
from freezer.scheduler import config, document, options, private
from freezer.scheduler.config import Settings


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
def test_the_directory_of_jobs(option: str) -> None:
    assert load('start', option, '/jobs').jobs_dir == Path('/jobs')
    assert load('start', FREEZER_SCHEDULER_CONF_D='/env').jobs_dir == Path('/env')
    assert load('start').jobs_dir == Path('/etc/freezer/scheduler/conf.d')


def test_every_old_spelling_of_freezer_19() -> None:
    settings = load(
        *('start', '--client-id', 'c', '--no-daemon', '--insecure', '--disable-exec'),
        *('--concurrent-jobs', '4', '--supported-actions', 'backup,info'),
        *('--supported_storages', 's3'),
    )
    assert settings.client_id == 'c'
    assert settings.no_daemon
    assert settings.insecure
    assert settings.disable_exec
    assert settings.concurrent_jobs == 4
    assert settings.supported['actions'] == {'backup', 'info'}
    assert settings.supported['storages'] == {'s3'}
    assert settings.supported['modes'] == frozenset()


def test_files_stand_before_or_behind_options() -> None:
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
        (('run',), 'needs one file'),
        (('run', 'a', 'b'), 'needs one file'),
        (('validate',), 'needs a file'),
    ],
)
def test_files_where_they_belong(argv: tuple[str, ...], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load(*argv)


@pytest.mark.parametrize(
    'argv', [(), ('start', '--nonsense'), ('begin',), ('start', '-i', '0')]
)
def test_what_cannot_be_parsed_is_a_line(
    argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, ConfigError)):
        load(*argv)
    said = capsys.readouterr().err
    assert said.count('\n') <= 1


def test_no_parser_ends_it_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise SystemExit  # as oslo.config 9 does

    monkeypatch.setattr(cfg.ConfigOpts, '__call__', refuse)
    with pytest.raises(SystemExit) as caught:
        load('start')
    assert caught.value.code == 1


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


@pytest.mark.parametrize(
    'section',
    [
        '[scheduler]\nenable_v1_api = true',
        '[coordination]\nbackend_url = etcd://',
    ],
)
def test_what_is_not_there_yet_is_refused(section: str, tmp_path: Path) -> None:
    path = tmp_path / 'scheduler.conf'
    path.write_text(section)
    with pytest.raises(ConfigError, match='does not have that option'):
        load('start', '--config-file', str(path))


def test_where_things_are() -> None:
    home = Path('/home/x/.freezer')
    xdg = {'XDG_RUNTIME_DIR': '/run/user/7'}
    assert config.runtime_dir(True, home, xdg) == Path('/run/freezer-scheduler')
    assert config.runtime_dir(False, home, xdg) == Path('/run/user/7/freezer-scheduler')
    assert config.runtime_dir(False, home, {}) == home / 'run'
    assert config.state_dir(True, home) == Path('/var/lib/freezer-scheduler')
    assert config.state_dir(False, home) == home / 'scheduler'


@pytest.mark.parametrize('group', options.list_opts(), ids=lambda group: group[0])
def test_options_have_help(group: Any) -> None:
    for option in group[1]:
        assert option.help.endswith('.')
        assert option.secret == (option.name in ('password', 'token'))


def job(*actions: dict[str, Any], **top: Any) -> document.Document:
    text = json.dumps(
        {'job_actions': [{'freezer_action': each} for each in actions], **top}
    )
    return document.parse('/a.conf', text.encode(), 'a')


BACKUP = {'storage': 's3', 'container': 'b', 'path_to_backup': '/etc'}
EXEC = {'action': 'exec', 'command': 'true'}


@pytest.mark.parametrize(
    'option, made, left_out',
    [
        ('--supported-actions=backup', job(BACKUP), ''),
        ('--supported-actions=backup', job(BACKUP, EXEC), 'needs exec'),
        ('--supported-modes=fs', job(BACKUP), ''),
        ('--supported-modes=mysql', job(BACKUP), 'needs fs'),
        ('--supported-engines=rsync', job(BACKUP), 'needs tar'),
        ('--supported-storages=local', job(BACKUP), 'needs s3'),
        ('--supported-storages=local', job(EXEC), ''),
        ('--client-id=c', job(EXEC, client_id='d'), 'is for client d'),
        ('--client-id=c', job(EXEC, client_id='c'), ''),
        ('--client-id=c', job(EXEC), ''),
        ('--debug', job(EXEC, client_id='d'), ''),
    ],
)
def test_jobs_that_are_left_out(
    option: str, made: document.Document, left_out: str
) -> None:
    said = load('start', option).leaves_out(made)
    assert bool(said) == bool(left_out)
    assert left_out in said


def test_d31_exec_is_refused_where_it_is_disabled() -> None:
    assert load('start').refuses(job(EXEC)) == ''
    assert 'exec' in load('start', '--disable-exec').refuses(job(BACKUP, EXEC))
    assert load('start', '--disable-exec').refuses(job(BACKUP)) == ''


def test_a_private_directory(tmp_path: Path) -> None:
    made = private.directory(tmp_path / 'a' / 'b')
    assert made.stat().st_mode & 0o777 == 0o700
    assert private.directory(made) == made
    made.chmod(0o770)
    with pytest.raises(ConfigError, match='others can write'):
        private.directory(made)
    (tmp_path / 'link').symlink_to(tmp_path / 'a')
    with pytest.raises(ConfigError, match='not a directory of its own'):
        private.directory(tmp_path / 'link')


def test_d36_a_directory_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private.directory(tmp_path / 'a')
    monkeypatch.setattr(os, 'geteuid', lambda: os.getuid() + 1)
    with pytest.raises(ConfigError, match='belongs to another user'):
        private.directory(tmp_path / 'a')


def test_a_lock_ends_with_its_last_process(tmp_path: Path) -> None:
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
    # As an agent whose scheduler was killed.
    assert private.is_locked(path)
    assert not other.take()
    child.communicate(b'\n')
    assert not private.is_locked(path)
    assert other.take()
    other.close()


def test_a_lock_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / 'target').write_text('x')
    (tmp_path / 'lock').symlink_to(tmp_path / 'target')
    with pytest.raises(ConfigError):
        private.Lock(tmp_path / 'lock')


def test_the_log_stays_where_it_was_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load('start', '--log-file', 'a$b').conf.log_file == f'{tmp_path}/a$b'
    both = load('start', '--log-file', 'a', '--log-dir', 'd').conf
    assert (both.log_file, both.log_dir) == ('a', f'{tmp_path}/d')


CLOUD = {
    'OS_AUTH_URL': 'http://k/v3',
    'OS_USERNAME': 'u',
    'OS_PASSWORD': 'pw/secret',
    'OS_PROJECT_NAME': 'p',
    'OS_ENDPOINT_TYPE': 'internalURL',
    'OS_CACERT': '/ca.pem',
    'OS_BACKUP_URL': 'http://b',
}


def test_credentials_of_the_environment() -> None:
    service = load('start', **CLOUD).service
    assert service is not None
    service.check()
    assert (service.auth_url, service.username) == ('http://k/v3', 'u')
    assert (service.password, service.project_name) == ('pw/secret', 'p')
    assert (service.endpoint_type, service.cacert) == ('internal', '/ca.pem')
    assert service.backup_url == 'http://b'
    # Where nobody is asked, they are none of our business.
    for argv in (('start', '-n'), ('status',), ('validate', 'a'), ('run', 'a')):
        assert load(*argv, **CLOUD).service is None


@pytest.mark.parametrize(
    'option', ['--service_auth-username', '--os-username', '--os_username']
)
def test_credentials_of_the_command_line(option: str) -> None:
    service = load('start', option, 'other', **CLOUD).service
    assert service is not None
    assert service.username == 'other'


@pytest.mark.parametrize(
    'missing, whole',
    [
        ('OS_AUTH_URL', False),
        ('OS_USERNAME', False),
        ('OS_PASSWORD', False),
        ('OS_PROJECT_NAME', True),
    ],
)
def test_credentials_that_are_not_whole(missing: str, whole: bool) -> None:
    environ = {name: value for name, value in CLOUD.items() if name != missing}
    service = load('start', **environ).service
    assert service is not None
    if whole:
        service.check()
        return
    with pytest.raises(ConfigError, match='freezer-api needs credentials'):
        service.check()
    token = load('start', **environ, OS_TOKEN='t').service
    assert token is not None
    if missing != 'OS_AUTH_URL':
        token.check()


def test_an_endpoint_type_that_is_none() -> None:
    with pytest.raises(ConfigError, match='endpoint-type'):
        load('start', **CLOUD | {'OS_ENDPOINT_TYPE': 'x'})


def test_agents_do_not_get_credentials() -> None:
    more = {
        'OS_DEFAULT__HOSTNAME': 'h',
        'OS_SERVICE_AUTH__PASSWORD': 'pw/secret',
        'OS_TOKEN': 't',
        'OS_TRUST_ID': 't',
        'HOME': '/home',
    }
    found = load('start', **CLOUD, **more).environ
    assert found == {'OS_DEFAULT__HOSTNAME': 'h', 'HOME': '/home'}
    assert load('start', '--insecure', **CLOUD).environ == {
        'OS_DEFAULT__INSECURE': 'true'
    }
    # Without freezer-api they are the operator's own.
    assert load('start', '-n', **CLOUD).environ == CLOUD


def test_secrets_are_not_shown() -> None:
    settings = load('start', **CLOUD)
    assert 'pw/secret' not in repr(settings.service)
    assert 'pw/secret' not in repr(dataclasses.replace(settings, conf=None))
