"""freezer-api as a source of jobs, with a fake that can fail."""

import copy
import dataclasses
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from freezer.scheduler import config
from freezer.scheduler.api import outbox
from freezer.scheduler.api.wire import Api, ApiRejected, ApiUnavailable
from freezer.scheduler.config import Settings
from freezer.scheduler.documents.document import Document
from freezer.scheduler.sources import remote
from freezer.scheduler.sources.cache import connection_state
from freezer.scheduler.sources.remote import ApiJobSource, Backoff
from freezer.scheduler.sources.source import JobUpdate

CLIENT = 'c.example'
INFO = {'action': 'info', 'storage': 'local', 'container': '/backups'}
BACKUP = {'curr_backup_level': 0, 'time_stamp': 7, 'backup_name': 'bk'}


class FakeApi:
    """Api, in memory. ``fails``: method, or * -> the exception that it raises."""

    project_id = 'p'

    def __init__(self) -> None:
        self.documents: dict[str, dict[str, Any]] = {}
        self.backups: list[dict[str, Any]] = []
        self.sessions: dict[str, int] = {}
        self.clients: list[dict[str, Any]] = []
        self.calls: list[tuple[str, Any]] = []
        self.fails: dict[str, Exception] = {}
        #: method -> called once, before the method returns
        self.after: dict[str, Callable[[], object]] = {}
        self.unlisted: set[str] = set()
        self.malformed: list[Any] = []
        self.trusts: dict[str, FakeApi] = {}
        self.successes = 0

    def add(self, job_id: str, **changes: Any) -> dict[str, Any]:
        job = {
            'job_id': job_id,
            'client_id': CLIENT,
            'project_id': 'p',
            'user_id': 'u',
            'job_actions': [{'freezer_action': INFO, 'action_id': 'a'}],
            'job_schedule': {'schedule_interval': '1 hours'},
            'session_id': '',
            'session_tag': 0,
            **changes,
        }
        self.documents[job_id] = job
        return job

    def schedule(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.documents[job_id]['job_schedule']
        return found

    def _called(self, name: str, what: Any = None) -> None:
        self.calls.append((name, copy.deepcopy(what)))
        for each in (name, '*'):
            if each in self.fails:
                raise self.fails[each]
        self.successes += 1

    def _done(self, name: str) -> None:
        if name in self.after:
            self.after.pop(name)()

    def names(self) -> list[str]:
        return [name for name, _what in self.calls]

    def with_trust(self, trust_id: str) -> 'FakeApi':
        return self.trusts[trust_id] if trust_id else self

    def register(self, client: dict[str, Any]) -> None:
        self._called('register', client)
        self.clients.append(client)

    def jobs(self, client_id: str, all_projects: bool) -> list[Any]:
        self._called('jobs', (client_id, all_projects))
        found = [
            copy.deepcopy(each)
            for job_id, each in self.documents.items()
            if each['job_schedule'].get('status') != 'completed'
            and job_id not in self.unlisted
        ]
        self._done('jobs')
        return found + self.malformed

    def job(self, job_id: str) -> dict[str, Any] | None:
        self._called('job', job_id)
        found = copy.deepcopy(self.documents.get(job_id))
        self._done('job')
        return found

    def update_job(self, job_id: str, changes: dict[str, Any]) -> bool:
        self._called('update_job', changes)
        if job_id not in self.documents:
            return False
        self.documents[job_id] |= copy.deepcopy(changes)
        return True

    def has_backup(self, key: str, value: str) -> bool:
        self._called('has_backup', value)
        return any(each.get(key) == value for each in self.backups)

    def add_backup(self, backup: dict[str, Any]) -> None:
        self._called('add_backup', backup)
        self.backups.append(backup)
        self._done('add_backup')

    def session(self, session_id: str) -> dict[str, Any]:
        self._called('session', session_id)
        return {'session_tag': self.sessions[session_id]}

    def session_action(self, session_id: str, action: dict[str, Any]) -> dict[str, Any]:
        """Like freezer-api after its hold-off time."""
        self._called('session_action', action)
        if 'end' in action:
            return {'result': 'success', 'session_tag': self.sessions[session_id]}
        tag = action['start']['current_tag']
        if tag > self.sessions[session_id]:
            raise ApiRejected('requested tag value too high', 400)
        if tag < self.sessions[session_id]:
            result = 'out-of-sync'
        else:
            result = 'success'
            self.sessions[session_id] += 1
        return {'result': result, 'session_tag': self.sessions[session_id]}


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = config.load(
        (
            *('start', '--client-id', CLIENT, '--jobs-dir', str(tmp_path / 'jobs')),
            *('--scheduler-state-dir', str(tmp_path / 'state')),
        ),
        {'OS_AUTH_URL': 'http://k/v3', 'OS_USERNAME': 'u', 'OS_PASSWORD': 'pw/secret'},
    )
    (tmp_path / 'state').mkdir()
    return made


def source(api: FakeApi, settings: Settings, **changes: Any) -> ApiJobSource:
    assert settings.service is not None
    settings = dataclasses.replace(settings, **changes)
    service = settings.service
    assert service is not None
    return ApiJobSource(settings, service, api)  # type: ignore[arg-type]


@pytest.fixture
def jobs(api: FakeApi, settings: Settings) -> ApiJobSource:
    return source(api, settings)


def listed(jobs: ApiJobSource) -> dict[str, Document]:
    return jobs.list().documents


def update(job_id: str, **changes: Any) -> JobUpdate:
    plain = JobUpdate(job_id, 'scheduled', '', -1, -1)
    return dataclasses.replace(plain, **changes)


def report(jobs: ApiJobSource, job_id: str, **changes: Any) -> None:
    jobs.report(update(job_id, **changes), listed(jobs)[job_id])


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith('.')}


