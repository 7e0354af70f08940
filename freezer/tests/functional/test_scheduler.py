"""The real freezer-scheduler, with job files, the real agent and a real store.

These are the commands of ``scheduler.rst``.
"""

import contextlib
import json
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from freezer.tests import servers, trees
from freezer.tests.agent import HOST, PART, Agent, LocalStore, S3Store, missed
from freezer.tests.proxy import Proxy
from freezer.tests.scheduler import (
    Scheduler,
    backup_to,
    document,
    executes,
    until,
)
from freezer.tests.servers.base import free_ports

EXAMPLES = Path(__file__).parents[3] / 'etc/freezer/scheduler'


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[Scheduler]:
    with Scheduler(tmp_path / 'scheduler') as scheduler:
        yield scheduler


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / 'tree'
    path.mkdir()
    (path / 'passwd').write_text('root:x:0:0\n')
    return path


def s3(store: S3Store, **options: Any) -> dict[str, Any]:
    """A ``freezer_action`` on this store, keys and all."""
    return {
        'storage': 's3',
        'container': store.container,
        'access_key': store.server.access_key,
        'secret_key': store.server.secret_key,
        'endpoint': store.endpoint,
        'hostname': HOST,
        'backup_name': 'bk',
        **options,
    }


def uploads(store: S3Store, big: Path) -> dict[str, Any]:
    """A backup in several parts. freezer-api needs the name of the action."""
    parts = {'compression': 'none', 'max_segment_size': PART}
    return s3(store, action='backup', path_to_backup=str(big), **parts)


def always(command: str, **schedule: Any) -> dict[str, Any]:
    """A job that runs this command again and again."""
    return document(executes(command), schedule_interval='continuous', **schedule)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def is_alive(pid: int) -> bool:
    """A zombie, which waits for its parent, is not."""
    try:
        text = Path(f'/proc/{pid}/stat').read_text()
    except OSError:
        return False
    return text.rpartition(')')[2].split()[0] != 'Z'


def test_missing_credentials(scheduler: Scheduler) -> None:
    result = scheduler.call('start')
    assert result.code == 1
    assert result.err.startswith('Error: freezer-api needs credentials: ')
    assert 'OS_AUTH_URL' in result.err
    assert '--no-api' in result.err
    assert result.err.count('\n') == 1
    assert not scheduler.runtime.exists()
    assert not scheduler.state.exists()


def example(name: str, changes: dict[str, str], **schedule: Any) -> dict[str, Any]:
    """An example with these changes, and another schedule."""
    text = (EXAMPLES / f'{name}.conf.example').read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(f'"{old}', f'"{new}').replace(f' {old}', f' {new}')
    job: dict[str, Any] = json.loads(text)
    job['job_schedule'] = schedule
    return job


@pytest.mark.package
def test_the_examples(store: S3Store, tree: Path, tmp_path: Path) -> None:
    drill = tmp_path / 'drill'
    here = {'backups/web1': store.container}
    with Scheduler(tmp_path / 'scheduler', store.env) as scheduler:
        scheduler.start()
        daily = {**here, '/etc"': f'{tree}"'}
        often = example('daily-s3', daily, schedule_interval='2 seconds')
        scheduler.job('daily', often)
        scheduler.until_successes('daily', 2)
        minimal = {**here, '/home': str(tree)}
        scheduler.job('minimal', example('minimal', minimal, schedule_date=soon()))
        restored = {**here, '/var/tmp/restore-drill': str(drill)}
        scheduler.job('drill', example('restore-drill', restored))
        scheduler.until('minimal', status='completed', result='success')
        scheduler.until('drill', status='completed', result='success')
        record = scheduler.record('daily')
    assert record['failures'] == 0
    assert record['backup']['curr_backup_level'] >= 1
    assert not drill.exists()
    assert 'level 0' in scheduler.logged
    assert 'level 1' in scheduler.logged
    options = ('--storage', 's3', '--container', store.container)
    for name in ('etc', 'home'):
        target = tmp_path / 'restored' / name
        agent = Agent(store, name)
        agent.options = (*options, '--backup-name', name)
        agent.restore(target).check()
        assert missed(trees.describe(tree), target) == []


def test_the_examples_are_valid(scheduler: Scheduler) -> None:
    result = scheduler.call('validate', *EXAMPLES.iterdir()).check()
    assert result.out.count('time zone') == 3
    assert result.out.count('Note') == 0
    # Five times for each.
    assert sum(line.startswith('    20') for line in result.out.splitlines()) == 15


