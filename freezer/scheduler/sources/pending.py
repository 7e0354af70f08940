"""Unsent updates that need no file, because they follow from the jobs' records."""

import threading
import time

from freezer.scheduler.documents.document import Document
from freezer.scheduler.sources.source import JobUpdate


class PendingUpdates:
    """The newest update of each job, and the sessions to start. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._updates: dict[str, tuple[JobUpdate, str]] = {}
        self._sent: dict[str, JobUpdate] = {}
        # With the monotonic time at which the run began.
        self._sessions: dict[str, tuple[Document, float]] = {}

    def __len__(self) -> int:
        return len(self._updates)

    def add(self, update: JobUpdate, trust_id: str) -> bool:
        """False if it is pending or sent already."""
        with self._guard:
            pending = self._updates.get(update.job_id, (None,))[0]
            if update in (pending, self._sent.get(update.job_id)):
                return False
            self._updates[update.job_id] = (update, trust_id)
            return True

    def updates(self) -> list[tuple[JobUpdate, str]]:
        """Each with the trust of its job."""
        with self._guard:
            return list(self._updates.values())

    def mark_sent(self, update: JobUpdate) -> None:
        with self._guard:
            self._sent[update.job_id] = update
            if self._updates.get(update.job_id, (None,))[0] == update:
                del self._updates[update.job_id]

    def drop(self, update: JobUpdate) -> None:
        """It is out of date, and is not sent."""
        with self._guard:
            self._sent.pop(update.job_id, None)
            if self._updates.get(update.job_id, (None,))[0] == update:
                del self._updates[update.job_id]

    def forget_sent(self, job_id: str) -> None:
        """freezer-api may have overwritten the update: send the next one even if it is
        the same."""
        with self._guard:
            self._sent.pop(job_id, None)

    def add_session(self, document: Document) -> None:
        with self._guard:
            self._sessions[document.job_id] = document, time.monotonic()

    def sessions(self) -> list[Document]:
        with self._guard:
            return [document for document, _began in self._sessions.values()]

    def drop_session(self, document: Document, older_than: float = 0.0) -> None:
        """It has been started, or it is too late for it. A newer one of the job stays.

        :param older_than: only if its run began so many seconds ago
        """
        with self._guard:
            found, began = self._sessions.get(document.job_id, (None, 0.0))
            if found is document and time.monotonic() - began >= older_than:
                del self._sessions[document.job_id]
