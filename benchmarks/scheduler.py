"""Requests, memory, processor time and delays of freezer-scheduler with freezer-api.

    python -m benchmarks.scheduler clients --clients 1000 --venv DIR
    python -m benchmarks.scheduler retention --clients 10
    python -m benchmarks.scheduler jobs --jobs 10000

``clients`` starts Keystone and freezer-api 19 on SQLite, which pip installs into DIR.
It runs the scheduler's own loop and API client once per client, many in a process, each
in a project of its own; its agents are replaced by ``true``. ``retention`` runs agents
on SeaweedFS. ``jobs`` starts the scheduler itself with so many job files, of which none
is due.
"""

import argparse
import contextlib
import dataclasses
import datetime
import json
import math
import os
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import _size, _tree
from freezer.scheduler import config
from freezer.scheduler.loop import Scheduler
from freezer.scheduler.runs import runner
from freezer.scheduler.sources.remote import ApiJobSource
from freezer.tests import scheduler as commands
from freezer.tests import servers
from freezer.tests.servers import cloud as clouds
from freezer.tests.servers.cloud import Cloud, Sections
from freezer.tests.servers.control_plane import ControlPlane

_TICKS = os.sysconf('SC_CLK_TCK')
_LOGGED = re.compile(r'\[(.*?)\] (\S+) (\S+) (\d+) (\S+)')
# freezer-api's own main(), served by gunicorn: its server takes five connections.
_SERVED = """
import sys
sys.argv = ['freezer-api', '--config-file', 'freezer-api.conf']
import paste.httpserver
served = []
paste.httpserver.serve = lambda application, **_: served.append(application)
exec(compile(open('run_api.py').read(), 'run_api.py', 'exec'))
(application,) = served
"""
# Parts of the paths of requests that are shown.
_NAMES = ('backups', 'clients', 'jobs', 'sessions', 'tokens')
_MINUTE = 60.0
_WHAT = ('clients', 'jobs', 'retention', 'worker')
_AFTER = 6
_KEPT = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('what', choices=_WHAT)
    parser.add_argument('--clients', type=int, default=1000)
    parser.add_argument('--jobs', type=int, default=10000)
    parser.add_argument('--processes', type=int, default=4, help='for the clients')
    parser.add_argument('--interval', type=int, default=60)
    parser.add_argument('--minutes', type=float, default=3, help='of steady state')
    parser.add_argument('--away', type=float, default=5, help='minutes without an API')
    parser.add_argument('--venv', type=Path, help='where OpenStack is installed')
    parser.add_argument('--folder', type=Path, help='of a worker')
    parser.add_argument('--first', type=int, help='number of the first client')
    given = parser.parse_args()
    if given.what == 'worker':
        return _work(given)
    with tempfile.TemporaryDirectory() as folder:
        if given.what == 'retention':
            return _Retention(given.clients, Path(folder)).run()
        if given.what == 'jobs':
            return _run_jobs(given, Path(folder))
        if not (given.venv / 'bin/keystone-manage').exists():
            clouds.build(given.venv)
        with _started(given.venv) as plane:
            _Clients(plane, Path(folder), given).run()
    return None


# -- The servers --------------------------------------------------------------------


class _Cloud(Cloud):
    """Logs each request; passwords are checked quickly."""

    def write(self, name: str, sections: Sections) -> None:
        if name == 'keystone.conf':
            sections = {**sections, 'identity': {'password_hash_rounds': 4}}
        super().write(name, sections)

    def add_projects(self, names: Sequence[str]) -> list[str]:
        """Projects in which the administrator has the same role as in ``admin``."""
        path = self.directory / 'keystone.db'
        made = [uuid.uuid4().hex for _ in names]
        with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
            tables = _Tables(connection)
            project = tables.row('project', 'name', 'admin')
            role = tables.row('assignment', 'target_id', project['id'])
            for one, name in zip(made, names, strict=True):
                tables.insert('project', project | {'id': one, 'name': name})
                tables.insert('assignment', role | {'target_id': one})
            connection.commit()
        return made

    def spawn_wsgi(
        self, name: str, port: int, module: str, env: Mapping[str, str]
    ) -> None:
        logged = "'%(t)s %(m)s %(U)s %(s)s %(L)s'"
        options = f'--access-logfile {name}.requests --access-logformat {logged}'
        super().spawn_wsgi(name, port, module, {**env, 'GUNICORN_CMD_ARGS': options})


