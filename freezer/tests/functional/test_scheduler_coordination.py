"""Several schedulers share the jobs of one client, by real backends, with faults.

``FREEZER_TEST_COORDINATION_JOBS=200`` runs as many jobs on each backend. If the machine
is too busy to renew a lock in time, set ``FREEZER_TEST_COORDINATION_LIFETIME=30``.
"""

import contextlib
import datetime
import itertools
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from freezer.scheduler.config import Coordination
from freezer.scheduler.coordination.backend import Backend as Connection
from freezer.scheduler.coordination.backend import BackendError
from freezer.scheduler.coordination.claims import Claims
from freezer.scheduler.coordination.runs import Wanted
from freezer.tests import scheduler as schedulers
from freezer.tests.scheduler import Scheduler, document, executes, until
from freezer.tests.servers.base import free_ports
from freezer.tests.servers.coordination import Backend, Etcd, Memcached, Redis

JOBS = int(os.environ.get('FREEZER_TEST_COORDINATION_JOBS') or 8)
#: seconds that a lock outlives its last renewal
LIFETIME = int(os.environ.get('FREEZER_TEST_COORDINATION_LIFETIME') or 6)
SERVERS = {each.name: each for each in (Redis, Etcd, Memcached)}
# It reports when it runs twice at once: the lock is held until the last of its
# processes is gone.
_SCRIPT = """\
cd {folder} && exec 9>>$1.lock
flock -n 9 || {{ echo "$1 twice" >>runs; exit 1; }}
echo "$1 start" >>runs
sleep {seconds}
echo "$1 end" >>runs
"""


class Cluster:
    """Three schedulers, and their backend.

    :ivar url: None if the backend is a directory
    """

    def __init__(self, folder: Path, server: Backend | None) -> None:
        self._server = server
        self._folder = folder
        self.directory = folder / 'locks'
        self.directory.mkdir()
        self.url = f'file://{self.directory}?timeout={LIFETIME}'
        if server is not None:
            self.url = f'{server.url}?lock_timeout={LIFETIME}'
            if server.name != 'memcached':
                self.url += f'&membership_timeout={LIFETIME}'
        self.members = [Scheduler(folder / f's{number}') for number in range(3)]
        self.jobs = self.members[0].jobs
        for each in self.members:
            each.jobs = self.jobs
            each.options = (
                *('--interval', '1', '--concurrent-jobs', '2', '--client-id', 'web'),
                *('--coordination-backend-url', self.url),
            )

    def add(self, name: str, seconds: float, **schedule: Any) -> None:
        """A job that takes so long."""
        script = self._folder / 'job.sh'
        script.write_text(_SCRIPT.format(folder=self._folder, seconds=seconds))
        job = document(executes(f'bash {script} {name}'), **schedule)
        self.members[0].job(name, job)

    @property
    def runs(self) -> list[tuple[str, str]]:
        """(job, start, end or twice)"""
        path = self._folder / 'runs'
        lines = path.read_text().splitlines() if path.exists() else []
        return [(line.split()[0], line.split()[1]) for line in lines]

    def count(self, what: str) -> Counter[str]:
        return Counter(job for job, event in self.runs if event == what)

    def until(self, what: str, jobs: int) -> None:
        """Wait until so many jobs have started, or ended."""
        until(lambda: len(self.count(what)) >= jobs, lambda: self.logs)

    @contextlib.contextmanager
    def backend_away(self) -> Iterator[None]:
        hidden = self._folder / 'hidden'
        if self._server is None:
            self.directory.rename(hidden)
        else:
            self._server.kill()
        yield
        if self._server is None:
            # A member that looked meanwhile may have made it anew.
            shutil.rmtree(self.directory, ignore_errors=True)
            hidden.rename(self.directory)
        else:
            self._server.start()

    @property
    def logs(self) -> str:
        return '\n'.join(f'--- {each.log}\n{each.logged}' for each in self.members)


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        server = None
        if request.param != 'file':
            server = SERVERS[request.param](tmp_path)
            if not server.available():
                pytest.skip(f'{server.name} is not installed')
            stack.enter_context(server)
        cluster = Cluster(tmp_path, server)
        for member in cluster.members:
            stack.enter_context(member)
        yield cluster


