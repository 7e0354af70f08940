"""The states of a job, and what is remembered of it."""

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from freezer.scheduler import document
from freezer.scheduler.document import Document
from freezer.scheduler.job import Job
from freezer.scheduler.record import Record, Records
from freezer.scheduler.runner import Outcome

UTC = datetime.UTC
NOW = datetime.datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
SECOND = datetime.timedelta(seconds=1)
HOUR = datetime.timedelta(hours=1)
INFO = {'action': 'info', 'storage': 'local', 'container': '/backups'}


class FakeRun:
    """A run that is told to abort, and counts."""

    aborts = 0

    def abort(self) -> None:
        self.aborts += 1


def wanted(**schedule: Any) -> Document:
    text = json.dumps(
        {'job_actions': [{'freezer_action': INFO}], 'job_schedule': schedule}
    )
    return document.parse('/jobs/a.conf', text.encode(), 'a')


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path)


@pytest.fixture
def make(records: Records) -> Any:
    def job(now: datetime.datetime = NOW, **schedule: Any) -> Job:
        return Job(wanted(**schedule), records, now)

    return job


def begin(job: Job, now: datetime.datetime) -> FakeRun:
    assert job.is_due(now)
    run = FakeRun()
    job.started(run, now)  # type: ignore[arg-type]
    assert job.record.status == 'running'
    return run


def end(job: Job, now: datetime.datetime, result: str = 'success') -> None:
    job.ended(Outcome(result, 0 if result == 'success' else 1, 'why'), now)


def status(job: Job, records: Records) -> str:
    """As kept, and as remembered."""
    assert records.load(job.id).status == job.record.status
    return job.record.status


def test_a_day_in_the_life(make: Any, records: Records) -> None:
    job = make(schedule_interval='1 hour')
    assert status(job, records) == 'scheduled'
    assert not job.is_due(NOW + SECOND)
    begin(job, NOW + 2 * SECOND)
    # A running job is not started twice, however late it gets.
    assert not job.is_due(NOW + 5 * HOUR)
    end(job, NOW + 5 * HOUR)
    assert status(job, records) == 'scheduled'
    # What was missed is caught up once.
    begin(job, NOW + 5 * HOUR)
    end(job, NOW + 5 * HOUR + SECOND, 'fail')
    assert not job.is_due(NOW + 5 * HOUR + SECOND)
    record = records.load('a')
    assert (record.runs, record.successes, record.failures) == (2, 1, 1)
    assert (record.result, record.error) == ('fail', 'why')
    assert record.last_success == NOW + 5 * HOUR
    assert record.due == NOW + 5 * HOUR + 2 * SECOND


def test_once_is_once_also_after_a_restart(make: Any, records: Records) -> None:
    job = make()
    begin(job, NOW + 2 * SECOND)
    end(job, NOW + 3 * SECOND)
    assert status(job, records) == 'completed'
    assert not make(NOW + HOUR).is_due(NOW + HOUR)
    # Written anew it is wanted again.
    again = make(NOW + HOUR, result='')
    assert again.is_due(NOW + HOUR + 2 * SECOND)


@pytest.mark.parametrize('event', ['stop', 'abort'])
def test_stop_and_abort_in_scheduled(make: Any, records: Records, event: str) -> None:
    job = make(schedule_interval='1 hour')
    job.take(wanted(schedule_interval='1 hour', event=event), NOW)
    assert status(job, records) == 'stop'
    # Nothing stays armed.
    assert job.due is None
    assert not job.is_due(NOW + HOUR)
    assert not make(NOW + HOUR, event=event).is_due(NOW + HOUR)
    # A start begins anew: what was not wanted is not caught up.
    job.take(wanted(schedule_hour='*', event='start'), NOW + 5 * HOUR)
    assert not job.is_due(NOW + 5 * HOUR + SECOND)
    assert job.is_due(NOW + 6 * HOUR)


