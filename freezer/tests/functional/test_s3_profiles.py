"""Keys of a profile, and where no secret goes: ``s3.rst``."""

import base64
import datetime
import json
import logging
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from freezer.storage import exceptions as e
from freezer.tests import pages
from freezer.tests.agent import NO_LANDLOCK, ROOT, wrap_tar
from freezer.tests.commands import run_command
from freezer.tests.front import (
    ACCESS_KEY,
    CONTENT,
    CUSTOMER_KEY,
    DELETING,
    EVERY,
    OLD_BOTOCORE,
    Front,
    carriers,
    make_backup,
    restored,
    shows,
    signed,
    values,
    what,
)
from freezer.tests.proxy import Answer, error

pytestmark = pytest.mark.usefixtures('kept_logging')


PAGE = ROOT / 'doc' / 'source' / 'user' / 's3.rst'


# Profiles


PROFILE_KEYS = """\
[backups]
aws_access_key_id = AKOFTHEPROFILE
aws_secret_access_key = sk/of+the+profile
aws_session_token = token/of+the+profile
[default]
aws_access_key_id = AKOFTHEDEFAULT
aws_secret_access_key = sk/of+the+default
"""
# All but the region is for other programs.
PROFILE_CONFIG = """\
[profile backups]
region = eu-north-1
endpoint_url = http://127.0.0.1:9
ca_bundle = /nowhere
use_fips_endpoint = true
max_attempts = 7
s3 =
  addressing_style = virtual
  use_accelerate_endpoint = true
  payload_signing_enabled = false
[default]
region = ap-east-1
"""
# What other programs are told, which must change nothing.
AMBIENT = {
    'AWS_ACCESS_KEY_ID': 'AKOFTHEENVIRONMENT',
    'AWS_SECRET_ACCESS_KEY': 'sk/of+the+environment',
    'AWS_SESSION_TOKEN': 'token/of+the+environment',
    'AWS_REGION': 'sa-east-1',
    'AWS_DEFAULT_REGION': 'sa-east-1',
    'AWS_ENDPOINT_URL': 'http://127.0.0.1:9',
    'AWS_ENDPOINT_URL_S3': 'http://127.0.0.1:9',
    'AWS_CA_BUNDLE': '/nowhere',
    'AWS_MAX_ATTEMPTS': '7',
    'AWS_RETRY_MODE': 'nonsense',
    'AWS_DEFAULTS_MODE': 'nonsense',
    'AWS_USE_FIPS_ENDPOINT': 'true',
    'AWS_USE_DUALSTACK_ENDPOINT': 'true',
    'AWS_REQUEST_CHECKSUM_CALCULATION': 'when_supported',
    'AWS_RESPONSE_CHECKSUM_VALIDATION': 'when_supported',
    'AWS_S3_US_EAST_1_REGIONAL_ENDPOINT': 'nonsense',
    'AWS_S3_USE_ARN_REGION': 'nonsense',
    'AWS_S3_DISABLE_MULTIREGION_ACCESS_POINTS': 'nonsense',
}