# The rest of the driver is tested once; this takes half a minute for each.
OTHERS = ('etcd', 'memcached') if os.environ.get('FREEZER_TEST_THOROUGH') else ()


def on(*backends: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize('cluster', backends, indirect=True)


@on('redis', 'file', *OTHERS)
@pytest.mark.timeout(400 + 20 * JOBS)
def test_every_job_runs_and_none_twice_at_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedulers, 'PATIENCE', 60 + 10 * JOBS)
    for number in range(JOBS):
        cluster.add(f'job{number}', 2)
    members = itertools.cycle(cluster.members)
    for member in cluster.members:
        member.start()
    # Of many jobs, the faults come again after each quarter.
    for part in range(max(1, min(4, JOBS // 40))):
        before = JOBS * part // 4
        cluster.until('start', before + 3)
        killed, stopped = next(members), next(members)
        killed.send(signal.SIGKILL)
        killed.wait()
        cluster.until('start', before + 5)
        stopped.send(signal.SIGSTOP)
        time.sleep(LIFETIME + 2)
        stopped.send(signal.SIGCONT)
        killed.start()
        cluster.until('end', min(len(cluster.count('end')) + 1, JOBS))
        with cluster.backend_away():
            time.sleep(LIFETIME + 2)
    cluster.until('end', JOBS)
    time.sleep(LIFETIME)
    for member in cluster.members:
        member.stop()
    ends, starts = cluster.count('end'), cluster.count('start')
    print(
        f'{len(ends)} jobs ended, {starts.total()} runs started, '
        f'{sum(each > 1 for each in ends.values())} jobs ended more than once, '
        f'{cluster.count("twice").total()} twice at once'
    )
    assert not cluster.count('twice'), cluster.logs


@on('redis')
def test_a_stopped_scheduler_ends_its_agent_before_its_lock_expires(
    cluster: Cluster,
) -> None:
    first, second, _ = cluster.members
    cluster.add('long', 3 * LIFETIME)
    first.start()
    until(lambda: cluster.count('start')['long'] == 1, lambda: cluster.logs)
    second.start()
    first.send(signal.SIGSTOP)
    until(lambda: cluster.count('start')['long'] == 2, lambda: cluster.logs)
    first.send(signal.SIGCONT)
    first.until_logged('job long: its lock is lost: ')
    record = first.until('long', result='aborted')
    assert record['error'].startswith('its lock in [coordination] was lost')
    until(lambda: cluster.count('end')['long'] == 1, lambda: cluster.logs)
    # The first one learns that its run was repeated.
    first.until('long', status='completed')
    assert cluster.runs == [('long', 'start'), ('long', 'start'), ('long', 'end')]


@on('redis', 'etcd')
def test_a_lost_lock_ends_the_run(cluster: Cluster) -> None:
    first, *_ = cluster.members
    cluster.add('long', LIFETIME)
    first.start()
    until(lambda: cluster.count('start')['long'] == 1, lambda: cluster.logs)
    backend = Connection(cluster.url, 'test', 'test')
    backend._coordinator.get_lock(b'freezer:web:long').break_()
    backend.close()
    first.until_logged('its lock is lost: the backend no longer has it')
    until(lambda: cluster.count('end')['long'] == 1, lambda: cluster.logs)
    assert cluster.runs == [('long', 'start'), ('long', 'start'), ('long', 'end')]


@on('file')
def test_a_run_that_the_watchdog_had_to_kill_is_repeated(cluster: Cluster) -> None:
    first, *_ = cluster.members
    cluster.add('long', 2)
    script = cluster.directory.parent / 'job.sh'
    # Not even bash ends at SIGTERM, until it is killed.
    script.write_text(
        script.read_text().replace('sleep 2', 'trap "" TERM; sleep 60; sleep 60')
    )
    first.start()
    until(lambda: cluster.count('start')['long'] == 1, lambda: cluster.logs)
    script.write_text(script.read_text().replace('sleep 60; sleep 60', 'true'))
    first.send(signal.SIGSTOP)
    time.sleep(LIFETIME)
    first.send(signal.SIGCONT)
    until(lambda: cluster.count('end')['long'] == 1, lambda: cluster.logs)
    first.until('long', status='completed', result='success')
    assert cluster.runs == [('long', 'start'), ('long', 'start'), ('long', 'end')]


@on('file')
def test_a_job_changed_while_the_backend_is_away(cluster: Cluster) -> None:
    first, second, _ = cluster.members
    for member in (first, second):
        member.start()
    with cluster.backend_away():
        for member in (first, second):
            member.until_logged('no job starts until it is available')
        moment = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        for seconds in (0, 1):
            date = moment + datetime.timedelta(seconds=seconds)
            cluster.add('a', 0, schedule_date=date.isoformat())
            for member in (first, second):
                member.until('a', due=date.isoformat())
            # Both ask for it.
            time.sleep(1.5)
    until(lambda: cluster.count('end')['a'] == 1, lambda: cluster.logs)
    for member in (first, second):
        member.until('a', status='completed')
    assert cluster.count('start')['a'] == 1


@on('redis', 'etcd', 'memcached')
def test_a_claim_that_fails_leaves_no_lock(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend is away for a moment, between the lock and the rest."""
    assert cluster.url is not None
    where = Coordination(backend_url=cluster.url, prefix='p', client_id='c')
    locked: list[object] = []
    failures = ['members', 'release']

    def fail(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(backend: Connection, *arguments: Any) -> Any:
            if locked and failures[:1] == [name]:
                failures.pop(0)
                raise BackendError('away')
            found = real(backend, *arguments)
            if name == 'lock' and found is not None:
                locked.append(found)
            return found

        return call

    for name in ('lock', 'members', 'release'):
        monkeypatch.setattr(Connection, name, fail(name, getattr(Connection, name)))
    shared = Claims(where, tmp_path, lambda: None)
    shared.start()
    moment = datetime.datetime.now(datetime.UTC)
    wanted = Wanted('job', 'x', moment, moment, True, False, datetime.timedelta())
    try:

        def asks() -> bool:
            shared.ask(wanted)
            time.sleep(0.5)
            return any(answer.claim is not None for answer in shared.answers())

        until(asks)
        assert failures == []
    finally:
        shared.stop()


@on('redis')
def test_an_interval_is_one_for_all(cluster: Cluster) -> None:
    cluster.add('often', 0, schedule_interval='2 seconds')
    for member in cluster.members:
        member.start()
        # Each counts from when it finds the job, until it learns of another's run.
        time.sleep(0.7)
    until(lambda: cluster.count('end')['often'] >= 2, lambda: cluster.logs)
    before, began = cluster.count('start')['often'], time.monotonic()
    until(lambda: cluster.count('end')['often'] >= 7, lambda: cluster.logs)
    most = (time.monotonic() - began) / 2 + 2
    assert cluster.count('start')['often'] - before <= most
    assert not cluster.count('twice')


@on('redis')
def test_other_clusters_do_not_meet(cluster: Cluster) -> None:
    cluster.add('one', 0)
    for number, member in enumerate(cluster.members):
        member.options += ('--coordination-prefix', f'cloud{number}')
        member.start()
    until(lambda: cluster.count('end')['one'] == 3, lambda: cluster.logs)


def test_no_job_runs_without_the_backend(tmp_path: Path) -> None:
    with Scheduler(tmp_path / 'scheduler') as scheduler:
        url = f'redis://127.0.0.1:{free_ports(1)[0]}?lock_timeout={LIFETIME}'
        scheduler.options += ('--client-id', 'web', '--coordination-backend-url', url)
        scheduler.job('a', document(executes('true')))
        scheduler.start()
        scheduler.until_logged('no job starts until it is available')
        status = scheduler.call('status')
        assert 'coordination backend: ' in status.out
        assert 'no job starts' in status.out
        shown = scheduler.call('status', '--json').document['coordination']
        assert shown['error'].endswith(': Connection refused')
        scheduler.stop()
        assert not scheduler.record('a')['runs']