class _Api(ControlPlane):
    def launch(self) -> None:
        (self.cloud.directory / 'served.py').write_text(_SERVED)
        self.cloud.spawn_wsgi(self.name, self.port, 'served', {})

    @property
    def pid(self) -> int:
        return self.cloud._processes[self.name].pid

    def clone(self, job_id: str, clients: Sequence[tuple[str, str]]) -> None:
        """Copy a job, its client and its action for each (client, project id); a client
        may be named again. The first job is deleted."""
        path = self.cloud.directory / 'freezer.db'
        with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
            tables = _Tables(connection)
            job = tables.row('jobs', 'id', job_id)
            ids = {}
            for name, project in dict.fromkeys(clients):
                tables.copy(
                    'clients', 'client_id', 'first', client_id=name, project_id=project
                )
                ids[name] = tables.copied
            link = tables.row('job_actions', 'job_id', job_id)
            for name, project in clients:
                tables.copy('actions', 'id', link['action_id'], project_id=project)
                action = tables.copied
                # The key of a client is its name, or not, by the version.
                client = name if job['client_id'] == 'first' else ids[name]
                tables.copy('jobs', 'id', job_id, client_id=client, project_id=project)
                tables.copy(
                    'job_actions',
                    'job_id',
                    job_id,
                    job_id=tables.copied,
                    action_id=action,
                )
            connection.execute('UPDATE jobs SET deleted = 1 WHERE id = ?', (job_id,))
            connection.commit()


