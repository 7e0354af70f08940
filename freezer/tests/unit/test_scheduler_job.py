"""The states of a job, and its record."""

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from freezer.scheduler.documents.document import Document, parse
from freezer.scheduler.runs.job import ScheduledJob
from freezer.scheduler.runs.record import Record, Records
from freezer.scheduler.runs.runner import JobRun, RunResult
from freezer.scheduler.sources.source import JobUpdate

UTC = datetime.UTC
NOW = datetime.datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
SECOND = datetime.timedelta(seconds=1)
HOUR = datetime.timedelta(hours=1)
HOURLY: dict[str, Any] = {'schedule_interval': '1 hour'}
INFO = {'action': 'info', 'storage': 'local', 'container': '/backups'}


def document(in_api: bool = False, **schedule: Any) -> Document:
    given = {'job_actions': [{'freezer_action': INFO}], 'job_schedule': schedule}
    return parse('/jobs/a.conf', json.dumps(given).encode(), 'a', in_api)


def api_document(**schedule: Any) -> Document:
    return document(in_api=True, **schedule)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path)


@pytest.fixture
def hourly(records: Records) -> ScheduledJob:
    """A job of freezer-api."""
    return ScheduledJob(api_document(**HOURLY), records, NOW)


@pytest.fixture
def make(records: Records) -> Any:
    return lambda now=NOW, **schedule: ScheduledJob(document(**schedule), records, now)


def begin(job: ScheduledJob, now: datetime.datetime) -> mock.Mock:
    """Start it; returns the fake run."""
    assert job.is_due(now)
    fake = mock.Mock(JobRun)
    job.on_started(fake, now)
    assert job.record.status == 'running'
    return fake


def end(job: ScheduledJob, now: datetime.datetime, result: str = 'success') -> None:
    job.on_finished(RunResult(result, 0 if result == 'success' else 1, 'why'), now)


def run(job: ScheduledJob, start: datetime.datetime, result: str = 'success') -> None:
    """A run of a second."""
    begin(job, start)
    end(job, start + SECOND, result)


def status(job: ScheduledJob, records: Records) -> str:
    """The status, which is the same in the stored record."""
    assert records.load(job.id).status == job.record.status
    return job.record.status


def test_success_with_a_warning(hourly: ScheduledJob, records: Records) -> None:
    begin(hourly, NOW + 2 * SECOND)
    hourly.on_finished(RunResult('success', 3, warning='incomplete'), NOW + HOUR)
    record = records.load('a')
    assert (record.successes, record.failures, record.exit_code) == (1, 0, 3)
    assert record.last_success == NOW + HOUR
    assert record.outcome == 'success with warnings'
    # The word that freezer-api knows.
    update = hourly.pending_update
    assert update is not None
    assert update.result == 'success'
    run(hourly, hourly.due or NOW)
    assert records.load('a').outcome == 'success'


def test_interval_job(make: Any, records: Records) -> None:
    job = make(**HOURLY)
    assert status(job, records) == 'scheduled'
    assert not job.is_due(NOW + SECOND)
    begin(job, NOW + 2 * SECOND)
    # A running job is not started twice.
    assert not job.is_due(NOW + 5 * HOUR)
    end(job, NOW + 5 * HOUR)
    assert status(job, records) == 'scheduled'
    # Missed runs are made up for once.
    run(job, NOW + 5 * HOUR, 'fail')
    assert not job.is_due(NOW + 5 * HOUR + SECOND)
    record = records.load('a')
    assert (record.runs, record.successes, record.failures) == (2, 1, 1)
    assert (record.result, record.error) == ('fail', 'why')
    assert record.last_success == NOW + 5 * HOUR
    assert record.due == NOW + 5 * HOUR + 2 * SECOND


def test_job_without_times_runs_once(make: Any, records: Records) -> None:
    job = make()
    run(job, NOW + 2 * SECOND)
    assert status(job, records) == 'completed'
    assert not make(NOW + HOUR).is_due(NOW + HOUR)
    # A changed file runs it again.
    again = make(NOW + HOUR, result='')
    assert again.is_due(NOW + HOUR + 2 * SECOND)


