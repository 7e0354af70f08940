"""The real freezer-scheduler under the real Keystone and freezer-api."""

import contextlib
import json
import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from freezer.tests import servers, trees
from freezer.tests.agent import HOST, PART, LocalStore, S3Store, missed
from freezer.tests.functional.test_scheduler import Cmdlines, agents, is_alive, s3
from freezer.tests.proxy import Proxy
from freezer.tests.scheduler import Scheduler, document, executes, until
from freezer.tests.servers.control_plane import PASSWORD, ControlPlane

pytestmark = pytest.mark.xdist_group('control-plane')


class Remote:
    """A scheduler under freezer-api, as a client of its own, and the jobs it has."""

    def __init__(self, scheduler: Scheduler, plane: ControlPlane, name: str) -> None:
        self.scheduler = scheduler
        self.plane = plane
        self.client_id = f'{name}.example'
        scheduler.source = ('--client-id', self.client_id)
        scheduler.env |= plane.environ()

    def create(self, job: dict[str, Any], session: Any = None) -> str:
        for action in job['job_actions']:
            # Else freezer-api makes it five.
            action.setdefault('max_retries', 0)
        body = {**job, 'client_id': self.client_id}
        made = self.plane.call('POST', 'jobs/', body, session)
        job_id: str = made['job_id']
        return job_id

    def freezer(self, command: str, job_id: str) -> None:
        self.plane.freezer(command, job_id)

    def until(self, job_id: str, session: Any = None, **schedule: Any) -> None:
        """Wait for freezer-api to know this of a job."""

        def found() -> dict[str, Any]:
            job = self.plane.call('GET', f'jobs/{job_id}', session=session)
            known: dict[str, Any] = job['job_schedule']
            return known

        until(
            lambda: schedule.items() <= found().items(),
            lambda: (schedule, found(), self.scheduler.said),
        )

    def backups(self, job_id: str, session: Any = None) -> list[dict[str, Any]]:
        """What is registered of a job."""
        search = {'match': [{'job_id': job_id}]}
        found = self.plane.call('GET', 'backups/?limit=1000', search, session)
        return [each['backup_metadata'] for each in found['backups']]


@pytest.fixture
def remote(
    control_plane: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Remote]:
    with Scheduler(tmp_path / 'scheduler') as scheduler:
        name = request.node.name.replace('_', '-')[:50].strip('-')
        yield Remote(scheduler, control_plane, name)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / 'tree'
    path.mkdir()
    (path / 'passwd').write_text('root:x:0:0\n')
    return path


def uploads(store: S3Store, big: Path) -> dict[str, Any]:
    """A backup in several parts. freezer-api takes no action without its name."""
    return s3(
        store,
        action='backup',
        path_to_backup=str(big),
        compression='none',
        max_segment_size=PART,
    )