def soon() -> str:
    moment = time.gmtime(time.time() + 1)
    return time.strftime('%Y-%m-%dT%H:%M:%SZ', moment)


def test_endpoint_is_down(
    scheduler: Scheduler, store: S3Store, tree: Path, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    endpoint = f'http://127.0.0.1:{port}'
    after = tmp_path / 'after'
    down = s3(store, path_to_backup=str(tree), endpoint=endpoint, s3_retry_budget=0)
    scheduler.start()
    scheduler.job(
        'down',
        document(
            {'freezer_action': down, 'max_retries': 2, 'max_retry_interval': 1},
            executes(f'touch {after}-skipped'),
            {'freezer_action': executes(f'touch {after}'), 'mandatory': True},
        ),
    )
    record = scheduler.until('down', status='completed')
    assert (record['result'], record['failures'], record['runs']) == ('fail', 1, 1)
    assert record['exit_code'] == 1
    assert record['error'].startswith('Error: ')
    assert endpoint in record['error']
    log = scheduler.logged
    assert log.count('job down: backup exited with 1') == 3
    assert log.count('try 2 of 3 in 1 s') == log.count('try 3 of 3 in 1 s') == 1
    assert 'exec skipped' in log
    assert 'max_retry_interval: is now spelled max_retries_interval' in log
    # A mandatory action runs, and the job has failed all the same.
    assert after.exists()
    assert not Path(f'{after}-skipped').exists()
    assert store.is_untouched()
    assert 'fail' in scheduler.call('status').out


@contextlib.contextmanager
def an_upload(
    scheduler: Scheduler, proxied: S3Store, proxy: Proxy, big: Path
) -> Iterator[tuple[int, Callable[[], None], dict[str, Any]]]:
    """A backup whose upload is held: the agent's pid, the release, and the job."""
    held = proxy.hold(lambda request: request.part == 3)
    action = uploads(proxied, big)
    job = document(action, executes('true'), schedule_interval='1 hour')
    scheduler.job('up', job)
    held.wait()
    (pid,) = agents(scheduler)
    yield pid, held.release, job
    held.release()


def agents(scheduler: Scheduler) -> list[int]:
    """The running child processes of the scheduler."""
    found = []
    for path in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):
            # proc(5): state and parent follow the name.
            parent = path.read_text().rpartition(')')[2].split()[1]
            if int(parent) == scheduler.pid:
                found.append(int(path.parent.name))
    return found


def test_d32_abort_in_the_middle_of_an_upload(
    scheduler: Scheduler, proxied: S3Store, proxy: Proxy, big: Path
) -> None:
    scheduler.start()
    with an_upload(scheduler, proxied, proxy, big) as (pid, go_on, job):
        assert proxied.open_uploads()
        assert scheduler.record('up')['status'] == 'running'
        job['job_schedule']['event'] = 'abort'
        scheduler.job('up', job)
        scheduler.until_logged('job up: aborting')
        go_on()
        record = scheduler.until('up', status='completed', result='aborted')
    assert 'interrupted by SIGTERM' in record['error']
    assert record['aborted'] == 1
    assert record['due'] is None
    assert not is_alive(pid)
    assert 'job up: exec skipped' in scheduler.logged
    assert proxied.is_untouched()


def test_sigterm_aborts_after_the_stop_grace(
    scheduler: Scheduler, proxied: S3Store, proxy: Proxy, big: Path
) -> None:
    scheduler.start('--scheduler-stop-grace', '0')
    with an_upload(scheduler, proxied, proxy, big) as (pid, go_on, _job):
        scheduler.send(signal.SIGTERM)
        scheduler.until_logged('job up: aborting')
        go_on()
        assert scheduler.wait() == 0
    assert not is_alive(pid)
    assert proxied.is_untouched()
    record = scheduler.record('up')
    assert (record['status'], record['result']) == ('scheduled', 'aborted')


def test_sigterm_lets_running_jobs_finish(scheduler: Scheduler, tmp_path: Path) -> None:
    fifo, done = tmp_path / 'fifo', tmp_path / 'done'
    os.mkfifo(fifo)
    scheduler.start()
    waits = executes(f'sh -c "cat {fifo}; touch {done}"')
    scheduler.job('slow', document(waits, waits | {'command': f'touch {done}2'}))
    with fifo.open('w'):
        scheduler.send(signal.SIGTERM)
        scheduler.until_logged('stopping, 1 job running')
        assert scheduler.call('status').code == 0
    assert scheduler.wait() == 0
    assert done.exists()
    assert Path(f'{done}2').exists()
    assert scheduler.record('slow')['result'] == 'success'