@pytest.mark.parametrize('event', ['stop', 'abort'])
def test_stop_and_abort_a_scheduled_job(
    make: Any, records: Records, event: str
) -> None:
    job = make(**HOURLY)
    job.update(document(**HOURLY, event=event), NOW)
    assert status(job, records) == 'stop'
    assert job.due is None
    assert not job.is_due(NOW + HOUR)
    assert not make(NOW + HOUR, event=event).is_due(NOW + HOUR)
    # A later start does not make up for the runs in between.
    job.update(document(schedule_hour='*', event='start'), NOW + 5 * HOUR)
    assert not job.is_due(NOW + 5 * HOUR + SECOND)
    assert job.is_due(NOW + 6 * HOUR)


@pytest.mark.parametrize('event, aborts', [('stop', 0), ('abort', 1)])
def test_d32_stop_and_abort_a_running_job(
    make: Any, records: Records, event: str, aborts: int
) -> None:
    job = make(**HOURLY)
    fake = begin(job, NOW + 2 * SECOND)
    for _update in range(3):
        job.update(document(**HOURLY, event=event), NOW)
    assert status(job, records) == 'running'
    assert fake.abort.call_count == aborts
    end(job, NOW + 3 * SECOND, 'aborted' if aborts else 'success')
    assert status(job, records) == 'completed'
    assert job.record.aborted == aborts
    assert not job.is_due(NOW + 9 * HOUR)


def test_d33_remove(make: Any, records: Records) -> None:
    job = make(**HOURLY)
    job.update(document(**HOURLY, event='remove'), NOW)
    assert status(job, records) == 'removed'
    assert not job.is_due(NOW + HOUR)
    assert make(event='remove').record.status == 'removed'
    # A running job finishes first.
    job.update(document(**HOURLY), NOW)
    begin(job, NOW + 2 * SECOND)
    job.update(document(**HOURLY, event='remove'), NOW + 3 * SECOND)
    assert status(job, records) == 'running'
    end(job, NOW + 4 * SECOND)
    assert status(job, records) == 'removed'


def test_file_is_deleted_and_restored(make: Any, records: Records) -> None:
    job = make(**HOURLY)
    begin(job, NOW + 2 * SECOND)
    job.on_document_gone()
    assert status(job, records) == 'running'
    end(job, NOW + 3 * SECOND)
    assert status(job, records) == 'removed'
    # If the file returns, so does the schedule: the directory was only unmounted.
    back = make(NOW + 60 * SECOND, **HOURLY)
    assert status(back, records) == 'scheduled'
    assert back.due == NOW + HOUR + 2 * SECOND


def test_changed_schedule_begins_anew(make: Any) -> None:
    job = make(**HOURLY)
    run(job, NOW + 2 * SECOND)
    other = document(schedule_interval='1 minute')
    job.update(other, NOW + 10 * SECOND)
    assert job.due == NOW + 12 * SECOND
    # With the same times, the schedule continues.
    job.update(dataclasses.replace(other, description='x'), NOW + 11 * SECOND)
    assert job.due == NOW + 12 * SECOND


@pytest.mark.parametrize('late, runs', [(HOUR - SECOND, True), (HOUR + SECOND, False)])
def test_run_missed_while_no_scheduler_ran(
    make: Any, records: Records, late: datetime.timedelta, runs: bool
) -> None:
    daily = {'schedule_hour': '13'}
    make(**daily)
    due = NOW + HOUR
    job = make(due + late, **daily)
    assert job.is_due(due + late) is runs
    if runs:
        run(job, due + late)
    assert not job.is_due(due + late + SECOND)
    assert records.load('a').due == due + 24 * HOUR


@pytest.mark.parametrize(
    'schedule', [{'schedule_minute': '*'}, {'schedule_interval': '1 day'}]
)
def test_missed_runs_are_made_up_for_once(make: Any, schedule: dict[str, str]) -> None:
    """However late: a cron field has matched just now, and intervals are not late."""
    make(**schedule)
    job = make(NOW + 1000 * HOUR, **schedule)
    run(job, NOW + 1000 * HOUR)
    assert not job.is_due(NOW + 1000 * HOUR + SECOND)
    assert NOW + 1000 * HOUR < job.due <= NOW + 1024 * HOUR


@pytest.mark.parametrize(
    'time, due', [('11:30', True), ('10:30', False), ('12:30', False)]
)
def test_date_may_be_an_hour_ago(make: Any, time: str, due: bool) -> None:
    date = f'2026-01-31T{time}:00Z'
    job = make(schedule_date=date)
    assert job.is_due(NOW) is due
    if due:
        run(job, NOW)
        assert not make(schedule_date=date).is_due(NOW)


