"""One bucket: a store of objects (:class:`~freezer.storage.objects.ObjectStore`)."""

import logging
import time
from typing import Any

from botocore.exceptions import ClientError

from freezer.storage import exceptions as e
from freezer.storage._s3.options import DEFAULT_REGION
from freezer.storage._s3.transport.clock import epoch
from freezer.storage._s3.transport.deletions import Deletions
from freezer.storage._s3.transport.listings import Listings
from freezer.storage._s3.transport.multipart import Multipart
from freezer.storage._s3.transport.objects import Objects
from freezer.storage._s3.transport.requests import Requests

LOG = logging.getLogger(__name__)

CLEAN_UP_SECONDS = 20.0
_NO_SUCH_LOCATION = ('InvalidLocationConstraint', 'IllegalLocationConstraintException')


class Bucket:
    """The verbs of a bucket. Safe to share between threads.

    What concerns objects, listings or uploads is a method of the class for that, so
    that a part goes through no more calls than it needs.

    :param list_version: of ListObjects
    """

    def __init__(self, requests: Requests, list_version: int = 2) -> None:
        self.requests = requests
        self.name = requests.name
        self.endpoint = requests.endpoint
        self.progress = requests.progress
        self.url = requests.url
        self.probe = requests.probe
        self.hook = requests.hook
        self._list_version = list_version

        objects = Objects(requests)
        self.put = objects.put
        self.put_if_absent = objects.put_if_absent
        self.get = objects.get
        self.get_range = objects.get_range
        self.head = objects.head
        self.has = objects.has

        listings = Listings(requests, list_version)
        self.list = listings.list
        self.list_children = listings.list_children
        self.list_versions = listings.list_versions
        self.list_uploads = listings.list_uploads
        self.parts = listings.parts

        self._deletions = Deletions(requests)
        self.delete = self._deletions.delete
        self.delete_versions = self._deletions.delete_versions

        uploads = Multipart(requests)
        self.create_upload = uploads.create_upload
        self.upload_part = uploads.upload_part
        self.complete = uploads.complete
        self.apply_lock_and_tags = uploads.apply_lock_and_tags
        self.abort = uploads.abort

    def within(self, seconds: float) -> 'Bucket':
        """The same bucket, but no request takes longer, repetitions included."""
        return Bucket(self.requests.within(seconds), self._list_version)

    def cleaning_up(self) -> 'Bucket':
        """The same bucket, but requests give up soon: an error waits to be reported."""
        return self.within(CLEAN_UP_SECONDS)

    def close(self) -> None:
        self.requests.clients.close()

    def exists(self) -> bool:
        """Whether the bucket exists; True if the store refuses to say."""
        try:
            self._head()
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

    def _head(self) -> Any:
        return self.requests.run(
            'look up', '', lambda: self.requests.send('head_bucket')
        )

    def create(self, *, locks: bool = False) -> None:
        """Create the bucket in the region that requests are signed for.

        :param locks: with object lock, which most stores cannot add later
        """
        arguments: dict[str, Any] = {}
        if locks:
            arguments['ObjectLockEnabledForBucket'] = True
        region = self.requests.clients.usual.meta.region_name
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

        def call() -> Any:
            return self.requests.send('get_object_lock_configuration')

        try:
            answer = self.requests.run('get object lock of', '', call)
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

        def call() -> Any:
            return self.requests.send('get_bucket_versioning')

        try:
            answer = self.requests.run('get versioning of', '', call)
        except (e.AccessDenied, e.NotFound, e.Rejected) as error:
            if must_know and isinstance(error, e.AccessDenied):
                raise
            LOG.info('unknown whether the bucket keeps versions: %s', error)
            return False
        return answer.get('Status') in ('Enabled', 'Suspended')

    def store_time(self) -> float:
        """The store's clock in epoch seconds; this machine's if unknown."""
        try:
            answer = self._head()
        except e.AccessDenied as error:
            LOG.info("the store's time is unknown: %s", error)
            return time.time()
        headers = answer.get('ResponseMetadata', {}).get('HTTPHeaders', {})
        moment = epoch(headers.get('date', ''))
        return time.time() if moment is None else moment
