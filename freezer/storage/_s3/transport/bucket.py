"""One bucket: a store of objects (:class:`~freezer.storage.objects.ObjectStore`)."""

import functools
import logging
import time
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from freezer.storage import exceptions as e
from freezer.storage._s3.options import DEFAULT_REGION, S3Options
from freezer.storage._s3.transport.client import (
    Credentials,
    make_client,
)
from freezer.storage._s3.transport.clock import StoreClock
from freezer.storage._s3.transport.listings import Listings
from freezer.storage._s3.transport.multipart import Multipart
from freezer.storage._s3.transport.objects import Objects
from freezer.storage._s3.transport.requests import Requests
from freezer.storage._s3.transport.sender import Sender
from freezer.storage.http.wire import Wire
from freezer.storage.retry import Retry
from freezer.utils.http_dates import epoch

LOG = logging.getLogger(__name__)

CLEAN_UP_SECONDS = 20.0
_NO_SUCH_LOCATION = ('InvalidLocationConstraint', 'IllegalLocationConstraintException')


class Bucket:
    """The verbs of a bucket. Safe to share between threads.

    :class:`~freezer.storage.objects.ObjectStore` describes most of them. Each is a
    method of the object for its subject, so a part goes through no call more.
    """

    def __init__(self, requests: Requests) -> None:
        self.requests = requests
        self.name, self.endpoint = requests.name, requests.endpoint
        self.progress = requests.progress
        self.url, self.where = requests.url, requests.where
        self.probe, self.hook = requests.probe, requests.hook
        self.objects = objects = Objects(requests)
        self.put, self.put_if_absent = objects.put, objects.put_if_absent
        self.replace = objects.replace
        self.get, self.get_range = objects.get, objects.get_range
        self.head, self.has = objects.head, objects.has
        self.delete, self.delete_versions = objects.delete, objects.delete_versions
        self.listings = listings = Listings(requests)
        self.list, self.list_children = listings.list, listings.list_children
        self.list_versions = listings.list_versions
        self.list_uploads, self.parts = listings.list_uploads, listings.parts
        uploads = Multipart(requests, objects, listings)
        self.create_upload, self.upload_part = (
            uploads.create_upload,
            uploads.upload_part,
        )
        self.complete, self.abort = uploads.complete, uploads.abort
        self.apply_lock_and_tags = uploads.apply_lock_and_tags

    def within(self, seconds: float) -> 'Bucket':
        """The same, but no request takes longer than that, repetitions included."""
        return Bucket(self.requests.within(seconds))

    def limited(self, seconds: float, when: Callable[[], bool]) -> 'Bucket':
        """See :meth:`Retry.limited`."""
        return Bucket(self.requests.limited(seconds, when))

    def cleaning_up(self) -> 'Bucket':
        return self.within(CLEAN_UP_SECONDS)

    def close(self) -> None:
        self.requests.close()

    def exists(self) -> bool:
        """Whether the bucket exists; True if the store refuses to say."""
        try:
            self._ask('look up', 'head_bucket')
        except e.NotFound:
            return False
        except (e.AccessDenied, e.Rejected) as error:
            if not isinstance(error.__cause__, ClientError):
                # The store was not asked.
                raise
            # HeadBucket needs ListBucket, which a backup may do without. And the answer
            # to a HEAD has no reason.
            LOG.info('cannot be looked up, going on: %s', error.message)
        return True

    def _ask(self, doing: str, operation: str) -> Any:
        return self.requests.run(
            doing, '', functools.partial(self.requests.send, operation)
        )

    def create(self, *, locks: bool = False) -> None:
        """Create the bucket in the region that requests are signed for.

        :param locks: with object lock, which most stores cannot add later
        """
        arguments: dict[str, Any] = {}
        if locks:
            arguments['ObjectLockEnabledForBucket'] = True
        region = self.requests.client.meta.region_name
        constraint = 'CreateBucketConfiguration'
        if region != DEFAULT_REGION:
            arguments[constraint] = {'LocationConstraint': region}

        def call() -> None:
            try:
                self.requests.send('create_bucket', **arguments)
            except ClientError as error:
                # A store may accept the region in signatures and have no location of
                # that name (Ceph's zone groups).
                code = error.response.get('Error', {}).get('Code')
                if code not in _NO_SUCH_LOCATION or constraint not in arguments:
                    raise
                del arguments[constraint]
                self.requests.send('create_bucket', **arguments)

        try:
            self.requests.run('create', '', call)
        except e.Conflict:
            if not self.exists():
                raise
        LOG.info('created bucket %s at %s', self.name, self.endpoint)

    def locks_objects(self) -> bool:
        """Whether the bucket has object lock; True if we may not ask."""
        operation = 'get_object_lock_configuration'
        try:
            answer = self._ask('get object lock of', operation)
        except e.BucketNotFound:
            raise
        except e.NotFound:
            return False
        except (e.AccessDenied, e.Rejected) as error:
            LOG.info('unknown whether the bucket has object lock: %s', error.message)
            return True
        found = answer.get('ObjectLockConfiguration', {})
        return bool(found.get('ObjectLockEnabled') == 'Enabled')

    def keeps_versions(self, *, must_know: bool = False) -> bool:
        """Whether deleted and overwritten objects are kept as versions.

        False if the store has no versions, or does not say.

        :param must_know: raise AccessDenied if we may not ask
        """
        try:
            answer = self._ask('get versioning of', 'get_bucket_versioning')
        except (e.AccessDenied, e.NotFound, e.Rejected) as error:
            if must_know and isinstance(error, e.AccessDenied):
                raise
            LOG.info('unknown whether the bucket keeps versions: %s', error)
            return False
        return answer.get('Status') in ('Enabled', 'Suspended')

    def store_time(self) -> float:
        try:
            answer = self._ask('look up', 'head_bucket')
        except e.AccessDenied as error:
            LOG.info("the store's time is unknown: %s", error)
            return time.time()
        headers = answer.get('ResponseMetadata', {}).get('HTTPHeaders', {})
        moment = epoch(headers.get('date', ''))
        return time.time() if moment is None else moment


def open_bucket(
    name: str, endpoint: str, access_key: str, secret_key: str, options: S3Options
) -> Bucket:
    """A bucket with connections of its own; sends nothing yet.

    :raises StorageConfigError: the profile gives no keys, or this botocore lacks what
        an option needs
    """
    credentials = Credentials(access_key, secret_key, options)
    wire = Wire(options.sending, options.receiving)
    clock = StoreClock(endpoint)

    client = make_client(credentials, endpoint, options)
    sender = Sender(wire, endpoint, options)
    sender.attach(client)
    clock.attach(client)
    requests = Requests(
        name,
        endpoint,
        client,
        Retry(
            options.retry_budget, wire.now, progress=options.progress, store=endpoint
        ),
        options,
        credentials.secrets,
        wire,
        clock,
        sender,
    )
    return Bucket(requests)
