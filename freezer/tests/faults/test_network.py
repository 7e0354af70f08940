"""Settings that no request can have, failures of this machine, endless answers."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from freezer.tests import servers
from freezer.tests.agent import Agent, Result, S3Store, job_file, private, run
from freezer.tests.conformance.variants import certified
from freezer.tests.faults.harness import impatient, unprotected
from freezer.tests.proxy import Proxy
from freezer.tests.scripted import Exchange, Scripted

SECRET = 'not-to-be-seen'
KEYS = {'ACCESS_KEY': 'AKIDTEST', 'SECRET_KEY': 'sk'}
S3 = ('--storage', 's3', '--container', 'bucket/prefix')
MIB = 1 << 20


def info(endpoint: str, *options: object, **env: str | None) -> Result:
    """List the backups of a store that holds none, or is none."""
    given = {**KEYS, 'ENDPOINT': endpoint, **env}
    return run('--action', 'info', *S3, *options, env=given)


def logged() -> str:
    """Empty if the configuration was refused before the log was opened."""
    log = Path.home() / '.freezer/freezer.log'
    return log.read_text() if log.exists() else ''


# Settings

CONTROL = {'\r': 'a carriage return', '\n': 'a line feed', '\x7f': 'U+007F'}


@pytest.mark.parametrize('character', CONTROL)
@pytest.mark.parametrize(
    'variable, option',
    [
        ('ACCESS_KEY', 'access-key'),
        ('SECRET_KEY', 'secret-key'),
        ('ENDPOINT', 'endpoint'),
        ('OS_S3__SESSION_TOKEN', 's3-session-token'),
        ('OS_S3__STORAGE_CLASS', 's3-storage-class'),
        ('OS_S3__SSE_KMS_KEY_ID', 's3-sse-kms-key-id'),
        ('OS_S3__EXPECTED_BUCKET_OWNER', 's3-expected-bucket-owner'),
        ('OS_DEFAULT__CONTAINER', 'container'),
        ('OS_DEFAULT__BACKUP_NAME', 'backup-name'),
        ('OS_DEFAULT__HOSTNAME', 'hostname'),
        ('OS_DEFAULT__PROXY', 'proxy'),
    ],
)
def test_a_control_character_is_refused_at_once(
    variable: str, option: str, character: str
) -> None:
    with Scripted(lambda exchange: exchange.refuse(403, 'AccessDenied')) as store:
        env = {**KEYS, 'ENDPOINT': store.endpoint, 'OS_DEFAULT__STORAGE': 's3'}
        env |= {'OS_DEFAULT__CONTAINER': 'bucket'}
        env |= {variable: f'http://{SECRET}{character}x'}
        line = run('--action', 'info', env=env).only_error
        named = option if variable.startswith('OS_') else variable
        found = line.replace('the control character ', '')
        assert found.startswith(f'Error: {named}: contains {CONTROL[character]}')
        assert SECRET not in line + logged()
        assert store.exchanges == []


@pytest.mark.parametrize('key', ['access_key', 's3_storage_class', 'container'])
def test_a_control_character_in_a_section(tmp_path: Path, key: str) -> None:
    section = {'storage': 's3', 'container': 'b', 'endpoint': 'http://127.0.0.1:1'}
    section |= {'access_key': 'a', 'secret_key': 's', key: f'{SECRET}\x01'}
    path = job_file(
        tmp_path / 'job', {'job': {'action': 'info'}, 'storage:far': section}
    )
    line = run('--config', path).only_error
    assert f'[storage:far], {key}: contains' in line
    assert SECRET not in line + logged()


@pytest.mark.parametrize('text', [f'a${SECRET}', f'a${{{SECRET}}}', f'$x.{SECRET}'])
@pytest.mark.parametrize(
    'group, key', [('DEFAULT', 'secret_key'), ('s3', 'session_token')]
)
def test_a_dollar_in_a_configuration_file(
    tmp_path: Path, group: str, key: str, text: str
) -> None:
    """The name after it is a part of the value."""
    text = text.replace('-', '_')
    path = private(tmp_path / 'some.conf', f'[{group}]\n{key} = {text}\n')
    line = run('--action', 'info', *S3, '--config-file', path, env=KEYS).only_error
    for part in (str(path), f'[{group}] {key}', 'write $$'):
        assert part in line
    assert SECRET.replace('-', '_') not in line + logged()


@pytest.mark.parametrize(
    'text, key',
    [
        ('secret_key = a$secret_key', 'secret_key'),
        ('access_key = $secret_key\nsecret_key = $access_key', '_key'),
        ('log_dir = /x$nope', 'log_dir'),
        ('log_file = /x$log_file', 'log_file'),
    ],
)
def test_a_dollar_that_leads_nowhere(tmp_path: Path, text: str, key: str) -> None:
    path = private(tmp_path / 'some.conf', f'[DEFAULT]\n{text}\n')
    line = run('--action', 'info', *S3, '--config-file', path, env=KEYS).only_error
    assert line.startswith(f'Error: {path}, [DEFAULT] ')
    assert f'{key}: $ stands for the value of another option there' in line


@pytest.mark.parametrize(
    'variable, text',
    [
        ('OS_DEFAULT__LOG_DIR', '/x$nope'),
        ('OS_DEFAULT__LOG_FILE', '/x$nope'),
        ('OS_DEFAULT__SECRET_KEY', 'a$secret_key'),
    ],
)
def test_a_dollar_in_the_environment_that_leads_nowhere(
    variable: str, text: str
) -> None:
    line = run('--action', 'info', *S3, env={**KEYS, variable: text}).only_error
    assert f'{variable} in the environment: $ stands for' in line


def test_a_malformed_line_of_a_configuration_file(tmp_path: Path) -> None:
    path = private(tmp_path / 'some.conf', f'[DEFAULT]\nsecret_key {SECRET}\n')
    line = run('--action', 'info', *S3, '--config-file', path, env=KEYS).only_error
    assert f'{path}:2' in line or 'line 2' in line
    assert SECRET not in line


@pytest.mark.parametrize('option', ['--backup-name', '--hostname', '--container'])
@pytest.mark.parametrize('action', ['backup', 'restore', 'info'])
def test_a_name_that_is_not_utf8(option: str, action: str, tmp_path: Path) -> None:
    paths = {
        'backup': ('--path-to-backup', tmp_path),
        'restore': ('--restore-abs-path', tmp_path / 'to'),
    }
    with Scripted(lambda exchange: exchange.refuse(403, 'AccessDenied')) as store:
        name = b'bucket/\xff'.decode(errors='surrogateescape')
        env = {**KEYS, 'ENDPOINT': store.endpoint}
        given = {'--container': 'bucket/prefix', option: name}
        names = [word for pair in given.items() for word in pair]
        result = run(
            *('--action', action, '--storage', 's3', *names, *paths.get(action, ())),
            env=env,
        )
        assert f'{option[2:]} ' in result.only_error
        assert 'not UTF-8' in result.only_error
        assert store.exchanges == []


# This machine


def test_a_control_character_in_a_profile(tmp_path: Path) -> None:
    profile = '[x]\naws_access_key_id = AK\naws_secret_access_key = s\n'
    (tmp_path / 'aws').write_text(f'{profile}aws_session_token = {SECRET}\x01x\n')
    env: dict[str, str | None] = {'ACCESS_KEY': None, 'SECRET_KEY': None}
    env |= {'AWS_SHARED_CREDENTIALS_FILE': str(tmp_path / 'aws')}
    line = info('http://127.0.0.1:1', '--s3-profile', 'x', **env).only_error
    assert 'its token contains' in line
    assert SECRET not in line + logged()


NO_FILES = """
import urllib3.util.connection as connection
def create(*_arguments, **_options):
    raise OSError(24, 'Too many open files')
