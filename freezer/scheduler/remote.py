"""freezer-api as a source of jobs: a thread that asks it, and tells it.

What it says is kept in files, and those are what the scheduler reads; what it is to be
told is in files until it has been. So nothing of a job depends on whether it answers:
what is known goes on, and is caught up with.
"""

import contextlib
import dataclasses
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from freezer.common import plugins
from freezer.scheduler import outbox, private
from freezer.scheduler.config import Service, Settings
from freezer.scheduler.document import Cloud, Document
from freezer.scheduler.outbox import BACKUP, SESSION, Item, Outbox
from freezer.scheduler.saved import FOLDER, Saved, is_job
from freezer.scheduler.source import Listing, News, Source
from freezer.scheduler.wire import Api, Away, Refused

LOG = logging.getLogger(__name__)

#: in what is told of a backup; none other has the same
REPORT_KEY = 'report_id'

#: the longest that nothing is asked of one that does not answer
LONGEST_DELAY_SECONDS = 300.0
#: what may be told at the end
END_SECONDS = 5.0
# What is told at once waits for what comes with it.
_PAUSE_SECONDS = 0.2
# What was refused, and may be taken when somebody has seen to it.
_REFUSED_INTERVALS = 5
_FINAL = (400, 404, 409, 410, 413, 422)
# Tries of a session whose tag others have counted up.
_SESSION_TRIES = 3
# What freezer-api has names for; it takes no others.
_KNOWN = {
    'actions': ('backup', 'restore', 'info', 'admin', 'exec'),
    'modes': (
        *('fs', 'mongo', 'mysql', 'sqlserver'),
        *('cinder', 'glance', 'cindernative', 'nova'),
    ),
    'storages': ('local', 'swift', 'ssh', 's3', 'ftp', 'ftps'),
    'engines': ('tar', 'rsync', 'rsyncv2', 'nova', 'osbrick', 'glance'),
}
_PLUGINS = {
    'modes': plugins.MODES,
    'storages': plugins.STORAGES,
    'engines': plugins.ENGINES,
}