def test_stop_while_it_runs(make: Any, records: Records) -> None:
    job = make(schedule_interval='1 hour')
    run = begin(job, NOW + 2 * SECOND)
    job.take(wanted(schedule_interval='1 hour', event='stop'), NOW)
    assert status(job, records) == 'running'
    assert run.aborts == 0
    end(job, NOW + 3 * SECOND)
    assert status(job, records) == 'completed'
    assert not job.is_due(NOW + 9 * HOUR)


def test_d32_abort_ends_what_runs(make: Any, records: Records) -> None:
    job = make(schedule_interval='1 hour')
    run = begin(job, NOW + 2 * SECOND)
    for _look in range(3):
        job.take(wanted(schedule_interval='1 hour', event='abort'), NOW)
    assert run.aborts == 1
    end(job, NOW + 3 * SECOND, 'aborted')
    assert status(job, records) == 'completed'
    assert job.record.aborted == 1
    assert not job.is_due(NOW + 9 * HOUR)


def test_d33_remove_removes(make: Any, records: Records) -> None:
    job = make(schedule_interval='1 hour')
    job.take(wanted(schedule_interval='1 hour', event='remove'), NOW)
    assert status(job, records) == 'removed'
    assert not job.is_due(NOW + HOUR)
    assert make(event='remove').record.status == 'removed'
    # While it runs: after the run.
    job.take(wanted(schedule_interval='1 hour'), NOW)
    begin(job, NOW + 2 * SECOND)
    job.take(wanted(schedule_interval='1 hour', event='remove'), NOW + 3 * SECOND)
    assert status(job, records) == 'running'
    end(job, NOW + 4 * SECOND)
    assert status(job, records) == 'removed'


def test_a_file_that_goes_away(make: Any, records: Records) -> None:
    job = make(schedule_interval='1 hour')
    begin(job, NOW + 2 * SECOND)
    job.leave()
    assert status(job, records) == 'running'
    end(job, NOW + 3 * SECOND)
    assert status(job, records) == 'removed'
    # And one that comes back goes on: a directory may be away for a moment.
    back = make(NOW + 60 * SECOND, schedule_interval='1 hour')
    assert status(back, records) == 'scheduled'
    assert back.due == NOW + HOUR + 2 * SECOND


def test_another_time_is_another_beginning(make: Any) -> None:
    job = make(schedule_interval='1 hour')
    begin(job, NOW + 2 * SECOND)
    end(job, NOW + 3 * SECOND)
    other = wanted(schedule_interval='1 minute')
    job.take(other, NOW + 10 * SECOND)
    assert job.due == NOW + 12 * SECOND
    # The same times, and another text: they go on.
    job.take(dataclasses.replace(other, description='x'), NOW + 11 * SECOND)
    assert job.due == NOW + 12 * SECOND


@pytest.mark.parametrize(
    'late, caught_up', [(HOUR - SECOND, True), (HOUR + SECOND, False)]
)
def test_times_missed_while_no_scheduler_ran(
    make: Any, records: Records, late: datetime.timedelta, caught_up: bool
) -> None:
    daily = {'schedule_hour': '13'}
    make(**daily)
    due = NOW + HOUR
    job = make(due + late, **daily)
    assert job.is_due(due + late) is caught_up
    if caught_up:
        begin(job, due + late)
        end(job, due + late + SECOND)
    assert not job.is_due(due + late + SECOND)
    assert records.load('a').due == due + 24 * HOUR


def test_of_many_missed_times_one_is_caught_up(make: Any) -> None:
    make(schedule_minute='*')
    job = make(NOW + 1000 * HOUR, schedule_minute='*')
    begin(job, NOW + 1000 * HOUR)
    end(job, NOW + 1000 * HOUR)
    assert not job.is_due(NOW + 1000 * HOUR + SECOND)


def test_an_interval_that_passed_is_due_however_late(make: Any) -> None:
    make(schedule_interval='1 day')
    job = make(NOW + 500 * HOUR, schedule_interval='1 day')
    begin(job, NOW + 500 * HOUR)
    end(job, NOW + 500 * HOUR)
    assert NOW + 500 * HOUR < job.due <= NOW + 524 * HOUR


