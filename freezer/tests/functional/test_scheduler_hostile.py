"""A freezer-api under somebody else's control: its jobs stay inside the policy."""

import http.server
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from freezer.tests.scheduler import Action, Scheduler, document, executes, until

CLIENT = 'victim'
EXPIRES = '2999-01-01T00:00:00.000000Z'


class HostileApi(http.server.ThreadingHTTPServer):
    """Keystone and freezer-api in one: any password will do.

    :ivar jobs: the list it sends
    :ivar results: id of a job -> the result that was reported last
    """

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        self.url = f'http://127.0.0.1:{self.server_port}'
        self.jobs: list[Any] = []
        self.results: dict[str, str] = {}


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HostileApi

    def log_message(self, *_arguments: object) -> None:
        pass

    def _send(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header('X-Subject-Token', 'token')
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _job(self) -> dict[str, Any] | None:
        name = self.path.rpartition('/')[2]
        found = (each for each in self.server.jobs if isinstance(each, dict))
        return next((each for each in found if each.get('job_id') == name), None)

    def _body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers.get('Content-Length', 0))))

    def do_GET(self) -> None:
        if '/jobs/?' in self.path:
            self._send(200, {'jobs': self.server.jobs})
        elif '/jobs/' in self.path:
            job = self._job()
            self._send(404 if job is None else 200, job or {})
        else:
            links = [{'rel': 'self', 'href': f'{self.server.url}/v3/'}]
            version = {'id': 'v3.14', 'status': 'stable', 'links': links}
            self._send(200, {'version': version})

    def do_POST(self) -> None:
        self._body()
        token = {
            'methods': ['password'],
            'expires_at': EXPIRES,
            'project': {'id': 'p', 'name': 'p', 'domain': {'id': 'd', 'name': 'd'}},
            'user': {'id': 'u', 'name': 'u', 'domain': {'id': 'd', 'name': 'd'}},
            'catalog': [],
        }
        self._send(201, {'token': token})

    def do_PATCH(self) -> None:
        job, changes = self._job(), self._body()
        assert job is not None
        job |= changes
        self.server.results[job['job_id']] = changes['job_schedule']['result']
        self._send(200, {})


@pytest.fixture
def api() -> Iterator[HostileApi]:
    with HostileApi() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Victim:
    """A machine, with folders inside and outside of the policy."""

    def __init__(self, folder: Path) -> None:
        self.data, self.store = folder / 'data', folder / 'store'
        self.outside = folder / 'outside'
        self.made = self.outside / 'made'
        for path in (self.data, self.store, self.outside):
            path.mkdir()
        (self.data / 'file').write_text('x')
        (self.outside / 'secret').write_text('secret')
        (self.data / 'link').symlink_to(self.outside)
        (self.store / 'link').symlink_to(self.outside)
        # Only a job can name this server.
        self.elsewhere = socket.create_server(('127.0.0.1', 0))
        self.elsewhere.setblocking(False)
        self.url = f'http://127.0.0.1:{self.elsewhere.getsockname()[1]}'

    @property
    def options(self) -> tuple[str, ...]:
        return (
            *('--policy-actions', 'backup,restore,exec'),
            *('--policy-storages', 'local,s3', '--policy-command', 'true'),
            *('--policy-endpoints', 'https://s3.example.com'),
            *('--policy-read-roots', str(self.data)),
            *('--policy-write-roots', str(self.store)),
            *('--policy-refused-options', 'insecure'),
        )

    def backup(self, **options: Any) -> Action:
        where = {'storage': 'local', 'container': str(self.store / 'box')}
        what = {'path_to_backup': str(self.data), 'backup_name': 'bk'}
        return {'action': 'backup', **where, **what, **options}

    def is_untouched(self) -> bool:
        try:
            self.elsewhere.accept()[0].close()
        except BlockingIOError:
            return [path.name for path in self.outside.iterdir()] == ['secret']
        return False


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    found = Victim(tmp_path)
    with found.elsewhere:
        yield found


