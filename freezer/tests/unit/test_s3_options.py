"""Options of storage s3: their defaults, and what is refused before it is tried."""

import base64
import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme

from freezer.common import config
from freezer.exceptions import ConfigError
from freezer.storage._s3.checksums import Checksum
from freezer.storage._s3.options import S3_OPTS, S3Options
from freezer.storage.exceptions import StorageConfigError
from freezer.storage.s3 import S3Storage
from freezer.tests.agent import job_file
from freezer.utils.rate import UNLIMITED

pytestmark = pytest.mark.usefixtures('kept_logging')

HTTP, HTTPS = 'http://s3.example.com', 'https://s3.example.com'
GIVEN = {
    'container': 'bucket/prefix',
    'endpoint': HTTPS,
    'access_key': 'AK',
    'secret_key': 'sk/of+a+user',
}
# Options of every storage: not for a section of one.
EVERYWHERE = ('insecure', 'max_segment_size')

Value = str | bool | None
Given = Mapping[str, Value]


def from_command_line(given: Given, _path: Path) -> config.AgentConfig:
    argv = ['--storage', 's3']
    for name, value in given.items():
        flag = f'--{name.replace("_", "-")}'
        argv.append(flag if value is True else f'{flag}={value}')
    return config.load(argv, {})


def from_job_file(given: Given, path: Path) -> config.AgentConfig:
    job = job_file(path, {'action': {'storage': 's3', **given}})
    return config.load(['--config', str(job)], {})


def from_section(given: Given, path: Path) -> config.AgentConfig:
    main = {name: value for name, value in given.items() if name in EVERYWHERE}
    own = {name: value for name, value in given.items() if name not in EVERYWHERE}
    job = job_file(path, {'action': main, 'storage:one': {'storage': 's3', **own}})
    return config.load(['--config', str(job)], {})


def from_environment(given: Given, _path: Path) -> config.AgentConfig:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            group = 's3__' if name.startswith('s3_') else 'DEFAULT__'
            variable = f'OS_{group}{name.removeprefix("s3_")}'.upper()
            patch.setenv(variable, str(value))
        return config.load(['--storage', 's3'], os.environ)


SOURCES = {
    'command line': from_command_line,
    'job file': from_job_file,
    'section': from_section,
    'environment': from_environment,
}


def driver(source: str, path: Path, **given: Value) -> S3Storage:
    """:param given: None takes away what is given else"""
    merged = {k: v for k, v in (GIVEN | given).items() if v is not None}
    ((driver, settings),) = SOURCES[source](merged, path / 'job').storages
    storage: S3Storage = driver.from_settings(settings)
    return storage


NO_KEYS: dict[str, Value] = {'access_key': None, 'secret_key': None}
VIRTUAL: dict[str, Value] = {'s3_addressing_style': 'virtual'}
NO_HOST = 'needs an endpoint with a host name'
LOCK_DAYS: dict[str, Value] = {'s3_object_lock_days': '30'}
CUSTOMER_KEY: dict[str, Value] = {'s3_sse_customer_key_file': 'KEY'}

