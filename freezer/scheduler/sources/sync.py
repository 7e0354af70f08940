"""Synchronize with freezer-api: send reports, and cache its jobs."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from freezer.exceptions import FreezerError
from freezer.scheduler import private
from freezer.scheduler.api import registration
from freezer.scheduler.api.outbox import SESSION, Outbox, OutboxItem
from freezer.scheduler.api.sessions import SessionTags
from freezer.scheduler.api.wire import Api, ApiRejected, is_completed
from freezer.scheduler.config import Service, Settings
from freezer.scheduler.documents.document import ApiState, Document
from freezer.scheduler.sources.cache import FOLDER, ApiJobCache, has_job_id
from freezer.scheduler.sources.pending import PendingUpdates
from freezer.scheduler.sources.source import JobUpdate

LOG = logging.getLogger(__name__)

#: unique in the metadata of each backup; a retry searches for it first
REPORT_KEY = 'report_id'

# Intervals until a rejected report is retried: an operator may have fixed the cause.
_REJECTED_INTERVALS = 5
# Statuses after which a retry is pointless.
_FINAL = (400, 404, 409, 410, 413, 422)


class ApiSync:
    """One round sends all that is pending, and then polls the jobs. One thread uses it;
    the cache may be read, and reports may be added, in other threads.

    :param api: for tests; otherwise created in the first round, since that may fail
    :raises ConfigError: a directory cannot be created
    """

    def __init__(self, settings: Settings, service: Service, api: Api | None) -> None:
        folder = private.directory(settings.state_dir / FOLDER)
        account = (*service.owner_key, settings.client_id or '')
        self.cache = ApiJobCache(
            private.directory(settings.jobs_dir),
            settings.state_dir,
            (*account, str(settings.centralized)),
            settings.check,
        )
        self.outbox = Outbox(private.directory(folder / 'outbox'))
        self.pending = PendingUpdates()
        self._settings = settings
        self._service = service
        self._api = api
        self._tags = SessionTags()
        # The previous scheduler may have sent these, and died before it deleted them.
        self._tried = {item.path.name for item in self.outbox}
        self._not_before: dict[str, float] = {}
        self._ignored: set[str] = set()
        self.client_id = settings.client_id or ''
        #: set to False to register again
        self.registered = False
        #: set to True to read the credentials again
        self.reload_credentials = False
        #: how long the last poll took
        self.poll_seconds = 0.0
        #: called when a cached job has changed
        self.on_change: Callable[[], None] = lambda: None

    @property
    def successes(self) -> int:
        """How many calls of freezer-api have succeeded."""
        return 0 if self._api is None else self._api.successes

    @property
    def waiting(self) -> int:
        """The number of unsent reports."""
        return len(self.outbox) + len(self.pending)

    def write_index(self, error: str) -> None:
        """:param error: of the last round; empty after a success"""
        try:
            self.cache.write_index(self.client_id, error, self.waiting)
        except OSError as failure:
            LOG.error('freezer-api: %s', failure)

    def round(self, poll: bool, until: float = math.inf) -> bool:
        """Raises ApiUnavailable or ApiRejected, and skips the rest of the round.

        :param until: the monotonic time from which a poll is due; thousands of updates
            must not keep it waiting
        :returns: False if updates were left to the next round
        """
        api = self._connection()
        if not self.registered:
            client = registration.client(self._settings, api.project_id)
            self.client_id = client['client_id']
            api.register(client)
            self.registered = True
            LOG.info('registered with freezer-api as client %s', self.client_id)
        self._start_sessions(api)
        self._send_outbox(api)
        complete = self._send_updates(api, until)
        if poll:
            began = time.monotonic()
            self._poll(api)
            self.poll_seconds = time.monotonic() - began
        return complete

    def _connection(self) -> Api:
        """With new credentials, if those in scheduler.conf have changed."""
        service = self._service
        if self.reload_credentials:
            self.reload_credentials = False
            try:
                service = self._settings.reload_service() or service
            except (FreezerError, SystemExit) as error:
                LOG.error('%s; keeping the credentials for freezer-api', error)
            if service.owner_key != self._service.owner_key:
                LOG.error(
                    '[service_auth] is for another account; restart the scheduler to '
                    'use it'
                )
                service = self._service
        if service != self._service:
            LOG.info('the credentials for freezer-api have changed')
            self._api, self._service = None, service
        if self._api is None:
            self._api = Api(service, self._settings.insecure)
        return self._api

    # -- Reports ----------------------------------------------------------------------

    def add_refusals(self) -> bool:
        """Report jobs that can never run as failed; whether there is a new report.

        They keep their event, so that they start as soon as they are corrected.
        """
        added = False
        for job_id in self.cache.refused:
            document = self.cache.document(job_id)
            schedule = document.get('job_schedule')
            known = schedule if isinstance(schedule, dict) else {}
            if known.get('status') or known.get('result') != 'fail':
                update = JobUpdate(job_id, '', 'fail', -1, -1)
                added |= self.pending.add(update, _trust_id(document))
        return added

    def _start_sessions(self, api: Api) -> None:
        for document in self.pending.sessions():
            job_id, state = document.job_id, _state(document)
            with self._log_rejection(f'job {job_id}: start of its session'):
                trusted = api.with_trust(state.trust_id)
                self._tags.start(trusted, job_id, state.session_id, state.session_tag)
            self.pending.drop_session(document)

    def _send_outbox(self, api: Api) -> None:
        """Send backups, and ends of sessions."""
        for item in self.outbox:
            name = item.path.name
            if self._not_before.get(name, 0.0) > time.monotonic():
                continue
            try:
                self._send_item(api.with_trust(item.trust_id), item)
            except ApiRejected as error:
                self._on_rejected(item, error)
            else:
                self.outbox.delete(item)
                self._not_before.pop(name, None)
            self._tried.discard(name)

    def _send_item(self, api: Api, item: OutboxItem) -> None:
        if item.kind == SESSION:
            tag = self._tags[item.job_id][1]
            end = {'job_id': item.job_id, 'current_tag': tag, **item.body}
            api.session_action(item.session_id, {'end': end})
            return
        # freezer-api may have stored it although its response was lost.
        if item.path.name in self._tried and api.has_backup(REPORT_KEY, item.token):
            LOG.info('job %s: backup was already reported to freezer-api', item.job_id)
            return
        self._tried.add(item.path.name)
        api.add_backup(item.body | {REPORT_KEY: item.token})
        LOG.info('job %s: backup reported to freezer-api', item.job_id)

    def _on_rejected(self, item: OutboxItem, error: ApiRejected) -> None:
        text = f'job {item.job_id}: {item.kind}: {error}'
        if error.status not in _FINAL:
            LOG.error('%s; retrying in %d s', text, self._delay(item.path.name))
        elif item.kind == SESSION:
            LOG.warning('%s', text)
            self.outbox.delete(item)
        else:
            LOG.error('%s; kept as %s', text, self.outbox.reject(item))

    def _delay(self, name: str) -> float:
        seconds = float(self._settings.interval * _REJECTED_INTERVALS)
        self._not_before[name] = time.monotonic() + seconds
        return seconds

    def _send_updates(self, api: Api, until: float) -> bool:
        """Send the status and result of jobs; False if time was up."""
        for update, trust_id in self.pending.updates():
            if time.monotonic() >= until:
                return False
            job_id = update.job_id
            if self._not_before.get(job_id, 0.0) > time.monotonic():
                continue
            try:
                sent = self._send_update(api.with_trust(trust_id), update)
            except ApiRejected as error:
                seconds = self._delay(job_id)
                LOG.error('job %s: %s; retrying in %d s', job_id, error, seconds)
                continue
            self._not_before.pop(job_id, None)
            if sent:
                self.pending.mark_sent(update)
            else:
                self.pending.drop(update)
        return True

    def _send_update(self, api: Api, update: JobUpdate) -> bool:
        """False if it is out of date: another one follows from the job as it is now."""
        # freezer-api replaces the schedule as a whole, and a user may have changed it
        # since the last poll: so read it first.
        found = api.job(update.job_id)
        if found is None:
            self._drop(update.job_id, 'no longer in freezer-api')
            return True
        schedule = found.get('job_schedule') or {}
        if not isinstance(schedule, dict):
            # To replace it would make a valid job of it. The log has the error.
            self._save(found)
            return True
        if not update.result and self._is_new_result(found, schedule):
            # Of the scheduler, among those that share the job, which has run it.
            self._save(found)
            return False
        event = schedule.get('event') or ''
        schedule = schedule | {
            'status': update.status,
            'result': update.result,
            'time_started': update.started,
            'time_ended': update.ended,
        }
        if event and event == update.handled_event:
            schedule['event'] = ''
        changes: dict[str, Any] = {'job_schedule': schedule}
        session_id, tag = self._tags[update.job_id]
        if session_id and found.get('session_id') == session_id:
            changes |= {'session_id': session_id, 'session_tag': tag}
        changed = any(found.get(key) != value for key, value in changes.items())
        if changed and not api.update_job(update.job_id, changes):
            self._drop(update.job_id, 'no longer in freezer-api')
            return True
        self._save(found | changes)
        return True

    def _is_new_result(
        self, found: Mapping[str, Any], schedule: Mapping[str, Any]
    ) -> bool:
        """Whether a job has a result that the cached document does not have."""
        known = self.cache.document(found['job_id']).get('job_schedule')
        known = known if isinstance(known, dict) else {}
        return bool(schedule.get('result')) and any(
            schedule.get(key) != known.get(key) for key in ('result', 'time_ended')
        )

    # -- Polling ----------------------------------------------------------------------

    def _poll(self, api: Api) -> None:
        """Update the cache from the list of jobs."""
        listed = {
            each['job_id']: each
            for each in api.jobs(self.client_id, self._settings.centralized)
            if self._is_ours(api, each)
        }
        for job_id, document in listed.items():
            if self.cache.document(job_id) != document:
                self.pending.forget_sent(job_id)
                self._save(document)
        for job_id in self.cache.ids - listed.keys():
            self._check_missing(api, job_id)
        self.write_index('')

    def _is_ours(self, api: Api, document: object) -> bool:
        if not has_job_id(document):
            self._ignore('?', 'no valid job_id')
            return False
        assert isinstance(document, dict)
        job_id = document['job_id']
        if document.get('client_id') != self.client_id:
            return False
        trust_id = _trust_id(document)
        if self._settings.centralized and not trust_id:
            self._ignore(job_id, 'it has no trust')
            return False
        project_id = document.get('project_id') or api.project_id
        if not trust_id and project_id != api.project_id:
            self._ignore(job_id, 'it belongs to another project')
            return False
        self._ignored.discard(job_id)
        return True

    def _ignore(self, job_id: str, reason: str) -> None:
        if job_id not in self._ignored:
            self._ignored.add(job_id)
            LOG.warning('job %s skipped: %s', job_id, reason)

    def _check_missing(self, api: Api, job_id: str) -> None:
        """Get a job that was not listed. It may exist: the list comes in pages, and a
        job that moves from one to the other in between is in neither."""
        known = self.cache.document(job_id)
        with self._log_rejection(f'job {job_id}'):
            found = api.with_trust(_trust_id(known)).job(job_id)
            if found is None or not self._is_ours(api, found):
                self._drop(job_id, 'no longer in freezer-api')
            elif is_completed(found):
                self._drop(job_id, 'completed in freezer-api')
            else:
                self._save(found)

    def _save(self, document: dict[str, Any]) -> None:
        try:
            changed = self.cache.save(document)
        except (ValueError, RecursionError):
            self._ignore(document['job_id'], 'it cannot be written as JSON')
        else:
            if changed:
                self.on_change()

    def _drop(self, job_id: str, reason: str) -> None:
        LOG.info('job %s: %s', job_id, reason)
        self.cache.drop(job_id)
        self.pending.forget_sent(job_id)
        self._tags.drop(job_id)
        self.on_change()

    @contextlib.contextmanager
    def _log_rejection(self, what: str) -> Iterator[None]:
        """Log it, and continue with the other jobs."""
        try:
            yield
        except ApiRejected as error:
            LOG.error('%s: %s', what, error)


def _state(document: Document) -> ApiState:
    return document.api or ApiState()


def _trust_id(document: Mapping[str, Any]) -> str:
    credentials = document.get('user_credentials')
    found = credentials.get('trust_id') if isinstance(credentials, dict) else ''
    return found if isinstance(found, str) else ''
