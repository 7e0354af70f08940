"""freezer-api as a source of jobs, by one that is well, away, or odd."""

import copy
import dataclasses
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from freezer.scheduler import config, outbox, remote, saved
from freezer.scheduler.config import Settings
from freezer.scheduler.document import Document
from freezer.scheduler.remote import Backoff, Remote
from freezer.scheduler.source import News
from freezer.scheduler.wire import Api, Away, Refused

CLIENT = 'c.example'
INFO = {'action': 'info', 'storage': 'local', 'container': '/backups'}
BACKUP = {'curr_backup_level': 0, 'time_stamp': 7, 'backup_name': 'bk'}


class FakeApi:
    """What Api offers, in memory. ``fails`` is raised by the next calls of a name."""

    project_id = 'p'

    def __init__(self) -> None:
        self.documents: dict[str, dict[str, Any]] = {}
        self.backups: list[dict[str, Any]] = []
        self.sessions: dict[str, int] = {}
        self.clients: list[dict[str, Any]] = []
        self.calls: list[tuple[str, Any]] = []
        self.fails: dict[str, Exception] = {}
        #: what happens after a call of a name is done, and before it is answered
        self.after: dict[str, Callable[[], object]] = {}
        self.unlisted: set[str] = set()
        self.odd: list[Any] = []
        self.trusts: dict[str, FakeApi] = {}
        self.answers = 0

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
        self.answers += 1

    def _done(self, name: str) -> None:
        if name in self.after:
            self.after.pop(name)()

    def names(self) -> list[str]:
        return [name for name, _what in self.calls]

    def trusted(self, trust_id: str) -> 'FakeApi':
        return self.trusts[trust_id] if trust_id else self

    def register(self, client: dict[str, Any]) -> None:
        self._called('register', client)
        self.clients.append(client)

    def jobs(self, client_id: str, everybodys: bool) -> list[Any]:
        self._called('jobs', (client_id, everybodys))
        found = [
            copy.deepcopy(each)
            for job_id, each in self.documents.items()
            if each['job_schedule'].get('status') != 'completed'
            and job_id not in self.unlisted
        ]
        self._done('jobs')
        return found + self.odd

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

    def act(self, session_id: str, action: dict[str, Any]) -> dict[str, Any]:
        """As freezer-api outside of its hold-off."""
        self._called('act', action)
        if 'end' in action:
            return {'result': 'success', 'session_tag': self.sessions[session_id]}
        tag = action['start']['current_tag']
        if tag > self.sessions[session_id]:
            raise Refused('requested tag value too high', 400)
        if tag < self.sessions[session_id]:
            said = 'out-of-sync'
        else:
            said = 'success'
            self.sessions[session_id] += 1
        return {'result': said, 'session_tag': self.sessions[session_id]}


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


def source(api: FakeApi, settings: Settings, **changes: Any) -> Remote:
    assert settings.service is not None
    settings = dataclasses.replace(settings, **changes)
    service = settings.service
    assert service is not None
    return Remote(settings, service, api)  # type: ignore[arg-type]


@pytest.fixture
def jobs(api: FakeApi, settings: Settings) -> Remote:
    return source(api, settings)


def listed(jobs: Remote) -> dict[str, Document]:
    return jobs.list().documents


def news(job_id: str, **changes: Any) -> News:
    plain = News(job_id, 'scheduled', '', -1, -1)
    return dataclasses.replace(plain, **changes)


def told(jobs: Remote, job_id: str, **changes: Any) -> None:
    jobs.tell(news(job_id, **changes), listed(jobs)[job_id])


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith('.')}


# -- Registration ----------------------------------------------------------------------


def test_it_registers_once(api: FakeApi, jobs: Remote) -> None:
    jobs.round(look=True)
    jobs.round(look=True)
    (client,) = api.clients
    assert client['client_id'] == CLIENT
    assert client['supported_storages'] == ('local', 's3')
    assert client['supported_engines'] == ('tar',)
    assert client['supported_modes'] == ('fs',)
    assert client['supported_actions'][-1] == 'exec'
    assert 'is_central' not in client


def test_it_says_what_it_takes(api: FakeApi, settings: Settings) -> None:
    supported = {**settings.supported, 'storages': frozenset({'s3', 'swift'})}
    jobs = source(
        *(api, settings),
        client_id=None,
        disable_exec=True,
        centralized=True,
        supported=supported,
    )
    jobs.round(look=True)
    (client,) = api.clients
    assert client['client_id'] == f'p_{client["hostname"]}'
    assert client['supported_storages'] == ('s3',)
    assert 'exec' not in client['supported_actions']
    assert client['is_central'] is True
    assert api.calls[-1] == ('jobs', (client['client_id'], True))