class _Tables:
    """Copies rows of a database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._rows: dict[tuple[str, str, str], dict[str, Any]] = {}
        #: the id of the last copy
        self.copied = ''

    def row(self, table: str, key: str, value: str) -> dict[str, Any]:
        known = (table, key, value)
        if known not in self._rows:
            query = f'SELECT * FROM {table} WHERE {key} = ?'
            cursor = self._connection.execute(query, (value,))
            names = [each[0] for each in cursor.description]
            self._rows[known] = dict(zip(names, cursor.fetchone(), strict=True))
        return self._rows[known]

    def copy(self, table: str, key: str, value: str, **changes: str) -> None:
        self.copied = uuid.uuid4().hex
        found = self.row(table, key, value)
        fresh = {each: self.copied for each in ('id', 'uuid') if each in found}
        self.insert(table, found | fresh | changes)

    def insert(self, table: str, row: Mapping[str, Any]) -> None:
        marks = ', '.join(f':{name}' for name in row)
        query = f'INSERT INTO {table} ({", ".join(row)}) VALUES ({marks})'
        self._connection.execute(query, row)


@contextlib.contextmanager
def _started(folder: Path) -> Iterator[_Api]:
    with _Cloud(folder) as cloud:
        yield cloud.add(_Api)


@dataclasses.dataclass(frozen=True)
class _Request:
    """One that freezer-api has answered, at this time (epoch seconds)."""

    at: float
    what: str
    status: int
    seconds: float


def _requests(cloud: Cloud, name: str, since: float) -> list[_Request]:
    found = []
    for line in (cloud.directory / f'{name}.requests').read_text().splitlines():
        match = _LOGGED.match(line)
        assert match is not None, line
        moment = datetime.datetime.strptime(match[1], '%d/%b/%Y:%H:%M:%S %z')
        named = [part for part in match[3].split('/') if part in _NAMES]
        what = ' '.join([match[2], *named])
        one = _Request(moment.timestamp(), what, int(match[4]), float(match[5]))
        if one.at >= since:
            found.append(one)
    return found


def _cpu(pid: int, children: bool = True) -> float:
    """Processor seconds of a process.

    :param children: and of its descendants, alive or reaped
    """
    total = 0
    for one in _tree(pid) if children else {pid}:
        with contextlib.suppress(OSError):
            stat = Path(f'/proc/{one}/stat').read_text().rpartition(')')[2].split()
            total += sum(map(int, stat[11 : 15 if children else 13]))
    return total / _TICKS


def _by_minute(requests: Sequence[_Request], start: float) -> list[list[_Request]]:
    minutes: list[list[_Request]] = []
    for one in requests:
        number = int((one.at - start) // _MINUTE)
        minutes += [[] for _ in range(number + 1 - len(minutes))]
        minutes[number].append(one)
    return minutes


def _show(title: str, requests: Sequence[_Request]) -> None:
    kinds = Counter(each.what for each in requests)
    busiest = max(Counter(int(each.at) for each in requests).values(), default=0)
    errors = sum(each.status >= 400 for each in requests)
    seconds = sorted(each.seconds for each in requests) or [0.0]
    text = ', '.join(f'{kind} {number}' for kind, number in kinds.most_common())
    print(
        f'{title}: {len(requests)} requests, {busiest} in the busiest second, '
        f'{errors} errors; median {statistics.median(seconds):.2f} s, '
        f'95 % {seconds[int(len(seconds) * 0.95)]:.2f} s ({text})',
        flush=True,
    )


# -- Many clients -------------------------------------------------------------------


def _client(number: int) -> str:
    return f'client{number:05}'


def _settings(given: argparse.Namespace) -> config.Settings:
    options = ('--interval', str(given.interval), '--policy-command', 'true')
    return config.load(['start', '--no-daemon', *options], os.environ)


def _work(given: argparse.Namespace) -> None:
    """Run clients until standard input ends."""
    # Of the scheduler alone is measured: a machine has one client.
    runner.AGENT = ('true',)  # type: ignore[assignment]
    config.Settings.check = lambda _self, documents, same_environ=True: [*documents]  # type: ignore[assignment,method-assign]
    settings = _settings(given)
    threading.stack_size(256 * 1024)
    threads, started = [], []
    print(_size(os.getpid()), flush=True)
    sys.stdin.readline()
    for number in range(given.first, given.first + given.clients):
        folder = given.folder / _client(number)
        folder.mkdir()
        one = dataclasses.replace(
            settings,
            client_id=_client(number),
            jobs_dir=folder / 'jobs',
            state_dir=folder / 'state',
            runtime_dir=folder,
        )
        assert settings.service is not None
        service = dataclasses.replace(
            settings.service, project_name=_client(number), project_id=''
        )
        started.append(Scheduler(one, ApiJobSource(one, service)))
        threads.append(threading.Thread(target=started[-1].run))
    for thread in threads:
        thread.start()
    sys.stdin.read()
    for scheduler in started:
        scheduler.stop()
    for thread in threads:
        thread.join()


class _Clients:
    def __init__(self, plane: _Api, folder: Path, given: argparse.Namespace) -> None:
        self.plane, self.folder, self.given = plane, folder, given
        assert isinstance(plane.cloud, _Cloud)
        self.cloud = plane.cloud

    def run(self) -> None:
        given = self.given
        print(f'{given.clients} clients, interval {given.interval} s', flush=True)
        self._make_jobs()
        workers = [self._worker(number) for number in range(given.processes)]
        before = [float(worker.stdout.readline()) for worker in workers]
        began, cpu = time.time(), self._cpus(workers)
        for worker in workers:
            worker.stdin.write('\n')
            worker.stdin.flush()
        try:
            self._measure(workers, before, began, cpu)
        finally:
            for worker in workers:
                worker.stdin.close()
            for worker in workers:
                worker.wait()

    def _measure(
        self, workers: list[Any], before: list[float], began: float, cpu: list[float]
    ) -> None:
        given = self.given
        registered = self._until_registered(began)
        print(f'all registered and polled after {registered:.0f} s', flush=True)
        _show('the start', _requests(self.cloud, 'freezer', began))
        _show('Keystone at the start', _requests(self.cloud, 'keystone', began))
        start, used = time.time(), self._cpus(workers)
        _sleep_until(start + given.minutes * _MINUTE)
        spent = [
            (now - then) / given.minutes
            for now, then in zip(self._cpus(workers), used, strict=True)
        ]
        for number, minute in enumerate(self._minutes(start)[: int(given.minutes)]):
            _show(f'minute {number + 1} of steady state', minute)
        memory = sum(_size(worker.pid) for worker in workers) - sum(before)
        print(
            f'processor seconds per minute: clients {sum(spent[2:]):.1f}, '
            f'freezer-api {spent[0]:.1f}, Keystone {spent[1]:.1f}; memory per client '
            f'{memory * 1024 / given.clients:.0f} KiB more than a process',
            flush=True,
        )
        self._lag()
        self.cloud.kill_one('freezer')
        print(f'freezer-api is away for {given.away:g} minutes', flush=True)
        time.sleep(given.away * _MINUTE)
        self.cloud.start_one('freezer')
        back = time.time()
        _sleep_until(back + _AFTER * _MINUTE)
        for number, minute in enumerate(self._minutes(back)[:_AFTER]):
            _show(f'minute {number + 1} after its return', minute)
        _show('Keystone in these minutes', _requests(self.cloud, 'keystone', back))

    def _make_jobs(self) -> None:
        known = {'client_id': 'first', 'hostname': 'first'}
        self.plane.call('POST', 'clients/', known)
        # As reported by an earlier scheduler: there is nothing to report now.
        schedule = {'schedule_interval': '1 days', 'status': 'scheduled'}
        job = commands.document(commands.executes('true'), **schedule)
        made = self.plane.call('POST', 'jobs/', {**job, 'client_id': 'first'})
        names = [_client(number) for number in range(self.given.clients)]
        projects = self.cloud.add_projects(names)
        self.plane.clone(made['job_id'], list(zip(names, projects, strict=True)))

    def _worker(self, number: int) -> Any:
        each = math.ceil(self.given.clients / self.given.processes)
        first = number * each
        count = min(each, self.given.clients - first)
        return subprocess.Popen(
            [
                *(sys.executable, '-m', 'benchmarks.scheduler', 'worker'),
                *('--first', str(first), '--clients', str(count)),
                *('--interval', str(self.given.interval)),
                *('--folder', str(self.folder)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.folder / f'worker{number}.log').open('w'),
            text=True,
            env=os.environ | self.cloud.environ() | {'HOME': str(self.folder)},
        )

    def _cpus(self, workers: list[Any]) -> list[float]:
        keystone = self.cloud._processes['keystone'].pid
        pids = [self.plane.pid, keystone, *(worker.pid for worker in workers)]
        return [_cpu(pid) for pid in pids]

    def _minutes(self, start: float) -> list[list[_Request]]:
        return _by_minute(_requests(self.cloud, 'freezer', start), start)

    def _until_registered(self, began: float) -> float:
        while True:
            done = sum(
                bool(_index(self.folder / _client(number)).get('reached'))
                for number in range(self.given.clients)
            )
            if done == self.given.clients:
                return time.time() - began
            time.sleep(1)

    def _lag(self) -> None:
        """How old the jobs are that the clients know."""
        now = datetime.datetime.now(datetime.UTC)
        ages = sorted(
            (now - datetime.datetime.fromisoformat(reached)).total_seconds()
            for number in range(self.given.clients)
            if (reached := _index(self.folder / _client(number)).get('reached'))
        )
        print(
            f'last contact: median {statistics.median(ages):.0f} s ago, oldest '
            f'{ages[-1]:.0f} s ago',
            flush=True,
        )


def _index(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(
            (folder / 'state/api/index.json').read_text()
        )
    except (OSError, ValueError):
        return {}
    return found


def _sleep_until(moment: float) -> None:
    time.sleep(max(moment - time.time(), 0))


# -- Retention ----------------------------------------------------------------------


class _Retention:
    """Clients that remove old backups of one bucket at the same time."""

    def __init__(self, clients: int, folder: Path) -> None:
        self.clients, self.folder = clients, folder

    def run(self) -> None:
        tree = self.folder / 'tree'
        tree.mkdir()
        (tree / 'file').write_text('content')
        with servers.SeaweedFS() as server:
            self._environ = os.environ | {
                'ACCESS_KEY': server.access_key,
                'SECRET_KEY': server.secret_key,
                'ENDPOINT': server.endpoint,
                'HOME': str(self.folder),
            }
            self._bucket = server.make_bucket()
            backup = ('--action', 'backup', '--path-to-backup', str(tree))
            for _ in range(_KEPT + 2):
                assert not self._all(*backup, '--noincremental')
                # The name of a level has its second.
                time.sleep(1.1)
            print(f'{self.clients} clients, {_KEPT + 2} backups each', flush=True)
            began = time.time()
            removal = ('--action', 'admin', '--keep-last', str(_KEPT))
            text = self._all(*removal)
            took = time.time() - began
            kept = [
                key for key in server.keys(self._bucket) if key.endswith('/metadata')
            ]
            print(
                f'retention by all at once: {took:.1f} s, {len(kept)} backups left of '
                f'{self.clients * (_KEPT + 2)}, {text} failed',
                flush=True,
            )
            checked = self._all('--action', 'verify')
            print(f'verify by all at once: {checked} failed', flush=True)

    def _all(self, *options: str) -> int:
        """Run the agents of all clients; the number of those that failed."""
        agents = [
            subprocess.Popen(
                [
                    *(sys.executable, '-m', 'freezer.main', '--storage', 's3'),
                    *('--container', f'{self._bucket}/all', '--backup-name', 'bk'),
                    *('--hostname', _client(number), '--quiet', *options),
                ],
                env=self._environ,
            )
            for number in range(self.clients)
        ]
        return sum(bool(agent.wait()) for agent in agents)


# -- Many jobs ----------------------------------------------------------------------


def _run_jobs(given: argparse.Namespace, folder: Path) -> None:
    commands.PATIENCE = 3600
    with commands.Scheduler(folder) as scheduler:
        scheduler.options = ('--interval', str(given.interval))
        first = datetime.datetime.now() + datetime.timedelta(days=1)
        for number in range(given.jobs):
            # Each differs from the others, so that each is checked.
            backup = commands.backup_to(
                folder / 'to', folder / 'of', backup_name=f'job{number}'
            )
            scheduler.job(f'job{number}', _due_at(first, backup))
        print(f'{given.jobs} job files, interval {given.interval} s', flush=True)
        with _timed('start, until all jobs have their times'):
            scheduler.start()
            records = scheduler.state.glob
            commands.until(lambda: len([*records('*.json')]) == given.jobs)
        pid = scheduler.pid
        print(f'cpu so far {_cpu(pid):.1f} s, memory {_size(pid):.0f} MiB', flush=True)
        with _timed('status'):
            shown = scheduler.call('status', '--json').check()
        assert len(shown.document['jobs']) == given.jobs
        used = _cpu(pid)
        time.sleep(given.minutes * _MINUTE)
        spent = (_cpu(pid) - used) / given.minutes
        print(f'idle: {spent:.2f} processor seconds per minute', flush=True)
        later = first + datetime.timedelta(hours=1)
        with _timed('a changed job'):
            backup = commands.backup_to(
                folder / 'to', folder / 'of', backup_name='job0'
            )
            scheduler.job('job0', _due_at(later, backup))
            scheduler.until('job0', due=_text(later))
        with _timed('stop'):
            scheduler.stop()
        with _timed('validate'):
            scheduler.call('validate', scheduler.jobs).check()
        for line in scheduler.logged.splitlines():
            if ' WARNING ' in line:
                print(line, flush=True)


def _due_at(moment: datetime.datetime, action: commands.Action) -> dict[str, Any]:
    return commands.document(action, schedule_date=_text(moment))


def _text(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).isoformat(timespec='seconds')


@contextlib.contextmanager
def _timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f'{what}: {time.monotonic() - began:.1f} s', flush=True)


if __name__ == '__main__':
    main()