# -- Registration ----------------------------------------------------------------------


def test_registers_once(api: FakeApi, jobs: ApiJobSource) -> None:
    jobs.sync.round(poll=True)
    jobs.sync.round(poll=True)
    (client,) = api.clients
    assert client['client_id'] == CLIENT
    assert client['supported_storages'] == ('local', 's3')
    assert client['supported_engines'] == ('tar',)
    assert client['supported_modes'] == ('fs',)
    assert client['supported_actions'][-1] == 'exec'
    assert 'is_central' not in client


def test_registered_capabilities(api: FakeApi, settings: Settings) -> None:
    supported = {**settings.supported, 'storages': frozenset({'s3', 'swift'})}
    jobs = source(
        *(api, settings),
        client_id=None,
        disable_exec=True,
        centralized=True,
        supported=supported,
    )
    jobs.sync.round(poll=True)
    (client,) = api.clients
    assert client['client_id'] == f'p_{client["hostname"]}'
    assert client['supported_storages'] == ('s3',)
    assert 'exec' not in client['supported_actions']
    assert client['is_central'] is True
    assert api.calls[-1] == ('jobs', (client['client_id'], True))


# -- Jobs ------------------------------------------------------------------------------


def test_jobs_are_cached(api: FakeApi, jobs: ApiJobSource, settings: Settings) -> None:
    api.add('a')
    (settings.jobs_dir / 'mine.conf').write_text('{"job_actions": []}')
    (settings.jobs_dir / 'job_old.conf').write_text(json.dumps(api.add('old')))
    del api.documents['old']
    changes = []
    jobs.start(lambda: changes.append(1))
    jobs.stop()
    jobs.sync.round(poll=True)
    assert list(listed(jobs)) == ['a']
    assert changes
    path = settings.jobs_dir / 'job_a.conf'
    assert path.stat().st_mode & 0o777 == 0o600
    # Other files stay.
    assert files(settings.jobs_dir) == {'mine.conf', 'job_old.conf', 'job_a.conf'}
    # An unchanged job is not written again, and is the same object.
    before, document = path.stat().st_ino, listed(jobs)['a']
    jobs.sync.round(poll=True)
    assert path.stat().st_ino == before
    assert listed(jobs)['a'] is document
    # The next scheduler knows it without freezer-api.
    assert list(listed(source(api, settings))) == ['a']


def test_cache_belongs_to_one_client(
    api: FakeApi, jobs: ApiJobSource, settings: Settings
) -> None:
    api.add('a')
    jobs.sync.round(poll=True)
    api.fails['*'] = ApiUnavailable('unreachable')
    other = source(api, settings, client_id='d.example')
    with pytest.raises(ApiUnavailable):
        other.sync.round(poll=True)
    assert listed(other) == {}
    # The files are deleted only when freezer-api answers: it may be a typo.
    assert list(listed(source(api, settings))) == ['a']
    api.fails.clear()
    other.sync.round(poll=True)
    assert files(settings.jobs_dir) == set()