def test_scheduler_was_killed(make: Any, records: Records) -> None:
    begin(make(**HOURLY), NOW + 2 * SECOND)
    job = make(NOW + 3 * SECOND, **HOURLY)
    assert status(job, records) == 'scheduled'
    assert job.record.result == 'fail'
    assert 'killed' in job.record.error
    assert job.record.failures == 1
    assert not job.is_due(NOW + 3 * SECOND)


def test_d31_rejected_job_does_not_stay_running(make: Any, records: Records) -> None:
    job = make(**HOURLY)
    assert job.is_due(NOW + 2 * SECOND)
    job.reject('has an action exec', NOW + 2 * SECOND)
    assert status(job, records) == 'scheduled'
    assert (job.record.result, job.record.error) == ('fail', 'has an action exec')
    assert not job.is_due(NOW + 2 * SECOND)


def reported(job: ScheduledJob, **schedule: Any) -> Document:
    """The document of the job once freezer-api has its update."""
    update, api = job.pending_update, job.document.api
    assert api is not None
    new = update or api
    times = {'time_started': new.started, 'time_ended': new.ended}
    handled = update is not None and api.event == update.handled_event
    known = {'status': new.status, 'result': new.result, **times}
    return api_document(**schedule, event='' if handled else api.event, **known)


def event_of(job: ScheduledJob) -> str:
    assert job.document.api is not None
    return job.document.api.event


def is_reported(job: ScheduledJob) -> bool:
    return job.pending_update is None


def test_job_without_times_in_freezer_api(records: Records) -> None:
    job = ScheduledJob(api_document(), records, NOW)
    start, stop = (int(NOW.timestamp()) + seconds for seconds in (2, 3))
    assert job.pending_update == JobUpdate('a', 'scheduled', '', -1, -1)
    begin(job, NOW + 2 * SECOND)
    assert job.pending_update == JobUpdate('a', 'running', '', start, -1)
    end(job, NOW + 3 * SECOND)
    assert job.pending_update == JobUpdate('a', 'completed', 'success', start, stop)
    # The report does not make it run again, nor does a restart.
    job.update(reported(job), NOW + 4 * SECOND)
    assert is_reported(job)
    for each in (job, ScheduledJob(reported(job), records, NOW + 5 * SECOND)):
        assert each.record.status == 'completed'
        assert not each.is_due(NOW + HOUR)
    # freezer-api does not list it any more; its record stays.
    job.on_document_gone()
    assert status(job, records) == 'completed'


@pytest.mark.parametrize('schedule', [{}, {'schedule_interval': '1 hour'}])
def test_start_event_is_handled_once(
    records: Records, schedule: dict[str, Any]
) -> None:
    job = ScheduledJob(api_document(**schedule, status='stop'), records, NOW)
    assert not job.is_due(NOW + HOUR)
    asked = api_document(**schedule, event='start', status='')
    job.update(asked, NOW)
    run(job, NOW + 2 * SECOND)
    due = job.due
    # Nothing changes until freezer-api has the update, even after a restart.
    for _look in range(2):
        job.update(dataclasses.replace(asked), NOW + 4 * SECOND)
        assert job.due == due
    job = ScheduledJob(dataclasses.replace(asked), records, NOW + 5 * SECOND)
    assert job.due == due
    assert job.pending_update is not None
    assert job.pending_update.handled_event == 'start'
    job.update(reported(job, **schedule), NOW + 6 * SECOND)
    assert is_reported(job)
    # A second start does not change a scheduled job.
    job.update(asked, NOW + 7 * SECOND)
    again = NOW + 9 * SECOND
    assert job.is_due(again) is not bool(schedule)


@pytest.mark.parametrize('event', ['stop', 'abort', 'remove'])
def test_events_of_a_scheduled_job(
    hourly: ScheduledJob, records: Records, event: str
) -> None:
    job = hourly
    job.update(api_document(**HOURLY, event=event), NOW)
    assert job.pending_update is not None
    assert job.pending_update.handled_event == event
    job.update(reported(job, **HOURLY), NOW)
    assert is_reported(job)
    assert job.record.status == ('removed' if event == 'remove' else 'stop')
    assert not job.is_due(NOW + HOUR)
    assert not ScheduledJob(job.document, records, NOW).is_due(NOW + HOUR)


