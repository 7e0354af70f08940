"""One container: a store of objects (:class:`~freezer.storage.objects.BackupStore`)."""

import logging
import time
from collections.abc import Callable

from freezer.storage import exceptions as e
from freezer.storage.swift.container_requests import ContainerRequests, Shared
from freezer.storage.swift.listings import Listings
from freezer.storage.swift.objects import Objects
from freezer.storage.swift.ranges import Ranges
from freezer.storage.swift.requests import Requests
from freezer.storage.swift.segments import SegmentedObjects
from freezer.utils.http_dates import epoch

LOG = logging.getLogger(__name__)

CLEAN_UP_SECONDS = 20.0


class Container:
    """The verbs of a container. Safe to share between threads.

    :class:`~freezer.storage.objects.BackupStore` describes most of them. Each is a
    method of the object for its subject.
    """

    def __init__(
        self, requests: Requests, name: str, shared: Shared | None = None
    ) -> None:
        self.name = name
        self.endpoint = requests.where
        self.progress = requests.progress
        self.requests = requests
        self._http = http = ContainerRequests(requests, name, shared or Shared())
        self.url, self.where = http.url, http.where
        listings = Listings(http)
        self.list = listings.list
        objects = Objects(http, listings)
        self.put, self.put_if_absent = objects.put, objects.put_if_absent
        self.replace, self.delete = objects.replace, objects.delete
        self.get, self.head, self.has = objects.get, objects.head, objects.has
        self.forget = objects.forget
        self.get_range = Ranges(http, objects).get_range
        segmented = SegmentedObjects(http, listings, objects)
        self.examine = segmented.examine
        self.create_upload = segmented.create_upload
        self.upload_part = segmented.upload_part
        self.complete, self.abort = segmented.complete, segmented.abort
        self.apply_lock_and_tags = segmented.apply_lock_and_tags
        self.list_uploads, self.parts = segmented.list_uploads, segmented.parts

    def within(self, seconds: float) -> 'Container':
        """The same, but no request takes longer than that, repetitions included."""
        return self._with(self.requests.within(seconds))

    def limited(self, seconds: float, when: Callable[[], bool]) -> 'Container':
        """See :meth:`Retry.limited`."""
        return self._with(self.requests.limited(seconds, when))

    def cleaning_up(self) -> 'Container':
        return self.within(CLEAN_UP_SECONDS)

    def _with(self, requests: Requests) -> 'Container':
        return Container(requests, self.name, self._http.shared)

    def close(self) -> None:
        self.requests.close()

    def exists(self) -> bool:
        try:
            self._http.run('look up', 'HEAD', self.name)
        except e.NotFound:
            return False
        except e.AccessDenied as error:
            # A user may write objects, and not look up the container.
            LOG.info('cannot be looked up, going on: %s', error.message)
        return True

    def create(self) -> None:
        self._http.run('create', 'PUT', self.name)
        self._http.shared.created = time.monotonic()
        LOG.info('created container %s', self.where())

    def remove(self) -> None:
        """Remove the container; it must be empty."""
        self._http.run('remove', 'DELETE', self.name)

    def store_time(self) -> float:
        try:
            answer = self._http.run('look up', 'HEAD', self.name)
        except (e.AccessDenied, e.NotFound) as error:
            LOG.info("the store's time is unknown: %s", error)
            return time.time()
        moment = epoch(answer.headers.get('date', ''))
        return time.time() if moment is None else moment