def test_deleted_and_completed_jobs(
    api: FakeApi, jobs: ApiJobSource, settings: Settings
) -> None:
    for job_id in 'abc':
        api.add(job_id)
    jobs.sync.round(poll=True)
    del api.documents['a']
    api.schedule('b')['status'] = 'completed'
    # It exists, but was missing from the list, which comes in pages.
    api.unlisted.add('c')
    jobs.sync.round(poll=True)
    assert list(listed(jobs)) == ['c']
    assert files(settings.jobs_dir) == {'job_c.conf'}


@pytest.mark.parametrize('fault', [ApiUnavailable('503'), ApiRejected('403', 403)])
def test_errors_remove_no_job(
    api: FakeApi, jobs: ApiJobSource, fault: Exception
) -> None:
    api.add('a')
    jobs.sync.round(poll=True)
    for call in ('jobs', 'job'):
        api.fails = {call: fault}
        api.unlisted = {'a'} if call == 'job' else set()
        if call == 'jobs' or isinstance(fault, ApiUnavailable):
            with pytest.raises((ApiUnavailable, ApiRejected)):
                jobs.sync.round(poll=True)
        else:
            jobs.sync.round(poll=True)
        assert list(listed(jobs)) == ['a']


def test_malformed_documents(
    api: FakeApi, jobs: ApiJobSource, caplog: pytest.LogCaptureFixture
) -> None:
    api.malformed = [
        None,
        3,
        {},
        {'job_id': None},
        {'job_id': 'x' * 65},
        {'job_id': ''},
    ]
    api.add('a')
    api.add('b', job_actions='none')
    api.add('c', job_schedule=None, user_credentials=[])
    api.documents['c']['job_schedule'] = {}
    for _poll in range(2):
        jobs.sync.round(poll=True)
    listing = jobs.list()
    assert list(listing.documents) == ['a']
    assert len(listing.errors) == 2
    assert 'job_actions: must be a list' in caplog.text
    assert caplog.text.count('no valid job_id') == 1


def test_d34_missing_keys(api: FakeApi, jobs: ApiJobSource) -> None:
    job = api.add('a')
    for key in ('session_id', 'session_tag', 'project_id', 'user_id'):
        del job[key]
    job['job_schedule'] = {}
    job['job_actions'][0]['freezer_action'] = {**INFO, 'priority': None, 'mode': None}
    jobs.sync.round(poll=True)
    assert listed(jobs)['a'].wanted == 'start'


def test_jobs_of_other_projects_and_clients(
    api: FakeApi, jobs: ApiJobSource, settings: Settings
) -> None:
    api.add('mine')
    api.add('anothers', project_id='q')
    api.add('clients', client_id='d')
    trust = {'trust_id': 't', 'trustor_user_id': 'u'}
    api.add('trusted', project_id='q', user_credentials=trust)
    jobs.sync.round(poll=True)
    assert set(listed(jobs)) == {'mine', 'trusted'}
    central = source(api, settings, centralized=True)
    central.sync.round(poll=True)
    assert set(listed(central)) == {'trusted'}


# -- Updates ----------------------------------------------------------------------


def test_update_of_a_job(api: FakeApi, jobs: ApiJobSource) -> None:
    api.add('a', job_schedule={'schedule_interval': '1 hours', 'event': 'start'})
    jobs.sync.round(poll=True)
    report(jobs, 'a', status='running', started=5, handled_event='start')
    # A user changes the job meanwhile.
    api.schedule('a')['schedule_interval'] = '2 hours'
    jobs.sync.round(poll=False)
    assert api.schedule('a') == {
        'schedule_interval': '2 hours',
        'event': '',
        'status': 'running',
        'result': '',
        'time_started': 5,
        'time_ended': -1,
    }
    known = listed(jobs)['a']
    assert known.api is not None
    assert (known.api.status, known.api.event) == ('running', '')
    assert str(known.schedule) == 'every 7200 s'
    # It is sent once.
    report(jobs, 'a', status='running', started=5, handled_event='start')
    count = len(api.calls)
    jobs.sync.round(poll=False)
    assert len(api.calls) == count