def test_backup_restore_stop_and_delete(
    control_plane: ControlPlane, store: S3Store, tree: Path, tmp_path: Path
) -> None:
    plane = control_plane
    target = tmp_path / 'target'
    with Scheduler(tmp_path / 'scheduler') as scheduler, Cmdlines() as cmdlines:
        remote = Remote(scheduler, plane, 'unused')
        scheduler.source = ()
        remote.client_id = f'{plane.project_id}_{socket.gethostname()}'
        before = os.umask(0)
        try:
            scheduler.start('--debug')
        finally:
            os.umask(before)
        scheduler.until_said(f'as client {remote.client_id}')
        known = plane.call('GET', f'clients/{remote.client_id}')['client']
        assert known['supported_storages'] == ['local', 's3']
        assert (known['supported_engines'], known['supported_modes']) == (
            ['tar'],
            ['fs'],
        )
        backup = document(s3(store, action='backup', path_to_backup=str(tree)))
        path = tmp_path / 'job.json'
        path.write_text(json.dumps(backup))
        shown = plane.freezer(
            *('job-create', '--file', str(path), '--client', remote.client_id),
            *('-f', 'json'),
        )
        job_id = json.loads(shown)['Job ID']
        remote.until(job_id, status='completed', result='success')
        (told,) = remote.backups(job_id)
        assert (told['backup_name'], told['curr_backup_level']) == ('bk', 0)
        assert (told['container'], told['hostname']) == (store.container, HOST)
        # Asked for again, it is done again.
        remote.freezer('job-start', job_id)
        until(lambda: len(remote.backups(job_id)) == 2, lambda: scheduler.said)
        restore = s3(store, action='restore', restore_abs_path=str(target))
        second = remote.create(document(restore))
        remote.until(second, status='completed', result='success')
        assert missed(trees.describe(tree), target) == []
        # One that goes on, is stopped, and is deleted.
        third = remote.create(
            document(executes(f'touch {tmp_path}/made'), schedule_interval='1 hours')
        )
        remote.until(third, status='scheduled', result='success')
        saved = scheduler.jobs / f'job_{third}.conf'
        assert stat.S_IMODE(saved.stat().st_mode) == 0o600
        remote.freezer('job-stop', third)
        remote.until(third, status='stop', event='')
        assert scheduler.record(third)['due'] is None
        remote.freezer('job-delete', third)
        scheduler.until(third, status='removed')
        assert not saved.exists()
        made = tmp_path / 'made'
        assert stat.S_IMODE(made.stat().st_mode) == 0o600
        status = scheduler.call('status')
        assert 'freezer-api' in status.out
        scheduler.stop()
    texts = [scheduler.said, status.out, json.dumps(told)]
    for folder in (scheduler.runtime, scheduler.state, Path(scheduler.env['HOME'])):
        for each in folder.rglob('*'):
            if each.is_file():
                texts.append(each.read_text(errors='replace'))
            if folder != Path(scheduler.env['HOME']):
                assert stat.S_IMODE(each.stat().st_mode) & 0o077 == 0, each
    for secret in (PASSWORD, store.server.secret_key):
        assert not any(secret in text for text in texts)
    ours = [line for line in cmdlines.seen if b'freezer.main' in line]
    assert ours
    assert not any(store.server.secret_key.encode() in line for line in ours)
    assert not any(PASSWORD.encode() in line for line in ours)


def test_agents_cannot_be_keystones_users(remote: Remote, tmp_path: Path) -> None:
    seen = tmp_path / 'seen'
    remote.scheduler.env['OS_SERVICE_AUTH__TOKEN'] = 'token/secret'
    remote.scheduler.env['KEPT'] = 'kept'
    remote.scheduler.start()
    remote.scheduler.until_said('as client')
    job_id = remote.create(document(executes(f"sh -c 'env >{seen}'")))
    remote.until(job_id, status='completed', result='success')
    text = seen.read_text()
    assert 'KEPT=kept' in text
    assert PASSWORD not in text
    assert 'token/secret' not in text
    assert 'OS_USERNAME' not in text


def test_d32_abort_in_the_middle_of_an_upload(
    remote: Remote, proxied: S3Store, proxy: Proxy, big: Path
) -> None:
    scheduler = remote.scheduler.start()
    scheduler.until_said('as client')
    held = proxy.hold(lambda request: request.part == 3)
    action = uploads(proxied, big)
    job_id = remote.create(document(action, schedule_interval='1 hours'))
    held.wait()
    (pid,) = agents(scheduler)
    remote.until(job_id, status='running', result='', time_ended=-1)
    assert proxied.open_uploads()
    remote.freezer('job-abort', job_id)
    scheduler.until_said(f'job {job_id}: is aborted')
    held.release()
    remote.until(job_id, status='completed', result='aborted', event='')
    assert not is_alive(pid)
    assert proxied.is_untouched()
    assert remote.backups(job_id) == []
    assert scheduler.record(job_id)['due'] is None


@contextlib.contextmanager
def away(plane: ControlPlane, *parts: str) -> Iterator[None]:
    for part in parts:
        plane.kill_one(part)
    try:
        yield
    finally:
        for part in parts:
            plane.start_one(part)