# -- Jobs ------------------------------------------------------------------------------


def test_jobs_are_kept_and_read(api: FakeApi, jobs: Remote, settings: Settings) -> None:
    api.add('a')
    (settings.jobs_dir / 'mine.conf').write_text('{"job_actions": []}')
    (settings.jobs_dir / 'job_old.conf').write_text(json.dumps(api.add('old')))
    del api.documents['old']
    rung = []
    jobs.begin(lambda: rung.append(1))
    jobs.end()
    jobs.round(look=True)
    assert list(listed(jobs)) == ['a']
    assert rung
    path = settings.jobs_dir / 'job_a.conf'
    assert path.stat().st_mode & 0o777 == 0o600
    # What others have put there stays.
    assert files(settings.jobs_dir) == {'mine.conf', 'job_old.conf', 'job_a.conf'}
    # What has not changed is not written again, and is the same object.
    before, document = path.stat().st_ino, listed(jobs)['a']
    jobs.round(look=True)
    assert path.stat().st_ino == before
    assert listed(jobs)['a'] is document
    # The next one knows it before anybody answers.
    assert list(listed(source(api, settings))) == ['a']


def test_what_is_known_is_of_one_client(
    api: FakeApi, jobs: Remote, settings: Settings
) -> None:
    api.add('a')
    jobs.round(look=True)
    api.fails['*'] = Away('nobody')
    other = source(api, settings, client_id='d.example')
    with pytest.raises(Away):
        other.round(look=True)
    assert listed(other) == {}
    # Not taken away before somebody answered: it may be a slip of the pen.
    assert list(listed(source(api, settings))) == ['a']
    api.fails.clear()
    other.round(look=True)
    assert files(settings.jobs_dir) == set()


def test_jobs_that_go(api: FakeApi, jobs: Remote, settings: Settings) -> None:
    for job_id in 'abc':
        api.add(job_id)
    jobs.round(look=True)
    del api.documents['a']
    api.schedule('b')['status'] = 'completed'
    # Between two pages: it is there, and was not listed.
    api.unlisted.add('c')
    jobs.round(look=True)
    assert list(listed(jobs)) == ['c']
    assert files(settings.jobs_dir) == {'job_c.conf'}


@pytest.mark.parametrize('fault', [Away('503'), Refused('403', 403)])
def test_no_answer_is_no_job_less(api: FakeApi, jobs: Remote, fault: Exception) -> None:
    api.add('a')
    jobs.round(look=True)
    for call in ('jobs', 'job'):
        api.fails = {call: fault}
        api.unlisted = {'a'} if call == 'job' else set()
        if call == 'jobs' or isinstance(fault, Away):
            with pytest.raises((Away, Refused)):
                jobs.round(look=True)
        else:
            jobs.round(look=True)
        assert list(listed(jobs)) == ['a']


