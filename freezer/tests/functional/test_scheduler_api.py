"""The real freezer-scheduler under the real Keystone and freezer-api."""

import concurrent.futures
import contextlib
import json
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from freezer.tests import servers, trees
from freezer.tests.agent import HOST, LocalStore, S3Store, missed
from freezer.tests.functional.test_scheduler import (
    Cmdlines,
    agents,
    assert_private,
    is_alive,
    s3,
    texts,
    uploads,
)
from freezer.tests.proxy import Proxy
from freezer.tests.scheduler import (
    Action,
    Scheduler,
    backup_to,
    document,
    executes,
    until,
)
from freezer.tests.servers.cloud import PASSWORD
from freezer.tests.servers.control_plane import ControlPlane

pytestmark = pytest.mark.xdist_group('cloud')


class ApiClient:
    """A scheduler that is a client of freezer-api, and its jobs there."""

    def __init__(self, scheduler: Scheduler, plane: ControlPlane, name: str) -> None:
        self.scheduler = scheduler
        self.plane = plane
        self.client_id = f'{name}.example'
        scheduler.source = ('--client-id', self.client_id)
        scheduler.env |= plane.cloud.environ()

    def create(self, job: dict[str, Any], session: Any = None) -> str:
        for action in job['job_actions']:
            # The default of freezer-api is five.
            action.setdefault('max_retries', 0)
        body = {**job, 'client_id': self.client_id}
        made = self.plane.call('POST', 'jobs/', body, session)
        job_id: str = made['job_id']
        return job_id

    def freezer(self, command: str, job_id: str) -> None:
        self.plane.freezer(command, job_id)

    def until(self, job_id: str, session: Any = None, **schedule: Any) -> None:
        """Wait until the schedule of the job in freezer-api has these values."""

        def found() -> dict[str, Any]:
            job = self.plane.call('GET', f'jobs/{job_id}', session=session)
            known: dict[str, Any] = job['job_schedule']
            return known

        until(
            lambda: schedule.items() <= found().items(),
            lambda: (schedule, found(), self.scheduler.logged),
        )

    def backups(self, job_id: str, session: Any = None) -> list[dict[str, Any]]:
        """The backups of a job in freezer-api."""
        search = {'match': [{'job_id': job_id}]}
        found = self.plane.call('GET', 'backups/?limit=1000', search, session)
        return [each['backup_metadata'] for each in found['backups']]