def test_new_event_is_not_overwritten(api: FakeApi, jobs: ApiJobSource) -> None:
    api.add('a', job_schedule={'event': 'start'})
    jobs.sync.round(poll=True)
    report(jobs, 'a', status='running', handled_event='start')
    api.schedule('a')['event'] = 'abort'
    jobs.sync.round(poll=False)
    assert api.schedule('a')['event'] == 'abort'
    assert listed(jobs)['a'].wanted == 'abort'


def test_overwritten_update_is_sent_again(api: FakeApi, jobs: ApiJobSource) -> None:
    api.add('a')
    jobs.sync.round(poll=True)
    report(jobs, 'a', status='scheduled')
    jobs.sync.round(poll=False)
    # As freezer-api does for job-start.
    api.schedule('a').update(status='', event='start')
    jobs.sync.round(poll=True)
    report(jobs, 'a', status='scheduled', handled_event='start')
    jobs.sync.round(poll=False)
    assert api.schedule('a')['status'] == 'scheduled'
    assert api.schedule('a')['event'] == ''


def test_newest_update_is_sent(api: FakeApi, jobs: ApiJobSource) -> None:
    api.add('a')
    jobs.sync.round(poll=True)
    api.fails['*'] = ApiUnavailable('unreachable')
    for status in ('running', 'scheduled', 'running', 'completed'):
        report(jobs, 'a', status=status)
        with pytest.raises(ApiUnavailable):
            jobs.sync.round(poll=False)
    api.fails.clear()
    jobs.sync.round(poll=False)
    assert api.schedule('a')['status'] == 'completed'
    assert api.names().count('update_job') == 1


def test_update_of_a_deleted_job(api: FakeApi, jobs: ApiJobSource) -> None:
    for job_id in 'ab':
        api.add(job_id)
    jobs.sync.round(poll=True)
    for job_id in 'ab':
        report(jobs, job_id, status='running')
    del api.documents['a']
    api.after['job'] = lambda: api.documents.pop('b', None)
    jobs.sync.round(poll=False)
    assert listed(jobs) == {}


def test_rejection_does_not_stop_other_jobs(
    api: FakeApi, jobs: ApiJobSource, settings: Settings
) -> None:
    api.trusts['t'] = bad = FakeApi()
    bad.fails['*'] = ApiRejected('Keystone: no such trust')
    trust = {'trust_id': 't', 'trustor_user_id': 'u'}
    api.add('a', user_credentials=trust)
    api.add('b')
    jobs.sync.round(poll=True)
    documents = listed(jobs)
    for job_id in 'ab':
        jobs.on_backup(documents[job_id], BACKUP)
        report(jobs, job_id, status='running')
    jobs.sync.round(poll=True)
    assert [each['job_id'] for each in api.backups] == ['b']
    assert api.schedule('b')['status'] == 'running'
    count = len(bad.calls)
    jobs.sync.round(poll=False)
    # It is not retried at once.
    assert len(bad.calls) == count
    assert len(files(settings.state_dir / 'api/outbox')) == 1


# -- Backups ---------------------------------------------------------------------------


def test_backup_is_reported(
    api: FakeApi, jobs: ApiJobSource, settings: Settings
) -> None:
    api.add('a')
    jobs.sync.round(poll=True)
    document = listed(jobs)['a']
    jobs.on_backup(document, BACKUP)
    # A dry run makes no backup.
    jobs.on_backup(document, {**BACKUP, 'dry_run': True})
    folder = settings.state_dir / 'api/outbox'
    (path,) = folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    jobs.sync.round(poll=False)
    (backup,) = api.backups
    assert backup.pop('report_id')
    assert backup == {**BACKUP, 'job_id': 'a'}
    assert files(folder) == set()
    assert 'has_backup' not in api.names()


def test_lost_response_makes_no_second_backup(
    api: FakeApi, jobs: ApiJobSource, settings: Settings
) -> None:
    api.add('a')
    jobs.sync.round(poll=True)

    def lose() -> None:
        raise ApiUnavailable('the connection was closed')

    for _backup in range(2):
        api.after['add_backup'] = lose
        jobs.on_backup(listed(jobs)['a'], BACKUP)
        with pytest.raises(ApiUnavailable):
            jobs.sync.round(poll=False)
        jobs.sync.round(poll=False)
    assert len(api.backups) == 2
    # After a restart as well.
    api.after['add_backup'] = lose
    jobs.on_backup(listed(jobs)['a'], BACKUP)
    with pytest.raises(ApiUnavailable):
        jobs.sync.round(poll=False)
    after = source(api, settings)
    after.start(lambda: None)
    after.stop()
    after.sync.round(poll=False)
    assert len(api.backups) == 3
    assert files(settings.state_dir / 'api/outbox') == set()