def test_documents_that_are_none(
    api: FakeApi, jobs: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    api.odd = [None, 3, {}, {'job_id': None}, {'job_id': 'x' * 65}, {'job_id': ''}]
    api.add('a')
    api.add('b', job_actions='none')
    api.add('c', job_schedule=None, user_credentials=[])
    api.documents['c']['job_schedule'] = {}
    for _look in range(2):
        jobs.round(look=True)
    listing = jobs.list()
    assert list(listing.documents) == ['a']
    assert len(listing.errors) == 2
    assert 'job_actions: is not a list' in caplog.text
    assert caplog.text.count('no document that can be kept') == 1


def test_d34_keys_that_are_missing(api: FakeApi, jobs: Remote) -> None:
    job = api.add('a')
    for key in ('session_id', 'session_tag', 'project_id', 'user_id'):
        del job[key]
    job['job_schedule'] = {}
    job['job_actions'][0]['freezer_action'] = {**INFO, 'priority': None, 'mode': None}
    jobs.round(look=True)
    assert listed(jobs)['a'].wanted == 'start'


def test_whose_jobs_they_are(api: FakeApi, jobs: Remote, settings: Settings) -> None:
    api.add('mine')
    api.add('anothers', project_id='q')
    api.add('clients', client_id='d')
    trust = {'trust_id': 't', 'trustor_user_id': 'u'}
    api.add('trusted', project_id='q', user_credentials=trust)
    jobs.round(look=True)
    assert set(listed(jobs)) == {'mine', 'trusted'}
    central = source(api, settings, centralized=True)
    central.round(look=True)
    assert set(listed(central)) == {'trusted'}


# -- What is told ----------------------------------------------------------------------


def test_what_is_told_of_a_job(api: FakeApi, jobs: Remote) -> None:
    api.add('a', job_schedule={'schedule_interval': '1 hours', 'event': 'start'})
    jobs.round(look=True)
    told(jobs, 'a', status='running', started=5, seen_to='start')
    # Somebody changes it meanwhile.
    api.schedule('a')['schedule_interval'] = '2 hours'
    jobs.round(look=False)
    assert api.schedule('a') == {
        'schedule_interval': '2 hours',
        'event': '',
        'status': 'running',
        'result': '',
        'time_started': 5,
        'time_ended': -1,
    }
    known = listed(jobs)['a']
    assert known.cloud is not None
    assert (known.cloud.status, known.cloud.event) == ('running', '')
    assert str(known.schedule) == 'every 7200 s'
    # Once.
    told(jobs, 'a', status='running', started=5, seen_to='start')
    count = len(api.calls)
    jobs.round(look=False)
    assert len(api.calls) == count


def test_an_event_that_came_meanwhile_is_not_lost(api: FakeApi, jobs: Remote) -> None:
    api.add('a', job_schedule={'event': 'start'})
    jobs.round(look=True)
    told(jobs, 'a', status='running', seen_to='start')
    api.schedule('a')['event'] = 'abort'
    jobs.round(look=False)
    assert api.schedule('a')['event'] == 'abort'
    assert listed(jobs)['a'].wanted == 'abort'


def test_what_it_was_made_to_forget_is_told_again(api: FakeApi, jobs: Remote) -> None:
    api.add('a')
    jobs.round(look=True)
    told(jobs, 'a', status='scheduled')
    jobs.round(look=False)
    # As freezer-api does when a start is asked for.
    api.schedule('a').update(status='', event='start')
    jobs.round(look=True)
    told(jobs, 'a', status='scheduled', seen_to='start')
    jobs.round(look=False)
    assert api.schedule('a')['status'] == 'scheduled'
    assert api.schedule('a')['event'] == ''


def test_the_newest_counts(api: FakeApi, jobs: Remote) -> None:
    api.add('a')
    jobs.round(look=True)
    api.fails['*'] = Away('nobody')
    for status in ('running', 'scheduled', 'running', 'completed'):
        told(jobs, 'a', status=status)
        with pytest.raises(Away):
            jobs.round(look=False)
    api.fails.clear()
    jobs.round(look=False)
    assert api.schedule('a')['status'] == 'completed'
    assert api.names().count('update_job') == 1


def test_a_job_that_is_gone_when_it_is_told_of(api: FakeApi, jobs: Remote) -> None:
    for job_id in 'ab':
        api.add(job_id)
    jobs.round(look=True)
    for job_id in 'ab':
        told(jobs, job_id, status='running')
    del api.documents['a']
    api.after['job'] = lambda: api.documents.pop('b', None)
    jobs.round(look=False)
    assert listed(jobs) == {}


def test_one_that_is_refused_does_not_stop_others(
    api: FakeApi, jobs: Remote, settings: Settings
) -> None:
    api.trusts['t'] = bad = FakeApi()
    bad.fails['*'] = Refused('Keystone: no such trust')
    trust = {'trust_id': 't', 'trustor_user_id': 'u'}
    api.add('a', user_credentials=trust)
    api.add('b')
    jobs.round(look=True)
    documents = listed(jobs)
    for job_id in 'ab':
        jobs.made(documents[job_id], BACKUP)
        told(jobs, job_id, status='running')
    jobs.round(look=True)
    assert [each['job_id'] for each in api.backups] == ['b']
    assert api.schedule('b')['status'] == 'running'
    count = len(bad.calls)
    jobs.round(look=False)
    # Not at once again.
    assert len(bad.calls) == count
    assert len(files(settings.state_dir / 'api/outbox')) == 1


# -- Backups ---------------------------------------------------------------------------


def test_a_backup_is_told(api: FakeApi, jobs: Remote, settings: Settings) -> None:
    api.add('a')
    jobs.round(look=True)
    document = listed(jobs)['a']
    jobs.made(document, BACKUP)
    # One that was not made.
    jobs.made(document, {**BACKUP, 'dry_run': True})
    folder = settings.state_dir / 'api/outbox'
    (path,) = folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    jobs.round(look=False)
    (backup,) = api.backups
    assert backup.pop('report_id')
    assert backup == {**BACKUP, 'job_id': 'a'}
    assert files(folder) == set()
    # Nothing was asked that need not be.
    assert 'has_backup' not in api.names()


def test_a_lost_answer_is_no_second_backup(
    api: FakeApi, jobs: Remote, settings: Settings
) -> None:
    api.add('a')
    jobs.round(look=True)

    def lose() -> None:
        raise Away('the connection was closed')

    for _backup in range(2):
        api.after['add_backup'] = lose
        jobs.made(listed(jobs)['a'], BACKUP)
        with pytest.raises(Away):
            jobs.round(look=False)
        jobs.round(look=False)
    assert len(api.backups) == 2
    # Nor after a restart.
    api.after['add_backup'] = lose
    jobs.made(listed(jobs)['a'], BACKUP)
    with pytest.raises(Away):
        jobs.round(look=False)
    after = source(api, settings)
    after.begin(lambda: None)
    after.end()
    after.round(look=False)
    assert len(api.backups) == 3
    assert files(settings.state_dir / 'api/outbox') == set()


@pytest.mark.parametrize('status, tried_again', [(400, False), (403, True)])
def test_a_backup_that_is_refused_stays(
    api: FakeApi, jobs: Remote, settings: Settings, status: int, tried_again: bool
) -> None:
    api.add('a')
    jobs.round(look=True)
    api.fails['add_backup'] = Refused('no', status)
    jobs.made(listed(jobs)['a'], BACKUP)
    jobs.round(look=False)
    (name,) = files(settings.state_dir / 'api/outbox')
    assert name.endswith('.json' if tried_again else '.refused')
    api.fails.clear()
    after = source(api, settings)
    after.round(look=False)
    assert len(api.backups) == tried_again


def test_a_file_that_is_no_report_stays(
    api: FakeApi, jobs: Remote, settings: Settings
) -> None:
    folder = settings.state_dir / 'api/outbox'
    (folder / 'backup-0.json').write_text('{')
    (folder / 'backup-1.json').write_text('{"version": 9}')
    jobs.round(look=True)
    assert len(files(folder)) == 2


# -- Sessions --------------------------------------------------------------------------


@pytest.mark.parametrize('known, there, tag', [(0, 0, 1), (2, 5, 6), (9, 3, 4)])
def test_the_tag_of_a_session(
    api: FakeApi, jobs: Remote, known: int, there: int, tag: int
) -> None:
    """In step; behind; and of a session that was made anew."""
    api.sessions['s'] = there
    api.add('a', session_id='s', session_tag=known)
    jobs.round(look=True)
    document = listed(jobs)['a']
    jobs.began(document)
    told(jobs, 'a', status='running', started=5)
    jobs.round(look=False)
    assert api.sessions['s'] == tag
    assert api.documents['a']['session_tag'] == tag
    jobs.ended(document, 'fail')
    jobs.round(look=False)
    end = {'job_id': 'a', 'current_tag': tag, 'result': 'fail'}
    assert api.calls[-1] == ('act', {'end': end})


def test_two_that_begin_a_session_at_once(api: FakeApi, jobs: Remote) -> None:
    """Within its hold-off the second is given the tag of the first."""
    api.sessions['s'] = 0
    for job_id in 'ab':
        api.add(job_id, session_id='s')
    jobs.round(look=True)
    act = api.act

    def held_off(session_id: str, action: dict[str, Any]) -> dict[str, Any]:
        if api.sessions['s'] == 0:
            return act(session_id, action)
        tag = action['start']['current_tag']
        return {'result': 'success' if tag < 1 else 'hold-off', 'session_tag': 1}

    api.act = held_off  # type: ignore[method-assign]
    for job_id in 'aba':
        jobs.began(listed(jobs)[job_id])
        told(jobs, job_id, status='running', started=len(api.calls))
        jobs.round(look=False)
    assert api.sessions['s'] == 1
    assert {each['session_tag'] for each in api.documents.values()} == {1}


def test_a_session_that_was_missed(api: FakeApi, jobs: Remote) -> None:
    """It is not begun when it is over; how it ended is told, the last one last."""
    api.sessions['s'] = 0
    api.add('a', session_id='s')
    jobs.round(look=True)
    document = listed(jobs)['a']
    api.fails['*'] = Away('nobody')
    jobs.began(document)
    with pytest.raises(Away):
        jobs.round(look=False)
    jobs.ended(document, 'fail')
    jobs.began(document)
    jobs.ended(document, 'success')
    api.fails.clear()
    jobs.round(look=False)
    acts = [what for name, what in api.calls if name == 'act']
    assert ['start' in act for act in acts] == [True, False, False]
    assert [act['end']['result'] for act in acts[1:]] == ['fail', 'success']


def test_a_session_that_is_not_there(api: FakeApi, jobs: Remote) -> None:
    api.add('a', session_id='s')
    jobs.round(look=True)
    api.fails['act'] = Refused('job_id not found in session', 400)
    api.fails['session'] = Refused('404', 404)
    jobs.began(listed(jobs)['a'])
    jobs.ended(listed(jobs)['a'], 'success')
    jobs.made(listed(jobs)['a'], BACKUP)
    jobs.round(look=False)
    assert len(api.backups) == 1
    assert api.names().count('act') == 1


# -- The thread ------------------------------------------------------------------------


def test_backing_off() -> None:
    backoff = Backoff(1.0)
    assert backoff.answered() is None
    delays = [backoff.failed() for _try in range(30)]
    for number, delay in enumerate(delays):
        longest = min(2.0**number, remote.LONGEST_DELAY_SECONDS)
        assert longest / 2 <= delay <= longest
    assert len(set(delays)) > 20
    assert backoff.answered() is not None
    assert backoff.failed() <= 1.0
    # Never sooner than it would be asked anyway.
    assert Backoff(3600.0).failed() >= 1800.0


def test_one_that_is_away_is_not_hammered(
    api: FakeApi, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = source(api, settings)
    api.add('a')
    jobs.round(look=True)
    document = listed(jobs)['a']
    api.fails['*'] = Away('nobody')
    before = len(api.calls)
    jobs.begin(lambda: None)
    began = time.monotonic()
    while time.monotonic() - began < 1.0:
        jobs.made(document, BACKUP)
        jobs.tell(news('a', started=len(api.calls)), document)
        time.sleep(0.02)
    assert len(api.calls) - before <= 2
    contact = saved.contact(settings.state_dir)
    assert contact['error'] == 'nobody'
    # Unless it is wished for.
    api.fails.clear()
    jobs.hurry()
    deadline = time.monotonic() + 30
    while files(settings.state_dir / 'api/outbox'):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    jobs.end()
    assert len(api.backups) > 10
    # It may have been set up anew.
    assert len(api.clients) == 2
    assert saved.contact(settings.state_dir)['error'] == ''


def test_one_that_answers_in_part_is_not_away(api: FakeApi, settings: Settings) -> None:
    """As while it starts: each failure is the first."""
    jobs = source(api, settings, interval=0.02)
    api.fails['jobs'] = Away('500')
    jobs.begin(lambda: None)
    deadline = time.monotonic() + 30
    # In twice the time for each, the last of them would come after minutes.
    while api.names().count('jobs') < 15:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    jobs.end()


def test_a_defect_does_not_end_it(api: FakeApi, jobs: Remote) -> None:
    api.add('a')
    api.fails['*'] = OSError('No space left on device')
    looked = threading.Event()
    jobs.begin(looked.set)
    time.sleep(0.1)
    api.fails.clear()
    jobs.hurry()
    assert looked.wait(30)
    jobs.end()
    assert list(listed(jobs)) == ['a']


def test_the_end_tells_what_there_is(api: FakeApi, jobs: Remote) -> None:
    api.add('a')
    jobs.round(look=True)
    jobs.begin(lambda: None)
    jobs.made(listed(jobs)['a'], BACKUP)
    told(jobs, 'a', status='scheduled', result='aborted')
    jobs.end()
    assert len(api.backups) == 1
    assert api.schedule('a')['result'] == 'aborted'


def test_the_end_waits_for_nobody(
    api: FakeApi, jobs: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, 'END_SECONDS', 0.1)
    released = threading.Event()
    api.after['jobs'] = lambda: released.wait(30)
    jobs.begin(lambda: None)
    began = time.monotonic()
    jobs.end()
    assert time.monotonic() - began < 10
    released.set()


def test_items_are_told_in_turn(tmp_path: Path) -> None:
    box = outbox.Outbox(tmp_path)
    for number in range(3):
        box.put(outbox.Item('backup', str(number), '', '', outbox.token(), {}))
    assert [item.job_id for item in box] == ['0', '1', '2']
    assert len(box) == 3


def test_it_is_what_the_wire_offers() -> None:
    for name in vars(Api):
        if not name.startswith('_'):
            assert hasattr(FakeApi, name), name
