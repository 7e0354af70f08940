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
from freezer.scheduler.config import Service, Settings
from freezer.scheduler.documents.document import Document
from freezer.scheduler.sources.cache import connection_state
from freezer.scheduler.sources.remote import (
    LONGEST_DELAY_SECONDS,
    ApiJobSource,
    Backoff,
)
from freezer.scheduler.sources.source import JobUpdate
from freezer.tests.scheduler import until

CLIENT = 'c.example'
INFO = {'action': 'info', 'storage': 'local', 'container': '/backups'}
TRUST = {'trust_id': 't', 'trustor_user_id': 'u'}
BACKUP = {'curr_backup_level': 0, 'time_stamp': 7, 'backup_name': 'bk'}


def call(method: Any) -> Any:
    """Record the call and its arguments; fail if told to."""
    name = method.__name__

    def called(api: 'FakeApi', *arguments: Any) -> Any:
        api.calls.append((name, copy.deepcopy(arguments)))
        for each in (name, '*'):
            if each in api.fails:
                raise api.fails[each]
        api.successes += 1
        result = copy.deepcopy(method(api, *arguments))
        api.after.pop(name, lambda: None)()
        return result

    return called


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
        self.documents[job_id] = {
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
        return self.documents[job_id]

    def schedule(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.documents[job_id]['job_schedule']
        return found

    def names(self) -> list[str]:
        return [name for name, _arguments in self.calls]

    def with_trust(self, trust_id: str) -> 'FakeApi':
        return self.trusts[trust_id] if trust_id else self

    @call
    def register(self, client: dict[str, Any]) -> None:
        self.clients.append(client)

    @call
    def jobs(self, _client_id: str, _all_projects: bool) -> list[Any]:
        return self.malformed + [
            each
            for job_id, each in self.documents.items()
            if each['job_schedule'].get('status') != 'completed'
            and job_id not in self.unlisted
        ]

    @call
    def job(self, job_id: str) -> dict[str, Any] | None:
        return self.documents.get(job_id)

    @call
    def update_job(self, job_id: str, changes: dict[str, Any]) -> bool:
        if job_id not in self.documents:
            return False
        self.documents[job_id] |= copy.deepcopy(changes)
        return True

    @call
    def has_backup(self, key: str, value: str) -> bool:
        return any(each.get(key) == value for each in self.backups)

    @call
    def add_backup(self, backup: dict[str, Any]) -> None:
        self.backups.append(backup)

    @call
    def session(self, session_id: str) -> dict[str, Any]:
        return {'session_tag': self.sessions[session_id]}

    @call
    def session_action(self, session_id: str, action: dict[str, Any]) -> dict[str, Any]:
        """Like freezer-api after its hold-off time."""
        result, known = 'success', self.sessions[session_id]
        if 'start' in action:
            tag = action['start']['current_tag']
            if tag > known:
                raise ApiRejected('requested tag value too high', 400)
            if tag < known:
                result = 'out-of-sync'
            else:
                self.sessions[session_id] += 1
        return {'result': result, 'session_tag': self.sessions[session_id]}


class Remote:
    """A source of jobs on a fake API."""

    def __init__(self, settings: Settings) -> None:
        self.api = FakeApi()
        self.settings = settings
        self.outbox = settings.state_dir / 'api/outbox'
        self.source = self.new_source()

    def new_source(self, **changes: Any) -> ApiJobSource:
        """Another one with the same directories, as after a restart."""
        settings = dataclasses.replace(self.settings, **changes)
        assert settings.service is not None
        return ApiJobSource(settings, settings.service, self.api)  # type: ignore[arg-type]

    def add(self, job_id: str = 'a', **changes: Any) -> Document:
        """Add a job to the API; returns its document in the cache."""
        self.api.add(job_id, **changes)
        self.poll()
        return self.jobs()[job_id]

    def poll(self) -> None:
        self.source.sync.round(poll=True)

    def send(self) -> None:
        self.source.sync.round(poll=False)

    def jobs(self, source: ApiJobSource | None = None) -> dict[str, Document]:
        return (source or self.source).list().documents

    def report(self, job_id: str = 'a', **changes: Any) -> None:
        self.source.report(update(job_id, **changes), self.jobs()[job_id])


def update(job_id: str, **changes: Any) -> JobUpdate:
    return dataclasses.replace(JobUpdate(job_id, 'scheduled', '', -1, -1), **changes)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith('.')}


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    settings = config.load(
        (
            *('start', '--client-id', CLIENT, '--jobs-dir', str(tmp_path / 'jobs')),
            *('--scheduler-state-dir', str(tmp_path / 'state')),
        ),
        {'OS_AUTH_URL': 'http://k/v3', 'OS_USERNAME': 'u', 'OS_PASSWORD': 'pw/secret'},
    )
    (tmp_path / 'state').mkdir()
    return Remote(settings)


@pytest.fixture
def api(remote: Remote) -> FakeApi:
    return remote.api


# -- Registration ----------------------------------------------------------------------


def test_registers_once(api: FakeApi, remote: Remote) -> None:
    remote.poll()
    remote.poll()
    (client,) = api.clients
    assert client['client_id'] == CLIENT
    storages = {'local', 's3', 'ssh', 'swift', 'ftp', 'ftps'}
    assert set(client['supported_storages']) == storages
    # freezer-api knows no engine blocks.
    engines = {'tar', 'glance', 'nova', 'rsync', 'rsyncv2'}
    assert set(client['supported_engines']) == engines
    cloud = {'cinder', 'cindernative', 'glance', 'nova'}
    assert set(client['supported_modes']) == {'fs', 'mongo', 'mysql', *cloud}
    assert client['supported_actions'][-1] == 'exec'
    assert 'is_central' not in client


def test_registered_capabilities(api: FakeApi, remote: Remote) -> None:
    source = remote.new_source(
        client_id=None,
        disable_exec=True,
        centralized=True,
        supported={**remote.settings.supported, 'storages': {'s3', 'nfs'}},
    )
    source.sync.round(poll=True)
    (client,) = api.clients
    assert client['client_id'] == f'p_{client["hostname"]}'
    assert client['supported_storages'] == ('s3',)
    assert 'exec' not in client['supported_actions']
    assert client['is_central'] is True
    assert api.calls[-1] == ('jobs', (client['client_id'], True))


# -- Jobs ------------------------------------------------------------------------------


def test_jobs_are_cached(api: FakeApi, remote: Remote) -> None:
    api.add('a')
    folder = remote.settings.jobs_dir
    (folder / 'mine.conf').write_text('{"job_actions": []}')
    (folder / 'job_old.conf').write_text(json.dumps(api.add('old')))
    del api.documents['old']
    changes = []
    remote.source.start(lambda: changes.append(1))
    remote.source.stop()
    remote.poll()
    assert list(remote.jobs()) == ['a']
    assert changes
    path = folder / 'job_a.conf'
    assert path.stat().st_mode & 0o777 == 0o600
    # Other files stay.
    assert files(folder) == {'mine.conf', 'job_old.conf', 'job_a.conf'}
    # An unchanged job is not written again, and is the same object.
    before, document = path.stat().st_ino, remote.jobs()['a']
    remote.poll()
    assert path.stat().st_ino == before
    assert remote.jobs()['a'] is document
    # The next scheduler knows it without freezer-api.
    assert list(remote.jobs(remote.new_source())) == ['a']


def test_cache_belongs_to_one_client(api: FakeApi, remote: Remote) -> None:
    remote.add()
    api.fails['*'] = ApiUnavailable('unreachable')
    other = remote.new_source(client_id='d.example')
    with pytest.raises(ApiUnavailable):
        other.sync.round(poll=True)
    assert remote.jobs(other) == {}
    # The files are deleted only when freezer-api answers: it may be a typo.
    assert list(remote.jobs(remote.new_source())) == ['a']
    api.fails.clear()
    other.sync.round(poll=True)
    assert files(remote.settings.jobs_dir) == set()


@pytest.mark.parametrize(
    'wrong',
    [{'mode': 'sqlserver'}, {'log_config_append': '/x'}, {'engine': 'zip'}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_refused_jobs_are_reported(
    api: FakeApi, remote: Remote, wrong: dict[str, str]
) -> None:
    backup = {'action': 'backup', 'path_to_backup': '/etc', **INFO} | wrong
    backup['action'] = 'backup'
    schedule = {'status': 'scheduled', 'event': 'start', 'schedule_interval': '1 hours'}
    api.add('a', job_actions=[{'freezer_action': backup}], job_schedule=schedule)
    api.add('b')
    for _ in range(3):
        remote.poll()
        assert list(remote.jobs()) == ['b']
        remote.send()
    # It keeps its event, and starts when it is corrected.
    expected = {'status': '', 'result': 'fail', 'event': 'start'}
    assert expected.items() <= api.schedule('a').items()
    assert api.names().count('update_job') == 1
    api.documents['a']['job_actions'] = [{'freezer_action': INFO}]
    remote.poll()
    assert sorted(remote.jobs()) == ['a', 'b']
    assert remote.jobs()['a'].wanted == 'start'
    # Of a job that was valid before, that version goes on.
    api.documents['b']['job_actions'] = [{'freezer_action': backup}]
    remote.poll()
    assert sorted(remote.jobs()) == ['a', 'b']
    remote.send()
    assert 'result' not in api.schedule('b')


def test_refused_job_of_a_trust(api: FakeApi, remote: Remote) -> None:
    api.trusts['t'] = trusted = FakeApi()
    bad = {'job_actions': [], 'user_credentials': TRUST, 'project_id': 'other'}
    api.add('a', **bad)
    trusted.add('a', **bad)
    remote.poll()
    assert remote.jobs() == {}
    remote.send()
    assert trusted.schedule('a')['result'] == 'fail'
    assert 'result' not in api.schedule('a')


def test_deleted_and_completed_jobs(api: FakeApi, remote: Remote) -> None:
    for job_id in 'abc':
        remote.add(job_id)
    del api.documents['a']
    api.schedule('b')['status'] = 'completed'
    # It exists, but was missing from the list, which comes in pages.
    api.unlisted.add('c')
    remote.poll()
    assert list(remote.jobs()) == ['c']
    assert files(remote.settings.jobs_dir) == {'job_c.conf'}


@pytest.mark.parametrize('fault', [ApiUnavailable('503'), ApiRejected('403', 403)])
@pytest.mark.parametrize('call', ['jobs', 'job'])
def test_errors_remove_no_job(
    api: FakeApi, remote: Remote, fault: Exception, call: str
) -> None:
    remote.add()
    api.fails = {call: fault}
    api.unlisted = {'a'} if call == 'job' else set()
    try:
        remote.poll()
    except (ApiUnavailable, ApiRejected):
        assert call == 'jobs' or isinstance(fault, ApiUnavailable)
    else:
        assert call == 'job'
        assert isinstance(fault, ApiRejected)
    assert list(remote.jobs()) == ['a']


def test_malformed_documents(
    api: FakeApi, remote: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    api.malformed = [
        *(
            None,
            3,
            {},
            {'job_id': None},
            {'job_id': 'x' * 65},
            {'job_id': ''},
            {'job_id': '..'},
        )
    ]
    api.add('a')
    api.add('b', job_actions='none')
    api.add('c', job_schedule={}, user_credentials=[])
    for _poll in range(2):
        remote.poll()
    listing = remote.source.list()
    assert list(listing.documents) == ['a']
    assert len(listing.errors) == 2
    assert 'job_actions: must be a list' in caplog.text
    assert caplog.text.count('no valid job_id') == 1


def test_d34_missing_keys(api: FakeApi, remote: Remote) -> None:
    job = api.add('a', job_schedule={})
    for key in ('session_id', 'session_tag', 'project_id', 'user_id'):
        del job[key]
    job['job_actions'][0]['freezer_action'] = {**INFO, 'priority': None, 'mode': None}
    remote.poll()
    assert remote.jobs()['a'].wanted == 'start'


def test_jobs_of_other_projects_and_clients(api: FakeApi, remote: Remote) -> None:
    api.add('mine')
    api.add('anothers', project_id='q')
    api.add('clients', client_id='d')
    api.add('trusted', project_id='q', user_credentials=TRUST)
    remote.poll()
    assert set(remote.jobs()) == {'mine', 'trusted'}
    central = remote.new_source(centralized=True)
    central.sync.round(poll=True)
    assert set(remote.jobs(central)) == {'trusted'}


# -- Updates ---------------------------------------------------------------------------


def test_update_of_a_job(api: FakeApi, remote: Remote) -> None:
    remote.add(job_schedule={'schedule_interval': '1 hours', 'event': 'start'})
    remote.report(status='running', started=5, handled_event='start')
    # A user changes the job meanwhile.
    api.schedule('a')['schedule_interval'] = '2 hours'
    remote.send()
    assert api.schedule('a') == {
        'schedule_interval': '2 hours',
        'event': '',
        'status': 'running',
        'result': '',
        'time_started': 5,
        'time_ended': -1,
    }
    known = remote.jobs()['a']
    assert known.api is not None
    assert (known.api.status, known.api.event) == ('running', '')
    assert str(known.schedule) == 'every 7200 s'
    # It is sent once.
    remote.report(status='running', started=5, handled_event='start')
    count = len(api.calls)
    remote.send()
    assert len(api.calls) == count
    # A new event is not overwritten.
    remote.report(status='scheduled', handled_event='start')
    api.schedule('a')['event'] = 'abort'
    remote.send()
    assert api.schedule('a')['event'] == 'abort'
    assert remote.jobs()['a'].wanted == 'abort'


def test_overwritten_update_is_sent_again(api: FakeApi, remote: Remote) -> None:
    remote.add()
    remote.report(status='scheduled')
    remote.send()
    # As freezer-api does for job-start.
    api.schedule('a').update(status='', event='start')
    remote.poll()
    remote.report(status='scheduled', handled_event='start')
    remote.send()
    assert api.schedule('a').items() >= {'status': 'scheduled', 'event': ''}.items()


def test_the_result_of_another_scheduler_stays(api: FakeApi, remote: Remote) -> None:
    remote.add()
    remote.report(status='scheduled')
    # Another one that shares the job has run it meanwhile.
    api.schedule('a').update(status='completed', result='success', time_ended=7)
    remote.send()
    assert api.schedule('a')['result'] == 'success'
    assert api.schedule('a')['status'] == 'completed'
    known = remote.jobs()['a'].api
    assert known is not None
    assert (known.status, known.result) == ('completed', 'success')
    # A user starts it again, and it runs here.
    api.schedule('a').update(status='', event='start')
    remote.report(status='running', started=8, handled_event='start')
    remote.send()
    assert api.schedule('a').items() >= {'status': 'running', 'result': ''}.items()


def test_newest_update_is_sent(api: FakeApi, remote: Remote) -> None:
    remote.add()
    api.fails['*'] = ApiUnavailable('unreachable')
    for status in ('running', 'scheduled', 'running', 'completed'):
        remote.report(status=status)
        with pytest.raises(ApiUnavailable):
            remote.send()
    api.fails.clear()
    remote.send()
    assert api.schedule('a')['status'] == 'completed'
    assert api.names().count('update_job') == 1


def test_update_of_a_deleted_job(api: FakeApi, remote: Remote) -> None:
    for document in (remote.add('a'), remote.add('b')):
        remote.report(document.job_id, status='running')
    del api.documents['a']
    api.after['job'] = lambda: api.documents.pop('b', None)
    remote.send()
    assert remote.jobs() == {}


def test_rejection_does_not_stop_other_jobs(api: FakeApi, remote: Remote) -> None:
    api.trusts['t'] = bad = FakeApi()
    bad.fails['*'] = ApiRejected('Keystone: no such trust')
    for document in (remote.add('a', user_credentials=TRUST), remote.add('b')):
        remote.source.on_backup(document, BACKUP)
        remote.report(document.job_id, status='running')
    remote.poll()
    assert [each['job_id'] for each in api.backups] == ['b']
    assert api.schedule('b')['status'] == 'running'
    count = len(bad.calls)
    remote.send()
    # It is not retried at once.
    assert len(bad.calls) == count
    assert len(files(remote.outbox)) == 1


# -- Backups ---------------------------------------------------------------------------


def test_backup_is_reported(api: FakeApi, remote: Remote) -> None:
    document = remote.add()
    remote.source.on_backup(document, BACKUP)
    # A dry run makes no backup.
    remote.source.on_backup(document, {**BACKUP, 'dry_run': True})
    (path,) = remote.outbox.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    remote.send()
    (backup,) = api.backups
    assert backup.pop('report_id')
    assert backup == {**BACKUP, 'job_id': 'a'}
    assert files(remote.outbox) == set()
    assert 'has_backup' not in api.names()


def test_lost_response_makes_no_second_backup(api: FakeApi, remote: Remote) -> None:
    document = remote.add()

    def lose_response() -> None:
        api.after['add_backup'] = fail
        remote.source.on_backup(document, BACKUP)
        with pytest.raises(ApiUnavailable):
            remote.send()

    def fail() -> None:
        raise ApiUnavailable('the connection was closed')

    for _backup in range(2):
        lose_response()
        remote.send()
    assert len(api.backups) == 2
    # After a restart as well.
    lose_response()
    remote.new_source().sync.round(poll=False)
    assert len(api.backups) == 3
    assert files(remote.outbox) == set()


@pytest.mark.parametrize('status, retried', [(400, False), (403, True)])
def test_rejected_backup_is_kept(
    api: FakeApi, remote: Remote, status: int, retried: bool
) -> None:
    document = remote.add()
    api.fails['add_backup'] = ApiRejected('no', status)
    remote.source.on_backup(document, BACKUP)
    remote.send()
    (name,) = files(remote.outbox)
    assert name.endswith('.json' if retried else '.refused')
    api.fails.clear()
    remote.new_source().sync.round(poll=False)
    assert len(api.backups) == retried


def test_unreadable_report_is_kept(remote: Remote) -> None:
    (remote.outbox / 'backup-0.json').write_text('{')
    (remote.outbox / 'backup-1.json').write_text('{"version": 9}')
    remote.poll()
    assert len(files(remote.outbox)) == 2


# -- Sessions --------------------------------------------------------------------------


@pytest.mark.parametrize('known, there, tag', [(0, 0, 1), (2, 5, 6), (9, 3, 4)])
def test_session_tag(
    api: FakeApi, remote: Remote, known: int, there: int, tag: int
) -> None:
    """The tag is equal, too low, and too high (the session was created anew)."""
    api.sessions['s'] = there
    document = remote.add(session_id='s', session_tag=known)
    remote.source.on_started(document)
    remote.report(status='running', started=5)
    remote.send()
    assert api.sessions['s'] == tag
    assert api.documents['a']['session_tag'] == tag
    remote.source.on_finished(document, 'fail')
    remote.send()
    end = {'job_id': 'a', 'current_tag': tag, 'result': 'fail'}
    assert api.calls[-1] == ('session_action', ('s', {'end': end}))


def test_two_jobs_start_a_session_together(api: FakeApi, remote: Remote) -> None:
    """Within the hold-off time, the second job gets the tag of the first."""
    api.sessions['s'] = 0
    for job_id in 'ab':
        remote.add(job_id, session_id='s')
    session_action = api.session_action

    def held_off(session_id: str, action: dict[str, Any]) -> dict[str, Any]:
        if api.sessions['s'] == 0:
            found: dict[str, Any] = session_action(session_id, action)
            return found
        tag = action['start']['current_tag']
        return {'result': 'success' if tag < 1 else 'hold-off', 'session_tag': 1}

    api.session_action = held_off
    for job_id in 'aba':
        remote.source.on_started(remote.jobs()[job_id])
        remote.report(job_id, status='running', started=len(api.calls))
        remote.send()
    assert api.sessions['s'] == 1
    assert {each['session_tag'] for each in api.documents.values()} == {1}


def test_session_of_a_run_that_is_over_at_once(api: FakeApi, remote: Remote) -> None:
    """It takes part in the session, so the job gets the session's tag."""
    api.sessions['s'] = 0
    document = remote.add(session_id='s')
    remote.source.on_started(document)
    remote.source.on_finished(document, 'fail')
    remote.send()
    actions = [what[1] for name, what in api.calls if name == 'session_action']
    assert ['start' in each for each in actions] == [True, False]
    assert api.sessions['s'] == 1
    assert actions[1]['end'] == {'job_id': 'a', 'current_tag': 1, 'result': 'fail'}


def test_session_during_an_outage(
    api: FakeApi, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was over long ago is not started any more; results are sent in
    order."""
    monkeypatch.setattr('freezer.scheduler.sources.remote._SESSION_SECONDS', 0.0)
    api.sessions['s'] = 0
    document = remote.add(session_id='s')
    api.fails['*'] = ApiUnavailable('unreachable')
    remote.source.on_started(document)
    with pytest.raises(ApiUnavailable):
        remote.send()
    remote.source.on_finished(document, 'fail')
    remote.source.on_started(document)
    remote.source.on_finished(document, 'success')
    api.fails.clear()
    remote.send()
    actions = [what[1] for name, what in api.calls if name == 'session_action']
    assert ['start' in each for each in actions] == [True, False, False]
    assert [each['end']['result'] for each in actions[1:]] == ['fail', 'success']


def test_deleted_session(api: FakeApi, remote: Remote) -> None:
    document = remote.add(session_id='s')
    api.fails['session_action'] = ApiRejected('job_id not found in session', 400)
    api.fails['session'] = ApiRejected('404', 404)
    remote.source.on_started(document)
    remote.source.on_finished(document, 'success')
    remote.source.on_backup(document, BACKUP)
    remote.send()
    assert len(api.backups) == 1
    # The start and the end.
    assert api.names().count('session_action') == 2


# -- The thread ------------------------------------------------------------------------


def test_backoff() -> None:
    backoff = Backoff(1.0)
    assert backoff.on_success() is None
    delays = [backoff.on_failure() for _try in range(30)]
    for number, delay in enumerate(delays):
        longest = min(2.0**number, LONGEST_DELAY_SECONDS)
        assert longest / 2 <= delay <= longest
    assert len(set(delays)) > 20
    assert backoff.on_success() is not None
    assert backoff.on_failure() <= 1.0
    # Never sooner than the interval.
    assert Backoff(3600.0).on_failure() >= 1800.0


def test_a_report_does_not_make_a_malformed_job_valid(
    api: FakeApi, remote: Remote
) -> None:
    remote.add()
    remote.report(status='running')
    api.documents['a']['job_schedule'] = ['1 hours']
    remote.send()
    assert api.documents['a']['job_schedule'] == ['1 hours']
    assert list(remote.source.list().errors) != []


def test_updates_do_not_keep_a_poll_waiting(api: FakeApi, remote: Remote) -> None:
    remote.add()
    remote.report(status='running')
    sync = remote.source.sync
    assert not sync.round(poll=True, until=time.monotonic())
    assert api.names()[-1] == 'jobs'
    assert api.schedule('a').get('status') != 'running'
    assert sync.round(poll=False, until=time.monotonic() + 60)
    assert api.schedule('a')['status'] == 'running'


def test_schedulers_that_started_together_poll_at_different_times(
    remote: Remote,
) -> None:
    delays = [remote.new_source()._delay() for _source in range(10)]
    assert all(-remote.settings.interval <= delay <= 0 for delay in delays)
    assert len(set(delays)) == 10
    # Only once.
    source = remote.new_source()
    source._delay()
    assert source._delay() == 0.0
    # A poll that takes long comes less often.
    source.sync.poll_seconds = 20.0
    assert remote.settings.interval + source._delay() == 200.0
    source.sync.poll_seconds = 1000.0
    assert remote.settings.interval + source._delay() == LONGEST_DELAY_SECONDS


def test_new_credentials(
    remote: Remote, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = remote.settings.service
    assert service is not None
    given = [service]
    source = remote.new_source(reload_service=lambda: given[0])
    made: list[Service] = []

    def connect(service: Service, *_others: Any) -> FakeApi:
        made.append(service)
        return remote.api

    monkeypatch.setattr('freezer.scheduler.sources.sync.Api', connect)
    source.refresh()
    source.sync.round(poll=True)
    assert made == []
    given[0] = dataclasses.replace(service, password='new/secret')
    source.sync.round(poll=True)
    assert made == []
    source.refresh()
    source.sync.round(poll=True)
    assert made == given
    # Of another account, whose jobs would be run with the old state.
    given[0] = dataclasses.replace(service, username='another')
    source.refresh()
    source.sync.round(poll=True)
    assert len(made) == 1
    assert '[service_auth] is for another account' in caplog.text
    assert 'new/secret' not in caplog.text


def test_outage_causes_few_calls(api: FakeApi, remote: Remote) -> None:
    document = remote.add()
    api.fails['*'] = ApiUnavailable('unreachable')
    before = len(api.calls)
    remote.source.start(lambda: None)
    began = time.monotonic()
    while time.monotonic() - began < 1.0:
        remote.source.on_backup(document, BACKUP)
        remote.source.report(update('a', started=len(api.calls)), document)
        time.sleep(0.02)
    assert len(api.calls) - before <= 2
    assert connection_state(remote.settings.state_dir)['error'] == 'unreachable'
    # A refresh retries at once.
    api.fails.clear()
    remote.source.refresh()
    until(lambda: not files(remote.outbox))
    remote.source.stop()
    assert len(api.backups) > 10
    # It registers again: the database may be new.
    assert len(api.clients) == 2
    assert connection_state(remote.settings.state_dir)['error'] == ''


def test_partial_outage_does_not_increase_the_delay(
    api: FakeApi, remote: Remote
) -> None:
    """As while freezer-api starts: each failure counts as the first."""
    source = remote.new_source(interval=0.02)
    api.fails['jobs'] = ApiUnavailable('500')
    source.start(lambda: None)
    # With doubling delays this would take minutes.
    until(lambda: api.names().count('jobs') >= 15)
    source.stop()


def test_bug_does_not_stop_the_thread(api: FakeApi, remote: Remote) -> None:
    api.add('a')
    api.fails['*'] = OSError('No space left on device')
    polled = threading.Event()
    remote.source.start(polled.set)
    time.sleep(0.1)
    api.fails.clear()
    remote.source.refresh()
    assert polled.wait(30)
    remote.source.stop()
    assert list(remote.jobs()) == ['a']


def test_stop_sends_pending_reports(api: FakeApi, remote: Remote) -> None:
    document = remote.add()
    remote.source.start(lambda: None)
    remote.source.on_backup(document, BACKUP)
    remote.report(status='scheduled', result='aborted')
    remote.source.stop()
    assert len(api.backups) == 1
    assert api.schedule('a')['result'] == 'aborted'


def test_stop_has_a_timeout(
    api: FakeApi, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('freezer.scheduler.sources.remote.STOP_SECONDS', 0.1)
    released = threading.Event()
    api.after['jobs'] = lambda: released.wait(30)
    remote.source.start(lambda: None)
    began = time.monotonic()
    remote.source.stop()
    assert time.monotonic() - began < 10
    released.set()


def test_outbox_is_in_order(tmp_path: Path) -> None:
    box = outbox.Outbox(tmp_path)
    for number in range(3):
        box.add(outbox.OutboxItem('backup', str(number), '', '', {}))
    assert [item.job_id for item in box] == ['0', '1', '2']
    assert len(box) == 3


def test_fake_has_all_methods_of_api() -> None:
    for name in vars(Api):
        if not name.startswith('_'):
            assert hasattr(FakeApi, name), name
