"""freezer-api as a source of jobs, with a thread that synchronizes with it.

The jobs are cached in files, which the scheduler reads, and reports are kept in files
until they are sent. So no job depends on freezer-api being available: known jobs keep
running, and the reports are sent later.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from freezer.scheduler.api.outbox import BACKUP, SESSION, OutboxItem
from freezer.scheduler.api.wire import Api, ApiRejected, ApiUnavailable
from freezer.scheduler.config import Service, Settings
from freezer.scheduler.documents.document import ApiState, Document
from freezer.scheduler.sources.source import JobListing, JobSource, JobUpdate
from freezer.scheduler.sources.sync import ApiSync
from freezer.utils.human import number

LOG = logging.getLogger(__name__)

#: the longest delay between two attempts while freezer-api is unavailable
LONGEST_DELAY_SECONDS = 300.0
#: how long the scheduler waits for the last reports when it exits
STOP_SECONDS = 5.0
# A run that began so long ago starts no session any more, if it has ended meanwhile.
_SESSION_SECONDS = 60.0
# A poll is not repeated before so many times its duration.
_POLL_SHARE = 10.0
# Collects reports that are added together, to send them in one round.
_PAUSE_SECONDS = 0.2


class Backoff:
    """Exponential backoff with jitter."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._failures = 0
        self._since = 0.0

    def on_failure(self) -> float:
        """The delay in seconds, doubled each time; random, so that schedulers which
        lost the API together do not return together."""
        if not self._failures:
            self._since = time.monotonic()
        self._failures += 1
        longest = max(self._interval, LONGEST_DELAY_SECONDS)
        delay = min(self._interval * 2.0 ** min(self._failures - 1, 20), longest)
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 - no secret

    def on_success(self) -> float | None:
        """Seconds since the first failure; None if the last attempt succeeded too."""
        if not self._failures:
            return None
        self._failures = 0
        return time.monotonic() - self._since


class ApiJobSource(JobSource):
    """:param api: for tests; otherwise the thread connects

    :raises ConfigError: a directory cannot be created
    """

    def __init__(
        self, settings: Settings, service: Service, api: Api | None = None
    ) -> None:
        self._interval = settings.interval
        self.sync = ApiSync(settings, service, api)
        self._wakeup = threading.Event()
        self._poll_now = True
        self._stopping = False
        # Used by the thread only.
        self._thread: threading.Thread | None = None
        self._backoff = Backoff(settings.interval)
        self._error = ''
        # The last round has sent all updates; no poll has succeeded yet.
        self._complete = True
        self._first = True

    # -- Called by the scheduler ------------------------------------------------------

    @property
    def place(self) -> str:
        return f'freezer-api, cached in {self.sync.cache.place}'

    def start(self, on_change: Callable[[], None]) -> None:
        self.sync.on_change = on_change
        thread = threading.Thread(target=self._work, name='freezer-api', daemon=True)
        self._thread = thread
        thread.start()

    def refresh(self) -> None:
        self.sync.cache.refresh()
        self.sync.reload_credentials = True
        self._poll_now = True
        self._wakeup.set()

    def report(self, update: JobUpdate, document: Document) -> None:
        trust_id = document.api.trust_id if document.api else ''
        if self.sync.pending.add(update, trust_id):
            self._wakeup.set()

    def on_started(self, document: Document) -> None:
        if document.api is not None and document.api.session_id:
            self.sync.pending.add_session(document)
            self._wakeup.set()

    def on_backup(self, document: Document, backup: Mapping[str, Any]) -> None:
        if not backup.get('dry_run'):
            self._add(BACKUP, document, {**backup, 'job_id': document.job_id})

    def on_finished(self, document: Document, result: str) -> None:
        if document.api is None or not document.api.session_id:
            return
        # After an outage, it would start the jobs of other machines late.
        self.sync.pending.drop_session(document, older_than=_SESSION_SECONDS)
        try:
            self._add(SESSION, document, {'result': result})
        except OSError as error:
            LOG.error('job %s: end of its session: %s', document.job_id, error)

    def stop(self) -> None:
        self._stopping = True
        self._wakeup.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def _add(self, kind: str, document: Document, body: dict[str, Any]) -> None:
        api = document.api or ApiState()
        session_id = api.session_id if kind == SESSION else ''
        where = (document.job_id, api.project_id, api.trust_id)
        self.sync.outbox.add(OutboxItem(kind, *where, body, session_id))
        self._wakeup.set()

    # Last of these: below it, list is not the type.
    def list(self) -> JobListing:
        listing = self.sync.cache.list()
        if self.sync.add_refusals():
            self._wakeup.set()
        return listing

    # -- The thread -------------------------------------------------------------------

    def _work(self) -> None:
        next_poll = 0.0
        while True:
            # A last round sends what was added before stop() was called.
            stopping = self._stopping
            due = self._poll_now or time.monotonic() >= next_poll
            poll = due and not stopping
            if poll:
                self._poll_now = False
                next_poll = time.monotonic() + self._interval
            successes = self.sync.successes
            error = self._try_round(poll, next_poll)
            if error:
                if self.sync.successes > successes:
                    # It is available in part, so it is not the same failure.
                    self._backoff.on_success()
                delay = self._backoff.on_failure()
                next_poll = time.monotonic() + delay
                self._on_failure(error, delay)
            else:
                if poll:
                    next_poll += self._delay()
                self._on_success()
            if stopping:
                return
            if error or self._complete:
                self._wait_until(next_poll)

    def _delay(self) -> float:
        """Seconds to add to the interval. The second poll of schedulers that started
        together comes at different times, and polls that take long come less often."""
        longest = max(self._interval, LONGEST_DELAY_SECONDS)
        wanted = min(self.sync.poll_seconds * _POLL_SHARE, longest)
        delay = max(wanted - self._interval, 0.0)
        if self._first:
            self._first = False
            delay -= self._interval * random.uniform(0.0, 1.0)  # noqa: S311 - no secret
        return delay

    def _try_round(self, poll: bool, until: float) -> str:
        """The error message; empty after a success."""
        try:
            self._complete = self.sync.round(poll, until)
        except (ApiUnavailable, ApiRejected) as error:
            return str(error)
        except Exception as error:
            # A bug, or a full disk; known jobs keep running.
            LOG.exception('freezer-api')
            return f'{type(error).__name__}: {error}'
        return ''

    def _wait_until(self, next_poll: float) -> None:
        """Wait, or return early if there is something to send to an available API."""
        while True:
            left = next_poll - time.monotonic()
            if left <= 0 or not self._wakeup.wait(left):
                return
            self._wakeup.clear()
            if self._stopping or self._poll_now or not self._error:
                if not self._stopping:
                    time.sleep(_PAUSE_SECONDS)
                return

    def _on_success(self) -> None:
        seconds = self._backoff.on_success()
        if seconds is not None:
            LOG.info('freezer-api is available again, after %.0f s', seconds)
        if self._error:
            self._error = ''
            self.sync.write_index('')

    def _on_failure(self, error: str, delay: float) -> None:
        LOG.error(
            '%s; continuing with known jobs; %s queued; retrying in %.0f s',
            *(error, number(self.sync.waiting, 'report'), delay),
        )
        self._error = error
        # Its database may have been recreated, or the password changed.
        self.sync.registered = False
        self.sync.reload_credentials = True
        self.sync.write_index(error)