@pytest.mark.parametrize('status, retried', [(400, False), (403, True)])
def test_rejected_backup_is_kept(
    api: FakeApi, jobs: ApiJobSource, settings: Settings, status: int, retried: bool
) -> None:
    api.add('a')
    jobs.sync.round(poll=True)
    api.fails['add_backup'] = ApiRejected('no', status)
    jobs.on_backup(listed(jobs)['a'], BACKUP)
    jobs.sync.round(poll=False)
    (name,) = files(settings.state_dir / 'api/outbox')
    assert name.endswith('.json' if retried else '.refused')
    api.fails.clear()
    after = source(api, settings)
    after.sync.round(poll=False)
    assert len(api.backups) == retried


def test_unreadable_report_is_kept(
    api: FakeApi, jobs: ApiJobSource, settings: Settings
) -> None:
    folder = settings.state_dir / 'api/outbox'
    (folder / 'backup-0.json').write_text('{')
    (folder / 'backup-1.json').write_text('{"version": 9}')
    jobs.sync.round(poll=True)
    assert len(files(folder)) == 2


# -- Sessions --------------------------------------------------------------------------


@pytest.mark.parametrize('known, there, tag', [(0, 0, 1), (2, 5, 6), (9, 3, 4)])
def test_session_tag(
    api: FakeApi, jobs: ApiJobSource, known: int, there: int, tag: int
) -> None:
    """The tag is equal, too low, and too high (the session was created anew)."""
    api.sessions['s'] = there
    api.add('a', session_id='s', session_tag=known)
    jobs.sync.round(poll=True)
    document = listed(jobs)['a']
    jobs.on_started(document)
    report(jobs, 'a', status='running', started=5)
    jobs.sync.round(poll=False)
    assert api.sessions['s'] == tag
    assert api.documents['a']['session_tag'] == tag
    jobs.on_finished(document, 'fail')
    jobs.sync.round(poll=False)
    end = {'job_id': 'a', 'current_tag': tag, 'result': 'fail'}
    assert api.calls[-1] == ('session_action', {'end': end})


def test_two_jobs_start_a_session_together(api: FakeApi, jobs: ApiJobSource) -> None:
    """Within the hold-off time, the second job gets the tag of the first."""
    api.sessions['s'] = 0
    for job_id in 'ab':
        api.add(job_id, session_id='s')
    jobs.sync.round(poll=True)
    act = api.session_action

    def held_off(session_id: str, action: dict[str, Any]) -> dict[str, Any]:
        if api.sessions['s'] == 0:
            return act(session_id, action)
        tag = action['start']['current_tag']
        return {'result': 'success' if tag < 1 else 'hold-off', 'session_tag': 1}

    api.session_action = held_off  # type: ignore[method-assign]
    for job_id in 'aba':
        jobs.on_started(listed(jobs)[job_id])
        report(jobs, job_id, status='running', started=len(api.calls))
        jobs.sync.round(poll=False)
    assert api.sessions['s'] == 1
    assert {each['session_tag'] for each in api.documents.values()} == {1}


def test_session_during_an_outage(api: FakeApi, jobs: ApiJobSource) -> None:
    """A finished run is not started any more; results are sent in order."""
    api.sessions['s'] = 0
    api.add('a', session_id='s')
    jobs.sync.round(poll=True)
    document = listed(jobs)['a']
    api.fails['*'] = ApiUnavailable('unreachable')
    jobs.on_started(document)
    with pytest.raises(ApiUnavailable):
        jobs.sync.round(poll=False)
    jobs.on_finished(document, 'fail')
    jobs.on_started(document)
    jobs.on_finished(document, 'success')
    api.fails.clear()
    jobs.sync.round(poll=False)
    acts = [what for name, what in api.calls if name == 'session_action']
    assert ['start' in act for act in acts] == [True, False, False]
    assert [act['end']['result'] for act in acts[1:]] == ['fail', 'success']