@pytest.mark.parametrize(
    'date, due',
    [
        ('2026-01-31T11:30:00Z', True),
        ('2026-01-31T10:30:00Z', False),
        ('2026-01-31T12:30:00Z', False),
    ],
)
def test_a_date_may_be_past_for_an_hour(make: Any, date: str, due: bool) -> None:
    job = make(schedule_date=date)
    assert job.is_due(NOW) is due
    if due:
        begin(job, NOW)
        end(job, NOW)
        assert not make(schedule_date=date).is_due(NOW)


def test_a_scheduler_that_was_killed(make: Any, records: Records) -> None:
    begin(make(schedule_interval='1 hour'), NOW + 2 * SECOND)
    job = make(NOW + 3 * SECOND, schedule_interval='1 hour')
    assert status(job, records) == 'scheduled'
    assert job.record.result == 'fail'
    assert 'killed' in job.record.error
    assert job.record.failures == 1
    assert not job.is_due(NOW + 3 * SECOND)


def test_d31_a_refused_job_does_not_stay_running(make: Any, records: Records) -> None:
    job = make(schedule_interval='1 hour')
    assert job.is_due(NOW + 2 * SECOND)
    job.refused('has an action exec', NOW + 2 * SECOND)
    assert status(job, records) == 'scheduled'
    assert (job.record.result, job.record.error) == ('fail', 'has an action exec')
    assert not job.is_due(NOW + 2 * SECOND)


def of_api(**schedule: Any) -> Document:
    given = {'job_actions': [{'freezer_action': INFO}], 'job_schedule': schedule}
    text = json.dumps({**given, 'job_id': 'a'})
    return document.parse('/jobs/job_a.conf', text.encode(), 'a', in_api=True)


def reported(job: Job, **schedule: Any) -> Document:
    """The job as freezer-api has it when it was told."""
    news = job.news
    cloud = job.document.cloud
    assert cloud is not None
    status, result, event = cloud.status, cloud.result, cloud.event
    times = {'time_started': cloud.started, 'time_ended': cloud.ended}
    if news is not None:
        status, result = news.status, news.result
        times = {'time_started': news.started, 'time_ended': news.ended}
        event = '' if event == news.seen_to else event
    return of_api(**schedule, status=status, result=result, event=event, **times)


def all_is_told(job: Job) -> bool:
    return job.news is None


def test_once_in_freezer_api(records: Records) -> None:
    job = Job(of_api(), records, NOW)
    assert job.news is not None
    assert (job.news.status, job.news.ended) == ('scheduled', -1)
    begin(job, NOW + 2 * SECOND)
    assert job.news.status == 'running'
    assert job.news.started == int((NOW + 2 * SECOND).timestamp())
    end(job, NOW + 3 * SECOND)
    assert (job.news.status, job.news.result) == ('completed', 'success')
    assert job.news.ended == int((NOW + 3 * SECOND).timestamp())
    # What was told of it is no new job, nor another one after a restart.
    job.take(reported(job), NOW + 4 * SECOND)
    assert all_is_told(job)
    for each in (job, Job(reported(job), records, NOW + 5 * SECOND)):
        assert each.record.status == 'completed'
        assert not each.is_due(NOW + HOUR)
    # It is not listed any more, and is remembered as it was.
    job.leave()
    assert status(job, records) == 'completed'


@pytest.mark.parametrize('schedule', [{}, {'schedule_interval': '1 hour'}])
def test_a_start_is_one_start(records: Records, schedule: dict[str, Any]) -> None:
    job = Job(of_api(**schedule, status='stop'), records, NOW)
    assert not job.is_due(NOW + HOUR)
    asked = of_api(**schedule, event='start', status='')
    job.take(asked, NOW)
    begin(job, NOW + 2 * SECOND)
    end(job, NOW + 3 * SECOND)
    due = job.due
    # freezer-api is away, and does not know yet; not even after a restart.
    for _look in range(2):
        job.take(dataclasses.replace(asked), NOW + 4 * SECOND)
        assert job.due == due
    job = Job(dataclasses.replace(asked), records, NOW + 5 * SECOND)
    assert job.due == due
    assert job.news is not None
    assert job.news.seen_to == 'start'
    job.take(reported(job, **schedule), NOW + 6 * SECOND)
    assert all_is_told(job)
    # Asked for again: of one that is scheduled that changes nothing.
    job.take(asked, NOW + 7 * SECOND)
    again = NOW + 9 * SECOND
    assert job.is_due(again) is not bool(schedule)