@pytest.mark.parametrize('event', ['stop', 'abort', 'remove'])
def test_events_of_a_running_job(
    hourly: ScheduledJob, records: Records, event: str
) -> None:
    """They stay in freezer-api until the run has ended, for the next scheduler."""
    job = hourly
    fake = begin(job, NOW + 2 * SECOND)
    job.update(api_document(**HOURLY, event=event), NOW + 3 * SECOND)
    job.update(reported(job, **HOURLY), NOW + 3 * SECOND)
    assert event_of(job) == event
    assert fake.abort.call_count == (event == 'abort')
    end(job, NOW + 4 * SECOND, 'aborted' if event == 'abort' else 'success')
    job.update(reported(job, **HOURLY), NOW + 5 * SECOND)
    assert event_of(job) == ''
    assert job.record.status == ('removed' if event == 'remove' else 'completed')
    assert not job.is_due(NOW + 9 * HOUR)
    assert is_reported(job)


def test_start_cancels_the_stop_of_a_running_job(
    hourly: ScheduledJob, records: Records
) -> None:
    job = hourly
    begin(job, NOW + 2 * SECOND)
    job.update(api_document(**HOURLY, event='stop'), NOW + 3 * SECOND)
    job.update(api_document(**HOURLY, event='start', status=''), NOW + 3 * SECOND)
    job.update(reported(job, **HOURLY), NOW + 4 * SECOND)
    assert event_of(job) == ''
    end(job, NOW + 5 * SECOND)
    assert status(job, records) == 'scheduled'


def test_changed_schedule_in_freezer_api(records: Records) -> None:
    job = ScheduledJob(api_document(**HOURLY, status='scheduled'), records, NOW)
    run(job, NOW + 2 * SECOND)
    job.update(api_document(schedule_interval='1 minute', status=''), NOW + 10 * SECOND)
    assert job.due == NOW + 12 * SECOND


def test_job_deleted_in_freezer_api(hourly: ScheduledJob, records: Records) -> None:
    job = hourly
    job.on_document_gone()
    assert status(job, records) == 'removed'


def test_job_file_has_no_update(make: Any) -> None:
    assert make(**HOURLY).pending_update is None


@pytest.mark.parametrize('content', ['', '{', '[]', '{"version": 7}', '{"version": 1}'])
def test_unreadable_records_are_ignored(
    records: Records, tmp_path: Path, content: str
) -> None:
    (tmp_path / 'a.json').write_text(content)
    assert records.load('a') == Record('a')
    assert list(records) == []


def test_records_are_read_back(records: Records, tmp_path: Path) -> None:
    record = Record('a/../b', due=NOW, exit_code=3, backup={'curr_backup_level': 1})
    records.save(record)
    assert records.load('a/../b') == record
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_run_elsewhere(make: Any) -> None:
    job = make(**HOURLY)
    due = job.due
    job.on_run_elsewhere('another schedule', NOW, NOW + HOUR)
    assert job.due == due
    # From now on it counts as the other one does.
    job.on_run_elsewhere(job.record.timing, NOW + 7 * SECOND, NOW + 9 * SECOND)
    assert job.due == NOW + 7 * SECOND + HOUR
    once = make()
    once.on_run_elsewhere(once.record.timing, NOW + 3 * SECOND, NOW + 4 * SECOND)
    assert once.due is None
    assert once.record.status == 'completed'


def test_the_result_of_a_run_elsewhere_stays_in_the_api(records: Records) -> None:
    job = ScheduledJob(api_document(), records, NOW)
    reported = {'status': 'completed', 'result': 'success', 'time_started': 5}
    job.update(api_document(**reported, time_ended=6), NOW)
    job.on_run_elsewhere(job.record.timing, NOW, NOW + SECOND)
    assert job.pending_update is None
    # Its scheduler was killed before it reported the end of the run.
    job.update(api_document(status='running', time_started=5), NOW)
    assert job.pending_update == JobUpdate('a', 'completed', '', 5, -1)


def test_a_run_that_does_not_count_is_due_again(make: Any) -> None:
    job = make(**HOURLY)
    due = job.due
    begin(job, due)
    assert job.due > due
    job.on_finished(RunResult('aborted', 1, 'lock lost'), due + SECOND, repeat=True)
    assert job.due == due
    assert job.is_due(due + SECOND)