# What is given beside GIVEN, and what the refusal says. KEY, CA and JUNK are files.
REFUSED: list[tuple[dict[str, Value], str]] = [
    # Keys.
    ({'s3_profile': 'x'}, 's3-profile cannot be combined with access-key'),
    ({'s3_profile': 'x', 'access_key': None}, 's3-profile cannot be combined'),
    ({'s3_profile': 'x', 'secret_key': None}, 's3-profile cannot be combined'),
    ({'access_key': None}, 'access-key'),
    ({'secret_key': None}, 'secret-key'),
    (NO_KEYS, 'secret-key'),
    ({**NO_KEYS, 's3_session_token': 'x'}, 'access-key'),
    (
        {**NO_KEYS, 's3_profile': 'x', 's3_session_token': 'x'},
        's3-session-token cannot be combined with s3-profile',
    ),
    ({'s3_expected_bucket_owner': '12345678901'}, 'must be 12 digits'),
    ({'s3_expected_bucket_owner': '1234567890123'}, 'must be 12 digits'),
    ({'s3_expected_bucket_owner': 'somebody'}, 'must be 12 digits'),
    # Where.
    ({'s3_region': 'eu west'}, 's3-region'),
    ({'s3_region': '-x'}, 's3-region'),
    ({'s3_region': 'x' * 64}, 's3-region'),
    ({**VIRTUAL, 'endpoint': 'https://192.0.2.1'}, NO_HOST),
    ({**VIRTUAL, 'endpoint': 'https://[2001:db8::1]:99'}, NO_HOST),
    (
        {**VIRTUAL, 'container': 'Bucket/prefix'},
        'bucket Bucket cannot be part of a host name',
    ),
    (
        {**VIRTUAL, 'container': 'buc.ket'},
        'bucket buc.ket cannot be part of a host name',
    ),
    ({'s3_ca_bundle': '/no/such/file'}, '/no/such/file: No such file'),
    ({'s3_ca_bundle': '/'}, 's3-ca-bundle /: '),
    ({'s3_ca_bundle': 'JUNK'}, 'contains no PEM certificates'),
    ({'s3_ca_bundle': 'CA', 'insecure': True}, 's3-ca-bundle cannot be combined'),
    ({'s3_ca_bundle': 'CA', 'endpoint': HTTP}, 's3-ca-bundle needs an https endpoint'),
    # Time and size.
    ({'s3_connect_timeout': 'nan'}, 's3-connect-timeout: not a number of seconds'),
    ({'s3_read_timeout': 'inf'}, 's3-read-timeout: not a number of seconds'),
    ({'s3_retry_budget': 'nan'}, 's3-retry-budget: not a number of seconds'),
    ({'s3_retry_budget': 'inf'}, 's3-retry-budget: not a number of seconds'),
    ({'s3_max_object_size': '7M'}, 's3-max-object-size is smaller than one part'),
    (
        {'s3_max_object_size': '6M', 'max_segment_size': '7M'},
        's3-max-object-size is smaller than one part',
    ),
    # What is written.
    ({'s3_sse_kms_key_id': 'x'}, 's3-sse-kms-key-id needs s3-sse aws:kms'),
    ({'s3_sse': 'AES256', 's3_sse_kms_key_id': 'x'}, 'needs s3-sse aws:kms'),
    ({**CUSTOMER_KEY, 's3_sse': 'AES256'}, 's3-sse cannot be combined'),
    ({**CUSTOMER_KEY, 'endpoint': HTTP}, 'plain http exposes the key'),
    ({**CUSTOMER_KEY, 'insecure': True}, 'any server could get the key'),
    ({'s3_sse_customer_key_file': '/no/such/file'}, '/no/such/file: No such file'),
    ({'s3_sse_customer_key_file': 'JUNK'}, 'must contain 32 bytes'),
    ({'s3_tags': 'a'}, "s3-tags 'a': write name=value"),
    ({'s3_tags': '=a'}, "s3-tags '=a': write name=value"),
    ({'s3_tags': 'a=1,a=2'}, 's3-tags: a name is given twice'),
    (
        {'s3_tags': ','.join(f'{n}={n}' for n in range(11))},
        's3-tags: an object has at most 10',
    ),
    ({'s3_digest': 'blake3', 'endpoint': HTTP}, 's3-digest blake3 needs https'),
    (
        {'s3_digest': 'blake3', 's3_signature_version': 's3'},
        's3-digest blake3 needs s3-signature-version s3v4',
    ),
    ({'s3_tags': f'{"n" * 129}=x'}, 'at most 128 characters'),
    ({'s3_tags': f'n={"v" * 257}'}, 'a value 256'),
    ({'s3_object_lock_mode': 'GOVERNANCE'}, 'need each other'),
    (LOCK_DAYS, 'need each other'),
]


@pytest.mark.parametrize(
    'concurrency, size, expected',
    [
        # As many as 128 MiB hold: a large part must not take a large machine.
        (None, 8 << 20, 16),
        (None, 16 << 20, 8),
        (None, 32 << 20, 4),
        (None, 64 << 20, 4),
        (None, 5 << 30, 4),
        (None, 5 << 20, 16),
        (None, 0, 16),
        (7, 8 << 20, 7),
        (1, 5 << 30, 1),
        (64, 64 << 20, 64),
    ],
)
def test_how_many_at_once(concurrency: int | None, size: int, expected: int) -> None:
    assert S3Options(concurrency=concurrency).at_once(size) == expected