def test_all_of_it_is_away_in_turn(
    remote: Remote, control_plane: ControlPlane, tree: Path, tmp_path: Path
) -> None:
    """freezer-api, the scheduler meanwhile, and Keystone: every backup is made, and
    told once."""
    scheduler = remote.scheduler.start()
    scheduler.until_said('as client')
    local = LocalStore(tmp_path / 'store')
    backup = {
        'action': 'backup',
        'storage': 'local',
        'container': str(local.directory),
        'path_to_backup': str(tree),
        'backup_name': 'bk',
        'hostname': HOST,
    }
    job_id = remote.create(document(backup, schedule_interval='3 seconds'))
    until(
        lambda: scheduler.record(job_id).get('successes', 0) > 0, lambda: scheduler.said
    )

    def goes_on() -> None:
        runs = scheduler.record(job_id)['successes']
        until(
            lambda: scheduler.record(job_id)['successes'] > runs, lambda: scheduler.said
        )

    with away(control_plane, 'api'):
        goes_on()
        scheduler.until_said('the jobs that are known go on')
        scheduler.send(signal.SIGKILL)
        scheduler.wait()
        # Nobody answers, and nothing of what is known needs that.
        scheduler.start()
        goes_on()
        assert list((scheduler.state / 'api/outbox').iterdir())
    # Asked at once, and not when the delay is over.
    scheduler.call('reload').check()
    scheduler.until_said('freezer-api answers again')
    with away(control_plane, 'keystone', 'api'):
        goes_on()
    scheduler.call('reload').check()
    goes_on()
    remote.plane.call('POST', f'jobs/{job_id}/event', {'stop': None})
    # Stopped, or completed if it was running.
    remote.until(job_id, event='')
    until(lambda: not list((scheduler.state / 'api/outbox').iterdir()))
    told = [each['time_stamp'] for each in remote.backups(job_id)]
    assert len(told) == len(set(told))
    assert sorted(told) == sorted(
        int(marker.split('/')[4].partition('_')[2]) for marker in local.markers()
    )


def test_a_backup_that_outlives_the_scheduler(
    remote: Remote,
    seaweedfs: servers.SeaweedFS,
    proxied: S3Store,
    proxy: Proxy,
    big: Path,
) -> None:
    scheduler = remote.scheduler.start()
    scheduler.until_said('as client')
    held = proxy.hold(lambda request: request.part == 3)
    action = uploads(proxied, big)
    job_id = remote.create(document(action, schedule_interval='1 hours'))
    held.wait()
    (pid,) = agents(scheduler)
    scheduler.send(signal.SIGKILL)
    scheduler.wait()
    scheduler.start()
    held.release()
    until(lambda: not is_alive(pid))
    until(lambda: remote.backups(job_id), lambda: scheduler.said)
    (told,) = remote.backups(job_id)
    assert told['container'] == proxied.container
    assert len(proxied.markers()) == 1
    assert scheduler.record(job_id)['runs'] == 1


def test_a_session_of_two(remote: Remote, control_plane: ControlPlane) -> None:
    scheduler = remote.scheduler.start('--concurrent-jobs', '2')
    scheduler.until_said('as client')
    plane = control_plane
    jobs = [
        remote.create(document(executes(command), event='stop'))
        for command in ('true', 'false')
    ]
    for job_id in jobs:
        remote.until(job_id, status='stop')
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

    # freezer-api takes a session with a failure for completed, whatever still runs.
    until(lambda: results() == ['success', 'fail'], lambda: scheduler.said)
    known = found()
    assert (known['session_tag'], known['status']) == (1, 'completed')
    assert known['result'] == 'fail'

    def tags() -> list[int]:
        return [plane.call('GET', f'jobs/{each}')['session_tag'] for each in jobs]

    until(lambda: tags() == [1, 1], lambda: scheduler.said)


def test_a_central_scheduler_works_for_others(
    remote: Remote, control_plane: ControlPlane, tree: Path, tmp_path: Path
) -> None:
    """By the trust that freezer-api makes when they ask it for a job."""
    plane = control_plane
    plane.add_user('other')
    others = plane.session('other', 'other')
    scheduler = remote.scheduler.start('--centralized-scheduler')
    scheduler.until_said('as client')
    local = tmp_path / 'store'
    backup = {
        'action': 'backup',
        'storage': 'local',
        'container': str(local),
        'path_to_backup': str(tree),
        'backup_name': 'bk',
    }
    job_id = remote.create(document(backup), others)
    remote.until(job_id, others, status='completed', result='success')
    assert len(remote.backups(job_id, others)) == 1
    # It is theirs alone.
    assert remote.backups(job_id) == []