def test_deleted_session(api: FakeApi, jobs: ApiJobSource) -> None:
    api.add('a', session_id='s')
    jobs.sync.round(poll=True)
    api.fails['session_action'] = ApiRejected('job_id not found in session', 400)
    api.fails['session'] = ApiRejected('404', 404)
    jobs.on_started(listed(jobs)['a'])
    jobs.on_finished(listed(jobs)['a'], 'success')
    jobs.on_backup(listed(jobs)['a'], BACKUP)
    jobs.sync.round(poll=False)
    assert len(api.backups) == 1
    assert api.names().count('session_action') == 1


# -- The thread ------------------------------------------------------------------------


def test_backoff() -> None:
    backoff = Backoff(1.0)
    assert backoff.on_success() is None
    delays = [backoff.on_failure() for _try in range(30)]
    for number, delay in enumerate(delays):
        longest = min(2.0**number, remote.LONGEST_DELAY_SECONDS)
        assert longest / 2 <= delay <= longest
    assert len(set(delays)) > 20
    assert backoff.on_success() is not None
    assert backoff.on_failure() <= 1.0
    # Never sooner than the interval.
    assert Backoff(3600.0).on_failure() >= 1800.0


def test_outage_causes_few_calls(
    api: FakeApi, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = source(api, settings)
    api.add('a')
    jobs.sync.round(poll=True)
    document = listed(jobs)['a']
    api.fails['*'] = ApiUnavailable('unreachable')
    before = len(api.calls)
    jobs.start(lambda: None)
    began = time.monotonic()
    while time.monotonic() - began < 1.0:
        jobs.on_backup(document, BACKUP)
        jobs.report(update('a', started=len(api.calls)), document)
        time.sleep(0.02)
    assert len(api.calls) - before <= 2
    assert connection_state(settings.state_dir)['error'] == 'unreachable'
    # A refresh retries at once.
    api.fails.clear()
    jobs.refresh()
    deadline = time.monotonic() + 30
    while files(settings.state_dir / 'api/outbox'):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    jobs.stop()
    assert len(api.backups) > 10
    # It registers again: the database may be new.
    assert len(api.clients) == 2
    assert connection_state(settings.state_dir)['error'] == ''


def test_partial_outage_does_not_increase_the_delay(
    api: FakeApi, settings: Settings
) -> None:
    """As while freezer-api starts: each failure counts as the first."""
    jobs = source(api, settings, interval=0.02)
    api.fails['jobs'] = ApiUnavailable('500')
    jobs.start(lambda: None)
    deadline = time.monotonic() + 30
    # With doubling delays this would take minutes.
    while api.names().count('jobs') < 15:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    jobs.stop()


def test_bug_does_not_stop_the_thread(api: FakeApi, jobs: ApiJobSource) -> None:
    api.add('a')
    api.fails['*'] = OSError('No space left on device')
    polled = threading.Event()
    jobs.start(polled.set)
    time.sleep(0.1)
    api.fails.clear()
    jobs.refresh()
    assert polled.wait(30)
    jobs.stop()
    assert list(listed(jobs)) == ['a']


def test_stop_sends_pending_reports(api: FakeApi, jobs: ApiJobSource) -> None:
    api.add('a')
    jobs.sync.round(poll=True)
    jobs.start(lambda: None)
    jobs.on_backup(listed(jobs)['a'], BACKUP)
    report(jobs, 'a', status='scheduled', result='aborted')
    jobs.stop()
    assert len(api.backups) == 1
    assert api.schedule('a')['result'] == 'aborted'


def test_stop_has_a_timeout(
    api: FakeApi, jobs: ApiJobSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, 'STOP_SECONDS', 0.1)
    released = threading.Event()
    api.after['jobs'] = lambda: released.wait(30)
    jobs.start(lambda: None)
    began = time.monotonic()
    jobs.stop()
    assert time.monotonic() - began < 10
    released.set()


def test_outbox_is_in_order(tmp_path: Path) -> None:
    box = outbox.Outbox(tmp_path)
    for number in range(3):
        box.add(
            outbox.OutboxItem('backup', str(number), '', '', outbox.new_token(), {})
        )
    assert [item.job_id for item in box] == ['0', '1', '2']
    assert len(box) == 3


def test_fake_has_all_methods_of_api() -> None:
    for name in vars(Api):
        if not name.startswith('_'):
            assert hasattr(FakeApi, name), name