@pytest.mark.parametrize('event', ['stop', 'abort', 'remove'])
def test_events_of_one_that_does_not_run(records: Records, event: str) -> None:
    hourly = {'schedule_interval': '1 hour'}
    job = Job(of_api(**hourly), records, NOW)
    job.take(of_api(**hourly, event=event), NOW)
    assert job.news is not None
    assert job.news.seen_to == event
    job.take(reported(job, **hourly), NOW)
    assert all_is_told(job)
    assert job.record.status == ('removed' if event == 'remove' else 'stop')
    assert not job.is_due(NOW + HOUR)
    assert not Job(job.document, records, NOW).is_due(NOW + HOUR)


@pytest.mark.parametrize('event', ['stop', 'abort', 'remove'])
def test_events_of_one_that_runs(records: Records, event: str) -> None:
    """They stay until it has ended: whoever comes after us has to know."""
    hourly = {'schedule_interval': '1 hour'}
    job = Job(of_api(**hourly), records, NOW)
    run = begin(job, NOW + 2 * SECOND)
    job.take(of_api(**hourly, event=event), NOW + 3 * SECOND)
    job.take(reported(job, **hourly), NOW + 3 * SECOND)
    assert job.document.cloud is not None
    assert job.document.cloud.event == event
    assert run.aborts == (event == 'abort')
    end(job, NOW + 4 * SECOND, 'aborted' if event == 'abort' else 'success')
    job.take(reported(job, **hourly), NOW + 5 * SECOND)
    assert job.document.cloud.event == ''
    assert job.record.status == ('removed' if event == 'remove' else 'completed')
    assert not job.is_due(NOW + 9 * HOUR)
    assert all_is_told(job)


def test_a_start_of_one_that_runs_takes_back_a_stop(records: Records) -> None:
    hourly = {'schedule_interval': '1 hour'}
    job = Job(of_api(**hourly), records, NOW)
    begin(job, NOW + 2 * SECOND)
    job.take(of_api(**hourly, event='stop'), NOW + 3 * SECOND)
    job.take(of_api(**hourly, event='start', status=''), NOW + 3 * SECOND)
    job.take(reported(job, **hourly), NOW + 4 * SECOND)
    assert job.document.cloud is not None
    assert job.document.cloud.event == ''
    end(job, NOW + 5 * SECOND)
    assert status(job, records) == 'scheduled'


def test_another_time_in_freezer_api(records: Records) -> None:
    job = Job(of_api(schedule_interval='1 hour', status='scheduled'), records, NOW)
    begin(job, NOW + 2 * SECOND)
    end(job, NOW + 3 * SECOND)
    job.take(of_api(schedule_interval='1 minute', status=''), NOW + 10 * SECOND)
    assert job.due == NOW + 12 * SECOND


def test_a_deleted_job_is_removed(records: Records) -> None:
    job = Job(of_api(schedule_interval='1 hour'), records, NOW)
    job.leave()
    assert status(job, records) == 'removed'


def test_a_file_has_no_news(make: Any) -> None:
    assert make(schedule_interval='1 hour').news is None


@pytest.mark.parametrize('content', ['', '{', '[]', '{"version": 7}', '{"version": 1}'])
def test_records_that_cannot_be_read_count_for_nothing(
    records: Records, tmp_path: Path, content: str
) -> None:
    (tmp_path / 'a.json').write_text(content)
    assert records.load('a') == Record('a')
    assert list(records) == []


def test_records_come_back_as_they_were(records: Records, tmp_path: Path) -> None:
    record = Record('a/../b', due=NOW, exit_code=3, backup={'curr_backup_level': 1})
    records.save(record)
    assert records.load('a/../b') == record
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
