"""The agent's configuration: where values come from, and what is refused."""

import datetime
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from freezer import agent
from freezer.common import config
from freezer.exceptions import ConfigError
from freezer.storage.exceptions import StorageConfigError, Unreachable
from freezer.storage.local.storage import LocalStorage
from freezer.storage.s3 import S3Storage
from freezer.utils.types import Date, Size

SECRET = 'sk/very+secret'
LOCAL = ('--storage', 'local', '--container', '/backups')
S3 = ('--storage', 's3', '--container', 'bucket/prefix')
KEYS = ('--access-key', 'AK', '--secret-key', SECRET, '--endpoint', 'http://s3')


pytestmark = pytest.mark.usefixtures('kept_logging')


Job = Callable[[str], tuple[str, str]]
Environ = Callable[..., None]


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> Environ:
    """Set variables."""

    def set_all(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


def writer(option: str, path: Path) -> Job:
    """Writes a file; the arguments that name it."""

    def write(text: str) -> tuple[str, str]:
        path.write_text(text)
        return option, str(path)

    return write


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return writer('--config', tmp_path / 'job.ini')


@pytest.fixture
def oslo(tmp_path: Path) -> Job:
    """A file of oslo.config."""
    return writer('--config-file', tmp_path / 'freezer.conf')


def load(*argv: str) -> config.AgentConfig:
    return config.load(argv, os.environ)


def refused(*argv: str) -> str:
    """The error of a configuration that is refused."""
    with pytest.raises(ConfigError) as caught:
        load(*argv)
    return str(caught.value)


def refused_by_driver(*argv: str) -> str:
    """The error of the last storage, which is refused when it is made."""
    driver, settings = load(*argv).storages[-1]
    with pytest.raises(StorageConfigError) as caught:
        driver.from_settings(settings)
    return caught.value.message


# Where a value comes from


# option -> values of the command line, a job file, the environment and a file of
# oslo.config; as read; the default
LEVELS: dict[str, tuple[list[str], list[Any]]] = {
    'backup_name': (
        ['cli', 'job', 'env', 'file'],
        ['cli', 'job', 'env', 'file', 'freezer_{mode}_{resource_id}'],
    ),
    'max_level': (['4', '3', '2', '1'], [4, 3, 2, 1, 0]),
    'compression': (
        ['xz', 'bzip2', 'none', 'zstd'],
        ['xz', 'bzip2', 'none', 'zstd', 'gzip'],
    ),
    'max_segment_size': (
        ['9M', '7M', '6M', '5242880'],
        [9 << 20, 7 << 20, 6 << 20, 5 << 20, 8 << 20],
    ),
    'engine_name': (['a', 'b', 'c', 'd'], ['a', 'b', 'c', 'd', 'tar']),
}


@pytest.mark.parametrize('level', range(5), ids=['cli', 'job', 'env', 'file', 'none'])
@pytest.mark.parametrize('option', LEVELS)
def test_the_strongest_source_wins(
    option: str, level: int, job: Job, oslo: Job, environ: Environ
) -> None:
    values, read = LEVELS[option]
    flag = '--' + option.replace('_name', '' if 'engine' in option else '_name')
    argv: list[str] = [*LOCAL]
    if level <= 0:
        argv += [flag.replace('_', '-'), values[0]]
    if level <= 1:
        argv += job(f'[action]\n{option} = {values[1]}\n')
    if level <= 2:
        environ(**{f'OS_DEFAULT__{option.upper()}': values[2]})
    if level <= 3:
        argv += oslo(f'[DEFAULT]\n{option} = {values[3]}\n')
    assert getattr(load(*argv), option) == read[level]


@pytest.mark.parametrize('level', range(5))
def test_keys_of_freezers_own_variables(
    level: int, job: Job, oslo: Job, environ: Environ
) -> None:
    """ACCESS_KEY counts as environment, after OS_DEFAULT__ACCESS_KEY."""
    argv: list[str] = [*S3]
    if level <= 0:
        argv += ['--access-key', 'cli']
    if level <= 1:
        argv += job('[action]\naccess_key = job\n')
    if level <= 2:
        environ(OS_DEFAULT__ACCESS_KEY='env')
    if level <= 3:
        environ(ACCESS_KEY='own')
    argv += oslo('[DEFAULT]\naccess_key = file\n')
    ((_driver, settings),) = load(*argv).storages
    assert settings.options['access_key'] == ['cli', 'job', 'env', 'own', 'file'][level]


def test_freezers_own_variables_are_for_s3(environ: Environ) -> None:
    environ(ACCESS_KEY='AK', SECRET_KEY=SECRET, ENDPOINT='http://s3')
    ((driver, settings),) = load(*S3).storages
    assert driver is S3Storage
    assert settings.options['access_key'] == 'AK'
    assert settings.options['secret_key'] == SECRET
    assert settings.options['endpoint'] == 'http://s3'
    ((driver, settings),) = load(*LOCAL).storages
    assert driver is LocalStorage
    assert settings.options == {}


@pytest.mark.parametrize('source', ['cli', 'job', 'env', 'file'])
def test_options_of_a_driver(
    source: str, job: Job, oslo: Job, environ: Environ
) -> None:
    argv: list[str] = [*S3]
    if source == 'cli':
        argv += ['--s3-region', 'r', '--s3-concurrency', '7']
    elif source == 'job':
        argv += job('[a]\ns3_region = r\ns3-concurrency = 7\n')
    elif source == 'env':
        environ(OS_S3__REGION='r', OS_S3__CONCURRENCY='7')
    else:
        argv += oslo('[s3]\nregion = r\nconcurrency = 7\n')
    ((_driver, settings),) = load(*argv).storages
    assert settings.options['s3_region'] == 'r'
    assert settings.options['s3_concurrency'] == 7
    assert settings.options['s3_addressing_style'] == 'path'


# Job files


def test_sections_do_not_matter_and_both_spellings_do(job: Job) -> None:
    argv = job(
        '[default]\nStorage = local\n[x]\ncontainer: /c\nmax-level = 3\n'
        '[DEFAULT]\nengine = other\n'
    )
    settings = load(*argv)
    assert (settings.storage, settings.container) == ('local', '/c')
    assert (settings.max_level, settings.engine_name) == (3, 'other')


@pytest.mark.parametrize('unset', ['None', 'False', 'false', ''])
def test_unset_is_not_a_value(job: Job, unset: str) -> None:
    """Freezer 19 deleted everything older than False days."""
    names = (
        *('remove_older_than', 'max_level', 'always_level', 'restart_always_level'),
        *('exclude', 'hostname', 'encrypt_pass_file', 'proxy', 'dereference_symlink'),
        *('restore_from_date', 'remove_before_date', 'compression', 'upload_limit'),
        *('max_segment_size', 'snapshot'),
    )
    plain = load(*LOCAL)
    text = ''.join(f'{name} = {unset}\n' for name in names)
    settings = load(*LOCAL, *job(f'[action]\n{text}'))
    assert settings == plain


@pytest.mark.parametrize(
    'text, value',
    [
        *((text, True) for text in ('True', 'true', '1', 'yes', 'on')),
        *((text, False) for text in ('False', 'false', '0', 'no', 'off')),
    ],
)
def test_flags(job: Job, text: str, value: bool) -> None:
    argv = job(f'[action]\nincremental = {text}\nsync = {text}\n')
    settings = load(*LOCAL, *argv)
    assert (settings.incremental, settings.sync) == (value, value)


@pytest.mark.parametrize('text', ['None', ''])
def test_unset_flags(job: Job, text: str) -> None:
    settings = load(*LOCAL, *job(f'[a]\nsync = {text}\nincremental = {text}\n'))
    assert (settings.incremental, settings.sync) == (False, True)


def test_flags_of_the_command_line_win(job: Job) -> None:
    argv = job('[action]\nincremental = true\nsync = true\n')
    settings = load(*LOCAL, *argv, '--noincremental', '--nosync')
    assert (settings.incremental, settings.sync) == (False, False)


@pytest.mark.parametrize(
    'text, value', [('100%%', '100%'), ('100%', '100%'), ('%(x)s', '%(x)s')]
)
def test_percent_signs(job: Job, text: str, value: str) -> None:
    assert load(*LOCAL, *job(f'[a]\nbackup_name = {text}\n')).backup_name == value


@pytest.mark.parametrize('value', ['a$storage', '$', 'a$$b', '${x}', 'a$nothing'])
def test_dollar_signs(job: Job, oslo: Job, environ: Environ, value: str) -> None:
    """oslo.config would fill in other options."""
    given = ('--path-to-backup', value, '--exclude', value)
    for argv in (given, job(f'[a]\npath_to_backup = {value}\nexclude = {value}\n')):
        assert load(*LOCAL, *argv).path_to_backup == (value,)
        assert load(*LOCAL, *argv).engine_options['exclude'] == [value]
    file = oslo('[DEFAULT]\npath_to_backup = file\nexclude = file\n')
    settings = load(*LOCAL, *given, *file)
    assert settings.path_to_backup == (value,)
    assert settings.engine_options['exclude'] == [value]


def test_patterns_one_a_line(job: Job) -> None:
    argv = job('[a]\nexclude = *.o\n   *.pyc\n')
    assert load(*LOCAL, *argv).engine_options['exclude'] == ['*.o', '*.pyc']
    # The command line's replace them.
    settings = load(*LOCAL, *argv, '--exclude', 'a', '--exclude', 'b')
    assert settings.engine_options['exclude'] == ['a', 'b']


LOCAL_JOB = '[job]\nstorage = local\ncontainer = /c\n'


@pytest.mark.parametrize(
    'line, name, value',
    [
        ('restore_from_host = web9', 'hostname', 'web9'),
        ('src_file = /etc', 'path_to_backup', ('/etc',)),
        ('encryption_password = /pass', 'encrypt_pass_file', '/pass'),
        ('incremental = true\nno_incremental = true', 'incremental', False),
        ('incremental = true\nno_incremental = false', 'incremental', True),
        ('no_incremental = None', 'incremental', False),
        ('os_auth_ver = 3', 'incremental', False),
        ('nova_network_id = x', 'incremental', False),
    ],
)
def test_keys_of_the_dashboard(job: Job, line: str, name: str, value: Any) -> None:
    assert getattr(load(*job(LOCAL_JOB + line)), name) == value


def test_keys_of_the_dashboard_that_nothing_has(job: Job) -> None:
    assert '--backup-id is set' in refused(*job(LOCAL_JOB + 'backup_id = x'))


def test_all_keys_that_are_not_there_are_named(job: Job) -> None:
    names = ('foo', 's3_regoin', 'sql_server_conf', 'backup_id', 'vssadmin')
    lines = ''.join(f'{name} = x\n' for name in names)
    text = refused(*job(LOCAL_JOB + lines + 'max_level = y\n'))
    for name in (*names[:2], 'max_level', '--sql-server-conf', '--backup-id'):
        assert name in text
    assert '--vssadmin' in text


def test_unknown_keys_are_named(job: Job) -> None:
    _, path = argv = job('[freezer]\nmax_levle = 3\n')
    message = refused(*LOCAL, *argv)
    for part in (path, '[freezer]', 'max_levle'):
        assert part in message


@pytest.mark.parametrize(
    'key, value',
    [
        ('max_level', 'many'),
        ('max_level', '-1'),
        ('incremental', 'perhaps'),
        ('compression', 'lz4'),
        ('max_segment_size', 'big'),
        ('restore_from_date', 'tomorrow'),
        ('remove_older_than', '-3'),
        ('s3_concurrency', '0'),
    ],
)
def test_wrong_types_are_named(job: Job, key: str, value: str) -> None:
    _, path = argv = job(f'[action]\n{key} = {value}\n')
    message = refused(*LOCAL, *argv)
    for part in (path, '[action]', key):
        assert part in message


@pytest.mark.parametrize(
    'key, value',
    [('max-level', 'many'), ('compression', 'lz4'), ('max-segment-size', 'big')],
)
def test_wrong_types_elsewhere(key: str, value: str, environ: Environ) -> None:
    assert f'--{key}' in refused(*LOCAL, f'--{key}', value)
    variable = f'OS_DEFAULT__{key.upper().replace("-", "_")}'
    environ(**{variable: value})
    message = refused(*LOCAL)
    assert key in message
    assert variable in message


@pytest.mark.parametrize(
    'text', ['no section = 1\n', '[a]\nno value\n', '[a]\nx = 1\nx = 2\n', '[a]\n[a]\n']
)
def test_a_file_that_is_no_job_file(job: Job, text: str) -> None:
    _, path = argv = job(text)
    assert path in refused(*LOCAL, *argv)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert 'no-such-file' in refused(*LOCAL, '--config', str(tmp_path / 'no-such-file'))
    (tmp_path / 'binary').write_bytes(b'[a]\nx = \xff\n')
    assert 'UTF-8' in refused(*LOCAL, '--config', str(tmp_path / 'binary'))


# Options of Freezer 19


@pytest.mark.parametrize(
    'key, value, default',
    [
        ('vssadmin', 'True', 'False'),
        ('rsync_block_size', '8192', '4096'),
        ('sql_server_conf', '/etc/my.cnf', 'false'),
        ('timeout', '240', '120'),
    ],
)
def test_what_is_not_there_yet(job: Job, key: str, value: str, default: str) -> None:
    message = refused(*LOCAL, *job(f'[a]\n{key} = {value}\n'))
    assert f'--{key.replace("_", "-")} ' in message
    load(*LOCAL, *job(f'[a]\n{key} = {default}\n'))


# Values


@pytest.mark.parametrize(
    'text, size',
    [
        ('1', 1),
        ('33554432', 32 << 20),
        ('32M', 32 << 20),
        ('32m', 32 << 20),
        ('32MiB', 32 << 20),
        ('32 MB', 32 << 20),
        ('2K', 2048),
        ('1G', 1 << 30),
        ('1T', 1 << 40),
        (' 5 ', 5),
        ('7B', 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert Size()(text) == size


@pytest.mark.parametrize('text', ['', 'M', '1.5M', '1X', '1MM', '0x10', '1 2', '1\n2'])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match='not a size'):
        Size()(text)


def test_sizes_have_a_least_value() -> None:
    assert Size(min=1)(1) == 1
    with pytest.raises(ValueError, match='less than 1'):
        Size(min=1)('0')


@pytest.mark.parametrize(
    'text, utc',
    [
        ('2026-01-31T23:59:59', '2026-01-31T23:59:59'),
        ('2026-01-31 23:59:59', '2026-01-31T23:59:59'),
        ('2026-01-31', '2026-01-31T23:59:59'),
        ('1769903999', '2026-01-31T23:59:59'),
        ('2026-01-31T23:59:59Z', '2026-01-31T23:59:59'),
        ('2026-01-31T23:59:59+02:00', '2026-01-31T21:59:59'),
        ('2026-01-31T23:59:59-01:30', '2026-02-01T01:29:59'),
    ],
)
@pytest.mark.parametrize('zone', ['UTC', 'Asia/Tokyo'])
def test_dates(text: str, utc: str, zone: str, environ: Environ) -> None:
    environ(TZ=zone)
    found = load(*LOCAL, '--restore-from-date', text).restore_from_date
    expected = datetime.datetime.fromisoformat(utc).replace(tzinfo=datetime.UTC)
    assert found == expected


@pytest.mark.parametrize('text', ['', '31.1.2026', '1700000000x', '2026-13-01'])
def test_no_dates(text: str) -> None:
    with pytest.raises(ValueError, match='not a date'):
        Date(until=True)(text)


def test_the_old_name_of_a_date() -> None:
    date = '2026-01-31T00:00:00'
    found = load(*LOCAL, '--remove-from-date', date).remove_before_date
    assert found == Date(until=False)(date)
    message = refused(
        *LOCAL, '--remove-from-date', date, '--remove-before-date', '2025-01-01'
    )
    assert 'remove-before-date' in message


@pytest.mark.parametrize('name', ['../x', 'a/../b', 'a//b', '/a', 'a/', '.', 'a/./b'])
@pytest.mark.parametrize('option', ['--hostname', '--backup-name'])
def test_names_that_would_leave_their_place(option: str, name: str) -> None:
    assert option.removeprefix('--') in refused(*LOCAL, option, name)


@pytest.mark.parametrize('days', ['nan', 'inf', '-inf', '-1'])
@pytest.mark.parametrize('option', ['--remove-older-than', '--restart-always-level'])
def test_days_are_numbers(option: str, days: str) -> None:
    assert option.removeprefix('--') in refused(*LOCAL, f'{option}={days}')


def test_a_proxy_is_a_url() -> None:
    assert load(*LOCAL, '--proxy', 'http://p:3128').proxy == 'http://p:3128'
    message = refused(*LOCAL, '--proxy', f'user:{SECRET}@proxy')
    assert 'proxy' in message
    assert SECRET not in message


def test_identities_with_the_template_filled_in() -> None:
    settings = load(*LOCAL, '--hostname', 'h')
    assert settings.identities == ('h_freezer_fs_h', 'h_freezer_{mode}_{resource_id}')
    settings = load(*LOCAL, '--hostname', 'h', '--backup-name', 'n_{container}')
    assert settings.identities[0] == 'h_n__backups'
    settings = load(*LOCAL, '--hostname', 'h', '--backup-name', 'n{other}')
    assert settings.identities == ('h_n{other}',)


# Storages


def test_no_storage() -> None:
    message = refused('--container', 'c')
    assert '--storage s3' in message
    assert 'swift' in message
    assert load('--action', 'exec', '--command', 'true').storages == ()


def test_a_storage_there_is_not() -> None:
    message = refused('--storage', 'nfs', '--container', 'c')
    assert 'nfs' in message
    assert 'local, s3' in message


MULTIPLE = """
[action]
max_level = 3
max_segment_size = 8M
[storage:one]
storage = local
container = /one
[storage:two]
storage = s3
container = bucket/prefix
access-key = AK
secret_key = 100%%
endpoint = http://s3
s3_concurrency = 2
s3_region = None
"""


def test_storage_sections(job: Job, environ: Environ) -> None:
    environ(ACCESS_KEY='not this one', OS_S3__CONCURRENCY='9')
    settings = load(*job(MULTIPLE), '--container', 'not this one')
    assert settings.storage == 'multiple'
    (one, first), (two, second) = settings.storages
    assert (one, first.name, first.container) == (LocalStorage, 'one', '/one')
    assert (two, second.name, second.container) == (S3Storage, 'two', 'bucket/prefix')
    assert first.max_segment_size == second.max_segment_size == 8 << 20
    assert second.options['access_key'] == 'AK'
    assert second.options['secret_key'] == '100%'
    assert second.options['s3_concurrency'] == 2
    assert second.options['s3_list_version'] == 2
    S3Storage.from_settings(second)


def test_limits_are_for_all_storages_together(job: Job) -> None:
    limits = ('--upload-limit', '1M', '--download-limit', '2000')
    settings = load(*job(MULTIPLE), *limits)
    progress = agent.make_progress(settings)
    repository = agent.make_repository(settings, progress)
    assert repository is not None
    one, two = repository.storages.values()
    assert isinstance(one, LocalStorage)
    assert isinstance(two, S3Storage)
    one.sending.take(1000)
    two.options.sending.take(500)
    assert (one.sending.passed, two.options.sending.passed) == (1000, 500)
    assert progress.sending.passed == 1500
    assert one.receiving is two.options.receiving
    assert one.sending.per_second == 1 << 20
    assert one.receiving.per_second == 2000


def test_a_list_on_several_lines(job: Job) -> None:
    text = MULTIPLE + 's3_tags = a=b,\n  c=d\n'
    (_, _), (_, settings) = load(*job(text)).storages
    assert settings.options['s3_tags'] == ['a=b', 'c=d']
    main = MULTIPLE.partition('[storage:two]')[2]
    settings = load(*job(f'[action]{main}s3_tags = a=b,\n  c=d\n')).storages[0][1]
    assert settings.options['s3_tags'] == ['a=b', 'c=d']


@pytest.mark.parametrize('section', ['[action]', '[storage:two]'])
@pytest.mark.parametrize(
    'key, value', [('s3_tags', 'a=b,\n  c=\x01d'), ('s3_storage_class', 'a\n  b')]
)
def test_a_control_character_names_the_key_once(
    job: Job, section: str, key: str, value: str
) -> None:
    main = MULTIPLE.partition('[storage:two]')[2]
    message = refused(*job(f'{section}{main}{key} = {value}\n'))
    assert f'{section}, {key}: contains ' in message
    assert key.replace('_', '-') not in message


def test_a_storage_knows_whether_others_wait(job: Job) -> None:
    settings = load(*job(MULTIPLE))
    repository = agent.make_repository(settings, agent.make_progress(settings))
    assert repository is not None
    (first, _), (_, storage) = repository.storages.items()
    assert isinstance(storage, S3Storage)
    assert storage.options.others_wait()
    repository._members.set_aside(first, Unreachable('gone'))
    assert not storage.options.others_wait()


def test_the_only_section_keeps_nobody_waiting(job: Job) -> None:
    local = '[storage:one]\nstorage = local\ncontainer = /one\n'
    settings = load(*job(MULTIPLE.replace(local, '')))
    repository = agent.make_repository(settings, agent.make_progress(settings))
    assert repository is not None
    (storage,) = repository.storages.values()
    assert isinstance(storage, S3Storage)
    assert not storage.options.others_wait()


def test_no_limits() -> None:
    settings = load(*S3, *KEYS)
    repository = agent.make_repository(settings, agent.make_progress(settings))
    assert repository is not None
    (storage,) = repository.storages.values()
    assert isinstance(storage, S3Storage)
    assert storage.options.sending.per_second == 0
    assert storage.options.receiving.per_second == 0


@pytest.mark.parametrize(
    'old, new, named',
    [
        ('storage = s3', 'storage = ftp', 'ftp'),
        ('storage = s3', '', 'storage'),
        ('s3_concurrency = 2', 's3_concurrency = x', 's3_concurrency'),
        ('s3_concurrency = 2', 'concurrency = 2', 'concurrency'),
        ('s3_concurrency = 2', 'max_level = 2', 'max_level'),
    ],
)
def test_storage_sections_with_errors(job: Job, old: str, new: str, named: str) -> None:
    message = refused(*job(MULTIPLE.replace(old, new)))
    assert named in message
    assert '[storage:two]' in message


def test_storage_sections_of_one_container(job: Job) -> None:
    again = MULTIPLE[MULTIPLE.index('[storage:two]') :].replace('two', 'three')
    message = refused(*job(f'{MULTIPLE}\n{again}'))
    assert '[storage:two] and [storage:three] are the same container' in message
    elsewhere = again.replace('http://s3', 'http://elsewhere')
    load(*job(f'{MULTIPLE}\n{elsewhere}'))


@pytest.mark.parametrize(
    'section, same',
    [
        ('storage = local\ncontainer = /one/', True),
        ('storage = local\ncontainer = /other/../one', True),
        ('storage = local\ncontainer = /one/more', False),
        ('storage = s3\ncontainer = bucket/prefix/\nendpoint = HTTP://S3:80/', True),
        ('storage = s3\ncontainer = bucket/prefix\nendpoint = https://s3', False),
        ('storage = s3\ncontainer = bucket\nendpoint = http://s3', False),
    ],
)
def test_one_place_in_two_spellings(job: Job, section: str, same: bool) -> None:
    argv = job(f'{MULTIPLE}\n[storage:three]\n{section}\n')
    if same:
        assert '[storage:three] are the same container' in refused(*argv)
    else:
        load(*argv)


@pytest.mark.parametrize(
    'text, chosen',
    [
        *((text, 'auto') for text in ('auto', 'Auto', 'True', 'true', 'yes', '1', 'x')),
        *((text, None) for text in ('none', 'None', 'False', 'false', '')),
        *(('lvm', 'lvm'), ('LVM', 'lvm'), (' btrfs ', 'btrfs')),
    ],
)
def test_what_chooses_a_snapshot(job: Job, text: str, chosen: str | None) -> None:
    """In Freezer 19, any text."""
    for argv in (('--snapshot', text), job(f'[a]\nsnapshot = {text}\n')):
        assert load(*LOCAL, *argv).snapshot == chosen


@pytest.mark.parametrize(
    'text, problem',
    [
        ('btrsf', "--snapshot 'btrsf' is not available; did you mean btrfs?"),
        ('vss', '--snapshot vss needs Windows, and this agent runs on Linux only'),
    ],
)
def test_snapshots_that_are_not_there(job: Job, text: str, problem: str) -> None:
    for argv in (('--snapshot', text), job(f'[a]\nsnapshot = {text}\n')):
        assert refused(*LOCAL, *argv) == problem


def test_options_of_a_snapshot_request_it(job: Job) -> None:
    """Without the snapshot, Freezer 19 ignores them."""
    form = 'lvm_snapsize = 1G\nlvm_snapperm = ro\nlvm_srcvol = None\n'
    assert load(*LOCAL, *job(f'[a]\n{form}')).snapshot is None
    given = '[a]\nlvm_volgroup = vg0\n'
    for rest in ('', 'snapshot = btrfs\n'):
        message = refused(*LOCAL, *job(given + rest))
        assert message == 'lvm-volgroup belongs to snapshot lvm: add --snapshot lvm'
    loaded = load(*LOCAL, *job(f'{given}snapshot = True\n'))
    assert loaded.snapshot == 'lvm'
    assert loaded.snapshot_options['lvm_volgroup'] == 'vg0'
    load(*LOCAL, '--action', 'info', *job(given))


def test_what_s3_needs_is_named_with_three_ways() -> None:
    message = refused_by_driver('--storage', 's3')
    for name in ('access-key', 'secret-key', 'endpoint', 'container'):
        assert f'--{name}' in message
        assert name.replace('-', '_') in message
    for variable in ('ACCESS_KEY', 'SECRET_KEY', 'ENDPOINT', 'OS_DEFAULT__CONTAINER'):
        assert variable in message


def test_what_a_section_lacks_is_named_with_the_section(job: Job) -> None:
    message = refused_by_driver(*job(MULTIPLE.replace('secret_key = 100%%', '')))
    assert re.search(r'\[storage:two\].*secret-key', message)


@pytest.mark.parametrize(
    'endpoint',
    ['s3.example.com', 'ftp://s3', 'http://', 'http://s3/bucket', 'http://s3:port'],
)
def test_endpoints_that_are_none(endpoint: str) -> None:
    assert 'endpoint' in refused_by_driver(*S3, *KEYS[:4], '--endpoint', endpoint)


@pytest.mark.parametrize('container', ['ab', '/bucket', 'bu cket', 'ü' * 5, '/'])
def test_containers_that_are_none(container: str) -> None:
    assert 'container' in refused_by_driver(*S3[:2], *KEYS, '--container', container)


# Secrets


def test_no_secret_in_what_is_shown() -> None:
    settings = load(*S3, *KEYS)
    ((driver, storage_settings),) = settings.storages
    storage = driver.from_settings(storage_settings)
    assert storage_settings.options['secret_key'] == SECRET
    for shown in (settings, storage_settings, storage):
        assert SECRET not in repr(shown)
        assert SECRET not in str(shown)


@pytest.mark.parametrize(
    'text',
    [
        f'[a]\nsecret_key {SECRET}\n',
        f'secret_key = {SECRET}\n',
        f'[a]\nsecret_key = {SECRET}\nsecret_key = {SECRET}\n',
        f'[a]\nsecret_kex = {SECRET}\n',
        f'[storage:x]\nstorage = local\nsecret_kex = {SECRET}\n',
        f'[a]\nsecret_key = {SECRET}\nmax_level = x\n',
    ],
)
def test_no_secret_of_a_job_file_in_an_error(job: Job, text: str) -> None:
    assert SECRET not in refused(*LOCAL, *job(text))


def test_no_secret_of_an_endpoint_in_an_error() -> None:
    endpoint = f'http://user:{SECRET}@s3'
    assert SECRET not in refused_by_driver(*S3, *KEYS[:4], '--endpoint', endpoint)


def test_no_parser_ends_it_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        sys.stderr.write('argument --max-level: Invalid value: many\n')
        raise SystemExit  # as oslo.config 9 does

    monkeypatch.setattr(cfg.ConfigOpts, '__call__', refuse)
    assert '--max-level' in refused(*LOCAL)


def test_an_unknown_argument_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load(*LOCAL, '--secret-kex', SECRET)
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert '--secret-kex' in said.err
    assert SECRET not in said.err + said.out


def test_no_secret_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / 'log'
    load(*S3, *KEYS, '--debug', '--log-file', str(path))
    logging.getLogger('freezer').warning('written')
    assert 'written' in path.read_text()
    assert SECRET not in path.read_text()


def test_the_log_is_in_the_home_directory() -> None:
    assert load(*LOCAL).log_file == os.path.expanduser('~/.freezer/freezer.log')


def test_what_was_given(job: Job, oslo: Job, environ: Environ) -> None:
    """To verify all there is, or what a name or a host has: not by their defaults."""

    def given(*argv: str) -> set[str]:
        return set(load(*LOCAL, *argv).given)

    both = {'backup_name', 'hostname'}
    assert given() == set()
    assert given('--hostname', '', '--metadata-out', '-') == set()
    assert given('--backup-name', 'bk') == {'backup_name'}
    assert given('--backup-name', 'bk', '--hostname', 'h') == both
    # Its default, and given all the same.
    assert given('-N', 'freezer_{mode}_{resource_id}') == {'backup_name'}
    assert given(*job('[a]\nhostname = h\nbackup_name = False')) == {'hostname'}
    assert given(*oslo('[DEFAULT]\nbackup_name = bk')) == {'backup_name'}
    environ(OS_DEFAULT__HOSTNAME='h')
    assert given() == {'hostname'}


def test_engines_of_jobs_of_freezer_19(job: Job) -> None:
    """Mode cinder needs no engine there; osbrick needs a path, and ignores it."""
    for lines in (
        'mode = cinder\nengine_name = tar\ncinder_vol_id = x\n',
        'engine_name = osbrick\ncinderbrick_vol_id = x\npath_to_backup = /tmp\n',
    ):
        settings = load(*job(LOCAL_JOB + lines))
        assert (settings.engine_name, settings.resource) == ('cinder', 'x')
        assert settings.backup_media == 'cinder'
        assert settings.path_to_backup == ()
