"""Requests to one container, and the state that its copies share."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from freezer.storage import exceptions as e
from freezer.storage.objects import Upload
from freezer.storage.swift.large import StoredObject
from freezer.storage.swift.requests import Answer, Requests

# A container that was just created may be unknown to a server for so long.
_CREATED_SECONDS = 60.0


class Segments(NamedTuple):
    """Segments that were confirmed: number, from 1, -> size and MD5."""

    sizes: dict[int, int]
    md5s: dict[int, str]


@dataclass
class Shared:
    """
    :ivar created: when this agent created the container; of the monotonic clock
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    uploads: dict[Upload, Segments] = field(default_factory=dict)
    objects: dict[str, StoredObject] = field(default_factory=dict)
    created: float = float('-inf')


class ContainerRequests:
    """A *path* is a key with its container."""

    def __init__(self, requests: Requests, name: str, shared: Shared) -> None:
        self.requests = requests
        self.name = name
        self.endpoint = requests.where
        self.shared = shared

    def url(self, key: str = '') -> str:
        return f'swift://{self.name}/{key}' if key else f'swift://{self.name}'

    def where(self, key: str = '') -> str:
        """The same, with the account, for messages."""
        return f'{self.url(key)} at {self.endpoint}'

    def path(self, key: str) -> str:
        return f'{self.name}/{key}'

    def run(
        self,
        doing: str,
        method: str,
        path: str,
        cancelled: threading.Event | None = None,
        **request: Any,
    ) -> Answer:
        """The answer to a request that is repeated as the budget allows.

        :param doing: a verb, for messages
        """
        what = f'{doing} swift://{path}'
        return self.requests.run(
            lambda: self.requests.send(what, method, path, **request), cancelled
        )

    def no_container(self, error: e.StorageException) -> e.StorageException:
        """The error for a container that is not there, or not yet."""
        if time.monotonic() - self.shared.created < _CREATED_SECONDS:
            return e.ServerError(f'{error.message}; the container was just created')
        return e.BucketNotFound(
            f'{error.message}; the container does not exist: check --container'
        )

    def missing(self, path: str) -> e.IntegrityError:
        return e.IntegrityError(
            f'swift://{path} at {self.endpoint} is missing: the backup is damaged'
        )