# Values that the option's type refuses.
OUT_OF_BOUNDS = {
    's3_addressing_style': ['dns'],
    's3_signature_version': ['v2'],
    's3_connect_timeout': ['0'],
    's3_read_timeout': ['0'],
    's3_retry_budget': ['-1'],
    's3_concurrency': ['0', '65'],
    's3_max_parts': ['1', '10001'],
    's3_max_object_size': ['4M'],
    's3_list_version': ['0', '3'],
    's3_stale_after': ['soon'],
    's3_sse': ['aes256'],
    's3_acl': ['public-read'],
    's3_checksum': ['md5'],
    's3_digest': ['md5'],
    's3_object_lock_days': ['0', '36501'],
    's3_object_lock_mode': ['SOMEHOW', 'compliance'],
}


@pytest.mark.parametrize('source', SOURCES)
@pytest.mark.parametrize(
    'name, value', [(n, value) for n, some in OUT_OF_BOUNDS.items() for value in some]
)
def test_out_of_bounds(source: str, name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        driver(source, tmp_path, **{name: value})
    assert name.replace('_', '-') in str(caught.value).replace('_', '-')


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp('files')
    (folder / 'KEY').write_bytes(bytes(range(32)))
    (folder / 'JUNK').write_text('neither a key nor a certificate')
    trustme.CA().cert_pem.write_to_path(folder / 'CA')
    return {path.name: str(path) for path in folder.iterdir()}


def filled(given: Given, files: Mapping[str, str]) -> dict[str, Any]:
    return {k: files.get(str(v), v) for k, v in given.items()}


@pytest.mark.parametrize('source', SOURCES)
@pytest.mark.parametrize('given, says', REFUSED, ids=[str(g) for g, _says in REFUSED])
def test_refused(
    source: str, given: Given, says: str, files: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, StorageConfigError)) as caught:
        driver(source, tmp_path, **filled(given, files))
    message = str(caught.value)
    assert says in message
    assert GIVEN['secret_key'] not in message
    if source == 'section':
        assert '[storage:one]' in message


TAKEN: list[dict[str, Value]] = [
    {**NO_KEYS, 's3_profile': 'x'},
    {'s3_session_token': 'x', 's3_expected_bucket_owner': '012345678901'},
    {'s3_region': 'auto', 's3_addressing_style': 'virtual'},
    {'s3_addressing_style': 'virtual', 'container': 'buc.ket', 'endpoint': HTTP},
    {'s3_addressing_style': 'auto', 'endpoint': 'http://192.0.2.1'},
    {'s3_ca_bundle': 'CA'},
    # Said once for all storages of a job.
    {'insecure': True, 'endpoint': HTTP},
    {'s3_retry_budget': '0', 's3_max_object_size': '8M', 's3_max_parts': '2'},
    {'s3_sse': 'aws:kms', 's3_sse_kms_key_id': 'x'},
    {'s3_sse': 'AES256'},
    CUSTOMER_KEY,
    {'s3_tags': 'a=,b=x=y', 's3_acl': 'private'},
    {'s3_object_lock_mode': 'COMPLIANCE', **LOCK_DAYS, 's3_legal_hold': True},
    {'s3_legal_hold': True},
    {'s3_checksum': 'none'},
    {'s3_checksum': 'crc64nvme'},
]


@pytest.mark.parametrize('source', SOURCES)
@pytest.mark.parametrize('given', TAKEN, ids=str)
def test_taken(
    source: str, given: Given, files: dict[str, str], tmp_path: Path
) -> None:
    options = driver(source, tmp_path, **filled(given, files)).options
    for name, value in filled(given, files).items():
        if not name.startswith('s3_'):
            continue
        read = getattr(options, name.removeprefix('s3_'))
        if name == 's3_tags':
            read = ','.join(read)
        if name == 's3_max_object_size':
            assert read == 8 << 20
        elif isinstance(read, float | int):
            assert read == float(value)
        else:
            assert read == value