@pytest.fixture
def client(
    control_plane: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[ApiClient]:
    with Scheduler(tmp_path / 'scheduler') as scheduler:
        scheduler.options += ('--policy-write-roots', str(tmp_path))
        name = request.node.name.replace('_', '-')[:50].strip('-')
        yield ApiClient(scheduler, control_plane, name)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / 'tree'
    path.mkdir()
    (path / 'passwd').write_text('root:x:0:0\n')
    return path


def test_backup_restore_stop_and_delete(
    control_plane: ControlPlane, store: S3Store, tree: Path, tmp_path: Path
) -> None:
    plane = control_plane
    target = tmp_path / 'target'
    with Scheduler(tmp_path / 'scheduler') as scheduler, Cmdlines() as cmdlines:
        client = ApiClient(scheduler, plane, 'unused')
        scheduler.source = ()
        client.client_id = f'{plane.cloud.project_id}_{socket.gethostname()}'
        touch = f'touch {tmp_path}/made'
        scheduler.start(
            *('--debug', '--policy-write-roots', str(tmp_path)),
            *('--policy-command', touch),
        )
        scheduler.until_logged(f'as client {client.client_id}')
        known = plane.call('GET', f'clients/{client.client_id}')['client']
        assert sorted(known['supported_storages']) == [
            *('ftp', 'ftps', 'local', 's3', 'ssh', 'swift')
        ]
        assert sorted(known['supported_engines']) == [
            *('glance', 'nova', 'rsync', 'rsyncv2', 'tar')
        ]
        modes = ['cinder', 'cindernative', 'fs', 'glance', 'mongo', 'mysql', 'nova']
        assert sorted(known['supported_modes']) == modes
        backup = document(s3(store, action='backup', path_to_backup=str(tree)))
        path = tmp_path / 'job.json'
        path.write_text(json.dumps(backup))
        shown = plane.freezer(
            *('job-create', '--file', str(path), '--client', client.client_id),
            *('-f', 'json'),
        )
        job_id = json.loads(shown)['Job ID']
        client.until(job_id, status='completed', result='success')
        (backup_metadata,) = client.backups(job_id)
        expected = {'backup_name': 'bk', 'curr_backup_level': 0, 'hostname': HOST}
        assert expected.items() <= backup_metadata.items()
        assert backup_metadata['container'] == store.container
        # job-start runs it again.
        client.freezer('job-start', job_id)
        until(lambda: len(client.backups(job_id)) == 2, lambda: scheduler.logged)
        restore = s3(store, action='restore', restore_abs_path=str(target))
        second = client.create(document(restore))
        client.until(second, status='completed', result='success')
        assert missed(trees.describe(tree), target) == []
        # A scheduled job is stopped and deleted.
        third = client.create(document(executes(touch), schedule_interval='1 hours'))
        client.until(third, status='scheduled', result='success')
        saved = scheduler.jobs / f'job_{third}.conf'
        assert stat.S_IMODE(saved.stat().st_mode) == 0o600
        client.freezer('job-stop', third)
        client.until(third, status='stop', event='')
        assert scheduler.record(third)['due'] is None
        client.freezer('job-delete', third)
        scheduler.until(third, status='removed')
        assert not saved.exists()
        made = tmp_path / 'made'
        assert stat.S_IMODE(made.stat().st_mode) == 0o600
        status = scheduler.call('status')
        assert 'freezer-api' in status.out
        scheduler.stop()
    assert_private(scheduler)
    found = [*texts(scheduler), status.out, json.dumps(backup_metadata)]
    ours = [line for line in cmdlines.seen if b'freezer.main' in line]
    assert ours
    for secret in (PASSWORD, store.server.secret_key):
        assert not any(secret in text for text in found)
        assert not any(secret.encode() in line for line in ours)


def test_agents_do_not_get_the_credentials(client: ApiClient, tmp_path: Path) -> None:
    seen = tmp_path / 'seen'
    client.scheduler.env['OS_SERVICE_AUTH__TOKEN'] = 'token/secret'
    client.scheduler.env['KEPT'] = 'kept'
    command = f"sh -c 'env >{seen}'"
    client.scheduler.start('--policy-command', command)
    client.scheduler.until_logged('as client')
    job_id = client.create(document(executes(command)))
    client.until(job_id, status='completed', result='success')
    text = seen.read_text()
    assert 'KEPT=kept' in text
    assert PASSWORD not in text
    assert 'token/secret' not in text
    assert 'OS_USERNAME' not in text


def test_a_rotated_password(client: ApiClient, tmp_path: Path) -> None:
    """It is used after a reload, without a restart."""
    scheduler, cloud = client.scheduler, client.plane.cloud
    cloud.add_user('rotating')
    environ = cloud.environ('rotating')
    for name in environ:
        del scheduler.env[name]
    conf = tmp_path / 'scheduler.conf'

    def write(password: str) -> None:
        values = environ | {'OS_PASSWORD': password}
        del values['OS_IDENTITY_API_VERSION']
        lines = [f'{name.lower()} = {value}' for name, value in values.items()]
        conf.write_text('\n'.join(['[service_auth]', *lines, '']))
        conf.chmod(0o600)

    write(PASSWORD)
    scheduler.start('--config-file', str(conf), '--policy-command', 'true')
    scheduler.until_logged('as client')
    session = cloud.session('rotating')
    new = 'new/secret+password'
    user = f'{cloud.auth_url}/users/{session.get_user_id()}'
    cloud.admin.patch(user, json={'user': {'password': new}})
    write(new)
    scheduler.call('reload').check()
    scheduler.until_logged('the credentials for freezer-api have changed')
    session = cloud.session('rotating', password=new)
    job_id = client.create(document(executes('true')), session)
    client.until(job_id, session, status='completed', result='success')
    assert new not in scheduler.logged
    assert PASSWORD not in scheduler.logged


def test_jobs_outside_of_the_policy(
    client: ApiClient, tree: Path, tmp_path: Path
) -> None:
    """They fail in freezer-api and the log, with the reason, and nothing runs."""
    scheduler = client.scheduler
    scheduler.options, store = ('--interval', '1'), tmp_path / 'store'
    scheduler.start('--policy-read-roots', str(tree))
    scheduler.until_logged('as client')
    made = tmp_path / 'made'
    hostile = {
        f"the command 'touch {made}'": executes(f'touch {made}'),
        f'container: {made} is not below write_roots': backup_to(made, tree),
        'path_to_backup: /etc is not below read_roots': s3_to_nowhere('/etc'),
        f'metadata_out: {made} is not below write_roots': s3_to_nowhere(
            str(tree), metadata_out=str(made)
        ),
        f"on_failure_command: the command 'touch {made}'": s3_to_nowhere(
            str(tree), on_failure_command=f'touch {made}'
        ),
        'restore_abs_path: /etc/cron.d is not below write_roots': s3_to_nowhere(
            None, action='restore', restore_abs_path='/etc/cron.d'
        ),
    }
    for reason, action in hostile.items():
        job_id = client.create(document(action))
        client.until(job_id, status='completed', result='fail')
        assert reason in scheduler.record(job_id)['error'], reason
        assert reason in scheduler.logged
        assert reason in scheduler.call('status').out.replace('\n', ' ')
    assert not made.exists()
    # What the policy allows runs.
    scheduler.stop()
    scheduler.start('--policy-write-roots', str(store))
    job_id = client.create(document(backup_to(store, tree)))
    client.until(job_id, status='completed', result='success')


def s3_to_nowhere(path: str | None, **options: str) -> Action:
    where = {'storage': 's3', 'access_key': 'ACCESS', 'secret_key': 'SECRET'}
    where |= {'endpoint': 'http://127.0.0.1:9', 'container': 'bucket'}
    what = {'backup_name': 'bk'} | ({'path_to_backup': path} if path else {})
    return {'action': 'backup', **where, **what, **options}


def test_d32_abort_in_the_middle_of_an_upload(
    client: ApiClient, proxied: S3Store, proxy: Proxy, big: Path
) -> None:
    scheduler = client.scheduler.start()
    scheduler.until_logged('as client')
    held = proxy.hold(lambda request: request.part == 3)
    action = uploads(proxied, big)
    job_id = client.create(document(action, schedule_interval='1 hours'))
    held.wait()
    (pid,) = agents(scheduler)
    client.until(job_id, status='running', result='', time_ended=-1)
    assert proxied.open_uploads()
    client.freezer('job-abort', job_id)
    scheduler.until_logged(f'job {job_id}: aborting')
    held.release()
    client.until(job_id, status='completed', result='aborted', event='')
    assert not is_alive(pid)
    assert proxied.is_untouched()
    assert client.backups(job_id) == []
    assert scheduler.record(job_id)['due'] is None


@contextlib.contextmanager
def outage(plane: ControlPlane, *parts: str) -> Iterator[None]:
    for part in parts:
        plane.cloud.kill_one(part)
    try:
        yield
    finally:
        for part in parts:
            plane.cloud.start_one(part)


def test_refused_and_corrected_job(
    client: ApiClient, tree: Path, tmp_path: Path
) -> None:
    scheduler = client.scheduler.start('--policy-command', 'true')
    scheduler.until_logged('as client')
    good = backup_to(tmp_path / 'store', tree, restore_from_host='ignored')
    job_id = client.create(document(good | {'max_level': 3}))
    client.until(job_id, status='', result='fail')
    assert 'max-level needs --incremental' in scheduler.logged
    assert scheduler.record(job_id) == {}
    corrected = document(good | {'max_level': 3, 'incremental': True})
    client.plane.call(
        'PATCH', f'jobs/{job_id}', {'job_actions': corrected['job_actions']}
    )
    client.until(job_id, status='completed', result='success')
    assert len(client.backups(job_id)) == 1


def test_events_and_reports_at_the_same_time(
    client: ApiClient, control_plane: ControlPlane
) -> None:
    """The server of the tests makes both, whichever comes first."""
    known = {'client_id': client.client_id, 'hostname': client.client_id}
    control_plane.call('POST', 'clients/', known)
    job_id = client.create(document(executes('true')))
    stopping = threading.Event()

    def report() -> None:
        session = control_plane.cloud.session()
        while not stopping.is_set():
            changes = {'job_schedule': {'status': 'scheduled'}}
            control_plane.call('PATCH', f'jobs/{job_id}', changes, session)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        reports = [pool.submit(report) for _ in range(2)]
        try:
            for event in ('start', 'stop') * 20:
                control_plane.call('POST', f'jobs/{job_id}/event', {event: None})
        finally:
            stopping.set()
        for each in reports:
            each.result()


def test_outages_of_everything(
    client: ApiClient, control_plane: ControlPlane, tree: Path, tmp_path: Path
) -> None:
    """freezer-api, the scheduler and Keystone fail: every backup is made, and reported
    once."""
    scheduler = client.scheduler.start()
    scheduler.until_logged('as client')
    local = LocalStore(tmp_path / 'store')
    backup = backup_to(local.directory, tree, hostname=HOST)
    job_id = client.create(document(backup, schedule_interval='3 seconds'))
    scheduler.until_successes(job_id, 1)

    def another_run() -> None:
        scheduler.until_successes(job_id, scheduler.record(job_id)['successes'] + 1)

    with outage(control_plane, 'freezer'):
        another_run()
        scheduler.until_logged('continuing with known jobs')
        scheduler.send(signal.SIGKILL)
        scheduler.wait()
        # Known jobs run without freezer-api.
        scheduler.start()
        another_run()
        assert list((scheduler.state / 'api/outbox').iterdir())
    # Now, not when the delay is over.
    scheduler.call('reload').check()
    scheduler.until_logged('freezer-api is available again')
    with outage(control_plane, 'keystone', 'freezer'):
        another_run()
    scheduler.call('reload').check()
    another_run()
    client.plane.call('POST', f'jobs/{job_id}/event', {'stop': None})
    # The status is stop, or completed if it was running.
    client.until(job_id, event='')
    until(lambda: not list((scheduler.state / 'api/outbox').iterdir()))
    reported = [each['time_stamp'] for each in client.backups(job_id)]
    assert len(reported) == len(set(reported))
    assert sorted(reported) == sorted(
        int(marker.split('/')[4].partition('_')[2]) for marker in local.markers()
    )


def test_backup_outlives_the_scheduler(
    client: ApiClient,
    seaweedfs: servers.SeaweedFS,
    proxied: S3Store,
    proxy: Proxy,
    big: Path,
) -> None:
    scheduler = client.scheduler.start()
    scheduler.until_logged('as client')
    held = proxy.hold(lambda request: request.part == 3)
    action = uploads(proxied, big)
    job_id = client.create(document(action, schedule_interval='1 hours'))
    held.wait()
    (pid,) = agents(scheduler)
    scheduler.send(signal.SIGKILL)
    scheduler.wait()
    scheduler.start()
    held.release()
    until(lambda: not is_alive(pid))
    until(lambda: client.backups(job_id), lambda: scheduler.logged)
    (backup_metadata,) = client.backups(job_id)
    assert backup_metadata['container'] == proxied.container
    assert len(proxied.markers()) == 1
    assert scheduler.record(job_id)['runs'] == 1


def test_session_of_two_jobs(client: ApiClient, control_plane: ControlPlane) -> None:
    scheduler = client.scheduler.start(
        *('--concurrent-jobs', '2'),
        *('--policy-command', 'true', '--policy-command', 'false'),
    )
    scheduler.until_logged('as client')
    plane = control_plane
    jobs = [
        client.create(document(executes(command), event='stop'))
        for command in ('true', 'false')
    ]
    for job_id in jobs:
        client.until(job_id, status='stop')
    start = time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(time.time() + 5))
    session = plane.call(
        'POST', 'sessions/', {'schedule': {'schedule_date': start}, 'session_tag': 0}
    )['session_id']
    for job_id in jobs:
        plane.call('PUT', f'sessions/{session}/jobs/{job_id}')

    def found() -> dict[str, Any]:
        known: dict[str, Any] = plane.call('GET', f'sessions/{session}')
        return known

    def results() -> list[str]:
        return [found()['jobs'][job_id]['result'] for job_id in jobs]

    # freezer-api completes a session with a failure, even if another job runs.
    until(lambda: results() == ['success', 'fail'], lambda: scheduler.logged)
    known = found()
    assert (known['session_tag'], known['status']) == (1, 'completed')
    assert known['result'] == 'fail'

    def tags() -> list[int]:
        return [plane.call('GET', f'jobs/{each}')['session_tag'] for each in jobs]

    until(lambda: tags() == [1, 1], lambda: scheduler.logged)


def test_central_scheduler(
    client: ApiClient, control_plane: ControlPlane, tree: Path, tmp_path: Path
) -> None:
    """It uses the trusts that freezer-api creates with the jobs of other users."""
    plane = control_plane
    plane.cloud.add_user('other')
    others = plane.cloud.session('other', 'other')
    scheduler = client.scheduler.start('--centralized-scheduler')
    scheduler.until_logged('as client')
    backup = backup_to(tmp_path / 'store', tree)
    job_id = client.create(document(backup), others)
    client.until(job_id, others, status='completed', result='success')
    assert len(client.backups(job_id, others)) == 1
    # Only they can see it.
    assert client.backups(job_id) == []
