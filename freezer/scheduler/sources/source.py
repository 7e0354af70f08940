"""The contract of job sources: list the jobs, and report what becomes of them.

A source never blocks the scheduler: a thread of its own does what takes time.
"""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from freezer.scheduler.documents.document import Document, DocumentError


@dataclass
class JobListing:
    """The jobs of a source.

    :param documents: job id -> document
    :param errors: of invalid job files
    """

    documents: dict[str, Document] = field(default_factory=dict)
    errors: list[DocumentError] = field(default_factory=list)


@dataclass(frozen=True)
class JobUpdate:
    """The new state of a job. Times are epoch seconds, -1 if unset.

    :param handled_event: the event to clear, because it has been handled; or empty
    """

    job_id: str
    status: str
    result: str
    started: int
    ended: int
    handled_event: str = ''


class JobSource(abc.ABC):
    """Unless overridden, the methods that report do nothing."""

    @property
    @abc.abstractmethod
    def place(self) -> str:
        """Where the jobs come from, for the log."""

    @abc.abstractmethod
    def list(self) -> JobListing:
        """All jobs. The document of an unchanged job is the same object each time.

        :raises ConfigError: the jobs cannot be listed
        """

    def start(self, on_change: Callable[[], None]) -> None:
        """:param on_change: called in any thread when there is something new to list"""

    def refresh(self) -> None:
        """Look for changes now instead of at the next interval."""

    def report(self, update: JobUpdate, document: Document) -> None:
        """Called again and again until the document agrees with the update."""

    def on_started(self, document: Document) -> None:
        """A run has started."""

    def on_backup(self, document: Document, backup: Mapping[str, Any]) -> None:
        """A run has made a backup. Called in any thread; durable on return.

        :param backup: the metadata that the agent wrote
        :raises OSError: the backup could not be recorded
        """

    def on_finished(self, document: Document, result: str) -> None:
        """A run has finished."""

    def stop(self) -> None:
        """The scheduler exits. Unsent reports are left to the next scheduler."""