def test_defaults_are_those_of_the_options() -> None:
    fields = {field.name: field.default for field in dataclasses.fields(S3Options)}
    # Of one that is made for each, nobody reads the numbers.
    del fields['progress']
    for_every_storage: dict[str, Any] = {'insecure': False, 'proxy': None}
    for_every_storage |= {'sending': UNLIMITED, 'receiving': UNLIMITED}
    for_every_storage |= {'others_wait': bool}
    assert {name: fields.pop(name) for name in for_every_storage} == for_every_storage
    declared = {option.dest: option.default for option in S3_OPTS}
    assert fields == declared | {'tags': tuple(declared['tags'])}


def test_a_driver_without_a_command_line_is_checked_too() -> None:
    """As Freezer 19 makes it."""
    for keys in (('', 'sk'), ('AK', ''), ('', '')):
        with pytest.raises(StorageConfigError, match='are needed, or s3-profile'):
            S3Storage(*keys, HTTPS, 'bucket', 1, skip_prepare=True)
    options = S3Options(legal_hold=True, sse='AES256', sse_kms_key_id='x')
    with pytest.raises(StorageConfigError, match='needs s3-sse aws:kms'):
        S3Storage('AK', 'sk', HTTPS, 'bucket', 1, skip_prepare=True, options=options)


def test_all_that_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageConfigError) as caught:
        driver('command line', tmp_path, s3_tags='a', s3_object_lock_days='1')
    assert 's3-tags' in caught.value.message
    assert 's3-object-lock-mode' in caught.value.message


@pytest.mark.parametrize('end', [b'', b'\n', b'\r\n'])
def test_customer_key_in_base64(tmp_path: Path, end: bytes) -> None:
    key = bytes(range(32))
    path = tmp_path / 'key'
    path.write_bytes(base64.b64encode(key) + end)
    assert S3Options(sse_customer_key_file=str(path)).customer_key() == key


@pytest.mark.parametrize(
    'content',
    [b'', bytes(31), bytes(33), base64.b64encode(bytes(31)), b'x' * 44, b'\xff' * 44],
)
def test_customer_keys_that_are_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / 'key'
    path.write_bytes(content)
    with pytest.raises(StorageConfigError) as caught:
        S3Options(sse_customer_key_file=str(path)).customer_key()
    assert str(path) in caught.value.message
    assert not content or repr(content)[2:-1] not in caught.value.message


def test_options_do_not_show_what_is_secret() -> None:
    shown = repr(S3Options(session_token='token/x', proxy='http://user:word@proxy'))
    assert 'token/x' not in shown
    assert 'word' not in shown


# https://reveng.sourceforge.io/crc-catalogue/all.htm
CHECKS = {
    'crc32': 'cbf43926',
    'crc32c': 'e3069283',
    'crc64nvme': 'ae8b14860a799888',
    'sha256': '15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225',
}


@pytest.mark.parametrize('name', CHECKS)
def test_checksums(name: str) -> None:
    for body in (b'123456789', bytearray(b'123456789')):
        assert Checksum(name).arguments(body) == {
            f'Checksum{name.upper()}': base64.b64encode(
                bytes.fromhex(CHECKS[name])
            ).decode()
        }


@pytest.mark.parametrize('name', ['crc32c', 'crc64nvme'])
@pytest.mark.parametrize('module', [None, object()], ids=['absent', 'old'])
def test_checksums_that_need_a_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, module: object
) -> None:
    if module is None:
        monkeypatch.setitem(sys.modules, 'awscrt', None)
    else:
        monkeypatch.setattr('awscrt.checksums', module)
    with pytest.raises(StorageConfigError, match=r'pip install "freezer\[crt\]"'):
        driver('command line', tmp_path, s3_checksum=name)
    assert driver('command line', tmp_path, s3_checksum='crc32')


def test_checksum_that_botocore_does_not_know(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As 1.29 does not know crc64nvme."""

    class Future(Checksum):
        def __init__(self, name: str) -> None:
            super().__init__(name)
            self.argument = 'ChecksumOFTHEFUTURE'

    monkeypatch.setattr('freezer.storage._s3.transport.client.Checksum', Future)
    storage = driver('command line', tmp_path, s3_checksum='crc32')
    with pytest.raises(StorageConfigError, match='crc32: not supported by botocore'):
        storage.prepare()