def outside_of_policy(victim: Victim) -> list[tuple[Action, str]]:
    """Actions, and the reason that must be logged for each."""
    touch, outside = f'touch {victim.made}', str(victim.outside)
    backup, made = victim.backup, str(victim.made)
    s3 = {'access_key': 'ACCESS', 'secret_key': 'SECRET', 'endpoint': victim.url}
    s3 = backup(storage='s3', container='box', **s3)
    restore = {'action': 'restore', 'path_to_backup': None}
    command, read, written = 'is not a command', 'below read_roots', 'below write_roots'
    section = {'storage': 'local', 'container': made}
    trusted = 'https://s3.example.com'
    stream = {'engine': 'stream', 'path_to_backup': None}
    image = {'engine': 'glance', 'glance_image_id': 'x', 'path_to_backup': None}
    return [
        (executes(touch), command),
        (executes(f'true; {touch}'), 'no shell runs this'),
        (executes(f'true\n{touch}'), 'line break'),
        (executes(f'sh -c "true && {touch}"'), command),
        (backup(pre_command=touch), command),
        (backup(post_command=['touch', made]), command),
        (backup(on_success_command=touch), command),
        (backup(on_failure_command=touch, path_to_backup='/nowhere'), command),
        (backup(encrypt_pass_command=touch), command),
        (backup(**stream, stream_command=touch), command),
        (backup(**stream, stream='pg_dump', stream_arguments=touch), command),
        (backup(**(restore | stream), restore_command=touch), command),
        (backup(**{'Pre-Command': touch}), command),
        (backup(container=made), written),
        (backup(container=f'{victim.store}/../outside/made'), written),
        (backup(container=f'{victim.store}/link/made'), written),
        (backup(container='made'), written),
        (backup(storage=None, container=made), 'no storage configured'),
        (backup(**{'storage': None, 'container': None, 'storage:a': section}), written),
        (backup(metadata_out=made), written),
        (backup(metrics_file=made), written),
        (backup(**restore, restore_abs_path=made), written),
        (backup(**restore, restore_abs_path=f'{victim.store}/link'), written),
        (backup(snapshot='lvm', lvm_dirmount=made), written),
        (backup(path_to_backup=outside), read),
        (backup(path_to_backup=f'{victim.data}/../outside'), read),
        (backup(path_to_backup=f'{victim.data}/link/secret'), read),
        (backup(path_to_backup=[str(victim.data), outside]), read),
        (backup(path_to_backup=None, src_file=outside), read),
        (backup(exclude_from=f'{outside}/secret'), read),
        (backup(encrypt_pass_file=f'{outside}/secret'), read),
        (backup(files_from=f'{victim.data}/file'), 'read outside of read_roots'),
        (backup(dereference_symlink='all'), 'read outside of read_roots'),
        (s3, 'is not in endpoints'),
        (s3 | {'endpoint': trusted, 'proxy': victim.url}, 'is not in endpoints'),
        (s3 | {'endpoint': f'{trusted}@evil.example'}, 'must not hold a user'),
        (s3 | {'endpoint': trusted, 'insecure': 'true'}, 'refused_options'),
        (backup(storage='ssh', ssh_host='127.0.0.1'), 'ssh is not in storages'),
        (backup(action='admin', remove_older_than=1), 'admin is not in actions'),
        (backup(action='mount', mount_point=made), 'mount is not allowed in a job'),
        (backup(**image), 'engine glance is not in engines'),
        (backup(path_to_backup='/' + 'x' * 100_000), 'path_to_backup: /xxx'),
    ]


def invalid(victim: Victim) -> list[tuple[dict[str, Any], str]]:
    """Whole documents, and the error that must be logged for each."""
    touch = executes(f'touch {victim.made}')
    good = document(victim.backup())
    line = f'bk\non_failure_command = touch {victim.made}'
    return [
        (document(victim.backup(backup_name=line)), 'line break'),
        (document(victim.backup(**{f'x\npre_command={line}': '1'})), 'not an option'),
        (document(victim.backup(config_file=str(victim.made))), 'not allowed'),
        (document(victim.backup(log_file=str(victim.made))), 'log'),
        ({'job_actions': [{'freezer_action': ['exec']}]}, 'must be an object'),
        ({'job_actions': [{'freezer_action': {}}] * 101}, 'at most 100 actions'),
        (good | {f'key{number}': 1 for number in range(10_000)}, 'more problems'),
        (good | {'user_credentials': {'trust_id': ['x']}}, 'must be text'),
        (document(touch, schedule_interval='`id`'), 'schedule_interval'),
        (document(touch, event='run'), 'event'),
    ]


def test_nothing_outside_of_the_policy(
    api: HostileApi, victim: Victim, tmp_path: Path
) -> None:
    told: dict[str, str] = {}
    for number, (action, reason) in enumerate(outside_of_policy(victim)):
        api.jobs.append(document(action) | {'job_id': f'policy{number}'})
        told[f'policy{number}'] = reason
    for number, (job, reason) in enumerate(invalid(victim)):
        api.jobs.append(job | {'job_id': f'invalid{number}'})
        told[f'invalid{number}'] = reason
    # A report would replace its schedule, and so make a valid job of it.
    unreported = document(victim.backup()) | {'job_schedule': 'now'}
    api.jobs.append(unreported | {'job_id': 'unreported'})
    for job_id in ('../../made', '..', 'x' * 65, 7, '', None, f'/{victim.made}'):
        api.jobs.append(document(executes('true')) | {'job_id': job_id})
    api.jobs += ['text', None, 7, [], document(executes('true'))]
    api.jobs.append(document(executes('true')) | {'job_id': 'last'})
    for job in api.jobs:
        if isinstance(job, dict):
            job['client_id'] = CLIENT
    with Scheduler(tmp_path / 'scheduler') as scheduler:
        scheduler.source = ('--client-id', CLIENT)
        for name in ('USERNAME', 'PASSWORD', 'PROJECT_NAME', 'USER_DOMAIN_NAME'):
            scheduler.env[f'OS_{name}'] = 'x'
        scheduler.env['OS_PROJECT_DOMAIN_NAME'] = 'x'
        scheduler.env |= {'OS_AUTH_URL': f'{api.url}/v3', 'OS_BACKUP_URL': api.url}
        scheduler.start(*victim.options)
        until(lambda: api.results.get('last') == 'success', lambda: scheduler.logged)
        until(
            lambda: told.keys() <= api.results.keys(),
            lambda: (set(told) - set(api.results), scheduler.logged),
        )
        lines = scheduler.logged.splitlines()
        status = scheduler.call('status', '--json').document
    assert victim.is_untouched()
    assert list(victim.store.iterdir()) == [victim.store / 'link']
    assert {api.results[job_id] for job_id in told} == {'fail'}
    logged = {
        job_id: [line for line in lines if re.search(rf'\b(job_)?{job_id}\b', line)]
        for job_id in told
    }
    untold = {
        (reason, *logged[job_id])
        for job_id, reason in told.items()
        if not any(reason in line for line in logged[job_id])
    }
    assert untold == set()
    listed = json.dumps(status)
    assert [job_id for job_id in (*told, 'unreported') if job_id not in listed] == []
    assert any('unreported' in line and 'must be an object' in line for line in lines)
    assert sum('no valid job_id' in line for line in lines) == 1
    assert max(map(len, lines)) < 3000
    assert len(lines) < 500
