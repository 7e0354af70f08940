"""Jobs that can never run are refused when they are read."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from freezer.tests.scheduler import Scheduler, backup_to, document, executes, until

KEYS = ('ACCESS_KEY', 'SECRET_KEY', 'ENDPOINT')


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[Scheduler]:
    with Scheduler(tmp_path / 'scheduler') as started:
        for name in KEYS:
            started.env.pop(name, None)
        yield started


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / 'tree'
    path.mkdir()
    (path / 'file').write_text('x')
    return path


def test_validate_refuses_each_action_that_cannot_run(
    scheduler: Scheduler, tree: Path, tmp_path: Path
) -> None:
    good = backup_to(tmp_path / 'store', tree)
    wrongs: tuple[dict[str, Any], ...] = (
        *({'storage': 'nfs'}, {'mode': 'sqlserver'}, {'engine': 'zip'}),
        {'max_level': 3},
    )
    for number, wrong in enumerate(wrongs):
        scheduler.job(f'bad{number}', document(good, good | wrong))
    scheduler.job('good', document(good))
    home = Path(scheduler.env['HOME'])
    ended = scheduler.call('validate', '--json', scheduler.jobs)
    assert ended.code == 1
    assert [job['job_id'] for job in ended.document['jobs']] == ['good']
    errors = ended.document['errors']
    assert [Path(each['path']).stem for each in errors] == [
        f'bad{number}' for number in range(4)
    ]
    assert {each['key'] for each in errors} == {'job_actions[1].freezer_action'}
    line = json.dumps(document(good, good), indent=1).splitlines()
    starts = [n for n, text in enumerate(line, 1) if 'freezer_action' in text]
    assert {each['line'] for each in errors} == {starts[1]}
    # Nothing was written but the cache of entry points.
    assert {path.name for path in home.iterdir()} <= {'.cache'}
    assert not (tmp_path / 'store').exists()


def test_keys_of_the_environment_of_the_scheduler(
    scheduler: Scheduler, tree: Path
) -> None:
    action = {'storage': 's3', 'container': 'backups', 'path_to_backup': str(tree)}
    path = scheduler.job('a', document(action))
    scheduler.call('validate', path).check()
    # Where jobs run, the environment is that of the jobs.
    ended = scheduler.call('run', path)
    assert ended.code == 1
    assert 'storage s3 needs access-key, secret-key, endpoint' in ended.err
    scheduler.start()
    scheduler.until_logged('storage s3 needs access-key, secret-key, endpoint')
    assert scheduler.record('a') == {}
    # Of the scheduler that runs, status shows the errors it found itself.
    text = 'storage s3 needs access-key, secret-key, endpoint'
    until(lambda: text in scheduler.call('status').out)
    scheduler.stop()
    assert scheduler.call('status', '--json').document['errors'] == []


def test_a_job_is_refused_when_it_is_read(
    scheduler: Scheduler, tree: Path, tmp_path: Path
) -> None:
    good = backup_to(tmp_path / 'store', tree)
    bad = good | {'always_level': 2, 'secret_key': 'sk/secret'}
    ran = tmp_path / 'ran'
    scheduler.job('a', document(executes(f'touch {ran}'), bad))
    scheduler.start()
    scheduler.until_logged('a.conf, line')
    scheduler.job('b', document(executes('true')))
    scheduler.until('b', result='success')
    assert scheduler.logged.count('always-level needs --incremental') == 1
    assert not ran.exists()
    assert scheduler.record('a') == {}
    assert 'always-level needs --incremental' in scheduler.call('status').out
    scheduler.job('a', document(executes(f'touch {ran}'), good))
    scheduler.until('a', result='success')
    assert ran.exists()
    # Of a job that ran before, the last valid version stays in force.
    scheduler.job('a', document(bad))
    scheduler.until_logged('keeping the previous version of the job')
    assert 'sk/secret' not in scheduler.logged


def test_a_refused_job_is_checked_again(
    scheduler: Scheduler, tree: Path, tmp_path: Path
) -> None:
    config = tmp_path / 'home/.freezer/freezer.conf'
    config.parent.mkdir(parents=True)
    config.write_text('[DEFAULT]\nmode = sqlserver\n')
    scheduler.env['HOME'] = str(tmp_path / 'home')
    scheduler.job('a', document(backup_to(tmp_path / 'store', tree)))
    scheduler.start()
    scheduler.until_logged("mode 'sqlserver' needs Windows")
    config.unlink()
    scheduler.call('reload').check()
    scheduler.until('a', result='success')


def test_an_action_may_need_what_an_earlier_one_makes(
    scheduler: Scheduler, tree: Path, tmp_path: Path
) -> None:
    folder = tmp_path / 'made'
    options = {name: f'{folder}/{name}' for name in ('metadata_out', 'metrics_file')}
    backup = backup_to(tmp_path / 'store', tree, **options)
    path = scheduler.job('a', document(executes(f'mkdir {folder}'), backup))
    scheduler.call('validate', path).check()
    scheduler.start()
    scheduler.until('a', result='success')
    assert (folder / 'metadata_out').exists()


def test_jobs_of_other_clients_are_not_checked(
    scheduler: Scheduler, tree: Path, tmp_path: Path
) -> None:
    job: dict[str, Any] = document(backup_to(tmp_path, tree, mode='sqlserver'))
    path = scheduler.job('a', job | {'client_id': 'other'})
    shown = scheduler.call('validate', path, '--client-id', 'mine').check().out
    assert 'will be skipped' in shown
    assert scheduler.call('validate', path).code == 1
    assert (
        'will be skipped'
        in scheduler.call('validate', path, '--supported-modes', 'fs').check().out
    )


def test_what_the_scheduler_adds_counts(scheduler: Scheduler, tree: Path) -> None:
    bundle = tree / 'ca.pem'
    scheduler.env |= dict.fromkeys(KEYS, 'https://s3.test')
    action = {'storage': 's3', 'container': 'backups', 'path_to_backup': str(tree)}
    path = scheduler.job('a', document(action | {'s3_ca_bundle': str(bundle)}))
    ended = scheduler.call('validate', path, '--scheduler-insecure')
    assert 's3-ca-bundle cannot be combined with insecure' in ended.out