connection.create_connection = create
"""
NO_HEADER = f"""
import http.client
def put(_connection, name, *values):
    raise ValueError('Invalid header value {SECRET}')
http.client.HTTPConnection.putheader = put
"""


@pytest.mark.parametrize(
    'patch, said',
    [
        (NO_FILES, 'failed on this machine: Too many open files; raise its limit'),
        (NO_HEADER, 'could not be made on this machine (ValueError)'),
    ],
)
@pytest.mark.parametrize('action', ['backup', 'info'])
def test_a_failure_of_this_machine_is_no_fault_of_the_network(
    store: S3Store, source: Path, patch: str, said: str, action: str
) -> None:
    agent = unprotected(Agent(store), patch)
    result = agent.backup(source) if action == 'backup' else agent.run('info')
    assert said in result.only_error
    assert 'gave up' not in result.err
    assert 'attempt 1:' not in logged()
    assert SECRET not in result.err + logged()


def test_a_socks_proxy_is_named_without_its_password() -> None:
    proxy = f'socks5://user:{SECRET}@127.0.0.1:1080'
    line = info('http://127.0.0.1:1', http_proxy=proxy, no_proxy=None).only_error
    assert 'the proxy socks5://127.0.0.1:1080 for http://127.0.0.1:1' in line
    assert 'set --proxy http://host:port' in line
    assert 'gave up' not in line
    assert SECRET not in line + logged()


@pytest.mark.parametrize('variable', [True, False])
def test_a_proxy_is_named(variable: bool) -> None:
    with socket.create_server(('127.0.0.1', 0)) as listener:
        port = listener.getsockname()[1]
    proxy = f'http://user:{SECRET}@127.0.0.1:{port}'
    hasty = ('--s3-retry-budget', '0')
    if variable:
        result = info('http://127.0.0.1:1', *hasty, http_proxy=proxy, no_proxy=None)
    else:
        result = info('http://127.0.0.1:1', *hasty, '--proxy', proxy)
    assert f'through the proxy http://127.0.0.1:{port}' in result.error
    assert SECRET not in result.err + logged()


# The other scheme


@pytest.mark.parametrize('real', [True, False])
def test_https_where_the_server_speaks_http(
    seaweedfs: servers.SeaweedFS, proxy: Proxy, real: bool
) -> None:
    endpoint = seaweedfs.endpoint if real else proxy.endpoint
    line = info(endpoint.replace('http:', 'https:')).only_error
    assert f'set --endpoint {endpoint}' in line
    assert 'gave up' not in line


@pytest.fixture
def speaks_tls(authority: trustme.CA) -> Iterator[str]:
    """The address of a server that closes what is not TLS."""
    context = certified(authority, '127.0.0.1')
    listener = socket.create_server(('127.0.0.1', 0))

    def serve() -> None:
        while True:
            try:
                connection, _address = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(connection, server_side=True) as secure:
                    secure.recv(1)
            except (ssl.SSLError, OSError):
                connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield f'127.0.0.1:{listener.getsockname()[1]}'
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_http_where_the_server_speaks_https(speaks_tls: str) -> None:
    line = info(f'http://{speaks_tls}').only_error
    assert f'set --endpoint https://{speaks_tls}' in line
    assert 'gave up' not in line


def test_http_where_nothing_speaks() -> None:
    """The other scheme is suggested only where it works."""
    with Scripted(lambda exchange: exchange.send(b'')) as store:
        hasty = ('--s3-retry-budget', '0', '--s3-read-timeout', '0.3')
        line = info(store.endpoint, *hasty).error
    assert 'https' not in line


# Elsewhere


@pytest.mark.parametrize('status', [301, 302, 307, 308])
def test_a_redirection_is_named_and_not_followed(status: int) -> None:
    with Scripted(lambda exchange: exchange.answer(200)) as elsewhere:
        url = elsewhere.endpoint.replace('//', f'//me:{SECRET}@')
        headers = {'Location': f'{url}/path?token={SECRET}'}
        with Scripted(
            lambda exchange: exchange.answer(status, b'<html>', headers)
        ) as store:
            line = info(store.endpoint).only_error
        assert elsewhere.exchanges == []
    assert f'it points to {elsewhere.endpoint}/path' in line
    assert SECRET not in line


# Without end


def endless_error(exchange: Exchange) -> None:
    exchange.send(b'HTTP/1.1 400 So\r\nContent-Type: application/xml\r\n')
    exchange.send(b'Connection: close\r\n\r\n<Error><Code>X</Code><Message>')
    while True:
        exchange.send(b'x' * MIB)


def endless_listing(exchange: Exchange) -> None:
    exchange.send(b'HTTP/1.1 200 So\r\nTransfer-Encoding: chunked\r\n\r\n')
    while True:
        exchange.send(b'100000\r\n' + b' ' * MIB + b'\r\n')


def endless_continue(exchange: Exchange) -> None:
    while True:
        exchange.send(b'HTTP/1.1 100 Continue\r\n\r\n' * 1000)


def endless_pages(exchange: Exchange) -> None:
    """Always another token, and always the same key."""
    endless_pages.count = getattr(endless_pages, 'count', 0) + 1  # type: ignore[attr-defined]
    page = (
        '<ListBucketResult><Name>bucket</Name><IsTruncated>true</IsTruncated>'
        f'<NextContinuationToken>{endless_pages.count}</NextContinuationToken>'  # type: ignore[attr-defined]
        '<Contents><Key>prefix/x</Key><Size>1</Size></Contents></ListBucketResult>'
    )
    exchange.answer(200, page.encode())


@pytest.mark.parametrize(
    'script, said',
    [
        (endless_error, f'more than {16 * MIB} bytes'),
        (endless_listing, f'more than {16 * MIB} bytes'),
        (endless_continue, '100 Continue again and again'),
        (endless_pages, 'the listing has no end'),
    ],
)
def test_an_answer_without_end(script: Callable[[Exchange], None], said: str) -> None:
    with Scripted(script) as store:
        line = info(store.endpoint).only_error
        assert said in line
        assert 'gave up' not in line
        assert len(store.exchanges) <= 2


def test_a_long_error_text() -> None:
    message = 'long ' * 60_000
    body = f'<Error><Code>Strange</Code><Message>{message}</Message></Error>'.encode()
    with Scripted(lambda exchange: exchange.answer(400, body)) as store:
        line = info(store.endpoint).only_error
    assert 'Strange long long' in line
    assert '(300000 characters) (HTTP 400' in line
    assert len(line) < 2000
    assert len(logged()) < 30_000


def test_text_of_a_store_is_escaped_in_the_log() -> None:
    text = 'bad\x1b[31m&#13;\n2026-01-01 00:00:00.000 1 INFO forged'
    body = f'<Error><Code>Strange</Code><Message>{text}</Message></Error>'.encode()
    body = body.replace(b'\x1b', '\u009b'.encode())
    with Scripted(lambda exchange: exchange.answer(400, body)) as store:
        line = info(store.endpoint).only_error
    assert 'Strange bad' in line
    log = logged()
    assert '\u009b' not in log
    assert '\r' not in log
    assert not [each for each in log.splitlines() if each.startswith('2026-01-01 00')]


@pytest.mark.parametrize('level', [99_999_999_999, 10**9])
def test_a_level_that_no_chain_has(store: S3Store, source: Path, level: int) -> None:
    agent = impatient(Agent(store))
    agent.backup(source).check()
    (marker,) = store.markers()
    parts = marker.split('/')
    parts[4] = f'{level}_{parts[3]}'
    store.put('/'.join(parts), b'{}')
    assert 'no problems found' in agent.run('verify').check().err
    agent.increment(source).check()


def test_a_level_far_above(store: S3Store, source: Path) -> None:
    """All that are missing are one problem."""
    agent = impatient(Agent(store))
    agent.backup(source).check()
    (marker,) = store.markers()
    parts = marker.split('/')
    parts[4] = f'999999_{parts[3]}'
    store.put('/'.join(parts), b'{}')
    result = agent.run('verify', '--json')
    assert result.code == 1
    assert 'levels 1 to 999998 are missing' in result.err
    assert len(result.out) < 5000