class Backoff:
    """When to ask one again that does not answer."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._failures = 0
        self._since = 0.0

    def failed(self) -> float:
        """Seconds until then: twice as many each time, and not the same for all who
        lost it at once."""
        if not self._failures:
            self._since = time.monotonic()
        self._failures += 1
        longest = max(self._interval, LONGEST_DELAY_SECONDS)
        delay = min(self._interval * 2.0 ** min(self._failures - 1, 20), longest)
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 - no secret

    def answered(self) -> float | None:
        """Seconds for which it did not; None if it always has."""
        if not self._failures:
            return None
        self._failures = 0
        return time.monotonic() - self._since


class Remote(Source):
    """:param api: for tests; else made when the thread begins, as it may fail

    :raises ConfigError: a directory cannot be had
    """

    def __init__(
        self, settings: Settings, service: Service, api: Api | None = None
    ) -> None:
        self._settings = settings
        self._service = service
        folder = private.directory(settings.state_dir / FOLDER)
        whose = (*service.whose, settings.client_id or '', str(settings.centralized))
        self._saved = Saved(
            private.directory(settings.jobs_dir), settings.state_dir, whose
        )
        self._outbox = Outbox(private.directory(folder / 'outbox'))
        self._api = api
        self._ring: Callable[[], None] = lambda: None
        self._guard = threading.Lock()
        self._wake = threading.Event()
        self._ends = False
        self._asked = True
        # Of both threads, under the guard.
        self._news: dict[str, tuple[News, Document]] = {}
        self._told: dict[str, News] = {}
        self._begun: dict[str, Document] = {}
        # Of the thread.
        self._thread: threading.Thread | None = None
        self._client_id = settings.client_id or ''
        self._registered = False
        self._backoff = Backoff(settings.interval)
        self._error = ''
        self._tags: dict[str, tuple[str, int]] = {}
        self._tried: set[str] = set()
        self._not_before: dict[str, float] = {}
        self._ignored: set[str] = set()

    # -- The scheduler's side ---------------------------------------------------------

    @property
    def place(self) -> str:
        return f'freezer-api, and keeps them in {self._saved.place}'

    def begin(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        # What is left of a process before may have been told.
        self._tried = {item.path.name for item in self._outbox}
        self._thread = threading.Thread(
            target=self._work, name='freezer-api', daemon=True
        )
        self._thread.start()

    def hurry(self) -> None:
        with self._guard:
            self._asked = True
        self._wake.set()

    def tell(self, news: News, document: Document) -> None:
        with self._guard:
            if self._told.get(news.job_id) == news:
                return
            waiting = self._news.get(news.job_id)
            if waiting is not None and waiting[0] == news:
                return
            self._news[news.job_id] = (news, document)
        self._wake.set()

    def began(self, document: Document) -> None:
        if document.cloud is not None and document.cloud.session_id:
            with self._guard:
                self._begun[document.job_id] = document
            self._wake.set()

    def made(self, document: Document, backup: Mapping[str, Any]) -> None:
        if backup.get('dry_run'):
            return
        token = outbox.token()
        body = {**backup, 'job_id': document.job_id, REPORT_KEY: token}
        self._put(_item(BACKUP, document, token, body))

    def ended(self, document: Document, result: str) -> None:
        cloud = document.cloud
        if cloud is None or not cloud.session_id:
            return
        with self._guard:
            # Too late to begin.
            self._begun.pop(document.job_id, None)
        item = _item(SESSION, document, outbox.token(), {'result': result})
        try:
            self._put(dataclasses.replace(item, session_id=cloud.session_id))
        except OSError as error:
            LOG.error('job %s: the end of its session: %s', document.job_id, error)

    def end(self) -> None:
        self._ends = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(END_SECONDS)

    def _put(self, item: Item) -> None:
        self._outbox.put(item)
        self._wake.set()

    # Last of these: below it, list is not the type.
    def list(self) -> Listing:
        return self._saved.list()

    # -- The thread -------------------------------------------------------------------

    def _work(self) -> None:
        next_look = 0.0
        while True:
            # What was put before the end was asked for is told in a last round.
            ends = self._ends
            look = self._is_time(next_look) and not ends
            if look:
                next_look = time.monotonic() + self._settings.interval
            before = self._answers
            failure = self._try(look)
            if failure:
                if self._answers > before:
                    # It is not that one any more which did not answer at all.
                    self._backoff.answered()
                delay = self._backoff.failed()
                next_look = time.monotonic() + delay
                self._failed(failure, delay)
            else:
                self._answered()
            if ends:
                return
            self._rest(next_look)

    @property
    def _answers(self) -> int:
        return 0 if self._api is None else self._api.answers

    def _try(self, look: bool) -> str:
        """What is wrong; empty if nothing."""
        try:
            self.round(look)
        except (Away, Refused) as error:
            return str(error)
        except Exception as error:
            # A defect, or a disk that is full; what is known goes on.
            LOG.exception('freezer-api')
            return f'{type(error).__name__}: {error}'
        return ''

    def _is_time(self, next_look: float) -> bool:
        with self._guard:
            asked, self._asked = self._asked, False
        return asked or time.monotonic() >= next_look

    def _rest(self, next_look: float) -> None:
        """Until it is time, or there is something to tell one that answers."""
        while True:
            left = next_look - time.monotonic()
            if left <= 0 or not self._wake.wait(left):
                return
            self._wake.clear()
            if self._ends or self._asked or not self._error:
                if not self._ends:
                    time.sleep(_PAUSE_SECONDS)
                return

    def _answered(self) -> None:
        seconds = self._backoff.answered()
        if seconds is not None:
            LOG.info('freezer-api answers again, after %.0f s', seconds)
        changed, self._error = bool(self._error), ''
        if changed:
            self._note()

    def _failed(self, error: str, delay: float) -> None:
        waiting = len(self._outbox) + len(self._news)
        LOG.error(
            '%s; the jobs that are known go on, and %d things are to be told; it is '
            'asked again in %.0f s',
            *(error, waiting, delay),
        )
        self._error = error
        # It may have been set up anew.
        self._registered = False
        self._note()

    def _note(self) -> None:
        waiting = len(self._outbox) + len(self._news)
        try:
            self._saved.note(self._client_id, self._error, waiting)
        except OSError as error:
            LOG.error('freezer-api: %s', error)

    def round(self, look: bool) -> None:
        """:raises Away: of the rest nothing is done"""
        if self._api is None:
            self._api = Api(self._service, self._settings.insecure)
        if not self._registered:
            self._register(self._api)
        self._begin_sessions(self._api)
        self._send(self._api)
        self._report(self._api)
        if look:
            self._look(self._api)

    def _register(self, api: Api) -> None:
        host = socket.gethostname()
        self._client_id = self._settings.client_id or f'{api.project_id}_{host}'
        client = {'client_id': self._client_id, 'hostname': host}
        supported = {
            f'supported_{what}': names for what, names in self._supported().items()
        }
        central = {'is_central': True} if self._settings.centralized else {}
        api.register(client | supported | central)
        self._registered = True
        LOG.info('is known to freezer-api as client %s', self._client_id)

    def _supported(self) -> dict[str, tuple[str, ...]]:
        """What jobs may need: what is here, or as much of it as the options say."""
        found = {}
        for what, known in _KNOWN.items():
            here = plugins.names(_PLUGINS[what]) if what in _PLUGINS else known
            wanted = self._settings.supported[what] or here
            found[what] = tuple(
                each for each in known if each in here and each in wanted
            )
        if self._settings.disable_exec:
            found['actions'] = tuple(
                each for each in found['actions'] if each != 'exec'
            )
        return found

    # -- Telling ----------------------------------------------------------------------

    def _begin_sessions(self, api: Api) -> None:
        with self._guard:
            begun = dict(self._begun)
        for job_id, document in begun.items():
            with self._refusals(f'job {job_id}: its session'):
                self._begin_session(_for(api, document), document)
            with self._guard:
                if self._begun.get(job_id) is document:
                    del self._begun[job_id]

    def _begin_session(self, api: Api, document: Document) -> None:
        """The tag of a session counts its runs. Who is first counts it up, and others
        that are at the same run are given the new one."""
        cloud = document.cloud
        assert cloud is not None
        session_id, job_id = cloud.session_id, document.job_id
        tag = cloud.session_tag
        known = self._tags.get(job_id)
        if known is not None and known[0] == session_id:
            tag = max(tag, known[1])
        said: dict[str, Any] = {}
        for _try in range(_SESSION_TRIES):
            start = {'job_id': job_id, 'current_tag': tag}
            try:
                said = api.act(session_id, {'start': start})
            except Refused as error:
                if error.status != 400:
                    raise
                # The tag is too high: the session is another one of that name.
                before, tag = tag, _tag(api.session(session_id), tag)
                if before == tag:
                    raise
                continue
            before, tag = tag, _tag(said, tag)
            if said.get('result') != 'out-of-sync' or before == tag:
                break
        self._tags[job_id] = (session_id, tag)
        LOG.info(
            'job %s: session %s, run %d: %s',
            *(job_id, session_id, tag, said.get('result')),
        )

    def _send(self, api: Api) -> None:
        """Backups, and ends of sessions."""
        for item in self._outbox:
            if self._not_before.get(item.path.name, 0.0) > time.monotonic():
                continue
            try:
                self._send_one(api.trusted(item.trust_id), item)
            except Refused as error:
                self._see_to_refused(item, error)
            else:
                self._outbox.done(item)
                self._not_before.pop(item.path.name, None)
            self._tried.discard(item.path.name)

    def _send_one(self, api: Api, item: Item) -> None:
        if item.kind == SESSION:
            tag = self._tags.get(item.job_id, ('', 0))[1]
            end = {'job_id': item.job_id, 'current_tag': tag, **item.body}
            api.act(item.session_id, {'end': end})
            return
        # Whether one whose answer was lost was taken, is asked first.
        if item.path.name in self._tried and api.has_backup(REPORT_KEY, item.token):
            LOG.info('job %s: its backup is known to freezer-api', item.job_id)
            return
        self._tried.add(item.path.name)
        api.add_backup(item.body)
        LOG.info('job %s: its backup is told to freezer-api', item.job_id)

    def _see_to_refused(self, item: Item, error: Refused) -> None:
        what = f'job {item.job_id}: {item.kind}: {error}'
        if error.status not in _FINAL:
            seconds = self._settings.interval * _REFUSED_INTERVALS
            self._not_before[item.path.name] = time.monotonic() + seconds
            LOG.error('%s; it is tried again in %d s', what, seconds)
        elif item.kind == SESSION:
            LOG.warning('%s', what)
            self._outbox.done(item)
        else:
            LOG.error('%s; it stays in %s', what, self._outbox.refused(item))

    def _report(self, api: Api) -> None:
        """Results and states of jobs."""
        with self._guard:
            waiting = dict(self._news)
        for job_id, (news, document) in waiting.items():
            if self._not_before.get(job_id, 0.0) > time.monotonic():
                continue
            try:
                self._report_one(_for(api, document), news, document)
            except Refused as error:
                seconds = self._settings.interval * _REFUSED_INTERVALS
                self._not_before[job_id] = time.monotonic() + seconds
                LOG.error('job %s: %s; it is told again', job_id, error)
                continue
            self._not_before.pop(job_id, None)
            with self._guard:
                self._told[job_id] = news
                if self._news.get(job_id, (None,))[0] == news:
                    del self._news[job_id]

    def _report_one(self, api: Api, news: News, document: Document) -> None:
        # A schedule is replaced as a whole, and somebody may have asked for something
        # since it was looked at last.
        found = api.job(news.job_id)
        if found is None:
            self._drop(news.job_id, 'is not in freezer-api any more')
            return
        given = found.get('job_schedule')
        schedule = dict(given) if isinstance(given, dict) else {}
        told = {
            'status': news.status,
            'result': news.result,
            'time_started': news.started,
            'time_ended': news.ended,
        }
        event = schedule.get('event') or ''
        if event and event == news.seen_to:
            told['event'] = ''
        changes: dict[str, Any] = {'job_schedule': schedule | told}
        session_id, tag = self._tags.get(news.job_id, ('', 0))
        if session_id and found.get('session_id') == session_id:
            changes |= {'session_id': session_id, 'session_tag': tag}
        changed = any(found.get(key) != value for key, value in changes.items())
        if changed and not api.update_job(news.job_id, changes):
            self._drop(news.job_id, 'is not in freezer-api any more')
            return
        self._keep(found | changes)

    # -- Asking -----------------------------------------------------------------------

    def _look(self, api: Api) -> None:
        """At all jobs that are to be done."""
        central = self._settings.centralized
        listed = {
            each['job_id']: each
            for each in api.jobs(self._client_id, central)
            if self._is_ours(api, each)
        }
        for job_id, document in listed.items():
            if self._saved.document(job_id) != document:
                with self._guard:
                    # What it was told, it may have been made to forget.
                    self._told.pop(job_id, None)
                self._keep(document)
        for job_id in self._saved.ids - listed.keys():
            self._see_to_missing(api, job_id)
        self._note()

    def _is_ours(self, api: Api, document: object) -> bool:
        if not is_job(document):
            self._ignore('?', 'is no document that can be kept')
            return False
        assert isinstance(document, dict)
        job_id = document['job_id']
        if document.get('client_id') != self._client_id:
            return False
        trust_id = _trust_id(document)
        if self._settings.centralized and not trust_id:
            self._ignore(job_id, 'has no trust, and is left out')
            return False
        project_id = document.get('project_id') or api.project_id
        if not trust_id and project_id != api.project_id:
            self._ignore(job_id, 'is of another project, and is left out')
            return False
        self._ignored.discard(job_id)
        return True

    def _ignore(self, job_id: str, why: str) -> None:
        if job_id not in self._ignored:
            self._ignored.add(job_id)
            LOG.warning('job %s: %s', job_id, why)

    def _see_to_missing(self, api: Api, job_id: str) -> None:
        """It was not listed. Lists come in pages, and what changes between two of them
        may be in neither: so it is asked for by itself."""
        before = self._saved.document(job_id)
        with self._refusals(f'job {job_id}'):
            found = api.trusted(_trust_id(before)).job(job_id)
            schedule = (found or {}).get('job_schedule')
            if found is None or not self._is_ours(api, found):
                self._drop(job_id, 'is not in freezer-api any more')
            elif isinstance(schedule, dict) and schedule.get('status') == 'completed':
                self._drop(job_id, 'has come to its end')
            else:
                self._keep(found)

    def _keep(self, document: dict[str, Any]) -> None:
        if self._saved.save(document):
            self._ring()

    def _drop(self, job_id: str, why: str) -> None:
        LOG.info('job %s: %s', job_id, why)
        self._saved.drop(job_id)
        with self._guard:
            self._told.pop(job_id, None)
        self._tags.pop(job_id, None)
        self._ring()

    @contextlib.contextmanager
    def _refusals(self, what: str) -> Iterator[None]:
        """Said, and no reason to leave others out."""
        try:
            yield
        except Refused as error:
            LOG.error('%s: %s', what, error)


def _item(kind: str, document: Document, token: str, body: dict[str, Any]) -> Item:
    cloud = document.cloud or Cloud()
    return Item(kind, document.job_id, cloud.project_id, cloud.trust_id, token, body)


def _for(api: Api, document: Document) -> Api:
    return api.trusted(document.cloud.trust_id if document.cloud else '')


def _trust_id(document: Mapping[str, Any]) -> str:
    credentials = document.get('user_credentials')
    found = credentials.get('trust_id') if isinstance(credentials, dict) else ''
    return found if isinstance(found, str) else ''


def _tag(said: Mapping[str, Any], default: int) -> int:
    found = said.get('session_tag')
    return found if isinstance(found, int) else default
