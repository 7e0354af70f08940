"""Action check: what a person and a program get; the screens are in ``check.rst``."""

import signal
import time
from pathlib import Path

import pytest

from freezer.tests import servers
from freezer.tests.agent import PART, Agent, LocalStore, Result, S3Store, job_file, run
from freezer.tests.proxy import Proxy, Request, error

CAN = 'Backups can be made here'
CANNOT = 'Error: Backups cannot be made here: '


def check(store: S3Store | LocalStore, *options: object) -> Result:
    """With parts as small as can be."""
    return agent(store).run('check', *options)


def agent(store: S3Store | LocalStore) -> Agent:
    return Agent(store).told('--max-segment-size', PART)


def table(result: Result) -> dict[str, list[str]]:
    """The cells of each row that begins one, by its first."""
    lines = [line for line in result.out.splitlines() if line.startswith('| ')]
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    return {row[0]: row[1:] for row in rows if row[0]}


@pytest.mark.parametrize('s3_server', ['seaweedfs', 'ceph'], indirect=True)
def test_result_is_a_table(s3_server: servers.Server) -> None:
    store = S3Store(s3_server)
    result = check(store).check()
    assert result.err.splitlines() == [CAN]
    rows = table(result)
    assert rows['Check'] == ['Result', 'Details']
    assert rows['two-part upload'][0] == 'ok'
    assert rows['clean-up'] == ['ok', 'nothing remains']
    assert max(map(len, result.out.splitlines())) <= 80
    assert rows['connection'][:1] == ['note']
    assert store.is_untouched()


def test_result_as_json(store: S3Store) -> None:
    result = check(store, '--metadata-out', '-', '--quiet').check()
    assert result.err == ''
    document = result.document
    assert document['container'] == store.container
    assert (document['usable'], document['summary']) == (True, CAN)
    rows = {row['name']: row for row in document['checks']}
    assert rows['read'] == {
        'name': 'read',
        'result': 'ok',
        'message': 'the same bytes came back',
        'value': True,
        'hint': '',
    }
    assert 0 < rows['round trip']['value'] < 5
    assert rows['upload speed']['value'] > 1000
    assert store.is_untouched()


def test_a_problem_fails_the_check(proxied: S3Store, proxy: Proxy) -> None:
    proxy.answer(lambda request: request.part > 1000, error(400, 'InvalidArgument'))
    result = check(proxied)
    said = (
        CANNOT + 'part numbers: an upload cannot have 10000: InvalidArgument, HTTP 400'
        '; hint: --s3-max-parts 1000'
    )
    assert result.error == said
    assert result.err.splitlines() == [said]
    assert table(result)['part numbers'][0] == 'problem'
    result = check(proxied, '--metadata-out', '-')
    assert result.code == 1
    assert result.document['usable'] is False
    assert result.document['summary'] == said.removeprefix('Error: ')
    assert check(proxied, '--s3-max-parts', 1000).check().err.splitlines() == [CAN]
    assert proxied.is_untouched()


@pytest.mark.parametrize('s3_server', ['seaweedfs', 'ceph'], indirect=True)
class TestRefused:
    def test_wrong_keys_are_reported(self, s3_server: servers.Server) -> None:
        store = S3Store(s3_server)
        wrong = agent(store).told(SECRET_KEY='wrong')
        error = wrong.run('check').only_error
        assert 'SignatureDoesNotMatch' in error
        assert 'check the access key' in error

    def test_read_only_keys_are_reported(self, s3_server: servers.Server) -> None:
        store = S3Store(s3_server)
        reader = agent(store).told(
            ACCESS_KEY=s3_server.readonly_access_key,
            SECRET_KEY=s3_server.readonly_secret_key,
        )
        error = reader.run('check').only_error
        assert 'AccessDenied' in error
        assert store.bucket in error
        assert store.is_untouched()

    def test_missing_bucket_is_reported(self, s3_server: servers.Server) -> None:
        store = S3Store(s3_server)
        there_is_none = ('--container', 'there-is-none/x', '--s3-nocreate-bucket')
        assert 's3-create-bucket' in check(store, *there_is_none).only_error


def test_unreachable_store_is_reported(store: S3Store) -> None:
    port = servers.free_ports(1)[0]
    lost = agent(store).told(ENDPOINT=f'http://127.0.0.1:{port}')
    error = lost.run('check', '--s3-retry-budget', 1).only_error
    assert 'cannot be reached' in error
    assert str(port) in error


def uploads_two_parts(request: Request) -> bool:
    return request.part == 1 and request.path.endswith('/two parts')


def deletes(request: Request) -> bool:
    return request.method == 'POST' and 'delete' in request.query


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal(proxied: S3Store, proxy: Proxy, number: signal.Signals) -> None:
    held = proxy.hold(uploads_two_parts)
    with agent(proxied).start('check') as process:
        held.wait()
        assert proxied.files()
        assert proxied.open_uploads()
        process.send(number)
        held.release()
        result = process.wait()
    assert result.code == -number
    assert result.err.splitlines() == [f'Error: interrupted by {number.name}']
    assert proxied.is_untouched()


def test_a_signal_during_clean_up(proxied: S3Store, proxy: Proxy) -> None:
    def cleans_up(request: Request) -> bool:
        return deletes(request) and len(proxied.sizes()) > 10

    held = proxy.hold(cleans_up)
    with agent(proxied).start('check') as process:
        held.wait()
        process.send(signal.SIGTERM)
        time.sleep(0.2)
        held.release()
        result = process.wait()
    assert result.code == -signal.SIGTERM
    assert proxied.is_untouched()


def test_dry_run_writes_nothing(store: S3Store, tmp_path: Path) -> None:
    result = check(store, '--dry-run').check()
    assert 'Would write' in result.err
    local = LocalStore(tmp_path / 'nowhere')
    assert 'Would write' in check(local, '--dry-run').check().err
    assert not local.directory.exists()


def test_local_storage(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / 'backups')
    result = check(store).check()
    assert result.err.splitlines() == [CAN]
    assert table(result)['rename'][0] == 'ok'
    assert not store.directory.exists()


def test_local_storage_without_permission_to_write() -> None:
    assert '/proc/backups' in check(LocalStore(Path('/proc/backups'))).only_error


def test_several_storages(store: S3Store, tmp_path: Path) -> None:
    local = LocalStore(tmp_path / 'backups')
    sections = {'storage:disk': local.section, 'storage:cloud': store.section}
    path = job_file(tmp_path / 'job', sections)
    options = ('--action', 'check', '--config', path, '--max-segment-size', PART)
    result = run(*options, '--metadata-out', '-').check()
    assert result.err.splitlines() == [CAN]
    rows = result.document['checks']
    assert {row['storage'] for row in rows} == {'disk', 'cloud'}
    assert [row['name'] for row in rows].count('clean-up') == 2
    sections['storage:cloud']['secret_key'] = 'wrong'
    path = job_file(tmp_path / 'other job', sections)
    options = ('--action', 'check', '--config', path, '--max-segment-size', PART)
    result = run(*options)
    assert result.error.startswith(f'{CANNOT}[storage:cloud], storage: ')
    assert table(result)['disk'] == ['clean-up', 'ok', 'nothing remains']
    assert max(map(len, result.out.splitlines())) <= 80
    assert table(result)['cloud'][:2] == ['storage', 'problem']
    assert store.is_untouched()