@pytest.fixture
def ambient(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who has much to do with Amazon; where the user's files are."""
    for name, value in AMBIENT.items():
        monkeypatch.setenv(name, value)
    folder = Path(os.environ['HOME']) / '.aws'
    folder.mkdir()
    (folder / 'credentials').write_text(PROFILE_KEYS)
    (folder / 'config').write_text(PROFILE_CONFIG)
    return folder


@shows('profile')
@pytest.mark.parametrize('where', ['home', 'variables'])
def test_keys_and_region_of_a_profile(
    front: Front,
    ambient: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    if where == 'variables':
        for name, variable in (
            ('credentials', 'AWS_SHARED_CREDENTIALS_FILE'),
            ('config', 'AWS_CONFIG_FILE'),
        ):
            (ambient / name).rename(tmp_path / name)
            monkeypatch.setenv(variable, str(tmp_path / name))
    front.keys = ()
    monkeypatch.setenv('AWS_PROFILE', 'default')
    requests = front.life(front.driver('--s3-profile', 'backups'))
    assert {what(request) for request in requests} == EVERY
    assert signed(requests) == {('AKOFTHEPROFILE', 'eu-north-1')}
    assert carriers(requests, 'x-amz-security-token') == EVERY
    assert values(requests, 'x-amz-security-token') == {'token/of+the+profile'}
    (made,) = [r for r in requests if r.operation == 'CreateBucket']
    assert b'>eu-north-1<' in made.body
    assert {r.path.split('/')[1] for r in requests} == {front.bucket}
    assert carriers(requests, 'x-amz-checksum-crc32') <= DELETING


def test_option_region_overrides_the_profile(front: Front, ambient: Path) -> None:
    front.keys = ()
    front.driver('--s3-profile', 'backups', '--s3-region', 'eu-west-3').prepare()
    assert signed(front.requests) == {('AKOFTHEPROFILE', 'eu-west-3')}


def test_ambient_settings_are_ignored(front: Front, ambient: Path) -> None:
    requests = front.life(front.driver())
    assert {what(request) for request in requests} == EVERY
    assert signed(requests) == {(ACCESS_KEY, 'us-east-1')}
    assert carriers(requests, 'x-amz-security-token') == set()
    assert carriers(requests, 'x-amz-checksum-crc32') <= DELETING


# Variables of the AWS SDKs


@shows('aws-environment')
@pytest.mark.parametrize('general', [False, True])
def test_keys_region_and_endpoint_of_the_environment(
    front: Front, ambient: Path, monkeypatch: pytest.MonkeyPatch, general: bool
) -> None:
    monkeypatch.setenv('AWS_ENDPOINT_URL_S3', front.endpoint)
    if general:
        monkeypatch.delenv('AWS_ENDPOINT_URL_S3')
        monkeypatch.setenv('AWS_ENDPOINT_URL', front.endpoint)
        monkeypatch.delenv('AWS_REGION')
    front.keys, front.endpoint = (), ''
    requests = front.life(front.driver('--s3-aws-environment'))
    assert {what(request) for request in requests} == EVERY
    assert signed(requests) == {('AKOFTHEENVIRONMENT', 'sa-east-1')}
    assert values(requests, 'x-amz-security-token') == {'token/of+the+environment'}
    # All other variables are still ignored.
    assert carriers(requests, 'x-amz-checksum-crc32') <= DELETING


def test_options_win_over_the_environment(front: Front, ambient: Path) -> None:
    """The session token of other keys is not sent with ours."""
    requests = front.life(
        front.driver('--s3-aws-environment', '--s3-region', 'eu-west-3')
    )
    assert signed(requests) == {(ACCESS_KEY, 'eu-west-3')}
    assert carriers(requests, 'x-amz-security-token') == set()


def test_certificates_of_the_environment(
    front: Front, ambient: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('AWS_ENDPOINT_URL_S3', 'https://127.0.0.1:9')
    front.keys, front.endpoint = (), ''
    with pytest.raises(e.StorageConfigError, match='s3-ca-bundle /nowhere'):
        front.driver('--s3-aws-environment')
    front.driver('--s3-aws-environment', '--insecure')


def test_the_environment_and_a_profile(front: Front, ambient: Path) -> None:
    front.keys = ()
    with pytest.raises(e.StorageConfigError, match='cannot be combined'):
        front.driver('--s3-aws-environment', '--s3-profile', 'backups')


def test_a_malformed_variable_is_named_without_its_value(
    front: Front, ambient: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('AWS_SESSION_TOKEN', 'secret\r')
    front.keys = ()
    with pytest.raises(e.StorageConfigError, match=r'^AWS_SESSION_TOKEN: ') as caught:
        front.driver('--s3-aws-environment')
    assert 'secret' not in caught.value.message


def of_program(folder: Path, script: str) -> None:
    """A profile whose keys come from a program."""
    program = folder / 'give keys'
    program.write_text(f'#!/bin/sh\n{script}\n')
    program.chmod(0o755)
    (folder / 'config').write_text(
        f'[profile program]\ncredential_process = "{program}"\n'
    )


def test_keys_of_a_profile_are_renewed(front: Front, ambient: Path) -> None:
    # Soon over: so close to the end they are renewed each time they are used.
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=5)
    answer = {
        'Version': 1,
        'AccessKeyId': 'AK$$',
        'SecretAccessKey': 'sk$$',
        'SessionToken': 'token$$',
        'Expiration': end.isoformat(),
    }
    quoted = json.dumps(answer).replace('"', '\\"')
    of_program(ambient, f'echo "{quoted}"')
    front.keys = ()
    driver = front.driver('--s3-profile', 'program')
    driver.prepare()
    assert restored(driver, make_backup(driver)) == CONTENT
    numbers = {key.removeprefix('AK') for key, _region in signed(front.requests)}
    assert len(numbers) > 5
    assert {f'token{number}' for number in numbers} == values(
        front.requests, 'x-amz-security-token'
    )


@pytest.mark.skipif(not shutil.which('age'), reason='no age (Debian: age)')
def test_keys_from_a_command(front: Front, ambient: Path, tmp_path: Path) -> None:
    config, script, answer = [
        block.text
        for block in pages.blocks(PAGE)
        if block.said.get('run by', '').endswith(Path(__file__).name)
        and block.language != 'console'
    ]
    places = {
        '/usr/local/sbin/backup-keys': tmp_path / 'backup-keys',
        '/media/key': tmp_path / 'key',
        '/etc/freezer/keys.json.age': tmp_path / 'keys.json.age',
    }
    for old, new in places.items():
        assert old in config + script
        config, script = (text.replace(old, str(new)) for text in (config, script))
    program, key, sealed = places.values()
    # Keys in that file come first.
    (ambient / 'credentials').unlink()
    (ambient / 'config').write_text(config)
    program.write_text(script)
    program.chmod(0o755)
    keys = json.loads(answer) | {'AccessKeyId': ACCESS_KEY, 'SecretAccessKey': 'sk'}
    run_command('age-keygen', '-o', key, check=True)
    done = subprocess.run(['age-keygen', '-y', key], capture_output=True, check=True)
    subprocess.run(
        ['age', '-r', done.stdout.decode().strip(), '-o', sealed],
        input=json.dumps(keys).encode(),
        check=True,
    )
    front.keys = ()
    driver = front.driver('--s3-profile', 'backups')
    driver.prepare()
    assert restored(driver, make_backup(driver)) == CONTENT
    assert {name for name, _region in signed(front.requests)} == {ACCESS_KEY}


@pytest.mark.parametrize(
    'config_text, program, says',
    [
        ('[profile other]\n', '', 'could not be found'),
        ('[profile wanted]\nregion = x\n', '', 'gives no keys'),
        ('[profile wanted]\naws_access_key_id = AK\n', '', 'Partial credentials'),
        ('profile\n', '', 'Unable to parse config file'),
        ('', 'echo no JSON', 'Expecting value'),
        ('', 'echo {}', 'Unsupported version'),
        ('', 'echo no luck >&2; exit 1', 'no luck'),
        (
            '[profile wanted]\ncredential_process = /nowhere/at-all\n',
            '',
            'No such file',
        ),
    ],
)
def test_unusable_profiles_are_refused(
    front: Front, ambient: Path, config_text: str, program: str, says: str
) -> None:
    of_program(ambient, program)
    text = config_text or (ambient / 'config').read_text()
    (ambient / 'config').write_text(text.replace('profile program', 'profile wanted'))
    front.keys = ()
    with pytest.raises(e.StorageConfigError) as caught:
        front.driver('--s3-profile', 'wanted').prepare()
    assert caught.value.message.startswith('s3-profile wanted: ')
    assert says in caught.value.message
    assert front.requests == []


def test_profile_without_keys_does_not_use_those_of_the_machine(
    front: Front, ambient: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {
        'AccessKeyId': 'AKOFTHEMACHINE',
        'SecretAccessKey': 'sk/of+the+machine',
        'Token': 'token/of+the+machine',
        'Expiration': '2100-01-01T00:00:00Z',
    }
    answer = Answer(200, json.dumps(keys).encode(), 'application/json')
    front.proxy.answer(lambda request: request.path == '/keys', answer)
    monkeypatch.setenv('AWS_CONTAINER_CREDENTIALS_FULL_URI', f'{front.endpoint}/keys')
    (ambient / 'config').write_text('[profile wanted]\nregion = eu-west-3\n')
    front.keys = ()
    with pytest.raises(e.StorageConfigError, match='gives no keys'):
        front.driver('--s3-profile', 'wanted').prepare()
    assert front.requests == []
    # One that says so gets them.
    (ambient / 'config').write_text(
        '[profile wanted]\nrole_arn = arn:aws:iam::123456789012:role/backup\n'
        'credential_source = EcsContainer\n'
    )
    with pytest.raises(e.StorageException):
        front.driver('--s3-profile', 'wanted', '--s3-retry-budget', '0').prepare()
    assert [request.path for request in front.requests] == ['/keys']


# Secrets


def test_no_secret_in_output_log_or_children(
    secure: Front, bundle: Path, source: Path, tmp_path: Path
) -> None:
    key, log, seen = tmp_path / 'key', tmp_path / 'log', tmp_path / 'seen'
    key.write_bytes(CUSTOMER_KEY)
    aws = tmp_path / 'credentials'
    aws.write_text(PROFILE_KEYS)
    tar = wrap_tar(
        tmp_path / 'bin',
        f'cat /proc/$$/cmdline /proc/$$/environ >> {seen}; exec $TAR "$@"',
    )
    common = ('--s3-ca-bundle', bundle, '--debug', '--log-file', log)
    profile = {'AWS_SHARED_CREDENTIALS_FILE': str(aws)}
    nobody = {'ACCESS_KEY': None, 'SECRET_KEY': None}
    agents = [
        secure.agent(*common, OS_S3__SESSION_TOKEN='token/in+a+variable', **tar),
        secure.agent(*common, '--s3-sse-customer-key-file', key, **tar),
        secure.agent(*common, '--s3-profile', 'backups', **profile, **nobody, **tar),
    ]
    secrets = [
        'token/in+a+variable',
        'sk/of+the+profile',
        'token/of+the+profile',
        base64.b64encode(CUSTOMER_KEY).decode(),
        CUSTOMER_KEY.hex(),
    ]
    said = ''
    for number, agent in enumerate(agents):
        results = [agent.backup(source).check()]
        # With Landlock tar could not write down what it sees.
        free = agent.run_by(*NO_LANDLOCK)
        results.append(free.restore(tmp_path / f'target {number}').check())
        # A store that repeats what it was sent.
        secure.proxy.answer(
            # An answer to HEAD has no body.
            lambda request: request.method != 'HEAD',
            error(400, 'Odd', f'{secrets} AKOFTHEPROFILE'),
        )
        results.append(agent.backup(source))
        assert '***' in results[-1].error
        secure.proxy.clear()
        said = ''.join(result.out + result.err for result in results)
        logged = log.read_text()
        log.unlink()
        assert 'DEBUG' in logged
        children = seen.read_bytes()
        assert b'--create' in children
        assert b'--extract' in children
        # Of each agent its own: what is somebody else's is no secret to hide.
        own = [secrets[:1], secrets[3:4], [*secrets[1:3], 'AKOFTHEPROFILE']][number]
        for secret in own:
            assert secret not in said
            assert secret not in logged
            assert secret.encode() not in children
        assert CUSTOMER_KEY not in children


@pytest.mark.skipif(OLD_BOTOCORE, reason='botocore cannot be told where STS is')
def test_keys_of_a_role_are_not_logged(
    front: Front, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its keys come in an answer, which botocore would log."""
    files = {
        'AWS_SHARED_CREDENTIALS_FILE': PROFILE_KEYS,
        'AWS_CONFIG_FILE': '[profile role]\nsource_profile = default\n'
        'role_arn = arn:aws:iam::123456789012:role/backup\n',
    }
    for variable, content in files.items():
        (tmp_path / variable).write_text(content)
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv('AWS_ENDPOINT_URL_STS', front.server.endpoint)
    log = tmp_path / 'log'
    front.keys = ()
    driver = front.driver('--s3-profile', 'role', '--debug', '--log-file', log)
    driver.prepare()
    assert restored(driver, make_backup(driver)) == CONTENT
    ((key, _region),) = signed(front.requests)
    (token,) = values(front.requests, 'x-amz-security-token')
    assert key != 'AKOFTHEDEFAULT'
    keys = driver._bucket.requests._secrets()
    assert {key, token} < set(keys)
    assert logging.getLogger('freezer').isEnabledFor(logging.DEBUG)
    assert 'created bucket' in log.read_text()
    for secret in keys:
        assert secret not in log.read_text()