def test_job_files_are_changed_and_deleted(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    one, two, three = (tmp_path / name for name in ('one', 'two', 'three'))
    scheduler.start()
    path = scheduler.job('a', always(f'touch {one}'))
    until(one.exists)
    scheduler.job('a', always(f'touch {two}'))
    until(two.exists)
    # With a typo in its file, the job goes on as before.
    path.write_text('{"job_actions": [\n')
    scheduler.until_logged('a.conf, line 2: not JSON')
    scheduler.job('c', document(executes(f'touch {three}')))
    runs = scheduler.record('a')['runs']
    # One run may have started before the file was read.
    until(lambda: scheduler.record('a')['runs'] > runs + 1)
    until(three.exists)
    assert 'a.conf, line 2: not JSON' in scheduler.call('status').out
    path.unlink()
    scheduler.until('a', status='removed')
    two.unlink()
    runs = scheduler.record('a')['runs']
    scheduler.job('d', document(executes('true')))
    scheduler.until('d', status='completed')
    assert scheduler.record('a')['runs'] == runs
    assert not two.exists()
    # Now, not at the next interval.
    scheduler.job('e', document(executes('true')))
    assert scheduler.call('reload').code == 0
    scheduler.until('e', result='success')


def test_a_hundred_jobs_at_once(scheduler: Scheduler, tmp_path: Path) -> None:
    log = tmp_path / 'runs'
    for number in range(100):
        command = f"sh -c 'echo +{number} >>{log}; echo -{number} >>{log}'"
        scheduler.job(f'j{number}', document(executes(command)))
    scheduler.start('--concurrent-jobs', '4')
    most = 0
    while True:
        most = max(most, len(agents(scheduler)))
        if scheduler.logged.count(': success after') == 100:
            break
        assert not scheduler.ended
        assert 'fail' not in scheduler.logged
        time.sleep(0.02)
    assert 1 < most <= 4
    assert sorted(lines(log)) == sorted(f'{s}{n}' for s in '+-' for n in range(100))
    scheduler.stop()
    # None of them runs again.
    scheduler.start()
    scheduler.job('last', document(executes('true')))
    scheduler.until('last', status='completed')
    assert len(lines(log)) == 200


@pytest.mark.package
def test_daemon(scheduler: Scheduler, tmp_path: Path) -> None:
    seen = tmp_path / 'seen'
    scheduler.job('a', document(executes(f'touch {seen}'), schedule_interval='1 hour'))
    assert scheduler.call('status').code == 3
    assert scheduler.call('reload').code == 1
    stopped = scheduler.call('stop')
    assert (stopped.code, 'not running' in stopped.out) == (0, True)
    started = scheduler.call('start', '--no-api', '-i', '1').check()
    assert started.out == ''
    try:
        until(seen.exists)
        scheduler.until('a', status='scheduled', result='success')
        status = scheduler.call('status', '--json').check().document
        pid = status['pid']
        assert is_alive(pid)
        assert status['running']
        (job,) = status['jobs']
        assert (job['job_id'], job['successes'], job['exit_code']) == ('a', 1, 0)
        assert job['due'] > job['last_success']
        assert 0 <= job['last_success_age_seconds'] < 60
        assert 'ago)' in scheduler.call('status').out
        # Its own session, directory and umask.
        assert os.getsid(pid) != os.getsid(0)
        assert os.readlink(f'/proc/{pid}/cwd') == '/'
        assert 'Umask:\t0077' in Path(f'/proc/{pid}/status').read_text()
        assert_private(scheduler)
        again = scheduler.call('start', '--no-api').check()
        assert again.out == f'freezer-scheduler is already running (pid {pid})\n'
        foreground = scheduler.call('start', '--no-api', '--no-daemon')
        assert foreground.code == 1
        assert f'already running (pid {pid})' in foreground.err
        scheduler.call('restart', '--no-api', '-i', '1').check()
        scheduler.call('start', '--no-api').check()
        new = scheduler.call('status', '--json').check().document['pid']
        assert new != pid
        until(lambda: not is_alive(pid))
    finally:
        scheduler.call('stop').check()
    until(lambda: not is_alive(new))
    assert scheduler.call('status').code == 3
    home = Path(scheduler.env['HOME'])
    log = home / '.freezer/scheduler.log'
    assert 'job a: success' in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def assert_private(scheduler: Scheduler) -> None:
    for directory in (scheduler.runtime, scheduler.state):
        for path in (directory, *directory.rglob('*')):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def texts(scheduler: Scheduler) -> list[str]:
    """The log and every file of the scheduler, except the job files."""
    home = Path(scheduler.env['HOME'])
    return [scheduler.logged] + [
        path.read_text(errors='replace')
        for directory in (scheduler.runtime, scheduler.state, home)
        for path in directory.rglob('*')
        if path.is_file()
    ]


def test_stale_pid_file(scheduler: Scheduler) -> None:
    scheduler.start()
    until((scheduler.runtime / 'scheduler.pid').read_text)
    scheduler.send(signal.SIGKILL)
    scheduler.wait()
    # The pid of a process that is not a scheduler.
    (scheduler.runtime / 'scheduler.pid').write_text(f'{os.getpid()}\n')
    assert scheduler.call('status').code == 3
    assert 'not running' in scheduler.call('stop').out
    scheduler.start()
    assert scheduler.call('status').code == 0
    scheduler.stop()
    assert scheduler.call('status').code == 3


def test_agent_outlives_the_scheduler(scheduler: Scheduler, tmp_path: Path) -> None:
    fifo, log = tmp_path / 'fifo', tmp_path / 'log'
    os.mkfifo(fifo)
    scheduler.job('a', always(f"sh -c 'echo begin >>{log}; cat {fifo}'"))
    scheduler.start()
    with fifo.open('w'):
        (pid,) = agents(scheduler)
        scheduler.send(signal.SIGKILL)
        scheduler.wait()
        assert is_alive(pid)
        scheduler.start()
        scheduler.until_logged('another process is running it')
        run = scheduler.call('run', scheduler.jobs / 'a.conf')
        assert (run.code, 'job a is already running' in run.err) == (1, True)
        assert lines(log) == ['begin']
        assert 'killed during this run' in scheduler.record('a')['error']
    until(lambda: len(lines(log)) == 2)
    with fifo.open('w'):
        pass


def test_d31_exec_is_disabled(scheduler: Scheduler, tmp_path: Path) -> None:
    scheduler.start('--disable-exec')
    scheduler.job('a', document(executes(f'touch {tmp_path}/x')))
    record = scheduler.until('a', status='completed', result='fail')
    assert 'disable-exec' in record['error']
    assert not (tmp_path / 'x').exists()
    run = scheduler.call('run', '--disable-exec', scheduler.jobs / 'a.conf')
    assert (run.code, 'disable-exec' in run.err) == (1, True)


def test_d33_remove(scheduler: Scheduler, tmp_path: Path) -> None:
    log = tmp_path / 'log'
    command = f"sh -c 'echo >>{log}'"
    scheduler.start()
    scheduler.job('a', always(command))
    until(log.exists)
    scheduler.job('a', always(command, event='remove'))
    scheduler.until('a', status='removed')
    count = len(lines(log))
    # Other jobs go on.
    scheduler.job('b', document(executes('true'), schedule_interval='2 seconds'))
    scheduler.until_successes('b', 2)
    assert len(lines(log)) == count


def test_d34_one_file_without_event_and_pid(scheduler: Scheduler) -> None:
    scheduler.job('a', {'job_actions': [{'freezer_action': executes('true')}]})
    scheduler.job('b', {'job_actions': 'none'})
    scheduler.job('c', document(executes('true'), event='start', current_pid=0))
    scheduler.start()
    for name in 'ac':
        scheduler.until(name, status='completed', result='success')
    assert 'b.conf, line 2: job_actions: must be a list' in scheduler.logged


def test_d35_the_result_of_a_job_with_a_project(
    scheduler: Scheduler, tree: Path, tmp_path: Path
) -> None:
    local = LocalStore(tmp_path / 'store')
    action = backup_to(local.directory, tree, backup_name='100%', hostname=HOST)
    scheduler.job('a', document(action) | {'project_id': 'p', 'user_id': 'u'})
    scheduler.start()
    record = scheduler.until('a', status='completed', result='success')
    assert record['backup']['curr_backup_level'] == 0
    assert record['backup']['backup_name'] == '100%'
    Agent(local, '100%').restore(tmp_path / 'target').check()
    assert missed(trees.describe(tree), tmp_path / 'target') == []


def test_d36_agents_make_private_files(scheduler: Scheduler, tmp_path: Path) -> None:
    path = tmp_path / 'made'
    scheduler.start()
    assert 'Umask:\t0077' in Path(f'/proc/{scheduler.pid}/status').read_text()
    scheduler.job('a', document(executes(f'touch {path}')))
    scheduler.until('a', result='success')
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert_private(scheduler)


class Cmdlines:
    """Collects all command lines of the machine, in a thread."""

    def __enter__(self) -> 'Cmdlines':
        self.seen: set[bytes] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end.set()
        self._thread.join()

    def _collect(self) -> None:
        while not self._end.wait(0.02):
            for path in Path('/proc').glob('[0-9]*/cmdline'):
                with contextlib.suppress(OSError):
                    self.seen.add(path.read_bytes())


def test_secrets_are_nowhere(
    scheduler: Scheduler, seaweedfs: servers.SeaweedFS, tree: Path
) -> None:
    store = S3Store(seaweedfs)
    secret, wrong = store.server.secret_key, 'sk/wrong%40$ecret'
    good = s3(store, path_to_backup=str(tree))
    scheduler.job('good', document(good, schedule_interval='continuous'))
    scheduler.job('bad', document({**good, 'secret_key': wrong}))
    # A value that the agent would repeat in its error, and a file that is not JSON.
    (scheduler.jobs / 'broken.conf').write_text(f'{{"secret_key":\n "{secret}')
    scheduler.job('odd', document({**good, 's3_region': ['x'], 'secret_key': wrong}))
    with Cmdlines() as cmdlines:
        scheduler.start('--debug')
        scheduler.until('bad', status='completed', result='fail')
        scheduler.until_successes('good', 2)
        status = scheduler.call('status', '--json')
        assert scheduler.call('validate', scheduler.jobs).code == 1
        run = scheduler.call('run', scheduler.jobs / 'bad.conf')
    assert run.code == 1
    assert 'Error: ' in run.err
    agents = [line for line in cmdlines.seen if b'freezer.main' in line]
    assert agents
    found = [status.out, run.out, run.err, *texts(scheduler)]
    assert any('"job_id": "good"' in text for text in found)
    for each in (secret, wrong):
        assert not any(each in text for text in found)
        # Only agents: servers of other tests have their secrets in arguments.
        assert not any(each.encode() in line for line in agents)


def test_run(scheduler: Scheduler, tree: Path, tmp_path: Path) -> None:
    local = LocalStore(tmp_path / 'store')
    backup = backup_to(local.directory, tree)
    good = scheduler.job('good', document(backup, {**backup, 'action': 'info'}))
    result = scheduler.call('run', good).check()
    # The output is the agent's.
    assert 'Object Count' in result.out
    assert len(local.markers()) == 1
    failing = scheduler.job('failing', document(executes("sh -c 'exit 7'")))
    assert scheduler.call('run', failing).code == 7
    broken = tmp_path / 'broken.conf'
    broken.write_text('{"job_actions": 3}')
    ended = scheduler.call('run', broken)
    assert ended.code == 1
    assert 'broken.conf: line 1: job_actions: must be a list' in ended.err
    assert scheduler.call('run', tmp_path / 'none').code == 1


def test_validate(scheduler: Scheduler, tmp_path: Path) -> None:
    hourly = scheduler.job(
        'hourly',
        document(executes('true'), schedule_minute='0', schedule_hour='*')
        | {'description': 'each hour'},
    )
    scheduler.env['TZ'] = 'Asia/Kolkata'
    shown = scheduler.call('validate', '--json', hourly).check().document
    assert shown['zone'] == 'Asia/Kolkata'
    (job,) = shown['jobs']
    assert len(job['next']) == 5
    assert all(moment.endswith(':00:00+05:30') for moment in job['next'])
    text = scheduler.call('validate', hourly, '--disable-exec').check().out
    assert 'each hour' in text
    assert 'will fail' in text
    assert text.count('+05:30') == 5
    wrong = scheduler.job('wrong', document({'action': 'bakup'}, schedule_hour='x'))
    ended = scheduler.call('validate', hourly, wrong, '--json')
    assert ended.code == 1
    assert [(each['line'], each['key']) for each in ended.document['errors']] == [
        (5, 'job_actions[0].freezer_action.action'),
        (10, 'job_schedule.schedule_hour'),
    ]
