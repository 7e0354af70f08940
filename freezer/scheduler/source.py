"""Where jobs come from, and who is told what comes of them.

A source never makes the scheduler wait: what takes time is done by a thread of its own.
"""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from freezer.scheduler.document import Document, DocumentError


@dataclass
class Listing:
    """What the files say: each job once.

    :param documents: job id -> document
    :param errors: of the files that cannot be run
    """

    documents: dict[str, Document] = field(default_factory=dict)
    errors: list[DocumentError] = field(default_factory=list)


@dataclass(frozen=True)
class News:
    """What has become of a job. Times are epoch seconds, and -1 for none.

    :param seen_to: the event that has been, and is to be taken away; empty if none
    """

    job_id: str
    status: str
    result: str
    started: int
    ended: int
    seen_to: str = ''


class Source(abc.ABC):
    """By itself it tells nobody."""

    @property
    @abc.abstractmethod
    def place(self) -> str:
        """For people."""

    @abc.abstractmethod
    def list(self) -> Listing:
        """What is wanted now. A document is the same object until it is another.

        :raises ConfigError: that cannot be seen
        """

    def begin(self, ring: Callable[[], None]) -> None:
        """:param ring: called, in any thread, when there is something new to list"""

    def hurry(self) -> None:
        """Look now, and do not wait for the next interval."""

    def tell(self, news: News, document: Document) -> None:
        """It is told again until the document says the same."""

    def began(self, document: Document) -> None:
        """A run of it has."""

    def made(self, document: Document, backup: Mapping[str, Any]) -> None:
        """A run has made a backup. In any thread; kept when this returns.

        :param backup: what the agent said of it
        :raises OSError: it is not kept
        """

    def ended(self, document: Document, result: str) -> None:
        """A run of it has."""

    def end(self) -> None:
        """The scheduler ends; what is not told is told by the next one."""
